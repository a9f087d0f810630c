"""The one place for who is answered with a challenge, and how often.

A challenge is the only thing that a datagram from an unproven address brings about, and anybody who
has seen traffic can cause some. So there are limits, and nobody uses up what others need:

- strangers, whose short ids anybody can invent, share one allowance;
- members share another, of which each one has a small part at places where it is not known to be:
  who plays a member's recordings from elsewhere does not keep it out at home.
"""

from typing import Final

from protocol.allowance import Allowance
from protocol.budgets import Budgets
from protocol.config import ProtocolConfig
from protocol.identity import NodeId

PER_MEMBER_BURST: Final = 32
"""Challenges at once to where a member neither proved nor stated to be ..."""
PER_MEMBER_S: Final = 8
"""... and then so many per second."""


class Challenges:
    """What one node may still answer."""

    def __init__(self, config: ProtocolConfig) -> None:
        self._members = Allowance(config.challenges_per_s)
        self._strangers = Allowance(config.stranger_challenges_per_s)
        self._elsewhere = Budgets(PER_MEMBER_S)

    def take_for_stranger(self, now: int) -> bool:
        """Use one up for an unknown short id; False when none is left."""
        return self._strangers.take(now)

    def take_for_member(self, sender: NodeId, now: int, *, is_known_place: bool) -> bool:
        """Use one up for what a member sealed; False when none is left.

        `is_known_place`: it came from where the member proved or stated to be.
        """
        if is_known_place:
            return self._members.take(now)
        if not self._elsewhere.has_room(sender, PER_MEMBER_BURST, now):
            return False
        if not self._members.take(now):
            return False
        self._elsewhere.spend(sender, now)
        return True
