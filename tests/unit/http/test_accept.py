# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.http.accept` (RFC 9110, section 12.5.1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compysition.http.accept import best

OFFERS = ("application/json", "application/xml", "text/plain")
JSON, XML, TEXT = OFFERS


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, JSON),
        ("", JSON),
        (" , ,", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/xml", XML),
        ("APPLICATION/XML", XML),
        ("text/*", TEXT),
        ("application/json;q=0.2, application/xml;q=0.3", XML),
        ("application/xml, application/json", JSON),  # of equals ours
        ("application/json;q=0.1, */*;q=0.5", XML),  # the more specific range decides about JSON
        ("*/*, application/json;q=0", XML),
        ("application/xml;version=1;q=0.5, text/plain;q=0.4", XML),
        ('text/plain;x="a,b;q=0"', TEXT),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", XML),  # a browser
        ("image/png", None),
        ("application/json;q=0", None),
        ("*/*;q=0", None),
    ],
)
def test_the_offer_with_the_highest_weight_is_taken(accept: str | None, chosen: str | None) -> None:
    assert best(accept, OFFERS) == chosen


@pytest.mark.parametrize(
    "accept", ["json", "application/xml;q=2", "application/xml;q=-1", "application/xml;q=x", "a b/c", "/", ";", "a/b/c"]
)
def test_a_header_that_cannot_be_read_counts_as_none(accept: str) -> None:
    assert best(accept, OFFERS) == JSON


@given(st.text(alphabet='abc/*+;q=0.1,"\\ \t', max_size=60))
def test_any_header_gives_an_offer_or_none(accept: str) -> None:
    assert best(accept, OFFERS) in (*OFFERS, None)
