"""The one place for the commands about the mesh's root key: export, import, remove."""

import pathlib
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from meshd.cli import passphrase, terminal
from meshd.cli.options import HomeOption, JsonOption, chosen_home
from meshd.cli.passphrase import PassphraseFile
from meshd.control_client import ask
from meshd.failures import ExitCode, UserError
from meshd.home import Home

root = typer.Typer(
    name="root",
    help="The mesh's root key: keep a copy of it, bring it to another machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_OPTION = "--passphrase-file"
_File = Annotated[
    pathlib.Path, typer.Argument(metavar="FILE", help="The exported root key.", show_default=False)
]


@root.command()
def export(
    context: typer.Context,
    file: _File,
    passphrase_file: PassphraseFile = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the root key to a new file, under a passphrase of its own."""
    given = passphrase.of_file(passphrase_file)
    given = given or passphrase.asked_twice("Passphrase for the exported key: ", _OPTION)
    result = _do(chosen_home(context, home), "export", file, given)
    if as_json:
        terminal.print_json(result)
        return
    print(f"The root key of mesh {terminal.harmless(result['mesh'])} is in {file}.")
    terminal.remark(
        "Keep it where this machine's end is not its end; meshd root import FILE restores it."
    )


@root.command(name="import")
def import_(
    context: typer.Context,
    file: _File,
    passphrase_file: PassphraseFile = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring an exported root key to this member of its mesh, which may invite from then on."""
    from meshd.trust.root_key import check_importable, read_export

    place = chosen_home(context, home)
    check_importable(place, read_export(_absolute(file)))  # before anybody types for nothing
    result = _do(place, "import", file, _of_export(file, passphrase_file))
    if as_json:
        terminal.print_json(result)
        return
    print(f"The root key of mesh {terminal.harmless(result['mesh'])} is on this machine now.")
    terminal.remark("Use it on one machine at a time: what it signs is numbered.")


@root.command()
def remove(
    context: typer.Context,
    file: _File,
    passphrase_file: PassphraseFile = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take the root key off this machine; FILE, its export, is tried first."""
    from meshd.trust.root_key import read_export

    place = chosen_home(context, home)
    read_export(_absolute(file))
    result = _do(place, "remove", file, _of_export(file, passphrase_file))
    if as_json:
        terminal.print_json(result)
        return
    print(
        f"The root key of mesh {terminal.harmless(result['mesh'])} is off this machine. "
        "What its node may decide as an admin, it still may."
    )
    terminal.remark(
        f"{file} is what is left of it: meshd root import brings it back. Backups of this home, "
        "and the disk's unused blocks, may still hold it."
    )


def _of_export(file: pathlib.Path, passphrase_file: str | None) -> bytes:
    given = passphrase.of_file(passphrase_file)
    return given or passphrase.asked(f"Passphrase of {file}: ", _OPTION)


def _absolute(file: pathlib.Path) -> pathlib.Path:
    return file.expanduser().absolute()


def _do(home: Home, act: str, file: pathlib.Path, secret: bytes) -> Mapping[str, Any]:
    """By the running daemon, which may need the root key any moment, or else here."""
    path = _absolute(file)
    text = secret.decode(errors="surrogateescape")
    try:
        return ask(home, "root", act=act, file=str(path), passphrase=text)
    except UserError as failure:
        if failure.exit_code is not ExitCode.NO_DAEMON:
            raise
    from meshd.trust.audit import note_once
    from meshd.trust.keys import node_seed
    from meshd.trust.root_key import ACTS
    from protocol.crypto import SodiumCrypto

    home = passphrase.opened(home, None)
    with home.locked():
        mesh = ACTS[act].do(home, path, secret)
        note_once(home, SodiumCrypto(node_seed(home)), ACTS[act].noted, mesh=mesh, file=str(path))
    return {"mesh": mesh, "file": str(path)}
