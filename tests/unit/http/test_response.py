# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.http.response`."""

import copy
import json
import logging
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compysition.errors import HeaderError, UsageError
from compysition.http.request import Request
from compysition.http.response import ResponseHead, problem, render, status_line


def fields_of(answer: tuple[str, list[tuple[str, str]], bytes]) -> dict[str, str]:
    names = [name for name, _ in answer[1] if name != "Set-Cookie"]
    assert len(names) == len({name.lower() for name in names})
    return dict(answer[1])


# ---- by the class of the data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "content_type", "body"),
    [
        ("héllo", "text/plain; charset=utf-8", "héllo".encode()),
        ("", "text/plain; charset=utf-8", b""),
        (b"\xff", "application/octet-stream", b"\xff"),
        (bytearray(b"x"), "application/octet-stream", b"x"),
        (memoryview(b"x"), "application/octet-stream", b"x"),
        ({"é": [1, None, True]}, "application/json", '{"é":[1,null,true]}'.encode()),
        ([], "application/json", b"[]"),
        ((1, 2), "application/json", b"[1,2]"),
        (1, "application/json", b"1"),
        (1.5, "application/json", b"1.5"),
        (False, "application/json", b"false"),
    ],
)
def test_data_is_rendered_by_its_class(data: Any, content_type: str, body: bytes) -> None:
    status, fields, rendered = render(ResponseHead(), data)
    assert (status, rendered) == ("200 OK", body)
    assert fields == [
        ("Content-Type", content_type),
        *([("Vary", "Accept")] if content_type == "application/json" else []),
        ("Content-Length", str(len(body))),
        ("X-Content-Type-Options", "nosniff"),
    ]


@pytest.mark.parametrize(
    "data",
    [
        object(),
        {1, 2},
        Decimal(1),
        iter("ab"),
        {"a": object()},
        float("nan"),
        [float("inf")],
        {float("nan"): 1},
        "\ud800",
        {"a": "\ud800"},
        {("a",): 1},
    ],
    ids=repr,
)
def test_data_that_cannot_be_rendered_is_the_scripts_fault(data: Any) -> None:
    with pytest.raises(UsageError):
        render(ResponseHead(), data)


def test_data_that_holds_itself_or_is_nested_without_end_is_the_scripts_fault() -> None:
    ring: list[Any] = []
    ring.append(ring)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for data in (ring, deep):
        with pytest.raises(UsageError):
            render(ResponseHead(), data)
    while deep:
        deep = deep.pop()


