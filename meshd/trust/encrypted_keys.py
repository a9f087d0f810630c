"""The one place for private keys under a passphrase: PKCS8 `ENCRYPTED PRIVATE KEY` in PEM.

The standard's PBES2 (RFC 8018) with scrypt (RFC 7914) and AES-256-CBC, as `openssl pkcs8 -topk8
-scrypt` writes it; openssl and the `ssl` module read it. scrypt's numbers stay below the memory
(32 MB) that OpenSSL grants, and ask for five times the work instead. Of others' files the numbers
are bounded: a file must not cost minutes.

`cryptography`, for AES, is loaded only here and only when there is a passphrase.
"""

import base64
import binascii
import hashlib
import os
from typing import Final

from meshd.trust import der
from meshd.trust.der import BadDer

PASSPHRASE_BYTES_MAX: Final = 1_024

_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**14, 8, 5
_SCRYPT_WORK_MAX: Final = 2**21
"""Of N * r * p, where ours is a third of that."""
_SCRYPT_MEMORY_BYTES_MAX: Final = 2**26
_SALT_BYTES: Final = 16
_BLOCK_BYTES: Final = 16
_PBES2: Final = der.value(der.OBJECT_ID, bytes.fromhex("2a864886f70d01050d"))
_SCRYPT: Final = der.value(der.OBJECT_ID, bytes.fromhex("2b06010401da47040b"))
_AES_256_CBC: Final = der.value(der.OBJECT_ID, bytes.fromhex("60864801650304012a"))
_BEGIN: Final = "-----BEGIN ENCRYPTED PRIVATE KEY-----"
_END: Final = "-----END ENCRYPTED PRIVATE KEY-----"
_LINE_CHARS: Final = 64


class WrongPassphrase(ValueError):
    """It does not open this key."""


def is_encrypted(pem: bytes) -> bool:
    """Whether this is, or holds, a key under a passphrase."""
    return _BEGIN.encode() in pem


def encrypt(plain: bytes, passphrase: bytes) -> bytes:
    """The PEM of a PKCS8 private key (DER) under a passphrase."""
    salt, start = os.urandom(_SALT_BYTES), os.urandom(_BLOCK_BYTES)
    key = _derive(passphrase, salt, _SCRYPT_N, _SCRYPT_R, _SCRYPT_P)
    padding = _BLOCK_BYTES - len(plain) % _BLOCK_BYTES
    sealed = _aes(key, start, plain + bytes([padding]) * padding, is_sealing=True)
    numbers = (der.integer(number) for number in (_SCRYPT_N, _SCRYPT_R, _SCRYPT_P))
    derivation = der.sequence(_SCRYPT, der.sequence(der.value(der.OCTET_STRING, salt), *numbers))
    cipher = der.sequence(_AES_256_CBC, der.value(der.OCTET_STRING, start))
    algorithm = der.sequence(_PBES2, der.sequence(derivation, cipher))
    body = base64.b64encode(der.sequence(algorithm, der.value(der.OCTET_STRING, sealed))).decode()
    lines = [body[at : at + _LINE_CHARS] for at in range(0, len(body), _LINE_CHARS)]
    return "\n".join((_BEGIN, *lines, _END, "")).encode()


def decrypt(pem: bytes, passphrase: bytes) -> bytes:
    """The PKCS8 private key (DER) inside; what stands before it in the file is passed over.

    Raises WrongPassphrase; ValueError for what is no such file, or has another algorithm.
    """
    try:
        _, begin, rest = pem.decode("ascii").partition(f"{_BEGIN}\n")
        body, end, after = rest.partition(f"\n{_END}\n")
        data = base64.b64decode(body.replace("\n", ""), validate=True)
    except (UnicodeDecodeError, binascii.Error) as error:
        raise ValueError("not a PEM file") from error
    if not begin or not end or after:
        raise ValueError("not a PEM file of a private key under a passphrase")
    try:
        salt, numbers, start, sealed = _parts(data)
    except BadDer as error:
        raise ValueError(f"not a key under scrypt and AES-256-CBC ({error})") from error
    n, r, p = numbers
    is_power = n > 1 and n & (n - 1) == 0
    if not is_power or not 0 < n * r * p <= _SCRYPT_WORK_MAX:
        raise ValueError("its scrypt numbers are out of range")
    plain = _aes(_derive(passphrase, salt, n, r, p), start, sealed, is_sealing=False)
    padding = plain[-1]
    opened = plain[:-padding]
    is_padded = 0 < padding <= _BLOCK_BYTES and plain == opened + bytes([padding]) * padding
    if not is_padded or not _is_sequence(opened):  # what another passphrase gives is chance
        raise WrongPassphrase("the passphrase does not open it")
    return opened


def _parts(data: bytes) -> tuple[bytes, tuple[int, int, int], bytes, bytes]:
    """(salt, (N, r, p), first block, sealed key). Raises BadDer."""
    whole, after = der.take(der.SEQUENCE, data)
    algorithm, rest = der.take(der.SEQUENCE, whole)
    sealed, behind = der.take(der.OCTET_STRING, rest)
    parameters, behind_parameters = der.take(der.SEQUENCE, _without(_PBES2, algorithm))
    derivation, rest = der.take(der.SEQUENCE, parameters)
    cipher, behind_cipher = der.take(der.SEQUENCE, rest)
    values, behind_values = der.take(der.SEQUENCE, _without(_SCRYPT, derivation))
    salt, values = der.take(der.OCTET_STRING, values)
    numbers: list[int] = []
    while values and len(numbers) < 4:  # the fourth may say how long the key is
        content, values = der.take(der.INTEGER, values)
        if not 0 < len(content) <= 5:
            raise BadDer("a number that is too long")
        numbers.append(int.from_bytes(content, "big", signed=True))
    start, behind_start = der.take(der.OCTET_STRING, _without(_AES_256_CBC, cipher))
    rests = (after, behind, behind_parameters, behind_cipher, behind_values, values, behind_start)
    if any(rests) or len(numbers) < 3 or numbers[3:] not in ([], [32]) or min(numbers) < 1:
        raise BadDer("more or less than it has")
    if len(start) != _BLOCK_BYTES or not sealed or len(sealed) % _BLOCK_BYTES:
        raise BadDer("blocks of another length")
    return salt, (numbers[0], numbers[1], numbers[2]), start, sealed


def _is_sequence(data: bytes) -> bool:
    try:
        return not der.take(der.SEQUENCE, data)[1]
    except BadDer:
        return False


def _without(prefix: bytes, data: bytes) -> bytes:
    if not data.startswith(prefix):
        raise BadDer("another algorithm")
    return data[len(prefix) :]


def _derive(passphrase: bytes, salt: bytes, n: int, r: int, p: int) -> bytes:
    try:
        return hashlib.scrypt(
            passphrase, salt=salt, n=n, r=r, p=p, dklen=32, maxmem=_SCRYPT_MEMORY_BYTES_MAX
        )
    except (ValueError, MemoryError) as error:
        raise ValueError("its scrypt numbers are out of range") from error


def _aes(key: bytes, start: bytes, data: bytes, *, is_sealing: bool) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    cipher = Cipher(algorithms.AES(key), modes.CBC(start))
    context = cipher.encryptor() if is_sealing else cipher.decryptor()
    return context.update(data) + context.finalize()
