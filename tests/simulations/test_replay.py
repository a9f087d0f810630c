"""A recording, repeated: the same effects, or the first event at which they are others."""

import io
import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.assembly import NodeConfig
from protocol.config import SECOND
from protocol.crypto import Crypto, SodiumCrypto
from protocol.effects import Effect
from protocol.errors import BadRecording, LocalProtocolError
from protocol.events import Event, OfferChanged
from protocol.identity import NodeId
from protocol.node import Node
from protocol.outbox import Outbox
from protocol.recorder import Recorder
from protocol.recording import LINE_BYTES_MAX
from protocol.records import Records
from protocol.round_trips import RoundTrips
from protocol.statements import Statements
from simulations import population
from simulations.network import NetworkOptions
from simulations.replay import Replay, Step
from simulations.world import World

NODES = 5
RECORDED = 1
"""The host whose node is recorded."""


class Watched(SodiumCrypto):
    """Real keys that remember what must not be told."""

    def __init__(self, seed: bytes) -> None:
        super().__init__(seed)
        self.secrets = {seed, bytes(self._secret)}

    def pair_key(self, peer: NodeId) -> bytes | None:
        key = super().pair_key(peer)
        assert key is not None
        self.secrets.add(key)
        return key

    def derive_key(self, secret: bytes, data: bytes, purpose: bytes) -> bytes:
        key = super().derive_key(secret, data, purpose)
        self.secrets |= {secret, key}
        return key


class RecordedNode(Node):
    """A node whose every event is written down."""

    recorder: Recorder
    is_inside = False

    def handle(self, event: Event, now: int) -> list[Effect]:
        if self.is_inside:
            return super().handle(event, now)
        self.is_inside = True
        try:
            return self.recorder.handle(self, event, now)
        finally:
            self.is_inside = False


