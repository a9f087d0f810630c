"""Whole runs: what was done is what is measured, and one seed decides everything."""

import csv
import io
import os
import pathlib
import subprocess
import sys

import pytest

from protocol.config import SECOND
from protocol.crypto import SodiumCrypto
from protocol.errors import DropReason
from simulations.latency import even
from simulations.library import find_scenario, resized
from simulations.report import as_csv
from simulations.run import run
from simulations.scenario import Act, Scenario, Who
from simulations.section import ScenarioError
from simulations.world import World

REPOSITORY = pathlib.Path(__file__).parents[2]
SMALL = 12


def _scenario(*acts: Act, form: str = "whole", seconds: int = 40, nodes: int = SMALL) -> Scenario:
    return Scenario(name="t", nodes=nodes, duration_ns=seconds * SECOND, form=form, acts=acts)


def _act(do: str, at_s: float, *nodes: int, for_s: float | None = None, **options: object) -> Act:
    return Act(
        do=do,
        at_ns=round(at_s * SECOND),
        who=Who(nodes=nodes),
        for_ns=None if for_s is None else round(for_s * SECOND),
        options=options,
    )


def test_a_storm_is_measured_from_the_first_start() -> None:
    """Half of the pairs, 99 %, all of them."""
    measures = run(_scenario(form="together"), 1).measures
    half, nearly, last = (measures[f"join_{name}_s"] for name in ("half", "p99", "last"))
    assert half is not None
    assert nearly is not None
    assert last is not None
    assert 0 < half <= nearly <= last < 10
    agreement = measures["agreement_s"]
    assert agreement is not None
    assert 0 <= agreement - last < 0.02


@pytest.mark.parametrize("silent", [False, True])
def test_a_crash_is_detected_by_all_who_run(silent: bool) -> None:
    """Each observer once; the slowest is when all views agree."""
    measures = run(_scenario(_act("crash", 5, 3, silent=silent)), 1).measures
    assert (measures["crashes"], measures["undetected"], measures["mistakes"]) == (1, 0, 0)
    last, agreement = measures["detection_last_max_s"], measures["agreement_s"]
    assert last is not None
    assert agreement is not None
    assert 2 < last < 30
    assert 0 <= agreement - last < 0.02
    assert "join_last_s" not in measures


def test_who_is_soon_back_was_no_crash() -> None:
    """A restart need not be noticed; at another address neither."""
    acts = (
        _act("restart", 5, 3, new_address=False, disk="kept"),
        _act("restart", 8, 4, new_address=True, disk="kept"),
    )
    measures = run(_scenario(*acts), 1).measures
    assert "crashes" not in measures
    assert measures["agreement_s"] is not None
    assert measures["mistakes"] == 0


def test_a_goodbye_is_no_crash() -> None:
    """All who stay hear of it, nobody calls the leaver dead."""
    measures = run(_scenario(_act("leave", 5, 3)), 1).measures
    assert (measures["goodbyes"], measures["goodbyes_unknown"]) == (1, 0)
    assert measures["leavers_called_dead"] == 0
    assert "crashes" not in measures


def test_a_cut_is_no_mistake_and_heals() -> None:
    """Who cannot be reached is rightly called dead; afterwards all is as before."""
    scenario = _scenario(_act("cut", 5, 0, 1, 2, for_s=60), seconds=120)
    measures = run(scenario, 1).measures
    assert measures["mistakes"] == 0
    agreement = measures["agreement_s"]
    assert agreement is not None
    assert 0 < agreement < 15


def test_calling_a_node_dead_that_lives_is_a_mistake() -> None:
    """Counted with how long it lasted; who hears everything and is not heard is not reached."""
    dead: list[tuple[int, int, int]] = []
    scenario = _scenario(
        _act("starve", 1, 3, late_ns=(20 * SECOND, 21 * SECOND), slow=False), seconds=60
    )
    measures = run(scenario, 1, watch=lambda world, _: dead.extend(world.mistakes)).measures
    assert measures["mistakes"] == len(dead) > 0
    assert measures["nodes_mistaken"] == 1
    assert measures["query_accuracy"] is not None
    assert 0.8 < measures["query_accuracy"] < 1
    blocked = _scenario(_act("block", 1, 3, for_s=30, direction="out"), seconds=60)
    assert run(blocked, 1).measures["mistakes"] == 0


@pytest.mark.parametrize(
    "act",
    [
        _act("pause", 5, 3, for_s=30),
        _act("unplug", 5, 3, for_s=30),
        _act("loss", 5, 3, for_s=30, loss_ppm=400_000),
        _act("block", 5, 3, for_s=30, direction="in"),
        _act("move", 5, 3),
    ],
    ids=lambda act: act.do,
)
def test_after_every_fault_all_agree_again(act: Act) -> None:
    """And nobody who lived was called dead."""
    measures = run(_scenario(act, seconds=90), 2).measures
    assert measures["agreement_s"] is not None
    assert measures["mistakes"] == 0


