# SPDX-License-Identifier: Apache-2.0
"""The body of a request: read within limits, then decoded by its ``Content-Type``.

A body is held in memory as a whole. werkzeug is imported when the first multipart form arrives, not before.
Must not know events, actors or servers. Read next: `response`.
"""

import codecs
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, NoReturn
from urllib.parse import parse_qsl

import gevent

from compysition.clock import Clock
from compysition.errors import MalformedError, RequestError, TooLargeError, UnsupportedTypeError
from compysition.http.headers import parse_content_length

#: The name under which an environ holds the connection, for what needs its socket. Only our own servers set it.
PEER: Final = "compysition.peer"
#: Most bytes of a body, unless the door says otherwise.
MAX_BODY_BYTES: Final = 16 * 1024 * 1024
#: Deepest nesting of JSON: beyond what anybody means, far below what would exhaust the stack of whoever walks it.
MAX_JSON_DEPTH: Final = 64
#: Most fields and files of a form, and the longest name of one in bytes.
MAX_FORM_FIELDS: Final = 1000
MAX_NAME_BYTES: Final = 256
#: Most bytes of a urlencoded form, and of all fields of a multipart form that are no files.
MAX_URLENCODED_BYTES: Final = 1024 * 1024
MAX_FIELD_BYTES: Final = 512 * 1024

# A body is read in pieces, so that an announced but never sent one reserves no memory.
_PIECE_BYTES: Final = 64 * 1024
_find_bad_percent: Final = re.compile(r"%(?![0-9A-Fa-f]{2})").search
_find_surrogate: Final = re.compile(r"\\u[dD][89a-fA-F]").search
_is_boundary: Final = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]").fullmatch
_find_parameters: Final = re.compile(r';\s*([^\s;=]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))').findall
_CONTROLS: Final = dict.fromkeys((*range(32), 127))


@dataclass(frozen=True, slots=True)
class FormFile:
    """A file of a multipart form.

    Attributes:
        name: Name of the form's field.
        filename: What the client calls the file: last path component, no control characters. Data, not a path to use.
        content_type: As sent with the file; None without one.
        content: All of it.
    """

    name: str
    filename: str
    content_type: str | None
    content: bytes = field(repr=False)


class Decoded(NamedTuple):
    """What a body says: `data` for the event, and the files of a multipart form."""

    data: Any
    files: tuple[FormFile, ...] = ()


def read_body(environ: Mapping[str, Any], max_bytes: int = MAX_BODY_BYTES, *, timeout_s: float | None = None) -> bytes:
    """Read the whole body. Waits for the client; woken by its bytes, its going away and the timeout.

    Args:
        environ: The environ of PEP 3333. A chunked body is only seen if the server ends its ``wsgi.input`` itself
            (``wsgi.input_terminated``), as all that support it do.
        max_bytes: Limit. An announced size above it is refused before anything is read (and before the client is
            told to continue), a chunked body at the byte that exceeds it.
        timeout_s: How long all of it may take; None = no limit, but that of a server of ours.

    Raises:
        MalformedError: The Content-Length or the chunks cannot be read, or the body ended early.
        TooLargeError: It is larger than `max_bytes`.
        RequestError: With status 408: it took longer than `timeout_s`. Like the others it leaves the rest unread,
            which the server has to close the connection for.
    """
    length = _length(environ, max_bytes)
    if length == 0:
        return b""
    timeout = None
    peer = environ.get(PEER)
    if peer is not None:
        # The connection waits with deadlines of its own, at no cost where there is nothing to wait for.
        peer.body_deadline = None if timeout_s is None else Clock.monotonic() + timeout_s
    elif timeout_s is not None:
        timeout = gevent.Timeout.start_new(timeout_s)
    try:
        return _read(environ["wsgi.input"].read, length, max_bytes)
    except TimeoutError as reached:
        raise _too_slow("the body came too slowly") from reached
    except gevent.Timeout as reached:
        if reached is not timeout:
            raise
        raise _too_slow(f"the body did not arrive within {timeout_s:g} s") from reached
    except OSError as error:
        raise MalformedError("the body ended early, or its chunks cannot be read") from error
    finally:
        if timeout is not None:
            timeout.close()


