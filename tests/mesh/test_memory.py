"""What a real daemon weighs."""

import sys

import psutil
import pytest

from tests.helpers.daemons import Daemons, wait_whole

pytestmark = pytest.mark.processes

RESIDENT_BYTES_MAX = 75_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count otherwise")
def test_a_gateway_only_daemon_fits_on_a_small_machine(daemons: Daemons) -> None:
    """One that has just joined and knows the mesh takes at most 75 MB, shared pages included."""
    anna, bert = daemons.mesh({"anna": "none", "bert": "none"})
    wait_whole([anna, bert])
    for daemon in (anna, bert):
        assert psutil.Process(daemon.process.pid).memory_info().rss <= RESIDENT_BYTES_MAX
