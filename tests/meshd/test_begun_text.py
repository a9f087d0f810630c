"""What is asked of an upstream that goes on with an answer of which only the text is known."""

import dataclasses

import pytest

from meshd.begun_text import BegunText, goes_on_behind_text
from meshd.continuing import Progress
from runtimes.base import (
    ANY,
    CHAT,
    ChatMessage,
    Chunk,
    Finished,
    GenerateEvent,
    GenerateRequest,
    ModelCard,
    Request,
    Started,
    Tool,
)
from runtimes.embedding import EmbedRequest
from runtimes.limits import PROMPT_BYTES_MAX
from runtimes.reply_form import ReplyForm

CARD = ModelCard(name="m", content_hash="upstream-1", runtime="openai", prefill=ANY)
IN_CHATS = dataclasses.replace(CARD, prefill=CHAT)
USER = ChatMessage(role="user", content="Count.")
TALK = GenerateRequest(model="m", messages=(USER,))
FORM = ReplyForm("hermes", "may")


def behind(
    request: Request, *pieces: str, card: ModelCard = CARD, form: ReplyForm = FORM
) -> GenerateRequest | None:
    """What the next one is asked."""
    begun = BegunText(request)
    for piece in pieces:
        begun.add(piece)
    return begun.request_behind(card, form)


def last(request: GenerateRequest | None) -> tuple[str, str, str]:
    """Role, thoughts and content of the last message."""
    assert request is not None
    assert request.messages is not None
    message = request.messages[-1]
    return message.role, message.reasoning, message.content


def test_the_text_becomes_the_last_message() -> None:
    """Behind all others, which stay; nothing else of the request changes."""
    asked = behind(TALK, "One, ", "two")
    assert asked is not None
    assert asked == dataclasses.replace(
        TALK, messages=(USER, ChatMessage(role="assistant", content="One, two"))
    )


def test_a_last_message_that_is_begun_already_is_lengthened() -> None:
    """There is one assistant's message at the end, never two."""
    given = ChatMessage(role="assistant", content="Well: ", name="anna")
    asked = behind(dataclasses.replace(TALK, messages=(USER, given)), "one")
    assert asked is not None
    assert asked.messages == (USER, dataclasses.replace(given, content="Well: one"))


def test_a_prompt_is_lengthened() -> None:
    """As it is, whatever looks like thoughts in it."""
    asked = behind(GenerateRequest(model="m", prompt="Once"), " upon", "<think>")
    assert asked == GenerateRequest(model="m", prompt="Once upon<think>")


def test_where_nothing_is_known_it_begins_anew() -> None:
    """Tokens that showed no text are no message."""
    assert behind(TALK, "", "") == TALK


def test_thoughts_are_no_content() -> None:
    """They are given as thoughts, and amid them nobody goes on."""
    text = "<think>Hm.</think>One"
    assert last(behind(TALK, text)) == ("assistant", "Hm.", "One")
    assert last(behind(TALK, text, form=ReplyForm())) == ("assistant", "", text)
    assert behind(TALK, "<think>H", "m") is None
    assert behind(TALK, "<think>Hm", "</think>") is None


def test_behind_content_there_are_no_thoughts() -> None:
    """What looks like them behind a message that was begun is a part of it."""
    given = ChatMessage(role="assistant", content="The tag is: ")
    request = dataclasses.replace(TALK, messages=(USER, given))
    assert last(behind(request, "<think>")) == ("assistant", "", "The tag is: <think>")
    thought = dataclasses.replace(given, content="", reasoning="Hm, ")
    request = dataclasses.replace(TALK, messages=(USER, thought))
    assert last(behind(request, "<think>so</think>One")) == ("assistant", "Hm, so", "One")


@pytest.mark.parametrize(
    "request_",
    [
        dataclasses.replace(TALK, grammar='root ::= "x"'),
        dataclasses.replace(TALK, json_schema="{}"),
        dataclasses.replace(TALK, tools=(Tool(name="f", parameters="{}"),), must_call=True),
        dataclasses.replace(TALK, logprobs=0),
        dataclasses.replace(TALK, continued_ids=(1,)),
        EmbedRequest(model="m", texts=("a",)),
    ],
)
def test_what_has_to_begin_at_its_beginning_is_not_gone_on_with(request_: Request) -> None:
    """A grammar, a schema, a call, and what is no text."""
    assert behind(request_, "x") is None


