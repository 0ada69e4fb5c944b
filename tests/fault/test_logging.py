# SPDX-License-Identifier: Apache-2.0
"""Log actors: records come in from anywhere, nothing waits for them, and none comes back for ever."""

import gc
import logging
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import gevent
import pytest
from gevent import get_hub
from gevent.event import Event as Signal

from compysition import Actor, Director, Event, Fatal
from compysition.errors import StartError
from compysition.logs import RECORDS_KEPT, LogBridge
from tests.fault.conservation import (
    Collector,
    Handler,
    assert_conserved,
    letters,
    running,
    wait_until,
)

pytestmark = pytest.mark.timeout(20)

ROOT = logging.getLogger("compysition")
mine = logging.getLogger("compysition.of_this_test")


@pytest.fixture(autouse=True)
def logging_is_as_before() -> Iterator[None]:
    before = (ROOT.level, list(ROOT.handlers))
    yield
    after = (ROOT.level, list(ROOT.handlers))
    ROOT.setLevel(before[0])
    for handler in after[1]:
        if isinstance(handler, LogBridge):
            ROOT.removeHandler(handler)
    assert after == before


@contextmanager
def quiet_pytest() -> Iterator[None]:
    """Keep records from pytest's own handler, which formats them at once and keeps them."""
    ROOT.propagate = False
    try:
        yield
    finally:
        ROOT.propagate = True


def forward(actor: Actor, event: Event) -> None:
    actor.send_event(event)


def messages(log: Collector) -> list[str]:
    return [entry["message"] for entry in log.data]


def only(log: Collector, *wanted: str) -> list[str]:
    """The messages that begin with one of `wanted`, in order: the runtime says this and that as well."""
    return [text for text in messages(log) if text.startswith(wanted)]


# ---- what arrives -----------------------------------------------------------------------------------------------


def test_a_record_arrives_as_plain_data_with_actor_event_id_and_traceback() -> None:
    def consume(actor: Actor, event: Event) -> None:
        try:
            raise ValueError("cause")
        except ValueError:
            actor.logger.exception("it %s", "broke", extra={"event_id": event.event_id})

    director = Director()
    log = director.register_log_actor(Collector, "log")
    actor = director.register_actor(Handler, "actor", consume)
    event = Event(1)
    with running(director):
        director.post(actor, event)
        wait_until(lambda: only(log, "it broke"))
        [entry] = [entry for entry in log.data if entry["message"] == "it broke"]
    assert entry["level"] == "ERROR"
    assert entry["name"] == "compysition.actor.actor"
    assert entry["actor"] == "actor"
    assert entry["event_id"] == event.event_id
    assert isinstance(entry["time"], float)
    assert "ValueError: cause" in entry["traceback"]
    assert str(entry).startswith("ERROR compysition.actor.actor: it broke\nTraceback")
    assert {type(value) for value in entry.values()} <= {str, float, type(None)}


def test_records_made_between_registration_and_start_arrive_after_it() -> None:
    director = Director()
    log = director.register_log_actor(Collector, "log")
    mine.info("before start")
    with running(director):
        wait_until(lambda: only(log, "before start"))


def test_a_record_that_cannot_be_formatted_arrives_and_says_so() -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError("no text")

        __repr__ = __str__

    director = Director()
    log = director.register_log_actor(Collector, "log")
    with running(director):
        with quiet_pytest():
            mine.info("wrong %d", "arguments")
            mine.info("bad %s", Unprintable())
            mine.info(Unprintable())
        mine.info("after")
        wait_until(lambda: only(log, "after"))
        broken = [text for text in messages(log) if "could not be formatted" in text]
    assert len(broken) == 3


def test_a_record_keeps_no_event_and_no_exception_alive() -> None:
    director = Director()
    log = director.register_log_actor(Collector, "log")

    class Payload:
        """Something to look after."""

    traces: list[weakref.ref[Payload]] = []

    def make() -> None:
        payload = Payload()
        traces.append(weakref.ref(payload))
        event = Event(payload)
        try:
            raise ValueError(event)
        except ValueError:
            mine.warning("about %s", event, exc_info=True)

    gc.disable()
    try:
        with running(director), quiet_pytest():
            log.pause()
            make()
            assert traces[0]() is None
            log.resume()
            wait_until(lambda: only(log, "about"))
    finally:
        gc.enable()


