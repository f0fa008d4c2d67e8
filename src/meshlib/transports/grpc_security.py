"""The TLS of gRPC channels: what of a transport socket gRPC for Python can be told.

It verifies the server's chain and one DNS name, and lets nobody look at the certificate before the
first call goes out. What asks for more (SPIFFE names, patterns, pins) is refused.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import grpc

from meshlib.model.match import StringOp
from meshlib.model.request import RequestView
from meshlib.model.tls import DataSource, SanType, TlsCertificate, TlsVersion, UpstreamTls
from meshlib.policy.effects import Attempt, ErrorKind
from meshlib.policy.naming import host_of, tls_names
from meshlib.transports.driving import refusal
from meshlib.transports.grpc_translate import AUTHORITY_OPTION
from meshlib.upstream.failure import AttemptFailed


@dataclass(frozen=True, slots=True)
class ChannelTls:
    """How a channel speaks TLS; equal ones may share it.

    Attributes:
        tls: the settings.
        name: the server name that is sent, and that the certificate must be for.
        stamps: the files as they are now: another state of them is another channel.
    """

    tls: UpstreamTls
    name: str
    stamps: tuple[tuple[str, int, int], ...]

    def pems(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Return root certificates, private key and certificate chain; raises ``OSError``."""
        own, trust = self.tls.certificate, self.tls.validation.trusted_ca
        roots = None if trust is None else _read(trust)
        if not isinstance(own, TlsCertificate):
            return roots, None, None
        return roots, _read(own.key), _read(own.chain)


def channel_tls(effect: Attempt, view: RequestView) -> ChannelTls | None:
    """Return how TLS is to be spoken on the channel of an attempt, None for plaintext.

    Raises:
        AttemptFailed: TLS is asked for and cannot be spoken; nothing is to be sent.
    """
    socket = effect.transport_socket
    if socket is None or not socket.secure:
        return None
    tls, reason, name = socket.tls, socket.refusal, ""
    if tls is not None and not reason:
        reason, name = _name(tls, *tls_names(effect.cluster, tls, effect.endpoint, effect.authority, view))
    if tls is None or reason:
        raise AttemptFailed(ErrorKind.TLS_UNAVAILABLE, refusal(socket, reason), phase="connect")
    own, files = tls.certificate, [tls.validation.trusted_ca]
    if isinstance(own, TlsCertificate):
        files += [own.chain, own.key]
    try:
        found = ChannelTls(tls, name, tuple(_stamp(file.filename) for file in files if file and file.filename))
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
        raise AttemptFailed(ErrorKind.TLS_UNAVAILABLE, refusal(socket, reason), phase="connect") from error
    return found


def secured(options: list[tuple[str, Any]], tls: ChannelTls | None) -> tuple[list[tuple[str, Any]], Any]:
    """Return a channel's options and its credentials, None for plaintext.

    Raises:
        AttemptFailed: a certificate, key or CA cannot be read.
    """
    if tls is None:
        return options, None
    try:
        roots, key, chain = tls.pems()
    except OSError as error:
        message = f"{error.filename}: {error.strerror}; nothing was sent"
        raise AttemptFailed(ErrorKind.TLS_UNAVAILABLE, message, phase="connect") from error
    named = [(name, _authority(value, tls.name) if name == AUTHORITY_OPTION else value) for name, value in options]
    return [*named, ("grpc.ssl_target_name_override", tls.name)], grpc.ssl_channel_credentials(roots, key, chain)


def _authority(authority: str, name: str) -> str:
    """Return the ``:authority`` to send: of another host than the certificate's, grpc lets none pass with a port."""
    host = host_of(authority)
    return authority if host == name else host


def _name(tls: UpstreamTls, server_name: str, peer_name: str) -> tuple[str, str]:
    """Return why gRPC cannot do as the settings say, and the name to send and verify."""
    trust = tls.validation
    own = tls.certificate
    beyond = {
        "a server whose CA is not given, or does not matter": not trust.has_ca or trust.accept_untrusted,
        "pins": bool(trust.hashes or trust.spki),
        "a CRL": trust.crl is not None,
        "certificates that are expired": trust.allow_expired,
        "ciphers and curves": bool(tls.ciphers or tls.curve),
        "a minimum of TLS 1.3, or a maximum below 1.2": tls.minimum is TlsVersion.TLS_1_3
        or tls.maximum.value < TlsVersion.TLS_1_2.value,
        "the password of a key": isinstance(own, TlsCertificate) and own.password is not None,
    }
    for what, asked in beyond.items():
        if asked:
            return f"gRPC for Python cannot be told of {what}", ""
    names = [san.match.value for san in trust.sans if san.kind is SanType.DNS and san.match.op is StringOp.EXACT]
    if len(names) != len(trust.sans) or len(names) > 1:
        return "gRPC for Python can verify one exact DNS name, and no SPIFFE name or pattern", ""
    wanted = {name.lower() for name in (*names, server_name, peer_name) if name}
    if len(wanted) != 1:
        said = " and ".join(sorted(wanted)) or "none"
        return f"gRPC for Python sends and verifies one name, and the settings say {said}", ""
    return "", wanted.pop()


def _stamp(path: str) -> tuple[str, int, int]:
    status = os.stat(path)
    return path, status.st_ino, status.st_mtime_ns


def _read(source: DataSource) -> bytes:
    if not source.filename:
        return source.inline
    with open(source.filename, "rb") as file:
        return file.read()
