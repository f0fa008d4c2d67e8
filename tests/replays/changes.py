"""What each step of the streams with changes means for calls to catalog, and to what comes and goes.

Written from the notes in the streams and their READMEs. For each step: the targets of
``http://catalog/`` (None where it has no service any more) and, of a sidecar, further URLs.
"""

from __future__ import annotations

HOME = ".istioinaction.svc.cluster.local"

BOTH = "80||catalog~ = 127.0.0.11:3000,127.0.0.12:3000"
THREE = f"{BOTH},127.0.0.13:3000"
SPLIT = "80|version-v1|catalog~@80 = 127.0.0.11:3000 + 80|version-v2|catalog~@20 = 127.0.0.12:3000"
GROWN = SPLIT.replace("127.0.0.11:3000", "127.0.0.11:3000,127.0.0.13:3000")
EMPTY = "80||catalog~ = UH"

NO_INVENTORY = {"http://inventory": "0.0.0.0_80 > 80 / allow_any > PassthroughCluster = inventory:80"}
INVENTORY = {"http://inventory": "0.0.0.0_80 > 80 / inventory~:80 > 80||inventory~ = 127.0.0.51:3000"}
NO_LEDGER = {"http://ledger:9999": "virtualOutbound > PassthroughCluster = ledger:9999"}
LEDGER = {"http://ledger:9999": "0.0.0.0_9999 > 9999 / ledger~:9999 > 9999||ledger~ = 127.0.0.51:3000"}

Steps = list[tuple[str, str | None, dict[str, str]]]

FILES: Steps = [
    ("add VirtualService catalog (retries)", BOTH, {}),
    ("add DestinationRule catalog with two subsets", BOTH, {}),
    ("VirtualService catalog now 80/20 to the subsets", SPLIT, {}),
    ("add a WorkloadEntry of catalog v1", GROWN, {}),
    ("remove that WorkloadEntry", SPLIT, {}),
    ("touch a file without changing it", SPLIT, NO_INVENTORY),
    ("add a ServiceEntry on port 80 (inventory)", SPLIT, INVENTORY | NO_LEDGER),
    ("add a ServiceEntry on a new port 9999 (ledger)", SPLIT, INVENTORY | LEDGER),
    ("remove ServiceEntry ledger", SPLIT, INVENTORY | NO_LEDGER),
    ("remove ServiceEntry inventory", SPLIT, NO_INVENTORY | NO_LEDGER),
    ("PeerAuthentication STRICT", SPLIT, {}),
    ("remove VirtualService catalog", BOTH, {}),
    ("remove DestinationRule catalog", BOTH, {}),
    ("both WorkloadEntries of catalog gone (no endpoints left)", EMPTY, {}),
    ("WorkloadEntries of catalog back", BOTH, {}),
    ("invalid YAML document added (bad VirtualService)", BOTH, {}),
    ("broken YAML added together with a good change (WorkloadEntry v3)", BOTH, {}),
    ("broken YAML removed", THREE, {}),
    ("the last WorkloadEntry removed again", BOTH, {}),
    ("service catalog removed altogether", None, {}),
    ("service catalog back", BOTH, {}),
]

POD, POD2, POD3 = "10.244.0.11:3000", "10.244.0.12:3000", "10.244.0.13:3000"
PODS = f"80||catalog~ = {POD},{POD2}"
PODS_SPLIT = f"80|version-v1|catalog~@80 = {POD} + 80|version-v2|catalog~@20 = {POD2}"
UNREADY = f"{PODS},{POD3}"  # sent as unhealthy
NO_PORT = {"http://catalog:8080": "virtualOutbound > PassthroughCluster = catalog:8080"}
PORT = {  # the EndpointSlice has no such port
    "http://catalog:8080": "0.0.0.0_8080 > 8080 / catalog~:8080 > "
    "8080|version-v1|catalog~@80 = UH + 8080|version-v2|catalog~@20 = UH"
}
K_INVENTORY = "0.0.0.0_80 > 80 / inventory~:80 > 80||inventory~ = "

