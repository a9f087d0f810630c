"""The one place for the worker's ends of the pipe to its daemon.

A reader thread takes frames in, so that it notices the end of the daemon at once, also while the
main thread is inside a decode.
"""

import collections
import os
import threading

from runtimes.llama.frames import Frame, FrameDecoder, FrameError, encode

EXIT_DAEMON_GONE = 0
EXIT_NONSENSE = 2
READ_BYTES = 65536
INBOX_FRAMES_MAX = 1024
"""A daemon that sends more between two decodes is not ours."""


class Pipe:
    """The worker's two ends of the pipe. Writing is safe from any thread."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing
        self._lock = threading.Lock()
        self._arrived = threading.Condition()
        self._inbox: collections.deque[Frame] = collections.deque()

    def start(self) -> None:
        """Start the reader thread."""
        threading.Thread(target=self._read, daemon=True, name="reader").start()

    def take(self, *, wait: bool) -> list[Frame]:
        """All frames that have arrived; with `wait`, at least one."""
        with self._arrived:
            while wait and not self._inbox:
                self._arrived.wait()
            frames = list(self._inbox)
            self._inbox.clear()
            return frames

    def send(self, frame: Frame) -> None:
        """Write a frame; blocks while the pipe is full, ends the process when it is closed."""
        data = memoryview(encode(frame))
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._writing, data) :]
            except OSError:
                os._exit(EXIT_DAEMON_GONE)

    def _read(self) -> None:
        decoder = FrameDecoder()
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
        os._exit(EXIT_DAEMON_GONE)
