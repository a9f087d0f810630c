"""Models of other programs are found by their names, whatever lies around them."""

import hashlib
import json
import os
import pathlib
import sys

import pytest

from runtimes.base import RuntimeFailure
from runtimes.models.gguf_files import ScanBudget, files_below
from runtimes.models.on_disk import UnknownModel, find_model, models_on_disk
from tests.runtimes.models.fake_disk import COMMIT, OLLAMA_KIND, FakeDisk, gguf, write


@pytest.fixture
def furnished(disk: FakeDisk) -> FakeDisk:
    """A home with some of everything."""
    disk.ollama("llama3.2:1b", gguf(101))
    disk.ollama("llama3.2:3b", gguf(102))
    disk.ollama("mistral:latest", gguf(103))
    disk.ollama("someone/poet:7b", gguf(104))
    disk.ollama("org/repo:Q4_K_M", gguf(105), host="hf.co")
    disk.lm_studio("bartowski/Qwen3-0.6B-GGUF/Qwen3-0.6B-Q8_0.gguf", gguf(106))
    disk.lm_studio("bartowski/Qwen3-0.6B-GGUF/Qwen3-0.6B-Q4_K_M.gguf", gguf(107))
    disk.lm_studio("bartowski/Qwen3-0.6B-GGUF/mmproj-Qwen3-0.6B.gguf", gguf(108))
    disk.lm_studio("bartowski/Qwen3-0.6B-GGUF/Qwen3-0.6B.mmproj-Q8_0.gguf", gguf(109))
    for part in (1, 2, 3):
        disk.lm_studio(f"big/Big-GGUF/Big-Q4_K_M-{part:05}-of-00003.gguf", gguf(200))
    disk.hub("TheOrg/Tiny-GGUF", "tiny.Q2_K.gguf", gguf(109))
    disk.hub("TheOrg/Tiny-GGUF", "sub/tiny.F16.gguf", gguf(110))
    disk.hub("twin/Twin-GGUF", "twin.gguf", gguf(111))
    disk.lm_studio("other/Twins/twin.gguf", gguf(112))
    disk.llama_cpp("ggml-org/Small_Thing-GGUF", "small-Q8_0.gguf", gguf(113))
    disk.llama_cpp("ggml-org/Small_Thing-GGUF", "mmproj-small-f16.gguf", gguf(114))
    write(disk.llama_cpp_folder / "by_url_alone.gguf", gguf(115))
    for name in ("manifest===.json", "manifest=x==y.json", "manifest=a=b=c=d.json", "manifest="):
        write(disk.llama_cpp_folder / name, b"{}")
    return disk


def found_name(wanted: str) -> tuple[str, int]:
    """The name and the size of what is found."""
    model = find_model(wanted, models_on_disk())
    return model.name, model.size_bytes


@pytest.mark.parametrize(
    ("wanted", "name", "size"),
    [
        ("llama3.2:1b", "llama3.2:1b", 101),
        ("LLAMA3.2:1B", "llama3.2:1b", 101),
        ("llama3.2:3", "llama3.2:3b", 102),
        ("mistral", "mistral:latest", 103),
        ("mistral:latest", "mistral:latest", 103),
        ("mis", "mistral:latest", 103),
        ("someone/poet", "someone/poet:7b", 104),
        ("hf.co/org/repo:Q4_K_M", "hf.co/org/repo:Q4_K_M", 105),
        ("Qwen3-0.6B-Q8_0", "Qwen3-0.6B-Q8_0", 106),
        ("qwen3-0.6b-q8_0.gguf", "Qwen3-0.6B-Q8_0", 106),
        ("bartowski/Qwen3-0.6B-GGUF", "Qwen3-0.6B-Q4_K_M", 107),
        ("bartowski/Qwen3", "Qwen3-0.6B-Q4_K_M", 107),
        ("qwen3-0.6b-gguf", "Qwen3-0.6B-Q4_K_M", 107),
        ("bartowski/Qwen3-0.6B-GGUF:q8_0", "Qwen3-0.6B-Q8_0", 106),
        ("bartowski/qwen3-0.6b-gguf/Qwen3-0.6B-Q8_0", "Qwen3-0.6B-Q8_0", 106),
        ("big-q4_k_m", "Big-Q4_K_M", 600),
        ("theorg/tiny-gguf", "tiny.F16", 110),
        ("tiny.q2_k", "tiny.Q2_K", 109),
        ("twin/Twin-GGUF", "twin", 111),
        ("other/Twins/twin", "twin", 112),
        ("small-q8_0", "small-Q8_0", 113),
        ("ggml-org/Small_Thing-GGUF:Q8_0", "small-Q8_0", 113),
        ("by_url_alone", "by_url_alone", 115),
    ],
)
@pytest.mark.usefixtures("furnished")
def test_a_model_is_found_by_its_names(wanted: str, name: str, size: int) -> None:
    """As its program calls it, by repository, by file, by first letters; in any case."""
    assert found_name(wanted) == (name, size)


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ("llama3.2", ("llama3.2:1b", "llama3.2:3b")),
        ("twin", ("twin/Twin-GGUF", "other/Twins")),
        ("Qwen3-0.6B-Q", ("Qwen3-0.6B-Q8_0", "Qwen3-0.6B-Q4_K_M")),
    ],
)
@pytest.mark.usefixtures("furnished")
def test_doubt_is_not_guessed_away(wanted: str, named: tuple[str, ...]) -> None:
    """What could be several is refused, with names that each lead to one."""
    with pytest.raises(RuntimeFailure, match="could be any of") as failed:
        found_name(wanted)
    assert failed.value.code == "invalid_model"
    assert "\n" not in failed.value.message
    for name in named:
        assert name in failed.value.message
        found_name(name)


