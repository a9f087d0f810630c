"""The chain: what was changed is found, with its line; what crashed is gone on with, and said."""

import contextlib
import io
import pathlib
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshd.failures import UserError
from meshd.home import Home
from meshd.trust import audit_log
from meshd.trust.audit_check import Broken, Report, check, last_lines
from meshd.trust.audit_lines import (
    GENESIS,
    decode_line,
    encode_line,
    hash_of,
    read_head,
    rotated_files,
    texts_in,
)
from meshd.trust.audit_log import AuditLog
from tests.meshd.trust.audit_homes import OTHER, OWN, entry, lines, made, put, write


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    return made(tmp_path / "home")


def _check(home: Home) -> Report:
    return check(home, OWN.node_id)


def _broken(home: Home) -> Broken:
    with pytest.raises(Broken) as caught:
        _check(home)
    return caught.value


def _types(home: Home) -> list[str]:
    return [line["type"] for line in last_lines(home, 1_000)]


def test_a_log_that_nobody_touched_holds(home: Home) -> None:
    """Over several runs; the numbers and times are those of the lines."""
    write(home, 3)
    write(home, 2)
    report = _check(home)
    assert (report.first, report.lines, report.signed) == (1, 5, 5)
    assert (report.first_time_s, report.last_time_s) == (1_000.0, 1_001.0)
    assert report.node == OWN.node_id
    assert [line["number"] for line in last_lines(home, 3)] == [2, 0, 1]
    assert _types(home) == ["test.noted"] * 5


def test_no_log_is_said(home: Home) -> None:
    """With what makes one."""
    with pytest.raises(UserError, match=r"no audit log.*meshd up"):
        _check(home)


def test_an_empty_log_holds(home: Home) -> None:
    """A head is there before the first line."""
    write(home, 0)
    assert (_check(home).lines, _check(home).first_time_s) == (0, None)


def test_files_are_their_owners(home: Home) -> None:
    """Also one that was made otherwise."""
    write(home, 1)
    home.audit.chmod(0o644)
    write(home, 1)
    assert {path.stat().st_mode & 0o777 for path in (home.audit, home.audit_head)} == {0o600}


# ---- what somebody without the key does ----


def _changed(line: bytes) -> bytes:
    return line.replace(b'"test.noted"', b'"test.n0ted"')


SPOILERS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], int, str]] = {
    "changed": (lambda old: [*old[:2], _changed(old[2]), *old[3:]], 3, "was changed"),
    "first changed": (lambda old: [_changed(old[0]), *old[1:]], 1, "was changed"),
    "last changed": (lambda old: [*old[:-1], _changed(old[-1])], 6, "was changed"),
    "second last changed": (lambda old: [*old[:4], _changed(old[4]), old[5]], 5, "was changed"),
    "removed": (lambda old: [*old[:2], *old[3:]], 3, "line 4 stands here"),
    "first removed": (lambda old: old[1:], 1, "from 1 on are missing"),
    "inserted": (lambda old: [*old[:2], old[1], *old[2:]], 3, "line 2 stands here"),
    "reordered": (lambda old: [*old[:2], old[3], old[2], *old[4:]], 3, "line 4 stands here"),
    "cut off": (lambda old: old[:4], 5, "6 lines were signed, 2 of them are missing"),
    "emptied": (lambda old: [], 1, "6 of them are missing"),
    "junk": (lambda old: [*old[:2], b"junk\n", *old[3:]], 3, "damaged"),
    "half a line": (lambda old: [*old[:5], old[5][:20]], 6, "damaged"),
    "two in one": (lambda old: [*old[:2], old[2][:-1], *old[3:]], 3, "damaged"),
    "endless": (lambda old: [*old[:2], b"x" * 50_000 + b"\n", *old[3:]], 3, "damaged"),
    "deep": (lambda old: [*old[:2], b"[" * 9_000 + b"\n", *old[3:]], 3, "damaged"),
}


@pytest.mark.parametrize("how", SPOILERS)
def test_what_was_done_to_it_is_found(home: Home, how: str) -> None:
    """With the number of the line, and the place in its file."""
    spoil, number, problem = SPOILERS[how]
    write(home, 6)
    put(home, spoil(lines(home)))
    broken = _broken(home)
    assert broken.line == number
    assert problem in str(broken)
    assert f"line {number} (" in str(broken)


