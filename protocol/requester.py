"""The one place for who is behind a request, in the words of the node that asks."""

import dataclasses
from typing import Final

from protocol.fields import Fields
from protocol.records import Priority

NAME_BYTES_MAX: Final = 16
_CLASS_MAX: Final = 255
_BATCH: Final = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Requester:
    """A key and a user of that node, and how the request may be treated. It only divides what the
    node itself may have.
    """

    key: bytes = b""
    """Names an API key without giving anything of it away; empty: none."""
    user: bytes = b""
    """Names a user of that key, in the same way."""
    priority: Priority = Priority.NORMAL
    """Among the requests of that node."""
    is_batch: bool = False
    """It can wait: others first."""
    is_impatient: bool = False
    """It does not wait until a model is loaded."""


ANYBODY: Final = Requester()


def to_fields(requester: Requester) -> tuple[int | bytes, ...]:
    """The form in which an Ask carries it."""
    is_batch = _BATCH if requester.is_batch else 0
    told = is_batch, int(requester.priority), requester.key, requester.user
    return (*told, 1) if requester.is_impatient else told


def take_requester(items: object) -> Requester:
    """The inverse; a class or a priority of a later version counts as the nearest that is known.
    Raises Refused(MALFORMED).
    """
    fields = Fields(items)
    request_class = fields.take_int(0, _CLASS_MAX)
    priority = min(fields.take_int(0, _CLASS_MAX), max(Priority))
    key, user = fields.take_blob(NAME_BYTES_MAX), fields.take_blob(NAME_BYTES_MAX)
    return Requester(
        key=key,
        user=user,
        priority=Priority(priority),
        is_batch=request_class == _BATCH,
        is_impatient=fields.has_more and fields.take_int(0, _CLASS_MAX) == 1,
    )
