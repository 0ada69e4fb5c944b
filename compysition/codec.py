# SPDX-License-Identifier: Apache-2.0
"""Data on a wire: what may leave a process, as bytes that hold no code, and back again within limits.

Data is written in the form that others read most easily: bytes as they are, text as UTF-8, XML serialised, what JSON
has words for as JSON. The rest (datetimes, decimals, bytes inside of containers, NaN) is msgpack with types of our own,
which only our peers read. Anything else is an error of the sender, with the place at which it lies. Beside the data
travels a small map, always msgpack behind a version byte. Must not know events. Read next: `wire`.
"""

import datetime
import enum
import math
import sys
import uuid
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from compysition.errors import MalformedError, MissingExtraError, TooLargeError, UnprocessableError

try:
    import msgspec
except ImportError as err:  # pragma: no cover - needs an installation without the extra
    raise MissingExtraError("sending events to other processes", "zmq") from err

#: Containers in containers, at most: walking deeper ones recursively would meet Python's own limit first.
MOST_DEPTH: Final = 64
#: One piece of data on the wire, in bytes.
MOST_BYTES: Final = 64 * 1024 * 1024
#: Digits of a number, at most: turning more into an int takes quadratic time.
MOST_DIGITS: Final = 4_000
#: The version of maps; the first byte of each.
MAP_VERSION: Final = 1

# Types of our own inside of msgpack.
_DECIMAL, _INT, _DATETIME, _DATE, _TIME, _TIMEDELTA, _UUID, _XML = range(1, 9)
_INT_64: Final = range(-(2**63), 2**64)
_MOST_INT: Final = 10**MOST_DIGITS
_CONTAINERS: Final = (dict, list)


class Form(enum.Enum):
    """How data was written."""

    #: None: one frame without bytes.
    NONE = "none"
    BYTES = "bytes"
    TEXT = "text"
    XML = "xml"
    JSON = "json"
    MSGPACK = "msgpack"


def encode(data: Any) -> tuple[bytes, Form]:
    """Write `data`.

    Tuples arrive as lists, mappings as dicts, time zones as their offset; an XSLT result that is no XML as text.

    Raises:
        UnprocessableError: it holds something that cannot be sent; the text says what and where.
        TooLargeError: containers are nested too deeply, or a number is too long.
    """
    frame, form = _encode(data)
    if len(frame) > MOST_BYTES:
        raise TooLargeError(f"data of {len(frame)} bytes, at most {MOST_BYTES} can be sent to another process")
    return frame, form


def _encode(data: Any) -> tuple[bytes, Form]:
    if data is None:
        return b"", Form.NONE
    cls = data.__class__
    if cls is bytes:
        return data, Form.BYTES
    if cls is str:
        return _text(data, ()), Form.TEXT
    if isinstance(data, bytearray | memoryview):
        return bytes(data), Form.BYTES
    if _is_tree(data):
        return _serialised(data)
    if _is_json(data, 0):
        try:
            return msgspec.json.encode(data), Form.JSON
        except UnicodeEncodeError:
            pass  # below it is said where
    return msgspec.msgpack.encode(_packable(data, ())), Form.MSGPACK


def encode_plain(data: Any) -> bytes:
    """Write `data` for a peer that is none of ours: what JSON has no word for, as text that a person would write.

    Raises:
        UnprocessableError: it holds what has no such text either: bytes inside of containers, NaN.
        TooLargeError: as `encode`.
    """
    frame, form = encode(data)
    return msgspec.json.encode(_plain(data, ())) if form is Form.MSGPACK else frame


def decode(frame: bytes, form: Form) -> Any:
    """Read what `encode` wrote. Nothing in it is ever executed, imported or fetched.

    Raises:
        MalformedError: it is not of that form.
        TooLargeError: containers are nested too deeply, or a number is too long.
    """
    if len(frame) > MOST_BYTES:
        raise TooLargeError(f"data of {len(frame)} bytes from the wire, at most {MOST_BYTES} are taken")
    if form is Form.NONE:
        return None
    if form is Form.BYTES:
        return frame
    if form is Form.TEXT:
        try:
            return frame.decode()
        except UnicodeDecodeError as error:
            raise MalformedError(f"text from the wire is not UTF-8: {error.reason} at byte {error.start}") from error
    if form is Form.XML:
        return _parsed(frame)
    decoder: Any = _JSON if form is Form.JSON else _MSGPACK
    return _read(decoder, frame, form.value)


