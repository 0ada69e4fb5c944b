# SPDX-License-Identifier: Apache-2.0
"""Plain data as XML, for clients that accept nothing else: mappings, lists, texts, numbers.

Must not know answers. Read next: `response`.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

_NIL: Final = ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:nil="true"'
#: Deepest nesting that is written; JSON's encoder gives up at about a thousand.
MAX_DEPTH: Final = 200

# Letters that every edition of XML 1.0 takes: widespread parsers know only the fourth. Without the colon: it would be a
# prefix, and one nobody declared.
_is_name: Final = re.compile(
    "[A-Z_a-z\xc0-\xd6\xd8-\xf6\xf8-\xff][-.0-9A-Z_a-z\xb7\xc0-\xd6\xd8-\xf6\xf8-\xff]*"
).fullmatch
_find_illegal: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]").search
_ESCAPES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;"})
_ATTRIBUTE_ESCAPES: Final = _ESCAPES | str.maketrans({"\n": "&#10;", "\t": "&#9;"})


def encode(data: Any, root: str = "data", namespace: str | None = None) -> bytes:
    """Write `data` as a document: an element per key, ``<item key="…">`` where a key is no name, ``<item>`` per entry.

    None becomes ``xsi:nil``.

    Raises:
        ValueError: It holds what XML cannot: a control character, ``NaN``, a class without a rule, itself.
    """
    declared = "" if namespace is None else f' xmlns="{namespace}"'
    parts = ['<?xml version="1.0" encoding="UTF-8"?>\n', *_element(root, declared, data, 0)]
    return "".join(parts).encode()


def _element(name: str, attributes: str, data: Any, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise ValueError(f"the data is nested deeper than {MAX_DEPTH}, or holds itself")
    if data is None:
        yield f"<{name}{attributes}{_NIL}/>"
        return
    yield f"<{name}{attributes}>"
    if isinstance(data, Mapping):
        for key, value in data.items():
            text = _text(key)
            if _is_name(text):
                yield from _element(text, "", value, depth + 1)
            else:
                yield from _element("item", f' key="{text.translate(_ATTRIBUTE_ESCAPES)}"', value, depth + 1)
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _element("item", "", value, depth + 1)
    else:
        yield _text(data).translate(_ESCAPES)
    yield f"</{name}>"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value!r} is no number that can be sent")
    if not isinstance(value, str | int | float):
        raise ValueError(f"data of class {type(value).__name__!r} cannot be written")  # noqa: TRY004 - see `encode`
    text = str(value)
    if found := _find_illegal(text):
        raise ValueError(f"the text holds {found[0]!r}, which XML cannot carry")
    return text
