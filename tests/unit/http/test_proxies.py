# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.http.proxies`: whom to believe about the client, and what is shown of their words."""

from typing import Any

import pytest

from compysition.errors import ConfigurationError
from compysition.http.proxies import RFC_7239, Proxies, Said
from compysition.http.request import Request

OURS = ("10.0.0.0/8", "2001:db8::/32")


def said(family: str = "x-forwarded", peer: str = "10.0.0.1", **fields: str) -> Said | None:
    return Proxies(OURS, family).read(peer, {f"HTTP_{name}": value for name, value in fields.items()})


@pytest.mark.parametrize(
    ("header", "client"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("6.6.6.6, 1.2.3.4", "1.2.3.4"),  # what the client sent itself does not count
        ("6.6.6.6, 1.2.3.4, 10.0.0.9, 2001:db8::1", "1.2.3.4"),
        ("10.0.0.8, 10.0.0.9", "10.0.0.8"),  # all of them ours
        ("1.2.3.4:5678", "1.2.3.4"),
        ("[2001:470::1]:5678", "2001:470::1"),
        ("2001:470::1", "2001:470::1"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("1.2.3.4, unknown", "10.0.0.1"),
        ("1.2.3.4, _hidden, 10.0.0.9", "10.0.0.9"),
        ("1.2.3.4, 10.0.0.9:x", "10.0.0.1"),
        ("1.2.3.4,", "10.0.0.1"),
        ("", "10.0.0.1"),
        (", ".join(["6.6.6.6"] * 1000), "6.6.6.6"),
    ],
)
def test_the_client_is_the_first_from_the_right_that_is_none_of_ours(header: str, client: str) -> None:
    assert said(X_FORWARDED_FOR=header) == Said(client)


@pytest.mark.parametrize("peer", ["1.2.3.4", "", "no address", "2001:470::1"])
def test_whoever_is_not_trusted_says_nothing(peer: str) -> None:
    assert said(peer=peer, X_FORWARDED_FOR="6.6.6.6", X_FORWARDED_PROTO="https") is None


def test_the_peer_of_a_unix_socket_is_trusted_only_by_name() -> None:
    assert Proxies(["unix"]).read("", {"HTTP_X_FORWARDED_FOR": "1.2.3.4"}) == Said("1.2.3.4")


@pytest.mark.parametrize(
    ("proto", "host", "wanted"),
    [
        ("https", "a.example:8443", ("https", "a.example:8443")),
        ("HTTPS", "[::1]", ("https", "[::1]")),
        ("http, https", "b, a", ("https", "a")),
        ("javascript", "a/b", ("", "")),
        ("", "a@b", ("", "")),
    ],
)
def test_scheme_and_host_count_if_they_can_be_ones(proto: str, host: str, wanted: tuple[str, str]) -> None:
    assert said(X_FORWARDED_FOR="1.2.3.4", X_FORWARDED_PROTO=proto, X_FORWARDED_HOST=host) == Said("1.2.3.4", *wanted)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("for=1.2.3.4", Said("1.2.3.4")),
        ("For=6.6.6.6;proto=http, for=1.2.3.4;Proto=https;host=a, for=10.0.0.9", Said("1.2.3.4", "https", "a")),
        ('for="[2001:470::1]:47";by=_x', Said("2001:470::1")),
        (r'for="1.2.3\.4"', Said("1.2.3.4")),
        ("for=_hidden;proto=https", Said("10.0.0.1")),
        ("for=unknown, for=10.0.0.9", Said("10.0.0.9")),
        ('for="1.2.3.4', Said("10.0.0.1")),
        ("", Said("10.0.0.1")),
        (";,=;,", Said("10.0.0.1")),
    ],
)
def test_forwarded_is_read_like_rfc_7239(header: str, wanted: Said) -> None:
    assert said(RFC_7239, FORWARDED=header) == wanted


@pytest.mark.parametrize("trusted", [["10.0.0.1/8"], ["proxy"], [""], [None]])
def test_what_is_no_network_is_refused_by_name(trusted: list[Any]) -> None:
    with pytest.raises(ConfigurationError, match="trusted_proxies"):
        Proxies(trusted)


# ---- what a request shows -------------------------------------------------------------------------------------------

FORGED = {
    "HTTP_X_FORWARDED_FOR": "1.2.3.4",
    "HTTP_X_FORWARDED_PROTO": "https",
    "HTTP_X_FORWARDED_HOST": "b",
    "HTTP_X_REAL_IP": "1.2.3.4",
    "HTTP_FORWARDED": "for=5.6.7.8",
    "HTTP_X_REQUEST_ID": "abc",
}


def request(proxies: Proxies | None, peer: str = "10.0.0.1") -> Request:
    head = {"REQUEST_METHOD": "GET", "RAW_URI": "/", "HTTP_HOST": "a", "wsgi.url_scheme": "http", "REMOTE_ADDR": peer}
    return Request.from_environ(head | FORGED, "/", proxies)


def shown(asked: Request) -> set[str]:
    return {name for name, _ in asked.headers.pairs()} - {"Host"}


def test_without_trusted_proxies_nobody_is_believed_and_nothing_of_it_shown() -> None:
    asked = request(None)
    assert (asked.client, asked.scheme, asked.host, asked.request_id) == ("10.0.0.1", "http", "a", "abc")
    assert shown(asked) == {"X-Request-Id"}


def test_a_trusted_proxy_is_believed_and_its_family_shown() -> None:
    asked = request(Proxies(OURS))
    assert (asked.client, asked.scheme, asked.host, asked.request_id) == ("1.2.3.4", "https", "b", "abc")
    assert shown(asked) == {"X-Request-Id", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-Ip"}
    assert shown(request(Proxies(OURS, RFC_7239))) == {"X-Request-Id", "Forwarded"}


def test_somebody_else_is_not_believed_not_even_about_the_id() -> None:
    asked = request(Proxies(OURS), peer="9.9.9.9")
    assert (asked.client, asked.scheme, asked.host, asked.request_id) == ("9.9.9.9", "http", "a", None)
    assert shown(asked) == {"X-Request-Id"}
