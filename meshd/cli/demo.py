"""The one place for `meshd demo`: a throw-away mesh on loopback that answers a question.

Only one node has a model, and another one is asked: what comes back has crossed the mesh. The
children never outlive the demo, and their folder goes with it.
"""

import contextlib
import importlib.util
import pathlib
import signal
import tempfile
import time
import types
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from meshd.cli import terminal
from meshd.cli.children import Child, Children
from meshd.cli.conversation import asking
from meshd.cli.options import HomeOption, JsonOption
from meshd.control_client import ask
from meshd.failures import UserError
from meshd.options import wrong_usage

NODES_MAX = 16
READY_TIMEOUT_S = 30.0
MODEL_TIMEOUT_S = 60.0
LOOK_EVERY_S = 0.1
MODEL = "demo"
QUESTION = "What is meshd?"
MESSAGES = ({"role": "user", "content": QUESTION},)
ANSWER_TOKENS_MAX = 64
LLAMA_MISSING = (
    "the demo needs llama.cpp, which is not installed; install it with: "
    "pip install llama-cpp-python"
)


def demo(
    context: typer.Context,
    nodes: Annotated[int, typer.Option(metavar="N", help="How many nodes.")] = 3,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a throw-away mesh on this machine."""
    del context, home  # accepted as everywhere, but the demo has folders of its own
    if not 2 <= nodes <= NODES_MAX:
        raise wrong_usage(f"--nodes {nodes}: choose from 2 to {NODES_MAX}")
    if not has_llama():
        raise UserError(LLAMA_MISSING)
    with (
        _termination_as_interrupt(),
        tempfile.TemporaryDirectory(prefix="meshd-demo-", ignore_cleanup_errors=True) as folder,
        Children(pathlib.Path(folder)) as children,
    ):
        started = time.monotonic()
        members = _start(children, nodes)
        with terminal.progress(f"waiting for {members[1].name} to load its model ..."):
            model = _wait_for_model(members)
        ready_s = time.monotonic() - started
        if as_json:
            _ask_as_json(members, model, ready_s)
        else:
            _ask_aloud(members, model, ready_s)


def has_llama() -> bool:
    """Whether llama.cpp is installed; it is not loaded to find out."""
    return importlib.util.find_spec("llama_cpp") is not None


def _start(children: Children, count: int) -> Sequence[Child]:
    """A mesh of `count` nodes, the second with the model, all ready."""
    with terminal.progress("founding a mesh ..."):
        first = children.start("demo-1", ["--model", "none"])
        first.wait_ready(READY_TIMEOUT_S)
        invite = ask(
            first.home,
            "invite",
            role="worker",
            expires_s=600,
            uses=count - 1,
            trusted=False,
            owner=None,
        )
    members = [first]
    with terminal.progress(f"joining {count - 1} more ..."):
        for number in range(2, count + 1):
            offers = ["--model", MODEL if number == 2 else "none"]
            joins = ["--join", str(invite["token"])]
            members.append(children.start(f"demo-{number}", offers + joins))
        for member in members[1:]:
            member.wait_ready(READY_TIMEOUT_S)
    return members


def _wait_for_model(members: Sequence[Child]) -> str:
    """Wait until the first node knows all others and a model; returns the model's name.

    Raises UserError when a child ends or the time is over.
    """
    deadline = time.monotonic() + MODEL_TIMEOUT_S
    names = {member.name for member in members}
    while True:
        for member in members:
            member.check_alive()
        rows = ask(members[0].home, "nodes", all=False)["nodes"]
        models = ask(members[0].home, "models", local=False)["models"]
        if models and names <= {row["name"] for row in rows if row["state"] == "alive"}:
            return str(models[0]["name"])
        if time.monotonic() > deadline:
            raise UserError(
                f"{members[1].name} offered no model within {MODEL_TIMEOUT_S:.0f} s; "
                f"its last words: {members[1].last_words() or 'none'}"
            )
        time.sleep(LOOK_EVERY_S)


def _ask_aloud(members: Sequence[Child], model: str, ready_s: float) -> None:
    """Tell the story on standard output."""
    first, holder = members[0], members[1]
    print(
        f"{len(members)} nodes are one mesh after {ready_s:.1f} s; only {holder.name} has a model."
    )
    print(f"You ask {first.name}: {QUESTION}\n", flush=True)
    with asking(first.gateway, model, MESSAGES, max_tokens=ANSWER_TOKENS_MAX) as answer:
        for text in answer:
            print(terminal.harmless(text, keep="\t\n"), end="", flush=True)
    print(f"\n\n{answer.node or 'Another node'} answered, through {first.name}.")
    print(
        "Next: 'meshd up' makes this machine a node and prints the line that joins another;\n"
        "then point any OpenAI client at http://127.0.0.1:7701/v1, or run 'meshd chat'.",
        flush=True,
    )


def _ask_as_json(members: Sequence[Child], model: str, ready_s: float) -> None:
    first = members[0]
    with asking(first.gateway, model, MESSAGES, max_tokens=ANSWER_TOKENS_MAX) as answer:
        text = "".join(answer)
    terminal.print_json(
        {
            "nodes": len(members),
            "ready_s": round(ready_s, 3),
            "asked": first.name,
            "answered": answer.node,
            "question": QUESTION,
            "answer": text,
        }
    )


@contextlib.contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM and a closed terminal end the demo as Ctrl-C does: with everything put away."""

    def interrupt(number: int, frame: types.FrameType | None) -> None:
        raise KeyboardInterrupt

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), interrupt) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
