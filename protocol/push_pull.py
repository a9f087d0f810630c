"""The one place for when members exchange what they know over streams, and for joining.

An exchange brings over only what differs (`reconciliation.py`). It happens

- with a random member, every `push_pull_period`;
- with a member that does not know us, or whose life we do not know (an introduction, at a
  bounded rate: whoever sees our datagrams can ask for one in a member's name);
- with missing members, one at least every `reconnect_interval_ns`, so that a mesh which was cut
  in two or switched off grows together without anybody's help;
- with everybody that an earlier run remembered, soon after the start;
- with a member whose digest keeps differing from ours.

A newcomer that joins gets everything.
"""

import random
from typing import Final

from protocol.allowance import Allowance
from protocol.authority import Authority
from protocol.catch_up import CatchUp
from protocol.codec import PREMISES_MAX, encode_stream
from protocol.comparison import answer
from protocol.config import ProtocolConfig
from protocol.crypto import Crypto
from protocol.deadlines import NEVER
from protocol.digest import Knowledge
from protocol.dissemination import Dissemination
from protocol.effects import Admitted, AnswerStream, JoinRefused
from protocol.errors import DropReason, Refused
from protocol.identity import NodeId
from protocol.intake import Intake, Taken
from protocol.joining import JoinRefusal, admit, turn_away
from protocol.members import Members, State
from protocol.membership import Membership
from protocol.messages import Gossip, Join, JoinAnswer, PushPull
from protocol.outbox import Outbox
from protocol.reconciliation import Reconciler
from protocol.records import Admission, Invite, decode_record

START_FIRST: Final = 2
"""Remembered members tried at the start: one that lives tells of all others ..."""
START_BURST: Final = 8
"""... if none does, twice as many each time, up to this."""
_START_WAIT_NS: Final = 300_000_000
"""Until more are tried, while not all that can be; then ..."""
_START_TICK_NS: Final = 100_000_000
_INTRODUCTIONS_MAX: Final = 4_096


def push_pull_period(config: ProtocolConfig, members: int) -> int:
    """Nanoseconds between exchanges: the interval up to 32 members, then longer by log2 N."""
    if members <= 32:
        return config.push_pull_interval_ns
    # ceil(log2 n) - log2 32 + 1, by integers
    return config.push_pull_interval_ns * ((members - 1).bit_length() - 5 + 1)


