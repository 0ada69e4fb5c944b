# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.http.request`, `headers` and `multidict`."""

import copy
import gc
import weakref
from collections.abc import Mapping
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compysition.errors import (
    HeaderError,
    MalformedError,
    MethodNotAllowedError,
    NotFoundError,
    TooLargeError,
    UnsupportedTypeError,
)
from compysition.http.headers import FrozenHeaders, Headers
from compysition.http.multidict import MultiDict
from compysition.http.request import Request


def environ_of(target: str | None = "/", **fields: Any) -> dict[str, Any]:
    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "HTTP_HOST": "a", "SERVER_PROTOCOL": "HTTP/1.1"} | fields
    if target is not None:
        environ = {"RAW_URI": target, "PATH_INFO": "/not/looked/at"} | environ
    setup_testing_defaults(environ)
    return environ


def request_of(target: str | None = "/", base_path: str = "/", **fields: Any) -> Request:
    return Request.from_environ(environ_of(target, **fields), base_path)


# ---- the path -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "segments", "path", "service"),
    [
        ("/", (), "/", "default"),
        ("/?a=1", (), "/", "default"),
        ("/test_service", ("test_service",), "/test_service", "test_service"),
        ("/orders/17", ("orders", "17"), "/orders/17", "orders"),
        ("/a/", ("a", ""), "/a/", "a"),
        ("/%C3%A9", ("é",), "/é", "é"),
        ("/a;b+c", ("a;b+c",), "/a;b+c", "a;b+c"),
        ("/a//b", ("a", "", "b"), "/a//b", "a"),
        ("/...", ("...",), "/...", "..."),
        ("http://b/x?y=1", ("x",), "/x", "x"),
        ("HTTPS://b", (), "/", "default"),
    ],
)
def test_the_path_is_split_and_decoded(target: str, segments: tuple[str, ...], path: str, service: str) -> None:
    request = request_of(target)
    assert (request.segments, request.path, request.service) == (segments, path, service)
    assert request.target == target


def test_the_path_is_split_before_it_is_decoded_and_decoded_once() -> None:
    assert request_of("/a%2Fb/c").segments == ("a/b", "c")
    assert request_of("/a%252Fb").segments == ("a%2Fb",)


def test_without_a_raw_target_the_path_of_the_server_counts() -> None:
    request = request_of(None, SCRIPT_NAME="/mount", PATH_INFO="/caf\xc3\xa9/x y", QUERY_STRING="b=2")
    assert request.segments == ("café", "x y")
    assert request.target == "/mount/caf%C3%A9/x%20y?b=2"
    assert request_of(None, PATH_INFO="").service == "default"


@pytest.mark.parametrize(
    "target",
    [
        "/%zz",
        "/%4",
        "/a%00",
        "/a%1f",
        "/a%7F",
        "/%ff",
        "/%ED%A0%80",
        "/\xe9",
        "/a#b",
        "/a\\b",
        '/a"b',
        "/a<b>",
        "/a/../b",
        "/./a",
        "/a/%2e%2E/b",
        "/a%2F..%2Fb",
        "/..%2fb",
        "/a/%2e",
        "/..",
        "x",
        "*",
        "a:1",
        "ftp://b/x",
        "http:///x",
        "http://a@b/x",
        "/?a=%zz",
        "/?a=b c",
        "/?a=\xe9",
        "/?" + "&" * 1000,
    ],
)
def test_a_target_that_cannot_be_read_is_malformed(target: str) -> None:
    with pytest.raises(MalformedError) as caught:
        request_of(target)
    assert caught.value.status == 400


@pytest.mark.parametrize("path", ["/a\xff", "/a/../b", "/a\x00b", "/\x7f"])
def test_a_decoded_path_is_held_to_the_same_rules(path: str) -> None:
    with pytest.raises(MalformedError):
        request_of(None, PATH_INFO=path)


def test_a_path_that_begins_with_an_empty_segment_is_not_found() -> None:
    with pytest.raises(NotFoundError):
        request_of("//x")


