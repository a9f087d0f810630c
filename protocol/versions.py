"""The one place for protocol versions: which ones this code speaks, and which one two nodes use.

Every Alive states the lowest and the highest version that its author speaks. Two nodes use the
highest that both speak; it stands in the header of each datagram. Members without a common version
stay in each other's view as others see them, but are neither probed nor accused: that one cannot
talk to somebody says nothing about his life.

Within a version, items at the end of an array and types that are not known are skipped.
"""

from typing import Final

VERSIONS: Final = (1, 1)
"""Lowest and highest that this code speaks."""


def common_version(theirs: tuple[int, int], ours: tuple[int, int] = VERSIONS) -> int | None:
    """The highest version that both speak; None when there is none."""
    if theirs == ours:
        return ours[1]
    highest = min(theirs[1], ours[1])
    return highest if highest >= max(theirs[0], ours[0]) else None
