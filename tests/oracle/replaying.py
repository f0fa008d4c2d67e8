"""Replays a case file: starts its upstreams, takes its steps, writes down what was observed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx

from oracle import cases
from oracle.clients import Answer, Client
from transports.scripted import OK, Behaviour, Seen, Server, Upstreams

Observation = dict[str, Any]
Step = Mapping[str, Any]

# What the corpus leaves out of recorded headers.
NOISE_SENT = frozenset(
    {
        *("x-case", "x-forwarded-proto", "x-request-id", "x-envoy-internal", "x-forwarded-for"),
        *("content-length", "transfer-encoding", "user-agent", "host", "connection"),
    }
)
# And where a case says ``record_all``.
NOISE_EVEN_OF_ALL = frozenset({"x-case", "host", "content-length", "transfer-encoding"})
NOISE_RECEIVED = frozenset(
    {"date", "server", "x-envoy-upstream-service-time", "content-length", "transfer-encoding", "connection"}
)
GIVE_UP = 15.0


class Scripts:
    """Which behaviour a request meets, by its ``x-case`` header. Used on the upstreams' loop only."""

    def __init__(self) -> None:
        self.by_step: dict[str, Any] = {}
        self.defaults: dict[str, Any] = {}
        self.log: dict[str, list[Seen]] = defaultdict(list)
        self._served: Counter[tuple[str, ...]] = Counter()

    def __call__(self, server: Server, seen: Seen) -> Behaviour:
        case = seen.header("x-case") or "?"
        self.log[case].append(seen)
        script = self.by_step.get(case.partition("#")[0])
        if isinstance(script, list):
            return self._next(script, case)  # counted over all upstreams
        if script is None:
            script = {server.name: self.defaults.get(server.name) or [{}]}
        lines = script.get(server.name) or script.get("*") or [{}]
        return self._next(lines if isinstance(lines, list) else [lines], case, server.name)

    def _next(self, lines: list[Any], *key: str) -> Behaviour:
        index = self._served[key]
        self._served[key] += 1
        return behaviour(lines[min(index, len(lines) - 1)])


def behaviour(line: Mapping[str, Any]) -> Behaviour:
    """Read one line of a script."""
    if not line:
        return OK
    fields: dict[str, Any] = {
        key: line[key]
        for key in (
            *("status", "hang", "abort", "early", "reset_on_body", "interim", "chunked", "conn_close"),
            *("rst", "rst_after_headers", "goaway", "last_stream", "trailers_only"),
        )
        if key in line
    }
    for key in ("delay", "body_delay"):
        fields[key] = line.get(f"{key}_ms", 0) / 1000
    for key in ("headers", "trailers"):
        fields[key] = [tuple(pair) for pair in line.get(key, [])]
    fields["garbage"] = line.get("garbage", "").encode("latin-1")
    body = line.get("body")
    fields["body"] = b"x" * body if isinstance(body, int) else None if body is None else body.encode("latin-1")
    return Behaviour(**fields)


