"""The one place for a job that is not over: how to stop it, and to hear how it goes on."""

from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, Final

import trio

from meshd.tasks.jobs import Job
from protocol.identity import NodeId
from runtimes.functions.call import FunctionCall

if TYPE_CHECKING:  # it brings pydantic, which only a node with jobs needs in its memory
    from meshd.tasks.descriptor import JobDescriptor

NEWS_MAX: Final = 256
"""Of a job that is placed very often, only so much is told to who waits."""


class LiveJob:
    """One job while it is driven."""

    def __init__(self, job: Job, descriptor: "JobDescriptor", call: FunctionCall) -> None:
        self.job = job
        self.descriptor = descriptor
        self.call = call
        self.deadline = trio.current_time() + descriptor.deadline_s
        self.failures: Counter[NodeId] = Counter()
        """How often each node has failed it."""
        self.scope = trio.CancelScope()
        """Cancelled when somebody cancels the job."""
        self.over = trio.Event()
        self._news: list[Mapping[str, Any]] = []
        self._has_news = trio.Event()

    def tell(self, event: str, **more: object) -> None:
        """Something happened."""
        if len(self._news) < NEWS_MAX:
            self._news.append({"job": self.job.id, "event": event, **more})
            self._wake()

    def end(self) -> None:
        """The job is over, and kept."""
        self.over.set()
        self._wake()

    async def news(self) -> AsyncGenerator[Mapping[str, Any], None]:
        """What happens, from the beginning until it is over."""
        told = 0
        while True:
            while told < len(self._news):
                told += 1
                yield self._news[told - 1]
            if self.over.is_set():
                return
            await self._has_news.wait()

    def _wake(self) -> None:
        self._has_news.set()
        self._has_news = trio.Event()
