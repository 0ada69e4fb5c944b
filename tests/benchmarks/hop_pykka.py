# SPDX-License-Identifier: Apache-2.0
"""Pykka as a side of `bench_hop`: threads, one per actor. Imported only where Pykka is installed."""

import threading
import time
from typing import Any

import pykka

from compysition import Event
from tests.benchmarks.hop_sides import Pipeline, Shape


class RelayActor(pykka.ThreadingActor):
    def __init__(self, target: "pykka.ActorRef[Any]") -> None:
        super().__init__()
        self.target = target

    def on_receive(self, message: Any) -> None:
        self.target.tell(message)


class SinkActor(pykka.ThreadingActor):
    def __init__(self, flow: "PykkaActors") -> None:
        super().__init__()
        self.flow = flow
        self.missing = flow.events

    def on_receive(self, message: Any) -> None:
        if self.flow.probes:
            self.flow.arrived()
            self.flow.probe_arrived.set()
        self.missing -= 1
        if not self.missing:
            self.missing = self.flow.events
            self.flow.clock.stop()


class PykkaActors(Pipeline):
    """`tell` from actor to actor; inboxes without limit."""

    def __init__(self, shape: Shape, events: int, *, probes: bool = False) -> None:
        super().__init__(shape, events, probes=probes)
        self.done = threading.Event()
        self.probe_arrived = threading.Event()
        targets: list[pykka.ActorRef[Any]] = [SinkActor.start(self) for _ in range(shape.sinks)]
        for _ in range(shape.relays):
            targets = [RelayActor.start(targets[0])]
        self.entrances = targets

    def feed(self, batch: list[Event]) -> None:
        first, *others = self.entrances
        for event in batch:
            if self.probes:
                self.probe_arrived.clear()
                self.sent_at = time.perf_counter()
            for target, copy in zip(others, [event.copy() for _ in others], strict=True) if others else ():
                target.tell(copy)
            first.tell(event)
            if self.probes:
                self.probe_arrived.wait()

    def on_stop(self) -> None:
        self.done.set()

    def offer(self, batches: list[list[Event]]) -> None:
        for batch in batches:
            threading.Thread(target=self.feed, args=(batch,), daemon=True).start()

    def wait(self) -> None:
        self.done.wait()
        self.done.clear()

    def close(self) -> None:
        pykka.ActorRegistry.stop_all()
