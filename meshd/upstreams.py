"""The one place that looks for OpenAI-compatible servers on this machine, to offer their models.

Only on 127.0.0.1, only on the ports where such servers usually are, and only by asking for their
list of models. Nothing joins the mesh by being found: a line says what there is and how to add it.
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Final

import structlog
import trio

from runtimes.base import RuntimeFailure
from runtimes.openai.address import UpstreamAddress, read_url
from runtimes.openai.listing import ask_models
from runtimes.openai.settings import UpstreamSettings

log = structlog.get_logger()

HOST: Final = "127.0.0.1"
USUAL_PORTS: Final = (11434, 8080, 8000, 1234)
"""Of Ollama, llama-server, vLLM and LM Studio."""
LOOK_S: Final = 0.5
"""For one port, from the connection to the last byte."""
_UNNAMED: Final = "an OpenAI-compatible server"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FoundUpstream:
    """A server whose models this node could offer."""

    url: str
    software: str
    """What it seems to be, for people."""
    models: int
    """How many it lists; at least one."""


async def offer(given: Sequence[str], own_ports: Collection[int]) -> None:
    """Log one line for each server that is there and not among the `given` URLs.

    `own_ports` are this node's, gateway included; they are not looked at. Takes half a second.
    """
    for found in await find(skipped={*own_ports, *_loopback_ports(given)}):
        log.info(
            "upstream.found",
            what=found.software,
            models=found.models,
            mend=f"to offer them to the mesh: meshd up --upstream {found.url}",
        )


async def find(
    *, skipped: Collection[int], ports: Sequence[int] | None = None
) -> list[FoundUpstream]:
    """The servers on `ports` (None: the usual ones) that are not `skipped`, in their order."""
    ports = USUAL_PORTS if ports is None else ports
    found: dict[int, FoundUpstream] = {}

    async def look(port: int) -> None:
        upstream = await _look(port)
        if upstream is not None:
            found[port] = upstream

    async with trio.open_nursery() as nursery:
        for port in ports:
            if port not in skipped:
                nursery.start_soon(look, port)
    return [found[port] for port in ports if port in found]


async def _look(port: int) -> FoundUpstream | None:
    address = UpstreamAddress(is_https=False, host=HOST, port=port, path="")
    # No key: it belongs to the servers that were named, not to whatever listens here.
    settings = UpstreamSettings(address=address, api_key=None, connect_s=LOOK_S)
    listing = None
    with trio.move_on_after(LOOK_S):
        try:
            listing = await ask_models(settings, address.bases[:1], within_s=LOOK_S)
        except RuntimeFailure:
            return None
    if listing is None or not listing.models:
        return None
    count = len(listing.models) + listing.left_out
    return FoundUpstream(url=address.url, software=listing.software or _UNNAMED, models=count)


def _loopback_ports(urls: Sequence[str]) -> set[int]:
    addresses = [read_url(url) for url in urls]
    return {address.port for address in addresses if address.is_loopback}
