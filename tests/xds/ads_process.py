"""A management server in a process of its own, to be killed and stopped: PORT UPSTREAM_PORT VERSION."""

import sys
import threading

from conftest import AdsServer, give  # of this folder, which is where a script finds its modules

if __name__ == "__main__":
    port, upstream, version = sys.argv[1:]
    server = give(AdsServer(int(port)), int(upstream), version)
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    threading.Event().wait()
