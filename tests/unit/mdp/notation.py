# SPDX-License-Identifier: Apache-2.0
"""Frames as MDP.md writes them, and a broker that is spoken to in them."""

import math
from collections.abc import Iterable

from compysition.mdp.broker import Broker, BrokerSettings, Ending

BROKER_ID = bytes(range(16))


def frames(text: str) -> list[bytes]:
    """The frames in `text`: separated by commas, ``''`` the empty one, ``0x01`` one byte, ``<00 01>`` hexadecimal."""
    found = []
    for raw in text.split(","):
        word = raw.strip()
        if word.startswith("<"):
            found.append(bytes.fromhex(word.strip("<>")))
        elif word.startswith("0x"):
            found.append(bytes.fromhex(word[2:]))
        else:
            found.append(b"" if word == "''" else word.encode())
    return found


def text_of(message: Iterable[bytes]) -> str:
    """The other way round."""
    words = []
    for frame in message:
        if not frame:
            words.append("''")
        elif len(frame) == 1 and not 32 < frame[0] < 127:
            words.append(f"0x{frame[0]:02x}")
        elif all(32 <= byte < 127 for byte in frame):
            words.append(frame.decode())
        else:
            words.append(f"<{frame.hex()}>")
    return ", ".join(words)


class SpokenTo:
    """A broker, its time, and what it sends, each as text."""

    def __init__(self, settings: BrokerSettings | None = None, now: float = 0.0) -> None:
        self.now = now
        self.broker = Broker(settings or BrokerSettings(), broker_id=BROKER_ID, now=now)

    def taken(self) -> list[str]:
        """What is to be sent, and is now taken for sent."""
        out = [text_of(send.frames) for send in self.broker.out]
        self.broker.out.clear()
        return out

    def say(self, text: str) -> list[str]:
        """What the broker sends because of the message `text`."""
        self.broker.receive("router", frames(text), self.now)
        self.check()
        return self.taken()

    def wait(self, seconds: float) -> list[str]:
        """What it sends while `seconds` pass."""
        until = self.now + seconds
        while self.broker.wakes_at <= until:
            self.now = max(self.now, self.broker.wakes_at)
            self.broker.tick(self.now)
            self.check()
        self.now = until
        return self.taken()

    def wait_quietly(self, seconds: float) -> list[str]:
        """The same without heartbeats."""
        beats = ("MDPW01, 0x04", "MDPW02, 0x05")
        return [text for text in self.wait(seconds) if not text.endswith(beats)]

    def check(self) -> None:
        """Everything adds up: conservation, sizes, and no entry about what is gone."""
        broker = self.broker
        assert broker.accepted == sum(broker.ended.values()) + len(broker.requests)
        assert broker.size == sum(request.size for request in broker.requests)
        queued = [request for request in broker.requests if request.worker is None]
        assert sum(service.depth for service in broker.services.values()) == len(queued)
        for service in broker.services.values():
            assert not service.is_unused()
            standing = [*service.returned, *(one for waiting in service.turn.values() for one in waiting)]
            assert len(standing) == service.depth
            assert all(one.is_open and one.worker is None for one in standing)
            assert all(worker.has_room() for worker in service.free)
            assert not (service.free and (service.depth or service.suspects))
            assert all(waiting for waiting in service.turn.values())
            for worker in service.workers.values():
                assert broker.workers[worker.key] is worker
                assert worker.is_suspect == (worker in service.suspects)
                assert (worker in service.free) == worker.has_room()
        assert sum(len(service.workers) for service in broker.services.values()) == len(broker.workers)
        for request in broker.requests:
            assert request.is_open
            assert request.worker is None or request in request.worker.held.values()
            # Nothing waits for ever without being looked at.
            assert request.worker is not None or request.bucket is not None
            assert request.deadline is None or request.bucket is not None
        assert len(broker.times) == sum(request.bucket is not None for request in broker.requests)
        assert (broker.times.wakes_at < math.inf) or not len(broker.times)

    @property
    def ended(self) -> dict[Ending, int]:
        return dict(self.broker.ended)
