"""The one place for a mesh of members that serve one model, and a forwarder that asks them."""

import dataclasses
import pathlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from meshd import advertisement, clock
from meshd.admitting import Admitting
from meshd.answer import RequestOptions
from meshd.asking import Asking
from meshd.choosing import Choosing
from meshd.failures import RequestFailed
from meshd.forwarder import Forwarder
from meshd.frames import FrameStream, StreamBroken
from meshd.local_models import LocalModels
from meshd.payloads import pack_chunk, pack_finished, pack_started
from meshd.peers import Handler, Kind
from meshd.serving import Serving
from meshd.trust.api_keys import KeyPolicy
from meshd.view import View
from protocol.config import SECOND
from protocol.effects import LoadLearned, MembershipChanged, OffersChanged
from protocol.events import Event, OfferChanged
from protocol.exchange import Accept, Ask, Data, End, decode_frame, encode_frame
from protocol.identity import Address, NodeId
from protocol.members import Gone, State
from protocol.messages import Load
from runtimes.base import Chunk, Finished, GenerateEvent, GenerateRequest, Request, Started
from tests.helpers.nodes import Mesh
from tests.meshd.members import TIMEOUT_S, Member, admit, at_once, workers
from tests.meshd.played_runtime import PlayedRuntime

REQUEST = GenerateRequest(model="m", prompt="hello")
FOREVER = 1e9
NO_LABELS: Mapping[str, str] = {}
STARTED, FIRST = encode_frame(Accept(pack_started(Started((1,))))), Chunk((2,), "x")
CHUNK = encode_frame(Data(pack_chunk(FIRST)))
END = encode_frame(End(pack_finished(Finished("stop", 1, 1))))


