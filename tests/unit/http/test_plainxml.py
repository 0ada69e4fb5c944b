# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.http.plainxml`: plain data as XML."""

from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compysition.http.plainxml import MAX_DEPTH, encode

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'


@pytest.mark.parametrize(
    ("data", "element"),
    [
        ({}, "<data></data>"),
        ({"a": 1, "b": "x"}, "<data><a>1</a><b>x</b></data>"),
        ({"a": {"b": [1, 2]}}, "<data><a><b><item>1</item><item>2</item></b></a></data>"),
        ([True, False, 1.5], "<data><item>true</item><item>false</item><item>1.5</item></data>"),
        ({"a": None}, '<data><a xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:nil="true"/></data>'),
        ({"a b": 1, "": 2, "1": 3}, '<data><item key="a b">1</item><item key="">2</item><item key="1">3</item></data>'),
        ({1: 2, None: 3}, '<data><item key="1">2</item><null>3</null></data>'),
        ({"a:b": 1, "é": 2, "豈": 3}, '<data><item key="a:b">1</item><é>2</é><item key="豈">3</item></data>'),
        ({"a": "<&>\r\n"}, "<data><a>&lt;&amp;&gt;&#13;\n</a></data>"),
        ({'"\n': 1}, '<data><item key="&quot;&#10;">1</item></data>'),
        (7, "<data>7</data>"),
    ],
)
def test_data_becomes_elements(data: Any, element: str) -> None:
    assert encode(data).decode() == DECLARATION + element


@pytest.mark.parametrize(
    "data", [float("nan"), float("inf"), "\0", {"\x0b": 1}, ["\ud800"], "\ufffe", object(), b"x", {1}]
)
def test_what_xml_cannot_carry_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match=r"that can be sent|which XML cannot carry|cannot be written"):
        encode(data)


def test_data_that_holds_itself_is_refused() -> None:
    data: list[Any] = []
    data.append(data)
    with pytest.raises(ValueError, match=f"deeper than {MAX_DEPTH}"):
        encode(data)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_whatever_is_written_is_well_formed_and_holds_every_text(data: Any) -> None:
    try:
        document = encode(data)
    except ValueError:
        return
    root = ElementTree.fromstring(document)
    assert root.tag == "data"
    if isinstance(data, str):
        assert (root.text or "") == data
    if isinstance(data, list | dict):
        assert len(root) == len(data)
