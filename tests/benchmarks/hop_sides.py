# SPDX-License-Identifier: Apache-2.0
"""The bases of `bench_hop`: the same shape of flow over different machinery, all fed with the same `Event` objects.

The bases are what one would write without an actor runtime. `BareQueues` only gets and puts; `Twin` is its honest
form: a handler is called for each event, its exceptions are caught, a counter runs. Events are made before the clock
starts, and the sinks stop it. Read next: `hop_compysition`, the side that all this is about; `hop_pykka` is apart
because it may not be installed.
"""

import asyncio
import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import gevent
from gevent import getcurrent
from gevent.event import Event as Flag
from gevent.queue import Queue
from greenlet import greenlet

from compysition import Event

#: Events that a queue holds before its writer waits; the same on all sides that have a limit.
CAPACITY = 500


@dataclass(frozen=True, slots=True)
class Shape:
    """`sources`, then `relays` in a row, then `sinks` of which each gets every event (copies, if there are several)."""

    sources: int = 1
    relays: int = 0
    sinks: int = 1


class Clock:
    """Runs from `start` until the last of the sinks calls `stop`; `on_stop` tells whoever waits."""

    def __init__(self, on_stop: Callable[[], object]) -> None:
        self.on_stop = on_stop
        self.open_sinks = 0
        self.wall_s = 0.0
        self.cpu_s = 0.0

    def start(self, sinks: int) -> None:
        self.open_sinks = sinks
        # A flow does not hold all its events from the beginning; that ours does is no work for the collector.
        gc.collect()
        gc.freeze()
        self.cpu_s = -time.process_time()
        self.wall_s = -time.perf_counter()

    def stop(self) -> None:
        self.open_sinks -= 1
        if not self.open_sinks:
            self.wall_s += time.perf_counter()
            self.cpu_s += time.process_time()
            self.on_stop()


class Pipeline(ABC):
    """A flow of one shape, ready to run. Each sink expects `events` per pass.

    With `probes` the flow carries one event at a time, and `delays_s` holds the time from the source to the sink of
    each of them.
    """

    def __init__(self, shape: Shape, events: int, *, probes: bool = False) -> None:
        self.shape = shape
        self.events = events
        self.probes = probes
        self.delays_s: list[float] = []
        self.sent_at = 0.0
        self.clock = Clock(self.on_stop)

    @abstractmethod
    def on_stop(self) -> None:
        """Called in the sink's context when the last event has arrived."""

    @abstractmethod
    def offer(self, batches: list[list[Event]]) -> None:
        """Let each source send its batch; returns at once."""

    @abstractmethod
    def wait(self) -> None:
        """Return when the clock has stopped."""

    @abstractmethod
    def close(self) -> None:
        """End everything; raises RuntimeError if it found something wrong with the pass."""

    def arrived(self) -> None:
        """A probe is at the sink."""
        self.delays_s.append(time.perf_counter() - self.sent_at)


class Arrival:
    """Wakes the source when its probe is at the sink.

    Cheaper than gevent's flag, because the source's way into the hub lies before the first hop and counts as latency.
    """

    def __init__(self) -> None:
        self.hub = gevent.get_hub()
        self.is_set = False
        self.waiter: greenlet | None = None

    def set(self) -> None:
        self.is_set = True
        if self.waiter is not None:
            self.hub.loop.run_callback(self.waiter.switch)
            self.waiter = None

    def wait(self) -> None:
        self.waiter = getcurrent()
        while not self.is_set:
            self.hub.switch()
        self.is_set = False
        self.waiter = None


# ---- bases over gevent's queue --------------------------------------------------------------------------------------


class BareQueues(Pipeline):
    """Greenlets that get from one queue and put into the next; there is no handler at all."""

    def __init__(self, shape: Shape, events: int, *, probes: bool = False) -> None:
        super().__init__(shape, events, probes=probes)
        self.done = Flag()
        self.probe_arrived = Arrival()
        targets = [self.queue() for _ in range(shape.sinks)]
        sink = self.probe_sink if probes else self.sink
        self.greenlets: list[gevent.Greenlet[..., None]] = [gevent.spawn(sink, queue) for queue in targets]
        for _ in range(shape.relays):
            queue = self.queue()
            self.greenlets.append(gevent.spawn(self.relay, queue, targets[0]))
            targets = [queue]
        self.entrances = targets
        gevent.sleep(0)

    @staticmethod
    def queue() -> "Queue[Event]":
        return Queue(CAPACITY)

    def relay(self, source: "Queue[Event]", target: "Queue[Event]") -> None:
        get, put = source.get, target.put
        while True:
            put(get())

    def sink(self, source: "Queue[Event]") -> None:
        get = source.get
        while True:
            for _ in range(self.events):
                get()
            self.clock.stop()

    def probe_sink(self, source: "Queue[Event]") -> None:
        while True:
            for _ in range(self.events):
                source.get()
                self.arrived()
                self.probe_arrived.set()
            self.clock.stop()

    def feed(self, batch: list[Event]) -> None:
        put, *others = [queue.put for queue in self.entrances]
        if self.probes:
            for event in batch:
                self.sent_at = time.perf_counter()
                put(event)
                self.probe_arrived.wait()
        elif others:
            for event in batch:
                for put_copy, copy in zip(others, [event.copy() for _ in others], strict=True):
                    put_copy(copy)
                put(event)
        else:
            for event in batch:
                put(event)

    def on_stop(self) -> None:
        self.done.set()

    def offer(self, batches: list[list[Event]]) -> None:
        for batch in batches:
            gevent.spawn(self.feed, batch)

    def wait(self) -> None:
        self.done.wait()
        self.done.clear()

    def close(self) -> None:
        gevent.killall(self.greenlets)