def test_options_may_ask_about_the_server() -> None:
    assert request_of("*", REQUEST_METHOD="OPTIONS").target == "*"


@given(st.lists(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1), min_size=1))
def test_any_text_in_a_segment_comes_back(segments: list[str]) -> None:
    target = "".join("/" + "".join(f"%{byte:02X}" for byte in segment.encode()) for segment in segments)
    if {".", ".."} & set(segments):
        with pytest.raises(MalformedError):
            request_of(target)
    else:
        assert request_of(target).segments == tuple(segments)


@given(st.text(st.characters(max_codepoint=255)), st.text(st.characters(max_codepoint=255)))
def test_any_target_is_read_or_refused_as_the_callers_fault(target: str, query: str) -> None:
    try:
        request = request_of(f"/{target}?{query}")
    except (MalformedError, NotFoundError):
        pass
    else:
        assert not {".", ".."} & set(request.segments)
        assert len(request.query) <= 1000
    try:
        request_of(None, PATH_INFO=target, QUERY_STRING=query)
    except (MalformedError, NotFoundError):
        pass


# ---- where it is served ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_path", "target", "segments"),
    [
        ("/api", "/api/x/y", ("x", "y")),
        ("/api", "/api", ()),
        ("/api", "/api/", ()),
        ("/api/", "/api/x", ("x",)),
        ("/a/b", "/a/b/c", ("c",)),
        ("/é", "/%C3%A9/x", ("x",)),
    ],
)
def test_the_base_path_is_taken_away(base_path: str, target: str, segments: tuple[str, ...]) -> None:
    request = request_of(target, base_path)
    assert request.segments == segments
    assert request.target == target


@pytest.mark.parametrize("target", ["/apix", "/", "/other/api", "/a%70%69x", "/api%2Fx"])
def test_outside_the_base_path_nothing_is_found(target: str) -> None:
    with pytest.raises(NotFoundError):
        request_of(target, "/api")


def test_a_mount_of_another_application_comes_in_front_of_the_base_path() -> None:
    request = request_of("/mount/api/a%2Fb", "/api", SCRIPT_NAME="/mount", PATH_INFO="/api/a/b")
    assert request.segments == ("a/b",)


def test_a_mount_that_the_target_does_not_show_leaves_the_path_to_the_server() -> None:
    request = request_of("/elsewhere", SCRIPT_NAME="/mount", PATH_INFO="/x")
    assert request.segments == ("x",)


# ---- the rest of the head -------------------------------------------------------------------------------------------


def test_the_head_is_read() -> None:
    environ = environ_of(
        "/x?a=1",
        REQUEST_METHOD="POST",
        REMOTE_ADDR="::1",
        CONTENT_TYPE="text/xml; charset=utf-8",
        CONTENT_LENGTH="12",
        HTTP_HOST="[::1]:80",
        HTTP_X_REQUEST_ID="abc-1",
        HTTP_X_CUSTOM="value",
    )
    request = Request.from_environ(environ)
    assert (request.method, request.scheme, request.host, request.client) == ("POST", "http", "[::1]:80", "::1")
    assert (request.content_type, request.content_length) == ("text/xml; charset=utf-8", 12)
    assert request.request_id == "abc-1"
    assert request.query_string == "a=1"
    assert request.headers["x-custom"] == "value"
    assert request.headers["CONTENT-TYPE"] == "text/xml; charset=utf-8"
    assert request.headers["Content-Length"] == "12"


def test_the_authority_of_the_target_replaces_the_host() -> None:
    request = request_of("https://b:8443/x")
    assert (request.scheme, request.host) == ("https", "b:8443")


def test_http_1_0_may_leave_the_host_out() -> None:
    environ = environ_of("/", SERVER_PROTOCOL="HTTP/1.0", SERVER_NAME="me", SERVER_PORT="81")
    del environ["HTTP_HOST"]
    assert Request.from_environ(environ).host == "me:81"
    with pytest.raises(MalformedError, match="Host is missing"):
        Request.from_environ(environ | {"SERVER_PROTOCOL": "HTTP/1.1"})


