"""Scenario files: what they may say, and one clear line for what they may not."""

import pathlib

import pytest

from protocol.config import MILLISECOND, SECOND
from simulations.acts import READERS
from simulations.director import check_groups
from simulations.latency import even
from simulations.library import find_scenario, library, resized
from simulations.scenario import Scenario, Who, read_scenario
from simulations.section import ScenarioError

PLAIN = "nodes = 5\nduration_s = 10\n"


def _read(folder: pathlib.Path, text: str) -> Scenario:
    path = folder / "mine.toml"
    path.write_text(text, "utf-8")
    scenario = read_scenario(path, READERS)
    check_groups(scenario)
    return scenario


def test_everything_has_a_default(tmp_path: pathlib.Path) -> None:
    """A number of nodes and a duration are enough."""
    scenario = _read(tmp_path, PLAIN)
    assert (scenario.name, scenario.nodes, scenario.duration_ns) == ("mine", 5, 10 * SECOND)
    assert (scenario.form, scenario.acts) == ("whole", ())


def test_everything_can_be_said(tmp_path: pathlib.Path) -> None:
    """Network, protocol and acts, in people's units."""
    scenario = _read(
        tmp_path,
        PLAIN
        + """
title = "mine"
form = "together"
[network]
delay_ms = [1, 2.5]
loss_percent = 1.5
duplicate_percent = 0.1
stream_timeout_s = 2
[protocol]
probe_interval_ms = 500
probe_timeout_ms = 200
suspicion_mult = 5
[[act]]
at_s = 1
do = "starve"
share = 0.4
group = "slow"
late_ms = [100, 300]
for_s = 2
[[act]]
at_s = 2
every_s = 3
until_s = 8
do = "crash"
count = 1
but = ["slow"]
silent = true
""",
    )
    assert scenario.network.delay == even(MILLISECOND, 5 * MILLISECOND // 2)
    assert (scenario.network.loss_ppm, scenario.network.duplicate_ppm) == (15_000, 1_000)
    assert scenario.network.stream_timeout_ns == 2 * SECOND
    assert scenario.protocol.probe_interval_ns == SECOND // 2
    assert scenario.protocol.suspicion_mult == 5
    starve, *crashes = scenario.acts
    assert starve.who == Who(share_ppm=400_000, group="slow")
    assert (starve.for_ns, starve.options["late_ns"]) == (
        2 * SECOND,
        (100 * MILLISECOND, 300 * MILLISECOND),
    )
    assert [act.at_ns // SECOND for act in crashes] == [2, 5, 8]
    assert crashes[0].who == Who(count=1, but=("slow",))
    assert crashes[0].options == {"silent": True}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nodes = 5\nduration = 3\n", "unknown key 'duration'; did you mean 'duration_s'?"),
        ("nodes = 1\nduration_s = 3\n", "nodes = 1 is not in 2 to 20000"),
        ("nodes = 2.5\nduration_s = 3\n", "nodes must be a whole number"),
        ("nodes = true\nduration_s = 3\n", "nodes must be a number"),
        ("duration_s = 3\n", "nodes must be a number"),
        (PLAIN + "form = 'whol'\n", "form = 'whol'; did you mean 'whole'?"),
        (PLAIN + "title = 3\n", "title must be a text"),
        (PLAIN + "network = 3\n", "[network] must be a table"),
        (PLAIN + "[network]\ndelay_ms = [3, 1]\n", "delay_ms must be [low, high]"),
        (PLAIN + "[network]\ndelay_ms = ['a', 1]\n", "delay_ms must be [low, high]"),
        (PLAIN + "[network]\nloss = 3\n", "unknown key 'loss'; did you mean 'loss_percent'?"),
        (PLAIN + "[network]\nloss_percent = 101\n", "loss_percent = 101 is not in 0 to 100"),
        (PLAIN + "[protocol]\nprobe_interval_ms = 5\n", "probe_timeout_ns must be above 0"),
        (PLAIN + "[protocol]\nsuspicion = 3\n", "unknown key 'suspicion'"),
        (PLAIN + "act = 3\n", "write [[act]], with two brackets"),
        (PLAIN + "[[act]]\nat_s = 1\n", "act 1 must say what to do"),
        (PLAIN + "[[act]]\nat_s = 1\ndo = 'crsh'\ncount = 1\n", "did you mean 'crash'?"),
        (PLAIN + "[[act]]\ndo = 'crash'\ncount = 1\n", "at_s must be a number"),
        (PLAIN + "[[act]]\nat_s = 1\ndo = 'crash'\n", "by one of: nodes, count, share"),
        (PLAIN + "[[act]]\nat_s = 1\ndo = 'crash'\ncount = 1\nshare = 1\n", "by one of"),
        (PLAIN + "[[act]]\nat_s = 1\ndo = 'crash'\ncount = 1\nquiet = true\n", "'quiet'"),
        (PLAIN + "[[act]]\nat_s = 1\ndo = 'crash'\ncount = 1\nsilent = 1\n", "true or false"),
        (PLAIN + "[[act]]\nat_s = 1\ndo = 'crash'\ncount = 1\nfor_s = 1\n", "crash has no end"),
        (PLAIN + "[[act]]\nat_s = 1\ndo = 'crash'\nnodes = [9]\n", "node 9 of 5"),
        (PLAIN + "[[act]]\nat_s = 1\ndo = 'crash'\nnodes = ['a']\n", "nodes must be a list of int"),
        (PLAIN + "[[act]]\nat_s = 1\ndo = 'crash'\ncount = 1\namong = 'x'\n", "a group 'x'"),
        (PLAIN + "[[act]]\nat_s = 1\ndo = 'pause'\ncount = 1\nevery_s = 1\n", "until_s must be"),
        (
            PLAIN + "[[act]]\nat_s = 0\ndo = 'move'\ncount = 1\nevery_s = 0.001\nuntil_s = 9999\n",
            "more than 100000 acts",
        ),
        (PLAIN + "nodes = 6\n", "is not TOML"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: pathlib.Path, text: str, said: str) -> None:
    """With the nearest valid name where there is one."""
    with pytest.raises(ScenarioError) as caught:
        _read(tmp_path, text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: pathlib.Path) -> None:
    """Missing, not text, or an unknown name of the library."""
    (tmp_path / "odd.toml").write_bytes(b"\xff")
    for named, said in (
        (str(tmp_path / "none.toml"), "cannot read"),
        (str(tmp_path / "odd.toml"), "not UTF-8"),
        ("join_strom", "did you mean 'join_storm'?"),
        ("xyz", "there is: address_change"),
    ):
        with pytest.raises(ScenarioError, match=said.replace("?", r"\?")):
            find_scenario(named)


def test_the_library_is_sound() -> None:
    """Every scenario that ships can be read, says what happens, and has the name of its file."""
    assert "join_storm" in library()
    for name in library():
        scenario = find_scenario(name)
        assert scenario.name == name
        assert scenario.title


def test_another_number_of_nodes() -> None:
    """As far as the acts name no node that is not there."""
    assert resized(find_scenario("split"), 30).nodes == 30
    with pytest.raises(ScenarioError, match="node 19 of 15"):
        resized(find_scenario("flapping_link"), 15)


def test_parts_of_the_protocol_are_switched_off(tmp_path: pathlib.Path) -> None:
    """true or false, not 0 or 1."""
    text = "nodes = 3\nduration_s = 1\n[protocol]\nnacks = {}\nhealth_score_max = 0\n"
    path = tmp_path / "off.toml"
    path.write_text(text.format("false"))
    protocol = read_scenario(path, READERS).protocol
    assert (protocol.nacks, protocol.buddy, protocol.health_score_max) == (False, True, 0)
    path.write_text(text.format("0"))
    with pytest.raises(ScenarioError, match="nacks must be true or false"):
        read_scenario(path, READERS)