def test_rendering_does_not_import_lxml() -> None:
    script = (
        "import sys; from compysition.http.response import ResponseHead, render; "
        "render(ResponseHead(), {}); assert not [name for name in sys.modules if name.startswith(('lxml', 'werkzeug'))]"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


class TestTrees:
    @pytest.fixture(autouse=True)
    def _needs_the_extra(self) -> None:
        pytest.importorskip("lxml.etree")

    def rendered(self, data: Any) -> tuple[str, bytes]:
        answer = render(ResponseHead(), data)
        return fields_of(answer)["Content-Type"], answer[2]

    def result(self, output: str, template: str = "<r>é</r>") -> Any:
        from lxml import etree

        sheet = (
            '<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">'
            f'{output}<xsl:template match="/">{template}</xsl:template></xsl:stylesheet>'
        )
        return etree.XSLT(etree.XML(sheet))(etree.XML("<a/>"))

    def test_an_element_and_a_tree_are_xml(self) -> None:
        from lxml import etree

        root = etree.XML("<a>é<b/>tail</a>")
        xml = "<?xml version='1.0' encoding='utf-8'?>\n<a>é<b/>tail</a>".encode()
        content_type, body = self.rendered(root)
        assert content_type == "application/xml; charset=utf-8"
        assert etree.tostring(etree.XML(body)) == etree.tostring(etree.XML(xml))
        assert self.rendered(root.getroottree()) == (content_type, body)
        assert self.rendered(root[0])[1].endswith(b"<b/>")

    def test_an_html_document_is_html(self) -> None:
        from lxml import html

        content_type, body = self.rendered(html.document_fromstring("<p>a<br>é"))
        assert content_type == "text/html; charset=utf-8"
        assert b"<br>" in body

    @pytest.mark.parametrize(
        ("output", "content_type", "body"),
        [
            ("", "application/xml; charset=utf-8", '<?xml version="1.0"?>\n<r>é</r>\n'),
            ('<xsl:output encoding="iso-8859-1"/>', "application/xml; charset=iso-8859-1", None),
            ('<xsl:output encoding="utf-16"/>', "application/xml; charset=utf-16", None),
            ('<xsl:output omit-xml-declaration="yes"/>', "application/xml; charset=utf-8", "<r>é</r>\n"),
            ('<xsl:output method="html"/>', "text/html; charset=utf-8", "<r>é</r>\n"),
            ('<xsl:output method="html" encoding="latin1"/>', "text/html; charset=latin1", None),
            ('<xsl:output method="text"/>', "text/plain; charset=utf-8", "é"),
            ('<xsl:output method="text" encoding="iso-8859-1"/>', "text/plain; charset=iso-8859-1", None),
        ],
    )
    def test_a_result_is_what_xsl_output_made_of_it(self, output: str, content_type: str, body: str | None) -> None:
        shown, rendered = self.rendered(self.result(output))
        assert shown == content_type
        assert "é" in rendered.decode(content_type.partition("=")[2])
        assert body is None or rendered == body.encode()

    def test_a_result_with_root_html_is_html_unless_it_says_xml(self) -> None:
        page = "<html><p>é<br/></p></html>"
        assert self.rendered(self.result("", page))[0] == "text/html; charset=utf-8"
        assert self.rendered(self.result('<xsl:output method="xml"/>', page))[0] == "application/xml; charset=utf-8"

    def test_a_result_without_a_root_is_text_or_xml(self) -> None:
        assert self.rendered(self.result('<xsl:output method="text"/>', "only text")) == (
            "text/plain; charset=utf-8",
            b"only text",
        )
        assert self.rendered(self.result("", "only text"))[0] == "application/xml; charset=utf-8"

    def test_a_tree_without_a_root_is_the_scripts_fault(self) -> None:
        from lxml import etree

        with pytest.raises(UsageError):
            render(ResponseHead(), etree.ElementTree())  # type: ignore[call-overload]  # its types know better


# ---- the status -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("set_status", "given", "data", "line"),
    [
        (None, 200, "x", "200 OK"),
        (201, 200, "x", "201 Created"),
        (None, 409, "x", "409 Conflict"),
        (201, 409, "x", "201 Created"),
        (None, 200, None, "204 No Content"),
        (200, 200, None, "200 OK"),
        (None, 409, None, "409 Conflict"),
        (299, 200, "x", "299 OK"),
        (422, 200, "x", "422 Unprocessable Content"),
        (599, 200, "x", "599 Internal Server Error"),
    ],
)
def test_the_status_is_the_one_set_then_the_one_given(set_status: int | None, given: int, data: Any, line: str) -> None:
    assert render(ResponseHead(set_status), data, status=given)[0] == line


@pytest.mark.parametrize("status", [99, 100, 101, 199, 600, 0, -1, True, "200", 200.0])
def test_a_status_that_is_none_is_the_scripts_fault(status: Any) -> None:
    with pytest.raises(UsageError, match="status"):
        render(ResponseHead(status), "x")
    with pytest.raises(UsageError):
        problem(status)


def test_nothing_to_say_is_an_empty_body() -> None:
    assert render(ResponseHead(200), None) == (
        "200 OK",
        [("Content-Length", "0"), ("X-Content-Type-Options", "nosniff")],
        b"",
    )


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_body_have_no_length_and_drop_their_data(status: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "compysition.http"):
        answer = render(ResponseHead(status), {"a": object()})
    assert answer[1:] == ([("X-Content-Type-Options", "nosniff")], b"")
    assert str(status) in caplog.text


def test_205_has_length_0() -> None:
    answer = render(ResponseHead(205), "x")
    assert (fields_of(answer)["Content-Length"], answer[2]) == ("0", b"")


