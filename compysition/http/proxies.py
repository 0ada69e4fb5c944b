# SPDX-License-Identifier: Apache-2.0
"""Who the client is when there are proxies in front: what they say, and whom of them to believe.

Anybody can send ``X-Forwarded-For``. So a door believes nobody until told which addresses are its proxies, reads one
family of headers only, and shows nobody the others. Must not know requests. Read next: `request`.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from compysition.errors import ConfigurationError
from compysition.http.headers import split_list

#: The families of headers, and the names of each in an environ.
X_FORWARDED: Final = "x-forwarded"
RFC_7239: Final = "rfc7239"
#: How to trust whoever comes in over a Unix socket.
UNIX: Final = "unix"
#: Hops of one request that are looked at.
MAX_HOPS: Final = 32

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

# Not all of RFC 3986: a comma, legal in a name that no resolver knows, would let two joined Host fields pass.
is_host: Final = re.compile(r"(?:[A-Za-z0-9._~%\-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?").fullmatch
_with_port: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?").fullmatch


class Said(NamedTuple):
    """What trusted proxies say of a request; empty texts where they say nothing that counts."""

    client: str
    scheme: str = ""
    host: str = ""


def is_hidden(name: str, family: str | None) -> bool:
    """Whether a field of an environ is one of proxies that is not believed: all but those of `family`."""
    if name == "HTTP_FORWARDED":
        return family != RFC_7239
    if name[:16] == "HTTP_X_FORWARDED" or name == "HTTP_X_REAL_IP":
        return family != X_FORWARDED
    return False


class Proxies:
    """The proxies of a door.

    Args:
        trusted: Their addresses or networks, such as ``10.0.0.0/8``; ``unix`` for those of a Unix socket.
        family: Which headers they write: ``x-forwarded`` (``-For``, ``-Proto``, ``-Host``) or ``rfc7239``
            (``Forwarded``).

    Raises:
        ConfigurationError: One of them is no network, or there is no such family.
    """

    def __init__(self, trusted: Iterable[str], family: str = X_FORWARDED) -> None:
        if family not in (X_FORWARDED, RFC_7239):
            raise ConfigurationError(f"forwarded is {family!r}: wanted is {X_FORWARDED!r} or {RFC_7239!r}")
        self.family = family
        self._networks: list[_Network] = []
        self._has_unix = False
        for text in (trusted,) if isinstance(trusted, str) else trusted:
            if text == UNIX:
                self._has_unix = True
                continue
            try:
                self._networks.append(ipaddress.ip_network(text))
            except ValueError as error:
                raise ConfigurationError(
                    f"trusted_proxies: {text!r} is no address or network ({error}); such as '10.0.0.0/8', or 'unix'"
                ) from error

    def trusts(self, peer: str) -> bool:
        """Whether this is one of them; an empty text is whoever came over a Unix socket."""
        if not peer:
            return self._has_unix
        address = _address(peer)
        return address is not None and self._is_ours(address)

    def read(self, peer: str, environ: Mapping[str, Any]) -> Said | None:
        """What they say, if `peer` is one of them; else None."""
        if not self.trusts(peer):
            return None
        if self.family == RFC_7239:
            return self._read_forwarded(peer, environ.get("HTTP_FORWARDED", ""))
        hops = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")[-MAX_HOPS:]
        client, _ = self._walk(peer, [hop.strip() for hop in hops])
        # The last one in a list is that of the proxy which is known.
        scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").rpartition(",")[2].strip().lower()
        host = environ.get("HTTP_X_FORWARDED_HOST", "").rpartition(",")[2].strip()
        return Said(client, *_checked(scheme, host))

    def _read_forwarded(self, peer: str, header: str) -> Said:
        elements = [
            {name.lower(): _unquoted(value) for name, _, value in [pair.partition("=") for pair in pairs]}
            for pairs in [split_list(element, ";") for element in split_list(header)[-MAX_HOPS:]]
        ]
        client, taken = self._walk(peer, [element.get("for", "") for element in elements])
        if not taken:
            return Said(client)
        # The element that names the client was written by the proxy that the client spoke to.
        named = elements[-taken]
        return Said(client, *_checked(named.get("proto", "").lower(), named.get("host", "")))

    def _walk(self, peer: str, hops: list[str]) -> tuple[str, int]:
        """From the nearest proxy outwards: the first that is none of ours, and how many hops that took."""
        client, taken = peer, 0
        for hop in reversed(hops):
            address = _address(hop)
            # `unknown`, `_hidden`, garbage: whoever is behind that cannot be told.
            if address is None:
                break
            client, taken = str(address), taken + 1
            if not self._is_ours(address):
                break
        return client, taken

    def _is_ours(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)


def _address(text: str) -> _Address | None:
    """The address in a text that may carry a port; an IPv4 address in IPv6 clothes counts as what it is."""
    found = _with_port(text)
    try:
        address = ipaddress.ip_address((found[1] or found[2]) if found else text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value[:1] == '"' else value


def _checked(scheme: str, host: str) -> tuple[str, str]:
    return scheme if scheme in ("http", "https") else "", host if is_host(host) else ""
