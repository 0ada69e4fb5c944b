# SPDX-License-Identifier: Apache-2.0
"""`Transformer`: an XSLT stylesheet over each event's XML, hardened, large documents beside the hub.

What XML may do stands in `compysition.xml`; here is only what events add to it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from gevent.lock import BoundedSemaphore

from compysition.actor import Actor
from compysition.cores import usable_cores
from compysition.errors import StylesheetError
from compysition.event import Event
from compysition.xml import Stylesheet, size_of
from compysition.xslt_scope import undeclared_variables

if TYPE_CHECKING:
    from lxml import etree

    #: A stylesheet in any of the forms that `Stylesheet` takes.
    Source = str | bytes | Path | etree._Element | etree._ElementTree | etree.XSLT


class Transformer(Actor):
    """Transforms `event.data` with an XSLT 1.0 stylesheet and sends the event on.

    `event.data` may be text, bytes or an lxml tree or element (of which the sender keeps no reference that it changes:
    another thread may be reading it). Behind this actor it is lxml's result tree, so that ``xsl:output`` still rules
    how `str`, `bytes` or a WSGI answer serialise it. A document that is expected to take more than a millisecond,
    judged by what this stylesheet has cost so far, is parsed and transformed in a thread; so documents may leave in
    another order than they came, unless the actor's options say ``concurrency=1``.

    Args:
        name: Its name.
        xslt: The stylesheet as text, bytes, an lxml tree, or compiled (`lxml.etree.XSLT`).
        xslt_path: Or the path of a file that holds it. It is read once, here.
        allow_doctype: Accept documents with a DOCTYPE; the DTD it names is still not read, and entities are refused.
        blocking_consume: The old spelling of ``concurrency=1``.

    Raises:
        StylesheetError: Neither or both are given, or the stylesheet does not compile; `line` says where.

    libxslt compiles most expressions when the stylesheet is registered, but not all. What it finds only when a document
    gets there fails that document: an unknown function or prefix, a variable that is not declared (this one is warned
    of when registered), a fault in the braces of ``xsl:element name="{…}"``.

    In the flow, events fail with `MalformedError` (400: no well-formed XML, a DOCTYPE, no document at all),
    `UnprocessableError` (422: the stylesheet ended with ``xsl:message terminate="yes"`` or gave up) or
    `StylesheetError` (500: a fault of the stylesheet that shows only at work).
    """

    def __init__(
        self,
        name: str,
        xslt: "Source | None" = None,
        *,
        xslt_path: str | Path | None = None,
        allow_doctype: bool = False,
        blocking_consume: bool = False,
    ) -> None:
        super().__init__(name, blocking_consume=blocking_consume)
        if xslt is not None and xslt_path is not None:
            raise StylesheetError("xslt= and xslt_path= are both given: leave one out")
        if xslt is None:
            xslt = _checked_path(xslt_path)
        self._stylesheet = Stylesheet(xslt)
        if self._stylesheet.root is not None:
            for line, variable in undeclared_variables(self._stylesheet.root):
                self.logger.warning(
                    "the stylesheet of %r uses $%s in line %s, where no variable of that name is declared: a document "
                    "that gets there fails",
                    name,
                    variable,
                    line,
                )
        self._allow_doctype = allow_doctype
        # The pool is made for calls that wait, and has more threads than there are cores. Twenty transformations at
        # once are no faster than two and quarrel about the GIL: a timer of the hub came 270 ms late instead of 9.
        self._cores = BoundedSemaphore(usable_cores())

    def consume(self, event: Event) -> None:
        """Transform one document. Waits, cooperatively, only for large ones."""
        n_bytes = size_of(event.data)
        if self._stylesheet.is_large(n_bytes):
            with self._cores:
                event.data = self.offload(self._transform, event.data, n_bytes)
        else:
            event.data = self._transform(event.data, n_bytes)
        self.send_event(event)

    def _transform(self, document: object, n_bytes: int) -> "etree._XSLTResultTree":
        return self._stylesheet.apply(document, allow_doctype=self._allow_doctype, n_bytes=n_bytes)


def _checked_path(path: str | Path | None) -> Path:
    if path is None:
        raise StylesheetError("a stylesheet is wanted: give it as xslt=, or the path of its file as xslt_path=")
    if not isinstance(path, str | Path):
        raise StylesheetError(f"xslt_path= wants a path, not {type(path).__name__}")
    if isinstance(path, str) and "<" in path:
        raise StylesheetError("xslt_path= wants the path of a file; a stylesheet itself is given as xslt=")
    return Path(path)