@pytest.mark.parametrize("data", ["hello", {"a": 1}, None])
def test_head_gets_the_head_that_get_gets(data: Any) -> None:
    status, fields, body = render(ResponseHead(200), data)
    assert render(ResponseHead(200), data, method="HEAD") == (status, fields, b"")
    assert fields_of((status, fields, b""))["Content-Length"] == str(len(body))
    assert problem(404, method="HEAD") == (*problem(404)[:2], b"")


# ---- the head -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "data", "sent", "body"),
    [
        ("application/vnd.x+json", {"a": 1}, "application/vnd.x+json", b'{"a":1}'),
        ("image/png", b"\x89", "image/png", b"\x89"),
        ("text/html", "é", "text/html; charset=utf-8", "é".encode()),
        ("text/html; charset=ISO-8859-1", "é", "text/html; charset=ISO-8859-1", b"\xe9"),
        ("text/csv", b"\xe9", "text/csv", b"\xe9"),
        ("application/xml", "<é/>", "application/xml", "<é/>".encode()),
    ],
)
def test_a_content_type_that_was_set_wins(content_type: str, data: Any, sent: str, body: bytes) -> None:
    head = ResponseHead()
    head.content_type = content_type
    answer = render(head, data)
    assert (fields_of(answer)["Content-Type"], answer[2]) == (sent, body)


@pytest.mark.parametrize("charset", ["latin-1", "nonsense"])
def test_a_charset_that_cannot_carry_the_text_is_the_scripts_fault(charset: str) -> None:
    head = ResponseHead()
    head.headers["content-type"] = f"text/plain; charset={charset}"
    assert head.content_type == f"text/plain; charset={charset}"
    with pytest.raises(UsageError):
        render(head, "€")