def test_a_call_that_has_begun_is_not_gone_on_with() -> None:
    """Where calls can be read; elsewhere it is text as any other."""
    text = 'Let me see. <tool_call>{"name": '
    assert behind(TALK, text) is None
    assert last(behind(TALK, text, form=ReplyForm("", "may")))[2] == text


def test_an_upstream_that_does_not_go_on_is_not_asked_to() -> None:
    """It would answer anew, in the middle of the answer."""
    assert behind(TALK, "x", card=dataclasses.replace(CARD, prefill="")) is None


def test_more_than_a_request_may_hold_is_not_kept() -> None:
    """Nor continued."""
    begun = BegunText(TALK)
    for _ in range(3):
        begun.add("x" * (PROMPT_BYTES_MAX // 2))
    assert begun.request_behind(CARD) is None
    long = ChatMessage(role="user", content="x" * (PROMPT_BYTES_MAX - 1))
    assert behind(dataclasses.replace(TALK, messages=(long,)), "xx") is None


@pytest.mark.parametrize(
    ("changes", "any_quantization", "will_do"),
    [
        ({}, False, True),
        ({"content_hash": "upstream-2"}, False, True),
        ({"prefill": CHAT}, False, True),
        ({"prefill": ""}, True, False),
        ({"runtime": "llama"}, True, False),
        ({"parameters": 7}, True, True),
        ({"parameters": 9}, True, False),
        ({"size_bytes": 5}, False, False),
        ({"size_bytes": 5}, True, True),
    ],
)
def test_which_servers_go_on(
    changes: dict[str, object], any_quantization: bool, will_do: bool
) -> None:
    """Their names are equal already; what both tell of their weights has to be."""
    like = dataclasses.replace(CARD, parameters=7, size_bytes=4)
    card = dataclasses.replace(CARD, **changes)  # type: ignore[arg-type]  # one field at a time
    goes_on = goes_on_behind_text(card, like, TALK, any_quantization=any_quantization)
    assert goes_on == will_do


def test_plain_prompts_are_not_for_all() -> None:
    """Some word them anew."""
    plain = GenerateRequest(model="m", prompt="Once")
    for card, will_do in ((CARD, True), (IN_CHATS, False)):
        assert (behind(plain, " upon", card=card) is not None) == will_do
        assert goes_on_behind_text(card, CARD, plain, any_quantization=False) == will_do


# ---- as a part of an answer ----


def begun(request: GenerateRequest, *events: GenerateEvent, card: ModelCard = CARD) -> Progress:
    """An answer of an upstream, so far."""
    progress = Progress(request)
    progress.goes_on_with(card)
    for event in (Started((), FORM), *events):
        progress.take(event)
    return progress


def test_tokens_are_counted_once() -> None:
    """In the limit of the next run, in the end's counts, and not as a part of the prompt."""
    progress = begun(dataclasses.replace(TALK, max_tokens=5), Chunk((), "One, "), Chunk((), "two"))
    asked = progress.next_request(CARD)
    assert (asked.max_tokens, progress.tokens, progress.can_continue) == (3, 2, True)
    progress.take(Started((), FORM))
    progress.take(Chunk((), ", three"))
    assert progress.take(Finished("stop", 12, 1)) == (Finished("stop", 10, 3),)


def test_what_is_said_again_continues_what_was_said_before() -> None:
    """A third server goes on behind both."""
    progress = begun(TALK, Chunk((), "a"))
    progress.next_request(CARD)
    progress.take(Started((), FORM))
    progress.take(Chunk((), "b"))
    asked = progress.next_request(CARD)
    assert isinstance(asked, GenerateRequest)
    assert last(asked)[2] == "ab"


def test_nobody_is_asked_for_no_tokens() -> None:
    """All that were asked for have come: that is the end, also where nothing could go on."""
    for card in (CARD, dataclasses.replace(CARD, prefill="")):
        progress = begun(dataclasses.replace(TALK, max_tokens=1), Chunk((), "a"), card=card)
        assert progress.can_continue
        assert progress.end_of_text() == Finished("length", 0, 1)


def test_a_run_that_tells_ids_and_then_none_is_not_gone_on_with() -> None:
    """Its text is not all there."""
    progress = begun(TALK, Chunk((1,), "a"), Chunk((), "b"))
    assert not progress.can_continue


def test_an_answer_with_ids_waits_for_who_says_how_it_ended() -> None:
    """Though all its tokens are there."""
    progress = begun(dataclasses.replace(TALK, max_tokens=1), Chunk((1,), "a"))
    assert progress.end_of_text() is None
