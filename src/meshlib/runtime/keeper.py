"""Keeps one cluster up while calls use it: drives the machines of ``policy.names`` and ``policy.health``."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Protocol

from meshlib.lookups import Answer
from meshlib.model.cluster import Cluster, TransportSocket
from meshlib.model.discovery import Discovery
from meshlib.model.endpoint import Endpoint, HealthStatus
from meshlib.model.health_check import HealthCheck
from meshlib.policy.cluster_state import ClusterState, EndpointState
from meshlib.policy.effects import WakeUp
from meshlib.policy.health import Failure, HostHealth, Result, Transition, interval
from meshlib.policy.names import Lookup, Names, names_of

if TYPE_CHECKING:
    from meshlib.runtime.upkeep import Housekeeping

LOOKUP_TIMEOUT = 10.0  # seconds after which a look-up has failed, though its thread may still be at it
_MANY = 100  # endpoints from which on results that come within _TOGETHER seconds are put into force together
_TOGETHER = 0.02
RESTING = 300.0  # seconds without a call after which nothing is looked up or checked any more

_log = logging.getLogger("meshlib.health")
_dns_log = logging.getLogger("meshlib.dns")


class Probe(Protocol):
    """Checks one endpoint, one check at a time, in the upkeep's loop."""

    async def check(self) -> Result:
        """Check it; bounded by the caller, who cancels it."""
        ...

    def close(self) -> None:
        """Close its connection."""
        ...


class Prober(Protocol):
    """Makes the probe of an endpoint."""

    def __call__(
        self, cluster: Cluster, endpoint: Endpoint, check: HealthCheck, socket: TransportSocket | None, /
    ) -> Probe:
        """Return what makes ``check`` of ``endpoint``; ``socket`` is the transport socket in force."""
        ...


class Warmth:
    """What calls wait for: the first answer of every name, the first check of every endpoint. Thread-safe."""

    __slots__ = ("_done", "_lock", "_wakes")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done = False
        self._wakes: list[WakeUp] = []

    def on_grant(self, wake: WakeUp) -> None:
        """Call ``wake()`` once it is warm, at once if it already is."""
        with self._lock:
            if not self._done:
                self._wakes.append(wake)
                return
        wake()

    def grant(self) -> None:
        """Wake whoever waits."""
        with self._lock:
            self._done = True
            wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()


