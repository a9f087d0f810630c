"""How busy an upstream is, as it tells."""

import json

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from runtimes.base import Load
from runtimes.openai import occupancy
from runtimes.openai.listing import read_listing
from runtimes.openai.occupancy import (
    COUNT_MAX,
    Occupancy,
    read_loaded,
    read_metrics,
    read_props,
    read_slots,
)
from runtimes.openai.runtime import LOAD_MS, LOOKS_IN_VAIN_MAX, UpstreamRuntime
from tests.runtimes.openai.upstream import TIMEOUT_S, Hanging, Upstream, source_served
from tests.runtimes.serving import ask

LISTING = read_listing(b'{"data": [{"id": "m"}, {"id": "n:1b"}]}', "/v1")
SLOTS = [{"id": 0, "is_processing": True}, {"id": 1, "is_processing": False}, {"id": 2}]
METRICS = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.5e+01
vllm:num_requests_waiting{model_name="org/other"} 1.0
vllm:num_requests_swapped{model_name="m"} 9.0
vllm:num_requests_running{model_name="m"} NaN
"""


def test_llama_servers_slots_are_counted() -> None:
    """All, and those that work; or how many there are, where they are not listed."""
    assert read_slots(json.dumps(SLOTS).encode()) == Occupancy(slots=3, running=1)
    assert read_props(b'{"total_slots": 4}') == Occupancy(slots=4)
    for nothing in (b"", b"[]", b"{}", b'"x"', b"<html>"):
        assert read_slots(nothing) is None
    for nothing in (b"", b"[]", b"{}", b'{"total_slots": 0}', b'{"total_slots": "4"}'):
        assert read_props(nothing) is None


def test_vllms_gauges_are_added_up() -> None:
    """By model, over its engines; what is no number is left out."""
    assert read_metrics(METRICS) == {
        "m": Occupancy(running=5, waiting=15),
        "org/other": Occupancy(waiting=1),
    }


def test_ollama_says_what_is_in_memory() -> None:
    """The others have to be loaded."""
    answer = json.dumps({"models": [{"name": "n:1b", "model": "n:1b", "size_vram": 5}, 7]}).encode()
    loaded, cold = Occupancy(), Occupancy(is_loaded=False)
    assert read_loaded(answer, LISTING) == {"m": cold, "n:1b": loaded}
    assert read_loaded(b'{"models": []}', LISTING) == {"m": cold, "n:1b": cold}
    for nothing in (b"", b"[]", b'{"models": 5}', b"{}"):
        assert read_loaded(nothing, LISTING) == {}


@given(st.binary(max_size=300) | st.sampled_from([b'{"models": [{"model": [1]}]}', b"[[]]"]))
def test_any_answer_is_something_or_nothing(answer: bytes) -> None:
    """Never an exception, and no number beyond what is believed."""
    for told in (read_slots(answer), read_props(answer), *read_metrics(answer).values()):
        if told is not None:
            assert max(told.slots, told.running, told.waiting) <= COUNT_MAX
    read_loaded(answer, LISTING)


def served(owner: str, told: dict[str, object], wanted: Load, load_ms: int = 0) -> None:
    """What a model's load and card come to be."""

    async def main() -> None:
        upstream = Upstream()
        upstream.models = [{"id": "m", "owned_by": owner}]
        upstream.told = told
        with trio.fail_after(TIMEOUT_S):
            async with upstream.running(), source_served(upstream.url) as served:

                def is_so() -> bool:
                    loads = [(r.load, r.card and r.card.load_ms) for r in served.source.runtimes]
                    return loads == [(wanted, load_ms)]

                await served.until(is_so)

    trio.run(main)


def test_what_others_do_there_counts() -> None:
    """So that a busy upstream is taken for one."""
    served("llamacpp", {"/slots": SLOTS}, Load(0, 1, 3))
    served("llamacpp", {"/props": {"total_slots": 5}}, Load(0, 0, 5))
    served("somebody", {"/slots": SLOTS}, Load(0, 0, 8))


def test_a_model_that_is_not_in_memory_takes_its_time() -> None:
    """Who has it in memory comes first."""
    served("library", {"/api/ps": {"models": []}}, Load(0, 0, 8), LOAD_MS)
    served("library", {"/api/ps": {"models": [{"model": "m"}]}}, Load(0, 0, 8))


@pytest.mark.parametrize(("slots", "count"), [(None, 3), (2, 2)])
def test_our_own_requests_count_once(slots: int | None, count: int) -> None:
    """They are among those that the upstream tells of; and its owner's word on slots holds."""

    async def main() -> None:
        hanging = Hanging()
        upstream = Upstream(hanging)
        with trio.fail_after(TIMEOUT_S):
            async with (
                upstream.running(),
                source_served(upstream.url, slots=slots, look_s=60.0) as served,
                trio.open_nursery() as nursery,
            ):
                await served.until(lambda: served.names == ["m"])
                runtime = served.source.runtimes[0]

                async def request() -> None:
                    async for _ in runtime.generate(ask(3, model="m")):
                        pass

                nursery.start_soon(request)
                await hanging.is_asked.wait()
                assert isinstance(runtime, UpstreamRuntime)
                runtime.note(Occupancy(slots=3, running=1))
                assert runtime.load == Load(0, 1, count)
                runtime.note(Occupancy(slots=3, running=0, waiting=1))
                assert runtime.load == Load(0, 1, count), "ours waits there"
                runtime.note(Occupancy(slots=3, running=3, waiting=2))
                assert runtime.load == Load(2, 3, count)
                for _ in range(LOOKS_IN_VAIN_MAX - 1):
                    runtime.note(None)
                    assert runtime.load == Load(2, 3, count)
                runtime.note(None)
                assert runtime.load == Load(0, 1, count)
                runtime.note(Occupancy())
                assert runtime.load == Load(0, 1, 8 if slots is None else slots)
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_who_does_not_say_is_listed_all_the_same() -> None:
    """At once, and what it told before holds: who is too busy to say so is not idle."""

    async def main() -> None:
        upstream = Upstream()
        upstream.models = [{"id": "m", "owned_by": "library"}]
        upstream.told = {"/api/ps": {"models": []}}
        with trio.fail_after(TIMEOUT_S):
            async with upstream.running(), source_served(upstream.url) as served:

                def load_ms() -> int | None:
                    cards = [runtime.card for runtime in served.source.runtimes]
                    return cards[0].load_ms if cards and cards[0] is not None else None

                await served.until(lambda: load_ms() == LOAD_MS)
                hanging = upstream.told["/api/ps"] = Hanging()
                await hanging.is_asked.wait()
                assert load_ms() == LOAD_MS
                await hanging.has_hung_up.wait()
                assert load_ms() == LOAD_MS
        upstream.told = {"/api/ps": Hanging()}
        with trio.fail_after(occupancy.ASK_S / 2):
            async with upstream.running(), source_served(upstream.url) as served:
                await served.until(lambda: served.names == ["m"])

    trio.run(main)
