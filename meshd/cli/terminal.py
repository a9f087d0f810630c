"""The one place for how things look: lines, tables and progress, on a terminal or piped.

What comes from other nodes (names, labels, model names, generated text) is hostile: on its way
to a terminal it loses every character that could steer it.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


def complain(message: str) -> None:
    """One line on standard error."""
    _print_error(f"meshd: {harmless(' '.join(message.split()))}")


def remark(message: str) -> None:
    """A dim line on standard error, beside the output proper."""
    line = harmless(message)
    has_styles = error_is_terminal() and os.environ.get("TERM") != "dumb"
    _print_error(f"\x1b[2m{line}\x1b[0m" if has_styles else line)


def output_is_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout is not None and sys.stdout.isatty()


def error_is_terminal() -> bool:
    """Whether a person reads standard error."""
    return sys.stderr is not None and sys.stderr.isatty()


def print_json(value: Mapping[str, Any]) -> None:
    """`value` as one line for programs, at once."""
    print(json.dumps(value), flush=True)


def harmless(text: str, *, keep: str = "") -> str:
    """`text` without what could steer a terminal, except the characters in `keep`."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in keep else "\N{REPLACEMENT CHARACTER}"
        for letter in text
    )


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table: drawn on a terminal, else aligned by spaces, for eyes and `awk` alike."""
    cells = [[harmless(cell) for cell in row] for row in rows]
    if output_is_terminal():
        _print_rich_table(columns, cells)
        return
    header = [column.upper() for column in columns]
    lines = [header, *([cell or "-" for cell in row] for row in cells)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(padded).rstrip())


def _print_rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import console, table, text  # slow to import, and only for terminals

    drawn = table.Table(box=None, padding=(0, 2, 0, 0))
    for column in columns[:-1]:
        drawn.add_column(column, no_wrap=True)
    drawn.add_column(columns[-1], overflow="fold")  # the lists are there
    for row in rows:
        drawn.add_row(*(text.Text(cell) for cell in row))
    console.Console().print(drawn)


@contextlib.contextmanager
def progress(message: str) -> Iterator[None]:
    """Show on a terminal that something takes its time; nothing elsewhere."""
    if not error_is_terminal():
        yield
        return
    from rich import console, text  # slow to import, and only for terminals

    with console.Console(stderr=True).status(text.Text(message)):
        yield


@contextlib.contextmanager
def counted(message: str, total: int) -> Iterator[Callable[..., None]]:
    """A bar that fills as the yielded function is called with how many more are done (one unless
    said); nothing where nobody looks.
    """
    if not error_is_terminal():
        yield lambda more=1: None
        return
    from rich import console, progress  # slow to import, and only for terminals

    with progress.Progress(console=console.Console(stderr=True), transient=True) as bar:
        task = bar.add_task(message, total=total)
        yield lambda more=1: bar.advance(task, more)


@contextlib.contextmanager
def unread_output() -> Iterator[None]:
    """Print what need not be read: a reader that has gone is no failure inside."""
    try:
        yield
    except BrokenPipeError:
        forget_output()


def forget_output() -> None:
    """Whoever read standard output is gone: what is still buffered must not complain at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _print_error(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)
