"""How fair a serving node is, over real daemons: shares of a flooded model, and the owner's wait.

Four daemons on this machine: one that serves a test model with a few slots, a gateway of anna's and
one of bert's, and one of the serving node's owner. Clients are closed loops over HTTP: so many
requests at a time, each asked again when it is answered; one that is refused waits as
long as it is told to.

    10x, nodes     anna offers 8 at a time, bert 80
    10x, keys      the same with two API keys of anna's gateway
    1,000 users    as the first, bert as 1,000 users in turn
    owner          anna and bert offer 40 each; the owner asks one at a time, at his other node

Of the first three Jain's index of served tokens (prompts and answers), of the last the time to the
first token.

Run: python -m tests.benchmarks.fairness [--seconds 30] [--slots 4] [--json FILE]
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import httpx
import trio

from tests.helpers.daemons import Daemon, Daemons, wait_offered, wait_whole

DELAY_MS: Final = 50
TOKENS: Final = 20
USERS: Final = 1_000


@dataclasses.dataclass(kw_only=True)
class Client:
    """One closed loop's count."""

    daemon: Daemon
    at_a_time: int
    key: str | None = None
    users: Iterator[str] | None = None
    tokens: int = 0
    answered: int = 0
    refused: int = 0
    first_s: list[float] = dataclasses.field(default_factory=list)
    told_s: list[float] = dataclasses.field(default_factory=list)
    """What refusals said when to try again."""

    async def run(self) -> None:
        """Ask until cancelled."""
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        limits = httpx.Limits(max_connections=None)
        async with (
            httpx.AsyncClient(timeout=None, headers=headers, limits=limits) as http,
            trio.open_nursery() as nursery,
        ):
            for _ in range(self.at_a_time):
                nursery.start_soon(self._one_after_the_other, http)

    async def _one_after_the_other(self, http: httpx.AsyncClient) -> None:
        while True:
            body: dict[str, Any] = {
                "model": "words",
                "messages": [{"role": "user", "content": "Tell me something."}],
                "max_tokens": TOKENS,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            if self.users is not None:
                body["user"] = next(self.users)
            began = trio.current_time()
            url = f"{self.daemon.url}/v1/chat/completions"
            async with http.stream("POST", url, json=body) as reply:
                if reply.status_code != 200:
                    self.refused += 1
                    self.told_s.append(float(reply.headers["retry-after"]))
                    await trio.sleep(self.told_s[-1])
                    continue
                is_first = True
                async for line in reply.aiter_lines():
                    if is_first and line.startswith("data: {"):
                        self.first_s.append(trio.current_time() - began)
                        is_first = False
                    if '"usage":{' in line:
                        usage = json.loads(line.removeprefix("data: "))["usage"]
                        self.tokens += usage["total_tokens"]
            self.answered += 1


def jain(values: Iterable[int]) -> float:
    """1: all have the same; 1 / n: one has all."""
    shares = [*values]
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0


def measure(clients: Mapping[str, Client], seconds: float) -> dict[str, Client]:
    """Let them all ask for so long; the first seconds, in which queues fill, do not count."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for client in clients.values():
                nursery.start_soon(client.run)
            await trio.sleep(2)
            for client in clients.values():
                client.tokens = client.answered = client.refused = 0
                client.first_s.clear()
            await trio.sleep(seconds)
            nursery.cancel_scope.cancel()

    trio.run(main)
    return dict(clients)


def _row(name: str, clients: Mapping[str, Client]) -> dict[str, Any]:
    return {
        "case": name,
        "jain": round(jain(client.tokens for client in clients.values()), 4),
        **{
            who: {
                "offered": client.at_a_time,
                "tokens": client.tokens,
                "answered": client.answered,
                "refused": client.refused,
                "first_p50_s": _percentile(client.first_s, 50),
                "first_max_s": _percentile(client.first_s, 100),
                "retry_p50_s": _percentile(client.told_s, 50),
            }
            for who, client in clients.items()
        },
    }


def _percentile(values: list[float], percent: int) -> float | None:
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 3)


def run_all(folder: pathlib.Path, seconds: float, slots: int) -> list[dict[str, Any]]:
    """All four cases on one mesh."""
    with Daemons(folder) as daemons:
        serving = daemons.add("serving", model=f"test:words,delay_ms={DELAY_MS},slots={slots}")
        serving.launch().ready()
        owner = str(serving.status()["owner"])

        def join(name: str, owner: str) -> Daemon:
            token = str(serving.cli_json("invite", "--owner", owner)["token"])
            return daemons.add(name).launch("--join", token).ready()

        anna, bert = join("anna", "anna"), join("bert", "bert")
        phone = join("phone", owner)
        everybody = [serving, anna, bert, phone]
        wait_whole(everybody)
        wait_offered(everybody, "words", "serving")
        keys = [str(anna.cli_json("key", "create", name)["key"]) for name in ("one", "two")]
        users = (f"user {number % USERS}" for number in itertools.count())
        cases = {
            "10x, nodes": {
                "anna": Client(daemon=anna, at_a_time=8),
                "bert": Client(daemon=bert, at_a_time=80),
            },
            "10x, keys": {
                "key one": Client(daemon=anna, at_a_time=8, key=keys[0]),
                "key two": Client(daemon=anna, at_a_time=80, key=keys[1]),
            },
            "1,000 users": {
                "anna": Client(daemon=anna, at_a_time=8),
                "bert": Client(daemon=bert, at_a_time=80, users=users),
            },
            "owner alone": {"owner": Client(daemon=phone, at_a_time=1)},
            "owner": {
                "anna": Client(daemon=anna, at_a_time=40),
                "bert": Client(daemon=bert, at_a_time=40),
                "owner": Client(daemon=phone, at_a_time=1),
            },
        }
        return [_row(name, measure(clients, seconds)) for name, clients in cases.items()]


def table(rows: list[dict[str, Any]]) -> str:
    """What is printed."""
    lines = [f"{'case':14}{'who':10}{'offered':>8}{'tokens':>9}{'answered':>9}{'refused':>8}"]
    lines[0] += f"{'first p50':>11}{'max':>8}{'retry p50':>11}{'Jain':>8}"
    for row in rows:
        for who, seen in row.items():
            if not isinstance(seen, dict):
                continue
            counts = f"{seen['offered']:8}{seen['tokens']:9}{seen['answered']:9}{seen['refused']:8}"
            times = "".join(
                f"{seen[key] if seen[key] is not None else '-':>{width}}"
                for key, width in (("first_p50_s", 11), ("first_max_s", 8), ("retry_p50_s", 11))
            )
            index = f"{row['jain']:8.3f}" if "owner" not in row["case"] else ""
            lines.append(f"{row['case']:14}{who:10}{counts}{times}{index}")
    return "\n".join(lines)


def main() -> int:
    """Print the table; 1 when a Jain index is below 0.95."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meshd-fairness-") as folder:
        rows = run_all(pathlib.Path(folder), options.seconds, options.slots)
    print(table(rows))
    service_s = DELAY_MS * TOKENS / 1000
    print(f"An answer takes {service_s} s of a slot at least; {options.slots} slots.")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1), "utf-8")
    shares = [row["jain"] for row in rows if "owner" not in row["case"]]
    return 0 if min(shares) >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
