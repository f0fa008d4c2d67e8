import pytest

from transports.callers import CALLERS, assert_idle
from transports.scripted import Upstreams


@pytest.fixture
def upstreams():
    with Upstreams() as servers:
        yield servers


@pytest.fixture(params=CALLERS)
def caller(request):
    """Makes callers, blocking and async; afterwards nothing may be in flight in their meshes."""
    made = []

    def make(mesh, **options):
        made.append(CALLERS[request.param](mesh, **options))
        return made[-1]

    yield make
    for each in made:
        if each.mesh.store.current is not None:
            assert_idle(each.mesh)
        each.close()
