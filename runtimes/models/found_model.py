"""The one place for what is known about a model on disk before anybody loads it."""

import dataclasses
import pathlib

NAME_CHARACTERS_MAX = 128
"""As `runtimes/llama/settings.py` has it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FoundModel:
    """One model in GGUF, whole on this disk."""

    name: str
    """What the mesh calls it; printable."""
    path: pathlib.Path
    """The file, or the first part of a split."""
    size_bytes: int
    """All parts together."""
    origin: str
    """Whose folder it lies in, for people."""
    repository: str = ""
    """`ORG/REPO`, where the folder tells."""
    quantization: str = ""
    """The weights' format by the file's name, such as `Q4_K_M`; empty: unknown."""
    aliases: tuple[str, ...] = ()
    """Other names that people know it by."""

    @property
    def names(self) -> tuple[str, ...]:
        """All that it answers to."""
        return (self.name, *self.aliases)


def plain_name(text: str) -> str:
    """A name that can be shown and sent: printable, not empty, not too long."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown[:NAME_CHARACTERS_MAX] or "?"
