# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.cell`: when a handler may start, and the ways on for an event. Each test ends balanced."""

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import GreenletExit, Timeout
from gevent.event import Event as Signal
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from compysition.backoff import Backoff
from compysition.cell import ERROR_HOPS_MOST, KILLS_MOST, Cell
from compysition.dispatch import Consumer
from compysition.errors import (
    ActorError,
    DirectorStoppedError,
    EventNotOwnedError,
    Fatal,
    ForbiddenError,
    HandlerTimeoutError,
    NotAnEventError,
    OutboxNotFoundError,
    QueueFullError,
    Retry,
    RingFullError,
    StopFlow,
)
from compysition.event import Event, Failure
from compysition.graph import find_rings
from compysition.ledger import DELIVERED, ENDINGS, Outcome
from compysition.queue import Overflow, Queue
from compysition.readiness import NOT_STARTED, PAUSED, RESTARTING
from compysition.testing import VirtualClock
from tests.unit.kernel import Kernel, turn, wait_until

#: A retry's delay in these tests, in seconds.
DELAY_S = 10.0


class Log(list[Any]):
    """A handler that notes the data of its events."""

    def __call__(self, event: Event) -> None:
        self.append(event.data)


def reasons(kernel: Kernel) -> list[str]:
    return [letter.reason for letter in kernel.dead_letters]


def forwarding(kernel: Kernel, name: str = "fan") -> Cell:
    """A cell whose handler sends its event to all outboxes."""

    def handle(event: Event) -> None:
        cell.send(event)

    cell = kernel.cell(name, handle)
    return cell


def raising(error: BaseException) -> Callable[[Event], None]:
    def handle(event: Event) -> None:
        raise error

    return handle


class Line:
    """source → middle → sink, where `handle` is what the middle one does."""

    def __init__(self, kernel: Kernel, handle: Callable[["Line", Event], object], **options: Any) -> None:
        self.kernel = kernel
        self.sink_log, self.error_log = Log(), Log()
        self.errors: list[Failure | None] = []
        self.middle = kernel.cell("middle", lambda event: handle(self, event), **options)
        self.sink = kernel.cell("sink", self.sink_log)
        self.failed = kernel.cell("failed", self._note)
        self.inbox = kernel.connect(None, self.middle)
        self.out = kernel.connect(self.middle, self.sink)

    def _note(self, event: Event) -> None:
        self.error_log.append(event.data)
        self.errors.append(event.error)

    def connect_errors(self) -> Queue:
        return self.kernel.connect(self.middle, self.failed, is_error=True)

    def post(self, data: Any = None) -> Event:
        return self.kernel.post(self.inbox, data)


# ---- sending --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_bound", [True, False])
def test_handler_sends_the_event_in_its_hand_and_nothing_is_counted(kernel: Kernel, is_bound: bool) -> None:
    line = Line(kernel, lambda line, event: (line.middle.bound_send() if is_bound else line.middle.send)(event))
    line.post("data")
    kernel.run()
    assert line.sink_log == ["data"]
    balance = kernel.balance()
    assert (balance.accepted, balance.born, balance.ended[Outcome.DELIVERED]) == (1, 0, 1)


@pytest.mark.parametrize("is_bound", [True, False])
def test_event_made_in_a_handler_is_born_and_one_made_outside_is_accepted(kernel: Kernel, is_bound: bool) -> None:
    line = Line(kernel, lambda line, event: send(Event("made")))
    send = line.middle.bound_send() if is_bound else line.middle.send
    line.post()
    kernel.run()
    send(Event("outside"))
    kernel.run()
    assert line.sink_log == ["made", "outside"]
    balance = kernel.balance()
    assert (balance.accepted, balance.born) == (2, 1)


@pytest.mark.parametrize("is_bound", [True, False])
def test_event_sent_twice_is_refused_the_second_time(kernel: Kernel, is_bound: bool) -> None:
    errors: list[BaseException] = []

    def handle(line: Line, event: Event) -> None:
        send = line.middle.bound_send() if is_bound else line.middle.send
        send(event)
        try:
            send(event)
        except EventNotOwnedError as error:
            errors.append(error)

    line = Line(kernel, handle)
    line.post("once")
    kernel.run()
    assert line.sink_log == ["once"]
    assert "was already sent to 'sink'" in str(errors[0])


@pytest.mark.parametrize("is_bound", [True, False])
@pytest.mark.parametrize("value", [None, "text", {"data": 1}, 5, Event, []], ids=str)
def test_value_that_is_no_event_is_refused(kernel: Kernel, is_bound: bool, value: Any) -> None:
    line = Line(kernel, lambda line, event: None)
    send = line.middle.bound_send() if is_bound else line.middle.send
    for attempt in (send, line.middle.send_error, line.middle.keep):
        with pytest.raises(NotAnEventError, match="create_event"):
            attempt(value)


