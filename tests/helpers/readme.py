"""The one place where tests take README.md as a newcomer does: its commands, on machines.

A machine is a home on free ports of loopback. What a reader has and a test has not is put in its
place: a token for the token, a served model, a fake upstream.
"""

import contextlib
import json
import pathlib
import queue
import re
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import trio

from meshd import posix
from meshd.cli.children import command
from tests.helpers.daemons import READY_S, REPOSITORY, environment, until
from tests.runtimes.openai.upstream import Upstream

README = (REPOSITORY / "README.md").read_text("utf-8")
PRIVATE = {"--listen": ["127.0.0.1:0"], "--gateway": ["127.0.0.1:0"], "--no-lan": []}
"""What keeps a test's nodes to themselves, unless the command says otherwise."""
COMMAND_S = 60.0
"""Only a hang comes near it."""
STOP_S = 15.0

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")


def blocks(*languages: str) -> list[tuple[str, str]]:
    """The fenced blocks of these languages (of all, if none is named), in order."""
    found: list[tuple[str, str]] = _BLOCK.findall(README)
    return [block for block in found if not languages or block[0] in languages]


def inline_commands() -> list[str]:
    """What stands in backticks and is a command or an option: words, or a dash; once each."""
    spans = _SPAN.findall(_BLOCK.sub("", README))
    return list(dict.fromkeys(span for span in spans if " " in span or span.startswith("-")))


class Machine:
    """A home, and at most one `meshd up` at a time."""

    def __init__(self, name: str, folder: pathlib.Path, hub: str = "") -> None:
        self.name = name
        self.folder = folder
        self.home = folder / f"home-{name}"
        self.environment = {
            **environment(),
            "MESHD_HOME": str(self.home),
            "HOME": str(folder),
            "HF_HOME": str(folder / "hf"),
            "HF_ENDPOINT": hub,
        }
        self.ready: dict[str, Any] = {}
        self._up: subprocess.Popen[bytes] | None = None

    def ask(self, words: Sequence[str], typed: str = "") -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        return subprocess.run(
            [*command(), *words],
            cwd=self.folder,
            env=self.environment,
            input=typed,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )

    def run(self, words: Sequence[str], typed: str = "") -> str:
        """Run one command to its end, which must be a good one; returns what it printed."""
        done = self.ask(words, typed)
        assert done.returncode == 0, f"{self.name}$ meshd {shlex.join(words)}: {done.stderr}"
        return done.stdout

    def rows(self, what: str) -> list[dict[str, Any]]:
        """What `meshd nodes`, `meshd models` or `meshd jobs` lists."""
        listed: list[dict[str, Any]] = json.loads(self.run([what, "--json"]))[what]
        return listed

    def wait_models(self, *names: str) -> None:
        """Wait until it lists these models, or any, if none is named."""

        def are_there() -> bool:
            listed = {row["name"] for row in self.rows("models")}
            return bool(listed) and listed >= set(names)

        until(f"{self.name} lists {names or 'a model'}", are_there, 40.0)

    def up(self, words: Sequence[str], *, as_json: bool = True) -> str:
        """Run `meshd up` until its first line, which it returns; an earlier one is stopped first.

        As JSON that line is also in `ready`.
        """
        self.down()
        more = {**PRIVATE, "--name": [self.name]} | ({"--json": []} if as_json else {})
        chosen = [
            part
            for option, value in more.items()
            if option not in words
            for part in (option, *value)
        ]
        output = self.folder / f"{self.name}.out"
        with output.open("wb") as out, (self.folder / f"{self.name}.log").open("ab") as log:
            self._up = daemon = subprocess.Popen(
                [*command(), *words, *chosen],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                preexec_fn=posix.dying_with_parent(),
            )

        def first_line() -> str:
            assert daemon.poll() is None, f"it ended at once: see {self.name}.log"
            line, end, _ = output.read_text("utf-8").partition("\n")
            return line if end else ""

        line = until(f"{self.name} is up: see {self.name}.log", first_line, READY_S)
        self.ready = json.loads(line) if as_json else {}
        return line

    def down(self) -> None:
        """Stop the daemon, if there is one."""
        if self._up is None:
            return
        self._up.send_signal(signal.SIGTERM)
        self.wait_end()

    def wait_end(self) -> None:
        """Wait until the daemon has ended, well, for whatever reason."""
        assert self._up is not None
        with self._up as daemon:
            self._up = None
            assert daemon.wait(STOP_S) == 0


@contextlib.contextmanager
def machines(folder: pathlib.Path, *names: str, hub: str = "") -> Iterator[dict[str, Machine]]:
    """Machines that are switched off at the end, whatever happened."""
    with contextlib.ExitStack() as stack:
        all_of_them = {name: Machine(name, folder, hub) for name in names}
        for machine in all_of_them.values():
            stack.callback(machine.down)
        yield all_of_them


@contextlib.contextmanager
def upstream() -> Iterator[str]:
    """The URL of an OpenAI-compatible server with the model `m`, in a thread of its own."""
    said: queue.SimpleQueue[tuple[str, trio.lowlevel.TrioToken]] = queue.SimpleQueue()
    ended = trio.Event()

    async def serve() -> None:
        async with Upstream().running() as server:
            said.put((server.url, trio.lowlevel.current_trio_token()))
            await ended.wait()

    thread = threading.Thread(target=trio.run, args=(serve,), daemon=True)
    thread.start()
    url, token = said.get(timeout=COMMAND_S)
    try:
        yield url
    finally:
        token.run_sync_soon(ended.set)
        thread.join(STOP_S)
