"""Damaged responses: refused with a fault that names something, or understood; never a crash, never a loss."""

import random
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError

from meshlib.model.snapshot import Style
from meshlib.xds.assembly import Assembly
from meshlib.xds.protos import discovery_pb2
from meshlib.xds.resource_type import RESOURCE_TYPES

DATA = Path(__file__).parents[1] / "data" / "xds"


def mutated(data, chance):
    damaged = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(damaged))
        kind = chance.random()
        if kind < 0.6:
            damaged[at] ^= 1 << chance.randrange(8)
        elif kind < 0.8:
            del damaged[at : at + chance.randint(1, 8)]
        else:
            damaged[at:at] = chance.randbytes(chance.randint(1, 8))
    return bytes(damaged)


@pytest.mark.parametrize("capture", ["default-sidecar-webapp.pb", "default-grpc-webapp.pb"])
@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_response_harms_nothing(capture, seed, responses, caplog):
    chance = random.Random(seed)
    good = [r for r in responses(DATA / capture) if r.type_url in RESOURCE_TYPES]
    assembly = Assembly(Style.SIDECAR)

    def offer(response):
        kind = RESOURCE_TYPES[response.type_url]
        offered = assembly.offer(kind.url, "1", [packed.SerializeToString() for packed in response.resources])
        assembly.complete(kind.url)
        return offered, assembly.snapshot()

    for response in good:
        offer(response)
    before = assembly.snapshot()
    refused = 0
    for response in good * 100:
        try:
            damaged = discovery_pb2.DiscoveryResponse.FromString(mutated(response.SerializeToString(), chance))
        except DecodeError:
            continue
        if damaged.type_url != response.type_url:
            continue
        offered, snapshot = offer(damaged)
        refused += bool(offered.faults)
        assert all(fault.message for fault in offered.faults)
        assert set(before.clusters) <= set(snapshot.clusters)
        offer(response)
    assert refused > 20
    assert "decoding failed" not in caplog.text
    for response in good:
        assert offer(response)[0].faults == ()
    assert assembly.snapshot().clusters.keys() >= before.clusters.keys()
