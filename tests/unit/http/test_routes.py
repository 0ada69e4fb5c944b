# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.http.routes`: which route a request takes, and what it is refused for."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compysition.errors import (
    ConfigurationError,
    MethodNotAllowedError,
    NotAcceptableError,
    NotFoundError,
    UnsupportedTypeError,
)
from compysition.http.request import Request
from compysition.http.routes import Match, Route, RouteTable

UUID_TEXT = "9f1c1d5e-30f5-4f3a-8f43-0d2b2f1f6a11"


def table(*routes: str) -> RouteTable:
    """Routes ``[METHOD ]PATTERN``, each to an outbox of the same name."""
    made = RouteTable()
    made.add_all({route: route for route in routes})
    return made


def asked(path: str, method: str = "GET", **environ: str) -> Request:
    return Request.from_environ(
        {
            "REQUEST_METHOD": method,
            "RAW_URI": path,
            "HTTP_HOST": "a",
            "wsgi.url_scheme": "http",
            **environ,
        }
    )


def found(routes: RouteTable, path: str, method: str = "GET") -> tuple[str, dict[str, Any]]:
    match = routes.match(asked(path, method))
    assert isinstance(match, Match)
    return match.route.outbox, dict(match.params)


# ---- what fits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "params"),
    [
        ("/", "/", {}),
        ("/a", "/a", {}),
        ("/a/", "/a/", {}),
        ("/a/b", "/a/b", {}),
        ("/é", "/%C3%A9", {}),
        ("/{x}", "/a", {"x": "a"}),
        ("/{x:str}", "/1", {"x": "1"}),
        ("/{x}", "/a%2Fb", {"x": "a/b"}),
        ("/{x}", "/a%252Fb", {"x": "a%2Fb"}),
        ("/{x}", "/a;b+c", {"x": "a;b+c"}),
        ("/{x:int}", "/0017", {"x": 17}),
        ("/{x:int}", "/" + "9" * 18, {"x": 10**18 - 1}),
        ("/{x:uuid}", f"/{UUID_TEXT}", {"x": UUID(UUID_TEXT)}),
        ("/{x:uuid}", f"/{UUID_TEXT.upper()}", {"x": UUID(UUID_TEXT)}),
        ("/{x:path}", "/a", {"x": "a"}),
        ("/f/{x:path}", "/f/a/b/c", {"x": "a/b/c"}),
        ("/{a}/{b:int}/c", "/x/7/c", {"a": "x", "b": 7}),
    ],
)
def test_a_path_fits_its_pattern_and_its_parameters_have_their_types(
    pattern: str, path: str, params: dict[str, Any]
) -> None:
    outbox, values = found(table(pattern), path)
    assert (outbox, values) == (pattern, params)
    assert [type(value) for value in values.values()] == [type(value) for value in params.values()]


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/", "/a"),
        ("/a", "/"),
        ("/a", "/a/"),
        ("/a/", "/a"),
        ("/a", "/A"),
        ("/a", "/a/b"),
        ("/{x}", "/"),
        ("/a/{x}", "/a/"),
        ("/{x:int}", "/-1"),
        ("/{x:int}", "/+1"),
        ("/{x:int}", "/1_0"),
        ("/{x:int}", "/%D9%A1"),  # a digit, but none of ASCII
        ("/{x:int}", "/" + "9" * 19),
        ("/{x:int}", "/1.0"),
        ("/{x:uuid}", f"/{UUID_TEXT.replace('-', '')}"),
        ("/{x:uuid}", f"/%7B{UUID_TEXT}%7D"),
        ("/{x:path}", "/"),
        ("/f/{x:path}", "/f/"),
        ("/f/{x:path}", "/f/a/"),
        ("/f/{x:path}", "/f/a//b"),
        ("/f/{x:path}", "/f/a%2Fb"),
    ],
)
def test_what_does_not_fit_is_not_found_and_never_malformed(pattern: str, path: str) -> None:
    with pytest.raises(NotFoundError):
        table(pattern).match(asked(path))


# ---- which is best --------------------------------------------------------------------------------------------------

PATTERNS = ["/{x:path}", "/{x}", "/{x:int}", f"/{UUID_TEXT}", "/{x:uuid}", "/7", "/{x}/b", "/7/{x}", "/{x}/{y:int}"]


