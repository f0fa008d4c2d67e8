"""`analyze` beside `istioctl analyze`: the same codes, resources, words and exit status."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from meshlib.cli.app import app
from meshlib.controlplane.analysis import CHECKS, Level, analyze

DATA = Path(__file__).parents[1] / "data/analyze"
SHARED = Path(__file__).parents[3] / "shared"
BOOK_STATES = SHARED / "istiod-book"
FINDING = re.compile(r"(Error|Warning|Info) \[(IST\d+)\] \((.*?)(?: config\.yaml:\d+)?\) (.*)")
INJECTED = b"""\
apiVersion: v1
kind: Namespace
metadata: {name: istioinaction, labels: {istio-injection: enabled}}
"""

OWN = sorted(path for path in DATA.iterdir() if path.is_dir())
BOOK = sorted((BOOK_STATES / "analyze").glob("book-*")) if (SHARED / "book").exists() else []


def theirs(folder):
    return sorted(
        found.groups() for found in map(FINDING.match, (folder / "output.txt").read_text().splitlines()) if found
    )


def ours(findings):
    return sorted((item.level.word, item.code, item.resource, item.message) for item in findings if item.code[0] == "I")


def wordless_regex(found):
    """Go's and C++'s RE2 complain in different words."""
    return [(*rest, re.sub(r'"uri": .*?; Istio', '"uri": …; Istio', words)) for *rest, words in found]


@pytest.mark.parametrize("folder", OWN, ids=lambda path: path.name)
def test_as_istioctl(folder):
    files = {"config.yaml": (folder / "config.yaml").read_bytes(), "objects.yaml": (DATA / "objects.yaml").read_bytes()}
    found = [item for item in analyze(files).findings if item.namespace == "istioinaction"]
    assert wordless_regex(ours(found)) == wordless_regex(theirs(folder))
    assert all(item.line and item.column for item in found)


@pytest.mark.parametrize("folder", OWN, ids=lambda path: path.name)
def test_the_exit_status_is_istioctl_s(folder):
    command = ["analyze", str(folder / "config.yaml"), str(DATA / "objects.yaml"), "-n", "istioinaction"]
    assert CliRunner().invoke(app, command).exit_code == int((folder / "exit.txt").read_text())


@pytest.mark.parametrize("folder", BOOK, ids=lambda path: path.name)
def test_the_book_s_states_as_istioctl(folder):
    state = BOOK_STATES / folder.name.removeprefix("book-")
    files = {path.name: path.read_bytes() for kind in ("objects", "config") for path in (state / kind).glob("*.yaml")}
    files |= {name: (SHARED / "book" / name).read_bytes() for name in (folder / "book.txt").read_text().split()}
    files["namespace.yaml"] = INJECTED
    done = analyze(files, namespace="istioinaction")
    assert ours(done.findings) == theirs(folder)
    failed = any(item.level is Level.ERROR for item in done.findings)
    assert (79 if failed else 0) == int((folder / "exit.txt").read_text())


BASE = """\
apiVersion: v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec: {selector: {app: catalog}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: catalog-v1, namespace: shop}
spec: {address: 127.0.0.1, labels: {app: catalog, version: v1}}
---
"""


def http(text, gateways=""):
    return (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: catalog, namespace: shop}\n"
        f"spec:\n  hosts: [catalog]\n{gateways}  http:\n{text}"
    )


def rule(text):
    return (
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: catalog, namespace: shop}\n"
        f"spec: {{host: catalog, {text}}}\n"
    )


def sidecar(name, more=""):
    return (
        f"apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: {name}, namespace: shop}}\n"
        f'spec: {{{more}egress: [{{hosts: ["./*"]}}]}}\n---\n'
    )


TO = "route: [{destination: {host: catalog}}]"


def rules(*routes, gateways=""):
    return http("".join(f"  - {{{route}}}\n" for route in routes), gateways)


def match(kind, path):
    return f"match: [{{uri: {{{kind}: {path}}}}}], {TO}"


def retries(text):
    return rules(f"{TO}, timeout: 1s, retries: {{attempts: 2, {text}}}")


def outliers(text):
    return rule(f"trafficPolicy: {{outlierDetection: {{consecutive5xxErrors: 1{text}}}}}")


ABORTED = f"{TO}, fault: {{abort: {{httpStatus: 503, percentage: {{value: 1}}}}}}, retries: {{attempts: 2}}"
TLS = "tls: {mode: SIMPLE}"
POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a, namespace: shop}
spec: {selector: {matchLabels: {app: nobody}}}
"""
NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"


