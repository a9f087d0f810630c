"""The one place for the worker's ends of the pipe to its daemon.

A reader thread takes frames in, so that it notices the end of the daemon at once, also while the
main thread computes.
"""

import collections
import os
import threading
from typing import Generic, TypeVar

from runtimes.worker.framing import Codec, Decoder, FrameError

EXIT_DAEMON_GONE = 0
EXIT_NONSENSE = 2
EXIT_NO_MEMORY = 3
READ_BYTES = 65536
INBOX_FRAMES_MAX = 1024
"""A daemon that sends more before the worker looks is not ours."""

F = TypeVar("F")


class Pipe(Generic[F]):
    """The worker's two ends of the pipe. Writing is safe from any thread."""

    def __init__(self, codec: Codec[F], reading: int, writing: int) -> None:
        self._codec = codec
        self._reading = reading
        self._writing = writing
        self._lock = threading.Lock()
        self._arrived = threading.Condition()
        self._inbox: collections.deque[F] = collections.deque()

    def start(self) -> None:
        """Start the reader thread."""
        threading.Thread(target=self._read, daemon=True, name="reader").start()

    def take(self, *, wait: bool) -> list[F]:
        """All frames that have arrived; with `wait`, at least one."""
        with self._arrived:
            while wait and not self._inbox:
                self._arrived.wait()
            frames = list(self._inbox)
            self._inbox.clear()
            return frames

    def send(self, *frames: F) -> None:
        """Write frames at once, so that the daemon wakes once for them.

        Blocks while the pipe is full, ends the process when it is closed.
        """
        data = memoryview(b"".join(map(self._codec.encode, frames)))
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._writing, data) :]
            except OSError:
                os._exit(EXIT_DAEMON_GONE)

    def _read(self) -> None:
        decoder = Decoder(self._codec)
        try:
            while data := os.read(self._reading, READ_BYTES):
                for frame in decoder.feed(data):
                    with self._arrived:
                        if len(self._inbox) >= INBOX_FRAMES_MAX:
                            raise FrameError("too many frames")
                        self._inbox.append(frame)
                        self._arrived.notify()
        except FrameError as error:
            os.write(2, f"the daemon sent nonsense: {error}\n".encode())
            os._exit(EXIT_NONSENSE)
        except OSError:
            pass  # as good as the end of the pipe
        except MemoryError:  # a worker that hears nothing any more is of no use
            os.write(2, b"there is no memory left for what the daemon sends\n")
            os._exit(EXIT_NO_MEMORY)
        os._exit(EXIT_DAEMON_GONE)


def take_over_pipes(codec: Codec[F]) -> Pipe[F]:
    """Keep the pipes to oneself: what other code prints goes to standard error."""
    pipe = Pipe(codec, os.dup(0), os.dup(1))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return pipe
