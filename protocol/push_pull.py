"""The one place for exchanges over streams: what is sent, when, with whom; and joining.

A push/pull sends everything the sender knows and brings the same back. It happens

- with a random member, every `push_pull_period`;
- with a member that does not know us, or whose life we do not know (an introduction, at a
  bounded rate: whoever sees our datagrams can ask for one in a member's name);
- with missing members, one at least every `reconnect_interval_ns`, so that a mesh which was cut
  in two or switched off grows together without anybody's help;
- with everybody that an earlier run remembered, soon after the start.

Dead members travel as our own accusation, which is a suspicion elsewhere; their lives do not
travel, so that a newcomer never meets a ghost.
"""

import random
from typing import Final

from protocol.allowance import Allowance
from protocol.authority import Authority, JoinRefusal
from protocol.codec import encode_stream
from protocol.config import ProtocolConfig
from protocol.deadlines import NEVER
from protocol.dissemination import Dissemination
from protocol.effects import Admitted, AnswerStream, JoinRefused
from protocol.errors import DropReason, Refused
from protocol.identity import NodeId
from protocol.intake import Intake, Taken
from protocol.members import Members, State
from protocol.membership import Membership
from protocol.messages import Gossip, Join, JoinAnswer, PushPull
from protocol.offers import Offers
from protocol.outbox import Outbox

START_BURST: Final = 8
"""Remembered members tried per tick right after the start."""
_START_TICK_NS: Final = 100_000_000
_INTRODUCTIONS_MAX: Final = 4_096


def push_pull_period(config: ProtocolConfig, members: int) -> int:
    """Nanoseconds between exchanges: the interval up to 32 members, then longer by log2 N."""
    if members <= 32:
        return config.push_pull_interval_ns
    # ceil(log2 n) - log2 32 + 1, by integers
    return config.push_pull_interval_ns * ((members - 1).bit_length() - 5 + 1)


