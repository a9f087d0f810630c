"""The one place for who has used how much: counted in memory, kept in SQLite.

    served   what this node's models did, by the node that asked
    asked    what this node's apps had from the mesh, by the name of their API key

A row is a day (UTC), a side, an identity and a model. Counts are written every few seconds in one
transaction, so a crash costs those seconds and never the file. No prompt and no answer is in it.
"""

import contextlib
import dataclasses
import datetime
import os
import pathlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any, Final

import structlog
import trio

from meshd import clock
from meshd.answer import Answer, RequestOptions
from protocol.identity import NodeId, key_text
from runtimes.base import Finished, GenerateEvent

log = structlog.get_logger()

WRITE_S: Final = 5.0
DAYS_KEPT: Final = 400
ROWS_MAX: Final = 100_000
"""In the file; of more, the oldest days go, each as a whole."""
PENDING_MAX: Final = 4_096
"""Rows that wait to be written; while the disk is full, what comes beyond them is not kept."""
BUSY_S: Final = 5.0
"""How long a reader or writer waits for the other."""
_DAY_S: Final = 86_400
_FIRST_DAY: Final = datetime.date(1970, 1, 1).toordinal()
_COLUMNS: Final = ("requests", "prompt_tokens", "output_tokens", "milliseconds")
_TABLE: Final = f"""
CREATE TABLE IF NOT EXISTS usage (
    day INTEGER, side TEXT, identity TEXT, model TEXT,
    {", ".join(f"{column} INTEGER NOT NULL" for column in _COLUMNS)},
    PRIMARY KEY (day, side, identity, model)
) WITHOUT ROWID
"""
_ADD: Final = f"""
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    {", ".join(f"{column} = {column} + excluded.{column}" for column in _COLUMNS)}
"""  # noqa: S608  # our own columns
_FORGET: Final = """
DELETE FROM usage WHERE day < MAX(?, COALESCE(
    (SELECT day + 1 FROM usage ORDER BY day DESC LIMIT 1 OFFSET ?), 0))
"""
_READ: Final = "SELECT * FROM usage WHERE day >= ? ORDER BY day DESC, side, identity, model"

Row = tuple[int, str, str, str]
"""Day since 1970, side, identity, model."""


@dataclasses.dataclass(slots=True)
class _Count:
    requests: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    milliseconds: int = 0


class Usage:
    """Of one home, counted by the daemon that runs on it."""

    def __init__(self, path: pathlib.Path, wall_s: Callable[[], int] = clock.wall_s) -> None:
        self._path = path
        self._wall_s = wall_s
        self._pending: dict[Row, _Count] = {}
        self._has_warned = False

    async def run(self) -> None:
        """Write what was counted, until cancelled, and then once more."""
        try:
            while True:
                await trio.sleep(WRITE_S)
                pending = self._take()
                if not await trio.to_thread.run_sync(self._save, pending):
                    self._keep(pending)
        finally:
            self.write()

    # ---- counting ----

    def served(
        self, node: NodeId, model: str, prompt_tokens: int, output_tokens: int, seconds: float
    ) -> None:
        """This node's model worked for `node`; the seconds are those of a slot."""
        self._add("served", key_text(node), model, prompt_tokens, output_tokens, seconds)

    @asynccontextmanager
    async def asking(
        self, answering: AbstractAsyncContextManager[Answer], model: str, options: RequestOptions
    ) -> AsyncGenerator[Answer, None]:
        """The same answer, counted when it is whole, with its prompt: each of several answers to a
        prompt is a request of its own. The seconds are those of waiting for it.
        """
        identity = options.policy.name if options.policy is not None else ""
        began = trio.current_time()
        async with answering as answer:

            async def counted(
                events: AsyncIterator[GenerateEvent],
            ) -> AsyncGenerator[GenerateEvent, None]:
                async for event in events:
                    if isinstance(event, Finished):
                        spent_s = trio.current_time() - began
                        tokens = event.prompt_tokens, event.completion_tokens
                        self._add("asked", identity, model, *tokens, spent_s)
                    yield event

            async with aclosing(counted(answer.events)) as answer.events:
                yield answer

    def _add(
        self,
        side: str,
        identity: str,
        model: str,
        prompt_tokens: int,
        output_tokens: int,
        seconds: float,
    ) -> None:
        row = self._wall_s() // _DAY_S, side, identity, model
        count = self._pending.get(row)
        if count is None:
            if len(self._pending) >= PENDING_MAX:
                return
            count = self._pending[row] = _Count()
        count.requests += 1
        count.prompt_tokens += prompt_tokens
        count.output_tokens += output_tokens
        count.milliseconds += round(seconds * 1000)

    # ---- the file ----

    def write(self) -> None:
        """Add what was counted to the file; what cannot be written is tried again with the next."""
        pending = self._take()
        if not self._save(pending):
            self._keep(pending)

    def _take(self) -> Mapping[Row, _Count]:
        pending, self._pending = self._pending, {}
        return pending

    def _save(self, pending: Mapping[Row, _Count]) -> bool:
        """Whether it is in the file now. In any thread."""
        if not pending:
            return True
        import sqlite3  # not before something was counted

        rows = [(*row, *dataclasses.astuple(count)) for row, count in pending.items()]
        try:
            # Before SQLite makes it with everybody's permissions.
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            with contextlib.closing(sqlite3.connect(self._path, timeout=BUSY_S)) as base, base:
                base.execute(_TABLE)
                base.executemany(_ADD, rows)
                base.execute(_FORGET, (self._wall_s() // _DAY_S - DAYS_KEPT, ROWS_MAX))
        except (OSError, sqlite3.Error) as error:
            if not self._has_warned:
                mend = f"make room, or move {self._path} away"
                log.warning("usage.cannot_write", reason=str(error), mend=mend)
            self._has_warned = True
            return False
        self._has_warned = False
        return True

    def _keep(self, pending: Mapping[Row, _Count]) -> None:
        for row, count in pending.items():
            newer = self._pending.get(row)
            if newer is None and len(self._pending) < PENDING_MAX:
                self._pending[row] = count
            elif newer is not None:
                for column in _COLUMNS:
                    setattr(newer, column, getattr(newer, column) + getattr(count, column))


def read(path: pathlib.Path, days: int, wall_s: int) -> list[dict[str, Any]]:
    """The rows of so many days, today's the first, as `meshd usage --json` shows them; of a daemon
    that runs, as it wrote them last. Raises OSError or sqlite3.Error.
    """
    import sqlite3

    if not path.exists():
        return []
    address = f"{path.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, timeout=BUSY_S, uri=True)) as base:
        rows = base.execute(_READ, (wall_s // _DAY_S - days + 1,)).fetchall()
    return [
        {
            "day": datetime.date.fromordinal(_FIRST_DAY + day).isoformat(),
            "side": side,
            "identity": identity,
            "model": model,
            "requests": requests,
            "prompt_tokens": prompt_tokens,
            "output_tokens": output_tokens,
            "seconds": milliseconds / 1000,
        }
        for day, side, identity, model, requests, prompt_tokens, output_tokens, milliseconds in rows
    ]
