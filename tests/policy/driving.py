"""Drives the policy of calls by hand: no network, no event loop, no clock but a manual one."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from meshlib.model.request import RequestView
from meshlib.model.snapshot import Snapshot
from meshlib.policy.call import Call, Policy
from meshlib.policy.cluster_state import ClusterState
from meshlib.policy.effects import (
    Attempt,
    BodyEnd,
    Effect,
    ErrorKind,
    Outcome,
    Park,
    Reply,
    Respond,
    Sleep,
)
from meshlib.policy.record import AttemptRecord, CallRecord
from meshlib.policy.retrying import PlanFor, plan_for
from meshlib.policy.stack import execute
from meshlib.policy.state import MeshState
from meshlib.policy.upkeep import Keeping, no_upkeep
from policy.snapshots import request


class ManualClock:
    """Stands still until it is moved."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class ScriptedRandom:
    """Gives the scripted numbers, then the last one for ever."""

    def __init__(self, *numbers: float) -> None:
        self._numbers = list(numbers) or [0.0]

    def random(self) -> float:
        return self._numbers.pop(0) if len(self._numbers) > 1 else self._numbers[0]


@dataclass
class Met:
    """What an attempt meets, ``after`` seconds: a response head or an error."""

    status: int | None = None
    error: ErrorKind | None = None
    after: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    grpc_status: int | None = None
    upload: float = 0.0
    sent: bytes = b""  # of a streamed body
    written: bool = True


Script = int | ErrorKind | Met


class Journal:
    """An observer that counts."""

    def __init__(self, headers: Sequence[tuple[str, str]] = ()) -> None:
        self.events: Counter[str] = Counter()
        self._headers = headers

    def call_started(self, record: CallRecord) -> None:
        self.events["call_started"] += 1

    def attempt_started(self, record: CallRecord, attempt: AttemptRecord) -> Sequence[tuple[str, str]]:
        self.events["attempt_started"] += 1
        return self._headers

    def attempt_ended(self, record: CallRecord, attempt: AttemptRecord) -> None:
        self.events["attempt_ended"] += 1

    def call_ended(self, record: CallRecord) -> None:
        self.events["call_ended"] += 1

    def mirror_ended(self, record: CallRecord) -> None:
        self.events["mirror_ended"] += 1


@dataclass
class Run:
    """One call, driven to its end."""

    record: CallRecord
    effects: list[Effect]

    @property
    def final(self) -> Effect:
        return self.effects[-1]

    @property
    def reply(self) -> Reply:
        assert isinstance(self.final, Reply), self.final
        return self.final

    @property
    def attempts(self) -> list[Attempt]:
        return [effect for effect in self.effects if isinstance(effect, Attempt)]

    @property
    def sleeps(self) -> list[float]:
        return [effect.seconds for effect in self.effects if isinstance(effect, Sleep)]

    @property
    def status(self) -> int | None:
        return self.record.status

    @property
    def flags(self) -> str:
        return self.record.response_flags

    @property
    def hosts(self) -> list[str]:
        return [attempt.endpoint.address for attempt in self.attempts]


class Lab:
    """A mesh without I/O: a snapshot over live state, and calls driven by hand."""

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        chance: random.Random | ScriptedRandom | None = None,
        plan_for: PlanFor = plan_for,
        breaker: Callable[[str], object] | None = None,
        keeping: Keeping = no_upkeep,
        **options: object,
    ) -> None:
        self.options = options  # further fields of each Call
        self.clock = ManualClock()
        self.chance = chance or random.Random(7)
        self.journal = Journal()
        self.state = MeshState(self.clock, self.chance, breaker, keeping)
        self.plan_for = plan_for
        self.live = self.state.bind(snapshot)

    def update(self, snapshot: Snapshot) -> None:
        self.live = self.state.bind(snapshot)

    def cluster(self, name: str = "c") -> ClusterState:
        return self.live.clusters[name]

    def start(self, view: RequestView | None = None) -> tuple[CallRecord, Policy]:
        """Begin a call, to be driven step by step."""
        view = view or request()
        record = CallRecord(view, self.clock())
        self.call = call = Call(view, self.live, record, self.clock, self.chance, self.journal, self.plan_for)
        for name, value in self.options.items():
            setattr(call, name, value)
        return record, execute(call)

    def run(self, *script: Script, view: RequestView | None = None, body: float = 0.0) -> Run:
        """Drive a call to its end; attempts beyond the script meet its last line again.

        The clock moves by what sleeps, attempts and the ``body`` (seconds) take.
        """
        record, policy = self.start(view)
        lines: Iterator[Script] = repeat_last(script or (200,))
        effects: list[Effect] = []
        answer: Outcome | BodyEnd | None = None
        try:
            while True:
                effect = policy.send(answer)
                effects.append(effect)
                answer = self._perform(effect, lines, body)
        except StopIteration:
            return Run(record, effects)

    def _perform(self, effect: Effect, lines: Iterator[Script], body: float) -> Outcome | BodyEnd | None:
        if isinstance(effect, Attempt):
            return self.attempt(effect, next(lines))
        if isinstance(effect, Sleep):
            self.clock.advance(effect.seconds)
        elif isinstance(effect, Park):
            assert effect.timeout is not None, "nobody would ever end this wait"
            self.clock.advance(effect.timeout)
        elif isinstance(effect, Respond):
            if effect.timeout is not None and body >= effect.timeout:
                self.clock.advance(effect.timeout)
                return BodyEnd(ErrorKind.TIMEOUT)
            self.clock.advance(body)
            return BodyEnd(None, 2)
        return None

    def attempt(self, effect: Attempt, line: Script) -> Outcome:
        """Let an attempt meet a line of the script, or its own timeout."""
        met = as_met(line)
        self.clock.advance(met.upload)
        if self.call.kept is not None:
            self.call.kept.add(met.sent)
        if effect.timeout is not None and met.after >= effect.timeout:
            self.clock.advance(effect.timeout)
            return Outcome(error=ErrorKind.TIMEOUT, upload=met.upload)
        self.clock.advance(met.after)
        if met.error is not None:
            return Outcome(error=met.error, message="scripted", upload=met.upload, written=met.written)
        return Outcome(met.status, met.headers, response="a response", grpc_status=met.grpc_status, upload=met.upload)

    def assert_idle(self) -> None:
        """Nothing is in flight: every count is back at zero, and every call that began has ended once."""
        for state in self.live.clusters.values():
            limits = state.limits
            counts = (limits.requests, limits.retries, limits.connections, len(limits.pending))
            assert counts == (0, 0, 0, 0), f"{state.config.name}: requests, retries, connections, pending = {counts}"
            busy = [s for s in state.endpoints.values() if s.active or s.connections]
            assert not busy, busy
        events = self.journal.events
        assert events["call_started"] == events["call_ended"], events
        assert events["attempt_started"] == events["attempt_ended"], events


def as_met(line: Script) -> Met:
    if isinstance(line, Met):
        return line
    return Met(error=line) if isinstance(line, ErrorKind) else Met(status=line)


def repeat_last(lines: Iterable[Script]) -> Iterator[Script]:
    last: Script = 200
    for last in lines:
        yield last
    while True:
        yield last
