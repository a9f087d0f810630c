"""A job's whole story: who is asked, what is tried again, what is final."""

import gc
import json
import pathlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import memory_stream_pair

from meshd import advertisement
from meshd.answering import receive_ask
from meshd.asking import Asking
from meshd.frames import FrameStream, StreamBroken
from meshd.home import Home
from meshd.peers import Handler, Kind
from meshd.tasks import driver as driver_module
from meshd.tasks.descriptor import read_call, read_descriptor
from meshd.tasks.driver import Driver
from meshd.tasks.jobs import Job, Jobs
from meshd.tasks.live_job import LiveJob
from meshd.tasks.payloads import pack_returned
from meshd.tasks.serving import TaskServing
from meshd.view import View
from protocol.config import SECOND
from protocol.effects import LoadLearned, MembershipChanged
from protocol.events import OfferChanged
from protocol.exchange import Accept, Ask, End, Fail, Refuse, decode_frame, encode_frame
from protocol.identity import Address, NodeId
from protocol.members import Gone, State
from protocol.messages import Load
from runtimes.functions.call import Returned
from runtimes.functions.runner import FunctionRunner
from tests.helpers.nodes import Mesh
from tests.meshd.members import TIMEOUT_S, Member, admit, at_once, until, workers

IDLE = Load(0, 0, 1)
ACCEPT = encode_frame(Accept(b""))
ECHO = {"echo": "tests.runtimes.functions.examples:echo"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Retries come at once; a socket that nobody closed fails the test that left it."""
    monkeypatch.setattr(driver_module, "BACKOFF_S", 0.001)
    monkeypatch.setattr(driver_module, "BACKOFF_S_MAX", 0.01)
    yield
    gc.collect()


def end(result: bytes) -> bytes:
    """The last frame of a job that is done."""
    return encode_frame(End(pack_returned(Returned(result=result))))


class Played:
    """A member's handler that answers each job with the next of its scripts, then the last."""

    def __init__(self, *scripts: list[bytes] | None) -> None:
        """A script is frames; the stream breaks after them, unless they end the answer. None:
        accept, and never end.
        """
        self._scripts = list(scripts)
        self.asked = 0
        self.left = trio.Event()
        """Somebody went away from a job that never ends."""

    async def __call__(self, peer: NodeId, frames: FrameStream) -> None:
        await receive_ask(frames)
        self.asked += 1
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        if script is None:
            await frames.send(ACCEPT)
            try:
                await frames.receive(100)
            finally:
                self.left.set()
            return
        for frame in script:
            await frames.send(frame)
        if script[-1:] == [ACCEPT] or not script:
            raise StreamBroken("it died")


def refusing(code: str) -> list[bytes]:
    """Nothing was done."""
    return [encode_frame(Refuse(code, f"it is {code}", 0, IDLE))]


def failing(code: str) -> list[bytes]:
    """It began, and came to nothing."""
    return [ACCEPT, encode_frame(Fail(code, f"it is {code}"))]


class House:
    """A mesh whose member 0 drives jobs that the others play; all offer the function `f`."""

    def __init__(
        self,
        folder: pathlib.Path,
        *handlers: Handler,
        own: FunctionRunner | None = None,
        silent: int | None = None,
    ) -> None:
        """`own`: member 0 offers the function too, and runs it so. `silent`: this one has told
        nothing yet.
        """
        count = len(handlers) + 1
        self.mesh = Mesh(count).start_all()
        self.members = [Member(folder, index, workers(*range(count))) for index in range(count)]
        self.handlers = handlers
        for index in range(count):
            if index != silent:
                self.offer(index, [] if index == 0 and own is None else ["f"])
        self.mesh.settle()
        self.view = View(self.mesh[0])
        self._noted = 0
        self.hear()
        for index in range(1, count):
            # Tried in the order of their numbers, whatever chance says.
            self.view.note(LoadLearned(self.id(index), Load(0, index, 100)))
        self.addresses: dict[NodeId, tuple[Address, ...]] = {}
        anna = self.members[0]
        asking = Asking(
            self.view,
            anna.peers,
            lambda node: self.addresses.get(node, ()),
            at_once,
            lambda event: None,
        )
        self.functions = own or FunctionRunner({}, folder / "scratch")
        self.jobs = Jobs(anna.home)
        self.driver = Driver(
            anna.id, self.view, self.functions, asking, self.jobs, random.Random(1)
        )

    def offer(self, index: int, functions: list[str]) -> None:
        """Member `index` tells which functions it has."""
        value = advertisement.encode_functions(functions)
        self.mesh.give(index, OfferChanged(advertisement.FUNCTIONS, value))
        hardware = advertisement.encode_map({"tier": 3})
        self.mesh.give(index, OfferChanged(advertisement.HARDWARE, hardware))

    def hear(self) -> None:
        """Member 0 learns what the others have told."""
        self.mesh.advance(5 * SECOND)
        for effect in self.mesh.machines[0].log[self._noted :]:
            self.view.note(effect)
        self._noted = len(self.mesh.machines[0].log)

    def id(self, index: int) -> NodeId:
        """A member's key."""
        return self.members[index].id

    def die(self, index: int) -> None:
        """Member `index` is declared dead here."""
        self.mesh[0].members.put_gone(self.id(index), Gone(State.DEAD, 1, 0, None))
        self.view.note(MembershipChanged(self.id(index), "", State.DEAD, 1, State.SUSPECT))

    def suspect(self, index: int) -> None:
        """Member `index` is in doubt here."""
        self.mesh[0]._membership.suspect(self.id(index), self.mesh.now, is_refused=False)

    def refute(self, index: int) -> None:
        """It has said that it lives."""
        del self.mesh[0].members.suspicions[self.id(index)]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """All members take streams, and jobs are driven."""
        async with AsyncExitStack() as stack:
            for member, handler in zip(self.members[1:], self.handlers, strict=True):
                served = await stack.enter_async_context(member.serving({Kind.TASK: handler}))
                self.addresses[member.id] = (served,)
            async with trio.open_nursery() as nursery:
                await nursery.start(self.driver.run)
                yield
                nursery.cancel_scope.cancel()
            self.members[0].peers.drop_idle(everything=True)

    async def submit(self, **job: object) -> LiveJob:
        """Begin a job."""
        descriptor = read_descriptor({"function": "f", **job})
        return await self.driver.submit(descriptor, read_call(descriptor))

    async def outcome(self, **job: object) -> Job:
        """A job at its end."""
        live = await self.submit(**job)
        await live.over.wait()
        return live.job


def _run(house: House, main: Callable[[], Awaitable[None]]) -> None:
    async def timed() -> None:
        with trio.fail_after(TIMEOUT_S):
            async with house.open():
                await main()

    trio.run(timed)


def _outcome(house: House, **job: object) -> Job:
    found: list[Job] = []

    async def main() -> None:
        found.append(await house.outcome(**job))

    _run(house, main)
    return found[0]


async def _retrying(live: LiveJob, *, times: int = 1) -> None:
    """Until a job has come to nothing so often."""
    async with aclosing(live.news()) as news:
        async for entry in news:
            times -= entry["event"] == "retrying"
            if not times:
                return


def _story(job: Job) -> list[tuple[str, str]]:
    return [(attempt.node, attempt.state) for attempt in job.attempts]


def test_the_least_busy_node_does_it(tmp_path: pathlib.Path) -> None:
    """One attempt, its result, and nobody else is asked."""
    first, second = Played([ACCEPT, end(b'{"a": [1]}')]), Played(None)
    job = _outcome(House(tmp_path, first, second))
    assert (str(job.state), job.result) == ("done", {"a": [1]})
    assert _story(job) == [("n1", "done")]
    assert second.asked == 0


@pytest.mark.parametrize("code", ["queue_full", "unavailable", "unknown_function", "odd"])
def test_a_refusal_moves_on_at_once(tmp_path: pathlib.Path, code: str) -> None:
    """Nothing was done: the next is asked, and no retry is used up."""
    house = House(tmp_path, Played(refusing(code)), Played([ACCEPT, end(b"1")]))
    job = _outcome(house, retries=0)
    assert _story(job) == [("n1", "failed"), ("n2", "done")]
    assert job.attempts[0].reason == f"it is {code}"


@pytest.mark.parametrize("script", [[ACCEPT], failing("crashed"), refusing("crashed")])
def test_a_loss_is_retried_elsewhere(tmp_path: pathlib.Path, script: list[bytes]) -> None:
    """A stream that breaks while it runs, and a crash: one retry, on another node first."""
    job = _outcome(House(tmp_path, Played(script), Played([ACCEPT, end(b"1")])), retries=1)
    assert _story(job) == [("n1", "failed"), ("n2", "done")]


def test_retries_end(tmp_path: pathlib.Path) -> None:
    """As often as the job says, and the last reason is told."""
    played = Played(failing("crashed"))
    job = _outcome(House(tmp_path, played), retries=2)
    assert (str(job.state), played.asked) == ("failed", 3)
    assert job.error == {
        "code": "crashed",
        "message": "tried 3 times; the last time on n1: it is crashed",
    }


@pytest.mark.parametrize("code", ["bad_arguments", "failed"])
def test_what_the_job_is_to_blame_for_is_final(tmp_path: pathlib.Path, code: str) -> None:
    """No other node is asked to repeat it."""
    second = Played([ACCEPT, end(b"1")])
    script = failing(code) if code == "failed" else refusing(code)
    job = _outcome(House(tmp_path, Played(script), second))
    assert job.error == {"code": code, "message": f"it is {code}"}
    assert second.asked == 0


def test_full_nodes_are_waited_for(tmp_path: pathlib.Path) -> None:
    """Being full uses up no retry, however often."""
    played = Played(*([refusing("queue_full")] * 5), [ACCEPT, end(b"1")])
    job = _outcome(House(tmp_path, played), retries=0)
    assert (job.result, played.asked) == (1, 6)


def test_a_death_ends_the_attempt_at_once(tmp_path: pathlib.Path) -> None:
    """Not the stream tells it, but the mesh: the job goes on elsewhere."""
    silent = Played(None)
    house = House(tmp_path, silent, Played([ACCEPT, end(b"1")]))

    async def main() -> None:
        live = await house.submit()
        await until(lambda: str(live.job.state) == "running")
        house.die(1)
        await live.over.wait()
        assert _story(live.job) == [("n1", "failed"), ("n2", "done")]
        assert live.job.attempts[0].reason == "it is gone"

    _run(house, main)


def test_cancel_reaches_the_far_node(tmp_path: pathlib.Path) -> None:
    """The stream is closed, and the job is cancelled, not failed."""
    silent = Played(None)
    house = House(tmp_path, silent)

    async def main() -> None:
        live = await house.submit(job_id="x")
        await until(lambda: str(live.job.state) == "running")
        assert house.driver.find("x") is live
        live.scope.cancel()
        await live.over.wait()
        await silent.left.wait()
        assert house.driver.find("x") is None
        assert (await house.jobs.details("x"))["state"] == "cancelled"
        assert _story(live.job) == [("n1", "cancelled")]

    _run(house, main)


def test_a_node_in_doubt_is_waited_for(tmp_path: pathlib.Path) -> None:
    """A lost probe, say: until it has refuted that nobody is asked, and no retry is used up."""
    played = Played([ACCEPT, end(b"1")])
    house = House(tmp_path, played)
    house.suspect(1)

    async def main() -> None:
        live = await house.submit(retries=0, requirements={"node": "n1"})
        await _retrying(live, times=2)
        assert played.asked == 0
        house.refute(1)
        await live.over.wait()
        assert (live.job.result, _story(live.job)) == (1, [("n1", "done")])

    _run(house, main)


def test_beside_a_node_in_doubt_a_refusal_uses_up_no_retry(tmp_path: pathlib.Path) -> None:
    """The one that may be the right one has not been asked yet."""
    refuses = Played(refusing("unavailable"))
    house = House(tmp_path, refuses, Played([ACCEPT, end(b"1")]))
    house.suspect(2)

    async def main() -> None:
        live = await house.submit(retries=0)
        await _retrying(live, times=2)
        house.refute(2)
        await live.over.wait()
        assert live.job.result == 1

    _run(house, main)


def test_a_doubt_is_waited_for_up_to_the_deadline(tmp_path: pathlib.Path) -> None:
    """And no longer."""
    house = House(tmp_path, Played(None))
    house.suspect(1)
    job = _outcome(house, deadline_s=0.1)
    assert job.error == {"code": "timeout", "message": "it was not done within 0.1 s"}


@pytest.mark.parametrize("script", [None, refusing("queue_full")])
def test_a_deadline_is_final(tmp_path: pathlib.Path, script: list[bytes] | None) -> None:
    """While it runs, and while it waits for its turn."""
    job = _outcome(House(tmp_path, Played(script)), deadline_s=0.1)
    assert job.error == {"code": "timeout", "message": "it was not done within 0.1 s"}


def test_a_deadline_ends_the_wait_for_this_very_node(tmp_path: pathlib.Path) -> None:
    """One job holds the only slot for ever; the other gives up in time, and cancelling frees it."""
    hang = {"f": "tests.runtimes.functions.examples:hang"}
    own = FunctionRunner(hang, tmp_path / "scratch", slots=1, queue_max=0)
    house = House(tmp_path, own=own)

    async def main() -> None:
        first = await house.submit()
        await until(lambda: str(first.job.state) == "running")
        second = await house.outcome(deadline_s=0.2, retries=0)
        assert second.error == {"code": "timeout", "message": "it was not done within 0.2 s"}
        assert {attempt.reason[:13] for attempt in second.attempts} == {"1 requests ru"}
        first.scope.cancel()
        await first.over.wait()
        assert own.load.running == 0

    _run(house, main)


@pytest.mark.parametrize(
    ("job", "code", "words"),
    [
        ({"function": "g"}, "unknown_function", "the mesh has: f"),
        ({"requirements": {"node": "nobody"}}, "unavailable", "requirements"),
        ({"requirements": {"labels": {"a": "b"}}}, "unavailable", "requirements"),
        ({"requirements": {"tier_max": 1}}, "unavailable", "requirements"),
    ],
)
def test_nobody_may_run_it(
    tmp_path: pathlib.Path, job: dict[str, object], code: str, words: str
) -> None:
    """Said at once, and nobody is asked."""
    played = Played(None)
    found = _outcome(House(tmp_path, played), **job)
    assert found.error is not None
    assert found.error["code"] == code
    assert words in found.error["message"]
    assert played.asked == 0


def test_a_member_too_new_to_have_told_is_waited_for(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that names it is tried again when it has told, and runs there."""
    monkeypatch.setattr(driver_module, "BACKOFF_S", 1.0)
    monkeypatch.setattr(driver_module, "BACKOFF_S_MAX", 1.0)
    house = House(tmp_path, Played([ACCEPT, end(b"1")]), Played([ACCEPT, end(b"2")]), silent=2)
    jobs: list[Job] = []

    async def main() -> None:
        live = await house.submit(requirements={"node": "n2"})
        await _retrying(live)
        house.offer(2, ["f"])
        house.hear()
        await live.over.wait()
        jobs.append(live.job)

    _run(house, main)
    assert (jobs[0].result, _story(jobs[0])) == (2, [("n2", "done")])


@pytest.mark.parametrize(
    "result", [b"", b"{", b"NaN", b"[" * 70 + b"]" * 70, b"[" * 100_000, b"\xff"]
)
def test_a_peers_nonsense_is_no_result(tmp_path: pathlib.Path, result: bytes) -> None:
    """It counts as a failure of that peer, and another one does it."""
    house = House(tmp_path, Played([ACCEPT, end(result)]), Played([ACCEPT, end(b"1")]))
    job = _outcome(house)
    assert (job.result, _story(job)) == (1, [("n1", "failed"), ("n2", "done")])


def test_the_whole_line_with_real_functions(tmp_path: pathlib.Path) -> None:
    """Driver, stream, serving and a real process: arguments there, result and news back."""
    runner = FunctionRunner({"f": ECHO["echo"]}, tmp_path / "far", slots=1)
    house = House(tmp_path, TaskServing(runner, admit, lambda: IDLE).serve_stream)

    async def main() -> None:
        live = await house.submit(arguments={"x": "ü"})
        news: list[Any] = [dict(item) async for item in live.news()]
        assert live.job.result == {"x": "ü"}
        assert [item["event"] for item in news] == ["queued", "placed", "running"]
        assert json.loads((Home(tmp_path / "home0").jobs / f"{live.job.id}.json").read_bytes())

    _run(house, main)


def test_a_malformed_task_is_refused(tmp_path: pathlib.Path) -> None:
    """By the serving end, with a code that is final for the asker."""
    runner = FunctionRunner({}, tmp_path / "far")
    serving = TaskServing(runner, admit, lambda: IDLE)

    async def main() -> None:
        left, right = memory_stream_pair()
        asker = FrameStream(left)
        await asker.send(encode_frame(Ask("x", 1000, b"junk")))
        await serving.serve_stream(NodeId(b"p" * 32), FrameStream(right))
        answer = decode_frame(await asker.receive(10_000) or b"")
        assert isinstance(answer, Refuse)
        assert answer.code == "bad_arguments"

    trio.run(main)
