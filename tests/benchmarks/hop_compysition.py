# SPDX-License-Identifier: Apache-2.0
"""compysition as a side of `bench_hop`, written as a user would write it: nothing but the public API."""

import time
from collections.abc import Iterable

from gevent.event import Event as Flag

from compysition import Actor, Director, Event
from tests.benchmarks.hop_sides import CAPACITY, Arrival, Pipeline, Shape


class Feed(Actor):
    """Sends its batch whenever `offer` is called, from a background greenlet."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.batch: Iterable[Event] = ()
        self.wake = Flag()
        self.is_over = False

    def pre_hook(self) -> None:
        self.background(self.serve)

    def offer(self, batch: Iterable[Event]) -> None:
        self.batch = batch
        self.wake.set()

    def end(self) -> None:
        self.is_over = True
        self.wake.set()

    def serve(self) -> None:
        while True:
            self.wake.wait()
            self.wake.clear()
            if self.is_over:
                return
            self.feed()

    def feed(self) -> None:
        for event in self.batch:
            self.send_event(event)


class ProbeFeed(Feed):
    """Sends the next event when the one before has arrived."""

    flow: "Compysition"

    def feed(self) -> None:
        flow = self.flow
        for event in self.batch:
            flow.sent_at = time.perf_counter()
            self.send_event(event)
            flow.probe_arrived.wait()


class Relay(Actor):
    def consume(self, event: Event) -> None:
        self.send_event(event)


class Sink(Actor):
    def __init__(self, name: str, flow: "Compysition") -> None:
        super().__init__(name)
        self.flow = flow
        self.missing = flow.events

    def consume(self, event: Event) -> None:
        self.missing -= 1
        if not self.missing:
            self.missing = self.flow.events
            self.flow.clock.stop()


class ProbeSink(Sink):
    def consume(self, event: Event) -> None:
        self.flow.arrived()
        self.flow.probe_arrived.set()
        super().consume(event)


class Compysition(Pipeline):
    """The flow as a user writes it."""

    def __init__(self, shape: Shape, events: int, *, probes: bool = False) -> None:
        super().__init__(shape, events, probes=probes)
        self.done = Flag()
        self.probe_arrived = Arrival()
        self.director = director = Director(size=CAPACITY)
        feed = ProbeFeed if probes else Feed
        self.feeds = [director.register_actor(feed, f"source_{n}") for n in range(shape.sources)]
        for source in self.feeds:
            if isinstance(source, ProbeFeed):
                source.flow = self
        relays = [director.register_actor(Relay, f"relay_{n}") for n in range(shape.relays)]
        sink = ProbeSink if probes else Sink
        self.sinks = [director.register_actor(sink, f"sink_{n}", self) for n in range(shape.sinks)]
        before: list[Actor] = list(self.feeds)
        for relay in relays:
            for actor in before:
                director.connect_queue(actor, relay)
            before = [relay]
        for actor in before:
            director.connect_queue(actor, list(self.sinks))
        director.start(block=False)

    def on_stop(self) -> None:
        self.done.set()

    def offer(self, batches: list[list[Event]]) -> None:
        for feed, batch in zip(self.feeds, batches, strict=True):
            feed.offer(batch)

    def wait(self) -> None:
        self.done.wait()
        self.done.clear()

    def close(self) -> None:
        for feed in self.feeds:
            feed.end()
        balance = self.director.snapshot().balance
        report = self.director.stop(timeout_s=5.0)
        if not report.ok or not balance.is_even:
            raise RuntimeError(f"the flow did not end well: {balance}; {report}")
