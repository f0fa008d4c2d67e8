"""Headers of a VirtualService to Envoy's mutations, as istiod writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoy.config.core.v3 import base_pb2

from meshlib.controlplane.documents.virtual_service import HeaderOperations, Headers, is_pseudo_header

_SET = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_ADD = base_pb2.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD


def mutate(message: Any, headers: Headers | None) -> str:
    """Write ``headers`` into a Route or ClusterWeight; return the authority they ask for, empty for none.

    What is set comes before what is added, each by name.
    """
    if headers is None:
        return ""
    _operations(message.request_headers_to_add, message.request_headers_to_remove, headers.request)
    _operations(message.response_headers_to_add, message.response_headers_to_remove, headers.response)
    request = headers.request
    return (_authority(request.set) or _authority(request.add)) if request is not None else ""


def _operations(to_add: Any, to_remove: Any, operations: HeaderOperations | None) -> None:
    if operations is None:
        return
    for values, action in ((operations.set, _SET), (operations.add, _ADD)):
        for name, value in sorted(values.items()):
            if not is_pseudo_header(name):
                to_add.add(header={"key": name, "value": value}, append_action=action)
    to_remove.extend(operations.remove)


def _authority(values: Mapping[str, str]) -> str:
    return next((value for name, value in sorted(values.items()) if name.lower() in ("host", ":authority")), "")
