# SPDX-License-Identifier: Apache-2.0
"""The frames of 7/MDP and 18/MDP: what each command looks like, and what a list of frames says.

A command byte has a meaning only together with its header: 0x05 is DISCONNECT in 0.1 and HEARTBEAT in 0.2. So both
versions are instances of one class, `Dialect`, and nobody else knows a command byte. Reading never raises: what is no
command comes back as `Command.MALFORMED` with its fault. Must not know peers or states. Read next: `envelope`.
"""

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

#: A message with more frames is malformed (ours): libzmq limits the size of one frame, not their number.
MOST_FRAMES: Final = 1024
#: A service's name has at most so many bytes (ours).
MOST_NAME_BYTES: Final = 255
#: A routing id has at most so many bytes (ZMTP).
MOST_ADDRESS_BYTES: Final = 255

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")


class Command(enum.Enum):
    """What a message says, whichever version it is written in."""

    READY = "READY"
    REQUEST = "REQUEST"
    #: One of several replies: 0.2 only.
    PARTIAL = "PARTIAL"
    #: The last reply, or in 0.1 the only one.
    FINAL = "FINAL"
    HEARTBEAT = "HEARTBEAT"
    DISCONNECT = "DISCONNECT"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True, eq=False)
class Dialect:
    """How one version writes its commands (7/MDP and 18/MDP, MDP/Client and MDP/Worker).

    Each command is a tuple of first frames; service, address and body follow. A ROUTER puts an address in front.

    Attributes:
        version: "0.1" or "0.2".
        is_delimited: Whether an empty frame stands first: always in 0.1, in 0.2 with some implementations.
        client_header: The frame that says that a client speaks.
        worker_header: The frame that says that a worker speaks.
        request: client → broker.
        partial: broker → client; None in 0.1, which has no partial replies.
        final: broker → client.
        ready: worker → broker.
        work: broker → worker: a request.
        work_partial: worker → broker; None in 0.1.
        work_final: worker → broker.
        heartbeat: Both ways between broker and worker.
        disconnect: Both ways between broker and worker.
        from_worker: What a worker's command byte says to the broker.
        from_broker: What a broker's command byte says to a worker.
    """

    version: str
    is_delimited: bool
    client_header: bytes
    worker_header: bytes
    request: tuple[bytes, ...]
    partial: tuple[bytes, ...] | None
    final: tuple[bytes, ...]
    ready: tuple[bytes, ...]
    work: tuple[bytes, ...]
    work_partial: tuple[bytes, ...] | None
    work_final: tuple[bytes, ...]
    heartbeat: tuple[bytes, ...]
    disconnect: tuple[bytes, ...]
    from_worker: dict[bytes, Command]
    from_broker: dict[bytes, Command]

    def __repr__(self) -> str:
        return f"<MDP {self.version}{'' if self.is_delimited is (self.version == '0.1') else ', delimited'}>"


def _dialect_1() -> Dialect:
    client, worker = (b"", b"MDPC01"), (b"", b"MDPW01")
    return Dialect(
        version="0.1",
        is_delimited=True,
        client_header=b"MDPC01",
        worker_header=b"MDPW01",
        request=client,
        partial=None,
        final=client,
        ready=(*worker, b"\x01"),
        work=(*worker, b"\x02"),
        work_partial=None,
        work_final=(*worker, b"\x03"),
        heartbeat=(*worker, b"\x04"),
        disconnect=(*worker, b"\x05"),
        from_worker={
            b"\x01": Command.READY,
            b"\x03": Command.FINAL,
            b"\x04": Command.HEARTBEAT,
            b"\x05": Command.DISCONNECT,
        },
        from_broker={b"\x02": Command.REQUEST, b"\x04": Command.HEARTBEAT, b"\x05": Command.DISCONNECT},
    )


