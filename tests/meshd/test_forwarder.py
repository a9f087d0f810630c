"""A request's whole story: who is asked, what the app gets, and what ends it."""

import gc
import pathlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from meshd import advertisement
from meshd.answer import RequestOptions
from meshd.asking import Asking
from meshd.failures import RequestFailed
from meshd.forwarder import Forwarder
from meshd.frames import FrameStream, StreamBroken
from meshd.local_models import LocalModels
from meshd.payloads import pack_chunk, pack_finished, pack_started
from meshd.peers import Handler, Kind
from meshd.serving import Serving
from meshd.view import View
from protocol.config import SECOND
from protocol.effects import LoadLearned, MembershipChanged
from protocol.events import OfferChanged
from protocol.exchange import Accept, Ask, Data, End, Fail, Refuse, encode_frame
from protocol.fields import pack
from protocol.identity import Address, NodeId
from protocol.members import Gone, State
from protocol.messages import Load
from runtimes.base import Chunk, Finished, GenerateEvent, GenerateRequest, RuntimeFailure, Started
from tests.helpers.nodes import Mesh
from tests.meshd.members import TIMEOUT_S, Member, until, workers
from tests.meshd.played_runtime import HELLO, PlayedRuntime

REQUEST = GenerateRequest(model="m", prompt="hello")
FOREVER = 1e9
STARTED, FIRST = encode_frame(Accept(pack_started(Started((1,))))), Chunk((2,), "x")
CHUNK = encode_frame(Data(pack_chunk(FIRST)))
END = encode_frame(End(pack_finished(Finished("stop", 1, 1))))


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A socket that nobody closed is an error of the test that left it."""
    yield
    gc.collect()


class House:
    """A mesh of members that offer one model; the asking one is number 0.

    `serving[i]` is what member i has: a runtime, a handler of its own, or None for nobody there.
    """

    def __init__(
        self, folder: pathlib.Path, *serving: PlayedRuntime | Handler | None, own: bool = False
    ) -> None:
        """`own`: number 0 itself offers the model too."""
        self.mesh = Mesh(len(serving)).start_all()
        roles = workers(*range(len(serving)))
        self.members = [Member(folder, index, roles) for index in range(len(serving))]
        self.serving = serving
        for index, what in enumerate(serving):
            if index > 0 or own:
                self._offer(index, what.name if isinstance(what, PlayedRuntime) else "m")
        self.mesh.settle()
        self.mesh.advance(5 * SECOND)
        self.view = View(self.mesh[0])
        for effect in self.mesh.machines[0].log:
            self.view.note(effect)
        for index in range(len(serving)):
            # Tried in the order of their numbers, whatever chance says.
            self.load(index, index)
        self.addresses: dict[NodeId, tuple[Address, ...]] = {}
        anna = self.members[0]
        here = serving[0]
        models = LocalModels([here] if isinstance(here, PlayedRuntime) else [])
        self.asking = Asking(self.view, anna.peers, lambda node: self.addresses.get(node, ()))
        self.forwarder = Forwarder(anna.id, self.view, models, self.asking, random.Random(1))

    def _offer(self, index: int, name: str) -> None:
        card = PlayedRuntime(name=name).card
        assert card is not None
        key, value = advertisement.model_key(name), advertisement.encode_model(card)
        self.mesh.give(index, OfferChanged(key, value))

    def load(self, index: int, running: int) -> None:
        """Member `index` tells how busy it is."""
        if index == 0:
            self.view.own_load = Load(0, running, 100)
        else:
            self.view.note(LoadLearned(self.id(index), Load(0, running, 100)))

    def id(self, index: int) -> NodeId:
        """A member's key."""
        return self.members[index].id

    def die(self, index: int) -> None:
        """Member `index` is declared dead here."""
        self.mesh[0].members.put_gone(self.id(index), Gone(State.DEAD, 1, 0, None))
        dead = MembershipChanged(self.id(index), f"n{index}", State.DEAD, 1, State.SUSPECT)
        self.view.note(dead)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """All members take streams."""
        async with AsyncExitStack() as stack:
            for member, what in zip(self.members[1:], self.serving[1:], strict=True):
                if what is None:
                    continue
                handler = what
                if isinstance(what, PlayedRuntime):
                    handler = Serving(LocalModels([what])).serve_stream
                assert not isinstance(handler, PlayedRuntime)
                address = await stack.enter_async_context(member.serving({Kind.REQUEST: handler}))
                self.addresses[member.id] = (address,)
            yield
            self.members[0].peers.drop_idle(everything=True)

    async def ask(
        self, request: GenerateRequest = REQUEST, *, node: str | None = None, deadline_s: float = 60
    ) -> tuple[str, list[GenerateEvent]]:
        """Who served, and all events."""
        options = RequestOptions(request_id="ab", node=node, deadline_s=deadline_s)
        async with self.forwarder.generate(request, options) as answer:
            return answer.node_name, [event async for event in answer.events]

    async def watch(self, note: Callable[[GenerateEvent], None]) -> None:
        """Ask, and call `note` with each event as it comes."""
        options = RequestOptions(request_id="ab")
        async with self.forwarder.generate(REQUEST, options) as answer:
            async for event in answer.events:
                note(event)


