"""Running a request that another member sent: what it gets, and what ends it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from meshd import answering
from meshd.admitting import Admitting
from meshd.answering import Answering, Send
from meshd.frames import FrameStream, StreamBroken
from meshd.local_models import LocalModels
from meshd.payloads import (
    pack_chunk,
    pack_finished,
    pack_request,
    pack_started,
    unpack_chunk,
)
from meshd.serving import Serving
from protocol.exchange import (
    ANSWER_BYTES_MAX,
    REQUEST_BYTES_MAX,
    Accept,
    Ask,
    Asker,
    Cancel,
    Data,
    End,
    Fail,
    Heartbeat,
    Refuse,
    encode_frame,
)
from protocol.fields import pack
from protocol.identity import NodeId
from protocol.messages import Load
from protocol.outlook import Outlook
from protocol.requester import ANYBODY
from runtimes.base import Chunk, Finished, GenerateRequest, RuntimeFailure, Started
from tests.meshd.members import admit
from tests.meshd.played_runtime import HELLO, PlayedRuntime

PEER = NodeId(b"p" * 32)
REQUEST = GenerateRequest(model="m", prompt="hello")
ASK = encode_frame(Ask("ab", 60_000, pack_request(REQUEST)))
FOREVER = 1e9
Answer = Accept | Refuse | Data | Heartbeat | End | Fail


def _admitting(*runtimes: PlayedRuntime) -> Admitting:
    return Admitting(LocalModels(runtimes), lambda node: False)


class Served:
    """The asker's end of one exchange, and what the serving end made of it."""

    def __init__(self, frames: FrameStream) -> None:
        self.frames = frames
        self.serving: Serving
        self.broken: str | None = None
        """Why `serve_stream` gave the stream up."""
        self.is_over = trio.Event()

    async def answer(self) -> list[Answer]:
        """All frames up to the last one."""
        asker, found = Asker(), list[Answer]()
        while not asker.is_over:
            data = await self.frames.receive(ANSWER_BYTES_MAX)
            assert data is not None
            found.append(asker.receive(data))
        return found


@asynccontextmanager
async def _serving(
    *runtimes: PlayedRuntime,
    admitting: Admitting | None = None,
    pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]] = memory_stream_pair,
) -> AsyncIterator[tuple[Served, FrameStream]]:
    """One exchange under way; gives both ends."""
    left, right = pair()
    served, frames = Served(FrameStream(left)), FrameStream(right)
    served.serving = Serving(admitting or _admitting(*runtimes), admit)

    async def serve() -> None:
        try:
            await served.serving.serve_stream(PEER, frames)
        except StreamBroken as error:
            served.broken = str(error)
        served.is_over.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield served, frames
        await served.is_over.wait()


def _run(main: Callable[[], Awaitable[None]]) -> None:
    """On a clock that leaps over every wait."""

    async def timed() -> None:
        with trio.fail_after(10_000):
            await main()

    trio.run(timed, clock=MockClock(autojump_threshold=0))


def test_an_answer_comes_whole() -> None:
    """Every event of the runtime, in order, and the stream stays of use."""
    runtime = PlayedRuntime()

    async def main() -> None:
        async with _serving(runtime) as (served, _):
            await served.frames.send(ASK)
            assert await served.answer() == [
                Accept(pack_started(Started((1, 2, 3)))),
                Data(pack_chunk(Chunk((10,), "Hel"))),
                Data(pack_chunk(Chunk((11, 12), "lo wörld"))),
                End(pack_finished(Finished("stop", 3, 3))),
            ]
        assert served.broken is None
        assert runtime.requests == [REQUEST]

    _run(main)


def test_the_next_exchange_may_begin_at_once() -> None:
    """An asker that has the last frame goes on, however long the runtime still cleans up."""

    async def main() -> None:
        for steps in (HELLO, (Started(()), RuntimeFailure("crashed", "x")), (_full(),)):
            async with _serving(PlayedRuntime(steps, clean_up_s=5)) as (served, frames):
                await served.frames.send(ASK)
                await served.answer()
                await served.frames.send(b"the next opening")
            assert served.broken is None
            assert await frames.receive(100) == b"the next opening"

    _run(main)


