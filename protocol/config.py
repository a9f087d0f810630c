"""The one place for the protocol's knobs: each with its unit, its meaning and its reason."""

import dataclasses
from typing import Final

from protocol.sessions import SESSIONS_MAX

MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000
"""Time is integer nanoseconds everywhere in this room."""
SCORE_MAX: Final = 7
"""Of the health score: intervals grow up to eightfold (memberlist's ceiling)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolConfig:
    """Times in nanoseconds. The defaults suit a LAN and a home's internet line alike."""

    probe_interval_ns: int = SECOND
    """One member is probed per interval (SWIM's protocol period)."""
    probe_timeout_ns: int = 500 * MILLISECOND
    """Silence after which helpers are asked while a member's round trip is unknown; and at most."""
    probe_timeout_min_ns: int = 100 * MILLISECOND
    """... and at least, however near it is: a busy machine answers late without being gone."""
    nack_ns: int = 400 * MILLISECOND
    """A helper that heard nothing says so after 80 % of the longest time-out."""
    nacks: bool = True
    """Whether a helper says so at all (Lifeguard)."""
    stream_probes: bool = True
    """Whether prober and helpers also try a silent target by stream (memberlist's fallback)."""
    health_score_max: int = SCORE_MAX
    """Our own health multiplies waits by up to this + 1; 0: by nothing (SWIM)."""
    buddy: bool = True
    """Whether a suspected member hears so first of all in our pings and acks (Lifeguard)."""
    digests: bool = True
    """Whether pings and acks tell in short what we know, so that lost rumours are found out."""
    indirect_probes: int = 3
    """Helpers asked per silent target (SWIM's k)."""
    suspicion_mult: int = 3
    """Shortest suspicion = this * max(the least scale, log10 N) * probe interval."""
    suspicion_scale_min_milli: int = 1_500
    """The least scale, in thousandths: a process that stands still for 5 s is not dead."""
    suspicion_confirmations: int = 3
    """Further accusers that bring a suspicion to its shortest (the paper's K)."""
    suspicion_refused_mult: int = 1
    """As `suspicion_mult`, when two hosts saw that the process is gone."""
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
    last_call_ns: int = SECOND
    """So long before a death is declared (0: there is no last call) ..."""
    last_call_nodes: int = 3
    """... so many random members and the subject hear the accusation once more."""
    hold_ns: int = 30 * SECOND
    """After a gap nobody is accused until one member was agreed with, or this is over."""
    partition_members: int = 3
    """So many deaths ..."""
    partition_share_percent: int = 30
    """... and so large a share of the mesh ..."""
    partition_window_ns: int = 60 * SECOND
    """... within this time are reported as a partition."""
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
    sessions_max: int = SESSIONS_MAX
    """Peers whose sealed traffic is remembered; the least recently used is met anew."""
    members_max: int = 16_384
    """Members in a view; beyond that newcomers are refused."""
    offers_per_node_max: int = 64
    """Offers of one node."""
    offer_bytes_per_node_max: int = 16_384
    """Bytes of all offers of one node."""
    offer_bytes_max: int = 64 * 2**20
    """Bytes of all others' offers together."""

    def __post_init__(self) -> None:
        """Raise ValueError for values under which the protocol cannot work."""
        if not 0 < self.probe_timeout_ns < self.probe_interval_ns:
            raise ValueError("probe_timeout_ns must be above 0 and below probe_interval_ns")
        if self.suspicion_mult < 1 or self.suspicion_max_mult < 1:
            raise ValueError("suspicion multipliers must be at least 1")
        if self.retransmit_mult < 1 or self.gossip_nodes < 1 or self.gossip_interval_ns < 1:
            raise ValueError("rumours must be sent at least once")
        if not 0 <= self.health_score_max <= SCORE_MAX:
            raise ValueError(f"health_score_max must be 0 to {SCORE_MAX}")
        if self.sessions_max < 8:  # a challenge must be answered before its cause is forgotten
            raise ValueError("sessions_max must be at least 8")