def test_acts_restore_a_backup() -> None:
    """Made by one act, restored by a later one, with all that was said in between."""
    acts = (
        _act("backup", 2, 3),
        _act("restart", 5, 3, new_address=True, disk="kept"),
        _act("restart", 20, 3, new_address=True, disk="kept"),
        _act("restart", 40, 3, new_address=False, disk="backup"),
    )
    result = run(_scenario(*acts, seconds=60), 1, is_checked=True)
    assert result.violations == ()
    assert result.measures["agreement_s"] is not None


def test_what_an_insider_seals_itself_harms_nobody_else() -> None:
    """Whatever it says is refused with a reason, or counts as the word of one."""
    worlds: list[World] = []
    scenario = _scenario(_act("forge", 2, 3, for_s=60, pace_ns=SECOND // 50), seconds=90)
    result = run(scenario, 1, watch=lambda world, _: worlds.append(world), is_checked=True)
    assert result.violations == ()
    assert worlds[0].traffic["forged"][0] > 1_000
    for reason in (DropReason.UNEXPECTED, DropReason.MALFORMED, DropReason.BAD_SIGNATURE):
        assert worlds[0].drops[reason] > 0


def test_start_begins_what_was_crashed() -> None:
    """By hand, in the place of restart."""
    acts = (_act("crash", 2, 3, silent=True), _act("start", 40, 3, new_address=True, disk="kept"))
    worlds: list[World] = []
    measures = run(
        _scenario(*acts, seconds=60), 1, watch=lambda world, _: worlds.append(world)
    ).measures
    assert measures["crashes"] == 1
    assert measures["agreement_s"] is not None
    assert worlds[0].hosts[3].node is not None


def test_groups_keep_their_members() -> None:
    """What one act chose, others can choose from or spare; twice the same node is once."""
    pick = Act(do="move", at_ns=0, who=Who(count=3, group="g"), options={})
    again = Act(do="move", at_ns=1, who=Who(share_ppm=500_000, among="g", group="g"), options={})
    spare = Act(do="move", at_ns=2, who=Who(count=99, but=("g",)), options={})
    worlds: list[World] = []
    run(_scenario(pick, again, spare, seconds=5), 1, watch=lambda world, _: worlds.append(world))
    moves: dict[int, list[int]] = {}
    for at_ns, host, act in worlds[0].history:
        if act == "move":
            moves.setdefault(at_ns, []).append(host)
    first, second, third = (sorted(moves[at_ns]) for at_ns in sorted(moves))
    assert len(first) == 3
    assert second == first
    assert sorted(first + third) == list(range(SMALL))


def test_a_mesh_that_cannot_form_is_said() -> None:
    """Rather than measured."""
    with pytest.raises(ScenarioError, match="did not come together"):
        run(_deaf(), 1)


def _deaf() -> Scenario:
    scenario = _scenario(nodes=3)
    scenario.network.loss_ppm = 1_000_000
    scenario.network.delay = even(100 * SECOND, 100 * SECOND)
    return scenario


def test_real_keys_give_the_same_behaviour() -> None:
    """Signing and sealing for real changes bytes, not what happens."""
    scenario = _scenario(_act("crash", 5, 3, silent=True))
    pretended = run(scenario, 3).measures
    real = run(scenario, 3, make_crypto=SodiumCrypto).measures
    assert real["undetected"] == pretended["undetected"] == 0
    assert real["mistakes"] == pretended["mistakes"] == 0
    assert real.keys() == pretended.keys()


def test_results_as_csv() -> None:
    """One row a run; what a run does not have is empty."""
    results = [run(_scenario(seconds=2), 1), run(_scenario(form="together", seconds=2), 2)]
    rows = list(csv.DictReader(io.StringIO(as_csv(results))))
    assert [row["seed"] for row in rows] == ["1", "2"]
    assert rows[0]["join_last_s"] == ""
    assert rows[0]["node"] == "protocol.node:Node"
    assert float(rows[1]["join_last_s"]) == results[1].measures["join_last_s"]


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_one_seed_decides_everything(hash_seed: str) -> None:
    """Another process with another order of hashes: the same trace, the same measures."""
    code = (
        "from simulations.library import *; from simulations.run import *\n"
        "r = run(resized(find_scenario('lossy_network'), 10), 7)\n"
        "print(r.trace_hash, r.measures['datagrams_per_node_s'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    here = run(resized(find_scenario("lossy_network"), 10), 7)
    assert done.stdout.split() == [here.trace_hash, str(here.measures["datagrams_per_node_s"])]
    assert run(resized(find_scenario("lossy_network"), 10), 8).trace_hash != here.trace_hash
