"""The one place for finding out that two members know different things, and for evening it out.

    A                                     B
    Ping or Ack (digest)    ------------>    differs: B may be about to hear of it by gossip
    ... 1 s without news of its own ...
    Ping or Ack (digest)    ------------>    still differs: B pulls
    A <--Digest(sums)-------- B
    A ---Difference---------> B              who and what is in the buckets that differ
    A <--PushPull(wanted)---- B              what A lacks, and what B wants
    A ---PushPull(reply)----> B

One pull runs at a time, and those that bring nothing come ever more rarely, so that two views
which can never agree (a full table here, an equivocation there) cost next to nothing. The same
exchange, without a doubt before it, serves to introduce and to find each other again
(`push_pull.py`).
"""

import dataclasses
import random
from collections.abc import Callable
from typing import Final

from protocol.authority import Authority
from protocol.codec import encode_stream
from protocol.comparison import compare
from protocol.config import SECOND
from protocol.deadlines import NEVER, Deadlines
from protocol.digest import Knowledge
from protocol.effects import AnswerStream
from protocol.errors import DropReason
from protocol.identity import NodeId
from protocol.intake import Intake, Taken
from protocol.joining import turn_away
from protocol.members import Members
from protocol.membership import Membership
from protocol.messages import Difference, Digest, PushPull
from protocol.outbox import Outbox

QUIET_NS: Final = SECOND
"""Gossip needs a moment: who has changed within it does not wonder yet ..."""
RESTLESS_NS: Final = 5 * SECOND
"""... but no longer than this: a mesh in which something always changes loses rumours too."""
EXCHANGE_NS: Final = 10 * SECOND
"""An exchange that is not over by then is given up; so is a doubt."""
RETRY_NS: Final = SECOND
"""One that got no answer so far may be begun again: another address may be known by now."""
PAUSE_MIN_NS: Final = 2 * SECOND
PAUSE_MAX_NS: Final = 60 * SECOND
"""Between pulls from one peer that bring nothing: doubled from the one to the other."""
BARREN_PAUSE_MAX_NS: Final = 16 * SECOND
"""The same from whomever, while we agree with nobody."""
_PAUSES_MAX: Final = 4_096
_EXCHANGES_MAX: Final = 4_096
_STALE_DIGESTS_NS: Final = 2 * SECOND
"""What waited in our socket's buffer during a gap is read within this."""