def chosen(name, labels):
    return sidecar(name, f"workloadSelector: {{labels: {{{labels}}}}}, ")


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (retries("perTryTimeout: 1s"), "MSH0101", "is not less than"),
        (retries("retryOn: gateway-eror"), "IST0106", "expected retry conditions"),
        (retries("retryOn: retriable-status-codes"), "MSH0102", "without a code"),
        (retries("retryOn: 'unavailable,cancelled'"), "MSH0102", "states of gRPC"),
        (outliers(", maxEjectionPercent: 50"), "MSH0103", "at least 100"),
        (outliers(""), "MSH0103", "10 by default of 1 endpoint"),
        (rules(match("prefix", "/a"), match("exact", "/ab")), "MSH0104", "the prefix /a of rule #0"),
        (rules(ABORTED), "MSH0105", "not retried"),
        (rules(f"{TO}, timeouts: 1s"), "MSH0001", "unknown field"),
        (rules(match("prefix", "/a"), match("prefix", "/ab")), "IST0131", "of prefix /ab"),
        (rules(match("exact", "/a"), match("exact", "/a")), "IST0131", "match #0"),
        (rules(match("exact", "/a"), match("exact", "/a")), "IST0130", "prior rules"),
        (rule(f"trafficPolicy: {{{TLS}}}"), "IST0128", "shop/catalog in namespace shop has TLS mode set to SIMPLE"),
        (rule(f"trafficPolicy: {{portLevelSettings: [{{port: {{number: 80}}, {TLS}}}]}}"), "IST0129", "number:80"),
        (rule("subsets: []").replace("host: catalog", "host: nobody"), "IST0174", "The host nobody"),
        (rules(TO, gateways="  gateways: [nowhere]\n"), "IST0101", 'gateway not found: "nowhere"'),
        (rules(TO, gateways="  gateways: [nowhere]\n"), "IST0132", "[catalog] defined in VirtualService shop/cat"),
        (sidecar("a") + sidecar("b"), "IST0111", "[a b]"),
        (chosen("a", "app: nobody"), "IST0101", 'selector not found: "app=nobody"'),
        (chosen("a", "app: catalog") + chosen("b", "version: v1"), "IST0110", "catalog-v1"),
        (POLICY, "IST0127", "app=nobody"),
        (NAMESPACE, "IST0102", "label namespace shop"),
    ],
)
def test_each_code_where_it_is_due_and_nowhere_else(text, code, words):
    found = [
        item for item in analyze({"base.yaml": BASE.encode(), "x.yaml": text.encode()}).findings if item.code == code
    ]
    assert any(words in item.message for item in found), found
    assert all(item.file == "x.yaml" and item.line for item in found)
    good = http(f"  - {{{TO}, timeout: 3s, retries: {{attempts: 2, perTryTimeout: 1s, retryOn: '5xx,503'}}}}\n")
    fine = rule(
        "trafficPolicy: {outlierDetection: {maxEjectionPercent: 100}}, subsets: [{name: v1, labels: {version: v1}}]"
    )
    assert not analyze({"base.yaml": (BASE + good + "---\n" + fine).encode()}).findings


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        (http("").replace("  hosts: [catalog]\n  http:\n", "  gateways: [mesh]\n"), {"MSH0001"}),
        (rule("trafficPolicy: {tls: {mode: DISABLE}}"), set()),
        (POLICY.replace("selector: {matchLabels: {app: nobody}}", "action: CUSTOM, provider: {name: nobody}"), set()),
        ("apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {name: w}\n", {"MSH0002"}),
    ],
)
def test_what_istioctl_says_nothing_about_does_not_fail(text, codes):
    done = analyze({"base.yaml": BASE.encode(), "x.yaml": text.encode()})
    assert {item.code for item in done.findings} == codes
    assert not done.unreadable
    assert all(item.level < Level.ERROR for item in done.findings)


def test_what_cannot_be_looked_at_is_said():
    text = rule("subsets: [{name: v1, labels: {version: v1}}]")
    done = analyze({"x.yaml": text.encode()})
    assert "there is no Service or ServiceEntry" in done.skipped["destinationrule.SubsetSelectPodAnalyzer"]
    assert not done.findings


def test_every_check_says_what_it_is_about():
    assert all(check.run.__doc__ for check in CHECKS)
    assert len({check.name for check in CHECKS}) == len(CHECKS)


class TestCommand:
    def run(self, tmp_path, text, *arguments):
        (tmp_path / "x.yaml").write_text(BASE + text)
        return CliRunner().invoke(app, ["analyze", str(tmp_path), *arguments])

    def test_a_finding_names_its_place(self, tmp_path):
        result = self.run(tmp_path, http("  - route: [{destination: {host: catalogg}}]\n"))
        assert result.exit_code == 79
        where = f"{tmp_path}/x.yaml:17:"
        assert re.match(rf"Error \[IST0101\] \(VirtualService shop/catalog {where}\d+\) Referenced host", result.stdout)
        assert "Error: Analyzers found issues" in result.stderr

    def test_data_does_not_touch_the_exit_code(self, tmp_path):
        result = self.run(tmp_path, http("  - route: [{destination: {host: catalogg}}]\n"), "-o", "yaml")
        assert result.exit_code == 0
        assert "code: IST0101" in result.stdout

    def test_thresholds_and_suppression(self, tmp_path):
        broken = http("  - route: [{destination: {host: catalogg}}]\n")
        assert self.run(tmp_path, broken, "-S", "IST0101=VirtualService *.shop").exit_code == 0
        late = retries("perTryTimeout: 1s")
        assert self.run(tmp_path, late).exit_code == 0
        assert self.run(tmp_path, late, "--failure-threshold", "warning").exit_code == 79
        assert self.run(tmp_path, late, "--output-threshold", "Error").stdout == ""

    def test_what_does_not_parse(self, tmp_path):
        result = self.run(tmp_path, "kind: [\n")
        assert result.exit_code == 65
        assert "x.yaml:1" in result.stderr

    def test_nothing_found(self, tmp_path):
        result = self.run(tmp_path, "")
        assert (result.exit_code, result.stdout) == (0, "")
        assert "✔ No validation issues found when analyzing all namespaces." in result.stderr
