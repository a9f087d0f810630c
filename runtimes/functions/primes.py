"""The one place for `meshd.primes`, the function in the package that computes."""

import math

LIMIT_MAX = 10**12
_LARGEST_SHOWN = 5
_SEGMENT = 2**20


def primes(limit: int) -> dict[str, object]:
    """Count the primes up to `limit`, and name the largest few.

    Memory stays at a few megabytes whatever the limit; time grows with it (some seconds for 10**9).
    Raises ValueError for a limit below 0 or above 10**12.
    """
    if not 0 <= limit <= LIMIT_MAX:
        raise ValueError(f"the limit must be 0 to {LIMIT_MAX}")
    small = _sieve(math.isqrt(limit))
    count = 0
    largest: list[int] = []
    for low in range(2, limit + 1, _SEGMENT):
        high = min(low + _SEGMENT, limit + 1)
        is_prime = bytearray(b"\x01") * (high - low)
        for prime in small:
            if prime * prime >= high:
                break
            first = max(prime * prime, -(-low // prime) * prime) - low
            is_prime[first::prime] = bytes(len(range(first, high - low, prime)))
        count += is_prime.count(1)
        largest = _with_last_of(is_prime, low, largest)
    return {"limit": limit, "count": count, "largest": largest}


def _sieve(limit: int) -> list[int]:
    """All primes up to `limit`."""
    is_prime = bytearray(b"\x01") * (limit + 1)
    is_prime[:2] = bytes(min(2, limit + 1))
    for number in range(2, math.isqrt(limit) + 1):
        if is_prime[number]:
            is_prime[number * number :: number] = bytes(
                len(range(number * number, limit + 1, number))
            )
    return [number for number in range(limit + 1) if is_prime[number]]


def _with_last_of(is_prime: bytearray, low: int, before: list[int]) -> list[int]:
    """The largest few of `before` and the primes of one segment, ascending."""
    found: list[int] = []
    end = len(is_prime)
    while len(found) < _LARGEST_SHOWN and (end := is_prime.rfind(1, 0, end)) >= 0:
        found.append(low + end)
    return [*before, *reversed(found)][-_LARGEST_SHOWN:]
