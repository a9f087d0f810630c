"""The arithmetic of one suspicion."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.config import ProtocolConfig
from protocol.identity import NodeId
from protocol.suspicion import (
    CONFIRMATIONS_MAX,
    Suspicion,
    confirmations_wanted,
    log10_milli,
    refused_timeout,
    suspicion_timeout,
    timeout_bounds,
)

S = 10**9
MEMBERLIST = dataclasses.replace(
    ProtocolConfig(), suspicion_mult=3, suspicion_scale_min_milli=1_000
)
"""memberlist scales by 1 at least."""
ONE, TWO, THREE, FOUR, FIVE = (NodeId(bytes((n,)) * 32) for n in range(5))


@pytest.mark.parametrize(
    ("members", "milli"),
    [(5, 1000), (10, 1000), (50, 1698), (100, 2000), (500, 2698), (1000, 3000)],
)
def test_memberlists_vectors_for_the_shortest_suspicion(members: int, milli: int) -> None:
    """suspicion(3, N, 1 s) / 3 of memberlist's own tests."""
    shortest, longest = timeout_bounds(MEMBERLIST, members)
    assert shortest == 3 * milli * S // 1000
    assert longest == 6 * shortest


@pytest.mark.parametrize(("confirmations", "seconds"), [(0, 30), (1, 16), (2, 7.81), (3, 2)])
def test_memberlists_vectors_for_confirmations(confirmations: int, seconds: float) -> None:
    """k = 3, from 2 s to 30 s: what memberlist's remainingSuspicionTime adds to what passed."""
    timeout = suspicion_timeout(2 * S, 30 * S, confirmations, 3)
    assert timeout == pytest.approx(seconds * S, abs=2 * S // 1000)


@pytest.mark.parametrize(
    ("members", "milli"),
    [(0, 1500), (1, 1500), (2, 1500), (10, 1500), (31, 1500), (32, 1505), (50, 1698), (1000, 3000)],
)
def test_ours_are_never_below_four_and_a_half_seconds(members: int, milli: int) -> None:
    """A process that stands still for 5 s, of which one interval is the probe, is not dead."""
    shortest, longest = timeout_bounds(ProtocolConfig(), members)
    assert shortest == 3 * milli * S // 1000
    assert shortest + S > 5 * S
    assert longest == 6 * shortest
    assert refused_timeout(ProtocolConfig(), members) == milli * S // 1000


@pytest.mark.parametrize(
    ("members", "wanted"), [(0, 0), (1, 0), (2, 0), (3, 0), (4, 1), (5, 2), (6, 3), (999, 3)]
)
def test_small_meshes_want_no_more_than_there_can_be(members: int, wanted: int) -> None:
    """Without us, the first accuser and the subject: there are no more to confirm."""
    assert confirmations_wanted(ProtocolConfig(), members) == wanted


def test_wanted_confirmations_are_capped_by_the_table() -> None:
    """An absurd number does not index outside the logarithms."""
    config = dataclasses.replace(ProtocolConfig(), suspicion_confirmations=100)
    assert confirmations_wanted(config, 10_000) == CONFIRMATIONS_MAX
    assert suspicion_timeout(S, 6 * S, CONFIRMATIONS_MAX, CONFIRMATIONS_MAX) == S


@given(st.integers(1, 10**9))
def test_logarithms_by_integers(count: int) -> None:
    """Truncated to the third decimal, on every machine."""
    assert -1e-4 <= 1000 * math.log10(count) - log10_milli(count) < 1 + 1e-4


@given(st.integers(1, 10**6), st.integers(1, 50), st.integers(0, 7))
def test_timeouts_stay_in_bounds_and_fall(shortest: int, factor: int, wanted: int) -> None:
    """Every confirmation shortens (or keeps), none goes below the shortest."""
    longest = shortest * factor
    timeouts = [suspicion_timeout(shortest, longest, c, wanted) for c in range(10)]
    assert timeouts == sorted(timeouts, reverse=True)
    assert timeouts[0] == (longest if wanted else shortest)
    assert timeouts[-1] == shortest


def _suspicion(wanted: int = 2, host: str = "10.0.0.9") -> Suspicion:
    return Suspicion(
        incarnation=1,
        started_ns=100,
        shortest_ns=4 * S,
        longest_ns=24 * S,
        refused_ns=2 * S,
        wanted=wanted,
        host=host,
    )


def _lasts(suspicion: Suspicion) -> int:
    return suspicion.deadline_ns - suspicion.started_ns


def test_each_accuser_counts_once() -> None:
    """Two words of the same key are one suspicion; after enough there is nothing to pass on."""
    suspicion = _suspicion()
    assert suspicion.confirm(ONE)
    assert _lasts(suspicion) == 24 * S
    assert not suspicion.confirm(ONE)
    assert _lasts(suspicion) == 24 * S
    assert suspicion.confirm(TWO)
    assert 4 * S < _lasts(suspicion) < 24 * S
    assert suspicion.confirm(THREE)
    assert _lasts(suspicion) == 4 * S
    assert not suspicion.confirm(FOUR)
    assert list(suspicion.accusers) == [ONE, TWO, THREE]


def test_where_nobody_can_confirm_the_shortest_counts_at_once() -> None:
    """Three members: the first accuser is all there is."""
    suspicion = _suspicion(wanted=0)
    assert suspicion.confirm(ONE)
    assert _lasts(suspicion) == 4 * S
    assert not suspicion.confirm(TWO)


class TestRefused:
    """Evidence that the process is gone while its host lives."""

    def test_two_hosts_shorten(self) -> None:
        """Below the shortest silence; the third is no news any more."""
        suspicion = _suspicion()
        assert suspicion.confirm(ONE, refused_at="10.0.0.1")
        assert not suspicion.is_gone
        assert _lasts(suspicion) == 24 * S
        assert suspicion.confirm(TWO, refused_at="10.0.0.2")
        assert suspicion.is_gone
        assert _lasts(suspicion) == 2 * S

    def test_one_accuser_does_not(self) -> None:
        """However often it says so."""
        suspicion = _suspicion()
        suspicion.confirm(ONE, refused_at="10.0.0.1")
        assert not suspicion.confirm(ONE, refused_at="10.0.0.1")
        assert not suspicion.confirm(ONE, refused_at="10.0.0.2")
        assert not suspicion.is_gone
        assert _lasts(suspicion) == 24 * S

    def test_two_behind_one_foreign_host_do_not(self) -> None:
        """One box between them and the subject could deceive both: they are ordinary accusers."""
        suspicion = _suspicion()
        suspicion.confirm(ONE, refused_at="10.0.0.1")
        suspicion.confirm(TWO, refused_at="10.0.0.1")
        assert not suspicion.is_gone
        assert 4 * S < _lasts(suspicion) < 24 * S

    def test_of_one_foreign_host_only_the_first_is_news(self) -> None:
        """Else every member behind it would have its accusation passed on for ever."""
        suspicion = _suspicion(wanted=0)
        assert suspicion.confirm(ONE, refused_at="10.0.0.1")
        for other in (TWO, THREE, FOUR):
            assert not suspicion.confirm(other, refused_at="10.0.0.1")
        assert list(suspicion.refused_at) == [ONE]
        assert list(suspicion.accusers) == [ONE]
        assert suspicion.confirm(FIVE, refused_at="10.0.0.2")
        assert suspicion.is_gone

    def test_an_accuser_of_no_known_host_is_an_ordinary_one(self) -> None:
        """Two of them could be the same box."""
        suspicion = _suspicion(host="")
        assert suspicion.confirm(ONE, refused_at="")
        assert suspicion.confirm(TWO, refused_at="")
        assert suspicion.refused_at == {}
        assert not suspicion.is_gone
        assert 4 * S < _lasts(suspicion) < 24 * S

    def test_two_on_the_subjects_own_host_do(self) -> None:
        """Nothing stands between them and it; one alone could still lie."""
        suspicion = _suspicion(host="10.0.0.1")
        suspicion.confirm(ONE, refused_at="10.0.0.1")
        assert not suspicion.is_gone
        suspicion.confirm(TWO, refused_at="10.0.0.1")
        assert suspicion.is_gone
        assert _lasts(suspicion) == 2 * S

    def test_mere_silence_does_not_help_it(self) -> None:
        """One refused and one unanswered are two accusers, no more."""
        suspicion = _suspicion()
        suspicion.confirm(ONE, refused_at="10.0.0.1")
        suspicion.confirm(TWO)
        assert not suspicion.is_gone

    def test_an_accuser_may_learn_it_later(self) -> None:
        """First silence, then refused: news, but no second voice."""
        suspicion = _suspicion()
        assert suspicion.confirm(ONE)
        assert suspicion.confirm(ONE, refused_at="10.0.0.1")
        assert list(suspicion.accusers) == [ONE]
        assert _lasts(suspicion) == 24 * S
        assert suspicion.confirm(TWO, refused_at="10.0.0.2")
        assert _lasts(suspicion) == 2 * S

    def test_it_is_news_also_when_enough_have_accused(self) -> None:
        """Silence is settled, but the process being gone is worth knowing."""
        suspicion = _suspicion()
        for accuser in (ONE, TWO, THREE):
            suspicion.confirm(accuser)
        assert suspicion.confirm(FOUR, refused_at="10.0.0.1")
        assert suspicion.confirm(FIVE, refused_at="10.0.0.2")
        assert _lasts(suspicion) == 2 * S
        assert not suspicion.confirm(NodeId(bytes((9,)) * 32), refused_at="10.0.0.3")

    def test_it_never_lengthens(self) -> None:
        """Where silence needs no longer, nothing changes."""
        suspicion = _suspicion(wanted=0)
        suspicion.shortest_ns = S
        suspicion.confirm(ONE, refused_at="10.0.0.1")
        suspicion.confirm(TWO, refused_at="10.0.0.2")
        assert suspicion.is_gone
        assert _lasts(suspicion) == S