@pytest.mark.parametrize("host", ["", "a/b", "a@b", "a,a", "a b", "a:x", "[::1", "a:123456"])
def test_a_host_that_is_none_is_malformed(host: str) -> None:
    with pytest.raises(MalformedError):
        request_of(HTTP_HOST=host)


@pytest.mark.parametrize("method", ["get", "G ET", "", "G\xe9T", "Get"])
def test_a_method_is_a_token_in_upper_case(method: str) -> None:
    with pytest.raises(MalformedError):
        request_of(REQUEST_METHOD=method)


def test_a_method_nobody_knows_is_left_to_the_door() -> None:
    assert request_of(REQUEST_METHOD="M-SEARCH").method == "M-SEARCH"


def test_trace_is_not_allowed() -> None:
    with pytest.raises(MethodNotAllowedError) as caught:
        request_of(REQUEST_METHOD="TRACE")
    assert "GET" in caught.value.headers["Allow"]


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip"])
def test_a_compressed_body_is_not_taken(coding: str) -> None:
    with pytest.raises(UnsupportedTypeError) as caught:
        request_of(HTTP_CONTENT_ENCODING=coding)
    assert caught.value.status == 415
    assert caught.value.headers == {"Accept-Encoding": "identity"}


def test_identity_is_no_compression() -> None:
    assert request_of(HTTP_CONTENT_ENCODING="Identity").method == "GET"


@pytest.mark.parametrize("length", ["+3", "-3", "0x3", "3, 3", "3 ", "1_0", "\u0663", "abc"])
def test_a_length_that_is_no_number_is_malformed(length: str) -> None:
    with pytest.raises(MalformedError):
        request_of(CONTENT_LENGTH=length)


def test_a_length_beyond_all_sizes_is_too_large() -> None:
    with pytest.raises(TooLargeError):
        request_of(CONTENT_LENGTH="9" * 16)


def test_an_empty_length_and_type_are_none() -> None:
    request = request_of(CONTENT_LENGTH="", CONTENT_TYPE="")
    assert (request.content_length, request.content_type) == (None, None)


@pytest.mark.parametrize("request_id", ["a" * 128, "0", "urn:x/y+z=@-_~."])
def test_an_acceptable_request_id_is_taken(request_id: str) -> None:
    assert request_of(HTTP_X_REQUEST_ID=request_id).request_id == request_id


@pytest.mark.parametrize("request_id", ["", "a" * 129, "a b", "a,b", "é", "a\n"])
def test_any_other_request_id_is_ignored(request_id: str) -> None:
    assert request_of(HTTP_X_REQUEST_ID=request_id).request_id is None


# ---- query and cookies ----------------------------------------------------------------------------------------------


def test_a_query_has_several_values_per_name() -> None:
    query = request_of("/?a=1&b=x+y&a=2&c&d=%26%3b;e").query
    assert query.pairs() == [("a", "1"), ("b", "x y"), ("a", "2"), ("c", ""), ("d", "&;;e")]
    assert query["a"] == "1"
    assert query.get_all("a") == ["1", "2"]
    assert query.get_all("missing") == []
    assert (len(query), list(query), "a" in query, "A" in query) == (4, ["a", "b", "c", "d"], True, False)


def test_what_is_not_utf_8_in_a_query_is_replaced() -> None:
    assert request_of("/?a=%ff").query["a"] == "�"


def test_a_query_has_at_most_1000_fields() -> None:
    assert len(request_of("/?" + "&".join(f"a{n}" for n in range(1000))).query) == 1000
    with pytest.raises(MalformedError):
        request_of("/?" + "&".join(f"a{n}" for n in range(1001)))


