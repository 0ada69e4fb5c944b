# SPDX-License-Identifier: Apache-2.0
"""What a supervisor asks a server: is it alive, and may it be sent requests.

Must not know events or actors. Read next: `compysition.actors.wsgi`.
"""

import math
from typing import Final

from compysition.http.response import Answer, status_line
from compysition.http.tickets import RETRY_DRAINING_S

#: Whether the hub turns, and whether requests are served well. Absolute paths, whatever `base_path` and routes say.
LIVE: Final = "/-/live"
READY: Final = "/-/ready"
PATHS: Final = frozenset({LIVE, READY})

#: Part of `max_pending` from which on a door is crowded, and for how many seconds that has to last until it says so: a
#: burst that is over at the next look is no reason to be taken out of service.
CROWDED: Final = 0.9
CROWDED_S: Final = 1.0


class Crowd:
    """How long nearly as many requests have been open as may be.

    Args:
        max_pending: Requests that may be open at once.
    """

    __slots__ = ("since", "size")

    def __init__(self, max_pending: int) -> None:
        #: So many are a crowd.
        self.size = math.ceil(max_pending * CROWDED)
        #: When it became one; None = it is none.
        self.since: float | None = None

    def grew(self, now: float) -> None:
        """There is one, at `now` in seconds."""
        if self.since is None:
            self.since = now

    def lasts(self, now: float) -> bool:
        """Whether it has been one for so long that no more should come."""
        return self.since is not None and now - self.since >= CROWDED_S


def health_answer(path: str, method: str, trouble: str | None) -> Answer:
    """The answer to one of `PATHS`: one word.

    Args:
        path: Which of them.
        method: GET and HEAD are answered, anything else is not allowed.
        trouble: Why the door is not ready, in a word; None = it is.
    """
    word, status = ("live" if path == LIVE else "ready"), 200
    extra: tuple[tuple[str, str], ...] = ()
    if method not in ("GET", "HEAD"):
        word, status, extra = "GET or HEAD", 405, (("Allow", "GET, HEAD"),)
    elif path == READY and trouble is not None:
        word, status, extra = trouble, 503, (("Retry-After", str(RETRY_DRAINING_S)),)
    body = f"{word}\n".encode()
    fields = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Cache-Control", "no-store"),
        ("Content-Length", str(len(body))),
        ("X-Content-Type-Options", "nosniff"),
        *extra,
    ]
    return status_line(status), fields, b"" if method == "HEAD" else body
