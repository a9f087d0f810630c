"""The one place for `meshd up`: a node in the foreground."""

import dataclasses
import pathlib
import signal
from typing import Annotated

import typer

from meshd.cli import terminal
from meshd.cli.gateway import (
    CorsOriginOption,
    GatewayHostOption,
    InsecureHttpOption,
    RequireKeyOption,
    TlsCertOption,
    TlsKeyOption,
    checked_access,
)
from meshd.cli.options import HomeOption, JsonOption, chosen_home
from meshd.cli.pairing_code import is_code
from meshd.cli.passphrase import PassphraseFile, opened
from meshd.home import Home
from meshd.options import (
    GATEWAY_DEFAULT,
    LISTEN_DEFAULT,
    Ready,
    UpOptions,
    parse_host_port,
    parse_labels,
    parse_models,
    parse_name,
    parse_policy,
    parse_size,
    parse_upstreams,
    wrong_usage,
)

_NewIdentityOption = Annotated[
    bool,
    typer.Option("--new-identity", help="Join as a new node: for a copy of another node's home."),
]
_ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE_OR_NAME[,OPTION=VALUE]...",
        help="Offer this model (repeatable), with options such as demo,slots=4; demo is the one "
        "in the package, none offers none.",
    ),
]
_ModelMemoryOption = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="What models may take of the memory, such as 8GB."),
]
_UpstreamOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL",
        help="Offer the models of this OpenAI-compatible server too; repeatable.",
    ),
]

_NameOption = Annotated[str | None, typer.Option(metavar="NAME", help="Default: the host's name.")]

_ListenOption = Annotated[
    str, typer.Option(metavar="HOST:PORT", help="For other nodes; port 0 picks a free one.")
]
_AdvertiseOption = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Where others reach this node, if not there."),
]
_PolicyOption = Annotated[
    str,
    typer.Option(metavar="NAME", help="Who is asked first, such as least_loaded."),
]
_NoLanOption = Annotated[
    bool, typer.Option("--no-lan", help="Neither announce nor look on the local network.")
]
_YieldOption = Annotated[
    bool,
    typer.Option(
        "--yield-to-owner", help="Serve nobody else while its owner asks it, or on battery."
    ),
]
_RecordOption = Annotated[
    str | None, typer.Option(metavar="FILE", help="Record the protocol's events for replay.")
]


def up(
    context: typer.Context,
    name: _NameOption = None,
    listen: _ListenOption = LISTEN_DEFAULT,
    advertise: _AdvertiseOption = None,
    gateway: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="For apps; port 0 picks a free one.")
    ] = GATEWAY_DEFAULT,
    require_key: RequireKeyOption = False,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    insecure_http: InsecureHttpOption = False,
    cors_origin: CorsOriginOption = None,
    gateway_host: GatewayHostOption = None,
    join: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="Join the mesh of this invite first.")
    ] = None,
    new_identity: _NewIdentityOption = False,
    model: _ModelOption = None,
    model_memory: _ModelMemoryOption = None,
    upstream: _UpstreamOption = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Say this of the node; repeatable."),
    ] = None,
    policy: _PolicyOption = "fastest",
    yield_to_owner: _YieldOption = False,
    no_lan: _NoLanOption = False,
    passphrase_file: PassphraseFile = None,
    record: _RecordOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a node in the foreground; an empty home founds a mesh."""
    if new_identity and join is None:
        raise wrong_usage(
            "--new-identity needs an invite: add --join TOKEN, which meshd invite prints"
        )
    options = UpOptions(
        home=chosen_home(context, home).path,
        name=None if name is None else parse_name(name),
        listen=_checked_address(listen, what="--listen"),
        advertise=None if advertise is None else _checked_advertised(advertise),
        gateway=_checked_address(gateway, what="--gateway"),
        access=checked_access(
            require_key=require_key,
            tls_cert=tls_cert,
            tls_key=tls_key,
            insecure_http=insecure_http,
            cors_origin=cors_origin,
            gateway_host=gateway_host,
        ),
        join=None if join is None else checked_token(join),
        new_identity=new_identity,
        models=parse_models(model or ()),
        model_memory_bytes=(
            None if model_memory is None else parse_size(model_memory, what="--model-memory")
        ),
        upstreams=parse_upstreams(upstream or ()),
        labels=parse_labels(label or ()),
        policy=parse_policy(policy),
        yield_to_owner=yield_to_owner,
        lan=not no_lan,
        record=None if record is None else _checked_record(record),
        json=as_json,
    )
    keys = opened(Home(options.home), passphrase_file)
    _run(dataclasses.replace(options, passphrase=keys.passphrase))


def _run(options: UpOptions) -> None:
    import trio  # slow to import, and only here

    from meshd import logs  # before the daemon: see there

    logs.configure()
    from meshd import daemon  # all of it, and only here

    if options.join is not None and terminal.error_is_terminal():
        terminal.remark("joining the mesh ...")
    trio.run(daemon.run, options, announce_as_json if options.json else announce)
    # All is done and said: an impatient Ctrl-C now shall not look like a failure.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def checked_token(text: str) -> str:
    """An invite's token without the blanks of copying. Raises UserError (wrong usage)."""
    if is_code(text):
        raise wrong_usage("this is a pairing code: first run meshd join CODE, then meshd up")
    token = "".join(text.split())
    if not token or not token.isascii() or not token.isprintable():
        raise wrong_usage("this is no token: copy the whole line that meshd invite printed")
    return token


def announce_as_json(ready: Ready) -> None:
    """The ready line for programs, the only one on standard output."""
    _announce_notices(ready)
    with terminal.unread_output():
        terminal.print_json(
            {
                "event": "ready",
                "node": ready.node,
                "name": ready.name,
                "mesh": ready.mesh,
                "listen": ready.listen,
                "gateway": ready.gateway,
            }
        )


def announce(ready: Ready) -> None:
    """The ready line for people, and how to join another machine to a new mesh."""
    _announce_notices(ready)
    with terminal.unread_output():
        did = "founded" if ready.founded else "is in"
        print(
            f"{ready.name} {did} mesh {ready.mesh} on {ready.listen}; "
            f"point apps at {ready.gateway}/v1",
            flush=True,
        )
        if ready.join_line is not None:
            print(f"Join another machine with: {ready.join_line}", flush=True)


def _announce_notices(ready: Ready) -> None:
    for notice in ready.notices:
        terminal.complain(notice)


def _checked_address(text: str, *, what: str) -> str:
    parse_host_port(text, what=what)
    return text


def _checked_advertised(text: str) -> str:
    _, port = parse_host_port(text, what="--advertise")
    if port == 0:
        raise wrong_usage("--advertise: others need the real port, not 0")
    return text


def _checked_record(text: str) -> pathlib.Path:
    if not text:
        raise wrong_usage("--record names no file")
    return pathlib.Path(text).expanduser()
