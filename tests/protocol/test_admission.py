"""Who may use a model's slots next, and who is refused, and why."""

import collections
import dataclasses
import random
from collections.abc import Iterable, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.admission import (
    BATCH_ONE_IN,
    QUEUE_MAX,
    Admission,
    Claim,
    Reason,
    Refusal,
    Ticket,
)
from protocol.config import MILLISECOND, SECOND
from protocol.identity import NodeId
from protocol.messages import Load
from protocol.records import Priority
from protocol.requester import Requester

FOREVER = 10**18
TOKEN_NS = MILLISECOND
"""What a token takes on a slot of this file's machine."""


def claim(
    node: str = "a",
    *,
    key: str = "",
    user: str = "",
    priority: Priority = Priority.NORMAL,
    is_batch: bool = False,
    is_owner: bool = False,
    prompt: int = 100,
    output_max: int | None = None,
) -> Claim:
    """A request; everybody is a stranger but who says otherwise."""
    return Claim(
        node=NodeId(node.encode().ljust(32, b".")),
        is_owner=is_owner,
        requester=Requester(
            key=key.encode(), user=user.encode(), priority=priority, is_batch=is_batch
        ),
        prompt_tokens=prompt,
        output_max=output_max,
    )


@dataclasses.dataclass
class Job:
    """A request on the machine, and what will come of it."""

    name: str
    claim: Claim
    output: int
    begun_ns: int = 0


class Machine:
    """Slots at work, TOKEN_NS a token. Time goes from one end of a request to the next."""

    def __init__(self, slots: int = 1, **options: int) -> None:
        self.admission = Admission(slots, **options)
        self.now = 0
        self.jobs: dict[Ticket, Job] = {}
        self.running: dict[Ticket, int] = {}
        """When each will be over."""
        self.started: list[str] = []
        self.refused: list[tuple[str, Reason]] = []
        self.served: collections.Counter[str] = collections.Counter()
        self.waits: dict[str, int] = {}

    def ask(
        self, name: str, claim: Claim, output: int = 100, deadline: int = FOREVER
    ) -> Ticket | Refusal:
        """One more comes."""
        answer = self.admission.ask(claim, self.now, deadline)
        if isinstance(answer, Refusal):
            self.refused.append((name, answer.reason))
        else:
            self.jobs[answer] = Job(name, claim, output, self.now)
        self.decide()
        return answer

    def decide(self) -> None:
        """Take up whose turn it is."""
        for ticket, refusal in self.admission.decide(self.now):
            job = self.jobs[ticket]
            if refusal is not None:
                self.refused.append((job.name, refusal.reason))
                continue
            self.started.append(job.name)
            self.waits[job.name] = self.now - job.begun_ns
            self.admission.note(ticket, prompt_tokens=job.claim.prompt_tokens, output_tokens=0)
            size = job.claim.prompt_tokens + job.output
            self.running[ticket] = self.now + size * TOKEN_NS

    def finish_one(self) -> str:
        """The next end; gives whose it was."""
        ticket = min(self.running, key=lambda each: self.running[each])
        self.now = self.running.pop(ticket)
        job = self.jobs.pop(ticket)
        prompt = job.claim.prompt_tokens
        self.admission.note(ticket, prompt_tokens=prompt, output_tokens=job.output)
        self.admission.leave(ticket, self.now, is_whole=True)
        self.served[job.name] += prompt + job.output
        self.decide()
        return job.name

    def names(self, ends: int) -> list[str]:
        """Whose the next so many ends are."""
        return [self.finish_one() for _ in range(ends)]


def jain(values: Iterable[int]) -> float:
    """1: all have the same; 1 / n: one has all."""
    shares = [*values]
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


# ---- slots ----


def test_as_many_run_as_there_are_slots() -> None:
    """Also when they become more or fewer; who runs is not stopped."""
    machine = Machine(2)
    for number in range(6):
        machine.ask(f"{number}", claim())
    assert machine.started == ["0", "1"]
    assert machine.admission.load == Load(4, 2, 2)
    machine.admission.resize(3)
    machine.decide()
    assert machine.started == ["0", "1", "2"]
    machine.admission.resize(1)
    machine.names(2)
    assert machine.started == ["0", "1", "2"]
    machine.finish_one()
    assert machine.started == ["0", "1", "2", "3"]


