"""A request's story up to its first token: who is asked, and what the app gets."""

import dataclasses
import gc
import pathlib
from collections.abc import Iterator, Sequence

import pytest
import trio
import trio.testing

from meshd import advertisement
from meshd.answer import RequestOptions
from meshd.answering import receive_ask
from meshd.failures import RequestFailed
from meshd.forwarder import SETTLE_S
from meshd.frames import FrameStream, StreamBroken
from meshd.peers import Handler
from meshd.trust.api_keys import KeyPolicy, Priority
from meshd.view import View
from protocol import records
from protocol.effects import MembershipChanged, OffersChanged
from protocol.exchange import Accept, Ask, Data, End, Fail, Heartbeat, Refuse, encode_frame
from protocol.fields import pack
from protocol.identity import NodeId
from protocol.members import State
from protocol.messages import Load
from protocol.outlook import NOTHING, Outlook
from runtimes.base import Finished, GenerateEvent, GenerateRequest, RuntimeFailure, Started
from runtimes.embedding import EMBED, EmbedRequest
from tests.meshd.forwarding_house import CHUNK, REQUEST, STARTED, House, answering, failing, run
from tests.meshd.members import until
from tests.meshd.played_runtime import HELLO, PlayedRuntime


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A socket that nobody closed is an error of the test that left it."""
    yield
    gc.collect()


# ---- what the app gets ----


def test_here_and_there_give_the_same_events(tmp_path: pathlib.Path) -> None:
    """An app cannot tell where its model runs, but by the name of the node."""
    here = House(tmp_path / "here", PlayedRuntime(), own=True)
    there = House(tmp_path / "there", None, PlayedRuntime())
    answers: list[tuple[str, list[GenerateEvent]]] = []
    for house in (here, there):

        async def test(house: House = house) -> None:
            answers.append(await house.ask())

        run(house, test)
    assert answers == [("n0", list(HELLO)), ("n1", list(HELLO))]


@pytest.mark.parametrize(
    "steps", [(Started((1,)), Finished("length", 1, 0)), (*HELLO[:2], Finished("stop", 3, 1))]
)
def test_short_answers_are_whole(tmp_path: pathlib.Path, steps: Sequence[GenerateEvent]) -> None:
    """Also one without any token."""
    house = House(tmp_path, None, PlayedRuntime(steps))

    async def test() -> None:
        assert await house.ask() == ("n1", list(steps))

    run(house, test)


def test_the_answer_says_who_serves(tmp_path: pathlib.Path) -> None:
    """Name and id of the node, as headers tell them."""
    house = House(tmp_path, None, PlayedRuntime())

    async def test() -> None:
        options = RequestOptions(request_id="ab")
        async with house.forwarder.generate(REQUEST, options) as answer:
            assert (answer.request_id, answer.node_name, answer.resumed) == ("ab", "n1", 0)
            assert answer.node_id == house.view.row(house.id(1))["id"]
            assert house.asking.running == {house.id(1): 1}

    run(house, test)


def test_what_a_request_waits_for_is_known_where_it_was_asked(tmp_path: pathlib.Path) -> None:
    """As the serving node told last, until it runs there, or fails."""
    told = Outlook(place=2, percent=40, ready_in_s=12)
    told_it, goes_on = trio.Event(), trio.Event()
    options = RequestOptions(request_id="ab")

    async def busy(peer: NodeId, stream: FrameStream) -> None:
        await receive_ask(stream)
        for outlook in (Outlook(place=3), told):
            await stream.send(encode_frame(Heartbeat(outlook)))
        told_it.set()
        await goes_on.wait()
        await stream.send(encode_frame(Refuse("queue_full", "full", 0, Load(1, 1, 1))))

    house = House(tmp_path, None, busy, PlayedRuntime())

    async def test() -> None:
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                async with house.forwarder.generate(REQUEST, options) as answer:
                    assert answer.node_name == "n2"
                    assert options.waits.now() == NOTHING
                    assert [event async for event in answer.events] == list(HELLO)

            nursery.start_soon(ask)
            await told_it.wait()
            await until(lambda: options.waits.now() == told)
            goes_on.set()

    run(house, test)


def test_requests_in_a_row_use_one_connection(tmp_path: pathlib.Path) -> None:
    """Also when the runtime takes its time to clean up after its last event."""
    house = House(tmp_path, None, PlayedRuntime(clean_up_s=0.02))
    peers = house.members[0].peers

    async def test() -> None:
        for _ in range(10):
            assert (await house.ask())[1] == list(HELLO)
            assert len(peers._pool[house.id(1)]) == 1
        assert house.members[1].peers._inbound.count == 1

    run(house, test)


def test_whoever_reads_no_further_than_the_end_leaves_the_connection_for_the_next(
    tmp_path: pathlib.Path,
) -> None:
    """As the gateway does: it knows the last event, and closes the answer behind it."""
    house = House(tmp_path, None, PlayedRuntime())

    async def test() -> None:
        for _ in range(3):
            async with house.forwarder.generate(REQUEST, RequestOptions(request_id="ab")) as answer:
                async for event in answer.events:
                    if isinstance(event, Finished):
                        break
            assert len(house.members[0].peers._pool[house.id(1)]) == 1
        assert house.members[1].peers._inbound.count == 1

    run(house, test)


@pytest.mark.parametrize("steps", [[], [Started((1,))]])
def test_a_failure_in_order_leaves_the_connection_for_the_next(
    tmp_path: pathlib.Path, steps: Sequence[GenerateEvent]
) -> None:
    """A full node that is asked again and again costs no handshakes."""
    house = House(tmp_path, None, PlayedRuntime([*steps, RuntimeFailure("queue_full", "busy")]))

    async def test() -> None:
        for _ in range(3):
            with pytest.raises(RequestFailed, match="busy"):
                await house.ask()
            assert len(house.members[0].peers._pool[house.id(1)]) == 1
        assert house.members[1].peers._inbound.count == 1

    run(house, test)


# ---- who is asked ----


def test_the_least_busy_is_asked_first(tmp_path: pathlib.Path) -> None:
    """By what it last told."""
    runtimes = [PlayedRuntime(), PlayedRuntime()]
    house = House(tmp_path, None, *runtimes)
    house.load(1, 50)

    async def test() -> None:
        assert (await house.ask())[0] == "n2"

    run(house, test)
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
        answering(),
        answering(STARTED),
        answering(CHUNK),
        answering(STARTED, STARTED),
        answering(STARTED, encode_frame(Refuse("queue_full", "", 0, Load(0, 0, 0)))),
        answering(b""),
        answering(b"\xff" * 50),
        answering(encode_frame(Accept(b"junk"))),
        answering(STARTED, encode_frame(Data(b"junk"))),
        answering(STARTED, encode_frame(End(b"junk"))),
        answering(encode_frame(Ask("ab", 1, b""))),
        answering(pack((99,))),
        answering(encode_frame(Refuse("timeout", "not yours to say", 0, Load(0, 0, 0)))),
        answering(encode_frame(Refuse("no such code", "", 0, Load(0, 0, 0)))),
        answering(STARTED, encode_frame(Fail("internal", ""))),
        None,
    ],
)
def test_until_the_first_token_the_next_is_tried(
    tmp_path: pathlib.Path, first: PlayedRuntime | Handler | None
) -> None:
    """Refusals, crashes, silence on the line, nonsense, unreachable: the app sees none of it."""
    house = House(tmp_path, None, first, PlayedRuntime())

    async def test() -> None:
        assert await house.ask() == ("n2", list(HELLO))

    run(house, test)


def test_a_local_failure_leads_to_the_next_too(tmp_path: pathlib.Path) -> None:
    """Being here is no privilege."""
    house = House(
        tmp_path, PlayedRuntime([RuntimeFailure("crashed", "gone")]), PlayedRuntime(), own=True
    )

    async def test() -> None:
        assert await house.ask() == ("n1", list(HELLO))

    run(house, test)


@pytest.mark.parametrize("code", ["bad_request", "context_too_long"])
@pytest.mark.parametrize("where", ["here", "there"])
def test_what_every_node_would_say_is_final(tmp_path: pathlib.Path, code: str, where: str) -> None:
    """The second is not even asked, and the words arrive."""
    steps = [RuntimeFailure(code, "the request is at fault")]
    first, second = PlayedRuntime(steps, context_tokens=9), PlayedRuntime(context_tokens=9)
    if where == "here":
        house = House(tmp_path, first, second, own=True)
    else:
        house = House(tmp_path, None, first, second)
    failing(house, code, "the request is at fault")
    assert not second.requests


def test_when_nobody_can_the_reasons_are_given(tmp_path: pathlib.Path) -> None:
    """Each node with its own; a full queue somewhere is worth saying so."""
    full = PlayedRuntime([RuntimeFailure("queue_full", "32 wait")])
    house = House(tmp_path, None, full, None, answering(b"\xff"))
    failure = failing(house, "queue_full", "n1: 32 wait; n2: it cannot be reached .*; n3: it sent")
    assert failure.retry_after_s is not None
    house = House(tmp_path / "2", None, None, answering())
    assert failing(house, "unavailable", "its stream broke").retry_after_s is not None


def _refusing(code: str, retry_after_ms: int) -> Handler:
    return answering(encode_frame(Refuse(code, "busy", retry_after_ms, Load(9, 1, 1))))


def test_when_all_are_full_the_soonest_time_is_told(tmp_path: pathlib.Path) -> None:
    """Of those that any of them named, and a full queue or a wait too long is the same to an app;
    nobody is believed who says more than an hour.
    """
    house = House(tmp_path, None, _refusing("wait_too_long", 12_300), _refusing("paused", 60_000))
    assert failing(house, "queue_full", "n1: busy; n2: busy").retry_after_s == 12.3
    house = House(tmp_path / "2", None, _refusing("queue_full", 80_000_000))
    assert failing(house, "queue_full", "busy").retry_after_s == 3_600


def test_a_node_hears_who_is_behind_a_request_and_no_name(tmp_path: pathlib.Path) -> None:
    """Priority, and a hash of the key; the key's name is nowhere in what is sent."""
    heard: list[Ask] = []

    async def handler(peer: NodeId, frames: FrameStream) -> None:
        heard.append(await receive_ask(frames))
        raise StreamBroken("that was all")

    house = House(tmp_path, None, handler)
    policy = KeyPolicy(name="secret-name", priority=Priority.HIGH)
    failing(house, "unavailable", "broke", policy=policy)
    [ask] = heard
    assert ask.requester.priority is records.Priority.HIGH
    assert ask.requester.key
    assert b"secret" not in encode_frame(ask)


