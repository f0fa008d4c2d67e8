"""The garbage collector rests while a large response is taken, and is as it was afterwards."""

import gc
import os

import pytest

from meshlib.xds import collecting


@pytest.fixture(autouse=True)
def collector():
    gc.enable()
    yield
    gc.enable()


def test_it_rests_for_a_large_response_alone():
    with collecting.resting(collecting.LARGE - 1):
        assert gc.isenabled()
    with collecting.resting(collecting.LARGE):
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_works_again_whatever_happened():
    with pytest.raises(RuntimeError), collecting.resting(collecting.LARGE):
        raise RuntimeError
    assert gc.isenabled()


def test_who_turned_it_off_keeps_it_off():
    gc.disable()
    with collecting.resting(collecting.LARGE):
        pass
    assert not gc.isenabled()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("turned_off", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 warns of any fork beside threads
def test_a_child_forked_meanwhile_has_it_as_it_was(turned_off):
    if turned_off:
        gc.disable()
    with collecting.resting(collecting.LARGE):
        child = os.fork()
        if child == 0:
            os._exit(int(gc.isenabled() is turned_off))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
