# SPDX-License-Identifier: Apache-2.0
"""XML from strangers: parse it without fetching, expanding or loading anything, and run a stylesheet over it.

`parse` turns bytes or text into an lxml element and refuses what can hurt: a DOCTYPE (before libxml2 builds anything
from it), entities, oversized trees, encodings in which a DOCTYPE could hide. `Stylesheet` is an XSLT 1.0 stylesheet,
checked once, that may neither read nor write files or the network. Both are plain blocking calls, safe in any thread;
lxml releases the GIL in them. Must not know actors or events. Read next: `compysition.actors.transformer`.
"""

import copy
import re
import threading
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Final

from compysition.errors import (
    CompysitionError,
    MalformedError,
    MissingExtraError,
    StylesheetError,
    UnprocessableError,
    suggestion,
)

try:
    from lxml import etree
except ModuleNotFoundError as err:  # pragma: no cover - needs an installation without the extra
    raise MissingExtraError("XML", "xml") from err

#: Work above this belongs beside the hub, in µs: going to the thread pool costs 45–110 µs.
LARGE_US: Final = 1_000.0
#: What parsing and transforming costs before anything was measured, in µs per byte (0.07–0.085 in our benchmark) …
FIRST_US_PER_BYTE: Final = 0.1
#: … and how much that guess weighs against measurements, in bytes.
FIRST_WEIGHT_BYTES: Final = 10_000.0
#: The share of the older measurements that stays with each new one.
MEMORY: Final = 0.9
#: Below this many bytes only one document in so many is measured: asking for the CPU time twice costs 1.1 µs.
MEASURED_BYTES: Final = 4_096
MEASURED_EACH: Final = 8
#: Where a tree has no size in bytes, one element with its text and attributes counts as so many.
ELEMENT_BYTES: Final = 40
#: Elements of a tree are counted up to here (about 0.2 ms), so that looking at its size never holds the hub.
MAX_COUNTED_ELEMENTS: Final = 2_000
#: What is shown of a stylesheet's own message, in characters.
MAX_MESSAGE_CHARS: Final = 300
#: Compiled copies of one stylesheet, one per thread; pools in use are far smaller.
MAX_COPIES: Final = 64

# Tuples made once: a union in `isinstance` is built anew at each call.
_BYTES: Final = (bytes, bytearray, memoryview)
_FLAT: Final = (str, *_BYTES)
_TREES: Final = (etree._Element, etree._ElementTree)
_XSL: Final = "{http://www.w3.org/1999/XSL/Transform}"
#: All elements of XSLT 1.0, and `document` of 1.1, which libxslt knows.
_XSL_ELEMENTS: Final = frozenset(
    re.findall(
        r"[\w-]+",
        "apply-imports apply-templates attribute attribute-set call-template choose comment copy copy-of "
        "decimal-format document element fallback for-each if import include key message namespace-alias number "
        "otherwise output param preserve-space processing-instruction sort strip-space stylesheet template text "
        "transform value-of variable when with-param",
    )
)
#: libxslt's word for an address it made up, because the stylesheet has none.
_MADE_UP_BASE: Final = "string://__STRING__XSLT__"
_DENIED: Final = re.compile(r"rights for (.*) denied")
#: Faults that no document can cause and no other document cures.
_AUTHORS_FAULT: Final = re.compile(
    "Unregistered function|[Uu]ndefined|not been declared|Invalid type|Invalid number of arguments|was not found"
)
_POSITION: Final = re.compile(r",? line \d+, column \d+.*$", re.DOTALL)
_DENY_ALL: Final = etree.XSLTAccessControl(
    read_file=False, write_file=False, create_dir=False, read_network=False, write_network=False
)

