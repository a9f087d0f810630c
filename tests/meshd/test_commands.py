"""The light parts of what the control socket may ask: what is checked, and what comes back."""

import math
import pathlib
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from meshd.commands import EVENTS_SILENCE_S, EXPIRES_S_MAX, FOLLOWERS_MAX, USES_MAX, Commands
from meshd.control import Streaming
from meshd.draining import Draining
from meshd.event_log import EVENTS_KEPT, EventLog
from meshd.failures import UserError
from meshd.home import Home
from meshd.local_models import LocalModels
from meshd.running import Running
from meshd.trust.decisions import Decisions
from meshd.trust.keys import node_seed
from meshd.trust.mesh import found_mesh, read_mesh
from meshd.trust.token import SEEDS_MAX, decode_token
from protocol.authority import Authority
from protocol.crypto import SodiumCrypto
from protocol.effects import Reunited
from protocol.events import Event, RecordIssued
from protocol.identity import Address, key_text
from protocol.messages import Load
from protocol.records import OWNER_CHARS_MAX, Role
from tests.helpers.nodes import WALL_S, Mesh
from tests.meshd.played_runtime import PlayedRuntime

ARGUMENTS: Mapping[str, Any] = {"expires_s": 60, "uses": 2}


class Asked:
    """Commands over a founder's home and a node with two neighbours."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.home = Home(folder / "home")
        self.home.create()
        self.seed = node_seed(self.home)
        self.founded = found_mesh(self.home, self.seed, WALL_S)
        self.mesh = Mesh(3).start_all()
        self.issued: list[Event] = []
        self.authority = Authority(SodiumCrypto(self.seed), self.founded.root)
        for wire in self.founded.records:
            self.authority.add(wire)
        self.calls: list[str] = []
        self.noted: list[Mapping[str, Any]] = []
        self.rows = [
            {"name": "a", "nodes": ["anna", "bert"]},
            {"name": "b", "nodes": ["bert"]},
            {"name": "c", "nodes": ["anna"]},
        ]
        models = LocalModels([PlayedRuntime(name="a")])
        running = SimpleNamespace(
            name="anna",
            owner="founder",
            node=self.mesh[0],
            own_addresses=(Address("10.0.0.1", 7700), Address("fd00::1", 7700)),
            gossip=SimpleNamespace(give=self.issued.append),
            local_models=models,
            draining=Draining(
                models, lambda: self.calls.append("models changed"), lambda: Load(0, 2, 0)
            ),
            models=lambda: self.rows,
            nodes=lambda include_all: [{"name": "n", "all": include_all}],
            status=lambda: {"ready": True},
            audit=SimpleNamespace(note=self._note),
            memory=None,
            stopping=SimpleNamespace(say_goodbye=self._say_goodbye),
            end=lambda **how: self.calls.append(f"end {sorted(how.items())}"),
            view=SimpleNamespace(
                events=EventLog(self.mesh.id(0), lambda node: "anna"), has_company=True
            ),
            job_commands=SimpleNamespace(handlers=dict),
            trust_commands=SimpleNamespace(handlers=dict),
            decisions=Decisions(self.home, self.authority, self._give, trio.lowlevel.checkpoint),
            key_commands=SimpleNamespace(handlers=dict),
        )
        self.running = running
        self.commands = Commands(self.home, cast("Running", running))

    def _give(self, event: Event) -> bool:
        self.issued.append(event)
        return True

    def _note(self, kind: str, **fields: object) -> None:
        self.noted.append({"type": kind, **fields})

    async def _say_goodbye(self) -> None:
        await trio.lowlevel.checkpoint()
        self.calls.append(f"goodbye, still a member: {self.home.mesh.exists()}")

    def __call__(self, command: str, **arguments: object) -> Mapping[str, Any]:
        handlers = self.commands.handlers()

        async def main() -> Mapping[str, Any]:
            self.running.memory = trio.Lock()
            handler = handlers[command]
            assert callable(handler)
            return await handler(arguments)

        return trio.run(main)

    @property
    def events(self) -> Streaming:
        """The handler that may go on for ever."""
        handler = self.commands.handlers()["events"]
        assert isinstance(handler, Streaming)
        return handler

    def recent(self, count: object) -> Mapping[str, Any]:
        """The last events, without following them."""

        async def report(progress: Mapping[str, Any]) -> None:
            raise AssertionError(progress)

        return trio.run(self.events.run, {"recent": count}, report)


@pytest.fixture
def asked(tmp_path: pathlib.Path) -> Asked:
    return Asked(tmp_path)


def test_looking_changes_nothing(asked: Asked) -> None:
    """Status, nodes and models are passed on."""
    assert asked("status") == {"ready": True}
    assert asked("nodes") == {"nodes": [{"name": "n", "all": False}]}
    assert asked("nodes", all=True) == {"nodes": [{"name": "n", "all": True}]}
    assert asked("models") == {"models": asked.rows}
    assert not asked.issued
    assert not asked.calls


def test_local_models_are_this_nodes_own(asked: Asked) -> None:
    """By its own card, whatever others offer under the same name."""
    card = PlayedRuntime(name="a").card
    assert card is not None
    (row,) = asked("models", local=True)["models"]
    assert (row["name"], row["nodes"]) == ("a", ["anna"])
    assert (row["hash"], row["context_tokens"]) == (card.content_hash, card.context_tokens)


def test_an_invite_admits_who_holds_its_token(asked: Asked) -> None:
    """The record counts in the mesh, gossip carries it, and the token leads to members."""
    answer = asked("invite", **ARGUMENTS, trusted=True, owner="Zoë")
    token = decode_token(answer["token"])
    assert answer["invite"] == key_text(token.invite.key)
    assert asked.issued == [RecordIssued(token.invite.wire)]
    [noted] = asked.noted
    assert (noted["type"], noted["invite"], noted["uses"]) == ("invite.made", answer["invite"], 2)
    assert answer["token"] not in str(noted)
    assert (token.root, token.mesh_secret) == (asked.founded.root, asked.founded.mesh_secret)
    invite = token.invite
    assert (invite.role, invite.uses, invite.is_trusted) == (Role.WORKER, 2, True)
    assert invite.owner == "Zoë"
    authority = Authority(SodiumCrypto(asked.seed), asked.founded.root)
    assert authority.add(invite.wire)
    assert token.seeds[:2] == asked.running.own_addresses
    assert set(token.seeds[2:]) == {Address(f"10.0.0.{n}", 7700) for n in (2, 3)}
    assert read_mesh(asked.home) is not None


def test_an_owner_that_is_not_given_is_this_nodes(asked: Asked) -> None:
    """Empty counts as not given."""
    for more in ({}, {"owner": None}, {"owner": ""}):
        token = decode_token(asked("invite", **ARGUMENTS, **more)["token"])
        assert token.invite.owner == "founder"


@pytest.mark.parametrize(
    "changed",
    [
        {"expires_s": 0},
        {"expires_s": EXPIRES_S_MAX + 1},
        {"expires_s": "1h"},
        {"expires_s": None},
        {"uses": 0},
        {"uses": USES_MAX + 1},
        {"uses": 1.5},
        {"role": "king"},
        {"role": 2},
        {"owner": 7},
        {"owner": ["x"]},
        {"owner": "two\nlines"},
        {"owner": "\ud800"},
        {"owner": "x" * (OWNER_CHARS_MAX + 1)},
        {"owner": "😀" * OWNER_CHARS_MAX},
    ],
)
def test_an_invite_out_of_range_is_one_clear_line(asked: Asked, changed: dict[str, object]) -> None:
    """Nothing is counted, issued, or sent to the node, which would take it for a bug of ours."""
    with pytest.raises(UserError):
        asked("invite", **{**ARGUMENTS, **changed})
    assert not asked.issued
    assert read_mesh(asked.home) == asked.founded


@pytest.mark.parametrize("owner", ["x" * OWNER_CHARS_MAX, "é" * 31, "😀" * 15])
def test_the_longest_owners_fit_the_record(asked: Asked, owner: str) -> None:
    """In any script, with the largest numbers."""
    token = decode_token(
        asked("invite", expires_s=EXPIRES_S_MAX, uses=USES_MAX, owner=owner)["token"]
    )
    authority = Authority(SodiumCrypto(asked.seed), asked.founded.root)
    assert authority.add(token.invite.wire)


def test_a_token_has_no_more_seeds_than_it_may(asked: Asked) -> None:
    """A few members of a large mesh are enough."""
    asked.mesh = Mesh(SEEDS_MAX + 5).start_all()
    asked.running.node = asked.mesh[0]
    token = decode_token(asked("invite", **ARGUMENTS)["token"])
    assert len(token.seeds) == len(set(token.seeds)) == SEEDS_MAX


def test_only_admins_invite(asked: Asked) -> None:
    """With the root key or with their own; said in one line, and nothing is issued."""
    asked.home.root_key.unlink()
    token = decode_token(asked("invite", **ARGUMENTS, role="client")["token"])
    assert token.invite.issuer == SodiumCrypto(asked.seed).node_id
    assert token.invite.role is Role.CLIENT
    asked.issued.clear()
    nobody = Authority(SodiumCrypto(asked.seed), asked.founded.root)
    asked.running.decisions = Decisions(asked.home, nobody, asked._give, trio.lowlevel.checkpoint)
    with pytest.raises(UserError, match="only admins may"):
        asked("invite", **ARGUMENTS)
    assert not asked.issued


def test_a_full_table_of_invites_is_one_clear_line(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before anything is signed: the node would take one more for a bug of ours."""
    monkeypatch.setattr("protocol.shares.INVITES_MAX", 0)
    with pytest.raises(UserError, match="remembers no more invites"):
        asked("invite", **ARGUMENTS)
    assert not asked.issued
    assert read_mesh(asked.home) == asked.founded


