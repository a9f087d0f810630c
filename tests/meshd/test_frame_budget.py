"""Long frames wait for room: one peer's share, everybody's, and nothing that is forgotten."""

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from meshd import frame_budget as under_test
from meshd.frame_budget import SHORT_BYTES, FrameBudget
from meshd.frames import FrameStream

LONG = SHORT_BYTES + 1


class Holders:
    """Frames that arrive and do not end until they are told."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.budget = FrameBudget()
        self.inside: list[str] = []
        self._nursery = nursery
        self._ends: dict[str, trio.CancelScope] = {}

    async def begin(self, peer: str, size: int) -> None:
        self._nursery.start_soon(self._hold, peer, size)
        await wait_all_tasks_blocked()

    async def end(self, peer: str) -> None:
        self._ends[peer].cancel()
        await wait_all_tasks_blocked()

    async def _hold(self, peer: str, size: int) -> None:
        self._ends[peer] = trio.CancelScope()
        with self._ends[peer]:
            async with self.budget.room(peer, size):
                self.inside.append(peer)
                await trio.sleep_forever()


@pytest.mark.parametrize(
    ("peer_max", "all_max", "also"),
    [(2 * LONG, 9 * LONG, "bert"), (9 * LONG, 2 * LONG, None)],
    ids=["of one peer", "of all"],
)
def test_long_frames_wait_for_room(
    monkeypatch: pytest.MonkeyPatch, peer_max: int, all_max: int, also: str | None
) -> None:
    """Two fit. The third comes in when one of them ends; another peer's only if all have room."""
    monkeypatch.setattr(under_test, "PEER_BYTES_MAX", peer_max)
    monkeypatch.setattr(under_test, "ALL_BYTES_MAX", all_max)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            holders = Holders(nursery)
            for peer in ("anna", "anna", "anna", "bert"):
                await holders.begin(peer, LONG)
            assert holders.inside == ["anna", "anna", *([also] if also else [])]
            await holders.begin("anna", SHORT_BYTES)
            assert holders.inside[-1] == "anna", "a short one is free"
            nursery.cancel_scope.cancel()
        assert not holders.budget.taken

    trio.run(main)


def test_who_waits_comes_in_as_soon_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a frame became whole or was given up; and who gave up waiting holds nothing."""
    monkeypatch.setattr(under_test, "ALL_BYTES_MAX", LONG)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            holders = Holders(nursery)
            for peer in ("anna", "bert", "carl"):
                await holders.begin(peer, LONG)
            await holders.end("bert")
            assert holders.inside == ["anna"]
            await holders.end("anna")
            assert holders.inside == ["anna", "carl"]
            await holders.end("carl")
            assert not holders.budget.taken

    trio.run(main)


def test_nothing_of_a_frame_that_waits_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """So its sender waits too, and memory holds the frame that has the room, and no other."""
    monkeypatch.setattr(under_test, "ALL_BYTES_MAX", LONG)
    budget = FrameBudget()

    async def main() -> None:
        ends = [memory_stream_pair() for _ in range(2)]
        frames = [FrameStream(right, lambda size: budget.room("anna", size)) for _, right in ends]
        got: list[bytes | None] = []

        async def read(stream: FrameStream) -> None:
            got.append(await stream.receive(LONG))

        async with trio.open_nursery() as nursery:
            for (left, _), stream in zip(ends, frames, strict=True):
                await left.send_all(LONG.to_bytes(4, "big"))
                nursery.start_soon(read, stream)
                await wait_all_tasks_blocked()
            await ends[1][0].send_all(bytes(LONG))
            await wait_all_tasks_blocked()
            assert len(frames[1]._buffer) == 4
            await ends[0][0].send_all(bytes(LONG))
        assert got == [bytes(LONG)] * 2
        assert not budget.taken

    trio.run(main)
