"""The one place that runs in the downloading process: told what to fetch, it says how it goes.

Started as `python -m runtimes.models.hub_worker PARENT_PID`. A process of its own, because it ends
at once when nobody wants the model any more, whatever the network library is waiting for; what it
has written by then is kept for the next one.
"""

import os
import sys
import threading
import time

from runtimes.base import RuntimeFailure
from runtimes.models.hub_frames import CODEC, Fetch, Fetched, FetchFailed, Fetching, Frame
from runtimes.models.hub_reference import HubReference
from runtimes.worker.beginning import begin
from runtimes.worker.pipe import EXIT_NONSENSE, Pipe

REPORT_S = 0.25
"""Progress is told so often at most."""
QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_SYMLINKS_WARNING": "1",
}
"""Nobody is told what this machine downloads but the Hub itself."""


def main() -> None:
    """Fetch one model and end."""
    pipe, order = begin(CODEC, Fetch)
    if any(len(pair) != 2 for pair in order.environment):
        sys.exit(EXIT_NONSENSE)
    # huggingface_hub reads these when it is imported, so it must not be before now.
    for name, value in order.environment:
        os.environ[name] = value
    os.environ.update(QUIET)
    from runtimes.models.hub_download import HubDownload

    reference = HubReference(repository=order.repository, quantization=order.quantization)
    reporter = Reporter(pipe)
    try:
        path = HubDownload(reference, order.with_projector, reporter.report).run()
    except RuntimeFailure as failure:
        last: Frame = FetchFailed(code=failure.code, message=failure.message)
    else:
        last = Fetched(path=os.fsencode(path))
    reporter.flush()
    pipe.send(last)


class Reporter:
    """Passes progress on, not more often than anybody wants to know, and the last always."""

    def __init__(self, pipe: Pipe[Frame]) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._untold: Fetching | None = None
        threading.Thread(target=self._run, daemon=True, name="reporter").start()

    def report(self, progress: Fetching) -> None:
        """It has come so far; told soon."""
        self._untold = progress

    def flush(self) -> None:
        """Tell now what was not told yet."""
        with self._lock:
            untold, self._untold = self._untold, None
            if untold is not None:
                self._pipe.send(untold)

    def _run(self) -> None:
        while True:
            time.sleep(REPORT_S)
            self.flush()


if __name__ == "__main__":
    main()
