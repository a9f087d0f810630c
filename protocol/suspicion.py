"""The one place for one suspicion: who accuses, and when it becomes a death.

Lifeguard's LHA-Suspicion (arXiv 1707.00788 section IV-B) as memberlist runs it: the deadline
starts at a maximum and falls with every further accuser, logarithmically, down to a minimum:

    timeout(c) = max(min, max - (max - min) * log(c + 1) / log(k + 1))

c counts confirmations: distinct signers beyond the first. Logarithms come from a table of integers
(micro-units), so that every machine computes the same nanosecond.

Silence needs that time. A host that answers "nobody listens here" to two accusers needs less: the
process is gone, and only a refutation that may be on its way has to be waited for.
"""

import dataclasses
import functools
from typing import Final

from protocol.config import ProtocolConfig
from protocol.identity import NodeId
from protocol.statements import Accusation

_LN_MICRO: Final = (0, 693_147, 1_098_612, 1_386_294, 1_609_438, 1_791_759, 1_945_910, 2_079_442)
"""round(1e6 * ln(1 + i)) for i = 0..7."""
CONFIRMATIONS_MAX: Final = len(_LN_MICRO) - 1
_LOG10_BITS: Final = 32
"""Of the fraction; few enough to be quick, enough to be right in the third decimal."""


@functools.lru_cache(maxsize=1_024)
def log10_milli(count: int) -> int:
    """floor(1000 * log10(count)) for count >= 1, by integers alone."""
    digits = len(str(count)) - 1
    # log10(x) = digits + log10(x / 10^digits); the fraction by repeated squaring, bit by bit.
    mantissa, scale, fraction = count * 10**18 // 10**digits, 10**18, 0
    for _ in range(_LOG10_BITS):
        mantissa = mantissa * mantissa // scale
        fraction *= 2
        if mantissa >= 10 * scale:
            mantissa //= 10
            fraction += 1
    return digits * 1000 + (fraction * 1000 >> _LOG10_BITS)


def _scaled(config: ProtocolConfig, members: int, mult: int) -> int:
    scale_milli = max(config.suspicion_scale_min_milli, log10_milli(max(1, members)))
    return mult * config.probe_interval_ns * scale_milli // 1000


def timeout_bounds(config: ProtocolConfig, members: int) -> tuple[int, int]:
    """(shortest, longest) suspicion in nanoseconds for a mesh of `members`."""
    shortest = _scaled(config, members, config.suspicion_mult)
    return shortest, shortest * config.suspicion_max_mult


def refused_timeout(config: ProtocolConfig, members: int) -> int:
    """How long a suspicion lasts at most once two hosts saw that the process is gone.

    Long enough for a refutation to be spread by gossip: should the process live after all, behind
    another port, nothing is lost.
    """
    return _scaled(config, members, config.suspicion_refused_mult)


def confirmations_wanted(config: ProtocolConfig, members: int) -> int:
    """How many further accusers bring the deadline to its minimum.

    As many as there can be in a small mesh; 0 for two members that have only each other.
    """
    return max(0, min(config.suspicion_confirmations, CONFIRMATIONS_MAX, members - 3))


def suspicion_timeout(shortest: int, longest: int, confirmations: int, wanted: int) -> int:
    """Nanoseconds from the start of a suspicion to the death, after `confirmations`."""
    if wanted < 1 or confirmations >= wanted:
        return shortest
    cut = (longest - shortest) * _LN_MICRO[confirmations] // _LN_MICRO[wanted]
    return max(shortest, longest - cut)


@dataclasses.dataclass(slots=True)
class Suspicion:
    """One subject under suspicion in one view."""

    incarnation: int
    started_ns: int
    shortest_ns: int
    longest_ns: int
    refused_ns: int
    wanted: int
    host: str = ""
    """Where the subject states that it is."""
    called_ns: int | None = None
    """When others were asked to object."""
    accusers: dict[NodeId, None] = dataclasses.field(default_factory=dict)
    """In order of arrival; a dict because nothing here iterates a set."""
    refused_at: dict[NodeId, str] = dataclasses.field(default_factory=dict)
    """Accusers whose stream the subject's host refused, and the host of each."""

    def has_counted(self, accusation: Accusation) -> bool:
        """Whether `confirm` has nothing to learn from this."""
        return (
            accusation.incarnation == self.incarnation
            and not accusation.is_refused
            and accusation.author in self.accusers
        )

    def confirm(self, accuser: NodeId, *, refused_at: str | None = None) -> bool:
        """Count an accuser; True when it is news that shortens the deadline or may yet do so.

        `refused_at`: the accuser's host, if it was refused and not merely unanswered.
        """
        is_news = accuser not in self.accusers and len(self.accusers) <= self.wanted
        if refused_at is not None and self._is_evidence(accuser, refused_at):
            self.refused_at[accuser] = refused_at
            is_news = True
        if is_news:
            self.accusers[accuser] = None
        return is_news

    def forget(self, accuser: NodeId) -> bool:
        """An accuser is no member any more; False when it was none."""
        was_one = accuser in self.accusers
        self.accusers.pop(accuser, None)
        self.refused_at.pop(accuser, None)
        return was_one

    def _is_evidence(self, accuser: NodeId, host: str) -> bool:
        """Whether a refusal seen from `host` adds to what is known: one per foreign host."""
        if not host or self.is_gone or accuser in self.refused_at:
            return False
        return host == self.host or host not in self.refused_at.values()

    @property
    def is_gone(self) -> bool:
        """Whether two accusers agree that the process is gone, and no single host deceives both.

        Two hosts, or the subject's own: there nothing stands between accuser and subject.
        """
        hosts = list(self.refused_at.values())
        return len(hosts) >= 2 and (self.host in hosts or len(dict.fromkeys(hosts)) >= 2)

    @property
    def deadline_ns(self) -> int:
        """When the subject is declared dead unless it refutes."""
        return self.started_ns + self.timeout_ns

    @property
    def timeout_ns(self) -> int:
        """How long this suspicion lasts, with the accusers so far."""
        confirmations = max(0, len(self.accusers) - 1)
        timeout = suspicion_timeout(self.shortest_ns, self.longest_ns, confirmations, self.wanted)
        if self.is_gone:
            timeout = min(timeout, self.refused_ns)
        return timeout
