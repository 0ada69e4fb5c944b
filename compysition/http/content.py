# SPDX-License-Identifier: Apache-2.0
"""What an event holds, as bytes: by the class of the data, and plain data by what the client accepts.

lxml is never imported here: unless it is in the process already, no data can be a tree.
Must not know requests or answers. Read next: `response`.
"""

import json
import re
import sys
from functools import lru_cache
from types import ModuleType
from typing import Any, Final

from compysition.errors import UsageError
from compysition.http import plainxml
from compysition.http.accept import best, media_type
from compysition.http.headers import check_value

#: As what plain data can be sent, and a problem; the preferred first.
PLAIN_TYPES: Final = ("application/json", "application/xml", "text/plain")
#: What has no type of its own to be sent as.
PLAIN: Final = (dict, list, tuple, int, float)

_find_charset: Final = re.compile(r';\s*charset\s*=\s*"?([^\s;"]*)', re.IGNORECASE).search


def choose(data: Any, accept: str | None, produces: tuple[str, ...] | None) -> tuple[str | None, bool]:
    """The type that the client wants `data` in, and whether there was a choice. An answer that exists is never refused.

    None: the data says what it is.
    """
    is_plain = isinstance(data, PLAIN)
    if produces is not None:
        offers = tuple(kind for kind in produces if _is_plain_type(kind)) if is_plain else produces
        if is_plain and not offers:
            return PLAIN_TYPES[0], False
        if not is_plain and not isinstance(data, str | bytes | bytearray | memoryview):
            return None, False
    else:
        offers = PLAIN_TYPES
    kind = best(accept, offers) or offers[0]
    if is_plain and _is_xml(kind):
        try:
            plainxml.encode(data)
        except ValueError:
            return PLAIN_TYPES[0], True  # what XML cannot carry, such as a control character
    return kind, len(offers) > 1


def _is_xml(kind: str) -> bool:
    return kind in ("application/xml", "text/xml") or kind.endswith("+xml")


def _is_plain_type(kind: str) -> bool:
    return kind in PLAIN_TYPES or kind.endswith("+json") or _is_xml(kind)


def serialise(data: Any, content_type: str | None) -> tuple[bytes, str]:
    """The bytes of `data` and their type, which is the one given if there is one."""
    if isinstance(data, str):
        return _encode_text(data, content_type or "text/plain")
    if isinstance(data, bytes):
        return data, content_type or "application/octet-stream"
    if isinstance(data, PLAIN):
        return _encode_plain(data, content_type or "application/json")
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


def _encode_plain(data: Any, content_type: str) -> tuple[bytes, str]:
    kind = media_type(content_type)
    if _is_xml(kind):
        try:
            body = plainxml.encode(data)
        except ValueError as error:
            raise UsageError(f"the data cannot be rendered as XML: {error}") from error
        return body, content_type
    if kind == "text/plain":
        return _encode_text(_encode_json(data, indent=2).decode() + "\n", content_type)
    return _encode_json(data), content_type


def _encode_json(data: Any, indent: int | None = None) -> bytes:
    separators = (",", ":") if indent is None else None
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=separators, indent=indent).encode()
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
