"""Upstreams over TLS: trusted by the system's certificates, or not asked at all."""

import datetime
import functools
import ipaddress
import pathlib
import ssl

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from runtimes.openai.call import Unreachable
from runtimes.openai.listing import Listing, ask_models
from runtimes.openai.settings import read_settings

BODY = b'{"data":[{"id":"m"}]}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


def certificate(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "upstream")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = (folder / "certificate.pem", folder / "key.pem")
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def ask_over_tls(server: ssl.SSLContext | None) -> Listing:
    """The models of a server on loopback; None: it speaks no TLS."""
    found: list[Listing] = []

    async def answer(stream: trio.SocketStream) -> None:
        secured: trio.abc.Stream = stream
        if server is not None:
            secured = trio.SSLStream(stream, server, server_side=True)
        try:
            await secured.receive_some()
            await secured.send_all(ANSWER)
        except trio.BrokenResourceError:
            pass  # the client does not trust us

    serve = functools.partial(trio.serve_tcp, host="127.0.0.1")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            [listener] = await nursery.start(serve, answer, 0)
            port = listener.socket.getsockname()[1]
            settings = read_settings(f"https://127.0.0.1:{port}", {})
            found.append(await ask_models(settings, ("/v1",), within_s=5.0))
            nursery.cancel_scope.cancel()

    try:
        trio.run(main)
    except* Unreachable as group:
        raise group.exceptions[0] from None
    return found[0]


@pytest.fixture
def context(tmp_path: pathlib.Path) -> ssl.SSLContext:
    """The server's side; its certificate lies in `tmp_path`."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(*certificate(tmp_path))
    return made


def test_a_certificate_that_the_system_trusts(
    context: ssl.SSLContext, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is spoken to."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    assert [model.id for model in ask_over_tls(context).models] == ["m"]


def test_a_certificate_that_nobody_trusts(context: ssl.SSLContext) -> None:
    """Nothing is sent, and the line says why."""
    with pytest.raises(Unreachable, match=r"TLS failed: .*certificate"):
        ask_over_tls(context)


def test_a_server_without_tls() -> None:
    """The same, for a URL that should have begun with http://."""
    with pytest.raises(Unreachable, match="TLS failed"):
        ask_over_tls(None)
