# SPDX-License-Identifier: Apache-2.0
"""Which variables an XSLT 1.0 stylesheet uses where none of that name is declared.

libxslt finds out only when a document gets to that place, and then the document fails. This finds out at once, but only
to say so: a place that no document ever gets to does no harm, so a stylesheet is not refused for it (docs/decisions,
"Faults in a stylesheet that show late"). Must not know actors or documents. Read next: `xml`.
"""

import re
from collections.abc import Iterator
from typing import Final

from compysition.errors import MissingExtraError

try:
    from lxml import etree
except ModuleNotFoundError as err:  # pragma: no cover - needs an installation without the extra
    raise MissingExtraError("XSLT", "xml") from err

_XSL: Final = "{http://www.w3.org/1999/XSL/Transform}"
_DECLARATIONS: Final = (f"{_XSL}variable", f"{_XSL}param")
#: Attributes of XSLT's own elements that hold an expression.
_EXPRESSIONS: Final = ("select", "test", "value", "use")
#: Those that hold a pattern: no variables are allowed there (XSLT 1.0, sections 5.3 and 12.2).
_PATTERNS: Final = ("match", "count", "from")
_LITERAL: Final = re.compile(r"\"[^\"]*\"|'[^']*'")
_REFERENCE: Final = re.compile(r"\$([\w.-]+(?::[\w.-]+)?)")
#: The expressions in an attribute value template; ``{{`` and ``}}`` are the characters themselves (section 7.6.2). A
#: literal in one may hold braces.
_TEMPLATE: Final = re.compile(r"\{\{|\}\}|\{((?:[^{}'\"]|\"[^\"]*\"|'[^']*')*)\}")


def undeclared_variables(root: "etree._Element") -> Iterator[tuple[int | None, str]]:
    """Line and name of each reference to a variable or parameter that is not in scope there (section 11.5).

    A variable is in scope in the siblings that follow it and in all that is in them; those at the top level are in
    scope everywhere but in their own expression. ``xsl:import`` and ``xsl:include`` are not looked into.
    """
    global_names = {_expanded(element, element.get("name", "")) for element in root if element.tag in _DECLARATIONS}
    for element in root.iter(etree.Element):
        references = [name for text in _expressions(element) for name in _references(text)]
        if not references:
            continue
        known = global_names | _local_names(element, root)
        if element.getparent() is root and element.tag in _DECLARATIONS:
            known = known - {_expanded(element, element.get("name", ""))}
        for name in references:
            if _expanded(element, name) not in known:
                yield element.sourceline, name


def _local_names(element: "etree._Element", root: "etree._Element") -> set[str]:
    names: set[str] = set()
    here = element
    while here is not root and (parent := here.getparent()) is not None and parent is not root:
        names.update(
            _expanded(sibling, sibling.get("name", "")) for sibling in here.itersiblings(*_DECLARATIONS, preceding=True)
        )
        here = parent
    return names


def _expressions(element: "etree._Element") -> Iterator[str]:
    is_own = isinstance(element.tag, str) and element.tag.startswith(_XSL)
    for name, value in element.attrib.items():
        text = str(value)
        if is_own and name in _EXPRESSIONS:
            yield text
        elif "{" in text and not (is_own and name in _PATTERNS):
            yield from (found for found in _TEMPLATE.findall(text) if found)


def _references(expression: str) -> list[str]:
    return _REFERENCE.findall(_LITERAL.sub("''", expression)) if "$" in expression else []


def _expanded(element: "etree._Element", name: str) -> str:
    """The name with its namespace in place of the prefix; without a prefix there is none (section 2.4)."""
    prefix, colon, local = name.strip().rpartition(":")
    return f"{{{element.nsmap.get(prefix, prefix)}}}{local}" if colon else local
