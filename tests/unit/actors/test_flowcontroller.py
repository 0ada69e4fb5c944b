# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.actors.flowcontroller`."""

from compysition import Director, Event
from compysition.actors import FlowController
from tests.fault.conservation import Collector, assert_conserved


def test_it_forwards_the_event_itself() -> None:
    director = Director()
    forward = director.register_actor(FlowController, "forward")
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(forward, sink)
    event = Event({"a": 1}, service="s", colour="red")
    with director:
        director.post(forward, event)
    assert sink.events == [event]
    assert (event.data, event.service, event.get("colour")) == ({"a": 1}, "s", "red")
    assert_conserved(director)


def test_it_joins_and_forks() -> None:
    director = Director()
    forward = director.register_actor(FlowController, "forward")
    sinks = [director.register_actor(Collector, name) for name in ("a", "b", "c")]
    sources = [director.register_actor(FlowController, name) for name in ("x", "y")]
    for source in sources:
        director.connect_queue(source, forward)
    director.connect_queue(forward, list(sinks))
    with director:
        for source in sources:
            director.post(source, source.name)
    assert [sorted(sink.data) for sink in sinks] == [["x", "y"]] * 3
    assert_conserved(director)


def test_without_an_outbox_the_flow_ends_with_it() -> None:
    director = Director()
    director.register_actor(FlowController, "forward")
    with director:
        assert director.ask("forward", "x").data == "x"
    assert_conserved(director)
