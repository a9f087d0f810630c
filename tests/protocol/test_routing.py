"""Who runs a request."""

import random

from protocol.identity import NodeId
from protocol.messages import Load
from protocol.routing import SLOTS_BELIEVED_MAX, Candidate, believed, rank


def _candidate(number: int, **more: object) -> Candidate:
    values: dict[str, object] = {"is_alive": True, "load": None, **more}
    return Candidate(node=NodeId(bytes((number,)) * 32), **values)  # type: ignore[arg-type]  # by name


def _order(*candidates: Candidate, seed: int = 1) -> list[int]:
    return [candidate.node[0] for candidate in rank(candidates, random.Random(seed))]


def test_least_busy_first_per_slot() -> None:
    """Four waiting at eight slots are less than one running at one."""
    busy = _candidate(1, load=Load(0, 1, 1))
    broad = _candidate(2, load=Load(2, 2, 8))
    idle = _candidate(3, load=Load(0, 0, 1))
    assert _order(busy, broad, idle) == [3, 2, 1]


def test_so_many_slots_are_believed_and_no_more() -> None:
    """Slot for slot as busy as it says; a full one stays full; who has few is believed at all."""
    most = SLOTS_BELIEVED_MAX
    assert believed(Load(0, 0, 2**31)) == Load(0, 0, most)
    assert believed(Load(2**20, 2**31, 2**31)) == Load(2**20 * most // 2**31, most, most)
    assert believed(Load(8, 2 * most, 4 * most)) == Load(2, most // 2, most)
    assert believed(Load(0, 1, 4 * most)) == Load(0, 1, most)
    for load in (None, Load(0, 0, 0), Load(7, most, most), Load(0, 9, 4)):
        assert believed(load) == load


def test_suspects_are_not_tried() -> None:
    """A member in doubt gets no request."""
    assert _order(_candidate(1, is_alive=False), _candidate(2)) == [2]


def test_what_we_sent_ourselves_counts_at_once() -> None:
    """Gossip is older than our own requests."""
    assert _order(_candidate(1, own_requests=1), _candidate(2, load=Load(0, 0, 1))) == [2, 1]


def test_equally_busy_by_round_trip_then_by_chance() -> None:
    """Nearer first; ties differ from gateway to gateway."""
    near, far = _candidate(1, round_trip_ns=1), _candidate(2, round_trip_ns=2)
    assert _order(far, near) == [1, 2]
    ties = [_candidate(number) for number in range(4)]
    firsts = [_order(*ties, seed=seed)[0] for seed in range(50)]
    assert sorted(dict.fromkeys(firsts)) == [0, 1, 2, 3]


def test_who_is_not_measured_yet_is_taken_for_far() -> None:
    """A new member never ties with ourselves, nor comes before one that is known to be near."""
    ourselves, near = _candidate(1, round_trip_ns=0), _candidate(2, round_trip_ns=10**6)
    for seed in range(20):
        assert _order(_candidate(3), near, ourselves, seed=seed) == [1, 2, 3]


def test_a_load_without_slots_divides_by_nothing() -> None:
    """Zero slots are what a member may say."""
    assert _order(_candidate(1, load=Load(1, 0, 0)), _candidate(2)) == [2, 1]