#: Encodings in which no character holds the bytes ``< > - ?`` except those four themselves: what stands before the
#: root element can be searched in them as it is. UTF-7, ISO-2022 and EBCDIC could hide a DOCTYPE from that search.
_ASCII_SUPERSET: Final = re.compile(
    r"utf-?8|(?:us-)?ascii|(?:iso[-_]?8859|latin)[-_]?\d+|(?:windows|cp)-?(?:125\d|874)|koi8-[ru]"
    r"|shift[-_]jis|euc-(?:jp|kr|tw)|gb2312|gbk|gb18030|big5(?:-hkscs)?",
    re.IGNORECASE,
)
_UTF_16: Final = re.compile(r"utf-?16(?:[lb]e)?|ucs-2|iso-10646-ucs-2", re.IGNORECASE)
#: How documents in these encodings begin (XML 1.0, appendix F).
_UTF_16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
_UTF_16_HEADS: Final = (b"<\0?\0", b"\0<\0?")
_UTF_32_HEADS: Final = (b"\xff\xfe\0\0", b"\0\0\xfe\xff", b"<\0\0\0", b"\0\0\0<")
_DECLARED_ENCODING: Final = re.compile(rb"""(?:\xef\xbb\xbf)?<\?xml\s[^>]*?\bencoding\s*=\s*["']([^"'>]*)["']""")
#: How nearly every document begins, in UTF-8 and without a DOCTYPE: one look instead of five, which cost 3 µs.
_PLAIN: Final = re.compile(
    rb"""(?:<\?xml version=["']1\.0["'](?: encoding=["'](?:UTF|utf)-8["'])?(?: standalone=["'](?:yes|no)["'])? ?\?>)?"""
    rb"""[ \t\r\n]*+<[A-Za-z_]"""
)
#: All that may stand before a DOCTYPE. Possessive, so that it takes linear time whatever it meets.
_DOCTYPE: Final = re.compile(rb"(?:\xef\xbb\xbf)?(?:[ \t\r\n]++|<\?.*?\?>|<!--.*?-->)*+<!DOCTYPE", re.DOTALL)
_NO_DOCTYPE: Final = "malformed XML: a DOCTYPE is not accepted"

#: In words what the parser has against a document; its own texts name its functions and options.
_REASONS: Final[dict[int, str]] = {
    etree.ErrorTypes.ERR_DOCUMENT_EMPTY: "no element begins here",
    etree.ErrorTypes.ERR_DOCUMENT_END: "something follows the end of the root element",
    etree.ErrorTypes.ERR_TAG_NAME_MISMATCH: "an end tag does not match its start tag",
    etree.ErrorTypes.ERR_TAG_NOT_FINISHED: "the document ends before all elements are closed",
    etree.ErrorTypes.ERR_GT_REQUIRED: "a tag is not finished",
    etree.ErrorTypes.ERR_LTSLASH_REQUIRED: "the document ends before all elements are closed",
    etree.ErrorTypes.ERR_UNDECLARED_ENTITY: "an entity other than &lt; &gt; &amp; &apos; &quot;",
    etree.ErrorTypes.ERR_ENTITYREF_NO_NAME: "a bare &, to be written &amp;",
    etree.ErrorTypes.ERR_ENTITYREF_SEMICOL_MISSING: "a bare &, to be written &amp;, or an entity without semicolon",
    etree.ErrorTypes.ERR_NAME_REQUIRED: "a name is missing, or a bare & is not written &amp;",
    etree.ErrorTypes.ERR_INVALID_CHAR: "a character that XML does not allow",
    etree.ErrorTypes.ERR_INVALID_CHARREF: "a reference to a character that XML does not allow",
    etree.ErrorTypes.ERR_INVALID_ENCODING: "bytes that do not fit the encoding",
    etree.ErrorTypes.ERR_UNSUPPORTED_ENCODING: "an unknown encoding",
    etree.ErrorTypes.ERR_ATTRIBUTE_REDEFINED: "an attribute is given twice",
    etree.ErrorTypes.ERR_ATTRIBUTE_NOT_STARTED: "an attribute's value is not quoted",
    etree.ErrorTypes.ERR_ATTRIBUTE_NOT_FINISHED: "an attribute's value is not finished",
    etree.ErrorTypes.ERR_ATTRIBUTE_WITHOUT_VALUE: "an attribute has no value",
    etree.ErrorTypes.ERR_LT_IN_ATTRIBUTE: "a bare < in an attribute's value, to be written &lt;",
    etree.ErrorTypes.ERR_MISPLACED_CDATA_END: "a bare ]]> in text, to be written ]]&gt;",
    etree.ErrorTypes.ERR_CDATA_NOT_FINISHED: "a CDATA section is not finished",
    etree.ErrorTypes.ERR_COMMENT_NOT_FINISHED: "a comment is not finished",
    etree.ErrorTypes.ERR_HYPHEN_IN_COMMENT: "two hyphens inside a comment",
    etree.ErrorTypes.ERR_PI_NOT_FINISHED: "a processing instruction is not finished",
    etree.ErrorTypes.ERR_RESERVED_XML_NAME: "an XML declaration that does not stand at the very beginning",
    etree.ErrorTypes.ERR_UNKNOWN_VERSION: "an unknown version of XML",
    etree.ErrorTypes.ERR_RESOURCE_LIMIT: "nested too deeply (256 levels), or a piece of it is too long (10 MB)",
    etree.ErrorTypes.ERR_NAME_TOO_LONG: "a name is too long",
    etree.ErrorTypes.NS_ERR_UNDEFINED_NAMESPACE: "a namespace prefix that is not declared",
    etree.ErrorTypes.NS_ERR_ATTRIBUTE_REDEFINED: "an attribute is given twice",
}


