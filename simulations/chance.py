"""The one place for drawing from distributions in integers: the same on every machine.

Nothing here depends on a library of real functions. Real numbers are integers in units of 2**-32
(`ONE` is one). The exponential is von Neumann's ("Various techniques used in connection with random
digits", 1951): the length of a falling run of uniform numbers decides. The normal is accepted from
exponentials: |Z| = E with the chance exp(-(E - 1)**2 / 2). Both are exact, up to the 32 bits.
"""

import math
import random
from collections.abc import MutableSequence
from typing import Any, Final

MILLION: Final = 1_000_000
ONE: Final = 1 << 32
"""The unit of everything here."""
LOG2_E: Final = 6_196_328_019
"""log2(e) * 2**32, rounded."""
EXPONENT_MAX: Final = 40
"""Powers of two beyond this (and below its negative) are cut off: 1e12 is no length of anything."""


def _roots() -> tuple[int, ...]:
    """2 ** (1/2), 2 ** (1/4), ... by integer square roots; 32 of them reach the last bit."""
    roots = [math.isqrt(2 << 64)]
    while len(roots) < 32:
        roots.append(math.isqrt(roots[-1] << 32))
    return tuple(roots)


_ROOTS: Final = _roots()


def below(rng: random.Random, bound: int) -> int:
    """A whole number from 0 to below `bound`, evenly; `bound` far below 2**32."""
    return rng.getrandbits(32) * bound >> 32


def between(rng: random.Random, span: tuple[int, int]) -> int:
    """A whole number from the first to below the second, evenly; the first if they are the same."""
    low, high = span
    return low + below(rng, high - low)


def is_drawn(rng: random.Random, ppm: int) -> bool:
    """True so many times in a million; a share of nothing costs no draw."""
    return ppm > 0 and rng.getrandbits(20) * MILLION >> 20 < ppm


def exponential(rng: random.Random) -> int:
    """Exponential with mean 1, in units of 2**-32."""
    whole = 0
    while True:
        first = last = rng.getrandbits(32)
        is_odd = True
        while (following := rng.getrandbits(32)) < last:
            last = following
            is_odd = not is_odd
        if is_odd:
            return whole + first
        whole += ONE


def normal(rng: random.Random) -> int:
    """Normal with mean 0 and deviation 1, in units of 2**-32."""
    while True:
        size = exponential(rng)
        excess = size - ONE
        if excess * excess < 2 * ONE * exponential(rng):
            return size if rng.getrandbits(1) else -size


def exp(power: int) -> int:
    """e ** power; both in units of 2**-32. Right to 1e-8 of the value from 1 on."""
    binary = power * LOG2_E >> 32
    whole, rest = binary >> 32, binary & ONE - 1
    value = ONE
    for root in _ROOTS:
        rest <<= 1
        if rest >= ONE:
            rest -= ONE
            value = value * root >> 32
    if whole >= 0:
        return value << min(whole, EXPONENT_MAX)
    return value >> min(-whole, EXPONENT_MAX)


def shuffle(items: MutableSequence[Any], rng: random.Random) -> None:
    """Put into any order, each as likely (Fisher and Yates)."""
    for place in range(len(items) - 1, 0, -1):
        other = below(rng, place + 1)
        items[place], items[other] = items[other], items[place]
