"""Endpoints that a session or a header names."""

import pytest

from meshlib.model.balancing import Balancing
from meshlib.model.endpoint import HealthStatus
from policy.driving import Lab
from policy.lab import hosts, one, picks
from policy.snapshots import cluster, endpoints, forward, request, retry, snapshot

FIRST = ("h0", 80)


class TestSession:
    def test_the_endpoint_that_is_named(self):
        state = one(*hosts("h", [1] * 4))
        assert set(picks(state, 20, override=FIRST)) == {"h0"}

    @pytest.mark.parametrize("strict", [False, True])
    def test_who_is_not_there(self, strict):
        state = one(*hosts("h", [1] * 4))
        found = set(picks(state, 200, override=("elsewhere", 80), strict=strict))
        assert found == ({None} if strict else {"h0", "h1", "h2", "h3"})

    @pytest.mark.parametrize(
        ("health", "taken"),
        [
            (HealthStatus.HEALTHY, True),
            (HealthStatus.DEGRADED, True),
            (HealthStatus.UNHEALTHY, False),
            (HealthStatus.DRAINING, False),
        ],
    )
    def test_its_health_has_to_do(self, health, taken):
        state = one(*hosts("h", [1], health), *hosts("x", [1, 1, 1]))
        assert (set(picks(state, 50, override=FIRST)) == {"h0"}) is taken

    def test_override_host_status_says_which_does(self):
        config = Balancing(override_statuses=frozenset({HealthStatus.DRAINING}))
        draining = hosts("h", [1], HealthStatus.DRAINING)
        state = one(*draining, *hosts("x", [1, 1, 1]), balancing=config)
        assert set(picks(state, 20, override=FIRST)) == {"h0"}
        assert len(set(picks(state, 200, override=("x0", 80)))) == 3

    @pytest.mark.parametrize("probe", [HealthStatus.UNHEALTHY, HealthStatus.HEALTHY])
    def test_ejected_or_failing_it_is_unhealthy(self, probe):
        state = one(*hosts("h", [1] * 3))
        named = state.endpoints[FIRST]
        named.ejected, named.probe = probe is HealthStatus.HEALTHY, probe
        state.refresh()
        assert "h0" not in picks(state, 50, override=FIRST)


class TestHeader:
    def lab(self, **route):
        config = cluster(endpoints(4), balancing=Balancing(override_headers=("x-host",)))
        return Lab(snapshot(config, routes=[forward(**route)]))

    def hosts(self, lab, *script, value):
        return lab.run(*script, view=request(headers=[("x-host", value)])).hosts

    def test_the_endpoint_that_is_named(self):
        lab = self.lab()
        assert {self.hosts(lab, 200, value="10.0.0.3:80")[0] for _ in range(10)} == {"10.0.0.3"}

    def test_each_attempt_goes_to_the_next_one_named(self):
        lab = self.lab(retry=retry("5xx", num_retries=2))
        named = "10.0.0.3:80, 10.0.9.9:80 ,10.0.0.1:80"
        found = self.hosts(lab, 503, 503, 200, value=named)
        assert found[:2] == ["10.0.0.3", "10.0.0.1"]
        assert len(found) == 3

    @pytest.mark.parametrize("value", ["", "nonsense", "10.0.0.9:80", "10.0.0.1", ":", "10.0.0.1:x"])
    def test_who_is_not_there_is_no_matter(self, value):
        lab = self.lab()
        assert len({self.hosts(lab, 200, value=value)[0] for _ in range(60)}) == 4
