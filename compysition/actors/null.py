# SPDX-License-Identifier: Apache-2.0
"""`Null`: the end of what nobody needs."""

from compysition.actor import Actor
from compysition.event import Event


class Null(Actor):
    """Takes every event and does nothing; each ends as `delivered`.

    Args:
        name: Its name.
    """

    _is_end = True

    def consume(self, event: Event) -> None:
        """Finish with `event`."""
