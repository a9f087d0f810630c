"""The one place for letting a node run dry: what runs here ends, and nothing more comes."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from meshd.control import Handler
from meshd.local_models import LocalModels
from protocol.messages import Load

log = structlog.get_logger()


class Draining:
    """Whether this node serves. While it drains it offers nothing, and whoever waits for a turn is
    refused, so that he is served elsewhere; this node's own apps are, too.
    """

    def __init__(
        self, models: LocalModels, changed: Callable[[], None], load: Callable[[], Load]
    ) -> None:
        """`changed` is called when what can be served is other than before; `load`: of all that
        runs here.
        """
        self._models = models
        self._changed = changed
        self._load = load

    def handlers(self) -> dict[str, Handler]:
        """What may be asked."""
        return {"drain": self.drain}

    async def drain(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin, or end it (`is_over`); to be asked again for how far it is: `{"draining",
        "queued", "running", "slots"}`.
        """
        is_draining = not arguments.get("is_over")
        self.set(is_draining=is_draining)
        return {"draining": is_draining, **dataclasses.asdict(self._load())}

    def set(self, *, is_draining: bool) -> None:
        """Begin, or end it."""
        if is_draining is not self._models.is_draining:
            self._models.is_draining = is_draining
            log.info("node.draining" if is_draining else "node.serving")
            self._changed()
