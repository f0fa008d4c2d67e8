"""``make parity`` counts what it says: it sees every difference but those of its fixed table."""

import copy
import json

import pytest

from controlplane import captures, parity

SELECTION = captures.PLACES[0] / "istiod"
SHARED = captures.PLACES[1] / "istiod"
SEEN = ("retry", "outlier")
RETRY = next(case for case in parity.cases(SELECTION) if case.name.endswith("retry/sidecar-webapp"))


def leaves(value, path=()):
    """Yield the path of every scalar in a resource."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if isinstance(item, dict | list):
            yield from leaves(item, (*path, key))
        else:
            yield (*path, key)


def changed(resource, path):
    """Return a resource with another value at a path."""
    made = copy.deepcopy(resource)
    *inner, last = path
    holder = made
    for key in inner:
        holder = holder[key]
    value = holder[last]
    holder[last] = (
        not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else f"{value}x"
    )
    return made


WHOLE = captures.PLACES[0] / "parity"
EVERYWHERE = [WHOLE, *(captures.PLACES[1] / name for name in ("istiod", "istiod-book"))]


@pytest.mark.parametrize("folder", EVERYWHERE, ids=lambda folder: folder.name)
def test_every_difference_from_istiod_is_explained(folder):
    if not folder.is_dir():
        pytest.skip("only a selection of the captures is part of the checkout")
    result = parity.run([folder], parity.BOOK)
    assert parity.unexplained(result) == []
    assert not [reason for reason in result.skipped.values() if "book" not in reason]
    assert result.summary()["equal"] > 150


def test_every_explanation_is_needed():
    present = [folder for folder in EVERYWHERE if folder.is_dir()]
    if len(present) < len(EVERYWHERE):
        pytest.skip("only a selection of the captures is part of the checkout")
    result = parity.run(present, parity.BOOK)
    found = [(each.short, each.case, path) for each in result.differences for path, _, _ in each.paths]
    assert [row for row in parity.explanations() if not any(row.covers(*place) for place in found)] == []


def test_a_difference_that_nobody_explained_is_told():
    case = next(case for case in parity.cases(WHOLE) if case.name == "dr-rich/sidecar-webapp")
    capture = case.load(parity.BOOK)
    capture.files = {
        name: data.replace(b"maxConnections: 7", b"maxConnections: 6") for name, data in capture.files.items()
    }
    result = parity.Result()
    parity.compare(case, capture, result)
    assert any(path.endswith("max_connections") for *_, path in parity.unexplained(result))


NOT_COMPARED = {"stat_prefix", "alt_stat_name", "@type"}


@pytest.mark.parametrize("short", ["LDS", "RDS", "CDS", "EDS"])
def test_every_other_field_is_compared(short):
    folder = SHARED if SHARED.is_dir() else SELECTION
    every = [captures.load(case.path).resources[short] for case in parity.cases(folder) if case.scenario in SEEN]
    if not any(every):
        pytest.skip("the selection in the checkout holds none")
    seen = 0
    for resource in (one for resources in every for one in resources.values()):
        before = parity.normalised(short, resource)
        for path in leaves(resource):
            if path[-1] in NOT_COMPARED and (path[-1] != "@type" or len(path) == 1):
                continue
            after = parity.normalised(short, changed(resource, path))
            assert list(parity.differing(before, after)), path
            seen += 1
    assert seen > 20


def test_what_repeats_counts_once_and_is_equal_only_when_it_always_is():
    result = parity.Result()
    case = parity.Case("s", RETRY.path)
    parity.compare(case, captures.load(RETRY.path), result)
    once = result.summary()
    parity.compare(case, captures.load(RETRY.path), result)
    twice = result.summary()
    assert {k: once[k] for k in ("equal", "different")} == {k: twice[k] for k in ("equal", "different")}
    assert twice["by_scenario"]["s"]["equal"] == 2 * once["by_scenario"]["s"]["equal"]
    broken = captures.load(RETRY.path)
    broken.files = {name: data.replace(b"attempts: 3", b"attempts: 4") for name, data in broken.files.items()}
    parity.compare(case, broken, result)
    assert result.summary()["equal"] < once["equal"]


def test_the_last_line_is_json_and_a_case_that_fails_hides_no_other(capsys, monkeypatch, tmp_path):
    folder = tmp_path / "cases"
    for name in ("good", "bad"):
        (folder / name / "config").mkdir(parents=True)
        for file in (RETRY.path.parent / "config").iterdir():
            (folder / name / "config" / file.name).write_bytes(file.read_bytes())
        (folder / name / "sidecar-webapp.jsonl").write_text(RETRY.path.read_text())
    translated = captures.Capture.translated
    calls = []

    def failing(self, files=None):
        calls.append(self)
        if len(calls) == 1:
            raise ValueError("no")
        return translated(self, files)

    monkeypatch.setattr(captures.Capture, "translated", failing)
    monkeypatch.setattr("sys.argv", ["parity", str(folder)])
    parity.main()
    out = capsys.readouterr()
    counts = json.loads(out.out.splitlines()[-1])
    assert counts["by_scenario"]["bad"] == {"failed": 1}
    assert counts["by_scenario"]["good"]["equal"] > 0
    assert "skipped bad/sidecar-webapp: ValueError: no" in out.err
