"""Load reports in headers and trailers, the weights that follow, and what becomes of endpoints that report none."""

import base64
import json
import math
import random

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from xds.data.orca.v3 import orca_load_report_pb2

from meshlib.model.balancing import Balancing, LbPolicy, LoadReports
from meshlib.policy.balancing.orca import LoadReport, Reported, report_in, weigh, weight_of
from meshlib.policy.effects import BodyEnd, Outcome, Respond
from policy.driving import Lab, ManualClock, Met
from policy.lab import counts, hosts, one
from policy.snapshots import cluster, snapshot

POLICY = LbPolicy.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN
NUMBERS = {"cpu_utilization": 0.5, "rps_fractional": 100.0, "eps": 2.0, "application_utilization": 0.25}
MAPS = {"named_metrics": {"queue": 0.75}, "utilization": {"disk": 0.9}, "request_cost": {"tokens": 3.0}}
MESSAGE = orca_load_report_pb2.OrcaLoadReport(**NUMBERS, **MAPS, rps=7)
FLAT = {**NUMBERS, **{f"{name}.{key}": value for name, entries in MAPS.items() for key, value in entries.items()}}
BINARY = base64.b64encode(MESSAGE.SerializeToString()).decode()


class TestForms:
    @pytest.mark.parametrize(
        "headers",
        [
            {"endpoint-load-metrics-bin": BINARY},
            {"endpoint-load-metrics-bin": BINARY.rstrip("=")},
            {"endpoint-load-metrics": f"BIN {BINARY}"},
            {"endpoint-load-metrics": "JSON " + json.dumps({**NUMBERS, **MAPS})},
        ],
    )
    def test_all_of_it(self, headers):
        assert report_in(headers).numbers == FLAT

    def test_json_in_camel_case(self):
        report = report_in({"endpoint-load-metrics": 'JSON {"cpuUtilization": 0.5, "namedMetrics": {"aB": 1}}'})
        assert report.numbers == {"cpu_utilization": 0.5, "named_metrics.aB": 1.0}

    def test_text(self):
        report = report_in(
            {"endpoint-load-metrics": "TEXT cpu_utilization:0.3, named_metrics.queue: 0.8,rps_fractional:9"}
        )
        assert report.numbers == {"cpu_utilization": 0.3, "named_metrics.queue": 0.8, "rps_fractional": 9.0}

    @pytest.mark.parametrize(
        "value",
        [
            "cpu_utilization=0.3",
            "TEXT cpu_utilization",
            "TEXT cpu_utilization:",
            "TEXT cpu_utilization:x",
            "TEXT cpu_utilization:nan",
            "TEXT cpu_utilization:inf",
            "TEXT cpu_utilization:0.1,cpu_utilization:0.2",
            "TEXT unheard_of:1",
            "TEXT named_metrics.:1",
            "JSON [1]",
            "JSON {",
            "BIN !!!",
            "BIN CQ==",
            "",
        ],
    )
    def test_what_cannot_be_read_is_no_report(self, value):
        assert report_in({"endpoint-load-metrics": value}) is None

    def test_none(self):
        assert report_in({}) is None

    @given(st.binary(max_size=60))
    def test_any_bytes(self, data):
        found = report_in({"endpoint-load-metrics-bin": base64.b64encode(data).decode()})
        message = orca_load_report_pb2.OrcaLoadReport()
        try:
            message.ParseFromString(data)
        except DecodeError:
            return  # ours need not find every fault that protobuf finds
        if found is not None and message.cpu_utilization and not math.isnan(message.cpu_utilization):
            assert found.get("cpu_utilization") == message.cpu_utilization


