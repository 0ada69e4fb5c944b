# SPDX-License-Identifier: Apache-2.0
"""Terms of the glossary as references.

`glossary.md` is a list, ``- **term**: what it means``, that reads well anywhere. For sphinx it is rewritten as a
`glossary` directive before it is parsed. A link ``[words](glossary.md#dead-letter)`` on any page leads to the file
where Markdown is read as it is, and to the term on the site; there a term that does not exist is a warning.
Docstrings may write ``:term:`dead letter```.
"""

import re

from sphinx.application import Sphinx

#: One line of the glossary.
ENTRY = re.compile(r"^- \*\*(.+?)\*\*: (.+)$", flags=re.MULTILINE)
#: A link to one term. The term is written as the anchor of a heading would be.
LINK = re.compile(r"\[([^\]\[]+)\]\((?:\.\./)*glossary\.md#([\w-]+)\)")


def rewrite(_app: Sphinx, page: str, source: list[str]) -> None:
    """Turn the list of the glossary, and links to it, into what sphinx understands."""
    if page == "glossary":
        head, *_ = ENTRY.split(source[0], maxsplit=1)
        entries = "\n\n".join(f"{term}\n  {meaning}" for term, meaning in ENTRY.findall(source[0]))
        source[0] = f"{head}````{{glossary}}\n{entries}\n````\n"
    source[0] = LINK.sub(lambda link: f"{{term}}`{link[1]} <{link[2].replace('-', ' ')}>`", source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """For sphinx."""
    app.connect("source-read", rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