def test_a_content_type_can_be_taken_back() -> None:
    head = ResponseHead()
    head.content_type = "text/html"
    head.content_type = None
    assert fields_of(render(head, b""))["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    "name",
    ["Connection", "content-length", "DATE", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade"],
)
def test_what_the_server_sets_cannot_be_set(name: str) -> None:
    with pytest.raises(HeaderError, match="by the server"):
        ResponseHead().headers[name] = "x"
    with pytest.raises(HeaderError):
        render(ResponseHead(), "x", headers={name: "x"})


def test_a_line_break_is_refused_where_it_is_set() -> None:
    head = ResponseHead()
    with pytest.raises(HeaderError):
        head.headers["X"] = "a\r\nB: c"
    with pytest.raises(HeaderError):
        head.content_type = "text/plain\r\nB: c"
    with pytest.raises(HeaderError):
        head.headers["X\r\nB"] = "c"
    assert not head.headers


def test_headers_of_an_error_win_over_those_of_the_head() -> None:
    head = ResponseHead()
    head.headers.add("Allow", "GET")
    head.headers.add("allow", "PUT")
    head.headers["X"] = "1"
    answer = render(head, "x", status=405, headers={"ALLOW": "POST", "Content-Type": "text/x"})
    assert [value for name, value in answer[1] if name.lower() == "allow"] == ["POST"]
    assert fields_of(answer)["Content-Type"] == "text/x"
    assert fields_of(answer)["X"] == "1"
    with pytest.raises(HeaderError):
        render(head, "x", headers={"X": "a\nb"})


def test_a_copy_changes_on_its_own() -> None:
    head = ResponseHead(201)
    head.headers["X"] = "1"
    for twin in (head.copy(), copy.copy(head), copy.deepcopy(head)):
        assert (twin.status, twin.headers["X"]) == (201, "1")
        twin.status = 400
        twin.headers["X"] = "2"
        twin.content_type = "text/html"
    assert (head.status, head.headers["X"], head.content_type) == (201, "1", None)
    assert "201" in repr(head)


# ---- cookies --------------------------------------------------------------------------------------------------------


def cookies_of(head: ResponseHead) -> list[str]:
    return [value for name, value in render(head, "x")[1] if name == "Set-Cookie"]


def test_each_cookie_has_its_own_line() -> None:
    head = ResponseHead()
    head.set_cookie("a", "1")
    head.set_cookie(
        "b",
        "2",
        max_age_s=60,
        expires=datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
        path="/x",
        domain="example.org",
        secure=True,
        http_only=False,
        same_site="None",
    )
    assert cookies_of(head) == [
        "a=1; Path=/; SameSite=Lax; HttpOnly",
        "b=2; Max-Age=60; Expires=Wed, 02 Jan 2030 03:04:05 GMT; Domain=example.org; Path=/x; SameSite=None; Secure",
    ]
    assert "a=1" not in repr(head)


@pytest.mark.parametrize(
    ("name", "value", "options"),
    [
        ("a\r\nSet-Cookie: b", "1", {}),
        ("", "1", {}),
        ("a=b", "1", {}),
        ("a", "x" * 4095, {}),
        ("a", "1", {"path": "/; Domain=evil"}),
        ("a", "1", {"domain": "a\r\nb"}),
        ("a", "1", {"same_site": "None"}),
        ("a", "1", {"expires": datetime(2030, 1, 1)}),  # noqa: DTZ001 - what is refused
    ],
)
def test_a_cookie_that_cannot_be_sent_is_refused(name: str, value: str, options: dict[str, Any]) -> None:
    head = ResponseHead()
    with pytest.raises(HeaderError):
        head.set_cookie(name, value, **options)
    assert not head.headers


@given(st.text(max_size=200))
def test_any_value_of_a_cookie_comes_back(value: str) -> None:
    head = ResponseHead()
    try:
        value.encode()
    except UnicodeEncodeError:
        return
    head.set_cookie("a", value)
    sent = cookies_of(head)[0].removesuffix("; Path=/; SameSite=Lax; HttpOnly")
    environ = {"REQUEST_METHOD": "GET", "wsgi.url_scheme": "http", "HTTP_COOKIE": f"x=1; {sent}; y=2"}
    assert Request.from_environ(environ).cookies["a"] == value


# ---- problems -------------------------------------------------------------------------------------------------------


def test_a_problem_is_described() -> None:
    answer = problem(404, "no order 17", instance="urn:compysition:request:abc", headers={"X": "1"})
    assert answer[0] == "404 Not Found"
    assert fields_of(answer) == {
        "X": "1",
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(answer[2])),
        "X-Content-Type-Options": "nosniff",
    }
    assert json.loads(answer[2]) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "no order 17",
        "instance": "urn:compysition:request:abc",
    }


def test_a_problem_of_ours_has_no_detail() -> None:
    document = json.loads(problem(500, "secret", errors=[{"detail": "secret"}], instance="urn:x")[2])
    assert document == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "instance": "urn:x",
    }


def test_a_problem_can_list_errors_and_hold_any_text() -> None:
    document = json.loads(problem(422, "half a pair: \ud800", errors=[{"detail": "x", "pointer": "/a"}])[2])
    assert document["errors"] == [{"detail": "x", "pointer": "/a"}]
    assert document["title"] == "Unprocessable Content"


def test_a_problem_says_when_to_come_again() -> None:
    assert fields_of(problem(503, retry_after_s=1.2))["Retry-After"] == "2"
    assert fields_of(problem(429, retry_after_s=-1))["Retry-After"] == "0"
    assert fields_of(problem(503, retry_after_s=1, headers={"Retry-After": "7"}))["Retry-After"] == "7"
    assert "Retry-After" not in fields_of(problem(503))


def test_a_status_line_has_always_a_phrase() -> None:
    assert all(status_line(status)[3:].strip() for status in range(200, 600))


# ---- what the client accepts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "content_type", "body"),
    [
        (None, "application/json", b'{"a":[1]}'),
        ("*/*", "application/json", b'{"a":[1]}'),
        ("a b", "application/json", b'{"a":[1]}'),
        ("image/png", "application/json", b'{"a":[1]}'),  # an answer that exists is sent
        (
            "application/xml",
            "application/xml",
            b'<?xml version="1.0" encoding="UTF-8"?>\n<data><a><item>1</item></a></data>',
        ),
        ("text/plain", "text/plain; charset=utf-8", b'{\n  "a": [\n    1\n  ]\n}\n'),
    ],
)
def test_plain_data_is_rendered_as_the_client_accepts(accept: str | None, content_type: str, body: bytes) -> None:
    answer = render(ResponseHead(), {"a": [1]}, accept=accept)
    assert fields_of(answer)["Content-Type"] == content_type
    assert fields_of(answer)["Vary"] == "Accept"
    assert answer[2] == body


