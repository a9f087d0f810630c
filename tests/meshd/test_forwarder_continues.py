"""A request whose serving node is lost amid its answer: another one goes on with it."""

import dataclasses
import gc
import pathlib
from collections.abc import Iterator, Sequence

import pytest

from meshd import asking, attempting, forwarding
from meshd.answer import RequestOptions
from meshd.failures import RequestFailed
from meshd.frames import FrameStream
from meshd.payloads import pack_chunk, pack_started, unpack_request
from meshd.peers import Handler
from protocol.events import ContactLost
from protocol.exchange import Accept, Ask, Data, Heartbeat, encode_frame
from protocol.identity import NodeId
from runtimes.base import (
    Chunk,
    Finished,
    GenerateEvent,
    GenerateRequest,
    ModelCard,
    RuntimeFailure,
    Started,
)
from tests.meshd.forwarding_house import (
    CHUNK,
    END,
    FOREVER,
    REQUEST,
    STARTED,
    House,
    answering,
    run,
)
from tests.meshd.members import until
from tests.meshd.played_runtime import HELLO, PIECES, PlayedRuntime, Step, TellingRuntime

CARD = ModelCard(
    name="m",
    content_hash="ab" * 32,
    runtime="llama",
    architecture="llama",
    parameters=8,
    quantization="F16",
    context_tokens=100,
)
WHOLE = b"".join(PIECES).decode()
CRASH = RuntimeFailure("crashed", "gone")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A socket that nobody closed is an error of the test that left it."""
    yield
    gc.collect()


@dataclasses.dataclass(slots=True)
class Got:
    """What the app got, and what it was told of who served."""

    events: list[GenerateEvent] = dataclasses.field(default_factory=list)
    node: str = ""
    resumed: int = 0
    failure: RequestFailed | None = None

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Chunk))

    @property
    def ids(self) -> list[int]:
        chunks = [event for event in self.events if isinstance(event, Chunk)]
        return [token for chunk in chunks for token in chunk.token_ids]


async def ask(house: House, request: GenerateRequest, **options: object) -> Got:
    """Ask, and collect all."""
    got = Got()
    chosen = RequestOptions(request_id="ab", **options)  # type: ignore[arg-type]  # by name
    try:
        async with house.forwarder.generate(request, chosen) as answer:
            async for event in answer.events:
                got.events.append(event)
            got.node, got.resumed = answer.node_name, answer.resumed
    except RequestFailed as failure:
        got.failure = failure
    return got


def answered(house: House, request: GenerateRequest = REQUEST, **options: object) -> Got:
    """The same, for a house that is asked once."""
    found: list[Got] = []

    async def test() -> None:
        found.append(await ask(house, request, **options))

    run(house, test)
    return found[0]


# ---- the seam ----


@pytest.mark.parametrize("stop", [(), ("an d",), ("t!",), ("€l", "zzz"), ("never",), ("ße and",)])
@pytest.mark.parametrize("max_tokens", [None, 5])
def test_wherever_it_is_cut_the_answer_is_the_unbroken_one(
    tmp_path: pathlib.Path, stop: tuple[str, ...], max_tokens: int | None
) -> None:
    """Inside a character, inside a stop string, behind the last token: tokens, text, finish reason
    and usage are the same.
    """
    request = dataclasses.replace(REQUEST, stop=stop, max_tokens=max_tokens)
    breaking = TellingRuntime()
    house = House(tmp_path, breaking, TellingRuntime(), own=True)

    async def test() -> None:
        unbroken = await ask(house, request)
        assert (unbroken.failure, unbroken.node) == (None, "n0")
        for cut in range(1, len(unbroken.ids) + 1):
            house.choosing._failed.clear()
            breaking.breaks.append((cut, CRASH))
            got = await ask(house, request)
            assert (got.failure, got.node, got.resumed) == (None, "n1", 1)
            assert (got.ids, got.text) == (unbroken.ids, unbroken.text)
            assert (got.events[0], got.events[-1]) == (unbroken.events[0], unbroken.events[-1])
            assert len([e for e in got.events if isinstance(e, Started | Finished)]) == 2

    run(house, test)


def test_it_may_be_cut_again_and_again(tmp_path: pathlib.Path) -> None:
    """Each token from another run, here and there."""
    first = TellingRuntime(*[(1, CRASH)] * 4)
    second = TellingRuntime(*[(1, CRASH)] * 4)
    got = answered(House(tmp_path, first, second, own=True, patience_s=5.0))
    assert got.failure is None
    assert (got.text, got.ids) == (WHOLE, list(range(1, len(PIECES) + 1)))
    assert got.events[-1] == Finished("stop", 3, len(PIECES))
    assert got.resumed == 8


def test_all_runs_have_one_seed_and_one_id(tmp_path: pathlib.Path) -> None:
    """Drawn if the request has none; a continued run has the rest of the limit."""
    asked: list[Ask] = []
    first = answering(
        encode_frame(Accept(pack_started(Started((1, 2, 3))))),
        encode_frame(Data(pack_chunk(Chunk((1,), "Gr")))),
        asked=asked,
    )
    second = TellingRuntime()
    got = answered(House(tmp_path, None, first, second), dataclasses.replace(REQUEST, max_tokens=5))
    assert got.ids == [1, 2, 3, 4, 5]
    before = unpack_request(asked[0].body)
    assert asked[0].request_id == "ab"
    assert isinstance(before, GenerateRequest)
    assert before.seed is not None
    assert second.requests == [dataclasses.replace(before, continued_ids=(1,), max_tokens=4)]


def test_a_given_seed_is_kept(tmp_path: pathlib.Path) -> None:
    """It is the app's."""
    runtime = TellingRuntime()
    answered(House(tmp_path, None, runtime), dataclasses.replace(REQUEST, seed=7))
    assert runtime.requests[0].seed == 7


