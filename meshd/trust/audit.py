"""The one place where a running daemon notes security-relevant acts, for `meshd audit verify`.

    audit.note("join.refused", reason="expired", peer=..., address=...)

Rule 1: `note` costs next to nothing, waits for nothing and never raises. A task writes what was
noted at once, and signs the head at most every second.
Rule 2: what the same stranger does again and again is summed: the first is a line, the rest of a
minute is one more. Of too many strangers, those who come late are summed together.
Rule 3: the queue is bounded. When the disk is full the daemon lives on; what found no room is
counted, and a line says so when there can be lines again.
Rule 4: never a secret, a token, a prompt or an answer.
"""

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog
import trio

from meshd.home import Home
from meshd.trust.audit_lines import Entry
from meshd.trust.audit_log import AuditLog
from protocol.crypto import Crypto

log = structlog.get_logger()

QUEUE_MAX: Final = 1_000
SIGN_S: Final = 1.0
"""A head is signed at most so often: two flushes of a disk."""
RETRY_S: Final = 5.0
"""After a failure to write."""
FIELDS_MAX: Final = 12
TEXT_CHARS_MAX: Final = 256
"""Of one value."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Rule:
    window_s: float
    sources_max: int = 32


SUMMED: Final[Mapping[str, _Rule]] = {
    "join.refused": _Rule(60.0),
    "peer.refused": _Rule(60.0),
    "statement.refused": _Rule(60.0),
    "member.equivocated": _Rule(60.0),
    "key.refused": _Rule(60.0),
    "key.used": _Rule(3_600.0, 256),
}
"""What others can cause as often as they like: by type, for how long the same is one line."""


@dataclasses.dataclass(slots=True)
class _Window:
    """What is the same, while it is summed."""

    fields: Mapping[str, Any]
    ends: float
    count: int = 0


@dataclasses.dataclass(slots=True)
class _Batch:
    """What is written together."""

    entries: list[Entry]
    lost: int
    """So many found no room before; the last entry says so."""
    is_due: bool
    """A head is to be signed too."""


class Audit:
    """The audit log of one running node. Used from the thread that runs trio."""

    def __init__(
        self,
        home: Home,
        *,
        now_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """What is noted waits in the queue until `open` has said whose log it is."""
        self._home = home
        self._now_s = now_s
        self._wall_s = wall_s
        self._crypto: Crypto | None = None
        self._log: AuditLog | None = None
        self._queue: deque[Entry] = deque()
        self._windows: dict[str, dict[tuple[Any, ...], _Window]] = {}
        self._lost = 0
        self._lost_since_s = 0.0
        self._reason = ""
        """Why the last attempt to write failed; empty: it did not."""
        self._retry_at = -math.inf
        self._signed_at = -math.inf
        self._has_unsigned = False
        self._woken = trio.Event()

    def open(self, crypto: Crypto) -> None:
        """From now on the log may be written, as this node's."""
        self._crypto = crypto

    def note(self, kind: str, /, **fields: object) -> None:
        """Something of this type happened. Never raises, waits for nothing.

        Values are texts (of which 256 characters are kept), numbers or booleans; None is left out.
        """
        try:
            self._note(kind, fields)
        except Exception as error:  # noqa: BLE001 - whoever notes has more important things to do
            log.error("audit.not_noted", type=kind, reason=type(error).__name__)

    def _note(self, kind: str, fields: Mapping[str, object]) -> None:
        plain = {name: _plain(value) for name, value in fields.items() if value is not None}
        plain = dict(list(plain.items())[:FIELDS_MAX])
        rule = SUMMED.get(kind)
        if rule is not None and self._is_summed(kind, rule, plain):
            return
        self._put(Entry(self._wall_s(), kind, plain))

    def _is_summed(self, kind: str, rule: _Rule, fields: Mapping[str, Any]) -> bool:
        """Whether the same has a line already, or so many others have that it gets none."""
        windows = self._windows.setdefault(kind, {})
        key = tuple(sorted(fields.items()))
        window = windows.get(key)
        is_new = window is None and len(windows) < rule.sources_max
        if window is None:
            if not is_new:
                key, fields = (), {"sources": "others"}
                window = windows.get(key)
            if window is None:
                window = windows[key] = _Window(fields, self._now_s() + rule.window_s)
                self._woken.set()  # whoever waits shall wait for its end
        if not is_new:
            window.count += 1
        return not is_new

    def _put(self, entry: Entry) -> None:
        if len(self._queue) >= QUEUE_MAX:
            if not self._lost:
                self._lost_since_s = entry.time_s
            self._lost += 1
            return
        self._queue.append(entry)
        self._woken.set()

    # ---- writing ----

    async def run(self) -> None:
        """Write and sign until cancelled; what is left then is for `flush`."""
        while True:
            with trio.move_on_after(self._pause_s()):
                await self._woken.wait()
            self._woken = trio.Event()
            self._end_windows(self._now_s())
            if self._crypto is not None and self._now_s() >= self._retry_at:
                await self._write_in_thread(self._crypto)

    def flush(self) -> None:
        """Write and sign all, blocking; sums that are not complete too. Never raises."""
        if self._crypto is None:
            return
        self._end_windows(math.inf)
        batch = self._take(is_due=True)
        if batch.entries or self._has_unsigned:
            self._settle(batch, *self._write(batch, self._crypto))

    def close(self) -> None:
        """`flush`, and let go of the log."""
        self.flush()
        self._drop_log()

    def _pause_s(self) -> float:
        """How long there is nothing to do, if nothing comes."""
        due = [window.ends for windows in self._windows.values() for window in windows.values()]
        if self._has_unsigned:
            due.append(self._signed_at + SIGN_S)
        if self._reason:
            due = [self._retry_at]
        return max(0.0, min(due) - self._now_s()) if due else math.inf

    async def _write_in_thread(self, crypto: Crypto) -> None:
        batch = self._take(is_due=self._now_s() >= self._signed_at + SIGN_S)
        if not batch.entries and not (self._has_unsigned and batch.is_due):
            return
        with trio.CancelScope(shield=True):  # a moment; half of it would be worth nothing
            outcome = await trio.to_thread.run_sync(self._write, batch, crypto)
        self._settle(batch, *outcome)

    def _end_windows(self, now_s: float) -> None:
        """Turn the sums whose time is over into lines; where nothing came any more, forget it."""
        for kind, windows in self._windows.items():
            window_s = SUMMED[kind].window_s
            for key, window in list(windows.items()):
                if window.ends > now_s:
                    continue
                if window.count:
                    summed = {"count": window.count, "within_s": round(window_s)}
                    self._put(Entry(self._wall_s(), kind, {**window.fields, **summed}))
                if window.count and now_s < math.inf:
                    window.count, window.ends = 0, now_s + window_s
                else:
                    del windows[key]

    def _take(self, *, is_due: bool) -> _Batch:
        entries = list(self._queue)
        self._queue.clear()
        batch = _Batch(entries, self._lost, is_due)
        if self._lost:
            fields = {"count": self._lost, "since": round(self._lost_since_s, 3)}
            batch.entries.append(Entry(self._wall_s(), "audit.lost", fields))
        return batch

    def _write(self, batch: _Batch, crypto: Crypto) -> tuple[bool, str]:
        """(whether the lines are written, why not all is done; empty if it is). In a thread."""
        is_written = False
        try:
            if self._log is None:
                self._log = AuditLog(self._home, crypto, self._wall_s)
            self._log.append(batch.entries)
            is_written = True
            if batch.is_due:
                self._log.sign()
        except OSError as error:
            self._drop_log()
            return is_written, error.strerror or str(error)
        return True, ""

    def _settle(self, batch: _Batch, is_written: bool, reason: str) -> None:
        """What came of a batch: its entries may have to wait, or to be counted as lost."""
        now_s = self._now_s()
        if is_written:
            self._lost -= batch.lost
        else:
            waiting = [*(batch.entries[:-1] if batch.lost else batch.entries), *self._queue]
            self._queue.clear()
            for entry in waiting:
                self._put(entry)
        if reason:
            if not self._reason:
                log.error(
                    "audit.write_failed",
                    reason=reason,
                    mend=f"make room for {self._home.audit}; this node lives on, and counts what"
                    " the log lacks",
                )
            self._retry_at = now_s + RETRY_S
        elif self._reason:
            log.info("audit.written_again", lost=batch.lost)
        self._reason = reason
        self._has_unsigned = bool(reason) or not batch.is_due
        if batch.is_due:
            self._signed_at = now_s

    def _drop_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None


def note_once(home: Home, crypto: Crypto, kind: str, /, **fields: object) -> None:
    """Note what a command does while no daemon runs; the caller holds the home's lock."""
    audit = Audit(home)
    audit.open(crypto)
    audit.note(kind, **fields)
    audit.close()


def _plain(value: object) -> str | int | float:
    """A value as JSON has it: one that is printable, and not too long."""
    if isinstance(value, int | float) and -(2**63) < value < 2**63:
        return value
    text = str(value)[:TEXT_CHARS_MAX]
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