@pytest.mark.parametrize("is_bound", [True, False])
def test_event_that_another_actor_has_in_hand_is_refused(kernel: Kernel, is_bound: bool) -> None:
    stolen: list[Event] = []
    signal = Signal()

    def handle(line: Line, event: Event) -> None:
        stolen.append(event)
        signal.wait()

    line = Line(kernel, handle)
    thief = kernel.cell("thief")
    kernel.connect(thief, line.sink, inbox="thief")
    line.post()
    wait_until(lambda: stolen)
    with pytest.raises(EventNotOwnedError, match="in the hand of 'middle'"):
        (thief.bound_send() if is_bound else thief.send)(stolen[0])
    signal.set()
    kernel.run()


def test_actor_without_an_outbox_ends_what_it_sends_as_delivered(kernel: Kernel) -> None:
    cell = forwarding(kernel)
    event = kernel.post(kernel.connect(None, cell))
    kernel.run()
    assert event._owner is DELIVERED


def test_event_goes_to_all_outboxes_as_copies_and_last_as_itself(kernel: Kernel) -> None:
    seen: list[Event] = []
    cell = forwarding(kernel)
    for name in "xyz":
        sink = kernel.cell(name, seen.append)
        kernel.connect(cell, sink)
    event = kernel.post(kernel.connect(None, cell), {"n": [1]})
    kernel.run()
    assert len(seen) == 3
    assert seen[-1] is event
    assert {each.meta_id for each in seen} == {event.event_id}
    assert len({each.event_id for each in seen}) == 3
    assert len({id(each.data["n"]) for each in seen}) == 3
    balance = kernel.balance()
    assert (balance.accepted, balance.born) == (1, 2)


def test_named_outboxes_get_the_event_and_others_do_not(kernel: Kernel) -> None:
    seen: list[tuple[str, Any]] = []
    cell = kernel.cell("fan", lambda event: cell.send(event, event.data))
    for name in "xyz":
        sink = kernel.cell(name, lambda event, name=name: seen.append((name, event.data)))  # type: ignore[misc]
        kernel.connect(cell, sink, outbox="both" if name in "yz" else "")
    queue = kernel.connect(None, cell)
    for data in ("x", ["x"], "both"):
        kernel.post(queue, data)
    kernel.run()
    assert sorted(seen, key=str) == [("x", "x"), ("x", ["x"]), ("y", "both"), ("z", "both")]


def test_unknown_outbox_is_refused_with_a_suggestion_and_nothing_is_sent(kernel: Kernel) -> None:
    line = Line(kernel, lambda line, event: None)
    event = Event()
    with pytest.raises(OutboxNotFoundError, match=r"'middle' has no outbox 'sinc'; did you mean 'sink'\?"):
        line.middle.bound_send()(event, ["sink", "sinc"])
    kernel.run()
    assert line.sink_log == []


def test_copies_are_taken_before_the_first_put(kernel: Kernel) -> None:
    class Stubborn:
        def __deepcopy__(self, memo: dict[int, Any]) -> "Stubborn":
            raise ValueError("one of a kind")

    cell = forwarding(kernel)
    logs = [Log(), Log()]
    for name, log in zip("xy", logs, strict=True):
        kernel.connect(cell, kernel.cell(name, log))
    kernel.post(kernel.connect(None, cell), Stubborn())
    kernel.run()
    assert logs == [[], []]
    assert reasons(kernel) == ["failed"]
    assert kernel.balance().born == 0


def test_sender_killed_half_way_through_a_fan_out_still_has_the_event(kernel: Kernel) -> None:
    first, last = Log(), Log()
    cell = forwarding(kernel)
    kernel.connect(cell, kernel.cell("first", first))
    slow = kernel.cell("slow", last, is_open=False)
    full = kernel.connect(cell, slow, capacity=1)
    kernel.post(kernel.connect(None, slow, inbox="filler"), "filler")
    kernel.post(full, "in the way")
    event = kernel.post(kernel.connect(None, cell), "data")
    wait_until(lambda: cell.waiting_puts)
    [consumer] = [each for each in kernel.dispatcher.consumers if each.hand.sender is cell]
    consumer.hand.is_kill_ours = True
    consumer.kill()
    assert first == ["data"]
    slow.open(NOT_STARTED)
    kernel.run()
    # At least once, never lost: the destination already served sees it again.
    assert first == ["data", "data"]
    assert sorted(last) == ["data", "filler", "in the way"]
    assert event.attempts == 1


# ---- overflow on the way --------------------------------------------------------------------------------------------


def test_only_destination_that_is_full_raises_in_the_handler(kernel: Kernel) -> None:
    line = Line(kernel, lambda line, event: line.middle.send(event))
    line.out.overflow, line.out.capacity, line.out.limit = Overflow.FAIL, 1, 1
    line.sink.close(PAUSED)
    line.post(1)
    line.post(2)
    kernel.run()
    [letter] = kernel.dead_letters
    assert letter.event.data == 2
    assert letter.error is not None
    assert letter.error.error_class is QueueFullError