# ---- documents ------------------------------------------------------------------------------------------------------


def parse(data: object, *, allow_doctype: bool = False) -> "etree._Element":
    """Parse an XML document and return its root element.

    Nothing outside of `data` is read: no DTD, no external entity, no network. Bytes may be UTF-8, UTF-16 or one of the
    usual encodings that contain ASCII; text must not declare an encoding, because it has none any more.

    Args:
        data: The document as str or bytes (also bytearray, memoryview).
        allow_doctype: Accept a DOCTYPE; the DTD it names is still not read, and entities it declares are refused.

    Raises:
        MalformedError: Anything else, in one line that may be shown to whoever sent the document.
    """
    return _parse(data, allow_doctype, _parser("utf-8"))


def _parser(encoding: str | None) -> "etree.XMLParser":
    return etree.XMLParser(encoding=encoding, resolve_entities=False, load_dtd=False, no_network=True, huge_tree=False)


def _parse(data: object, allow_doctype: bool, utf_8: "etree.XMLParser") -> "etree._Element":
    """`parse`, with a parser for UTF-8 that no other thread uses: they would wait for each other."""
    encoding: str | None = "utf-8"
    if isinstance(data, bytes) and _PLAIN.match(data):
        source, is_plain = data, True
    else:
        (source, encoding), is_plain = _readable(data), False
        if not source or source.isspace():
            raise MalformedError("malformed XML: the document is empty")
        if not allow_doctype and _DOCTYPE.match(source):
            raise MalformedError(_NO_DOCTYPE)
    parser = _parser(None) if encoding is None else utf_8
    try:
        root = etree.fromstring(source, parser)
    except etree.XMLSyntaxError as err:
        line, column = err.position
        reason = _REASONS.get(err.code, "it is not well-formed")
        raise MalformedError(f"malformed XML at line {line}, column {column}: {reason}") from err
    dtd = None if is_plain else root.getroottree().docinfo.internalDTD
    if dtd is not None:
        if not allow_doctype:
            raise MalformedError(_NO_DOCTYPE)
        # Reading an attribute expands the entities in it without any limit, and those of a DTD that was not read are
        # lost there: no tree with entities leaves here.
        undeclared = any(entry.type == etree.ErrorTypes.WAR_UNDECLARED_ENTITY for entry in parser.error_log)
        if undeclared or any(True for _ in dtd.iterentities()):
            raise MalformedError("malformed XML: entities of its own are not accepted")
    return root