def test_nobody_waits_for_a_model_that_is_gone() -> None:
    """Who waits is told so, who comes too; who runs sees for itself."""
    machine = Machine()
    for name in ("runs", "waits"):
        machine.ask(name, claim())
    machine.admission.resize(0)
    machine.decide()
    machine.ask("comes", claim())
    assert machine.refused == [("waits", Reason.UNAVAILABLE), ("comes", Reason.UNAVAILABLE)]


# ---- who goes first ----


def test_the_owner_is_next_in_line_under_full_load() -> None:
    """From whichever node, whatever waits already, also when the queue is full; the queue's last
    place is taken from the others.
    """
    machine = Machine(2)
    for number in range(QUEUE_MAX + 2):
        machine.ask("other", claim(f"n{number % 7}"))
    assert not machine.refused
    machine.ask("owner", claim("laptop", is_owner=True))
    machine.ask("owner", claim("phone", is_owner=True))
    machine.finish_one()
    machine.finish_one()
    assert machine.started == ["other", "other", "owner", "owner"]
    assert machine.refused == [("other", Reason.QUEUE_FULL)] * 2
    assert machine.waits["owner"] <= 200 * TOKEN_NS


def test_priorities_are_of_one_node() -> None:
    """High before normal before low; another node's turn comes all the same."""
    machine = Machine()
    machine.ask("first", claim())
    for priority in Priority:
        for _ in range(2):
            machine.ask(priority.name, claim("a", key=priority.name, priority=priority))
    machine.ask("b", claim("b", priority=Priority.LOW))
    order = [name for name in machine.names(8) if name not in ("first", "b")]
    assert order == ["HIGH", "HIGH", "NORMAL", "NORMAL", "LOW", "LOW"]
    assert machine.started.index("b") <= 2


def test_batch_waits_for_interactive() -> None:
    """Whoever came first, and of whatever priority; the owner's first among each class."""
    machine = Machine()
    machine.ask("first", claim())
    machine.ask("batch", claim(is_batch=True, priority=Priority.HIGH))
    machine.ask("owner's batch", claim("o", is_batch=True, is_owner=True))
    machine.ask("interactive", claim("b", priority=Priority.LOW))
    machine.ask("owner", claim("o", is_owner=True))
    machine.names(5)
    assert machine.started == ["first", "owner", "interactive", "owner's batch", "batch"]


@settings(max_examples=25)
@given(st.lists(st.integers(1, 400), min_size=40, max_size=40))
def test_batch_is_never_starved(outputs: list[int]) -> None:
    """While interactive requests never end, one token in sixteen or so is a batch one's."""
    machine = Machine()
    for number in range(8):
        machine.ask("interactive", claim(f"n{number}"))
    for _ in range(8):
        machine.ask("batch", claim("b", is_batch=True), output=100)
    passed = 0
    for number in range(320):
        passed = 0 if machine.finish_one() == "batch" else passed + 1
        batch = sum(job.name == "batch" for job in machine.jobs.values())
        if batch < 8:
            machine.ask("batch", claim("b", is_batch=True), output=100)
        while len(machine.jobs) < 16:
            machine.ask("interactive", claim("n"), output=outputs[number % 40])
        assert passed < 100
    share = machine.served["batch"] / machine.served.total()
    assert 0.5 / BATCH_ONE_IN <= share <= 2 / BATCH_ONE_IN


def test_batch_alone_has_all_slots() -> None:
    """Nobody else waits, so nothing is held back; and no claim is saved up meanwhile."""
    machine = Machine(2)
    for _ in range(20):
        machine.ask("batch", claim(is_batch=True))
    machine.names(10)
    machine.ask("interactive", claim("b"))
    machine.finish_one()
    assert machine.started[-1] == "interactive"


# ---- fair shares ----


