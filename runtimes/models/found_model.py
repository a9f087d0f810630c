"""The one place for what is known about a model on disk before anybody loads it."""

import dataclasses
import pathlib

from runtimes.llama.files.projector import is_projector

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
    projector: pathlib.Path | None = None
    """What its program has to see images with, if that does not lie beside it; any file."""

    @property
    def names(self) -> tuple[str, ...]:
        """All that it answers to."""
        return (self.name, *self.aliases)

    def options(self) -> dict[str, str]:
        """What it is served with where nobody says otherwise. Blocking: looks at its projector,
        and leaves out one that is none.
        """
        options = {"name": self.name}
        if self.projector is not None and is_projector(self.projector):
            options["mmproj"] = str(self.projector)
        return options


def plain_name(text: str) -> str:
    """A name that can be shown and sent: printable, not empty, not too long."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown[:NAME_CHARACTERS_MAX] or "?"
