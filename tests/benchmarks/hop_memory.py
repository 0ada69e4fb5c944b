# SPDX-License-Identifier: Apache-2.0
"""What a flow leaves in memory: behind a stuck sink, after a burst, after a million events.

No bases here: the figures are counts and should not grow with the number of events.
"""

import gc
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import greenlet
from gevent.event import Event as Flag

from compysition import Actor, Director, Event
from tests.benchmarks.hop_compysition import Compysition, Feed, Relay
from tests.benchmarks.hop_sides import CAPACITY, Shape

Counted = dict[str, object]

#: A source that never has to wait lets the others run once per so many events.
EVENTS_PER_TURN = 200
#: How long idle consumers may take to go away.
SETTLE_S = 5.0


def live_greenlets() -> int:
    """Greenlets that have begun and not ended, the hub and the main one included."""
    return sum(1 for thing in gc.get_objects() if isinstance(thing, greenlet.greenlet) and thing)


def resident_mib() -> float:
    """Memory of this process that is resident, in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def fresh(events: int) -> Iterator[Event]:
    """Events made one by one, so that nobody but the flow holds them."""
    for number in range(events):
        yield Event(data=number)
        if number % EVENTS_PER_TURN == 0:
            gevent.sleep(0)


class StuckSink(Actor):
    """Its handlers wait until `release` is set."""

    def __init__(self, name: str, release: Flag) -> None:
        super().__init__(name)
        self.release = release

    def consume(self, event: Event) -> None:
        self.release.wait()


def stuck(events: int) -> Counted:
    """Offer 1 000 000 events behind a sink whose handlers never end; look at greenlets and memory.

    Twice: over a connection that makes the source wait, and over one that drops what it cannot take, so that all of
    them are really offered.
    """
    return {"events to offer": events, **stuck_with(events, "wait"), **stuck_with(events, "drop_newest")}


def stuck_with(events: int, overflow: str) -> Counted:
    """One flow of source, relay and stuck sink."""
    release = Flag()
    director = Director(size=CAPACITY)
    feed = director.register_actor(Feed, "source")
    relay = director.register_actor(Relay, "relay")
    sink = director.register_actor(StuckSink, "sink", release)
    director.connect_queue(feed, relay, overflow=overflow)
    director.connect_queue(relay, sink)
    before = live_greenlets()
    director.start(block=False)
    gevent.sleep(0.1)
    counted: Counted = {"greenlets before": before, "greenlets started and idle": live_greenlets()}
    offered = 0
    ended = Flag()

    def counting() -> Iterator[Event]:
        nonlocal offered
        for event in fresh(events):
            offered += 1
            yield event
        ended.set()

    feed.offer(counting())
    settle(lambda: offered >= min(events, 20_000), limit_s=1.0)
    counted["MiB when the first were offered"] = resident_mib()
    ended.wait(timeout=1.0 if overflow == "wait" else 60.0)
    counted["events offered"] = offered
    counted["greenlets behind the stuck sink"] = live_greenlets()
    counted["MiB behind the stuck sink"] = resident_mib()
    counted["dropped"] = sum(queue.dropped for queue in director.snapshot().queues.values())
    counted["balance is even"] = director.snapshot().balance.is_even
    if overflow == "wait":
        # Here the source is stuck too, as it should be; now all the events go through.
        release.set()
        ended.wait(timeout=60.0)
    release.set()
    feed.end()
    report = director.stop(timeout_s=20.0)
    counted["drained"] = report.ok
    counted["balance at the end"] = str(director.snapshot().balance)
    settle(lambda: live_greenlets() <= before, limit_s=SETTLE_S)
    counted["greenlets after stop"] = live_greenlets()
    return {f"{overflow}: {name}": value for name, value in counted.items()}


def settle(condition: Callable[[], bool], *, limit_s: float) -> float:
    """Wait until the condition holds, at most `limit_s`; how long it took in seconds."""
    began = time.monotonic()
    while not condition() and time.monotonic() - began < limit_s:
        gevent.sleep(0.05)
    return round(time.monotonic() - began, 2)


class Sleeper(Actor):
    """A handler that takes long enough for all its consumers to be busy at once."""

    handled = 0

    def consume(self, event: Event) -> None:
        gevent.sleep(0.02)
        Sleeper.handled += 1


def burst(events: int) -> Counted:
    """Send a burst to 20 actors whose handlers wait; look whether the idle consumers go away.

    The burst is a thousandth of `events` to each of them, in copies.
    """
    actors, share = 20, events // 1000
    director = Director(size=CAPACITY)
    feed = director.register_actor(Feed, "source")
    sleepers = [director.register_actor(Sleeper, f"sleeper_{number}") for number in range(actors)]
    director.connect_queue(feed, list(sleepers))
    director.start(block=False)
    gevent.sleep(0.1)
    before, mib_before = live_greenlets(), resident_mib()
    peak = 0

    def is_over() -> bool:
        nonlocal peak
        peak = max(peak, live_greenlets())
        return Sleeper.handled >= actors * share

    feed.offer(fresh(share))
    took_s = settle(is_over, limit_s=60.0)
    settled_s = settle(lambda: live_greenlets() <= before + 32, limit_s=SETTLE_S)
    counted: Counted = {
        "handlers run": Sleeper.handled,
        "seconds": took_s,
        "greenlets before": before,
        "greenlets at the peak": peak,
        "greenlets afterwards": live_greenlets(),
        "seconds until then": settled_s,
        "MiB before and afterwards": [mib_before, resident_mib()],
        "balance": str(director.snapshot().balance),
    }
    feed.end()
    counted["drained"] = director.stop(timeout_s=10.0).ok
    return counted


def residue(events: int) -> Counted:
    """Send 1 000 000 events through 1→3→1; look at the objects that are left, the last event included."""
    flow = Compysition(Shape(relays=3), events)
    feed = flow.feeds[0]

    def send(number: int) -> None:
        flow.sinks[0].missing = number
        flow.clock.open_sinks = 1
        feed.offer(fresh(number))
        flow.wait()
        feed.batch = ()
        gevent.sleep(0.2)

    send(10_000)
    gc.collect()
    kinds_before, mib_before = kinds(), resident_mib()
    send(events)
    uncollected = kinds()
    gc.collect()
    kinds_after = kinds()
    grown = {cls.__qualname__: number for cls, number in (kinds_after - kinds_before).most_common(8)}
    counted: Counted = {
        "events": events,
        "objects before": kinds_before.total(),
        "objects after, before a collection": uncollected.total(),
        "objects after": kinds_after.total(),
        "events left before a collection": uncollected[Event],
        "events left": kinds_after[Event],
        "classes that grew": grown,
        "MiB before and after": [mib_before, resident_mib()],
        "balance": str(flow.director.snapshot().balance),
    }
    flow.close()
    return counted


def kinds() -> Counter[type]:
    """How many objects the collector knows, by their class."""
    return Counter(map(type, gc.get_objects()))


LOOKS: dict[str, Callable[[int], Counted]] = {"stuck": stuck, "burst": burst, "residue": residue}