@pytest.mark.parametrize(
    ("header", "cookies"),
    [
        ("a=1; b=2", {"a": "1", "b": "2"}),
        ("a=1; a=2", {"a": "1"}),
        ('a="x y"; b="\\"\\054\\303\\251"', {"a": "x y", "b": '",é'}),
        ("a=caf\xc3\xa9", {"a": "café"}),
        ("a=\xff; b=2", {"b": "2"}),
        ("nothing; =1; b c=3;;a=x=y", {"a": "x=y"}),
        ('a="', {"a": '"'}),
    ],
)
def test_cookies_are_read(header: str, cookies: Mapping[str, str]) -> None:
    assert request_of(HTTP_COOKIE=header).cookies == cookies


def test_at_most_100_cookies_are_looked_at() -> None:
    assert len(request_of(HTTP_COOKIE=";".join(f"a{n}=1" for n in range(200))).cookies) == 100
    assert request_of().cookies == {}


# ---- what it is -----------------------------------------------------------------------------------------------------


def test_a_request_is_frozen_and_shared_by_copies() -> None:
    request = request_of("/?a=1", HTTP_COOKIE="a=1")
    with pytest.raises(AttributeError):
        request.method = "POST"  # type: ignore[misc]
    with pytest.raises(TypeError):
        request.cookies["b"] = "2"  # type: ignore[index]
    assert copy.copy(request) is request
    assert copy.deepcopy([request])[0] is request
    assert request.query is request.query
    assert request.headers is request.headers
    assert request.cookies is request.cookies


def test_a_request_keeps_nothing_of_the_environ_alive() -> None:
    class Input:
        pass

    body = Input()
    gone = weakref.ref(body)
    environ = environ_of("/", **{"wsgi.input": body})
    request = Request.from_environ(environ)
    del environ, body
    gc.collect()
    assert gone() is None
    assert request.path == "/"


def test_a_repr_shows_no_secret() -> None:
    request = request_of("/x?token=secret", HTTP_AUTHORIZATION="Basic secret", HTTP_COOKIE="secret=secret")
    assert "secret" not in repr(request)
    assert "secret" not in repr(request.headers)
    assert "/x" in repr(request)


# ---- headers --------------------------------------------------------------------------------------------------------


def test_header_names_have_no_case() -> None:
    headers = Headers({"Content-Type": "text/plain"})
    headers["content-type"] = "text/html"
    headers.add("Vary", "Accept")
    headers.add("VARY", "Origin")
    assert headers.pairs() == [("content-type", "text/html"), ("Vary", "Accept"), ("VARY", "Origin")]
    assert headers["CONTENT-TYPE"] == "text/html"
    assert headers.get_all("vary") == ["Accept", "Origin"]
    del headers["vary"]
    headers.discard("never there")
    assert list(headers) == ["content-type"]
    with pytest.raises(KeyError):
        del headers["vary"]
    with pytest.raises(KeyError):
        headers["vary"]


@pytest.mark.parametrize("name", ["", "a b", "a:", "é", "a\r\nb", None, 3])
def test_a_name_that_is_no_token_is_refused(name: Any) -> None:
    with pytest.raises(HeaderError):
        Headers().add(name, "x")
    with pytest.raises(HeaderError):
        Headers()[name] = "x"


@pytest.mark.parametrize("value", ["a\r\nB: c", "a\nb", "\0", "€", "x" * 8191, 3, None, b"x"])
def test_a_value_that_cannot_be_sent_is_refused(value: Any) -> None:
    headers = Headers()
    with pytest.raises(HeaderError):
        headers["A"] = value
    assert not headers


def test_a_header_error_is_a_value_error() -> None:
    assert issubclass(HeaderError, ValueError)


def test_headers_are_copied_and_frozen_ones_shared() -> None:
    headers = Headers([("A", "1")])
    for twin in (headers.copy(), copy.copy(headers), copy.deepcopy(headers)):
        twin.add("A", "2")
    assert headers == Headers([("a", "1")])
    assert headers != MultiDict([("A", "1")])
    frozen = FrozenHeaders([("A", "1")])
    assert copy.deepcopy(frozen) is frozen
    assert frozen != 1
