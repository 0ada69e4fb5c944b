# SPDX-License-Identifier: Apache-2.0
"""Which server is embedded: the strict one with the extra ``http``, else pywsgi's, for loopback.

Must not know events or actors. Read next: `compysition.actors.wsgi`.
"""

import ipaddress
from collections.abc import Collection
from importlib.util import find_spec
from wsgiref.types import WSGIApplication

from compysition.errors import MissingExtraError
from compysition.http.server import EmbeddedServer
from compysition.http.wire import WireLimits


def make_server(
    application: WSGIApplication,
    address: str,
    port: int,
    limits: WireLimits | None = None,
    *,
    tls: tuple[str, str] | None = None,
    spare_paths: Collection[str] = (),
) -> EmbeddedServer:
    """A server for `application`, not started yet. Only the strict one knows `limits` and `spare_paths`.

    Raises:
        MissingExtraError: The address is not loopback or TLS is wanted, and only pywsgi's lenient parser is there.
    """
    if find_spec("gunicorn") is not None:
        from compysition.http.strict import StrictServer  # here, as its parser takes 100 ms and belongs to an extra

        return StrictServer(application, address, port, limits=limits, tls=tls, spare_paths=spare_paths)
    if tls is not None:
        raise MissingExtraError("TLS", "http")
    if not is_loopback(address):
        raise MissingExtraError(f"serving on {address!r}, which others can reach,", "http")
    from compysition.http.pywsgi import PywsgiServer  # here, so that only one of the two is imported

    return PywsgiServer(application, address, port)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach `address`."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False
