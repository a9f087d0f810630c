"""The gateway by TLS, over real TCP; and certificates that cannot be used."""

import contextlib
import hashlib
import pathlib
import ssl
from collections.abc import AsyncIterator

import pytest
import structlog.testing
import trio

from meshd.failures import UserError
from meshd.gateway.access import make_access
from meshd.gateway.certificate import load_certificate
from meshd.gateway.limits import Limits
from meshd.gateway_options import GatewayOptions
from tests.helpers.certificates import make_certificate
from tests.meshd.gateway.fake_mesh import FakeMesh
from tests.meshd.gateway.raw_http import (
    LIMITS,
    Running,
    chat_bytes,
    gateway,
    read_reply,
    request_bytes,
)


@contextlib.asynccontextmanager
async def secure_gateway(
    folder: pathlib.Path, mesh: FakeMesh, limits: Limits = LIMITS
) -> AsyncIterator[tuple[Running, ssl.SSLContext]]:
    """A gateway with a certificate, and a client's context that trusts it."""
    files = make_certificate(folder)
    options = GatewayOptions(tls_certificate=files[0], tls_key=files[1])
    access = make_access(options, load_certificate(*files), "127.0.0.1")
    client = ssl.create_default_context(cafile=files[0])
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    async with gateway(mesh, limits, access=access) as running:
        yield running, client


async def secured(
    running: Running, client: ssl.SSLContext, **options: bool
) -> "trio.SSLStream[trio.SocketStream]":
    """A connection whose handshake is done."""
    stream = trio.SSLStream(await running.connect(), client, server_hostname="127.0.0.1", **options)
    await stream.do_handshake()
    return stream


def test_requests_by_tls(tmp_path: pathlib.Path) -> None:
    """Whole and streamed, several on one connection, under the names of the certificate."""

    async def main() -> None:
        async with (
            secure_gateway(tmp_path, FakeMesh()) as (running, client),
            await secured(running, client) as stream,
        ):
            for request, status in [
                (chat_bytes(), 200),
                (chat_bytes(stream=True), 200),
                (request_bytes("GET", "/v1/models", host="box.lan:7701"), 200),
                (request_bytes("GET", "/v1/models", host="evil.example"), 403),
                (chat_bytes(), 200),
            ]:
                await stream.send_all(request)
                assert (await read_reply(stream)).status == status

    trio.run(main)


def test_the_end_is_said(tmp_path: pathlib.Path) -> None:
    """The client can tell a whole answer from a cut line: TLS says goodbye before TCP does."""

    async def main() -> None:
        limits = Limits(keep_alive_s=0.2, linger_s=0.2)
        async with (
            secure_gateway(tmp_path, FakeMesh(), limits) as (running, client),
            # Strict: an end without TLS's own raises.
            await secured(running, client, https_compatible=False) as stream,
        ):
            await stream.send_all(request_bytes("GET", "/healthz"))
            assert (await read_reply(stream)).status == 200
            assert await stream.receive_some(1) == b""

    trio.run(main)


def test_only_http_1_1_and_tls_1_2_or_newer(tmp_path: pathlib.Path) -> None:
    """HTTP/2 is not agreed on; old TLS does not come to a request."""

    async def main() -> None:
        async with secure_gateway(tmp_path, FakeMesh()) as (running, client):
            client.set_alpn_protocols(["h2", "http/1.1"])
            async with await secured(running, client) as stream:
                assert stream.selected_alpn_protocol() == "http/1.1"
                assert stream.version() in ("TLSv1.2", "TLSv1.3")

    trio.run(main)
    context = load_certificate(*make_certificate(tmp_path)).context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    "sent", [b"", b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", b"\x00"]
)
def test_who_does_not_shake_hands_is_cut_off(tmp_path: pathlib.Path, sent: bytes) -> None:
    """Silent, half said, or no TLS at all: it ends in time, and others are served meanwhile."""

    async def main() -> None:
        limits = Limits(handshake_s=0.5, connections_max=4)
        mesh = FakeMesh()
        async with secure_gateway(tmp_path, mesh, limits) as (running, client):
            async with await running.connect() as mute:
                await mute.send_all(sent)
                async with await secured(running, client) as stream:
                    await stream.send_all(chat_bytes())
                    assert (await read_reply(stream)).status == 200
                with trio.fail_after(5), contextlib.suppress(trio.BrokenResourceError):
                    while await mute.receive_some(100):
                        pass
            assert len(mesh.requests) == 1

    trio.run(main)


