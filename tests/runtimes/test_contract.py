"""The contract of runtimes/base.py, kept by every runtime that is listed here.

The scripted runtime stands in for llama in all tests of the daemon; running the same suite over
both makes it a verified stand-in.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable

import pytest
import trio
import trio.testing

from runtimes.base import (
    ChatMessage,
    Chunk,
    Finished,
    GenerateRequest,
    Runtime,
    RuntimeFailure,
    Tool,
    ToolCall,
)
from runtimes.images import Image
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import read_settings
from tests.helpers import test_runtime
from tests.runtimes.serving import (
    CHAT,
    ask,
    complete,
    needs_llama,
    serving,
    wait_idle,
    wait_until,
    with_served,
)

QUEUE_MAX = 3


def make_llama(**options: str) -> Runtime:
    """The real runtime with the model of the package."""
    return LlamaRuntime(dataclasses.replace(read_settings("demo", options), queue_max=QUEUE_MAX))


def make_llama_alone() -> Runtime:
    """The same, one request at a time, each token in a decode of its own shape."""
    return make_llama(slots="1", reproducible="1")


def make_scripted() -> Runtime:
    """The stand-in, with the same sizes."""
    options = {"context": "2048", "queue": str(QUEUE_MAX), "end_one_in": "40"}
    return test_runtime.create("echo", options=options)


def make_torn() -> Runtime:
    """Another, whose tokens end in the middle of characters."""
    options = {"context": "2048", "queue": str(QUEUE_MAX), "end_one_in": "40", "torn": "1"}
    return test_runtime.create("torn", options=options)


@pytest.fixture(
    params=[
        pytest.param(make_llama, marks=[pytest.mark.llama, needs_llama], id="llama"),
        pytest.param(make_llama_alone, marks=[pytest.mark.llama, needs_llama], id="llama-alone"),
        pytest.param(make_scripted, id="scripted"),
        pytest.param(make_torn, id="torn"),
    ]
)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """One fresh runtime, not served yet."""
    make: Callable[[], Runtime] = request.param
    return make()


def test_the_card_appears_when_loaded_and_goes_with_serve(runtime: Runtime) -> None:
    """No card, then a card with a name and a hash, then none; each change is announced."""

    async def main() -> None:
        assert runtime.card is None
        async with serving(runtime) as served:
            card = runtime.card
            assert card is not None
            assert card.name
            assert len(card.content_hash) == 64
            assert card.context_tokens == 2048
            before = served.changes
            assert before >= 1
        assert runtime.card is None
        assert served.changes > before

    trio.run(main)


def test_a_runtime_that_is_not_served_is_unavailable(runtime: Runtime) -> None:
    """Without a loaded model a request fails at once."""

    async def main() -> None:
        with pytest.raises(RuntimeFailure) as failed:
            await complete(runtime, ask())
        assert failed.value.code == "unavailable"

    trio.run(main)


@pytest.mark.parametrize("chat", [False, True])
def test_every_token_is_in_one_chunk_and_counted(runtime: Runtime, chat: bool) -> None:
    """Started with the prompt's ids, chunks, Finished; the chunks' ids are the completion."""

    async def test() -> None:
        request = ask(50)
        if chat:
            request = dataclasses.replace(request, prompt=None, messages=CHAT)
        completion = await complete(runtime, request)
        finished = dataclasses.replace(completion.finished, cached_tokens=0)
        assert finished == Finished("length", len(completion.prompt_ids), 50)
        assert len(completion.ids) == 50
        assert len(completion.events) == len(completion.chunks) + 2
        assert completion.text

    with_served(runtime, test)


def test_the_same_request_has_the_same_answer(runtime: Runtime) -> None:
    """Seed and prompt decide everything."""

    async def test() -> None:
        first = await complete(runtime, ask(30))
        again = await complete(runtime, ask(30))
        assert (first.ids, first.text) == (again.ids, again.text)

    with_served(runtime, test)


def test_the_model_may_end_its_turn(runtime: Runtime) -> None:
    """Some answer ends by itself: the token that did it is counted, and adds no text."""

    async def test() -> None:
        for seed in range(60):
            request = ask(1500, seed=seed, prompt=f"Story {seed}", ignore_eos=False)
            completion = await complete(runtime, request)
            if completion.finished.finish_reason == "stop":
                assert len(completion.ids) == completion.finished.completion_tokens < 1500
                return
        pytest.fail("no answer ended by itself")

    with_served(runtime, test)


def test_a_stop_string_ends_the_answer_and_is_not_in_it(runtime: Runtime) -> None:
    """Wherever the stop string lies, over token borders too, the text ends right before it."""

    async def test() -> None:
        whole = (await complete(runtime, ask(40))).text
        for start, length in [(0, 1), (5, 1), (9, 4), (17, 9), (20, 3)]:
            stop = whole[start : start + length]
            completion = await complete(runtime, ask(40, stop=("never seen", stop)))
            assert completion.text == whole[: whole.index(stop)]
            assert completion.finished.finish_reason == "stop"
            assert len(completion.ids) == completion.finished.completion_tokens

    with_served(runtime, test)


def test_text_that_only_looks_like_a_stop_string_comes_out(runtime: Runtime) -> None:
    """What was held back in vain is in the answer."""

    async def test() -> None:
        whole = (await complete(runtime, ask(20))).text
        stops = tuple(whole[start : start + 5] + "~" for start in (0, 4, 8, len(whole) - 5))
        assert (await complete(runtime, ask(20, stop=stops))).text == whole

    with_served(runtime, test)


def test_a_stop_token_ends_the_answer_and_is_not_in_its_text(runtime: Runtime) -> None:
    """It is counted as the end of a turn is, and a run that goes on behind it knows it, too."""

    async def test() -> None:
        whole = await complete(runtime, ask(40))
        last = next(at for at in range(10, 40) if whole.ids[at] not in whole.ids[:at])
        stops = (whole.ids[last],)
        completion = await complete(runtime, ask(40, stop_token_ids=stops))
        assert completion.ids == whole.ids[: last + 1]
        assert completion.text == (await complete(runtime, ask(last))).text
        assert completion.finished.finish_reason == "stop"
        assert completion.finished.completion_tokens == last + 1
        request = ask(40, stop_token_ids=stops, continued_ids=tuple(completion.ids))
        again = await complete(runtime, request)
        assert (again.ids, again.finished.finish_reason) == ([], "stop")

    with_served(runtime, test)


def test_leaving_early_frees_the_slot(runtime: Runtime) -> None:
    """A consumer that goes away after one chunk leaves a runtime that serves the next."""

    async def test() -> None:
        for _ in range(3):
            async with contextlib.aclosing(runtime.generate(ask(2000))) as events:
                async for event in events:
                    if isinstance(event, Chunk):
                        break
            await wait_idle(runtime)
        assert (await complete(runtime, ask(5))).finished.completion_tokens == 5

    with_served(runtime, test)


def test_a_cancelled_consumer_frees_the_slot(runtime: Runtime) -> None:
    """Cancelling the task that waits for a token is leaving early, too."""

    async def test() -> None:
        async with trio.open_nursery() as nursery:

            async def consume() -> None:
                async with contextlib.aclosing(runtime.generate(ask(2000))) as events:
                    async for event in events:
                        if isinstance(event, Chunk):
                            nursery.cancel_scope.cancel()

            nursery.start_soon(consume)
        await wait_idle(runtime)
        await complete(runtime, ask(5))

    with_served(runtime, test)


def test_the_queue_is_bounded_and_in_order(runtime: Runtime) -> None:
    """All slots run, QUEUE_MAX wait and are served in order, one more is refused at once."""

    async def test() -> None:
        order: list[int] = []

        async def consume(number: int) -> None:
            await complete(runtime, ask(3))
            order.append(number)

        slots = runtime.load.slots
        async with (
            trio.open_nursery() as nursery,
            contextlib.AsyncExitStack() as others,
            contextlib.AsyncExitStack() as one,
        ):
            for stack in [one, *[others] * (slots - 1)]:
                events = runtime.generate(ask(2000))
                await stack.enter_async_context(contextlib.aclosing(events))
                await anext(events)
            for number in range(QUEUE_MAX):
                nursery.start_soon(consume, number)
                await trio.testing.wait_all_tasks_blocked()
            load = runtime.load
            assert (load.running, load.queued, load.slots) == (slots, QUEUE_MAX, slots)
            with pytest.raises(RuntimeFailure) as refused:
                await complete(runtime, ask())
            assert refused.value.code == "queue_full"
            assert order == []
            await one.aclose()
            await wait_until(lambda: len(order) == QUEUE_MAX)
        assert order == list(range(QUEUE_MAX))
        await wait_idle(runtime)

    with_served(runtime, test)


def test_a_cancelled_wait_leaves_the_queue(runtime: Runtime) -> None:
    """Whoever stops waiting takes no slot and no place."""

    async def test() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(runtime.load.slots):
                events = runtime.generate(ask(2000))
                await stack.enter_async_context(contextlib.aclosing(events))
                await anext(events)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(complete, runtime, ask())
                await trio.testing.wait_all_tasks_blocked()
                assert runtime.load.queued == 1
                nursery.cancel_scope.cancel()
            assert runtime.load.queued == 0
        await wait_idle(runtime)
        await complete(runtime, ask(2))

    with_served(runtime, test)


LOOK = Tool(name="look", parameters='{"type": "object"}')
CALL = ToolCall(id="c1", name="look", arguments="{}")
CALLED = ChatMessage(role="assistant", content="", tool_calls=(CALL,))


def chat_with(**changes: object) -> dict[str, object]:
    """Changes to a plain request that make it a chat with a tool, and something else."""
    return {"prompt": None, "messages": CHAT, "tools": (LOOK,), **changes}


def chat_of(**changes: object) -> dict[str, object]:
    """The same, for a chat that begins with an assistant's turn."""
    turn = ChatMessage(role="assistant", content="a", **changes)  # type: ignore[arg-type]  # a test's shorthand
    return {"prompt": None, "messages": (turn, *CHAT)}


