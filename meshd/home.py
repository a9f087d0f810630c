"""The one place that knows what lies where in a node's home folder, and who may use it.

A home belongs to one running daemon at a time (an advisory lock that dies with its process).
Files are replaced atomically: after a crash at any instant a reader finds the old or the new
content, never a part of it.
"""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Final

import platformdirs

from meshd import posix, replacement
from meshd.failures import UserError

IDENTITY_FILES: Final = (
    "node.key", "root.key", "mesh.msgpack", "members.msgpack", "numbers.msgpack", "tls.pem",
)  # fmt: skip
"""Who the node is, and what only that node may remember."""


def default_home() -> pathlib.Path:
    """`MESHD_HOME`, or the platform's folder for application data."""
    named = os.environ.get("MESHD_HOME")
    return pathlib.Path(named) if named else pathlib.Path(platformdirs.user_data_dir("meshd"))


class Home:
    """Paths in one home folder, and atomic writes to them."""

    def __init__(self, path: pathlib.Path, passphrase: bytes | None = None) -> None:
        """`passphrase`: under which the private keys in it lie, or shall lie when they are made."""
        self.path = path.absolute()
        self.passphrase = passphrase

    @property
    def node_key(self) -> pathlib.Path:
        """The node's Ed25519 private key, PKCS8 PEM."""
        return self.path / "node.key"

    @property
    def mesh(self) -> pathlib.Path:
        """What mesh this is: root public key, mesh secret, own admission (msgpack)."""
        return self.path / "mesh.msgpack"

    @property
    def root_key(self) -> pathlib.Path:
        """The mesh's root private key; only in the home that founded the mesh."""
        return self.path / "root.key"

    @property
    def members(self) -> pathlib.Path:
        """Members and authority records as last known (msgpack)."""
        return self.path / "members.msgpack"

    @property
    def numbers(self) -> pathlib.Path:
        """Own numbers that must never fall: incarnation, offers' version, boot (msgpack)."""
        return self.path / "numbers.msgpack"

    @property
    def audit(self) -> pathlib.Path:
        """The newest lines of the log of security-relevant acts (JSON lines)."""
        return self.path / "audit.jsonl"

    @property
    def audit_head(self) -> pathlib.Path:
        """How many lines that log has, the hash of the last, the node's signature (JSON)."""
        return self.path / "audit.head"

    @property
    def last_port(self) -> pathlib.Path:
        """The port that `--listen HOST:0` got last time (decimal text)."""
        return self.path / "port"

    @property
    def tls(self) -> pathlib.Path:
        """The certificate that carries the node key into TLS, and its issuer (PEM)."""
        return self.path / "tls.pem"

    @property
    def keys(self) -> pathlib.Path:
        """The gateway's API keys, without their texts (JSON)."""
        return self.path / "keys.json"

    @property
    def jobs(self) -> pathlib.Path:
        """The folder of the jobs that were submitted here, a file each (JSON)."""
        return self.path / "jobs"

    @property
    def usage(self) -> pathlib.Path:
        """Who has used how much (SQLite)."""
        return self.path / "usage.sqlite"

    @property
    def scratch(self) -> pathlib.Path:
        """The folder in which jobs that run here work; nothing in it outlives them."""
        return self.path / "scratch"

    @property
    def control_socket(self) -> pathlib.Path:
        """Where a running daemon takes commands that change something."""
        return self.path / "control.sock"

    @property
    def lock_file(self) -> pathlib.Path:
        """Held while a daemon runs; contains its process id."""
        return self.path / "daemon.lock"

    def create(self) -> None:
        """Make the folder, for the owner only.

        Raises UserError when that is impossible, or when every user may exchange its files.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
            list(self.path.iterdir())
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"cannot use the home folder {self.path}: {reason}; "
                "mend its permissions or choose another with --home"
            ) from error
        if posix.replaceable_by_all(self.path):
            raise UserError(
                f"every user can exchange the files in the home folder {self.path}; "
                f"mend that with chmod o-w {self.path}, or choose a folder in it with --home"
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the home for one daemon. Raises UserError when another one has it."""
        self.create()
        try:
            lock = self.lock_file.open("a+b")
        except OSError as error:
            raise UserError(
                f"cannot open {self.lock_file}: {error.strerror}; mend its permissions"
            ) from error
        with lock:
            if not posix.lock_exclusively(lock):
                raise UserError(
                    f"a daemon already runs on {self.path}; stop it or choose another --home"
                )
            self._sweep()
            self._finish_replacement()
            lock.truncate(0)
            lock.write(str(os.getpid()).encode())
            lock.flush()
            yield

    def _sweep(self) -> None:
        """Remove the half-written files of a writer that was killed."""
        for leftover in self.path.glob("*.tmp-*"):
            leftover.unlink(missing_ok=True)

    def next_identity(self) -> "Home":
        """A home inside this one, in which a new identity becomes ready. Raises UserError."""
        inner = Home(self.path / replacement.PREPARED, self.passphrase)
        inner.create()
        return inner

    def discard_next_identity(self) -> None:
        """Leave this home as if `next_identity` had never been asked for."""
        replacement.discard(self.path)

    def take_next_identity(self) -> pathlib.Path | None:
        """Become what `next_identity` is; gives the archive of what this home was, if anything.

        Raises UserError; this home is then what it was, or becomes the new one when it is locked
        the next time.
        """
        try:
            replacement.commit(self.path, IDENTITY_FILES)
        except OSError as error:
            raise UserError(
                f"cannot keep the old identity in {self.path}: {error.strerror or error}; nothing "
                "has changed, mend that and start again"
            ) from error
        return self._finish_replacement()

    def _finish_replacement(self) -> pathlib.Path | None:
        try:
            return replacement.finish(self.path, IDENTITY_FILES)
        except OSError as error:
            raise UserError(
                f"cannot put the new identity in place in {self.path}: {error.strerror or error}; "
                "mend that and start again: it goes on from there"
            ) from error

    def write(self, path: pathlib.Path, content: bytes, *, secret: bool = False) -> None:
        """Replace `path` atomically and durably; `secret` makes it readable by the owner only.

        Raises OSError (a full disk, for one); the old content then still stands.
        """
        descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.tmp-", dir=self.path)
        temporary = pathlib.Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if os.name == "posix":
                temporary.chmod(0o600 if secret else 0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        posix.fsync_directory(self.path)
