"""The one place where a node's parts run together: one nursery, started and stopped in order.

Up: gossip and peer streams, then the gateway and the control socket, then what may take its time
(models, hardware, the local network). Down: what runs may end (`stopping.py`), the memory goes to
disk, then everything is cancelled.
"""

import dataclasses
import functools
import random
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import structlog
import trio

from meshd import __version__, clock, upstreams
from meshd.addresses import advertised
from meshd.admitting import Admitting
from meshd.advertiser import Advertiser
from meshd.answer import Answer, RequestOptions
from meshd.asking import Asking
from meshd.catching_up import CatchingUp
from meshd.choosing import Choosing
from meshd.commands import Commands
from meshd.control import serve_control
from meshd.draining import Draining
from meshd.effect_log import log_effect
from meshd.forwarder import Forwarder
from meshd.gateway.access import Access
from meshd.gateway.keyring import Keyring
from meshd.gateway.server import serve as serve_gateway
from meshd.gossip import Gossip
from meshd.home import Home
from meshd.key_commands import KeyCommands
from meshd.lan_presence import LanPresence
from meshd.local_models import LocalModels
from meshd.options import UpOptions
from meshd.pairing_commands import PairingCommands
from meshd.peers import Kind, Peers
from meshd.persistence import Numbers, write_numbers, write_snapshot
from meshd.recording import Recording
from meshd.serving import Serving
from meshd.sockets import NodeSockets
from meshd.stopping import Stopping
from meshd.tasks.commands import JobCommands
from meshd.tasks.driver import Driver
from meshd.tasks.jobs import Jobs
from meshd.tasks.serving import TaskServing
from meshd.trust.api_keys import ApiKeys
from meshd.trust.audit import Audit
from meshd.trust.audit_effects import note_effect
from meshd.trust.commands import TrustCommands
from meshd.trust.decisions import Decisions
from meshd.trust.mesh import FOUNDER
from meshd.trust.mesh_keys import MeshKeys
from meshd.usage import Usage
from meshd.view import View
from protocol.effects import (
    Admitted,
    CaughtUp,
    Effect,
    Evicted,
    Issued,
    MembersDirty,
    MembershipChanged,
    Persist,
)
from protocol.events import AddressesChanged, Started
from protocol.identity import Address, key_text
from protocol.members import State
from protocol.node import Node
from runtimes.base import Request
from runtimes.functions.runner import FunctionRunner

log = structlog.get_logger()

STOP_S: Final = 7.0
"""All of an orderly stop; then everything is cancelled."""
SAVE_S: Final = 1.0
SWEEP_S: Final = 5.0
ADDRESSES_S: Final = 15.0


