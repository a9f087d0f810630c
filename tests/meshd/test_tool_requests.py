"""A request with tools on its way: to who knows of them, with the form of its answer back."""

import dataclasses
import pathlib

import pytest
import trio
import trio.testing

from meshd.admitting import Admitting
from meshd.failures import RequestFailed
from meshd.frames import FrameStream
from meshd.local_models import LocalModels
from meshd.payloads import ANOTHER_VERSION
from meshd.serving import Serving
from protocol.exchange import Refuse, encode_frame
from protocol.identity import NodeId
from protocol.messages import Load
from runtimes.base import ChatMessage, Chunk, Finished, GenerateRequest, Started, Tool
from runtimes.reply_form import ReplyForm
from tests.helpers import test_runtime
from tests.meshd.forwarding_house import House, run
from tests.meshd.members import admit
from tests.meshd.played_runtime import PlayedRuntime

REQUEST = GenerateRequest(
    model="m",
    messages=(ChatMessage(role="user", content="Where?"),),
    tools=(Tool(name="look", parameters='{"type": "object"}'),),
    must_call=True,
    with_markers=True,
    max_tokens=200,
)


async def older(peer: NodeId, stream: FrameStream) -> None:
    """A node of a version that knows no tools."""
    await stream.receive(2**24)
    await stream.send(encode_frame(Refuse("bad_request", ANOTHER_VERSION, 0, Load(0, 0, 1))))


def test_a_call_comes_from_who_knows_of_tools(tmp_path: pathlib.Path) -> None:
    """An older node refuses, the next one calls; another run goes on in the middle of the call."""
    scripted = test_runtime.create("m", options={})
    admitting = Admitting(LocalModels([scripted]), lambda node: False)
    house = House(tmp_path, None, older, Serving(admitting, admit).serve_stream)

    async def test() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scripted.serve, lambda: None)
            await trio.testing.wait_all_tasks_blocked()
            node, events = await house.ask(REQUEST)
            assert node == "n2"
            assert isinstance(events[0], Started)
            assert events[0].form == ReplyForm("hermes")
            chunks = [event for event in events if isinstance(event, Chunk)]
            whole = test_runtime.call_text("m", REQUEST)
            assert "".join(chunk.text for chunk in chunks) == whole
            ids = tuple(token for chunk in chunks[:30] for token in chunk.token_ids)
            _, rest = await house.ask(dataclasses.replace(REQUEST, continued_ids=ids))
            assert rest[1:-1] == chunks[30:]
            ids = tuple(token for chunk in chunks for token in chunk.token_ids)
            over = dataclasses.replace(REQUEST, continued_ids=ids, max_tokens=0)
            finished = Finished("stop", len(events[0].prompt_token_ids), 0)
            assert (await house.ask(over))[1] == [events[0], finished]
            nursery.cancel_scope.cancel()

    run(house, test)


def test_where_all_are_older_it_fails_and_says_why(tmp_path: pathlib.Path) -> None:
    """No one answers as if there were no tools; a request without any is served."""
    house = House(tmp_path, None, older)

    async def test() -> None:
        with pytest.raises(RequestFailed, match=ANOTHER_VERSION) as failed:
            await house.ask(REQUEST)
        assert failed.value.code == "unavailable"

    run(house, test)


def test_the_request_arrives_as_it_was_sent(tmp_path: pathlib.Path) -> None:
    """Tools and all."""
    played = PlayedRuntime()
    house = House(tmp_path, None, played)

    async def test() -> None:
        await house.ask(REQUEST)
        assert [dataclasses.replace(each, seed=REQUEST.seed) for each in played.requests] == [
            REQUEST
        ]

    run(house, test)
