"""One machine at work: its speeds, its queue, and queueing theory."""

import functools
import itertools
import random

import pytest

from protocol.config import SECOND
from protocol.identity import NodeId
from protocol.messages import Load
from simulations.chance import exponential
from simulations.inference.arrivals import MILLION, Poisson, times
from simulations.inference.engine import Engine, Work
from simulations.inference.machines import CLASSES, Machine, Portion, counts, deal
from tests.simulations.inference.clockwork import Clockwork


def _machine(slots: int = 1, queue: int = 10_000, slowdown_ppm: int = 0) -> Machine:
    return Machine(
        name="m",
        prefill_milli=1_000_000,
        decode_milli=100_000,
        slots=slots,
        queue=queue,
        slowdown_ppm=slowdown_ppm,
    )


class Bench:
    """An engine, and when each request had its first and its last token."""

    def __init__(self, machine: Machine) -> None:
        self.clock = Clockwork()
        self.engine = Engine(machine, at=self.clock.at, now=lambda: self.clock.now)
        self.first: dict[int, float] = {}
        self.done: dict[int, float] = {}
        self.refused: list[int] = []

    def work(
        self, number: int, prompt: int, output: int, node: str = "", *, is_owner: bool = True
    ) -> Work:
        """A request that writes down its ends, in seconds."""
        return Work(
            prompt,
            output,
            on_first=lambda: self.first.update({number: self.clock.now / SECOND}),
            on_done=lambda: self.done.update({number: self.clock.now / SECOND}),
            on_refused=lambda reason: self.refused.append(number),
            node=NodeId(node.encode()),
            is_owner=is_owner,
        )

    def submit(
        self, number: int, prompt: int, output: int, node: str = "", *, is_owner: bool = True
    ) -> Work:
        """Ask now."""
        work = self.work(number, prompt, output, node, is_owner=is_owner)
        if self.engine.submit(work) is not None:
            self.refused.append(number)
        return work


def test_alone_a_request_has_the_whole_machine() -> None:
    """Prefill, which gives the first token, then decode of the rest."""
    bench = Bench(_machine())
    bench.submit(1, 500, 101)
    bench.clock.run()
    assert (bench.first[1], bench.done[1]) == (0.5, 1.5)
    assert bench.engine.busy_slot_ns == round(1.5 * SECOND)


def test_the_law_of_batching() -> None:
    """Prefill is shared; each decodes at speed / (1 + slowdown * (n - 1))."""
    bench = Bench(_machine(slots=3, slowdown_ppm=500_000))
    for number in range(3):
        bench.submit(number, 500, 101)
    bench.clock.run()
    assert list(bench.first.values()) == pytest.approx([1.5] * 3, rel=2e-6)
    assert list(bench.done.values()) == pytest.approx([1.5 + 1.0 * (1 + 0.5 * 2)] * 3, rel=2e-6)


def test_one_that_ends_gives_its_speed_to_the_others() -> None:
    """Alone again, the longer one runs at full speed."""
    bench = Bench(_machine(slots=2, slowdown_ppm=MILLION))
    bench.submit(1, 1, 51)
    bench.submit(2, 1, 101)
    bench.clock.run()
    assert bench.done[1] == pytest.approx(0.002 + 1.0)
    assert bench.done[2] == pytest.approx(0.002 + 1.0 + 0.5)


def test_first_come_first_served_and_no_more_than_the_queue() -> None:
    """One runs, two wait, the fourth is refused; who leaves makes room."""
    bench = Bench(_machine(queue=2))
    works = [bench.submit(number, 100, 11) for number in range(4)]
    assert bench.refused == [3]
    assert bench.engine.load == Load(2, 1, 1)
    bench.engine.cancel(works[1])
    bench.submit(4, 100, 11)
    bench.clock.run()
    assert list(bench.done) == [0, 2, 4]
    assert bench.engine.load == Load(0, 0, 1)


def test_turns_are_those_of_the_daemon() -> None:
    """The owner next, then nodes in turn; the one with most makes room in a full queue."""
    bench = Bench(_machine(queue=4))
    for number in range(5):
        bench.submit(number, 100, 11, "much", is_owner=False)
    bench.submit(5, 100, 11, "little", is_owner=False)
    bench.submit(6, 100, 11, "owner")
    bench.clock.run()
    assert list(bench.done) in ([0, 6, 5, 1, 2], [0, 6, 1, 5, 2])
    assert bench.refused == [4, 3]