def test_joining_the_same_mesh_changes_nothing(asked: Asked) -> None:
    """The daemon goes on."""
    text = asked("invite", **ARGUMENTS)["token"]
    assert asked("join", token=text) == {
        "mesh": key_text(asked.founded.mesh),
        "changed": False,
    }
    assert not asked.calls


def test_joining_with_a_bad_token_is_one_clear_line(asked: Asked) -> None:
    """And the daemon goes on."""
    for token in ("nonsense", "", None, 7):
        with pytest.raises(UserError):
            asked("join", token=token)
    assert not asked.calls


def test_the_root_key_goes_into_a_file_and_away(asked: Asked) -> None:
    """Each act is noted, without the passphrase; a request that makes no sense changes nothing."""
    file = str(asked.home.path.parent / "root.pem")
    for act, noted in (("export", "exported"), ("remove", "removed"), ("import", "imported")):
        answer = asked("root", act=act, file=file, passphrase="pw")
        assert answer == {"mesh": key_text(asked.founded.mesh), "file": file}
        assert asked.noted[-1] == {"type": f"root.{noted}", **answer}
        assert asked.home.root_key.exists() is (act != "remove")
    for wrong in ({"act": "burn"}, {"file": "root.pem"}, {"passphrase": ""}):
        with pytest.raises(UserError, match="names no act"):
            asked("root", **{"act": "export", "file": file, "passphrase": "pw", **wrong})
    assert len(asked.noted) == 3


