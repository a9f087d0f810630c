"""The one place for how long a mesh may take, computed from its configuration."""

from typing import Final

from protocol.config import SCORE_MAX, SECOND, ProtocolConfig
from protocol.push_pull import push_pull_period
from protocol.suspicion import timeout_bounds

SPREAD_NS: Final = 2 * SECOND
"""For a rumour to reach everybody."""
_TROUBLED: Final = 9
"""How many times as long it may take while others are slow, lost or cut off (as in the library
kinship's own properties)."""


def crash_ns(config: ProtocolConfig, nodes: int, *, is_troubled: bool) -> int:
    """From a crash until every node says so: at most 2n - 1 periods until the next probe of it
    (SWIM, round-robin), the longest suspicion, and the spreading.
    """
    periods_ns = (2 * (nodes - 1) + 1) * config.probe_interval_ns
    total_ns = periods_ns + timeout_bounds(config, nodes)[1] + SPREAD_NS
    return total_ns * _TROUBLED if is_troubled else total_ns


def agreement_ns(config: ProtocolConfig, nodes: int) -> int:
    """From the end of all faults until all views are one: a crash is seen by nodes that may still
    think badly of their own health, missing members are tried again, and who missed a rumour is
    told in a push/pull.
    """
    slow = (SCORE_MAX + 1) * crash_ns(config, nodes, is_troubled=False)
    missing = nodes * config.reconnect_interval_ns
    return slow + missing + 2 * push_pull_period(config, nodes)