def _readable(data: object) -> tuple[bytes, str | None]:
    """Bytes in an encoding that can be searched for a DOCTYPE; and "utf-8" if they are no longer as declared."""
    if isinstance(data, str):
        try:
            source = data.encode()
        except UnicodeEncodeError as err:
            raise MalformedError(f"malformed XML: half a surrogate pair at character {err.start}") from err
        if _DECLARED_ENCODING.match(source):
            raise MalformedError("malformed XML: text that declares an encoding; send bytes or leave that out")
        return source, "utf-8"
    if not isinstance(data, _BYTES):
        raise MalformedError(f"an XML document is wanted, as text or bytes; there is {_kind(data)}")
    source = bytes(data)
    head = source[:4]
    if b"\0" in head or head[:2] in _UTF_16_MARKS:
        if head in _UTF_32_HEADS:
            raise MalformedError("malformed XML: the encoding UTF-32 is not accepted; use UTF-8")
        if head[:2] in _UTF_16_MARKS or head in _UTF_16_HEADS:
            return _from_utf_16(source), "utf-8"
    found = _DECLARED_ENCODING.match(source)
    if found and not _ASCII_SUPERSET.fullmatch(name := found[1].decode("ascii", "replace")):
        if _UTF_16.fullmatch(name):
            raise MalformedError("malformed XML: UTF-16 is declared, but the bytes are not UTF-16")
        raise MalformedError(f"malformed XML: the encoding {name[:40]!r} is not accepted; use UTF-8")
    return source, None


def _from_utf_16(source: bytes) -> bytes:
    codec = {b"<": "utf-16-le", b"\0": "utf-16-be"}.get(source[:1], "utf-16")
    try:
        converted = source.decode(codec).encode()
    except UnicodeDecodeError as err:
        raise MalformedError(f"malformed XML: bytes that do not fit UTF-16 at byte {err.start}") from err
    found = _DECLARED_ENCODING.match(converted)
    if found and not _UTF_16.fullmatch(found[1].decode("utf-8", "replace")):
        raise MalformedError("malformed XML: the bytes are UTF-16, but another encoding is declared")
    return converted


def size_of(document: object) -> int:
    """About how much work a document is, in bytes: its length, or `ELEMENT_BYTES` per element of a tree.

    The elements of a tree are counted up to `MAX_COUNTED_ELEMENTS`. Anything that is no document has no size.
    """
    if isinstance(document, _FLAT):
        return len(document)
    root = document.getroot() if isinstance(document, etree._ElementTree) else document
    if not isinstance(root, etree._Element):
        return 0
    return ELEMENT_BYTES * sum(1 for _ in islice(root.iter(), MAX_COUNTED_ELEMENTS))


# ---- stylesheets ----------------------------------------------------------------------------------------------------