class Step:
    """What an actor is without a runtime: an object with a handler, served by a loop that catches and counts."""

    def __init__(self, source: "Queue[Event]") -> None:
        self.source = source
        self.received = 0
        self.failed = 0

    def consume(self, event: Event) -> None:
        raise NotImplementedError

    def serve(self) -> None:
        get = self.source.get
        while True:
            event = get()
            self.received += 1
            try:
                self.consume(event)
            except Exception:
                self.failed += 1


class RelayStep(Step):
    def __init__(self, source: "Queue[Event]", target: "Queue[Event]") -> None:
        super().__init__(source)
        self.send = target.put

    def consume(self, event: Event) -> None:
        self.send(event)


class SinkStep(Step):
    def __init__(self, source: "Queue[Event]", flow: BareQueues) -> None:
        super().__init__(source)
        self.flow = flow
        self.missing = flow.events

    def consume(self, event: Event) -> None:
        self.missing -= 1
        if not self.missing:
            self.missing = self.flow.events
            self.flow.clock.stop()


class ProbeSinkStep(SinkStep):
    def consume(self, event: Event) -> None:
        self.flow.arrived()
        self.flow.probe_arrived.set()
        super().consume(event)


class Twin(BareQueues):
    """The same queues with what any useful loop around them needs."""

    def relay(self, source: "Queue[Event]", target: "Queue[Event]") -> None:
        RelayStep(source, target).serve()

    def sink(self, source: "Queue[Event]") -> None:
        SinkStep(source, self).serve()

    def probe_sink(self, source: "Queue[Event]") -> None:
        ProbeSinkStep(source, self).serve()


# ---- asyncio --------------------------------------------------------------------------------------------------------


class AsyncioQueues(Pipeline):
    """Tasks between `asyncio.Queue` objects, again without any handler."""

    def __init__(self, shape: Shape, events: int, *, probes: bool = False) -> None:
        super().__init__(shape, events, probes=probes)
        self.loop = asyncio.new_event_loop()
        self.done = asyncio.Event()
        self.probe_arrived = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []
        targets: list[asyncio.Queue[Event]] = [asyncio.Queue(CAPACITY) for _ in range(shape.sinks)]
        sink = self.probe_sink if probes else self.sink
        self.tasks += [self.loop.create_task(sink(queue)) for queue in targets]
        for _ in range(shape.relays):
            queue: asyncio.Queue[Event] = asyncio.Queue(CAPACITY)
            self.tasks.append(self.loop.create_task(self.relay(queue, targets[0])))
            targets = [queue]
        self.entrances = targets

    async def relay(self, source: "asyncio.Queue[Event]", target: "asyncio.Queue[Event]") -> None:
        get, put = source.get, target.put
        while True:
            await put(await get())

    async def sink(self, source: "asyncio.Queue[Event]") -> None:
        get = source.get
        while True:
            for _ in range(self.events):
                await get()
            self.clock.stop()

    async def probe_sink(self, source: "asyncio.Queue[Event]") -> None:
        while True:
            for _ in range(self.events):
                await source.get()
                self.arrived()
                self.probe_arrived.set()
            self.clock.stop()

    async def feed(self, batch: list[Event]) -> None:
        put, *others = [queue.put for queue in self.entrances]
        if self.probes:
            for event in batch:
                self.probe_arrived.clear()
                self.sent_at = time.perf_counter()
                await put(event)
                await self.probe_arrived.wait()
        elif others:
            for event in batch:
                for put_copy, copy in zip(others, [event.copy() for _ in others], strict=True):
                    await put_copy(copy)
                await put(event)
        else:
            for event in batch:
                await put(event)

    def on_stop(self) -> None:
        self.done.set()

    def offer(self, batches: list[list[Event]]) -> None:
        self.tasks += [self.loop.create_task(self.feed(batch)) for batch in batches]

    def wait(self) -> None:
        self.loop.run_until_complete(self.done.wait())
        self.done.clear()

    def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*self.tasks, return_exceptions=True))
        self.loop.close()
