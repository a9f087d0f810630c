"""The one place for `meshd demo`: a throw-away mesh on loopback that answers a question.

Two nodes have the same model, and another one is asked: what comes back has crossed the mesh. Amid
the answer whoever gives it is killed, and the other goes on. (Of two nodes only one has the model,
and nobody is killed.) The children never outlive the demo, and their folder goes with it.
"""

import contextlib
import dataclasses
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
HOLDERS = 2
"""Nodes with the model, of three and more."""
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
        with terminal.progress("waiting for the model to be loaded ..."):
            model = _wait_for_model(members)
        ready_s = time.monotonic() - started
        if as_json:
            _ask_as_json(members, model, ready_s)
        else:
            _ask_aloud(members, model, ready_s)


def has_llama() -> bool:
    """Whether llama.cpp is installed; it is not loaded to find out."""
    return importlib.util.find_spec("llama_cpp") is not None


def _holders(members: Sequence[Child]) -> Sequence[Child]:
    """Those with the model."""
    return members[1 : 1 + HOLDERS]


def _start(children: Children, count: int) -> Sequence[Child]:
    """A mesh of `count` nodes, the second and third with the model, all ready."""
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
            offers = ["--model", MODEL if number <= 1 + HOLDERS else "none"]
            joins = ["--join", str(invite["token"])]
            members.append(children.start(f"demo-{number}", offers + joins))
        for member in members[1:]:
            member.wait_ready(READY_TIMEOUT_S)
    return members


def _wait_for_model(members: Sequence[Child]) -> str:
    """Wait until the first node knows all others and who has the model; returns its name.

    Raises UserError when a child ends or the time is over.
    """
    deadline = time.monotonic() + MODEL_TIMEOUT_S
    names = {member.name for member in members}
    holders = {member.name for member in _holders(members)}
    while True:
        for member in members:
            member.check_alive()
        rows = ask(members[0].home, "nodes", all=False)["nodes"]
        models = ask(members[0].home, "models", local=False)["models"]
        alive = {row["name"] for row in rows if row["state"] == "alive"}
        if models and names <= alive and holders <= set(models[0]["nodes"]):
            return str(models[0]["name"])
        if time.monotonic() > deadline:
            raise UserError(
                f"{' and '.join(sorted(holders))} offered no model within {MODEL_TIMEOUT_S:.0f} s; "
                f"last words: {members[1].last_words() or 'none'}"
            )
        time.sleep(LOOK_EVERY_S)


def _ask_aloud(members: Sequence[Child], model: str, ready_s: float) -> None:
    """Tell the story on standard output."""
    first, holders = members[0], _holders(members)
    names = " and ".join(holder.name for holder in holders)
    has = "has a model" if len(holders) == 1 else "have the same model"
    print(f"{len(members)} nodes are one mesh after {ready_s:.1f} s; only {names} {has}.")
    print(f"You ask {first.name}: {QUESTION}\n", flush=True)
    told = Told()
    for text in told.texts(first, model, holders):
        print(terminal.harmless(text, keep="\t\n"), end="", flush=True)
    print(f"\n\n{told.summary(first.name)}")
    print(
        "Next: 'meshd up' makes this machine a node and prints the line that joins another;\n"
        "then point any OpenAI client at http://127.0.0.1:7701/v1, or run 'meshd chat'.",
        flush=True,
    )


def _ask_as_json(members: Sequence[Child], model: str, ready_s: float) -> None:
    first, told = members[0], Told()
    text = "".join(told.texts(first, model, _holders(members)))
    terminal.print_json(
        {
            "nodes": len(members),
            "ready_s": round(ready_s, 3),
            "asked": first.name,
            "answered": told.answered,
            "killed": told.killed,
            "continued": told.continued,
            "question": QUESTION,
            "answer": text,
        }
    )


@dataclasses.dataclass(slots=True)
class Told:
    """One answer, and what was done meanwhile."""

    answered: str = ""
    """Who began it."""
    killed: str | None = None
    """Who was killed amid it: whoever gave it."""
    continued: str | None = None
    """Who went on with it then."""

    def texts(self, first: Child, model: str, holders: Sequence[Child]) -> Iterator[str]:
        """The answer as it comes; kills who gives it, if another one can go on."""
        with asking(first.gateway, model, MESSAGES, max_tokens=ANSWER_TOKENS_MAX) as answer:
            self.answered = answer.node
            for text in answer:
                yield text
                if self.killed is None and len(holders) > 1:
                    for holder in holders:
                        if holder.name == answer.node:
                            holder.kill()
                            self.killed = holder.name
            if len(answer.nodes) > 1:
                self.continued = answer.nodes[-1]

    def summary(self, asked: str) -> str:
        """For people."""
        node = self.answered or "Another node"
        if self.continued is not None:
            return (
                f"{node} was killed (kill -9) amid its answer; {self.continued} went on with it, "
                f"in the same stream, through {asked}."
            )
        too_late = " It was killed, but had said everything before." if self.killed else ""
        return f"{node} answered, through {asked}.{too_late}"


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
