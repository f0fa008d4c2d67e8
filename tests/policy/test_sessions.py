"""Stateful sessions: told to the caller, and found again. What is written was read off Envoy 1.40."""

from __future__ import annotations

import base64

import pytest

from meshlib.model.endpoint import Endpoint, HealthStatus
from meshlib.model.filters import StatefulSession
from meshlib.model.traffic import CookieToMake
from meshlib.policy.effects import Respond
from policy.driving import Lab
from policy.snapshots import cluster, endpoints, forward, request, retry, snapshot

COOKIE = StatefulSession("s", CookieToMake(0))
HEADER = StatefulSession("x-session")
SECOND = base64.b64encode(b"10.0.0.2:80").decode()
SECOND_COOKIE = base64.b64encode(b"\x0a\x0b10.0.0.2:80").decode()


def lab(config, hosts=None, **action):
    routes = [forward(**action)]
    return Lab(snapshot(cluster(hosts or endpoints(3)), routes=routes, filters=(("session", config),)))


def told(run):
    respond = run.effects[-1]
    assert isinstance(respond, Respond)
    return [] if respond.edit is None else respond.edit([])


def test_the_endpoint_is_told_in_a_header():
    run = lab(HEADER).run()
    assert told(run) == [("x-session", base64.b64encode(f"{run.hosts[0]}:80".encode()).decode())]


def test_the_endpoint_is_told_in_a_cookie():
    run = lab(StatefulSession("s", CookieToMake(9, "/p", (("Secure", ""),)))).run(view=request("/p"))
    host = f"{run.hosts[0]}:80".encode()
    value = base64.b64encode(bytes((10, len(host))) + host).decode()
    assert told(run) == [("set-cookie", f's="{value}"; Max-Age=9; Path=/p; Secure; HttpOnly')]


@pytest.mark.parametrize(
    ("config", "headers"),
    [
        (HEADER, [("x-session", SECOND)]),
        (COOKIE, [("cookie", f's="{SECOND_COOKIE}"')]),
        (COOKIE, [("cookie", f"s={SECOND}")]),  # as older Envoys write it
    ],
)
def test_a_session_goes_on_where_it_began(config, headers):
    mesh = lab(config)
    runs = [mesh.run(view=request(headers=headers)) for _ in range(4)]
    assert [run.hosts for run in runs] == [["10.0.0.2"]] * 4
    assert [told(run) for run in runs] == [[]] * 4


@pytest.mark.parametrize("value", ["", "garbage!", base64.b64encode(b"nothing").decode()])
def test_what_is_no_session_begins_one(value):
    assert len(told(lab(HEADER).run(view=request(headers=[("x-session", value)])))) == 1


@pytest.mark.parametrize(("path", "inside"), [("/p", True), ("/p/x", True), ("/px", False), ("/", False)])
def test_a_cookie_has_its_path(path, inside):
    run = lab(StatefulSession("s", CookieToMake(0, "/p"))).run(view=request(path))
    assert bool(told(run)) is inside


SICK = [Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80, health=HealthStatus.UNHEALTHY)]


@pytest.mark.parametrize("hosts", [endpoints(1), SICK])
@pytest.mark.parametrize(("strict", "status"), [(False, 200), (True, 503)])
def test_an_endpoint_that_cannot_be_used(hosts, strict, status):
    run = lab(StatefulSession("x-session", strict=strict), hosts).run(view=request(headers=[("x-session", SECOND)]))
    assert (run.status, run.flags) == (status, "UH" if strict else "-")
    if not strict:
        assert run.hosts == ["10.0.0.1"]
        assert len(told(run)) == 1


def test_a_retry_goes_elsewhere_and_takes_the_session_along():
    policy = retry("5xx", previous_hosts=True, host_selection_max_attempts=9)
    run = lab(HEADER, retry=policy).run(503, 200, view=request(headers=[("x-session", SECOND)]))
    assert run.hosts[0] == "10.0.0.2" != run.hosts[1]
    assert told(run) == [("x-session", base64.b64encode(f"{run.hosts[1]}:80".encode()).decode())]
