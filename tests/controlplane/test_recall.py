"""What is made again after a change is what would be made of everything anew."""

import random
import re
from pathlib import Path

import pytest

from meshlib.controlplane.documents import Memory, read
from meshlib.controlplane.node import Node, NodeKind
from meshlib.controlplane.recall import RECALL, Recall
from meshlib.controlplane.translate import _shared, translate

DATA = Path(__file__).parents[1] / "data"
FOLDERS = sorted({path.parent for kind in ("parity", "istiod") for path in (DATA / kind).rglob("config/*.yaml")})
NODES = [
    Node(kind=NodeKind.SIDECAR, id="a", namespace="istioinaction", labels={"app": "webapp"}, ip="127.0.0.21"),
    Node(kind=NodeKind.SIDECAR, id="b", namespace="elsewhere", metadata={"INTERCEPTION_MODE": "NONE"}),
    Node(kind=NodeKind.ROUTER, id="c", namespace="istio-system", labels={"istio": "ingressgateway"}, ip="127.0.0.31"),
    Node(kind=NodeKind.GRPC, id="d", namespace="istioinaction", locality="us-west1/us-west1-a"),
]


def encoded(documents, node):
    resources, _ = translate(documents, node)
    return {
        url: {name: item.SerializeToString(deterministic=True) for name, item in items.items()}
        for url, items in resources.by_type.items()
    }


def forget():
    _shared.cache_clear()
    RECALL.turn()
    RECALL.turn()


def edited(files, chance):
    """Return the files with one document changed, removed or put elsewhere."""
    name = chance.choice(sorted(files))
    documents = files[name].split(b"\n---\n")
    index = chance.randrange(len(documents))
    kind = chance.randrange(4)
    if kind == 0 and len(documents) > 1:
        del documents[index]
    elif kind == 1:
        documents[index] = re.sub(rb"\bv1\b", b"v2", documents[index])
    elif kind == 2:
        documents[index] = re.sub(
            rb"\b[1-9]\b", lambda _: str(chance.randrange(1, 9)).encode(), documents[index], count=1
        )
    else:
        documents[index] = b"\n" + documents[index]
    return {**files, name: b"\n---\n".join(documents)}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.parent.name)
def test_after_any_edit(folder):
    files = {path.name: path.read_bytes() for path in folder.glob("*.yaml")}
    chance, memory = random.Random(folder.parent.name), Memory()
    for _ in range(6):
        documents, faults = read(files, memory=memory)
        remembered = [encoded(documents, node) for node in NODES]
        forget()
        anew, same_faults = read(files)
        assert faults == same_faults
        assert [encoded(anew, node) for node in NODES] == remembered
        forget()
        for node in NODES:  # what the next version remembers
            encoded(documents, node)
        files = edited(files, chance)


class Look:
    """Stands for a view."""

    def __init__(self, node, **values):
        self.node = node
        self.__dict__.update(values)


class TestRecall:
    def test_the_same_inputs_are_asked_once(self):
        recall, calls, one = Recall(), [], object()
        recall.made(calls.append, one)
        recall.made(calls.append, one)
        recall.turn()
        recall.made(calls.append, one)
        assert calls == [one]

    def test_two_versions_later_it_is_forgotten(self):
        recall, calls = Recall(), []
        recall.made(calls.append, 1)
        recall.turn()
        recall.turn()
        recall.made(calls.append, 1)
        assert calls == [1, 1]

    def test_what_was_looked_at_of_a_view_counts_and_nothing_else(self):
        recall, calls = Recall(), []

        def function(item, view):
            calls.append(item)
            return view.flag, view.node.labels.get("app")

        node = Node(labels={"app": "a", "zone": "1"})
        assert recall.seen(function, Look(node, flag=True, other=1), "x") == (True, "a")
        recall.seen(function, Look(Node(labels={"app": "a", "zone": "2"}), flag=True, other=2), "x")
        assert calls == ["x"]
        assert recall.seen(function, Look(node, flag=False), "x") == (False, "a")
        assert recall.seen(function, Look(Node(labels={"app": "b"}), flag=True), "x") == (True, "b")
        assert calls == ["x", "x", "x"]

    def test_equal_values_become_one_object(self):
        recall = Recall()
        first = recall.same("k", [1])
        assert recall.same("k", [1]) is first
        recall.turn()
        assert recall.same("k", [1]) is first
        assert recall.same("k", [2]) == [2]