def test_full_destination_of_several_makes_its_copy_a_dead_letter_and_others_are_served(kernel: Kernel) -> None:
    logs = [Log(), Log(), Log()]
    cell = forwarding(kernel)
    for position, log in enumerate(logs):
        sink = kernel.cell(f"sink{position}", log, is_open=position != 1)
        kernel.connect(cell, sink, capacity=1, overflow=Overflow.FAIL)
    queue = kernel.connect(None, cell)
    for number in (1, 2):
        kernel.post(queue, number)
        kernel.run()
    assert logs == [[1, 2], [], [1, 2]]
    assert reasons(kernel) == ["overflow"]
    assert kernel.balance().held == 1


def test_event_itself_becomes_the_dead_letter_when_the_last_destination_is_full(kernel: Kernel) -> None:
    log = Log()
    cell = forwarding(kernel)
    kernel.connect(cell, kernel.cell("first", log))
    kernel.connect(cell, kernel.cell("last", is_open=False), capacity=1, overflow=Overflow.FAIL)
    queue = kernel.connect(None, cell)
    kernel.post(queue, 1)
    event = kernel.post(queue, 2)
    kernel.run()
    assert log == [1, 2]
    assert [letter.event for letter in kernel.dead_letters] == [event]
    assert event._owner is ENDINGS[Outcome.DEAD]


def test_handler_that_waits_for_room_lets_no_other_handler_of_its_actor_start(kernel: Kernel) -> None:
    line = Line(kernel, lambda line, event: line.middle.send(event))
    line.out.capacity = line.out.limit = 2
    line.sink.close(PAUSED)
    for number in range(50):
        line.post(number)
    wait_until(lambda: line.middle.waiting_puts)
    turn()
    # Back pressure travels upstream instead of filling hands.
    assert (line.middle.running, line.middle.waiting_puts) == (1, 1)
    assert len(line.inbox.items) == 47
    line.sink.open(PAUSED)
    kernel.run()
    assert line.sink_log == list(range(50))


# ---- keeping --------------------------------------------------------------------------------------------------------


def test_kept_event_is_held_after_the_handler_has_returned(kernel: Kernel) -> None:
    line = Line(kernel, lambda line, event: line.middle.keep(event))
    event = line.post("kept")
    kernel.run()
    assert kernel.balance().held == 1
    assert line.middle.has_only_kept()
    assert not line.middle.is_quiet()
    line.middle.send(event)
    kernel.run()
    assert line.sink_log == ["kept"]
    assert line.middle.is_quiet()


def test_event_sent_after_it_was_delivered_is_born_again_with_one_warning(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    line = Line(kernel, lambda line, event: None)
    kernel.ledger.on_resent = lambda event, sender: line.middle.warn_of_keep(event)
    events = [line.post(number) for number in range(3)]
    kernel.run()
    for event in events:
        line.middle.bound_send()(event)
    kernel.run()
    assert line.sink_log == [0, 1, 2]
    balance = kernel.balance()
    assert (balance.accepted, balance.born, balance.ended[Outcome.DELIVERED]) == (3, 3, 6)
    warnings = [record for record in caplog.records if "self.keep(event)" in record.getMessage()]
    assert len(warnings) == 1


# ---- failing --------------------------------------------------------------------------------------------------------


def test_failed_event_takes_the_error_outbox_and_the_actor_goes_on(kernel: Kernel) -> None:
    def handle(line: Line, event: Event) -> None:
        if event.data == "bad":
            raise ForbiddenError("not you")
        line.middle.send(event)

    line = Line(kernel, handle)
    line.connect_errors()
    for data in ("good", "bad", "good too"):
        line.post(data)
    kernel.run()
    assert line.sink_log == ["good", "good too"]
    assert line.error_log == ["bad"]
    [failure] = line.errors
    assert failure is not None
    assert (failure.error_class, failure.text, failure.status, failure.actor) == (
        ForbiddenError,
        "not you",
        403,
        "middle",
    )
    assert line.middle.failures == 1
    assert reasons(kernel) == []


def test_failed_event_without_an_error_outbox_is_a_dead_letter_and_never_goes_on(kernel: Kernel) -> None:
    line = Line(kernel, lambda line, event: raising(ValueError("no"))(event))
    event = line.post("bad")
    kernel.run()
    assert line.sink_log == []
    [letter] = kernel.dead_letters
    assert (letter.event, letter.actor, letter.reason, letter.attempts) == (event, "middle", "failed", 0)
    assert letter.error is event.error
    assert letter.time == pytest.approx(kernel.clock.wall(), abs=5.0)


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), MemoryError(), RecursionError(), AssertionError(), KeyError("x"), StopIteration(), OSError()],
    ids=repr,
)
def test_every_ordinary_exception_fails_its_event(kernel: Kernel, error: Exception) -> None:
    line = Line(kernel, lambda line, event: raising(error)(event))
    line.connect_errors()
    line.post("bad")
    kernel.run()
    assert [failure.error_class for failure in line.errors if failure] == [type(error)]
    assert kernel.crashes == []


