"""Istio and Kubernetes YAML as typed documents that know where they were written.

:func:`read` is pure: names and bytes in, documents and faults out. One faulty document is
dropped whole with an ERROR; every other document applies. What is understood, and what is
only warned about, is listed in docs/control-plane.md.
"""

from __future__ import annotations

from meshlib.controlplane.documents.collection import Documents, Memory, read

__all__ = ["Documents", "Memory", "read"]