@pytest.mark.parametrize(
    ("path", "best"),
    [
        ("/7", "/7"),
        ("/8", "/{x:int}"),
        ("/a", "/{x}"),
        (f"/{UUID_TEXT}", f"/{UUID_TEXT}"),
        (f"/0{UUID_TEXT[1:]}", "/{x:uuid}"),
        ("/7/b", "/7/{x}"),  # left to right: the literal 7 before the literal b
        ("/8/b", "/{x}/b"),
        ("/8/9", "/{x}/{y:int}"),
        ("/8/c", "/{x:path}"),
        ("/a/b/c", "/{x:path}"),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_the_most_specific_pattern_is_taken_whatever_the_order(path: str, best: str, order: int) -> None:
    assert found(table(*PATTERNS[::order]), path)[0] == best


RANKS = {"lit": 0, "int": 1, "str": 2, "path": 3}
segment = st.sampled_from(["a", "1", "{str}", "{int}", "{path}"])


def kind_of(text: str) -> str:
    return text[1:-1] if text.startswith("{") else "lit"


def fits(pattern: list[str], path: list[str]) -> bool:
    for at, text in enumerate(pattern):
        kind = kind_of(text)
        if kind == "path":
            return len(path) > at
        if at >= len(path) or (kind == "int" and not path[at].isdigit()) or (kind == "lit" and path[at] != text):
            return False
    return len(pattern) == len(path)


@given(
    st.lists(st.lists(segment, min_size=1, max_size=4), min_size=1, max_size=8),
    st.lists(st.sampled_from(["a", "b", "1", "2"]), min_size=1, max_size=4),
)
def test_the_best_of_any_patterns_is_the_one_that_a_plain_search_finds(
    patterns: list[list[str]], path: list[str]
) -> None:
    routes, known = RouteTable(), []
    for pattern in patterns:
        if "{path}" in pattern[:-1] or pattern in known:
            continue
        known.append(pattern)
        names = [f"{{p{at}:{kind_of(text)}}}" if kind_of(text) != "lit" else text for at, text in enumerate(pattern)]
        routes.add("/" + "/".join(names), "/".join(pattern))

    fitting: list[Any] = sorted(
        [RANKS[kind_of(text)] for text in pattern] + [pattern] for pattern in known if fits(pattern, path)
    )

    target = "/" + "/".join(path)
    if not fitting:
        with pytest.raises(NotFoundError):
            routes.match(asked(target))
    else:
        assert found(routes, target)[0] == "/".join(fitting[0][-1])


# ---- methods --------------------------------------------------------------------------------------------------------


def test_the_method_chooses_among_routes_of_one_pattern() -> None:
    routes = table("GET /a", "POST /a")
    assert found(routes, "/a")[0] == "GET /a"
    assert found(routes, "/a", "POST")[0] == "POST /a"


def test_head_goes_where_get_goes() -> None:
    assert found(table("GET /a", "POST /a"), "/a", "HEAD")[0] == "GET /a"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"])
def test_a_route_without_methods_takes_the_common_ones(method: str) -> None:
    assert found(table("/a"), "/a", method)[0] == "/a"


def test_a_method_that_is_not_taken_is_refused_with_all_that_are() -> None:
    with pytest.raises(MethodNotAllowedError) as caught:
        table("GET /a", "PUT /a").match(asked("/a", "DELETE"))
    assert caught.value.headers == {"Allow": "GET, HEAD, OPTIONS, PUT"}


def test_a_weaker_pattern_is_not_tried_for_its_method() -> None:
    with pytest.raises(MethodNotAllowedError):
        table("GET /a", "POST /{x}").match(asked("/a", "POST"))


def test_options_is_answered_with_the_methods_unless_a_route_takes_it() -> None:
    assert table("GET /a").match(asked("/a", "OPTIONS")) == frozenset({"GET", "HEAD", "OPTIONS"})
    assert found(table("OPTIONS /a"), "/a", "OPTIONS")[0] == "OPTIONS /a"


def test_a_method_of_its_own_is_known_only_from_a_route() -> None:
    routes = table("PURGE /a")
    assert routes.knows("PURGE")
    assert not routes.knows("BREW")
    assert found(routes, "/a", "PURGE")[0] == "PURGE /a"


# ---- types ----------------------------------------------------------------------------------------------------------


def route(**options: Any) -> Route:
    return RouteTable().add("/a", "a", **options)


@pytest.mark.parametrize(
    ("consumes", "content_type"),
    [
        (["application/json"], "application/json"),
        (["application/json"], "Application/JSON; charset=utf-8"),
        ("application/json", "application/json"),
        (["*/*+json"], "application/problem+json"),
        (["text/*"], "text/csv"),
        (["*/*"], "a/b"),
        (["a/b", "c/d"], "c/d"),
    ],
)
def test_a_body_of_a_type_that_is_taken_passes(consumes: list[str], content_type: str) -> None:
    route(consumes=consumes).check(asked("/a", "POST", CONTENT_TYPE=content_type, CONTENT_LENGTH="1"))


@pytest.mark.parametrize("content_type", ["application/xml", "application/jsonx", "application", "json", "", None])
@pytest.mark.parametrize("announced", [{"CONTENT_LENGTH": "1"}, {"HTTP_TRANSFER_ENCODING": "chunked"}])
def test_any_other_type_and_none_is_refused_and_told_what_is_taken(
    content_type: str | None, announced: dict[str, str]
) -> None:
    given = {} if content_type is None else {"CONTENT_TYPE": content_type}
    with pytest.raises(UnsupportedTypeError) as caught:
        route(consumes=["application/json", "*/*+json"]).check(asked("/a", "POST", **given, **announced))
    assert caught.value.headers == {"Accept": "application/json, */*+json"}


def test_without_a_body_its_type_does_not_matter() -> None:
    route(consumes=["application/json"]).check(asked("/a"))


@pytest.mark.parametrize(("accept", "passes"), [(None, True), ("*/*", True), ("text/*", True), ("image/png", False)])
def test_who_accepts_nothing_that_is_produced_is_refused_before_the_work(accept: str | None, passes: bool) -> None:
    request = asked("/a", **({} if accept is None else {"HTTP_ACCEPT": accept}))
    if passes:
        route(produces=["text/csv"]).check(request)
    else:
        with pytest.raises(NotAcceptableError, match="text/csv"):
            route(produces=["text/csv"]).check(request)


# ---- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    [
        "a", "", None, 7, "/a b", "/a\n", "//", "/a//b", "/{", "/}", "/{}", "/{1}", "/{a-b}", "/{a}{b}", "/x{a}",
        "/{a:}{",         "/{a:float}", "/{a:path}/b", "/{a}/{a}", "/%20", "/a?b", "/a#b", "/..", "/.", "/{a:int:b}",
    ],
)  # fmt: skip
def test_a_pattern_that_can_fit_nothing_is_refused_by_name(pattern: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RouteTable().add(pattern, "a")
    assert repr(pattern) in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("methods", []),
        ("methods", ["get"]),
        ("methods", ["G T"]),
        ("methods", [7]),
        ("methods", ["CONNECT"]),
        ("methods", ["TRACE"]),
        ("timeout_s", 0),
        ("timeout_s", "1"),
        ("timeout_s", True),
        ("timeout_s", float("nan")),
        ("timeout_s", float("inf")),
        ("max_body_bytes", 0),
        ("max_body_bytes", 1.5),
        ("consumes", ["json"]),
        ("consumes", ["a/b; c=d"]),
        ("produces", ["text/*"]),
        ("produces", []),
        ("outbox", ""),
        ("outbox", None),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_with_its_route(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match="route '/a'"):
        RouteTable().add(**{"pattern": "/a", "outbox": "a", option: value})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/a", "/a"),
        ("GET /a", "/a"),
        ("HEAD /a", "GET /a"),
        ("/{x}", "/{y}"),
        ("GET /{x:int}", "POST /{y:int}"),
        ("/f/{x:path}", "/f/{y:path}"),
    ],
)
def test_two_routes_that_could_both_be_meant_are_refused_and_both_are_named(one: str, other: str) -> None:
    routes = RouteTable()
    routes.add_all({one: "first"})
    with pytest.raises(ConfigurationError) as caught:
        routes.add(other.rpartition(" ")[2], "second", methods=other.split(" ")[:-1] or None)
    assert repr(other.rpartition(" ")[2]) in str(caught.value)
    assert "first" in str(caught.value) or repr(one.rpartition(" ")[2]) in str(caught.value)


@pytest.mark.parametrize("routes", [7, ["/a"], "/a", {7: "a"}, {"/a": 7}])
def test_routes_are_a_mapping_of_patterns_to_names(routes: Any) -> None:
    with pytest.raises(ConfigurationError):
        RouteTable().add_all(routes)
