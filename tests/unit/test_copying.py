# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.copying`: copies are equal, and share nothing that can change."""

import collections
import copy
import datetime
import decimal
import enum
import fractions
import types
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from compysition.copying import copy_data


class Colour(enum.Enum):
    RED = "red"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    left: list[int]
    right: str


class Money:
    """A user's class with equality and a mutable part."""

    def __init__(self, amounts: list[int]) -> None:
        self.amounts = amounts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and self.amounts == other.amounts

    def __hash__(self) -> int:
        return 1


class Shared:
    """A user's class that answers a copy with itself."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Shared":
        return self


def named(value: object) -> str:
    """An id for a parameter; no addresses, so that it is the same in every process."""
    return getattr(value, "__name__", type(value).__name__)


class Refusing:
    def __deepcopy__(self, memo: dict[int, Any]) -> "Refusing":
        raise ValueError("one of a kind")


#: Exact classes whose instances can change, in what the strategies make.
MUTABLE = (list, dict, set, bytearray, Money, collections.OrderedDict, collections.deque)

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.decimals(allow_nan=False),
    st.datetimes(),
    st.uuids(),
    st.fractions(),
    st.sampled_from([*Colour, *Rights, int, len, copy_data, ...]),
)
HASHABLE = st.recursive(LEAVES, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=2), max_leaves=4)
DATA = st.recursive(
    LEAVES | st.binary(max_size=5).map(bytearray) | st.lists(st.integers(), max_size=3).map(Money),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(HASHABLE, inner, max_size=4),
        st.sets(HASHABLE, max_size=4),
        st.lists(inner, max_size=3).map(collections.deque),
        st.dictionaries(st.text(max_size=3), inner, max_size=3).map(collections.OrderedDict),
    ),
    max_leaves=20,
)


def mutable_parts(data: Any) -> Iterator[Any]:
    """Everything inside `data` that can change, `data` included."""
    if isinstance(data, MUTABLE):
        yield data
    if isinstance(data, dict):
        for key, value in data.items():
            yield from mutable_parts(key)
            yield from mutable_parts(value)
    elif isinstance(data, Money):
        yield data.amounts
    elif isinstance(data, list | tuple | set | frozenset | collections.deque):
        for value in data:
            yield from mutable_parts(value)


# ---- equal, and nothing shared --------------------------------------------------------------------------------------


@given(DATA)
def test_copy_is_equal_and_of_the_same_class(data: Any) -> None:
    twin = copy_data(data)
    assert twin == data
    assert twin.__class__ is data.__class__


@given(DATA)
def test_copy_shares_nothing_that_can_change(data: Any) -> None:
    # Both are kept alive while their parts are compared, so no identity is used twice.
    twin = copy_data(data)
    assert not {id(part) for part in mutable_parts(data)} & {id(part) for part in mutable_parts(twin)}


@given(DATA)
def test_copy_has_as_many_mutable_parts_as_the_original(data: Any) -> None:
    # A bound on the walk above: what it cannot see it cannot compare.
    assert len(list(mutable_parts(copy_data(data)))) == len(list(mutable_parts(data)))


@given(st.dictionaries(st.text(), st.integers()))
def test_copy_of_a_dict_keeps_the_order_of_its_keys(data: dict[str, int]) -> None:
    assert list(copy_data(data).items()) == list(data.items())


def test_change_in_a_copy_does_not_reach_the_original() -> None:
    data: dict[str, Any] = {"lines": [{"id": 1, "tags": {"a"}, "raw": bytearray(b"x")}], "pair": ([1], 2)}
    twin = copy_data(data)
    twin["lines"][0]["tags"].add("b")
    twin["lines"][0]["raw"] += b"y"
    twin["pair"][0].append(2)
    twin["more"] = 1
    assert data == {"lines": [{"id": 1, "tags": {"a"}, "raw": bytearray(b"x")}], "pair": ([1], 2)}


# ---- what cannot change is shared -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        10**30,
        1.5,
        float("nan"),
        2j,
        "text" * 1000,
        b"bytes" * 1000,
        range(5),
        decimal.Decimal("1.5"),
        fractions.Fraction(1, 3),
        uuid.UUID(int=5),
        datetime.date(2020, 1, 1),
        datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
        datetime.time(1),
        datetime.timedelta(1),
        datetime.UTC,
        Colour.RED,
        Rights.READ | Rights.WRITE,
        int,
        Money,
        Colour,
        len,
        copy_data,
        enum,
        ...,
        (),
        (1, "a", (2, None)),
    ],
    ids=named,
)
def test_what_cannot_change_is_shared(value: Any) -> None:
    assert copy_data(value) is value
    assert copy_data([value])[0] is value


def test_tuple_with_something_mutable_in_it_is_copied() -> None:
    data = (1, [2])
    twin = copy_data(data)
    assert twin == data
    assert twin[1] is not data[1]


# ---- everything else is asked ---------------------------------------------------------------------------------------


def test_class_may_answer_with_itself() -> None:
    shared = Shared()
    assert copy_data(shared) is shared
    assert copy_data({"a": [shared]})["a"][0] is shared


def test_class_may_refuse() -> None:
    with pytest.raises(ValueError, match="one of a kind"):
        copy_data([Refusing()])


@pytest.mark.parametrize(
    "data",
    [
        Pair([1], "a"),
        collections.OrderedDict(a=[1]),
        collections.Counter("aab"),
        collections.defaultdict(list, a=[1]),
        collections.deque([[1]], maxlen=3),
        types.SimpleNamespace(a=[1]),
        frozenset({(1, 2)}),
        Money([1]),
    ],
    ids=named,
)
def test_subclass_of_a_container_and_users_class_keep_their_class(data: Any) -> None:
    twin = copy_data(data)
    assert twin == data
    assert type(twin) is type(data)
    assert twin is not data or isinstance(data, frozenset)


def test_what_cannot_be_copied_says_so() -> None:
    with pytest.raises(TypeError):
        copy_data({"rows": (row for row in [1])})


# ---- shapes that run in circles or deep -----------------------------------------------------------------------------


def test_container_that_holds_itself_is_copied_as_such() -> None:
    data: list[Any] = [1]
    data.append(data)
    twin = copy_data(data)
    assert twin is not data
    assert twin[0] == 1
    assert twin[1] is twin


def test_dict_that_holds_itself_through_others_is_copied_as_such() -> None:
    data: dict[str, Any] = {"list": []}
    data["list"].append((data, 1))
    twin = copy_data(data)
    assert twin is not data
    assert twin["list"][0][0] is twin


def test_too_deep_is_an_error_not_a_crash() -> None:
    data: list[Any] = []
    for _ in range(100_000):
        data = [data]
    with pytest.raises(RecursionError):
        copy_data(data)


# ---- lxml -----------------------------------------------------------------------------------------------------------

SHEET = """<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
<xsl:output method="{method}" {more}/>
<xsl:template match="/">{body}</xsl:template>
</xsl:stylesheet>"""


def test_element_is_copied_with_all_below() -> None:
    element = etree.fromstring(b'<a x="1"><b>text<!-- c --></b>tail</a>')
    twin = copy_data({"doc": element})["doc"]
    assert etree.tostring(twin) == etree.tostring(element)
    twin[0].text = "changed"
    twin.set("x", "2")
    assert etree.tostring(element) == b'<a x="1"><b>text<!-- c --></b>tail</a>'


def test_tree_is_copied_with_what_stands_around_its_root() -> None:
    tree = etree.ElementTree(etree.fromstring(b"<?style x?><!-- before --><a><b/></a><!-- after -->"))
    twin = copy_data(tree)
    assert etree.tostring(twin) == etree.tostring(tree)
    twin.getroot().set("x", "1")
    assert tree.getroot().get("x") is None


@pytest.mark.parametrize(
    ("method", "more", "body", "expected"),
    [
        ("text", "", "1 &lt; <xsl:value-of select='.'/>", b"1 < x"),
        ("html", "", "<p>a<br/></p>", b"<p>a<br></p>"),
        ("xml", 'omit-xml-declaration="yes"', "<a><b/></a>", b"<a><b/></a>"),
        ("xml", 'encoding="iso-8859-1"', "<a>\u00e9</a>", b"<a>\xe9</a>"),
    ],
    ids=["text", "html", "xml", "encoding"],
)
def test_result_of_a_stylesheet_keeps_how_it_is_written_out(method: str, more: str, body: str, expected: bytes) -> None:
    transform = etree.XSLT(etree.fromstring(SHEET.format(method=method, more=more, body=body)))
    result = transform(etree.fromstring("<doc>x</doc>"))
    assert expected in bytes(result)  # type: ignore[call-overload]  # the stubs do not know __bytes__
    twin = copy_data(result)
    assert bytes(twin) == bytes(result)  # type: ignore[call-overload]  # as above
    assert str(twin) == str(result)


@given(DATA)
def test_copy_agrees_with_deepcopy(data: Any) -> None:
    assert copy_data(data) == copy.deepcopy(data)
