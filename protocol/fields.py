"""The one place for reading typed, bounded values out of foreign msgpack.

Every value on the wire is an array whose items are read in order. Items behind the last one that
is asked for are ignored: that is how later versions add fields.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import msgpack

from protocol.errors import DropReason, Refused


def pack(value: Any) -> bytes:  # noqa: ANN401  # msgpack's own domain: nested tuples of scalars
    """Encode nested tuples of int, bytes, str and None."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


_PACKER = msgpack.Packer(use_bin_type=True)


def pack_short(value: Any) -> bytes:  # noqa: ANN401  # as above
    """The same for what is short, in a third of the time: this packer keeps its buffer."""
    packed: bytes = _PACKER.pack(value)
    return packed


def unpack(data: bytes) -> Any:  # noqa: ANN401  # the caller reads it through Fields
    """Decode one msgpack value. Raises Refused(MALFORMED) for anything else.

    Small values take up to 80 times their encoded size, so the caller bounds the memory by
    bounding `data`.
    """
    return _unpack(data, None, None, None)


def unpack_array(
    data: bytes, arrays_max: int | None = None, items_max: int | None = None
) -> tuple[object, ...]:
    """Decode one msgpack array without maps, with at most so many arrays in it, itself included,
    and at most so many items in any of them. Raises Refused(MALFORMED) for anything else.

    What may be longer than a few kilobytes and comes from a peer needs both bounds: nothing else
    keeps a few megabytes of tiny values from taking seconds.
    """
    counted = None if arrays_max is None else _Counted(arrays_max)
    value = _unpack(data, refuse_map, counted, items_max)
    if not isinstance(value, tuple):
        raise Refused(DropReason.MALFORMED, "not an array")
    return value


def unpack_fields(
    data: bytes, arrays_max: int | None = None, items_max: int | None = None
) -> "Fields":
    """The same, to be read field by field."""
    return Fields(unpack_array(data, arrays_max, items_max))


def _unpack(
    data: bytes,
    object_pairs_hook: Callable[[object], object] | None,
    list_hook: Callable[[object], object] | None,
    items_max: int | None,
) -> object:
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            use_list=False,
            strict_map_key=True,
            object_pairs_hook=object_pairs_hook,
            list_hook=list_hook,
            ext_hook=refuse_extension,
            max_array_len=-1 if items_max is None else items_max,
        )
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise Refused(DropReason.MALFORMED, type(error).__name__) from error


class _Counted:
    """Lets so many arrays through. Millions of tiny ones in a few megabytes would cost seconds."""

    __slots__ = ("_left",)

    def __init__(self, arrays_max: int) -> None:
        self._left = arrays_max

    def __call__(self, items: object) -> object:
        """One more array."""
        if self._left == 0:
            raise Refused(DropReason.MALFORMED, "too many arrays")
        self._left -= 1
        return items


def refuse_map(pairs: object) -> NoReturn:
    """No message has maps: one byte of an empty map would cost eighty of memory."""
    raise Refused(DropReason.MALFORMED, "map")


def refuse_extension(code: int, data: bytes) -> NoReturn:
    """No message has extension types (msgpack would hand them over as tuples)."""
    raise Refused(DropReason.MALFORMED, "extension type")


class Fields:
    """The items of one array, taken from the front. Each method raises Refused(MALFORMED)."""

    __slots__ = ("_left",)

    def __init__(self, items: object) -> None:
        if not isinstance(items, tuple):
            raise Refused(DropReason.MALFORMED, "not an array")
        self._left = [*items]
        self._left.reverse()

    @property
    def has_more(self) -> bool:
        """Whether an item is left: a field that an earlier version did not have may be missing."""
        return bool(self._left)

    def take(self) -> object:
        """The next item, whatever it is."""
        if not self._left:
            raise Refused(DropReason.MALFORMED, "missing field")
        return self._left.pop()

    def take_int(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        item = self.take()
        if type(item) is not int or not low <= item <= high:
            raise Refused(DropReason.MALFORMED, "not an integer in range")
        return item

    def take_bytes(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        item = self.take()
        if not isinstance(item, bytes) or len(item) != size:
            raise Refused(DropReason.MALFORMED, f"not {size} bytes")
        return item

    def take_blob(self, size_max: int) -> bytes:
        """At most `size_max` bytes."""
        item = self.take()
        if not isinstance(item, bytes) or len(item) > size_max:
            raise Refused(DropReason.MALFORMED, f"not a blob of {size_max} bytes at most")
        return item

    def take_text(self, chars_max: int) -> str:
        """At most `chars_max` characters of UTF-8."""
        item = self.take()
        if not isinstance(item, str) or len(item) > chars_max:
            raise Refused(DropReason.MALFORMED, f"not a text of {chars_max} characters at most")
        return item

    def take_array(self, items_max: int) -> Sequence[object]:
        """An array of at most `items_max` items."""
        item = self.take()
        if not isinstance(item, tuple) or len(item) > items_max:
            raise Refused(DropReason.MALFORMED, f"not an array of {items_max} items at most")
        return item

    def take_blobs(self, items_max: int, size_max: int) -> tuple[bytes, ...]:
        """An array of blobs, both bounded."""
        items = self.take_array(items_max)
        for item in items:
            if not isinstance(item, bytes) or len(item) > size_max:
                raise Refused(DropReason.MALFORMED, f"not blobs of {size_max} bytes at most")
        return tuple(item for item in items if isinstance(item, bytes))
