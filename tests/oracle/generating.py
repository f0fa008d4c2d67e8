"""Random route configurations, and requests that they have something to say about.

Every choice is of a small pool, so that what a configuration asks for and what a request has often meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")
Json = dict[str, Any]

CLUSTERS = ("c0", "c1", "c2", "c3")
RINGS = ("ring", "maglev")
_DOMAINS = (
    *("a.test", "b.a.test", "A.Test", "a.test:8080", "*.a.test", "*.test", "*-x.test", "*.a.test:8080", "*.A.test"),
    *("a.*", "b.a.*", "a.t*", "*", "*:8080", "[::1]", "[::1]:8080", "a.test.", "*t", "a*"),
)
_HOSTS = (
    *("a.test", "A.TEST", "a.test:8080", "b.a.test", "c.b.a.test", "b.a.test:8080", "x-x.test", "-x.test", "a.other"),
    *("a.", "b.a.org", "zz", "zz:8080", "[::1]", "[::1]:8080", "a.test.", "a.test.:8080", ".a.test", "a.test:80", "t"),
)
_PATHS = (
    *("/", "/a", "/A", "/a/", "/ab", "/a/b", "/a/b/c", "/a/b/", "/api/v1/users/42", "/api/v2/users/7/x", "/abc"),
    *("//a//b", "/a%20b", "/a%2Fb", "/%61", "/a;v=1", "/a.b", "/A/B", "/api", "/api/", "/a/b.css", "/a/../b", "/z"),
)
_QUERIES = (
    "",
    "",
    "",
    "?",
    "?x=1",
    "?x=",
    "?x",
    "?x=2&x=1",
    "?y=abc&x=1",
    "?X=1",
    "?x=%31",
    "?x=1#",
    "?k=a+b",
    "?k=a%20b",
)
_PREFIXES = ("/", "/a", "/a/", "/A", "/a/b", "/api", "/api/v1", "/ab", "", "/%61", "//")
_REGEXES = (
    *("/a.*", "/[ab]+", "/api/v\\d+/users/\\d+", ".*", "/(a|A)/b", "/a/?", "(?i)/A", "/.*\\.css", "", "[^?]*", "/a\\z"),
)
_NAMES = ("x-a", "x-b", "X-A", "x-c", "x-missing", "content-type", "user-agent", "cookie", "accept")
_JOINED = ("content-type", "user-agent", "accept", "cookie")
_VALUES = (
    "1",
    "2",
    "10",
    "-5",
    "abc",
    "ABC",
    "abcdef",
    "",
    "a,b",
    "a, b",
    "x y",
    "0x10",
    "+7",
    "1.5",
    "007",
    "application/grpc",
)
_TEMPLATES = ("/{x}", "/{x}/{y}", "/api/{v}/users/{id}", "/**", "/a/*", "/{rest=**}", "/{x}/**", "/a/{y=*}", "/*/b")


def one(chance: Random, pool: Sequence[T]) -> T:
    return pool[chance.randrange(len(pool))]


def some(chance: Random, most: int, make: Callable[[], T]) -> list[T]:
    """Return up to ``most`` of what ``make`` makes, mostly few."""
    return [make() for _ in range(min(chance.randrange(most + 1), chance.randrange(most + 1)))]


class Generator:
    """Makes one configuration and its requests from a seed."""

    def __init__(self, seed: int, port: int) -> None:
        self._chance = Random(seed)
        self._port = port

    def maybe(self, share: float) -> bool:
        return self._chance.random() < share

    def one(self, pool: Sequence[T]) -> T:
        return one(self._chance, pool)

    def configuration(self) -> Json:
        """Return ``route_config``, ``http_filters``, ``hcm`` and ``router``."""
        return {
            "route_config": self.table(),
            "http_filters": self.filters(),
            "hcm": self.manager(),
            "router": {"suppress_envoy_headers": True} if self.maybe(0.1) else {},
        }

    def manager(self) -> Json:
        found: Json = {}
        if self.maybe(0.15):
            found["normalize_path"] = self.maybe(0.7)
        if self.maybe(0.1):
            found["merge_slashes"] = True
        if self.maybe(0.1):
            actions = ("KEEP_UNCHANGED", "REJECT_REQUEST", "UNESCAPE_AND_REDIRECT", "UNESCAPE_AND_FORWARD")
            found["path_with_escaped_slashes_action"] = self.one(actions)
        if self.maybe(0.1):
            found["strip_any_host_port"] = True
        if self.maybe(0.05):
            found["strip_trailing_host_dot"] = True
        return found

    def filters(self) -> list[Json]:
        if not self.maybe(0.15):
            return []
        config: Json = {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            "mutations": self.filter_mutations(),
        }
        if self.maybe(0.3):
            config["most_specific_header_mutations_wins"] = True
        return [{"name": "envoy.filters.http.header_mutation", "typed_config": config}]

    def filter_mutations(self) -> Json:
        def mutation() -> Json:
            return {"remove": self.one(_NAMES).lower()} if self.maybe(0.3) else {"append": self.addition()}

        found = {}
        for direction in ("request_mutations", "response_mutations"):
            if made := some(self._chance, 3, mutation):
                found[direction] = made
        return found

    def per_filter(self) -> Json:
        if not self.maybe(0.1):
            return {}
        config = {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
            "mutations": self.filter_mutations(),
        }
        return {"typed_per_filter_config": {"envoy.filters.http.header_mutation": config}}

    def table(self) -> Json:
        free = list(_DOMAINS)
        self._chance.shuffle(free)
        taken: set[str] = set()
        hosts = []
        for n in range(self._chance.randrange(1, 5)):
            domains = [free.pop() for _ in range(self._chance.randrange(1, 4)) if free]
            domains = [d for d in {d.lower(): d for d in domains}.values() if d.lower() not in taken]
            taken.update(map(str.lower, domains))
            if domains:
                hosts.append(self.virtual_host(f"v{n}", domains))
        if "*" not in taken and self.maybe(0.6):
            hosts.append(self.virtual_host("any", ["*"]))
        found: Json = {"name": "table", "virtual_hosts": hosts, "validate_clusters": False, **self.headers()}
        for field, share in (
            ("ignore_port_in_host_matching", 0.15),
            ("most_specific_header_mutations_wins", 0.15),
            ("ignore_path_parameters_in_path_matching", 0.1),
        ):
            if self.maybe(share):
                found[field] = True
        if self.maybe(0.05):
            found["vhost_header"] = "x-vh"
        return found | self.per_filter()

    def virtual_host(self, name: str, domains: list[str]) -> Json:
        found: Json = {"name": name, "domains": domains, **self.headers(), **self.per_filter()}
        found["routes"] = [self.route(f"{name}r{n}") for n in range(self._chance.randrange(1, 6))]
        if self.maybe(0.15):
            names = {"name": "vc", "headers": [self.header_matcher()]}
            found["virtual_clusters"] = [names, {"name": "vd", "headers": [{"name": ":method", "exact_match": "GET"}]}]
        if self.maybe(0.05):
            found["require_tls"] = "ALL"
        if self.maybe(0.1):
            found["include_request_attempt_count"] = True
        if self.maybe(0.05):
            found["include_attempt_count_in_response"] = True
        return found

    def route(self, name: str) -> Json:
        found: Json = {"name": name, "match": self.match(), **self.headers(), **self.per_filter()}
        kind = self._chance.random()
        if kind < 0.7:
            found["route"] = self.action()
        elif kind < 0.87:
            found["redirect"] = self.redirect()
        else:
            found["direct_response"] = self.direct_response()
        return found

    def match(self) -> Json:
        kind = self.one(("prefix", "prefix", "path", "safe_regex", "path_separated_prefix"))
        found: Json = {}
        if kind == "prefix":
            found["prefix"] = self.one(_PREFIXES)
        elif kind == "path":
            found["path"] = self.one(_PATHS)
        elif kind == "safe_regex":
            found["safe_regex"] = {"regex": self.one(_REGEXES)}
        elif kind == "path_separated_prefix":
            found["path_separated_prefix"] = self.one(("/a", "/a/b", "/api", "/A"))
        else:
            found["path_match_policy"] = {
                "name": "envoy.path.match.uri_template.uri_template_matcher",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
                    "path_template": self.one(_TEMPLATES),
                },
            }
        if self.maybe(0.15):
            found["case_sensitive"] = False
        if headers := some(self._chance, 3, self.header_matcher):
            found["headers"] = headers
        if queries := some(self._chance, 2, self.query_matcher):
            found["query_parameters"] = queries
        if self.maybe(0.04):
            found["grpc"] = {}
        if self.maybe(0.05):
            numerator = self.one((0, 100))
            found["runtime_fraction"] = {"default_value": {"numerator": numerator, "denominator": "HUNDRED"}}
        return found

    def string_matcher(self) -> Json:
        kind = self.one(("exact", "prefix", "suffix", "contains", "safe_regex"))
        if kind == "safe_regex":
            return {"safe_regex": {"regex": self.one(("\\d+", "a.*", "[A-Z]+", ".*", "", "(?i)abc", "a,b"))}}
        value = self.one([value for value in _VALUES if value or kind == "exact"])
        found: Json = {kind: value}
        if self.maybe(0.25):
            found["ignore_case"] = True
        return found

    def header_matcher(self) -> Json:
        pseudo = (":method", ":path", ":authority", ":scheme", "host")
        found: Json = {"name": self.one(pseudo) if self.maybe(0.15) else self.one(_NAMES)}
        kind = self.one(("string", "string", "present", "range", "nothing"))
        if kind == "string":
            value = self.string_matcher()
            found["string_match"] = value
        elif kind == "present":
            found["present_match"] = self.maybe(0.7)
        elif kind == "range":
            found["range_match"] = {"start": self.one((-10, 0, 1, 5)), "end": self.one((2, 8, 11))}
        if self.maybe(0.25):
            found["invert_match"] = True
        if self.maybe(0.2):
            found["treat_missing_header_as_empty"] = True
        return found

    def query_matcher(self) -> Json:
        found: Json = {"name": self.one(("x", "y", "X", "k"))}
        kind = self.one(("string", "string", "present", "nothing"))
        if kind == "string":
            found["string_match"] = self.one(({"exact": "1"}, {"prefix": "a"}, {"safe_regex": {"regex": "\\d*"}}))
        elif kind == "present":
            found["present_match"] = self.maybe(0.7)
        return found

    def addition(self) -> Json:
        values = (
            *("v", "w", "", "%REQ(x-a)%", "%REQ(:PATH)%", "a%REQ(x-missing?x-b)%b", "%ROUTE_NAME%", "50%%"),
            *("%REQ(:AUTHORITY)%", "%REQ(x-a):2%", "%REQ(x-missing)%", "%PROTOCOL%", "%UPSTREAM_CLUSTER%"),
            *("%RESPONSE_CODE%", "%RESP(x-up)%", "%REQ(:METHOD)%", "%VIRTUAL_CLUSTER_NAME%", "%RESPONSE_FLAGS%"),
        )
        found: Json = {
            "header": {"key": self.one(("x-a", "x-b", "X-New", "x-up", "x-multi")), "value": self.one(values)}
        }
        if self.maybe(0.6):
            actions = ("APPEND_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS_OR_ADD", "OVERWRITE_IF_EXISTS")
            found["append_action"] = self.one(actions)
        if self.maybe(0.2):
            found["keep_empty_value"] = True
        return found

    def headers(self) -> Json:
        found: Json = {}
        if not self.maybe(0.3):
            return found
        for direction in ("request", "response"):
            if added := some(self._chance, 3, self.addition):
                found[f"{direction}_headers_to_add"] = added
            if self.maybe(0.2):
                names = ("x-a", "x-b", "x-up") if direction == "request" else ("x-up", "x-multi", "x-a")
                found[f"{direction}_headers_to_remove"] = [self.one(names)]
        return found

    def regex_rewrite(self) -> Json:
        pattern, substitution = self.one(
            (
                *(("/a", "/r"), ("^/(\\w+)", "/\\1-\\1"), ("[a-z]", "q"), ("(b)(c)?", "<\\2\\1>"), ("^.*$", "/all")),
                *(("/api/(v\\d)/(.*)", "/\\2/\\1"), ("nomatch", "x"), ("/", ""), ("$", "/end"), ("a|b", "\\0\\0")),
            )
        )
        return {"pattern": {"regex": pattern}, "substitution": substitution}

    def action(self) -> Json:
        found = self.target()
        rewrite = self._chance.random()
        if rewrite < 0.15:
            found["prefix_rewrite"] = self.one(("/n", "/", "/n/", "/a"))
        elif rewrite < 0.27:
            found["regex_rewrite"] = self.regex_rewrite()
        elif rewrite < 0.35:
            found["path_rewrite"] = self.one(("/p%REQ(x-a)%", "%REQ(:path)%", "/x%REQ(x-missing)%", "%REQ(x-b)%"))
        host = self._chance.random()
        if host < 0.08:
            found["host_rewrite_literal"] = self.one(("h.test", "h.test:1"))
        elif host < 0.14:
            found["host_rewrite_header"] = self.one(("x-a", "X-B", "x-missing"))
        elif host < 0.2:
            rewrite_host = {"pattern": {"regex": "^/(\\w+)/?.*$"}, "substitution": "\\1.path"}
            found["host_rewrite_path_regex"] = rewrite_host
        elif host < 0.26:
            found["auto_host_rewrite"] = True
        elif host < 0.3:
            found["host_rewrite"] = self.one(("h2.test", "%REQ(x-a)%.x", "%REQ(x-missing)%", "%REQ(:AUTHORITY)%x"))
        if self.maybe(0.1):
            found["append_x_forwarded_host"] = True
        if self.maybe(0.1):
            found["timeout"] = self.one(("0s", "3s", "7.5s"))
        if self.maybe(0.1):
            found["priority"] = "HIGH"
        if self.maybe(0.05):
            found["retry_policy"] = {"retry_on": "5xx", "num_retries": 2, "per_try_timeout": "2s"}
        return found

    def target(self) -> Json:
        kind = self._chance.random()
        if kind < 0.5:
            found: Json = {"cluster": self.one(CLUSTERS)}
        elif kind < 0.58:
            found = {"cluster": "nowhere"}
            if self.maybe(0.6):
                found["cluster_not_found_response_code"] = self.one(
                    ("SERVICE_UNAVAILABLE", "NOT_FOUND", "INTERNAL_SERVER_ERROR")
                )
        elif kind < 0.66:
            found = {"cluster_header": self.one(("x-cluster", "X-Cluster", "x-missing"))}
        elif kind < 0.82:
            found = {"weighted_clusters": self.weighted()}
        else:
            found = {"cluster": self.one(RINGS), "hash_policy": some(self._chance, 3, self.hash_policy)}
            found["hash_policy"].append({"header": {"header_name": "x-key"}})
        return found

    def weighted(self) -> Json:
        def target(name: str, weight: int) -> Json:
            found: Json = {"name": name, "weight": weight, **self.headers(), **self.per_filter()}
            if self.maybe(0.15):
                found["host_rewrite_literal"] = "w.test"
            return found

        names = list(CLUSTERS)
        self._chance.shuffle(names)
        if self.maybe(0.4):
            weights = [0, 0, 0]
            weights[self._chance.randrange(3)] = self.one((1, 100))
            return {"clusters": [target(*pair) for pair in zip(names, weights, strict=False)]}
        found: Json = {"clusters": [target(name, self.one((1, 5, 20))) for name in names[:3]]}
        found["header_name"] = "x-number"
        return found

    def hash_policy(self) -> Json:
        found: Json = self.one(
            (
                {"header": {"header_name": "x-key"}},
                {"header": {"header_name": "x-a"}},
                {"header": {"header_name": "x-a", "regex_rewrite": self.regex_rewrite()}},
                {"header": {"header_name": ":path"}},
                {"cookie": {"name": "sess"}},
                {"query_parameter": {"name": "x"}},
            )
        )
        return found | ({"terminal": True} if self.maybe(0.3) else {})

    def redirect(self) -> Json:
        found: Json = {}
        scheme = self._chance.random()
        if scheme < 0.2:
            found["https_redirect"] = True
        elif scheme < 0.35:
            found["scheme_redirect"] = self.one(("http", "https", "HTTPS", "ws"))
        if self.maybe(0.3):
            found["host_redirect"] = self.one(("r.test", "r.test:9", "[::2]"))
        if self.maybe(0.3):
            found["port_redirect"] = self.one((80, 443, 8080))
        path = self._chance.random()
        if path < 0.2:
            found["path_redirect"] = self.one(("/np", "/np?q=1", "/"))
        elif path < 0.4:
            found["prefix_rewrite"] = self.one(("/n", "/", "/n/"))
        elif path < 0.5:
            found["regex_rewrite"] = self.regex_rewrite()
        if self.maybe(0.3):
            found["strip_query"] = True
        if self.maybe(0.5):
            codes = ("FOUND", "SEE_OTHER", "TEMPORARY_REDIRECT", "PERMANENT_REDIRECT", "MOVED_PERMANENTLY")
            found["response_code"] = self.one(codes)
        return found

    def direct_response(self) -> Json:
        found: Json = {"status": self.one((200, 201, 204, 301, 304, 404, 429, 503, 599))}
        if self.maybe(0.5):
            found["body"] = {"inline_string": self.one(("", "hello", "grüß"))}
        return found

    def request(self) -> Json:
        """Return a request: ``method``, ``authority``, ``path``, ``headers``."""
        headers = [[self.one(_NAMES), self.one(_VALUES)] for _ in range(self._chance.randrange(4))]
        # Envoy joins repeated headers of a few names; no other client of HTTP does.
        names = [name for name, _ in headers]
        headers = [pair for n, pair in enumerate(headers) if pair[0] not in _JOINED or names.index(pair[0]) == n]
        if self.maybe(0.4):
            headers.append(["x-cluster", self.one((*CLUSTERS, "nowhere", " c1", ""))])
        if True:
            headers.append(["x-number", self.one(("0", "1", "7", "25", "44", "1000003"))])
        if self.maybe(0.1):
            headers.append(["x-vh", self.one(_HOSTS)])
        if self.maybe(0.15):
            headers.append(["cookie", self.one(("sess=1", "a=b; sess=42", 'sess="q"', "sess="))])
        if self.maybe(0.1):
            headers = [pair for pair in headers if pair[0] != "content-type"]
            headers.append(
                ["content-type", self.one(("application/grpc", "application/grpc+proto", "application/grpcx"))]
            )
        headers.append(["x-key", f"k{self._chance.randrange(1000)}"])
        return {
            "method": self.one(("GET", "GET", "GET", "POST", "HEAD", "DELETE", "OPTIONS")),
            "authority": self.one(_HOSTS),
            "path": self.one(_PATHS) + self.one(_QUERIES),
            "headers": headers,
        }
