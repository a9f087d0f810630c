"""The one place for refusals: why something was dropped, and whose fault that is."""

import enum


class LocalProtocolError(Exception):
    """Our own code misused the core. Never caused by a peer's bytes."""


class DropReason(enum.StrEnum):
    """Why a datagram, a stream message or a part of one was refused.

    Each is counted by the driver. None of them has touched state, except where noted.
    """

    TOO_SHORT = "too_short"
    """Sender's fault: no room for a header."""
    TOO_LONG = "too_long"
    """Sender's fault: over the datagram or frame limit."""
    BAD_VERSION = "bad_version"
    """Nobody's: a newer or foreign protocol."""
    FOREIGN_MESH = "foreign_mesh"
    """Nobody's: another mesh shares this address."""
    UNKNOWN_SENDER = "unknown_sender"
    """Nobody's: no admitted member has this short id (yet). It may have been answered."""
    UNPROVEN = "unproven"
    """Nobody's: the sender does not hold our current token for its address; it was challenged."""
    RATE_LIMITED = "rate_limited"
    """Sender's or author's fault: too many challenges were due, or its changes came too fast."""
    OLD_BOOT = "old_boot"
    """Attacker's: recorded before the sender's last restart. Or a home with an older disk or
    another clock; it was challenged, and who lives can answer."""
    REPLAYED = "replayed"
    """Attacker's or the network's: this counter was seen."""
    BAD_SEAL = "bad_seal"
    """Attacker's: authentication failed."""
    BAD_CHALLENGE = "bad_challenge"
    """Attacker's or late: it echoes nothing that we sent, or its code is wrong."""
    MALFORMED = "malformed"
    """Sender's fault: bytes that the codec refuses."""
    UNKNOWN_KIND = "unknown_kind"
    """Nobody's: a kind of statement, record or stream message that a later version added."""
    BAD_SIGNATURE = "bad_signature"
    """Sender's or author's fault: the rest of the frame is dropped with it."""
    NOT_ADMITTED = "not_admitted"
    """Nobody's or the author's: no valid admission for the author is known."""
    UNKNOWN_SUBJECT = "unknown_subject"
    """Nobody's: an accusation of somebody, or of an incarnation, that we never saw alive."""
    STALE = "stale"
    """Nobody's: what is known supersedes it."""
    EQUIVOCATION = "equivocation"
    """Author's fault: two different statements under one number. The lower bytes stay."""
    TABLE_FULL = "table_full"
    """A limit was reached; what was there stays."""
    UNEXPECTED = "unexpected"
    """Sender's fault or late: an answer that nobody waits for, a message in the wrong place."""
    MUTED = "muted"
    """Sender's fault: it passed on a bad signature lately, and is not listened to for a while."""
    NOT_ALLOWED = "not_allowed"
    """Sender's fault: its role or admission does not permit this."""


class Refused(Exception):
    """Bytes from outside are refused for `reason`; caught where they entered the core."""

    def __init__(self, reason: DropReason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


class BadRecording(Exception):
    """A recording that cannot be read; the text says why, on one line."""