def test_the_limit_of_the_first_context_stays(tmp_path: pathlib.Path) -> None:
    """A node with a larger context does not make the answer longer."""
    pieces = PIECES * 3
    first = TellingRuntime((2, CRASH), pieces=pieces, context_tokens=8)
    second = TellingRuntime(pieces=pieces, context_tokens=100)
    got = answered(House(tmp_path, None, first, second))
    assert got.events[-1] == Finished("length", 3, 5)


# ---- who may go on ----


def test_only_the_very_same_model_goes_on(tmp_path: pathlib.Path) -> None:
    """Neither other weights of the same name nor a smaller context are asked."""
    others = [
        TellingRuntime(content_hash="cd" * 32, context_tokens=100),
        TellingRuntime(context_tokens=50),
    ]
    right = TellingRuntime(context_tokens=100)
    first = TellingRuntime((2, CRASH), context_tokens=100)
    got = answered(House(tmp_path, None, first, *others, right))
    assert (got.node, got.text) == ("n4", WHOLE)
    assert not any(other.requests for other in others)


def test_other_weights_of_the_same_model_go_on_where_that_is_allowed(
    tmp_path: pathlib.Path,
) -> None:
    """Not those of another architecture or size; nor those that read the prompt otherwise."""
    for allowed in (False, True):
        smaller = dataclasses.replace(CARD, content_hash="cd" * 32, parameters=7)
        requantized = dataclasses.replace(CARD, content_hash="cd" * 32, quantization="Q4_0")
        runs = [TellingRuntime(), TellingRuntime(prompt=(1, 2, 4)), TellingRuntime()]
        for runtime, card in zip(runs, (smaller, requantized, requantized), strict=True):
            runtime.become(card)
        first = TellingRuntime((2, CRASH))
        first.become(CARD)
        house = House(tmp_path / str(allowed), None, first, *runs)
        got = answered(house, any_quantization=allowed)
        if allowed:
            assert (got.node, got.text, len(runs[0].requests)) == ("n4", WHOLE, 0)
        else:
            assert got.failure is not None
            assert not any(run.requests for run in runs)


def test_a_run_that_renders_another_prompt_is_not_passed_on(tmp_path: pathlib.Path) -> None:
    """A template that writes the date down, around midnight."""
    other = TellingRuntime(prompt=(1, 2, 4))
    house = House(tmp_path, None, TellingRuntime((2, CRASH)), other, TellingRuntime())
    got = answered(house)
    assert (got.node, got.text, got.resumed) == ("n3", WHOLE, 1)
    assert len(other.requests) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        RuntimeFailure("queue_full", "busy"),
        RuntimeFailure("bad_request", "of another model"),
        RuntimeFailure("context_too_long", "too long"),
    ],
)
def test_who_refuses_to_go_on_is_passed_over(
    tmp_path: pathlib.Path, refusal: RuntimeFailure
) -> None:
    """The request was good enough before: now nothing that one node says of it is final."""
    house = House(
        tmp_path, None, TellingRuntime((3, CRASH)), PlayedRuntime([refusal]), TellingRuntime()
    )
    got = answered(house)
    assert (got.node, got.text, got.resumed) == ("n3", WHOLE, 1)


