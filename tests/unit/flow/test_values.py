# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.flow.values`, and of the values that a Director makes."""

import inspect
import logging
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from compysition import Actor, Director
from compysition.actors import STDOUT, FlowController, MDPBroker, MDPClient, MDPWorker, Null, TestEvent, WSGIServer
from compysition.errors import ConfigurationError
from compysition.flow.values import Flow, FlowActor, FlowConnection, circles_of, find_way
from compysition.logs import LogBridge


@pytest.fixture(autouse=True)
def bridges_removed() -> Iterator[None]:
    """A log actor's handler stays until its Director has stopped; those here are not started."""
    yield
    for handler in [*logging.getLogger("compysition").handlers]:
        if isinstance(handler, LogBridge):
            handler.remove()


def line_here() -> int:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def director_of(*names: str) -> Director:
    director = Director(size=7, name="test")
    for name in names:
        director.register_actor(FlowController, name)
    return director


# ---- what a Director says ---------------------------------------------------------------------------------------


def test_places_are_the_lines_of_the_script_that_registered_and_connected() -> None:
    director = Director()
    director.register_actor(STDOUT, "a")
    registered = line_here() - 1
    director.register_log_actor(STDOUT, "b")
    director.connect_queue("a", "b")
    connected = line_here() - 1
    flow = director.flow()
    assert flow.actors[0].place == (__file__, registered)
    assert flow.actors[1].place == (__file__, connected - 1)
    assert flow.connections[0].place == (__file__, connected)


def test_connections_come_by_source_and_say_everything() -> None:
    director = director_of("a", "b")
    director.connect_queue_error("b", "a")
    director.connect_queue("b", ("a", "jobs"), capacity=3, overflow="fail")
    director.connect_queue(("a", "high"), "b")
    assert [(str(each), each.capacity, each.overflow, each.is_error) for each in director.flow().connections] == [
        ("a.high → b", 7, "wait", False),
        ("b → a.jobs", 3, "fail", False),
        ("b → a", 7, "wait", True),
    ]


def test_actors_say_what_they_are() -> None:
    director = Director()
    director.register_actor(WSGIServer, "door", "/api", address="::1", port=0)
    director.register_actor(WSGIServer, "mounted", run_server=False)
    director.register_actor(Null, "null", options={"ends_flow": True})
    director.register_log_actor(STDOUT, "logs")
    director.register_error_actor(STDOUT, "errors")
    director.post("null", 1)
    door, mounted, null, logs, errors = director.flow().actors
    assert (door.kind, door.is_door, door.is_cut, door.listens) == ("WSGIServer", True, True, ("http://[::1]:0/api",))
    assert (mounted.is_door, mounted.listens) == (True, ())
    assert (null.is_end, null.ends_flow, null.is_posted_to, null.is_door) == (True, True, True, False)
    assert (logs.is_log_actor, logs.is_end, logs.is_posted_to, errors.is_error_actor) == (True, True, False, True)


def test_a_broker_says_where_it_listens_and_a_worker_is_a_door() -> None:
    pytest.importorskip("zmq")
    director = Director()
    director.register_actor(MDPBroker, "broker")
    director.register_actor(MDPWorker, "worker", "service", brokers=["tcp://127.0.0.1:5555"])
    director.register_actor(MDPClient, "client", brokers=["tcp://127.0.0.1:5555"])
    broker, worker, client = director.flow().actors
    assert (broker.listens, broker.is_door) == (("tcp://127.0.0.1:5555",), False)
    assert (worker.is_door, worker.is_cut) == (True, True)
    assert (client.is_door, client.is_cut) == (False, True)


def test_the_flow_and_its_picture_are_the_same_before_the_start_and_later() -> None:
    director = director_of("a", "b")
    director.register_actor(TestEvent, "source", max_events=1)
    director.register_error_actor(STDOUT, "errors")
    director.connect_queue("source", "a")
    director.connect_queue("a", "b")
    before, picture = director.flow(), director.graph()
    director.start(until_idle=True)
    assert director.flow() == before
    director.start(until_idle=True)
    assert director.flow() == before
    assert director.graph() == picture


def test_a_picture_in_a_format_that_does_not_exist_is_an_error_with_a_suggestion() -> None:
    assert director_of("a").graph(format="dot").startswith("digraph")
    with pytest.raises(ConfigurationError, match="there is no picture format 'mermeid'; did you mean 'mermaid'"):
        director_of("a").graph("mermeid")


def test_a_subclass_in_the_script_has_its_own_name() -> None:
    class Mine(Actor):
        pass

    director = Director()
    director.register_actor(Mine("m"), "m")
    assert director.flow().actors[0].kind == "Mine"
    (actor,) = director.flow().actors
    assert actor.place is not None
    assert Path(actor.place.file) == Path(__file__)


# ---- ways -------------------------------------------------------------------------------------------------------


def flow_of(*edges: str, error_actor: str | None = None, cut: str = "") -> Flow:
    names = list(dict.fromkeys(name for edge in edges for name in edge))
    actors = (FlowActor(name, is_error_actor=name == error_actor, is_cut=name in cut) for name in names)
    return Flow("test", 500, tuple(actors), tuple(FlowConnection(a, b, b, a, 500) for a, b in map(tuple, edges)))


def test_rings_do_not_go_through_actors_that_answer() -> None:
    assert flow_of("ab", "bc", "ca").rings == [["a", "b", "c"]]
    assert flow_of("ab", "bc", "ca", cut="b").rings == []
    assert flow_of("aa", "ab").rings == [["a"]]


def test_the_ways_to_the_error_actor_that_nobody_made_close_rings_too() -> None:
    assert flow_of("ea", "ab", error_actor="e").rings == [["e", "a", "b"]]
    assert flow_of("xa", "ab", error_actor="b").rings == []


def test_circles_go_through_every_actor_of_a_ring_and_follow_its_connections() -> None:
    flow = flow_of("ab", "ba", "ac", "ca", "cd", "dd")
    (ring,) = (ring for ring in flow.rings if len(ring) > 1)
    circles = circles_of(ring, flow.inside(ring))
    assert {name for circle in circles for name in circle} == {"a", "b", "c"}
    edges = {(each.source, each.destination) for each in flow.connections}
    assert all(pair in edges for circle in circles for pair in pairwise(circle))


def test_a_way_is_a_shortest_one() -> None:
    graph = {"a": "bc", "b": "d", "c": "b", "d": ""}
    assert find_way(["a"], graph.__getitem__, "d") == ["a", "b", "d"]
    assert find_way(["b"], graph.__getitem__, "a") == []
    assert find_way([], graph.__getitem__, "a") == []