class Replay:
    """One case file, replayed against one client."""

    def __init__(self, case: cases.Case, upstreams: Upstreams, *, blocking: bool, local_replies: str) -> None:
        self._case = case
        self._upstreams = upstreams
        self._scripts = Scripts()
        self._servers = {name: self._serve(name, spec) for name, spec in case.get("upstreams", {}).items()}
        config = cases.bootstrap(cases.rendered(case, self._address))
        self._client = Client(config, blocking=blocking, local_replies=local_replies)

    def _serve(self, name: str, spec: Mapping[str, Any]) -> Server:
        default = spec.get("default")
        self._scripts.defaults[name] = [default] if isinstance(default, dict) else default
        host, _, port = spec.get("address", "127.0.0.1:0").rpartition(":")
        mode = spec.get("mode", "normal")
        return self._upstreams.serve(
            name=name,
            script=self._scripts,
            mode=mode,
            address=host,
            port=int(port),
            http2=bool(spec.get("h2")),
        )

    def _address(self, name: str) -> tuple[str, int]:
        server = self._servers[name]
        return server.address, server.port

    async def run(self) -> list[Observation]:
        """Take every step; returns the observations in order."""
        self._client.start()
        try:
            taken = [(step, result) async for step, result in self._steps() if result is not None]
            await asyncio.sleep(self._case.get("settle_ms", 60) / 1000)
        finally:
            await self._client.close()
        return [self._observation(step, result) for step, result in taken]

    async def _steps(self) -> AsyncIterator[tuple[Step, list[Answer] | Answer | None]]:
        for step in self._case["requests"]:
            kind = step.get("type", "request")
            if kind == "sleep":
                await asyncio.sleep(step["ms"] / 1000)
            elif kind == "upstream":
                await asyncio.to_thread(self._upstreams.turn, self._servers[step["upstream"]], step["mode"])
            elif kind == "eds":
                self._client.update_endpoints(step["cluster"], cases.rendered(step["load_assignment"], self._address))
                await asyncio.sleep(0.02)
            elif kind in ("request", "burst", "sample", "map"):
                if "script" in step:
                    self._scripts.by_step[step["id"]] = step["script"]
                yield step, await getattr(self, f"_{kind}")(step)
                await asyncio.sleep(step.get("settle_ms", 0) / 1000)

    async def _request(self, step: Step) -> Answer:
        return await self._one(step, step["id"])

    async def _burst(self, step: Step) -> list[Answer]:
        async def after(delay: float, case: str) -> Answer:
            await asyncio.sleep(delay)
            return await self._one(step, case)

        pause = step.get("stagger_ms", 0) / 1000
        return await asyncio.gather(*[after(pause * i, f"{step['id']}#{i}") for i in range(step["count"])])

    async def _sample(self, step: Step) -> list[Answer]:
        gate = asyncio.Semaphore(step.get("concurrency", 1))

        async def gated(i: int) -> Answer:
            async with gate:
                if i:
                    await asyncio.sleep(step.get("gap_ms", 0) / 1000)
                return await self._one(step, f"{step['id']}#{i}")

        return await asyncio.gather(*[gated(i) for i in range(step["count"])])

    async def _map(self, step: Step) -> list[Answer]:
        answers = []
        for i, value in enumerate(step["values"]):
            asked = dict(step)
            if "header" in step:
                added = [step["header"], step.get("format", "{}").format(value)]
                asked["headers"] = [*step.get("headers", []), added]
            if "query" in step:
                asked["path"] = f"{step.get('path', '/')}?{step['query']}={value}"
            answers.append(await self._one(asked, f"{step['id']}#{i}"))
        return answers

    async def _one(self, step: Step, case: str) -> Answer:
        began = time.monotonic()
        abort = step.get("client_abort_ms")
        patience = None if abort is None else abort / 1000
        try:
            request = self._client.request(_request(step, case), patience)
            answer = await asyncio.wait_for(request, step.get("give_up_ms", GIVE_UP * 1000) / 1000)
        except (httpx.LocalProtocolError, UnicodeEncodeError) as error:
            answer = {"unsendable": f"httpx cannot be made to send this: {error}"}
        except TimeoutError:
            answer = {"client_aborted": True} if abort is not None else {"no_response": True}
        answer["elapsed_ms"] = round(1000 * (time.monotonic() - began))
        answer["case"] = case
        return answer

    def _observation(self, step: Step, result: list[Answer] | Answer) -> Observation:
        if isinstance(result, dict):
            return {"id": step["id"], **self._finished(result)}
        finished = [self._finished(answer) for answer in result]
        if step["type"] == "map":
            values = zip(step["values"], finished, strict=True)
            return {"id": step["id"], "map": {str(value): _mapped(answer) for value, answer in values}}
        return {"id": step["id"], **_counted(finished, sequence=bool(step.get("sequence")))}

    def _finished(self, answer: Answer) -> Answer:
        """Add what the upstreams saw."""
        case = answer.pop("case")
        told = self._client.told(case)
        if "client_aborted" in answer:
            told.pop("status", None)
        answer.update({key: value for key, value in told.items() if key not in answer})
        seen = self._scripts.log.get(case, [])
        mirrors = self._case.get("mirror_upstreams", [])
        noise = NOISE_EVEN_OF_ALL if self._case.get("record_all") else NOISE_SENT
        log = [_attempt(s, noise, first=n == 0) for n, s in enumerate(s for s in seen if s.server not in mirrors)]
        if "headers" in answer:
            dropped = {"date"} if self._case.get("record_response_noise") else NOISE_RECEIVED
            kept = [(key, value) for key, value in answer["headers"] if key not in dropped]
            answer["headers"] = [(k, v if len(v) < 2000 else f"<{len(v)} chars>") for k, v in kept]
        if len(answer.get("body", "")) > 400:
            answer["body"] = f"<{len(answer['body'])} bytes>"
        served = log and any(key == "x-upstream" for key, _ in answer.get("headers", []))
        answer["upstream_host"] = log[-1]["upstream"] if served else None
        answer["attempts"], answer["attempt_log"] = len(log), log
        answer["mirrors"] = [_attempt(s, noise, first=True) for s in seen if s.server in mirrors]
        if self._case.get("loose_upstream"):
            _loosen(answer, set(self._servers))
        return answer


