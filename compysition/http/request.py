# SPDX-License-Identifier: Apache-2.0
"""What was asked: a frozen `Request`, made from a WSGI environ.

Made once per request, before the body is read, so it is cheap: query, headers and cookies are parsed when first looked
at. Nothing of the environ is kept but text, so that an event that lives long keeps no connection alive.
Must not know events, actors or servers. Read next: `body`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Self
from urllib.parse import parse_qsl, quote, unquote_to_bytes

from compysition.errors import MalformedError, MethodNotAllowedError, NotFoundError, UnsupportedTypeError
from compysition.http.headers import FrozenHeaders, is_token, parse_content_length
from compysition.http.multidict import MultiDict
from compysition.http.proxies import Proxies, is_hidden, is_host
from compysition.http.trace import Trace, parse_trace

#: Most fields of a query: what a person or a program means to send; more is an attack on whoever loops over them.
MAX_QUERY_FIELDS: Final = 1000
#: Most cookies that are looked at; browsers send at most about 180 per site, a few in practice.
MAX_COOKIES: Final = 100
#: The service of a request whose path is empty.
DEFAULT_SERVICE: Final = "default"

#: The methods that a door takes without being told so.
KNOWN_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
# Nothing to decode, nothing to refuse: the path of nearly every request.
is_plain_target: Final = re.compile(
    r"/[A-Za-z0-9\-._~!$&'()*+,;=:@/]*+(?:\?[A-Za-z0-9\-._~!$&'()*+,;=:@/?]*+)?"
).fullmatch
_is_plain_path: Final = re.compile(r"/[A-Za-z0-9\-._~!$&'()*+,;=:@/]*").fullmatch
# RFC 3986, section 2: visible ASCII but " # < > \, and % only before two hexadecimal digits. Possessive: it never
# goes back.
_is_raw: Final = re.compile(r"(?:[!$&-;=?-\[\]-~]++|%[0-9A-Fa-f]{2})*+").fullmatch
_find_control: Final = re.compile(r"[\x00-\x1f\x7f]").search
_NO_PARAMS: Final[Mapping[str, Any]] = MappingProxyType({})
_is_request_id: Final = re.compile(r"[A-Za-z0-9._~:/+=@\-]{1,128}").fullmatch
_COOKIE_ESCAPE: Final = re.compile(rb"\\(?:([0-3][0-7]{2})|(.))")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Request:
    """One HTTP request, without its body. Frozen, and shared by all copies of the event that it began.

    Make it with `from_environ`.

    Attributes:
        method: Upper case, such as ``GET``.
        target: What stood in the request line, undecoded; without a raw target from the server, made from its path.
        segments: The path behind the base path, split at ``/`` and then decoded; empty for ``/``. A ``%2F`` of the
            target stays inside its segment.
        query_string: What stood behind the ``?``, undecoded.
        scheme: ``http`` or ``https``.
        host: The ``Host`` the client named, or the authority of an absolute target; may carry a port.
        client: The address of the peer, or the one that a trusted proxy names for it, as text; empty if the server
            does not say.
        content_type: As sent; None without one.
        content_length: The announced size of the body in bytes; None without one, as with a chunked body.
        request_id: The client's ``X-Request-ID`` if it is acceptable (1 to 128 of letters, digits and ``._~:/+=@-``).
            With trusted proxies only from them.
        accept: What types of answer the client accepts, as sent; None = it does not say.
        params: The parameters of the route's pattern, by name.
    """

    method: str
    target: str
    segments: tuple[str, ...] = ()
    query_string: str = ""
    scheme: str = "http"
    host: str = ""
    client: str = ""
    content_type: str | None = None
    content_length: int | None = None
    request_id: str | None = None
    accept: str | None = None
    _fields: tuple[tuple[str, str], ...] = ()
    #: Which headers of proxies are shown: of one family or of none, see `Proxies`.
    _family: str | None = None
    # A factory, as Python 3.11 takes a mappingproxy, which it cannot hash, for mutable.
    params: Mapping[str, Any] = field(default_factory=lambda: _NO_PARAMS)
    _headers: FrozenHeaders | None = field(default=None, init=False)
    _query: MultiDict | None = field(default=None, init=False)
    _cookies: Mapping[str, str] | None = field(default=None, init=False)

    @classmethod
    def from_environ(cls, environ: Mapping[str, Any], base_path: str = "/", proxies: Proxies | None = None) -> Self:
        """Read the head of a request.

        The path is taken from the undecoded target (``RAW_URI`` or ``REQUEST_URI``) if the server gives one, because
        only there ``%2F`` and ``/`` differ; ``SCRIPT_NAME`` then comes in front of `base_path`. Else from
        ``PATH_INFO``.

        Args:
            environ: The environ of PEP 3333.
            base_path: Path in front of all segments; matches whole segments only.
            proxies: Whom to believe about the client. None = nobody; what proxies say is then not in `headers`.

        Raises:
            MalformedError: The method, target, query, host or Content-Length cannot be read; HTTP/1.1 without a
                Host; a path with a ``.`` or ``..`` segment, a control character or bytes that are not UTF-8.
            MethodNotAllowedError: TRACE, which nothing here answers (RFC 9110, section 9.3.8).
            TooLargeError: The Content-Length is absurd.
            NotFoundError: The path lies outside `base_path`, or begins with an empty segment.
            UnsupportedTypeError: The body is compressed; nothing here decompresses (RFC 9110, section 12.5.3).
        """
        get = environ.get
        method = environ["REQUEST_METHOD"]
        if method not in KNOWN_METHODS:
            _check_other_method(method)
        coding = get("HTTP_CONTENT_ENCODING")
        if coding is not None and coding.strip().lower() not in ("", "identity"):
            raise UnsupportedTypeError(
                "a body with a Content-Encoding is not taken: send it as it is", headers={"Accept-Encoding": "identity"}
            )
        target, segments, query, scheme, host = _locate(environ, method)
        if base_path != "/":
            segments = _behind(segments, base_path)
        if segments and not segments[0]:
            if len(segments) > 1:
                raise NotFoundError("the path begins with an empty segment")
            segments = ()
        content_type = get("CONTENT_TYPE") or None
        request_id = get("HTTP_X_REQUEST_ID")
        if request_id is not None and not _is_request_id(request_id):
            request_id = None
        client, family = get("REMOTE_ADDR") or "", None
        if proxies is not None:
            said = proxies.read(client, environ)
            if said is None:
                request_id = None
            else:
                family = proxies.family
                client = said.client
                scheme = said.scheme or scheme
                host = said.host or host
        return cls(
            method,
            target,
            segments,
            query,
            scheme,
            host,
            client,
            content_type,
            parse_content_length(get("CONTENT_LENGTH")),
            request_id,
            get("HTTP_ACCEPT"),
            tuple([item for item in environ.items() if item[0][:5] == "HTTP_"]),
            family,
        )

    @property
    def path(self) -> str:
        """The decoded path behind the base path; begins with ``/``. `segments` is exact where this is not."""
        return "/" + "/".join(self.segments)

    @property
    def service(self) -> str:
        """The first segment of the path, or ``default`` if there is none."""
        return self.segments[0] if self.segments else DEFAULT_SERVICE

    @property
    def query(self) -> MultiDict:
        """The fields of the query: ``+`` is a space, what is not UTF-8 is replaced."""
        query = self._query
        if query is None:
            query = MultiDict(parse_qsl(self.query_string, keep_blank_values=True) if self.query_string else ())
            object.__setattr__(self, "_query", query)
        return query

    @property
    def headers(self) -> FrozenHeaders:
        """All header fields. A repeated one has its values joined by a comma, as WSGI servers do."""
        headers = self._headers
        if headers is None:
            fields = [field for field in self._fields if not is_hidden(field[0], self._family)]
            if self.content_type is not None:
                fields.append(("CONTENT_TYPE", self.content_type))
            if self.content_length is not None:
                fields.append(("CONTENT_LENGTH", str(self.content_length)))
            headers = FrozenHeaders.from_environ(fields)
            object.__setattr__(self, "_headers", headers)
        return headers

    @property
    def has_body(self) -> bool:
        """Whether a body was announced, by its length or in chunks."""
        return bool(self.content_length) or any(name == "HTTP_TRANSFER_ENCODING" for name, _ in self._fields)

    @property
    def trace(self) -> Trace | None:
        """The trace that this request is part of, as ``traceparent`` and ``tracestate`` say; None without one."""
        return parse_trace(self.headers.get("Traceparent"), self.headers.get("Tracestate"))

    @property
    def cookies(self) -> Mapping[str, str]:
        """The cookies. Of two with one name the first wins; one whose value is not UTF-8 is left out (RFC 6265)."""
        cookies = self._cookies
        if cookies is None:
            cookies = MappingProxyType(_parse_cookies(self.headers.get("Cookie", "")))
            object.__setattr__(self, "_cookies", cookies)
        return cookies

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path!r}>"  # without the query: it may hold secrets


def set_params(request: Request, params: Mapping[str, Any]) -> None:
    """Set the parameters of the route; for the door, before anybody else has seen the request."""
    object.__setattr__(request, "params", params)


def _check_other_method(method: str) -> None:
    if not is_token(method) or method != method.upper():
        raise MalformedError("the method is no token in upper case")
    if method == "TRACE":
        raise MethodNotAllowedError("TRACE is not answered", headers={"Allow": ", ".join(KNOWN_METHODS)})


def _locate(environ: Mapping[str, Any], method: str) -> tuple[str, tuple[str, ...], str, str, str]:
    """Target, segments of the path, query, scheme and host."""
    get = environ.get
    scheme, host = environ["wsgi.url_scheme"], get("HTTP_HOST")
    if host is None and get("SERVER_PROTOCOL") == "HTTP/1.1":
        raise MalformedError("the header Host is missing")
    target = get("RAW_URI") or get("REQUEST_URI")
    if target is None:
        path, query = get("PATH_INFO", ""), get("QUERY_STRING", "")
        segments = _split_decoded(path)
        target = quote(get("SCRIPT_NAME", "") + path, safe="/:@!$&'()*+,;=~", encoding="latin-1")
        if query:
            target += "?" + query
    else:
        path, _, query = target.partition("?")
        if path[:1] != "/":
            scheme, host, path = _split_other_form(path, method, scheme, host)
        segments = _split_raw(path)
        if script_name := get("SCRIPT_NAME"):
            segments = _behind_mount(segments, script_name, get("PATH_INFO", ""))
    if query:
        _check_query(query)
    if host is None:
        host = f"{get('SERVER_NAME', '')}:{get('SERVER_PORT', '')}"
    elif not is_host(host):
        raise MalformedError("the host is not of the form host[:port]")
    return target, segments, query, scheme, host


def check_path(path: str) -> list[str]:
    """The segments of an undecoded path: split at its slashes, then each decoded once.

    Raises:
        MalformedError: It cannot be read: a character that has to be encoded, a control character, not UTF-8.
    """
    if _is_plain_path(path):
        return path[1:].split("/")
    if not _is_raw(path):
        raise MalformedError("the path holds a character that has to be percent-encoded, or a % without two digits")
    try:
        segments = [
            unquote_to_bytes(segment).decode("utf-8") if "%" in segment else segment for segment in path[1:].split("/")
        ]
    except UnicodeDecodeError as error:
        raise MalformedError("the path is not UTF-8") from error
    _refuse_controls(segments)
    return segments


def _split_raw(path: str) -> tuple[str, ...]:
    segments = check_path(path)
    _refuse_dots(segments)
    return tuple(segments)


def _split_decoded(path: str) -> tuple[str, ...]:
    """Split a path that the server has decoded: bytes as Latin-1 (PEP 3333)."""
    try:
        segments = path.encode("latin-1").decode("utf-8").removeprefix("/").split("/")
    except UnicodeError as error:
        raise MalformedError("the path is not UTF-8") from error
    _refuse_controls(segments)
    _refuse_dots(segments)
    return tuple(segments)


def _refuse_dots(segments: list[str]) -> None:
    if "." in segments or ".." in segments:
        raise MalformedError("the path holds a segment '.' or '..'")
    # A slash that was encoded belongs to its segment, but whoever makes a file's name of it sees one more.
    for segment in segments:
        if "/" in segment and not {".", ".."}.isdisjoint(segment.split("/")):
            raise MalformedError("the path holds a segment '.' or '..'")


def _refuse_controls(segments: list[str]) -> None:
    if any(map(_find_control, segments)):
        raise MalformedError("the path holds a control character")


def check_query(query: str) -> None:
    """Raise `MalformedError` for a query that cannot be read."""
    if not _is_raw(query):
        raise MalformedError("the query holds a character that has to be percent-encoded, or a % without two digits")


def _check_query(query: str) -> None:
    check_query(query)
    if query.count("&") >= MAX_QUERY_FIELDS:
        raise MalformedError(f"the query has more than {MAX_QUERY_FIELDS} fields")


def _split_other_form(path: str, method: str, scheme: str, host: str | None) -> tuple[str, str | None, str]:
    """Scheme, host and path of a target that is no path: absolute form, or ``*`` (RFC 9112, section 3.2)."""
    if path == "*" and method == "OPTIONS":
        return scheme, host, "/"
    found, separator, rest = path.partition("://")
    found = found.lower()
    if not separator or found not in ("http", "https"):
        raise MalformedError("the request target is neither a path nor a URL of http or https")
    authority, slash, path = rest.partition("/")
    return found, authority, slash + path or "/"


@lru_cache(maxsize=64)
def _prefix(path: str) -> tuple[str, ...]:
    path = path.strip("/")
    return tuple(path.split("/")) if path else ()


def _behind(segments: tuple[str, ...], base_path: str) -> tuple[str, ...]:
    prefix = _prefix(base_path)
    if segments[: len(prefix)] != prefix:
        raise NotFoundError("nothing is served at this path")
    return segments[len(prefix) :]


def _behind_mount(segments: tuple[str, ...], script_name: str, path_info: str) -> tuple[str, ...]:
    """Take away what another WSGI application has consumed; if the target does not show it, its word counts."""
    prefix = _prefix(script_name.encode("latin-1").decode("utf-8", "replace"))
    if segments[: len(prefix)] == prefix:
        return segments[len(prefix) :]
    return _split_decoded(path_info)


def _parse_cookies(text: str) -> dict[str, str]:
    cookies: dict[str, str] = {}
    for item in text.split(";", MAX_COOKIES)[:MAX_COOKIES]:
        name, separator, raw = item.partition("=")
        name = name.strip()
        if not separator or name in cookies or not is_token(name):
            continue
        value = raw.strip().encode("latin-1", "replace")
        if value[:1] == b'"' == value[-1:] and len(value) > 1:
            value = _COOKIE_ESCAPE.sub(_unescape, value[1:-1])
        try:
            cookies[name] = value.decode("utf-8")
        except UnicodeDecodeError:
            continue
    return cookies


def _unescape(match: re.Match[bytes]) -> bytes:
    octal, character = match.groups()
    return bytes((int(octal, 8),)) if octal is not None else bytes(character)
