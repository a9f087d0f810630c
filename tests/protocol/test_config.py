"""The protocol's knobs."""

import dataclasses
from typing import Any

import pytest

from protocol.config import ProtocolConfig
from protocol.suspicion import timeout_bounds


@pytest.mark.parametrize(
    "change",
    [
        {"probe_timeout_ns": 0},
        {"probe_timeout_ns": 10**9},
        {"suspicion_mult": 0},
        {"suspicion_max_mult": 0},
        {"retransmit_mult": 0},
        {"gossip_nodes": 0},
        {"gossip_interval_ns": 0},
        {"health_score_max": -1},
        {"health_score_max": 8},
        {"sessions_max": 7},
    ],
)
def test_values_that_cannot_work_are_refused(change: dict[str, Any]) -> None:
    """A configuration checks itself."""
    with pytest.raises(ValueError, match="must be"):
        dataclasses.replace(ProtocolConfig(), **change)


def test_defaults_are_memberlists_lan_values() -> None:
    """Where nothing better was measured, the field's own defaults stand; suspicions are longer."""
    config = ProtocolConfig()
    assert (config.probe_interval_ns, config.probe_timeout_ns) == (10**9, 5 * 10**8)
    assert (config.indirect_probes, config.retransmit_mult, config.gossip_nodes) == (3, 4, 3)
    assert timeout_bounds(config, 5) == (4_500_000_000, 27 * 10**9)
