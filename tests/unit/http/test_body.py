# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.http.body`."""

import io
import sys
from typing import Any

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compysition.errors import MalformedError, RequestError, TooLargeError, UnsupportedTypeError
from compysition.http.body import FormFile, decode_body, read_body

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=b"


class Input(io.BytesIO):
    """A server's input that notes whether it was read, and never gives more than a few bytes at once."""

    was_read = False

    def read(self, size: int | None = -1, /) -> bytes:
        self.was_read = True
        return super().read(min(7, size) if size is not None and size >= 0 else size)


def environ_of(body: bytes, **fields: Any) -> dict[str, Any]:
    return {"wsgi.input": Input(body), "wsgi.input_terminated": True} | fields


CHUNKED = {"HTTP_TRANSFER_ENCODING": "chunked"}

# ---- reading --------------------------------------------------------------------------------------------------------


def test_a_body_is_read_up_to_its_length() -> None:
    assert read_body(environ_of(b"hello, world and more", CONTENT_LENGTH="12")) == b"hello, world"
    assert read_body(environ_of(b"hello, world", **CHUNKED)) == b"hello, world"


@pytest.mark.parametrize("fields", [{}, {"CONTENT_LENGTH": "0"}, {"CONTENT_LENGTH": ""}])
def test_without_a_length_there_is_no_body_and_nothing_is_read(fields: dict[str, str]) -> None:
    environ = environ_of(b"next request", **fields)
    assert read_body(environ) == b""
    assert not environ["wsgi.input"].was_read


def test_a_length_above_the_limit_is_refused_before_reading() -> None:
    environ = environ_of(b"x" * 11, CONTENT_LENGTH="11")
    with pytest.raises(TooLargeError) as caught:
        read_body(environ, 10)
    assert caught.value.status == 413
    assert not environ["wsgi.input"].was_read
    assert read_body(environ_of(b"x" * 10, CONTENT_LENGTH="10"), 10) == b"x" * 10


def test_a_chunked_body_is_refused_at_the_byte_that_exceeds_the_limit() -> None:
    environ = environ_of(b"x" * 1000, **CHUNKED)
    with pytest.raises(TooLargeError):
        read_body(environ, 10)
    assert environ["wsgi.input"].tell() == 11
    assert read_body(environ_of(b"x" * 10, **CHUNKED), 10) == b"x" * 10


@pytest.mark.parametrize("length", ["-1", "+1", "1,1", "one"])
def test_a_length_that_is_no_number_is_malformed(length: str) -> None:
    with pytest.raises(MalformedError):
        read_body(environ_of(b"x", CONTENT_LENGTH=length))


def test_a_body_that_ends_early_is_malformed() -> None:
    with pytest.raises(MalformedError, match="ended 7 bytes before its announced 10"):
        read_body(environ_of(b"abc", CONTENT_LENGTH="10"))


def test_an_input_that_fails_is_malformed() -> None:
    class Broken:
        def read(self, size: int) -> bytes:
            raise OSError("bad chunk")

    with pytest.raises(MalformedError):
        read_body({"wsgi.input": Broken(), "CONTENT_LENGTH": "3"})


def test_a_chunked_body_needs_a_server_that_ends_it() -> None:
    with pytest.raises(MalformedError):
        read_body({"wsgi.input": Input(b"x"), **CHUNKED})


class Hanging:
    def read(self, size: int) -> bytes:
        gevent.sleep(60)
        raise AssertionError("not woken")


def test_a_body_that_does_not_come_is_a_408() -> None:
    with pytest.raises(RequestError) as caught:
        read_body({"wsgi.input": Hanging(), "CONTENT_LENGTH": "3"}, timeout_s=0.001)
    assert caught.value.status == 408
    assert RequestError.status == 400


def test_the_timeout_of_somebody_else_passes() -> None:
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.001):
        read_body({"wsgi.input": Hanging(), "CONTENT_LENGTH": "3"}, timeout_s=60)


# ---- by type --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/xml", "text/xml", "image/svg+xml", "nonsense"]
)
def test_what_has_no_rule_stays_bytes(content_type: str | None) -> None:
    assert decode_body(content_type, b"<a/>") == (b"<a/>", ())
    assert decode_body(content_type, b"").data is None


@pytest.mark.parametrize("content_type", [JSON, "application/problem+json", "Application/JSON ; charset=utf-8"])
def test_json_is_parsed(content_type: str) -> None:
    assert decode_body(content_type, b'{"a": [1, 2.5, null, "\\u00e9", true]}').data == {"a": [1, 2.5, None, "é", True]}


def test_a_byte_order_mark_is_skipped_and_the_last_of_two_names_wins() -> None:
    assert decode_body(JSON, b'\xef\xbb\xbf{"a": 1, "a": 2}').data == {"a": 2}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{'a': 1}",
        b"[1,]",
        b"NaN",
        b"[-Infinity]",
        b"Infinity",
        b"1e999",
        b"[-1e400]",
        b"\xff",
        b'"\xff"',
        '{"a": 1}'.encode("utf-16"),
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'{"\\uD83D": 1}',
        b"1" * 5000,
        b"[" * 65 + b"]" * 65,
        b'{"a":' * 65 + b"1" + b"}" * 65,
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
    ],
    ids=lambda body: repr(body[:20]),
)
def test_json_that_is_none_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        decode_body(JSON, body)
    assert caught.value.status == 400
    assert "\n" not in str(caught.value)


def test_json_may_hold_pairs_of_surrogates_and_64_levels() -> None:
    assert decode_body(JSON, b'"\\ud83d\\ude00"').data == "😀"
    decode_body(JSON, b"[" * 64 + b"1" + b"]" * 64)
    assert len(decode_body(JSON, b"[" + b",".join([b"[{}]"] * 100) + b"]").data) == 100


