"""The one place for `meshd chat`: talk with a model of the mesh from the terminal."""

import contextlib
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from meshd.cli import terminal, units
from meshd.cli.conversation import Door, asking
from meshd.cli.options import HomeOption, JsonOption, chosen_home
from meshd.control_client import ask
from meshd.failures import UserError
from meshd.home import Home
from meshd.options import wrong_usage
from runtimes.embedding import GENERATE

PROMPT_BYTES_MAX = 1024 * 1024
TURNS_MAX = 64
"""Turns that an interactive chat remembers, the oldest forgotten first."""


def chat(
    context: typer.Context,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="[PROMPT]", help="What to say; without it: read it, or converse."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Default: the first that meshd models lists."),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Talk with a model of the mesh, wherever it runs."""
    interactive = prompt is None and sys.stdin is not None and sys.stdin.isatty()
    if interactive and as_json:
        raise wrong_usage("--json needs a prompt, as an argument or on standard input")
    if prompt is None and not interactive:
        prompt = _read_prompt()
    if prompt is not None and not prompt.strip():
        raise wrong_usage("the prompt is empty")
    place = chosen_home(context, home)
    told = ask(place, "gateway")
    gateway = Door(url=told["url"], key=told["key"], fingerprint=told["fingerprint"])
    chosen = _chosen_model(place, model)
    if prompt is None:
        _converse(gateway, chosen)
    else:
        messages = [{"role": "user", "content": prompt}]
        if as_json:
            _answer_as_json(gateway, chosen, messages)
        else:
            _answer(gateway, chosen, messages)


def _read_prompt() -> str:
    """The prompt from a pipe or file. Raises UserError (wrong usage)."""
    if sys.stdin is None:
        return ""
    content = sys.stdin.buffer.read(PROMPT_BYTES_MAX + 1)
    if len(content) > PROMPT_BYTES_MAX:
        raise wrong_usage(f"the prompt is over {PROMPT_BYTES_MAX} bytes long")
    return content.decode(errors="replace")


def _chosen_model(home: Home, wanted: str | None) -> str:
    """The one that was asked for, or the first that there is; says so if it has to be loaded."""
    rows = ask(home, "models", local=False)["models"]
    able = [row for row in rows if GENERATE in row.get("tasks", [GENERATE])]
    if not able and wanted is None:
        raise UserError(
            "no node of the mesh offers a model now; offer one with: meshd up --model demo"
        )
    chosen = able[0]["name"] if wanted is None else wanted
    load_s = max((row.get("ready_in_s") or 0 for row in rows if row["name"] == chosen), default=0)
    if load_s > 0:
        terminal.remark(f"({chosen} is loaded first, which takes about {units.seconds(load_s)})")
    return str(chosen)


def _answer(gateway: Door, model: str, messages: Sequence[dict[str, str]]) -> str:
    """Print an answer as it comes, then who gave it; returns its text."""
    texts: list[str] = []
    on_terminal = terminal.output_is_terminal()
    with asking(gateway, model, messages) as answer:
        try:
            for text in answer:
                texts.append(text)
                shown = terminal.harmless(text, keep="\t\n") if on_terminal else text
                print(shown, end="", flush=True)
        finally:
            if texts:
                print(flush=True)
        terminal.remark(f"({model} on {answer.node or 'an unnamed node'})")
    return "".join(texts)


def _answer_as_json(gateway: Door, model: str, messages: Sequence[dict[str, str]]) -> None:
    with asking(gateway, model, messages) as answer:
        text = "".join(answer)
    terminal.print_json(
        {"model": model, "node": answer.node, "text": text, "finish_reason": answer.finish_reason}
    )


def _converse(gateway: Door, model: str) -> None:
    """Turn after turn until /quit or the end of input."""
    _switch_on_line_editing()
    terminal.remark(f"{model}; /quit or Ctrl-D ends, Ctrl-C stops an answer")
    turns: list[dict[str, str]] = []
    while True:
        try:
            said = input("> ").strip()
        except EOFError:
            print()
            return
        if said == "/quit":
            return
        if not said:
            continue
        turns.append({"role": "user", "content": said})
        try:
            turns.append({"role": "assistant", "content": _answer(gateway, model, turns)})
        except KeyboardInterrupt:
            turns.pop()
            terminal.remark("(stopped)")
        except UserError as failure:
            turns.pop()
            terminal.complain(failure.message)
        del turns[: -2 * TURNS_MAX]


def _switch_on_line_editing() -> None:
    """Arrow keys in `input`, where the platform has them."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - its import is what switches it on
