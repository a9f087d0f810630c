"""The one place for authority records whose premise is not here yet: unchecked, and few."""

from typing import Final

WAITING_MAX: Final = 256


class Waiting:
    """Records by their bytes, each with the key of the premise that it lacks."""

    def __init__(self) -> None:
        self._lacks: dict[bytes, bytes] = {}

    def __contains__(self, wire: bytes) -> bool:
        return wire in self._lacks

    def __len__(self) -> int:
        return len(self._lacks)

    def add(self, wire: bytes, premise: bytes) -> None:
        """Keep one more; of too many the oldest goes, push/pull brings it again."""
        self._lacks[wire] = premise
        if len(self._lacks) > WAITING_MAX:
            del self._lacks[next(iter(self._lacks))]

    def drop(self, wire: bytes) -> None:
        """It lacks nothing any more."""
        self._lacks.pop(wire, None)

    def take(self, premise: bytes) -> list[bytes]:
        """All that wait for this premise; they wait no more."""
        wires = [wire for wire, lacks in self._lacks.items() if lacks == premise]
        for wire in wires:
            del self._lacks[wire]
        return wires
