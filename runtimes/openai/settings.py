"""The one place for what an upstream was asked to be: address, key, sizes, patience."""

import dataclasses
import os
import secrets
from collections.abc import Mapping

from runtimes.base import RuntimeFailure
from runtimes.openai.address import UpstreamAddress, read_url
from runtimes.source_options import check_names, integer_option

KEY_VARIABLE = "MESHD_UPSTREAM_KEY"
KEY_CHARACTERS_MAX = 4096
SLOTS_DEFAULT = 8
OPTIONS = ("api_key", "slots", "queue", "see", "continue")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSettings:
    """One upstream and how to ask it."""

    address: UpstreamAddress
    api_key: str | None = dataclasses.field(default=None, repr=False)
    """Sent to the upstream, and shown to nobody else."""
    slots: int | None = None
    """Requests at once for each model; None: 8, or 1 where the server is known to take one."""
    queue_max: int = 64
    """Requests that may wait for each model; more are refused."""
    sees: bool | None = None
    """Whether its models that generate see images; None: those of which it tells so."""
    continues: bool | None = None
    """Whether it goes on behind an assistant's last message; None: those that are known to."""
    salt: bytes = dataclasses.field(default_factory=lambda: secrets.token_bytes(16), repr=False)
    """Makes content hashes this node's own: two nodes' 127.0.0.1 are two machines."""
    look_s: float = 5.0
    """Between two looks at the models; longer and longer while the upstream is down."""
    look_s_max: float = 30.0
    look_timeout_s: float = 4.0
    """With `look_s` less than ten seconds, so that a dead host is out of the lists by then."""
    look_pause_s: float = 0.3
    """At least so much between two looks, whatever goes wrong meanwhile."""
    connect_s: float = 3.0
    first_byte_s: float = 120.0
    """From the request to the answer's first byte: an upstream may load its model first."""
    silence_s: float = 120.0
    """Between two pieces of an answer."""
    usage_s: float = 5.0
    """After the last token, for the counts and the stream's end."""

    def without_key(self, text: str) -> str:
        """`text` with the API key made unreadable, should an upstream repeat it."""
        return text.replace(self.api_key, "...") if self.api_key else text


def read_settings(source: str, options: Mapping[str, str]) -> UpstreamSettings:
    """Turn a URL and options into settings.

    Raises RuntimeFailure: `invalid_model` (the URL) or `bad_request` (an option or the key), with
    one line that says the mend.
    """
    check_names(options, OPTIONS)
    address = read_url(source)
    slots = integer_option(options, "slots", 1, 1024)
    queue_max = integer_option(options, "queue", 0, 10_000)
    sees = integer_option(options, "see", 0, 1)
    continues = integer_option(options, "continue", 0, 1)
    return UpstreamSettings(
        address=address,
        api_key=_key(options),
        slots=slots,
        queue_max=64 if queue_max is None else queue_max,
        sees=None if sees is None else bool(sees),
        continues=None if continues is None else bool(continues),
    )


def _key(options: Mapping[str, str]) -> str | None:
    key = options.get("api_key", os.environ.get(KEY_VARIABLE, "")).strip()
    if not key:
        return None
    is_plain = key.isascii() and key.isprintable() and " " not in key
    if not is_plain or len(key) > KEY_CHARACTERS_MAX:
        raise _bad(f"the upstream's API key ({KEY_VARIABLE}) has characters that no key has")
    return key


def _bad(message: str) -> RuntimeFailure:
    return RuntimeFailure("bad_request", message)
