# SPDX-License-Identifier: Apache-2.0
"""The ticket of an HTTP request: exactly one answer, by a deadline, and its status.

Must not know sockets or what events hold. Read next: `compysition.actors.wsgi`.
"""

import random
from collections.abc import Iterable
from http import HTTPStatus

from compysition.deadletter import RETRY_AFTER_STOP_S
from compysition.errors import RequestError
from compysition.event import Failure
from compysition.http.response import Answer, problem, status_line
from compysition.lineage import Ticket, TicketState

#: `Retry-After` of a refusal because of overload is drawn from here, in whole seconds, so that clients do not come
#: back all together; while draining it is `RETRY_DRAINING_S`.
RETRY_OVERLOAD_S = (1, 2, 3)
RETRY_DRAINING_S = RETRY_AFTER_STOP_S


class HttpTicket(Ticket):
    """Waits for the answer to one request of the door `door`."""

    __slots__ = ("door",)

    door: object

    def refusal(self, no_answer_status: int, instance: str | None, method: str, accept: str | None = None) -> Answer:
        """The answer to a request whose ticket closed without an answering event."""
        if self.state is TicketState.FAILED and self.failure is not None:
            return failure_answer(self.failure, instance, method, accept)
        if self.state is TicketState.ENDED:
            if self.has_drop:
                return unavailable(random.choice(RETRY_OVERLOAD_S), method, accept)
            return no_answer(no_answer_status, instance, method, accept)
        return problem(HTTPStatus.GATEWAY_TIMEOUT.value, instance=instance, method=method, accept=accept)


def failure_answer(failure: Failure, instance: str | None, method: str, accept: str | None = None) -> Answer:
    """Problem details for a failed event. Only errors made for the caller say more than their status."""
    is_for_caller = issubclass(failure.error_class, RequestError)
    return problem(
        failure.status if 400 <= failure.status <= 599 else 500,
        failure.text if is_for_caller else "",
        instance=instance,
        headers=failure.headers,
        retry_after_s=failure.retry_after_s,
        method=method,
        accept=accept,
    )


def no_answer(status: int, instance: str | None, method: str, accept: str | None = None) -> Answer:
    """The answer to a request all of whose branches ended without one."""
    if status >= 400:
        return problem(status, instance=instance, method=method, accept=accept)
    headers = [] if status in (204, 304) else [("Content-Length", "0")]
    return status_line(status), headers, b""


def urn(meta_id: str) -> str:
    """How an answer names its request."""
    return f"urn:compysition:request:{meta_id}"


def options_answer(methods: Iterable[str]) -> Answer:
    """What can be asked for at a path: 204 with ``Allow`` (RFC 9110, section 9.3.7)."""
    return status_line(204), [("Allow", ", ".join(sorted(methods)))], b""


def unavailable(retry_after_s: int, method: str, accept: str | None = None) -> Answer:
    """503, because of overload or a stop."""
    return problem(HTTPStatus.SERVICE_UNAVAILABLE.value, retry_after_s=retry_after_s, method=method, accept=accept)
