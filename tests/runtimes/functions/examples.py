"""Functions that do what no shipped one does: crash, print, return nonsense."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

NOT_CALLABLE = 1


def echo(**values: Any) -> dict[str, Any]:  # noqa: ANN401  # any JSON
    """What it was given."""
    return values


def typed(number: int, ratio: float = 1.0, text: str | None = None) -> list[object]:
    """Takes plain types."""
    return [number, ratio, text]


def untyped(file, other=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201  # on purpose
    """Takes anything, files among it."""
    return [str(type(file).__name__), other]


def read(file: pathlib.Path) -> str:
    """The file's text."""
    return file.read_text()


def fail() -> None:
    """Raises."""
    raise KeyError("it is\nbroken")


def object_to(kind: str, message: str = "") -> None:
    """Raises a ValueError, a TypeError or one of ValueError's kinds."""
    kinds = {"value": ValueError, "type": TypeError, "json": json.JSONDecodeError}
    raise kinds[kind](*([message] if kind != "json" else [message, "{", 1]) if message else ())


def leave() -> None:
    """Ends the interpreter."""
    sys.exit(3)


def crash() -> None:
    """Ends the process, after a word."""
    print("the last word", file=sys.stderr, flush=True)
    os._exit(7)


def hang() -> None:
    """Never ends; says so."""
    print("hanging", flush=True)
    while True:
        time.sleep(3600)


def start_child() -> None:
    """Never ends, and has a child that never ends."""
    subprocess.run([sys.executable, "-c", "import time; time.sleep(3600)"], check=False)


def shout(lines: int) -> str:
    """Prints a lot, also straight to where the pipe was."""
    for number in range(lines):
        print(f"line {number}")
    sys.stdout.flush()
    os.write(1, b"\x00\x00\x00\x05junk\n")
    return "said"


def write_to_every_pipe() -> None:
    """Nonsense on each open descriptor."""
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b"\xff" * 64)
        except OSError:
            continue
    time.sleep(3600)


def large(size: int) -> str:
    """So many letters."""
    return "x" * size


def deep(levels: int) -> list[Any]:
    """Lists within each other."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def no_json() -> object:
    """What JSON has no word for."""
    return {"a": object()}


def not_a_number() -> float:
    """What JSON has no word for either."""
    return float("nan")


def hungry() -> int:
    """Wants three gigabytes, and would not touch them."""
    return len(bytearray(3 * 2**30))


def where() -> list[str]:
    """Its working folder, and a file of its own there."""
    pathlib.Path("mine").write_text("x")
    return [str(pathlib.Path.cwd()), tempfile.gettempdir()]
