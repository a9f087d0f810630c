"""The composition root: from a home folder and options to a running node, and back down.

Order, so that nothing is half done: lock the home; bind all sockets; check the models that were
asked for; be a member (found, join, or read from disk); count the start; build; run. A wrong port
or a bad model file thus never uses up an invite.
"""

import contextlib
import functools
import gc
import pathlib
import random
import secrets
import signal
import socket
from collections.abc import Callable
from typing import Final

import structlog
import trio

from meshd import __version__, clock, posix
from meshd.addresses import advertised
from meshd.failures import ExitCode, UserError
from meshd.gateway.access import Access, make_access, read_certificate
from meshd.home import Home
from meshd.joining import check_joinable, join, join_anew, read_token
from meshd.local_models import LocalModels
from meshd.options import Ready, UpOptions, format_host_port, name_from_host, parse_host_port
from meshd.peers import Peers
from meshd.persistence import next_boot, read_snapshot
from meshd.recording import Recording
from meshd.running import Running
from meshd.sockets import NodeSockets, bind_gateway, bind_node
from meshd.trust.api_keys import ApiKeys
from meshd.trust.audit import Audit
from meshd.trust.certificates import ensure_certificates, make_contexts
from meshd.trust.keys import node_seed
from meshd.trust.mesh import MeshFile, found_mesh, read_mesh
from meshd.trust.token import encode_token
from protocol.assembly import NodeConfig
from protocol.authority import Authority
from protocol.crypto import Crypto, SodiumCrypto
from protocol.errors import Refused
from protocol.identity import NodeId, key_text
from protocol.node import Node
from protocol.records import Revocation, decode_record
from protocol.snapshot import Snapshot
from runtimes.base import RuntimeFailure, Source
from runtimes.functions.registry import known_functions
from runtimes.functions.runner import FunctionRunner
from runtimes.model_memory import ModelMemory
from runtimes.models.default_offer import DefaultOffer, default_offer
from runtimes.registry import make_source

log = structlog.get_logger()

FIRST_INVITE_S: Final = 3_600
"""The invite that founding prints is good for an hour, for one machine."""

DISK_TIMEOUT_S: Final = 5.0
"""For a look at the disk, which ends by itself after two unless a file system hangs."""

REVOKED: Final = (
    "this node was revoked: an admin took its membership back; with a new invite: meshd up "
    "--new-identity --join TOKEN, or give the mesh up with: meshd leave"
)

OPEN_FILES: Final = 4_096
"""Two thousand connections of peers and apps at their limits, and as much for all else."""

Announce = Callable[[Ready], None]


async def run(options: UpOptions, announce: Announce) -> None:
    """`meshd up`: run a node until SIGINT or SIGTERM. Raises UserError for what people can mend."""
    home = Home(options.home, options.passphrase)
    posix.allow_open_files(OPEN_FILES)
    with home.locked():
        try:
            await _run_until_signal(home, options, announce)
        except BaseExceptionGroup as group:
            raise _first_user_error(group) from None


def _first_user_error(group: BaseExceptionGroup) -> BaseException:
    """The one UserError that a nursery wrapped; anything else stays as it is."""
    ours, others = group.split(UserError)
    leaf: BaseException | None = ours
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    return leaf if leaf is not None and others is None else group


async def _run_until_signal(home: Home, options: UpOptions, announce: Announce) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            stopped = trio.Event()
            current: list[Running] = []

            async def watch_signals() -> None:
                async for number in signals:
                    log.info("daemon.stopping", signal=signal.Signals(number).name)
                    if stopped.is_set() or not current:
                        # Asked twice, or not up yet: there is nothing to say goodbye to.
                        nursery.cancel_scope.cancel()
                    stopped.set()
                    for running in current:
                        running.end(restart=False)

            nursery.start_soon(watch_signals)
            with contextlib.closing(Starter(home, options)) as starter:
                tell = functools.partial(_tell_once, starter, announce)
                gc.freeze()  # what was imported stays: no collection need look at it again
                while not stopped.is_set():
                    current.clear()
                    running = await starter.start()
                    current.append(running)
                    try:
                        await running.run(tell)
                    finally:
                        starter.close_node()
                    if running.is_revoked:
                        raise UserError(REVOKED)
                    if not running.wants_restart:
                        break
                    log.info("daemon.restarting")
            nursery.cancel_scope.cancel()