class PushPuller:
    """All stream exchanges of one node."""

    def __init__(
        self,
        config: ProtocolConfig,
        own: NodeId,
        rng: random.Random,
        authority: Authority,
        members: Members,
        membership: Membership,
        offers: Offers,
        intake: Intake,
        rumours: Dissemination,
        outbox: Outbox,
    ) -> None:
        self._config = config
        self._own = own
        self._rng = rng
        self._authority = authority
        self._members = members
        self._membership = membership
        self._offers = offers
        self._intake = intake
        self._rumours = rumours
        self._outbox = outbox
        self._periodic_ns = NEVER
        self._reconnect_ns = NEVER
        self._first_tries: list[NodeId] = []
        self._last_tries: dict[NodeId, int] = {}
        self._introduced: dict[NodeId, int] = {}
        self._introductions = Allowance(config.introductions_per_s)

    @property
    def deadline_ns(self) -> int:
        """When `advance` has something to do."""
        return min(self._periodic_ns, self._reconnect_ns)

    def start(self, now: int) -> None:
        """Look for everybody that is remembered, and exchange from time to time."""
        self._first_tries = self._members.missing()
        self._rng.shuffle(self._first_tries)
        self._reconnect_ns = now
        self._periodic_ns = now + self._rng.randrange(self._config.push_pull_interval_ns)

    def stop(self) -> None:
        """Begin nothing any more (this node is leaving)."""
        self._periodic_ns = self._reconnect_ns = NEVER

    def advance(self, now: int) -> None:
        """Begin the exchanges that are due."""
        if now >= self._periodic_ns:
            self._periodic_ns = now + push_pull_period(self._config, self._members.present_count)
            others = [node for node in self._members.present() if node != self._own]
            if others:
                self._exchange(self._rng.choice(others))
        if now >= self._reconnect_ns:
            self._reconnect(now)

    def _reconnect(self, now: int) -> None:
        if self._first_tries:
            batch = self._first_tries[:START_BURST]
            del self._first_tries[:START_BURST]
            for node in batch:
                if not self._members.is_present(node):
                    self._try(node, now)
        elif (longest := self._longest_untried()) is not None:
            self._try(longest, now)
        pause = _START_TICK_NS if self._first_tries else self._config.reconnect_interval_ns
        self._reconnect_ns = now + pause

    def _longest_untried(self) -> NodeId | None:
        """The missing member whose last try is the longest ago.

        Those that said goodbye come back by themselves; they are looked for only by a node that
        sees nobody, as after a night in which all were switched off.
        """
        is_alone = self._members.present_count <= 1
        candidates = [
            node
            for node in self._members.missing()
            if node != self._own and (is_alone or self._members.state(node) is not State.LEFT)
        ]
        if not candidates:
            return None
        return min(candidates, key=lambda node: self._last_tries.get(node, -1))

    def _try(self, node: NodeId, now: int) -> None:
        self._last_tries.pop(node, None)
        if len(self._last_tries) >= self._config.members_max:
            del self._last_tries[next(iter(self._last_tries))]
        self._last_tries[node] = now
        # The datagram carries our accusation: a member that lives will refute it at once.
        self._outbox.send(node, Gossip(), self._membership.accusation_of(node))
        self._exchange(node)

    def introduce(self, node: NodeId, now: int) -> None:
        """Exchange with a member that does not know us (or we not it), at a bounded rate."""
        last = self._introduced.pop(node, None)
        if last is not None and now - last < self._config.introduce_interval_ns:
            self._introduced[node] = last
            return
        if not self._introductions.take(now):
            return
        if len(self._introduced) >= _INTRODUCTIONS_MAX:
            del self._introduced[next(iter(self._introduced))]
        self._introduced[node] = now
        self._exchange(node)

    def _exchange(self, node: NodeId) -> None:
        if not self._membership.has_left:
            self._outbox.open_stream(node, PushPull(False, *self.state()))

    def state(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Everything this node knows: records, and statements in an order that can be taken in."""
        records = tuple(record.wire for record in self._authority.records())
        statements: list[bytes] = []
        for node in self._members.all():
            alive, gone = self._members.alive_record(node), self._members.gone(node)
            left = gone.left if gone is not None else None
            if left is not None:
                statements.append(left.wire)
            if alive is not None and (gone is None or left is not None):
                statements.append(alive.wire)
            accusation = self._membership.accusation_of(node)
            if accusation is not None:
                statements.append(accusation.wire)
        statements.extend(
            offer.wire for offer in self._offers.all() if self._members.is_present(offer.author)
        )
        return records, tuple(statements)

    def on_push_pull(self, stream: int, peer: NodeId, message: PushPull, now: int) -> None:
        """Take in what a member sent and, if it asked, answer with everything known."""
        if self._authority.admission(peer) is None:
            # A member that we do not know yet brings its own admission among the records.
            taken = self._intake.take_all(message.records, peer, now)
            if taken is Taken.BROKEN or self._authority.admission(peer) is None:
                self._outbox.drop(DropReason.NOT_ADMITTED, peer, "push/pull")
                return
        if self._intake.take_all(message.records, peer, now) is not Taken.BROKEN:
            self._intake.take_all(message.statements, peer, now)
        if not message.is_reply:
            answer = PushPull(True, *self.state())
            self._outbox.add(AnswerStream(stream, encode_stream(answer)))

    def on_join(self, stream: int, peer: NodeId, join: Join, wall_s: int) -> None:
        """Judge a newcomer; whatever comes of it, it gets an answer."""
        if peer != join.proof.node:
            self._outbox.drop(DropReason.NOT_ALLOWED, peer, "joins for another key")
            self._answer_join(stream, peer, JoinRefusal.BAD_PROOF)
            return
        try:
            self._intake.take_record(join.invite)
        except Refused as refused:
            if refused.reason is not DropReason.STALE:
                self._outbox.drop(refused.reason, peer, "invite")
        known = self._authority.admission(peer)
        verdict = self._authority.admit(join.proof, wall_s)
        if isinstance(verdict, JoinRefusal):
            self._answer_join(stream, peer, verdict)
            return
        if known is None:
            self._rumours.add_record(verdict.wire)
            self._outbox.add(Admitted(peer))
        records, statements = self.state()
        answer = JoinAnswer("", records, statements)
        self._outbox.add(AnswerStream(stream, encode_stream(answer)))

    def _answer_join(self, stream: int, peer: NodeId, refusal: JoinRefusal) -> None:
        self._outbox.add(JoinRefused(peer, refusal))
        answer = JoinAnswer(refusal, (), ())
        self._outbox.add(AnswerStream(stream, encode_stream(answer)))