def _length(environ: Mapping[str, Any], max_bytes: int) -> int | None:
    """Bytes of the body; None for a chunked one."""
    length = parse_content_length(environ.get("CONTENT_LENGTH"))
    if length is None:
        if not environ.get("HTTP_TRANSFER_ENCODING"):
            return 0
        if not environ.get("wsgi.input_terminated"):
            raise MalformedError("this server takes no body without a Content-Length")
    elif length > max_bytes:
        raise TooLargeError(f"the body has {length} bytes; {max_bytes} is the limit")
    return length


def _too_slow(text: str) -> RequestError:
    error = RequestError(text)
    error.status = 408
    return error


def _read(read: Callable[[int], bytes], length: int | None, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    # One byte more than allowed tells a body at the limit from one beyond it.
    left = max_bytes + 1 if length is None else length
    while left and (piece := read(min(left, _PIECE_BYTES))):
        pieces.append(piece)
        left -= len(piece)
    if length is None:
        if not left:
            raise TooLargeError(f"the body is larger than the limit of {max_bytes} bytes")
    elif left:
        raise MalformedError(f"the body ended {left} bytes before its announced {length}")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def decode_body(content_type: str | None, body: bytes) -> Decoded:
    """Make of a body what an event carries.

    ====================================================  =========================================================
    Content-Type                                          ``data``
    ====================================================  =========================================================
    ``application/json``, ``*/*+json``                    what the JSON says (RFC 8259; UTF-8, a BOM is skipped)
    ``application/x-www-form-urlencoded``                 dict; a repeated name has a list
    ``multipart/form-data``                               the same, and its files in ``files`` (extra ``http``)
    anything else, ``application/xml`` and none included  the bytes, or None if there are none
    ====================================================  =========================================================

    Raises:
        MalformedError: The body is not what its type says; JSON also when it is empty, holds ``NaN``, ``Infinity``, a
            number beyond what a float holds, half a surrogate pair, or is nested deeper than 64.
        TooLargeError: A form with more than 1000 fields or files, or with fields above the limits.
        UnsupportedTypeError: A multipart form, and the extra ``http`` is not installed.
    """
    if content_type is not None:
        kind = content_type.partition(";")[0].strip().lower()
        if kind == "application/json" or kind.endswith("+json"):
            return Decoded(_decode_json(body))
        if kind == "application/x-www-form-urlencoded":
            return Decoded(_decode_urlencoded(body))
        if kind == "multipart/form-data":
            return _decode_multipart(content_type, body)
    return Decoded(body or None)


# ---- JSON -----------------------------------------------------------------------------------------------------------


def _decode_json(body: bytes) -> Any:
    try:
        text = body.removeprefix(codecs.BOM_UTF8).decode("utf-8")
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if _find_surrogate(text):
            # Whether the halves are pairs is known only now: a lone one cannot be encoded.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except MalformedError:
        raise
    except RecursionError as error:
        raise MalformedError(f"the JSON is nested deeper than {MAX_JSON_DEPTH}") from error
    except ValueError as error:
        raise MalformedError(_json_problem(error)) from error
    if body.count(b"[") + body.count(b"{") > MAX_JSON_DEPTH:
        _check_depth(value)
    return value


def _json_problem(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"the body is no JSON: line {error.lineno}, column {error.colno}: {error.msg}"
    if isinstance(error, UnicodeDecodeError):
        return "the JSON is not UTF-8"
    if isinstance(error, UnicodeEncodeError):
        return "the JSON holds half a surrogate pair"
    return "the JSON holds a number with too many digits"


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedError(f"the JSON holds {name}, which is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise MalformedError("the JSON holds a number that is too large")
    return number


def _check_depth(value: Any) -> None:
    level: list[Any] = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_JSON_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise MalformedError(f"the JSON is nested deeper than {MAX_JSON_DEPTH}")


# ---- forms ----------------------------------------------------------------------------------------------------------


def _decode_urlencoded(body: bytes) -> dict[str, str | list[str]]:
    if len(body) > MAX_URLENCODED_BYTES:
        raise TooLargeError(f"the form has {len(body)} bytes; {MAX_URLENCODED_BYTES} is the limit")
    # Counted first: parsing hundreds of thousands of fields would hold everybody else up.
    if body.count(b"&") >= MAX_FORM_FIELDS:
        raise TooLargeError(f"the form has more than {MAX_FORM_FIELDS} fields")
    if not body:
        return {}
    try:
        text = body.decode("utf-8")
        if _find_bad_percent(text):
            raise MalformedError("the form holds a % without two hexadecimal digits")
        fields = parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict")
    except MalformedError:
        raise
    except UnicodeDecodeError as error:
        raise MalformedError("the form is not UTF-8") from error
    except ValueError as error:
        raise MalformedError(
            "the body is no form: fields of the form name=value, joined by &, are; "
            "if it was not meant to be one, say so with a Content-Type"
        ) from error
    for name, _ in fields:
        _check_field_name(name)
    return _collect(fields)


def _decode_multipart(content_type: str, body: bytes) -> Decoded:
    parameters = {name.lower(): quoted or plain for name, quoted, plain in _find_parameters(content_type)}
    boundary = parameters.get("boundary", "")
    if not _is_boundary(boundary):
        raise MalformedError("the Content-Type of the form names no usable boundary")
    fields: list[tuple[str, str]] = []
    files: list[FormFile] = []
    field_bytes = 0
    for name, filename, file_type, content in _parts(boundary.encode(), body):
        if filename is not None:
            files.append(FormFile(name, _last_component(filename), file_type, content))
            continue
        field_bytes += len(content)
        if field_bytes > MAX_FIELD_BYTES:
            raise TooLargeError(f"the fields of the form have more than {MAX_FIELD_BYTES} bytes")
        try:
            fields.append((name, content.decode("utf-8")))
        except UnicodeDecodeError as error:
            raise MalformedError(f"the form's field {name!r} is not UTF-8") from error
    return Decoded(_collect(fields), tuple(files))


def _parts(boundary: bytes, body: bytes) -> Iterator[tuple[str, str | None, str | None, bytes]]:
    """Name, filename, type and content of each part. Only a file has a filename."""
    try:
        from werkzeug.exceptions import RequestEntityTooLarge  # here, as it takes 60 ms
        from werkzeug.sansio import multipart
    except ImportError as error:
        raise UnsupportedTypeError(
            "multipart/form-data needs the extra 'http' on this server: pip install 'compysition[http]'"
        ) from error
    decoder = multipart.MultipartDecoder(boundary, max_parts=MAX_FORM_FIELDS)
    part: multipart.Field | multipart.File | None = None
    content: list[bytes] = []
    try:
        decoder.receive_data(body)
        decoder.receive_data(None)
        while not isinstance(event := decoder.next_event(), multipart.Epilogue):
            if isinstance(event, multipart.Field | multipart.File):
                part, content = event, []
                _check_field_name(part.name)
            elif isinstance(event, multipart.Data) and part is not None:
                content.append(event.data)
                if not event.more_data:
                    filename = part.filename if isinstance(part, multipart.File) else None
                    yield part.name, filename, part.headers.get("content-type"), b"".join(content)
    except RequestEntityTooLarge as error:
        raise TooLargeError(f"the form has more than {MAX_FORM_FIELDS} fields and files") from error
    except MalformedError:
        raise
    except ValueError as error:
        raise MalformedError("the multipart form is cut off or its parts cannot be read") from error


def _last_component(filename: str) -> str:
    return filename.replace("\\", "/").rpartition("/")[2].translate(_CONTROLS)


def _check_field_name(name: str | None) -> None:
    if name is None:
        raise MalformedError("a part of the form has no name")
    if len(name) > MAX_NAME_BYTES or len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        raise MalformedError(f"the name of a form's field is longer than {MAX_NAME_BYTES} bytes")


def _collect(fields: Iterable[tuple[str, str]]) -> dict[str, str | list[str]]:
    form: dict[str, str | list[str]] = {}
    for name, value in fields:
        present = form.get(name)
        if present is None:
            form[name] = value
        elif isinstance(present, list):
            present.append(value)
        else:
            form[name] = [present, value]
    return form
