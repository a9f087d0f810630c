"""The one place for amounts of memory: what a model needs, what is free for models. Pure."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """Ordinary memory, and memory of all GPUs together; may be negative: so much is missing."""

    memory_bytes: int = 0
    vram_bytes: int = 0

    def __add__(self, other: "Room") -> "Room":
        return Room(self.memory_bytes + other.memory_bytes, self.vram_bytes + other.vram_bytes)

    def __sub__(self, other: "Room") -> "Room":
        return Room(self.memory_bytes - other.memory_bytes, self.vram_bytes - other.vram_bytes)

    def holds(self, need: "Room") -> bool:
        """Whether `need` fits into it. Of a kind that is not needed, any amount will do."""
        return all(
            needed <= 0 or needed <= there
            for needed, there in (
                (need.memory_bytes, self.memory_bytes),
                (need.vram_bytes, self.vram_bytes),
            )
        )

    def __str__(self) -> str:
        parts = [_size(self.memory_bytes)] if self.memory_bytes or not self.vram_bytes else []
        parts += [f"{_size(self.vram_bytes)} of GPU memory"] if self.vram_bytes else []
        return " and ".join(parts)


def _size(size_bytes: int) -> str:
    if size_bytes >= 10**9:
        return f"{size_bytes / 1e9:.1f} GB"
    return f"{max(0, size_bytes) / 1e6:.0f} MB"
