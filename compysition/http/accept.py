# SPDX-License-Identifier: Apache-2.0
"""Media types: what a client accepts, what a route takes and gives, and the best of what there is.

RFC 9110, sections 8.3.1 and 12.5.1. Must not know requests or answers. Read next: `routes`.
"""

import re
from functools import lru_cache
from typing import Final

from compysition.errors import ConfigurationError
from compysition.http.headers import split_list

#: Ranges of one header that are looked at; browsers send about eight.
MAX_RANGES: Final = 32

_is_range: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+/[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_is_weight: Final = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?").fullmatch


def media_type(content_type: str | None) -> str:
    """The type itself of a ``Content-Type``: lower case, without parameters; empty for None."""
    return "" if content_type is None else content_type.partition(";")[0].strip().lower()


def check_patterns(patterns: tuple[str, ...], where: str) -> tuple[str, ...]:
    """Media types as a script writes them: ``application/json``, ``text/*``, ``*/*+json``, ``*/*``; in lower case.

    Raises:
        ConfigurationError: One of them is no such type; `where` says whose it is.
    """
    for pattern in patterns:
        if not isinstance(pattern, str) or not _is_range(pattern):
            raise ConfigurationError(f"{where}: {pattern!r} is no media type; such as 'application/json' or '*/*+json'")
    return tuple(pattern.lower() for pattern in patterns)


def is_one_of(content_type: str | None, patterns: tuple[str, ...]) -> bool:
    """Whether a ``Content-Type`` is one of `patterns`, which `check_patterns` has passed."""
    kind = media_type(content_type)
    return "/" in kind and any(_fits(kind, pattern) for pattern in patterns)


def best(accept: str | None, offers: tuple[str, ...]) -> str | None:
    """The offer that the client wants most; of equals the first. None if it accepts none of them.

    Without the header, or with one that cannot be read, everything is accepted. What `accept` gives no weight counts
    as 1, and the most specific range that fits an offer decides about it.
    """
    if accept is None or accept == "*/*":
        return offers[0]
    return _best(accept, offers)


@lru_cache(maxsize=256)
def _best(accept: str, offers: tuple[str, ...]) -> str | None:
    ranges = _parse(accept)
    if not ranges:
        return offers[0]
    weights = [_weight(offer, ranges) for offer in offers]
    heaviest = max(weights)
    return offers[weights.index(heaviest)] if heaviest > 0 else None


def _weight(offer: str, ranges: list[tuple[str, float]]) -> float:
    fitting = [(_specificity(wanted), weight) for wanted, weight in ranges if _fits(offer, wanted)]
    return max(fitting)[1] if fitting else 0.0


def _specificity(wanted: str) -> int:
    return 0 if wanted == "*/*" else 1 if wanted.endswith("/*") else 2


def _parse(accept: str) -> list[tuple[str, float]]:
    """Ranges with their weights; empty if one of them cannot be read."""
    ranges = []
    for part in split_list(accept)[:MAX_RANGES]:
        kind, *parameters = split_list(part, ";")
        kind = kind.lower()
        if not kind and not parameters:
            continue  # an empty element of a list is to be ignored (RFC 9110, section 5.6.1)
        weight = 1.0
        for parameter in parameters:
            name, _, value = (part.strip() for part in parameter.partition("="))
            if name.lower() == "q":
                if not _is_weight(value):
                    return []
                weight = float(value)
                break
        if not _is_range(kind):
            return []
        ranges.append((kind, weight))
    return ranges


def _fits(kind: str, pattern: str) -> bool:
    """Whether a type is covered by a range; ``*/*+json`` covers every type with that suffix."""
    if pattern in ("*/*", kind):
        return True
    main, _, sub = kind.partition("/")
    wanted_main, _, wanted_sub = pattern.partition("/")
    if wanted_main not in ("*", main):
        return False
    if wanted_sub.startswith("*+"):
        return sub.endswith(wanted_sub[1:])
    return wanted_sub in ("*", sub)
