"""What is asked of the system itself, by a process of its own."""

import subprocess
import sys

import pytest

ASK = """
import resource
from meshd import posix
hard = {hard}
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
posix.allow_open_files(200)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
posix.allow_open_files(100)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
@pytest.mark.parametrize(("hard", "soft"), [(300, 200), (150, 150)])
def test_open_files_are_allowed_as_far_as_the_system_does(hard: int, soft: int) -> None:
    """Up to what is asked for or permitted, and never fewer than there were."""
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(hard=hard)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == [f"{soft} {hard}"] * 2