KUBERNETES: Steps = [
    ("Pod catalog v1, second replica (object only)", PODS, {}),
    ("its endpoint appears, not ready", UNREADY, {}),
    ("it becomes ready", UNREADY, {}),
    ("it terminates, still serving", PODS, {}),
    ("its endpoint is gone", PODS, {}),
    ("its Pod is gone", PODS, {}),
    ("DestinationRule catalog with two subsets", PODS, {}),
    ("VirtualService catalog, timeout 2s", PODS, {}),
    ("VirtualService catalog, 80/20 to the subsets", PODS_SPLIT, {}),
    ("Pod catalog v1 relabelled version v2",
     f"80|version-v1|catalog~@80 = UH + 80|version-v2|catalog~@20 = {POD},{POD2}", {}),
    ("relabelled back", PODS_SPLIT, {}),
    ("the same VirtualService applied again", PODS_SPLIT, {}),
    ("a VirtualService that the API server rejects", PODS_SPLIT, {}),
    ("scaled to zero: EndpointSlice without endpoints",
     "80|version-v1|catalog~@80 = UH + 80|version-v2|catalog~@20 = UH", {}),
    ("scaled up again", PODS_SPLIT, NO_INVENTORY),
    ("Service inventory, no EndpointSlice", PODS_SPLIT, {"http://inventory": f"{K_INVENTORY}UH"}),
    ("its Pod and EndpointSlice", PODS_SPLIT, {"http://inventory": f"{K_INVENTORY}10.244.0.55:3000"}),
    ("Service inventory deleted", PODS_SPLIT, NO_INVENTORY),
    ("its EndpointSlice and Pod deleted", PODS_SPLIT, NO_INVENTORY | NO_PORT),
    ("Service catalog gets a second port 8080", PODS_SPLIT, PORT),
    ("second port taken away", PODS_SPLIT, NO_PORT),
    ("Service catalog annotated exportTo ~", PODS_SPLIT, {}),  # the VirtualService's destination brings it back
    ("annotation taken away", PODS_SPLIT, {}),
    ("PeerAuthentication STRICT, mesh-wide", PODS_SPLIT, {}),
    ("PeerAuthentication deleted", PODS_SPLIT, {}),
    ("Secret and ConfigMap that concern nobody", PODS_SPLIT, {}),
    ("ConfigMap deleted", PODS_SPLIT, {}),
    ("Namespace gets another label", PODS_SPLIT, {}),
    ("VirtualService deleted", PODS, {}),
    ("DestinationRule deleted", PODS, {}),
]  # fmt: skip

# Hidden, and brought back by a VirtualService, a host has its full name alone in a sidecar's table.
HIDDEN = (
    "Service catalog annotated exportTo ~",
    None,
    {f"http://catalog{HOME}": f"0.0.0.0_80 > 80 / catalog~:80 > {PODS_SPLIT}"},
)
SIDECAR_KUBERNETES: Steps = [HIDDEN if step[0] == HIDDEN[0] else step for step in KUBERNETES]

STREAMS: dict[str, Steps] = {
    "istiod/changes-sidecar/sidecar-webapp": FILES,
    "istiod/changes-sidecar-delta/sidecar-webapp.delta": FILES,
    "istiod/changes-grpc/grpc-webapp": FILES,
    # istiod's gRPC generator loses delta watches: a listener that went away never comes back.
    "istiod/changes-grpc-delta/grpc-webapp.delta": [*FILES[:-1], (FILES[-1][0], None, {})],
    "istiod-book/k8s-changes/sidecar-webapp": SIDECAR_KUBERNETES,
    "istiod-book/k8s-changes/sidecar-webapp.delta": SIDECAR_KUBERNETES,
    "istiod-book/k8s-changes/grpc-webapp": KUBERNETES,
    "istiod-book/k8s-changes/grpc-webapp.delta": KUBERNETES,
}

# What else a step changes, on any client: (attribute of the explanation, what it contains).
ATTRIBUTES = {
    "add VirtualService catalog (retries)": ("retries", "up to 3 after the first attempt, on 5xx, perTryTimeout 2s"),
    "remove VirtualService catalog": ("retries", "up to 2 after the first attempt"),
    "VirtualService catalog, timeout 2s": ("timeout", 2.0),
    "VirtualService deleted": ("timeout", 0.0),
}


def catalog_url(stream: str) -> str:
    """The URL of catalog for the client of a stream."""
    return f"http://catalog{HOME}/" if "grpc" in stream else "http://catalog/"


def catalog_told(stream: str, targets: str | None, route: str = "") -> str:
    """What catalog's URL comes to on a sidecar or on a gRPC node."""
    grpc = "grpc" in stream
    if targets is None:
        return "nothing" if grpc else "0.0.0.0_80 > 80 / allow_any > PassthroughCluster = catalog:80"
    return f"{'catalog~:80 > 80||catalog~' if grpc else '0.0.0.0_80 > 80'} / catalog~:80{route} > {targets}"