def test_a_chain_made_anew_is_found(home: Home) -> None:
    """Whoever computes all hashes again has no signature for the last."""
    write(home, 6)
    previous, forged = GENESIS, []
    for number in range(1, 7):
        text = encode_line(number, entry(number, "forged"), previous)
        forged.append(text + b"\n")
        previous = hash_of(text)
    put(home, forged)
    assert "the signed head names another" in str(_broken(home))


def test_a_head_by_another_is_found(home: Home) -> None:
    """The whole log, made anew and signed with another key."""
    write(home, 2, crypto=OTHER)
    assert "and not by" in str(_broken(home))
    assert check(home, OTHER.node_id).lines == check(home, None).lines == 2


@pytest.mark.parametrize("field", ["first", "lines", "hash", "time", "node", "signature"])
def test_a_changed_head_is_found(home: Home, field: str) -> None:
    """Each of its fields is under the signature."""
    write(home, 3)
    text = home.audit_head.read_text()
    place = text.index(":", text.index(f'"{field}"')) + 4
    for digit in "2a":
        home.audit_head.write_text(text[:place] + digit + text[place + 1 :])
        broken = _broken(home)
        assert broken.line is None or field in ("first", "lines")


def test_a_missing_head_is_found(home: Home) -> None:
    """And a new run does not hide it."""
    write(home, 3)
    home.audit_head.unlink()
    assert "nobody has signed" in str(_broken(home))
    write(home, 1)
    assert "its signed head is gone" in str(_broken(home))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_any_changed_byte_is_found(tmp_path: pathlib.Path, data: st.DataObject) -> None:
    """Of the log, wherever it is; and the next run of the node does not hide it."""
    home = made(tmp_path / "home")
    for path in (home.audit, home.audit_head):
        path.unlink(missing_ok=True)
    write(home, 4)
    content = bytearray(home.audit.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    number = bytes(home.audit.read_bytes()[:place]).count(b"\n") + 1
    home.audit.write_bytes(content)
    assert _broken(home).line == number
    write(home, 2)
    _broken(home)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.binary(max_size=400), st.binary(max_size=400))
def test_any_files_are_an_answer(tmp_path: pathlib.Path, log: bytes, head: bytes) -> None:
    """Whatever lies there: it holds, or it does not; and a node starts on it."""
    home = made(tmp_path / "home")
    home.audit.write_bytes(log)
    home.audit_head.write_bytes(head)
    for _ in range(2):
        with pytest.raises(Broken):
            _check(home)
        write(home, 1)


# ---- crashes ----


def test_lines_behind_the_head_are_counted_and_gone_on_with(home: Home) -> None:
    """A crash came between lines and head: it holds up to there; the next run says so."""
    write(home, 3)
    write(home, 2, signed=False)
    report = _check(home)
    assert (report.lines, report.signed) == (5, 3)
    write(home, 1)
    assert _types(home)[-2:] == ["audit.resumed", "test.noted"]
    assert last_lines(home, 2)[0]["unsigned"] == 2
    assert _check(home).signed == 7


@pytest.mark.parametrize("kept", [1, 30, -1])
def test_half_a_line_is_mended_and_kept(home: Home, kept: int) -> None:
    """It does not break the log, and stands in a line of its own afterwards."""
    write(home, 3)
    write(home, 1, signed=False)
    whole = lines(home)
    put(home, [*whole[:3], whole[3][:kept]])
    report = _check(home)
    assert (report.lines, report.cut_bytes) == (3, len(whole[3][:kept]))
    write(home, 1)
    mended, resumed, noted = last_lines(home, 3)
    assert mended["cut"] == whole[3][:kept].decode()
    assert (resumed["signed_to"], resumed["unsigned"]) == (3, 0)
    assert noted["type"] == "test.noted"
    assert _check(home).signed == 6


def test_a_long_rest_of_a_line_leaves_nothing(home: Home) -> None:
    """It is longer than the line that tells of it."""
    write(home, 1)
    put(home, [*lines(home), b"x" * 20_000])
    write(home, 1)
    assert _check(home).lines == 4
    assert last_lines(home, 3)[0]["cut_bytes"] == 20_000


