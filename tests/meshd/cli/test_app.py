"""The program as a whole: exit codes, one-line errors, quick help, both places of --home."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping

import pytest
import trio

from meshd import __version__
from meshd.cli import app, show
from meshd.cli.app import run
from meshd.home import Home
from tests.meshd.cli.running_daemon import answering, daemon_on

TIMEOUT_S = 20.0
HEAVY = {"trio", "rich", "starlette", "hypercorn", "cryptography", "nacl", "httpx", "zeroconf"}
HEAVY |= {"structlog", "msgpack", "psutil", "numpy", "llama_cpp", "asyncio"}


def _meshd(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "meshd", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, **environment},
    )


def _modules_after(arguments: list[str]) -> set[str]:
    """What is imported after running a command in a process of its own."""
    code = (
        "import sys\nfrom meshd.cli.app import run\n"
        f"try:\n    run({arguments!r})\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    return set(done.stderr.split())


def test_help_lists_the_commands_and_imports_nothing_heavy() -> None:
    """Help must be quick, and quick means few imports."""
    done = _meshd("--help")
    assert done.returncode == 0
    shown = ("up", "demo", "invite", "join", "leave", "nodes", "models", "status", "events", "chat")
    for command in (*shown, "key"):
        assert f"\n  {command} " in done.stdout
    assert not HEAVY & _modules_after(["--help"])


def test_asking_a_daemon_imports_nothing_heavy(tmp_path: pathlib.Path) -> None:
    """A listing must be quick too: the client of the control socket needs no trio."""
    for command in ("nodes", "events"):
        assert not HEAVY & _modules_after([command, "--home", str(tmp_path)])


def test_help_of_every_command_shows_the_common_options() -> None:
    """Each command takes --home and, as each prints, --json."""
    for command in app.app.registered_commands:
        assert command.callback is not None
        done = _meshd(command.callback.__name__, "--help", TERM="dumb", COLUMNS="100")
        assert done.returncode == 0
        assert "--home DIR" in done.stdout
        assert "--json" in done.stdout


def test_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The version is the package's own."""
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"meshd {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["--dance"],
        ["nodes", "--dance"],
        ["nodes", "extra"],
        ["join"],
        ["invite", "--uses", "many"],
        ["nodes", "--home", ""],
        ["nodes", "--home"],
    ],
)
def test_wrong_usage_is_one_line_and_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is typed wrongly: one line on standard error, nothing on standard output."""
    assert run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("meshd: ")
    assert said.err.count("\n") == 1


def test_a_real_process_ends_with_the_right_code(tmp_path: pathlib.Path) -> None:
    """Exit codes reach the shell: 3 without a daemon, 2 for wrong usage, one line each."""
    for arguments, code in ((["nodes"], 3), (["status", "--json"], 3), (["nodes", "-x"], 2)):
        done = _meshd(*arguments, MESHD_HOME=str(tmp_path))
        assert done.returncode == code
        assert done.stdout == ""
        assert done.stderr.startswith("meshd: ")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["nodes"],
        ["models"],
        ["status"],
        ["events"],
        ["events", "--follow"],
        ["invite"],
        ["chat", "x"],
        ["explain", "0123456789abcdef"],
        ["drain"],
    ],
)
def test_no_daemon_is_3_and_says_the_mend(
    arguments: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command that needs a daemon says how to start one."""
    assert run([*arguments, "--home", str(tmp_path)]) == 3
    assert capsys.readouterr().err == (
        f"meshd: no daemon is running on {tmp_path}; start one with: meshd up\n"
    )


