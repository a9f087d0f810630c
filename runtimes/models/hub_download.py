"""The one place that speaks to the Hugging Face Hub; only in the downloading process.

huggingface_hub knows addresses, tokens and the layout of its cache. The bytes are fetched here,
because it starts a file anew in every process: what is there is kept, and only the rest is asked
for. The finished blob is then given to huggingface_hub, which finds it and makes the links.
"""

import contextlib
import errno
import pathlib
import re
from collections.abc import Callable, Iterator

import httpx

from runtimes.base import RuntimeFailure
from runtimes.models.hub_frames import Fetching
from runtimes.models.hub_reference import HubReference, choose, models_in, projector_of
from runtimes.models.partial_file import PartialFile

try:
    import filelock
    import huggingface_hub
    from huggingface_hub import constants, errors
except ImportError as error:
    _missing: ImportError | None = error
else:
    _missing = None

TIMEOUT_S = 30.0
"""For a connection, and between two pieces of a file."""
FILES_MAX = 20_000
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class HubDownload:
    """Brings one model to the cache."""

    def __init__(
        self, reference: HubReference, with_projector: bool, report: Callable[[Fetching], None]
    ) -> None:
        self._reference = reference
        self._with_projector = with_projector
        self._repository = reference.repository
        self._report = report
        self._name = ""
        self._total_bytes = 0
        self._former_bytes = 0
        """Of the files before the present one."""
        self._received_bytes = 0

    def run(self) -> pathlib.Path:
        """Fetch what is missing; where the model's first file lies.

        Raises RuntimeFailure: `unavailable` where another attempt may do, else `invalid_model` or
        `missing_dependency`, each with one line that says the mend.
        """
        if _missing is not None:
            raise RuntimeFailure(
                "missing_dependency",
                f"huggingface_hub does not load ({_missing}): pip install huggingface_hub",
            )
        with _failures_explained(self._repository):
            commit, files = self._list()
            model = choose(self._reference, models_in(files))
            wanted = list(model.files)
            projector = projector_of(model, files) if self._with_projector else None
            if projector is not None:
                # A model that is whole is served with what lies beside it by then.
                wanted.insert(0, projector)
            self._name = model.name
            self._total_bytes = sum(files[file] for file in wanted)
            self._tell(0)
            paths = [self._fetch(file, commit) for file in wanted]
            return paths[-len(model.files)]

    def _list(self) -> tuple[str, dict[str, int]]:
        """The newest commit, and its files with their sizes in bytes."""
        info = huggingface_hub.HfApi().model_info(
            self._repository, files_metadata=True, timeout=TIMEOUT_S
        )
        files = {
            sibling.rfilename: sibling.size or 0
            for sibling in (info.siblings or [])[:FILES_MAX]
            if isinstance(sibling.rfilename, str)
        }
        if _COMMIT.fullmatch(info.sha or "") is None:
            raise RuntimeFailure("unavailable", "the Hub names no commit")
        return info.sha or "", files

    def _fetch(self, file: str, commit: str) -> pathlib.Path:
        """Bring one file to the cache; where it lies there."""
        known = huggingface_hub.try_to_load_from_cache(self._repository, file, revision=commit)
        if isinstance(known, str):
            path = pathlib.Path(known)
        else:
            url = huggingface_hub.hf_hub_url(self._repository, file, revision=commit)
            metadata = huggingface_hub.get_hf_file_metadata(url, timeout=TIMEOUT_S)
            etag, size_bytes = metadata.etag or "", metadata.size
            if _ETAG.fullmatch(etag) is None or size_bytes is None:
                raise RuntimeFailure("unavailable", f"the Hub does not describe {file}")
            self._fetch_blob(url, etag, size_bytes)
            path = pathlib.Path(
                huggingface_hub.hf_hub_download(self._repository, file, revision=commit)
            )
        self._former_bytes += path.stat().st_size
        self._tell(0)
        return path

    def _fetch_blob(self, url: str, etag: str, size_bytes: int) -> None:
        """Fetch a file's bytes to where huggingface_hub looks for them."""
        cache = pathlib.Path(constants.HF_HUB_CACHE)
        folder = huggingface_hub.file_download.repo_folder_name(
            repo_id=self._repository, repo_type="model"
        )
        blob = cache / folder / "blobs" / etag
        # huggingface_hub's own lock, so that its other users wait for us, and we see theirs.
        lock = cache / ".locks" / folder / f"{etag}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(lock, timeout=0):
                if blob.exists():
                    return
                with PartialFile(
                    blob, size_bytes=size_bytes, etag=etag, on_change=self._tell
                ) as partial:
                    if not partial.is_whole:
                        self._receive(url, partial)
                    partial.finish()
        except filelock.Timeout as error:
            raise RuntimeFailure("unavailable", "another program is downloading it") from error

    def _receive(self, url: str, partial: PartialFile) -> None:
        """Ask for what is missing and take it in."""
        headers = {"Accept-Encoding": "identity"}
        token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else huggingface_hub.get_token()
        if token:  # httpx keeps it from other hosts that the Hub sends us on to
            headers["Authorization"] = f"Bearer {token}"
        if partial.done_bytes:
            headers["Range"] = f"bytes={partial.done_bytes}-"
        with (
            httpx.Client(follow_redirects=True, timeout=TIMEOUT_S) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            if response.status_code >= 400:
                # An address that the Hub sent us on to is good for a while only.
                if response.history:
                    raise RuntimeFailure(
                        "unavailable", f"the Hub's files answer with {response.status_code}"
                    )
                raise _status_failure(self._repository, response.status_code)
            if not _goes_on(response, partial.done_bytes):
                partial.start_over()
            # A connection that ends early is told from a whole file by the size alone.
            with contextlib.suppress(httpx.TransportError):
                for data in response.iter_raw():
                    self._received_bytes += len(data)
                    partial.append(data)
        if not partial.is_whole:
            raise RuntimeFailure(
                "unavailable",
                f"the connection broke {partial.done_bytes / 1e6:.1f} MB into the file; "
                "it goes on from there",
            )

    def _tell(self, file_bytes: int) -> None:
        self._report(
            Fetching(
                name=self._name,
                done_bytes=self._former_bytes + file_bytes,
                total_bytes=self._total_bytes,
                received_bytes=self._received_bytes,
            )
        )


def _goes_on(response: httpx.Response, done_bytes: int) -> bool:
    """Whether an answer starts where the file ends; a server may send it all instead."""
    if response.status_code == 206:
        start = response.headers.get("Content-Range", "")
        if not start.startswith(f"bytes {done_bytes}-"):
            raise RuntimeFailure("unavailable", "the Hub sent another piece than it was asked for")
        return True
    return done_bytes == 0


@contextlib.contextmanager
def _failures_explained(repository: str) -> Iterator[None]:
    """Whatever goes wrong inside leaves as a RuntimeFailure with one line."""
    try:
        yield
    except RuntimeFailure:
        raise
    except Exception as error:  # what it speaks HTTP with, and that raises, changes by version
        raise _failure(repository, error) from error


def _failure(repository: str, error: Exception) -> RuntimeFailure:
    if isinstance(error, errors.GatedRepoError):
        return _gated(repository)
    if isinstance(error, errors.RepositoryNotFoundError):
        return RuntimeFailure(
            "invalid_model",
            f"the Hugging Face Hub has no {repository}: check the name; if it is private, set "
            "HF_TOKEN to a token that may read it",
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return RuntimeFailure(
            "invalid_model",
            f"{repository} is not on this disk and HF_HUB_OFFLINE forbids to download it; unset it",
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _status_failure(repository, getattr(error.response, "status_code", 0))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RuntimeFailure(
            "unavailable",
            f"no space left in {constants.HF_HUB_CACHE}: free some, or set HF_HUB_CACHE to "
            "another disk",
        )
    if isinstance(error, OSError) and error.filename is not None:
        return RuntimeFailure(
            "invalid_model",
            f"the Hugging Face cache cannot be written ({error.strerror}: {error.filename}); mend "
            "its rights, or set HF_HUB_CACHE to another folder",
        )
    reason = " ".join(str(error).split())[:200]
    return RuntimeFailure(
        "unavailable",
        f"the Hugging Face Hub ({constants.ENDPOINT}) cannot be reached "
        f"({type(error).__name__}: {reason}); it is tried again",
    )


def _status_failure(repository: str, status: int) -> RuntimeFailure:
    if status in (401, 403):
        return _gated(repository)
    if status in (404, 410):
        return RuntimeFailure("invalid_model", f"{repository} no longer has this file; try again")
    return RuntimeFailure("unavailable", f"the Hugging Face Hub answers with {status}")


def _gated(repository: str) -> RuntimeFailure:
    return RuntimeFailure(
        "invalid_model",
        f"{repository} is gated, or the token is wrong: accept its terms at "
        f"{constants.ENDPOINT}/{repository} and set HF_TOKEN to a token of yours",
    )
