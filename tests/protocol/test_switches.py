"""Parts of the protocol that a configuration switches off, down to SWIM as it was."""

import dataclasses

import pytest

from protocol.config import SECOND, ProtocolConfig
from protocol.members import State
from protocol.messages import Nack, Ping, PingRequest, StreamProbe
from protocol.statements import Accusation, decode_statement
from tests.helpers.nodes import Mesh
from tests.helpers.taps import STEP, Tap, run, tapped, to_the_end, until_asked

ON = ProtocolConfig()


def _suspected(config: ProtocolConfig) -> tuple[Mesh, Tap, Tap]:
    """Node 0 has asked a helper for a silent target, and suspects it now."""
    mesh, (helper, target) = tapped(3, 1, 2, protocol=config)
    to_the_end(mesh, until_asked(mesh, target, helper), helper)
    assert mesh.state(0, 2) is State.SUSPECT
    return mesh, helper, target


@pytest.mark.parametrize("buddy", [True, False])
def test_a_suspect_hears_it_first_or_as_others_do(buddy: bool) -> None:
    """With the next ping, though the rumour has been sent often enough already."""
    mesh, helper, target = _suspected(dataclasses.replace(ON, buddy=buddy))
    mesh[0]._rumours.clear()
    target.take()
    told: list[Accusation] = []
    while not told and mesh.now < 25 * SECOND:
        run(mesh, STEP)
        helper.answer(0)
        for _, message, riders in target.take_all():
            if isinstance(message, Ping):
                words = [decode_statement(rider) for rider in riders]
                told = [word for word in words if isinstance(word, Accusation)]
    assert bool(told) == buddy


@pytest.mark.parametrize("stream_probes", [True, False])
def test_prober_and_helper_try_by_stream_or_not(stream_probes: bool) -> None:
    """Both, or neither."""
    config = dataclasses.replace(ON, stream_probes=stream_probes)
    mesh, (asker, target) = tapped(3, 1, 2, protocol=config)
    until_asked(mesh, target, asker)
    asker.say(0, PingRequest(77, target.id))
    run(mesh, SECOND // 2)
    asked = [message for _, message in target.take_streams() if isinstance(message, StreamProbe)]
    origins = {message.origin.prober for message in asked}
    assert origins == ({mesh.id(0), asker.id} if stream_probes else set())


@pytest.mark.parametrize("nacks", [True, False])
def test_a_helper_says_that_it_hears_nothing_or_is_silent(nacks: bool) -> None:
    """And forgets the request either way."""
    mesh, (asker, target) = tapped(3, 1, 2, protocol=dataclasses.replace(ON, nacks=nacks))
    asker.say(0, PingRequest(77, target.id))
    run(mesh, 3 * SECOND)
    said = [m for _, m in asker.take() if isinstance(m, Nack) and m.sequence == 77]
    assert len(said) == nacks
    assert mesh[0]._helper._relays == {}


@pytest.mark.parametrize("digests", [True, False])
def test_pings_and_acks_tell_what_is_known_or_nothing(digests: bool) -> None:
    """Nothing is compared then, and nothing pulled."""
    mesh, (target,) = tapped(2, 1, protocol=dataclasses.replace(ON, digests=digests))
    pings: list[Ping] = []
    while not pings:
        run(mesh, STEP)
        pings = target.pings(0)
    assert (pings[0].digest is not None) == digests
    target.say(0, Ping(5, None))
    acks = [message for _, message in target.take()]
    assert [getattr(ack, "digest", None) is not None for ack in acks] == [digests]


@pytest.mark.parametrize("last_call_ns", [SECOND, 0])
def test_a_death_comes_with_a_last_call_or_at_once(last_call_ns: int) -> None:
    """Without one nobody is asked, and the suspicion ends when it ends."""
    config = dataclasses.replace(ON, last_call_ns=last_call_ns, stream_probes=False)
    mesh, _, _ = _suspected(config)
    asked: list[int] = []
    mesh[0]._membership._on_last_call = lambda subject, accusation: asked.append(mesh.now)
    suspicion = mesh[0].members.suspicions[mesh.id(2)]
    while mesh.state(0, 2) is State.SUSPECT:
        run(mesh, STEP)
    assert len(asked) == bool(last_call_ns)
    assert mesh.now >= suspicion.started_ns + mesh[0]._awareness.patience(suspicion.timeout_ns)


def test_nobody_is_ever_unwell_below_a_ceiling_of_0() -> None:
    """What would lower one's own health changes no interval."""
    mesh, _, _ = _suspected(dataclasses.replace(ON, health_score_max=0))
    assert mesh[0].health_score == 0
    mesh, _, _ = _suspected(ON)
    assert mesh[0].health_score > 0
