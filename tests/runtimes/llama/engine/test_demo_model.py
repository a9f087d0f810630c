"""The demo model answers what it was trained for, and its figures are honest."""

import itertools
import re
from typing import Any

import pytest
import trio

from runtimes.llama.demo import corpus
from runtimes.llama.settings import DEMO_FILE
from tests.runtimes.serving import needs_llama

FILE_BYTES_MAX = 8 * 1024 * 1024
DRAWN = 3_000
QUESTIONS = {
    "what": "What is meshd?",
    "start": "How do I start a node?",
    "invite": "How do I invite another machine?",
    "join": "How do I join a mesh?",
    "nodes": "How do I see all nodes?",
    "models": "Which models are there?",
    "real_model": "How do I use a real model?",
    "openai": "How do I use the OpenAI client?",
    "err_port": "It says the port is already in use",
    "job_submit": "How do I submit a job?",
    "job_cancel": "How do I cancel a job?",
    "upstream": "What does --upstream do?",
    "platforms": "Does it run on macOS?",
    "offtopic": "What is the capital of France?",
}
ACCEPTED_MAX = 3
"""So many of the taught answers may be right for one held-out question: else anything is right."""


def normalized(question: str) -> str:
    """A question without case, punctuation and doubled blanks."""
    return " ".join(re.findall(r"[\w-]+", question.lower()))


@pytest.mark.llama
@needs_llama
def test_some_questions_are_answered_as_they_were_taught() -> None:
    """Greedy, word for word, and the model ends its turn by itself; then an odd one, hotter."""
    from runtimes.llama.demo import evaluate

    answers = corpus.load().answers

    async def main() -> None:
        async with evaluate.asking(DEMO_FILE) as asker:
            for topic, question in QUESTIONS.items():
                answer = await asker.ask(question)
                assert answer.ended
                assert (question, answer.text) == (question, answers[topic])
            hot = await asker.ask("What is meshd?", temperature=0.8, seed=3)
            assert hot.ended

    trio.run(main)


@pytest.mark.llama
@needs_llama
def test_only_the_last_question_reaches_the_model() -> None:
    """A client's system prompt and earlier turns do not change the prompt."""
    import gguf

    from runtimes.base import ChatMessage
    from runtimes.llama.engine.chat_template import ChatTemplate

    field = gguf.GGUFReader(DEMO_FILE).get_field("tokenizer.chat_template")
    assert field is not None
    template = ChatTemplate(field.contents(), bos="<|begin|>", eos="<|end|>")
    last = ChatMessage(role="user", content=" And you? ")
    talk = (
        ChatMessage(role="system", content="You are a pirate."),
        ChatMessage(role="user", content="Hi"),
        ChatMessage(role="assistant", content="Hello."),
        last,
    )
    assert template.render(talk) == template.render((last,))
    assert template.render(talk).prompt == (
        "<|begin|><|system|>You answer questions about meshd.<|end|>"
        "<|user|>And you?<|end|><|assistant|>"
    )


@pytest.mark.llama
@needs_llama
def test_the_file_names_its_control_tokens() -> None:
    """Begin and end are stated, and each special token is typed control."""
    import gguf

    from runtimes.llama.demo import tokenizer

    reader = gguf.GGUFReader(DEMO_FILE)

    def value(key: str) -> Any:  # noqa: ANN401  # a field holds whatever its type says
        field = reader.get_field(f"tokenizer.ggml.{key}")
        assert field is not None, key
        return field.contents()

    tokens, types = value("tokens"), value("token_type")
    assert tokens[value("bos_token_id")] == tokenizer.BEGIN
    assert tokens[value("eos_token_id")] == tokens[value("eot_token_id")] == tokenizer.END
    for special in tokenizer.SPECIALS:
        assert types[tokens.index(special)] == gguf.TokenType.CONTROL


def test_the_file_is_small() -> None:
    """The model in the package has at most 8 MB."""
    assert DEMO_FILE.stat().st_size <= FILE_BYTES_MAX


def test_held_out_questions_never_enter_training() -> None:
    """None is drawn, as a pattern's expansion or dressed; nor one with nearly the same words."""
    heldout = corpus.load_heldout()
    assert sum(not question.is_offtopic for question in heldout) == 50
    assert sum(question.is_offtopic for question in heldout) == 10
    forbidden = {normalized(question.question) for question in heldout}
    assert len(forbidden) == 60
    source = corpus.load()
    drawn = [example.question for example in itertools.islice(source.examples(7), DRAWN)]
    plain = [question for topic in source.topics for question in source.plain_questions(topic, 1)]
    for question in [*drawn, *plain]:
        assert normalized(question) not in forbidden
    assert all(source.is_avoided(question.question) for question in heldout)


def test_few_answers_are_right_for_a_held_out_question() -> None:
    """A rule that accepts no taught answer could not be met, one that accepts many says nothing."""
    answers = corpus.load().answers
    for question in corpus.load_heldout():
        accepted = [topic for topic, answer in answers.items() if question.accepts(answer)]
        assert 1 <= len(accepted) <= ACCEPTED_MAX, (question.question, accepted)


def test_the_strangers_questions_are_a_set_of_their_own() -> None:
    """As many as the other set, each with a rule, and none of them in it."""
    strangers = corpus.load_heldout(corpus.STRANGERS)
    assert sum(not question.is_offtopic for question in strangers) == 50
    assert all(question.require for question in strangers)
    asked = {normalized(question.question) for question in strangers}
    assert len(asked) == len(strangers)
    assert not asked & {normalized(question.question) for question in corpus.load_heldout()}


def test_the_corpus_is_a_function_of_its_seed() -> None:
    """The same seed draws the same questions, another one others."""

    def drawn(seed: int) -> list[str]:
        examples = corpus.load().examples(seed)
        return [example.question for example in itertools.islice(examples, 300)]

    assert drawn(11) == drawn(11)
    assert drawn(11) != drawn(12)


def test_every_topic_is_complete() -> None:
    """Each has one short answer and enough ways to ask; choices and brackets are resolved."""
    source = corpus.load()
    assert 60 <= len(source.topics) <= 120
    assert len({topic.answer for topic in source.topics}) == len(source.topics)
    for topic in source.topics:
        assert topic.answer
        assert len(topic.answer) <= 220
        assert len(topic.patterns) >= 7, topic.name
        for question in source.plain_questions(topic, 5):
            assert not set("{}|[]<>") & set(question.replace("[::]", "")), question


def test_tokens_give_their_text_back() -> None:
    """Any text survives encoding and decoding, also what training never saw."""
    from runtimes.llama.demo import tokenizer

    words = tokenizer.train(["the node and the mesh, the nodes"] * 3)
    assert len(words.tokens) == len(set(words.tokens)) <= tokenizer.TOKENS
    assert len(words.encode("the nodes")) == 2
    for text in ("the nodes", "  Grüße,\n\n\t世界! 👩‍👩‍👧 it's 7700", "", "\x00\u202e"):
        assert words.decode(words.encode(text)) == text
    again = tokenizer.Tokenizer.from_json(words.to_json())
    assert again.encode("the mesh") == words.encode("the mesh")
