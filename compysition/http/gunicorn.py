# SPDX-License-Identifier: Apache-2.0
"""gunicorn, behind names of our own. The only file that imports it.

Its parser, in Python, because it refuses what may be read in two ways; nothing else of it. It is given what it needs
of gunicorn's configuration as a frozen value, so a setting of gunicorn cannot make it lenient.
Must not know events. Read next: `gate`.
"""

from dataclasses import dataclass
from typing import Any, Final

from gunicorn.http import errors
from gunicorn.http.body import LengthReader
from gunicorn.http.message import Request

from compysition.http.gate import RefusedError
from compysition.http.wire import Wire

#: Request line, one field, all fields, and the trailers behind a chunked body; in bytes, and the fields counted.
MAX_LINE_BYTES: Final = 8190
MAX_FIELD_BYTES: Final = 8190
MAX_FIELDS: Final = 100
MAX_TRAILER_BYTES: Final = 8 * 1024

#: Fields that the parser has a rule for; all others pass as they are.
_RULED: Final = frozenset({"HOST", "CONTENT-TYPE", "EXPECT"})

#: What reading a body may raise when its chunks or trailers cannot be read. All of it is the client's fault.
BODY_ERRORS: Final = (errors.ParseException, errors.NoMoreData)


@dataclass(frozen=True, slots=True)
class _Settings:
    """The part of gunicorn's configuration that its parser reads: strict everywhere, and no proxy believed."""

    is_ssl: bool = False
    limit_request_line: int = MAX_LINE_BYTES
    limit_request_fields: int = MAX_FIELDS
    limit_request_field_size: int = MAX_FIELD_BYTES
    proxy_protocol: str = "off"
    http_parser: str = "python"
    permit_unconventional_http_method: bool = False
    permit_unconventional_http_version: bool = False
    permit_obsolete_folding: bool = False
    casefold_http_method: bool = False
    strip_header_spaces: bool = False
    header_map: str = "drop"


PLAIN: Final = _Settings()
TLS: Final = _Settings(is_ssl=True)


class ParsedHead(Request):  # type: ignore[misc]  # gunicorn has no types
    """The head of one request, and its body to be read."""

    def _peer_trusted_for_forwarded(self) -> tuple[dict[str, str], list[str]]:
        # Whom to believe is decided by the door, from the environ.
        return {}, []

    def _apply_header_policy(
        self, name: str, value: str, scheme_state: Any, seen: Any, *rest: Any, from_trailer: bool = False
    ) -> Any:
        if name not in _RULED and "_" not in name:
            return name, value
        if name == "EXPECT" and self.version < (1, 1):
            return name, value  # to be ignored (RFC 9110, section 10.1.1)
        return super()._apply_header_policy(name, value, scheme_state, seen, *rest, from_trailer=from_trailer)

    @property
    def body_left(self) -> int | None:
        """How much of the body was not read yet, in bytes; None if nobody knows."""
        reader = self.body.reader
        if isinstance(reader, LengthReader):
            left: int = reader.length
            return left
        return 0 if reader.parser is None else None

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for ``100 Continue`` before it sends the body."""
        expects: bool = self._expected_100_continue
        return expects


def read_head(source: Wire, *, is_tls: bool = False) -> ParsedHead | None:
    """Wait for a head; None if the client ended the connection before its first byte.

    Raises:
        RefusedError: What came is no head that is taken.
    """
    try:
        head = ParsedHead(TLS if is_tls else PLAIN, source, ())
    except StopIteration:
        return None
    except errors.LimitRequestLine as error:
        raise RefusedError(414, "the request line is too long") from error
    except errors.LimitRequestHeaders as error:
        raise RefusedError(431, "the header fields are too many or too long") from error
    except errors.UnsupportedTransferCoding as error:
        raise RefusedError(501, "a Transfer-Encoding other than chunked is not taken") from error
    except errors.ExpectationFailed as error:
        raise RefusedError(417, "an Expect other than 100-continue cannot be met") from error
    except errors.InvalidHTTPVersion as error:
        # A tuple: the version was readable.
        if isinstance(error.version, tuple):
            raise RefusedError(505, "a version of HTTP other than 1.0 and 1.1 is not spoken") from error
        raise RefusedError(400, "the request line is not METHOD TARGET HTTP/x.y") from error
    except BODY_ERRORS as error:
        raise RefusedError(400, "the head is cut off or malformed") from error
    reader = head.body.reader
    if hasattr(reader, "limit_trailer_section"):
        reader.limit_trailer_section = MAX_TRAILER_BYTES
    return head
