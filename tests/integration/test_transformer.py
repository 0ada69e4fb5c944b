# SPDX-License-Identifier: Apache-2.0
"""`Transformer` in running flows."""

import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gevent.pool import Pool
from lxml import etree

from compysition import Director, Event
from compysition.actor import Actor
from compysition.actors import Transformer
from compysition.cores import usable_cores
from compysition.errors import MalformedError, StylesheetError, UnprocessableError
from compysition.xml import FIRST_US_PER_BYTE, LARGE_US

pytestmark = [pytest.mark.patched, pytest.mark.unpatched]

SHEET = """<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
<xsl:output omit-xml-declaration="yes"/>
<xsl:template match="/*">
  <xsl:if test="not(@id)"><xsl:message terminate="yes">no id</xsl:message></xsl:if>
  <out id="{@id}" lines="{count(line)}"/>
</xsl:template>
</xsl:stylesheet>"""
#: Large enough to go beside the hub before anything was measured.
LARGE = f"<order id='7'>{'<line/>' * int(2 * LARGE_US / FIRST_US_PER_BYTE / 7)}</order>"


@pytest.fixture
def director() -> Iterator[Director]:
    director = Director()
    yield director
    if director.is_running():
        director.stop()
    assert director.snapshot().balance.is_even


def ask(director: Director, data: Any) -> bytes:
    event = director.ask("transform", data)
    assert isinstance(event.data, etree._XSLTResultTree)
    result: Any = event.data
    return bytes(result)


def registered(director: Director, monkeypatch: pytest.MonkeyPatch, apply: Callable[..., Any]) -> None:
    """Have a transformer, which does not learn what is large, call `apply` around its stylesheet's."""
    actor = director.register_actor(Transformer, "transform", SHEET)
    original = actor._stylesheet.apply
    monkeypatch.setattr(actor._stylesheet, "apply", lambda *args, **kwargs: apply(lambda: original(*args, **kwargs)))
    monkeypatch.setattr(actor._stylesheet, "_is_measured", lambda *_: False)
    director.start(block=False)


@pytest.mark.parametrize(
    "data",
    [
        "<order id='7'><line/></order>",
        b"<order id='7'><line/></order>",
        etree.fromstring("<order id='7'><line/></order>"),
        etree.ElementTree(etree.fromstring("<order id='7'><line/></order>")),
    ],
)
def test_the_event_holds_the_result_tree(director: Director, data: Any) -> None:
    director.register_actor(Transformer, "transform", SHEET)
    director.start(block=False)

    assert ask(director, data) == b'<out id="7" lines="1"/>\n'


def test_the_rest_of_the_event_stays(director: Director) -> None:
    director.register_actor(Transformer, "transform", SHEET)
    director.start(block=False)
    event = Event("<order id='7'/>", service="orders", colour="red")

    answer = director.ask("transform", event)

    assert (answer.service, answer.get("colour"), answer.event_id) == ("orders", "red", event.event_id)


def test_a_stylesheet_may_come_from_a_file(director: Director, tmp_path: Path) -> None:
    (tmp_path / "a.xsl").write_text(SHEET)
    director.register_actor(Transformer, "transform", xslt_path=str(tmp_path / "a.xsl"))
    (tmp_path / "a.xsl").unlink()
    director.start(block=False)

    assert ask(director, "<order id='7'/>").startswith(b"<out")


def test_transformers_work_on_each_others_results(director: Director) -> None:
    first = director.register_actor(Transformer, "transform", SHEET)
    second = director.register_actor(Transformer, "second", SHEET)
    director.connect_queue(first, second)
    director.start(block=False)

    assert ask(director, "<order id='7'><line/></order>") == b'<out id="7" lines="0"/>\n'


