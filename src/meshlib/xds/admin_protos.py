"""The messages of xds-protos that only looking inside needs: Envoy's admin and status API.

Apart from :mod:`~meshlib.xds.protos`, the door to all others, because these bring the whole of
Envoy's bootstrap with them: some megabytes that a process nobody looks into should not pay.
"""

from __future__ import annotations

from meshlib.xds import protos  # it says how to repair an installation where messages do not import

# isort: split

from envoy.admin.v3 import config_dump_pb2, config_dump_shared_pb2
from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.service.status.v3 import csds_pb2
from udpa.annotations import sensitive_pb2
from udpa.type.v1 import typed_struct_pb2

base_pb2 = protos.base_pb2

__all__ = [
    "base_pb2",
    "bootstrap_pb2",
    "config_dump_pb2",
    "config_dump_shared_pb2",
    "csds_pb2",
    "sensitive_pb2",
    "typed_struct_pb2",
]
