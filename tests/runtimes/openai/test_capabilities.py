"""What an upstream tells of what its models are made for, and what holds where it does not."""

import json

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from runtimes.base import RuntimeFailure
from runtimes.embedding import EMBED, GENERATE, SEE, TASKS, TEXT_TASKS, EmbedRequest
from runtimes.openai.capabilities import (
    read_capabilities,
    read_modalities,
    read_types,
    with_sight,
)
from runtimes.openai.listing import read_listing
from tests.runtimes.openai.upstream import (
    TIMEOUT_S,
    Seen,
    ServedSource,
    Upstream,
    replying,
    sending,
    source_served,
)

LISTING = read_listing(b'{"data": [{"id": "m"}, {"id": "n"}]}', "/v1")
SEEING = {"modalities": {"vision": True, "audio": False}}
BLIND = {"modalities": {"vision": False, "audio": True}}


def made_for(served: ServedSource) -> dict[str, tuple[str, ...]]:
    """The tasks on the cards that are offered now."""
    cards = [runtime.card for runtime in served.source.runtimes]
    return {card.name: card.tasks for card in cards if card is not None}


@pytest.mark.parametrize(
    ("answer", "tasks"),
    [
        ({"capabilities": ["embedding"]}, (EMBED,)),
        ({"capabilities": ["completion", "tools"]}, (GENERATE,)),
        ({"capabilities": ["completion", "vision"]}, (GENERATE, SEE)),
        ({"capabilities": ["embedding", "vision"]}, (EMBED,)),
        ({"capabilities": ["embedding", "completion"]}, (GENERATE, EMBED)),
        ({"capabilities": ["something", 5]}, TEXT_TASKS),
        ({"capabilities": "vision"}, TEXT_TASKS),
        ({}, TEXT_TASKS),
        ([], TEXT_TASKS),
    ],
)
def test_capabilities_say_what_a_model_is_made_for(answer: object, tasks: object) -> None:
    """Where nothing is said, everything with text is tried."""
    assert read_capabilities(json.dumps(answer).encode()) == tasks
    assert read_capabilities(b"<html>") == TEXT_TASKS


@pytest.mark.parametrize(
    ("rows", "tasks"),
    [
        ([{"id": "m", "type": "vlm"}], {"m": (GENERATE, SEE)}),
        (
            [{"id": "m", "type": "llm"}, {"id": "n", "type": "embeddings"}],
            {"m": (GENERATE,), "n": (EMBED,)},
        ),
        ([{"id": "other", "type": "vlm"}, {"id": "m", "type": "robot"}], {}),
        ([None, 5, {}, {"id": ["m"], "type": "vlm"}, {"id": "m", "type": ["vlm"]}], {}),
        ({"id": "m"}, {}),
    ],
)
def test_types_say_what_a_model_is_made_for(rows: object, tasks: object) -> None:
    """Of the models that are offered, and of known types only."""
    assert read_types(json.dumps({"data": rows}).encode(), LISTING) == tasks


@pytest.mark.parametrize(
    ("answer", "tasks"),
    [
        (SEEING, {"m": TASKS, "n": TASKS}),
        (BLIND, {"m": TEXT_TASKS, "n": TEXT_TASKS}),
        ({"modalities": {"vision": "yes"}}, {"m": TEXT_TASKS, "n": TEXT_TASKS}),
        ({"modalities": ["vision"]}, {}),
        ({"role": "router"}, {}),
    ],
)
def test_modalities_say_whether_a_model_sees(answer: object, tasks: object) -> None:
    """Hearing is not seeing, and a router tells nothing there."""
    assert read_modalities(json.dumps(answer).encode(), LISTING) == tasks


@given(st.binary(max_size=60))
def test_any_bytes_tell_something_or_nothing(data: bytes) -> None:
    """Nothing is raised, whatever an upstream says."""
    for name in (b"capabilities", b"data", b"modalities"):
        for whole in (data, b'{"' + name + b'":' + data + b"}"):
            assert set(read_capabilities(whole)) <= set(TASKS)
            assert read_types(whole, LISTING).keys() <= {"m", "n"}
            assert read_modalities(whole, LISTING).keys() <= {"m", "n"}


def test_who_does_not_generate_never_sees() -> None:
    """Whatever its owner says."""
    assert with_sight((GENERATE, EMBED), sees=True) == (GENERATE, EMBED, SEE)
    assert with_sight((GENERATE, SEE), sees=True) == (GENERATE, SEE)
    assert with_sight((GENERATE, SEE), sees=False) == (GENERATE,)
    assert with_sight((EMBED,), sees=True) == (EMBED,)