def test_what_xml_cannot_carry_is_sent_as_json() -> None:
    answer = render(ResponseHead(), {"a": "\0"}, accept="application/xml")
    assert (fields_of(answer)["Content-Type"], answer[2]) == ("application/json", b'{"a":"\\u0000"}')


def test_a_content_type_that_was_set_is_not_negotiated() -> None:
    head = ResponseHead()
    head.content_type = "application/vnd.x+json"
    fields = fields_of(render(head, {"a": 1}, accept="application/xml"))
    assert fields["Content-Type"] == "application/vnd.x+json"
    assert "Vary" not in fields


@pytest.mark.parametrize(
    ("mine", "sent"), [("Origin", ["Origin", "Accept"]), ("accept, X", ["accept, X"]), ("*", ["*"])]
)
def test_vary_keeps_what_the_actor_said(mine: str, sent: list[str]) -> None:
    head = ResponseHead()
    head.headers["Vary"] = mine
    assert [value for name, value in render(head, [])[1] if name == "Vary"] == sent
    assert head.headers.get_all("Vary") == [mine]


@pytest.mark.parametrize(
    ("data", "produces", "accept", "content_type"),
    [
        ({"a": 1}, ("application/xml", "application/json"), None, "application/xml"),
        ({"a": 1}, ("application/xml", "application/json"), "application/json", "application/json"),
        ({"a": 1}, ("application/hal+json",), "*/*", "application/hal+json"),
        ({"a": 1}, ("text/csv",), "text/csv", "application/json"),
        ("a,b", ("text/csv",), None, "text/csv; charset=utf-8"),
        (b"a", ("image/png", "image/gif"), "image/gif", "image/gif"),
        (None, ("image/png",), None, None),
    ],
)
def test_what_a_route_produces_is_the_default(
    data: Any, produces: tuple[str, ...], accept: str | None, content_type: str | None
) -> None:
    fields = fields_of(render(ResponseHead(), data, accept=accept, produces=produces))
    assert fields.get("Content-Type") == content_type


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "application/problem+json"),
        ("application/json", "application/problem+json"),
        ("application/xml, */*;q=0.1", "application/problem+json"),
        ("image/png", "application/problem+json"),  # never 406 for an error
        ("application/xml", "application/problem+xml"),
        ("application/problem+xml", "application/problem+xml"),
        ("text/xml", "application/problem+xml"),
        ("text/*", "text/plain; charset=utf-8"),
        ("text/plain", "text/plain; charset=utf-8"),
    ],
)
def test_a_problem_is_xml_or_text_only_for_who_accepts_nothing_else(accept: str | None, content_type: str) -> None:
    answer = problem(404, "no <order> 17", instance="urn:x", accept=accept)
    assert fields_of(answer)["Content-Type"] == content_type
    wanted = {
        "application/problem+json": b'{"type":"about:blank","title":"Not Found","status":404,'
        b'"detail":"no <order> 17","instance":"urn:x"}',
        "application/problem+xml": b'<?xml version="1.0" encoding="UTF-8"?>\n<problem xmlns="urn:ietf:rfc:7807">'
        b"<type>about:blank</type><title>Not Found</title><status>404</status><detail>no &lt;order&gt; 17</detail>"
        b"<instance>urn:x</instance></problem>",
        "text/plain; charset=utf-8": b"404 Not Found\nno <order> 17\nurn:x\n",
    }
    assert answer[2] == wanted[content_type]


@pytest.mark.parametrize("accept", ["application/xml", "text/plain"])
def test_a_problem_goes_out_whatever_its_detail_holds(accept: str) -> None:
    assert b"400" in problem(400, "half a pair: \ud800\0", accept=accept)[2]