class PushPuller:
    """Begins one node's exchanges, and takes in what they and newcomers bring."""

    def __init__(
        self,
        config: ProtocolConfig,
        crypto: Crypto,
        rng: random.Random,
        authority: Authority,
        members: Members,
        membership: Membership,
        knowledge: Knowledge,
        reconciler: Reconciler,
        intake: Intake,
        rumours: Dissemination,
        outbox: Outbox,
        catch_up: CatchUp,
    ) -> None:
        self._config = config
        self._crypto = crypto
        self._own = crypto.node_id
        self._rng = rng
        self._authority = authority
        self._members = members
        self._membership = membership
        self._knowledge = knowledge
        self._reconciler = reconciler
        self._intake = intake
        self._rumours = rumours
        self._outbox = outbox
        self._catch_up = catch_up
        self._periodic_ns = NEVER
        self._reconnect_ns = NEVER
        self._first_tries: list[NodeId] = []
        self._burst = START_FIRST
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
                self._reconciler.begin(self._rng.choice(others), now)
        if now >= self._reconnect_ns:
            self._reconnect(now)

    def _reconnect(self, now: int) -> None:
        if self._first_tries:
            self._first_tries = [n for n in self._first_tries if not self._members.is_present(n)]
            batch = self._first_tries[: self._burst]
            del self._first_tries[: self._burst]
            for node in batch:
                self._try(node, now)
        elif (longest := self._longest_untried()) is not None:
            self._try(longest, now)
        pause = self._config.reconnect_interval_ns
        if self._first_tries:
            pause = _START_TICK_NS if self._burst == START_BURST else _START_WAIT_NS
            self._burst = min(2 * self._burst, START_BURST)
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
        self._reconciler.begin(node, now)

    def introduce(self, node: NodeId, now: int) -> None:
        """Exchange with a member that does not know us (or we not it), at a bounded rate."""
        last = self._introduced.pop(node, None)
        if last is not None and now - last < self._config.introduce_interval_ns:
            self._introduced[node] = last
            return
        if not self._introductions.take(now):
            self._outbox.drop(DropReason.RATE_LIMITED, node, "introduction")
            return
        if len(self._introduced) >= _INTRODUCTIONS_MAX:
            del self._introduced[next(iter(self._introduced))]
        self._introduced[node] = now
        self._reconciler.begin(node, now)

    def on_push_pull(self, stream: int, peer: NodeId, message: PushPull, now: int) -> None:
        """Take in what a member sent and, if it asked, answer with what it wants."""
        if self._intake.is_muted(peer, now):
            self._outbox.drop(DropReason.MUTED, peer, "push/pull")
            return
        if message.is_reply and not self._reconciler.awaits_reply(peer):
            self._outbox.drop(DropReason.UNEXPECTED, peer, "reply")
            return
        before = self._knowledge.total
        if self._authority.admission(peer) is None:
            # A member that we do not know yet brings its own admission among the records.
            taken = self._intake.take_all(message.records[:PREMISES_MAX], peer, now)
            if taken is Taken.BROKEN or self._authority.admission(peer) is None:
                self._outbox.drop(DropReason.NOT_ADMITTED, peer, "push/pull")
                reason = turn_away(self._authority, peer)
                if reason is not None:
                    self._outbox.add(AnswerStream(stream, encode_stream(reason)))
                return
        if self._intake.take_all(message.records, peer, now) is not Taken.BROKEN:
            self._intake.take_all(message.statements, peer, now)
        if self._intake.is_muted(peer, now):
            return  # since this very frame
        if message.is_reply:
            self._reconciler.on_reply(peer, now, is_news=self._knowledge.total != before)
        else:
            reply = answer(self._knowledge, self._authority, message.wanted)
            self._outbox.add(AnswerStream(stream, encode_stream(reply)))

    def on_join(self, stream: int, peer: NodeId, join: Join, wall_s: int) -> None:
        """Judge a newcomer; whatever comes of it, it gets an answer."""
        if peer != join.proof.node:
            self._outbox.drop(DropReason.NOT_ALLOWED, peer, "joins for another key")
            self._answer_join(stream, peer, JoinRefusal.BAD_PROOF)
            return
        try:
            if isinstance(decode_record(join.invite), Invite):
                self._intake.take_record(join.invite)
        except Refused as refused:
            if refused.reason is not DropReason.STALE:
                self._outbox.drop(refused.reason, peer, "invite")
        known = self._authority.admission(peer)
        verdict = self._judge(join, wall_s)
        if known is None and isinstance(verdict, Admission):
            try:
                self._intake.take_record(verdict.wire)
            except Refused:
                verdict = JoinRefusal.FULL
        if isinstance(verdict, JoinRefusal):
            self._answer_join(stream, peer, verdict)
            return
        if known is None:
            self._outbox.add(Admitted(peer))
        admitted = JoinAnswer("", *self._knowledge.everything())
        self._outbox.add(AnswerStream(stream, encode_stream(admitted)))

    def _judge(self, join: Join, wall_s: int) -> Admission | JoinRefusal:
        if not self._catch_up.is_over:
            return JoinRefusal.CATCHING_UP
        return admit(self._authority, self._crypto, join.proof, wall_s)

    def _answer_join(self, stream: int, peer: NodeId, refusal: JoinRefusal) -> None:
        self._outbox.add(JoinRefused(peer, refusal))
        refused = JoinAnswer(refusal, (), ())
        self._outbox.add(AnswerStream(stream, encode_stream(refused)))