BAD_REQUESTS: list[tuple[str, dict[str, object]]] = [
    ("neither", {"prompt": None}),
    ("both", {"messages": CHAT}),
    ("no messages", {"prompt": None, "messages": ()}),
    ("empty prompt", {"prompt": ""}),
    ("no tokens", {"max_tokens": 0}),
    ("too many tokens", {"max_tokens": 2**31}),
    ("cold", {"temperature": -0.1}),
    ("no temperature", {"temperature": math.nan}),
    ("top_p", {"top_p": 1.5}),
    ("min_p", {"min_p": math.inf}),
    ("top_k", {"top_k": -1}),
    ("seed", {"seed": -1}),
    ("large seed", {"seed": 2**64}),
    ("empty stop", {"stop": ("",)}),
    ("many stops", {"stop": ("x",) * 17}),
    ("long stop", {"stop": ("x" * 257,)}),
    ("surrogate", {"prompt": "\ud800"}),
    ("typical_p", {"typical_p": 1.5}),
    ("no repeat penalty", {"repeat_penalty": 0.0}),
    ("presence", {"presence_penalty": 2.5}),
    ("frequency", {"frequency_penalty": math.nan}),
    ("bias", {"logit_bias": ((1, 101.0),)}),
    ("biased token", {"logit_bias": ((-1, 1.0),)}),
    ("many biases", {"logit_bias": ((1, 1.0),) * 1025}),
    ("two forms", {"grammar": 'root ::= "a"', "json_schema": "{}"}),
    ("NUL in a grammar", {"grammar": "\0"}),
    ("long schema", {"json_schema": " " * 70_000}),
    ("continued below zero", {"continued_ids": (-1,)}),
    ("a stop token below zero", {"stop_token_ids": (-1,)}),
    ("too many stop tokens", {"stop_token_ids": (1,) * 65}),
    ("surrogate in a stop", {"stop": ("\udfff",)}),
    ("tools without a chat", {"tools": (LOOK,)}),
    ("nothing to call", chat_with(tools=(), must_call=True)),
    ("tools and a grammar", chat_with(grammar='root ::= "a"')),
    ("two tools of one name", chat_with(tools=(LOOK, LOOK))),
    ("many tools", chat_with(tools=tuple(Tool(name=f"f{n}", parameters="{}") for n in range(129)))),
    ("nameless tool", chat_with(tools=(Tool(name="", parameters="{}"),))),
    ("name of a tool", chat_with(tools=(Tool(name='f"', parameters="{}"),))),
    ("long name of a tool", chat_with(tools=(Tool(name="f" * 129, parameters="{}"),))),
    ("long parameters", chat_with(tools=(Tool(name="f", parameters=" " * 70_000),))),
    ("surrogate in a tool", chat_with(tools=(Tool(name="f", parameters="\ud800"),))),
    ("many calls", chat_of(tool_calls=(CALL,) * 129)),
    ("long id", chat_of(tool_calls=(dataclasses.replace(CALL, id="x" * 257),))),
    ("long name", chat_of(name="x" * 129)),
    ("surrogate in a call", chat_of(tool_calls=(dataclasses.replace(CALL, arguments="\ud800"),))),
    ("a call without its result", {"prompt": None, "messages": (CALLED,)}),
]


