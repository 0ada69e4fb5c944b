# SPDX-License-Identifier: Apache-2.0
"""What a hop between actors costs, against bare gevent queues and their honest twin: `scripts/bench hop`.

`--stuck`, `--burst` and `--residue` look at memory and greenlets instead; they stand in `hop_memory`.
"""

import argparse
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gevent
from gevent.event import Event as Flag
from gevent.pool import Pool
from gevent.queue import Queue

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # as a script it would find only what lies beside it

from compysition import Actor, Director, Event
from tests.benchmarks import hop_memory, measure
from tests.benchmarks.hop_compysition import Compysition, Feed
from tests.benchmarks.hop_sides import CAPACITY, AsyncioQueues, BareQueues, Pipeline, Shape, Twin
from tests.benchmarks.measure import Case, Figures, Side, Target

#: Seconds after which no further round begins.
LIMIT_S, QUICK_LIMIT_S = 200.0, 34.0
#: Share of the handlers that block, as "one in", and for how long.
BLOCKS_ONE_IN, BLOCKS_S = 100, 0.001
#: Running handlers at once; the default of an actor.
CONCURRENCY = 100

BARE, TWIN, ASYNCIO, OURS = Side("bare"), Side("twin"), Side("asyncio"), Side("compysition")
PYKKA = Side("pykka", is_pinned=False, requires="pykka")
SIDES = (BARE, TWIN, ASYNCIO, PYKKA, OURS)
FIGURES = {"wall_s": "time per event", "cpu_s": "CPU time per event"}

SHAPES = {
    "one-to-one": Shape(),
    "chain": Shape(relays=3),
    "fan-out": Shape(sinks=8),
    "fan-in": Shape(sources=8),
    "latency": Shape(relays=3),
}
#: Events per pass over all sources; the slower sides get the tenth part. A pass is over in a few milliseconds, so that
#: some of them fall between two interruptions.
EVENTS = {"one-to-one": 16_000, "chain": 8_000, "fan-out": 1_600, "fan-in": 16_000, "latency": 4_000}
SLOW_SIDES = {"pykka"}

CASES = (
    Case(
        "one-to-one",
        "1→1: source, sink",
        SIDES,
        FIGURES,
        ("bare", "twin"),
    ),
    Case(
        "chain",
        "1→3→1: source, three relays, sink",
        SIDES,
        FIGURES,
        ("bare", "twin"),
        (Target("wall_s", "bare", 0.45, 0.65), Target("wall_s", "twin", 0.75, 1.0)),
    ),
    Case(
        "fan-out",
        "1→8: source, eight sinks; every side makes seven copies of each event",
        SIDES,
        FIGURES,
        ("bare", "twin"),
        (Target("wall_s", "twin", 0.90, 1.2),),
    ),
    Case(
        "fan-in",
        "8→1: eight sources, one sink",
        SIDES,
        FIGURES,
        ("bare", "twin"),
        (Target("wall_s", "bare", 0.55, 0.9),),
    ),
    Case(
        "latency",
        "one event at a time over 4 hops (1→3→1), nothing else to do",
        SIDES,
        {"p50_s": "median delay from source to sink", "p99_s": "99th percentile of the delay"},
        ("bare", "twin"),
        (Target("p50_s", "bare", 1.7, 2.5),),
    ),
    Case(
        "blocking",
        f"one handler in {BLOCKS_ONE_IN} sleeps {BLOCKS_S * 1000:.0f} ms; pool = a greenlet per event in Pool(100)",
        (Side("pool"), OURS),
        FIGURES,
        ("pool",),
        (Target("wall_s", "pool", 8.0, 18.0),),
    ),
)


def batches(shape: Shape, events: int) -> list[list[Event]]:
    """Fresh events, split over the sources."""
    share = events // shape.sources
    return [[Event(data=number) for number in range(share)] for _ in range(shape.sources)]


def pipeline(side: str) -> Callable[..., Pipeline]:
    """The class that builds a flow for `side`."""
    if side == "pykka":
        from tests.benchmarks.hop_pykka import PykkaActors

        return PykkaActors
    return {"bare": BareQueues, "twin": Twin, "asyncio": AsyncioQueues, "compysition": Compysition}[side]


def throughput(side: str, shape: Shape, events: int, passes: int) -> Figures:
    """Seconds per event over the whole flow: the quickest pass, after some to warm up.

    The quickest and not the median, as `timeit` has it: the work is the same in every pass, and what comes on top, from
    a machine that is shared, is no property of the code.
    """
    flow = pipeline(side)(shape, events)
    wall, cpu = [], []
    for _ in range(passes + 3):
        offered = batches(shape, events)
        flow.clock.start(shape.sinks)
        flow.offer(offered)
        flow.wait()
        wall.append(flow.clock.wall_s / events)
        cpu.append(flow.clock.cpu_s / events)
    flow.close()
    return {"wall_s": min(wall[3:]), "cpu_s": min(cpu[3:])}


