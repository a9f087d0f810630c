"""What holds for all tests: properties are judged by what they say, not by how long they take; and
those that start real processes run one after the other, beside those that only compute.
"""

import os

import pytest
from hypothesis import settings

settings.register_profile("meshd", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("meshd")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Daemons of several tests at once would wait for each other's processor."""
    for item in items:
        if item.get_closest_marker("processes") is not None:
            item.add_marker(pytest.mark.xdist_group("processes"))
