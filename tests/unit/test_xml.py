# SPDX-License-Identifier: Apache-2.0
"""What XML from strangers may do to us, and what a stylesheet may do: held against the real libxml2 and libxslt."""

import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from compysition.errors import CompysitionError, MalformedError, StylesheetError, UnprocessableError
from compysition.xml import (
    ELEMENT_BYTES,
    MAX_COPIES,
    MAX_COUNTED_ELEMENTS,
    MAX_MESSAGE_CHARS,
    Stylesheet,
    parse,
    size_of,
)

XSL = 'xmlns:xsl="http://www.w3.org/1999/XSL/Transform"'
SECRET = "the secret of another file"

#: 10^9 words when expanded, in less than 1 KiB.
LAUGHS = (
    '<!DOCTYPE a [<!ENTITY e0 "ha ha ha ha">'
    + "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    + ']><a b="&e9;">&e9;</a>'
)


def stylesheet(body: str, *, top: str = "") -> str:
    return (
        f'<xsl:stylesheet version="1.0" {XSL}>{top}\n<xsl:template match="/">\n{body}</xsl:template></xsl:stylesheet>'
    )


ECHO = stylesheet('<out><xsl:value-of select="/*/@id"/></out>')


def refusal(data: object, *, allow_doctype: bool = False) -> str:
    with pytest.raises(MalformedError) as caught:
        parse(data, allow_doctype=allow_doctype)
    text = str(caught.value)
    assert caught.value.status == 400
    assert "\n" not in text
    assert not any(inside in text for inside in ("libxml", "<string>", "XML_PARSE"))
    return text


