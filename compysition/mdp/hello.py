# SPDX-License-Identifier: Apache-2.0
"""How our own peers tell each other what they know: small JSON objects (ours, MDP.md section 8).

A worker sends one behind the service in READY, a broker answers `mmi.capabilities` with one. What comes from outside
is limited before it is parsed. Must not know peers or states. Read next: `buckets`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

#: A hello has at most so many bytes.
MOST_HELLO_BYTES: Final = 4096
#: Credit beyond this is not used.
MOST_CREDIT: Final = 1000
#: Intervals that a broker may ask for, in milliseconds.
HEARTBEAT_MS: Final = range(10, 3_600_001)
LIVENESS: Final = range(1, 101)


def read_object(frame: bytes) -> dict[str, Any] | None:
    """The JSON object in `frame`; None if there is none, or too large a one."""
    if len(frame) > MOST_HELLO_BYTES:
        return None
    try:
        found = json.loads(frame)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def dump(what: Mapping[str, object]) -> bytes:
    """`what` as compact JSON."""
    return json.dumps(what, separators=(",", ":")).encode()


def _whole(value: object, within: range) -> int | None:
    return value if type(value) is int and value in within else None


@dataclass(frozen=True, slots=True)
class WorkerHello:
    """What a worker of ours says in READY.

    Attributes:
        credit: How many requests it may hold at once.
        worker_id: Names it in logs and status.
        pid: Its process.
        host: Its host.
    """

    credit: int
    worker_id: str = ""
    pid: int = 0
    host: str = ""

    def pack(self) -> bytes:
        """The frame."""
        return dump(
            {
                "compysition": 1,
                "envelope": 1,
                "credit": self.credit,
                "worker_id": self.worker_id,
                "pid": self.pid,
                "host": self.host,
            }
        )

    @classmethod
    def unpack(cls, frame: bytes) -> Self | None:
        """The hello in `frame`; None if it is not one of a version we know."""
        found = read_object(frame)
        if found is None or found.get("compysition") != 1 or found.get("envelope") != 1:
            return None
        credit = _whole(found.get("credit"), range(2**32))
        if credit is None:
            return None
        pid = _whole(found.get("pid"), range(2**32)) or 0
        texts = [str(found.get(name, ""))[:255] for name in ("worker_id", "host")]
        return cls(min(credit, MOST_CREDIT), texts[0], pid, texts[1])


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a broker of ours answers to `mmi.capabilities`.

    Attributes:
        broker_id: 32 hexadecimal digits, new per start.
        heartbeat_ms: Its interval, which our workers take over.
        liveness: After how many silent intervals it takes a peer for gone.
        has_credit: Whether it gives a worker several requests at once.
    """

    broker_id: str
    heartbeat_ms: int
    liveness: int
    has_credit: bool = True

    def pack(self) -> bytes:
        """The frame."""
        return dump(
            {
                "compysition": 1,
                "mdp": ["0.1", "0.2"],
                "envelope": 1,
                "heartbeat_ms": self.heartbeat_ms,
                "liveness": self.liveness,
                "credit": self.has_credit,
                "broker_id": self.broker_id,
            }
        )

    @classmethod
    def unpack(cls, frame: bytes) -> Self | None:
        """The capabilities in `frame`; None if they are not those of a broker that we know."""
        found = read_object(frame)
        if found is None or found.get("compysition") != 1 or found.get("envelope") != 1:
            return None
        heartbeat_ms = _whole(found.get("heartbeat_ms"), HEARTBEAT_MS)
        liveness = _whole(found.get("liveness"), LIVENESS)
        versions = found.get("mdp")
        if heartbeat_ms is None or liveness is None or not (isinstance(versions, list) and "0.2" in versions):
            return None
        return cls(str(found.get("broker_id", ""))[:32], heartbeat_ms, liveness, found.get("credit") is True)
