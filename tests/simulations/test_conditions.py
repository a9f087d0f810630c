"""Conditions of the network and of hosts, in whole worlds."""

from protocol.config import MILLISECOND, SECOND
from protocol.errors import DropReason
from protocol.events import OfferChanged
from protocol.members import State
from simulations.latency import Path, Regions, even
from simulations.lines import LineOptions
from simulations.nat import NatKind
from simulations.network import NetworkOptions
from simulations.pretend_crypto import PretendCrypto
from simulations.world import World

HOUR_S = 3_600


def _world(size: int, options: NetworkOptions | None = None, seed: int = 1) -> World:
    world = World(size, seed, network=options, make_crypto=PretendCrypto)
    for index in range(size):
        world.start(index, *[0][:index])
    return world


def _measured_ns(world: World, one: int, other: int) -> int:
    node = world.hosts[one].mesh_node
    assert node is not None
    found = node.round_trip_ns(world.hosts[other].crypto.node_id)
    assert found is not None
    return found


def test_regions_are_far_apart_and_near_inside() -> None:
    """Round trips that the nodes measure are those of the paths."""
    far = Path(even(50 * MILLISECOND, 51 * MILLISECOND))
    regions = Regions(("east", "west"), (1, 1), {(0, 1): far})
    options = NetworkOptions(delay=even(MILLISECOND, 2 * MILLISECOND), regions=regions)
    world = _world(4, options)
    assert world.run_until(world.is_converged, 30 * SECOND)
    world.run(60 * SECOND)
    assert _measured_ns(world, 0, 1) < 5 * MILLISECOND
    assert 100 * MILLISECOND <= _measured_ns(world, 0, 2) < 110 * MILLISECOND


def test_a_path_loses_what_it_says() -> None:
    """Between its regions only."""
    lossy = Path(even(1, 2), loss_ppm=1_000_000)
    regions = Regions(("east", "west"), (1, 1), {(0, 1): lossy})
    network = _world(4, NetworkOptions(regions=regions)).network
    assert not any(network.delays(0, 2) for _ in range(50))
    assert all(network.delays(0, 1) for _ in range(50))


def test_reordered_datagrams_are_overtaken() -> None:
    """So many are held up by so much."""
    options = NetworkOptions(
        delay=even(1_000, 1_000), reorder_ppm=200_000, reorder_ns=(5_000, 6_000)
    )
    network = _world(2, options).network
    delays = [delay for _ in range(2_000) for delay in network.delays(0, 1)]
    late = [delay for delay in delays if delay != 1_000]
    assert all(6_000 <= delay < 7_000 for delay in late)
    assert 300 < len(late) < 500


def test_narrow_lines_delay_and_lose() -> None:
    """A mesh on modems comes together, but later; nothing is faster than its line."""
    slow = NetworkOptions(line=LineOptions(up_bytes_per_s=4_000, down_bytes_per_s=4_000))
    worlds = [_world(5), _world(5, slow)]
    took = []
    for world in worlds:
        assert world.run_until(world.is_converged, 60 * SECOND)
        took.append(world.now)
    assert took[1] > took[0] + 100 * MILLISECOND


def test_nodes_behind_translators_are_members_like_others() -> None:
    """Of every class, as long as somebody can be reached; nobody calls them dead."""
    for kind in NatKind:
        world = _world(6, NetworkOptions(nat_ppm=((kind, 340_000),)))
        assert world.run_until(world.is_agreed, 60 * SECOND), kind
        world.run(60 * SECOND)
        assert world.mistakes == [], kind
        assert world.is_agreed(), kind


def test_streams_do_not_get_through_a_translator() -> None:
    """From outside; what is inside may open them."""
    world = _world(3, NetworkOptions(nat_ppm=((NatKind.FULL_CONE, 340_000),)))
    assert not world.network.lets_streams_in(world.hosts[2])
    assert world.network.lets_streams_in(world.hosts[1])


def test_clocks_that_drift_and_jump_kill_nobody() -> None:
    """Half a percent each way, and wall clocks wrong by a day: nobody is suspected."""
    world = _world(8)
    assert world.run_until(world.is_converged, 30 * SECOND)
    world.set_clock(1, 5_000, 24 * HOUR_S)
    world.set_clock(2, -5_000, -24 * HOUR_S)
    before = len(world.changes)
    world.run(120 * SECOND)
    assert [change for _, _, change in world.changes[before:]] == []
    assert world.hosts[1].time(world.now) > world.now + 500 * MILLISECOND


def test_a_slow_process_is_late_with_everything() -> None:
    """It knows, and judges slowly; a healthy one never says that it is late."""
    world = _world(5)
    assert world.run_until(world.is_converged, 30 * SECOND)
    world.starve(3, 500 * MILLISECOND, 2_500 * MILLISECOND, is_slow=True)
    world.run(30 * SECOND)
    slow, healthy = world.hosts[3].mesh_node, world.hosts[1].mesh_node
    assert slow is not None
    assert healthy is not None
    assert slow.health_score > 0
    world.starve(3, 0, 0)
    world.run(60 * SECOND)
    assert slow.health_score == 0
    assert world.is_agreed()


def test_a_lost_disk_ends_nothing() -> None:
    """A node that comes back with its key and its admission alone takes up its old numbers."""
    world = _world(6)
    assert world.run_until(world.is_converged, 30 * SECOND)
    before = world.hosts[3].incarnation
    world.crash(3)
    world.run(30 * SECOND)
    world.hosts[3].lose_disk()
    assert (world.hosts[3].incarnation, world.hosts[3].snapshot.lives) == (0, ())
    world.start(3)
    world.introduce(3, 1)
    assert world.run_until(world.is_converged, 30 * SECOND)
    assert all(state is State.ALIVE for state in world.states_of(3).values())
    assert world.hosts[3].incarnation > before


def test_a_restored_backup_takes_up_what_was_said_since() -> None:
    """Its disk is older than its crash: numbers, offers and acquaintances of then. It adopts its
    own later ones from its peers, and nobody is shown two of one number.
    """
    world = _world(6)
    assert world.run_until(world.is_converged, 30 * SECOND)
    host = world.hosts[3]
    world.back_up(3)
    copied = (host.incarnation, host.offers_version)
    for version in range(5):
        world.give(host, OfferChanged("model/x", b"%d" % version))
        world.move(3)
        world.run(5 * SECOND)
    before = (host.incarnation, host.offers_version)
    assert before > copied
    world.crash(3)
    world.run(30 * SECOND)
    host.restore()
    assert (host.incarnation, host.offers_version) == copied
    assert len(host.snapshot.lives) == 5
    world.start(3)
    assert world.run_until(world.is_converged, 60 * SECOND)
    world.run(60 * SECOND)
    assert world.is_converged()
    assert host.incarnation > before[0]
    offers = [h.mesh_node.offers.of(host.crypto.node_id) for h in world.hosts if h.mesh_node]
    assert all(one == offers[0] for one in offers)
    assert DropReason.EQUIVOCATION not in world.drops


def test_without_a_backup_the_first_disk_is_restored() -> None:
    """As it was when its owner had just joined."""
    world = _world(4)
    assert world.run_until(world.is_converged, 30 * SECOND)
    world.crash(3)
    world.hosts[3].restore()
    assert (world.hosts[3].incarnation, world.hosts[3].snapshot.lives) == (0, ())


def test_what_does_not_run_cannot_be_stopped() -> None:
    """A host that comes back later runs."""
    world = _world(4)
    world.crash(3)
    world.pause(3)
    world.start(3, 0)
    assert world.run_until(world.is_converged, 60 * SECOND)