def test_small_documents_stay_on_the_hub_and_large_ones_go_beside_it(
    director: Director, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apply(transform: Callable[[], Any]) -> Any:
        is_beside.append(threading.get_native_id() != own)
        return transform()

    own = threading.get_native_id()
    is_beside: list[bool] = []
    registered(director, monkeypatch, apply)

    ask(director, "<order id='7'/>")
    ask(director, LARGE)
    ask(director, etree.fromstring(LARGE))

    assert is_beside == [False, True, True]


def test_no_more_large_documents_are_under_way_than_there_are_cores(
    director: Director, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apply(transform: Callable[[], Any]) -> Any:
        busy.add(threading.get_native_id())
        most.append(len(busy))
        result = transform()
        busy.discard(threading.get_native_id())
        return result

    busy: set[int] = set()
    most: list[int] = []
    registered(director, monkeypatch, apply)

    Pool(20).map(lambda _: ask(director, LARGE), range(40))

    assert len(most) == 40
    assert max(most) <= usable_cores()


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        ("<order id='7'>", MalformedError, "the document ends before"),
        (LARGE[:-1], MalformedError, "a tag is not finished"),
        ("<!DOCTYPE order><order id='7'/>", MalformedError, "a DOCTYPE is not accepted"),
        ("", MalformedError, "the document is empty"),
        (None, MalformedError, "there is nothing"),
        ({"id": 7}, MalformedError, "there is dict"),
        ("<order/>", UnprocessableError, "refused the document: no id"),
        (LARGE.replace("id='7'", ""), UnprocessableError, "refused the document: no id"),
    ],
)
def test_a_document_that_cannot_be_served_fails_alone(
    director: Director, data: Any, error: type[Exception], text: str
) -> None:
    director.register_actor(Transformer, "transform", SHEET)
    director.start(block=False)

    with pytest.raises(error, match=text):
        director.ask("transform", data)

    assert ask(director, "<order id='7'/>") == b'<out id="7" lines="0"/>\n'


def test_a_failed_event_takes_the_error_wire_with_the_document_it_came_with(director: Director) -> None:
    class Sink(Actor):
        def consume(self, event: Event) -> None:
            seen.append((event.data, event.error.status if event.error else None))

    seen: list[tuple[Any, int | None]] = []
    transform = director.register_actor(Transformer, "transform", SHEET)
    director.connect_queue_error(transform, director.register_actor(Sink, "sink"))
    director.start(block=False)

    director.post("transform", "<order>")
    director.stop()

    assert seen == [("<order>", 400)]


def test_a_doctype_is_accepted_if_the_script_says_so(director: Director) -> None:
    director.register_actor(Transformer, "transform", SHEET, allow_doctype=True)
    director.start(block=False)

    assert ask(director, "<!DOCTYPE order SYSTEM 'nowhere.dtd'><order id='7'/>").startswith(b"<out")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "a stylesheet is wanted"),
        ({"xslt": SHEET, "xslt_path": "a.xsl"}, "both given"),
        ({"xslt": "orders.xsl"}, "'orders.xsl' looks like a file's name: give xslt_path="),
        ({"xslt_path": SHEET}, "a stylesheet itself is given as xslt="),
        ({"xslt_path": "nowhere.xsl"}, "'nowhere.xsl': cannot be read"),
        ({"xslt_path": 7}, "wants a path, not int"),
        ({"xslt": SHEET.replace("xsl:if", "xsl:iff")}, "line 4: xsl:iff is no element"),
    ],
)
def test_a_stylesheet_that_cannot_work_is_refused_at_registration(
    director: Director, arguments: dict[str, Any], text: str
) -> None:
    with pytest.raises(StylesheetError, match=text):
        director.register_actor(Transformer, "transform", **arguments)


def test_a_variable_that_is_not_declared_is_warned_of_at_registration_with_its_line(
    director: Director, caplog: pytest.LogCaptureFixture
) -> None:
    director.register_actor(Transformer, "transform", SHEET.replace("{@id}", "{$nix}"))
    director.register_actor(Transformer, "compiled", etree.XSLT(etree.fromstring(SHEET.replace("{@id}", "{$nix}"))))
    (warning,) = [record.getMessage() for record in caplog.records if "declared" in record.getMessage()]
    assert re.search(r"the stylesheet of 'transform' uses \$nix in line \d+, where no variable", warning)


def test_documents_from_many_senders_at_once_are_not_mixed_up(director: Director) -> None:
    director.register_actor(Transformer, "transform", SHEET)
    director.start(block=False)
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        documents = [(LARGE if number % 2 else "<order id='7'/>").replace("'7'", f"'{number}'") for number in range(60)]
        results = Pool(20).map(lambda document: ask(director, document), documents)
    finally:
        sys.setswitchinterval(interval_s)

    assert [f'id="{number}"'.encode() in result for number, result in enumerate(results)] == [True] * 60
