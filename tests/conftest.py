"""What holds for all tests: properties are judged by what they say, not by how long they take; and
those that start real processes run one after the other, beside those that only compute.
"""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

settings.register_profile("meshd", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("meshd")


@pytest.fixture(scope="session", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is remembered of models is not mixed with what their owner's daemons remember."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        yield


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no hints
    """Real daemons one test after the other: several at once would wait for each other's
    processor. Of everything else a file at a time.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return "daemons" if path.startswith(("tests/mesh/", "tests/benchmarks/")) else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _Scheduling:
    """Where a test runs."""
    return _Scheduling(config, log)


def pytest_runtest_setup() -> None:
    """Ctrl-C reaches every test's children: `meshd up` ends by ignoring it, and so may whoever
    started the tests; a child inherits that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
