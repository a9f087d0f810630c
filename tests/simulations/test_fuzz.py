"""Seeds draw scenarios, what they violate is found, made short, and can be repeated."""

import pathlib

import pytest

from protocol.membership import Membership
from simulations.fuzz import Finding, examine, fuzz, save, violations_of
from simulations.library import find_scenario, scenario_from
from simulations.run import run
from simulations.shrinking import shrink
from simulations.swarm import Content, Swarm


def test_every_seed_draws_a_valid_scenario_that_it_alone_decides() -> None:
    """Whatever is drawn is a file that can be read; all acts are drawn sooner or later."""
    drawn = [Swarm(seed).content() for seed in range(300)]
    assert drawn == [Swarm(seed).content() for seed in range(300)]
    for content in drawn:
        scenario_from(content, pathlib.Path("t.toml"))
    acts = {act["do"] for content in drawn for act in content["act"]}
    assert len(acts) > 15
    assert {content["nodes"] for content in drawn} >= {3, 50}
    assert Swarm(1, 7).content()["nodes"] == 7


def test_some_seeds_hold() -> None:
    """The protocol as it is, on small meshes with all faults."""
    assert [finding for finding in fuzz(0, 8, nodes=5, processes=1) if finding.violations] == []


def test_processes_find_the_same() -> None:
    """In any order."""
    found = sorted(fuzz(0, 4, nodes=3, processes=2), key=lambda finding: finding.seed)
    assert found == list(fuzz(0, 4, nodes=3, processes=1))


def test_a_broken_protocol_is_found_made_short_and_repeated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """Nobody ever declares a death: the crash that shows it remains, and its file shows it too."""
    monkeypatch.setattr(Membership, "_count", lambda *_: False)
    content = {
        "nodes": 5,
        "duration_s": 20,
        "network": {"delay_ms": [0.2, 0.8], "loss_percent": 1},
        "act": [
            {"at_s": 1, "do": "move", "count": 1},
            {"at_s": 2, "do": "crash", "count": 1, "silent": True},
            {"at_s": 3, "do": "clock", "count": 1, "ahead_s": 60},
        ],
    }
    monkeypatch.setattr(Swarm, "content", lambda self: content)
    finding = examine(1, tries_max=30)
    assert finding.violations[0].startswith("liveness: ")
    assert finding.content is not None
    assert [act["do"] for act in finding.content["act"]] == ["crash"]
    assert finding.content["nodes"] == 2
    again = find_scenario(str(save(finding, tmp_path)))
    assert (run(again, 1, is_checked=True).violations or ("",))[0].startswith("liveness: ")


def test_a_node_that_spins_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline that is never met would stop time, and the search with it."""
    monkeypatch.setattr(Membership, "advance", lambda self, now: None)
    content: Content = {
        "nodes": 3,
        "duration_s": 20,
        "act": [{"at_s": 1, "do": "crash", "count": 1}],
    }
    assert "its deadline never moves on" in violations_of(content, 1)[0]


def test_an_exception_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never the end of the search."""
    monkeypatch.setattr(Membership, "advance", lambda self, now: 1 // 0)
    found = violations_of({"nodes": 3, "duration_s": 5}, 1)
    assert len(found) == 1
    assert found[0].startswith("exception: ZeroDivisionError")


def test_shrinking_keeps_what_is_needed_and_tries_only_so_often() -> None:
    """Every candidate still fails; the number of tries is bounded."""
    content: Content = {
        "nodes": 40,
        "duration_s": 90,
        "network": {"loss_percent": 1},
        "act": [{"do": kind, "at_s": 1, "count": 8, "for_s": 9} for kind in "abcdef"],
    }
    tried: list[Content] = []

    def still_fails(candidate: Content) -> bool:
        tried.append(candidate)
        return {"b", "e"} <= {act["do"] for act in candidate["act"]} and candidate["nodes"] > 6

    shortest = shrink(content, still_fails)
    assert [act["do"] for act in shortest["act"]] == ["b", "e"]
    assert [act["count"] for act in shortest["act"]] == [1, 1]
    assert (shortest["nodes"], shortest["network"]) == (7, {})
    assert len(tried) <= 200
    tried.clear()
    shrink(content, still_fails, 3)
    assert len(tried) == 3


def test_a_finding_is_told_as_toml() -> None:
    """With what it violates in its title."""
    finding = Finding(
        seed=7, nodes=3, violations=("no_ghost: it was seen",), content={"nodes": 3, "act": []}
    )
    assert 'title = "found by fuzzing, seed 7: no_ghost"' in finding.as_toml()