def test_a_client_that_leaves_is_noticed(tmp_path: pathlib.Path) -> None:
    """By goodbye or without: the request is cancelled at once."""

    async def main() -> None:
        for is_polite in (True, False):
            mesh = FakeMesh((), endless="x")
            async with secure_gateway(tmp_path, mesh) as (running, client):
                stream = await secured(running, client)
                await stream.send_all(chat_bytes(stream=True))
                await mesh.entered.wait()
                if is_polite:
                    await stream.aclose()
                else:
                    stream.transport_stream.socket.close()
                with trio.fail_after(5):
                    await mesh.left.wait()

    trio.run(main)


def test_shutdown_by_tls(tmp_path: pathlib.Path) -> None:
    """Clients that neither read nor go do not hold the end up."""

    async def main() -> None:
        mesh = FakeMesh((), endless="x" * 65536)
        async with secure_gateway(tmp_path, mesh) as (running, client):
            idle, deaf = await secured(running, client), await secured(running, client)
            mute = await running.connect()
            await deaf.send_all(chat_bytes(stream=True))
            await mesh.entered.wait()
            running.shutdown.set()
            with trio.fail_after(LIMITS.shutdown_s + LIMITS.farewell_s + 1):
                await running.ended.wait()
            for stream in (idle, deaf, mute):
                await trio.aclose_forcefully(stream)

    trio.run(main)


def test_a_connection_that_makes_room_ends_without_a_word_in_the_log(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever it was: in its handshake, between requests, in a body."""

    async def main() -> None:
        limits = Limits(connections_max=2, linger_s=0.1)
        async with (
            secure_gateway(tmp_path, FakeMesh(), limits) as (running, client),
            contextlib.AsyncExitStack() as stack,
        ):
            for sent in (b"", request_bytes("GET", "/healthz"), chat_bytes()[:-5]) * 5:
                await stack.enter_async_context(await running.connect())
                stream = await secured(running, client)
                stack.push_async_callback(trio.aclose_forcefully, stream)
                await stream.send_all(sent)

    with caplog.at_level("WARNING"):
        trio.run(main)
    assert not caplog.records


# ---- certificates ----


@pytest.mark.parametrize(
    "names", [(), ("box.lan",), ("box.lan", "*.example.org", "192.168.1.5", "fd00::1")]
)
def test_a_certificate_says_whom_it_is_for(tmp_path: pathlib.Path, names: tuple[str, ...]) -> None:
    """Names and addresses; the fingerprint is that of openssl and browsers."""
    files = make_certificate(tmp_path, names=names)
    loaded = load_certificate(*files)
    assert loaded.names == names
    der = ssl.PEM_cert_to_DER_cert(files[0].read_text())
    assert loaded.fingerprint == hashlib.sha256(der).hexdigest()


def test_of_a_chain_the_first_counts(tmp_path: pathlib.Path) -> None:
    """What is above it, and words between, do not matter."""
    own, other = (make_certificate(tmp_path, names=[name], name=name) for name in ("a", "b"))
    own[0].write_bytes(b"subject=a\n" + own[0].read_bytes() + b"\nissuer\n" + other[0].read_bytes())
    assert load_certificate(*own).names == ("a",)


def test_a_key_that_everybody_can_read_is_warned_of(tmp_path: pathlib.Path) -> None:
    """With the mend; one that a group shares, as web servers do, is not."""
    files = make_certificate(tmp_path)
    with structlog.testing.capture_logs() as lines:
        files[1].chmod(0o640)
        load_certificate(*files)
        assert lines == []
        files[1].chmod(0o644)
        load_certificate(*files)
    assert [line["mend"] for line in lines] == [f"chmod o-rwx {files[1]}"]


def test_certificates_that_cannot_be_used(tmp_path: pathlib.Path) -> None:
    """Missing, a folder, no PEM, exchanged, of another key, encrypted: one line names the file."""
    certificate, key = make_certificate(tmp_path)
    other = make_certificate(tmp_path, name="other")[1]
    locked = make_certificate(tmp_path, name="locked", password=b"secret")
    junk, empty = tmp_path / "junk.pem", tmp_path / "empty.pem"
    junk.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n\xff")
    empty.touch()
    missing = tmp_path / "missing.pem"
    for files, said in [
        ((missing, key), "No such file"),
        ((certificate, missing), "No such file"),
        ((tmp_path, key), "directory"),
        ((junk, key), "both PEM"),
        ((empty, key), "both PEM"),
        ((certificate, junk), "both PEM"),
        ((certificate, empty), "both PEM"),
        ((key, certificate), "both PEM"),
        ((certificate, other), "is not the key of"),
        (locked, "openssl pkey"),
    ]:
        with pytest.raises(UserError, match=said) as caught:
            load_certificate(*files)
        assert "--tls-" in caught.value.message
        assert "\n" not in caught.value.message
        assert str(files[0]) in caught.value.message or str(files[1]) in caught.value.message
