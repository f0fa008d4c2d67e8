"""Judges a case file: how meshlib, in each of its modes, differs from what the real Envoy did."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import meshlib
from oracle import cases
from oracle.clients import Client
from oracle.comparing import differences
from oracle.replaying import Replay
from transports.scripted import Upstreams

Found = dict[str, list[str]]  # id of an observation -> how it differs


class Mode(NamedTuple):
    """A driver, and what a local reply becomes."""

    blocking: bool = False
    local_replies: str = "response"

    def __str__(self) -> str:
        return f"{'sync' if self.blocking else 'async'}, local_replies={self.local_replies!r}"


MODES = tuple(Mode(blocking, replies) for replies in ("response", "raise") for blocking in (False, True))


def recorded(case: cases.Case) -> list[dict[str, Any]]:
    """Return the observations of a case that mean anything to a client in the process."""
    return [observation for observation in case["observed"] if cases.in_process(case, observation)]


def judged(case: cases.Case, mode: Mode, *, late: float = 0.15) -> Found:
    """Replay a case; returns the observations that differ.

    Args:
        case: a case file's content.
        mode: driver and local replies; of a configuration to validate, neither matters.
        late: seconds after the latest recorded end that still count as the same.
    """
    wanted = recorded(case)
    if not wanted:
        return {}
    strange = {step.get("id"): names for step in case["requests"] if (names := cases.unknown_of_step(step))}
    everywhere = [*cases.unknown(case), *strange.pop(None, [])]
    if everywhere:
        return {observation["id"]: _not_known(everywhere) for observation in wanted}
    if case.get("kind") == "validate":
        accepts = {step["id"]: accepted(case, step) for step in case["requests"]}
        return {o["id"]: [f"accepted: {o['accepted']}"] for o in wanted if o["accepted"] != accepts.get(o["id"])}
    try:
        with fixed_addresses(case), Upstreams() as upstreams:
            replay = Replay(case, upstreams, blocking=mode.blocking, local_replies=mode.local_replies)
            observed = {each["id"]: each for each in asyncio.run(replay.run())}
    except meshlib.BootstrapError as error:
        return {observation["id"]: [str(error)] for observation in wanted}
    found = {want["id"]: differences(want, observed.get(want["id"], {}), late=late) for want in wanted}
    found |= {name: _not_known(names) for name, names in strange.items() if name in found}
    return {name: differs for name, differs in found.items() if differs}


def _not_known(names: list[str]) -> list[str]:
    return [f"the replayer does not know {', '.join(names)}"]


@contextlib.contextmanager
def fixed_addresses(case: cases.Case) -> Iterator[None]:
    """Where addresses are hashed, the ones recorded are listened on: one replay at a time."""
    if not case.get("fixed_addresses"):
        yield
        return
    if not sys.platform.startswith("linux"):
        raise NotImplementedError("only Linux has all of 127.0.0.0/8")
    import fcntl

    with (Path(tempfile.gettempdir()) / "meshlib-tests-fixed-addresses").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def accepted(case: cases.Case, step: Mapping[str, Any]) -> bool:
    """Whether the configuration of a validation step is taken."""
    base = {key: case.get(key, default) for key, default in (("route_config", {}), ("clusters", []))}
    config = cases.rendered(cases.merged(base, step["config"]), lambda _name: ("127.0.0.1", 9))
    try:
        client = Client(cases.bootstrap(config), blocking=True, local_replies="response")
        client.start()
    except meshlib.BootstrapError:
        return False
    asyncio.run(client.close())
    return True
