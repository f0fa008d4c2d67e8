"""A management server in a process of its own, to be killed and stopped: PORT UPSTREAM_PORT VERSION [delay]."""

import sys
import threading
import time

from conftest import AdsServer, parse
from test_client import api_listener, cluster, endpoints, listener, table


def give(server, upstream, version="1", host="catalog"):
    """One service, for sidecars on port 80 and for gRPC-style clients by its name."""
    described = [listener(), api_listener(f"{host}:80", "80"), table("80", host), cluster(host)]
    server.version = version
    for url, data in [*described, endpoints(host, upstream)]:
        server.resources[url][data.get("name") or data["cluster_name"]] = parse(url, data)
    return server


if __name__ == "__main__":
    port, upstream, version = sys.argv[1:4]
    time.sleep(float(sys.argv[4]) if len(sys.argv) > 4 else 0)
    server = give(AdsServer(int(port)), int(upstream), version)
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    threading.Event().wait()
