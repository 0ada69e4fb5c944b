# SPDX-License-Identifier: Apache-2.0
"""Says who holds the hub: a thread that looks whether the event loop still turns.

While it does not, no other greenlet runs: no request is answered, no deadline noticed. The thread costs the loop
nothing; it reads the loop's own counter. Read next: `logs`.
"""

import sys
from typing import Any

from gevent import get_hub, monkey
from gevent.hub import Hub

from compysition.clock import Clock
from compysition.logger import RuntimeLogger, get_logger
from compysition.stacks import format_frame, running_hand

#: A turn of the hub that takes longer than this, in seconds, is reported.
HELD_S = 0.1
#: How often the thread looks, in seconds.
LOOK_S = 0.025
#: One place is reported once in so many seconds.
SILENCE_S = 60.0


class LoopGuard:
    """Watches the hub of the thread in which it is started.

    Args:
        clock: Where time comes from.
        held_s: After how many seconds a turn is reported.
        logger: Where to report.
    """

    def __init__(self, clock: Clock, held_s: float = HELD_S, logger: RuntimeLogger | None = None) -> None:
        self._clock = clock
        self._logger = logger or get_logger("loopguard")
        self._held_s = held_s
        self._stopped: Any = None
        self._ended: Any = None
        self._loop: Any = None
        self._thread = 0
        self._reported: dict[tuple[str, str], float] = {}

    def start(self) -> None:
        """Begin to watch."""
        self._loop = get_hub().loop
        if not hasattr(self._loop, "iteration"):
            return
        self._thread = monkey.get_original("_thread", "get_ident")()
        # The real things, also in a patched process: a greenlet could not watch the hub that runs it. New ones each
        # time: a thread that could not be waited for may still have the old ones.
        allocate_lock = monkey.get_original("_thread", "allocate_lock")
        stopped, ended = allocate_lock(), allocate_lock()
        stopped.acquire()
        ended.acquire()
        monkey.get_original("_thread", "start_new_thread")(self._watch, (stopped, ended))
        self._stopped, self._ended = stopped, ended

    def stop(self) -> None:
        """End the thread, and wait until it has."""
        stopped, self._stopped = self._stopped, None
        if stopped is not None:
            stopped.release()
            # Bounded: the thread may be waiting for a logging lock that a greenlet of this thread holds.
            self._ended.acquire(timeout=1.0)

    def _watch(self, stopped: Any, ended: Any) -> None:
        try:
            turn, since = self._loop.iteration, self._clock.monotonic()
            # The lock serves as an event: it can be had as soon as `stop` has released it.
            while not stopped.acquire(timeout=LOOK_S):
                now = self._clock.monotonic()
                if self._loop.iteration != turn:
                    turn, since = self._loop.iteration, now
                elif now - since >= self._held_s and not self._look(now, now - since):
                    since = now
        finally:
            ended.release()

    def _look(self, now: float, held_s: float) -> bool:
        """Report who holds the hub. Returns whether anybody does."""
        frame = sys._current_frames().get(self._thread)
        if frame is None or frame.f_code is Hub.run.__code__:
            return False  # The hub waits for something to happen.
        place = (frame.f_code.co_filename, frame.f_code.co_name)
        if now - self._reported.get(place, -SILENCE_S) < SILENCE_S:
            return True
        self._reported[place] = now
        hand = running_hand(frame)
        sender = hand.sender if hand is not None else None
        event = hand.event if hand is not None else None
        actor = sender.name if sender is not None else "(no handler)"
        event_id = event.event_id if event is not None else ""
        self._logger.warning(
            "the hub has not turned for %.0f ms: actor %s%s holds it; use self.offload for what blocks\n%s",
            held_s * 1000,
            actor,
            f", event {event_id}," if event_id else "",
            format_frame(frame),
            extra={"actor": actor, "event_id": event_id},
        )
        return True
