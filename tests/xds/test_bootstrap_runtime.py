"""The static layers of a bootstrap's runtime."""

import pytest

from meshlib.errors import BootstrapError
from meshlib.xds.bootstrap_runtime import runtime


def test_numbers_by_key_and_the_last_layer_wins():
    layers = [
        {"name": "a", "static_layer": {"x": 1, "y": {"z": 2.5, "text": "no"}, "word": "7"}},
        {"name": "b", "static_layer": {"x": 3, "part": {"numerator": 5, "denominator": "TEN_THOUSAND"}}},
    ]
    values, notes = runtime({"layers": layers}, "here")
    assert values == {"x": 3, "y.z": 2.5, "word": 7, "part": 0.05}
    assert notes == ()


def test_what_is_no_static_layer_is_noted():
    values, notes = runtime({"layers": [{"name": "r", "rtds_layer": {"name": "x"}}, {"name": "empty"}]}, "here")
    assert values == {}
    assert [note.field_path for note in notes] == ["layers[0]"]


@pytest.mark.parametrize("layers", [7, [7], [{"static_layer": 7}]])
def test_shapes_that_are_none(layers):
    with pytest.raises(BootstrapError, match=r"here\.layers"):
        runtime({"layers": layers}, "here")


def test_a_fraction_that_is_none():
    with pytest.raises(BootstrapError, match="no FractionalPercent"):
        runtime({"layers": [{"static_layer": {"x": {"numerator": 1, "denominator": "DOZEN"}}}]}, "here")
