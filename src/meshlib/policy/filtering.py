"""HTTP filters above the router, in the order of the listener's chain: each lets a call pass or answers it."""

from __future__ import annotations

from collections.abc import Generator

from meshlib.model.filters import (
    NO_LIMITS,
    BufferLimit,
    Disabled,
    Faults,
    HeaderToMetadata,
    LocalRateLimit,
    MetadataValue,
    Setting,
    StatefulSession,
)
from meshlib.model.route import WeightedCluster
from meshlib.model.traffic import FaultInjection
from meshlib.policy import faults, flags, headers, ratelimit, replies, routing, sessions
from meshlib.policy.call import Call
from meshlib.policy.effects import Answer, Effect, Reply, Sleep
from meshlib.policy.headers import CallFacts


def needed(choice: routing.Choice) -> bool:
    """Tell whether there are filters to run; the cheap question."""
    http = choice.destination.http if choice.destination else None
    return http is not None and bool(http.filters or http.fault_filter)


def run(call: Call, choice: routing.Choice, target: WeightedCluster | None) -> Generator[Effect, Answer, bool]:
    """Run the filters; returns whether one of them answered the call.

    Args:
        call: the call.
        choice: what routing found; filters run without a route as well.
        target: the cluster that was drawn, None where the route leads to none.
    """
    http = choice.destination.http if choice.destination else None
    if http is None:
        return False
    if not http.filters:
        return http.fault_filter and (yield from _inject_faults(call, choice, target))
    for name, own in http.filters:
        if own is Faults.HERE:
            if (yield from _inject_faults(call, choice, target)):
                return True
            continue
        setting = _setting(name, own, choice, target)
        reply = None
        if isinstance(setting, LocalRateLimit):
            reply = _limit(call, setting, choice)
        elif isinstance(setting, BufferLimit):
            reply = _buffer(call, setting)
        elif isinstance(setting, HeaderToMetadata):
            _make_metadata(call, setting)
        elif isinstance(setting, StatefulSession):
            call.session = sessions.session(setting, call.view)
        if reply is not None:
            yield _answered(call, choice, target, reply)
            return True
    return False


def _setting(
    name: str, own: Setting | Disabled, choice: routing.Choice, target: WeightedCluster | None
) -> Setting | Disabled:
    """Return what is in force for a filter: what the cluster drawn says, else the route, else the filter's own."""
    for settings in (target.filters if target else (), choice.route.filters if choice.route else ()):
        for key, setting in settings:
            if key == name:
                return setting
    return own


def _answered(call: Call, choice: routing.Choice, target: WeightedCluster | None, reply: Reply) -> Reply:
    """Return a reply with its mutations: those of a route that forwards as well (measured on Envoy 1.40)."""
    mutate = headers.filter_response_mutations if target is None else headers.response_mutations
    mutations = mutate(choice, target)
    return headers.edit_reply(reply, mutations, CallFacts(call.record, choice=choice), call.answered)


def _inject_faults(
    call: Call, choice: routing.Choice, target: WeightedCluster | None
) -> Generator[Effect, Answer, bool]:
    """Delay, then abort; returns whether the call was answered here."""
    http = choice.destination.http if choice.destination else None
    if http is None or choice.route is None:
        return False
    fault = (target.fault if target else None) or choice.route.fault or http.fault
    if fault is None or not faults.applies(fault, call.view, call.record.cluster_name):
        return False
    rate = faults.draw_rate(fault, call.view, call.chance)
    if rate and _counted(call, fault):
        call.response_rate = rate
    seconds = faults.draw_delay(fault, call.view, call.chance)
    if seconds and _counted(call, fault):
        call.record.flags |= flags.DELAY_INJECTED
        yield Sleep(seconds)
    abort = faults.draw_abort(fault, call.view, call.chance)
    if abort is None or not _counted(call, fault):
        return False
    yield _answered(call, choice, target, replies.fault_abort(call.record, abort))
    return True


def _counted(call: Call, fault: FaultInjection) -> bool:
    """Count the call as a faulty one, once, until it is over; False at ``max_active_faults``."""
    if call.fault is None and call.live.faults.enter(fault.max_active):
        call.fault = call.live.faults
    if call.trace is not None:
        call.trace.note("fault", "injected" if call.fault is not None else "not injected: max_active_faults")
    return call.fault is not None


def _limit(call: Call, limit: LocalRateLimit, choice: routing.Choice) -> Reply | None:
    """Take tokens; returns the reply where there is none to take."""
    if not call.chance.random() * 100.0 < limit.enabled:
        return None
    own, host, include = (choice.route.limits if choice.route else None) or NO_LIMITS
    rules = ratelimit.rules(limit, own, host, include=include)
    made = (ratelimit.descriptor(rule, call.view, call.record.cluster_name) for rule in rules)
    buckets = call.live.rate_limits.of(limit)
    allowed, told, remaining, reset = buckets.take([entries for entries in made if entries is not None], call.clock())
    if limit.tells and told is not None:
        told_as = (("limit", told.max_tokens), ("remaining", remaining), ("reset", reset))
        call.answered = [*call.answered, *((f"x-ratelimit-{name}", str(value)) for name, value in told_as)]
    if allowed:
        return None
    facts = CallFacts(call.record, choice=choice)
    if not call.chance.random() * 100.0 < limit.enforced:
        added = list(facts.headers)
        limit.request_headers.apply(added, facts)
        call.added = [*call.added, *(pair for pair in added if pair[0] in limit.request_headers.names)]
        return None
    reply = replies.rate_limited(call.record, limit)
    return headers.edit_reply(reply, limit.response_headers, facts)


def _buffer(call: Call, limit: BufferLimit) -> Reply | None:
    """Return the reply to a request that has more bytes than may be buffered."""
    size = call.view.whole("content-length") or 0
    return replies.too_large(call.record, limit.max_bytes) if size > limit.max_bytes else None


def _make_metadata(call: Call, config: HeaderToMetadata) -> None:
    """Make dynamic metadata of headers; a header that is there and empty makes none."""
    view = call.view
    for rule in config.rules:
        value = view.cookie(rule.cookie) if rule.cookie else ",".join(view.values(rule.header)) or None
        there = value is not None or (bool(rule.header) and bool(view.values(rule.header)))
        chosen = rule.present if there else rule.missing
        if chosen is not None:
            _set_metadata(call, chosen, value or "")
        if there and rule.remove:
            call.removed |= {rule.header}


def _set_metadata(call: Call, chosen: MetadataValue, value: str) -> None:
    made: object = chosen.value or (chosen.rewrite.replace(value) if chosen.rewrite else value)
    if chosen.number and isinstance(made, str):
        try:
            made = float(made)
        except ValueError:
            return
    if made != "":
        record, space = call.record, call.record.metadata.get(chosen.namespace, {})
        record.metadata = {**record.metadata, chosen.namespace: {**space, chosen.key: made}}
