# SPDX-License-Identifier: Apache-2.0
"""Loggers of the runtime, which a failing logging handler cannot take down.

Must not know anything else. Read next: `event`.
"""

import logging
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any

#: The field of a record that says which Director made it; a record without it belongs to none.
DIRECTOR = "_director"


class RuntimeLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds its own fields to every record and keeps those that a call gives.

    A handler of `logging` that raises is somebody else's fault in the middle of our accounting: its error is printed
    to standard error and goes no further.
    """

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """As `logging.LoggerAdapter.process`."""
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs

    def log(self, level: int, msg: Any, *args: Any, **kwargs: Any) -> None:
        """As `logging.LoggerAdapter.log`; never raises."""
        if self.isEnabledFor(level):
            # One frame more than the caller's: records should name the caller's line.
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
            try:
                super().log(level, msg, *args, **kwargs)
            except Exception:  # noqa: BLE001 - boundary
                # Boundary: a user's handler. See above.
                if sys.stderr is not None:
                    traceback.print_exc()

    def of(self, director: object) -> "RuntimeLogger":
        """The same for the records of one Director, which no other's log actors hear. It keeps no reference to it."""
        return RuntimeLogger(self.logger, {**(self.extra or {}), DIRECTOR: id(director)})


def get_logger(name: str, **fields: Any) -> RuntimeLogger:
    """The logger ``compysition.name`` with `fields` on every record."""
    return RuntimeLogger(logging.getLogger(f"compysition.{name}"), fields)