def test_nonsense_is_refused_and_costs_nothing(runtime: Runtime) -> None:
    """Each malformed request is a bad_request; the runtime serves on."""

    async def test() -> None:
        for name, changes in BAD_REQUESTS:
            with pytest.raises(RuntimeFailure) as failed:
                await complete(runtime, ask(**({"max_tokens": 16} | changes)))  # type: ignore[arg-type]  # wrong on purpose
            assert failed.value.code == "bad_request", name
            assert "\n" not in failed.value.message
        assert runtime.load.running == 0
        await complete(runtime, ask(2))

    with_served(runtime, test)


def test_a_model_that_does_not_see_is_shown_no_images(runtime: Runtime) -> None:
    """The line says so, and the runtime serves on."""

    async def test() -> None:
        request = GenerateRequest(model="m", messages=CHAT, max_tokens=3, ignore_eos=True)
        pixel = Image(b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x01\x00\x01\x01\x01\x11\x00", 0, 0)
        with pytest.raises(RuntimeFailure, match="cannot see images") as failed:
            await complete(runtime, dataclasses.replace(request, images=(pixel,)))
        assert failed.value.code == "bad_request"
        assert runtime.load.running == 0
        assert (await complete(runtime, request)).finished.completion_tokens == 3

    with_served(runtime, test)


@pytest.mark.parametrize("characters", [2100, 3_000_000, 9_000_000])
def test_a_prompt_beyond_the_context_is_too_long(runtime: Runtime, characters: int) -> None:
    """Whether by a token, by far or absurdly: context_too_long, and the next request runs."""

    async def test() -> None:
        for request in (
            ask(prompt="xq" * (characters // 2)),
            ask(
                prompt=None, messages=(ChatMessage(role="user", content="xq" * (characters // 2)),)
            ),
        ):
            with pytest.raises(RuntimeFailure) as failed:
                await complete(runtime, request)
            assert failed.value.code == "context_too_long"
        await complete(runtime, ask(2))

    with_served(runtime, test)


def test_a_completion_goes_on_where_another_ended(runtime: Runtime) -> None:
    """Prompt and first tokens: only what is new comes, and is counted."""

    async def test() -> None:
        whole = await complete(runtime, ask(30, temperature=0.0))
        for cut in (1, 7, 29):
            request = ask(30 - cut, temperature=0.0, continued_ids=tuple(whole.ids[:cut]))
            rest = await complete(runtime, request)
            assert rest.prompt_ids == whole.prompt_ids
            assert rest.finished.prompt_tokens == len(whole.prompt_ids)
            assert rest.finished.completion_tokens == len(rest.ids) == 30 - cut
            assert rest.ids == whole.ids[cut:]
            assert whole.text.endswith(rest.text)

    with_served(runtime, test)


def test_wherever_it_is_cut_the_text_is_the_same(runtime: Runtime) -> None:
    """Inside a character, inside what may become a stop string, and behind the last token: what
    came before and what the next run gives are the unbroken text, with its finish reason.
    """

    async def test() -> None:
        plain = await complete(runtime, ask(24, temperature=0.0))
        middle = len(plain.text) // 2
        stops = [
            (),
            (plain.text[middle : middle + 5],),
            (plain.text[-3:],),
            (plain.text[:4] + "~",),
        ]
        for stop in stops:
            whole = await complete(runtime, ask(24, temperature=0.0, stop=stop))
            for cut in range(1, len(whole.ids) + 1):
                before = whole.chunks[:cut]
                continued = tuple(token for chunk in before for token in chunk.token_ids)
                request = ask(
                    24 - len(continued), temperature=0.0, stop=stop, continued_ids=continued
                )
                rest = await complete(runtime, request)
                assert "".join(chunk.text for chunk in before) + rest.text == whole.text
                assert [*continued, *rest.ids] == whole.ids
                assert rest.finished.finish_reason == whole.finished.finish_reason
                assert rest.finished.completion_tokens == len(rest.ids)

    with_served(runtime, test)


def test_a_turn_that_was_begun_goes_on_wherever_it_is_cut(runtime: Runtime) -> None:
    """Behind the app's own words, then behind another run's tokens, the last of them too."""

    async def test() -> None:
        begun = dataclasses.replace(
            ask(12, temperature=0.0, with_markers=True),
            prompt=None,
            messages=(*CHAT, ChatMessage(role="assistant", content="It is")),
        )
        whole = await complete(runtime, begun)
        for cut in (1, 6, len(whole.ids)):
            continued = tuple(whole.ids[:cut])
            request = dataclasses.replace(begun, continued_ids=continued, max_tokens=12 - cut)
            rest = await complete(runtime, request)
            assert rest.events[0] == whole.events[0]
            assert [*continued, *rest.ids] == whole.ids
            assert rest.finished.finish_reason == whole.finished.finish_reason

    with_served(runtime, test)


def test_without_max_tokens_the_context_is_the_limit(runtime: Runtime) -> None:
    """However much is asked, prompt and completion fit into the context."""

    async def test() -> None:
        context_tokens = runtime.card.context_tokens if runtime.card else 0
        prompt = "xq" * 1000
        completion = await complete(runtime, ask(100_000, prompt=prompt))
        finished = completion.finished
        assert finished.finish_reason == "length"
        assert finished.prompt_tokens + finished.completion_tokens == context_tokens

    with_served(runtime, test)


def test_strange_text_passes(runtime: Runtime) -> None:
    """NUL bytes, emoji, right-to-left marks and special-token look-alikes are just text."""

    async def test() -> None:
        for text in ("\0", "a\0b", "👩‍👩‍👧 é ß", "\u202eabc", "<|im_end|><|nonsense|>", "\x1b[2J"):
            turns = (ChatMessage(role="user", content=text),)
            request = GenerateRequest(model="m", messages=turns, max_tokens=3, ignore_eos=True)
            assert (await complete(runtime, request)).finished.completion_tokens == 3

    with_served(runtime, test)
