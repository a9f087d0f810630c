"""The one place for what a scenario can do to nodes, by name.

Each act has a beginning, which says how it ends where it does (`for_s`). What is drawn at random
(whom it happens to) comes from the scenario's own generator, so that the same seed picks the same.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from protocol.config import MILLISECOND, SECOND
from simulations.attackers import Attacker, Flooder, Forger, Liar, Replayer, Spoofer
from simulations.chance import below, is_drawn
from simulations.flapping import Flapping
from simulations.section import ScenarioError, Section
from simulations.world import World

Options = Mapping[str, Any]
_AGAIN_NS: Final = 5 * SECOND
"""A person tries again."""
Ending = Callable[[], None]
Doing = Callable[[World, Sequence[int], Options], Ending | None]


def _nothing(section: Section) -> Options:
    del section
    return {}


@dataclasses.dataclass(frozen=True, slots=True)
class ActKind:
    """One thing that can be done."""

    begin: Doing
    """What it returns ends it."""
    has_end: bool = False
    keys: tuple[str, ...] = ()
    """Its own options in the file."""
    read: Callable[[Section], Options] = _nothing


# ---- to processes ----


def _crash(world: World, nodes: Sequence[int], options: Options) -> None:
    for node in nodes:
        if world.hosts[node].node is not None:
            world.crash(node, is_silent=options["silent"])


def _start(world: World, nodes: Sequence[int], options: Options) -> None:
    for node in nodes:
        host = world.hosts[node]
        if host.node is None:
            if options["new_address"]:
                world.move(node)
            if options["disk"] == "backup":
                host.restore()
            if options["disk"] == "lost":
                host.lose_disk()
            if not (host.snapshot.lives or host.snapshot.goodbyes):  # it remembers nobody
                world.start(node)
                _introduce(world, node, host.life)
            else:
                world.start(node, *[0][:node])


def _introduce(world: World, node: int, life: int) -> None:
    """Who remembers nobody is led to somebody by its owner, until it knows one."""
    host = world.hosts[node]
    if host.node is None or host.life != life or world.agreement.present(node) > 1:
        return
    others = [other.index for other in world.running() if other is not host]
    if others:
        world.introduce(node, others[below(world.chance, len(others))])
    world.at(_AGAIN_NS, lambda: _introduce(world, node, life))


def _restart(world: World, nodes: Sequence[int], options: Options) -> None:
    _crash(world, nodes, {"silent": False})
    _start(world, nodes, options)


def _back_up(world: World, nodes: Sequence[int], options: Options) -> None:
    del options
    _for_each(world.back_up, nodes)


def _leave(world: World, nodes: Sequence[int], options: Options) -> None:
    del options
    for node in nodes:
        if world.hosts[node].node is not None:
            world.leave(node)


def _pause(world: World, nodes: Sequence[int], options: Options) -> Ending:
    del options
    lives = {node: world.hosts[node].life for node in nodes}

    def hold(node: int, lives: Mapping[int, int] | None) -> None:
        host = world.hosts[node]
        if lives is None or lives[node] != host.life:  # that process is gone
            world.resume(node)
        elif not host.is_paused:
            world.pause(node)

    return world.overlaps.begin("pause", nodes, lives, hold)


def _starve(world: World, nodes: Sequence[int], options: Options) -> Ending:
    def hold(node: int, late_ns: tuple[int, int, bool] | None) -> None:
        low_ns, high_ns, is_slow = late_ns or (0, 0, False)
        world.starve(node, low_ns, high_ns, is_slow=is_slow)

    late_ns = (*options["late_ns"], options["slow"])
    return world.overlaps.begin("starve", nodes, late_ns, hold)


def _move(world: World, nodes: Sequence[int], options: Options) -> None:
    del options
    _for_each(world.move, nodes)


def _clock(world: World, nodes: Sequence[int], options: Options) -> Ending:
    def hold(node: int, wrong: tuple[int, int] | None) -> None:
        world.set_clock(node, *(wrong or (0, 0)))

    wrong = (options["drift_ppm"], options["ahead_s"])
    return world.overlaps.begin("clock", nodes, wrong, hold)


# ---- to the network ----


def _cut(world: World, nodes: Sequence[int], options: Options) -> Ending:
    del options
    cut = world.network.separate(nodes)
    return lambda: world.network.rejoin(cut)


def _block(world: World, nodes: Sequence[int], options: Options) -> Ending:
    inside = dict.fromkeys(nodes)
    others = [host.index for host in world.hosts if host.index not in inside]
    ways: list[tuple[Sequence[int], Sequence[int]]] = []
    if options["direction"] != "in":
        ways.append((nodes, others))
    if options["direction"] != "out":
        ways.append((others, nodes))
    for way in ways:
        world.network.block(*way)

    def end() -> None:
        for way in ways:
            world.network.unblock(*way)

    return end


def _sever(world: World, nodes: Sequence[int], options: Options) -> Ending:
    """Partial partition: a share of the pairs among these do not reach each other."""
    pairs = [
        (one, other)
        for place, one in enumerate(nodes)
        for other in nodes[place + 1 :]
        if is_drawn(world.chance, options["pairs_ppm"])
    ]
    for one, other in pairs:
        world.network.block([one], [other])
        world.network.block([other], [one])

    def end() -> None:
        for one, other in pairs:
            world.network.unblock([one], [other])
            world.network.unblock([other], [one])

    return end


def _lose(world: World, nodes: Sequence[int], options: Options) -> Ending:
    def hold(node: int, loss_ppm: int | None) -> None:
        world.network.set_host_loss(node, loss_ppm or 0)

    return world.overlaps.begin("loss", nodes, options["loss_ppm"], hold)


def _read_slowly(world: World, nodes: Sequence[int], options: Options) -> Ending:
    def hold(node: int, bytes_per_s: int | None) -> None:
        world.network.set_reading(node, bytes_per_s)

    return world.overlaps.begin("slow_read", nodes, options["bytes_per_s"], hold)


def _unplug(world: World, nodes: Sequence[int], options: Options) -> Ending:
    del options

    def hold(node: int, is_out: bool | None) -> None:
        (world.network.unplug if is_out else world.network.plug_in)(node)

    return world.overlaps.begin("unplug", nodes, True, hold)


def _flap(world: World, nodes: Sequence[int], options: Options) -> Ending:
    return _end_of([Flapping(world, node, options["up_ns"], options["down_ns"]) for node in nodes])


# ---- by somebody who means ill ----


def _attack(make: Callable[[World, int, int], Attacker]) -> Doing:
    def begin(world: World, nodes: Sequence[int], options: Options) -> Ending:
        return _end_of([make(world, node, options["pace_ns"]) for node in nodes])

    return begin


def _end_of(going: Sequence[Flapping] | Sequence[Attacker]) -> Ending:
    def end() -> None:
        for one in going:
            one.end()

    return end


def _for_each(do: Callable[[int], object], nodes: Sequence[int]) -> None:
    for node in nodes:
        do(node)


# ---- their own options ----


def _silent(section: Section) -> Options:
    return {"silent": section.flag("silent", default=False)}


def _starting(section: Section) -> Options:
    return {
        "new_address": section.flag("new_address", default=False),
        "disk": section.text("disk", "kept", ("kept", "backup", "lost")),
    }


def _late(section: Section) -> Options:
    return {
        "late_ns": section.span("late_ms", MILLISECOND, (500, 2_500)),
        "slow": section.flag("slow", default=False),
    }


def _clocks(section: Section) -> Options:
    return {
        "drift_ppm": section.whole("drift_ppm", -500_000, 500_000, 0),
        "ahead_s": section.whole("ahead_s", -(10**8), 10**8, 0),
    }


def _direction(section: Section) -> Options:
    return {"direction": section.text("direction", "out", ("in", "out", "both"))}


def _pairs(section: Section) -> Options:
    return {"pairs_ppm": round(section.number("pairs_percent", 0, 100) * 10_000)}


def _loss(section: Section) -> Options:
    return {"loss_ppm": round(section.number("percent", 0, 100) * 10_000)}


def _rate(section: Section) -> Options:
    return {"bytes_per_s": section.whole("bytes_s", 1, 10**9, 100)}


def _stable(section: Section) -> Options:
    spans = {
        "up_ns": section.span("up_ms", MILLISECOND, (1_000, 10_000)),
        "down_ns": section.span("down_ms", MILLISECOND, (200, 3_000)),
    }
    if min(low for low, _ in spans.values()) < MILLISECOND:
        raise ScenarioError(f"{section.place}: a line is up and down for 1 ms at least")
    return spans


def _pace(section: Section) -> Options:
    return {"pace_ns": round(section.number("pace_ms", 1, 60_000, 100) * MILLISECOND)}


ACTS: Final[Mapping[str, ActKind]] = {
    "crash": ActKind(_crash, keys=("silent",), read=_silent),
    "start": ActKind(_start, keys=("new_address", "disk"), read=_starting),
    "restart": ActKind(_restart, keys=("new_address", "disk"), read=_starting),
    "backup": ActKind(_back_up),
    "leave": ActKind(_leave),
    "pause": ActKind(_pause, has_end=True),
    "starve": ActKind(_starve, has_end=True, keys=("late_ms", "slow"), read=_late),
    "clock": ActKind(_clock, has_end=True, keys=("drift_ppm", "ahead_s"), read=_clocks),
    "move": ActKind(_move),
    "cut": ActKind(_cut, has_end=True),
    "block": ActKind(_block, has_end=True, keys=("direction",), read=_direction),
    "sever": ActKind(_sever, has_end=True, keys=("pairs_percent",), read=_pairs),
    "slow_read": ActKind(_read_slowly, has_end=True, keys=("bytes_s",), read=_rate),
    "loss": ActKind(_lose, has_end=True, keys=("percent",), read=_loss),
    "unplug": ActKind(_unplug, has_end=True),
    "flap": ActKind(_flap, has_end=True, keys=("up_ms", "down_ms"), read=_stable),
    "lie": ActKind(_attack(Liar), has_end=True, keys=("pace_ms",), read=_pace),
    "flood": ActKind(_attack(Flooder), has_end=True, keys=("pace_ms",), read=_pace),
    "forge": ActKind(_attack(Forger), has_end=True, keys=("pace_ms",), read=_pace),
    "replay": ActKind(_attack(Replayer), has_end=True, keys=("pace_ms",), read=_pace),
    "spoof": ActKind(_attack(Spoofer), has_end=True, keys=("pace_ms",), read=_pace),
}
READERS: Final = {name: (kind.keys, kind.read) for name, kind in ACTS.items()}
"""For `scenario.read_scenario`."""
