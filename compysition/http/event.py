# SPDX-License-Identifier: Apache-2.0
"""`HttpEvent`: an event that began as an HTTP request and can carry the answer.

Read next: `tickets`, which says how the answer finds its request.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from compysition.event import Event
from compysition.http.body import FormFile
from compysition.http.headers import FrozenHeaders
from compysition.http.multidict import MultiDict
from compysition.http.request import Request
from compysition.http.response import ResponseHead


class HttpEvent(Event):
    """An event that came in as an HTTP request.

    `service` is the first segment of the path, `data` the decoded body, `meta_id` the request's id. Copies share
    `request` and copy `response`; created events inherit `request` and begin with a `response` of their own.

    Args:
        data: The decoded body.
        request: What was asked; by default a ``GET /``, for tests.
        service: As in `Event`.
        meta_id: As in `Event`.
        attributes: As in `Event`.

    Attributes:
        request: The request; frozen.
        response: What actors say about the answer: status, headers, cookies, content type.
        files: Files of a multipart form.
    """

    __slots__ = ("files", "request", "response")

    def __init__(
        self,
        data: Any = None,
        request: Request | None = None,
        service: str = "default",
        meta_id: str | None = None,
        **attributes: Any,
    ) -> None:
        self.request = request if request is not None else Request("GET", "/")
        self.response = ResponseHead()
        self.files: Sequence[FormFile] = ()
        super().__init__(data, service, meta_id, **attributes)

    @property
    def method(self) -> str:
        """The request's method, upper case."""
        return self.request.method

    @property
    def path(self) -> str:
        """The request's decoded path, behind the door's `base_path`."""
        return self.request.path

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters of the route's pattern, by name."""
        return self.request.params

    @property
    def query(self) -> MultiDict:
        """The fields of the request's query."""
        return self.request.query

    @property
    def headers(self) -> FrozenHeaders:
        """The request's header fields."""
        return self.request.headers

    @property
    def cookies(self) -> Mapping[str, str]:
        """The request's cookies."""
        return self.request.cookies

    @property
    def client(self) -> str:
        """The address of the peer, as text."""
        return self.request.client

    def is_cancelled(self) -> bool:
        """Whether nobody waits for the answer any more: its time is over, or the client has gone."""
        return self._lineage is not None and self._lineage.ticket.is_expired()

    def copy(self) -> Self:
        """As `Event.copy`, with a copy of the response's head."""
        twin = super().copy()
        twin.response = self.response.copy()
        return twin

    def _derive(self, data: Any) -> Self:
        child = super()._derive(data)
        child.request = self.request
        child.response = ResponseHead()
        child.files = self.files
        return child
