# SPDX-License-Identifier: Apache-2.0
"""Every error that compysition raises, in one tree, split by who must act.

::

    CompysitionError
    ├── ConfigurationError            the script is wired wrongly: mend the script
    │   ├── RegistrationError         a name used twice, a constructor that raised
    │   ├── ActorNotFoundError        (LookupError) no actor has that name
    │   ├── OutboxNotFoundError       (LookupError) `queues=` names no outbox of this actor
    │   ├── ConnectionTypeError       (TypeError) what was to be connected is no actor
    │   ├── QueueConnectedError       the very same outbox and inbox are connected already
    │   ├── StylesheetError           an XSLT stylesheet does not compile; carries `line`
    │   ├── MissingExtraError         (ImportError) an extra has to be installed first
    │   ├── SettingError              (ValueError) a setting has no value, or one that does not fit
    │   └── StartError                an actor did not become ready; carries `report`
    ├── UsageError                    (RuntimeError) a call that cannot be right: mend the caller
    │   ├── EventNotOwnedError        the event belongs to somebody else, or has ended
    │   ├── NotAnEventError           (TypeError) a value that is no event was sent
    │   ├── AttributeNameError        (ValueError) an attribute would hide the event's API
    │   ├── HeaderError               (ValueError) a header's name or value cannot be sent
    │   ├── WrongContextError         called from a greenlet, thread or process where it cannot work
    │   └── DirectorStateError        called before `start` or after `stop`
    ├── QueueFullError                no room, and the policy says not to wait
    │   └── RingFullError             a ring of actors multiplies its events
    ├── KeptFullError                 503: an actor keeps as many events as it may
    ├── DirectorStoppedError          it was closed: nothing broke
    ├── HandlerTimeoutError           (TimeoutError) 504: a `gevent.Timeout` left the handler
    ├── DeadlineError                 (TimeoutError) 504: the event's own time is over
    ├── ActorError                    500: stands for an exception of a class that cannot be built again
    └── RequestError                  this event cannot be served: whoever sent it should change it
        ├── MalformedError            (ValueError) 400
        ├── UnauthorizedError         (PermissionError) 401
        ├── ForbiddenError            (PermissionError) 403
        ├── NotFoundError             (LookupError) 404
        ├── MethodNotAllowedError     405
        ├── NotAcceptableError        406
        ├── ConflictError             409
        ├── GoneError                 (LookupError) 410
        ├── TooLargeError             (ValueError) 413
        ├── UnsupportedTypeError      (ValueError) 415
        ├── UnprocessableError        (ValueError) 422
        ├── TooManyError              429
        └── UnavailableError          503

Control flow is no error and does not end in ``Error``: `StopFlow`, `Retry` and `Fatal` are raised by a handler
to say what becomes of its event.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compysition.drain import StopReport


#: Names that a message lists where none is near.
_LISTED = 12


def suggestion(wrong: str, known: Iterable[str], *, is_listed: bool = True) -> str:
    """Words to append to a message about a name that does not exist: the nearest one, or those that there are.

    Args:
        wrong: The name that was given.
        known: The names that there are.
        is_listed: Whether they are listed where none is near; if not, nothing is said then.

    >>> suggestion("stdout", ["STDOUT", "Source"])
    "; did you mean 'STDOUT'?"
    """
    names = sorted(known)
    # Capitals are the commonest mistake of all, and count for nothing in "near".
    close = get_close_matches(wrong, names, n=1) or [
        name
        for near in get_close_matches(wrong.lower(), map(str.lower, names), n=1)
        for name in names
        if name.lower() == near
    ]
    if close:
        return f"; did you mean {close[0]!r}?"
    if not is_listed:
        return ""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"; there are: {', '.join(map(repr, names[:_LISTED]))}{more}" if names else "; there are none"


class CompysitionError(Exception):
    """Base of all errors raised by compysition."""

    #: The HTTP status with which a request is answered when its event fails with this error; subclasses inherit it.
    #: Errors that are not of this tree count as 500.
    status: int = 500
    #: Headers that belong to an answer with this error, such as ``WWW-Authenticate``.
    headers: Mapping[str, str] = {}


# ---- the configuration ------------------------------------------------------------------------------------------


class ConfigurationError(CompysitionError):
    """The script is wired wrongly; whoever wrote it should mend it."""


class RegistrationError(ConfigurationError):
    """An actor cannot be registered: its name is taken, its constructor raised, or its arguments do not fit."""


class ActorNotFoundError(ConfigurationError, LookupError):
    """No actor of that name is registered with this Director."""


class OutboxNotFoundError(ConfigurationError, LookupError):
    """`queues=` names an outbox that the actor does not have."""


class ConnectionTypeError(ConfigurationError, TypeError):
    """One side of a connection is neither an actor, nor its name, nor ``(actor, "queue_name")``."""


class QueueConnectedError(ConfigurationError):
    """The very same outbox and inbox are connected already."""


class StylesheetError(ConfigurationError):
    """An XSLT stylesheet cannot be used. `line` counts from 1; None when the parser named none."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class MissingExtraError(ConfigurationError, ImportError):
    """A part needs an extra that is not installed. `extra` is its name."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra {extra!r}: pip install 'compysition[{extra}]'")
        self.extra = extra


class SettingError(ConfigurationError, ValueError):
    """A setting has no value or one that does not fit, or the settings file cannot be used: mend what was given.

    `name` is the setting's, None if it is about the whole file; `source` says where the value came from. The value of a
    secret is in neither.
    """

    def __init__(self, message: str, *, name: str | None = None, source: str | None = None) -> None:
        super().__init__(message)
        self.name = name
        self.source = source


class StartError(ConfigurationError):
    """An actor did not become ready; those that had started were stopped again.

    `actor` is its name; `report` the `StopReport` of the stop that followed (exit code 2).
    """

    def __init__(self, message: str, *, actor: str | None = None, report: "StopReport | None" = None) -> None:
        super().__init__(message)
        self.actor = actor
        self.report = report


# ---- the programmer -----------------------------------------------------------------------------------------------


class UsageError(CompysitionError, RuntimeError):
    """A call that cannot be right where it stands; whoever wrote the call should mend it."""


class EventNotOwnedError(UsageError):
    """An event was sent by somebody who does not have it in hand."""


class NotAnEventError(UsageError, TypeError):
    """A value that is no event was sent."""


class AttributeNameError(UsageError, ValueError):
    """An event's attribute would hide a name of the event's own API."""


class HeaderError(UsageError, ValueError):
    """The name or value of an HTTP header, cookie or content type is not one that can be sent."""


class WrongContextError(UsageError):
    """Called from a greenlet, hub callback, thread or process in which the call cannot work."""


class DirectorStateError(UsageError):
    """The Director is not in the state that the call needs, such as running."""


# ---- what happens to an event ---------------------------------------------------------------------------------------


class QueueFullError(CompysitionError):
    """A queue has no room and the sender is not to wait. `queue` is its name, `capacity` its size in events."""

    status = 503

    def __init__(self, message: str, *, queue: str, capacity: int) -> None:
        super().__init__(message)
        self.queue = queue
        self.capacity = capacity


class RingFullError(QueueFullError):
    """A ring of actors holds four times the sum of its capacities: its handlers send more than they receive."""


class KeptFullError(CompysitionError):
    """An actor keeps as many events as its option `max_kept` allows. `actor` is its name."""

    status = 503

    def __init__(self, message: str, *, actor: str, max_kept: int) -> None:
        super().__init__(message)
        self.actor = actor
        self.max_kept = max_kept


class DirectorStoppedError(CompysitionError):
    """The Director was stopped while the call waited, or does not take anything any more. Nothing broke."""

    status = 503
    #: Id of the event whose wait for room this ended; None if it ended anything else.
    event_id: str | None = None


class HandlerTimeoutError(CompysitionError, TimeoutError):
    """A `gevent.Timeout` left a handler, or `offload` took longer than its `timeout_s`."""

    status = 504


class DeadlineError(CompysitionError, TimeoutError):
    """The time that an event was given is over, or nobody waits for its answer any more."""

    status = 504
    #: Id of the event whose wait for room this ended; None if it ended anything else.
    event_id: str | None = None
    #: Whether other branches of the same fan-out had been put before.
    has_begun: bool = False


class ActorError(CompysitionError):
    """Stands for an exception of a class that cannot be built again from its text; the text names that class."""


class RequestError(CompysitionError):
    """An event cannot be served as it is. Raise a subclass in a handler to choose the status of the answer.

    The text of these errors is shown to the caller, so it should not hold secrets.

    Args:
        message: What was seen and what was wanted; shown to the caller.
        headers: Headers for the answer.
        retry_after_s: For `TooManyError` and `UnavailableError`: when to come again, in seconds.
    """

    status = 400

    def __init__(
        self, message: str = "", *, headers: Mapping[str, str] | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        if headers is not None:
            self.headers = dict(headers)


class MalformedError(RequestError, ValueError):
    """400: the data cannot be read."""

    status = 400


class UnauthorizedError(RequestError, PermissionError):
    """401: nobody known asked; the answer says how to log in."""

    status = 401


class ForbiddenError(RequestError, PermissionError):
    """403: known, but not allowed."""

    status = 403


class NotFoundError(RequestError, LookupError):
    """404: there is no such thing."""

    status = 404


class MethodNotAllowedError(RequestError):
    """405: the thing exists, the method does not fit it."""

    status = 405


class NotAcceptableError(RequestError):
    """406: nothing the caller accepts can be made."""

    status = 406


class ConflictError(RequestError):
    """409: it does not fit the present state."""

    status = 409


class GoneError(RequestError, LookupError):
    """410: it was here and will not come back."""

    status = 410


class TooLargeError(RequestError, ValueError):
    """413: larger than the limit."""

    status = 413


class UnsupportedTypeError(RequestError, ValueError):
    """415: a type of content that is not taken here."""

    status = 415


class UnprocessableError(RequestError, ValueError):
    """422: readable, but its content makes no sense here."""

    status = 422


class TooManyError(RequestError):
    """429: too many requests of this caller."""

    status = 429


class UnavailableError(RequestError):
    """503: not now; `retry_after_s` says when."""

    status = 503


# ---- control flow ---------------------------------------------------------------------------------------------------


class ControlFlow(Exception):  # noqa: N818 - no error, see the module docstring
    """Base of what a handler raises to say what becomes of its event; none of it is an error."""


class StopFlow(ControlFlow):
    """End the event here: answered with what it holds, or `delivered` if nobody waits for it."""


class Retry(ControlFlow):
    """Give the event back and handle it again later, up to the actor's `max_retries`.

    Args:
        after_s: When, in seconds, at once if it is not above 0; None = the actor's backoff.
    """

    def __init__(self, after_s: float | None = None) -> None:
        if after_s is not None and not (isinstance(after_s, int | float) and abs(after_s) < float("inf")):
            raise UsageError(f"Retry(after_s={after_s!r}): wanted is a number of seconds, or None")
        super().__init__(after_s)
        self.after_s = after_s


class Fatal(ControlFlow):
    """The actor's own state is broken: give the event back and restart the actor."""