def _flood(
    machine: Machine, claims: Mapping[str, Sequence[Claim]], loads: dict[str, int], ends: int
) -> None:
    """Each name keeps offering so many at a time, with its claims in turn, until so many ended."""
    rng, sent = random.Random(3), collections.Counter[str]()
    for _ in range(ends):
        for name, load in loads.items():
            for _ in range(load - sum(job.name == name for job in machine.jobs.values())):
                each = claims[name][sent[name] % len(claims[name])]
                machine.ask(name, each, output=rng.randrange(1, 300))
                sent[name] += 1
        machine.finish_one()


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize(
    "claims",
    [
        {"light": [claim("a", key="k")], "heavy": [claim("a", key="l")]},
        {"light": [claim("a")], "heavy": [claim("b")]},
        {"light": [claim("a", user="u")], "heavy": [claim("a", user="v")]},
        {"light": [claim("a")], "heavy": [claim("b", user=f"{n}") for n in range(1_000)]},
        {"light": [claim("a")], "heavy": [claim("b", key=f"{n}") for n in range(1_000)]},
    ],
    ids=["two keys", "two nodes", "two users", "1,000 users", "1,000 keys"],
)
def test_ten_times_the_load_gets_no_more(claims: dict[str, Sequence[Claim]], slots: int) -> None:
    """Jain's index of served tokens is at least 0.95, whoever invents whom; the queue is full all
    the while, and refusals do not fall on the one that offers little.
    """
    machine = Machine(slots)
    _flood(machine, claims, {"heavy": 80, "light": 8}, 250)
    assert jain(machine.served.values()) >= 0.95
    assert {name for name, _ in machine.refused} == {"heavy"}


def test_one_at_a_time_against_many() -> None:
    """An app that waits for each answer has half of one slot beside one that floods."""
    machine = Machine()
    _flood(
        machine,
        {"polite": [claim("a")], "flood": [claim("b")]},
        {"polite": 1, "flood": 30},
        400,
    )
    # It is away while its own answer is over and its next not there: here for no time at all.
    assert jain(machine.served.values()) >= 0.95


def test_long_answers_pay_for_what_they_were() -> None:
    """Who gets 2,000 tokens where 200 were expected has as many tokens as who gets 20."""
    machine = Machine()
    claims = {"long": [claim("a")], "short": [claim("b", prompt=10)]}
    for _ in range(3_000):
        for name, output in (("long", 2_000), ("short", 20)):
            if sum(job.name == name for job in machine.jobs.values()) < 5:
                machine.ask(name, claims[name][0], output=output)
        machine.finish_one()
    assert jain(machine.served.values()) >= 0.95


def test_a_huge_max_tokens_that_is_not_used_does_not_hurt() -> None:
    """Who leaves it at a million has as much as who says what it needs."""
    machine = Machine(4)
    claims = {
        "huge": [claim("a", output_max=1_000_000)],
        "exact": [claim("b", output_max=150)],
    }
    _flood(machine, claims, {"huge": 5, "exact": 5}, 300)
    assert jain(machine.served.values()) >= 0.98


def test_who_breaks_off_pays_for_what_came() -> None:
    """A prompt that was taken up and what was generated; nothing for one that never began."""
    machine = Machine()
    ticket = machine.ask("a", claim("a", prompt=10_000))
    assert isinstance(ticket, Ticket)
    machine.admission.note(ticket, prompt_tokens=9_000, output_tokens=5)
    lane = machine.admission._lanes[1]
    machine.admission.leave(ticket, 1)
    [flow] = lane._root.children.values()
    assert flow.deficit == -9_005
    fresh = Admission(1)
    asked = fresh.ask(claim("a", prompt=10_000), 0, FOREVER)
    assert isinstance(asked, Ticket)
    assert fresh.decide(0) == [(asked, None)]
    fresh.leave(asked, 1)
    assert not fresh._lanes[1]._root.children


# ---- deadlines and estimates ----


def test_a_deadline_passes_in_the_queue() -> None:
    """It is refused as expired; who is behind it moves up."""
    machine = Machine()
    machine.ask("runs", claim())
    machine.ask("late", claim(), deadline=SECOND)
    machine.ask("patient", claim("b"))
    machine.now = SECOND
    machine.decide()
    assert machine.refused == [("late", Reason.EXPIRED)]
    assert machine.admission.load == Load(1, 1, 1)