def test_ollama_is_asked_once_for_each_model() -> None:
    """And a chat does not reach one that embeds."""
    told = {"embedder": ["embedding"], "talker": ["completion", "vision"]}

    async def script(seen: Seen, stream: trio.SocketStream) -> None:
        assert seen.path == "/api/show"
        await replying(200, {"capabilities": told[seen.json["model"]]})(seen, stream)

    async def main() -> None:
        upstream = Upstream(script)
        upstream.models = [{"id": "talker", "owned_by": "library"}]
        with trio.fail_after(TIMEOUT_S):
            async with upstream.running(), source_served(upstream.url) as served:
                await served.until(lambda: made_for(served) == {"talker": (GENERATE, SEE)})
                upstream.models.append({"id": "embedder", "owned_by": "library"})
                await served.until(lambda: len(made_for(served)) == 2)
                assert made_for(served) == {"talker": (GENERATE, SEE), "embedder": (EMBED,)}
                assert [seen.json["model"] for seen in upstream.seen] == ["talker", "embedder"]
                with pytest.raises(RuntimeFailure, match="cannot embed") as failed:
                    await anext(
                        served.source.runtimes[0].generate(EmbedRequest(model="m", texts=("a",)))
                    )
                assert failed.value.code == "bad_request"

    trio.run(main)


@pytest.mark.parametrize("owner", ["library", "organization_owner", "llamacpp", "vllm"])
def test_what_is_not_told_is_tried_with_text_alone(owner: str) -> None:
    """An old server does not know the path; models are offered all the same, and what else such
    an answer says is not believed.
    """

    async def main() -> None:
        unknown = replying(404, {"error": "not found", "capabilities": ["embedding"], **SEEING})
        upstream = Upstream(unknown)
        upstream.told["/props"] = unknown
        upstream.models = [{"id": "m", "owned_by": owner}]
        with trio.fail_after(TIMEOUT_S):
            async with upstream.running(), source_served(upstream.url) as served:
                await served.until(lambda: bool(served.names))
                assert made_for(served) == {"m": TEXT_TASKS}

    trio.run(main)


def test_lm_studio_tells_of_all_its_models_at_once() -> None:
    """By the list of its own API, which has the same names."""

    async def main() -> None:
        upstream = Upstream()
        types = {"talker": "llm", "watcher": "vlm", "embedder": "embeddings"}
        upstream.models = [{"id": name, "owned_by": "organization_owner"} for name in types]
        rows = [{"id": name, "type": kind} for name, kind in types.items()]
        upstream.told["/api/v0/models"] = {"object": "list", "data": rows}
        with trio.fail_after(TIMEOUT_S):
            async with upstream.running(), source_served(upstream.url) as served:
                await served.until(lambda: bool(served.names))
                assert made_for(served) == {
                    "talker": (GENERATE,),
                    "watcher": (GENERATE, SEE),
                    "embedder": (EMBED,),
                }

    trio.run(main)


def test_a_router_of_llama_server_tells_in_its_list() -> None:
    """Of each model by itself; its own properties are of none."""

    async def main() -> None:
        upstream = Upstream()
        kinds = {"talker": ["text"], "watcher": ["text", "image"], "odd": "image", "none": None}
        upstream.models = [
            {"id": name, "owned_by": "llamacpp", "architecture": {"input_modalities": kind}}
            for name, kind in kinds.items()
        ]
        upstream.told["/props"] = {"role": "router"}
        with trio.fail_after(TIMEOUT_S):
            async with upstream.running(), source_served(upstream.url) as served:
                await served.until(lambda: bool(served.names))
                assert [name for name, tasks in made_for(served).items() if SEE in tasks] == [
                    "watcher"
                ]

    trio.run(main)


def test_a_server_that_is_started_anew_is_believed_anew() -> None:
    """With a projector or without one; while it does not answer, what it said last holds."""

    async def main() -> None:
        upstream = Upstream()
        upstream.models = [{"id": "m", "owned_by": "llamacpp"}]
        upstream.told["/props"] = BLIND
        with trio.fail_after(TIMEOUT_S):
            async with upstream.running(), source_served(upstream.url) as served:
                await served.until(lambda: made_for(served) == {"m": TEXT_TASKS})
                upstream.told["/props"] = SEEING
                await served.until(lambda: made_for(served) == {"m": TASKS})
                upstream.told["/props"] = sending()
                looks = upstream.looks
                while upstream.looks < looks + 3:
                    await trio.lowlevel.checkpoint()
                assert made_for(served) == {"m": TASKS}
                upstream.models[0]["owned_by"] = "vllm"
                await served.until(lambda: made_for(served) == {"m": TEXT_TASKS})

    trio.run(main)


@pytest.mark.parametrize(("sees", "tasks"), [(True, TASKS), (False, TEXT_TASKS)])
def test_its_owner_knows_better(sees: bool, tasks: tuple[str, ...]) -> None:
    """The option counts more than what the upstream says, or does not say."""

    async def main() -> None:
        for owner, told in (("vllm", None), ("llamacpp", SEEING), ("llamacpp", BLIND)):
            upstream = Upstream()
            upstream.models = [{"id": "m", "owned_by": owner}]
            upstream.told["/props"] = told
            with trio.fail_after(TIMEOUT_S):
                async with upstream.running(), source_served(upstream.url, sees=sees) as served:
                    await served.until(lambda served=served: bool(served.names))  # type: ignore[misc]  # bound now
                    assert made_for(served) == {"m": tasks}

    trio.run(main)
