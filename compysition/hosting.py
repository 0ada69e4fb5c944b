# SPDX-License-Identifier: Apache-2.0
"""Who runs a script, if it is not the script itself: the command line, or a server's worker process.

A host sets `HOST` around the reading of a script; `Director.start` asks it first. Must not know the Director.
"""

from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from compysition.director import Director
    from compysition.drain import StopReport


class ScriptHost(Protocol):
    """What a host is asked."""

    def start(self, director: "Director") -> "StopReport | None":
        """The script has called `start`: None lets it go on.

        A report is returned to the script at once, and the host starts the Director itself.
        """

    def ready(self, director: "Director") -> None:
        """All actors are ready."""


#: The host of the script that is being read; None in a plain ``python script.py``.
HOST: ContextVar[ScriptHost | None] = ContextVar("compysition_host", default=None)
_everywhere: list[ScriptHost] = []


def host_everywhere(host: ScriptHost) -> None:
    """Make `host` that of the whole process, until its end: threads and greenlets of a script have no `HOST`."""
    _everywhere[:] = [host]


def find_host() -> ScriptHost | None:
    """Who has to be asked before a Director starts; None if nobody."""
    return HOST.get() or next(iter(_everywhere), None)