def _full() -> RuntimeFailure:
    return RuntimeFailure("queue_full", "all busy")


def test_a_failure_before_the_start_is_a_refusal() -> None:
    """With its code, its words, the load, and when to try again; nothing was done."""

    async def main() -> None:
        async with _serving(PlayedRuntime([_full()])) as (served, _):
            await served.frames.send(ASK)
            [refusal] = await served.answer()
            assert isinstance(refusal, Refuse)
            assert (refusal.code, refusal.message) == ("queue_full", "all busy")
            assert refusal.retry_after_ms > 0
            assert refusal.load.slots == 1
        assert served.broken is None

    _run(main)


def test_a_failure_after_the_start_is_a_fail() -> None:
    """The answer will not become whole."""
    steps = (Started((1,)), Chunk((2,), "x"), RuntimeFailure("crashed", "y" * 5_000))

    async def main() -> None:
        async with _serving(PlayedRuntime(steps)) as (served, _):
            await served.frames.send(ASK)
            accept, data, fail = await served.answer()
            assert isinstance(accept, Accept)
            assert isinstance(data, Data)
            assert fail == Fail("crashed", "y" * 1_000)

    _run(main)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (pack_request(GenerateRequest(model="other", prompt="x")), "unavailable"),
        (b"junk", "bad_request"),
        (pack((2,)), "bad_request"),
        (b"", "bad_request"),
    ],
)
def test_what_cannot_be_served_is_refused(body: bytes, code: str) -> None:
    """A model that is not here, a body that makes no sense; the stream stays of use."""

    async def main() -> None:
        async with _serving(PlayedRuntime()) as (served, _):
            await served.frames.send(encode_frame(Ask("ab", 1_000, body)))
            [refusal] = await served.answer()
            assert isinstance(refusal, Refuse)
            assert refusal.code == code
        assert served.broken is None

    _run(main)


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"junk",
        encode_frame(Cancel()),
        encode_frame(Accept(b"")),
        pack((1, "ab", -1, b"")),
        pack((1, "x" * 65, 1, b"")),
        pack((99,)),
    ],
)
def test_a_stream_that_does_not_begin_with_a_request_is_broken(first: bytes) -> None:
    """Nothing is answered to nonsense."""
    runtime = PlayedRuntime()

    async def main() -> None:
        async with _serving(runtime) as (served, _):
            await served.frames.send(first)
        assert served.broken
        assert not runtime.requests

    _run(main)


def test_an_asker_that_says_nothing_or_too_much_is_left() -> None:
    """A slow request, a close before it, and one that is too large."""

    async def silent(served: Served) -> None:
        await served.is_over.wait()

    async def closing(served: Served) -> None:
        await served.frames.aclose()

    async def endless(served: Served) -> None:
        size = REQUEST_BYTES_MAX + 1_025
        await served.frames._stream.send_all(size.to_bytes(4, "big"))

    async def main() -> None:
        for behaviour in (silent, closing, endless):
            async with _serving(PlayedRuntime()) as (served, _):
                await behaviour(served)
            assert served.broken

    _run(main)


async def _cancel(served: Served) -> None:
    await served.frames.send(encode_frame(Cancel()))


async def _close(served: Served) -> None:
    await served.frames.aclose()


async def _babble(served: Served) -> None:
    await served.frames.send(b"\xff" * 100)


async def _flood(served: Served) -> None:
    await served.frames.send(b"x" * 2_000)


@pytest.mark.parametrize("ending", [_cancel, _close, _babble, _flood])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_an_asker_that_goes_away_ends_the_generation(
    ending: Callable[[Served], Awaitable[None]], before: int
) -> None:
    """Cancel, close, and anything else that it may not say; in the queue and amid the answer."""
    runtime = PlayedRuntime([*HELLO[:before], FOREVER])

    async def main() -> None:
        started = trio.current_time()
        async with _serving(runtime) as (served, _):
            await served.frames.send(ASK)
            for _ in range(before):
                await served.frames.receive(1_000)
            await wait_all_tasks_blocked()
            assert runtime.running == 1
            await ending(served)
            await served.is_over.wait()
            assert runtime.running == 0
        assert served.broken
        assert trio.current_time() - started < 1

    _run(main)


