"""The one place that takes a stream of server-sent events apart. Pure: bytes in, payloads out."""

from runtimes.openai.failures import malformed

LINE_BYTES_MAX = 1024 * 1024
"""One event; a server that sends a whole long answer in one stays below it."""
_OTHER_FIELDS = (b":", b"event:", b"id:", b"retry:")


class EventLines:
    """Finds the `data:` lines, wherever the network cut them."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def push(self, data: bytes) -> list[bytes]:
        """Take the next bytes; the payloads that are complete now.

        Raises RuntimeFailure `crashed` when it is no stream of events.
        """
        searched = len(self._rest)
        self._rest += data
        if self._rest.find(b"\n", searched) < 0:
            self._check_length(len(self._rest))
            return []
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        self._check_length(max(map(len, [*lines, rest])))
        return [payload for line in lines if (payload := _payload(line.rstrip(b"\r")))]

    def finish(self) -> list[bytes]:
        """The stream is over: what stood in a last line without an end."""
        rest, self._rest = bytes(self._rest), bytearray()
        payload = _payload(rest.rstrip(b"\r"))
        return [payload] if payload else []

    def _check_length(self, length: int) -> None:
        if length > LINE_BYTES_MAX:
            raise malformed(f"an event of more than {LINE_BYTES_MAX} bytes")


def _payload(line: bytes) -> bytes:
    """What stands behind `data:`; empty for what may be ignored."""
    if line.startswith(b"data:"):
        return line[len(b"data:") :].strip()
    # llama-server has sent its errors so; as an event they look like others' errors.
    if line.startswith(b"error:"):
        return b'{"error":' + line[len(b"error:") :].strip() + b"}"
    if not line or line.startswith(_OTHER_FIELDS) or line in (b"event", b"id", b"retry"):
        return b""
    raise malformed("it is no stream of events")
