# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.actors.null`."""

import gc
import weakref

from compysition import Director, Event
from compysition.actors import Null, Source
from compysition.ledger import Outcome
from tests.fault.conservation import assert_conserved


def test_every_event_ends_as_delivered_and_none_is_kept() -> None:
    director = Director()
    event = Event("x")
    gone = weakref.ref(event)
    source = director.register_actor(Source, "source", iter([event]))
    director.connect_queue(source, director.register_actor(Null, "null"))
    del event

    director.start(until_idle=True)

    gc.collect()
    assert director.snapshot().balance.ended[Outcome.DELIVERED] == 1
    assert gone() is None
    assert_conserved(director)


def test_it_sends_nothing_on() -> None:
    director = Director()
    first = director.register_actor(Null, "first")
    second = director.register_actor(Null, "second")
    director.connect_queue(first, second)
    with director:
        director.post(first, "x")
    assert director.snapshot().actors["second"].received == 0
    assert_conserved(director)
