"""The xDS client: resources in, one validated snapshot out.

In the order a response passes them: :mod:`connection` (a socket, TLS) → :mod:`frames` and :mod:`grpc_call`
(HTTP/2 and gRPC) → :mod:`stream` (bytes) → :mod:`channel` (one server) →
:mod:`client` (the one thread) → :mod:`resource_type`, :mod:`route_table` and :mod:`shapes` (valid or
not), the ``decode_*`` modules (protobuf to model values, or every fault) → :mod:`cache` (the last
good version of each name) → :mod:`dependencies` (what to ask for next, what may be used) →
:mod:`protocol` with :mod:`sotw` and :mod:`delta` (versions, nonces, ACK and NACK) →
:mod:`compiler` (one snapshot).
:mod:`assembly` is that path without a stream, for configuration that is already here.
"""
