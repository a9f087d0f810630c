"""From `hf:ORG/REPO` to a model that answers, whatever the network does meanwhile."""

import hashlib
import importlib.util
import logging
import os
import pathlib

import psutil
import pytest
import trio

from runtimes.base import RuntimeFailure
from runtimes.models.hub_fetch import fetch, hub_environment
from runtimes.models.hub_frames import Fetching
from runtimes.models.hub_model import FetchProgress, HubModel, cached
from runtimes.models.hub_reference import read_reference
from runtimes.models.on_disk import find_model, models_on_disk
from runtimes.registry import make_source
from runtimes.standing import ModelState
from runtimes.worker.restart_delay import RestartDelay
from tests.runtimes.models.fake_disk import COMMIT, FakeDisk, gguf, real_model
from tests.runtimes.models.fake_hub import FakeHub
from tests.runtimes.serving import TIMEOUT_S, ask, complete, needs_llama, serving

needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="the [hub] extra is not installed"
)
pytestmark = [pytest.mark.llama, needs_llama, needs_hub]

REPOSITORY = "org/Tiny-GGUF"
FILE = "tiny-Q4_K_M.gguf"
DATA = os.urandom(300_000)


@pytest.fixture(autouse=True)
def repository(hub: FakeHub) -> None:
    """One that the Hub has."""
    hub.files[REPOSITORY] = {
        "README.md": b"Read me.",
        "tiny-Q8_0.gguf": b"another",
        FILE: DATA,
    }


def fetched(reference: str) -> pathlib.Path:
    """Fetch in one attempt."""

    async def main() -> pathlib.Path:
        with trio.fail_after(TIMEOUT_S):
            return await fetch(read_reference(reference), lambda report: None)

    return trio.run(main)


def partial_bytes(disk: FakeDisk) -> int:
    """How much of DATA an interruption left."""
    digest = hashlib.sha256(DATA).hexdigest()
    folder = disk.hub_folder / "models--org--Tiny-GGUF" / "blobs"
    return (folder / f"{digest}.incomplete").stat().st_size


def test_a_file_comes_to_the_cache_and_nothing_else_is_asked(hub: FakeHub, disk: FakeDisk) -> None:
    """The bytes are right, other programs find them, and the Hub hears of nothing else."""
    path = fetched(REPOSITORY)
    assert path.read_bytes() == DATA
    assert path.is_relative_to(disk.hub_folder)
    assert find_model(REPOSITORY, models_on_disk()).path == path
    file = f"/{REPOSITORY}/resolve/{COMMIT}/{FILE}"
    assert {seen.path for seen in hub.seen} == {f"/api/models/{REPOSITORY}", file}
    assert len(hub.gets) == 1
    assert list(disk.hub_folder.rglob("*.incomplete")) == []