@dataclasses.dataclass(slots=True)
class _Doubt:
    """A member whose digest differed from ours."""

    peer: NodeId
    since_ns: int
    checked_ns: int = -1
    """When it was asked for its digest last."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Pause:
    until_ns: int
    length_ns: int


_NO_PAUSE: Final = _Pause(0, 0)


class Reconciler:
    """One node's exchanges of differences: begins, answers and ends them."""

    def __init__(
        self,
        own: NodeId,
        rng: random.Random,
        authority: Authority,
        members: Members,
        membership: Membership,
        knowledge: Knowledge,
        intake: Intake,
        outbox: Outbox,
        *,
        check: Callable[[NodeId], None],
        on_met: Callable[[], None],
    ) -> None:
        """`check` pings a member, whose ack will tell its digest. `on_met` hears of every
        exchange that is complete.
        """
        self._own = own
        self._rng = rng
        self._authority = authority
        self._members = members
        self._membership = membership
        self._knowledge = knowledge
        self._intake = intake
        self._outbox = outbox
        self._check = check
        self._on_met = on_met
        self._doubt: _Doubt | None = None
        self._pulled: NodeId | None = None
        """From whom we pull because of a doubt."""
        self._exchanges: Deadlines[NodeId] = Deadlines()
        """With whom something runs, and when it is given up."""
        self._answered: dict[NodeId, None] = {}
        """Of those, who has told its difference: what is still to come is a reply."""
        self._pauses: dict[NodeId, _Pause] = {}
        self._barren = _NO_PAUSE
        self._resync_ns = NEVER
        self._believes_digests_ns = 0

    @property
    def is_synced(self) -> bool:
        """False from `resync` until some member was agreed with, or there is none."""
        return self._resync_ns == NEVER

    @property
    def deadline_ns(self) -> int:
        """When `advance` has something to do."""
        doubt_ns = self._doubt_ns(self._doubt) if self._doubt is not None else NEVER
        return min(self._exchanges.next_ns, doubt_ns, self._resync_ns)

    def _doubt_ns(self, doubt: _Doubt) -> int:
        end = doubt.since_ns + EXCHANGE_NS
        due = self._quiet_ns(doubt)
        if doubt.checked_ns >= 0 and due < self._knowledge.last_change_ns:
            return end  # it was asked already, and the mesh is still restless
        return due if doubt.checked_ns < due < end else end

    def _quiet_ns(self, doubt: _Doubt) -> int:
        """When a second disagreement means something."""
        quiet_ns = max(doubt.since_ns, self._knowledge.last_change_ns) + QUIET_NS
        return min(quiet_ns, doubt.since_ns + RESTLESS_NS)

    def stop(self) -> None:
        """Begin nothing any more, and wait for nothing (this node is leaving)."""
        self._forget_running()
        self._resync_ns = NEVER

    def _forget_running(self) -> None:
        self._exchanges = Deadlines()
        self._answered.clear()
        self._doubt = self._pulled = None

    def resync(self, now: int) -> None:
        """We stood still: whatever ran is over, and somebody has to tell us what we missed."""
        self._forget_running()
        self._believes_digests_ns = now + _STALE_DIGESTS_NS
        self._resync(now)

    def _resync(self, now: int) -> None:
        """Ask a random member, and soon another one if that brings nothing."""
        others = [node for node in self._members.present() if node != self._own]
        if not others or self._membership.has_left:
            self._resync_ns = NEVER
            return
        self._resync_ns = now + PAUSE_MIN_NS
        self.begin(self._rng.choice(others), now)

    def advance(self, now: int) -> None:
        """Give up what takes too long, check a doubt that is due, ask again after a gap."""
        while (peer := self._exchanges.pop_due(now)) is not None:
            self._end(peer, now, is_fruitful=False)
        doubt = self._doubt
        if doubt is not None and now >= self._doubt_ns(doubt):
            if now >= doubt.since_ns + EXCHANGE_NS:
                self._doubt = None
            else:
                doubt.checked_ns = now
                self._check(doubt.peer)
        if now >= self._resync_ns:
            self._resync(now)

    # ---- doubts ----

    def on_digest(self, peer: NodeId, digest: int, now: int) -> None:
        """What a member's ping or ack told of all that it knows."""
        if digest == self._knowledge.total:
            self._agree(peer, now)
            return
        pause = self._pauses.get(peer)
        is_left_alone = pause is not None and now < pause.until_ns
        if is_left_alone or self._intake.is_muted(peer, now):
            return
        if self._pulled is not None or now < self._barren.until_ns:
            return
        doubt = self._doubt
        if doubt is None:
            if not self._membership.has_left:
                self._doubt = _Doubt(peer, now)
            return
        if doubt.peer == peer and now >= self._quiet_ns(doubt):
            self._doubt = None
            if self.begin(peer, now):
                self._pulled = peer

    def _agree(self, peer: NodeId, now: int) -> None:
        self._barren = _NO_PAUSE
        self._pauses.pop(peer, None)
        if self._doubt is not None and self._doubt.peer == peer:
            self._doubt = None
        if now >= self._believes_digests_ns:
            self._resync_ns = NEVER

    # ---- exchanges that we began ----

    def begin(self, peer: NodeId, now: int) -> bool:
        """Ask a member for the difference; False if that just began, or it cannot be reached."""
        end = self._exchanges.get(peer)
        if self._membership.has_left or (end is not None and end > now + EXCHANGE_NS - RETRY_NS):
            return False
        if len(self._exchanges) >= _EXCHANGES_MAX:
            return False
        alive = self._members.alive_record(self._own)
        message = Digest(
            *self._knowledge.sums(),
            self._knowledge.premises(self._own),
            alive.wire if alive is not None else b"",
        )
        if not self._outbox.open_stream(peer, message):
            return False
        self._answered.pop(peer, None)
        self._exchanges.set(peer, now + EXCHANGE_NS)
        return True

    def on_difference(self, peer: NodeId, difference: Difference, now: int) -> None:
        """A member's answer: ask for what we lack, send what it lacks; or be done."""
        if self._intake.is_muted(peer, now):
            self._outbox.drop(DropReason.MUTED, peer, "Difference")
            return
        if self._exchanges.get(peer) is None or peer in self._answered:
            self._outbox.drop(DropReason.UNEXPECTED, peer, "Difference")
            return
        message = compare(self._knowledge, self._authority, difference)
        if not (message.wanted or message.records or message.statements):
            self._complete(peer, now, is_fruitful=False)
        elif self._outbox.open_stream(peer, message):
            self._answered[peer] = None
            self._exchanges.set(peer, now + EXCHANGE_NS)
        else:
            self.give_up(peer, now)

    def begin_whole(self, peer: NodeId, now: int) -> None:
        """Tell a member everything and ask it for everything: nothing of it is known yet but where
        it is.
        """
        if self._outbox.open_stream(peer, PushPull(False, *self._knowledge.everything())):
            self._answered[peer] = None
            self._exchanges.set(peer, now + EXCHANGE_NS)

    def is_running(self, peer: NodeId) -> bool:
        """Whether an exchange that we began with this member is not over."""
        return self._exchanges.get(peer) is not None

    def awaits_reply(self, peer: NodeId) -> bool:
        """Whether something was asked of this member, and not answered yet."""
        return peer in self._answered

    def on_reply(self, peer: NodeId, now: int, *, is_news: bool) -> None:
        """What was asked of a member has come and is taken in; `is_news`: it changed something."""
        if peer in self._answered:
            self._complete(peer, now, is_fruitful=is_news)

    def give_up(self, peer: NodeId, now: int) -> None:
        """A stream to this member came to nothing."""
        if self._exchanges.get(peer) is not None:
            self._exchanges.clear(peer)
            self._end(peer, now, is_fruitful=False)

    def _complete(self, peer: NodeId, now: int, *, is_fruitful: bool) -> None:
        self._exchanges.clear(peer)
        self._end(peer, now, is_fruitful=is_fruitful)
        self._resync_ns = NEVER
        self._on_met()

    def _end(self, peer: NodeId, now: int, *, is_fruitful: bool) -> None:
        self._answered.pop(peer, None)
        if self._pulled != peer:
            return
        self._pulled = None
        pause = self._pauses.pop(peer, _NO_PAUSE)
        if is_fruitful:
            self._barren = _NO_PAUSE
            return
        if len(self._pauses) >= _PAUSES_MAX:
            del self._pauses[next(iter(self._pauses))]
        self._pauses[peer] = _longer(pause, now, PAUSE_MAX_NS)
        self._barren = _longer(self._barren, now, BARREN_PAUSE_MAX_NS)

    # ---- exchanges that others began ----

    def on_digest_message(self, stream: int, peer: NodeId, digest: Digest, now: int) -> None:
        """Tell a member what we know where we differ; it will ask and send."""
        if self._intake.is_muted(peer, now):
            self._outbox.drop(DropReason.MUTED, peer, "Digest")
            return
        if self._authority.admission(peer) is None:
            self._intake.take_all(digest.premises, peer, now)
        if self._authority.admission(peer) is None:
            self._outbox.drop(DropReason.NOT_ADMITTED, peer, "Digest")
            reason = turn_away(self._authority, peer)
            if reason is not None:
                self._outbox.add(AnswerStream(stream, encode_stream(reason)))
            return
        if digest.alive and self._intake.take_all((digest.alive,), peer, now) is Taken.BROKEN:
            return
        if self._doubt is not None and self._doubt.peer == peer:
            self._doubt = None  # it will bring what we lack
        member_buckets, record_buckets = self._knowledge.differing(digest.members, digest.records)
        member_buckets, entries = self._knowledge.entries(member_buckets)
        ids = self._knowledge.record_ids(record_buckets)
        answer = Difference(member_buckets, entries, record_buckets, ids)
        self._outbox.add(AnswerStream(stream, encode_stream(answer)))


def _longer(pause: _Pause, now: int, longest_ns: int) -> _Pause:
    """Twice the last pause, from now on."""
    length = min(max(PAUSE_MIN_NS, 2 * pause.length_ns), longest_ns)
    return _Pause(now + length, length)
