"""Two copies of one home: one identity, one member."""

import pathlib
import shutil

import pytest

from tests.helpers.daemons import Daemons, until, wait_state

pytestmark = pytest.mark.processes


def test_of_two_copies_of_a_home_the_newer_one_is_the_member(tmp_path: pathlib.Path) -> None:
    """The older stays up, is silent, and says so; the others see one live member, never a death."""
    with Daemons(tmp_path) as daemons:
        anna, bert = daemons.mesh({"anna": "none", "bert": "none"})
        copy = daemons.add("copy", model="none")
        shutil.copytree(
            bert.home.path, copy.home.path, ignore=shutil.ignore_patterns("*.sock", "*.lock")
        )
        copy.launch().ready()
        assert copy.id == bert.id
        until("the older copy knows", lambda: bert.status()["superseded"], 10.0)
        until("it says so", lambda: "--new-identity" in bert.log_text(), 10.0)
        until(
            "anna speaks with the newer",
            lambda: anna.nodes() == {"anna": "alive", "copy": "alive"},
            10.0,
        )
        assert not copy.status()["superseded"]
        bert.kill()
        wait_state([anna], "copy", "alive", 10.0)
        assert sorted(anna.nodes()) == ["anna", "copy"]
        assert copy.chat("nothing").status == 404
        daemons.check_logs()