def latency(side: str, shape: Shape, events: int) -> Figures:
    """Delay of an event that is alone in the flow; the first quarter warms up."""
    flow = pipeline(side)(shape, events, probes=True)
    flow.clock.start(shape.sinks)
    flow.offer(batches(shape, events))
    flow.wait()
    flow.close()
    delays = sorted(flow.delays_s[events // 4 :])
    return {"p50_s": statistics.median(delays), "p99_s": delays[int(len(delays) * 0.99)]}


# ---- handlers that block --------------------------------------------------------------------------------------------


class Work:
    """The handler of both sides, and the clock around all of its calls."""

    def __init__(self, events: int) -> None:
        self.events = events
        self.handled = 0
        self.done = Flag()

    def handle(self, event: Event) -> None:
        if event.data % BLOCKS_ONE_IN == 0:
            gevent.sleep(BLOCKS_S)
        self.handled += 1
        if self.handled == self.events:
            self.handled = 0
            self.done.set()

    def timed(self, offer: Callable[[list[Event]], object], passes: int) -> Figures:
        """Offer `events` events and wait until all were handled, `passes` times after one to warm up."""
        wall, cpu = [], []
        for _ in range(passes + 1):
            events = [Event(data=number) for number in range(self.events)]
            self.done.clear()
            wall_began, cpu_began = time.perf_counter(), time.process_time()
            offer(events)
            self.done.wait()
            wall.append((time.perf_counter() - wall_began) / self.events)
            cpu.append((time.process_time() - cpu_began) / self.events)
        return {"wall_s": statistics.median(wall[1:]), "cpu_s": statistics.median(cpu[1:])}


def blocking_in_pool(events: int, passes: int) -> Figures:
    """Base: a queue, and behind it a greenlet per event."""
    work = Work(events)
    queue: Queue[Event] = Queue(CAPACITY)
    pool = Pool(CONCURRENCY)

    def consumer() -> None:
        while True:
            pool.spawn(work.handle, queue.get())

    def source(batch: list[Event]) -> None:
        for event in batch:
            queue.put(event)

    serving = gevent.spawn(consumer)
    figures = work.timed(lambda batch: gevent.spawn(source, batch), passes)
    serving.kill()
    return figures


class Worker(Actor):
    """The handler as an actor."""

    def __init__(self, name: str, work: Work) -> None:
        super().__init__(name)
        self.work = work

    def consume(self, event: Event) -> None:
        self.work.handle(event)


def blocking_in_compysition(events: int, passes: int) -> Figures:
    """Source and worker; the group of consumers grows only while handlers block."""
    work = Work(events)
    director = Director(size=CAPACITY)
    feed = director.register_actor(Feed, "source")
    director.connect_queue(feed, director.register_actor(Worker, "worker", work))
    director.start(block=False)
    figures = work.timed(feed.offer, passes)
    feed.end()
    report = director.stop(timeout_s=5.0)
    if not report.ok:
        raise RuntimeError(str(report))
    return figures


# ---- command line ---------------------------------------------------------------------------------------------------


def measure_side(side: str, case: str, *, quick: bool) -> Figures:
    """The figures of one side of one case."""
    if case == "blocking":
        work = {"pool": blocking_in_pool, "compysition": blocking_in_compysition}[side]
        events = 10_000 if side == "pool" else 40_000
        return work(events // (2 if quick else 1), 3 if quick else 5)
    events = EVENTS[case] // (10 if side in SLOW_SIDES else 1)
    if case == "latency":
        return latency(side, SHAPES[case], events // (2 if quick else 1))
    return throughput(side, SHAPES[case], events, 10 if quick else 30)


def main() -> int:
    """Compare, or be one side."""
    parser = measure.parser(__doc__ or "", CASES)
    for name, look in hop_memory.LOOKS.items():
        parser.add_argument(f"--{name}", action="store_true", help=(look.__doc__ or "").splitlines()[0])
    options = parser.parse_args()
    # To make all events beforehand, or to count all objects, holds the hub; that is ours and of no interest here.
    logging.getLogger("compysition.loopguard").setLevel(logging.ERROR)
    if options.side:
        measure.pin(options.core)
        measure.report_side(measure_side(options.side, measure.only_case(options), quick=options.quick))
        return 0
    looks = [name for name in hop_memory.LOOKS if getattr(options, name)]
    if looks:
        return look_at(looks, options)
    limit_s = QUICK_LIMIT_S if options.quick else LIMIT_S
    return measure.compare(CASES, options, rounds=7, limit_s=limit_s, packages=("gevent", "pykka"))


def look_at(looks: list[str], options: argparse.Namespace) -> int:
    """Print what was counted; more than one look would see the residue of the one before."""
    if len(looks) > 1:
        print("one of --stuck, --burst and --residue at a time", file=sys.stderr)
        return 2
    counted = hop_memory.LOOKS[looks[0]](100_000 if options.quick else 1_000_000)
    heading = measure.machine(("gevent",))
    if options.json:
        print(json.dumps({**heading, looks[0]: counted}, indent=2, ensure_ascii=False))
    else:
        measure.print_heading({**heading, **{name: str(value) for name, value in counted.items()}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