def test_who_would_wait_too_long_is_refused_at_once() -> None:
    """With the time until it fits; the estimate is that of what waits and runs."""
    machine = Machine()
    for _ in range(3):
        machine.ask("known", claim())
        machine.finish_one()
    for _ in range(10):
        machine.ask("waits", claim("a", output_max=100), output=100)
    wait_ns = 9 * 200 * TOKEN_NS  # as much of the others as its own needs, but it is in their flow
    refusal = machine.ask(
        "short of time", claim("a", output_max=100), deadline=machine.now + SECOND
    )
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.WAIT_TOO_LONG
    assert refusal.load == Load(9, 1, 1)
    assert refusal.wait_ns is not None
    assert refusal.wait_ns == pytest.approx(wait_ns, rel=0.25)
    assert refusal.retry_after_ms == -(-(refusal.wait_ns - SECOND) // MILLISECOND)
    another = machine.ask(
        "of a node that has nothing", claim("b", output_max=100), deadline=machine.now + SECOND
    )
    assert isinstance(another, Ticket), "its turn comes sooner"


def test_a_full_queue_says_when_a_place_is_free() -> None:
    """One of the same flow as all others; before anything was seen, a second is as good as any."""
    machine = Machine(queue_max=1)
    machine.ask("runs", claim())
    machine.ask("waits", claim())
    refusal = machine.ask("a", claim())
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.wait_ns) == (Reason.QUEUE_FULL, None)
    assert refusal.retry_after_ms == 1_000
    machine.finish_one()
    machine.ask("waits", claim(output_max=400))
    refusal = machine.ask("a", claim())
    assert isinstance(refusal, Refusal)
    assert refusal.retry_after_ms == pytest.approx(300, rel=0.1)


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_estimates_are_honest(slots: int) -> None:
    """Under a load that goes on, waits as they are expected are in the mean what they become,
    within a sixth, although those who come later overtake; on few slots and on many.
    """
    machine, rng = Machine(slots), random.Random(5)
    told: dict[str, int] = {}
    for number in range(600):
        name, node = f"{number}", f"n{rng.randrange(4)}"
        asked = claim(node, prompt=rng.randrange(1, 200))
        if number > 100:
            cost = asked.prompt_tokens + machine.admission._times.output_tokens
            computed_ns = machine.admission._computed_ns(asked, cost)
            assert computed_ns is not None
            told[name] = machine.admission._times.expected_ns(computed_ns)
        machine.ask(name, asked, output=rng.randrange(1, 300))
        while len(machine.jobs) > 20:
            machine.finish_one()
    mean_told = sum(told[name] for name in told if name in machine.waits)
    mean_was = sum(machine.waits[name] for name in told if name in machine.waits)
    assert mean_told == pytest.approx(mean_was, rel=1 / 6)


# ---- keeping it for the owner ----


def test_a_pause_refuses_others() -> None:
    """Those that wait and those that come; not the owner, and nobody who runs."""
    machine = Machine()
    machine.ask("runs", claim())
    machine.ask("waits", claim())
    machine.ask("owner", claim("o", is_owner=True))
    machine.admission.pause(is_paused=True)
    machine.decide()
    machine.ask("comes", claim())
    assert machine.refused == [("waits", Reason.PAUSED), ("comes", Reason.PAUSED)]
    assert machine.admission.has_owner
    assert machine.names(2) == ["runs", "owner"]
    machine.admission.pause(is_paused=False)
    machine.ask("again", claim())
    assert machine.started[-1] == "again"


# ---- bounds ----


def test_the_queue_has_an_end() -> None:
    """However many come from however many nodes, keys and users."""
    machine = Machine()
    for number in range(2_000):
        machine.ask("x", claim(f"n{number % 50}", key=f"k{number}", user=f"u{number}"))
        assert machine.admission.load.queued <= QUEUE_MAX
    assert len(machine.refused) == 2_000 - 1 - QUEUE_MAX


