"""Mesh: the front door."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TextIO, TypedDict, Unpack, cast
from urllib.parse import urlsplit

from meshlib.clock import system_clock, system_randomness
from meshlib.errors import BootstrapError, ConfigError
from meshlib.explain import Explanation
from meshlib.explain import explain as explain_view
from meshlib.lookups import Resolver, system_resolver
from meshlib.model.balancing import PeakEwma
from meshlib.model.cluster import Cluster, TransportSocket
from meshlib.model.endpoint import Endpoint
from meshlib.model.health_check import HealthCheck
from meshlib.model.request import RequestView
from meshlib.model.snapshot import Style
from meshlib.policy.breaker import BreakerCore, ClusterBreaker
from meshlib.policy.events import Observer
from meshlib.policy.retrying import plans_with
from meshlib.policy.safety import RetrySafety
from meshlib.policy.state import MeshState
from meshlib.runtime.keeper import Probe
from meshlib.runtime.runtime import FIRST_CONFIGURATION_TIMEOUT, Runtime, Source
from meshlib.runtime.upkeep import Housekeeping
from meshlib.settings import Identity, discovery_address, identity_from_env
from meshlib.sources import DirectorySource, StaticSource, XdsSource
from meshlib.telemetry import Telemetry
from meshlib.telemetry.access_log import AccessLog
from meshlib.telemetry.metrics import IstioMetrics
from meshlib.telemetry.request_id import RequestId

if TYPE_CHECKING:
    import grpc
    import httpx
    from tenacity.stop import StopBaseT
    from tenacity.wait import WaitBaseT

    from meshlib.capabilities import Capabilities
    from meshlib.telemetry.prometheus import IstioCollector, MetricsServer
    from meshlib.xds.csds import CsdsServer

_log = logging.getLogger("meshlib")


class MeshKeywords(TypedDict, total=False):
    """Keywords that every constructor of :class:`Mesh` takes.

    Attributes:
        metrics: whether Istio's metrics are counted (default True).
        tracing: whether OpenTelemetry spans are made and context is propagated (default True).
        access_log: True for logger ``meshlib.access``, or a stream (default False).
        peak_ewma: balances a cluster by latency in place of its own policy, where it returns settings
            for the cluster's name; see :class:`meshlib.PeakEwma`.
        breaker: makes the opt-in ``pybreaker.CircuitBreaker`` of a cluster by its name, or
            returns None for no breaker.
        retry_stop: a tenacity stop strategy in place of the received ``num_retries``.
        retry_wait: a tenacity wait strategy in place of the received back-off.
        observers: further observers of every call.
        resolver: looks the names of STRICT_DNS and LOGICAL_DNS clusters up, in place of the system's
            resolver; see :class:`meshlib.lookups.Resolver`.
        retry_safety: ``"envoy"`` (default) makes every retry that the configuration asks for;
            ``"strict"`` only those that can do no harm: idempotent methods, an ``Idempotency-Key``, or
            nothing sent yet; within a budget of a fifth of the requests, and after ``Retry-After``.
        trace_decisions: share of calls, 0 to 1, whose records carry a decision trace (default 0).
    """

    metrics: bool
    tracing: bool
    access_log: bool | TextIO
    breaker: Callable[[str], BreakerCore | None]
    peak_ewma: Callable[[str], PeakEwma | None]
    retry_stop: StopBaseT
    retry_wait: WaitBaseT
    observers: tuple[Observer, ...]
    resolver: Resolver
    retry_safety: Literal["envoy", "strict"]
    trace_decisions: float


class Mesh:
    """One mesh: configuration, live state and telemetry behind every client of the process.

    Constructors do no I/O and start no thread; the first call, ``with`` or :meth:`wait_ready`
    does. Thread-safe; shared by threads and event loops; survives fork. Closing a client never
    closes the mesh.

    ::

        mesh = meshlib.Mesh.from_directory("mesh/", workload="webapp", namespace="istioinaction")
        client = httpx.Client(transport=mesh.transport())
        client.get("http://catalog/items")
    """

    def __init__(self, source: Source, identity: Identity, **keywords: Unpack[MeshKeywords]) -> None:
        self.identity = identity
        self._source = source
        self._metrics = IstioMetrics(identity) if keywords.get("metrics", True) else None
        breaker = keywords.get("breaker")
        chance = system_randomness()
        housekeeping = Housekeeping(system_clock, chance, _probe, keywords.get("resolver", system_resolver))
        gates = _gates(breaker) if breaker is not None else None
        latency = keywords.get("peak_ewma")
        state = MeshState(system_clock, chance, gates, housekeeping.keep, peak_ewma=latency)
        plan_for = plans_with(keywords.get("retry_stop"), keywords.get("retry_wait"))
        self._runtime = Runtime(
            source,
            state,
            self._observer(keywords),
            plan_for,
            name=f"mesh of {identity.workload}",
            housekeeping=housekeeping,
            safety=_safety(keywords.get("retry_safety", "envoy")),
            trace_decisions=_share(keywords.get("trace_decisions", 0.0)),
        )

    @classmethod
    def from_directory(
        cls,
        path: str | os.PathLike[str],
        *,
        workload: str = "unknown",
        namespace: str = "default",
        labels: Mapping[str, str] | None = None,
        **keywords: Unpack[MeshKeywords],
    ) -> Self:
        """Return a mesh over a folder of Istio and Kubernetes YAML, translated here and watched.

        Args:
            path: the folder; a missing one raises when the mesh starts.
            workload: the workload this process is ("webapp").
            namespace: where short host names are looked up.
            labels: the workload's labels, for ``sourceLabels`` matches and metrics.
            **keywords: see :class:`MeshKeywords`.
        """
        identity = Identity(workload=workload, namespace=namespace, labels=dict(labels or {}))
        return cls(DirectorySource(path, identity), identity, **keywords)

    @classmethod
    def connect(
        cls,
        address: str,
        *,
        workload: str = "",
        namespace: str = "",
        labels: Mapping[str, str] | None = None,
        root_ca: str = "",
        server_name: str = "",
        token_file: str = "",
        certificate: tuple[str, str] | None = None,
        delta: bool | None = None,
        on_demand: bool = True,
        last_known_good: str | os.PathLike[str] | None = None,
        last_known_good_age: float = 86_400.0,
        **keywords: Unpack[MeshKeywords],
    ) -> Self:
        """Return a mesh steered by the control plane at ``address`` (``host:port``, ``unix:///path``).

        The node is a sidecar's; what is not given here is read from Istio's environment
        variables (POD_NAME, POD_NAMESPACE, …). Ports 15012 and 443, and any of the four arguments
        on security, mean TLS: what is not given is then looked for where Istio's agent does.

        Args:
            address: the control plane.
            workload: the workload this process is.
            namespace: its namespace.
            labels: its labels.
            root_ca: PEM file of the CAs that may have signed the server's certificate, or
                ``"SYSTEM"``; by default ``/etc/certs/root-cert.pem``, else
                ``/var/run/secrets/istio/root-cert.pem``.
            server_name: what the server's certificate must be for; by default the address's host.
            token_file: the file of the bearer token, read anew at every connect; by default
                ``/var/run/secrets/tokens/istio-token`` if it is there.
            certificate: PEM files of a client certificate and its key, read anew at every connect.
            delta: whether to speak the delta protocol; None: where the server speaks it.
            on_demand: whether a cluster's endpoints are asked for when a call first needs them, and
                given up when none has for some minutes; False asks for all of them at once.
            last_known_good: a file, in a folder that is there, where what is in force is kept (mode 0600),
                and from which this process starts when no control plane answers within half a
                second; see :attr:`is_stale`. None keeps nothing.
            last_known_good_age: seconds after which that file is too old (default a day).
            **keywords: see :class:`MeshKeywords`.

        Raises:
            BootstrapError: TLS is due and a file it needs is not there.
            ValueError: ``last_known_good_age`` is not positive.
        """
        from meshlib.xds.bootstrap import Security, Surroundings, for_address

        identity = _named(identity_from_env(), workload, namespace, labels)
        security = Security(root_ca, server_name, token_file, certificate)
        bootstrap = for_address(address, identity, security, Surroundings(os.environ), delta=delta)
        source = XdsSource(
            bootstrap,
            on_demand=on_demand,
            last_known_good=last_known_good,
            last_known_good_age=last_known_good_age,
        )
        return cls(source, identity, **keywords)

    @classmethod
    def from_bootstrap(
        cls,
        bootstrap: str | os.PathLike[str] | Mapping[str, Any],
        *,
        listener: str = "",
        workload: str = "",
        namespace: str = "",
        on_demand: bool = True,
        last_known_good: str | os.PathLike[str] | None = None,
        last_known_good_age: float = 86_400.0,
        **keywords: Unpack[MeshKeywords],
    ) -> Self:
        """Return a mesh from an Envoy bootstrap or a gRPC xDS bootstrap.

        Args:
            bootstrap: a path (JSON or YAML) or the parsed dict.
            listener: which static listener takes every call, whatever the URL's port.
            workload: this process's workload, for metrics; the bootstrap's node goes out verbatim.
            namespace: its namespace, likewise.
            on_demand: see :meth:`connect`; for clusters that are asked for whole.
            last_known_good: see :meth:`connect`; where a control plane is asked.
            last_known_good_age: see :meth:`connect`.
            **keywords: see :class:`MeshKeywords`.

        Raises:
            BootstrapError: it cannot be used; says which field and why.
        """
        from meshlib.xds.bootstrap import load

        loaded = load(bootstrap)
        identity = _named(identity_from_env(), workload, namespace, None)
        if loaded.style is Style.STATIC:
            if last_known_good is not None:
                raise BootstrapError("last_known_good= keeps what a control plane says, and this bootstrap names none")
            return cls(StaticSource(loaded, listener), identity, **keywords)
        if listener:
            raise BootstrapError("listener= names a static listener, and this bootstrap gets its listeners by xDS")
        source = XdsSource(
            loaded,
            on_demand=on_demand,
            last_known_good=last_known_good,
            last_known_good_age=last_known_good_age,
        )
        return cls(source, identity, **keywords)

    @classmethod
    def from_env(cls, **keywords: Unpack[MeshKeywords]) -> Self:
        """Return the mesh that the environment describes.

        In this order: GRPC_XDS_BOOTSTRAP (a file) or GRPC_XDS_BOOTSTRAP_CONFIG (JSON),
        MESHLIB_XDS_ADDRESS or PILOT_ADDRESS (``host:port``), MESHLIB_CONFIG (a folder, or a
        bootstrap file), Istio's own (PROXY_CONFIG, CA_ADDR: istiod on port 15012, by TLS). Who
        this process is comes from POD_NAME, POD_NAMESPACE, ISTIO_META_*, MESHLIB_WORKLOAD,
        MESHLIB_NAMESPACE, MESHLIB_LABELS. MESHLIB_ACCESS_LOG=1 writes the access log to stderr
        unless ``access_log`` is given.

        Raises:
            ConfigError: none of them is set.
        """
        env = os.environ
        identity = identity_from_env(env)
        if env.get("MESHLIB_ACCESS_LOG") == "1":
            keywords.setdefault("access_log", sys.stderr)
        if env.get("GRPC_XDS_BOOTSTRAP") or env.get("GRPC_XDS_BOOTSTRAP_CONFIG"):
            from meshlib.xds.bootstrap import from_env

            bootstrap = from_env(env)
            if bootstrap is not None:
                return cls(XdsSource(bootstrap), identity, **keywords)
        address = env.get("MESHLIB_XDS_ADDRESS") or env.get("PILOT_ADDRESS")
        if address:
            return cls.connect(address, **keywords)
        config = env.get("MESHLIB_CONFIG")
        if config and Path(config).is_file():
            return cls.from_bootstrap(config, workload=identity.workload, namespace=identity.namespace, **keywords)
        if config:
            return cls(DirectorySource(config, identity), identity, **keywords)
        if address := discovery_address(env, identity):
            return cls.connect(address, **keywords)
        raise ConfigError(
            "the environment names no configuration: set MESHLIB_CONFIG (a folder of Istio YAML), "
            "MESHLIB_XDS_ADDRESS (host:port of a control plane) or GRPC_XDS_BOOTSTRAP (a bootstrap file)"
        )

    def transport(self, **options: Any) -> httpx.BaseTransport:
        """Return a transport for ``httpx.Client``; see :class:`~meshlib.transports.options.TransportOptions`."""
        import httpx

        from meshlib.transports.httpx_sync import MeshTransport
        from meshlib.transports.options import TransportOptions

        chosen = TransportOptions(**options)
        if _disabled():
            return cast("httpx.BaseTransport | None", chosen.inner) or httpx.HTTPTransport(**chosen.plain())
        return MeshTransport(self._runtime, chosen)

    def async_transport(self, **options: Any) -> httpx.AsyncBaseTransport:
        """Return a transport for ``httpx.AsyncClient``; see :class:`~meshlib.transports.options.TransportOptions`."""
        import httpx

        from meshlib.transports.httpx_async import AsyncMeshTransport
        from meshlib.transports.options import TransportOptions

        chosen = TransportOptions(**options)
        if _disabled():
            return cast("httpx.AsyncBaseTransport | None", chosen.inner) or httpx.AsyncHTTPTransport(**chosen.plain())
        return AsyncMeshTransport(self._runtime, chosen)

    def client(self, **options: Any) -> httpx.Client:
        """Return an ``httpx.Client`` through this mesh, with less overhead than the stock one.

        Args:
            options: those of :class:`~meshlib.transports.options.TransportOptions` go to the transport
                (``trust_env`` to both), all others to ``httpx.Client``. A ``proxy`` or ``mounts`` there
                takes what it matches past the mesh.
        """
        from meshlib.transports.httpx_client import MeshClient
        from meshlib.transports.options import divided

        own, clients = divided(options)
        return MeshClient(transport=self.transport(**own), **clients)

    def async_client(self, **options: Any) -> httpx.AsyncClient:
        """Return an ``httpx.AsyncClient`` through this mesh; see :meth:`client`."""
        from meshlib.transports.httpx_client import AsyncMeshClient
        from meshlib.transports.options import divided

        own, clients = divided(options)
        return AsyncMeshClient(transport=self.async_transport(**own), **clients)

    def grpc_channel(self, target: str, **options: Any) -> grpc.Channel:
        """Return a gRPC channel to ``host:port`` through the mesh."""
        if _disabled():
            import grpc

            return grpc.insecure_channel(target, **options)
        from meshlib.transports.grpc_channel import MeshChannel

        return MeshChannel(self._runtime, target, **options)

    def aio_grpc_channel(self, target: str, **options: Any) -> grpc.aio.Channel:
        """Return an asyncio gRPC channel to ``host:port`` through the mesh."""
        if _disabled():
            import grpc

            return grpc.aio.insecure_channel(target, **options)
        from meshlib.transports.grpc_aio import AioMeshChannel

        return AioMeshChannel(self._runtime, target, **options)

    @property
    def is_ready(self) -> bool:
        """Whether a configuration is in force."""
        return self._runtime.store.current is not None

    @property
    def is_stale(self) -> bool:
        """Whether what is in force is, in part at least, from the last-known-good file.

        That is from a start without a control plane until one has answered. What stays in force
        when a control plane is lost later is not stale in this sense.
        """
        return isinstance(self._source, XdsSource) and self._source.is_stale()

    def wait_ready(self, timeout: float = FIRST_CONFIGURATION_TIMEOUT) -> None:
        """Start, and block until a configuration is in force.

        Raises:
            MeshNotReady: after ``timeout`` seconds; names the source and its last error.
        """
        self._runtime.wait(None, timeout)

    async def await_ready(self, timeout: float = FIRST_CONFIGURATION_TIMEOUT) -> None:
        """Wait like :meth:`wait_ready`, without blocking the event loop."""
        await self._runtime.await_(None, timeout)

    @property
    def version(self) -> str:
        """The version of the configuration in force, empty before the first."""
        current = self._runtime.store.current
        return current.snapshot.version if current is not None else ""

    def on_change(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Call ``watcher`` on the publishing thread after each configuration; returns how to stop that.

        A forked child calls it too, for the configurations it receives itself.
        """
        return self._runtime.store.watch(watcher, lasting=True)

    def explain(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 5.0
    ) -> Explanation:
        """Tell where a request would go and why, without sending it.

        Args:
            method: HTTP method.
            url: as the application writes it; path and query matter.
            headers: request headers.
            timeout: seconds to wait for a first configuration.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"explain needs an http:// or https:// URL with a host, not {url!r}")
        given = [(name.lower(), value) for name, value in (headers or {}).items()]
        view = RequestView(
            method=method.upper(),
            scheme=parts.scheme,
            host=parts.hostname,
            port=parts.port or {"http": 80, "https": 443}[parts.scheme],
            authority=dict(given).get("host") or parts.netloc.rpartition("@")[2],
            target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
            headers=given,
        )
        live = self._runtime.live(view) or self._runtime.wait(view, timeout)
        while True:
            found = explain_view(live, view, self._runtime.chance)
            asleep = next((cluster.name for cluster in found.clusters if cluster.name in live.snapshot.dormant), "")
            if not asleep:
                return found
            live = self._runtime.wait(view, timeout, asleep)

    def capabilities(self, timeout: float = FIRST_CONFIGURATION_TIMEOUT) -> Capabilities:
        """Tell which fields of the configuration in force are not, or only nearly, honoured.

        The fields of an update that was refused are there too. Each kind is also said once in
        the log, when it arrives. Starts the mesh; a frozen value, from any thread.

        Args:
            timeout: seconds to wait for a first configuration.

        Raises:
            MeshNotReady: there is none after ``timeout`` seconds.
        """
        from meshlib.capabilities import capabilities

        if not self.is_ready:
            self.wait_ready(timeout)
        return capabilities(self._source.notes())

    def config_dump(self) -> dict[str, Any]:
        """Return what is known now as Envoy's config dump: ``envoy.admin.v3.ConfigDump`` in protobuf's JSON.

        Bootstrap (the node), listeners, clusters, routes and endpoints, each with version and time,
        and ``error_state`` where the last update was refused. What Envoy's API marks as sensitive
        reads ``[redacted]``; of an ``Any`` whose type is not installed only type and size are told.
        Starts the mesh and waits for nothing: :meth:`wait_ready` first for a whole configuration.
        From any thread.

        Raises:
            MeshClosed: the mesh is closed.
            TimeoutError: the xDS client does not answer within 5 seconds.
        """
        from meshlib.xds.config_dump import as_json

        self._runtime.start()
        return as_json(self._source.inventory())

    def serve_csds(self, host: str = "127.0.0.1", port: int = 0) -> CsdsServer:
        """Serve the client status discovery service (gRFC A40) in plaintext on ``host:port`` (0 = a free one).

        It tells the state of every resource: REQUESTED, DOES_NOT_EXIST, ACKED, or NACKED with the
        reason. It ends by its ``close()``, not with the mesh. A forked child has to serve its own.

        Raises:
            OSError: the address cannot be bound.
        """
        from meshlib.transports import grpc_forks
        from meshlib.xds.csds import serve

        grpc_forks.register()
        return serve(host, port, self._source.inventory)

    def add_csds(self, server: grpc.Server) -> None:
        """Add the client status discovery service to a sync gRPC server of yours, before it starts."""
        from meshlib.transports import grpc_forks
        from meshlib.xds.csds import add_to

        grpc_forks.register()
        add_to(server, self._source.inventory)

    @property
    def collector(self) -> IstioCollector:
        """A prometheus_client collector of Istio's and the xDS client's metrics, to register where you serve yours."""
        from meshlib.telemetry.prometheus import IstioCollector

        if self._metrics is None:
            raise ConfigError("this mesh was made with metrics=False")
        return IstioCollector(self._metrics, lambda: self.is_stale, self._source.inventory)

    def serve_metrics(self, host: str = "127.0.0.1", port: int = 0) -> MetricsServer:
        """Serve Istio's and the xDS client's metrics for Prometheus on ``host:port`` (0 = a free one)."""
        from prometheus_client import CollectorRegistry

        from meshlib.telemetry.prometheus import serve

        registry = CollectorRegistry()
        registry.register(self.collector)
        return serve(host, port, registry)

    def close(self) -> None:
        """Stop the configuration source; idempotent. Clients fail with ``MeshClosed`` from here on."""
        self._runtime.close()

    async def aclose(self) -> None:
        """Close, from async code."""
        self._runtime.close()

    def __enter__(self) -> Self:
        self._runtime.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        self._runtime.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"version {self.version}" if self.is_ready else "not ready"
        return f"<Mesh of {self.identity.workload}.{self.identity.namespace}, {state}>"

    def _observer(self, keywords: MeshKeywords) -> Observer:
        observers: list[Observer] = [RequestId()]
        if keywords.get("tracing", True):
            from meshlib.telemetry.tracing import Tracing

            observers.append(Tracing(self.identity))
        if self._metrics is not None:
            observers.append(self._metrics)
        access_log = keywords.get("access_log", False)
        if access_log:
            observers.append(AccessLog() if access_log is True else AccessLog(stream=access_log))
        return Telemetry(*observers, *keywords.get("observers", ()))


def _probe(cluster: Cluster, endpoint: Endpoint, check: HealthCheck, socket: TransportSocket | None) -> Probe:
    from meshlib.upstream.probing import probe_of  # what no check needs is not imported

    return probe_of(cluster, endpoint, check, socket)


def _gates(breaker: Callable[[str], BreakerCore | None]) -> Callable[[str], ClusterBreaker | None]:
    def gate(cluster: str) -> ClusterBreaker | None:
        core = breaker(cluster)
        return None if core is None else ClusterBreaker(core, system_clock)

    return gate


def _named(identity: Identity, workload: str, namespace: str, labels: Mapping[str, str] | None) -> Identity:
    """Return ``identity`` with what the caller gave in place of what the environment says."""
    from dataclasses import replace

    return replace(
        identity,
        workload=workload or identity.workload,
        namespace=namespace or identity.namespace,
        labels={**identity.labels, **(labels or {})},
    )


def _disabled() -> bool:
    if os.environ.get("MESHLIB_DISABLE") != "1":
        return False
    _log.warning(
        "MESHLIB_DISABLE=1: calls bypass the mesh: no routing, retries, policy or client mTLS; "
        "servers that demand mTLS will refuse"
    )
    return True


def _safety(word: str) -> RetrySafety:
    try:
        return RetrySafety(word)
    except ValueError:
        raise ValueError(f"retry_safety is 'envoy' or 'strict', not {word!r}") from None


def _share(share: float) -> float:
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"trace_decisions is a share of calls from 0 to 1, not {share!r}")
    return share