def test_the_broken_node_itself_may_go_on(tmp_path: pathlib.Path) -> None:
    """A cut connection, a worker that is started anew: where nobody else can, it is waited for."""
    late = [(3, CRASH), (0, RuntimeFailure("unavailable", "its worker starts"))]
    got = answered(House(tmp_path, None, TellingRuntime(*late), patience_s=5.0))
    assert (got.failure, got.node, got.text, got.resumed) == (None, "n1", WHOLE, 1)


def test_an_upstreams_answer_goes_on_behind_its_text(tmp_path: pathlib.Path) -> None:
    """At another upstream of that name, whatever its hash, and if it tells no context; one that
    would begin anew is passed over, and so is one that has token ids.
    """
    steps: list[Step] = [Started(()), Chunk((), "Hel"), CRASH]
    first = PlayedRuntime(steps, kind="openai", prefill="any", context_tokens=100)
    cannot = PlayedRuntime(kind="openai"), TellingRuntime()
    rest: list[Step] = [Started(()), Chunk((), "lo"), Finished("stop", 4, 1)]
    second = PlayedRuntime(rest, kind="openai", prefill="any", content_hash="cd" * 32)
    got = answered(House(tmp_path, None, first, *cannot, second))
    assert (got.failure, got.node, got.text, got.resumed) == (None, "n4", "Hello", 1)
    assert got.events[-1] == Finished("stop", 3, 2)
    assert not cannot[0].requests
    assert not cannot[1].requests
    [asked] = second.requests
    assert (asked.prompt, asked.seed, asked.continued_ids) == ("helloHel", None, ())


def test_an_upstreams_answer_that_is_all_there_ends(tmp_path: pathlib.Path) -> None:
    """Nobody is asked to add nothing."""
    steps: list[Step] = [Started(()), Chunk((), "Hel"), Chunk((), "lo"), CRASH]
    runtimes = [PlayedRuntime(steps, kind="openai", prefill="any") for _ in range(2)]
    request = dataclasses.replace(REQUEST, max_tokens=2)
    got = answered(House(tmp_path, None, *runtimes), request)
    assert got.events[-1] == Finished("length", 0, 2)
    assert (got.text, got.resumed, runtimes[1].requests) == ("Hello", 0, [])


def test_an_upstreams_answer_is_not_continued_where_it_cannot_be(tmp_path: pathlib.Path) -> None:
    """It tells no token ids. Before its first word the next node is asked as ever."""
    steps: list[Step] = [Started(()), Chunk((), "Hel"), CRASH]
    upstreams = [PlayedRuntime(steps, kind="openai"), PlayedRuntime(kind="openai")]
    got = answered(House(tmp_path / "after", None, *upstreams))
    assert got.failure is not None
    assert got.failure.code == "interrupted"
    assert "cannot be continued" in got.failure.message
    assert not upstreams[1].requests
    first, second = PlayedRuntime([steps[0], CRASH], kind="openai"), PlayedRuntime(kind="openai")
    got = answered(House(tmp_path / "before", None, first, second))
    assert got.events == list(HELLO)
    assert [runtime.requests[0].seed for runtime in (first, second)] == [None, None]


# ---- what ends a run ----


def test_a_node_that_dies_amid_its_answer_is_left_at_once(tmp_path: pathlib.Path) -> None:
    """Without waiting for the line to break; and it is told to stop."""
    hanging = TellingRuntime((2, FOREVER))
    house = House(tmp_path, None, hanging, TellingRuntime())
    seen: list[GenerateEvent] = []

    def die(event: GenerateEvent) -> None:
        seen.append(event)
        if isinstance(event, Chunk) and event.token_ids == (2,):
            house.die(1)

    async def test() -> None:
        await house.watch(die)
        await until(lambda: not hanging.running)

    run(house, test)
    assert "".join(e.text for e in seen if isinstance(e, Chunk)) == WHOLE


def _silent(*frames: bytes) -> Handler:
    return answering(*frames, FOREVER)


ACCEPT = encode_frame(Accept(pack_started(Started((1, 2, 3)))))
FIRST = encode_frame(Data(pack_chunk(Chunk((1,), "Gr"))))


