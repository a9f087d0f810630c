"""What a job may look like, and how a mistake in one is said."""

import os
import pathlib

import pytest

from meshd.failures import ExitCode, UserError
from meshd.tasks.descriptor import read_call, read_descriptor
from runtimes.functions.call import INPUT_BYTES_MAX


def test_little_is_needed() -> None:
    """A function's name is enough; all else has its default."""
    job = read_descriptor({"function": "f"})
    assert (job.schema_version, job.runtime, job.arguments) == ("1.0", "function", {})
    assert (job.deadline_s, job.retries, job.priority) == (600.0, 2, 0)
    assert read_call(job).arguments == b"{}"


def test_everything_is_read() -> None:
    """Each key arrives where it belongs."""
    value = {
        "schema_version": "1.0",
        "job_id": "Fold_1.a-b",
        "runtime": "function",
        "function": "f",
        "arguments": {"a": [1, {"b": None}]},
        "inputs": {},
        "requirements": {"labels": {"os": "linux"}, "tier_max": 2, "node": "anna"},
        "priority": 3,
        "deadline_s": 10,
        "retries": 0,
    }
    assert read_descriptor(value).model_dump(mode="json") == value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "not valid"),
        (None, "not valid"),
        ({}, "'function'"),
        ({"function": 1}, "'function'"),
        ({"function": "f", "argumnets": {}}, "'argumnets'; did you mean 'arguments'?"),
        ({"function": "f", "input_files": []}, "did you mean 'inputs'?"),
        ({"function": "f", "docker_image": "x"}, "there are: arguments, deadline_s"),
        ({"function": "f", "requirements": {"tier": 1}}, "did you mean 'tier_max'?"),
        ({"function": "f", "requirements": {"tier_max": 4}}, "'requirements.tier_max'"),
        ({"function": "f", "runtime": "wasm"}, "'runtime'"),
        ({"function": "f", "schema_version": "2.0"}, "'schema_version'"),
        ({"function": "f", "job_id": "../x"}, "'job_id'"),
        ({"function": "f", "job_id": "x\n"}, "'job_id'"),
        ({"function": "f", "job_id": "x" * 65}, "'job_id'"),
        ({"function": "f", "arguments": []}, "'arguments'"),
        ({"function": "f", "deadline_s": 0}, "'deadline_s'"),
        ({"function": "f", "deadline_s": float("inf")}, "'deadline_s'"),
        ({"function": "f", "retries": True}, "'retries'"),
        ({"function": "f", "retries": 11}, "'retries'"),
        ({"function": "f", "priority": 11}, "'priority'"),
    ],
)
def test_a_mistake_is_wrong_usage_in_one_line(value: object, words: str) -> None:
    """Unknown keys name the nearest one; wrong values name their key."""
    with pytest.raises(UserError) as refused:
        read_descriptor(value)
    assert refused.value.exit_code is ExitCode.WRONG_USAGE
    assert words in refused.value.message
    assert "\n" not in refused.value.message


def test_arguments_nested_too_deep_are_refused() -> None:
    """What no worker would take is not sent to one."""
    deep: object = 0
    for _ in range(100):
        deep = [deep]
    with pytest.raises(UserError, match="nested too deep"):
        read_call(read_descriptor({"function": "f", "arguments": {"a": deep}}))


def test_input_files_are_read(tmp_path: pathlib.Path) -> None:
    """Their bytes, under the names that the job gives them."""
    (tmp_path / "a").write_bytes(b"\x00one")
    call = read_call(read_descriptor({"function": "f", "inputs": {"x": str(tmp_path / "a")}}))
    assert call.inputs == (("x", b"\x00one"),)


def test_a_file_that_cannot_be_had_is_said(tmp_path: pathlib.Path) -> None:
    """Absent, a folder, a pipe that would never end, too large, or not absolute."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "half").write_bytes(bytes(INPUT_BYTES_MAX // 2 + 1))
    (tmp_path / "nul").touch()
    half = str(tmp_path / "half")
    for inputs, words in [
        ({"x": str(tmp_path / "none")}, "no file"),
        ({"x": str(tmp_path)}, "no file"),
        ({"x": str(tmp_path / "pipe")}, "no file"),
        ({"x": str(tmp_path / "nul\x00")}, "'x'"),
        ({"x": "relative"}, "absolute"),
        ({"x": half, "y": half}, "together"),
        ({"not a name": str(tmp_path / "nul")}, "named like an argument"),
    ]:
        with pytest.raises(UserError, match=words):
            read_call(read_descriptor({"function": "f", "inputs": inputs}))
