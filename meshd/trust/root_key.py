"""The one place where a mesh's root key leaves a machine and comes to another.

An export is a text file: which mesh it is the root key of, and the key under a passphrase of its
own. It is for the day on which the machine that founded the mesh is gone.

    meshd root key
    mesh: ID
    acts: N         how many acts the key had signed by then
    -----BEGIN ENCRYPTED PRIVATE KEY-----
"""

import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Final

from meshd import posix
from meshd.failures import UserError
from meshd.home import Home
from meshd.trust.encrypted_keys import WrongPassphrase
from meshd.trust.keys import from_encrypted_pem, read_key, read_private, to_pem, write_key
from meshd.trust.mesh import MeshFile, read_mesh, write_mesh
from protocol.crypto import public_key_of
from protocol.identity import key_text, mesh_id_of

_TITLE: Final = "meshd root key"
_HEAD: Final = re.compile(rf"{_TITLE}\nmesh: ([a-z2-7]{{26}})\nacts: ([0-9]{{1,15}})\n".encode())


@dataclasses.dataclass(frozen=True, slots=True)
class Export:
    """An exported root key, closed."""

    path: pathlib.Path
    mesh: str
    """The id of the mesh, as the file states it."""
    acts: int
    pem: bytes = dataclasses.field(repr=False)

    def open(self, passphrase: bytes) -> bytes:
        """The seed inside. Raises UserError: another passphrase, damaged."""
        try:
            seed = from_encrypted_pem(self.pem, passphrase)
        except WrongPassphrase as error:
            raise UserError(f"this is not the passphrase of {self.path}; try again") from error
        except ValueError as error:
            raise _damaged(self.path) from error
        if key_text(mesh_id_of(public_key_of(seed))) != self.mesh:
            raise _damaged(self.path)
        return seed


def read_export(path: pathlib.Path) -> Export:
    """Read an exported root key without opening it.

    Raises UserError: not there, readable by others, no such file.
    """
    data = read_private(path, "the exported root key")
    if data is None:
        raise UserError(f"there is no file {path}")
    head = _HEAD.match(data)
    if head is None:
        raise UserError(f"{path} is no exported root key; meshd root export FILE makes one")
    return Export(path, head[1].decode(), int(head[2]), data[head.end() :])


def export_root(home: Home, path: pathlib.Path, passphrase: bytes) -> str:
    """Write this home's root key to a new file under `passphrase`; returns the mesh's id.

    Raises UserError: no root key here, the file is there already or cannot be written.
    """
    mesh, seed = _own_root(home)
    name = key_text(mesh.mesh)
    head = f"{_TITLE}\nmesh: {name}\nacts: {mesh.acts}\n".encode()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(head + to_pem(seed, passphrase))
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        with contextlib.suppress(OSError):  # a stick may have no such thing
            posix.fsync_directory(path.parent)
    except FileExistsError as error:
        raise UserError(f"{path} is there already; choose another name") from error
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return name


def check_importable(home: Home, export: Export) -> MeshFile:
    """The mesh of this home, whose root key `export` must be. Raises UserError."""
    mesh = read_mesh(home)
    if mesh is None:
        raise UserError(
            f"this node is in no mesh; join {export.mesh} first (meshd join TOKEN), then import"
        )
    if key_text(mesh.mesh) != export.mesh:
        raise UserError(
            f"{export.path} is the root key of the mesh {export.mesh}, and this node is in "
            f"{key_text(mesh.mesh)}"
        )
    return mesh


def import_root(home: Home, path: pathlib.Path, passphrase: bytes) -> str:
    """Put an exported root key into this home, which may then invite; returns the mesh's id.

    Raises UserError: another mesh's, another passphrase, another root key is in the way.
    """
    export = read_export(path)
    mesh = check_importable(home, export)
    seed = export.open(passphrase)
    present = read_key(home.root_key, home.passphrase)
    if present is not None and present != seed:
        raise UserError(
            f"{home.root_key} is another mesh's root key; move it to a safe place, then import"
        )
    # The count first: a crash between must not leave a key that counts from the beginning.
    if export.acts > mesh.acts:
        write_mesh(home, dataclasses.replace(mesh, acts=export.acts))
    write_key(home, home.root_key, seed)
    return export.mesh


def remove_root(home: Home, path: pathlib.Path, passphrase: bytes) -> str:
    """Take the root key off this home, once the export in `path` is seen to bring it back; returns
    the mesh's id. Raises UserError.
    """
    mesh, seed = _own_root(home)
    if read_export(path).open(passphrase) != seed:
        raise UserError(f"{path} is not the root key of this mesh ({key_text(mesh.mesh)})")
    home.root_key.unlink()
    posix.fsync_directory(home.path)
    return key_text(mesh.mesh)


def _own_root(home: Home) -> tuple[MeshFile, bytes]:
    """The mesh of this home and the seed of its root key. Raises UserError."""
    mesh, seed = read_mesh(home), read_key(home.root_key, home.passphrase)
    if mesh is None or seed is None or public_key_of(seed) != mesh.root:
        raise UserError(
            "the root key of this mesh is not on this machine; it is where the mesh was founded, "
            "or where it was imported"
        )
    return mesh, seed


def _damaged(path: pathlib.Path) -> UserError:
    return UserError(f"{path} is damaged; use another copy of it")


@dataclasses.dataclass(frozen=True, slots=True)
class Act:
    """What may be done with a root key and an exported one."""

    do: Callable[[Home, pathlib.Path, bytes], str]
    """Of a home, a file and its passphrase; gives the mesh's id. Raises UserError."""
    noted: str
    """Its type in the audit log."""


ACTS: Final[Mapping[str, Act]] = {
    "export": Act(export_root, "root.exported"),
    "import": Act(import_root, "root.imported"),
    "remove": Act(remove_root, "root.removed"),
}
"""By the word of the command."""
