"""The one place for DER, the form of X.509 (ITU-T X.690): the few values that our certificates
need, written, and a strict reader that knows where each value of a foreign one ends.

A value is a tag (one byte), a length, and that many bytes. A length has one possible form: one
byte up to 127, else 0x80 + the count of the big-endian bytes that follow. Whatever has another
form is refused, so this reader and any other that takes the same bytes see the same values.
"""

from typing import Final

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OBJECT_ID: Final = 0x06
UTF8_STRING: Final = 0x0C
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31

TRUE: Final = bytes((BOOLEAN, 1, 0xFF))
_LENGTH_BYTES_MAX: Final = 3
"""A certificate has a few hundred bytes; TLS libraries take no more than 16 MiB."""


class BadDer(ValueError):
    """These bytes are not the value that is expected here."""


def value(tag: int, *parts: bytes) -> bytes:
    """One value, whose content is the parts one after another."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def sequence(*parts: bytes) -> bytes:
    """A SEQUENCE of values."""
    return value(SEQUENCE, *parts)


def integer(number: int) -> bytes:
    """An INTEGER that is not negative."""
    return value(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def bit_string(content: bytes) -> bytes:
    """A BIT STRING of whole bytes."""
    return value(BIT_STRING, b"\0", content)


def take(tag: int, data: bytes) -> tuple[bytes, bytes]:
    """(content of the first value, which must have this tag; what follows it). Raises BadDer."""
    if len(data) < 2 or data[0] != tag:
        raise BadDer("another kind of value")
    start, size = 2, data[1]
    if size >= 0x80:
        start += size & 0x7F
        if size == 0x80 or start - 2 > _LENGTH_BYTES_MAX:
            raise BadDer("no length, or too long")
        size = int.from_bytes(data[2:start], "big")
        if data[2:3] in (b"", b"\0") or size < 0x80:
            raise BadDer("a length in more bytes than it needs")
    end = start + size
    if end > len(data):
        raise BadDer("cut off")
    return data[start:end], data[end:]
