"""Every command that README.md shows is run here, as it stands there.

Its `console` and `python` blocks are one story of two machines, alpha and beta. What it mentions
in backticks is run by the tables below, in their order: what a reader would add, such as a token
or a file, is in a `Way`. A command that is in no table fails
`test_every_command_is_run_somewhere`. The installation lines are run by `.ci/run`, which takes
them from README.md itself.
"""

import dataclasses
import importlib.util
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest

from meshd.cli.children import command
from tests.helpers.certificates import make_certificate
from tests.helpers.daemons import REPOSITORY, chat_body, environment, meshd
from tests.helpers.gateway_client import request
from tests.helpers.readme import (
    COMMAND_S,
    README,
    Machine,
    blocks,
    inline_commands,
    machines,
    upstream,
)
from tests.helpers.recordings import make_trace
from tests.runtimes.models.fake_hub import FakeHub

DEMO = REPOSITORY / "runtimes/llama/demo/demo.gguf"
HUB_REPOSITORY = "Qwen/Qwen2.5-0.5B-Instruct-GGUF"
HUB_FILE = "qwen2.5-0.5b-instruct-q4_k_m.gguf"
SHOWN_UPSTREAM = "http://127.0.0.1:11434"
SHOWN_GATEWAY = "http://127.0.0.1:7701"
ENDLESS = {"job_id": "endless", "function": "meshd.primes", "arguments": {"limit": 10**12}}

needs_llama = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="llama.cpp is not installed"
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a command of README.md's running text is run."""

    machine: str
    more: tuple[str, ...] = ()
    """What a reader adds. TOKEN is the latest invite, JOB the latest job's id, REQUEST that of an
    answer."""
    typed: str = ""
    """On standard input."""
    first: tuple[str, ...] = ()
    """A command that makes what this one is about."""
    models: tuple[str, ...] = ()
    """What the machine must list before."""
    shows: str = ""
    """What it prints, among other things."""


WAYS = {
    "meshd up": Way(machine="alpha", more=("--model", "test:words"), shows="mesh"),
    "meshd invite": Way(machine="alpha", shows="meshd1_"),
    "meshd invite --uses 5 --expires 1d": Way(machine="alpha", shows="meshd1_"),
    "meshd join": Way(machine="beta", more=("TOKEN",), shows="mesh"),
    "meshd passphrase set": Way(
        machine="beta", more=("--new-passphrase-file", "secret"), shows="node.key"
    ),
    "meshd passphrase remove": Way(
        machine="beta", more=("--passphrase-file", "secret"), shows="node.key"
    ),
    f"meshd up --upstream {SHOWN_UPSTREAM}": Way(machine="beta", shows="mesh"),
    "meshd nodes": Way(machine="beta", shows="alpha", models=("m", "words")),
    "meshd models": Way(machine="alpha", shows="words", models=("m", "words")),
    "meshd models --local": Way(machine="alpha", shows="words", models=("m", "words")),
    "meshd status": Way(machine="beta", shows="functions"),
    "meshd events": Way(machine="beta", shows="alive"),
    "meshd chat": Way(machine="beta", typed="Hello?\n"),
    "meshd explain": Way(machine="beta", more=("REQUEST",), shows="fastest"),
    "meshd submit": Way(machine="beta", more=("job.json",), shows="9592"),
    "meshd jobs": Way(machine="beta", shows="meshd.primes"),
    "meshd job": Way(machine="beta", more=("JOB",), shows="9592"),
    "meshd cancel": Way(
        machine="beta",
        more=("endless",),
        first=("submit", "endless.json", "--detach"),
        shows="cancelled",
    ),
    "meshd usage": Way(machine="beta"),
    "meshd drain": Way(machine="beta"),
    "meshd invites": Way(machine="alpha", shows="worker"),
    "meshd grant": Way(machine="alpha", more=("beta",), shows="beta"),
    "meshd audit verify": Way(machine="alpha", shows="signed"),
    "meshd audit show": Way(machine="alpha", shows="member.admitted"),
    "meshd root export": Way(
        machine="alpha", more=("root.pem", "--passphrase-file", "secret"), shows="root.pem"
    ),
    "meshd root import": Way(
        machine="alpha", more=("root.pem", "--passphrase-file", "secret"), shows="mesh"
    ),
    "meshd key create": Way(machine="alpha", more=("phone",), shows="meshd-sk-"),
    "meshd key list": Way(machine="alpha", shows="phone"),
    "meshd key revoke": Way(machine="alpha", more=("phone",), shows="phone"),
    "meshd leave": Way(machine="beta"),
    "meshd revoke": Way(machine="alpha", more=("beta",), shows="beta"),
    "meshd root remove": Way(
        machine="alpha", more=("root.pem", "--passphrase-file", "secret"), shows="mesh"
    ),
}
"""In the order in which they are run; alpha founds the mesh."""
EVERYWHERE = {"--home DIR", "--json"}
"""Options that the commands above are all run with."""
UP_OPTIONS = {
    "--model": "test:words",
    "--model-memory": "8gb",
    "--upstream": "URL",
    "--join": "TOKEN",
    "--name": "upstairs",
    "--label": "room=attic",
    "--listen": "127.0.0.1:PORT",
    "--advertise": "localhost:PORT",
    "--gateway": "127.0.0.1:GATEWAY",
    "--require-key": "",
    "--tls-cert": "CERTIFICATE",
    "--tls-key": "PRIVATE",
    "--insecure-http": "",
    "--cors-origin": "https://chat.example.org",
    "--gateway-host": "box.lan",
    "--policy": "fastest",
    "--yield-to-owner": "",
    "--no-lan": "",
    "--record": "trace",
    "--passphrase-file": "secret",
}
"""All of them, on one machine; URL, TOKEN, ports and files are known when the test runs."""
DEMONSTRATION = "meshd demo"
PAIRING = "meshd pair"
BENCHMARK = "python -m tests.benchmarks.request_cost"
MEMBERSHIP_BENCHMARK = "python -m tests.benchmarks.membership death"
POLICIES_BENCHMARK = (
    "python -m tests.benchmarks.policies --nodes 1000 --seconds 20 --seeds 10 --load-age 1 5 "
    "--policies meshd least_loaded round_robin"
)
GARAGE_BENCHMARK = "python -m tests.benchmarks.garage"
SUITE = "python -m pytest "
PLAIN_INSTALLATION = "pip install ."
SIMULATIONS = {
    "meshd sim run": ("join_storm", "--nodes", "5"),
    "meshd sim list": (),
    "meshd sim bench": ("--nodes", "5", "--seconds", "1"),
    "meshd sim sweep": ("single_death", "--set", "nodes=3,4", "--seeds", "1", "--processes", "1"),
    "meshd sim fuzz": ("--nodes", "3", "--seeds", "2", "--processes", "1"),
    "meshd sim replay": ("TRACE",),
}
"""Without a machine: they need no home and no daemon."""