def encode_map(values: Mapping[str, Any]) -> bytes:
    """Write a small map of plain values behind a version byte.

    Raises:
        UnprocessableError, TooLargeError: as `encode`.
    """
    return bytes([MAP_VERSION]) + msgspec.msgpack.encode(_packable(dict(values), ()))


def decode_map(frame: bytes) -> dict[str, Any]:
    """Read what `encode_map` wrote; no bytes at all are an empty map.

    Raises:
        MalformedError: it is of another version, or no map.
        TooLargeError: as `decode`.
    """
    if not frame:
        return {}
    if frame[0] != MAP_VERSION:
        raise MalformedError(f"metadata of version {frame[0]}; version {MAP_VERSION} is read here")
    values = _read(_MSGPACK, frame[1:], "msgpack")
    if not isinstance(values, dict):
        raise MalformedError(f"metadata that is a {type(values).__name__} and no map")
    return values


# ---- writing ----------------------------------------------------------------------------------------------------


def _where(path: tuple[object, ...]) -> str:
    return "data" + "".join(f"[{step!r}]" for step in path)


def _check_depth(path: tuple[object, ...], depth: int) -> None:
    if depth > MOST_DEPTH:
        raise TooLargeError(f"{_where(path[:4])}… is nested deeper than {MOST_DEPTH} containers, or holds itself")


def _text(text: str, path: tuple[object, ...]) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UnprocessableError(f"{_where(path)} holds {text[error.start]!r}, half a character") from error


def _is_json(value: Any, depth: int) -> bool:
    """Whether JSON says exactly what `value` is. Quick: what cannot be sent at all is left to `_packable`."""
    cls = value.__class__
    if cls is str or cls is bool or value is None:
        return True
    if cls is int:
        return bool(-_MOST_INT < value < _MOST_INT)
    if cls is float:
        return math.isfinite(value)
    if cls is dict:
        if depth >= MOST_DEPTH:
            return False
        depth += 1
        for key, item in value.items():
            if key.__class__ is not str or not _is_json(item, depth):
                return False
        return True
    if cls is list or cls is tuple:
        if depth >= MOST_DEPTH:
            return False
        depth += 1
        for item in value:
            if not _is_json(item, depth):
                return False
        return True
    return False