def test_llama_cpps_cache_is_where_it_is_told_to_be(
    disk: FakeDisk, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """By LLAMA_CACHE, or by the system's variable; else in the home."""
    for variable, folder in (("LLAMA_CACHE", tmp_path / "a"), ("XDG_CACHE_HOME", tmp_path / "b")):
        place = folder if variable == "LLAMA_CACHE" else folder / "llama.cpp"
        write(place / "m.gguf", gguf(100))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "platform", "linux")
            patch.setenv(variable, str(folder))
            assert [model.path for model in models_on_disk()] == [place / "m.gguf"]
    assert models_on_disk() == []
    del disk


@pytest.mark.usefixtures("furnished")
def test_a_projector_is_no_model() -> None:
    """The file for a vision model's pictures answers nothing by itself."""
    assert not any("mmproj" in model.path.name for model in models_on_disk())


@pytest.mark.usefixtures("furnished")
def test_an_unknown_name_lists_the_nearest() -> None:
    """One line with what was probably meant."""
    with pytest.raises(UnknownModel, match=r"nearest are mistral:latest") as failed:
        found_name("mistrall")
    assert "hf:ORG/REPO" in failed.value.message


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("wanted", ["x", "x" * 100_000, "a/b", "\0", "\udcff", "", "%s"])
def test_nothing_is_found_on_an_empty_disk(wanted: str) -> None:
    """Any text is answered with one short line."""
    with pytest.raises(UnknownModel) as failed:
        found_name(wanted)
    assert "\n" not in failed.value.message
    assert len(failed.value.message) < 400


