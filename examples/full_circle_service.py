# SPDX-License-Identifier: Apache-2.0
"""The user's own part of `02_full_circle.py`: who may come in, what is done with an order, and two stylesheets."""

from pathlib import Path

from lxml import etree

from compysition import Actor, Event
from compysition.actors import BasicAuth
from compysition.errors import UnprocessableError

_HERE = Path(__file__).parent / "full_circle"

#: By name, the text of the stylesheets.
xsls = {name: (_HERE / f"{name}.xsl").read_bytes() for name in ("submit", "acknowledge")}


class Auth(BasicAuth):
    """Knows whom to accept; `BasicAuth` itself refuses everybody until it is told."""

    def _authenticate(self, username: str, password: str) -> bool:
        return (username, password) == ("ada", "countess")


class SomeRequestExecutor(Actor):
    """Adds an order up. A real one would ask a database or another service here."""

    def consume(self, event: Event) -> None:
        submission = event.data.getroot()
        items = submission.findall("item")
        if not items:
            raise UnprocessableError("the order has no line")
        total = sum(float(item.get("amount")) for item in items)
        event.data = etree.Element(
            "receipt", customer=submission.get("customer"), items=str(len(items)), total=f"{total:.2f}"
        )
        self.send_event(event)
