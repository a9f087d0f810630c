"""The one place for the protocol's knobs: each with its unit, its meaning and its reason."""

import dataclasses
from typing import Final

MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000
"""Time is integer nanoseconds everywhere in this room."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolConfig:
    """Times in nanoseconds. The defaults suit a LAN and a home's internet line alike."""

    probe_interval_ns: int = SECOND
    """One member is probed per interval (SWIM's protocol period)."""
    probe_timeout_ns: int = 500 * MILLISECOND
    """Silence after which helpers are asked: above the 99th percentile of round trips."""
    indirect_probes: int = 3
    """Helpers asked per silent target (SWIM's k)."""
    suspicion_mult: int = 4
    """Shortest suspicion = this * max(1, log10 N) * probe interval (memberlist's LAN value)."""
    suspicion_max_mult: int = 6
    """Longest suspicion = this * shortest (Lifeguard's beta)."""
    retransmit_mult: int = 4
    """A rumour is sent this * ceil(log10(N + 1)) times."""
    gossip_interval_ns: int = 200 * MILLISECOND
    """While there are rumours, this often ..."""
    gossip_nodes: int = 3
    """... to so many random members."""
    push_pull_interval_ns: int = 30 * SECOND
    """A full exchange with a random member, scaled up with the mesh (`push_pull_period`)."""
    reconnect_interval_ns: int = 3 * SECOND
    """Some missing member is tried this often, the longest untried first."""
    introduce_interval_ns: int = 500 * MILLISECOND
    """At most one unsolicited exchange per peer in this time ..."""
    introductions_per_s: int = 32
    """... and so many per second in all: each sends everything that is known."""
    leave_fanout: int = 64
    """A goodbye goes at once to so many members, then by gossip."""
    challenges_per_s: int = 256
    """Challenges per second to members, whose datagrams are authentic ..."""
    stranger_challenges_per_s: int = 64
    """... and to unknown short ids, which anybody can invent."""
    members_max: int = 16_384
    """Members in a view; beyond that newcomers are refused."""
    offers_per_node_max: int = 64
    """Offers of one node."""
    offer_bytes_per_node_max: int = 16_384
    """Bytes of all offers of one node."""

    def __post_init__(self) -> None:
        """Raise ValueError for values under which the protocol cannot work."""
        if not 0 < self.probe_timeout_ns < self.probe_interval_ns:
            raise ValueError("probe_timeout_ns must be above 0 and below probe_interval_ns")
        if self.suspicion_mult < 1 or self.suspicion_max_mult < 1:
            raise ValueError("suspicion multipliers must be at least 1")
        if self.retransmit_mult < 1 or self.gossip_nodes < 1 or self.gossip_interval_ns < 1:
            raise ValueError("rumours must be sent at least once")