def test_a_new_head_does_not_hide_that_lines_are_gone(home: Home) -> None:
    """The next run says what the old head counted, under its own signature, for ever."""
    write(home, 6)
    put(home, lines(home)[:4])
    write(home, 2)
    write(home, 2)
    broken = _broken(home)
    assert broken.line == 5
    assert "counts 6 lines, and it ends with line 4" in str(broken)
    assert _types(home) == ["test.noted"] * 4 + ["audit.broken"] + ["test.noted"] * 4


def test_another_signer_is_said(home: Home) -> None:
    """A new identity goes on with the log of the machine."""
    write(home, 2, crypto=OTHER)
    write(home, 1)
    assert _check(home).lines == 4
    assert _types(home)[2] == "audit.signer_changed"


class _Growing(io.BytesIO):
    """A file whose last line is completed while it is read."""

    def readline(self, size: int | None = -1, /) -> bytes:
        text = super().readline(size)
        if not text.endswith(b"\n"):
            place = self.tell()
            self.write(b" and its rest\n")
            self.seek(place)
        return text


def test_half_a_line_is_not_put_together_from_two_looks() -> None:
    """What is written behind it meanwhile is no line."""
    assert list(texts_in(_Growing(b"whole\nhalf"))) == [(b"whole", True), (b"half", False)]


# ---- files ----


@pytest.fixture
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a few lines."""
    monkeypatch.setattr(audit_log, "FILE_BYTES_MAX", 400)


@pytest.mark.usefixtures("_small_files")
def test_the_chain_goes_over_files_and_the_oldest_go(home: Home) -> None:
    """At most eight; what was dropped is stated in the log and under the signature."""
    log = AuditLog(home, OWN)
    for number in range(60):
        log.append([entry(number)])
        log.sign()
        assert _check(home).signed == log.lines
        assert len(rotated_files(home)) <= 7
    log.close()
    head = read_head(home)
    assert head is not None
    report = _check(home)
    assert report.first == head.first == rotated_files(home)[0][0] > 1
    dropped = [line for line in last_lines(home, 1_000) if line["type"] == "audit.dropped"]
    assert dropped[-1]["to"] == report.first - 1
    write(home, 3)
    assert _check(home).lines >= log.lines + 3


@pytest.mark.usefixtures("_small_files")
def test_a_file_that_is_gone_is_found(home: Home) -> None:
    """Be it the oldest, one in between, or the newest."""
    for index in range(4):
        place = made(home.path / str(index))
        write(place, 1)
        while not lines(place) or len(rotated_files(place)) < 3:
            write(place, 1)
        files = [path for _, path in rotated_files(place)] + [place.audit]
        first = decode_line(files[index].read_bytes().split(b"\n")[0])
        files[index].unlink()
        assert _broken(place).line == first.number
        write(place, 1)
        _broken(place)


@pytest.mark.usefixtures("_small_files")
@pytest.mark.parametrize("call", ["rename", "write", "unlink"])
def test_a_crash_while_files_are_exchanged(
    home: Home, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whichever step was the last, the log holds, and the next run goes on."""
    for moment in range(1, 12):
        with monkeypatch.context() as patch:
            _crash_after(patch, call, moment)
            with contextlib.suppress(InterruptedError):
                write(home, 30)
        _check(home)
        write(home, 1)
        assert _check(home).signed == _check(home).lines


def _crash_after(patch: pytest.MonkeyPatch, call: str, moment: int) -> None:
    """From the `moment`th call on that step fails, as when the process was not there any more."""
    owner = Home if call == "write" else pathlib.Path
    real = getattr(owner, call)
    left = [moment]

    def failing(*arguments: object, **more: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise InterruptedError
        return real(*arguments, **more)

    patch.setattr(owner, call, failing)


def test_a_full_disk_leaves_no_half_line(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that stopped in the middle is taken back."""
    log = AuditLog(home, OWN)
    log.append([entry(1)])
    before = home.audit.read_bytes()
    with monkeypatch.context() as patch:

        def half(file: object, offset: int, data: bytes) -> None:
            home.audit.write_bytes(before + data[: len(data) // 2])
            raise OSError(28, "No space left on device")

        patch.setattr(audit_log, "_write_at", half)
        with pytest.raises(OSError, match="No space"):
            log.append([entry(2), entry(3)])
    assert home.audit.read_bytes() == before
    log.close()
