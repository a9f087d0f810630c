"""The one place for how a short code becomes a token: pairing's exchange, without its transport.

Three frames go over a line that anybody may read and change. Both sides know the code (SPAKE2),
each shows the other that it does, and only then the token goes, sealed.

    offer  -> joiner   hello   msgpack [1, nameplate, mesh id, node id, Y]
    joiner -> offer    proof   msgpack [X, joiner's confirmation]
    offer  -> joiner   answer  msgpack [1, offer's confirmation, sealed token] or [0, tries left]

X and Y are the two messages of SPAKE2 (the package `spake2`), drawn anew for each exchange, so
they are its nonces too. Confirmations and the seal's key are keyed hashes, under SPAKE2's key, of
all that was said before; hello names the mesh and the node that offer.

Rule 1: the joiner confirms first. Who only wants to test a guess has to show it to the offer, and
        is counted; who breaks off before learns nothing.
Rule 2: the token is made after the joiner's confirmation has held, never before.
Rule 3: any bytes give a value or one of the failures here.
"""

import dataclasses
import hashlib
import hmac
import re
import secrets
from typing import Any, Final

from protocol.errors import Refused
from protocol.fields import pack, unpack_fields
from protocol.identity import MESH_ID_BYTES, NODE_ID_BYTES, MeshId, NodeId

VERSION: Final = 1
TRIES_MAX: Final = 3
"""So many wrong confirmations end an offer; and so many offers a joiner shows one code to."""
HELLO_BYTES_MAX: Final = 256
PROOF_BYTES_MAX: Final = 128
ANSWER_BYTES_MAX: Final = 8_192
_SIDE_BYTES: Final = 33
"""A message of SPAKE2 over Ed25519: the side's letter and a point."""
_CONFIRMATION_BYTES: Final = 32
_TOKEN_BYTES_MAX: Final = 4_096 + 64
_CODE: Final = re.compile(r"([0-9]{2})[ -]?([0-9]{4})[ -]?([0-9]{4})")
_NAMEPLATE: Final = re.compile(r"[0-9]{2}")


class BadFrame(Exception):
    """The other side sent what no version of this exchange has."""


class WrongCode(Exception):
    """The other side has shown that its code is another one."""

    def __init__(self, tries_left: int = 0) -> None:
        super().__init__("the code does not fit")
        self.tries_left = tries_left
        """Before the offer ends, as far as that is known."""


class Impostor(Exception):
    """What answered took our proof, and could not show that it knows the code itself."""


@dataclasses.dataclass(frozen=True, slots=True)
class Code:
    """What a person reads from one screen and types at another: `47-3915-8206`.

    Ten digits are read aloud alike in every language. The first two, the nameplate, are public
    and only tell offers apart. The other eight are the secret: one in 100 million, of which an
    attacker may try three.
    """

    nameplate: str
    secret: str = dataclasses.field(repr=False)

    def __str__(self) -> str:
        return f"{self.nameplate}-{self.secret[:4]}-{self.secret[4:]}"


def make_code() -> Code:
    """A new code; never used for two offers."""
    digits = f"{secrets.randbelow(10**10):010}"
    return Code(digits[:2], digits[2:])


def read_code(text: str) -> Code | None:
    """The code that was typed, with hyphens, blanks or neither; None for anything else."""
    match = _CODE.fullmatch(text.strip())
    return Code(match[1], match[2] + match[3]) if match is not None and text.isascii() else None


class OfferSide:
    """One exchange with one joiner, on the side that has the token."""

    def __init__(self, code: Code, mesh: MeshId, node: NodeId) -> None:
        """Computes for some milliseconds, as `check` does."""
        from spake2 import SPAKE2_B  # with its parameters, and only where somebody pairs

        self._spake = SPAKE2_B(_password(code), *_sides(code.nameplate, mesh, node))
        self.hello = pack((VERSION, code.nameplate, mesh, node, self._spake.start()))
        """The first frame; it says nothing about the secret."""

    def check(self, proof: bytes) -> "Confirmed":
        """Judge the joiner's frame; once only. Raises BadFrame, WrongCode."""
        try:
            fields = unpack_fields(proof)
            message, confirmation = fields.take_bytes(_SIDE_BYTES), fields.take_bytes(32)
        except Refused as refused:
            raise BadFrame("proof") from refused
        key = _finish(self._spake, message)
        said = _transcript(self.hello, message)
        if not hmac.compare_digest(confirmation, _derived(key, said, b"meshd pair join")):
            raise WrongCode
        return Confirmed(key, _transcript(self.hello, message, confirmation))


