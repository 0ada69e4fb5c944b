# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.codec`: what travels comes back the same, what cannot is refused where it is sent."""

import datetime
import json
import math
import os
import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from compysition.codec import (
    MOST_DEPTH,
    MOST_DIGITS,
    Form,
    decode,
    decode_map,
    encode,
    encode_map,
    encode_plain,
)
from compysition.errors import CompysitionError, MalformedError, TooLargeError, UnprocessableError
from compysition.xml import Stylesheet

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
OTHER_VALUES = st.one_of(
    st.decimals(allow_nan=False),
    st.datetimes(timezones=st.just(datetime.UTC) | st.none()),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.uuids(),
    st.binary(max_size=20),
    st.integers(-(10**40), 10**40),
)


def there_and_back(data: Any) -> Any:
    return decode(*encode(data))


def nested(depth: int, inner: Any = None) -> Any:
    for _ in range(depth):
        inner = [] if inner is None else [inner]
    return inner


# ---- what travels -----------------------------------------------------------------------------------------------


@given(JSON_VALUES.filter(lambda value: not isinstance(value, str)))
def test_what_json_has_words_for_travels_as_json_that_anybody_reads(data: Any) -> None:
    frame, form = encode(data)
    assert decode(frame, form) == data
    if data is not None:
        assert form is Form.JSON
        assert json.loads(frame) == data


@given(st.lists(OTHER_VALUES | JSON_VALUES, min_size=1, max_size=4), TEXT)
def test_everything_else_that_is_allowed_comes_back_of_the_same_class(values: list[Any], key: str) -> None:
    back = there_and_back({key: values})[key]
    assert back == values
    assert [type(value) for value in back] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("data", "form", "frame"),
    [
        (None, Form.NONE, b""),
        (b"\x00\xff", Form.BYTES, b"\x00\xff"),
        (bytearray(b"x"), Form.BYTES, b"x"),
        ("é", Form.TEXT, "é".encode()),
        ({"a": (1, 2.5)}, Form.JSON, b'{"a":[1,2.5]}'),
        (2**70, Form.JSON, b"1180591620717411303424"),
    ],
)
def test_form_of_data(data: Any, form: Form, frame: bytes) -> None:
    assert encode(data) == (frame, form)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_nan_and_infinities_travel_between_our_peers_and_never_as_json(number: float) -> None:
    frame, form = encode([number])
    assert form is Form.MSGPACK
    assert repr(decode(frame, form)) == repr([number])
    with pytest.raises(UnprocessableError, match=r"data\[0\] is .*JSON has no word"):
        encode_plain([number])


def test_xml_stays_xml_also_inside_of_containers() -> None:
    root = etree.fromstring('<order id="1"><line>é</line>text</order>')
    back = there_and_back(root)
    assert etree.tostring(back) == etree.tostring(root)
    assert etree.tostring(there_and_back({"order": etree.ElementTree(root)})["order"]) == etree.tostring(root)


def test_result_of_a_stylesheet_travels_as_what_it_says_it_is() -> None:
    head = '<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">'
    body = '<xsl:template match="/"><ack/></xsl:template></xsl:stylesheet>'
    document = etree.fromstring("<order/>")
    assert encode(Stylesheet(head + body).apply(document))[1] is Form.XML
    text = Stylesheet(head + '<xsl:output method="text"/>' + body.replace("<ack/>", "thanks")).apply(document)
    assert there_and_back(text) == "thanks"


def test_subclasses_of_plain_classes_travel_as_those() -> None:
    class Name(str):
        __slots__ = ()

    class Table(dict[str, Any]):
        pass

    back = there_and_back(Table(name=Name("ada"), at=datetime.date(2026, 1, 2)))
    assert back == {"name": "ada", "at": datetime.date(2026, 1, 2)}
    assert type(back["name"]) is str


def test_plain_peers_get_text_for_what_json_has_no_word_for() -> None:
    data = {
        "at": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        "price": Decimal("1.50"),
        "id": uuid.UUID(int=1),
        "took": datetime.timedelta(seconds=1.5),
    }
    assert json.loads(encode_plain(data)) == {
        "at": "2026-01-02T03:04:05+00:00",
        "price": "1.50",
        "id": "00000000-0000-0000-0000-000000000001",
        "took": 1.5,
    }


# ---- what does not ----------------------------------------------------------------------------------------------


