"""Requests over a simulated mesh: none is lost, whatever happens to who serves."""

import dataclasses
import functools
from collections.abc import Callable

import pytest

from protocol.config import SECOND
from simulations.inference.arrivals import MILLION, Poisson, Recorded, Trace
from simulations.inference.lengths import Constant, LogNormal
from simulations.inference.machines import Machine, Portion
from simulations.inference.measures import measures_of
from simulations.inference.request import Request
from simulations.inference.service import Service
from simulations.inference.workload import Workload
from simulations.library import find_scenario, resized
from simulations.pretend_crypto import PretendCrypto
from simulations.run import run
from simulations.scenario import Act, Scenario, Who
from simulations.world import World

SIZE = 5
SERVER = Machine(
    name="server",
    prefill_milli=1_000_000,
    decode_milli=100_000,
    slots=1,
    queue=1,
    slowdown_ppm=0,
    load_ns=3 * SECOND,
)


def _workload(*rows: Recorded, servers: int = 2, **changes: object) -> Workload:
    """Node 0 asks and serves not; two of five serve, nodes 1 and 3."""
    plain = Workload(
        portions=(Portion(machine=SERVER, count=servers),),
        prompt=Constant(100),
        output=Constant(101),
        arrivals=Trace(tuple(sorted(rows, key=lambda row: row.at_ns))) if rows else Poisson(),
        rate_uhz=0 if rows else MILLION,
        deadline_ns=600 * SECOND,
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def _row(at_s: float, output: int = 101) -> Recorded:
    return Recorded(
        at_ns=round(at_s * SECOND), prompt_tokens=100, output_tokens=output, user=0, gateway=0
    )


class Served:
    """A mesh that is whole, with inference on top."""

    def __init__(self, workload: Workload, seed: int = 1, size: int = SIZE) -> None:
        self.world = World(size, seed, make_crypto=PretendCrypto)
        self.service = Service(self.world, workload, seed)
        for index in range(size):
            self.world.start(index, *[0][:index])
        assert self.world.run_until(self.world.is_converged, 30 * SECOND)
        self.world.run(8 * SECOND)

    def run(self, seconds: float, *acts: tuple[float, Callable[[], None]]) -> list[Request]:
        """Let requests come for so long, and acts happen at their times."""
        for at_s, act in acts:
            self.world.at(round(at_s * SECOND), act)
        self.service.begin(round(seconds * SECOND))
        self.world.run(round(seconds * SECOND))
        return self.service.requests

    def serving(self) -> int:
        """The host that runs the one request now."""
        busy = [i for i, server in self.service.servers.items() if server.load.running]
        assert len(busy) == 1
        return busy[0]


def _assert_none_is_lost(requests: list[Request]) -> None:
    for number, request in enumerate(requests):
        assert request.number == number
        assert (request.outcome == "") == (request.ended_ns is None)
    ended = sum(bool(request.outcome) for request in requests)
    in_flight = sum(request.ended_ns is None for request in requests)
    assert ended + in_flight == len(requests) > 0


def test_a_request_takes_what_the_machine_and_the_way_take() -> None:
    """0.1 s of prefill, 1 s of decode, and a connection: a few milliseconds of delay."""
    requests = Served(_workload(_row(1), _row(4))).run(20)
    for request in requests:
        assert request.outcome == "completed"
        assert request.first_ns is not None
        assert request.ended_ns is not None
        assert 0.1 < (request.first_ns - request.arrived_ns) / SECOND < 0.12
        assert 1.1 < (request.ended_ns - request.arrived_ns) / SECOND < 1.13


def test_a_refusal_goes_on_to_the_next_candidate() -> None:
    """Two servers, each with one slot and one place: of twelve at once four run, the rest fails."""
    served = Served(_workload(*[_row(1)] * 12, policy="round_robin"))
    requests = served.run(20)
    outcomes = [request.outcome for request in requests]
    assert outcomes.count("completed") == 4
    assert outcomes.count("queue_full") == 8
    full = [request for request in requests if request.outcome == "queue_full"]
    assert all(request.refusals == 2 for request in full)
    assert measures_of(served.service)["refusals"] == sum(r.refusals for r in requests) >= 16
    _assert_none_is_lost(requests)


def _crowd(gateway: int, each_s: float) -> list[Recorded]:
    """The user of a gateway asks so often, for a minute."""
    return [
        dataclasses.replace(_row(1 + number * each_s), user=gateway, gateway=gateway)
        for number in range(round(60 / each_s))
    ]


def test_gateways_share_a_machine_whatever_they_offer() -> None:
    """One offers a tenth of the other's load, and each more than its half: both get a half."""
    machine = dataclasses.replace(SERVER, queue=16)
    served = Served(
        _workload(
            *_crowd(0, 0.1),
            *_crowd(1, 1.0),
            portions=(Portion(machine=machine, count=1),),
            gateways=2,
        )
    )
    requests = served.run(61)
    done = [r.user for r in requests if r.outcome == "completed"]
    assert len(done) >= 50
    assert abs(done.count(0) - done.count(1)) <= 2
    assert measures_of(served.service)["fairness_tokens"] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("has_one_owner", [True, False])
def test_the_owner_of_a_machine_is_next_there(has_one_owner: bool) -> None:
    """Of many of others one runs to its end, then all six of his; where all are his, they only
    share.
    """
    place = 2  # where the one machine is
    his = [dataclasses.replace(_row(30), user=place, gateway=place)] * 6
    machine = dataclasses.replace(SERVER, queue=16)
    served = Served(
        _workload(
            *_crowd(0, 0.2),
            *his,
            portions=(Portion(machine=machine, count=1),),
            gateways=place + 1,
            has_one_owner=has_one_owner,
        )
    )
    assert [*served.service.servers] == [place]
    own = [request for request in served.run(61) if request.user == place]
    ended = [request.ended_ns for request in own if request.ended_ns is not None]
    assert len(ended) == 6
    took_s = (max(ended) - own[0].arrived_ns) / SECOND
    assert took_s > 10 if has_one_owner else took_s < 8


def test_nobody_is_asked_twice_while_others_are_free() -> None:
    """What the gateway itself has running counts at once, long before gossip tells."""
    requests = Served(_workload(*[_row(1)] * 2)).run(20)
    assert sorted(request.server or 0 for request in requests) == [1, 3]


@pytest.mark.parametrize("is_silent", [False, True])
def test_who_dies_before_the_first_token_is_followed_by_another(is_silent: bool) -> None:
    """At once when its machine refuses; when the mesh has found it dead, if it is silent."""
    served = Served(_workload(dataclasses.replace(_row(1), prompt_tokens=5_000)))
    requests = served.run(
        60, (3, lambda: served.world.crash(served.serving(), is_silent=is_silent))
    )
    assert [request.outcome for request in requests] == ["completed"]
    assert requests[0].retries == 1
    assert requests[0].first_ns is not None
    late_s = (requests[0].first_ns - requests[0].arrived_ns) / SECOND - 7
    assert late_s > 3 if is_silent else late_s < 0.1


@pytest.mark.parametrize("may_continue", [False, True])
def test_who_dies_after_the_first_token(may_continue: bool) -> None:
    """It goes on without repeating a token; an upstream's request fails as interrupted."""
    served = Served(_workload(_row(1, output=1_001), may_continue=may_continue))
    requests = served.run(40, (5, lambda: served.world.crash(served.serving())))
    assert len(requests) == 1
    kept = requests[0].kept_tokens
    assert 380 < kept < 400
    if may_continue:
        assert (requests[0].outcome, requests[0].continuations) == ("completed", 1)
        assert requests[0].ended_ns is not None
        spent_s = (requests[0].ended_ns - requests[0].arrived_ns) / SECOND
        assert spent_s == pytest.approx(0.1 + 10 + (100 + kept) / 1_000, abs=0.05)
        assert requests[0].served_tokens == 1_001
    else:
        assert (requests[0].outcome, requests[0].served_tokens) == ("interrupted", kept)


def test_a_restarted_server_serves_when_its_model_is_loaded() -> None:
    """Until then it refuses, and the only one there was fails requests."""
    served = Served(_workload(*[_row(at_s) for at_s in (4, 6, 9, 20)], servers=1))

    def restart() -> None:
        only = next(iter(served.service.servers))
        served.world.crash(only)
        served.world.start(only, 0)

    requests = served.run(40, (5, restart))
    early, loading, late, last = requests
    assert early.outcome == "interrupted"
    assert loading.outcome in ("unavailable", "model_not_found")
    assert (late.outcome, last.outcome) == ("completed", "completed")


def test_a_gateway_that_dies_takes_its_requests_with_it() -> None:
    """And its servers are free again."""
    served = Served(_workload(*[_row(1, output=2_000)] * 3, _row(6)))
    requests = served.run(10, (4, lambda: served.world.crash(0)))
    assert [request.outcome for request in requests] == ["gateway_gone"] * 4
    assert all(server.load.running == 0 for server in served.service.servers.values())


def test_a_deadline_ends_a_request_and_frees_its_slot() -> None:
    """Wherever it is by then."""
    served = Served(_workload(_row(1, output=10_000), deadline_ns=5 * SECOND))
    requests = served.run(20)
    assert requests[0].outcome == "timeout"
    assert requests[0].ended_ns == requests[0].arrived_ns + 5 * SECOND
    assert 480 < requests[0].kept_tokens < 500
    assert all(server.load.running == 0 for server in served.service.servers.values())


def test_a_paused_server_goes_on_where_it_was() -> None:
    """What stands still computes nothing."""
    served = Served(_workload(_row(1, output=301)))

    def pause() -> None:
        index = served.serving()
        served.world.pause(index)
        served.world.at(2 * SECOND, functools.partial(served.world.resume, index))

    requests = served.run(20, (2, pause))
    assert requests[0].outcome == "completed"
    assert requests[0].ended_ns is not None
    assert (requests[0].ended_ns - requests[0].arrived_ns) / SECOND == pytest.approx(5.1, abs=0.05)


def test_utilisation_is_the_offered_load() -> None:
    """And requests in the system are rate times time there (Little), on one seed."""
    workload = _workload(
        servers=2,
        portions=(Portion(machine=dataclasses.replace(SERVER, slots=4, queue=500), count=2),),
        output=LogNormal(100, 500_000, 1_000),
        rate_uhz=0,
        load_ppm=700_000,
    )
    served = Served(workload, size=3)
    requests = served.run(300)
    measures = measures_of(served.service)
    assert measures["requests_failed"] == 0
    asked_s = sum(r.prompt_tokens / 1_000 + (r.output_tokens - 1) / 100 for r in requests)
    assert measures["utilisation_server"] == pytest.approx(asked_s / 8 / 300, rel=0.02)
    assert measures["utilisation_server"] == pytest.approx(0.7, rel=0.1)
    inside, samples = 0, range(300)
    for at_s in samples:
        at_ns = served.service.begun_ns + at_s * SECOND
        inside += sum(r.arrived_ns <= at_ns < (r.ended_ns or 1 << 62) for r in requests)
    spent = [r.ended_ns - r.arrived_ns for r in requests if r.ended_ns is not None]
    rate_hz, mean_s = len(requests) / 300, sum(spent) / len(spent) / SECOND
    assert inside / len(samples) == pytest.approx(rate_hz * mean_s, rel=0.05)


def test_loads_are_as_old_as_gossip_makes_them() -> None:
    """Twelve nodes ping one each second: a load is some seconds old. Told late, it is so late."""
    served = Served(_workload(servers=11, rate_uhz=2 * MILLION), size=12)
    served.run(60)
    measures = measures_of(served.service)
    assert measures["load_age_p50_s"] is not None
    assert measures["load_age_p99_s"] is not None
    assert 1 < measures["load_age_p50_s"] < 8 < measures["load_age_p99_s"] < 30
    late = Served(_workload(rate_uhz=2 * MILLION, told_ns=(SECOND, 5 * SECOND)))
    late.run(60)
    ages = measures_of(late.service)
    assert ages["load_age_p50_s"] == pytest.approx(3, abs=0.3)
    assert ages["load_age_p99_s"] == pytest.approx(5, abs=0.2)


@pytest.mark.parametrize("name", ["inference_poisson", "inference_bursty", "inference_churn"])
def test_the_library_loses_nothing(name: str) -> None:
    """What came is completed, has failed, or is in flight; where nobody dies nothing fails."""
    scenario = _short(name)
    measures = run(scenario, 2).measures
    ends = ("requests_completed", "requests_failed", "requests_in_flight")
    assert measures["requests"] == sum(measures[end] or 0 for end in ends)
    assert (measures["requests_completed"] or 0) > 100
    if name != "inference_churn":
        assert measures["requests_failed"] == 0


def _short(name: str) -> Scenario:
    scenario = resized(find_scenario(name), 12)
    assert scenario.inference is not None
    workload = dataclasses.replace(scenario.inference, lasts_ns=40 * SECOND)
    return dataclasses.replace(scenario, duration_ns=50 * SECOND, inference=workload)


def test_acts_know_classes_and_gateways() -> None:
    """By their names, without an act that makes the group."""
    scenario = _short("inference_poisson")
    spare = Act(do="move", at_ns=0, who=Who(count=99, but=("gateways",)))
    slow = Act(do="move", at_ns=1, who=Who(count=99, among="cpu"))
    worlds: list[World] = []
    changed = dataclasses.replace(scenario, acts=(spare, slow))
    run(changed, 1, watch=lambda world, _: worlds.append(world))
    moves: dict[int, list[int]] = {}
    for at_ns, host, act in worlds[0].history:
        if act == "move":
            moves.setdefault(at_ns, []).append(host)
    first, second = (moves[at_ns] for at_ns in sorted(moves))
    assert first == [8, 9, 10, 11]
    assert len(second) == 4


def test_one_seed_decides_everything() -> None:
    """The same seed gives the same trace, another one another, and so does another policy; which
    requests come does not depend on the policy.
    """
    scenario = _short("inference_bursty")
    assert scenario.inference is not None
    once, again, other = (run(scenario, seed) for seed in (3, 3, 4))
    assert once == again
    assert once.trace_hash != other.trace_hash
    workload = dataclasses.replace(scenario.inference, policy="random")
    rerouted = run(dataclasses.replace(scenario, inference=workload), 3)
    assert rerouted.trace_hash != once.trace_hash
    assert rerouted.measures["requests"] == once.measures["requests"]


def test_what_happens_to_requests_is_in_the_trace() -> None:
    """Also where gossip cannot notice it: how a request ends in the same moment."""
    hashes: dict[str, None] = {}
    for policy in ("round_robin", "meshd"):
        served = Served(_workload(_row(1, 1), policy=policy, servers=1), size=2)
        assert [request.outcome for request in served.run(2)] == ["completed"]
        hashes[served.world.trace_hash] = None
    assert len(hashes) == 1
    served = Served(_workload(_row(1, 1), servers=1, deadline_ns=SECOND // 100), size=2)
    assert [request.outcome for request in served.run(2)] == ["timeout"]
    assert served.world.trace_hash not in hashes
