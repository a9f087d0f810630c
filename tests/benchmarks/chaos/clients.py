"""The one place for the apps of the chaos: they ask without a pause, and check every token."""

import dataclasses
import http.client
import json
import random
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

from tests.benchmarks.chaos.network import Machine
from tests.helpers.test_runtime import answer_text

MODEL: Final = "words"
HUNG_S: Final = 40.0
"""Without a word of the answer, however many keep-alives come."""
LINE_S: Final = 60.0
TOKENS: Final = (10, 50)


@dataclasses.dataclass(slots=True, kw_only=True)
class Asked:
    """One request and what came of it. Times are of `time.monotonic`."""

    began: float
    outcome: str = ""
    """`exact`, `wrong` (a token lost, repeated or changed), `refused`, `interrupted`, `hung`."""
    words: str = ""
    """Of a failure."""
    at: list[float] = dataclasses.field(default_factory=list)
    """When text came."""
    told: dict[str, Any] = dataclasses.field(default_factory=dict)
    """By `/mesh/v1/explain`."""


class App:
    """One stream after the other, on one gateway, in a thread of its own."""

    def __init__(self, number: int, machine: Machine, gateway: str, end: threading.Event) -> None:
        self._number = number
        self._machine = machine
        self._gateway = gateway.removeprefix("http://")
        self._end = end
        self._rng = random.Random(number)  # which sizes, no more
        self.asked: list[Asked] = []
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self._machine.enter()
        while not self._end.is_set():
            asked = Asked(began=time.monotonic())
            self.asked.append(asked)
            try:
                self._ask(asked, f"app {self._number} asks {len(self.asked)}")
            except (OSError, ValueError, http.client.HTTPException) as error:
                timed_out = isinstance(error, TimeoutError)
                asked.outcome, asked.words = "hung" if timed_out else "wrong", repr(error)
            if asked.outcome != "exact":
                self._end.wait(0.5)

    def _ask(self, asked: Asked, text: str) -> None:
        tokens = self._rng.randint(*TOKENS)
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        connection = http.client.HTTPConnection(self._gateway, timeout=LINE_S)
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body))
            response = connection.getresponse()
            request_id = response.getheader("x-meshd-request", "")
            if response.status != 200:
                asked.outcome, asked.words = "refused", response.read().decode()
            else:
                self._read(asked, response, answer_text(MODEL, text, tokens), tokens)
        finally:
            connection.close()
        asked.told = self._explained(request_id)

    def _read(
        self, asked: Asked, response: http.client.HTTPResponse, wanted: str, tokens: int
    ) -> None:
        text, usage, finish = "", 0, ""
        heard = time.monotonic()
        while line := response.readline():
            if time.monotonic() - heard > HUNG_S:
                asked.outcome = "hung"
                return
            if not line.startswith(b"data: ") or line == b"data: [DONE]\n":
                continue
            event = json.loads(line.removeprefix(b"data: "))
            if "error" in event:
                asked.outcome, asked.words = "interrupted", event["error"]["message"]
                return
            usage = (event.get("usage") or {}).get("completion_tokens", usage)
            for choice in event["choices"]:
                finish = choice["finish_reason"] or finish
                if piece := choice["delta"].get("content"):
                    heard = time.monotonic()
                    asked.at.append(heard)
                    text += piece
        is_exact = (text, usage, finish) == (wanted, tokens, "length")
        asked.outcome = "exact" if is_exact else "wrong"
        if not is_exact:
            asked.words = f"{usage} of {tokens} tokens, {finish}; {text!r} for {wanted!r}"

    def _explained(self, request_id: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self._gateway, timeout=LINE_S)
        try:
            connection.request("GET", f"/mesh/v1/explain/{request_id}")
            told: dict[str, Any] = json.loads(connection.getresponse().read())
            return told
        finally:
            connection.close()


def begin(count: int, gateways: Sequence[tuple[Machine, str]], end: threading.Event) -> list[App]:
    """So many apps at work, spread over the gateways."""
    apps = [App(number, *gateways[number % len(gateways)], end) for number in range(count)]
    for app in apps:
        app.thread.start()
    return apps
