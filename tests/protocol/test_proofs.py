"""Signed answers to probes: who can make them, and for which probe they count."""

import itertools

import pytest

from protocol.crypto import SodiumCrypto
from protocol.identity import INCARNATION_MAX, MeshId, NodeId
from protocol.messages import Origin
from protocol.proofs import Proofs
from tests.helpers.nodes import seed_of

MESH = MeshId(bytes(range(16)))
TARGET, PROBER, HELPER = (SodiumCrypto(seed_of("proofs", n)) for n in range(3))


def _proofs(crypto: SodiumCrypto, mesh: MeshId = MESH, secret: bytes = bytes(32)) -> Proofs:
    return Proofs(crypto, mesh, secret)


ORIGIN = Origin(PROBER.node_id, 7)
PROOF = _proofs(TARGET).sign(ORIGIN)


def test_the_targets_signature_is_good() -> None:
    """For the prober, and for anybody who passes it on; its text is what the wire says."""
    assert _proofs(PROBER).is_good(TARGET.node_id, ORIGIN, PROOF)
    assert _proofs(HELPER).is_good(TARGET.node_id, ORIGIN, PROOF)
    text = b"meshd ack 1     " + MESH + PROBER.node_id + (7).to_bytes(8, "big")
    assert TARGET.sign(text) == PROOF


@pytest.mark.parametrize(
    ("target", "origin", "proof", "mesh"),
    [
        pytest.param(TARGET.node_id, Origin(PROBER.node_id, 8), PROOF, MESH, id="another number"),
        pytest.param(TARGET.node_id, Origin(HELPER.node_id, 7), PROOF, MESH, id="another prober"),
        pytest.param(HELPER.node_id, ORIGIN, PROOF, MESH, id="another target"),
        pytest.param(TARGET.node_id, ORIGIN, PROOF, MeshId(bytes(16)), id="another mesh"),
        pytest.param(TARGET.node_id, ORIGIN, _proofs(HELPER).sign(ORIGIN), MESH, id="a helper's"),
        pytest.param(TARGET.node_id, ORIGIN, bytes(64), MESH, id="zeros"),
        pytest.param(TARGET.node_id, ORIGIN, PROOF[:-1], MESH, id="cut"),
        pytest.param(TARGET.node_id, ORIGIN, b"", MESH, id="nothing"),
        pytest.param(NodeId(bytes(32)), ORIGIN, PROOF, MESH, id="no key at all"),
    ],
)
def test_anything_else_is_not(target: NodeId, origin: Origin, proof: bytes, mesh: MeshId) -> None:
    """A proof is for one prober, one number, one target, one mesh."""
    assert not _proofs(PROBER, mesh).is_good(target, origin, proof)


def test_numbers_never_come_twice_and_cannot_be_foreseen() -> None:
    """They fit the wire, jump, and depend on the secret of this boot."""
    proofs = _proofs(PROBER)
    numbers = [proofs.draw() for _ in range(500)]
    assert len(dict.fromkeys(numbers)) == len(numbers)
    assert all(0 <= number <= INCARNATION_MAX for number in numbers)
    assert min(abs(b - a) for a, b in itertools.pairwise(numbers)) > 2**30
    assert [_proofs(PROBER).draw()] == numbers[:1]
    assert _proofs(PROBER, secret=bytes((1,)) * 32).draw() != numbers[0]
