# SPDX-License-Identifier: Apache-2.0
"""The contract with gunicorn: every name of it that `compysition.http.gunicorn` uses does what is relied on.

When gunicorn changes, these fail first, and say what.
"""

import ast
import dataclasses
import inspect

import pytest
from gunicorn.http import body, message
from gunicorn.http.unreader import Unreader

from compysition.http.gate import RefusedError
from compysition.http.gunicorn import BODY_ERRORS, PLAIN, ParsedHead, read_head
from compysition.http.wire import Wire

#: Settings that only the code about proxies and the parser in C reads, neither of which is reached.
NOT_REACHED = {
    "forwarded_allow_ips",
    "forwarded_allow_networks",
    "forwarder_headers",
    "proxy_allow_ips",
    "proxy_allow_networks",
    "secure_scheme_headers",
}


class Text:
    """A source of bytes that ends, with the two methods that gunicorn's parser calls."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, size: int | None = None, read_ahead: int | None = None) -> bytes:
        size = len(self.data) if size is None else size
        piece, self.data = self.data[:size], self.data[size:]
        return piece

    def unread(self, data: bytes) -> None:
        self.data = bytes(data) + self.data


def parsed(data: bytes) -> ParsedHead:
    head = read_head(Text(data))  # type: ignore[arg-type]  # what it uses of a wire
    assert head is not None
    return head


def test_the_parser_reads_no_setting_that_it_is_not_given() -> None:
    used = {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(message)))
        if isinstance(node, ast.Attribute)
        and (
            (isinstance(node.value, ast.Name) and node.value.id == "cfg")
            or (isinstance(node.value, ast.Attribute) and node.value.attr == "cfg")
        )
    }
    given = {field.name for field in dataclasses.fields(PLAIN)} | {"http_parser"}
    assert used - NOT_REACHED <= given


def test_a_wire_has_what_the_parser_calls_of_its_source() -> None:
    called = {
        node.func.attr
        for module in (message, body)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and "unreader" in ast.unparse(node.func.value).split(".")[-1:]
    }
    assert called
    assert called <= {"read", "unread"}
    for name in called:
        theirs, ours = inspect.signature(getattr(Unreader, name)), inspect.signature(getattr(Wire, name))
        assert list(theirs.parameters) == list(ours.parameters)


def test_a_head_has_its_parts() -> None:
    fields = b"Host: x\r\nX-Y:  z \r\nExpect: 100-Continue\r\nContent-Length: 3\r\n"
    head = parsed(b"POST /a%20b?c=d HTTP/1.1\r\n" + fields + b"\r\nabc")
    assert (head.method, head.uri, head.path, head.query) == ("POST", "/a%20b?c=d", "/a%20b", "c=d")
    assert (head.version, head.scheme, head.expects_continue) == ((1, 1), "http", True)
    assert ("X-Y", "z") in head.headers
    assert (head.body.read(), head.body_left) == (b"abc", 0)


@pytest.mark.parametrize(
    ("sent", "lefts"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", [0, 0, 0]),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde", [5, 3, 0]),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n", [None, None, 0]),
    ],
)
def test_what_is_left_of_a_body_is_known(sent: bytes, lefts: list[int | None]) -> None:
    head = parsed(sent)
    seen = [head.body_left]
    head.body.reader.read(2)
    seen.append(head.body_left)
    while head.body.read(100):
        pass
    seen.append(head.body_left)
    assert seen == lefts


def test_no_proxy_is_believed_and_no_field_with_an_underscore_kept() -> None:
    head = parsed(b"GET / HTTP/1.1\r\nX-Forwarded-Proto: https\r\nX_Y: 1\r\nSCRIPT_NAME: /a\r\nX-Z: 2\r\n\r\n")
    assert head.scheme == "http"
    assert [name for name, _ in head.headers] == ["X-FORWARDED-PROTO", "X-Z"]


def test_the_end_before_a_head_is_no_head() -> None:
    assert read_head(Text(b"")) is None  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nX", 400),
        (b"GET / HTTP/3.0\r\n\r\n", 505),
        (b"GET / HTTP/x.y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nExpect: x\r\n\r\n", 417),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: x\r\n\r\n", 501),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431),
    ],
)
def test_each_error_of_the_parser_has_its_status(sent: bytes, status: int) -> None:
    with pytest.raises(RefusedError) as caught:
        parsed(sent)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "chunks",
    [b"x\r\n", b"3\r\nab", b"3\r\nabcd\r\n", b"0\r\nHost: a\r\n\r\n", b"0\r\nX: " + b"a" * 9000],
    ids=lambda chunks: repr(chunks[:20]),
)
def test_chunks_that_cannot_be_read_are_one_of_the_errors_of_a_body(chunks: bytes) -> None:
    head = parsed(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    with pytest.raises(BODY_ERRORS):
        head.body.read()