def test_brackets_in_text_are_no_depth() -> None:
    assert decode_body(JSON, b'"' + b"[" * 100 + b'"').data == "[" * 100


@given(st.binary())
def test_any_bytes_are_json_or_malformed(body: bytes) -> None:
    try:
        decode_body(JSON, body)
    except MalformedError:
        pass


# ---- urlencoded forms -----------------------------------------------------------------------------------------------


def test_a_form_becomes_a_dict_and_a_repeated_name_a_list() -> None:
    form = decode_body(FORM, b"a=1&b=x+y%26&a=2&a=3&c=&caf%C3%A9=\xc3\xa9").data
    assert form == {"a": ["1", "2", "3"], "b": "x y&", "c": "", "café": "é"}
    assert decode_body(FORM, b"").data == {}


@pytest.mark.parametrize(
    "body", [b"a=%ff", b"a=\xff", b"a=%zz", b"a=%", b"hello", b"<a/>", b"a=1&&b=2", b"a=1&", b"n" * 257 + b"=1"]
)
def test_a_form_that_is_none_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_body(FORM, body)


def test_a_document_sent_as_a_form_is_told_what_is_missing() -> None:
    with pytest.raises(MalformedError, match="Content-Type"):
        decode_body(FORM, b"<order/>")


def test_a_form_has_limits() -> None:
    assert len(decode_body(FORM, b"&".join(b"a%d=1" % n for n in range(1000))).data) == 1000
    with pytest.raises(TooLargeError):
        decode_body(FORM, b"&".join(b"a=1" for n in range(1001)))
    with pytest.raises(TooLargeError):
        decode_body(FORM, b"a=" + b"x" * 1024 * 1024)


# ---- multipart forms ------------------------------------------------------------------------------------------------


def part(head: str, content: bytes = b"1") -> bytes:
    return b"--b\r\nContent-Disposition: form-data" + head.encode("latin-1") + b"\r\n\r\n" + content + b"\r\n"


END = b"--b--\r\n"


def test_without_the_extra_a_multipart_form_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "werkzeug"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "werkzeug", None)
    with pytest.raises(UnsupportedTypeError, match=r"pip install 'compysition\[http\]'") as caught:
        decode_body(MULTIPART, part('; name="a"') + END)
    assert caught.value.status == 415


class TestMultipart:
    @pytest.fixture(autouse=True)
    def _needs_the_extra(self) -> None:
        pytest.importorskip("werkzeug")

    def test_fields_become_a_dict(self) -> None:
        body = part('; name="a"') + part('; name="b"', "é\r\n".encode()) + part('; name="a"', b"2") + END
        assert decode_body(MULTIPART, body) == ({"a": ["1", "2"], "b": "é\r\n"}, ())
        assert decode_body(MULTIPART, END).data == {}

    def test_the_boundary_may_be_quoted(self) -> None:
        assert decode_body('multipart/form-data; BOUNDARY="b"; x=y', part('; name="a"') + END).data == {"a": "1"}

    def test_files_are_beside_the_fields(self) -> None:
        head = '; name="f"; filename="../x/photo.jpg"\r\nContent-Type: image/jpeg'
        decoded = decode_body(MULTIPART, part(head, b"\xff\x00") + part('; name="a"') + END)
        assert decoded.data == {"a": "1"}
        assert decoded.files == (FormFile("f", "photo.jpg", "image/jpeg", b"\xff\x00"),)

    @pytest.mark.parametrize(
        ("filename", "kept"), [("/etc/passwd", "passwd"), ("a\x01b\x7f.txt", "ab.txt"), ("", ""), ("..", "..")]
    )
    def test_a_filename_is_its_last_component_without_controls(self, filename: str, kept: str) -> None:
        decoded = decode_body(MULTIPART, part(f'; name="f"; filename="{filename}"') + END)
        assert decoded.files[0].filename == kept

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"x",
            part('; name="a"'),
            part('; name="a"')[:-5],
            part("") + END,
            b"--b\r\n\r\n1\r\n" + END,
            b"--b\r\nX: y\r\n\r\n1\r\n" + END,
            part('; name="a"', b"\xff") + END,
            part('; name="\xff"') + END,
            part(f'; name="{"n" * 257}"') + END,
        ],
        ids=repr,
    )
    def test_a_form_that_is_cut_or_broken_is_malformed(self, body: bytes) -> None:
        with pytest.raises(MalformedError):
            decode_body(MULTIPART, body)

    @pytest.mark.parametrize(
        "content_type",
        ["multipart/form-data", "multipart/form-data; boundary=", f"multipart/form-data; boundary={'b' * 71}"],
    )
    def test_a_boundary_is_needed(self, content_type: str) -> None:
        with pytest.raises(MalformedError, match="boundary"):
            decode_body(content_type, part('; name="a"') + END)

    def test_a_form_has_limits(self) -> None:
        assert len(decode_body(MULTIPART, part('; name="a"') * 1000 + END).data["a"]) == 1000
        with pytest.raises(TooLargeError):
            decode_body(MULTIPART, part('; name="a"') * 1001 + END)
        with pytest.raises(TooLargeError):
            decode_body(MULTIPART, part('; name="a"', b"x" * 300_000) * 2 + END)
        file = decode_body(MULTIPART, part('; name="a"; filename="f"', b"x" * 600_000) + END).files[0]
        assert len(file.content) == 600_000

    @given(st.binary())
    def test_any_bytes_are_a_form_or_refused(self, noise: bytes) -> None:
        try:
            decode_body(MULTIPART, part('; name="a"')[:-2] + noise)
        except (MalformedError, TooLargeError):
            pass
