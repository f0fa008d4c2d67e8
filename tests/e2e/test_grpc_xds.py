"""grpcio's own xDS client (``xds:///`` targets), steered by the control plane."""

import collections
import contextlib
import json
import os
import subprocess
import sys
from concurrent import futures

import pytest

from greeting import greeter, grpc_bootstrap
from meshlib.controlplane.directory import Directory
from meshlib.controlplane.server import Server
from waiting import until

SERVICES = """\
apiVersion: v1
kind: Service
metadata: {{name: greeter, namespace: outdoor}}
spec:
  selector: {{app: greeter}}
  ports: [{{name: grpc, port: 50051}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: greeter-v1, namespace: outdoor}}
spec: {{address: 127.0.0.1, ports: {{grpc: {v1}}}, labels: {{app: greeter, version: v1}}}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: greeter-v2, namespace: outdoor}}
spec: {{address: 127.0.0.1, ports: {{grpc: {v2}}}, labels: {{app: greeter, version: v2}}}}
"""

RULE = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: greeter, namespace: outdoor}}
spec:
  host: greeter
  trafficPolicy: {{loadBalancer: {{simple: {policy}}}}}
  subsets:
  - {{name: one, labels: {{version: v1}}}}
  - {{name: two, labels: {{version: v2}}}}
"""

ROUTE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: greeter, namespace: outdoor}}
spec:
  hosts: [greeter]
  http:
  - match: [{{headers: {{x-cohort: {{exact: inside}}}}}}]
    route: [{{destination: {{host: greeter, subset: two}}}}]
  - route:
    - {{destination: {{host: greeter, subset: one}}, weight: {one}}}
    - {{destination: {{host: greeter, subset: two}}, weight: {two}}}
"""

# A process of its own: gRPC reads GRPC_XDS_BOOTSTRAP once, and holds one xDS client for all channels.
CLIENT = """\
import json, sys, grpc
for line in sys.stdin:
    order = json.loads(line)
    with grpc.insecure_channel(order["target"]) as channel:
        call = channel.unary_unary("/greeter.Greeter/Greet")
        try:
            answers = [
                call(b"", timeout=5, metadata=order["metadata"], wait_for_ready=True).decode()
                for _ in range(order["calls"])
            ]
        except grpc.RpcError as error:
            answers = f"{error.code().name}: {error.details()}"
    print(json.dumps(answers), flush=True)
"""


class Stack:
    """A folder, a control plane, and a process whose gRPC follows it."""

    def __init__(self, folder, directory, server, process):
        self.folder = folder
        self.directory = directory
        self.server = server
        self._process = process

    def rule(self, policy):
        (self.folder / "rule.yaml").write_text(RULE.format(policy=policy))

    def route(self, one, two):
        (self.folder / "route.yaml").write_text(ROUTE.format(one=one, two=two))

    def call(self, calls=1, *, target="greeter.outdoor.svc.cluster.local:50051", **headers):
        """Return how often each instance answered, or the error."""
        metadata = [(name.replace("_", "-"), value) for name, value in headers.items()]
        order = {"target": f"xds:///{target}", "calls": calls, "metadata": metadata}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answers = json.loads(self._process.stdout.readline())
        return answers if isinstance(answers, str) else dict(collections.Counter(answers))

    def wait_for_status(self):
        """Wait until the client has taken all four types, and return what the server says of it."""
        until(lambda: [client for client in self.server.clients if is_complete(client)], "SYNCED", 20.0)
        (client,) = self.server.clients
        return client


def is_complete(client):
    return {client.cds.status, client.lds.status, client.eds.status, client.rds.status} == {"SYNCED"}


@pytest.fixture
def stack(tmp_path):
    folder = tmp_path / "mesh"
    folder.mkdir()
    with contextlib.ExitStack() as cleanup:
        ports = {name: cleanup.enter_context(greeter(name)) for name in ("v1", "v2")}
        (folder / "services.yaml").write_text(SERVICES.format(**ports))
        directory = cleanup.enter_context(Directory(folder))
        server = cleanup.enter_context(Server(directory, port=0))
        bootstrap = grpc_bootstrap(tmp_path / "bootstrap.json", server.address, "caller-x")
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            env=os.environ | {"GRPC_XDS_BOOTSTRAP": str(bootstrap)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield Stack(folder, directory, server, process)
        finally:
            process.stdin.close()
            process.wait(20)
            process.stdout.close()


@pytest.mark.parametrize(
    "target",
    [
        "greeter:50051",
        "greeter.outdoor:50051",
        "greeter.outdoor.svc:50051",
        "greeter.outdoor.svc.cluster.local:50051",
    ],
)
def test_a_call_by_each_form_of_the_name_is_balanced(stack, target):
    assert set(stack.call(20, target=target)) == {"v1", "v2"}


def test_subsets_weights_and_headers_and_an_edit_without_a_restart(stack):
    stack.rule("ROUND_ROBIN")
    stack.route(100, 0)
    until(lambda: stack.call(20) == {"v1": 20}, "the route")
    assert stack.call(20, x_cohort="inside") == {"v2": 20}
    stack.route(50, 50)
    until(lambda: set(stack.call(20)) == {"v1", "v2"}, "the new weights")
    counts = stack.call(400)
    assert 120 < counts["v1"] < 280, counts
    stack.route(0, 100)
    until(lambda: stack.call(20) == {"v2": 20}, "the newest weights")


def test_status_is_synced(stack):
    stack.rule("ROUND_ROBIN")
    stack.route(100, 0)
    # The channel of one order is closed when it is answered: look during it.
    with futures.ThreadPoolExecutor(1) as pool:
        calling = pool.submit(stack.call, 2000)
        client = stack.wait_for_status()
        calling.result()
    assert (client.name, client.kind, client.errors) == ("caller-x.outdoor", "grpc", {})
    assert client.version.startswith("gRPC C-core")


@pytest.mark.parametrize("policy", ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "PASSTHROUGH"])
def test_no_load_balancing_policy_of_istio_breaks_a_grpc_client(stack, policy):
    """gRPC refuses a cluster with LEAST_REQUEST or RANDOM, and then fails every call to it."""
    version = stack.directory.version
    stack.rule(policy)
    until(lambda: stack.directory.version != version, "the edit")
    assert set(stack.call(20)) == {"v1", "v2"}


def test_calls_go_on_without_the_control_plane(stack):
    with futures.ThreadPoolExecutor(1) as pool:
        calling = pool.submit(stack.call, 4000)
        stack.wait_for_status()
        stack.server.close()
        assert not calling.done()
        assert sum(calling.result().values()) == 4000