def test_a_peers_words_are_made_harmless(tmp_path: pathlib.Path) -> None:
    """Short, and without anything that a terminal would obey."""
    refusal = Refuse("unavailable", "\x1b[2Jbad\n" + "x" * 900, 0, Load(0, 0, 0))
    house = House(tmp_path, None, answering(encode_frame(refusal)))
    failure = failing(house, "unavailable", "bad")
    assert failure.message.isprintable()
    assert len(failure.message) < 300


def test_many_failures_make_no_endless_message(tmp_path: pathlib.Path) -> None:
    """A few are named, the rest counted."""
    house = House(tmp_path, *[None] * 13)
    failure = failing(house, "unavailable", "and 4 more")
    assert failure.message.count("cannot be reached") == 8


def test_a_model_that_nobody_has_names_those_that_are(tmp_path: pathlib.Path) -> None:
    """The person mistyped."""
    house = House(tmp_path, None, PlayedRuntime(name="org/demo"))
    other = GenerateRequest(model="demo", prompt="x")
    failing(house, "model_not_found", "'demo'. The mesh has: org/demo", request=other)
    house = House(tmp_path / "2", None)
    failing(house, "model_not_found", "The mesh has no model now")


async def _ask_and_be_told(
    house: House, *told: OffersChanged, request: GenerateRequest = REQUEST
) -> str:
    """Who answers, where the offers are heard while the request waits; or what the app is told."""

    async def tell() -> None:
        await trio.testing.wait_all_tasks_blocked()
        for offer in told:
            house.view.note(offer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell)
        with trio.fail_after(SETTLE_S):
            try:
                node, _ = await house.ask(request)
            except RequestFailed as failure:
                return failure.message
    return node