def test_a_cut_connection_is_resumed_and_the_model_answers(
    hub: FakeHub, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut in the middle: only the rest is asked for, and llama.cpp serves the whole."""
    real = real_model(tmp_path / "real.gguf").read_bytes()
    hub.files[REPOSITORY] = {FILE: real}
    hub.cut_after = [len(real) // 2, 1000]
    model = HubModel(read_reference(REPOSITORY), {}, retry_delay=RestartDelay(least_s=0.01))

    async def main() -> None:
        async with serving(model):
            assert model.card is not None
            assert model.card.name == "tiny-Q4_K_M"
            assert model.progress == 1.0
            completion = await complete(model, ask(4))
            assert len(completion.ids) == 4

    with caplog.at_level(logging.INFO, "runtimes.models"):
        trio.run(main)
    half = len(real) // 2
    assert [get.range for get in hub.gets] == [None, f"bytes={half}-", f"bytes={half + 1000}-"]
    found = cached(read_reference(REPOSITORY))
    assert found is not None
    assert found.read_bytes() == real
    assert "% of" in caplog.text
    assert "MB/s" in caplog.text
    assert "goes on from there" in caplog.text
    assert model.card is None


def test_a_download_that_nobody_wants_ends_at_once_and_is_kept(
    hub: FakeHub, disk: FakeDisk
) -> None:
    """Cancelled while the network is silent: no process stays, and the next goes on from there."""
    hub.stalls_after = 100_000
    children = set(psutil.Process().children())
    reports: list[Fetching] = []

    async def main() -> None:
        with trio.fail_after(TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                arrived = trio.Event()

                def on_progress(report: Fetching) -> None:
                    reports.append(report)
                    if report.done_bytes:
                        arrived.set()

                nursery.start_soon(fetch, read_reference(REPOSITORY), on_progress)
                await arrived.wait()
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert set(psutil.Process().children()) <= children
    assert reports[-1].name == "tiny-Q4_K_M"
    assert reports[-1].total_bytes == len(DATA)
    kept = partial_bytes(disk)
    assert 0 < kept <= 100_000
    hub.stalls_after = None
    hub.released.set()
    assert fetched(REPOSITORY).read_bytes() == DATA
    assert hub.gets[-1].range == f"bytes={kept}-"


def test_a_server_without_ranges_is_taken_from_the_start(hub: FakeHub) -> None:
    """What it sends is the whole file, and is not put behind what is there."""
    hub.cut_after = [100_000]
    hub.ignores_ranges = True
    with pytest.raises(RuntimeFailure) as failed:
        fetched(REPOSITORY)
    assert failed.value.code == "unavailable"
    assert fetched(REPOSITORY).read_bytes() == DATA
    assert hub.gets[-1].range == "bytes=100000-"


def test_a_split_is_fetched_with_all_its_parts(hub: FakeHub, disk: FakeDisk) -> None:
    """They lie side by side, where llama.cpp looks for them."""
    parts = {f"big/big-Q8_0-{part:05}-of-00003.gguf": os.urandom(1000) for part in (1, 2, 3)}
    hub.files[REPOSITORY] = parts
    first = fetched(f"{REPOSITORY}:q8_0")
    assert [file.read_bytes() for file in sorted(first.parent.iterdir())] == list(parts.values())
    assert first.name == "big-Q8_0-00001-of-00003.gguf"
    assert cached(read_reference(f"{REPOSITORY}:Q8_0")) == first
    assert first.is_relative_to(disk.hub_folder)


def test_the_token_is_for_the_hub_alone(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown to the Hub, and not to whom the Hub sends us on to."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetched(REPOSITORY)
    assert {seen.token for seen in hub.seen if seen.host == "hub"} == {"Bearer hf_secret"}
    assert {seen.token for seen in hub.gets} == {None}


@pytest.mark.parametrize(
    ("reference", "code", "words"),
    [
        ("org/nothing", "invalid_model", ("no org/nothing", "HF_TOKEN")),
        ("org/gated", "invalid_model", ("gated", "accept its terms", "HF_TOKEN")),
        (f"{REPOSITORY}:Q5_K_M", "invalid_model", ("no Q5_K_M", "Q4_K_M", "Q8_0")),
        ("org/hostile", "invalid_model", ("no GGUF file",)),
    ],
)
def test_what_the_hub_does_not_have(
    hub: FakeHub, disk: FakeDisk, reference: str, code: str, words: tuple[str, ...]
) -> None:
    """One line with the mend, and nothing is written outside the cache."""
    hub.gated.add("org/gated")
    hub.files["org/hostile"] = {"../../../outside.gguf": b"x"}
    with pytest.raises(RuntimeFailure) as failed:
        fetched(reference)
    assert failed.value.code == code, failed.value.message
    assert "\n" not in failed.value.message
    for word in words:
        assert word in failed.value.message
    assert list(disk.home.rglob("outside.gguf")) == []


def test_troubles_that_pass_are_tried_again(hub: FakeHub) -> None:
    """Too many requests, a Hub that is ill: the model comes all the same."""
    hub.api_status = 503
    with pytest.raises(RuntimeFailure, match="503") as failed:
        fetched(REPOSITORY)
    assert failed.value.code == "unavailable"
    hub.api_status = 0
    hub.statuses = [429]
    with pytest.raises(RuntimeFailure, match="429") as failed:
        fetched(REPOSITORY)
    assert failed.value.code == "unavailable"
    assert fetched(REPOSITORY).read_bytes() == DATA


def test_without_network_it_says_so_and_goes_on_trying(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is there for who asks; the node itself is not ended."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    model = HubModel(read_reference(REPOSITORY), {}, retry_delay=RestartDelay(least_s=0.01))
    tries = 0

    async def main() -> None:
        enough = trio.Event()

        async def counted(*arguments: object, **wishes: bool) -> pathlib.Path:
            nonlocal tries
            tries += 1
            if tries == 3:
                enough.set()
            return await fetch(*arguments, **wishes)  # type: ignore[arg-type]  # passed on

        monkeypatch.setattr("runtimes.models.hub_model.fetch", counted)
        with trio.fail_after(TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(model.serve, lambda: None)
                await enough.wait()
                with pytest.raises(RuntimeFailure, match="cannot be reached") as failed:
                    await complete(model, ask(1))
                assert failed.value.code == "unavailable"
                assert model.standing is not None
                assert model.standing.state is ModelState.FETCHING
                assert "cannot be reached" in model.standing.reason
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert "cannot be reached" in model.trouble
    assert hub.seen == []


def test_offline_by_order_is_not_tried_at_all(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HF_HUB_OFFLINE is respected, and named."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RuntimeFailure, match="HF_HUB_OFFLINE") as failed:
        fetched(REPOSITORY)
    assert failed.value.code == "invalid_model"
    assert hub.seen == []


def test_what_the_cache_has_is_served_without_the_hub(
    hub: FakeHub, disk: FakeDisk, tmp_path: pathlib.Path
) -> None:
    """Also with no network; the format that is asked for is the one that is taken."""
    disk.hub(REPOSITORY, "tiny-Q8_0.gguf", real_model(tmp_path / "m.gguf").read_bytes())
    assert cached(read_reference(f"{REPOSITORY}:Q4_K_M")) is None
    model = make_source(f"hf:{REPOSITORY}:q8_0", {})
    assert isinstance(model, HubModel)

    async def main() -> None:
        async with serving(model):
            assert model.card is not None
            assert model.card.name == "tiny-Q8_0"

    trio.run(main)
    assert hub.seen == []


def test_two_daemons_do_not_write_into_each_other(hub: FakeHub) -> None:
    """While one downloads, another one's attempt fails and is made again later."""
    hub.stalls_after = 1000

    async def main() -> None:
        with trio.fail_after(TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                arrived = trio.Event()
                nursery.start_soon(
                    fetch,
                    read_reference(REPOSITORY),
                    lambda report: arrived.set() if report.done_bytes else None,
                )
                await arrived.wait()
                with pytest.raises(RuntimeFailure, match="another program") as failed:
                    await fetch(read_reference(REPOSITORY), lambda report: None)
                assert failed.value.code == "unavailable"
                nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.usefixtures("disk")
def test_without_huggingface_hub_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, before anything starts."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "huggingface_hub" else find(name),
    )
    with pytest.raises(RuntimeFailure, match="pip install huggingface_hub") as failed:
        make_source(f"hf:{REPOSITORY}", {})
    assert failed.value.code == "missing_dependency"


def test_a_file_that_is_no_model_is_given_up(hub: FakeHub) -> None:
    """The Hub had what was asked for, but llama.cpp has no use for it."""
    hub.files[REPOSITORY] = {FILE: b"no model" + gguf()}
    model = HubModel(read_reference(REPOSITORY), {})

    async def main() -> None:
        with trio.fail_after(TIMEOUT_S):
            await model.serve(lambda: None)

    with pytest.raises(RuntimeFailure, match="no GGUF file") as failed:
        trio.run(main)
    assert failed.value.code == "invalid_model"


def test_the_downloader_gets_what_it_needs_and_no_more() -> None:
    """Its endpoint, its token, its proxies; none of our secrets, and no bytes that are no text."""
    environment = {
        "HF_ENDPOINT": "e", "HF_TOKEN": "t", "https_proxy": "p", "SSL_CERT_FILE": "c",
        "MESHD_UPSTREAM_KEY": "k", "PATH": "/", "HF_ODD": "\udcff",
    }  # fmt: skip
    kept = {"HF_ENDPOINT", "HF_TOKEN", "https_proxy", "SSL_CERT_FILE"}
    assert set(hub_environment(environment)) == kept


def test_progress_counts_over_all_attempts() -> None:
    """Shares of the whole, rates of what came since the last line, a line every ten seconds."""

    def report(done: int, received: int) -> Fetching:
        return Fetching(name="m", done_bytes=done, total_bytes=200_000_000, received_bytes=received)

    progress = FetchProgress("o/r")
    assert progress.note(report(0, 0), 100.0) == "downloading o/r: 0% of 0.20 GB, 0.0 MB/s"
    assert progress.note(report(50_000_000, 50_000_000), 105.0) == ""
    assert progress.note(report(50_000_000, 0), 106.0) == ""
    line = progress.note(report(100_000_000, 50_000_000), 110.0)
    assert line == "downloading o/r: 50% of 0.20 GB, 10.0 MB/s"
    assert progress.share == 0.5
    assert progress.received_bytes == 100_000_000
