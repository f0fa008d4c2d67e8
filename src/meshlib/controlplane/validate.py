"""Everything that is wrong with a folder of YAML, without running it."""

from __future__ import annotations

from collections.abc import Mapping

from meshlib.controlplane.documents import read
from meshlib.controlplane.faults import Fault
from meshlib.controlplane.options import DEFAULTS, MeshOptions
from meshlib.controlplane.translate import faults_of


def validate(
    files: Mapping[str, bytes], *, namespace: str = "default", options: MeshOptions = DEFAULTS
) -> tuple[Fault, ...]:
    """Return every fault in ``files``, by file and line.

    Args:
        files: name, relative to the folder, -> content.
        namespace: of the documents that name none.
        options: mesh-wide settings.
    """
    documents, faults = read(files, namespace=namespace)
    references = faults_of(documents, options)
    return tuple(
        sorted({*faults, *references}, key=lambda fault: (fault.file, fault.line, fault.column, fault.message))
    )
