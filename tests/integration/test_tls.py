# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.http.tls` and of the embedded server with it, on real sockets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket, ssl

from compysition import Actor, Director
from compysition.actors import WSGIServer
from compysition.errors import ConfigurationError, StartError
from tests.fault.conservation import assert_conserved, wait_until

pytestmark = [pytest.mark.patched, pytest.mark.unpatched]

HERE = Path(__file__).parent / "tls"
CERTIFICATE, KEY = str(HERE / "certificate.pem"), str(HERE / "key.pem")
#: Nothing here takes longer, unless it hangs.
LIMIT_S = 10.0
SHORT_S = 0.3
GET = b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Echo(Actor):
    def consume(self, event: Any) -> None:
        event.data = event.data if event.method == "POST" else f"over {event.request.scheme}"
        self.send_event(event)


@pytest.fixture
def door() -> Iterator[WSGIServer]:
    director = Director()
    door = director.register_actor(WSGIServer, "door", port=0, tls=(CERTIFICATE, KEY), header_timeout_s=SHORT_S)
    echo = director.register_actor(Echo, "echo")
    director.connect_queue(door, echo)
    director.connect_queue(echo, door)
    director.start(block=False)
    yield door
    wait_until(lambda: door.pending == 0)
    assert director.stop().ok
    assert_conserved(director)


def plain(door: WSGIServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", door.port), timeout=LIMIT_S)


def secure(door: WSGIServer, **options: Any) -> Any:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(CERTIFICATE)
    context.set_alpn_protocols(["h2", "http/1.1"])
    for name, value in options.items():
        setattr(context, name, value)
    return context.wrap_socket(plain(door), server_hostname="localhost")


def received(client: Any, end: bytes | None = None) -> bytes:
    data = b""
    while end is None or not data.endswith(end):
        piece = client.recv(65536)
        if not piece:
            break
        data += piece
    return data


def test_a_request_comes_over_tls_and_says_so(door: WSGIServer) -> None:
    client = secure(door)
    assert client.version() in ("TLSv1.2", "TLSv1.3")
    assert client.selected_alpn_protocol() == "http/1.1"
    for _ in range(3):
        client.sendall(GET)
        assert received(client, b"over https").startswith(b"HTTP/1.1 200 OK\r\n")
    client.close()


def test_the_line_about_the_door_says_https(door: WSGIServer) -> None:
    assert f"https://127.0.0.1:{door.port}/" in str(door._door())


def test_large_bodies_go_through_both_ways(door: WSGIServer) -> None:
    body = bytes(range(256)) * 20_000
    client = secure(door)
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    sender = gevent.spawn(client.sendall, head + body)
    answer = received(client)
    sender.get(timeout=LIMIT_S)
    assert answer.partition(b"\r\n\r\n")[2] == body
    client.close()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_the_oldest_version_is_1_2(door: WSGIServer) -> None:
    client = secure(door, maximum_version=ssl.TLSVersion.TLSv1_2)
    assert client.version() == "TLSv1.2"
    client.close()
    with plain(door) as under:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError, match=r"VERSION|version|UNSUPPORTED|reset"):
            context.wrap_socket(under, server_hostname="localhost")


def test_a_plain_request_is_closed(door: WSGIServer) -> None:
    with plain(door) as client:
        client.sendall(GET)
        try:
            # An alert of TLS at most, and never HTTP.
            assert b"HTTP" not in received(client)
        except ConnectionResetError:
            pass


def test_a_client_that_is_silent_is_closed_and_holds_nobody(door: WSGIServer) -> None:
    with plain(door) as silent:
        client = secure(door)
        client.sendall(GET)
        assert received(client, b"over https")
        client.close()
        assert received(silent) == b""


def test_a_head_that_does_not_come_is_408(door: WSGIServer) -> None:
    client = secure(door)
    client.sendall(b"GET / HT")
    assert received(client).startswith(b"HTTP/1.1 408 ")
    client.close()


def test_a_client_that_goes_away_is_seen(door: WSGIServer) -> None:
    client = secure(door)
    client.sendall(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na")
    wait_until(lambda: door.pending == 1)
    client.close()
    wait_until(lambda: door.pending == 0)


# ---- what is given --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tls", "said"),
    [
        (("/no/such/file", KEY), "there is no file '/no/such/file'"),
        ((CERTIFICATE, CERTIFICATE), "cannot be used together"),
        ((KEY, KEY), "cannot be used together"),
    ],
)
def test_files_that_cannot_be_used_are_named_at_the_start(tls: tuple[str, str], said: str) -> None:
    director = Director()
    door = director.register_actor(WSGIServer, "door", port=0, tls=tls)
    director.connect_queue(door, director.register_actor(Echo, "echo"))
    with pytest.raises(StartError, match=said):
        director.start(block=False)


@pytest.mark.parametrize("tls", ["certificate.pem", (CERTIFICATE,), [CERTIFICATE, KEY], (CERTIFICATE, None), True])
def test_anything_but_two_paths_is_refused(tls: Any) -> None:
    with pytest.raises(ConfigurationError, match="tls of 'door'"):
        Director().register_actor(WSGIServer, "door", tls=tls)


def test_without_the_extra_there_is_no_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compysition.http.embedded.find_spec", lambda name: None)
    director = Director()
    door = director.register_actor(WSGIServer, "door", port=0, tls=(CERTIFICATE, KEY))
    director.connect_queue(door, director.register_actor(Echo, "echo"))
    with pytest.raises(StartError, match="TLS needs the extra 'http'"):
        director.start(block=False)