# ---- from where -------------------------------------------------------------------------------------------------


def test_records_may_be_made_in_any_thread() -> None:
    director = Director()
    log = director.register_log_actor(Collector, "log")

    def write(thread: int) -> None:
        for number in range(100):
            mine.info("thread %d: %d", thread, number)

    with running(director):
        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(only(log, "thread")) == 400)
        for thread in threads:
            thread.join()
        for number in range(4):
            assert only(log, f"thread {number}:") == [f"thread {number}: {index}" for index in range(100)]


def test_a_record_of_a_thread_arrives_although_nothing_else_happens() -> None:
    director = Director()
    log = director.register_log_actor(Collector, "log")
    with running(director):
        wait_until(lambda: only(log, "Director"))
        gevent.idle()
        thread = threading.Thread(target=mine.info, args=("alone",))
        thread.start()
        thread.join()
        # One wait, without looking in between: the record itself has to wake the loop.
        arrived = Signal()
        log.send_event = lambda event, queues=None: arrived.set()  # type: ignore[method-assign]
        assert arrived.wait(5)
        log.__dict__.pop("send_event")
        assert only(log, "alone") == ["alone"]


def test_records_may_be_made_in_callbacks_of_the_loop_and_in_finalizers() -> None:
    class Final:
        def __del__(self) -> None:
            mine.info("finalizer")

    director = Director()
    log = director.register_log_actor(Collector, "log")
    with running(director):
        get_hub().loop.run_callback(mine.info, "callback")
        final = Final()
        del final
        cycle: list[Any] = [Final()]
        cycle.append(cycle)
        del cycle
        gc.collect()
        wait_until(lambda: len(only(log, "callback", "finalizer")) == 3)


def test_making_a_record_never_switches() -> None:
    director = Director(size=1)
    log = director.register_log_actor(Collector, "log")
    with running(director):
        log.pause()
        turn = get_hub().loop.iteration
        for number in range(1000):
            mine.info("number %d", number)
        assert get_hub().loop.iteration == turn
        log.resume()
        wait_until(lambda: len(only(log, "number")) == 1000)
    assert only(log, "number") == [f"number {number}" for number in range(1000)]


def test_when_the_ring_is_full_the_oldest_are_dropped_and_counted() -> None:
    director = Director()
    log = director.register_log_actor(Collector, "log")
    with running(director):
        wait_until(lambda: only(log, "Director"))
        with quiet_pytest():
            for number in range(RECORDS_KEPT + 50):
                mine.info("number %d", number)
        wait_until(lambda: only(log, f"number {RECORDS_KEPT + 49}"), timeout_s=10)
        assert_conserved(director)
    numbers = only(log, "number")
    lost = [text for text in messages(log) if text.endswith("records lost")]
    assert numbers[-1] == f"number {RECORDS_KEPT + 49}"
    assert lost
    assert sum(int(text.split()[0]) for text in lost) + len(numbers) == RECORDS_KEPT + 50
    assert numbers == [f"number {number}" for number in range(RECORDS_KEPT + 50 - len(numbers), RECORDS_KEPT + 50)]


# ---- balance ----------------------------------------------------------------------------------------------------


def test_log_records_have_their_own_line_in_the_balance() -> None:
    director = Director()
    log = director.register_log_actor(Collector, "log")
    behind = director.register_actor(Collector, "behind")
    director.connect_queue(log, behind)
    actor = director.register_actor(Handler, "actor", forward)
    with running(director):
        for number in range(10):
            director.post(actor, number)
            mine.info("number %d", number)
        wait_until(lambda: len(only(behind, "number")) == 10)
        snapshot = director.snapshot()
        assert (snapshot.balance.accepted, snapshot.balance.born, snapshot.balance.held) == (10, 0, 0)
        assert snapshot.logs.accepted == len(log.data)
        assert_conserved(director)


# ---- log actors that misbehave ----------------------------------------------------------------------------------