def test_timeout_that_leaves_a_handler_fails_its_event_with_504(kernel: Kernel) -> None:
    def handle(line: Line, event: Event) -> None:
        with Timeout(0.001):
            gevent.sleep(10)

    line = Line(kernel, handle)
    line.connect_errors()
    line.post()
    kernel.run()
    [failure] = line.errors
    assert failure is not None
    assert (failure.error_class, failure.status) == (HandlerTimeoutError, 504)


def test_event_goes_to_every_error_outbox(kernel: Kernel) -> None:
    line = Line(kernel, lambda line, event: raising(ValueError("no"))(event))
    line.connect_errors()
    other = Log()
    kernel.connect(line.middle, kernel.cell("other", other), is_error=True)
    line.post("bad")
    kernel.run()
    assert (line.error_log, other) == (["bad"], ["bad"])


def test_error_raised_after_the_event_was_sent_on_is_counted_and_never_also_on_the_error_path(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    def handle(line: Line, event: Event) -> None:
        line.middle.send(event)
        raise ValueError("too late")

    line = Line(kernel, handle)
    line.connect_errors()
    line.post("sent")
    kernel.run()
    assert line.sink_log == ["sent"]
    assert line.error_log == []
    assert (line.middle.failures, line.middle.failed_after_send) == (0, 1)
    assert any("after it had sent event" in record.getMessage() for record in caplog.records)


def test_event_that_fails_again_takes_error_outboxes_three_times(kernel: Kernel) -> None:
    # A ring of two that hand a failed event to each other.
    rounds = Log()

    def handle(event: Event) -> None:
        rounds(event)
        raise ValueError("again")

    cells = [kernel.cell(name, handle) for name in "ab"]
    kernel.connect(cells[0], cells[1], is_error=True)
    kernel.connect(cells[1], cells[0], is_error=True)
    kernel.post(kernel.connect(None, cells[0]))
    kernel.run()
    assert len(rounds) == 1 + ERROR_HOPS_MOST
    assert ERROR_HOPS_MOST == 3
    assert reasons(kernel) == ["failed"]


def test_event_whose_error_was_cleared_begins_anew(kernel: Kernel) -> None:
    rounds = Log()

    def handle(event: Event) -> None:
        rounds(event)
        event.error = None
        if len(rounds) < 10:
            raise ValueError("again")

    cell = kernel.cell("a", handle)
    kernel.connect(cell, cell, is_error=True)
    kernel.post(kernel.connect(None, cell))
    kernel.run()
    assert len(rounds) == 10
    assert reasons(kernel) == []


def test_full_error_outbox_that_refuses_makes_a_dead_letter(kernel: Kernel) -> None:
    line = Line(kernel, lambda line, event: raising(ValueError("no"))(event))
    queue = line.connect_errors()
    queue.overflow, queue.capacity, queue.limit = Overflow.FAIL, 1, 1
    line.failed.close(PAUSED)
    line.post(1)
    line.post(2)
    kernel.run()
    assert reasons(kernel) == ["overflow"]
    assert kernel.balance().held == 1


def test_stop_while_a_failed_event_waits_for_room_ends_it_once(kernel: Kernel) -> None:
    line = Line(kernel, lambda line, event: raising(ValueError("no"))(event))
    queue = line.connect_errors()
    queue.capacity = queue.limit = 1
    line.failed.close(PAUSED)
    line.post(1)
    line.post(2)
    wait_until(lambda: line.middle.waiting_puts)
    line.failed.collect("stopped")
    kernel.run()
    assert reasons(kernel) == ["stopped", "stopped"]
    assert kernel.crashes == []
    assert kernel.balance().held == 0


# ---- send_error -----------------------------------------------------------------------------------------------------


def test_event_sent_to_the_error_outbox_says_who_sent_it(kernel: Kernel) -> None:
    line = Line(kernel, lambda line, event: line.middle.send_error(event))
    line.connect_errors()
    line.post("refused")
    kernel.run()
    assert (line.sink_log, line.error_log) == ([], ["refused"])
    [failure] = line.errors
    assert failure is not None
    assert (failure.error_class, failure.actor) == (ActorError, "middle")


def test_event_sent_to_the_error_outbox_with_an_exception_carries_its_record(kernel: Kernel) -> None:
    def handle(line: Line, event: Event) -> None:
        event.error = ForbiddenError("not you")  # type: ignore[assignment]  # what users write
        line.middle.send_error(event)

    line = Line(kernel, handle)
    line.connect_errors()
    line.post()
    kernel.run()
    [failure] = line.errors
    assert isinstance(failure, Failure)
    assert (failure.error_class, failure.status, failure.actor) == (ForbiddenError, 403, "middle")


def test_event_sent_to_an_error_outbox_that_is_not_there_is_a_dead_letter_and_never_goes_on(kernel: Kernel) -> None:
    line = Line(kernel, lambda line, event: line.middle.send_error(event))
    line.post("refused")
    kernel.run()
    assert line.sink_log == []
    assert reasons(kernel) == ["failed"]


# ---- control flow ---------------------------------------------------------------------------------------------------


def test_stop_flow_ends_the_event_as_delivered_where_nobody_waits(kernel: Kernel) -> None:
    line = Line(kernel, lambda line, event: raising(StopFlow())(event))
    line.connect_errors()
    event = line.post()
    kernel.run()
    assert event._owner is DELIVERED
    assert (line.sink_log, line.error_log, line.middle.failures) == ([], [], 0)


@pytest.mark.parametrize("flow", [StopFlow(), Retry(1.0)], ids=repr)
def test_control_flow_after_the_event_was_sent_on_changes_nothing(kernel: Kernel, flow: Exception) -> None:
    def handle(line: Line, event: Event) -> None:
        line.middle.send(event)
        raise flow

    line = Line(kernel, handle)
    line.post("sent")
    kernel.run()
    assert line.sink_log == ["sent"]
    assert kernel.balance().ended[Outcome.DELIVERED] == 1


def retrying(times: int, *, after_s: float | None = DELAY_S) -> Callable[[Line, Event], None]:
    def handle(line: Line, event: Event) -> None:
        if event.data == "retried" and event.attempts < times:
            raise Retry(after_s)
        line.middle.send(event)

    return handle


def test_retried_event_waits_aside_and_lets_others_pass(timeless: Kernel, clock: VirtualClock) -> None:
    line = Line(timeless, retrying(1))
    line.post("retried")
    line.post("other")
    timeless.run()
    assert line.sink_log == ["other"]
    assert len(line.middle.retrying.events) == 1
    assert timeless.balance().held == 1
    assert not line.middle.is_quiet()
    clock.advance(DELAY_S - 0.1)
    turn()
    assert line.sink_log == ["other"]
    clock.advance(0.2)
    wait_until(lambda: len(line.sink_log) == 2)
    assert line.middle.is_quiet()


def test_retried_event_re_enters_over_capacity(timeless: Kernel, clock: VirtualClock) -> None:
    line = Line(timeless, retrying(1))
    line.inbox.capacity = line.inbox.limit = 1
    line.post("retried")
    timeless.run()
    line.middle.close(PAUSED)
    line.post("other")
    clock.advance(DELAY_S)
    turn()
    assert len(line.inbox.items) == 2
    line.middle.open(PAUSED)
    timeless.run()
    assert line.sink_log == ["other", "retried"]


def test_retry_with_concurrency_of_one_holds_the_inbox(timeless: Kernel, clock: VirtualClock) -> None:
    line = Line(timeless, retrying(2), concurrency=1, is_open=False)
    for data in ("first", "retried", "last"):
        line.post(data)
    line.middle.open(NOT_STARTED)
    timeless.run()
    for _ in range(2):
        clock.advance(DELAY_S - 0.1)
        turn()
        assert line.sink_log == ["first"]
        clock.advance(0.1)
        turn()
    wait_until(lambda: len(line.sink_log) == 3)
    assert line.sink_log == ["first", "retried", "last"]


@pytest.mark.parametrize("concurrency", [1, 100])
def test_retries_are_bounded(timeless: Kernel, clock: VirtualClock, concurrency: int) -> None:
    line = Line(timeless, retrying(100), concurrency=concurrency, max_retries=3)
    event = line.post("retried")
    line.post("other")
    for _ in range(10):
        timeless.run()
        clock.advance(DELAY_S)
        turn()
    assert reasons(timeless) == ["retries"]
    [letter] = timeless.dead_letters
    assert (letter.event, letter.attempts) == (event, 4)
    assert line.sink_log == ["other"]
    assert timeless.balance().held == 0


def test_retry_without_a_time_takes_the_backoff(timeless: Kernel, clock: VirtualClock) -> None:
    line = Line(timeless, retrying(2, after_s=None), backoff=Backoff(first_s=1.0, jitter=0.0))
    line.post("retried")
    for delay_s in (1.0, 2.0):
        timeless.run()
        clock.advance(delay_s - 0.1)
        turn()
        assert line.sink_log == []
        clock.advance(0.1)
        turn()
    timeless.run()
    assert line.sink_log == ["retried"]


def test_fatal_gives_the_event_back_and_asks_for_a_restart(kernel: Kernel) -> None:
    def handle(line: Line, event: Event) -> None:
        line.middle.close(RESTARTING)  # what the supervisor does when it is asked
        raise Fatal("broken")

    line = Line(kernel, handle)
    event = line.post()
    kernel.run()
    assert kernel.crashes == [("middle", "Fatal: broken")]
    assert list(line.inbox.items) == [event]
    assert (event.attempts, event.error) == (1, None)


def test_fatal_after_the_event_was_sent_on_restarts_all_the_same(kernel: Kernel) -> None:
    def handle(line: Line, event: Event) -> None:
        line.middle.send(event)
        raise Fatal

    line = Line(kernel, handle)
    line.post("sent")
    kernel.run()
    assert kernel.crashes == [("middle", "Fatal")]
    assert line.sink_log == ["sent"]


def test_event_is_poison_when_three_handlers_ended_over_it(kernel: Kernel) -> None:
    line = Line(kernel, lambda line, event: raising(Fatal("broken"))(event))
    event = line.post()
    kernel.run()
    assert KILLS_MOST == 3
    assert len(kernel.crashes) == 3
    [letter] = kernel.dead_letters
    assert (letter.reason, letter.event, letter.attempts) == ("poison", event, 3)
    assert letter.error is not None
    assert "3 times" in letter.error.text


def test_kills_are_counted_for_each_actor_apart(kernel: Kernel) -> None:
    def handle(line: Line, event: Event) -> None:
        if event.attempts < KILLS_MOST - 1:
            raise Fatal
        line.middle.send(event)

    line = Line(kernel, handle)
    final = Log()

    def handle_next(event: Event) -> None:
        if event.attempts < 2 * (KILLS_MOST - 1):
            raise Fatal
        final(event)

    line.middle.outboxes.clear()
    kernel.connect(line.middle, kernel.cell("next", handle_next))
    line.post("survivor")
    kernel.run()
    assert final == ["survivor"]
    assert reasons(kernel) == []


# ---- what ends a consumer -------------------------------------------------------------------------------------------


def test_kill_from_outside_gives_the_event_back_and_asks_for_a_restart(kernel: Kernel) -> None:
    signal = Signal()

    def handle(line: Line, event: Event) -> None:
        if not event.attempts:
            signal.wait()
        line.middle.send(event)

    line = Line(kernel, handle)
    line.post("killed")
    line.post("other")
    wait_until(lambda: line.middle.running == 2)
    victims = [each for each in kernel.dispatcher.consumers if each.hand.sender is line.middle]
    victims[0].kill()
    signal.set()
    kernel.run()
    assert sorted(line.sink_log) == ["killed", "other"]
    assert [name for name, _ in kernel.crashes] == ["middle"]


def test_kill_by_the_supervisor_asks_for_no_further_restart(kernel: Kernel) -> None:
    line = Line(kernel, lambda line, event: None if event.attempts else gevent.sleep(60))
    line.post()
    wait_until(lambda: line.middle.running)
    [victim] = [each for each in kernel.dispatcher.consumers if each.hand.sender is line.middle]
    victim.hand.is_kill_ours = True
    victim.kill()
    kernel.run()
    assert kernel.crashes == []


def test_exit_that_a_handler_raises_gives_its_event_back(kernel: Kernel) -> None:
    line = Line(kernel, lambda line, event: None if event.attempts else raising(GreenletExit())(event))
    event = line.post()
    kernel.run()
    assert event.attempts == 1
    assert event._owner is DELIVERED
    assert [name for name, _ in kernel.crashes] == ["middle"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_end_of_the_process_in_a_handler_gives_the_event_back_and_begins_a_stop(
    kernel: Kernel, error: BaseException
) -> None:
    def handle(line: Line, event: Event) -> None:
        line.middle.close(PAUSED)
        raise error

    line = Line(kernel, handle)
    event = line.post()
    kernel.run()
    assert list(line.inbox.items) == [event]
    [reason] = kernel.stops
    assert type(error).__name__ in reason
    assert "'middle'" in reason
    assert kernel.crashes == []


class OddExit(BaseException):
    """Derives from what no boundary catches."""


def test_whatever_else_leaves_a_handler_does_so_after_the_accounting(
    kernel: Kernel, unobserved: list[BaseException]
) -> None:
    line = Line(kernel, lambda line, event: None if event.attempts else raising(OddExit("odd"))(event))
    event = line.post()
    kernel.run()
    turn()
    assert [type(error) for error in unobserved] == [OddExit]
    unobserved.clear()
    assert event._owner is DELIVERED
    assert [name for name, _ in kernel.crashes] == ["middle"]
    assert line.middle.running == 0


def test_rest_of_the_chunk_is_served_after_a_consumer_has_ended(kernel: Kernel) -> None:
    line = Line(
        kernel,
        lambda line, event: (
            raising(GreenletExit())(event) if event.data == 5 and not event.attempts else line.middle.send(event)
        ),
        is_open=False,
    )
    for number in range(10):
        line.post(number)
    line.middle.open(NOT_STARTED)
    kernel.run()
    assert sorted(line.sink_log) == list(range(10))


# ---- the end --------------------------------------------------------------------------------------------------------


def test_everything_held_is_collected_as_dead_letters(timeless: Kernel, clock: VirtualClock) -> None:
    def handle(line: Line, event: Event) -> None:
        if event.data == "retried":
            raise Retry(DELAY_S)
        line.middle.keep(event)

    line = Line(timeless, handle)
    line.post("retried")
    line.post("kept")
    timeless.run()
    line.middle.close(PAUSED)
    line.inbox.capacity = line.inbox.limit = 1
    line.post("queued")
    refused: list[DirectorStoppedError] = []

    def post() -> None:
        try:
            line.post("waiting")
        except DirectorStoppedError as error:
            refused.append(error)

    waiting = gevent.spawn(post)
    turn()
    assert timeless.balance().held == line.middle.depth + 2 == 4
    assert line.middle.collect("stopped") == 4
    waiting.join()
    assert len(refused) == 1
    assert {letter.event.data for letter in timeless.dead_letters} == {"retried", "kept", "queued", "waiting"}
    assert set(reasons(timeless)) == {"stopped"}
    assert timeless.balance().held == 0
    assert clock.pending == 0


def test_quiet_cell_holds_nothing(kernel: Kernel) -> None:
    cell = kernel.cell("a", is_open=False)
    queue = kernel.connect(None, cell)
    assert cell.is_quiet()
    kernel.post(queue)
    assert (cell.is_quiet(), cell.depth) == (False, 1)
    cell.open(NOT_STARTED)
    kernel.run()
    assert cell.is_quiet()


# ---- rings in a running flow ----------------------------------------------------------------------------------------


class Circle:
    """outside → a → b → a, where events go round until their data is 0."""

    def __init__(self, kernel: Kernel, capacity: int, copies: int = 1) -> None:
        self.kernel = kernel
        self.copies = copies
        self.most = 0
        self.done = 0
        self.a = kernel.cell("a", lambda event: self.handle(self.a, event))
        self.b = kernel.cell("b", lambda event: self.handle(self.b, event))
        self.outside = kernel.connect(None, self.a, capacity=1000)
        self.queues = [
            kernel.connect(self.a, self.b, capacity=capacity),
            kernel.connect(self.b, self.a, capacity=capacity),
        ]
        [self.ring] = find_rings(kernel.cells, lambda cell: False)

    def handle(self, cell: Cell, event: Event) -> None:
        self.most = max(self.most, self.ring.load())
        if event.data == 0:
            self.done += 1
            return
        event.data -= 1
        for _ in range(self.copies - 1):
            cell.send(event.copy())
        cell.send(event)


def test_ring_whose_handlers_send_one_event_per_event_neither_stops_nor_loses_and_is_bounded(kernel: Kernel) -> None:
    circle = Circle(kernel, capacity=2)
    for _ in range(200):
        kernel.post(circle.outside, 7)
    kernel.run()
    assert circle.done == 200
    assert circle.most <= circle.ring.limit
    assert reasons(kernel) == []


def test_ring_that_multiplies_is_cut_and_the_event_in_hand_fails(kernel: Kernel) -> None:
    circle = Circle(kernel, capacity=2, copies=2)
    kernel.post(circle.outside, 12)
    kernel.run()
    assert circle.most <= 4 * circle.ring.limit + 1
    letters = list(kernel.dead_letters)
    assert letters
    assert {letter.error.error_class for letter in letters if letter.error} == {RingFullError}
    assert kernel.balance().held == 0


def test_events_from_outside_wait_while_the_ring_is_full(kernel: Kernel) -> None:
    circle = Circle(kernel, capacity=2)
    circle.b.close(PAUSED)
    for _ in range(20):
        kernel.post(circle.outside, 1)
    kernel.run()
    assert circle.ring.load() == circle.ring.limit == 4
    assert len(circle.outside.items) == 16
    circle.b.open(PAUSED)
    kernel.run()
    assert circle.done == 20


def test_events_from_outside_come_in_while_one_handler_of_the_ring_waits(kernel: Kernel) -> None:
    # The ring has room again as soon as the others of its chunk are done.
    signal, waits = Signal(), 0
    circle = Circle(kernel, capacity=2)

    def handle(event: Event) -> None:
        nonlocal waits
        if event.get("waits"):
            waits += 1
            signal.wait()

    circle.queues[0].handler = handle
    circle.b.close(PAUSED)
    for number in range(10):
        event = Event(1, waits=number == 3)
        circle.outside.put(event, kernel.ledger, None, None)
    kernel.run()
    assert len(circle.outside.items) == 6
    circle.b.open(PAUSED)
    wait_until(lambda: waits)
    wait_until(lambda: not circle.outside.items)
    signal.set()
    kernel.run()


# ---- readiness, whatever happens ------------------------------------------------------------------------------------


class Waiting:
    """A handler that waits to be told what to do."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.order = ""


class Readiness(RuleBasedStateMachine):
    """Puts, pauses, handlers that wait, end, fail and are killed, in any order: no cell is ever forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self.kernel = Kernel(self.clock)
        self.waiting: list[Waiting] = []
        self.handled = 0
        self.cells: list[Cell] = []
        self.queues: list[Queue] = []

    @initialize(concurrency=st.integers(1, 3), is_ring=st.booleans())
    def begin(self, concurrency: int, is_ring: bool) -> None:
        kernel = self.kernel
        self.cells = [kernel.cell(name, self.handle, concurrency=concurrency) for name in "ab"]
        a, b = self.cells
        self.queues = [kernel.connect(None, a, inbox="x"), kernel.connect(None, a, inbox="y"), kernel.connect(None, b)]
        kernel.connect(a, b, capacity=2)
        if is_ring:
            kernel.connect(b, a, capacity=2)
            find_rings(kernel.cells, lambda cell: False)

    def handle(self, event: Event) -> None:
        """Do what the event says: its data is a list of words, the first one for this call."""
        current: Any = gevent.getcurrent()
        assert isinstance(current, Consumer)
        cell = current.hand.sender
        assert cell is not None
        self.handled += 1
        what = event.data.pop(0) if event.data else "end"
        if what == "wait":
            me = Waiting(current)
            self.waiting.append(me)
            try:
                while not me.order:
                    gevent.sleep(0.0001)
            finally:
                self.waiting.remove(me)
            what = me.order
        if what == "fail":
            raise ValueError("no")
        if what == "retry":
            raise Retry(1.0)
        if what == "fatal":
            raise Fatal
        if what == "pause":
            cell.close(PAUSED)
        if what == "keep":
            cell.keep(event)
        if what == "send":
            cell.send(event)

    def settle(self) -> None:
        """Let everything happen that needs no further help: nothing is on its way."""
        wait_until(lambda: not self.kernel.dispatcher.ready and not self.kernel.dispatcher.is_armed)

    @rule(
        queue=st.integers(0, 2),
        words=st.lists(st.sampled_from(["wait", "send", "fail", "retry", "fatal", "keep", "pause", "end"]), max_size=4),
        number=st.integers(1, 5),
        is_run=st.booleans(),
    )
    def put(self, queue: int, words: list[str], number: int, is_run: bool) -> None:
        for _ in range(number):
            self.kernel.post(self.queues[queue], list(words))
        if is_run:
            self.settle()

    @rule(cell=st.integers(0, 1))
    def pause(self, cell: int) -> None:
        self.cells[cell].close(PAUSED)

    @rule(cell=st.integers(0, 1), is_run=st.booleans())
    def resume(self, cell: int, is_run: bool) -> None:
        self.cells[cell].open(PAUSED)
        if is_run:
            self.settle()

    @precondition(lambda self: self.waiting)
    @rule(number=st.integers(0, 9), what=st.sampled_from(["end", "send", "fail", "retry", "keep", "fatal"]))
    def go_on(self, number: int, what: str) -> None:
        waiting = self.waiting[number % len(self.waiting)]
        waiting.order = what
        wait_until(lambda: waiting not in self.waiting)
        self.settle()

    @precondition(lambda self: self.waiting)
    @rule(number=st.integers(0, 9))
    def kill(self, number: int) -> None:
        self.waiting[number % len(self.waiting)].consumer.kill()
        self.settle()

    @rule()
    def pass_time(self) -> None:
        self.clock.advance(1.0)
        self.settle()

    @invariant()
    def cell_that_could_serve_is_queued_or_wants_to_be_woken(self) -> None:
        ready = list(self.kernel.dispatcher.ready)
        for cell in self.cells:
            assert ready.count(cell) == cell.is_queued
            may_start = not (cell.shut or cell.waiting_puts or cell.running >= cell.concurrency)
            if cell.is_queued or not may_start:
                continue
            room = cell.ring.room() if cell.ring is not None else 1
            eligible = [queue for queue in cell.inboxes if queue.items and (room > 0 or queue.ring is not None)]
            assert not eligible
            assert cell.wants_wake

    @invariant()
    def balance_is_even(self) -> None:
        balance = self.kernel.balance()
        assert balance.is_even, str(balance)

    @invariant()
    def concurrency_is_kept(self) -> None:
        assert all(0 <= cell.running <= cell.concurrency for cell in self.cells)

    def teardown(self) -> None:
        for _ in range(100):
            for cell in self.cells:
                cell.open(PAUSED)
            for waiting in self.waiting:
                waiting.order = "end"
            self.clock.advance(1.0)
            turn()
            if not any(cell.running or cell.depth or cell.retrying.events for cell in self.cells):
                break
        assert [(cell.running, cell.depth, len(cell.retrying.events)) for cell in self.cells] == [(0, 0, 0)] * len(
            self.cells
        )
        self.kernel.close()


def test_no_actor_with_work_is_ever_forgotten() -> None:
    run_state_machine_as_test(Readiness, settings=settings(max_examples=60, stateful_step_count=25))
