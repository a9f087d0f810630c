"""The one place for signed answers to probes: only the target can make one, anybody can pass it on.

    signed = "meshd ack 1" + mesh id + prober's id + probe number

Probe numbers are drawn so that nobody can foresee them: everybody signs for everybody who asks,
so a helper that knew the next numbers could collect proofs while the target lives, and show them
after its death.
"""

from typing import Final

from protocol.crypto import Crypto
from protocol.identity import INCARNATION_MAX, MeshId, NodeId
from protocol.messages import Origin

_DOMAIN: Final = b"meshd ack 1     "


class Proofs:
    """Draws probe numbers, signs for others, checks what others signed."""

    def __init__(self, crypto: Crypto, mesh: MeshId, secret: bytes) -> None:
        """`secret`: 32 bytes of this boot that nobody else knows."""
        self._crypto = crypto
        self._mesh = mesh
        self._secret = secret
        self._drawn = 0

    def draw(self) -> int:
        """The next probe number."""
        self._drawn += 1
        number = self._drawn.to_bytes(8, "big")
        drawn = self._crypto.mac(self._secret, number, 8, b"meshd sequence")
        return int.from_bytes(drawn, "big") & INCARNATION_MAX

    def sign(self, origin: Origin) -> bytes:
        """We heard this probe."""
        return self._crypto.sign(self._text(origin))

    def is_good(self, target: NodeId, origin: Origin, proof: bytes) -> bool:
        """Whether `target` itself says that it heard this probe."""
        return self._crypto.verify(target, proof, self._text(origin))

    def _text(self, origin: Origin) -> bytes:
        return _DOMAIN + self._mesh + origin.prober + origin.sequence.to_bytes(8, "big")