def test_leaving_says_goodbye_while_it_is_still_a_member(asked: Asked) -> None:
    """Then the mesh is forgotten, and the daemon ends without writing it down again."""
    assert asked("leave") == {"mesh": key_text(asked.founded.mesh)}
    assert asked.calls == [
        "goodbye, still a member: True",
        "end [('keep_memory', False), ('restart', False)]",
    ]
    assert read_mesh(asked.home) is None


# ---- events ----


def test_the_last_events_are_passed_on(asked: Asked) -> None:
    """As many as are asked for, or as there are."""
    log = asked.running.view.events
    assert asked.recent(5) == {"events": []}
    for number in range(3):
        log.note(Reunited(number))
    assert asked.recent(2) == {"events": log.recent(2)}
    assert asked.recent(EVENTS_KEPT) == {"events": log.recent(3)}
    for wrong in (-1, EVENTS_KEPT + 1, "5", None, True):
        with pytest.raises(UserError):
            asked.recent(wrong)


class _Gone(Exception):
    """Nobody listens any more."""


def test_who_follows_hears_what_happens_and_that_nothing_does(asked: Asked) -> None:
    """First the last ones, then each as it comes, and an empty report now and then: only by
    reporting is it noticed that nobody listens.
    """
    log = asked.running.view.events
    reports: list[tuple[float, list[int]]] = []

    async def report(progress: Mapping[str, Any]) -> None:
        numbers = [event["present"] for event in progress["events"]]
        reports.append((trio.current_time(), numbers))
        if len(reports) == 4:
            raise _Gone

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked.events.run, {"recent": 2, "follow": True}, report)
            await trio.sleep(EVENTS_SILENCE_S + 5)
            log.note(Reunited(3))
            log.note(Reunited(4))

    for number in range(3):
        log.note(Reunited(number))
    with pytest.raises(ExceptionGroup) as caught:
        trio.run(main, clock=MockClock(autojump_threshold=0))
    assert caught.group_contains(_Gone)
    began = reports[0][0]
    assert [(round(at - began), numbers) for at, numbers in reports] == [
        (0, [1, 2]),
        (EVENTS_SILENCE_S, []),
        (EVENTS_SILENCE_S + 5, [3, 4]),
        (2 * EVENTS_SILENCE_S + 5, []),
    ]
    assert asked.events.timeout_s == math.inf


def test_followers_have_a_limit_and_leave_their_places(asked: Asked) -> None:
    """One more is one clear line, and the others go on."""

    async def report(progress: Mapping[str, Any]) -> None:
        await trio.lowlevel.checkpoint()

    async def main() -> None:
        arguments = {"recent": 0, "follow": True}
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for _ in range(FOLLOWERS_MAX):
                    nursery.start_soon(asked.events.run, arguments, report)
                await wait_all_tasks_blocked()
                with pytest.raises(UserError):
                    await asked.events.run(arguments, report)
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_draining_begins_once_and_ends(asked: Asked) -> None:
    """Asked again it only says how far it is; then its models are offered again."""
    for _ in range(2):
        assert asked("drain") == {"draining": True, "queued": 0, "running": 2, "slots": 0}
    assert asked.running.local_models.cards() == []
    assert asked("drain", is_over=True)["draining"] is False
    assert [card.name for card in asked.running.local_models.cards()] == ["a"]
    assert asked.calls == ["models changed"] * 2