class Running:
    """A started node. It is what the gateway (`answer.Mesh`) and the control socket see."""

    wants_restart = False
    is_revoked = False
    """This node was revoked, and ends because of it."""

    def __init__(
        self,
        home: Home,
        options: UpOptions,
        node: Node,
        numbers: Numbers,
        sockets: NodeSockets,
        gateway_socket: socket.socket,
        access: Access,
        keys: ApiKeys,
        peers: Peers,
        audit: Audit,
        own_addresses: tuple[Address, ...],
        recording: Recording | None,
        local_models: LocalModels,
        functions: FunctionRunner,
        name: str,
    ) -> None:
        self.home = home
        self.node = node
        self.name = name
        self.local_models = local_models
        self.own_addresses = own_addresses
        self._options = options
        self._numbers = numbers
        self._sockets = sockets
        self._gateway_socket = gateway_socket
        self._access = access
        self._peers = peers
        self.audit = audit
        self.view = View(node)
        self.gossip = Gossip(
            node,
            sockets.udp,
            peers,
            persist=self._persist,
            on_effect=self._on_effect,
            recording=recording,
        )
        self._functions = functions
        self._usage = Usage(home.usage)
        self.admitting = Admitting(
            local_models, self.view.is_owners, self._usage.served, yields=options.yield_to_owner
        )
        self._advertiser = Advertiser(
            self.gossip.give, local_models, self.admitting, functions, self.view, options.labels
        )
        self._catching_up = CatchingUp(node)
        asking = Asking(self.view, peers, node.address_of, self._catching_up.wait, self.gossip.give)
        rng = random.SystemRandom()
        choosing = Choosing(rng, trio.current_time, options.policy)
        self._forwarder = Forwarder(node.node_id, self.view, self.admitting, asking, choosing)
        self._jobs = Jobs(home)
        self._driver = Driver(node.node_id, self.view, functions, asking, self._jobs, rng)
        self.job_commands = JobCommands(self._driver, self._jobs)
        self._take_up_serving()
        self._take_up_trust(keys)
        self.commands = Commands(home, self)
        self._lan = LanPresence(node, name, sockets, lambda: self.own_addresses, self.gossip.give)
        self._pairing = PairingCommands(self, sockets, peers.refusals, is_on_lan=options.lan)
        self.memory = trio.Lock()
        """Held by whoever changes what the home remembers of the mesh."""
        self._is_dirty = trio.Event()
        self._end = trio.Event()
        self._gateway_end = trio.Event()
        self._is_ready = False
        self._keeps_memory = True
        self._started_at = trio.current_time()

    def _take_up_serving(self) -> None:
        """Make what answers other members, and what ends that in order."""
        admit = self._catching_up.admit
        self._serving = Serving(self.admitting, admit, lambda: self._advertiser.load)
        self._task_serving = TaskServing(self._functions, admit, lambda: self._advertiser.load)
        local = self.local_models
        self.draining = Draining(local, self.models_changed, lambda: self.admitting.own_load)
        self.stopping = Stopping(
            self.node, self.view, self.draining, self._serving, self.gossip.give
        )

    def _take_up_trust(self, keys: ApiKeys) -> None:
        """Make what decides about members and keys."""
        authority = self.node.authority
        self.decisions = Decisions(self.home, authority, self.gossip.give, self._catching_up.wait)
        mesh_keys = MeshKeys(authority, self.decisions)
        self.key_commands = KeyCommands(keys, mesh_keys, self.audit.note)
        self._keyring = Keyring(
            keys,
            is_required=self._access.is_key_required,
            mesh_policy=lambda key_hash: mesh_keys.policy(key_hash, clock.wall_s()),
            note=self.audit.note,
        )
        self.trust_commands = TrustCommands(
            self.node.node_id, authority, self.view, self.decisions, self.audit.note
        )

    # ---- its life ----

    async def run(self, on_ready: Callable[["Running"], None]) -> None:
        """Run until `end` is called, or until cancelled (which is abrupt)."""
        handlers = {
            Kind.GOSSIP: self.gossip.serve_stream,
            Kind.REQUEST: self._serving.serve_stream,
            Kind.TASK: self._task_serving.serve_stream,
        }
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.audit.run)
                nursery.start_soon(self.gossip.run)
                nursery.start_soon(self._peers.serve, [self._sockets.tcp], handlers)
                self.gossip.give(Started(self.own_addresses))
                await nursery.start(self._driver.run)
                asked = {**self.commands.handlers(), **self._pairing.handlers()}
                await nursery.start(serve_control, self.home, asked)
                await nursery.start(
                    functools.partial(
                        serve_gateway,
                        self,
                        [self._gateway_socket],
                        access=self._access,
                        keyring=self._keyring,
                        shutdown=self._gateway_end,
                    )
                )
                self._is_ready = True
                nursery.start_soon(self.local_models.serve, self.models_changed)
                nursery.start_soon(self._advertiser.run)
                nursery.start_soon(self.admitting.run)
                nursery.start_soon(self._usage.run)
                nursery.start_soon(self._save_often)
                nursery.start_soon(self._sweep)
                nursery.start_soon(self._watch_addresses)
                ports = (self._sockets.port, self._gateway_socket.getsockname()[1])
                nursery.start_soon(upstreams.offer, self._options.upstreams, ports)
                if self._options.lan:
                    nursery.start_soon(self._lan.run)
                on_ready(self)
                await self._end.wait()
                with trio.move_on_after(STOP_S):
                    await self._stop()
                nursery.cancel_scope.cancel()
        finally:
            self._peers.drop_idle(everything=True)
            if self._keeps_memory:
                write_snapshot(self.home, self.node.snapshot())

    def end(self, *, restart: bool, keep_memory: bool = True) -> None:
        """Stop in order; `restart` starts the daemon's parts anew afterwards.

        A restart follows a change of mesh, and leaving gives the memory up: neither writes the
        old mesh's members over what is on disk.
        """
        self.wants_restart = restart
        self._keeps_memory = self._keeps_memory and keep_memory and not restart
        self._end.set()

    async def _stop(self) -> None:
        self._is_ready = False
        self._gateway_end.set()
        await self.stopping.run_out()
        await self.stopping.say_goodbye()

    # ---- what it does beside ----

    def models_changed(self) -> None:
        """Something else can be served than before."""
        self.admitting.models_changed()
        self._advertiser.models_changed()

    async def _persist(self, effect: Persist | Admitted | Issued) -> None:
        """Make something durable; the next effect waits for it.

        An admission is on disk before the newcomer hears of it, so that no crash orphans it; so is
        what the owner decides.
        """
        if not isinstance(effect, Persist):
            await self._save()
            return
        self._numbers = Numbers(effect.incarnation, effect.offers_version, self._numbers.boot)
        await trio.to_thread.run_sync(write_numbers, self.home, self._numbers)

    async def _save(self) -> None:
        async with self.memory:
            if self._keeps_memory:
                snapshot = self.node.snapshot()
                await trio.to_thread.run_sync(write_snapshot, self.home, snapshot)

    def _on_effect(self, effect: Effect) -> None:
        self.view.note(effect)
        log_effect(effect, self.node.node_id)
        note_effect(self.audit, effect, self.node.authority, self._peers.host_of)
        match effect:
            case MembersDirty():
                self._is_dirty.set()
            case MembershipChanged() if effect.previous != effect.state:
                if {effect.state, effect.previous} & {State.DEAD, State.LEFT}:
                    self._peers.forget(effect.node)
            case Issued():
                self.decisions.note(effect)
            case CaughtUp():
                self._catching_up.end()
            case Evicted():
                # From now on it neither reads nor speaks.
                self._peers.shut_out(effect.node)
                if effect.node == self.node.node_id and effect.is_revoked:
                    self.is_revoked = True
                    self.end(restart=False)

    async def _save_often(self) -> None:
        while True:
            await self._is_dirty.wait()
            self._is_dirty = trio.Event()
            await self._save()
            await trio.sleep(SAVE_S)

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(SWEEP_S)
            self._peers.drop_idle()

    async def _watch_addresses(self) -> None:
        """A laptop that changes networks states its new addresses."""
        while True:
            await trio.sleep(ADDRESSES_S)
            found = await trio.to_thread.run_sync(
                advertised, self._sockets, self._options.advertise, self.own_addresses
            )
            if found != self.own_addresses:
                self.own_addresses = found
                self.gossip.give(AddressesChanged(found))

    # ---- answer.Mesh ----

    def is_ready(self) -> bool:
        """See `answer.Mesh`."""
        return self._is_ready

    @property
    def owner(self) -> str:
        """Whose this node is."""
        invite = self.node.authority.invite_of(self.node.node_id)
        return invite.owner if invite is not None else FOUNDER

    def status(self) -> Mapping[str, Any]:
        """See `answer.Mesh`."""
        role = self.node.authority.role_of(self.node.node_id)
        return {
            "ready": self._is_ready,
            "node": key_text(self.node.node_id),
            "name": self.name,
            "mesh": key_text(self.node.mesh),
            "version": __version__,
            "role": role.name.lower() if role is not None else None,
            "owner": self.owner,
            "listen": str(Address(self._sockets.host, self._sockets.port)),
            "addresses": [str(address) for address in self.own_addresses],
            "gateway": self._access.url(self._gateway_socket),
            "uptime_s": round(trio.current_time() - self._started_at, 1),
            "time": clock.wall_s(),
            "members": self.view.counts(),
            "settled": self.view.is_settled(),
            "health": self.node.health_score,
            "partition": {"lost": lost} if (lost := self.node.lost_count(clock.now_ns())) else None,
            "superseded": self.node.is_superseded,
            "functions": self._functions.names,
            "models": sorted(card.name for card in self.local_models.cards()),
            "load": dataclasses.asdict(self.admitting.load),
            "hardware": self._advertiser.status(),
            "tasks": dataclasses.asdict(self._functions.load),
            "drops": dict(sorted(self.gossip.drops.items())),
            "refusals": dict(sorted(self._peers.refusals.items())),
        }

    def gateway_for_owner(self) -> Mapping[str, Any]:
        """How commands on this machine reach the gateway."""
        return self._access.for_owner(self._gateway_socket, self._keyring.owner_key)

    def nodes(self, *, include_all: bool = False) -> Sequence[Mapping[str, Any]]:
        """See `answer.Mesh`."""
        return self.view.rows(include_all=include_all)

    def models(self) -> Sequence[Mapping[str, Any]]:
        """See `answer.Mesh`."""
        return self.view.models()

    def jobs(self) -> Sequence[Mapping[str, Any]]:
        """See `answer.Mesh`."""
        return self._jobs.rows()

    def explain(self, request_id: str) -> Mapping[str, Any] | None:
        """See `answer.Mesh`."""
        story = self._forwarder.stories.find(request_id)
        return story.told(trio.current_time()) if story is not None else None

    def generate(
        self, request: Request, options: RequestOptions
    ) -> AbstractAsyncContextManager[Answer]:
        """See `answer.Mesh`."""
        answering = self._forwarder.generate(request, options)
        return self._usage.asking(answering, request.model, options)