class TestWeights:
    @pytest.mark.parametrize(
        ("numbers", "config", "want"),
        [
            ({"rps_fractional": 100.0, "cpu_utilization": 0.5}, {}, 200),
            ({"rps_fractional": 100.0, "cpu_utilization": 0.5, "application_utilization": 0.25}, {}, 400),
            ({"rps_fractional": 100.0, "cpu_utilization": 0.5, "eps": 10.0}, {"error_utilization_penalty": 5.0}, 100),
            ({"rps_fractional": 0.0, "cpu_utilization": 0.5}, {}, None),
            ({"rps_fractional": 100.0}, {}, None),
            ({"cpu_utilization": 0.5}, {}, None),
            ({"rps_fractional": 0.1, "cpu_utilization": 1.0}, {}, 1),
            ({"rps_fractional": 1e30, "cpu_utilization": 1.0}, {}, 2**32 - 1),
            (
                {
                    "rps_fractional": 100.0,
                    "application_utilization": 0.1,
                    "named_metrics.q": 0.5,
                    "named_metrics.r": 0.2,
                },
                {"metric_names": ("named_metrics.q", "named_metrics.r")},
                200,
            ),
            ({"rps_fractional": 100.0, "named_metrics.q": 0.5, "x": 9.0}, {"metric_names": ("named_metrics.*",)}, 200),
            ({"rps_fractional": 100.0, "cpu_utilization": 0.5}, {"metric_names": ("named_metrics.q",)}, 200),
        ],
    )
    def test_requests_over_utilization(self, numbers, config, want):
        assert weight_of(LoadReport(numbers), LoadReports(**config)) == want

    def test_a_report_counts_after_the_blackout_and_until_it_is_old(self):
        config = LoadReports(blackout_period=10.0, weight_expiration_period=60.0)
        reported = Reported(5, 100.0)
        assert reported.weight(config, 109.0) is None
        assert reported.weight(config, 110.0) == 5
        reported.update(7, 150.0)
        assert reported.weight(config, 210.0) == 7
        assert reported.weight(config, 211.0) is None
        reported.update(9, 220.0)  # the blackout begins anew
        assert reported.weight(config, 229.0) is None
        assert reported.weight(config, 230.0) == 9

    @pytest.mark.parametrize(
        ("known", "median"), [([], 1), ([4], 4), ([4, 10], 7), ([1, 5, 30], 5), ([1, 4, 7, 30], 5)]
    )
    def test_who_reports_nothing_weighs_the_median(self, known, median):
        states = list(one(*hosts("h", [1] * (len(known) + 1))).endpoints.values())
        for state, weight in zip(states, known, strict=False):
            state.reported = Reported(weight, 0.0)
        weigh(states, LoadReports(blackout_period=0.0), 1.0)
        assert [state.weight for state in states] == [*known, median]
        assert not weigh(states, LoadReports(blackout_period=0.0), 1.0)


def reports(**config):
    return Balancing(POLICY, reports=LoadReports(**config))


class TestPicks:
    def test_the_less_loaded_gets_more(self):
        clock = ManualClock()
        state = one(*hosts("h", [1, 1, 1]), balancing=reports(), clock=clock)
        assert len(counts(state, 30, clock())) == 3
        for name, cpu in (("h0", 0.9), ("h1", 0.3)):
            text = f"TEXT rps_fractional:90,cpu_utilization:{cpu}"
            state.report(state.endpoints[name, 80], {"endpoint-load-metrics": text}, clock())
        clock.advance(5.0)
        assert max(counts(state, 30, clock()).values()) == 10  # the blackout
        clock.advance(6.0)
        found = counts(state, 600, clock())  # 100, 300 and the median, 200
        assert [round(found[f"h{n}"] / 100) for n in range(3)] == [1, 3, 2]
        clock.advance(181.0)
        assert max(counts(state, 30, clock()).values()) == 10

    def test_reports_are_looked_at_once_in_a_while(self):
        clock = ManualClock()
        state = one(*hosts("h", [1, 1]), balancing=reports(blackout_period=0.0, weight_update_period=5.0), clock=clock)
        state.report(
            state.endpoints["h0", 80],
            {"endpoint-load-metrics": "TEXT rps_fractional:9,eps:1,cpu_utilization:1"},
            clock(),
        )
        clock.advance(4.9)
        state.pick(clock())
        assert [each.weight for each in state.endpoints.values()] == [1, 1]
        clock.advance(0.1)
        state.pick(clock())
        assert [each.weight for each in state.endpoints.values()] == [9, 9]

    def test_of_another_policy_they_are_not_read(self):
        state = one(*hosts("h", [1]))
        state.report(
            state.endpoints["h0", 80], {"endpoint-load-metrics": "TEXT rps_fractional:9,cpu_utilization:1"}, 0.0
        )
        assert state.endpoints["h0", 80].reported is None


class TestCalls:
    def lab(self):
        config = cluster(hosts("h", [1, 1]), balancing=reports(blackout_period=0.0))
        return Lab(snapshot(config), chance=random.Random(1))

    def test_a_response_head_reports(self):
        lab = self.lab()
        run = lab.run(Met(200, headers={"endpoint-load-metrics": "TEXT rps_fractional:9,cpu_utilization:1"}))
        state = lab.cluster().endpoints[run.hosts[0], 80]
        assert state.reported.weight(LoadReports(blackout_period=0.0), lab.clock()) == 9

    def test_trailers_do(self):
        lab = self.lab()
        record, policy = lab.start()
        effect = next(policy)
        effect = policy.send(Outcome(200))
        assert isinstance(effect, Respond)
        trailers = {"endpoint-load-metrics-bin": BINARY}
        with pytest.raises(StopIteration):
            policy.send(BodyEnd(None, 0, trailers))
        state = lab.cluster().endpoints[record.endpoint.key]
        assert state.reported.weight(LoadReports(blackout_period=0.0), lab.clock()) == 400
