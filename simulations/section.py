"""The one place for reading a table of a scenario file, key by key.

Whatever is wrong with it is one line, with the nearest valid name.
"""

import difflib
from collections.abc import Iterable
from typing import Any, Final

DURATION_S_MAX: Final = 30 * 86_400


class ScenarioError(Exception):
    """A scenario that cannot be run; the text is one line for the person who wrote it."""


class Section:
    """One table of a scenario file, read key by key; what nobody asked for is an error."""

    def __init__(self, place: str, table: object, known: Iterable[str]) -> None:
        """Raises ScenarioError for a key that is not among `known`."""
        if not isinstance(table, dict):
            raise ScenarioError(f"{place} must be a table")
        self.place = place
        self._table: dict[str, Any] = table
        names = sorted(known)
        for key in table:
            if key not in names:
                raise ScenarioError(f"{place} has an unknown key {key!r}{nearest(key, names)}")

    def has(self, key: str) -> bool:
        """Whether the file says anything about it."""
        return key in self._table

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """A number within these bounds."""
        value = self._table.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ScenarioError(f"{self.place}: {key} must be a number")
        if not low <= value <= high:
            raise ScenarioError(
                f"{self.place}: {key} = {value!r:.40} is not in {low:g} to {high:g}"
            )
        return value

    def whole(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number within these bounds."""
        value = self.number(key, low, high, default)
        if value != int(value):
            raise ScenarioError(f"{self.place}: {key} must be a whole number")
        return int(value)

    def text(self, key: str, default: str = "", among: Iterable[str] | None = None) -> str:
        """A text, one of `among` if given."""
        value = self._table.get(key, default)
        if not isinstance(value, str):
            raise ScenarioError(f"{self.place}: {key} must be a text")
        if among is not None and value not in (names := sorted(among)):
            raise ScenarioError(f"{self.place}: {key} = {value!r}{nearest(value, names)}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._table.get(key, default)
        if not isinstance(value, bool):
            raise ScenarioError(f"{self.place}: {key} must be true or false")
        return value

    def span(self, key: str, unit_ns: int, default: tuple[float, float]) -> tuple[int, int]:
        """[low, high], or one number for both, in nanoseconds."""
        value = self._table.get(key, list(default))
        pair = value if isinstance(value, list) else [value, value]
        is_plain = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in pair)
        if len(pair) != 2 or not is_plain or not 0 <= pair[0] <= pair[1] <= DURATION_S_MAX * 1000:
            raise ScenarioError(f"{self.place}: {key} must be [low, high] with 0 <= low <= high")
        return round(pair[0] * unit_ns), round(pair[1] * unit_ns)

    def items(self, key: str, kind: type) -> tuple[Any, ...]:
        """A list whose items are all of one kind; one item alone may stand for it."""
        value = self._table.get(key, [])
        items = value if isinstance(value, list) else [value]
        if not all(type(item) is kind for item in items):
            raise ScenarioError(f"{self.place}: {key} must be a list of {kind.__name__}")
        return tuple(items)

    def table(self, key: str, known: Iterable[str] | None = None) -> "Section":
        """A table inside this one; without `known` its keys are names that the file chooses."""
        value = self._table.get(key, {})
        names = value if known is None and isinstance(value, dict) else known or ()
        return Section(f"{self.place}, {key}", value, names)

    def names(self) -> list[str]:
        """What the file says something about, in its order."""
        return list(self._table)

    def raw(self, key: str, default: object) -> Any:  # noqa: ANN401  # read by another Section
        """Whatever stands there."""
        return self._table.get(key, default)


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint for a name that is not among `names`."""
    known = list(names)
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there is: {', '.join(known)}"