def test_the_folders_follow_their_variables(
    disk: FakeDisk, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OLLAMA_MODELS, and HF_HUB_CACHE before HF_HOME before XDG_CACHE_HOME, as its programs do."""
    disk.ollama("moved:1b", gguf(), folder=tmp_path / "o")
    cache = pathlib.Path("models--a--b/snapshots", COMMIT)
    write(tmp_path / "hub" / cache / "direct.gguf", gguf(101))
    write(tmp_path / "hf" / "hub" / cache / "home.gguf", gguf(102))
    write(tmp_path / "xdg" / "huggingface" / "hub" / cache / "xdg.gguf", gguf(103))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "o"))
    for variable, folder, name in (
        ("XDG_CACHE_HOME", "xdg", "xdg"),
        ("HF_HOME", "hf", "home"),
        ("HF_HUB_CACHE", "hub", "direct"),
    ):
        monkeypatch.setenv(variable, str(tmp_path / folder))
        assert [model.name for model in models_on_disk()] == ["moved:1b", name]


def test_the_newest_commit_wins(disk: FakeDisk) -> None:
    """A file that several commits have is there once, as `main` has it; others stay."""
    disk.hub("o/r", "m.gguf", gguf(101), commit="0" * 40)
    disk.hub("o/r", "m.gguf", gguf(102))
    disk.hub("o/r", "old.gguf", gguf(103), commit="f" * 40)
    found = sorted((model.name, model.size_bytes) for model in models_on_disk())
    assert found == [("m", 102), ("old", 103)]


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"layers": 7}',
        b'{"layers": [7, {}]}',
        b'{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "../../x"}]}',
        b'{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": 5}]}',
        b'{"layers": [{"mediaType": "application/vnd.ollama.image.model"}]}',
        b"[" * 100_000,
        b"\xff" * 1_000,
    ],
)
def test_hostile_manifests_are_no_models(disk: FakeDisk, manifest: bytes) -> None:
    """A manifest is just a file; the good one beside it is found all the same."""
    disk.ollama("good:1b", gguf())
    write(disk.ollama_folder / "manifests/registry.ollama.ai/library/bad/1b", manifest)
    assert [model.name for model in models_on_disk()] == ["good:1b"]


def test_an_adapted_model_is_not_offered_without_its_adapter(disk: FakeDisk) -> None:
    """Under its name it would be another model."""
    disk.ollama("tuned:1b", gguf(), more_layers=[("adapter", gguf(101))])
    assert models_on_disk() == []


def manifest_with(*projectors: object) -> bytes:
    """Of a model whose layers with projectors have these digests."""
    digest = f"sha256:{hashlib.sha256(gguf()).hexdigest()}"
    kinds = ("model", *["projector"] * len(projectors))
    layers = [
        {"mediaType": f"{OLLAMA_KIND}.{kind}", "digest": one}
        for kind, one in zip(kinds, (digest, *projectors), strict=True)
    ]
    return json.dumps({"layers": layers}).encode()


@pytest.mark.parametrize("count", [0, 1, 2, 500])
def test_ollamas_projector_is_known_where_there_is_one(disk: FakeDisk, count: int) -> None:
    """Of several nobody knows which; the model is there all the same."""
    path = disk.ollama("good:1b", gguf(), more_layers=[("projector", gguf(101))])
    digest = f"sha256:{hashlib.sha256(gguf(101)).hexdigest()}"
    manifest = disk.ollama_folder / "manifests/registry.ollama.ai/library/good/1b"
    manifest.write_bytes(manifest_with(*[digest] * count))
    (model,) = models_on_disk()
    assert model.path == path
    blob = path.with_name(digest.replace(":", "-"))
    assert model.projector == (blob if count == 1 else None)


def test_the_same_weights_with_a_projector_are_another_model(disk: FakeDisk) -> None:
    """Both are found; a second name for the same one is not a second model."""
    disk.ollama("blind:1b", gguf())
    for name in ("seeing:1b", "seeing:latest"):
        disk.ollama(name, gguf(), more_layers=[("projector", gguf(101))])
    assert [model.name for model in models_on_disk()] == ["blind:1b", "seeing:1b"]


@pytest.mark.parametrize(
    "digest",
    ["sha256:" + "0" * 64, "../../secret.gguf", "sha256:x/../../../secret.gguf", "/etc/passwd", "",
     5, None, {}, [], "sha256:" + "a" * 65, "sha256:" + "A" * 64],
)  # fmt: skip
def test_a_projectors_digest_leads_nowhere_else(disk: FakeDisk, digest: object) -> None:
    """What names no blob that is there names nothing."""
    disk.ollama("good:1b", gguf())
    write(disk.ollama_folder.parent / "secret.gguf", gguf(101))
    (disk.ollama_folder / "blobs" / "sha256-x").mkdir()
    manifest = disk.ollama_folder / "manifests/registry.ollama.ai/library/good/1b"
    manifest.write_bytes(manifest_with(digest))
    assert [(model.name, model.projector) for model in models_on_disk()] == [("good:1b", None)]


def test_hostile_folders_are_survived(disk: FakeDisk, tmp_path: pathlib.Path) -> None:
    """Loops, dead links, pipes, folders that look like files, names that are no Unicode."""
    top = disk.lm_studio_folder
    disk.lm_studio("p/r/good.gguf", gguf())
    (top / "p" / "loop").symlink_to(top)
    (top / "p" / "r" / "self.gguf").symlink_to(top / "p" / "r" / "self.gguf")
    (top / "p" / "r" / "dead.gguf").symlink_to(tmp_path / "nowhere")
    (top / "p" / "r" / "folder.gguf").mkdir()
    os.mkfifo(top / "p" / "r" / "pipe.gguf")
    write(top / "p" / "r" / "half-00001-of-00002.gguf", gguf())
    with open(os.fsencode(top) + b"/p/r/\xff\n\x1b[31m.gguf", "wb") as file:
        file.write(gguf(101))
    write(top / "p" / "r" / ("x" * 245 + ".gguf"), gguf(102))
    write(disk.home / ".cache" / "lm-studio", b"a file where a folder belongs")
    models = models_on_disk()
    assert sorted(model.size_bytes for model in models) == [100, 101, 102]
    for model in models:
        assert all(name.isprintable() and 0 < len(name) <= 128 for name in model.names)


def test_a_linked_folder_is_looked_into_once(disk: FakeDisk, tmp_path: pathlib.Path) -> None:
    """People keep models on another disk and link to them."""
    write(tmp_path / "elsewhere" / "r" / "far.gguf", gguf())
    disk.lm_studio_folder.mkdir(parents=True)
    (disk.lm_studio_folder / "a").symlink_to(tmp_path / "elsewhere")
    (disk.lm_studio_folder / "b").symlink_to(tmp_path / "elsewhere")
    assert [model.repository for model in models_on_disk()] == ["a/r"]


def test_no_folder_is_entered_twice(tmp_path: pathlib.Path) -> None:
    """A link that leads back up costs nothing, however deep one may go."""
    write(tmp_path / "a" / "b" / "m.gguf", gguf())
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    found = list(files_below(tmp_path, ScanBudget(), depth=30))
    assert found == [tmp_path / "a" / "b" / "m.gguf"]


def test_a_scan_ends_when_its_budget_is_spent(disk: FakeDisk) -> None:
    """Endless folders cost a bounded number of looks, and time."""
    for number in range(50):
        disk.lm_studio(f"p/r/m{number}.gguf", gguf(100 + number))
    assert len(models_on_disk()) == 50
    assert len(models_on_disk(ScanBudget(entries=20))) < 20
    assert models_on_disk(ScanBudget(seconds=0.0)) == []


def test_what_lies_too_deep_is_not_looked_for(disk: FakeDisk) -> None:
    """Depth has a limit too."""
    disk.lm_studio("p/r/" + "deep/" * 12 + "m.gguf", gguf())
    assert models_on_disk() == []
