"""Whatever stands in a file: faults, never an exception, and every node is still served."""

from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshlib.controlplane.documents import read
from meshlib.controlplane.node import Node, NodeKind
from meshlib.controlplane.resources import TYPE_URLS
from meshlib.controlplane.translate import translate

DATA = Path(__file__).parent.parent / "data" / "istiod"
FILES = {f"{path.parent.parent.name}/{path.name}": path.read_bytes() for path in sorted(DATA.glob("*/config/*.yaml"))}
NODES = [Node(kind=kind, namespace="istioinaction", labels={"istio": "ingressgateway"}) for kind in NodeKind]

QUICKLY = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        ["", "*", "**", "a*", ".", "..", "a.b", "mesh", "2s", "-1s", "1e999s", "0", "80", "5xx", "[::1]", "127.0.0.1",
         "10.0.0.0/8", "/", "a/b/c/d", "~", "(", "é" * 300, "catalog", "forum", "unix:///x"]
    ),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


def serve(files):
    documents, faults = read(files)
    for node in NODES:
        resources, references = translate(documents, node)
        assert list(resources.by_type) == list(TYPE_URLS)
        assert all(str(fault) and fault.file in files for fault in (*faults, *references))
        for messages in resources.by_type.values():
            for name, message in messages.items():
                assert name
                message.SerializeToString()


def holders(tree):
    """Every place of a document where a value could be another."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from holders(value)


@QUICKLY
@given(st.data())
def test_any_value_anywhere(data):
    name = data.draw(st.sampled_from(sorted(FILES)))
    scenario = name.partition("/")[0]
    files = {key: content for key, content in FILES.items() if key.startswith(f"{scenario}/")}
    documents = list(yaml.safe_load_all(files[name]))
    for _ in range(data.draw(st.integers(1, 3))):
        places = [place for document in documents for place in holders(document)]
        if places:
            holder, key = data.draw(st.sampled_from(places))
            holder[key] = data.draw(VALUES)
    files[name] = yaml.safe_dump_all(documents).encode()
    serve(files)


@QUICKLY
@given(st.sampled_from(sorted(FILES)), st.integers(0, 4000), st.binary(max_size=6), st.integers(0, 40))
def test_any_bytes_anywhere(name, start, inserted, removed):
    content = FILES[name]
    start %= len(content)
    serve({**FILES_OF_DEFAULT, "x.yaml": content[:start] + inserted + content[start + removed :]})


FILES_OF_DEFAULT = {name: content for name, content in FILES.items() if name.startswith("default/")}


@QUICKLY
@given(st.binary(max_size=200))
def test_any_bytes(content):
    serve({"x.yaml": content, "x.json": content})
