# SPDX-License-Identifier: Apache-2.0
"""What `Transformer` costs against lxml called straight: `scripts/bench xslt`.

Small documents are transformed where they are, large ones beside the hub on two threads, so that a timer of one
millisecond still comes in time; the base of that is a loop that calls lxml and then ``sleep(0)``.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
from gevent.event import Event as Flag

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # as a script it would find only what lies beside it

from compysition import Actor, Director, Event
from compysition.actors import Transformer
from tests.benchmarks import measure, xml_sample
from tests.benchmarks.hop_compysition import Feed
from tests.benchmarks.hop_sides import CAPACITY
from tests.benchmarks.measure import Case, Figures, Side, Target

#: Seconds after which no further round begins.
LIMIT_S, QUICK_LIMIT_S = 120.0, 30.0
TIMER_S = 0.001

FIGURES = {"wall_s": "time per document", "cpu_s": "CPU time per document"}
CASES = (
    Case(
        "small",
        "documents of 2 KiB: parse, transform, serialise; one core",
        (Side("raw"), Side("compysition")),
        FIGURES,
        ("raw",),
        (Target("wall_s", "raw", 0.95, 0.99),),
    ),
    Case(
        "large",
        "documents of 200 KiB; raw = inline on one thread",
        (Side("raw", is_pinned=False), Side("compysition", is_pinned=False)),
        FIGURES,
        ("raw",),
        (Target("wall_s", "raw", 1.5, 1.85),),
    ),
    Case(
        "timer",
        "how late a timer of 1 ms is while documents of 200 KiB are transformed; raw = inline, sleep(0) after each",
        (Side("raw", is_pinned=False), Side("idle", is_pinned=False), Side("compysition", is_pinned=False)),
        {"p99_s": "99th percentile of the delay", "p50_s": "median of the delay", "max_s": "longest delay"},
        ("raw",),
        (Target("p99_s", None, 0.010, 0.002),),
    ),
)


class Flow:
    """Documents on one side, what they became on the other."""

    def prepare(self, documents: list[bytes]) -> Callable[[], None]:
        """Make ready what belongs before the clock; the call that comes back returns when all documents came out."""
        raise NotImplementedError

    def close(self) -> None:
        """End everything."""


class Raw(Flow):
    """A loop that calls lxml, and may let others run after each document."""

    def __init__(self, *, yields: bool) -> None:
        self.compiled = xml_sample.stylesheet()
        self.yields = yields

    def prepare(self, documents: list[bytes]) -> Callable[[], None]:
        return lambda: self.run(documents)

    def run(self, documents: list[bytes]) -> None:
        for document in documents:
            xml_sample.transform(self.compiled, document)
            if self.yields:
                gevent.sleep(0)


class Idle(Flow):
    """Nothing happens, for about as long as the others need: how late a timer is by itself."""

    def prepare(self, documents: list[bytes]) -> Callable[[], None]:
        return lambda: gevent.sleep(0.01 * len(documents))


class Serialiser(Actor):
    """Makes bytes of what comes and counts it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.missing = 0
        self.done = Flag()

    def consume(self, event: Event) -> None:
        bytes(event.data)
        self.missing -= 1
        if not self.missing:
            self.done.set()


class Compysition(Flow):
    """Source, `Transformer`, sink."""

    def __init__(self) -> None:
        self.director = director = Director(size=CAPACITY)
        self.feed = director.register_actor(Feed, "source")
        transformer = director.register_actor(Transformer, "transformer", xml_sample.STYLESHEET)
        self.sink = director.register_actor(Serialiser, "sink")
        director.connect_queue(self.feed, transformer)
        director.connect_queue(transformer, self.sink)
        director.start(block=False)

    def prepare(self, documents: list[bytes]) -> Callable[[], None]:
        events = [Event(data=document) for document in documents]
        return lambda: self.run(events)

    def run(self, events: list[Event]) -> None:
        self.sink.missing = len(events)
        self.sink.done.clear()
        self.feed.offer(handed_over(events))
        self.sink.done.wait()

    def close(self) -> None:
        self.feed.end()
        report = self.director.stop(timeout_s=10.0)
        if not report.ok:
            raise RuntimeError(str(report))


def handed_over(events: list[Event]) -> Iterator[Event]:
    """The events, of which the list keeps none: each holds a tree when it has been transformed."""
    while events:
        yield events.pop()


def per_document(flow: Flow, documents: list[bytes], passes: int) -> Figures:
    """Seconds per document: the quickest pass, as in `bench_hop`, after one to warm up."""
    wall, cpu = [], []
    for _ in range(passes + 1):
        run = flow.prepare(documents)
        wall_began, cpu_began = time.perf_counter(), time.process_time()
        run()
        wall.append((time.perf_counter() - wall_began) / len(documents))
        cpu.append((time.process_time() - cpu_began) / len(documents))
    return {"wall_s": min(wall[1:]), "cpu_s": min(cpu[1:])}


def timer_delay(flow: Flow, documents: list[bytes]) -> Figures:
    """How much later than asked each timer came, while `flow` runs."""
    delays: list[float] = []

    def tick() -> None:
        while True:
            began = time.perf_counter()
            gevent.sleep(TIMER_S)
            delays.append(time.perf_counter() - began - TIMER_S)

    flow.prepare(documents[:4])()
    run = flow.prepare(documents)
    ticking = gevent.spawn(tick)
    run()
    gevent.sleep(2 * TIMER_S)  # the timer that the last documents made late
    ticking.kill()
    delays.sort()
    return {"p50_s": statistics.median(delays), "p99_s": delays[int(len(delays) * 0.99)], "max_s": delays[-1]}


def measure_side(side: str, case: str, *, quick: bool) -> Figures:
    """The figures of one side of one case."""
    flows: dict[str, Callable[[], Flow]] = {
        "raw": lambda: Raw(yields=case == "timer"),
        "idle": Idle,
        "compysition": Compysition,
    }
    flow = flows[side]()
    less = 2 if quick else 1
    if case == "small":
        figures = per_document(flow, [xml_sample.order(xml_sample.LINES_SMALL)] * 200, passes=30 // less)
    elif case == "large":
        figures = per_document(flow, [xml_sample.order(xml_sample.LINES_LARGE)] * 12, passes=8 // less)
    else:
        figures = timer_delay(flow, [xml_sample.order(xml_sample.LINES_LARGE)] * (120 // less))
    flow.close()
    return figures


def main() -> int:
    """Compare, or be one side."""
    options = measure.parser(__doc__ or "", CASES).parse_args()
    if options.side:
        measure.pin(options.core)
        measure.report_side(measure_side(options.side, measure.only_case(options), quick=options.quick))
        return 0
    limit_s = QUICK_LIMIT_S if options.quick else LIMIT_S
    return measure.compare(CASES, options, rounds=7, limit_s=limit_s, packages=("gevent", "lxml"))


if __name__ == "__main__":
    sys.exit(main())
