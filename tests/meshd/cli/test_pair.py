"""`meshd pair` and `meshd join CODE`: what is asked, printed, and refused."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import pytest

from meshd.cli.app import run
from meshd.control import Report, Streaming
from meshd.home import Home
from tests.meshd.cli.running_daemon import daemon_on

CODE = {
    "event": "code",
    "code": "47-3915-8206",
    "expires_s": 120,
    "addresses": ["10.0.0.1:7702", "[fd00::1]:7702"],
    "is_announced": True,
}
NEWS = ({"event": "wrong_code", "tries_left": 2}, {"event": "code_accepted"})
JOINED = {"event": "joined", "node": "abcdefghijkl", "name": "bert"}


class Played:
    """A daemon's `pair`: tells all of this, then who joined."""

    def __init__(self, *news: Mapping[str, Any], joined: Mapping[str, Any] = JOINED) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self._news = news
        self._joined = joined

    async def __call__(self, arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
        self.asked.append(arguments)
        for news in self._news:
            await report(news)
        return self._joined


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    """A home for a played daemon."""
    return Home(tmp_path / "home")


def test_people_see_the_code_what_to_type_and_who_joined(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """The code and the outcome are standard output, the rest is beside it."""
    played = Played(CODE, *NEWS, {"event": "of a later version"})
    with daemon_on(home, {"pair": Streaming(played)}):
        assert run(["pair", "--home", str(home.path)]) == 0
    assert played.asked == [{"role": "worker", "trusted": False, "owner": None, "port": None}]
    out, err = capsys.readouterr()
    assert out.splitlines() == ["Code: 47-3915-8206", "Joined: bert (abcdefgh)"]
    assert "within 120 s: meshd join 47-3915-8206\n" in err
    assert "--at 10.0.0.1:7702 or --at [fd00::1]:7702" in err
    assert "tries left: 2" in err


def test_off_the_local_network_the_address_is_part_of_what_to_type(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing would find it; and a newcomer that is not running has an id and no name."""
    played = Played({**CODE, "is_announced": False}, joined={**JOINED, "name": None})
    with daemon_on(home, {"pair": Streaming(played)}):
        assert run(["pair", "--home", str(home.path)]) == 0
    out, err = capsys.readouterr()
    assert "meshd join 47-3915-8206 --at 10.0.0.1:7702\n" in err
    assert out.endswith("Joined: abcdefghijkl\n")


def test_programs_read_a_line_for_each_thing_that_happens(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """The code first, the outcome last; options land in the request."""
    played = Played(CODE, *NEWS)
    options = "--role worker --trusted --owner Ann --port 7710 --json"
    with daemon_on(home, {"pair": Streaming(played)}):
        assert run(["pair", *options.split(), "--home", str(home.path)]) == 0
    assert played.asked == [{"role": "worker", "trusted": True, "owner": "Ann", "port": 7_710}]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [CODE, *NEWS, JOINED]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("pair --role king", "choose from admin, worker"),
        ("pair --owner=", "printable"),
        ("pair --port 65536", "65535"),
        ("join 47-3915-820", "ten digits"),
        ("join 47-3915-8206 --at nowhere", "HOST:PORT"),
        ("join 47-3915-8206 --at 10.0.0.1:0", "real port"),
        ("join meshd1_abc --at 10.0.0.1:7702", "goes with the code"),
        ("up --join 47-3915-8206", "meshd join CODE"),
    ],
)
def test_what_is_typed_wrongly_is_wrong_usage(
    command: str, said: str, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found before anything is touched, with a line that says what is possible."""
    assert run([*command.split(), "--home", str(home.path)]) == 2
    assert said in capsys.readouterr().err
    assert not home.path.exists()


def test_pairing_needs_a_running_daemon(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """It is the daemon that waits for the other machine."""
    assert run(["pair", "--home", str(home.path)]) == 3
    assert "meshd up" in capsys.readouterr().err