class Confirmed:
    """A joiner that knows the code."""

    def __init__(self, key: bytes, said: bytes) -> None:
        self._key = key
        self._said = said

    def answer(self, token: str) -> bytes:
        """The last frame: our confirmation, and the token for who has the same key."""
        from nacl.secret import SecretBox  # nothing else in the daemon needs it

        box = SecretBox(_derived(self._key, self._said, b"meshd pair seal"))
        confirmation = _derived(self._key, self._said, b"meshd pair offer")
        return pack((1, confirmation, bytes(box.encrypt(token.encode("ascii")))))


def refusal(tries_left: int) -> bytes:
    """The last frame for who does not know the code."""
    return pack((0, tries_left))


class Hello:
    """What an offer says of itself, before anything was shown to it. Unproven."""

    def __init__(self, frame: bytes) -> None:
        """Raises BadFrame."""
        self.frame = frame
        try:
            fields = unpack_fields(frame)
            fields.take_int(VERSION, VERSION)
            self.nameplate = fields.take_text(2)
            self.mesh = MeshId(fields.take_bytes(MESH_ID_BYTES))
            self.node = NodeId(fields.take_bytes(NODE_ID_BYTES))
            self.message = fields.take_bytes(_SIDE_BYTES)
        except Refused as refused:
            raise BadFrame("hello") from refused
        if _NAMEPLATE.fullmatch(self.nameplate) is None:
            raise BadFrame("nameplate")


class JoinerSide:
    """One exchange with one offer, on the side that wants the token."""

    def __init__(self, code: Code, hello: Hello) -> None:
        """Computes for some milliseconds. Raises BadFrame."""
        from spake2 import SPAKE2_A

        spake = SPAKE2_A(_password(code), *_sides(code.nameplate, hello.mesh, hello.node))
        message = spake.start()
        self._key = _finish(spake, hello.message)
        said = _transcript(hello.frame, message)
        confirmation = _derived(self._key, said, b"meshd pair join")
        self._said = _transcript(hello.frame, message, confirmation)
        self.proof = pack((message, confirmation))
        """The second frame. Whoever gets it can test one guess at the code, and no more."""

    def open(self, answer: bytes) -> str:
        """The token's text. Raises BadFrame, WrongCode, Impostor."""
        try:
            fields = unpack_fields(answer)
            if fields.take_int(0, 1) == 0:
                raise WrongCode(fields.take_int(0, TRIES_MAX))
            confirmation = fields.take_bytes(_CONFIRMATION_BYTES)
            sealed = fields.take_blob(_TOKEN_BYTES_MAX)
        except Refused as refused:
            raise BadFrame("answer") from refused
        expected = _derived(self._key, self._said, b"meshd pair offer")
        if not hmac.compare_digest(confirmation, expected):
            raise Impostor
        return self._unseal(sealed)

    def _unseal(self, sealed: bytes) -> str:
        from nacl.exceptions import CryptoError
        from nacl.secret import SecretBox

        box = SecretBox(_derived(self._key, self._said, b"meshd pair seal"))
        try:
            return box.decrypt(sealed).decode("ascii")
        except (CryptoError, ValueError) as error:  # changed on the way
            raise Impostor from error


def _password(code: Code) -> bytes:
    return f"meshd pair 1 {code}".encode("ascii")


def _sides(nameplate: str, mesh: MeshId, node: NodeId) -> tuple[bytes, bytes]:
    """SPAKE2's names for the joiner and for who offers."""
    return b"meshd joiner", b"meshd offer " + nameplate.encode("ascii") + mesh + node


def _finish(spake: Any, message: bytes) -> bytes:  # noqa: ANN401  # the package has no hints
    """SPAKE2's key. Raises BadFrame: the message is no point that an honest side sends."""
    from spake2 import SPAKEError
    from spake2.ed25519_basic import NotOnCurve

    try:
        return bytes(spake.finish(message))
    except (SPAKEError, NotOnCurve, ValueError, AssertionError) as error:
        raise BadFrame("key exchange") from error


def _transcript(hello: bytes, *more: bytes) -> bytes:
    """All that was said, of which only hello has no fixed length."""
    return hashlib.blake2b(hello, digest_size=32).digest() + b"".join(more)


def _derived(key: bytes, said: bytes, purpose: bytes) -> bytes:
    return hashlib.blake2b(said, digest_size=32, key=key, person=purpose).digest()
