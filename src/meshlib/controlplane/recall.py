"""What was made before of the same things: a change costs what it touches, not what there is.

Documents whose text did not change are the same objects, and so is what is made of them by functions that are
asked through here. Results are shared: never change one. Like the documents they live as long as something holds
them, here two versions of the configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from meshlib.controlplane.observed import ObservedNode
from meshlib.controlplane.options import MeshOptions

T = TypeVar("T")

_SIMPLE = (str, int)

# Compared by what they are; anything else by being the same object, which costs nothing.
_VALUES = (str, int, float, bool, MeshOptions)


class Recall:
    """Remembers the results of two versions. From any thread: what is lost in a race is made again."""

    def __init__(self) -> None:
        self._now: dict[Any, list[_Result]] = {}
        self._before: dict[Any, list[_Result]] = {}
        self._kept: dict[Any, Any] = {}
        self._kept_before: dict[Any, Any] = {}

    def turn(self) -> None:
        """Begin a version."""
        self._now, self._before = {}, self._now
        self._kept, self._kept_before = {}, self._kept

    def made(self, function: Callable[..., T], *inputs: Any) -> T:
        """Return ``function(*inputs)``, of former times if the inputs are the same objects."""
        key = (function, id(inputs[0])) if len(inputs) == 1 else _key(function, inputs)
        results = self._now.get(key) or self._before.get(key)
        if not results:
            results = [_Result(function, inputs, None)]
        self._now[key] = results
        found: T = results[0].value
        return found

    def seen(self, function: Callable[..., T], view: Any, *inputs: Any) -> T:
        """Return ``function(*inputs, view)``, of former times if all that it looked at of the view is the same too."""
        key = _key(function, inputs)
        results = self._now.get(key)
        if results is None:
            results = self._now[key] = self._before.get(key, [])
        for result in results:
            if result.fits(view):
                break
        else:
            result = _Result(function, inputs, view)
            results.append(result)
        found: T = result.value
        return found

    def same(self, key: Any, value: T) -> T:
        """Return the object that was under ``key`` before, if it is equal to ``value``."""
        known = self._kept.get(key, self._kept_before.get(key))
        if known is None or not (known is value or known == value):
            known = value
        self._kept[key] = known
        found: T = known
        return found


def _key(function: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
    """Return what names a call: texts and numbers by what they are, all else by being the same object."""
    return (function, *[item if isinstance(item, _SIMPLE) else id(item) for item in inputs])


class _Result:
    """What came out, of what; the inputs are held, so that their identities stay theirs."""

    __slots__ = ("_inputs", "_looked", "_node", "value")

    def __init__(self, function: Callable[..., Any], inputs: tuple[Any, ...], view: Any) -> None:
        self._inputs = inputs
        self._looked: dict[str, Any] = {}
        self._node: ObservedNode | None = None
        if view is None:
            self.value = function(*inputs)
            return
        observed = _ObservedView(view)
        self.value = function(*inputs, observed)
        self._looked, self._node = observed.looked, observed.seen_node

    def fits(self, view: Any) -> bool:
        """Tell whether the view is the same where it was looked at."""
        for name, value in self._looked.items():
            now = getattr(view, name)
            if now is not value and not (isinstance(value, _VALUES) and now == value):
                return False
        return self._node is None or self._node.fits(view.node)


class _ObservedView:
    """A view that notes what is read of it."""

    def __init__(self, view: Any) -> None:
        self._view = view
        self.looked: dict[str, Any] = {}
        self.seen_node: ObservedNode | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "node":
            if self.seen_node is None:
                self.seen_node = ObservedNode(self._view.node)
            return self.seen_node
        value = getattr(self._view, name)
        self.looked[name] = value
        return value


RECALL = Recall()
