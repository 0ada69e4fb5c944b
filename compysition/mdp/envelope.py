# SPDX-License-Identifier: Apache-2.0
"""The envelope: what our peers say about a request or reply, as the last frame of its body (ours, MDP.md section 8).

32 bytes, big-endian, then metadata that the broker does not look into. It goes only between peers that know it; a
foreign peer never sees one. Must not know peers or states. Read next: `hello`.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from compysition.errors import MalformedError, TooLargeError

MAGIC: Final = b"\x00CPSX"
VERSION: Final = 1
HEAD: Final = struct.Struct(">5sBBB16sHIH")
#: Metadata of one envelope, in bytes.
MOST_METADATA_BYTES: Final = 64 * 1024
#: In the place of milliseconds: there is no deadline.
NO_DEADLINE: Final = 0xFFFFFFFF

REQUEST: Final = 1
REPLY: Final = 2

#: Flags of a request: do not give it to a second worker; …
NO_REDISPATCH: Final = 0x01
#: … answer 404 at once if no worker is registered for the service.
NO_WAIT: Final = 0x02
#: Flags of a reply: it is an error; from the repeat window; made by the broker; the worker knows no envelopes.
ERROR: Final = 0x01
REPEATED: Final = 0x02
BY_BROKER: Final = 0x04
PLAIN_WORKER: Final = 0x08

#: Where attempt and time stand, which the broker writes anew.
_ATTEMPT_AT: Final = 24
_STATUS_AT: Final = 30
_ATTEMPT_LEFT: Final = struct.Struct(">HI")


@dataclass(frozen=True, slots=True)
class Envelope:
    """The envelope of one request or reply.

    Attributes:
        kind: `REQUEST` or `REPLY`.
        id: 16 bytes; the same over all tries.
        flags: As above, by kind.
        attempt: Which dispatch this is, from 1; only the broker raises it.
        left_ms: Milliseconds until the deadline; None = no deadline. Relative, because clocks differ.
        status: Of a reply: 200, or the status of its error. 0 in a request.
        metadata: The event's, encoded; at most `MOST_METADATA_BYTES`.
    """

    kind: int
    id: bytes
    flags: int = 0
    attempt: int = 1
    left_ms: int | None = None
    status: int = 0
    metadata: bytes = b""

    def pack(self) -> bytes:
        """The frame.

        Raises:
            TooLargeError: the metadata is too large; its sender should carry less.
        """
        if len(self.metadata) > MOST_METADATA_BYTES:
            raise TooLargeError(
                f"the metadata of an event takes {len(self.metadata)} bytes on the wire, at most {MOST_METADATA_BYTES} "
                "are allowed: carry less in headers and attributes"
            )
        left = NO_DEADLINE if self.left_ms is None else self.left_ms
        head = HEAD.pack(MAGIC, VERSION, self.kind, self.flags, self.id, self.attempt, left, self.status)
        return head + self.metadata

    @classmethod
    def unpack(cls, frame: bytes, kind: int) -> Self:
        """The envelope in `frame`, which `is_envelope`.

        Raises:
            MalformedError: it is of another version or kind, or says what cannot be; refused, never guessed.
            TooLargeError: its metadata is too large.
        """
        _, version, found, flags, identity, attempt, left, status = HEAD.unpack_from(frame)
        if version != VERSION:
            raise MalformedError(f"an envelope of version {version}; version {VERSION} is spoken here")
        if found != kind:
            raise MalformedError(f"an envelope of kind {found} where one of kind {kind} belongs")
        if attempt == 0:
            raise MalformedError("an envelope with attempt 0; attempts count from 1")
        if len(frame) - HEAD.size > MOST_METADATA_BYTES:
            raise TooLargeError(f"metadata of {len(frame) - HEAD.size} bytes, at most {MOST_METADATA_BYTES} are taken")
        left_ms = None if left == NO_DEADLINE else left
        return cls(found, identity, flags, attempt, left_ms, status, frame[HEAD.size :])


def is_envelope(frame: bytes) -> bool:
    """Whether `frame` begins as an envelope and is long enough for one."""
    return frame.startswith(MAGIC) and len(frame) >= HEAD.size


def has_envelope(body: Sequence[bytes]) -> bool:
    """Whether the last frame of `body` is an envelope: only if another body frame stands before it."""
    return len(body) > 1 and is_envelope(body[-1])


def identity_of(frame: bytes) -> bytes:
    """The id in `frame`, which `is_envelope`."""
    return frame[8:24]


def readdressed(frame: bytes, attempt: int, left_ms: int | None) -> bytes:
    """The request's envelope `frame` with another attempt and time, everything else as it was."""
    left = NO_DEADLINE if left_ms is None else left_ms
    return frame[:_ATTEMPT_AT] + _ATTEMPT_LEFT.pack(attempt, left) + frame[_STATUS_AT:]


def is_sound_reply(frame: bytes) -> bool:
    """Whether `frame`, which `is_envelope`, can be passed on as a reply's: what `Envelope.unpack` asks, but quicker."""
    return frame[5] == VERSION and frame[6] == REPLY and len(frame) - HEAD.size <= MOST_METADATA_BYTES