def _tell_once(starter: "Starter", announce: Announce, running: Running) -> None:
    """The first start is announced; a restart into another mesh only goes to the log."""
    if starter.has_announced:
        log.info("daemon.ready", mesh=key_text(running.node.mesh))
        return
    starter.has_announced = True
    announce(starter.ready(running))


class Starter:
    """Makes a home into a node that is about to run."""

    def __init__(self, home: Home, options: UpOptions) -> None:
        self._home = home
        self._options = options
        self._token = read_token(options.join) if options.join is not None else None
        self._sockets: NodeSockets | None = None
        self._gateway: socket.socket | None = None
        self._keys = ApiKeys(home)
        self._access = Access()
        self._recording: Recording | None = None
        self._founded = False
        self._audit = Audit(home)
        self._notices: list[str] = []
        self._functions = known_functions()  # looks at every installed package: once is enough
        self._has_noted_start = False
        self.has_announced = False

    async def start(self) -> Running:
        """Everything up to, but not including, the tasks. Raises UserError."""
        home, options = self._home, self._options
        if not options.new_identity:
            node_seed(home)  # a key that cannot be used is said before anything is bound
        try:
            self._sockets = await bind_node(home, *parse_host_port(options.listen))
            if self._gateway is None:  # kept over a restart: apps wait, and find it where it was
                self._gateway = self._open_gateway()
            sources = await self._make_sources()
            own_addresses = advertised(self._sockets, options.advertise)
            if self._recording is None and options.record is not None:
                self._recording = Recording(options.record)
            mesh = await self._be_member()
            seed = node_seed(home)
        except BaseException:
            self.close()
            raise
        ensure_certificates(home, mesh.mesh_secret, seed)
        crypto: Crypto = SodiumCrypto(seed)
        name = options.name or name_from_host(socket.gethostname())
        numbers = next_boot(home)
        config = NodeConfig(
            name=name,
            software=__version__,
            root=mesh.root,
            boot=numbers.boot,
            boot_secret=secrets.token_bytes(32),
            incarnation=numbers.incarnation,
            offers_version=numbers.offers_version,
            snapshot=_with_own_records(read_snapshot(home), mesh, crypto),
        )
        chance = secrets.randbits(64)
        if self._recording is not None:
            crypto = self._recording.begin(config, crypto, chance)
        node = Node(config, crypto, random.Random(chance))  # noqa: S311  # probe order, not keys
        if node.authority.admission(crypto.node_id) is None:
            self.close()
            raise UserError(
                f"the admission in {home.mesh} does not fit the key in {home.node_key}; restore "
                "both from one backup, or move them away and join again with a new invite"
            )
        peers = Peers(
            make_contexts(home), crypto.node_id, node.authority.role_of, self._note_refused
        )
        self._note_start(mesh, SodiumCrypto(seed))
        return Running(
            home,
            options,
            node,
            numbers,
            self._sockets,
            self._gateway,
            self._access,
            self._keys,
            peers,
            self._audit,
            own_addresses,
            self._recording,
            LocalModels(sources, ModelMemory(options.model_memory_bytes)),
            FunctionRunner(self._functions, home.scratch),
            name,
        )

    def _open_gateway(self) -> socket.socket:
        """Its socket, bound as the options and the home's keys allow. Raises UserError."""
        options = self._options.access
        certificate = read_certificate(options)
        has_keys = self._keys.count(clock.wall_s()) > 0
        host, port = parse_host_port(self._options.gateway)
        gateway = bind_gateway(host, port, options, has_keys=has_keys)
        self._access = make_access(options, certificate, gateway.getsockname()[0])
        return gateway

    def close(self) -> None:
        """Close all sockets, and the files that grow."""
        self.close_node()
        if self._has_noted_start:
            self._has_noted_start = False
            self._audit.note("node.stopped")
        self._audit.close()
        if self._recording is not None:
            self._recording.close()
            self._recording = None
        if self._gateway is not None:
            self._gateway.close()
            self._gateway = None

    def close_node(self) -> None:
        """Close what other nodes reach; the gateway's socket stays for a restart."""
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None

    async def _be_member(self) -> MeshFile:
        """The mesh of this home: joined by the token, as on disk, or founded now."""
        home, token = self._home, self._token
        if token is not None and self._options.new_identity:
            kept = await join_anew(home, token)
            self._note_old_identity(kept)
            if kept is not None:
                self._audit.note("mesh.joined", mesh=key_text(token.mesh), identity="new")
        elif token is not None and check_joinable(home, token):
            await join(home, token)
            self._audit.note("mesh.joined", mesh=key_text(token.mesh))
        self._token = None  # a restart into another mesh, by command, is not to be undone
        mesh = read_mesh(home)
        if mesh is not None:
            return mesh
        self._founded = True
        mesh = found_mesh(home, node_seed(home), clock.wall_s())
        self._audit.note("mesh.founded", mesh=key_text(mesh.mesh))
        return mesh

    def _note_start(self, mesh: MeshFile, crypto: Crypto) -> None:
        """On disk before anything runs. What is noted by now, happened on the way here."""
        assert self._sockets is not None
        self._audit.open(crypto)
        self._audit.note(
            "node.started",
            node=key_text(crypto.node_id),
            mesh=key_text(mesh.mesh),
            meshd=__version__,
            listen=format_host_port(self._sockets.host, self._sockets.port),
        )
        self._has_noted_start = True
        self._audit.flush()

    def _note_refused(self, reason: str, peer: NodeId | None, host: str, detail: str) -> None:
        who = key_text(peer) if peer is not None else None
        self._audit.note(
            "peer.refused", reason=reason, peer=who, address=host or None, detail=detail or None
        )

    def _note_old_identity(self, kept: pathlib.Path | None) -> None:
        if kept is not None:
            self._notices.append(
                f"this node has a new identity; the one before, with its keys, is kept in {kept}"
            )

    async def _make_sources(self) -> list[Source]:
        """What brings each model. Raises UserError for what was asked for and cannot be."""
        options = self._options
        upstreams = [f"openai:{url}" for url in options.upstreams]
        asked_for = [*(spec for spec in options.models if spec != "none"), *upstreams]
        if asked_for or options.models:
            return [self._make_source(spec) for spec in asked_for]
        return await self._default_sources()

    async def _default_sources(self) -> list[Source]:
        """Nobody said what to offer: the best that is found on disk, or else the demo model."""
        offer = DefaultOffer()
        with trio.move_on_after(DISK_TIMEOUT_S):
            # A folder on a server that hangs is left to its thread.
            offer = await trio.to_thread.run_sync(default_offer, abandon_on_cancel=True)
        if offer.notice is not None:
            self._notices.append(offer.notice)
        try:
            return [make_source(offer.spec, offer.options)]
        except RuntimeFailure as failure:
            self._notices.append(f"this node offers no model: {failure.message}")
            return []

    def _make_source(self, spec: str) -> Source:
        try:
            return make_source(spec, {})
        except RuntimeFailure as failure:
            shown = f"--upstream {spec[7:]}" if spec.startswith("openai:") else f"--model {spec}"
            is_typo = failure.code == "bad_request"
            code = ExitCode.WRONG_USAGE if is_typo else ExitCode.FAILED
            raise UserError(f"{shown}: {failure.message}", code) from failure

    def ready(self, running: Running) -> Ready:
        """What to announce."""
        assert self._sockets is not None
        assert self._gateway is not None
        join_line = None
        if self._founded and not self._options.json:
            token = running.commands.make_token(expires_s=FIRST_INVITE_S, uses=1)
            join_line = f"meshd up --join {encode_token(token)}"
        return Ready(
            node=key_text(running.node.node_id),
            name=running.name,
            mesh=key_text(running.node.mesh),
            listen=format_host_port(self._sockets.host, self._sockets.port),
            gateway=self._access.url(self._gateway),
            founded=self._founded,
            join_line=join_line,
            notices=tuple(self._notices),
        )


def _with_own_records(snapshot: Snapshot, mesh: MeshFile, crypto: Crypto) -> Snapshot:
    """A snapshot whose records certainly hold our own admission, also when the file was lost; and
    not what revoked us: that may have been undone, and the first member that is met will say.
    """
    known = tuple(dict.fromkeys((*mesh.records, *snapshot.records)))
    revocations = [record for record in map(_revocation, known) if record is not None]
    if revocations:
        authority = Authority(crypto, mesh.root)
        authority.load(known)
        about = [crypto.node_id, *(r.subject for r in authority.revoked_ground_of(crypto.node_id))]
        if authority.is_revoked(crypto.node_id):
            against_us = [record.wire for record in revocations if record.subject in about]
            known = tuple(wire for wire in known if wire not in against_us)
    return Snapshot(known, snapshot.lives, snapshot.goodbyes, snapshot.deaths)


def _revocation(wire: bytes) -> Revocation | None:
    try:
        record = decode_record(wire)
    except Refused:
        return None
    return record if isinstance(record, Revocation) else None
