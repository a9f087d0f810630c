"""The one place for how long a worker may take for what: when it is late, and how to say so.

A deadline runs whenever the worker owes something: a sign of life while it loads or computes, the
last frame of a request that was cancelled. Between two signs it does one step, which nothing can
interrupt: mostly one decode, of one long text in a model that embeds, or the encoding of an image,
which a worker announces.
"""

import math
from collections.abc import Iterable

import trio

from runtimes.embedding import GENERATE
from runtimes.llama import frames
from runtimes.llama.pace import BATCH_TOKENS
from runtimes.llama.reply import Reply
from runtimes.llama.settings import LlamaSettings


class Patience:
    """How long one worker is waited for."""

    def __init__(self, settings: LlamaSettings) -> None:
        self._settings = settings
        self._heard_at = trio.current_time()
        self._is_ready = False
        self._step = 1.0
        """How much longer one decode may take than that of a batch."""
        self._encoding: set[int] = set()
        """The requests of which an image is encoded, or is about to be."""
        self._encoded_at = -math.inf
        """When the last of them was."""

    def begin(self) -> None:
        """The worker gets something to do; it may have had nothing for hours."""
        self._heard_at = trio.current_time()

    def note(self, frame: frames.Frame) -> bool:
        """The worker has sent this; whether it may have less time from now on."""
        self._heard_at = trio.current_time()
        match frame:
            case frames.Ready():
                self._is_ready = True
                if GENERATE not in frame.tasks:  # each text is decoded in one piece
                    self._step = max(1.0, frame.context_tokens / BATCH_TOKENS)
                return True
            case frames.Encoding():
                self._encoding.add(frame.request)
            case frames.Prefilled() | frames.Ended() | frames.Failed() | frames.Cancelled():
                if frame.request in self._encoding:
                    self._encoding.remove(frame.request)
                    self._encoded_at = self._heard_at
                    return True
        return False

    def deadline(self, replies: Iterable[Reply]) -> tuple[float, str]:
        """When the worker is late with what it owes these, and how to say so."""
        patience = self._settings
        if not self._is_ready:
            seconds = patience.load_timeout_s
            return self._heard_at + seconds, f"it loaded for {seconds:g} s without a sign of life"
        silence_s = self._seconds(patience.hang_timeout_s)
        cancel_s = self._seconds(patience.cancel_timeout_s)
        debts = [(math.inf, "")]
        for reply in replies:
            if reply.owes:
                late_at = self._heard_at + silence_s
                debts.append((late_at, f"it was silent for {silence_s:g} s"))
            elif reply.left_at is not None:
                # What it is at comes first; it looks for cancels behind each image.
                late_at = max(reply.left_at, self._encoded_at) + cancel_s
                debts.append((late_at, f"it did not confirm a cancel in {cancel_s:g} s"))
        return min(debts)

    def _seconds(self, seconds: float) -> float:
        seconds *= self._step
        return max(seconds, self._settings.encode_timeout_s) if self._encoding else seconds