def test_home_is_taken_before_behind_and_from_the_environment(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The nearest wins: behind the command, before it, MESHD_HOME."""
    monkeypatch.setenv("MESHD_HOME", str(tmp_path / "environment"))
    before = ["--home", str(tmp_path / "before")]
    behind = ["--home", str(tmp_path / "behind")]
    for arguments, expected in (
        (["nodes"], "environment"),
        ([*before, "nodes"], "before"),
        (["nodes", *behind], "behind"),
        ([*before, "nodes", *behind], "behind"),
    ):
        assert run(arguments) == 3
        assert f"{tmp_path / expected};" in capsys.readouterr().err


def _fail_with(failure: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command that raises `failure`."""

    def fail(*arguments: object, **named: object) -> Mapping[str, object]:
        raise failure

    monkeypatch.setattr(show, "ask", fail)
    return run(["nodes"])


def test_a_bug_is_one_line_and_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never a traceback, unless it is asked for."""
    monkeypatch.delenv("MESHD_DEBUG", raising=False)
    assert _fail_with(LookupError("two\nlines"), monkeypatch) == 1
    said = capsys.readouterr().err
    assert said.startswith("meshd: internal error: LookupError: two lines;")
    assert said.count("\n") == 1
    monkeypatch.setenv("MESHD_DEBUG", "1")
    with pytest.raises(LookupError):
        _fail_with(LookupError("two\nlines"), monkeypatch)


def test_ctrl_c_is_quiet_and_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupted command says nothing."""
    assert _fail_with(KeyboardInterrupt(), monkeypatch) == 130
    said = capsys.readouterr()
    assert said.out + said.err == ""


def _buffered() -> dict[str, str]:
    """The environment without what would make output fail earlier than it usually does."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.mark.parametrize("count", [1, 5_000])
def test_a_closed_pipe_is_quiet(count: int, tmp_path: pathlib.Path) -> None:
    """`meshd nodes | head` ends without a word when its reader has gone."""
    home = Home(tmp_path)
    rows = [{"name": f"node-{number}", "state": "alive"} for number in range(count)]
    with daemon_on(home, {"nodes": answering({"nodes": rows})}):
        for options in ([], ["--json"]):
            process = subprocess.Popen(
                [sys.executable, "-m", "meshd", "nodes", "--home", str(home.path), *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_buffered(),
            )
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            with process.stderr:
                assert process.stderr.read() == b""
            assert process.wait(TIMEOUT_S) == 1


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(tmp_path: pathlib.Path) -> None:
    """Output that cannot be written is said, not lost."""
    home = Home(tmp_path)
    with daemon_on(home, {"nodes": answering({"nodes": []})}), open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "meshd", "nodes", "--json", "--home", str(home.path)],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_S,
            check=False,
            env=_buffered(),
        )
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"No space left" in done.stderr


def test_names_in_foreign_letters_do_not_stop_a_listing(tmp_path: pathlib.Path) -> None:
    """A terminal that lacks a letter gets another one instead of an error."""
    home = Home(tmp_path)
    with daemon_on(home, {"nodes": answering({"nodes": [{"name": "büro"}]})}):
        done = _meshd("nodes", "--home", str(home.path), PYTHONIOENCODING="ascii")
        assert (done.returncode, done.stderr) == (0, "")
        assert "b?ro" in done.stdout
        done = _meshd("nodes", "--home", str(home.path), "--json", PYTHONIOENCODING="ascii")
        assert json.loads(done.stdout) == {"nodes": [{"name": "büro"}]}


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or os.name != "posix", reason="POSIX signals")
def test_a_waiting_process_ends_quietly_on_sigint(tmp_path: pathlib.Path) -> None:
    """Ctrl-C during a wait for the daemon ends the process with 130 and no traceback."""
    asked = threading.Event()

    async def hang(arguments: Mapping[str, object]) -> Mapping[str, object]:
        asked.set()
        await trio.sleep_forever()
        raise AssertionError

    home = Home(tmp_path)
    with daemon_on(home, {"nodes": hang}):
        process = subprocess.Popen(
            [sys.executable, "-m", "meshd", "nodes", "--home", str(home.path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert asked.wait(TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, output) == (130, b"")