@pytest.mark.parametrize("frames", [(), (encode_frame(Heartbeat()),), (ACCEPT,), (ACCEPT, FIRST)])
def test_a_node_that_falls_silent_is_left(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, frames: Sequence[bytes]
) -> None:
    """No heartbeat: it is stopped, or out of reach, whatever its model would need; and the mesh
    looks at it.
    """
    monkeypatch.setattr(asking, "SILENCE_S", 1.0)
    house = House(tmp_path, None, _silent(*frames), TellingRuntime())
    got = answered(house)
    assert (got.node, got.text) == ("n2", WHOLE)
    assert house.events == [ContactLost(house.id(1))]


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_slow_model_is_waited_for_while_its_node_is_heard(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """Before its slot, in its prefill and between tokens."""
    monkeypatch.setattr(attempting, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(asking, "SILENCE_S", 2.0)
    slow = PlayedRuntime([*HELLO[:before], 2.5, *HELLO[before:]])
    other = PlayedRuntime()
    house = House(tmp_path, None, slow, other)
    got = answered(house)
    assert (got.node, got.events) == ("n1", list(HELLO))
    assert not other.requests
    assert house.events == []


@pytest.mark.parametrize(("most_s", "is_answered"), [(9.0, True), (0.5, False)])
def test_who_is_reached_and_lost_is_asked_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, most_s: float, is_answered: bool
) -> None:
    """Connections that break before the first token, again and again, later than anybody waits for
    one: the node lives, so the request waits for it, within bounds.
    """
    monkeypatch.setattr(forwarding, "BEGIN_PATIENCE_S", 0.4)
    monkeypatch.setattr(forwarding, "PATIENCE_S", most_s)
    monkeypatch.setattr(forwarding, "LOOK_AFTER_S_MAX", 0.02)
    breaking = answering(0.3)
    asked = 0

    async def handler(peer: NodeId, stream: FrameStream) -> None:
        nonlocal asked
        asked += 1
        await (breaking if asked < 5 else answering(STARTED, CHUNK, END))(peer, stream)

    got = answered(House(tmp_path, None, handler, patience_s=9.0))
    assert (got.failure is None) is is_answered
    assert (asked == 5) is is_answered


def test_only_lost_contact_is_told_to_the_node(tmp_path: pathlib.Path) -> None:
    """A broken stream and a closed door are; refusals and crashes of a runtime are not."""
    house = House(
        tmp_path,
        None,
        PlayedRuntime([RuntimeFailure("queue_full", "busy")]),
        PlayedRuntime([CRASH]),
        None,
        answering(ACCEPT),
        TellingRuntime(),
    )
    assert answered(house).node == "n5"
    assert house.events == [ContactLost(house.id(3)), ContactLost(house.id(4))]


# ---- when nobody can ----


def test_when_nobody_can_go_on_all_that_was_tried_is_named(tmp_path: pathlib.Path) -> None:
    """What the app has stays; the end is a typed failure."""
    full = PlayedRuntime([RuntimeFailure("queue_full", "32 wait")])
    got = answered(House(tmp_path, None, TellingRuntime((3, CRASH)), full, None))
    assert got.ids == [1, 2, 3]
    assert got.failure is not None
    assert got.failure.code == "interrupted"
    for words in ("broke off on node n1: gone", "n2: 32 wait", "n3: it cannot be reached"):
        assert words in got.failure.message


def test_when_all_tokens_have_come_nobody_is_needed(tmp_path: pathlib.Path) -> None:
    """Only the last word is missing."""
    got = answered(
        House(tmp_path, None, TellingRuntime((4, CRASH))),
        dataclasses.replace(REQUEST, max_tokens=4),
    )
    assert got.failure is None
    assert got.events[-1] == Finished("length", 3, 4)


def test_continuations_have_an_end(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mesh in which everything breaks does not prefill for ever."""
    monkeypatch.setattr(forwarding, "CONTINUATIONS_MAX", 3)
    breaking = [TellingRuntime(*[(1, CRASH)] * 9) for _ in range(2)]
    got = answered(House(tmp_path, None, *breaking, patience_s=5.0))
    assert got.ids == [1, 2, 3, 4]
    assert got.failure is not None
    assert got.failure.code == "interrupted"
    assert "continued 3 times" in got.failure.message


def test_the_deadline_ends_the_wait_for_somebody(tmp_path: pathlib.Path) -> None:
    """However patient the node is."""
    house = House(tmp_path, None, TellingRuntime((3, CRASH), *[(0, CRASH)] * 99), patience_s=1e6)
    got = answered(house, deadline_s=0.4)
    assert got.failure is not None
    assert got.failure.code == "timeout"