class Keeper:
    """The upkeep of one cluster. Methods of :class:`~meshlib.policy.upkeep.Upkeep` from any thread, others in the loop.

    It works from the first call until there has been none for ``RESTING`` seconds; the next call
    begins anew, and waits as the first one did.
    """

    def __init__(self, cluster: ClusterState, housekeeping: Housekeeping) -> None:
        self._cluster = cluster
        self._house = housekeeping
        self._lock = threading.Lock()  # guards _warmth and _working
        self._warmth: Warmth | None = None
        self._working = False
        self._used_at = 0.0
        self._gone = False
        self._names = Names()
        self._timer: asyncio.TimerHandle | None = None
        self._changed: asyncio.TimerHandle | None = None  # when changes of health are put into force
        self._hosts: dict[EndpointState, _Host] = {}
        self._config: Cluster | None = None  # what was last put to work

    # From any thread.

    def called(self, now: float) -> Warmth | None:
        """See :class:`~meshlib.policy.upkeep.Upkeep`."""
        self._used_at = now
        if self._working and self._warmth is None:
            return None
        with self._lock:
            if not self._working:
                self._working = True
                self._warmth = Warmth()
                self._house.run(self._start)
            warmth = self._warmth
        return warmth if self._cluster.config.dns.wait_for_warm else None

    def configured(self) -> None:
        """See :class:`~meshlib.policy.upkeep.Upkeep`."""
        if self._working:
            self._house.run(self._sync)

    def refused(self, state: EndpointState) -> None:
        """See :class:`~meshlib.policy.upkeep.Upkeep`."""
        if self._working:
            self._house.run(lambda: self._refused(state))

    def close(self) -> None:
        """See :class:`~meshlib.policy.upkeep.Upkeep`."""
        self._gone = True
        if self._working:
            self._house.run(self.rest)

    @property
    def trouble(self) -> str:
        """See :class:`~meshlib.policy.upkeep.Upkeep`."""
        if not self._names.lookups and names_of(self._cluster.config):
            return "looked up by the first call"
        return self._names.trouble

    # In the loop.

    def _start(self) -> None:
        if self._gone:
            self.rest()
            return
        self._house.active.add(self)
        self._names.restart(self._house.clock())
        self._sync()

    def rest(self) -> None:
        """Stop; addresses and health stay as they are."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._changed is not None:
            self._changed.cancel()
            self._refresh()
        for host in self._hosts.values():
            host.stop()
        self._hosts = {}
        self._house.active.discard(self)
        with self._lock:
            self._working = False
            warmth, self._warmth = self._warmth, None
        if warmth is not None:
            warmth.grant()

    def _sync(self) -> None:
        """Do what the configuration and the endpoints of now ask for."""
        if self not in self._house.active:
            return
        cluster, config = self._cluster, self._cluster.config
        self._names.configure(names_of(config), self._house.clock())
        if self._config is not None and self._config.discovery is not config.discovery:
            self._publish()
        if self._config is None or self._config.health_checks != config.health_checks:
            for host in self._hosts.values():
                host.stop()
            self._hosts = {}
        self._config = config
        self._look_up()
        if self not in self._house.active:
            return  # it rests from now on
        with cluster.limits.lock:
            states = [state for state in cluster.endpoints.values() if cluster.checks(state)]
        for state in [state for state in self._hosts if state not in states]:
            self._hosts.pop(state).stop()
        for state in states:
            known = self._hosts.get(state)
            if known is not None and known.endpoint == state.endpoint:
                continue
            if known is not None:
                known.stop()
            self._hosts[state] = _Host(state, config.health_checks[0], self)
        self._warmed()

    def _look_up(self) -> None:
        now = self._house.clock()
        if now - self._used_at >= self._patience():
            self.rest()
            self._house.settle()
            return
        for name in self._names.take_due(now):
            self._ask(name)
        if self._timer is not None:
            self._timer.cancel()
        due = min(self._names.next_due or now + RESTING, self._used_at + self._patience())
        self._timer = asyncio.get_running_loop().call_later(max(due - now, 0.001), self._look_up)

    def _patience(self) -> float:
        return max([RESTING, *(2 * check.no_traffic_interval for check in self._cluster.config.health_checks)])

    def _ask(self, name: str) -> None:
        loop, lookup = asyncio.get_running_loop(), self._names.lookups[name]
        done = False

        def told(answer: Answer) -> None:
            nonlocal done
            if done or self._names.lookups.get(name) is not lookup:
                return
            done = True
            timeout.cancel()
            self._told(name, answer)

        def from_thread(answer: Answer) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(told, answer)

        late = Answer(error=f"the resolver did not answer within {LOOKUP_TIMEOUT:g}s")
        timeout = loop.call_later(LOOKUP_TIMEOUT, told, late)
        dns = self._cluster.config.dns
        self._house.lookups.ask(name, dns.family, from_thread, ttl=dns.respect_ttl)

    def _told(self, name: str, answer: Answer) -> None:
        if self not in self._house.active:
            return
        lookup, dns, now = self._names.lookups[name], self._cluster.config.dns, self._house.clock()
        if answer.error:
            lookup.failed(dns, answer.error, now, self._house.chance)
            _dns_log.warning("cluster=%s name=%s look-up failed: %s", self._cluster.config.name, name, answer.error)
        elif lookup.answered(dns, self._addresses(lookup, answer), answer.ttl, now, self._house.chance):
            _dns_log.info("cluster=%s name=%s addresses=%s", self._cluster.config.name, name, answer.addresses)
            self._publish()
        self._sync()

    def _addresses(self, lookup: Lookup, answer: Answer) -> tuple[str, ...]:
        """Return what an answer comes to: as in Envoy, that there is no address leaves LOGICAL_DNS as it is."""
        logical = self._cluster.config.discovery is Discovery.LOGICAL_DNS
        return answer.addresses or (lookup.addresses if logical else ())

    def _publish(self) -> None:
        self._cluster.resolve(self._names.answers)
        self._house.refresh()

    def _refused(self, state: EndpointState) -> None:
        host = self._hosts.get(state)
        if host is not None:
            host.refuse()

    def _warmed(self) -> None:
        """Let calls go once every name is settled and every endpoint was checked."""
        if (
            self._warmth is None
            or self._changed is not None
            or not self._names.settled
            or not all(host.checked for host in self._hosts.values())
        ):
            return
        with self._lock:
            warmth, self._warmth = self._warmth, None
        if warmth is not None:
            warmth.grant()

    # For its hosts.

    @property
    def house(self) -> Housekeeping:
        """Whose loop it is."""
        return self._house

    @property
    def cluster(self) -> ClusterState:
        """Whose endpoints are checked."""
        return self._cluster

    @property
    def traffic(self) -> bool:
        """Whether calls come, so that ``interval`` counts and not ``no_traffic_interval``."""
        check = self._cluster.config.health_checks[0]
        return self._house.clock() - self._used_at < check.no_traffic_interval

    def took(self, state: EndpointState, health: HostHealth, *, success: bool) -> None:
        """Put the health of an endpoint into force."""
        if self._cluster.probed(state, health.status, excluded=health.excluded, success=success):
            if self._changed is None:
                pause = _TOGETHER if len(self._hosts) > _MANY else 0.0
                self._changed = asyncio.get_running_loop().call_later(pause, self._refresh)
        elif self._changed is None:
            self._warmed()
        if self._cluster.endpoints.get(state.endpoint.key) is not state:
            self._sync()

    def _refresh(self) -> None:
        """Balance by the health of now: once for all results that come together, since it looks at every endpoint."""
        self._changed = None
        self._cluster.refresh()
        self._house.refresh()
        self._warmed()


class _Host:
    """The checks of one endpoint."""

    def __init__(self, state: EndpointState, check: HealthCheck, keeper: Keeper) -> None:
        self._state = state
        self.endpoint = state.endpoint
        self._check = check
        self._keeper = keeper
        probed = state.probe
        failed = probed in (HealthStatus.UNKNOWN, HealthStatus.UNHEALTHY)
        self._health = HostHealth(failed=failed, degraded=probed is HealthStatus.DEGRADED)
        config = keeper.cluster.config
        socket = keeper.cluster.transport_socket(self.endpoint, check.socket_criteria)
        self._probe = keeper.house.prober(config, self.endpoint, check, socket)
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def checked(self) -> bool:
        """Whether there was a result."""
        return self._health.checked

    def stop(self) -> None:
        """Check no more."""
        self._task.cancel()
        self._probe.close()

    def refuse(self) -> None:
        """Take that the endpoint told a call that it is unhealthy."""
        transition = self._health.refuse(self._check)
        self._tell(transition, Result(Failure.ANSWERED, "told a call that it is unhealthy"), first=False)
        self._keeper.took(self._state, self._health, success=False)

    async def _run(self) -> None:
        chance, check = self._keeper.house.chance, self._check
        await asyncio.sleep(chance.random() * check.initial_jitter)
        while True:
            result = await self._once()
            first = not self._health.checked
            transition = self._health.take(check, result)
            self._tell(transition, result, first=first)
            success = result.failure is None
            self._keeper.took(self._state, self._health, success=success)
            wait = interval(
                check, failure=not success, transition=transition, traffic=self._keeper.traffic, chance=chance
            )
            await asyncio.sleep(wait)

    async def _once(self) -> Result:
        try:
            async with asyncio.timeout(self._check.timeout):
                return await self._probe.check()
        except TimeoutError:
            self._probe.close()
            return Result(Failure.TIMEOUT, f"no answer within {self._check.timeout:g}s")
        except OSError as error:
            self._probe.close()
            return Result(Failure.NETWORK, str(error) or type(error).__name__)
        except Exception as error:  # noqa: BLE001  a prober's own fault costs a check, not the checks
            self._probe.close()
            _log.exception("cluster=%s endpoint=%s the check itself failed", self._name, self.endpoint)
            return Result(Failure.NETWORK, f"{type(error).__name__}: {error}")

    @property
    def _name(self) -> str:
        return self._keeper.cluster.config.name

    def _tell(self, transition: Transition, result: Result, *, first: bool) -> None:
        """Log what Envoy's event log tells: changes, the first failure, and what ``always_log…`` asks for."""
        check, health = self._check, self._health
        if result.failure is not None:
            if (transition is Transition.CHANGED and not first) or first or check.log_failures:
                why = f"{result.failure.value}: {result.message}" if result.message else result.failure.value
                _log.warning("cluster=%s endpoint=%s health=%s %s", self._name, self.endpoint, health.status.name, why)
        elif transition is Transition.CHANGED or check.log_successes:
            _log.info("cluster=%s endpoint=%s health=%s", self._name, self.endpoint, health.status.name)
