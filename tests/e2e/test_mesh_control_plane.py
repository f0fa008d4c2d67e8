"""meshlib itself as the client of the control plane, in both forms of the protocol, plaintext and TLS."""

import contextlib
import time

import httpx
import pytest
import trustme

from e2e.test_envoy_gateway import upstream
from meshlib import Mesh
from meshlib.controlplane.directory import Directory
from meshlib.controlplane.server import Server
from meshlib.controlplane.server_tls import ServerTls

SERVICES = """\
apiVersion: v1
kind: Service
metadata: {{name: shop, namespace: outdoor}}
spec: {{selector: {{app: shop}}, ports: [{{name: http, port: 80}}]}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: shop-v1, namespace: outdoor}}
spec: {{address: 127.0.0.1, ports: {{http: {v1}}}, labels: {{app: shop, version: v1}}}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: shop-v2, namespace: outdoor}}
spec: {{address: 127.0.0.1, ports: {{http: {v2}}}, labels: {{app: shop, version: v2}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: shop, namespace: outdoor}}
spec:
  host: shop
  subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]
"""

ROUTE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: shop, namespace: outdoor}}
spec: {{hosts: [shop], http: [{{route: [{{destination: {{host: shop, subset: {subset}}}}}]}}]}}
"""


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "mesh"
    folder.mkdir()
    with contextlib.ExitStack() as cleanup:
        v1, v2 = (cleanup.enter_context(upstream(name)) for name in ("v1", "v2"))
        (folder / "services.yaml").write_text(SERVICES.format(v1=v1, v2=v2))
        (folder / "route.yaml").write_text(ROUTE.format(subset="v1"))
        yield folder


@pytest.fixture
def tls(tmp_path):
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    return ServerTls(tmp_path / "cert.pem", tmp_path / "key.pem")


@pytest.mark.parametrize("secure", [False, True], ids=["plaintext", "tls"])
@pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])
def test_calls_follow_an_edit(folder, tls, tmp_path, delta, secure):
    with Directory(folder) as directory, Server(directory, port=0, tls=tls, tls_port=0) as server:
        options = {"root_ca": str(tmp_path / "ca.pem")} if secure else {}
        address = server.tls_address if secure else server.address
        mesh = Mesh.connect(address, workload="web", namespace="outdoor", delta=delta, **options)
        with mesh, httpx.Client(transport=mesh.transport()) as client:
            assert client.get("http://shop/").text == "v1"
            (folder / "route.yaml").write_text(ROUTE.format(subset="v2"))
            deadline = time.monotonic() + 10
            while client.get("http://shop/").text != "v2":
                assert time.monotonic() < deadline, "the new route was not taken"
                time.sleep(0.01)
            (status,) = server.clients
            assert not status.errors
