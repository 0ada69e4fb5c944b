# SPDX-License-Identifier: Apache-2.0
"""What every greenlet of a Director is doing, by actor: for SIGUSR1, the loop guard and abandoned handlers.

Reads only; works while the hub is held, from any thread and from a signal handler. Read next: `loopguard`.
"""

import sys
import threading
import traceback
from collections.abc import Iterable
from types import FrameType
from typing import Any

from compysition.dispatch import Consumer, Dispatcher, Hand, _serve
from compysition.restartlet import RestartPool


def greenlet_frame(greenlet: Any, hub_thread: int | None = None) -> FrameType | None:
    """The newest frame of `greenlet`; of the one that runs at this moment too, if its thread is given."""
    frame: FrameType | None = greenlet.gr_frame
    if frame is None and greenlet and hub_thread is not None:
        frame = sys._current_frames().get(hub_thread)
    return frame


def format_frame(frame: FrameType | None) -> str:
    """The stack that ends in `frame`, oldest call first."""
    if frame is None:
        return "  (runs no Python code)\n"
    return "".join(traceback.format_stack(frame))


def format_consumer(consumer: Consumer, hub_thread: int | None = None) -> str:
    """A consumer's actor, event and stack."""
    return f"{_describe(consumer.hand)}\n{format_frame(greenlet_frame(consumer, hub_thread))}"


def format_all(dispatcher: Dispatcher, pools: Iterable[tuple[str, RestartPool]], hub_thread: int) -> str:
    """The stacks of all handlers and background greenlets, by actor, and of all threads."""
    parts: list[tuple[str, str]] = []
    parked = 0
    for consumer in tuple(dispatcher.consumers):
        sender = consumer.hand.sender
        if sender is None:
            parked += 1
        else:
            parts.append((sender.name, f"handler of {format_consumer(consumer, hub_thread)}"))
    for name, pool in pools:
        for member in pool:
            if member.greenlet is not None:
                stack = format_frame(greenlet_frame(member.greenlet, hub_thread))
                parts.append((name, f"background greenlet {member.name!r} of {name!r}\n{stack}"))
    lines = [text for _, text in sorted(parts)]
    lines.append(f"{parked} parked consumers\n")
    for thread in threading.enumerate():
        stack = format_frame(sys._current_frames().get(thread.ident or 0))
        lines.append(f"thread {thread.name!r}\n{stack}")
    return "\n".join(lines)


def running_hand(frame: FrameType | None) -> Hand | None:
    """The hand of the consumer whose stack ends in `frame`; None if it is no consumer's."""
    while frame is not None:
        hand = frame.f_locals.get("hand") if frame.f_code is _serve.__code__ else None
        if isinstance(hand, Hand):
            return hand
        frame = frame.f_back
    return None


def _describe(hand: Hand) -> str:
    sender, event = hand.sender, hand.event
    actor = repr(sender.name) if sender is not None else "nobody"
    return f"{actor}, event {event.event_id}" if event is not None else actor
