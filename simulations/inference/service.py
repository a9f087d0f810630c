"""The one place where inference and a simulated mesh meet.

It listens to a `World`: what is done to hosts begins and ends servers and gateways, what nodes
report fills the gateways' views. The mesh below runs as it always does; offers and loads travel in
its own datagrams.
"""

import functools
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Final

from protocol.effects import Effect
from protocol.identity import NodeId
from protocol.messages import Load
from simulations.chance import below
from simulations.host import Host
from simulations.inference.arrivals import MILLION, Recorded, Trace, times
from simulations.inference.gateway import Gateway
from simulations.inference.hearsay import Hearsay, History
from simulations.inference.herding import STEP_NS, Herding
from simulations.inference.machines import deal
from simulations.inference.policies import POLICIES
from simulations.inference.request import Request
from simulations.inference.server import Server
from simulations.inference.view import View
from simulations.inference.workload import GATEWAYS, Workload
from simulations.world import World

_OUT: Final = 1_000_000
"""Requests that nobody has waiting."""


class Service:
    """Servers, gateways and their users, on the hosts of one world."""

    def __init__(self, world: World, workload: Workload, seed: int) -> None:
        """To be made before any node starts: the world is listened to from now on."""
        self.world = world
        self.workload = workload
        size = len(world.hosts)
        # What comes is drawn apart from how it is routed, so that policies face the same requests.
        self._coming = random.Random(seed + 4)  # noqa: S311  # a simulation must be repeatable
        self._choosing = random.Random(seed + 5)  # noqa: S311  # same
        self.servers: dict[int, Server] = {}
        by_node: dict[NodeId, tuple[Host, Server]] = {}
        for host, machine in zip(world.hosts, deal(size, workload.portions), strict=True):
            if machine is not None:
                by_gossip = workload.told_ns is None
                server = Server(world, host, machine, self._remember, by_gossip=by_gossip)
                self.servers[host.index] = server
                by_node[host.crypto.node_id] = host, server
        self._by_node = by_node
        self._histories = {
            node: History(server.machine.slots) for node, (_, server) in by_node.items()
        }
        self.gateways: list[Gateway] = []
        self._hearsay: list[Hearsay] = []
        for host in world.hosts[: workload.gateways]:
            self._add_gateway(host)
        self.requests: list[Request] = []
        self.begun_ns = 0
        self.until_ns = 0
        """When requests come no more, from `begun_ns` on."""
        self._busy_slot_ns: dict[int, int] = {}
        """Of each server, from `begun_ns` until then."""
        classes: dict[str, list[Callable[[], Load]]] = {}
        for server in self.servers.values():
            classes.setdefault(server.machine.name, []).append(functools.partial(_load, server))
        self.herding = Herding(classes)
        self._weights = _running_sums(workload)
        sizes = workload.prompt.mean_milli(), workload.output.mean_milli()
        self._mean_ns = {
            node: server.machine.request_ns(*sizes) for node, (_, server) in by_node.items()
        }
        world.listener = self

    def _add_gateway(self, host: Host) -> None:
        server = self.servers.get(host.index)
        rng = random.Random(self._choosing.getrandbits(64))  # noqa: S311  # as above
        told_ns = self.workload.told_ns
        gateway = Gateway(
            self.world,
            host,
            self._by_node,
            policy=POLICIES[self.workload.policy](self),
            make_view=lambda speeds: View(
                host,
                lambda: self.world.now,
                lambda: server.told if server is not None else Load(0, 0, 0),
                speeds,
                is_told=told_ns is not None,
            ),
            rng=rng,
            deadline_ns=self.workload.deadline_ns,
            may_continue=self.workload.may_continue,
            has_one_owner=self.workload.has_one_owner,
            on_end=self._note_end,
        )
        self.gateways.append(gateway)
        if told_ns is not None:
            mixing = random.Random(rng.getrandbits(64))  # noqa: S311  # as above
            self._hearsay.append(
                Hearsay(self.world, self._histories, told_ns, gateway.hear, mixing)
            )

    @property
    def groups(self) -> dict[str, list[int]]:
        """Who is what, for acts that choose among them."""
        groups: dict[str, list[int]] = {name: [] for name in self.workload.group_names}
        groups[GATEWAYS] = [host.index for host in self.world.hosts[: self.workload.gateways]]
        for index, server in self.servers.items():
            groups[server.machine.name].append(index)
        return groups

    # ---- what the world tells ----

    def on_effect(self, host: Host, effect: Effect) -> None:
        """A node reports something."""
        if host.index < len(self.gateways):
            self.gateways[host.index].note(effect)

    def on_act(self, host: Host, act: str) -> None:
        """Something was done to a host."""
        server = self.servers.get(host.index)
        gateway = self.gateways[host.index] if host.index < len(self.gateways) else None
        match act:
            case "start":
                if server is not None:
                    # In the beginning the models are there already.
                    server.begin(server.machine.load_ns if self.begun_ns else 0)
                if gateway is not None:
                    gateway.begin()
            case "crash":
                if gateway is not None:
                    gateway.end()
                if server is not None:
                    server.end()
                    if not host.is_silent:
                        for other in self.gateways:
                            other.note_crash(host)
            case "pause" if server is not None:
                server.freeze()
            case "resume" if server is not None:
                server.thaw()

    # ---- what comes ----

    def begin(self, until_ns: int) -> None:
        """Requests come from now on, for the workload's time but not beyond `until_ns` (now and
        so many ns).
        """
        self.begun_ns = self.world.now
        self.until_ns = min(until_ns, self.workload.lasts_ns or until_ns)
        self._busy_slot_ns = {index: -s.busy_slot_ns() for index, s in self.servers.items()}
        self.world.at(self.until_ns, self._count_busy)
        for hearsay in self._hearsay:
            hearsay.begin(self.begun_ns + self.until_ns)
        self._look()
        self._schedule_next(self._arrivals())

    def _look(self) -> None:
        self.herding.look()
        if self.world.now + STEP_NS < self.begun_ns + self.until_ns:
            self.world.at(STEP_NS, self._look)

    def _count_busy(self) -> None:
        for index, server in self.servers.items():
            self._busy_slot_ns[index] += server.busy_slot_ns()

    def _arrivals(self) -> Iterator[Recorded]:
        arrivals, rng = self.workload.arrivals, self._coming
        if isinstance(arrivals, Trace):
            yield from arrivals.rows
            return
        rate = self.workload.rate_for(len(self.world.hosts))
        phasing = random.Random(rng.getrandbits(64))  # noqa: S311  # as above
        for at_ns in times(arrivals.phases(phasing), rate, rng) if rate else ():
            user = bisect_right(self._weights, below(rng, self._weights[-1]))
            yield Recorded(
                at_ns=at_ns,
                prompt_tokens=self.workload.prompt.draw(rng),
                output_tokens=self.workload.output.draw(rng),
                user=user,
                gateway=user % len(self.gateways),
            )

    def _schedule_next(self, coming: Iterator[Recorded]) -> None:
        one = next(coming, None)
        if one is None or one.at_ns >= self.until_ns:
            return
        delay = self.begun_ns + one.at_ns - self.world.now
        self.world.at(delay, functools.partial(self._arrive, one, coming))

    def _arrive(self, one: Recorded, coming: Iterator[Recorded]) -> None:
        request = Request(
            number=len(self.requests),
            user=one.user,
            gateway=one.gateway,
            arrived_ns=self.world.now,
            prompt_tokens=one.prompt_tokens,
            output_tokens=one.output_tokens,
        )
        self.requests.append(request)
        gateway = self.gateways[one.gateway]
        self._schedule_next(coming)
        gateway.accept(request)

    def _note_end(self, request: Request) -> None:
        words = f"{request.number} {request.outcome} {request.server}"
        self.world.note(b"request", request.gateway, words.encode())

    # ---- what is known of loads ----

    def _remember(self, host: Host, server: Server) -> None:
        if self.workload.told_ns is not None:
            history = self._histories[host.crypto.node_id]
            history.note(self.world.now, server.told, server.told_speed)

    def load(self, node: NodeId) -> Load:
        """See `policies.Truth`: what cannot serve now is as busy as can be."""
        _, server = self._by_node[node]
        return server.load if server.is_ready else Load(_OUT, 0, server.machine.slots)

    def completion_ns(self, node: NodeId) -> int:
        """See `policies.Truth`: one more of mean size, behind what waits in full slots."""
        load = self.load(node)
        ahead = max(0, load.queued + load.running + 1 - load.slots)
        return self._mean_ns[node] * (load.slots + ahead) // max(1, load.slots)

    def utilisation_ppm(self) -> dict[str, int]:
        """Slots in use while requests came, of those there are, by class, in millionths."""
        busy: dict[str, int] = {}
        slots: dict[str, int] = {}
        for index, server in self.servers.items():
            name = server.machine.name
            busy[name] = busy.get(name, 0) + self._busy_slot_ns[index]
            slots[name] = slots.get(name, 0) + server.machine.slots
        return {name: busy[name] * MILLION // (slots[name] * self.until_ns) for name in busy}


def _load(server: Server) -> Load:
    return server.load


def _running_sums(workload: Workload) -> list[int]:
    """Of the users' weights: who asks how often."""
    sums: list[int] = []
    for user in range(workload.users):
        weight = MILLION // (user + 1) if workload.is_zipf else MILLION
        sums.append((sums[-1] if sums else 0) + weight)
    return sums
