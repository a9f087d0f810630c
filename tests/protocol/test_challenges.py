"""Who is answered, and that nobody uses up what others need."""

from protocol.challenges import PER_MEMBER_BURST, PER_MEMBER_S, Challenges
from protocol.config import SECOND, ProtocolConfig
from protocol.identity import NodeId

ONE, OTHER = NodeId(b"1" * 32), NodeId(b"2" * 32)
CONFIG = ProtocolConfig(challenges_per_s=100, stranger_challenges_per_s=3)


def _granted(challenges: Challenges, sender: NodeId, now: int, *, is_known_place: bool) -> int:
    """How many of a thousand at one moment."""
    return sum(
        challenges.take_for_member(sender, now, is_known_place=is_known_place) for _ in range(1_000)
    )


def test_strangers_have_their_own() -> None:
    """So many per second, whatever members need."""
    challenges = Challenges(CONFIG)
    assert sum(challenges.take_for_stranger(0) for _ in range(10)) == 3
    assert challenges.take_for_member(ONE, 0, is_known_place=True)
    assert challenges.take_for_stranger(SECOND)


def test_a_member_elsewhere_has_a_small_part() -> None:
    """A burst, then a few per second; at home, and for others, the rest is there."""
    challenges = Challenges(CONFIG)
    assert _granted(challenges, ONE, 0, is_known_place=False) == PER_MEMBER_BURST
    assert _granted(challenges, OTHER, 0, is_known_place=False) == PER_MEMBER_BURST
    assert _granted(challenges, ONE, 0, is_known_place=True) == 100 - 2 * PER_MEMBER_BURST
    assert _granted(challenges, OTHER, 0, is_known_place=False) == 0
    assert _granted(challenges, ONE, SECOND, is_known_place=False) == PER_MEMBER_S
