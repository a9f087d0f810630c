"""What holds for all tests: properties are judged by what they say, not by how long they take."""

import os

from hypothesis import settings

settings.register_profile("meshd", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("meshd")
