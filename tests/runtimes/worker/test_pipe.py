"""A worker that can hear nothing any more ends."""

import subprocess
import sys

PROGRAM = """
import os, threading
from runtimes.llama.frames import CODEC
from runtimes.worker import pipe

class Full:
    def __init__(self, codec): pass
    def feed(self, data): raise MemoryError

pipe.Decoder = Full
pipe.Pipe(CODEC, 0, 1).start()
threading.Event().wait()
"""


def test_without_memory_for_a_frame_the_worker_ends() -> None:
    """Its reader does not die alone, which would leave every later request without an answer."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=b"frame", capture_output=True, timeout=30
    )
    assert done.returncode == 3
    assert b"no memory" in done.stderr
