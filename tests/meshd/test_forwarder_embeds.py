"""Texts to be embedded go a chat's way: whoever can is asked, and an answer is whole or none."""

import dataclasses
import math
import pathlib
import struct
from collections.abc import Sequence

import pytest

from meshd.answer import RequestOptions
from meshd.payloads import ANOTHER_VERSION, pack_finished, pack_started, pack_vector
from protocol.exchange import Accept, Data, End, Refuse, encode_frame
from protocol.fields import pack
from protocol.messages import Load
from runtimes.base import Chunk, Finished, GenerateEvent, Request, RuntimeFailure, Started
from runtimes.embedding import EMBED, GENERATE, NUMBERS_MAX, RERANK, EmbedRequest, Vector
from tests.meshd.forwarding_house import CHUNK, REQUEST, House, answering, failing, run
from tests.meshd.played_runtime import PlayedRuntime, Step

EMBEDDING = EmbedRequest(model="m", texts=("one", "two"))
RERANKING = EmbedRequest(model="m", texts=("one", "two"), query="three")
BEGUN, ENDED = Started((1, 2, 3, 4)), Finished("stop", 4, 0)
VECTORS = (Vector.of((0.6, 0.8)), Vector.of((1.0, 0.0)))
WHOLE = (BEGUN, *VECTORS, ENDED)
CRASH = RuntimeFailure("crashed", "gone")
ACCEPT = encode_frame(Accept(pack_started(BEGUN)))
END = encode_frame(End(pack_finished(ENDED)))


def embedding(*steps: Step, task: str = EMBED) -> PlayedRuntime:
    """A runtime that is made for it."""
    return PlayedRuntime(steps or WHOLE, tasks=(task,), context_tokens=512)


def frame(*numbers: float) -> bytes:
    """A vector as a peer sends it, whatever is in it."""
    return encode_frame(Data(pack((struct.pack(f"<{len(numbers)}f", *numbers),))))


def embedded(house: House, request: EmbedRequest = EMBEDDING) -> tuple[str, list[GenerateEvent]]:
    """Who answered, and what the app got."""
    answers: list[tuple[str, list[GenerateEvent]]] = []

    async def test() -> None:
        answers.append(await house.ask(request))

    run(house, test)
    return answers[0]


def test_here_and_there_give_the_same_vectors(tmp_path: pathlib.Path) -> None:
    """In order, with the counts."""
    here = House(tmp_path / "here", embedding(), own=True)
    there = House(tmp_path / "there", None, embedding())
    assert embedded(here) == ("n0", list(WHOLE))
    assert embedded(there) == ("n1", list(WHOLE))


def test_the_request_arrives_as_it_was(tmp_path: pathlib.Path) -> None:
    """Also token ids and dimensions."""
    runtime = embedding()
    request = EmbedRequest(model="m", token_ids=((1, 2), (3,)), dimensions=2)
    embedded(House(tmp_path, None, runtime), request)
    assert runtime.requests == [request]


@pytest.mark.parametrize("given", [1, 2, 3])
def test_what_breaks_off_begins_anew_elsewhere(tmp_path: pathlib.Path, given: int) -> None:
    """The app gets the vectors of one node, and none of the other's."""
    broken = embedding(*(BEGUN, Vector.of((9.0, 9.0)), Vector.of((8.0, 8.0)))[:given], CRASH)
    house = House(tmp_path, None, broken, embedding())

    async def test() -> None:
        async with house.forwarder.generate(EMBEDDING, RequestOptions(request_id="ab")) as answer:
            assert [event async for event in answer.events] == list(WHOLE)
            assert (answer.node_name, answer.resumed) == ("n2", 0)
        story = house.forwarder.stories.find("ab")
        assert story is not None
        told = story.told(0.0)
        assert [each["node"] for each in told["attempts"]] == ["n1", "n2"]
        assert (told["state"], told["usage"]["prompt_tokens"]) == ("done", 4)

    run(house, test)
    assert broken.given == given


def test_what_breaks_off_everywhere_fails(tmp_path: pathlib.Path) -> None:
    """Each is asked once."""
    runtimes = [embedding(BEGUN, VECTORS[0], CRASH) for _ in range(2)]
    house = House(tmp_path, None, *runtimes)
    failed = failing(house, "unavailable", "No node could take", request=EMBEDDING)
    assert "n1: gone; n2: gone" in failed.message
    assert [len(runtime.requests) for runtime in runtimes] == [1, 1]


@pytest.mark.parametrize("code", ["bad_request", "context_too_long"])
def test_what_nobody_can_embed_is_not_tried_again(tmp_path: pathlib.Path, code: str) -> None:
    """The request is at fault."""
    other = embedding()
    house = House(tmp_path, None, embedding(RuntimeFailure(code, "too much")), other)
    failing(house, code, "too much", request=EMBEDDING)
    assert other.requests == []


