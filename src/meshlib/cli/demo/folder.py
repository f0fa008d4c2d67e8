"""The demo's folder of YAML: a copy that the story edits, with ports that are free here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from meshlib.controlplane.faults import Fault
from meshlib.controlplane.folder import read_folder
from meshlib.controlplane.validate import validate
from meshlib.errors import ConfigError

Labels = dict[str, str]


def examples() -> Path:
    """Return the folder of the example services and their YAML: from the wheel, or the checkout."""
    package = Path(__file__).resolve().parents[2]
    for candidate in (package / "_examples", package.parents[1] / "examples"):
        if (candidate / "mesh").is_dir():
            return candidate
    raise ConfigError(
        f"the example services are missing: looked for {package / '_examples'} and a checkout's examples/"
    )


@dataclass(frozen=True, slots=True)
class PortField:
    """A port in the YAML that decides where something of the demo listens.

    Attributes:
        file: the YAML file.
        start, end: where the number stands in its text.
        value: the number.
        kind: ``WorkloadEntry`` (a service listens there) or ``Service`` (the gateway does).
        labels: the entry's labels, or the service's selector.
        port: the service's own port that leads there; 0 for an entry.
    """

    file: Path
    start: int
    end: int
    value: int
    kind: str
    labels: Labels
    port: int = 0


def port_fields(folder: Path) -> Iterator[PortField]:
    """Yield the ports of WorkloadEntries, and the target ports of Services, below ``folder``.

    A file that is not YAML yields nothing: the control plane reports it, with its line.
    """
    for file, _, documents in _parsed(folder):
        for document in documents:
            yield from _ports_of(file, document)


def _parsed(folder: Path) -> Iterator[tuple[Path, str, list[yaml.Node]]]:
    """Yield each YAML file with its text and its documents."""
    for file in sorted((*folder.rglob("*.yaml"), *folder.rglob("*.yml"))):
        try:
            text = file.read_text("utf-8")
            documents = [node for node in yaml.compose_all(text, yaml.SafeLoader) if node is not None]
        except (yaml.YAMLError, UnicodeDecodeError):
            continue
        yield file, text, documents


def _identity(document: yaml.Node | None) -> tuple[str, str, str]:
    metadata = _get(document, "metadata")
    return _text(_get(document, "kind")), _text(_get(metadata, "namespace")), _text(_get(metadata, "name"))


def _spliced(old: str, old_node: yaml.Node, new: str, new_node: yaml.Node | None) -> str:
    """Return ``old`` with one of its documents replaced by the document of ``new``."""
    document = new[new_node.start_mark.index : new_node.end_mark.index] if new_node else ""
    return f"{old[: old_node.start_mark.index]}{document.rstrip()}\n{old[old_node.end_mark.index :]}"


def _ports_of(file: Path, document: yaml.Node) -> Iterator[PortField]:
    kind = _text(_get(document, "kind"))
    spec = _get(document, "spec")
    if kind == "WorkloadEntry":
        labels = _get(spec, "labels")
        numbers: list[tuple[yaml.Node | None, int]] = [(number, 0) for _, number in _items(_get(spec, "ports"))]
    elif kind == "Service":
        labels = _get(spec, "selector")
        ports = _get(spec, "ports")
        entries = ports.value if isinstance(ports, yaml.SequenceNode) else []
        numbers = [(_get(entry, "targetPort"), _number(_get(entry, "port"))) for entry in entries]
    else:
        return
    names = {_text(key): _text(value) for key, value in _items(labels)}
    for node, port in numbers:
        if node is not None and (value := _number(node)):
            yield PortField(file, node.start_mark.index, node.end_mark.index, value, kind, names, port)


def _items(node: yaml.Node | None) -> list[tuple[yaml.Node, yaml.Node]]:
    return node.value if isinstance(node, yaml.MappingNode) else []


def _get(node: yaml.Node | None, key: str) -> yaml.Node | None:
    return next((value for name, value in _items(node) if _text(name) == key), None)


def _text(node: yaml.Node | None) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _number(node: yaml.Node | None) -> int:
    text = _text(node)
    return int(text) if text.isdecimal() else 0


class MeshFolder:
    """A copy of a folder of YAML, which the story changes file by file.

    Args:
        source: the folder to copy; it is never written to.
        path: where the copy goes; must not exist yet.
        changes: the folder of files that the story writes into the copy, one at a time.
    """

    def __init__(self, source: Path, path: Path, changes: Path) -> None:
        if not source.is_dir():
            raise ConfigError(f"{source} is not a folder; --mesh takes a folder of Istio and Kubernetes YAML")
        shutil.copytree(source, path)
        self.path = path
        self._changes = changes

    def assign_ports(self, choose: Callable[[PortField], int]) -> None:
        """Ask ``choose`` for each port of :func:`port_fields`, and write its answers into the copy."""
        edits: dict[Path, list[tuple[PortField, int]]] = {}
        for field in port_fields(self.path):
            if (port := choose(field)) != field.value:
                edits.setdefault(field.file, []).append((field, port))
        for file, changes in edits.items():
            text = file.read_text("utf-8")
            for field, port in sorted(changes, key=lambda change: -change[0].start):
                text = f"{text[: field.start]}{port}{text[field.end :]}"
            self.write(file.name, text, folder=file.parent)

    def apply(self, change: str) -> Path:
        """Put the resource in the file ``change`` of the changes folder in force; return where it is now.

        It replaces the resource of the same kind and name, in whichever file that is, and is a
        new file where there is none.
        """
        text = (self._changes / change).read_text("utf-8")
        wanted = yaml.compose(text, yaml.SafeLoader)
        for file, old, documents in _parsed(self.path):
            for node in documents:
                if _identity(node) == _identity(wanted):
                    new = text if len(documents) == 1 else _spliced(old, node, text, wanted)
                    return self.write(file.name, new, folder=file.parent)
        return self.write(change, text)

    def faults(self) -> tuple[Fault, ...]:
        """Everything that is wrong with the copy as it is now."""
        return validate(read_folder(self.path).files)

    def write(self, name: str, text: str, *, folder: Path | None = None) -> Path:
        """Put ``text`` in place at once, so that a watcher never sees half a file; return where."""
        target = (folder or self.path) / name
        scratch = target.with_name(f".{name}.new")
        scratch.write_text(text, "utf-8")
        os.replace(scratch, target)
        return target