class Stylesheet:
    """An XSLT 1.0 stylesheet, compiled when constructed, that can be applied in any thread.

    It may not read or write files or the network: ``xsl:import`` and ``xsl:include`` are refused here, ``document()``
    and ``exsl:document`` when they are met. A stylesheet that the script compiled itself (`etree.XSLT`) keeps the
    access control its author gave it. Entities that the stylesheet declares itself (``&nbsp;``) are resolved.

    Args:
        source: Text, bytes, an lxml element or tree, a compiled `etree.XSLT`, or a `pathlib.Path` to read it from.
        cpu_time_s: The clock for what work costs, in seconds of this thread's CPU: waiting for the GIL is no work.

    Raises:
        StylesheetError: It cannot be read or compiled; `line` says where.
    """

    def __init__(
        self,
        source: "str | bytes | Path | etree._Element | etree._ElementTree | etree.XSLT",
        *,
        cpu_time_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self._cpu_time_s = cpu_time_s
        self._label = f"stylesheet {str(source)!r}" if isinstance(source, Path) else "stylesheet"
        self._source = source if isinstance(source, etree.XSLT) else self._checked(source)
        # One compiled copy per thread: runs of one `etree.XSLT` in several threads write into one error log, and the
        # error of one request would carry the text of another (78 of 4 000 in a test with two threads). And one parser:
        # threads that share one wait for each other, and a new one for each document costs 3 % of a small one's time.
        self._by_thread: dict[int, tuple[etree.XSLT, etree.XMLParser]] = {}
        self._of_this_thread()
        self._n_small = 0
        #: µs spent and bytes worked on, both fading; one tuple, so that no thread sees half a change.
        self._cost = (FIRST_US_PER_BYTE * FIRST_WEIGHT_BYTES, FIRST_WEIGHT_BYTES)

    @property
    def root(self) -> "etree._Element | None":
        """The root element of the stylesheet's source; None for one that the script has compiled."""
        return None if isinstance(self._source, etree.XSLT) else self._source

    @property
    def us_per_byte(self) -> float:
        """What a byte of a document has cost of late, in µs of CPU: a moving average that large documents rule."""
        spent_us, n_bytes = self._cost
        return spent_us / n_bytes

    def is_large(self, n_bytes: int) -> bool:
        """Whether a document of this size (`size_of`) is expected to take more than `LARGE_US`."""
        return n_bytes * self.us_per_byte > LARGE_US

    def apply(
        self, document: object, *, allow_doctype: bool = False, n_bytes: int | None = None
    ) -> "etree._XSLTResultTree":
        """Transform a document; `bytes(result)` and `str(result)` serialise it as ``xsl:output`` says.

        Args:
            document: An lxml element or tree, which is not changed, or anything that `parse` takes.
            allow_doctype: As in `parse`; trees are taken as they are.
            n_bytes: What `size_of` said of the document, if it was asked already.

        Raises:
            MalformedError: The document cannot be parsed, or is a tree without a root element.
            UnprocessableError: The stylesheet ended with ``xsl:message terminate="yes"``, or gave up on this document.
            StylesheetError: The stylesheet itself is wrong (an unknown function, a file it wants to read).
        """
        transform, parser = self._of_this_thread()
        if n_bytes is None:
            n_bytes = size_of(document)
        started_s = self._cpu_time_s() if self._is_measured(document, n_bytes) else None
        if not isinstance(document, _TREES):
            tree = _parse(document, allow_doctype, parser)
        elif isinstance(document, etree._ElementTree):
            tree = document.getroot()
            if tree is None:
                raise MalformedError("an XML document is wanted; there is a tree without a root element")
        else:
            # lxml would bend the pointers of the tree around it for a while, which another thread may be reading.
            tree = document if document.getparent() is None else copy.deepcopy(document)
        try:
            result = transform(tree)
        except etree.XSLTApplyError as err:
            raise self._failure(err.error_log) from err
        if started_s is not None:
            spent_us, known_bytes = self._cost
            spent_us = spent_us * MEMORY + (self._cpu_time_s() - started_s) * 1e6
            self._cost = (spent_us, known_bytes * MEMORY + n_bytes)
        return result

    def _is_measured(self, document: object, n_bytes: int) -> bool:
        if n_bytes < MEASURED_BYTES:
            self._n_small += 1
            return self._n_small % MEASURED_EACH == 1
        # A tree that is not counted to its end teaches nothing.
        return n_bytes < ELEMENT_BYTES * MAX_COUNTED_ELEMENTS or not isinstance(document, _TREES)

    def _of_this_thread(self) -> "tuple[etree.XSLT, etree.XMLParser]":
        # The native id, because gevent's patched `get_ident` and `threading.local` mean greenlets.
        ident = threading.get_native_id()
        mine = self._by_thread.get(ident)
        if mine is None:
            mine = self._by_thread[ident] = self._compile(), _parser("utf-8")
            for old in list(self._by_thread)[:-MAX_COPIES]:
                self._by_thread.pop(old, None)
        return mine

    def _compile(self) -> "etree.XSLT":
        if isinstance(self._source, etree.XSLT):
            return copy.copy(self._source) if self._by_thread else self._source
        try:
            return etree.XSLT(self._source, access_control=_DENY_ALL)
        except etree.XSLTParseError as err:
            line, text = _first_fault(err.error_log)
            raise self._error(text or str(err), line) from err

    def _error(self, text: str, line: int | None = None) -> StylesheetError:
        where = "" if line is None else f", line {line}"
        return StylesheetError(f"{self._label}{where}: {_one_line(text)}", line)

    def _checked(self, source: "str | bytes | Path | etree._Element | etree._ElementTree") -> "etree._Element":
        """The stylesheet's root element, a tree of its own, after the checks that libxslt does not make."""
        root = self._parsed(source)
        line = root.sourceline
        is_stylesheet = root.tag in (f"{_XSL}stylesheet", f"{_XSL}transform")
        version = root.get("version", "1.0") if is_stylesheet else root.get(f"{_XSL}version")
        if version is None:
            raise self._error(f"<{root.tag!s}> is no stylesheet: the root element has to be xsl:stylesheet", line)
        for element in root.iter(f"{_XSL}import", f"{_XSL}include"):
            wanted = f"{etree.QName(element).localname} of {element.get('href', '')!r}"
            text = f"xsl:{wanted} is refused: a stylesheet reads no other files, so copy the templates into it"
            raise self._error(text, element.sourceline)
        # libxslt drops unknown instructions without a word; any other version asks for that (XSLT 1.0, section 2.5).
        for element in root.iter(f"{_XSL}*") if version == "1.0" else ():
            name = etree.QName(element).localname
            if name not in _XSL_ELEMENTS and element.find(f"{_XSL}fallback") is None:
                close = suggestion(name, _XSL_ELEMENTS)
                hint = close if close.startswith("; did") else ""
                raise self._error(f"xsl:{name} is no element of XSLT 1.0{hint}", element.sourceline)
        return root

    def _parsed(self, source: "str | bytes | Path | etree._Element | etree._ElementTree") -> "etree._Element":
        if isinstance(source, etree._Element | etree._ElementTree):
            root = source.getroot() if isinstance(source, etree._ElementTree) else source
            if root is None:
                raise self._error("the tree has no root element")
            return copy.deepcopy(root)
        if isinstance(source, Path):
            try:
                text = source.read_bytes()
            except OSError as err:
                raise self._error(f"cannot be read: {err.strerror or err}") from err
        elif isinstance(source, str):
            if "<" not in source:
                shown = source.strip()[:80]
                raise self._error(
                    f"text is wanted, {shown!r} looks like a file's name: give xslt_path= or a pathlib.Path"
                )
            text = source.encode(errors="replace")
        elif isinstance(source, bytes):
            text = source
        else:
            raise self._error(f"text, bytes, a path, an lxml tree or a compiled stylesheet; not {_kind(source)}")
        # Its author is trusted with entities in the file itself; whatever lies outside stays unread.
        parser = etree.XMLParser(
            encoding="utf-8" if isinstance(source, str) else None,
            resolve_entities="internal",
            load_dtd=False,
            no_network=True,
            huge_tree=False,
        )
        try:
            return etree.fromstring(text, parser)
        except etree.XMLSyntaxError as err:
            raise self._error(_POSITION.sub("", err.msg or "it is not well-formed"), err.position[0]) from err

    def _failure(self, log: "Iterable[etree._LogEntry]") -> CompysitionError:
        """Who has to act when a transformation failed: the stylesheet's author, or whoever sent the document."""
        line, faults, messages, ended_by_message = None, [], [], False
        in_fault = False
        for entry in log:
            text = _one_line(entry.message)
            if text.startswith("runtime error"):
                in_fault, line = True, entry.line or line
            elif in_fault or entry.domain == etree.ErrorDomains.XPATH:
                in_fault, ended_by_message = False, False
                faults.append(text)
            elif text != "unknown error":  # what libxslt adds for each level that it leaves
                ended_by_message = True
                messages.append(text)
        if ended_by_message or not faults:
            said = f": {messages[-1]}" if messages else ""
            return UnprocessableError(f"the stylesheet refused the document{said}")
        for text in faults:
            if "recursion" in text:
                return UnprocessableError(
                    "the stylesheet gave up on this document: its templates call each other too deeply"
                )
            if denied := _DENIED.search(text):
                wanted = denied[1].removeprefix(_MADE_UP_BASE)
                return self._error(
                    f"access to {wanted!r} is denied: a stylesheet reads and writes no files and no network", line
                )
            if _AUTHORS_FAULT.search(text):
                return self._error(text, line)
        return UnprocessableError(f"the stylesheet failed on this document, in its line {line}")


def _first_fault(log: "Iterable[etree._LogEntry]") -> tuple[int | None, str]:
    """Line and text of the first error that libxslt names with its line; XPath's come without one, before it."""
    line = None
    for entry in log:
        if line is not None:
            return line, entry.message
        if entry.message.startswith("compilation error"):
            line = entry.line or None
    return None, ""


def _one_line(text: str) -> str:
    joined = " ".join(text.split())
    return joined if len(joined) <= MAX_MESSAGE_CHARS else joined[: MAX_MESSAGE_CHARS - 1] + "…"


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