HOSTILE: Sequence[tuple[str, EmbedRequest, tuple[bytes, ...]]] = [
    ("too few", EMBEDDING, (frame(1, 0), END)),
    ("too many", EMBEDDING, (frame(1, 0), frame(1, 0), frame(1, 0), END)),
    ("another dimension", EMBEDDING, (frame(1, 0), frame(1, 0, 0), END)),
    ("no number", EMBEDDING, (frame(1, math.nan), frame(1, 0), END)),
    ("endless", EMBEDDING, (frame(math.inf, 0), frame(1, 0), END)),
    ("empty", EMBEDDING, (frame(), frame(), END)),
    ("half a number", EMBEDDING, (encode_frame(Data(pack((b"abc",)))), frame(1), END)),
    ("not bytes", EMBEDDING, (encode_frame(Data(pack(((1.0, 0.0),)))), frame(1, 0), END)),
    ("tokens", EMBEDDING, (CHUNK, CHUNK, END)),
    ("too large", EMBEDDING, (frame(*[0.0] * 16_385), frame(1), END)),
    ("not what was wanted", dataclasses.replace(EMBEDDING, dimensions=3), (frame(1, 0), END)),
    ("two scores", RERANKING, (frame(1, 0), frame(1, 0), END)),
]


@pytest.mark.parametrize(
    ("request_", "frames"), [each[1:] for each in HOSTILE], ids=[each[0] for each in HOSTILE]
)
def test_vectors_that_make_no_sense_are_not_passed_on(
    tmp_path: pathlib.Path, request_: EmbedRequest, frames: tuple[bytes, ...]
) -> None:
    """The next node is asked."""
    task = request_.task
    good = [Vector.of((0.5,) * (request_.dimensions or 1)) for _ in range(2)]
    house = House(tmp_path, None, embedding(task=task), embedding(BEGUN, *good, ENDED, task=task))
    house.serving = (None, answering(ACCEPT, *frames), house.serving[2])
    assert embedded(house, request_) == ("n2", [BEGUN, *good, ENDED])


def test_all_vectors_together_are_bounded(tmp_path: pathlib.Path) -> None:
    """A node cannot make another hold more than an answer may have."""
    request = EmbedRequest(model="m", texts=("a",) * 100)
    too_much = NUMBERS_MAX // 100 + 1
    house = House(tmp_path, None, embedding(BEGUN, Vector(bytes(4 * too_much))))
    failing(house, "unavailable", f"a vector of {too_much} dimensions", request=request)


def test_a_chat_gets_no_vectors(tmp_path: pathlib.Path) -> None:
    """Whoever sends one to who did not ask makes no sense."""
    house = House(tmp_path, None, PlayedRuntime(), PlayedRuntime())
    house.serving = (None, answering(ACCEPT, frame(1, 0)), house.serving[2])

    async def test() -> None:
        assert (await house.ask())[0] == "n2"

    run(house, test)
    own = House(tmp_path / "own", PlayedRuntime((BEGUN, VECTORS[0], ENDED)), own=True)
    failing(own, "unavailable", "more vectors than were asked for")


def test_an_earlier_version_is_not_the_last_word(tmp_path: pathlib.Path) -> None:
    """A node that does not know such requests refuses them, and the next is asked."""
    house = House(tmp_path, None, embedding(), embedding())
    refusal = encode_frame(Refuse("bad_request", ANOTHER_VERSION, 0, Load(0, 0, 1)))
    house.serving = (None, answering(refusal), house.serving[2])
    assert embedded(house)[0] == "n2"


@pytest.mark.parametrize("asked", [GENERATE, EMBED, RERANK])
def test_only_who_is_made_for_it_is_asked(tmp_path: pathlib.Path, asked: str) -> None:
    """A chat never comes to a model that embeds, nor the other way round; explain says why."""
    runtimes = {
        GENERATE: PlayedRuntime((BEGUN, Chunk((1,), "x"), ENDED)),
        EMBED: embedding(),
        RERANK: embedding(BEGUN, Vector.of((1.0,)), Vector.of((2.0,)), ENDED, task=RERANK),
    }
    house = House(tmp_path, None, *runtimes.values())

    async def test() -> None:
        requests: dict[str, Request] = {
            GENERATE: REQUEST,
            EMBED: EMBEDDING,
            RERANK: RERANKING,
        }
        request = requests[asked]
        await house.ask(request)
        story = house.forwarder.stories.find("ab")
        assert story is not None
        reasons = {each["reason"] for each in story.told(0.0)["left_out"]}
        assert reasons == {f"its model cannot {asked}"}

    run(house, test)
    assert [task for task, runtime in runtimes.items() if runtime.requests] == [asked]


def test_a_model_that_is_made_for_something_else_is_said_to_be(tmp_path: pathlib.Path) -> None:
    """In one line, with those that are made for it."""
    house = House(tmp_path, None, embedding())
    failed = failing(house, "bad_request", "'m' is made to embed and cannot generate")
    assert failed.message.endswith("; the mesh has no model for that now.")
    house = House(tmp_path / "other", None, PlayedRuntime())
    failing(house, "bad_request", "is made to generate and cannot embed", request=EMBEDDING)
    house = House(tmp_path / "both", None, embedding(), PlayedRuntime(name="other"))
    failing(house, "bad_request", "the mesh has for that: other.")


def test_what_a_name_can_do_is_what_all_its_models_can(tmp_path: pathlib.Path) -> None:
    """As lists show it."""
    house = House(tmp_path, None, embedding(), PlayedRuntime())
    [row] = house.view.models()
    assert row["tasks"] == [GENERATE, EMBED]


def test_frames_of_vectors_are_small() -> None:
    """The largest vector, as a peer sends it."""
    largest = pack_vector(Vector(bytes(4 * 16_384)))
    assert len(largest) < 2**17
