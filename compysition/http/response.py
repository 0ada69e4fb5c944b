# SPDX-License-Identifier: Apache-2.0
"""The answer: its head, as actors set it, and how head and data become a status line, header fields and bytes.

Must not know events, actors or servers. Read next: `receiver`.
"""

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, Literal, Self, TypeAlias

from compysition.errors import HeaderError, UsageError
from compysition.http import plainxml
from compysition.http.accept import best
from compysition.http.content import PLAIN, choose, serialise
from compysition.http.headers import Headers, is_token

#: Status line, header fields and body, as WSGI takes them.
Answer: TypeAlias = tuple[str, list[tuple[str, str]], bytes]

#: Name and value of a cookie, together in bytes (RFC 6265, section 6.1: what every browser keeps).
MAX_COOKIE_BYTES: Final = 4096

_PROBLEM_JSON: Final = ("application/problem+json", "application/json")
_PROBLEM_XML: Final = "application/problem+xml"
_PROBLEM_TEXT: Final = "text/plain"
_PROBLEM_OTHERS: Final = (_PROBLEM_XML, "application/xml", _PROBLEM_TEXT, "text/xml")
_PROBLEM_NAMESPACE: Final = "urn:ietf:rfc:7807"

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
    accept: str | None = None,
    produces: tuple[str, ...] | None = None,
) -> Answer:
    """Make the answer that carries `data`.

    =====================================  ======================================================================
    data                                   Content-Type, unless `head` sets one
    =====================================  ======================================================================
    str                                    ``text/plain; charset=utf-8``
    bytes, bytearray, memoryview           ``application/octet-stream``
    dict, list, tuple, int, float, bool    by `accept`: ``application/json`` (which is also sent if nothing fits),
                                           ``application/xml``, or ``text/plain``: the JSON, indented
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
        accept: The ``Accept`` of the request.
        produces: The types that the route gives, instead of those in the table.

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
            varies = False
            if content_type is None and (produces or isinstance(data, PLAIN)):
                content_type, varies = choose(data, accept, produces)
            body, content_type = serialise(data, content_type)
            if varies:
                own_fields = _with_vary(own_fields)
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
    accept: str | None = None,
) -> Answer:
    """Make the answer to a request that failed: problem details (RFC 9457).

    As JSON, unless the client accepts only XML or only text.

    Args:
        status: 400 to 599.
        detail: For the caller, about this request. Left out of a 5xx, whose reasons are nobody's business outside.
        instance: A URI that names this request, as it stands in the log.
        headers: Of the error, such as ``WWW-Authenticate``.
        retry_after_s: For ``Retry-After``, rounded up to whole seconds (RFC 9110, section 10.2.3).
        errors: For 422: mappings with ``detail`` and ``pointer``, one for each thing that is wrong.
        method: Of the request.
        accept: The ``Accept`` of the request.

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
    own["Content-Type"], body = _encode_problem(document, accept)
    return _assemble(status, own.pairs(), body, method)


def _encode_problem(document: dict[str, Any], accept: str | None) -> tuple[str, bytes]:
    if accept is not None and best(accept, _PROBLEM_JSON) is None:
        kind = best(accept, _PROBLEM_OTHERS)
        if kind is not None and kind != _PROBLEM_TEXT:
            try:
                return _PROBLEM_XML, plainxml.encode(document, "problem", _PROBLEM_NAMESPACE)
            except ValueError:
                document = {name: value for name, value in document.items() if name not in ("detail", "errors")}
                return _PROBLEM_XML, plainxml.encode(document, "problem", _PROBLEM_NAMESPACE)
        if kind is not None:
            lines = [f"{document['status']} {document['title']}", document.get("detail"), document.get("instance")]
            text = "".join([f"{line}\n" for line in lines if line])
            return "text/plain; charset=utf-8", text.encode(errors="replace")
    # ASCII only: a detail may quote half a surrogate pair, and this answer has to go out.
    return _PROBLEM_JSON[0], json.dumps(document, separators=(",", ":"), default=str).encode()


def _with_vary(headers: ResponseHeaders | None) -> ResponseHeaders:
    """The header fields, and that the answer depends on ``Accept`` (RFC 9110, section 12.5.5)."""
    headers = ResponseHeaders() if headers is None else headers.copy()
    named = [name.strip().lower() for name in ",".join(headers.get_all("Vary")).split(",")]
    if "accept" not in named and "*" not in named:
        headers.add("Vary", "Accept")
    return headers


def _check_status(status: object) -> None:
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
        raise UsageError(f"{status!r} is no status of an answer: 200 to 599 are")


def _assemble(status: int, fields: list[tuple[str, str]], body: bytes, method: str) -> Answer:
    if status not in _WITHOUT_LENGTH:
        fields.append(("Content-Length", str(len(body))))
    fields.append(("X-Content-Type-Options", "nosniff"))
    return status_line(status), fields, b"" if method == "HEAD" else body


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