def _request(step: Step, case: str) -> httpx.Request:
    """Make the request of a step, sent exactly as written: a proxy adds no header of httpx's own."""
    authority, path = step.get("authority"), step.get("path", "/")
    with contextlib.suppress(httpx.InvalidURL):
        url = httpx.URL(f"http://{authority}/")
    if not authority or url.netloc.decode("ascii") != authority:
        url = httpx.URL("http://svc.test/")
    charset = "utf-8" if step.get("utf8") else "latin-1"
    target = path.encode(charset)
    given: dict[str, Any] = {}
    try:
        url = url.copy_with(raw_path=target)
    except (httpx.InvalidURL, UnicodeDecodeError):
        url = url.copy_with(raw_path=b"/")
    if url.raw_path != target:  # what httpx would normalise goes out as it stands by its extension
        given["extensions"] = {"target": target}
    headers = [(k.encode(charset), v.encode(charset)) for k, v in step.get("headers", [])]
    if authority is not None:
        headers.append((b"Host", authority.encode(charset)))
    body = step.get("body")
    content: Any = b"b" * body if isinstance(body, int) else None if body is None else body.encode("latin-1")
    if content is not None and (step.get("chunked") or step.get("body_delay_ms")):
        given["stream"] = _Upload(content, step.get("body_delay_ms", 0) / 1000)
        framing = (b"transfer-encoding", b"chunked"), (b"content-length", str(len(content)).encode())
        headers.append(framing[0] if step.get("chunked") else framing[1])
    else:
        given["content"] = content
    headers.append((b"x-case", case.encode()))
    return httpx.Request(step.get("method", "GET"), url, headers=headers, **given)


class _Upload(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes later, or in chunks."""

    def __init__(self, body: bytes, delay: float) -> None:
        self._body = body
        self._delay = delay

    def __iter__(self):
        time.sleep(self._delay)
        yield self._body

    async def __aiter__(self):
        await asyncio.sleep(self._delay)
        yield self._body


def _attempt(seen: Seen, noise: frozenset[str], *, first: bool) -> Observation:
    headers = [pair for pair in seen.headers if pair[0] not in noise]
    if not first:  # the time left is recorded of first attempts only
        headers = [pair for pair in headers if pair[0] != "x-envoy-expected-rq-timeout-ms"]
    return {
        "upstream": seen.server,
        "method": seen.method,
        "path": seen.target,
        "host": seen.header("host") or "",
        "headers": headers,
        "body_len": len(seen.body),
        "trailers": [list(pair) for pair in seen.trailers],
    }


def _loosen(answer: Answer, servers: set[str]) -> None:
    """Where the choice of host is random, only its pattern counts: ABA = first and third on one host."""
    letters: dict[str, str] = {}
    hosts = [entry.pop("upstream") for entry in answer["attempt_log"]]
    answer["host_pattern"] = "".join(letters.setdefault(host, chr(65 + len(letters))) for host in hosts)
    answer.pop("upstream_host")
    if "headers" in answer:
        answer["headers"] = [pair for pair in answer["headers"] if pair[0] != "x-upstream"]
    if answer.get("body") in servers:
        answer.pop("body")


def _outcome(answer: Answer) -> str:
    return f"{answer.get('status', 'closed')} {answer.get('flags', '?')}"


def _mapped(answer: Answer) -> str | None:
    return answer["upstream_host"] if answer.get("status") == 200 else _outcome(answer)


def _counted(answers: list[Answer], *, sequence: bool) -> Observation:
    counted: Observation = {
        "outcomes": Counter(_outcome(a) for a in answers),
        "by_upstream": Counter(str(a["upstream_host"]) for a in answers),
        "by_cluster": Counter(str(a.get("cluster")) for a in answers),
        "by_attempt_upstream": Counter(entry["upstream"] for a in answers for entry in a["attempt_log"]),
        "upstream_requests": sum(a["attempts"] for a in answers),
        "attempts_hist": Counter(str(a["attempts"]) for a in answers),
        "bodies": Counter(a["body"][:120] for a in answers if a.get("status", 0) >= 400 and "body" in a),
    }
    counted["elapsed_max_ms"] = max(a["elapsed_ms"] for a in answers)
    if sequence:
        counted["sequence"] = [a["upstream_host"] for a in answers]
    return counted
