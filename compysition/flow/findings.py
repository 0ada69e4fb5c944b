# SPDX-License-Identifier: Apache-2.0
"""What ``compysition check`` can say: a closed table of codes, and `Finding`, one thing that was found.

A code is never given a second meaning. `docs/checks.md` has a section for each. Read next: `checks`.
"""

import enum
from dataclasses import dataclass

from compysition.flow.values import Place


class Severity(enum.Enum):
    """How bad it is."""

    #: It cannot work as it stands: exit code 1.
    ERROR = "error"
    #: It may be meant: exit code 0, or 1 with ``--strict``.
    WARNING = "warning"


class Code(enum.Enum):
    """Everything that can be found. Codes from 200 on are warnings."""

    C101 = "no way back to the door"
    C102 = "only failures come back to the door"
    C103 = "an answer goes to a door that did not ask"
    C104 = "a ring multiplies its events"
    C110 = "the script does not build"
    C111 = "the script makes no Director"
    C112 = "the script makes several Directors and starts none"
    C113 = "the script does not come to its end"
    C114 = "the script ends the process"
    C115 = "the script needs an extra that is missing"
    C201 = "an actor is not connected"
    C202 = "a ring of data"
    C203 = "open to the network"
    C204 = "a library that holds all actors"
    C205 = "an extra will be missing"

    @property
    def severity(self) -> Severity:
        """Error or warning."""
        return Severity.WARNING if self.name >= "C2" else Severity.ERROR


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Attributes:
        code: Which.
        message: What was seen, in one line.
        remedy: What to do about it.
        actor: The actor it is about.
        connection: The connection it is about, or the way through several.
        place: The line of the script to look at.
        director: The name of the Director.
    """

    code: Code
    message: str
    remedy: str
    actor: str | None = None
    connection: str | None = None
    place: Place | None = None
    director: str | None = None
