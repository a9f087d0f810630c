"""Every command that README.md shows is run here, as it stands there.

Its `console` blocks are one story of two machines, alpha and beta: two homes in this test, on free
ports of loopback. What a reader has and a test has not is put in its place: the token, the model
file (the demo model under that name), the Hub (a local server that speaks its API).
The two installation lines are run by `.ci/run`, which takes them from README.md itself.
"""

import contextlib
import json
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from meshd.cli.children import command
from tests.helpers.daemons import REPOSITORY, environment, until
from tests.runtimes.models.fake_hub import FakeHub

README = (REPOSITORY / "README.md").read_text("utf-8")
DEMO = REPOSITORY / "runtimes/llama/demo/demo.gguf"
HUB_REPOSITORY = "Qwen/Qwen2.5-0.5B-Instruct-GGUF"
HUB_FILE = "qwen2.5-0.5b-instruct-q4_k_m.gguf"
PRIVATE = ("--listen", "127.0.0.1:0", "--gateway", "127.0.0.1:0", "--no-lan")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def story() -> list[tuple[str, str]]:
    """What the reader is told to do, in order: sessions of both machines, and a program."""
    return re.findall(r"^```(console|python)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def inline(prefix: str) -> list[str]:
    """Everything in backticks that begins with `prefix`, once each."""
    return list(dict.fromkeys(re.findall(rf"`({prefix}[^`\n]*)`", README)))


class Machine:
    """One of the story's machines: a home, and at most one `meshd up` at a time."""

    def __init__(self, name: str, folder: pathlib.Path, hub: str) -> None:
        self.name = name
        self.folder = folder
        self.environment = {
            **environment(),
            "MESHD_HOME": str(folder / f"home-{name}"),
            "HOME": str(folder),
            "HF_HOME": str(folder / "hf"),
            "HF_ENDPOINT": hub,
        }
        self.ready: dict[str, str] = {}
        self._up: subprocess.Popen[str] | None = None

    def run(self, words: list[str]) -> str:
        """Run one command to its end, which must be a good one; returns what it printed."""
        done = subprocess.run(
            [*command(), *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{self.name}$ meshd {shlex.join(words)}: {done.stderr}"
        return done.stdout

    def up(self, words: list[str]) -> None:
        """Run `meshd up` until its ready line; an earlier one is stopped first."""
        self.down()
        log = (self.folder / f"{self.name}.log").open("ab")
        with log:
            self._up = subprocess.Popen(
                [*command(), *words, *PRIVATE, "--json", "--name", self.name],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._up.stdout is not None
        self.ready = json.loads(self._up.stdout.readline())

    def down(self) -> None:
        """Stop the daemon, if there is one."""
        if self._up is None:
            return
        self._up.send_signal(signal.SIGTERM)
        with self._up:
            assert self._up.wait(15) == 0
        self._up = None


@pytest.fixture
def machines(tmp_path: pathlib.Path) -> Iterator[dict[str, Machine]]:
    """Alpha and beta, with what README.md takes for granted in their folder."""
    shutil.copy(DEMO, tmp_path / HUB_FILE)
    (job,) = blocks("json")
    (tmp_path / "job.json").write_text(job)
    hub = FakeHub()
    hub.files[HUB_REPOSITORY] = {HUB_FILE: DEMO.read_bytes()}
    with hub.running(), contextlib.ExitStack() as stack:
        both = {name: Machine(name, tmp_path, hub.url) for name in ("alpha", "beta")}
        for machine in both.values():
            stack.callback(machine.down)
        yield both


def _follow(machine: Machine, line: str, token: str) -> None:
    program, *words = shlex.split(line)
    assert program == "meshd"
    words = [token if word.startswith("meshd1_") else word for word in words]
    if words[0] == "up":
        machine.up(words)
        return
    if words[0] in ("models", "chat"):
        rows = until("a model is there", lambda: _models(machine), 40.0)
        assert rows
    said = machine.run(words)
    assert said.strip(), f"{line} prints nothing"


def _models(machine: Machine) -> list[object]:
    rows: list[object] = json.loads(machine.run(["models", "--json"]))["models"]
    return rows


@pytest.mark.llama
@pytest.mark.processes
def test_the_story_of_two_machines(machines: dict[str, Machine]) -> None:
    """Each line at a prompt works, in the order in which a reader meets them."""
    pytest.importorskip("huggingface_hub", reason="the extra [hub] is not installed")
    if not _has_llama():
        pytest.skip("llama.cpp is not installed")
    token = ""
    for language, block in story():
        if language == "python":
            _check_python(machines["beta"], block)
            continue
        for line in block.splitlines():
            prompt = re.match(r"(alpha|beta)\$ ([^#]*)", line)
            if prompt is None:
                continue
            _follow(machines[prompt[1]], prompt[2], token)
            if not token:
                token = json.loads(machines["alpha"].run(["invite", "--json"]))["token"]


def _check_python(machine: Machine, snippet: str) -> None:
    """The snippet works as it stands, against this machine's gateway."""
    program = snippet.replace("http://127.0.0.1:7701", machine.ready["gateway"])
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def _has_llama() -> bool:
    import importlib.util

    return importlib.util.find_spec("llama_cpp") is not None


@pytest.mark.parametrize("words", inline("meshd "))
def test_every_command_that_is_mentioned_exists(words: str) -> None:
    """With the options that it is mentioned with; `meshd sim` is said to be missing."""
    _, name, *rest = shlex.split(words)
    if name == "sim":
        assert "is still a test, not a command" in README
        return
    done = subprocess.run(
        [*command(), name, "--help"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    for option in (word for word in rest if word.startswith("--")):
        assert option in done.stdout


@pytest.mark.parametrize("option", inline("--"))
def test_every_option_that_is_mentioned_exists(option: str) -> None:
    """Each is an option of `meshd up` or of all commands."""
    done = subprocess.run(
        [*command(), "up", "--help"], capture_output=True, text=True, timeout=30, check=True
    )
    assert option.split()[0] in done.stdout


@pytest.mark.parametrize("line", inline("python -m pytest"))
def test_the_commands_behind_the_promises_find_tests(line: str) -> None:
    """The suite that shows a promise is there; it runs with all the others."""
    for path in line.split()[3:]:
        place = REPOSITORY / path
        found = [place] if place.is_file() else sorted(place.glob("test_*.py"))
        assert found, f"{path} holds no tests"


def test_the_benchmark_is_there() -> None:
    """It says how to use it; what it measures takes too long for a test."""
    for line in inline("python -m tests.benchmarks"):
        module = line.split()[2]
        subprocess.run(
            [sys.executable, "-m", module, "--help"],
            cwd=REPOSITORY,
            capture_output=True,
            timeout=60,
            check=True,
        )


def test_the_two_first_lines_are_what_ci_runs() -> None:
    """`.ci/run` greps them out of README.md: one each, ending as it expects."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["demo", "pytest"]
    script = (REPOSITORY / ".ci/run").read_text()
    assert "grep -m1 'pytest$' README.md" in script
    assert "grep -m1 'meshd demo$' README.md" in script
