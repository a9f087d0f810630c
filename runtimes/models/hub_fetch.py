"""The one place that runs a downloading process, from its start to its end: one attempt.

Leaving `fetch` early ends the process; so does the end of the daemon.
"""

import contextlib
import os
import pathlib
from collections.abc import Callable, Mapping

import trio

from runtimes.base import RuntimeFailure
from runtimes.models.hub_frames import CODEC, Fetch, Fetched, FetchFailed, Fetching, Frame
from runtimes.models.hub_reference import HubReference
from runtimes.worker import process
from runtimes.worker.framing import Decoder, FrameError

WORKER = "runtimes.models.hub_worker"
SILENCE_S_MAX = 180.0
"""Without a sign of life; the network's own time-outs are shorter."""
END_TIMEOUT_S = 5.0

_ENVIRONMENT = {
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "XDG_CACHE_HOME", "HUGGING_FACE_HUB_TOKEN",
    "HUGGINGFACE_HUB_CACHE",
}  # fmt: skip
_ENVIRONMENT_PREFIX = "HF_"


async def fetch(
    reference: HubReference,
    on_progress: Callable[[Fetching], None],
    *,
    with_projector: bool = True,
) -> pathlib.Path:
    """Bring a model to the Hugging Face cache, its projector beside it if it has one; where its
    first file lies.

    Raises RuntimeFailure: `unavailable` where another attempt may do, else `invalid_model` or
    `missing_dependency`.
    """
    try:
        worker = await process.open_worker(WORKER)
    except OSError as error:
        raise RuntimeFailure("unavailable", f"no process can be started ({error})") from error
    errors = process.StderrTail()
    assert worker.stdin is not None
    assert worker.stdout is not None
    assert worker.stderr is not None
    order = Fetch(
        repository=reference.repository,
        quantization=reference.quantization,
        with_projector=with_projector,
        environment=tuple(hub_environment(os.environ).items()),
    )
    last: Frame | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(errors.read, worker.stderr)
            nursery.start_soon(_send, worker.stdin, CODEC.encode(order))
            last = await _read(worker.stdout, on_progress)
            with trio.move_on_after(END_TIMEOUT_S):
                await errors.ended.wait()
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + END_TIMEOUT_S):
            worker.kill()
            await worker.wait()
            for stream in (worker.stdin, worker.stdout, worker.stderr):
                await trio.aclose_forcefully(stream)
    if isinstance(last, Fetched):
        return pathlib.Path(os.fsdecode(last.path))
    if isinstance(last, FetchFailed):
        raise RuntimeFailure(last.code, last.message)
    ending = process.how_it_ended(worker.returncode, errors.last_line())
    raise RuntimeFailure("unavailable", f"the download ended: {ending}")


def hub_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What huggingface_hub and its network library read of the environment."""
    return {
        name: value
        for name, value in environment.items()
        if (name.upper() in _ENVIRONMENT or name.upper().startswith(_ENVIRONMENT_PREFIX))
        and _is_unicode(name + value)
    }


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8: nothing that a URL or token has
        return False
    return True


async def _send(stream: trio.abc.SendStream, data: bytes) -> None:
    with contextlib.suppress(trio.BrokenResourceError):  # the reader notices that it is gone
        await stream.send_all(data)


async def _read(
    stream: trio.abc.ReceiveStream, on_progress: Callable[[Fetching], None]
) -> Frame | None:
    """The last frame; None when the process ends, or is silent for too long, without one."""
    decoder = Decoder(CODEC)
    try:
        while True:
            data: bytes | bytearray = b""
            with trio.move_on_after(SILENCE_S_MAX):
                data = await stream.receive_some()
            if not data:
                return None
            for frame in decoder.feed(data):
                if not isinstance(frame, Fetching):
                    return frame
                on_progress(frame)
    except FrameError as error:
        raise RuntimeFailure("unavailable", f"the download sent nonsense ({error})") from error
    except trio.BrokenResourceError:
        return None