def test_idle_is_when_the_last_one_has_his_last_frame() -> None:
    """Not when the runtime is done: who hears first that this node leaves would ask anew."""
    runtime = PlayedRuntime([*HELLO[:2], 1.0, *HELLO[2:]])

    async def main() -> None:
        async with _serving(runtime) as (served, _):
            await served.serving.idle()
            began = trio.current_time()
            await served.frames.send(ASK)
            await wait_all_tasks_blocked()
            with trio.fail_after(2.0):
                await served.serving.idle()
            assert trio.current_time() - began == pytest.approx(1.0)
            *_, last = await served.answer()
            assert isinstance(last, End)

    _run(main)


def test_the_askers_deadline_ends_the_generation() -> None:
    """Nobody waits any more; no words are needed."""
    runtime = PlayedRuntime([*HELLO[:2], FOREVER])

    async def main() -> None:
        started = trio.current_time()
        async with _serving(runtime) as (served, _):
            await served.frames.send(encode_frame(Ask("ab", 2_500, pack_request(REQUEST))))
        assert trio.current_time() - started == pytest.approx(2.5)
        assert served.broken
        assert runtime.running == 0

    _run(main)


def test_an_asker_that_does_not_read_holds_up_its_own_generation_only_so_long() -> None:
    """The runtime waits with it, no frame is stored, and its slot is free in the end."""
    chunks = [Chunk((1,), "x" * 1_000)] * 100
    runtime = PlayedRuntime([Started(()), *chunks, Finished("stop", 0, 100)])

    async def main() -> None:
        patient = encode_frame(Ask("ab", 3_600_000, pack_request(REQUEST)))
        async with _serving(runtime, pair=lockstep_stream_pair) as (served, _):
            await served.frames.send(patient)
            assert await served.frames.receive(1_000) is not None
            await wait_all_tasks_blocked()
            assert runtime.given == 2, "it is one frame ahead of its reader"
            started = trio.current_time()
            await served.is_over.wait()
            assert trio.current_time() - started == pytest.approx(answering.UNREAD_S, abs=0.1)
            assert runtime.running == 0
        assert served.broken

    _run(main)


def test_one_slow_asker_does_not_slow_another() -> None:
    """Each exchange waits for its own reader."""
    runtime = PlayedRuntime()

    async def main() -> None:
        async with _serving(runtime, pair=lockstep_stream_pair) as (slow, _):
            await slow.frames.send(ASK)
            async with _serving(runtime) as (quick, _):
                await quick.frames.send(ASK)
                answer = await quick.answer()
            data = [frame for frame in answer if isinstance(frame, Data)]
            assert [unpack_chunk(frame.body).text for frame in data] == ["Hel", "lo wörld"]
            await slow.frames.aclose()

    _run(main)


def test_a_runtime_that_ends_without_an_end_breaks_the_stream() -> None:
    """The asker must not take half an answer for a whole one."""

    async def main() -> None:
        async with _serving(PlayedRuntime(HELLO[:2])) as (served, _):
            await served.frames.send(ASK)
        assert served.broken

    _run(main)


def test_an_asker_that_wants_it_hears_a_heartbeat() -> None:
    """In the queue, in a long prefill and between slow tokens, and never closer than needed."""
    steps = [1.2, HELLO[0], 1.2, HELLO[1], 0.1, HELLO[2], 1.2, HELLO[3]]

    async def main() -> None:
        async with _serving(PlayedRuntime(steps)) as (served, _):
            await served.frames.send(encode_frame(Ask("ab", 60_000, pack_request(REQUEST), 500)))
            kinds = [type(frame).__name__ for frame in await served.answer()]
        assert kinds == [
            *["Heartbeat"] * 2,
            "Accept",
            *["Heartbeat"] * 2,
            "Data",
            "Data",
            *["Heartbeat"] * 2,
            "End",
        ]
        assert served.broken is None

    _run(main)