def _run(house: House, test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(TIMEOUT_S):
            async with house.open():
                await test()
        assert not house.asking.running, "every attempt was counted down"

    trio.run(main)


def _failing(house: House, code: str, words: str, **options: object) -> RequestFailed:
    """The request must fail so."""
    caught: list[RequestFailed] = []

    async def test() -> None:
        with pytest.raises(RequestFailed, match=words) as raised:
            await house.ask(**options)  # type: ignore[arg-type]  # by name
        caught.append(raised.value)

    _run(house, test)
    assert caught[0].code == code
    return caught[0]


def _scripted(*frames: bytes | float) -> Handler:
    """A serving node that answers anything with these frames, then closes."""

    async def handler(peer: NodeId, stream: FrameStream) -> None:
        await stream.receive(2**24)
        for frame in frames:
            if isinstance(frame, float):
                await trio.sleep(frame)
            else:
                await stream.send(frame)
        raise StreamBroken("that was all")

    return handler


# ---- what the app gets ----


def test_here_and_there_give_the_same_events(tmp_path: pathlib.Path) -> None:
    """An app cannot tell where its model runs, but by the name of the node."""
    here = House(tmp_path / "here", PlayedRuntime(), own=True)
    there = House(tmp_path / "there", None, PlayedRuntime())
    answers: list[tuple[str, list[GenerateEvent]]] = []
    for house in (here, there):

        async def test(house: House = house) -> None:
            answers.append(await house.ask())

        _run(house, test)
    assert answers == [("n0", list(HELLO)), ("n1", list(HELLO))]


@pytest.mark.parametrize(
    "steps", [(Started((1,)), Finished("length", 1, 0)), HELLO[:2] + HELLO[3:]]
)
def test_short_answers_are_whole(tmp_path: pathlib.Path, steps: Sequence[GenerateEvent]) -> None:
    """Also one without any token."""
    house = House(tmp_path, None, PlayedRuntime(steps))

    async def test() -> None:
        assert await house.ask() == ("n1", list(steps))

    _run(house, test)


def test_the_answer_says_who_serves(tmp_path: pathlib.Path) -> None:
    """Name and id of the node, as headers tell them."""
    house = House(tmp_path, None, PlayedRuntime())

    async def test() -> None:
        options = RequestOptions(request_id="ab")
        async with house.forwarder.generate(REQUEST, options) as answer:
            assert (answer.request_id, answer.node_name, answer.resumed) == ("ab", "n1", 0)
            assert answer.node_id == house.view.row(house.id(1))["id"]
            assert house.asking.running == {house.id(1): 1}

    _run(house, test)


def test_requests_in_a_row_use_one_connection(tmp_path: pathlib.Path) -> None:
    """Also when the runtime takes its time to clean up after its last event."""
    house = House(tmp_path, None, PlayedRuntime(clean_up_s=0.02))
    peers = house.members[0].peers

    async def test() -> None:
        for _ in range(10):
            assert (await house.ask())[1] == list(HELLO)
            assert len(peers._pool[house.id(1)]) == 1
        assert house.members[1].peers._inbound == 1

    _run(house, test)


# ---- who is asked ----


def test_the_least_busy_is_asked_first(tmp_path: pathlib.Path) -> None:
    """By what it last told."""
    runtimes = [PlayedRuntime(), PlayedRuntime()]
    house = House(tmp_path, None, *runtimes)
    house.load(1, 50)

    async def test() -> None:
        assert (await house.ask())[0] == "n2"

    _run(house, test)
    assert not runtimes[0].requests


@pytest.mark.parametrize(
    "first",
    [
        PlayedRuntime([RuntimeFailure("queue_full", "busy")]),
        PlayedRuntime([RuntimeFailure("unavailable", "loading")]),
        PlayedRuntime([Started((1,)), RuntimeFailure("crashed", "gone")]),
        PlayedRuntime([Started((1,))]),
        PlayedRuntime([]),
        PlayedRuntime(name="another"),
        _scripted(),
        _scripted(STARTED),
        _scripted(CHUNK),
        _scripted(STARTED, STARTED),
        _scripted(STARTED, encode_frame(Refuse("queue_full", "", 0, Load(0, 0, 0)))),
        _scripted(b""),
        _scripted(b"\xff" * 50),
        _scripted(encode_frame(Accept(b"junk"))),
        _scripted(STARTED, encode_frame(Data(b"junk"))),
        _scripted(STARTED, encode_frame(End(b"junk"))),
        _scripted(encode_frame(Ask("ab", 1, b""))),
        _scripted(pack((99,))),
        _scripted(encode_frame(Refuse("timeout", "not yours to say", 0, Load(0, 0, 0)))),
        _scripted(encode_frame(Refuse("no such code", "", 0, Load(0, 0, 0)))),
        _scripted(STARTED, encode_frame(Fail("internal", ""))),
        None,
    ],
    ids=str,
)
def test_until_the_first_token_the_next_is_tried(
    tmp_path: pathlib.Path, first: PlayedRuntime | Handler | None
) -> None:
    """Refusals, crashes, silence on the line, nonsense, unreachable: the app sees none of it."""
    house = House(tmp_path, None, first, PlayedRuntime())

    async def test() -> None:
        assert await house.ask() == ("n2", list(HELLO))

    _run(house, test)


def test_a_local_failure_leads_to_the_next_too(tmp_path: pathlib.Path) -> None:
    """Being here is no privilege."""
    house = House(
        tmp_path, PlayedRuntime([RuntimeFailure("crashed", "gone")]), PlayedRuntime(), own=True
    )

    async def test() -> None:
        assert await house.ask() == ("n1", list(HELLO))

    _run(house, test)


@pytest.mark.parametrize("code", ["bad_request", "context_too_long"])
@pytest.mark.parametrize("where", ["here", "there"])
def test_what_every_node_would_say_is_final(tmp_path: pathlib.Path, code: str, where: str) -> None:
    """The second is not even asked, and the words arrive."""
    steps = [RuntimeFailure(code, "the request is at fault")]
    second = PlayedRuntime()
    if where == "here":
        house = House(tmp_path, PlayedRuntime(steps), second, own=True)
    else:
        house = House(tmp_path, None, PlayedRuntime(steps), second)
    _failing(house, code, "the request is at fault")
    assert not second.requests


def test_when_nobody_can_the_reasons_are_given(tmp_path: pathlib.Path) -> None:
    """Each node with its own; a full queue somewhere is worth saying so."""
    full = PlayedRuntime([RuntimeFailure("queue_full", "32 wait")])
    house = House(tmp_path, None, full, None, _scripted(b"\xff"))
    failure = _failing(house, "queue_full", "n1: 32 wait; n2: it cannot be reached .*; n3: it sent")
    assert failure.retry_after_s is not None
    house = House(tmp_path / "2", None, None, _scripted())
    assert _failing(house, "unavailable", "its stream broke").retry_after_s is not None


def test_a_peers_words_are_made_harmless(tmp_path: pathlib.Path) -> None:
    """Short, and without anything that a terminal would obey."""
    refusal = Refuse("unavailable", "\x1b[2Jbad\n" + "x" * 900, 0, Load(0, 0, 0))
    house = House(tmp_path, None, _scripted(encode_frame(refusal)))
    failure = _failing(house, "unavailable", "bad")
    assert failure.message.isprintable()
    assert len(failure.message) < 300


def test_many_failures_make_no_endless_message(tmp_path: pathlib.Path) -> None:
    """A few are named, the rest counted."""
    house = House(tmp_path, *[None] * 13)
    failure = _failing(house, "unavailable", "and 4 more")
    assert failure.message.count("cannot be reached") == 8


def test_a_model_that_nobody_has_names_those_that_are(tmp_path: pathlib.Path) -> None:
    """The person mistyped."""
    house = House(tmp_path, None, PlayedRuntime(name="org/demo"))
    other = GenerateRequest(model="demo", prompt="x")
    _failing(house, "model_not_found", "'demo'. The mesh has: org/demo", request=other)
    house = House(tmp_path / "2", None)
    _failing(house, "model_not_found", "The mesh has no model now")


def test_a_node_can_be_demanded(tmp_path: pathlib.Path) -> None:
    """By name or id; one that is not there, or does not offer it, is said."""
    house = House(tmp_path, None, PlayedRuntime(), PlayedRuntime())

    async def test() -> None:
        assert (await house.ask(node="n2"))[0] == "n2"
        assert (await house.ask(node=str(house.view.row(house.id(2))["id"])))[0] == "n2"
        for node in ("n0", "n9", ""):
            with pytest.raises(RequestFailed, match="does not offer") as caught:
                await house.ask(node=node)
            assert caught.value.code == "model_not_found"

    _run(house, test)


def test_members_in_doubt_are_not_asked(tmp_path: pathlib.Path) -> None:
    """When there is nobody else, that is said, with when to try again."""
    house = House(tmp_path, None, PlayedRuntime())
    house.mesh[0]._membership.suspect(house.id(1), house.mesh.now)
    failure = _failing(house, "unavailable", "do not answer at present")
    assert failure.retry_after_s is not None


@pytest.mark.parametrize(
    "request_",
    [
        GenerateRequest(model="m"),
        GenerateRequest(model="m", prompt="x", messages=()),
        GenerateRequest(model="m", prompt="half a \ud83d"),
        GenerateRequest(model="m", prompt="x", seed=2**64),
        GenerateRequest(model="m", prompt="x", temperature=float("nan")),
    ],
)
def test_a_request_that_cannot_be_sent_fails_before_anybody_is_asked(
    tmp_path: pathlib.Path, request_: GenerateRequest
) -> None:
    """The same wherever it would have run."""
    runtime = PlayedRuntime()
    _failing(House(tmp_path, None, runtime), "bad_request", ".", request=request_)
    assert not runtime.requests


# ---- what ends it ----


@pytest.mark.parametrize(
    "steps",
    [
        (*HELLO[:2], RuntimeFailure("crashed", "gone")),
        HELLO[:2],
        (*HELLO[:2], RuntimeFailure("bad_request", "x")),
    ],
)
@pytest.mark.parametrize("where", ["here", "there"])
def test_after_the_first_token_it_is_interrupted(
    tmp_path: pathlib.Path, steps: Sequence[GenerateEvent | Exception], where: str
) -> None:
    """What the app has seen stays; the rest is a typed failure that names the node."""
    serving = [PlayedRuntime(steps)] if where == "here" else [None, PlayedRuntime(steps)]
    house = House(tmp_path, *serving, own=where == "here")
    seen: list[GenerateEvent] = []

    async def test() -> None:
        with pytest.raises(RequestFailed, match="broke off on node n") as caught:
            await house.watch(seen.append)
        assert caught.value.code == "interrupted"

    _run(house, test)
    assert seen == list(HELLO[:2])


def test_what_happens_after_the_end_does_not_matter(tmp_path: pathlib.Path) -> None:
    """The answer was whole: the node may die, the line break, and the time run out."""
    house = House(tmp_path, PlayedRuntime(clean_up_s=FOREVER), own=True)

    async def test() -> None:
        assert await house.ask(deadline_s=0.2) == ("n0", list(HELLO))

    _run(house, test)
    house = House(tmp_path / "2", PlayedRuntime([*HELLO, RuntimeFailure("crashed", "")]), own=True)

    async def again() -> None:
        assert await house.ask() == ("n0", list(HELLO))

    _run(house, again)


def test_a_node_that_dies_before_its_first_token_is_left(tmp_path: pathlib.Path) -> None:
    """As soon as the mesh says so, not when the deadline comes."""
    hanging = PlayedRuntime([Started((1,)), FOREVER])
    house = House(tmp_path, None, hanging, PlayedRuntime())

    async def test() -> None:
        async with trio.open_nursery() as nursery:

            async def die() -> None:
                await until(lambda: hanging.running > 0)
                house.die(1)

            nursery.start_soon(die)
            assert await house.ask() == ("n2", list(HELLO))
        await until(lambda: not hanging.running)

    _run(house, test)


def test_a_node_that_dies_amid_its_answer_ends_it(tmp_path: pathlib.Path) -> None:
    """Without waiting for the line to break."""
    house = House(tmp_path, None, PlayedRuntime([*HELLO[:2], FOREVER]))

    def die(event: GenerateEvent) -> None:
        if isinstance(event, Chunk):
            house.die(1)

    async def test() -> None:
        with pytest.raises(RequestFailed, match="n1: it is gone") as caught:
            await house.watch(die)
        assert caught.value.code == "interrupted"

    _run(house, test)


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("where", ["here", "there"])
def test_the_deadline_ends_everything(tmp_path: pathlib.Path, before: int, where: str) -> None:
    """In the queue, before and after the first token: `timeout`, and nobody else is tried."""
    hanging, second = PlayedRuntime([*HELLO[:before], FOREVER]), PlayedRuntime()
    serving = (hanging, second) if where == "here" else (None, hanging, second)
    house = House(tmp_path, *serving, own=where == "here")
    _failing(house, "timeout", "time is over", deadline_s=0.2)
    assert not second.requests
    assert not hanging.running or where == "there"


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_leaving_cancels_at_the_far_end(tmp_path: pathlib.Path, taken: int) -> None:
    """The app went away: the generation over there ends, at whatever point."""
    runtime = PlayedRuntime([*HELLO[:2], FOREVER])
    house = House(tmp_path, None, runtime)

    async def test() -> None:
        options = RequestOptions(request_id="ab")
        async with house.forwarder.generate(REQUEST, options) as answer:
            for _ in range(taken):
                await anext(answer.events)
            assert runtime.running == 1
        await until(lambda: not runtime.running)

    _run(house, test)


def test_being_cancelled_cancels_at_the_far_end(tmp_path: pathlib.Path) -> None:
    """While the first token is still awaited too."""
    runtime = PlayedRuntime([FOREVER])
    house = House(tmp_path, None, runtime)

    async def test() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.ask)
            await until(lambda: runtime.running > 0)
            nursery.cancel_scope.cancel()
        await until(lambda: not runtime.running)

    _run(house, test)


def test_an_app_that_does_not_read_holds_up_only_its_own_request(tmp_path: pathlib.Path) -> None:
    """Nothing is piled up for it, and others are served meanwhile."""
    chunks = [Chunk((1,), "x" * 100_000)] * 2_000
    endless = PlayedRuntime([Started(()), *chunks, Finished("stop", 0, 0)])
    house = House(tmp_path, None, endless, PlayedRuntime(name="other"))

    async def test() -> None:
        options = RequestOptions(request_id="ab")
        async with house.forwarder.generate(REQUEST, options) as answer:
            await anext(answer.events)
            given = -1
            while given != endless.given:
                given = endless.given
                other = GenerateRequest(model="other", prompt="x")
                assert (await house.ask(other))[1] == list(HELLO)
            assert given < 500, "no more than the system's buffers hold"

    _run(house, test)