def test_a_model_of_who_has_just_come_back_is_waited_for(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it tells what it has; a model that nobody has is not found as soon as it has told."""
    monkeypatch.setattr(View, "withdrawing", lambda *_: [])
    house = House(tmp_path, None, PlayedRuntime())
    model = house.told(1, advertisement.model_key("m"))
    hardware = house.told(1, advertisement.HARDWARE)

    def come_back() -> None:  # goodbyes withdraw
        house.withdraw(1)
        house.view.note(MembershipChanged(house.id(1), "n1", State.ALIVE, 2, State.LEFT))

    async def test() -> None:
        come_back()
        assert await _ask_and_be_told(house, model, hardware) == "n1"
        come_back()
        another = dataclasses.replace(REQUEST, model="another")
        assert "The mesh has: m" in await _ask_and_be_told(house, model, hardware, request=another)

    run(house, test)


def test_one_that_has_come_is_waited_for_where_another_has_died(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have the same model."""
    monkeypatch.setattr(View, "withdrawing", lambda *_: [])
    house = House(tmp_path, None, PlayedRuntime(), PlayedRuntime())
    model = house.told(2, advertisement.model_key("m"))
    house.withdraw(2)
    house.die(1)
    house.view.note(MembershipChanged(house.id(2), "n2", State.ALIVE, 2, State.LEFT))

    async def test() -> None:
        assert await _ask_and_be_told(house, model) == "n2"

    run(house, test)


def test_a_model_whose_nodes_have_just_died_is_no_unknown_one(tmp_path: pathlib.Path) -> None:
    """An app tries again what is unavailable, and gives up what does not exist."""
    house = House(tmp_path, None, PlayedRuntime())
    house.die(1)
    failure = failing(house, "unavailable", "'m' are dead or have just withdrawn it: n1.")
    assert failure.retry_after_s == 5.0


def test_a_model_that_was_just_withdrawn_is_waited_for(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that was started again withdraws what its earlier life offered until it has it."""
    monkeypatch.setattr(View, "is_settled", lambda _: True)
    house = House(tmp_path, None, PlayedRuntime())
    model = house.told(1, advertisement.model_key("m"))
    house.withdraw(1)

    async def test() -> None:
        assert await _ask_and_be_told(house, model) == "n1"

    run(house, test)


def test_a_model_that_stays_withdrawn_is_unavailable(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not unknown: an app that asks again later may have its answer."""
    monkeypatch.setattr("meshd.forwarder.SETTLE_S", 0.1)
    monkeypatch.setattr(View, "is_settled", lambda _: True)
    house = House(tmp_path, None, PlayedRuntime())
    house.withdraw(1)
    failing(house, "unavailable", "'m' are dead or have just withdrawn it: n1.")


def test_a_demanded_node_that_has_just_withdrawn_it_is_unavailable(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though another offers it; one that would not do in any case keeps nobody waiting."""
    monkeypatch.setattr("meshd.forwarder.SETTLE_S", 0.1)
    monkeypatch.setattr(View, "is_settled", lambda _: True)
    house = House(tmp_path, None, PlayedRuntime(), PlayedRuntime())
    house.withdraw(1)
    failing(house, "unavailable", "have just withdrawn it: n1.", node="n1")
    monkeypatch.setattr("meshd.forwarder.SETTLE_S", 60.0)
    failing(house, "model_not_found", "No node with zone=attic", labels={"zone": "attic"})


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

    run(house, test)


def test_labels_and_a_tier_can_be_demanded(tmp_path: pathlib.Path) -> None:
    """Only who has all of them is asked, however busy; that nobody has is said."""
    house = House(tmp_path, None, PlayedRuntime(), PlayedRuntime())
    house.tell(1, advertisement.LABELS, {"zone": "attic", "owner": "anna"})
    house.tell(2, advertisement.LABELS, {"zone": "cellar", "owner": "anna"})
    house.tell(2, advertisement.HARDWARE, {"tier": 1})
    cellar = {"zone": "cellar", "owner": "anna"}

    async def test() -> None:
        assert (await house.ask())[0] == "n1"
        assert (await house.ask(labels=cellar))[0] == "n2"
        assert (await house.ask(tier_max=2))[0] == "n2"
        assert (await house.ask(labels={"owner": "anna"}, tier_max=3))[0] == "n1"

    run(house, test)
    words = "No node with zone=attic, tier 1 or better offers the model 'm'"
    failing(house, "model_not_found", words, labels={"zone": "attic"}, tier_max=1)


def _too_long() -> RuntimeFailure:
    return RuntimeFailure("context_too_long", "too long for me")


def test_a_prompt_too_long_for_one_goes_to_who_has_more_context(tmp_path: pathlib.Path) -> None:
    """And to nobody who has as little; too long for the largest is final, and no fault."""
    small, alike = (PlayedRuntime([_too_long()], context_tokens=100) for _ in range(2))
    large = PlayedRuntime(context_tokens=200)
    house = House(tmp_path / "1", None, small, alike, large)

    async def test() -> None:
        assert await house.ask() == ("n3", list(HELLO))

    run(house, test)
    assert (len(small.requests), len(alike.requests)) == (1, 0)
    large.steps = [_too_long()]
    failing(house, "context_too_long", "too long for me")
    assert house.choosing._failed == {}
    unknown = [PlayedRuntime([_too_long()]) for _ in range(2)]
    failing(House(tmp_path / "2", None, *unknown), "context_too_long", "too long for me")
    assert [len(each.requests) for each in unknown] == [1, 1]


def test_too_long_is_not_final_while_a_larger_context_is_in_doubt(tmp_path: pathlib.Path) -> None:
    """It may be back when the app tries again."""
    small = PlayedRuntime([_too_long()], context_tokens=100)
    house = House(tmp_path, None, small, PlayedRuntime(context_tokens=200))
    house.mesh[0]._membership.suspect(house.id(2), house.mesh.now, is_refused=False)
    failing(house, "unavailable", "n1: too long for me")


def test_who_claims_much_context_and_calls_all_too_long_is_not_believed(
    tmp_path: pathlib.Path,
) -> None:
    """Else it would speak for all who have less."""
    liar = PlayedRuntime([_too_long()], context_tokens=2**40)
    house = House(tmp_path, None, liar, PlayedRuntime(context_tokens=100))

    async def test() -> None:
        assert (await house.ask())[0] == "n2"
        assert house.id(1) in house.choosing._failed

    run(house, test)


def test_a_refusal_is_no_failure_of_the_node(tmp_path: pathlib.Path) -> None:
    """Whatever its reason: it cools down, and nothing is held against it afterwards."""
    for code in ("queue_full", "unavailable", "no_room", "paused"):
        refusal = answering(encode_frame(Refuse(code, "", 0, Load(0, 0, 4))))
        house = House(tmp_path / code, None, refusal, PlayedRuntime())

        async def test(house: House = house) -> None:
            assert (await house.ask())[0] == "n2"
            assert house.id(1) in house.choosing._failed
            assert house.choosing._errors.permille(house.id(1), "m", 0) == 0

        run(house, test)


def test_texts_are_too_long_one_by_one(tmp_path: pathlib.Path) -> None:
    """However many there are."""
    small = PlayedRuntime(context_tokens=100, tasks=(EMBED,))
    house = House(tmp_path, None, small, PlayedRuntime(context_tokens=900, tasks=(EMBED,)))
    candidates, options = house.forwarder._means.candidates, RequestOptions(request_id="ab")

    async def test() -> None:
        for texts, first in ((("some words",) * 200, 1), (("some words " * 200,), 2)):
            request = EmbedRequest(model="m", texts=texts)
            assert candidates.rank(request, options).ranked[0].node == house.id(first)

    run(house, test)


def test_where_a_prompt_seems_too_long_is_asked_last(tmp_path: pathlib.Path) -> None:
    """A gateway has no tokenizer: it may fit after all."""
    small, large = PlayedRuntime(context_tokens=100), PlayedRuntime(context_tokens=10_000)
    house = House(tmp_path, None, small, large)
    request = dataclasses.replace(REQUEST, prompt="word " * 200)

    async def test() -> None:
        assert (await house.ask())[0] == "n1"
        assert (await house.ask(request))[0] == "n2"
        assert (await house.ask(request, node="n1"))[0] == "n1"

    run(house, test)


def test_a_refusal_tells_how_busy_a_node_is(tmp_path: pathlib.Path) -> None:
    """Sooner than gossip does."""
    full = encode_frame(Refuse("queue_full", "", 0, Load(7, 4, 4)))
    house = House(tmp_path, None, answering(full), PlayedRuntime())

    async def test() -> None:
        assert (await house.ask())[0] == "n2"
        assert house.view.load(house.id(1)) == Load(7, 4, 4)

    run(house, test)


def test_what_demands_trust_stays_with_the_trusted(tmp_path: pathlib.Path) -> None:
    """The founder is trusted, the others here are not: it is asked, however busy, or nobody."""
    runtime = PlayedRuntime()
    house = House(tmp_path / "own", PlayedRuntime(), runtime, own=True)
    house.load(0, 99)

    async def test() -> None:
        assert (await house.ask(trusted=True))[0] == "n0"
        assert (await house.ask())[0] == "n1"

    run(house, test)
    house = House(tmp_path / "others", None, runtime)
    failing(house, "no_trusted_node", "meshd invite --trusted", trusted=True)
    assert len(runtime.requests) == 1


def test_a_key_that_is_not_for_the_model_asks_nobody(tmp_path: pathlib.Path) -> None:
    """Whatever dialect the request came in; the one that is for it is served."""
    runtime = PlayedRuntime()
    house = House(tmp_path, None, runtime)
    other = KeyPolicy(name="other", models=("big-*", "M"))
    failing(house, "model_forbidden", "not for the model 'm'", policy=other)
    assert not runtime.requests
    right = KeyPolicy(name="right", models=("big-*", "?"))

    async def test() -> None:
        assert (await house.ask(policy=right))[0] == "n1"

    run(house, test)


def test_members_in_doubt_are_not_asked(tmp_path: pathlib.Path) -> None:
    """When there is nobody else, that is said, with when to try again."""
    house = House(tmp_path, None, PlayedRuntime())
    house.mesh[0]._membership.suspect(house.id(1), house.mesh.now, is_refused=False)
    failure = failing(house, "unavailable", "do not answer at present")
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
    failing(House(tmp_path, None, runtime), "bad_request", ".", request=request_)
    assert not runtime.requests