class House:
    """A mesh of members that offer one model; the asking one is number 0.

    `serving[i]` is what member i has: a runtime, a handler of its own, or None for nobody there.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *serving: PlayedRuntime | Handler | None,
        own: bool = False,
        patience_s: float = 0.0,
    ) -> None:
        """`own`: number 0 itself offers the model too; `patience_s`: as `Forwarder` has it."""
        self.mesh = Mesh(len(serving)).start_all()
        roles = workers(*range(len(serving)))
        self.members = [Member(folder, index, roles) for index in range(len(serving))]
        self.serving = serving
        for index, what in enumerate(serving):
            if index > 0 or own:
                self._offer(index, what if isinstance(what, PlayedRuntime) else PlayedRuntime())
            hardware = advertisement.encode_map({"tier": 3})
            self.mesh.give(index, OfferChanged(advertisement.HARDWARE, hardware))
        self.mesh.settle()
        self.mesh.advance(5 * SECOND)
        self.view = View(self.mesh[0])
        for effect in self.mesh.machines[0].log:
            self.view.note(effect)
        for index in range(len(serving)):
            # Tried in the order of their numbers, whatever chance says.
            self.load(index, index)
        self.addresses: dict[NodeId, tuple[Address, ...]] = {}
        self.events: list[Event] = []
        """What the asking node was told."""
        anna = self.members[0]
        here = serving[0]
        models = LocalModels([here] if isinstance(here, PlayedRuntime) else [])
        self.asking = Asking(
            self.view,
            anna.peers,
            lambda node: self.addresses.get(node, ()),
            at_once,
            self.events.append,
        )
        self.choosing = Choosing(random.Random(1), trio.current_time, "least_loaded")
        admitting = Admitting(models, self.view.is_owners)
        self.forwarder = Forwarder(
            anna.id, self.view, admitting, self.asking, self.choosing, patience_s=patience_s
        )

    def _offer(self, index: int, runtime: PlayedRuntime) -> None:
        card = runtime.card
        assert card is not None
        key, value = advertisement.model_key(card.name), advertisement.encode_model(card)
        self.mesh.give(index, OfferChanged(key, value))

    def told(self, index: int, key: str) -> OffersChanged:
        """What member `index` last told of one of its offers."""
        log = self.mesh.machines[0].log
        told = [each for each in log if isinstance(each, OffersChanged) and each.offer.key == key]
        [last] = [each for each in told if each.node == self.id(index)][-1:]
        return last

    def tell(self, index: int, key: str, fields: Mapping[str, object]) -> None:
        """Member `index` offers something, as the asking one hears."""
        self.mesh.give(index, OfferChanged(key, advertisement.encode_map(fields)))
        self.mesh.settle()
        self.mesh.advance(5 * SECOND)
        self.view.note(self.told(index, key))

    def withdraw(self, index: int) -> None:
        """Member `index` offers its model no more, as the asking one hears."""
        last = self.told(index, advertisement.model_key("m"))
        self.view.note(dataclasses.replace(last, offer=dataclasses.replace(last.offer, value=b"")))

    def load(self, index: int, running: int) -> None:
        """Member `index` tells how busy it is."""
        if index == 0:
            self.view.own_load = Load(0, running, 50)
        else:
            self.view.note(LoadLearned(self.id(index), Load(0, running, 50)))

    def id(self, index: int) -> NodeId:
        """A member's key."""
        return self.members[index].id

    def die(self, index: int) -> None:
        """Member `index` is declared dead here."""
        self._go(index, State.DEAD, State.SUSPECT)

    def leave(self, index: int) -> None:
        """Member `index` has said goodbye."""
        self._go(index, State.LEFT, State.ALIVE)

    def _go(self, index: int, state: State, previous: State) -> None:
        gone = Gone(state, 1, clock.now_ns(), None)
        self.mesh[0].members.put_gone(self.id(index), gone)
        self.view.note(MembershipChanged(self.id(index), f"n{index}", state, 1, previous))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """All members take streams."""
        async with AsyncExitStack() as stack:
            for member, what in zip(self.members[1:], self.serving[1:], strict=True):
                if what is None:
                    continue
                handler = what
                if isinstance(what, PlayedRuntime):
                    admitting = Admitting(LocalModels([what]), self.view.is_owners)
                    handler = Serving(admitting, admit).serve_stream
                assert not isinstance(handler, PlayedRuntime)
                address = await stack.enter_async_context(member.serving({Kind.REQUEST: handler}))
                self.addresses[member.id] = (address,)
            yield
            self.members[0].peers.drop_idle(everything=True)

    async def ask(
        self,
        request: Request = REQUEST,
        *,
        node: str | None = None,
        deadline_s: float = 60,
        policy: KeyPolicy | None = None,
        trusted: bool = False,
        hedge: bool = False,
        labels: Mapping[str, str] = NO_LABELS,
        tier_max: int | None = None,
    ) -> tuple[str, list[GenerateEvent]]:
        """Who served, and all events."""
        options = RequestOptions(
            request_id="ab",
            node=node,
            deadline_s=deadline_s,
            policy=policy,
            is_trusted_only=trusted,
            may_hedge=hedge,
            labels=labels,
            tier_max=tier_max,
        )
        async with self.forwarder.generate(request, options) as answer:
            return answer.node_name, [event async for event in answer.events]

    async def watch(self, note: Callable[[GenerateEvent], None]) -> None:
        """Ask, and call `note` with each event as it comes."""
        options = RequestOptions(request_id="ab")
        async with self.forwarder.generate(REQUEST, options) as answer:
            async for event in answer.events:
                note(event)


def run(house: House, test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(TIMEOUT_S):
            async with house.open():
                await test()
        assert not house.asking.running, "every attempt was counted down"

    trio.run(main)


def failing(house: House, code: str, words: str, **options: object) -> RequestFailed:
    """The request must fail so."""
    caught: list[RequestFailed] = []

    async def test() -> None:
        with pytest.raises(RequestFailed, match=words) as raised:
            await house.ask(**options)  # type: ignore[arg-type]  # by name
        caught.append(raised.value)

    run(house, test)
    assert caught[0].code == code
    return caught[0]


def answering(*frames: bytes | float, asked: list[Ask] | None = None) -> Handler:
    """A serving node that answers anything with these frames, then closes."""

    async def handler(peer: NodeId, stream: FrameStream) -> None:
        data = await stream.receive(2**24)
        assert data is not None
        if asked is not None:
            ask = decode_frame(data)
            assert isinstance(ask, Ask)
            asked.append(ask)
        for frame in frames:
            if isinstance(frame, float):
                await trio.sleep(frame)
            else:
                await stream.send(frame)
        raise StreamBroken("that was all")

    return handler