@given(st.randoms(use_true_random=False))
def test_nothing_is_left_in_the_end(rng: random.Random) -> None:
    """Through asking, running, cancelling, expiring, pausing, resizing: every ticket is decided
    at most once, counts are true, and when all have gone nothing is kept but debts.
    """
    admission = Admission(2, queue_max=8)
    waiting, running = dict[Ticket, None](), dict[Ticket, None]()
    for now in range(120):
        act = rng.randrange(8)
        if act < 4:
            asked = admission.ask(
                claim(
                    rng.choice("abc"),
                    key=rng.choice("kl"),
                    user=rng.choice("uv"),
                    priority=rng.choice([*Priority]),
                    is_batch=rng.randrange(2) == 0,
                    is_owner=rng.randrange(3) == 0,
                    prompt=rng.randrange(1, 1_000),
                ),
                now,
                now + rng.randrange(1, 40),
            )
            if isinstance(asked, Ticket):
                waiting[asked] = None
        elif act == 4 and running:
            admission.note(rng.choice([*running]), prompt_tokens=5, output_tokens=now)
        elif act == 5 and (waiting or running):
            gone = rng.choice([*waiting, *running])
            admission.leave(gone, now, is_whole=rng.randrange(2) == 0)
            waiting.pop(gone, None)
            running.pop(gone, None)
        elif act == 6:
            admission.pause(is_paused=rng.randrange(3) == 0)
        elif act == 7:
            admission.resize(rng.randrange(4))
        for ticket, refusal in admission.decide(now):
            del waiting[ticket]
            if refusal is None:
                running[ticket] = None
        assert (admission.load.queued, admission.load.running) == (len(waiting), len(running))
        assert len(waiting) <= 8
    for ticket in [*waiting, *running]:
        admission.leave(ticket, 1_000)
        admission.leave(ticket, 1_000)  # a second time changes nothing
    assert admission.is_idle
    for lane in admission._lanes:
        assert not lane._leaves
        assert lane._root.children.keys() == lane._root.debtors.keys()


def loading(load_ns: int) -> Admission:
    """One slot of a model that is there in so long."""
    admission = Admission(1)
    admission.resize(1, load_ns)
    return admission


def test_nobody_runs_before_the_model_is_loaded() -> None:
    """They wait, in their order, and what is told counts them."""
    admission = loading(5 * SECOND)
    tickets = [admission.ask(claim(name), 0, FOREVER) for name in "ab"]
    assert admission.decide(1) == []
    assert admission.load == Load(2, 0, 1)
    admission.resize(1)
    assert admission.decide(9 * SECOND) == [(tickets[0], None)]


def test_who_cannot_wait_for_a_load_is_told_how_long_it_takes() -> None:
    """Because of its deadline, or because it does not want to."""
    admission = loading(5 * SECOND)
    late = admission.ask(claim(), 0, 4 * SECOND)
    assert isinstance(late, Refusal)
    assert (late.reason, late.retry_after_ms) == (Reason.WAIT_TOO_LONG, 1_000)
    hasty = dataclasses.replace(claim(), requester=Requester(is_impatient=True))
    refused = admission.ask(hasty, 0, FOREVER)
    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.retry_after_ms) == (Reason.LOADING, 5_000)
    admission.resize(1)
    assert isinstance(admission.ask(hasty, 0, FOREVER), Ticket)


def test_when_the_model_cannot_be_loaded_nobody_waits_on() -> None:
    """Owner or not; who comes later may try again."""
    admission = loading(5 * SECOND)
    for name in "ab":
        admission.ask(claim(name, is_owner=name == "a"), 0, FOREVER)
    admission.give_up_loading()
    reasons = [refusal and refusal.reason for _, refusal in admission.decide(1)]
    assert reasons == [Reason.NO_ROOM] * 2
    assert isinstance(admission.ask(claim(), 2, FOREVER), Ticket)


def test_a_load_says_nothing_about_waits() -> None:
    """Else they would be foretold as long as a load, ever after."""
    machine = Machine()
    machine.ask("before", claim())
    machine.finish_one()
    machine.admission.resize(1, 100 * SECOND)
    for name in "abc":
        machine.ask(name, claim())
    machine.now += 100 * SECOND
    machine.admission.resize(1)
    machine.decide()
    machine.names(3)
    assert machine.admission._times.expected_ns(SECOND) == SECOND
