from __future__ import annotations

import pytest

from examples.services import Running, load


@pytest.fixture
def serve():
    """Serve ASGI apps for the test; returns their :class:`Running`."""
    running = []

    def start(app) -> Running:
        running.append(Running(app))
        return running[-1]

    yield start
    for server in reversed(running):
        server.stop()


@pytest.fixture
def catalog(serve):
    """Serve a catalog of the version given."""
    return lambda version="v1": serve(load("catalog").create_app(version))
