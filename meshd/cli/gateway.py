"""The one place for the options of `meshd up` about who may use its gateway."""

from typing import Annotated

import typer

from meshd.gateway_options import GatewayOptions, parse_hosts, parse_origins, parse_tls_files

RequireKeyOption = Annotated[
    bool, typer.Option("--require-key", help="Ask apps for an API key on loopback too.")
]
TlsCertOption = Annotated[
    str | None, typer.Option(metavar="FILE", help="The gateway's certificate and chain, PEM.")
]
TlsKeyOption = Annotated[
    str | None, typer.Option(metavar="FILE", help="The certificate's private key, PEM.")
]
InsecureHttpOption = Annotated[
    bool,
    typer.Option("--insecure-http", help="Plain HTTP beyond loopback: all can be overheard."),
]
CorsOriginOption = Annotated[
    list[str] | None,
    typer.Option(metavar="ORIGIN", help="Let web pages of this site use the gateway; repeatable."),
]
GatewayHostOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A further host name of the gateway; repeatable."),
]


def checked_access(
    *,
    require_key: bool,
    tls_cert: str | None,
    tls_key: str | None,
    insecure_http: bool,
    cors_origin: list[str] | None,
    gateway_host: list[str] | None,
) -> GatewayOptions:
    """What was typed, checked. Raises UserError (wrong usage)."""
    certificate, key = parse_tls_files(tls_cert, tls_key)
    return GatewayOptions(
        require_key=require_key,
        tls_certificate=certificate,
        tls_key=key,
        insecure_http=insecure_http,
        cors_origins=parse_origins(cors_origin or ()),
        hosts=parse_hosts(gateway_host or ()),
    )