def _dialect_2(*, is_delimited: bool) -> Dialect:
    first = (b"",) if is_delimited else ()
    client, worker = (*first, b"MDPC02"), (*first, b"MDPW02")
    return Dialect(
        version="0.2",
        is_delimited=is_delimited,
        client_header=b"MDPC02",
        worker_header=b"MDPW02",
        request=(*client, b"\x01"),
        partial=(*client, b"\x02"),
        final=(*client, b"\x03"),
        ready=(*worker, b"\x01"),
        work=(*worker, b"\x02"),
        work_partial=(*worker, b"\x03"),
        work_final=(*worker, b"\x04"),
        heartbeat=(*worker, b"\x05"),
        disconnect=(*worker, b"\x06"),
        from_worker={
            b"\x01": Command.READY,
            b"\x03": Command.PARTIAL,
            b"\x04": Command.FINAL,
            b"\x05": Command.HEARTBEAT,
            b"\x06": Command.DISCONNECT,
        },
        from_broker={b"\x02": Command.REQUEST, b"\x05": Command.HEARTBEAT, b"\x06": Command.DISCONNECT},
    )


MDP_1: Final = _dialect_1()
MDP_2: Final = _dialect_2(is_delimited=False)
#: 0.2 with an empty first frame: some implementations send it, and are answered alike (ours).
MDP_2_DELIMITED: Final = _dialect_2(is_delimited=True)

#: By whether an empty frame stood first, and the header. 0.1 without that frame is malformed (ours).
_CLIENTS: Final = {(d.is_delimited, d.client_header): d for d in (MDP_1, MDP_2, MDP_2_DELIMITED)}
_WORKERS: Final = {(d.is_delimited, d.worker_header): d for d in (MDP_1, MDP_2, MDP_2_DELIMITED)}


class Message:
    """What a list of frames says.

    Attributes:
        command: The command.
        dialect: How it was written; None if not even the header could be read.
        is_worker: Whether the header was a worker's, also when the rest is malformed.
        name: Of REQUEST and READY the service, of PARTIAL and FINAL from a worker, and of REQUEST to one, the client's
            address.
        body: What stands behind; for READY and HEARTBEAT what our own peers add.
        fault: What is wrong, for a counter and a log line: one of few fixed texts.
    """

    __slots__ = ("body", "command", "dialect", "fault", "is_worker", "name")

    def __init__(
        self,
        command: Command,
        dialect: Dialect | None,
        *,
        is_worker: bool,
        name: bytes = b"",
        body: Sequence[bytes] = (),
        fault: str = "",
    ) -> None:
        self.command = command
        self.dialect = dialect
        self.is_worker = is_worker
        self.name = name
        self.body = body
        self.fault = fault

    def __repr__(self) -> str:
        who = "worker" if self.is_worker else "client"
        return f"<{who} {self.command.value} {self.dialect} {self.name!r} {list(self.body)!r} {self.fault}>"


def is_service_name(name: bytes) -> bool:
    """Whether `name` can be a service's: 1 to 255 bytes of UTF-8 without control characters.

    7/MDP, MDP/Client says "a printable string"; what that is taken for is ours.
    """
    if not 0 < len(name) <= MOST_NAME_BYTES:
        return False
    try:
        return _CONTROL.search(name.decode()) is None
    except UnicodeDecodeError:
        return False


def read_at_broker(frames: Sequence[bytes]) -> Message:
    """What a client or worker says to the broker. `frames` begin behind the address that the ROUTER put in front.

    The header tells both kinds of peers and both versions apart on one socket (ours, as 7/MDP leaves it open).
    """
    is_delimited, at = _skip_delimiter(frames)
    header = frames[at] if at < len(frames) else b""
    if (dialect := _CLIENTS.get((is_delimited, header))) is not None:
        return _read_request(frames, at + 1, dialect)
    if (dialect := _WORKERS.get((is_delimited, header))) is not None:
        return _read_worker(frames, at + 1, dialect)
    return Message(Command.MALFORMED, None, is_worker=False, fault="no header")


def _skip_delimiter(frames: Sequence[bytes]) -> tuple[bool, int]:
    is_delimited = len(frames) > 0 and not frames[0]
    return is_delimited, 1 if is_delimited else 0


