# SPDX-License-Identifier: Apache-2.0
"""`EventLogger`: one log record per event, through the standard library's `logging`."""

import logging
from typing import Annotated, Any, Final

from compysition.actor import Actor, ActorOptions
from compysition.arguments import FLAG, TEXT, checked, one_of, text_that, whole
from compysition.event import Event
from compysition.logger import RuntimeLogger

#: Words for levels, and their numbers.
LEVELS: Final = {name: getattr(logging, name.upper()) for name in ("debug", "info", "warning", "error", "critical")}


class EventLogger(Actor):
    """Writes one log record per event, ``prefix + data``, and sends the event on if it is connected.

    The record's logger is ``compysition.actor.NAME`` unless `logger_name` says otherwise; its fields are `actor`,
    `event_id` and `meta_id`. A record is one line: control characters in the data are escaped, so that nobody can
    write a line of his own into a log. An event that carries an error, as on an error path, says so behind its data.

    Records go where the process's logging is configured to bring them, in the thread of the flow: a handler that
    waits, such as one that mails, holds everything. For files there is `FileLogger`.

    Args:
        name: Its name.
        level: Of the records.
        prefix: In front of the data.
        complete: Log the whole event, ids and all, instead of its data.
        max_chars: Longer data is cut to so many characters; the record says how many are missing.
        logger_name: A logger of the standard library, by name.

    Raises:
        ConfigurationError: An argument makes no sense.

    >>> import logging, sys
    >>> from compysition import Director
    >>> from compysition.actors import EventLogger
    >>> logging.basicConfig(format="%(levelname)s %(actor)s: %(message)s", stream=sys.stdout)
    >>> director = Director()
    >>> _ = director.register_actor(EventLogger, "audit", level="warning", prefix="order ", logger_name="audit")
    >>> with director:
    ...     director.post("audit", {"id": 7})
    WARNING audit: order {'id': 7}
    """

    # Order is what people read by.
    options = ActorOptions(concurrency=1)
    _is_end = True

    @checked
    def __init__(
        self,
        name: str,
        *,
        level: Annotated[str, one_of(*LEVELS)] = "info",
        prefix: Annotated[str, TEXT] = "",
        complete: Annotated[bool, FLAG] = False,
        max_chars: Annotated[int, whole(1)] = 1000,
        logger_name: Annotated[str | None, text_that("is the name of a logger", bool)] = None,
        blocking_consume: bool = False,
    ) -> None:
        super().__init__(name, blocking_consume=blocking_consume)
        self.level = level
        self.prefix = prefix
        self.complete = complete
        self.max_chars = max_chars
        self._records = (
            self.logger if logger_name is None else RuntimeLogger(logging.getLogger(logger_name), {"actor": name})
        )

    def consume(self, event: Event) -> None:
        """Log `event` and send it on. Waits only if a handler of `logging` does."""
        if self._records.isEnabledFor(LEVELS[self.level]):
            self._records.log(
                LEVELS[self.level],
                "%s",
                self.prefix + self._text(event),
                extra={"event_id": event.event_id, "meta_id": event.meta_id},
            )
        self.send_event(event)

    def _text(self, event: Event) -> str:
        data: Any = event if self.complete else event.data
        if isinstance(data, bytes | bytearray):
            # Only as much as is shown: a large body is not decoded for nothing.
            missing = max(0, len(data) - 4 * self.max_chars)
            text = data[: 4 * self.max_chars].decode(errors="backslashreplace")
        else:
            missing, text = 0, str(data)
        missing += max(0, len(text) - self.max_chars)
        text = _escaped(text[: self.max_chars])
        if missing:
            text += f"… ({missing} more)"
        failure = event.error
        if failure is not None and not self.complete:
            text += f" [{failure.actor or 'somebody'} failed: {_escaped(str(failure))}]"
        return text


def _escaped(text: str) -> str:
    """`text` in one line, and nothing in it that a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
