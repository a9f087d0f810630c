"""The one place where whoever asks this node's gateway becomes what serving nodes are told of it.

They learn that two requests are of one key, or of one user, and no more: names are hashed under a
secret that this process draws when it starts and tells nobody.
"""

import hashlib
import secrets
from typing import Final

from meshd.answer import RequestOptions
from protocol.records import Priority
from protocol.requester import NAME_BYTES_MAX, Requester

_SECRET: Final = secrets.token_bytes(32)


def requester_of(options: RequestOptions) -> Requester:
    """Who is behind a request of this gateway."""
    policy = options.policy
    return Requester(
        key=_hashed(b"key", policy.name) if policy is not None else b"",
        user=_hashed(b"user", options.user) if options.user else b"",
        priority=Priority[policy.priority.name] if policy is not None else Priority.NORMAL,
        is_batch=options.is_batch,
        is_impatient=options.is_impatient,
    )


def _hashed(kind: bytes, name: str) -> bytes:
    data = name.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=NAME_BYTES_MAX // 2, key=_SECRET, person=kind).digest()