def _read_request(frames: Sequence[bytes], at: int, dialect: Dialect) -> Message:
    def malformed(fault: str) -> Message:
        return Message(Command.MALFORMED, dialect, is_worker=False, fault=fault)

    number = len(frames)
    if number > MOST_FRAMES:
        return malformed("too many frames")
    if dialect is not MDP_1:
        if number <= at or frames[at] != dialect.request[-1]:
            return malformed("unknown command")
        at += 1
    if number <= at or not is_service_name(frames[at]):
        return malformed("no service name")
    if number == at + 1:
        return malformed("no body")
    return Message(Command.REQUEST, dialect, is_worker=False, name=frames[at], body=frames[at + 1 :])


def _read_worker(frames: Sequence[bytes], at: int, dialect: Dialect) -> Message:
    def malformed(fault: str) -> Message:
        return Message(Command.MALFORMED, dialect, is_worker=True, fault=fault)

    number = len(frames)
    if number > MOST_FRAMES:
        return malformed("too many frames")
    command = dialect.from_worker.get(frames[at]) if number > at else None
    if command is None:
        return malformed("unknown command")
    if command is Command.FINAL or command is Command.PARTIAL:
        # The address is exactly one frame, followed by exactly one empty frame (7/MDP, Request and Reply Processing).
        # A fault is told as one of the reply, not of the command: a stranger is told to go (MDP.md section 3, 3).
        is_sound = number > at + 3 and 0 < len(frames[at + 1]) <= MOST_ADDRESS_BYTES and not frames[at + 2]
        if not is_sound:
            return Message(command, dialect, is_worker=True, fault="no address, empty frame or body")
        return Message(command, dialect, is_worker=True, name=frames[at + 1], body=frames[at + 3 :])
    if command is Command.READY:
        name = frames[at + 1] if number > at + 1 else b""
        return Message(command, dialect, is_worker=True, name=name, body=frames[at + 2 :])
    return Message(command, dialect, is_worker=True, body=frames[at + 1 :])


def read_at_worker(frames: Sequence[bytes]) -> Message:
    """What the broker says to a worker, on the worker's DEALER."""
    is_delimited, at = _skip_delimiter(frames)
    number = len(frames)
    dialect = _WORKERS.get((is_delimited, frames[at])) if number > at else None
    fault = ""
    if dialect is None:
        fault = "no header"
    elif number > MOST_FRAMES + 1:
        fault = "too many frames"
    else:
        command = dialect.from_broker.get(frames[at + 1]) if number > at + 1 else None
        if command is None:
            fault = "unknown command"
        elif command is Command.REQUEST:
            if number > at + 4 and frames[at + 2] and not frames[at + 3]:
                return Message(command, dialect, is_worker=True, name=frames[at + 2], body=frames[at + 4 :])
            fault = "no address, empty frame or body"
        elif command is Command.HEARTBEAT and number > at + 2:
            fault = "unknown command"
        else:
            return Message(command, dialect, is_worker=True)
    return Message(Command.MALFORMED, dialect, is_worker=True, fault=fault)


def read_at_client(frames: Sequence[bytes]) -> Message:
    """What the broker answers to a client, on the client's DEALER: PARTIAL or FINAL, `name` being the service."""
    is_delimited, at = _skip_delimiter(frames)
    number = len(frames)
    dialect = _CLIENTS.get((is_delimited, frames[at])) if number > at else None
    if dialect is None:
        return Message(Command.MALFORMED, None, is_worker=False, fault="no header")
    command: Command | None = Command.FINAL
    at += 1
    if dialect.partial is not None:
        byte = frames[at] if number > at else b""
        command = {dialect.partial[-1]: Command.PARTIAL, dialect.final[-1]: Command.FINAL}.get(byte)
        at += 1
    fault = "" if command is not None else "unknown command"
    if number < at + 2:
        fault = fault or "no service name or body"
    if fault or command is None:
        return Message(Command.MALFORMED, dialect, is_worker=False, fault=fault)
    return Message(command, dialect, is_worker=False, name=frames[at], body=frames[at + 1 :])
