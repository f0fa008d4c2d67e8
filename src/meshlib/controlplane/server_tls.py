"""The certificate of the control plane's TLS port, read anew when its files change."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from meshlib.errors import ConfigError

logger = logging.getLogger("meshlib.controlplane")


@dataclass(frozen=True, slots=True)
class ServerTls:
    """TLS of a server.

    Attributes:
        certificate: PEM file: the certificate, and those between it and its root.
        key: PEM file: its private key.
        client_ca: PEM file of the roots that client certificates must lead to; None asks for none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def credentials(self) -> Any:
        """Return gRPC server credentials that look at the files again at every handshake.

        Files that cannot be used later are logged once, and the last good ones stay in force.

        Raises:
            ConfigError: they cannot be used now.
        """
        contents = self._read()
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(contents), self._fetcher(contents), self.client_ca is not None
        )

    def _fetcher(self, contents: tuple[bytes | None, ...]) -> Callable[[], Any]:
        known = contents
        told = ""

        def fetch() -> Any:
            nonlocal known, told
            try:
                now = self._read()
            except ConfigError as error:
                if str(error) != told:
                    logger.warning("%s; the certificate read before stays in force", error)
                told = str(error)
                return None
            told = ""
            if now == known:
                return None
            known = now
            logger.info("%s was read anew for the TLS port", self.certificate)
            return self._configuration(now)

        return fetch

    def _configuration(self, contents: tuple[bytes | None, ...]) -> Any:
        certificate, key, roots = contents
        return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=roots)

    def _read(self) -> tuple[bytes | None, ...]:
        """Return the files' contents, having seen that they belong together."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
            if self.client_ca is not None:
                context.load_verify_locations(self.client_ca)
            roots = self.client_ca.read_bytes() if self.client_ca else None
            return self.certificate.read_bytes(), self.key.read_bytes(), roots
        except ssl.SSLError as error:
            reason = f"no certificate with its key: {error.reason or error}"
        except (OSError, ValueError) as error:
            reason = str(error)
        names = ", ".join(str(path) for path in (self.certificate, self.key, self.client_ca) if path)
        raise ConfigError(f"TLS of the control plane cannot be set up from {names}: {reason}")


def _no_password() -> str:
    raise ValueError("the key is encrypted; store it without a password, readable by this user only")