@pytest.fixture
def door() -> Iterator[socket.socket]:
    """A listening socket at which nobody may knock."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server
        with pytest.raises(BlockingIOError):
            server.accept()


# ---- documents --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "convert", [str, str.encode, lambda text: bytearray(text.encode()), lambda text: memoryview(text.encode())]
)
def test_text_and_all_kinds_of_bytes_are_parsed(convert: Callable[[str], object]) -> None:
    root = parse(convert("<a><b>é</b></a>"))

    assert root.findtext("b") == "é"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1", "windows-1252", "shift_jis", "gb18030"]
)
def test_a_document_in_its_declared_encoding_is_parsed(encoding: str) -> None:
    declared = encoding.removesuffix("-sig")
    data = f'<?xml version="1.0" encoding="{declared}"?><a>ab</a>'.encode(encoding)

    assert parse(data).text == "ab"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_known_by_its_declaration(encoding: str) -> None:
    assert parse('<?xml version="1.0" encoding="utf-16"?><a>ä</a>'.encode(encoding)).text == "ä"


def test_comments_and_instructions_before_the_root_are_kept() -> None:
    root = parse(b"<?xml version='1.0'?>\n<!-- <!DOCTYPE a> --><?pi x?><a/>")

    assert len(list(root.itersiblings(preceding=True))) == 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the document is empty"),
        ("", "the document is empty"),
        (b" \n\t ", "the document is empty"),
        (b"hello", "no element begins here"),
        (b"<a><b></a>", "an end tag does not match its start tag"),
        (b"<a>", "the document ends before all elements are closed"),
        (b"<a/>trailing", "something follows the end of the root element"),
        (b"<a/><b/>", "something follows the end of the root element"),
        (b"<a>&x;</a>", "an entity other than"),
        (b"<a>fish & chips</a>", "a bare &"),
        (b"<a x='1' x='2'/>", "an attribute is given twice"),
        (b"<a x=1/>", "an attribute's value is not quoted"),
        (b"<p:a/>", "a namespace prefix that is not declared"),
        (b"\n<?xml version='1.0'?><a/>", "does not stand at the very beginning"),
        (b"<a>\xff</a>", "bytes that do not fit the encoding"),
        (b"<a>" * 257 + b"</a>" * 257, "nested too deeply"),
        ("<a>\0</a>", "a character that XML does not allow"),
    ],
)
def test_a_malformed_document_is_refused_with_a_plain_reason(data: object, reason: str) -> None:
    assert reason in refusal(data)


def test_a_refusal_says_where() -> None:
    assert "at line 3, column" in refusal(b"<a>\n<b>\n</a>")


@pytest.mark.parametrize(("data", "seen"), [(None, "nothing"), ({"a": 1}, "dict"), (17, "int"), (object, "type")])
def test_what_is_no_document_is_refused_by_its_type(data: object, seen: str) -> None:
    assert refusal(data).endswith(f"there is {seen}")


def test_text_that_declares_an_encoding_is_refused() -> None:
    assert "text that declares an encoding" in refusal('<?xml version="1.0" encoding="utf-8"?><a/>')


def test_text_that_is_no_unicode_is_refused() -> None:
    assert "half a surrogate pair at character 3" in refusal("<a>\ud800</a>")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'<?xml version="1.0" encoding="utf-16"?><a/>', "UTF-16 is declared, but the bytes are not UTF-16"),
        ('<?xml version="1.0" encoding="utf-8"?><a/>'.encode("utf-16"), "another encoding is declared"),
        (b'<?xml version="1.0" encoding="klingon"?><a/>', "'klingon' is not accepted"),
        (b'<?xml version="1.0" encoding=""?><a/>', "'' is not accepted"),
        (b"\xff\xfe<\0a\0/", "bytes that do not fit UTF-16 at byte 6"),
    ],
)
def test_a_wrong_encoding_is_refused(data: object, reason: str) -> None:
    assert reason in refusal(data)


PIECES = st.lists(
    st.sampled_from(
        (
            *("<?xml version='1.0'?>", '<?xml version="1.0" encoding="UTF-8"?>', "<!-- > -->", "<?p ?>", " "),
            *("<!DOCTYPE a>", "<!DOCTYPE a [<!ENTITY e 'x'>]>", "<a/>", "<a>", "</a>", "&e;", "x"),
        )
    )
).map("".join)


@given(st.one_of(st.binary(), st.text(), st.text("<>&;!?-[]'\"= /aDOCTYPENIxml:#%"), PIECES, PIECES.map(str.encode)))
def test_whatever_comes_in_is_parsed_without_doctype_or_refused_in_one_line(data: Any) -> None:
    dtd: object = None
    text = ""
    try:
        dtd = parse(data).getroottree().docinfo.internalDTD
    except MalformedError as err:
        text = str(err)

    assert dtd is None
    assert "\n" not in text


# ---- DOCTYPE and entities -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        "<!DOCTYPE a><a/>",
        "<!DOCTYPE\ta\n><a/>",
        '<!DOCTYPE a SYSTEM "http://127.0.0.1:1/a.dtd"><a/>',
        "\n <!-- > --> <?pi ?> <!-- <a/> > --><!DOCTYPE a><a/>",
        "<!-- <a> --><?x <b>?>\r\n<!DOCTYPE a><a/>",
        LAUGHS,
    ],
)
@pytest.mark.parametrize("encoding", [None, "utf-8", "utf-8-sig", "utf-16"])
def test_a_doctype_is_refused_wherever_and_however_it_is_written(data: str, encoding: str | None) -> None:
    text = refusal(data if encoding is None else data.encode(encoding))

    assert text == "malformed XML: a DOCTYPE is not accepted"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_doctype_in_utf_16_without_a_mark_is_refused(encoding: str) -> None:
    data = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a><a/>'.encode(encoding)

    assert "a DOCTYPE is not accepted" in refusal(data)


@pytest.mark.parametrize("encoding", ["utf-32", "utf-32-le", "utf-32-be", "utf-7", "cp037", "iso-2022-jp", "hz"])
def test_an_encoding_in_which_a_doctype_could_hide_is_refused(encoding: str) -> None:
    data = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a><a/>'.encode(encoding)

    refusal(data)


def test_a_doctype_in_utf_7_is_refused_for_its_encoding() -> None:
    data = b'<?xml version="1.0" encoding="UTF-7"?>+ADwAIQ-DOCTYPE a+AD4APA-a/+AD4-'

    assert "'UTF-7' is not accepted" in refusal(data)


def test_a_declaration_pushed_far_away_hides_no_encoding() -> None:
    data = b'<?xml version="1.0"' + b" " * 5_000 + b'encoding="UTF-7"?>+ADwAIQ-DOCTYPE a+AD4APA-a/+AD4-'

    assert "'UTF-7' is not accepted" in refusal(data)


def test_a_doctype_is_refused_before_the_parser_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etree, "fromstring", None)

    assert "a DOCTYPE is not accepted" in refusal(LAUGHS)
    assert "a DOCTYPE is not accepted" in refusal(LAUGHS.encode("utf-16"))


@pytest.mark.parametrize("allow_doctype", [False, True])
def test_a_billion_laughs_leaves_memory_flat(allow_doctype: bool) -> None:
    script = f"""
        import resource
        from compysition.errors import MalformedError
        from compysition.xml import parse
        laughs = {LAUGHS!r}
        parse("<warm-up/>", allow_doctype=True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for data in (laughs, laughs.encode(), laughs.encode("utf-16")):
            try:
                parse(data, allow_doctype={allow_doctype})
            except MalformedError:
                print("refused")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        """

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=True
    )

    *refused, grown_kib = done.stdout.split()
    assert refused == ["refused"] * 3
    assert int(grown_kib) < 4_096


def external(address: str) -> list[str]:
    return [
        f'<!DOCTYPE a SYSTEM "{address}"><a/>',
        f'<!DOCTYPE a PUBLIC "-//x//y" "{address}"><a/>',
        f'<!DOCTYPE a [<!ENTITY e SYSTEM "{address}">]><a>&e;</a>',
        f'<!DOCTYPE a [<!ENTITY e SYSTEM "{address}">]><a b="&e;"/>',
        f'<!DOCTYPE a [<!ENTITY % p SYSTEM "{address}"> %p;]><a/>',
        f'<a xmlns:xi="http://www.w3.org/2001/XInclude"><xi:include href="{address}" parse="text"/></a>',
        f'<?xml-stylesheet type="text/xsl" href="{address}"?><a/>',
        f'<a xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="x {address}"/>',
    ]


@pytest.mark.parametrize("allow_doctype", [False, True])
def test_nothing_is_fetched_from_the_network(door: socket.socket, allow_doctype: bool) -> None:
    host, port = door.getsockname()

    for data in external(f"http://{host}:{port}/x"):
        try:
            parse(data, allow_doctype=allow_doctype)
        except MalformedError:
            pass


@pytest.mark.parametrize("allow_doctype", [False, True])
def test_no_file_is_read(tmp_path: Path, allow_doctype: bool) -> None:
    (tmp_path / "x").write_text(SECRET)

    for address in (f"file://{tmp_path}/x", f"{tmp_path}/x"):
        for data in external(address):
            try:
                text = etree.tostring(parse(data, allow_doctype=allow_doctype), encoding="unicode")
            except MalformedError as err:
                text = str(err)
            assert SECRET not in text


def test_a_doctype_is_accepted_if_the_script_says_so() -> None:
    root = parse('<!DOCTYPE a SYSTEM "nowhere.dtd" [<!ELEMENT a ANY>]><a>&lt;</a>', allow_doctype=True)

    assert root.text == "<"


@pytest.mark.parametrize(
    "data",
    [
        '<!DOCTYPE a [<!ENTITY e "x">]><a/>',
        '<!DOCTYPE a [<!ENTITY e "x">]><a>&e;</a>',
        '<!DOCTYPE a [<!ENTITY % p "x">]><a/>',
        '<!DOCTYPE a SYSTEM "nowhere.dtd"><a>&e;</a>',
        '<!DOCTYPE a SYSTEM "nowhere.dtd"><a b="&e;"/>',
    ],
)
def test_entities_are_refused_also_where_a_doctype_is_accepted(data: object) -> None:
    assert "entities of its own" in refusal(data, allow_doctype=True)


def test_default_attributes_cannot_multiply_a_document() -> None:
    data = f'<!DOCTYPE a [<!ATTLIST b x CDATA "{"v" * 1_000_000}">]><a>{"<b/>" * 2_000}</a>'

    refusal(data, allow_doctype=True)


# ---- what a stylesheet may be ---------------------------------------------------------------------------------------


def output(result: Any) -> bytes:
    """`bytes(result)`, which lxml has and its type stubs have not."""
    return bytes(result)


def compile_error(source: Any) -> StylesheetError:
    with pytest.raises(StylesheetError) as caught:
        Stylesheet(source)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_stylesheet_is_text_bytes_path_tree_element_or_compiled(tmp_path: Path) -> None:
    path = tmp_path / "echo.xsl"
    path.write_text(ECHO)
    root = etree.fromstring(ECHO)

    for source in (ECHO, ECHO.encode(), path, root, root.getroottree(), etree.XSLT(root)):
        assert output(Stylesheet(source).apply("<a id='7'/>")) == b'<?xml version="1.0"?>\n<out>7</out>\n'


def test_a_stylesheet_as_text_may_declare_any_encoding() -> None:
    Stylesheet('<?xml version="1.0" encoding="iso-8859-1"?>' + ECHO)


def test_a_literal_result_element_is_a_stylesheet() -> None:
    simple = Stylesheet(f'<out xsl:version="1.0" {XSL}><xsl:value-of select="1 + 1"/></out>')

    assert str(simple.apply("<a/>")).endswith("<out>2</out>\n")


def test_a_stylesheet_may_declare_entities_of_its_own() -> None:
    sheet = Stylesheet('<!DOCTYPE x [<!ENTITY nbsp "&#160;">]>' + stylesheet("<out>&nbsp;</out>"))

    assert sheet.apply("<a/>").getroot().text == "\xa0"


def test_a_tree_that_changes_later_does_not_change_the_stylesheet() -> None:
    root = etree.fromstring(ECHO)
    sheet = Stylesheet(root)
    root.clear()

    results = in_threads(1, lambda _: str(sheet.apply("<a id='7'/>")))

    assert "<out>7</out>" in results[0]


@pytest.mark.parametrize(
    ("body", "line", "text"),
    [
        ('<xsl:value-of select="a["/>', 3, "could not compile select expression 'a['"),
        ("<xsl:template/>", 3, "only allowed as child of stylesheet"),
        ("\n\n<xsl:for-eac select='a'/>", 5, "xsl:for-eac is no element of XSLT 1.0; did you mean 'for-each'?"),
        ("<xsl:qqq/>", 3, "xsl:qqq is no element of XSLT 1.0"),
        ("<xsl:import href='x.xsl'/>", 3, "xsl:import of 'x.xsl' is refused"),
    ],
)
@pytest.mark.parametrize("convert", [str, str.encode, etree.fromstring])
def test_a_stylesheet_that_does_not_compile_names_line_and_fault(
    body: str, line: int, text: str, convert: Callable[[str], object]
) -> None:
    err = compile_error(convert(stylesheet(body)))

    assert err.line == line
    assert f"stylesheet, line {line}: " in str(err)
    assert text in str(err)


def test_a_stylesheet_that_is_no_xml_names_line_and_fault() -> None:
    err = compile_error(stylesheet("<a></b>"))

    assert err.line == 3
    assert str(err) == "stylesheet, line 3: Opening and ending tag mismatch: a line 3 and b"


def test_an_unknown_instruction_with_a_fallback_is_taken() -> None:
    Stylesheet(stylesheet("<xsl:qqq><xsl:fallback>x</xsl:fallback></xsl:qqq>"))


@pytest.mark.parametrize("source", ["<a/>", f"<a {XSL}><xsl:value-of select='1'/></a>"])
def test_a_document_is_no_stylesheet(source: object) -> None:
    assert "<a> is no stylesheet" in str(compile_error(source))


@pytest.mark.parametrize("source", [None, 17, ["x"]])
def test_a_stylesheet_of_the_wrong_type_is_named(source: object) -> None:
    assert type(source).__name__.replace("NoneType", "nothing") in str(compile_error(source))


def test_an_empty_stylesheet_is_refused() -> None:
    compile_error("")
    compile_error(b"")


def test_text_that_looks_like_a_path_says_how_to_give_a_path() -> None:
    err = compile_error("sheets/orders.xsl")

    assert "'sheets/orders.xsl' looks like a file's name" in str(err)
    assert "xslt_path=" in str(err)


def test_a_stylesheet_that_is_not_there_names_its_path(tmp_path: Path) -> None:
    assert f"{tmp_path / 'none.xsl'}" in str(compile_error(tmp_path / "none.xsl"))
    assert "cannot be read" in str(compile_error(tmp_path))


@pytest.mark.parametrize("name", ["import", "include"])
def test_a_stylesheet_imports_neither_files_nor_the_network(tmp_path: Path, door: socket.socket, name: str) -> None:
    (tmp_path / "other.xsl").write_text(ECHO)
    host, port = door.getsockname()

    for address in (f"{tmp_path}/other.xsl", f"file://{tmp_path}/other.xsl", f"http://{host}:{port}/other.xsl"):
        err = compile_error(stylesheet("<x/>", top=f'<xsl:{name} href="{address}"/>'))
        assert err.line == 1
        assert f"xsl:{name} of '{address}' is refused" in str(err)


def test_a_stylesheet_file_imports_no_neighbour(tmp_path: Path) -> None:
    (tmp_path / "other.xsl").write_text(ECHO)
    (tmp_path / "main.xsl").write_text(stylesheet("<x/>", top='<xsl:import href="other.xsl"/>'))

    compile_error(tmp_path / "main.xsl")
    compile_error(etree.parse(tmp_path / "main.xsl"))


def test_a_stylesheets_own_external_entities_are_not_read(tmp_path: Path, door: socket.socket) -> None:
    (tmp_path / "x").write_text(f"<out>{SECRET}</out>")
    host, port = door.getsockname()

    for address in (f"file://{tmp_path}/x", f"http://{host}:{port}/x"):
        compile_error(f'<!DOCTYPE x [<!ENTITY e SYSTEM "{address}">]>' + stylesheet("&e;"))
        compile_error(f'<!DOCTYPE x [<!ENTITY % e SYSTEM "{address}"> %e;]>' + stylesheet("<x/>"))


# ---- what a stylesheet may do ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["document('{}')", "document(/a/@href)", "document('{}')/x/y"])
def test_document_reads_neither_files_nor_the_network(tmp_path: Path, door: socket.socket, call: str) -> None:
    (tmp_path / "x.xml").write_text(f"<x>{SECRET}</x>")
    host, port = door.getsockname()

    for address in (f"{tmp_path}/x.xml", f"file://{tmp_path}/x.xml", f"http://{host}:{port}/x.xml"):
        sheet = Stylesheet(stylesheet(f'<xsl:copy-of select="{call.format(address)}"/>'))
        with pytest.raises(StylesheetError, match=r"line 3: access to '.*x.xml' is denied") as caught:
            sheet.apply(f"<a href='{address}'/>")
        assert caught.value.status == 500


def test_a_stylesheet_writes_no_files(tmp_path: Path) -> None:
    body = f'<e:document xmlns:e="http://exslt.org/common" href="{tmp_path}/out.xml"><a/></e:document>'
    sheet = Stylesheet(
        stylesheet(body).replace(
            "<xsl:stylesheet", '<xsl:stylesheet extension-element-prefixes="e" xmlns:e="http://exslt.org/common"'
        )
    )

    with pytest.raises(StylesheetError, match="is denied"):
        sheet.apply("<a/>")

    assert list(tmp_path.iterdir()) == []


def test_the_output_element_rules_serialisation() -> None:
    html = Stylesheet(stylesheet("<p>a<br/>b</p>", top='<xsl:output method="html"/>'))
    text = Stylesheet(stylesheet("<xsl:text>a &lt; b</xsl:text>", top='<xsl:output method="text"/>'))
    latin = Stylesheet(stylesheet("<p>é</p>", top='<xsl:output encoding="iso-8859-1"/>'))

    assert output(html.apply("<a/>")) == b"<p>a<br>b</p>\n"
    assert output(text.apply("<a/>")) == b"a < b"
    assert b"<p>\xe9</p>" in output(latin.apply("<a/>"))


def test_a_tree_is_taken_and_left_as_it_was() -> None:
    root = parse("<a id='7'><b/></a>")

    assert "<out>7</out>" in str(Stylesheet(ECHO).apply(root))
    assert "<out>7</out>" in str(Stylesheet(ECHO).apply(root.getroottree()))
    assert etree.tostring(root) == b'<a id="7"><b/></a>'


def test_the_result_of_one_stylesheet_is_a_document_for_the_next() -> None:
    first = Stylesheet(stylesheet("<a id='9'/>", top='<xsl:output doctype-system="a.dtd"/>'))

    assert "<out>9</out>" in str(Stylesheet(ECHO).apply(first.apply("<x/>")))


def test_a_result_without_a_root_element_is_no_document_for_the_next() -> None:
    text = Stylesheet(stylesheet("hello", top='<xsl:output method="text"/>')).apply("<a/>")

    with pytest.raises(MalformedError, match="a tree without a root element"):
        Stylesheet(ECHO).apply(text)


def test_a_doctype_is_refused_by_a_stylesheet_unless_allowed() -> None:
    sheet = Stylesheet(ECHO)

    with pytest.raises(MalformedError, match="a DOCTYPE is not accepted"):
        sheet.apply("<!DOCTYPE a><a id='1'/>")
    assert "<out>1</out>" in str(sheet.apply("<!DOCTYPE a><a id='1'/>", allow_doctype=True))


def failure(body: str, document: str = "<a id='7'/>") -> CompysitionError:
    with pytest.raises(CompysitionError) as caught:
        Stylesheet(stylesheet(body)).apply(document)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_terminating_message_refuses_the_document_in_the_stylesheets_words() -> None:
    err = failure(
        '<xsl:message terminate="yes">order\n <xsl:value-of select="/a/@id"/> has &lt;no&gt; lines</xsl:message>'
    )

    assert isinstance(err, UnprocessableError)
    assert err.status == 422
    assert str(err) == "the stylesheet refused the document: order 7 has <no> lines"


def test_a_terminating_message_may_be_empty() -> None:
    assert str(failure('<xsl:message terminate="yes"/>')) == "the stylesheet refused the document"


def test_a_message_says_nothing_of_an_earlier_document() -> None:
    sheet = Stylesheet(stylesheet('<xsl:message terminate="yes"><xsl:value-of select="/a/@id"/></xsl:message>'))
    with pytest.raises(UnprocessableError, match="first"):
        sheet.apply("<a id='first'/>")

    with pytest.raises(UnprocessableError) as caught:
        sheet.apply("<a/>")

    assert str(caught.value) == "the stylesheet refused the document"


def test_a_long_message_is_cut() -> None:
    err = failure(f'<xsl:message terminate="yes">{"x" * 5_000}</xsl:message>')

    assert len(str(err)) < MAX_MESSAGE_CHARS + 60


def test_a_message_that_does_not_terminate_changes_nothing() -> None:
    sheet = Stylesheet(stylesheet("<xsl:message>hello</xsl:message><x/>"))

    assert "<x/>" in str(sheet.apply("<a/>"))


def test_endless_recursion_of_templates_is_given_up() -> None:
    sheet = Stylesheet(
        stylesheet(
            '<xsl:call-template name="t"/>', top='<xsl:template name="t"><xsl:call-template name="t"/></xsl:template>'
        )
    )

    def work(_: int) -> str:
        with pytest.raises(UnprocessableError) as caught:
            sheet.apply("<a/>")
        return str(caught.value)

    # A native thread has a stack of its own, and it may be smaller.
    for text in (work(0), *in_threads(1, work)):
        assert "call each other too deeply" in text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('<xsl:value-of select="nothing()"/>', "Unregistered function"),
        ('<xsl:value-of select="$nothing"/>', "Variable 'nothing' has not been declared."),
        ('<xsl:value-of select="count(1)"/>', "Invalid type"),
        ('<xsl:call-template name="nothing"/>', "'nothing' was not found"),
    ],
)
def test_a_fault_that_no_document_can_cause_is_the_stylesheets(body: str, text: str) -> None:
    err = failure("\n" + body)

    assert isinstance(err, StylesheetError)
    assert err.line == 4
    assert text in str(err)


#: What libxslt finds when it compiles a stylesheet, what a document has to find, and what nobody does: the table of
#: decision 0013. A stylesheet with an entry that moves to the left is refused earlier than it says.
PLACES = {
    "value-of": '<xsl:value-of select="{0}"/>',
    "if": '<xsl:if test="{0}">x</xsl:if>',
    "attribute": '<x y="{{{0}}}"/>',
    "element": '<xsl:element name="{{{0}}}"/>',
    "number": '<xsl:number value="{0}"/>',
    "sort": '<xsl:for-each select="*"><xsl:sort select="{0}"/>x</xsl:for-each>',
}
REGISTRATION, DOCUMENT, NEVER = "at registration", "by the document", "never"
SHOWN = [
    *(("value-of", "1 +", REGISTRATION), ("if", "a[", REGISTRATION), ("attribute", "a b", REGISTRATION)),
    *(("element", "1 +", DOCUMENT), ("number", "1 +", NEVER), ("sort", "1 +", REGISTRATION)),
    *((place, "foo(", DOCUMENT) for place in ("value-of", "if", "attribute", "element")),
    *((place, "x:y", DOCUMENT) for place in ("value-of", "if", "attribute", "element")),
    *((place, "$nix", DOCUMENT) for place in ("value-of", "if", "attribute", "element", "number")),
    *(("number", "foo(", NEVER), ("sort", "foo(", NEVER), ("sort", "$nix", NEVER)),
]


@pytest.mark.parametrize(("place", "expression", "when"), SHOWN)
def test_a_faulty_expression_shows_when_the_decision_says(place: str, expression: str, when: str) -> None:
    source = stylesheet(PLACES[place].format(expression))
    if when == REGISTRATION:
        with pytest.raises(StylesheetError) as caught:
            Stylesheet(source)
        assert caught.value.line is not None
    elif when == DOCUMENT:
        sheet = Stylesheet(source)
        with pytest.raises(CompysitionError):
            sheet.apply("<a><b/></a>")
    else:
        Stylesheet(source).apply("<a><b/></a>")


@pytest.mark.parametrize("expression", ["foo(", "$nix", "x:y", "saxon:evaluate('1')"])
def test_a_fault_where_no_document_gets_to_refuses_nothing(expression: str) -> None:
    body = f'<xsl:if test="function-available(\'nothing\')"><xsl:value-of select="{expression}"/></xsl:if><out/>'

    assert "<out/>" in str(Stylesheet(stylesheet(body)).apply("<a/>"))


def test_a_stylesheet_works_on_after_a_failure() -> None:
    sheet = Stylesheet(stylesheet('<xsl:if test="not(/a/@id)"><xsl:message terminate="yes"/></xsl:if><out/>'))
    with pytest.raises(UnprocessableError):
        sheet.apply("<a/>")

    assert "<out/>" in str(sheet.apply("<a id='1'/>"))


# ---- threads --------------------------------------------------------------------------------------------------------


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What `work(index)` returned in native threads that began together."""
    results: list[Any] = [None] * count
    start = threading.Barrier(count)

    def run(index: int) -> None:
        start.wait(10)
        results[index] = work(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return results


@pytest.mark.parametrize("compiled", [False, True])
def test_a_stylesheet_shared_by_threads_gives_each_its_own_result(compiled: bool) -> None:
    sheet = Stylesheet(etree.XSLT(etree.fromstring(ECHO)) if compiled else ECHO)

    def work(index: int) -> set[str]:
        return {str(sheet.apply(f"<a id='{index}'>{'<b/>' * 200}</a>")) for _ in range(200)}

    results = in_threads(2, work)

    assert [len(found) for found in results] == [1, 1]
    assert "<out>0</out>" in results[0].pop()
    assert "<out>1</out>" in results[1].pop()


def test_a_stylesheet_shared_by_threads_gives_each_its_own_error() -> None:
    # The message comes first and work after it: with one `etree.XSLT` for all threads their messages are mixed up.
    sheet = Stylesheet(
        stylesheet(
            '<xsl:message><xsl:value-of select="/a/@id"/></xsl:message><xsl:for-each select="//b"><x/></xsl:for-each>'
            '<xsl:message terminate="yes"/>'
        )
    )

    def work(index: int) -> set[str]:
        texts = set()
        for _ in range(500):
            with pytest.raises(UnprocessableError) as caught:
                sheet.apply(f"<a id='thread {index}'>{'<b/>' * 500}</a>")
            texts.add(str(caught.value))
        return texts

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        results = in_threads(2, work)
    finally:
        sys.setswitchinterval(interval_s)

    assert results == [{f"the stylesheet refused the document: thread {index}"} for index in range(2)]


def test_a_result_outlives_the_thread_that_made_it() -> None:
    sheet = Stylesheet(ECHO)

    result = in_threads(1, lambda _: sheet.apply("<a id='7'/>"))[0]

    assert b"<out>7</out>" in output(result)
    assert b"<out/>" in output(sheet.apply(result))


def test_threads_that_come_and_go_leave_no_pile_of_stylesheets() -> None:
    sheet = Stylesheet(ECHO)

    for _ in range(3):
        in_threads(MAX_COPIES // 2, lambda _: sheet.apply("<a/>"))

    assert len(sheet._by_thread) <= MAX_COPIES


# ---- what is large --------------------------------------------------------------------------------------------------


class Cpu:
    """A clock of CPU time: each look at it costs what the next piece of work shall take."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.work_s = 0.0

    def __call__(self) -> float:
        self.now_s += self.work_s
        return self.now_s


def test_before_anything_is_measured_10_kb_count_as_large() -> None:
    sheet = Stylesheet(ECHO)

    assert not sheet.is_large(9_000)
    assert sheet.is_large(11_000)


def test_a_slow_stylesheet_makes_smaller_documents_large() -> None:
    cpu = Cpu()
    sheet = Stylesheet(ECHO, cpu_time_s=cpu)
    document = "<a>" + " " * 9_993 + "</a>"
    cpu.work_s = 0.1

    for _ in range(50):
        sheet.apply(document)

    assert sheet.us_per_byte == pytest.approx(10, rel=0.05)
    assert sheet.is_large(200)
    assert not sheet.is_large(90)


def test_a_fast_stylesheet_makes_larger_documents_small() -> None:
    cpu = Cpu()
    sheet = Stylesheet(ECHO, cpu_time_s=cpu)
    cpu.work_s = 0.000_1

    for _ in range(50):
        sheet.apply("<a>" + " " * 99_993 + "</a>")

    assert not sheet.is_large(500_000)


def test_one_tiny_document_with_its_fixed_costs_does_not_rule_the_average() -> None:
    cpu = Cpu()
    sheet = Stylesheet(ECHO, cpu_time_s=cpu)
    cpu.work_s = 0.000_1

    sheet.apply("<a/>")

    assert not sheet.is_large(8_000)


def test_size_is_that_of_text_or_estimated_from_the_elements_of_a_tree() -> None:
    root = parse("<a>" + "<b/>" * 9 + "</a>")

    assert size_of("<a/>") == size_of(b"<a/>") == 4
    assert size_of(root) == size_of(root.getroottree()) == 10 * ELEMENT_BYTES
    assert size_of(None) == size_of({"a": 1}) == 0


def test_looking_at_the_size_of_a_huge_tree_is_bounded() -> None:
    root = parse("<a>" + "<b/>" * (2 * MAX_COUNTED_ELEMENTS) + "</a>")

    assert size_of(root) == MAX_COUNTED_ELEMENTS * ELEMENT_BYTES


def test_a_tree_that_was_not_counted_to_its_end_teaches_nothing() -> None:
    cpu = Cpu()
    sheet = Stylesheet(ECHO, cpu_time_s=cpu)
    before = sheet.us_per_byte
    cpu.work_s = 10.0

    sheet.apply(parse("<a>" + "<b/>" * (2 * MAX_COUNTED_ELEMENTS) + "</a>"))

    assert sheet.us_per_byte == before


def test_lxml_is_named_with_its_extra_where_it_is_missing(tmp_path: Path) -> None:
    (tmp_path / "lxml.py").write_text("raise ModuleNotFoundError('no lxml here')")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from compysition.errors import MissingExtraError\n"
        "try:\n    import compysition.xml\n"
        "except MissingExtraError as err:\n    print(err)"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert "pip install 'compysition[xml]'" in done.stdout
