"""CSDS: the client status discovery service (gRFC A40), served from the process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc

from meshlib.xds.admin_protos import base_pb2, csds_pb2
from meshlib.xds.config_dump import STATUS, timestamp, update_failure
from meshlib.xds.inventory import Inventory, Known
from meshlib.xds.shown import clean, shown

SERVICE = "envoy.service.status.v3.ClientStatusDiscoveryService"


def client_status(inventory: Inventory, *, contents: bool = True) -> Any:
    """Return what is known as a ``ClientStatusResponse``, secrets blotted out.

    Args:
        inventory: what is known.
        contents: whether the resources themselves are in it, or only their states.
    """
    response = csds_pb2.ClientStatusResponse()
    config = response.config.add()
    node = base_pb2.Node()
    node.CopyFrom(inventory.node)
    config.node.CopyFrom(clean(node))
    for one in inventory.resources:
        _fill(config.generic_xds_configs.add(), one, contents=contents)
    return response


def _fill(config: Any, one: Known, *, contents: bool) -> None:
    config.type_url = one.type_url
    config.name = one.name
    config.client_status = STATUS[one.state]
    config.is_static_resource = one.static
    if one.last:
        config.version_info = one.version
        config.last_updated.CopyFrom(timestamp(one.at))
        if contents:
            config.xds_config.CopyFrom(shown(one.last))
    if one.refusal is not None:
        config.error_state.CopyFrom(update_failure(one.refusal))
        if not contents:
            config.error_state.ClearField("failed_configuration")


def add_to(server: grpc.Server, look: Callable[[], Inventory]) -> None:
    """Add the service to a server that has not been started.

    Args:
        server: a sync gRPC server.
        look: returns what is known; called for every request, on the server's threads.
    """

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        if request.node_matchers:  # there is one node here; gRPC's own clients refuse them, too (gRFC A40)
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "node_matchers are not supported by a client: leave it out")
        try:
            found = look()
        except TimeoutError:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the xDS client is closed, or too busy to answer")
        return client_status(found, contents=not request.exclude_resource_contents)

    def stream(requests: Iterable[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        for request in requests:
            yield answer(request, context)

    codec: Any = {
        "request_deserializer": csds_pb2.ClientStatusRequest.FromString,
        "response_serializer": csds_pb2.ClientStatusResponse.SerializeToString,
    }
    handlers = {
        "FetchClientStatus": grpc.unary_unary_rpc_method_handler(answer, **codec),
        "StreamClientStatus": grpc.stream_stream_rpc_method_handler(stream, **codec),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


class CsdsServer:
    """A running CSDS; :meth:`close` it, or use it in ``with``.

    Attributes:
        host, port: where it listens; ``port`` is the real one where 0 was asked for.
    """

    __slots__ = ("_server", "host", "port")

    def __init__(self, host: str, port: int, server: grpc.Server) -> None:
        self.host = host
        self.port = port
        self._server = server

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def close(self) -> None:
        """Stop listening and end the streams; idempotent."""
        self._server.stop(None).wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<CSDS on {self.address}>"


def serve(host: str, port: int, look: Callable[[], Inventory]) -> CsdsServer:
    """Serve CSDS in plaintext.

    Args:
        host: the address to listen on; there is no authentication, so loopback unless a network
            policy stands in front.
        port: the port, 0 for a free one.
        look: returns what is known.

    Raises:
        OSError: the address cannot be bound.
    """
    # Each stream holds a thread for as long as it is open.
    pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="meshlib-csds")
    server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
    add_to(server, look)
    shown_host = f"[{host}]" if ":" in host else host
    try:
        bound = server.add_insecure_port(f"{shown_host}:{port}")
    except RuntimeError as error:
        raise OSError(f"CSDS cannot be served on {shown_host}:{port}: {error}") from error
    server.start()
    return CsdsServer(host, bound, server)