def _packable(value: Any, path: tuple[object, ...]) -> Any:
    """`value` as msgpack takes it, what it has no word for as types of our own."""
    cls = value.__class__
    if value is None or cls is bool or cls is float or cls is bytes:
        return value
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        _text(value, path)
        return str(value)
    if isinstance(value, int) and not isinstance(value, enum.Enum):
        return int(value) if value in _INT_64 else msgspec.msgpack.Ext(_INT, _digits(value, path))
    if isinstance(value, Mapping):
        _check_depth(path, len(path) + 1)
        return {_key(key, path): _packable(item, (*path, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        _check_depth(path, len(path) + 1)
        return [_packable(item, (*path, number)) for number, item in enumerate(value)]
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if _is_tree(value):
        frame, form = _serialised(value)
        return msgspec.msgpack.Ext(_XML, frame) if form is Form.XML else frame.decode()
    return _own_type(value, path)


def _own_type(value: Any, path: tuple[object, ...]) -> "msgspec.msgpack.Ext":
    ext = msgspec.msgpack.Ext
    if isinstance(value, Decimal):
        if len(value.as_tuple().digits) > MOST_DIGITS:
            raise TooLargeError(f"{_where(path)} has more than {MOST_DIGITS} digits")
        return ext(_DECIMAL, str(value).encode())
    if isinstance(value, datetime.datetime):
        return ext(_DATETIME, value.isoformat().encode())
    if isinstance(value, datetime.date):
        return ext(_DATE, value.isoformat().encode())
    if isinstance(value, datetime.time):
        return ext(_TIME, value.isoformat().encode())
    if isinstance(value, datetime.timedelta):
        return ext(_TIMEDELTA, b"%d %d %d" % (value.days, value.seconds, value.microseconds))
    if isinstance(value, uuid.UUID):
        return ext(_UUID, value.bytes)
    raise UnprocessableError(
        f"{_where(path)} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be sent to another "
        "process: make it text, bytes, numbers, lists, dicts, datetimes, decimals or XML"
    )


def _key(key: object, path: tuple[object, ...]) -> str:
    if not isinstance(key, str):
        raise UnprocessableError(f"{_where(path)} has the key {key!r}: keys have to be text to be sent")
    _text(key, path)
    return str(key)


def _digits(value: int, path: tuple[object, ...]) -> bytes:
    if not -_MOST_INT < value < _MOST_INT:
        raise TooLargeError(f"{_where(path)} has more than {MOST_DIGITS} digits")
    return str(value).encode()


def _plain(value: Any, path: tuple[object, ...]) -> Any:
    """`value` as JSON says it to strangers."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int) and not isinstance(value, enum.Enum):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UnprocessableError(f"{_where(path)} is {value!r}, for which JSON has no word")
        return value
    if isinstance(value, Mapping):
        return {_key(key, path): _plain(item, (*path, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, (*path, number)) for number, item in enumerate(value)]
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Decimal | uuid.UUID):
        return str(value)
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if _is_tree(value):
        return _serialised(value)[0].decode()
    raise UnprocessableError(f"{_where(path)} is a {type(value).__name__}, for which JSON has no word")


# ---- XML --------------------------------------------------------------------------------------------------------


def _is_tree(data: Any) -> bool:
    # Unless lxml is in the process already, nothing can be a tree.
    etree = sys.modules.get("lxml.etree")
    return etree is not None and isinstance(data, etree._Element | etree._ElementTree)


def _serialised(tree: Any) -> tuple[bytes, Form]:
    etree = sys.modules["lxml.etree"]
    if isinstance(tree, etree._XSLTResultTree):
        return _result(tree)
    root = tree if isinstance(tree, etree._Element) else tree.getroot()
    if root is None:
        raise UnprocessableError("an lxml tree without a root cannot be sent")
    return etree.tostring(root, encoding="utf-8", with_tail=False), Form.XML


def _result(result: Any) -> tuple[bytes, Form]:
    """What ``xsl:output`` made of it; only what begins as XML is sent as such."""
    root = result.getroot()
    frame = bytes(result)
    is_html = root is not None and isinstance(root.tag, str) and root.tag.lower() == "html"
    if root is not None and frame.lstrip().startswith(b"<") and not is_html:
        return frame, Form.XML
    return str(result).encode(), Form.TEXT


def _parsed(frame: bytes) -> Any:
    from compysition.xml import parse

    return parse(frame)


# ---- reading ----------------------------------------------------------------------------------------------------


def _ext_hook(code: int, data: memoryview) -> Any:
    raw = bytes(data)
    try:
        match code:
            case 1 if len(raw) <= 2 * MOST_DIGITS:
                return Decimal(raw.decode("ascii"))
            case 2 if len(raw) <= MOST_DIGITS + 1:
                return int(raw.decode("ascii"))
            case 3:
                return datetime.datetime.fromisoformat(raw.decode("ascii"))
            case 4:
                return datetime.date.fromisoformat(raw.decode("ascii"))
            case 5:
                return datetime.time.fromisoformat(raw.decode("ascii"))
            case 6:
                days, seconds, microseconds = raw.split(b" ")
                return datetime.timedelta(int(days), int(seconds), int(microseconds))
            case 7:
                return uuid.UUID(bytes=raw)
            case 8:
                return _parsed(raw)
    except (ValueError, InvalidOperation, OverflowError) as error:
        raise MalformedError(f"a value of type {code} from the wire cannot be read: {error}") from error
    raise MalformedError(f"a value of unknown type {code}, or too long a one, from the wire")


_JSON: Final = msgspec.json.Decoder()
_MSGPACK: Final = msgspec.msgpack.Decoder(ext_hook=_ext_hook)


def _read(decoder: Any, frame: bytes, what: str) -> Any:
    try:
        value = decoder.decode(frame)
    except RecursionError as error:
        raise TooLargeError(f"{what} from the wire is nested deeper than {MOST_DEPTH} containers") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError) as error:
        raise MalformedError(f"this is no {what}: {error}") from error
    level = [value] if value.__class__ in _CONTAINERS else []
    for _ in range(MOST_DEPTH):
        if not level:
            return value
        if any(key.__class__ is not str for container in level if container.__class__ is dict for key in container):
            raise MalformedError(f"{what} from the wire with a key that is no text")
        level = [
            item
            for container in level
            for item in (container.values() if container.__class__ is dict else container)
            if item.__class__ in _CONTAINERS
        ]
    if level:
        raise TooLargeError(f"{what} from the wire is nested deeper than {MOST_DEPTH} containers")
    return value
