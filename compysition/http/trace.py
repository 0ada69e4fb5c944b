# SPDX-License-Identifier: Apache-2.0
"""W3C Trace Context: which trace a request belongs to.

Must not know requests. Read next: `request`.
"""

import re
import secrets
from typing import Final, NamedTuple

#: Longest ``tracestate`` that is handed on, in bytes (Trace Context, section 3.3.1.5).
MAX_STATE_BYTES: Final = 512

_match: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?").fullmatch


class Trace(NamedTuple):
    """One trace, and the caller's place in it.

    Attributes:
        trace_id: 32 hexadecimal digits, the same for all of the trace.
        parent_id: 16 hexadecimal digits: the span of the caller.
        flags: Two hexadecimal digits.
        state: ``tracestate`` as it came; empty without one, or with one that is too long.
    """

    trace_id: str
    parent_id: str
    flags: str
    state: str = ""

    def child(self) -> str:
        """A ``traceparent`` for a call made on the way: the same trace, a parent of its own."""
        return f"00-{self.trace_id}-{secrets.token_hex(8)}-{self.flags}"


def parse_trace(parent: str | None, state: str | None = None) -> Trace | None:
    """Read ``traceparent`` and ``tracestate``; None for a header that is missing, double or not valid (section 3.2).

    >>> parse_trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").flags
    '01'
    """
    found = None if parent is None else _match(parent)
    if found is None:
        return None
    version, trace_id, parent_id, flags, rest = found.groups()
    if version == "ff" or not trace_id.strip("0") or not parent_id.strip("0") or (version == "00" and rest):
        return None
    return Trace(trace_id, parent_id, flags, state if state and len(state) <= MAX_STATE_BYTES else "")
