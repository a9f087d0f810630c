"""The one place for the gateway's limits: how much, how many, how long."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes, times in seconds. The defaults suit a gateway for one person's machines."""

    body_bytes_max: int = 8 * 1024 * 1024
    """One request body; ten times the text of the longest contexts of today."""
    body_pieces_max: int = 65_536
    """In how many pieces one may come: each costs time, and a chunk can be one byte."""
    bodies_bytes_max: int = 64 * 1024 * 1024
    """All request bodies in memory at one time."""
    header_bytes_max: int = 32 * 1024
    """Request line and headers of one request, and the frame of one chunk of a body."""
    answer_chars_max: int = 16 * 1024 * 1024
    """Text of an answer that is collected before it is sent (not streamed)."""
    connections_max: int = 512
    """Beyond them the oldest goes that has no request being answered; if all have, new ones wait in
    the listening socket's backlog."""
    requests_max: int = 128
    """Requests being answered, from the end of their bodies; beyond them: 503 with Retry-After."""
    event_streams_max: int = 32
    """Clients that follow the mesh's events; beyond them: 503 with Retry-After."""
    handshake_s: float = 10.0
    """From a connection to the end of its TLS handshake."""
    keep_alive_s: float = 20.0
    """A connection waits this long for the next request's complete headers."""
    body_s: float = 30.0
    """From a request's headers to the end of its body."""
    write_stall_s: float = 30.0
    """A client that takes none of 64 KiB for this long is cut off, and its request cancelled."""
    linger_s: float = 2.0
    """How long a refused request's unread body is still taken, so that the refusal is read."""
    sse_keep_alive_s: float = 15.0
    """Longest silence in an event stream before a comment is sent."""
    sse_outlook_s: float = 5.0
    """The same while a request waits for a model to be loaded, or for its turn: its client is told
    how it stands. Until then a refusal still has its own HTTP status."""
    shutdown_s: float = 2.0
    """What requests in flight are given to end by themselves when the gateway stops."""
    farewell_s: float = 0.5
    """What is given after that to tell their clients why they did not."""
