"""The one place where tests run real daemons: `meshd up` as child processes, asked as users ask.

Each has its own home and free ports, and is off the local network unless a test wants it there.
Waiting is for a condition with an absolute deadline; whatever happens, leaving `Daemons` leaves no
process behind.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from meshd import posix
from meshd.cli.children import command
from meshd.control_client import ask
from meshd.home import Home
from tests.helpers.gateway_client import Reply, Stream, open_stream, request

READY_S = 40.0
"""Ample for a start on a busy machine; that a start is fast is not shown here."""
WHOLE_S = 40.0
STOP_S = 10.0
"""What the interface grants a daemon that is told to stop."""
PAUSE_S = 0.03
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

T = TypeVar("T")


def until(what: str, check: Callable[[], T | None], within_s: float) -> T:
    """The first truthy value of `check`; fails the test when none comes in time."""
    deadline = time.monotonic() + within_s
    while not (value := check()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what} (last: {value!r})"
        time.sleep(PAUSE_S)
    return value


def meshd(
    *arguments: str, within_s: float = 30.0, prefix: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run one command of the command line to its end."""
    return subprocess.run(
        [*prefix, *command(), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within_s,
        env=environment(),
        check=False,
    )


def meshd_json(*arguments: str, prefix: Sequence[str] = ()) -> dict[str, Any]:
    """Run one command with `--json`; it must be done, and say one line and nothing else."""
    done = meshd(*arguments, "--json", prefix=prefix)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1, done.stdout
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def environment() -> dict[str, str]:
    """Ours, with this checkout first on the path."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**os.environ, "PYTHONPATH": path, "MESHD_DEBUG": ""}


class Daemon:
    """One `meshd up`, over all its starts on one home."""

    def __init__(
        self, name: str, folder: pathlib.Path, options: Sequence[str], prefix: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.home = Home(folder / name)
        self.options = list(options)
        self.prefix = list(prefix)
        self.log = folder / f"{name}.log"
        self.said: dict[str, Any] = {}
        """The ready line of the present start."""
        self._output = folder / f"{name}.out"
        self._process: subprocess.Popen[bytes] | None = None

    # ---- its life ----

    def launch(self, *more: str) -> "Daemon":
        """Start it, with further options for this time only; does not wait."""
        assert not self.is_running
        self.said = {}
        options = ["--json", "--home", str(self.home.path), "--name", self.name]
        with self._output.open("wb") as output, self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.prefix, *command(), "up", *options, *self.options, *more],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env={**environment(), "MESHD_DEBUG": "1"},
                preexec_fn=posix.dying_with_parent(),
            )
        return self

    def ready(self, within_s: float = READY_S) -> "Daemon":
        """Wait for its ready line."""
        until(f"{self.name} is ready (see {self.log})", self.is_ready, within_s)
        return self

    def is_ready(self) -> bool:
        """Whether its ready line has come."""
        line = self._output.read_bytes()
        if line.endswith(b"\n"):
            self.said = json.loads(line)
            return True
        code = self.process.poll()
        assert code is None, f"{self.name} ended with {code}; it says: {self.last_words()}"
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def ended(self, within_s: float = STOP_S) -> int:
        """Wait for its end; its exit code."""
        return self.process.wait(within_s)

    def stop(self, within_s: float = STOP_S) -> int:
        """SIGTERM and wait; its exit code."""
        self.signal(signal.SIGTERM)
        return self.ended(within_s)

    def kill(self) -> None:
        """kill -9, if it runs, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The child, which must have been started."""
        assert self._process is not None
        return self._process

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.log_text().strip().splitlines() if self.log.exists() else []
        return lines[-1] if lines else "nothing"

    def log_text(self) -> str:
        """What it said on standard error, over all starts."""
        return self.log.read_text("utf-8", "replace")

    # ---- asking it ----

    @property
    def id(self) -> str:
        """Its node id."""
        return str(self.said["node"])

    @property
    def port(self) -> int:
        """Its port for other nodes."""
        return int(self.said["listen"].rpartition(":")[2])

    @property
    def url(self) -> str:
        """Where its gateway is."""
        return str(self.said["gateway"])

    def request(self, method: str, path: str, body: object = None, **headers: str) -> Reply:
        """One HTTP request to its gateway."""
        return request(self.url, method, path, body, headers)

    def get(self, path: str) -> Any:  # noqa: ANN401  # the test knows the shape
        """The JSON of a GET that must succeed."""
        reply = self.request("GET", path)
        assert reply.status == 200, reply
        return reply.json

    def chat(self, model: str, text: str = "Hi", **fields: object) -> Reply:
        """One chat completion in one piece."""
        return self.request("POST", "/v1/chat/completions", chat_body(model, text, fields))

    def stream(self, model: str, text: str = "Hi", **fields: object) -> Stream:
        """A streamed chat completion, to be read and closed by the test."""
        body = chat_body(model, text, {"stream": True, **fields})
        return open_stream(self.url, "/v1/chat/completions", body)

    def nodes(self) -> dict[str, str]:
        """State by name, as it sees the mesh."""
        return {row["name"]: row["state"] for row in self.get("/mesh/v1/nodes")["nodes"]}

    def models(self) -> dict[str, str]:
        """Owners by model, as `/v1/models` lists them."""
        return {row["id"]: row["owned_by"] for row in self.get("/v1/models")["data"]}

    def status(self) -> dict[str, Any]:
        """`/mesh/v1/status`."""
        content: dict[str, Any] = self.get("/mesh/v1/status")
        return content

    def running_requests(self) -> int:
        """How many requests its own models work at."""
        return int(self.status()["load"]["running"])

    def invite(self, uses: int = 1, expires_s: int = 600, *, trusted: bool = False) -> str:
        """A token, from its control socket."""
        result = ask(
            self.home,
            "invite",
            role="worker",
            expires_s=expires_s,
            uses=uses,
            trusted=trusted,
            owner=None,
        )
        return str(result["token"])

    def cli(self, *arguments: str, within_s: float = 30.0) -> subprocess.CompletedProcess[str]:
        """A command on its home."""
        place = ["--home", str(self.home.path)]
        return meshd(*arguments, *place, within_s=within_s, prefix=self.prefix)

    def cli_json(self, *arguments: str) -> dict[str, Any]:
        """A command on its home that prints JSON."""
        return meshd_json(*arguments, "--home", str(self.home.path), prefix=self.prefix)


class Daemons:
    """Daemons that run while inside the context; leaving ends all at once, whatever happened."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.all: dict[str, Daemon] = {}

    def __enter__(self) -> "Daemons":
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        for daemon in self.all.values():
            daemon.kill()
        if kind is None:
            self.check_logs()

    def check_logs(self) -> None:
        """No daemon ever met an exception that it did not expect."""
        for daemon in self.all.values():
            if daemon.log.exists():
                text = daemon.log_text()
                for mark in ("Traceback", "internal error"):
                    assert mark not in text, daemon.log

    def add(
        self,
        name: str,
        *options: str,
        model: str = "none",
        listen: str | None = "127.0.0.1:0",
        gateway: str | None = "127.0.0.1:0",
        lan: bool = False,
        prefix: Sequence[str] = (),
    ) -> Daemon:
        """A daemon to be started; None for an address means the command's own default."""
        chosen = ["--model", model, *options]
        chosen += ["--listen", listen] if listen is not None else []
        chosen += ["--gateway", gateway] if gateway is not None else []
        chosen += [] if lan else ["--no-lan"]
        daemon = self.all[name] = Daemon(name, self.folder, chosen, prefix)
        return daemon

    def mesh(self, models: Mapping[str, str], *, is_whole: bool = True) -> list[Daemon]:
        """A running mesh: the first name founds it, the others join, all at once."""
        founder, *others = [self.add(name, model=model) for name, model in models.items()]
        start_together(founder, others)
        if is_whole:
            wait_whole([founder, *others])
            for name, model in models.items():
                if model != "none":
                    wait_offered([founder, *others], card_name(model), name)
        return [founder, *others]


def start_together(founder: Daemon, others: Sequence[Daemon]) -> None:
    """The one founds a mesh, the others join it, all at once."""
    founder.launch().ready()
    if not others:
        return
    token = founder.invite(uses=len(others))
    for daemon in others:
        daemon.launch("--join", token)
    for daemon in others:
        daemon.ready()


def wait_whole(daemons: Sequence[Daemon], within_s: float = WHOLE_S) -> None:
    """Wait until each of them sees exactly them alive (others may be remembered as gone)."""
    names = sorted(daemon.name for daemon in daemons)

    def views() -> dict[str, list[str]]:
        return {d.name: sorted(n for n, s in d.nodes().items() if s == "alive") for d in daemons}

    seen: dict[str, list[str]] = {}

    def is_whole() -> bool:
        seen.update(views())
        return all(view == names for view in seen.values())

    with _explained(lambda: f"views: {seen}"):
        until(f"all of {names} see each other alive", is_whole, within_s)


def wait_offered(
    daemons: Sequence[Daemon], model: str, owner: str, within_s: float = WHOLE_S
) -> None:
    """Wait until each of them lists `model` as offered by `owner`."""

    def is_listed() -> bool:
        return all(owner in daemon.models().get(model, "").split(",") for daemon in daemons)

    until(f"all list {model} of {owner}", is_listed, within_s)


def revive(daemons: Sequence[Daemon], model: str, owners: Iterable[str]) -> None:
    """Start again who has ended, and wait until the mesh is whole and these offer the model."""
    for daemon in daemons:
        if not daemon.is_running:
            daemon.launch().ready()
    wait_whole(daemons)
    for owner in owners:
        wait_offered(daemons, model, owner)


def wait_state(daemons: Sequence[Daemon], name: str, state: str, within_s: float) -> float:
    """Wait until each of them shows `name` in that state; the seconds that it took."""
    began = time.monotonic()

    def is_shown() -> bool:
        return all(daemon.nodes().get(name) == state for daemon in daemons)

    until(f"all show {name} as {state}", is_shown, within_s)
    return time.monotonic() - began


def card_name(spec: str) -> str:
    """The model's name in the mesh, for a value of `--model`."""
    return spec.removeprefix("test:").partition(",")[0]


def chat_body(model: str, text: str, fields: Mapping[str, object]) -> dict[str, object]:
    """The body of a chat completion."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


@contextlib.contextmanager
def _explained(more: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{error}; {more()}") from None