class Cunning:
    """Would run a command if it were pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (Cunning(), r"^data is a .*Cunning, which cannot be sent"),
        ({"a": [1, {"b": {1, 2}}]}, r"data\['a'\]\[1\]\['b'\] is a builtins.set"),
        ({"a": {1: 2}}, r"data\['a'\] has the key 1: keys have to be text"),
        ([print], r"data\[0\] is a builtins.builtin_function_or_method"),
        (Form.JSON, r"^data is a compysition.codec.Form"),
        (1j, "complex"),
        (iter([]), "list_iterator"),
        ("\ud800", "half a character"),
        ({"\ud800": 1}, "half a character"),
        (["\ud800", b""], r"data\[0\] holds"),
    ],
)
def test_anything_else_is_refused_at_the_sender_with_its_place(data: Any, where: str) -> None:
    with pytest.raises(UnprocessableError, match=where):
        encode(data)


@pytest.mark.parametrize("is_plain", [True, False])
def test_nesting_is_limited_at_the_sender(is_plain: bool) -> None:
    inner = [] if is_plain else [b"bytes"]
    assert there_and_back(nested(MOST_DEPTH - 1, inner)) == nested(MOST_DEPTH - 1, inner)
    with pytest.raises(TooLargeError, match="nested deeper"):
        encode(nested(MOST_DEPTH, inner))


def test_data_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TooLargeError, match="holds itself"):
        encode(loop)


@pytest.mark.parametrize("number", [10**MOST_DIGITS, [10**MOST_DIGITS], Decimal("1" * (MOST_DIGITS + 1))])
def test_digits_are_limited(number: Any) -> None:
    with pytest.raises(TooLargeError, match="digits"):
        encode(number)


# ---- what comes from strangers ----------------------------------------------------------------------------------


BOMBS = [
    pytest.param(b"[" * 100_000, Form.JSON, id="json"),
    pytest.param(b"[" * 1_000 + b"]" * 1_000, Form.JSON, id="whole json"),
    pytest.param(b'{"a":' * 200 + b"1" + b"}" * 200, Form.JSON, id="json objects"),
    pytest.param(b"\x91" * 100_000, Form.MSGPACK, id="msgpack"),
    pytest.param(b"\x91" * 1_000 + b"\xc0", Form.MSGPACK, id="whole msgpack"),
    pytest.param(b"\x81\xa1a" * 200 + b"\xc0", Form.MSGPACK, id="msgpack maps"),
]


@pytest.mark.parametrize(("frame", "form"), BOMBS)
def test_nesting_bomb_is_refused(frame: bytes, form: Form) -> None:
    with pytest.raises(TooLargeError, match="nested deeper"):
        decode(frame, form)


@pytest.mark.parametrize(
    ("frame", "form"),
    [
        *((b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93.", form) for form in Form),
        (b"cos\nsystem\n(S'true'\ntR.", Form.JSON),
        (b"\xff", Form.TEXT),
        (b"", Form.JSON),
        (b"", Form.MSGPACK),
        (b"NaN", Form.JSON),
        (b"1 2", Form.JSON),
        (b"\xdd\xff\xff\xff\xff", Form.MSGPACK),
        (b"\xdf\xff\xff\xff\xff", Form.MSGPACK),
        (b"\xc7\x01\x63x", Form.MSGPACK),
        (b"\xc7\x01\x01x", Form.MSGPACK),
        (b"\xc7\x01\x03x", Form.MSGPACK),
        (b"\xc7\x01\x06x", Form.MSGPACK),
        (b"\xc7\x01\x08x", Form.MSGPACK),
        (b"\x81\x90\xc0", Form.MSGPACK),
        (b"<order>", Form.XML),
        (b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', Form.XML),
    ],
)
def test_rubbish_is_malformed_and_nothing_in_it_runs(frame: bytes, form: Form) -> None:
    if form in (Form.BYTES, Form.NONE):
        assert decode(frame, form) in (frame, None)
        return
    with pytest.raises(MalformedError):
        decode(frame, form)


@given(st.binary(max_size=200), st.sampled_from([form for form in Form if form is not Form.XML]))
def test_any_bytes_are_read_or_refused(frame: bytes, form: Form) -> None:
    try:
        decode(frame, form)
        decode_map(frame)
    except CompysitionError:
        pass


def test_digits_from_the_wire_are_limited() -> None:
    with pytest.raises(MalformedError, match="too long"):
        decode(b"\xc8" + (5_000).to_bytes(2) + b"\x02" + b"1" * 5_000, Form.MSGPACK)


# ---- maps -------------------------------------------------------------------------------------------------------


def test_map_reads_as_it_was_written() -> None:
    values = {"id": "1", "fields": [["a", "b"]], "at": Decimal("1.5")}
    assert decode_map(encode_map(values)) == values
    assert decode_map(b"") == {}


@pytest.mark.parametrize("frame", [b"\x02\x80", b"\x01\x90", b"\x01", b"{}", b"\x01\x81\x01\x01\x01"])
def test_map_of_another_version_or_kind_is_refused(frame: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_map(frame)
