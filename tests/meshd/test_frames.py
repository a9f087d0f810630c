"""Frames on a stream: whole or not at all, bounded, and safe to wait for."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MemoryReceiveStream, MockClock, memory_stream_pair, wait_all_tasks_blocked

from meshd.frames import BYTES_PER_S_MIN, FRAME_S, FrameStream, StreamBroken

LIMIT = 1_000


def _feed(*pieces: bytes) -> FrameStream:
    """A stream that brings these pieces, one a read, and then its end."""
    left = list(pieces)

    async def more() -> None:
        feeding.put_data(left.pop(0)) if left else feeding.put_eof()

    feeding = MemoryReceiveStream(receive_some_hook=more)
    return FrameStream(trio.StapledStream(trio.testing.MemorySendStream(), feeding))


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


async def _all(frames: FrameStream) -> list[bytes]:
    found: list[bytes] = []
    while (frame := await frames.receive(LIMIT)) is not None:
        found.append(frame)
    return found


@given(st.lists(st.binary(max_size=60), max_size=8), st.lists(st.integers(1, 20), min_size=1))
def test_frames_survive_any_cutting(sent: list[bytes], cuts: list[int]) -> None:
    """However the network cuts the bytes, the same frames come out, empty ones too."""
    data = b"".join(map(_framed, sent))
    pieces: list[bytes] = []
    while data:
        size = cuts[len(pieces) % len(cuts)]
        pieces.append(data[:size])
        data = data[size:]
    assert trio.run(_all, _feed(*pieces)) == sent


def test_a_sent_frame_arrives() -> None:
    """What one end sends, the other receives; a close between frames is an end."""

    async def main() -> None:
        left, right = map(FrameStream, memory_stream_pair())
        with trio.fail_after(5):
            for frame in (b"hello", b"", b"x" * LIMIT):
                await left.send(frame)
                assert await right.receive(LIMIT) == frame
            assert right.is_quiet
            await left.aclose()
            assert await right.receive(LIMIT) is None

    trio.run(main)


def test_the_limit_is_exact_and_no_body_is_read_beyond_it() -> None:
    """A frame of the limit passes; of one byte more only the header is needed to refuse it."""
    assert trio.run(_feed(_framed(b"x" * LIMIT)).receive, LIMIT) == b"x" * LIMIT
    with pytest.raises(StreamBroken, match="1001 bytes, over the limit of 1000"):
        trio.run(_feed((LIMIT + 1).to_bytes(4, "big")).receive, LIMIT)
    with pytest.raises(StreamBroken, match="over the limit"):
        trio.run(_feed(b"\xff\xff\xff\xff").receive, LIMIT)


@pytest.mark.parametrize(
    "cut", [b"\x00", b"\x00\x00\x00", b"\x00\x00\x00\x05", b"\x00\x00\x00\x05ab"]
)
def test_an_end_inside_a_frame_is_no_end(cut: bytes) -> None:
    """A stream that closes in a header or a body is broken, not over."""
    with pytest.raises(StreamBroken, match="inside a frame"):
        trio.run(_feed(cut).receive, LIMIT)


def test_waiting_for_a_frame_can_be_given_up() -> None:
    """Cancelled in the middle of a frame, nothing of it is lost: the next call gets it whole."""

    async def main() -> None:
        left, right = memory_stream_pair()
        frames = FrameStream(right)
        await left.send_all(_framed(b"hello")[:6])
        with trio.move_on_after(1) as scope:
            await frames.receive(LIMIT)
        assert scope.cancelled_caught
        assert not frames.is_quiet
        await left.send_all(_framed(b"hello")[6:])
        assert await frames.receive(LIMIT) == b"hello"

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_frame_that_drips_breaks_the_stream() -> None:
    """Once begun it must be whole soon, so that one byte a second does not hold us."""

    async def main() -> None:
        left, right = memory_stream_pair()

        async def drip() -> None:
            for byte in _framed(b"x" * 100):
                await trio.sleep(1)
                await left.send_all(bytes((byte,)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            with pytest.raises(StreamBroken, match="too slow"):
                await FrameStream(right).receive(LIMIT)
            assert trio.current_time() - started == pytest.approx(1 + FRAME_S, abs=1)
            nursery.cancel_scope.cancel()

    started = 0.0

    async def with_start() -> None:
        nonlocal started
        started = trio.current_time()
        await main()

    trio.run(with_start, clock=MockClock(autojump_threshold=0))


def test_a_peer_that_says_nothing_breaks_the_stream() -> None:
    """It may be waited for only so long."""

    async def main() -> None:
        left, right = memory_stream_pair()
        with pytest.raises(StreamBroken) as caught:
            await FrameStream(right).receive(LIMIT, timeout_s=30)
        assert caught.value.fault == "silent"
        await left.aclose()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_standstill_of_this_process_is_no_silence_of_the_peer() -> None:
    """What it said meanwhile counts, though the deadline is noticed before it can be read."""
    clock = MockClock()

    async def main() -> None:
        left, right = memory_stream_pair()
        heard: list[bytes | None] = []

        async def hear() -> None:
            heard.append(await FrameStream(right).receive(LIMIT, timeout_s=2))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear)
            await wait_all_tasks_blocked()
            clock.jump(60)
            await trio.lowlevel.checkpoint()
            await left.send_all(_framed(b"here"))
        assert heard == [b"here"]

    trio.run(main, clock=clock)


@pytest.mark.parametrize(("speed", "is_taken"), [(1.1, True), (0.5, False)])
@pytest.mark.parametrize("is_sending", [True, False])
def test_a_long_frame_has_the_time_of_its_size(
    speed: float, is_taken: bool, is_sending: bool
) -> None:
    """At the least speed it passes whichever end is slow; well below it nobody is held."""
    size = 16 * 2**20
    piece = int(BYTES_PER_S_MIN * speed)

    async def main() -> None:
        left, right = trio.testing.lockstep_stream_pair()

        async def slow_end() -> None:
            data = _framed(bytes(size))
            try:
                while data if is_sending else True:
                    await trio.sleep(1)
                    if is_sending:
                        await left.send_all(data[:piece])
                        data = data[piece:]
                    elif not await right.receive_some(piece):
                        break
            except trio.BrokenResourceError:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow_end)
            quick = FrameStream(right if is_sending else left)
            fault = ""
            try:
                if is_sending:
                    assert await quick.receive(size) == bytes(size)
                else:
                    await quick.send(bytes(size))
            except StreamBroken as error:
                fault = error.fault
            assert fault == ("" if is_taken else "too_slow")
            await quick.aclose()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_cut_stream_gives_nothing_of_what_has_come() -> None:
    """A whole frame waits in the buffer, and counts no more; whoever waits is told."""

    async def main() -> None:
        left, right = memory_stream_pair()
        frames = FrameStream(right)
        await left.send_all(_framed(b"first") + _framed(b"second"))
        assert await frames.receive(LIMIT) == b"first"
        assert not frames.is_quiet
        frames.cut()
        with pytest.raises(StreamBroken, match="cut"):
            await frames.receive(LIMIT)
        with pytest.raises(StreamBroken, match="cut"):
            await frames.send(b"more")

    trio.run(main)


def test_frames_that_came_at_once_hold_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gives others a turn, and one that is cut in that turn gives nothing."""

    async def main() -> None:
        left, right = memory_stream_pair()
        frames = FrameStream(right)

        async def cut() -> None:
            frames.cut()

        await left.send_all(_framed(b"x") * 100)
        for _ in range(99):
            with trio.testing.assert_checkpoints():
                assert await frames.receive(LIMIT) == b"x"
        monkeypatch.setattr(trio.lowlevel, "checkpoint", cut)
        with pytest.raises(StreamBroken, match="cut"):
            await frames.receive(LIMIT)

    trio.run(main)


