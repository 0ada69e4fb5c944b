# SPDX-License-Identifier: Apache-2.0
"""TLS under a connection: the context, and a socket that never waits.

Must not know HTTP beyond the name of its version. Read next: `wire`.
"""

import os
from pathlib import Path
from typing import Any, Final

from gevent import socket, ssl

from compysition.errors import ConfigurationError

#: What is spoken inside (RFC 7301): nothing else is offered.
PROTOCOL: Final = "http/1.1"


def make_context(certificate: str | os.PathLike[str], key: str | os.PathLike[str]) -> ssl.SSLContext:
    """TLS 1.2 or newer, with Python's ciphers, without renegotiation.

    Args:
        certificate: Path of the certificate, in PEM, followed by those that it rests on.
        key: Path of its private key, in PEM, without a password.

    Raises:
        ConfigurationError: The files cannot be read, or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols([PROTOCOL])
    for path in (certificate, key):
        if not Path(path).is_file():
            raise ConfigurationError(f"tls: there is no file {os.fspath(path)!r}")
    try:
        # Without a function it would ask whoever sits at the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except OSError as error:
        raise ConfigurationError(
            f"tls: certificate {os.fspath(certificate)!r} and key {os.fspath(key)!r} cannot be used together "
            f"({error.strerror or error}): wanted are PEM files, the key without a password"
        ) from error
    return context


class TlsSocket:
    """What `Wire` calls of a plain socket, through TLS: nothing here waits, `BlockingIOError` says that it would."""

    __slots__ = ("_raw", "socket")

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        #: gevent's, for its watchers.
        wrapped: Any = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        wrapped.settimeout(0.0)
        self.socket = wrapped
        self._raw = wrapped._sock

    def shake_hands(self) -> Any:
        """Go on with the handshake. Returns the watcher of what it waits for, or None when it is done."""
        try:
            self.socket.do_handshake()
        except ssl.SSLWantReadError:
            return self.socket._read_event
        except ssl.SSLWantWriteError:
            return self.socket._write_event
        return None

    def recv(self, size: int) -> bytes:
        """Bytes of the client, decrypted; none when it has ended."""
        try:
            data: bytes = self.socket.recv(size)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error
        return data

    def send(self, data: Any) -> int:
        """How much of `data` went; 0 = none for now."""
        sent: int = self.socket.send(data)
        return sent

    def end(self) -> None:
        """Tell the client that nothing more comes, if that can be said at once (RFC 8446, section 6.1)."""
        try:
            self.socket._sslobj.shutdown()
        except (OSError, ValueError, AttributeError):
            pass  # it waits for the client's own end, or has gone already

    def shutdown(self, side: int) -> None:
        """End a side of the connection below."""
        self._raw.shutdown(side)

    def setsockopt(self, *option: Any) -> None:
        """Of the connection below."""
        self._raw.setsockopt(*option)

    def fileno(self) -> int:
        """Of the connection below; -1 when it is closed."""
        number: int = self._raw.fileno()
        return number