def test_a_heartbeat_tells_what_a_request_waits_for() -> None:
    """Its place, until it runs: then it only says that the node lives."""
    admitting = _admitting(PlayedRuntime([1.2, *HELLO]))

    async def other() -> None:
        async with aclosing(admitting.generate(REQUEST, PEER, ANYBODY, 60.0)) as events:
            async for _ in events:
                pass

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await wait_all_tasks_blocked()
            async with _serving(admitting=admitting) as (served, _):
                await served.frames.send(
                    encode_frame(Ask("ab", 60_000, pack_request(REQUEST), 500))
                )
                *beats, accept, _, _, _ = await served.answer()
        assert isinstance(accept, Accept)
        assert beats == [Heartbeat(Outlook(place=1))] * 2 + [Heartbeat()] * 2

    _run(main)


def test_heartbeats_are_bounded() -> None:
    """Whatever an asker wants."""

    async def main() -> None:
        async with _serving(PlayedRuntime([1.05, *HELLO])) as (served, _):
            await served.frames.send(encode_frame(Ask("ab", 60_000, pack_request(REQUEST), 1)))
            beats = [frame for frame in await served.answer() if isinstance(frame, Heartbeat)]
        assert len(beats) == 10

    _run(main)


def test_a_heartbeat_that_is_due_when_the_work_has_ended_breaks_nothing() -> None:
    """It waited for the last words before to be sent, and then the process was stopped a while."""
    clock = MockClock(autojump_threshold=0)

    async def work(send: Send) -> End:
        await send(Accept(b""))
        await send(Data(b""))  # so slowly taken that a heartbeat waits for its turn
        clock.jump(1)
        return End(b"")

    async def main() -> None:
        left, right = lockstep_stream_pair()
        answering = Answering(FrameStream(right), lambda: Load(0, 0, 1))
        served = Served(FrameStream(left))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answering.run, work, Ask("ab", 60_000, b"", 500))
            assert await served.frames.receive(ANSWER_BYTES_MAX) == encode_frame(Accept(b""))
            await trio.sleep(0.7)
            frames = [await served.frames.receive(ANSWER_BYTES_MAX) for _ in range(3)]
        assert frames == [encode_frame(each) for each in (Data(b""), Heartbeat(), End(b""))]

    trio.run(main, clock=clock)


def test_an_asker_that_does_not_read_gets_no_pile_of_heartbeats() -> None:
    """One waits for its reader, and is given up with it; the generation ends."""
    runtime = PlayedRuntime([FOREVER])

    async def main() -> None:
        patient = encode_frame(Ask("ab", 3_600_000, pack_request(REQUEST), 500))
        async with _serving(runtime, pair=lockstep_stream_pair) as (served, _):
            await served.frames.send(patient)
            started = trio.current_time()
            await served.is_over.wait()
            assert trio.current_time() - started == pytest.approx(answering.UNREAD_S + 0.5, abs=0.1)
        assert runtime.running == 0

    _run(main)


def test_asked_anew_the_older_run_ends() -> None:
    """The same request of the same peer: its asker has given the older one up."""
    runtime = PlayedRuntime([HELLO[0], FOREVER])
    runtime.slots = 2
    serving = Serving(_admitting(runtime), admit)
    ends = {name: tuple(map(FrameStream, memory_stream_pair())) for name in ("old", "new", "else")}
    broken: list[str] = []

    async def serve(name: str, peer: NodeId) -> None:
        try:
            await serving.serve_stream(peer, ends[name][1])
        except StreamBroken:
            broken.append(name)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for name, peer in (("old", PEER), ("else", NodeId(b"q" * 32))):
                nursery.start_soon(serve, name, peer)
                await ends[name][0].send(ASK)
                await ends[name][0].receive(1_000)
            nursery.start_soon(serve, "new", PEER)
            await ends["new"][0].send(ASK)
            await ends["new"][0].receive(1_000)
            await wait_all_tasks_blocked()
            assert broken == ["old"]
            assert runtime.running == 2
            nursery.cancel_scope.cancel()
        assert not serving._runs

    _run(main)
