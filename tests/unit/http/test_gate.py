# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.http.gate` about heads that a parser lets through. Most stand in `http_vectors` too."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from compysition.http.gate import RefusedError, examine


@dataclass
class Head:
    headers: Sequence[tuple[str, str]] = (("HOST", "a"),)
    uri: str = "/"
    method: str = "GET"
    version: tuple[int, int] = (1, 1)


def test_fields_have_the_names_of_an_environ_and_repeated_ones_are_joined() -> None:
    verdict = examine(
        Head(
            [
                ("HOST", "a"),
                ("CONTENT-TYPE", "text/plain"),
                ("CONTENT-LENGTH", "3"),
                ("X-A", "1"),
                ("COOKIE", "a=1"),
                ("X-A", "2"),
                ("COOKIE", "b=2"),
            ]
        )
    )
    assert verdict.fields == {
        "HTTP_HOST": "a",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "3",
        "HTTP_X_A": "1,2",
        "HTTP_COOKIE": "a=1; b=2",
    }


@pytest.mark.parametrize(
    ("version", "values", "keeps"),
    [
        ((1, 1), [], True),
        ((1, 1), ["keep-alive"], True),
        ((1, 1), ["close"], False),
        ((1, 1), ["foo,CLOSE"], False),
        ((1, 1), ["keep-alive", "foo", "close"], False),
        ((1, 0), [], False),
        ((1, 0), ["Keep-Alive"], True),
        ((1, 0), ["keep-alive, close"], False),
        ((1, 2), [], True),
    ],
)
def test_the_connection_is_kept_as_the_client_says(version: tuple[int, int], values: list[str], keeps: bool) -> None:
    head = Head([("HOST", "a"), *[("CONNECTION", value) for value in values]], version=version)
    assert examine(head).keeps is keeps


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (Head([]), 400),
        (Head([("HOST", "a b")]), 400),
        (Head(method="CONNECT", uri="a:1"), 501),
        (Head(uri="ftp://a/"), 400),
        (Head(uri="http://a@b/"), 400),
        (Head(uri="/%zz"), 400),
        (Head(uri="/?%zz"), 400),
        (Head(uri="/a#b"), 400),
        (Head([("HOST", "a"), ("TRANSFER-ENCODING", "gzip, chunked")]), 501),
        (Head([("HOST", "a"), ("CONTENT-LENGTH", "1" * 16)]), 413),
        (Head([("HOST", "a"), ("AUTHORIZATION", "x"), ("AUTHORIZATION", "x")]), 400),
        (Head([("HOST", "a"), *[("X", "a" * 8000)] * 9]), 431),
    ],
)
def test_what_two_readers_could_take_for_two_things_is_refused(head: Head, status: int) -> None:
    with pytest.raises(RefusedError) as caught:
        examine(head)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "head",
    [
        Head([], version=(1, 0)),
        Head(uri="/a?b=c&d=%C3%A9"),
        Head(uri="/%C3%A9"),
        Head(uri="http://b/x"),
        Head(uri="*", method="OPTIONS"),
        # For the door to refuse: the connection may go on after these.
        Head(uri="/a/../b"),
        Head(method="BREW"),
        Head([("HOST", "a"), ("CONTENT-ENCODING", "gzip")]),
    ],
)
def test_what_has_one_meaning_passes(head: Head) -> None:
    examine(head)