class Recorded:
    """A mesh with loss, in which a host crashes and another moves; one node is recorded."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._recorder = Recorder(self.lines.append)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(population, "Node", self._make)
            network = NetworkOptions(loss_ppm=50_000)
            world = World(NODES, 7, network=network, make_crypto=Watched)
            for index in range(NODES):
                world.start(index, *[0][:index])
            world.run(10 * SECOND)
            world.crash(3)
            world.move(2)
            world.run(20 * SECOND)
            world.crash(RECORDED)
            world.run(SECOND)
            world.start(RECORDED)
            world.run(5 * SECOND)
            world.leave(RECORDED)
            node = world.hosts[RECORDED].node
            assert node is not None
            with pytest.raises(LocalProtocolError):
                node.handle(OfferChanged("", b""), world.now)
        crypto = world.hosts[RECORDED].crypto
        assert isinstance(crypto, Watched)
        self.secrets = crypto.secrets

    def _make(
        self,
        config: NodeConfig,
        crypto: Crypto,
        rng: random.Random,
        statements: Statements,
        records: Records,
    ) -> Node:
        if config.name != f"n{RECORDED}":
            return Node(config, crypto, rng, statements, records)
        seed = rng.getrandbits(64)
        keys = self._recorder.begin(config, crypto, seed, meshd="0.1.0", python="3.11.2")
        node = RecordedNode(config, keys, random.Random(seed))
        node.recorder = self._recorder
        return node


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    """Once for all tests here, which leave it as it is."""
    return Recorded()


def replayed(lines: Sequence[str] | bytes) -> tuple[Replay, list[Step]]:
    """The replay at its end, and its steps."""
    data = lines if isinstance(lines, bytes) else "".join(lines).encode()
    replay = Replay(io.BytesIO(data))
    return replay, list(replay.steps())


def test_the_same_effects_come_of_a_recording(recorded: Recorded) -> None:
    """Over two starts, and to the event that broke the node."""
    replay, steps = replayed(recorded.lines)
    assert (replay.difference, replay.cut, replay.starts) == (None, None, 2)
    assert replay.events == len(steps) == (len(recorded.lines) - 2) // 2 > 200
    kinds = {type(effect).__name__ for step in steps for effect in step.effects}
    assert {"SendDatagram", "OpenStream", "Persist", "MembershipChanged"} <= kinds
    assert steps[-1].raised == "LocalProtocolError"
    assert [step.raised for step in steps[:-1]] == [None] * (len(steps) - 1)


def test_no_secret_is_written_down(recorded: Recorded) -> None:
    """Neither the identity, nor a key shared with anybody, nor the boot secret and what follows."""
    text = "".join(recorded.lines)
    assert len(recorded.secrets) > 10
    for secret in recorded.secrets:
        assert secret.hex() not in text


@pytest.mark.parametrize(
    ("place", "name", "changed", "said"),
    [
        (RoundTrips, "timeout_ns", lambda self, node: 10**8, "or a deadline of other content"),
        (Outbox, "resend", lambda self, to, unread: None, "its keys are not asked for seal"),
        (Node, "_leave", lambda self, now: None, "LeaveRequested at 5.000 s"),
    ],
)
def test_changed_behaviour_is_named(
    recorded: Recorded,
    monkeypatch: pytest.MonkeyPatch,
    place: type,
    name: str,
    changed: object,
    said: str,
) -> None:
    """By the first event of which something else comes, on one line."""
    monkeypatch.setattr(place, name, changed)
    replay, steps = replayed(recorded.lines)
    assert replay.difference is not None
    assert said in str(replay.difference)
    assert "\n" not in str(replay.difference)
    assert replay.difference.number == len(steps) + 1


@settings(max_examples=40)
@given(data=st.data())
def test_a_recording_may_be_cut_anywhere(recorded: Recorded, data: st.DataObject) -> None:
    """What is whole is replayed, and the rest is told of."""
    text = "".join(recorded.lines[:60]).encode()
    cut = data.draw(st.integers(len(recorded.lines[0]), len(text)))
    replay, steps = replayed(text[:cut])
    assert replay.difference is None
    assert len(steps) == (text[:cut].count(b"\n") - 1) // 2
    assert (replay.cut is None) == (text[:cut].endswith(b"\n") and text[:cut].count(b"\n") % 2 == 1)


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_recording_is_refused_or_differs(recorded: Recorded, data: st.DataObject) -> None:
    """Whatever was done to its bytes, its lines or its values, nothing else happens."""
    lines = list(recorded.lines[:40])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(("byte", "value", "drop", "again"))):
            case "byte":
                at = data.draw(st.integers(0, len(lines[place]) - 1))
                lines[place] = lines[place][:at] + data.draw(BYTES) + lines[place][at + 1 :]
            case "value":
                lines[place] = changed_value(lines[place], data)
            case "drop":
                del lines[place]
            case _:
                lines.insert(place, lines[data.draw(st.integers(0, len(lines) - 1))])
    try:
        replay, steps = replayed("".join(lines).encode("utf-8"))
    except BadRecording as error:
        assert str(error).startswith(("line ", "it is "))  # noqa: PT017  # both are right
    else:
        assert replay.events == len(steps) + (replay.difference is not None)


BYTES = st.characters(codec="utf-8")
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 2), st.integers(), st.text(max_size=4), st.just([])
)


def changed_value(line: str, data: st.DataObject) -> str:
    """The same line with another value somewhere in it."""
    try:
        content = inner = json.loads(line)
    except ValueError:
        return line
    while isinstance(inner, dict | list) and inner:
        keys: list[Any] = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(inner[key], dict | list) or not inner[key]:
            inner[key] = data.draw(VALUES)
            break
        inner = inner[key]
    return json.dumps(content) + "\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "it is empty"),
        (b'{"meshd_rec', "it is cut before its first event"),
        (b"hello", "line 1: this is no line of a recording"),
        (b"\x00\xff\n", "line 1: this is no line of a recording"),
        (b'{"now":1,"event":"LeaveRequested"}\n', "line 1: a recording starts with its beginning"),
        (b'{"effects":[],"check":"","answers":[]}\n', "line 1: an outcome without its event"),
        (b" " * (LINE_BYTES_MAX + 2), "line 1: this is too long"),
        (b'{"meshd_recording":7}\n', "line 1: this recording has format 7"),
    ],
)
def test_what_is_no_recording_is_one_line(text: bytes, said: str) -> None:
    """With its number."""
    with pytest.raises(BadRecording) as caught:
        replayed(text)
    assert str(caught.value).startswith(said)


def test_an_impossible_node_is_the_recordings_fault(recorded: Recorded) -> None:
    """Also one that the core refuses to make."""
    first = json.loads(recorded.lines[0])
    first["config"]["name"] = "No Name"
    with pytest.raises(BadRecording, match="line 1: no node can be made of this: 'No Name'"):
        replayed([json.dumps(first) + "\n"])


def test_time_does_not_go_back(recorded: Recorded) -> None:
    """No clock of a daemon does; another start may come from another boot of the machine."""
    start = [i for i, line in enumerate(recorded.lines) if "meshd_recording" in line][1]
    lines = recorded.lines[start : start + 5]
    lines[3] = lines[3].replace('"now":3', '"now":2')
    with pytest.raises(BadRecording, match="line 4: its time goes back"):
        replayed(lines)
    assert replayed([*recorded.lines, *recorded.lines])[0].starts == 4
