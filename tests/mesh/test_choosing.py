"""Requests go where they are done soonest, as it was learned; or as a request says."""

import pathlib

import pytest

from tests.helpers.daemons import Daemons, wait_whole

pytestmark = pytest.mark.processes


def test_the_faster_of_two_is_found_out_and_asked(tmp_path: pathlib.Path) -> None:
    """A gateway that knows nothing tries both; then the slow one is asked only when told to."""
    with Daemons(tmp_path) as daemons:
        slow, fast = "test:words,delay_ms=60,slots=4", "test:words,delay_ms=2,slots=4"
        nodes = daemons.mesh({"cleo": "none", "slow": slow, "fast": fast})
        cleo = nodes[0]

        def ask(**headers: str) -> str:
            body = {
                "model": "words",
                "messages": [{"role": "user", "content": "Hi"}],
                "max_tokens": 16,
            }
            reply = cleo.request("POST", "/v1/chat/completions", body, **headers)
            assert reply.status == 200, reply.body
            return reply.headers["x-meshd-node"]

        turns = {"x-meshd-policy": "round_robin"}
        wait_whole(nodes)  # on a busy machine one may be in doubt, and is not asked then
        assert {ask(**turns) for _ in range(4)} == {"fast", "slow"}
        assert [ask() for _ in range(8)].count("fast") >= 7
        wait_whole(nodes)
        assert {ask(**turns) for _ in range(4)} == {"fast", "slow"}
        assert (
            cleo.request("POST", "/v1/chat/completions", {}, **{"x-meshd-policy": "x"}).status
            == 400
        )
