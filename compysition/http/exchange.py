# SPDX-License-Identifier: Apache-2.0
"""The two ends of a request's way through a flow: which route it takes, and the answer of what came back.

Must not know actors or sockets. Read next: `compysition.actors.wsgi`.
"""

from logging import LoggerAdapter
from typing import Any, Final

from compysition.errors import HeaderError, RequestError, TooLargeError, UsageError
from compysition.http.event import HttpEvent
from compysition.http.request import KNOWN_METHODS, Request, set_params
from compysition.http.response import Answer, ResponseHead, problem, render
from compysition.http.routes import Route, RouteTable
from compysition.http.tickets import HttpTicket, failure_answer, options_answer, urn
from compysition.lineage import TicketState

#: Of a door without routes.
_ANY_PATH: Final = Route("/", "")


def find_route(routes: RouteTable, request: Request, max_body_bytes: int) -> Route | Answer:
    """The route of a request, or the answer to one that needs no flow. Without routes there is one for all.

    Raises:
        RequestError: It is refused before its body is read.
    """
    method = request.method
    if method not in KNOWN_METHODS and not routes.knows(method):
        error = RequestError(f"the method {method} is not implemented")
        error.status = 501
        raise error
    if request.target == "*":
        return options_answer(KNOWN_METHODS)
    length, route = request.content_length, _ANY_PATH
    if routes:
        found = routes.match(request)
        if isinstance(found, frozenset):
            return options_answer(found)
        route, params = found
        set_params(request, params)
        route.check(request)
    if length is not None and length > (limit := route.max_body_bytes or max_body_bytes):
        raise TooLargeError(f"the body has {length} bytes; {limit} is the limit")
    return route


def answer_of(
    ticket: HttpTicket,
    request: Request,
    meta_id: str,
    *,
    produces: tuple[str, ...] | None,
    no_answer_status: int,
    logger: "LoggerAdapter[Any]",
) -> Answer:
    """The answer to a request whose ticket is closed."""
    method, accept = request.method, request.accept
    answer, ticket.answer = ticket.answer, None
    if ticket.state is not TicketState.ANSWERED or answer is None:
        return ticket.refusal(no_answer_status, urn(meta_id), method, accept)
    head = answer.response if isinstance(answer, HttpEvent) else ResponseHead()
    failure = answer.error
    if failure is not None and head.status is None and head.content_type is None:
        return failure_answer(failure, urn(meta_id), method, accept)
    try:
        return render(
            head,
            answer.data,
            method=method,
            status=failure.status if failure is not None else 200,
            headers=failure.headers if failure is not None else None,
            accept=accept,
            produces=produces,
        )
    except (UsageError, HeaderError) as error:
        logger.error(
            "the answer to request %s cannot be sent: %s",
            meta_id,
            error,
            extra={"event_id": answer.event_id},
        )
        return problem(500, instance=urn(meta_id), method=method, accept=accept)
