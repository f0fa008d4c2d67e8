"""The xDS client: resources in, one validated snapshot out.

In the order a response passes them: :mod:`client` (the one thread and its stream) →
:mod:`resource_type` and the ``decode_*`` modules (protobuf to model values, or every fault) →
:mod:`protocol` with :mod:`sotw` and :mod:`delta` (versions, nonces, ACK and NACK) → :mod:`cache`
(the last good value of each name) → :mod:`dependencies` (what to ask for next, what may be used) →
:mod:`compiler` (one snapshot).
:mod:`assembly` is that path without a stream, for configuration that is already here.
"""
