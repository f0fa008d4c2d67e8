"""What istiod was seen to send, and what the embedded control plane makes of the same YAML."""

import json
from dataclasses import dataclass
from pathlib import Path

from envoy.config.core.v3 import base_pb2
from google.protobuf import descriptor_pool, json_format

from meshlib.controlplane.documents import read
from meshlib.controlplane.istio_messages import FILES
from meshlib.controlplane.node import Node
from meshlib.controlplane.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE
from meshlib.controlplane.translate import translate

for _file in FILES:  # so that an Any that holds one can be printed
    descriptor_pool.Default().AddSerializedFile(_file.SerializeToString())

TESTS = Path(__file__).parent.parent
PLACES = (TESTS / "data", TESTS.parent.parent / "shared")  # the selection, and the whole set where it is there
NAMESPACE = "istioinaction"  # that the book's files, which name none, are applied to
TYPES = {"LDS": LISTENER, "RDS": ROUTE, "CDS": CLUSTER, "EDS": ENDPOINT}


@dataclass
class Capture:
    """One client of one scenario: its node, the YAML, and the last resource of each name by type."""

    node: Node
    files: dict
    resources: dict

    def translated(self, files=None):
        """Our resources for the same node and YAML, in the captures' form."""
        documents, _ = read(files or self.files, namespace=NAMESPACE)
        resources, _ = translate(documents, self.node)
        return {
            short: {name: plain(message) for name, message in resources.by_type[url].items()}
            for short, url in TYPES.items()
        }


def plain(message):
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def find(scenario, client):
    """The capture's files: in the selection, in the whole set, in both or neither."""
    paths = (place / scenario / f"{client}.jsonl" for place in PLACES)
    return [path for path in paths if path.exists()]


def load(path):
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    first = next(row["message"]["node"] for row in rows if row["dir"] == "sent" and "node" in row["message"])
    node = base_pb2.Node()
    json_format.ParseDict({key: first[key] for key in ("id", "cluster", "metadata", "locality") if key in first}, node)
    resources = {short: {} for short in TYPES}
    for row in rows:
        if row["dir"] == "received" and row["type"] in TYPES:
            for resource in row["message"].get("resources", ()):
                resources[row["type"]][resource.get("name", resource.get("cluster_name"))] = resource
    folders = [path.parent / "config", path.parent / "objects"]
    files = {file.name: file.read_bytes() for folder in folders for file in sorted(folder.glob("*.yaml"))}
    return Capture(Node.from_proto(node), files, resources)