def test_a_log_actor_that_raises_is_not_told_about_it(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[str] = []

    def consume(actor: Actor, event: Event) -> None:
        calls.append(event.data["message"])
        raise ValueError("cannot log")

    director = Director()
    director.register_log_actor(Handler, "log", consume)
    actor = director.register_actor(Collector, "actor")
    with running(director):
        mine.info("first")
        mine.info("second")
        wait_until(lambda: calls[-2:] == ["first", "second"])
        director.post(actor, 1)
        wait_until(lambda: actor.data == [1])
        gevent.sleep(0.02)
        assert calls.count("first") == calls.count("second") == 1
        assert not [text for text in calls if "cannot log" in text or "dead letter" in text]
        assert_conserved(director)
        assert director.snapshot().balance.accepted == 1
    assert {(letter.actor, letter.reason) for letter in letters(director)} == {("log", "failed")}
    assert "cannot log" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["compysition.of_this_test", None])
def test_a_log_actor_that_logs_writes_to_standard_error(name: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    def consume(actor: Actor, event: Event) -> None:
        calls.append(event.data["message"])
        if event.data["message"] == "question":
            (actor.logger if name is None else logging.getLogger(name)).warning("echo of %s", event.data["message"])

    calls: list[str] = []
    director = Director()
    director.register_log_actor(Handler, "log", consume)
    with running(director):
        mine.info("question")
        mine.info("the end")
        wait_until(lambda: "the end" in calls)
    assert "echo of question" not in calls
    assert capsys.readouterr().err.count("echo of question") == 1


def test_a_background_greenlet_of_the_log_actor_that_logs_writes_to_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Busy(Collector):
        def pre_hook(self) -> None:
            self.background(self.logger.warning, "busy")

    director = Director()
    log = director.register_log_actor(Busy, "log")
    with running(director):
        mine.info("the end")
        wait_until(lambda: only(log, "the end"))
    assert not only(log, "busy")
    assert "busy" in capsys.readouterr().err


def test_actors_reachable_only_from_the_log_actor_write_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    def consume(actor: Actor, event: Event) -> None:
        actor.logger.warning("%s saw %s", actor.name, event.data["message"])
        actor.send_event(event)

    director = Director()
    log = director.register_log_actor(Collector, "log")
    near = director.register_actor(Handler, "near", consume)
    far = director.register_actor(Handler, "far", consume)
    end = director.register_actor(Collector, "end")
    director.connect_queue(log, near)
    director.connect_queue(near, far)
    director.connect_queue(far, end)
    with running(director):
        mine.info("the end")
        wait_until(lambda: only(end, "the end"))
    assert not [text for text in messages(log) if " saw " in text]
    err = capsys.readouterr().err
    assert "near saw the end" in err
    assert "far saw the end" in err


def test_records_made_while_the_feeder_feeds_write_to_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    director = Director()
    log = director.register_log_actor(Collector, "log")
    original = Event.__init__

    def chatty(event: Event, *args: Any, **kwargs: Any) -> None:
        mine.info("an event was made")
        original(event, *args, **kwargs)

    with running(director), quiet_pytest():
        monkeypatch.setattr(Event, "__init__", chatty)
        mine.info("the end")
        wait_until(lambda: only(log, "the end"))
        monkeypatch.setattr(Event, "__init__", original)
    assert not only(log, "an event was made")
    assert "an event was made" in capsys.readouterr().err


def test_a_log_actor_that_hangs_holds_nobody_up_and_the_stop_comes_to_its_end() -> None:
    director = Director()
    director.register_log_actor(Handler, "log", lambda actor, event: gevent.sleep(60), options={"concurrency": 1})
    actor = director.register_actor(Collector, "actor")
    with running(director):
        for number in range(600):
            mine.info("number %d", number)
            director.post(actor, number)
        wait_until(lambda: len(actor.data) == 600)
        assert_conserved(director)
        report = director.stop(0.2)
        assert_conserved(director)
    assert report.exit_code == 1
    assert report.actors["log"].left > 0


def test_a_log_actor_that_breaks_is_restarted_and_gets_every_record() -> None:
    class Breaking(Collector):
        options = {"concurrency": 1}  # noqa: RUF012  # a mapping is what users write

        def consume(self, event: Event, origin: str = "", origin_queue: str = "") -> None:
            if event.data["message"] == "number 3" and event.attempts == 0:
                raise Fatal
            super().consume(event, origin, origin_queue)

    director = Director()
    log = director.register_log_actor(Breaking, "log")
    with running(director):
        for number in range(10):
            mine.info("number %d", number)
        wait_until(lambda: len(only(log, "number")) == 10)
        assert_conserved(director)
    assert only(log, "number") == [f"number {number}" for number in range(10)]


def test_a_feeder_killed_from_outside_comes_back_and_no_record_is_lost() -> None:
    director = Director()
    log = director.register_log_actor(Collector, "log")
    with running(director):
        mine.info("before")
        wait_until(lambda: only(log, "before"))
        [feeder] = [service for service in director._services if "feeder" in service.name]
        assert feeder.greenlet is not None
        feeder.greenlet.kill()
        mine.info("after")
        wait_until(lambda: only(log, "after"))
        assert_conserved(director)


def test_a_feeder_killed_while_it_waits_for_room_loses_no_record() -> None:
    director = Director(size=1)
    log = director.register_log_actor(Collector, "log")
    with running(director):
        wait_until(lambda: director.snapshot().logs.held == 0)
        log.pause()
        for number in range(10):
            mine.info("number %d", number)
        wait_until(lambda: director.snapshot().actors["log"].queued == 2)
        [feeder] = [service for service in director._services if "feeder" in service.name]
        assert feeder.greenlet is not None
        feeder.greenlet.kill()
        assert_conserved(director)
        log.resume()
        wait_until(lambda: only(log, "number 9"))
    assert only(log, "number") == [f"number {number}" for number in range(10)]


# ---- stop -------------------------------------------------------------------------------------------------------


def test_lines_logged_in_the_last_millisecond_are_there() -> None:
    class Hooked(Collector):
        def post_hook(self) -> None:
            for number in range(100):
                self.logger.info("%s %d", self.name, number)

    director = Director()
    log = director.register_log_actor(Collector, "log")
    actors = [director.register_actor(Hooked, name) for name in ("first", "last")]
    director.connect_queue(actors[1], actors[0])
    with running(director):
        pass
    for name in ("first", "last"):
        assert only(log, name) == [f"{name} {number}" for number in range(100)]
    assert [text for text in messages(log) if "stops: stop() was called" in text]


def test_lines_that_pass_through_a_further_actor_are_there() -> None:
    """What only a log actor feeds is stopped with it, not with the flow."""

    class Hooked(Collector):
        def post_hook(self) -> None:
            self.logger.info("said at the end")

    director = Director()
    log = director.register_log_actor(Handler, "log", forward)
    behind = director.register_actor(Collector, "behind")
    director.register_actor(Hooked, "hooked")
    director.connect_queue(log, behind)
    with running(director):
        pass
    assert only(behind, "said at the end")
    assert not letters(director)


def test_lines_of_handlers_killed_at_the_deadline_are_there() -> None:
    def consume(actor: Actor, event: Event) -> None:
        try:
            gevent.sleep(60)
        finally:
            actor.logger.info("killed at last")

    director = Director()
    log = director.register_log_actor(Collector, "log")
    actor = director.register_actor(Handler, "actor", consume)
    with running(director):
        director.post(actor, 1)
        wait_until(lambda: director.snapshot().actors["actor"].in_flight)
        director.stop(0.05)
    assert only(log, "killed at last") == ["killed at last"]
    assert [text for text in messages(log) if "became a dead letter (stopped)" in text]


def test_the_handler_is_removed_at_stop_and_the_level_put_back() -> None:
    director = Director()
    before = (ROOT.level, list(ROOT.handlers))
    log = director.register_log_actor(Collector, "log")
    assert len(ROOT.handlers) == len(before[1]) + 1
    with running(director):
        pass
    assert (ROOT.level, list(ROOT.handlers)) == before
    mine.warning("after the stop")
    gevent.sleep(0.01)
    assert not only(log, "after the stop")


def test_the_handler_is_removed_when_the_start_fails() -> None:
    class Broken(Actor):
        def pre_hook(self) -> None:
            raise ValueError("no")

    before = (ROOT.level, list(ROOT.handlers))
    director = Director()
    director.register_log_actor(Collector, "log")
    director.register_actor(Broken, "broken")
    with pytest.raises(StartError):
        director.start(block=False)
    assert (ROOT.level, list(ROOT.handlers)) == before


def test_the_same_director_started_again_has_its_log_actor_again() -> None:
    director = Director()
    log = director.register_log_actor(Collector, "log")
    for number in range(3):
        with running(director):
            mine.info("run %d", number)
            wait_until(lambda number=number: only(log, f"run {number}"))  # type: ignore[misc]
            assert_conserved(director)
    assert only(log, "run") == ["run 0", "run 1", "run 2"]


def test_a_record_made_outside_of_any_director_goes_to_every_log_actor() -> None:
    first, second = Director(), Director()
    logs = [
        first.register_log_actor(Collector, "log"),
        first.register_log_actor(Collector, "other_log"),
        second.register_log_actor(Collector, "log_of_another"),
    ]
    with running(first), running(second):
        mine.info("to all")
        wait_until(lambda: all(only(log, "to all") == ["to all"] for log in logs))


class AsManyAsSeven(Collector):
    options: ClassVar[Mapping[str, Any]] = {"concurrency": 7}


@pytest.mark.parametrize("register", [Director.register_log_actor, Director.register_error_actor])
def test_log_and_error_actors_keep_the_order_unless_their_options_say_otherwise(register: Any) -> None:
    def concurrency(cls: type[Actor], options: Any = None) -> int:
        director = Director()
        register(director, cls, "it", options=options)
        with running(director):
            return director._wiring.find("it").cell.concurrency

    assert concurrency(Collector) == 1
    assert concurrency(Collector, {"grace_s": 1.0}) == 1
    assert concurrency(Collector, {"concurrency": 3}) == 3
    assert concurrency(AsManyAsSeven) == 7


class Talking(Actor):
    """Says from everywhere, by its own logger and by another, what it was told."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name)
        self.text = text

    def say(self, where: str) -> None:
        self.logger.info("%s: %s", self.text, where)
        mine.info("%s: %s", self.text, where)

    def pre_hook(self) -> None:
        self.say("pre")
        self.background(self.say, "background")
        get_hub().loop.run_callback(lambda: self.logger.info("%s: callback", self.text))

    def post_hook(self) -> None:
        self.say("post")

    def consume(self, event: Event) -> None:
        self.say("consume")
        raise ValueError(self.text)


def test_a_log_actor_hears_its_own_director_only() -> None:
    logs, directors = [], []
    for text in "one", "two":
        # All names are the same, and so are the Directors'.
        director = Director()
        logs.append(director.register_log_actor(Collector, "log"))
        actor = director.register_actor(Talking, "actor", text)
        director.post(actor, 1)
        directors.append(director)

    def nobody() -> None:
        raise ValueError("nobody's")

    with running(directors[0]), running(directors[1]):
        directors[1].get_actor("actor").background(nobody, restart=False)
        for log in logs:
            wait_until(lambda log=log: only(log, "handler raised"))  # type: ignore[misc]
    for log, text, other in zip(logs, ("one", "two"), ("two", "one"), strict=True):
        places = ["pre", "pre", "background", "background", "callback", "consume", "consume", "post", "post"]
        assert sorted(only(log, f"{text}: ")) == sorted(f"{text}: {place}" for place in places)
        assert not [line for line in messages(log) if f"{other}: " in line]
        # What the runtime says itself: running, handler raised, dead letter, stops.
        assert len(only(log, "Director 'default' is running")) == len(only(log, "Director 'default' stops")) == 1
        assert len(only(log, "handler raised")) == 1
        assert not only(log, "event ")
    assert [bool(only(log, "background greenlet")) for log in logs] == [False, True]


@pytest.mark.parametrize("first_out", [0, 1])
def test_a_log_actor_that_goes_leaves_the_level_to_the_others_and_the_last_one_puts_it_back(first_out: int) -> None:
    before = ROOT.level
    directors = [Director(), Director()]
    logs = [director.register_log_actor(Collector, "log") for director in directors]
    for director in directors:
        director.start(block=False)
    stays = 1 - first_out
    directors[first_out].stop()

    mine.info("still heard")

    wait_until(lambda: only(logs[stays], "still heard"))
    directors[stays].stop()
    assert ROOT.level == before


def test_a_level_that_the_script_has_set_meanwhile_stays() -> None:
    director = Director()
    director.register_log_actor(Collector, "log")
    with running(director):
        ROOT.setLevel(logging.ERROR)
    try:
        assert ROOT.level == logging.ERROR
    finally:
        ROOT.setLevel(logging.NOTSET)
