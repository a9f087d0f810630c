"""The one place where people give passphrases, and the commands that put a home's keys under one.

`MESHD_PASSPHRASE`, a file, or a question on the terminal. The variable is taken out of our
environment, so that no process that we start inherits it.
"""

import os
import pathlib
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from meshd.cli import terminal
from meshd.cli.options import HomeOption, JsonOption, chosen_home
from meshd.failures import UserError
from meshd.home import Home
from meshd.options import wrong_usage

VARIABLE = "MESHD_PASSPHRASE"
BYTES_MAX = 1_024

PassphraseFile = Annotated[
    str | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        help="Its first line is the passphrase; default MESHD_PASSPHRASE, else a question.",
        show_default=False,
    ),
]

passphrase = typer.Typer(
    name="passphrase",
    help="Put this node's private keys under a passphrase, or take it off.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@passphrase.command(name="set")
def set_(
    context: typer.Context,
    passphrase_file: PassphraseFile = None,
    new_passphrase_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Its first line is the new one; default: a question, twice."
        ),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put the node key and the root key under a passphrase, or under another one."""
    place = _home_of_keys(context, home, passphrase_file)
    new = of_file(new_passphrase_file) or asked_twice("New passphrase: ", "--new-passphrase-file")
    _rewrite(place, new, as_json=as_json)


@passphrase.command()
def remove(
    context: typer.Context,
    passphrase_file: PassphraseFile = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the keys without a passphrase again; their file modes still protect them."""
    _rewrite(_home_of_keys(context, home, passphrase_file), None, as_json=as_json)


def _home_of_keys(context: typer.Context, home: str | None, file: str | None) -> Home:
    place = chosen_home(context, home)
    if not place.node_key.exists():
        raise UserError(f"there are no keys in {place.path}; meshd up makes them")
    return opened(place, file)


def _rewrite(home: Home, new: bytes | None, *, as_json: bool) -> None:
    from meshd.trust.audit import note_once
    from meshd.trust.keys import node_seed, rewrite_keys
    from protocol.crypto import SodiumCrypto

    with home.locked():
        written = [path.name for path in rewrite_keys(home, new)]
        home.passphrase = new
        crypto = SodiumCrypto(node_seed(home))
        note_once(home, crypto, "keys.protected" if new else "keys.unprotected")
    if as_json:
        terminal.print_json({"protected": new is not None, "files": written})
        return
    print(f"{', '.join(written)}: {'under the passphrase' if new else 'without a passphrase'}.")
    if new:
        terminal.remark("meshd up asks for it; copies made before, and backups, are not under it.")


# ---- where a passphrase comes from ----


def opened(home: Home, file: str | None) -> Home:
    """`home` with the passphrase of its keys, asked for on the terminal if it needs one.

    Raises UserError: there is nobody to ask, the file is unusable.
    """
    from meshd.trust.keys import is_protected

    given = of_file(file) or of_environment()
    if given is None and (is_protected(home.node_key) or is_protected(home.root_key)):
        given = asked(f"Passphrase of the keys in {home.path}: ", "--passphrase-file")
    return Home(home.path, given)


def of_environment() -> bytes | None:
    """What `MESHD_PASSPHRASE` says, which is taken out of the environment."""
    text = os.environ.pop(VARIABLE, "")
    return _checked(os.fsencode(text), VARIABLE) if text else None


def of_file(name: str | None) -> bytes | None:
    """The first line of a file; None when none is named. Raises UserError."""
    if name is None:
        return None
    from meshd.trust.keys import read_private

    path = pathlib.Path(name).expanduser()
    content = read_private(path, "the passphrase file")
    if content is None:
        raise wrong_usage(f"there is no passphrase file {path}")
    return _checked(content.partition(b"\n")[0].removesuffix(b"\r"), f"the passphrase in {path}")


def asked(question: str, option: str) -> bytes:
    """What a person types, unseen. Raises UserError (wrong usage) where nobody sits."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise wrong_usage(f"a passphrase is needed, and there is no terminal to ask: use {option}")
    return _checked(_typed()(question).encode(errors="surrogateescape"), "the passphrase")


def asked_twice(question: str, option: str) -> bytes:
    """As `asked`, for a new one: a slip of the finger must not lock anybody out."""
    first = asked(question, option)
    if asked("Once more: ", option) != first:
        raise UserError("these two are not the same; nothing was changed")
    return first


def _typed() -> Callable[[str], str]:
    from getpass import getpass

    return getpass


def _checked(text: bytes, what: str) -> bytes:
    if not text:
        raise wrong_usage(f"{what} is empty")
    if len(text) > BYTES_MAX:
        raise wrong_usage(f"{what} is over {BYTES_MAX} bytes long")
    return text