def test_cancel_and_freeze() -> None:
    """A cancelled one frees its slot at once; a frozen machine goes on where it was."""
    bench = Bench(_machine())
    running = bench.submit(1, 100, 1_000)
    bench.submit(2, 100, 1)
    bench.clock.at(SECOND, bench.engine.freeze)
    bench.clock.at(SECOND, lambda: bench.engine.cancel(running))
    bench.clock.at(5 * SECOND, bench.engine.thaw)
    bench.clock.run()
    assert bench.done == {2: 5.1}
    assert running.emitted_tokens == 91  # one after 0.1 s of prefill, then 0.9 s at 100 tokens/s
    assert bench.engine.busy_slot_ns == round(1.1 * SECOND)


def test_one_server_waits_as_pollaczek_and_khinchine_say() -> None:
    """Mean wait of M/D/1 at load 0.7: 0.7 / (2 * 0.3) services; its utilisation is the load."""
    bench = Bench(_machine())
    count, service_s = 20_000, 0.1
    coming = times(Poisson().phases(random.Random(1)), 7 * MILLION, random.Random(2))
    began: dict[int, float] = {}
    for number, at_ns in enumerate(itertools.islice(coming, count)):
        began[number] = at_ns / SECOND
        bench.clock.at(at_ns, functools.partial(bench.submit, number, 100, 1))
    bench.clock.run()
    waits = [bench.done[number] - began[number] - service_s for number in range(count)]
    assert sum(waits) / count == pytest.approx(service_s * 0.7 / 0.6, rel=0.08)
    assert bench.engine.busy_slot_ns / bench.clock.now == pytest.approx(0.7, rel=0.03)


def test_many_slots_wait_as_erlang_says() -> None:
    """M/M/4 at load 0.8: Erlang's C is 0.596, so the mean wait is 0.745 services."""
    bench = Bench(_machine(slots=4))
    rng, count, service_s = random.Random(4), 15_000, 1.0
    coming = times(Poisson().phases(rng), 3_200_000, rng)
    spent: dict[int, tuple[float, float]] = {}
    for number, at_ns in enumerate(itertools.islice(coming, count)):
        output = 2 + (100 * exponential(rng) >> 32)
        spent[number] = at_ns / SECOND, 0.001 + (output - 1) / 100
        bench.clock.at(at_ns, functools.partial(bench.submit, number, 1, output))
    bench.clock.run()
    waits = [bench.done[n] - began - needed for n, (began, needed) in spent.items()]
    assert sum(waits) / count == pytest.approx(0.745 * service_s, rel=0.15)
    assert bench.engine.busy_slot_ns / bench.clock.now / 4 == pytest.approx(0.8, rel=0.03)


def test_machines_are_dealt_evenly() -> None:
    """So many of each class, mixed over the numbers; the rest serve nothing."""
    fast, slow = CLASSES["rtx4090"], CLASSES["cpu"]
    dealt = deal(20, [Portion(machine=fast, count=5), Portion(machine=slow, share_ppm=500_000)])
    assert [dealt.count(kind) for kind in (fast, slow, None)] == [5, 10, 5]
    for begin in range(0, 20, 4):
        assert 1 <= dealt[begin : begin + 4].count(slow) <= 3


def test_shares_of_all_are_all() -> None:
    """However they would be rounded alone."""
    portions = [
        Portion(machine=kind, share_ppm=MILLION // 4) for kind in list(CLASSES.values())[:4]
    ]
    for nodes in range(1, 50):
        assert sum(counts(nodes, portions)) == nodes
        assert None not in deal(nodes, portions)


def test_capacity_is_slots_over_the_time_of_a_request() -> None:
    """With all slots full: prefill, then decode at the speed of a full batch."""
    machine = _machine(slots=4, slowdown_ppm=500_000)
    assert machine.request_ns(500_000, 101_000) == 3 * SECOND
    assert machine.capacity_uhz(500_000, 101_000) == 4 * MILLION // 3