def test_frames_that_are_sent_together_are_one_piece() -> None:
    """One packet and one turn of the reader, where there is no reason for two."""
    pieces: list[bytes] = []

    async def main() -> None:
        async def keep() -> None:
            pieces.append(bytes(sending.get_data_nowait()))

        sending = trio.testing.MemorySendStream(keep)
        whole = trio.StapledStream(sending, MemoryReceiveStream())
        await FrameStream(whole).send(b"one", b"", b"two")

    trio.run(main)
    assert pieces == [_framed(b"one") + _framed(b"") + _framed(b"two")]


def test_a_peer_that_does_not_read_breaks_the_stream() -> None:
    """Sending waits for the peer only so long."""

    async def main() -> None:
        left, _right = trio.testing.lockstep_stream_pair()
        with pytest.raises(StreamBroken, match="too slow"):
            await FrameStream(left).send(b"hello", timeout_s=5)

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_closed_stream_is_broken_in_both_directions() -> None:
    """Neither sending nor receiving on a dead stream raises anything but StreamBroken."""

    async def main() -> None:
        left, right = memory_stream_pair()
        frames = FrameStream(left)
        await right.aclose()
        with pytest.raises(StreamBroken):
            await frames.send(b"x")
        await frames.aclose()
        with pytest.raises(StreamBroken):
            await frames.send(b"x")
        with pytest.raises(StreamBroken):
            await frames.receive(LIMIT)

    trio.run(main)
