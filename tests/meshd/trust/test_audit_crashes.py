"""kill -9 of a process that writes the audit log: it holds up to its head, and is gone on with."""

import contextlib
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from meshd.home import Home
from meshd.trust.audit_check import check, last_lines
from meshd.trust.audit_lines import rotated_files
from tests.helpers.daemons import environment
from tests.meshd.trust.audit_homes import OWN, made, write

KILLS = 24
READY_S = 20.0
WRITER = """
import pathlib, sys
from meshd.home import Home
from meshd.trust import audit_log
from meshd.trust.audit_lines import Entry
from tests.meshd.trust.audit_homes import OWN

audit_log.FILE_BYTES_MAX = 20_000
log = audit_log.AuditLog(Home(pathlib.Path(sys.argv[1])), OWN)
print("ready", flush=True)
number = 0
while True:
    for _ in range(7):
        log.append([Entry(1.0, "test.noted", {"number": number + i}) for i in range(3)])
        number += 3
    log.sign()
"""


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    return made(tmp_path / "home")


@contextlib.contextmanager
def _writing(home: Home) -> Iterator[subprocess.Popen[str]]:
    """A process that writes without a pause, and is killed at the end."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(home.path)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        yield writer
    finally:
        writer.kill()
        writer.communicate()


@pytest.mark.skipif(os.name != "posix", reason="needs kill -9")
def test_killed_at_many_instants(home: Home) -> None:
    """Each time the log holds, over files that come and go; nothing signed is ever lost."""
    signed, crashes, told = 0, 0, 0
    for kill in range(KILLS):
        with _writing(home):
            end = time.monotonic() + 0.005 * kill
            while time.monotonic() < end:
                pass
        report = check(home, OWN.node_id)
        assert report.signed >= signed
        assert report.lines - report.signed <= 7 * 3 + 4
        signed = report.signed
        crashes += report.lines > report.signed or report.cut_bytes > 0
        # In the end the oldest files have gone, and with them such lines.
        told += any(line["type"] == "audit.resumed" for line in last_lines(home, 100_000))
    assert crashes, "no kill came between lines and head"
    assert rotated_files(home)
    write(home, 1)
    assert check(home, OWN.node_id).signed > signed
    assert told


@pytest.mark.skipif(os.name != "posix", reason="renames open files")
def test_reading_while_it_is_written_reports_no_break(home: Home) -> None:
    """A hundred times, over files that are exchanged meanwhile."""
    with _writing(home) as writer:
        signed = [check(home, OWN.node_id).signed for _ in range(100)]
        assert writer.poll() is None
    assert signed == sorted(signed)
    assert signed[-1] > signed[0]
