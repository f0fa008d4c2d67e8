"""A second opinion on every captured table: the cluster that ``explain`` names is the one the JSON says.

The walk below knows of Envoy and Istio only what it needs, and nothing of meshlib.
"""

import json

from replays.replaying import Replay

ANY = ({"prefix": "/", "case_sensitive": True}, {"prefix": "/"}, {"path": "/"}, {"path": "/", "case_sensitive": True})


def resources(path):
    """The last of each resource of a state-of-the-world stream, by type and name."""
    found = {"LDS": {}, "RDS": {}}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if row["dir"] == "received" and row["type"] in found:
            by_name = {each["name"]: each for each in row["message"].get("resources", ())}
            found[row["type"]] = by_name if row["type"] == "LDS" else found["RDS"] | by_name
    return found


def http_table(listener):
    """The route table of the chain that plaintext HTTP takes, None where it is bytes."""
    for chain in listener.get("filter_chains", ()):
        match = chain.get("filter_chain_match", {})
        plain = match.get("transport_protocol", "raw_buffer") == "raw_buffer"
        if plain and "server_names" not in match and "prefix_ranges" not in match and "destination_port" not in match:
            for filter_ in chain["filters"]:
                if "rds" in filter_.get("typed_config", {}):
                    return filter_["typed_config"]["rds"]["route_config_name"]
    return None


def targets(table, domain):
    """What ``GET /`` of a host leads to in a table; None where a route asks for more than the path."""
    for host in table.get("virtual_hosts", ()):
        if domain not in host["domains"] and host["domains"] != ["*"]:
            continue
        for route in host.get("routes", ()):
            if route["match"] in ANY:
                action = route.get("route", {})
                if "weighted_clusters" in action:
                    return {each["name"]: each["weight"] for each in action["weighted_clusters"]["clusters"]}
                return {action["cluster"]: 1} if "cluster" in action else {}
            if set(route["match"]) - {"prefix", "path", "case_sensitive"} - {"safe_regex"}:
                return None
        return {}
    return {}


def pairs(found):
    """Yield (host, port, table) for every name of every virtual host of the tables by port."""
    for name, table in found["RDS"].items():
        if name.isdecimal():
            for host in table.get("virtual_hosts", ()):
                address = next((d for d in host["domains"] if d.replace(".", "").isdecimal()), "")
                own = found["LDS"].get(f"{address}_{name}")
                listener = own or found["LDS"].get(f"0.0.0.0_{name}") or found["LDS"].get(f"127.0.0.1_{name}")
                if listener is None:
                    continue
                leads_to = http_table(listener)
                for domain in host["domains"]:
                    usable = "*" not in domain and "/" not in domain and not domain.endswith(".")
                    if usable and leads_to in found["RDS"]:
                        yield domain, int(name), found["RDS"][leads_to]


def test_every_virtual_host_of_every_sidecar(istiod):
    compared = 0
    captures = [
        path
        for each in ("istiod", "istiod-book")
        for path in sorted((istiod.parent / each).glob("*/sidecar-*.pb"))
        if ".delta" not in path.name and "changes" not in path.parent.name
    ]
    assert len(captures) > 80
    for path in captures:
        found = resources(path.with_suffix(".jsonl"))
        stream = Replay(path).to_end()
        for domain, port, table in pairs(found):
            expected = targets(table, domain)
            if expected is None:
                continue
            explained = stream.explain(f"http://{domain}:{port}/")
            got = {cluster.name: cluster.weight for cluster in explained.clusters}
            assert got == expected, (path, domain, port)
            compared += 1
    assert compared > 1500
