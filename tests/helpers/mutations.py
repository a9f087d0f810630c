"""The one place for near misses: valid inputs of a parser with a few changes, and noise."""

import random
from typing import Final

from tests.helpers.parsers import Parser

_TELLING: Final = bytes(
    (0, 1, 0x7F, 0x80, 0x8F, 0x90, 0x91, 0x9F, 0xA0, 0xC0, 0xC1, 0xC4, 0xC6, 0xC7)
)
_TELLING_TOO: Final = bytes(
    (0xCA, 0xCB, 0xCF, 0xD3, 0xD4, 0xD9, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xFF)
)
_TEXTS: Final = (
    b'"',
    b"[",
    b"{",
    b",",
    b":",
    b"\\u0000",
    b"\\ud800",
    b"1e999",
    b"null",
    b"-",
    b"\0",
)


def random_bytes(rng: random.Random, parser: Parser) -> bytes:
    """Any bytes, mostly few."""
    return rng.randbytes(min(parser.bytes_max, int(2 ** rng.uniform(0, 11))))


def mutated(rng: random.Random, parser: Parser, *, may_be_long: bool = False) -> bytes:
    """A valid input with one to four changes; if it may be long, once in a while very long."""
    data = bytearray(rng.choice(parser.valid))
    for _ in range(rng.randint(1, 4)):
        _mutate(rng, data, parser)
    if may_be_long and rng.random() < 0.005 and data:
        start = rng.randrange(len(data))
        part = bytes(data[start : start + rng.choice((1, 2, 3, 8, 40))]) or b"\x90"
        count = int(parser.bytes_max * rng.random()) // len(part)
        data[start:start] = _array(rng, count) + part * count
    return bytes(data[: parser.bytes_max])


def _array(rng: random.Random, count: int) -> bytes:
    """Perhaps the head of an array of so many items."""
    return b"\xdd" + count.to_bytes(4, "big") if rng.random() < 0.7 else b""


def _mutate(rng: random.Random, data: bytearray, parser: Parser) -> None:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + int(2 ** rng.uniform(0, 6)))
    match rng.randrange(8):
        case 0 if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        case 1 if at < len(data):
            data[at] = rng.choice(_TELLING)
        case 2:
            del data[at:end]
        case 3:
            data[at:at] = data[at:end]
        case 4:
            data[at:at] = rng.choice(_TEXTS)
        case 5:
            data[at:end] = rng.randbytes(end - at)
        case 6:
            other = rng.choice(parser.valid)
            data[at:] = other[rng.randrange(len(other)) :]
        case _:
            del data[at:]
