# SPDX-License-Identifier: Apache-2.0
"""The answer: its head, as actors set it, and how head and data become a status line, header fields and bytes.

Rendering goes by the class of the data alone; a choice by ``Accept`` would go into `_serialise`.
lxml is never imported here: unless it is in the process already, no data can be a tree.
Must not know events, actors or servers. Read next: `receiver`.
"""

import json
import logging
import math
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from http import HTTPStatus
from types import ModuleType
from typing import Any, Final, Literal, Self, TypeAlias

from compysition.errors import HeaderError, UsageError
from compysition.http.headers import Headers, check_value, is_token

#: Status line, header fields and body, as WSGI takes them.
Answer: TypeAlias = tuple[str, list[tuple[str, str]], bytes]

#: Name and value of a cookie, together in bytes (RFC 6265, section 6.1: what every browser keeps).
MAX_COOKIE_BYTES: Final = 4096

_LOGGER: Final = logging.getLogger("compysition.http")
#: Answers that never have a body (RFC 9110, section 15). pywsgi takes no length for the first two.
_WITHOUT_LENGTH: Final = (204, 304)
_WITHOUT_BODY: Final = (204, 205, 304)
# Those of RFC 9110 on every Python: the standard library took them over in 3.13.
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus} | {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
_find_charset: Final = re.compile(r';\s*charset\s*=\s*"?([^\s;"]*)', re.IGNORECASE).search
_is_cookie_value: Final = re.compile(r"[!#-+\--:<-\[\]-~]*").fullmatch
_is_attribute: Final = re.compile(r"[ -:<-~]*").fullmatch


class ResponseHeaders(Headers):
    """The header fields of an answer, without those that only the server can set right."""

    __slots__ = ()

    reserved = frozenset(
        {
            "connection",
            "content-length",
            "date",
            "keep-alive",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        }
    )


class ResponseHead:
    """What actors say about the answer to a request, beside its data.

    Attributes:
        status: 200 to 599; None = chosen when rendered. Checked when rendered.
    """

    __slots__ = ("_headers", "status")

    def __init__(self, status: int | None = None) -> None:
        self.status = status
        #: Made when first looked at: most answers have none of their own.
        self._headers: ResponseHeaders | None = None

    @property
    def headers(self) -> ResponseHeaders:
        """The header fields; checked when set: `HeaderError`."""
        headers = self._headers
        if headers is None:
            headers = self._headers = ResponseHeaders()
        return headers

    @property
    def content_type(self) -> str | None:
        """The ``Content-Type``; set, it is sent as it is, whatever the data. None = by the class of the data."""
        return None if self._headers is None else self._headers.get("Content-Type")

    @content_type.setter
    def content_type(self, value: str | None) -> None:
        if value is None:
            self.headers.discard("Content-Type")
        else:
            self.headers["Content-Type"] = value

    def set_cookie(
        self,
        name: str,
        value: str,
        *,
        max_age_s: int | None = None,
        expires: datetime | None = None,
        path: str | None = "/",
        domain: str | None = None,
        secure: bool = False,
        http_only: bool = True,
        same_site: Literal["Lax", "Strict", "None"] | None = "Lax",
    ) -> None:
        """Send a cookie along, on a line of its own (RFC 6265, section 3).

        Args:
            name: A token.
            value: Any text; what a cookie cannot hold is escaped as `Request.cookies` reads it.
            max_age_s: Seconds that it lives; 0 deletes it.
            expires: The same as a date, for old browsers; with a time zone.
            path: Where it is sent back to.
            domain: None = this host only.
            secure: Over https only.
            http_only: Out of reach of scripts.
            same_site: Whether it travels with requests that other sites cause.

        Raises:
            HeaderError: One of them cannot be sent, or ``SameSite=None`` without `secure`, which browsers refuse.
        """
        if not isinstance(name, str) or not is_token(name):
            raise HeaderError(f"{name!r} is no name for a cookie")
        if same_site == "None" and not secure:
            raise HeaderError(f"cookie {name!r}: SameSite=None needs secure=True")
        if expires is not None and expires.tzinfo is None:
            raise HeaderError(f"cookie {name!r}: expires={expires!r} has no time zone")
        parts = [f"{name}={value if _is_cookie_value(value) else _quote_cookie(value)}"]
        if len(parts[0]) > MAX_COOKIE_BYTES:
            raise HeaderError(f"cookie {name!r} has {len(parts[0])} bytes; {MAX_COOKIE_BYTES} is the limit")
        if max_age_s is not None:
            parts.append(f"Max-Age={int(max_age_s)}")
        if expires is not None:
            parts.append(f"Expires={format_datetime(expires.astimezone(UTC), usegmt=True)}")
        for attribute, text in (("Domain", domain), ("Path", path), ("SameSite", same_site)):
            if text is not None:
                if not _is_attribute(text):
                    raise HeaderError(f"cookie {name!r}: {attribute}={text!r} cannot be sent")
                parts.append(f"{attribute}={text}")
        parts += [flag for flag, is_set in (("Secure", secure), ("HttpOnly", http_only)) if is_set]
        self.headers.add("Set-Cookie", "; ".join(parts))

    def copy(self) -> Self:
        """A head that changes on its own."""
        new = type(self)(self.status)
        if self._headers is not None:
            new._headers = self._headers.copy()
        return new

    def __copy__(self) -> Self:
        return self.copy()

    def __deepcopy__(self, memo: object) -> Self:
        return self.copy()

    def __repr__(self) -> str:
        return f"<ResponseHead {self.status} {self.headers!r}>"


@lru_cache(maxsize=600)
def status_line(status: int) -> str:
    """Such as ``404 Not Found``. A status without a phrase has that of its class (RFC 9110, section 15)."""
    return f"{status} {_PHRASES.get(status) or _PHRASES[status // 100 * 100]}"


def render(
    head: ResponseHead,
    data: Any,
    *,
    method: str = "GET",
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Make the answer that carries `data`.

    =====================================  ======================================================================
    data                                   Content-Type, unless `head` sets one
    =====================================  ======================================================================
    str                                    ``text/plain; charset=utf-8``
    bytes, bytearray, memoryview           ``application/octet-stream``
    dict, list, tuple, int, float, bool    ``application/json``
    lxml element or tree                   ``application/xml; charset=utf-8``; an HTML one ``text/html``
    XSLT result tree                       what ``xsl:output`` made of it: XML, HTML or text in its encoding
    None                                   none, no body; 204 if no status was set either
    =====================================  ======================================================================

    A ``Content-Type`` that was set is sent as said; text of a type ``text/*`` gets its charset added if it has none,
    and is encoded by the one it has. ``Content-Length`` is always there, except for 204 and 304, which have no body
    (nor has 205; one set for them is dropped). HEAD gets the head that GET would get.

    Args:
        head: What the actors said.
        data: The event's data.
        method: Of the request.
        status: Counts if `head` has none: that of the event's error, or 200.
        headers: Of the event's error. They replace those of the same name in `head`.

    Raises:
        UsageError: The status is not 200 to 599, or the data cannot be rendered: a class without a rule, ``NaN``,
            text that its charset does not hold. Log it and answer `problem` with 500.
        HeaderError: One of `headers` cannot be sent.
    """
    chosen = head.status
    if chosen is None:
        chosen = 204 if data is None and status == 200 else status
    if type(chosen) is not int or not 200 <= chosen <= 599:
        _check_status(chosen)
    own_fields = head._headers
    content_type = None if own_fields is None else own_fields.get("Content-Type")
    body = b""
    if data is not None:
        if chosen in _WITHOUT_BODY:
            _LOGGER.info("an answer with status %d has no body: its data was dropped", chosen)
        else:
            body, content_type = _serialise(data, content_type)
    fields = [] if content_type is None else [("Content-Type", content_type)]
    if own_fields:
        fields += [pair for pair in own_fields.pairs() if pair[0].lower() != "content-type"]
    if headers:
        own = ResponseHeaders(headers)
        fields = [pair for pair in fields if pair[0] not in own] + own.pairs()
    return _assemble(chosen, fields, body, method)


def problem(
    status: int,
    detail: str = "",
    *,
    instance: str | None = None,
    headers: Mapping[str, str] | None = None,
    retry_after_s: float | None = None,
    errors: Sequence[Mapping[str, Any]] = (),
    method: str = "GET",
) -> Answer:
    """Make the answer to a request that failed: problem details (RFC 9457).

    Args:
        status: 400 to 599.
        detail: For the caller, about this request. Left out of a 5xx, whose reasons are nobody's business outside.
        instance: A URI that names this request, as it stands in the log.
        headers: Of the error, such as ``WWW-Authenticate``.
        retry_after_s: For ``Retry-After``, rounded up to whole seconds (RFC 9110, section 10.2.3).
        errors: For 422: mappings with ``detail`` and ``pointer``, one for each thing that is wrong.
        method: Of the request.

    Raises:
        UsageError: The status is not 200 to 599.
        HeaderError: One of `headers` cannot be sent.
    """
    _check_status(status)
    line = status_line(status)
    document: dict[str, Any] = {"type": "about:blank", "title": line[4:], "status": status}
    if detail and status < 500:
        document["detail"] = detail
    if instance is not None:
        document["instance"] = instance
    if errors and status < 500:
        document["errors"] = [dict(error) for error in errors]
    own = ResponseHeaders(headers or ())
    if retry_after_s is not None and "Retry-After" not in own:
        own["Retry-After"] = str(max(0, math.ceil(retry_after_s)))
    own["Content-Type"] = "application/problem+json"
    # ASCII only: a detail may quote half a surrogate pair, and this answer has to go out.
    return _assemble(status, own.pairs(), json.dumps(document, separators=(",", ":"), default=str).encode(), method)


def _check_status(status: object) -> None:
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
        raise UsageError(f"{status!r} is no status of an answer: 200 to 599 are")


def _assemble(status: int, fields: list[tuple[str, str]], body: bytes, method: str) -> Answer:
    if status not in _WITHOUT_LENGTH:
        fields.append(("Content-Length", str(len(body))))
    fields.append(("X-Content-Type-Options", "nosniff"))
    return status_line(status), fields, b"" if method == "HEAD" else body


def _serialise(data: Any, content_type: str | None) -> tuple[bytes, str]:
    """The bytes of `data` and their type, which is the one given if there is one."""
    if isinstance(data, str):
        return _encode_text(data, content_type or "text/plain")
    if isinstance(data, bytes):
        return data, content_type or "application/octet-stream"
    if isinstance(data, dict | list | tuple | int | float):
        return _encode_json(data), content_type or "application/json"
    if isinstance(data, bytearray | memoryview):
        return bytes(data), content_type or "application/octet-stream"
    etree = sys.modules.get("lxml.etree")
    if etree is not None and isinstance(data, etree._Element | etree._ElementTree):
        body, own_type = _encode_tree(etree, data)
        return body, content_type or own_type
    raise UsageError(
        f"data of class {type(data).__name__!r} cannot be rendered: "
        "str, bytes, dict, list, numbers, lxml trees and None can; set event.data to one of them before the answer"
    )


def _encode_text(text: str, content_type: str) -> tuple[bytes, str]:
    match = _find_charset(content_type)
    charset = match[1] if match else "utf-8"
    if match is None and content_type[:5].lower() == "text/":
        content_type += "; charset=utf-8"
    try:
        return text.encode(charset), content_type
    except LookupError as error:
        raise UsageError(f"Content-Type {content_type!r} names a charset that is not known") from error
    except UnicodeEncodeError as error:
        raise UsageError(f"the text holds {text[error.start]!r}, which {charset} cannot carry") from error


def _encode_json(data: Any) -> bytes:
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the data cannot be rendered as JSON: {error}") from error


# ---- lxml -----------------------------------------------------------------------------------------------------------


def _encode_tree(etree: ModuleType, tree: Any) -> tuple[bytes, str]:
    if isinstance(tree, etree._XSLTResultTree):
        return _encode_result(tree)
    root = tree if isinstance(tree, etree._Element) else tree.getroot()
    if root is None:
        raise UsageError("an lxml tree without a root cannot be rendered")
    if _is_html(root):
        return etree.tostring(tree, method="html", encoding="utf-8", with_tail=False), "text/html; charset=utf-8"
    body = etree.tostring(tree, encoding="utf-8", xml_declaration=True, with_tail=False)
    return body, "application/xml; charset=utf-8"


def _encode_result(result: Any) -> tuple[bytes, str]:
    """Serialise as ``xsl:output`` says. The tree does not tell its method, so it is seen from what came out.

    ``media-type`` is not to be had from a result tree: whoever compiled the stylesheet can set the content type.
    """
    body = bytes(result)
    root = result.getroot()
    charset = "utf-8" if root is None else result.docinfo.encoding or "utf-8"
    if body.startswith(b"<?xml"):
        return body, _content_type("application/xml", charset)
    try:
        start = body[:256].decode(charset, "replace").lstrip("\ufeff \t\r\n")
    except LookupError:
        start, charset = body[:256].decode("latin-1").lstrip(), "utf-8"
    if start.startswith("<?xml"):
        kind = "application/xml"
    elif root is not None and _is_html(root):
        kind = "text/html"
    else:
        kind = "application/xml" if start.startswith("<") else "text/plain"
    return body, _content_type(kind, charset)


@lru_cache(maxsize=64)
def _content_type(kind: str, charset: str) -> str:
    return check_value("Content-Type", f"{kind}; charset={charset.lower()}")


def _is_html(root: Any) -> bool:
    """Whether libxml2 made an HTML document (which has no XML version), or libxslt will write one."""
    return root.getroottree().docinfo.xml_version is None or (isinstance(root.tag, str) and root.tag.lower() == "html")


# ---- cookies --------------------------------------------------------------------------------------------------------


def _quote_cookie(value: str) -> str:
    """In double quotes, what a cookie cannot hold as backslash and three octal digits, like every server writes it."""
    return (
        '"'
        + "".join(
            chr(byte) if 32 <= byte < 127 and byte not in b'",;\\' else f"\\{byte:03o}" for byte in value.encode()
        )
        + '"'
    )
