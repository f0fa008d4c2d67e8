"""``import meshlib`` is cheap, and its door shows exactly what it says."""

import json
import subprocess
import sys

import pytest

import meshlib

HEAVY = ("google.protobuf", "envoy", "grpc", "h2", "httpx", "httpcore", "opentelemetry", "tenacity", "pybreaker", "re2")


def fresh(code):
    """Run code in a fresh interpreter; returns the JSON it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_import_loads_nothing_heavy():
    code = "import json, sys, meshlib; print(json.dumps(sorted(sys.modules)))"
    loaded = set(fresh(code))
    assert [name for name in HEAVY if name in loaded] == []
    assert len([name for name in loaded if name.startswith("meshlib")]) <= 3


def test_errors_can_be_named_without_loading_anything():
    code = "import json, sys, meshlib; meshlib.NoHealthyUpstream; print(json.dumps(sorted(sys.modules)))"
    assert "httpx" not in fresh(code)


@pytest.mark.parametrize(
    ("name", "stays_away"),
    [
        ("Mesh", ("grpc", "httpx", "httpcore", "envoy", "pybreaker")),
        ("CallRecord", ("grpc", "httpx", "google.protobuf", "tenacity")),
        ("httpx", ("grpc", "envoy")),
    ],
)
def test_lazy_names_load_what_they_need(name, stays_away):
    code = f"import json, sys, meshlib; meshlib.{name}; print(json.dumps(sorted(sys.modules)))"
    loaded = set(fresh(code))
    assert [module for module in stays_away if module in loaded] == []


def test_exported_names_are_exactly_all():
    import types

    public = {
        name
        for name, value in vars(meshlib).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    } - {"annotations", "TYPE_CHECKING", "Any"}
    lazy = {name for name in meshlib._LAZY if name not in ("httpx", "grpc")}
    assert public | lazy | {"__version__"} == set(meshlib.__all__)
    assert list(meshlib.__all__) == sorted(meshlib.__all__)
    for name in meshlib.__all__:
        assert getattr(meshlib, name) is not None


def test_every_error_is_exported():
    from meshlib import errors

    named = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert named <= set(meshlib.__all__)


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="module 'meshlib' has no attribute 'mash'"):
        _ = meshlib.mash


def test_the_httpx_door():
    from meshlib import httpx as door

    for name in door.__all__:
        assert getattr(door, name) is not None
    assert list(door.__all__) == sorted(door.__all__)
