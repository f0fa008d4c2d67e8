"""Damages a configuration in one place, so that it may be invalid: what Envoy refuses is refused here, and no more."""

from __future__ import annotations

from copy import deepcopy
from random import Random
from typing import Any

_STRINGS = (
    "",
    " ",
    "a b",
    "a\nb",
    "*",
    "(",
    "%BAD%",
    "%REQ(",
    "%",
    "\\9",
    "/{",
    "/{x}/{x}",
    "x",
    "-1s",
    "A",
    ":path",
    "host",
)
_NUMBERS = (0, 1, -1, 99, 199, 600, 65536, 4294967295)


def damaged(config: Any, chance: Random) -> Any:
    """Return ``config`` with one value of it replaced, taken out, or there twice."""
    config = deepcopy(config)
    places = list(_places(config["route_config"]))
    container, key = places[chance.randrange(len(places))]
    value = container[key]
    way = chance.random()
    if way < 0.15:
        del container[key]
    elif way < 0.3 and isinstance(container, list):
        container.append(deepcopy(value))
    elif isinstance(value, bool):
        container[key] = not value
    elif isinstance(value, int):
        container[key] = _NUMBERS[chance.randrange(len(_NUMBERS))]
    elif isinstance(value, str):
        container[key] = _STRINGS[chance.randrange(len(_STRINGS))]
    elif isinstance(value, list):
        container[key] = []
    else:
        container[key] = {}
    return config


def _places(value: Any) -> Any:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(pairs):
        # Without a hash policy a ring is entered at random; names that no codec sends on are Envoy's to refuse later.
        if key not in ("@type", "hash_policy", "key"):
            yield value, key
            yield from _places(item)
