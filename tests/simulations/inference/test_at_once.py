"""Meshes that are put together at once, and serve as others do."""

import dataclasses

import pytest

from protocol.config import SECOND, ProtocolConfig
from simulations.inference.arrivals import MILLION
from simulations.inference.service import Service
from simulations.library import find_scenario, resized
from simulations.plain_swim import PlainSwim
from simulations.run import run
from simulations.section import ScenarioError
from simulations.world import World


def test_a_mesh_that_is_there_at_once_serves_at_once() -> None:
    """As one that has found together: its gateways know who offers what, and how fast each is."""
    known = resized(find_scenario("inference_poisson"), 10)
    assert known.inference is not None
    scenario = dataclasses.replace(
        known,
        form="at_once",
        duration_ns=60 * SECOND,
        inference=dataclasses.replace(
            known.inference, gateways=5, users=5, load_ppm=MILLION // 5, lasts_ns=10 * SECOND
        ),
    )
    speeds: list[bool] = []

    def watch(world: World, start_ns: int) -> None:
        assert start_ns == 0
        assert world.is_converged()
        service = world.listener
        assert isinstance(service, Service)
        for gateway in service.gateways:
            offering = gateway.view.offering()
            speeds.extend(c.speed is not None for c in gateway.view.candidates(offering, {}))

    measures = run(scenario, 1, watch=watch).measures
    assert measures["requests"]
    assert measures["requests_completed"] == measures["requests"]
    assert speeds == [True] * 5 * 10


def test_a_mesh_at_once_is_of_our_own_nodes() -> None:
    """Others cannot be made to know each other without speaking."""
    scenario = dataclasses.replace(find_scenario("single_death"), form="at_once")
    with pytest.raises(ScenarioError, match="our own nodes only"):
        run(scenario, 1, make_node=PlainSwim)


def test_loads_by_a_fixed_delay_need_no_gossip() -> None:
    """No probe is sent, every load is so old, and all are answered."""
    known = resized(find_scenario("inference_poisson"), 10)
    assert known.inference is not None
    scenario = dataclasses.replace(
        known,
        form="at_once",
        protocol=ProtocolConfig(
            probe_interval_ns=3_600 * SECOND, push_pull_interval_ns=3_600 * SECOND
        ),
        duration_ns=60 * SECOND,
        inference=dataclasses.replace(
            known.inference,
            gateways=5,
            users=5,
            load_ppm=MILLION // 5,
            lasts_ns=10 * SECOND,
            told_ns=(SECOND, 5 * SECOND),
        ),
    )
    traffic: dict[str, list[int]] = {}
    measures = run(
        scenario, 1, watch=lambda world, start_ns: traffic.update(world.traffic)
    ).measures
    assert "ping" not in traffic
    assert measures["requests_completed"] == measures["requests"]
    assert measures["load_unknown_share"] == 0
    age_p50_s, age_p99_s = measures["load_age_p50_s"], measures["load_age_p99_s"]
    assert age_p50_s is not None
    assert age_p99_s is not None
    assert 1 <= age_p50_s <= age_p99_s <= 5.3