def suites() -> list[str]:
    """The commands that run tests."""
    return [line for line in inline_commands() if line.startswith(SUITE)]


def prompts() -> list[tuple[str, str]]:
    """The machines of all lines at a prompt, and the lines."""
    return re.findall(r"^(\w+)\$ (.*)$", README, re.MULTILINE)


def test_every_command_is_run_somewhere() -> None:
    """What is in backticks is in a table of this file, whose entries are all in README.md."""
    run = {*WAYS, *UP_OPTIONS, *EVERYWHERE, *suites()}
    run |= {
        DEMONSTRATION,
        PAIRING,
        BENCHMARK,
        MEMBERSHIP_BENCHMARK,
        POLICIES_BENCHMARK,
        GARAGE_BENCHMARK,
        PLAIN_INSTALLATION,
        *SIMULATIONS,
    }
    assert set(inline_commands()) == run


def test_every_block_is_of_a_kind_that_is_run() -> None:
    """Also each line at a prompt is at one of the story's two machines; a drawing runs nothing."""
    assert {language for language, _ in blocks()} == {"sh", "console", "python", "json", "text"}
    assert {machine for machine, _ in prompts()} == {"alpha", "beta"}


@pytest.mark.parametrize("command", SIMULATIONS)
def test_the_simulator_needs_no_daemon(tmp_path: pathlib.Path, command: str) -> None:
    """Each of its commands, with the least that a reader adds."""
    _, *words = command.split()
    trace = make_trace(tmp_path / "trace")
    words += [str(trace) if word == "TRACE" else word for word in SIMULATIONS[command]]
    done = meshd(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout


# ---- the story ----


@pytest.fixture
def two(tmp_path: pathlib.Path) -> Iterator[dict[str, Machine]]:
    """Alpha and beta, with what README.md takes for granted in their folder."""
    shutil.copy(DEMO, tmp_path / HUB_FILE)
    place_jobs(tmp_path)
    hub = FakeHub()
    hub.files[HUB_REPOSITORY] = {HUB_FILE: DEMO.read_bytes()}
    with hub.running(), machines(tmp_path, "alpha", "beta", hub=hub.url) as both:
        yield both


def place_jobs(folder: pathlib.Path) -> None:
    """The job that README.md shows, and one that has to be cancelled."""
    ((_, job),) = blocks("json")
    (folder / "job.json").write_text(job)
    (folder / "endless.json").write_text(json.dumps(ENDLESS))
    place_passphrase(folder)


def place_passphrase(folder: pathlib.Path) -> None:
    """A file with one, for its owner only."""
    (folder / "secret").touch(mode=0o600)
    (folder / "secret").write_text("correct horse\n")


@pytest.mark.llama
@pytest.mark.processes
@needs_llama
def test_the_story_of_two_machines(two: dict[str, Machine]) -> None:
    """Each line at a prompt works, in the order in which a reader meets them."""
    pytest.importorskip("huggingface_hub", reason="the extra [hub] is not installed")
    token = ""
    for language, block in blocks("console", "python"):
        if language == "python":
            check_python(two["beta"], block)
            continue
        for name, line in re.findall(r"^(\w+)\$ ([^#\n]*)", block, re.MULTILINE):
            follow(two[name], line, token)
            token = token or json.loads(two["alpha"].run(["invite", "--json"]))["token"]


def follow(machine: Machine, line: str, token: str) -> None:
    """One line of the story."""
    program, *words = shlex.split(line)
    assert program == "meshd"
    words = [token if word.startswith("meshd1_") else word for word in words]
    if words[0] == "up":
        machine.up(words)
        return
    if words[0] in ("models", "chat"):
        machine.wait_models()
    assert machine.run(words).strip(), f"{line} prints nothing"


def check_python(machine: Machine, snippet: str) -> None:
    """The snippet works as it stands, against this machine's gateway."""
    assert SHOWN_GATEWAY in snippet
    done = finished(
        [sys.executable, "-c", snippet.replace(SHOWN_GATEWAY, machine.ready["gateway"])]
    )
    assert done.strip()


def finished(words: list[str]) -> str:
    """What a program prints that must end well, in the folder of README.md."""
    done = subprocess.run(
        words,
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---- the running text ----


@pytest.mark.processes
@pytest.mark.parametrize("is_for_programs", [False, True], ids=["as-it-stands", "home-and-json"])
def test_the_commands_of_the_text(tmp_path: pathlib.Path, is_for_programs: bool) -> None:
    """Each ends well and prints what it is about; all take --home and --json."""
    place_jobs(tmp_path)
    with upstream() as url, machines(tmp_path, "alpha", "beta") as both:
        for line, way in WAYS.items():
            machine = both[way.machine]
            if way.models:
                machine.wait_models(*way.models)
            if way.first:
                machine.run(way.first)
            words = [url if word == SHOWN_UPSTREAM else word for word in shlex.split(line)[1:]]
            words += [known(word, both) for word in way.more]
            if is_for_programs:
                words += ["--home", str(machine.home), "--json"]
            if words[0] == "up":
                said = machine.up(words, as_json=is_for_programs)
            else:
                said = machine.run(words, way.typed)
            assert way.shows in said, f"{line} prints: {said}"
            assert said.strip(), f"{line} prints nothing"
            if is_for_programs:
                json.loads(said)
        both["beta"].wait_end()  # with its membership


def known(word: str, both: dict[str, Machine]) -> str:
    """A word that a reader adds, with what only the mesh knows in its place."""
    if word == "TOKEN":
        return str(json.loads(both["alpha"].run(["invite", "--json"]))["token"])
    if word == "REQUEST":
        gateway = json.loads(both["beta"].run(["status", "--json"]))["gateway"]
        body = chat_body("words", "Hi", {})
        reply = request(gateway, "POST", "/v1/chat/completions", body, {})
        return str(reply.headers["x-meshd-request"])
    if word == "JOB":
        return str(both["beta"].rows("jobs")[0]["id"])
    return word


@pytest.mark.processes
def test_the_options_of_up(tmp_path: pathlib.Path) -> None:
    """All that the table of commands names, together, do what their names say."""
    place_passphrase(tmp_path)
    with upstream() as url, machines(tmp_path, "alpha", "beta", "gamma") as three:
        three["alpha"].up(["up", "--model", "none"])
        three["gamma"].up(["up", "--model", "none"])  # it only finds free ports
        three["gamma"].down()
        port, gateway = (
            three["gamma"].ready[key].rpartition(":")[2] for key in ("listen", "gateway")
        )
        values = {"URL": url, "TOKEN": known("TOKEN", three), "PORT": port, "GATEWAY": gateway}
        certificate, private = make_certificate(tmp_path)
        values |= {"CERTIFICATE": str(certificate), "PRIVATE": str(private)}
        words = ["up"]
        for option, value in UP_OPTIONS.items():
            filled = re.sub(r"(?<!\d)[A-Z]{2,}", lambda found: values[found[0]], value)
            words += [option, filled] if filled else [option]
        three["beta"].up(words)
        three["alpha"].wait_models("words", "m")
        said = three["beta"].ready
        assert said["listen"] == f"127.0.0.1:{port}"
        assert said["gateway"] == f"https://127.0.0.1:{gateway}"
        reply = request(said["gateway"], "GET", "/v1/models", None, {"host": "box.lan"})
        assert reply.status == 401
        status = json.loads(three["beta"].run(["status", "--json"]))
        assert status["addresses"] == [f"localhost:{port}"]
        rows = {row["name"]: row for row in three["alpha"].rows("nodes")}
        assert rows["upstairs"]["labels"] == {"room": "attic"}
        assert sorted(rows["upstairs"]["models"]) == ["m", "words"]
        assert "the same" in three["beta"].run(["sim", "replay", "trace"])


@pytest.mark.processes
def test_the_exit_codes(tmp_path: pathlib.Path) -> None:
    """They are as README.md lists them, and a failure is one line."""
    assert "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no daemon." in README
    with machines(tmp_path, "alpha", "beta") as both:
        both["alpha"].up(["up", "--model", "none"])
        for code, name, words in (
            (0, "alpha", "nodes"),
            (1, "alpha", "job nobody-knows"),
            (2, "alpha", "submit no-such-file.json"),
            (3, "beta", "nodes"),
        ):
            done = both[name].ask(words.split())
            assert done.returncode == code, words
            assert done.stderr.count("\n") == (code > 0)


@pytest.mark.llama
@pytest.mark.processes
@needs_llama
def test_the_demonstration(tmp_path: pathlib.Path) -> None:
    """A question is answered, and nothing of its mesh stays."""
    with machines(tmp_path, "alpha") as one:
        assert one["alpha"].run(shlex.split(DEMONSTRATION)[1:]).strip()


@pytest.mark.processes
def test_pairing(tmp_path: pathlib.Path) -> None:
    """One machine waits with a code while the other one joins by it."""
    with machines(tmp_path, "alpha", "beta") as both:
        alpha, beta = both["alpha"], both["beta"]
        alpha.up(["up", "--model", "none"])
        words = [*command(), *shlex.split(PAIRING)[1:], "--json"]
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, env=alpha.environment, text=True
        ) as waiting:
            try:
                assert waiting.stdout is not None
                shown = json.loads(waiting.stdout.readline())
                said = beta.run(["join", shown["code"], "--at", shown["addresses"][0]])
                assert "Joined mesh" in said
                assert waiting.wait(COMMAND_S) == 0
            finally:
                waiting.kill()


# ---- the promises, and what CI runs ----


def test_the_commands_behind_the_promises_find_tests() -> None:
    """Each path of each command holds tests; they run with all the others."""
    paths = sorted({path for line in suites() for path in shlex.split(line)[3:]})
    assert paths
    options = ["--collect-only", "-q", "-p", "no:cacheprovider"]
    found = finished([sys.executable, "-m", "pytest", *options, *paths]).splitlines()
    for path in paths:
        assert any(re.match(rf"{re.escape(path)}[/:]", line) for line in found), path


@pytest.mark.llama
@pytest.mark.processes
@needs_llama
def test_the_benchmark_prints_its_figures() -> None:
    """In its short form, which does the same, less often."""
    _, *words = shlex.split(BENCHMARK)
    printed = finished([sys.executable, *words, "--short"])
    for what in (
        "asked directly",
        "one hop",
        "two hops",
        "idle gateway-only daemon",
        "meshd nodes",
    ):
        assert what in printed


def test_the_installations_are_what_ci_runs() -> None:
    """`.ci/run` greps two lines out of README.md, ending as it expects, and installs without."""
    lines = [line for _, block in blocks("sh") for line in block.splitlines()]
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["demo", "pytest"]
    script = (REPOSITORY / ".ci/run").read_text()
    assert "grep -m1 'pytest$' README.md" in script
    assert "grep -m1 'meshd demo$' README.md" in script
    assert PLAIN_INSTALLATION == "pip install ."
    assert re.search(r'/bin/pip" install (-q )?\.$', script, re.MULTILINE)
    assert 'bash -c "$test_line"' in script
    assert 'bash -c "$main_line"' in script


def test_every_extra_that_is_named_exists() -> None:
    """Also in prose: pip only warns of one that it does not know."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    named = re.findall(r"\.\[([\w,]+)\]", README) + re.findall(r"`\[(\w+)\]`", README)
    assert named
    extras = project["project"]["optional-dependencies"]
    assert {extra for group in named for extra in group.split(",")} <= set(extras)


def test_no_block_hides_from_these_tests() -> None:
    """Only fences of three backticks are found: no tildes, and no code by indentation."""
    assert "~~~" not in README
    assert not re.search(
        r"^(    |\t)\S", re.sub(r"^```.*?^```", "", README, flags=re.M | re.S), re.M
    )


@pytest.mark.processes
def test_the_membership_benchmark_prints_its_figures() -> None:
    """In its short form, and with meshd alone: Serf may not be here."""
    _, *words = shlex.split(MEMBERSHIP_BENCHMARK)
    short = ["--nodes", "4", "--runs", "1", "--only", "meshd"]
    assert "last dead s" in finished([sys.executable, *words, *short])
