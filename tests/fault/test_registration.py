# SPDX-License-Identifier: Apache-2.0
"""Bad input before anything runs, and actors that do not become ready."""

import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import GreenletExit

from compysition import Actor, ActorOptions, Director, Event
from compysition.actors import STDOUT, TestEvent
from compysition.errors import (
    ActorNotFoundError,
    ConfigurationError,
    ConnectionTypeError,
    DirectorStateError,
    EventNotOwnedError,
    OutboxNotFoundError,
    QueueConnectedError,
    QueueFullError,
    RegistrationError,
    StartError,
    StylesheetError,
)
from tests.fault.conservation import Collector, Handler, assert_conserved, letters, running, wait_until

pytestmark = pytest.mark.timeout(20)


#: A stop that comes to its deadline takes so long, one that does not takes next to nothing.
STOP_TIMEOUT_S = 4.0
AT_ONCE_S = 2.0


# ---- connecting -------------------------------------------------------------------------------------------------


def two_collectors(**kwargs: Any) -> tuple[Director, Collector, Collector]:
    director = Director(**kwargs)
    return director, director.register_actor(Collector, "first"), director.register_actor(Collector, "second")


def assert_still_usable(director: Director, source: Collector, sink: Collector) -> None:
    """What was refused has left nothing behind: the two are connected by one queue, and it works."""
    with running(director):
        director.post(source, "through")
        wait_until(lambda: sink.data == ["through"])
    assert [key for key in director.snapshot().queues if key[0]] == [("first", "second", "second", "first")]
    assert_conserved(director)


@pytest.mark.parametrize("connect", [Director.connect_queue, Director.connect_queue_error])
def test_an_unknown_actor_is_an_error_that_suggests_the_nearest_name(connect: Callable[..., None]) -> None:
    director, first, second = two_collectors()
    with pytest.raises(ActorNotFoundError, match=r"no actor 'secnd'; did you mean 'second'\?"):
        connect(director, first, "secnd")
    with pytest.raises(ActorNotFoundError, match=r"'nobody'"):
        connect(director, "nobody", second)
    director.connect_queue(first, second)
    assert_still_usable(director, first, second)


def test_an_actor_of_another_director_is_an_error_that_says_so() -> None:
    director, first, second = two_collectors()
    _, _, foreign = two_collectors()
    with pytest.raises(ActorNotFoundError, match=r"another Director"):
        director.connect_queue(first, foreign)
    director.connect_queue(first, second)
    assert_still_usable(director, first, second)


def test_the_very_same_outbox_and_inbox_twice_is_an_error() -> None:
    director, first, second = two_collectors()
    director.connect_queue(first, second)
    with pytest.raises(QueueConnectedError, match=r"'first'.*'second'"):
        director.connect_queue(first, "second")
    with pytest.raises(QueueConnectedError):
        director.connect_queue("first", [second])
    assert_still_usable(director, first, second)


def test_the_same_destination_twice_in_one_list_is_an_error_and_connects_none() -> None:
    director, first, second = two_collectors()
    with pytest.raises(QueueConnectedError):
        director.connect_queue(first, [second, second])
    director.connect_queue(first, second)
    assert_still_usable(director, first, second)


def test_the_same_pair_may_be_joined_by_both_calls_and_by_named_queues() -> None:
    director, first, second = two_collectors()
    director.connect_queue(first, second)
    director.connect_queue_error(first, second)
    director.connect_queue(first, (second, "aside"))
    with pytest.raises(QueueConnectedError):
        director.connect_queue_error(first, second)
    with running(director):
        director.post(first, "twice")
        wait_until(lambda: second.data == ["twice", "twice"])
        assert sorted(second.origins) == [("first", "aside"), ("first", "first")]


@pytest.mark.parametrize(
    "wrong",
    [None, 3, b"second", object(), Collector, {3: 1}, ("second", 3), ("second", ""), ("second", "x", "y"), []],
    ids=repr,
)
def test_a_wrong_type_in_connect_queue_is_an_error_that_says_what_is_wanted(wrong: Any) -> None:
    director, first, second = two_collectors()
    with pytest.raises((ConnectionTypeError, ActorNotFoundError), match=r"wanted|no actor|no destination"):
        director.connect_queue(first, wrong)
    with pytest.raises((ConnectionTypeError, ActorNotFoundError), match=r"wanted|no actor"):
        director.connect_queue(wrong, second)
    director.connect_queue(first, second)
    assert_still_usable(director, first, second)


def test_any_iterable_of_destinations_is_taken() -> None:
    director, first, second = two_collectors()
    director.connect_queue(first, (actor for actor in [second]))
    assert_still_usable(director, first, second)


def test_one_wrong_destination_in_a_list_connects_none() -> None:
    director, first, second = two_collectors()
    with pytest.raises(ActorNotFoundError):
        director.connect_queue(first, [second, "nobody"])
    director.connect_queue(first, second)
    assert_still_usable(director, first, second)


@pytest.mark.parametrize("capacity", [0, -1, True, 1.5, "5"])
def test_a_capacity_that_is_no_number_of_events_is_an_error(capacity: Any) -> None:
    director, first, second = two_collectors()
    with pytest.raises(ConfigurationError, match=r"capacity is .*from 1 on"):
        director.connect_queue(first, second, capacity=capacity)
    with pytest.raises(ConfigurationError, match=r"size is .*from 1 on"):
        Director(size=capacity)
    director.connect_queue(first, second)
    assert_still_usable(director, first, second)


@pytest.mark.parametrize("policy", ["drop_newst", "", None, 3])
def test_an_unknown_overflow_policy_is_an_error_that_names_those_there_are(policy: Any) -> None:
    director, first, second = two_collectors()
    with pytest.raises(ConfigurationError, match=r"overflow policy .*drop_newest"):
        director.connect_queue(first, second, overflow=policy)
    director.connect_queue(first, second)
    assert_still_usable(director, first, second)


def test_an_unknown_outbox_in_queues_fails_the_event_with_a_suggestion() -> None:
    director, _, second = two_collectors()
    sender = director.register_actor(
        Handler, "sender", lambda actor, event: actor.send_event(event, queues=event.data), options={"concurrency": 1}
    )
    director.connect_queue(sender, second)
    with running(director):
        for outbox in ("secnd", ["second", "nobody"], "second"):
            director.post(sender, outbox)
        wait_until(lambda: second.data == ["second"] and len(letters(director)) == 2)
        assert_conserved(director)
    errors = [letter.error for letter in letters(director, "failed")]
    assert [error.error_class for error in errors if error] == [OutboxNotFoundError, OutboxNotFoundError]
    assert "no outbox 'secnd'; did you mean 'second'?" in str(errors[0])


# ---- registering ------------------------------------------------------------------------------------------------


class Raising(Actor):
    """Its constructor raises whatever it is given."""

    def __init__(self, name: str, error: BaseException | None = None) -> None:
        super().__init__(name)
        if error is not None:
            raise error


class Forgetful(Actor):
    """Its constructor has forgotten the one of `Actor`."""

    def __init__(self, name: str) -> None:
        pass


def test_a_name_used_twice_is_an_error_and_the_first_one_stays() -> None:
    director, first, second = two_collectors()
    with pytest.raises(RegistrationError, match=r"'first' is taken by a Collector"):
        director.register_actor(Raising, "first")
    assert director.get_actor("first") is first
    director.connect_queue(first, second)
    assert_still_usable(director, first, second)


def test_a_constructor_that_raises_is_an_error_that_names_the_actor_and_frees_the_name() -> None:
    director = Director()
    cause = ValueError("no such table")
    with pytest.raises(RegistrationError, match=r"'reader'.*Raising.*ValueError: no such table") as caught:
        director.register_actor(Raising, "reader", cause)
    assert caught.value.__cause__ is cause
    director.register_actor(Raising, "reader")
    with running(director):
        assert director.is_running()


def test_an_error_made_for_registration_keeps_its_class_and_says_whose_it_is() -> None:
    director = Director()
    with pytest.raises(StylesheetError) as caught:
        director.register_actor(Raising, "sheet", StylesheetError("does not compile", line=7))
    assert caught.value.line == 7
    assert any("'sheet'" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(4)], ids=repr)
def test_what_ends_the_process_leaves_a_constructor_as_it_is(error: BaseException) -> None:
    director = Director()
    with pytest.raises(type(error)):
        director.register_actor(Raising, "reader", error)
    director.register_actor(Raising, "reader")


def test_a_constructor_that_does_not_call_its_base_is_an_error_that_says_so() -> None:
    with pytest.raises(RegistrationError, match=r"Forgetful.*super\(\).__init__"):
        Director().register_actor(Forgetful, "forgetful")


def test_arguments_that_do_not_fit_the_constructor_are_an_error_that_names_the_actor() -> None:
    with pytest.raises(RegistrationError, match=r"'reader'.*Raising takes no argument 'tabel'; there are: 'error'"):
        Director().register_actor(Raising, "reader", tabel="x")


@pytest.mark.parametrize("wrong", [int, object(), None, "Collector", Event], ids=repr)
def test_what_is_no_actor_cannot_be_registered(wrong: Any) -> None:
    with pytest.raises(RegistrationError, match=r"'it'.*subclass of Actor"):
        Director().register_actor(wrong, "it")


@pytest.mark.parametrize("name", ["", None, 3, b"name"])
def test_a_name_that_is_no_text_is_an_error(name: Any) -> None:
    with pytest.raises(RegistrationError, match=r"name has to be text"):
        Director().register_actor(Collector, name)


def test_an_instance_carries_its_name_takes_no_arguments_and_belongs_to_one_director() -> None:
    director = Director()
    instance = Collector("mine")
    with pytest.raises(RegistrationError, match=r"'mine'.*'yours'"):
        director.register_actor(instance, "yours")
    with pytest.raises(RegistrationError, match=r"constructor"):
        director.register_actor(instance, "mine", 3)
    assert director.register_actor(instance, "mine") is instance
    with pytest.raises(RegistrationError, match=r"registered with a Director already"):
        Director().register_actor(instance, "mine")


@pytest.mark.parametrize(
    "options",
    [
        *({"concurency": 1}, {"concurrency": 0}, {"concurrency": "two"}, {"concurrency": True}, 5, ["concurrency"]),
        *({"max_retries": -1}, {"max_retries": "3"}, {"max_kept": 0}, {"max_kept": 1.5}, {"once": 1}),
        *({"grace_s": -1}, {"grace_s": "5"}, {"start_timeout_s": float("inf")}, {"fresh_context": "yes"}),
    ],
    ids=repr,
)
def test_options_that_do_not_exist_or_make_no_sense_are_an_error_that_names_the_actor(options: Any) -> None:
    director = Director()
    with pytest.raises(RegistrationError, match=r"'it'"):
        director.register_actor(Collector, "it", options=options)
    director.register_actor(Collector, "it", options=ActorOptions(concurrency=1))


def test_there_can_be_one_error_actor_and_it_has_no_error_wire() -> None:
    director = Director()
    sink = director.register_error_actor(Collector, "errors")
    other = director.register_actor(Collector, "other")
    with pytest.raises(ConfigurationError, match=r"'errors' is the error actor already"):
        director.register_error_actor(Collector, "more")
    with pytest.raises(ConfigurationError, match=r"dead letters"):
        director.connect_queue_error(sink, other)


@pytest.mark.parametrize(
    "change",
    [
        lambda director: director.register_actor(Collector, "late"),
        lambda director: director.connect_queue("second", "first"),
        lambda director: director.connect_queue_error("second", "first"),
        lambda director: director.start(),
    ],
)
def test_a_running_director_refuses_changes_and_goes_on(change: Callable[[Director], object]) -> None:
    director, first, second = two_collectors()
    director.connect_queue(first, second)
    with running(director):
        with pytest.raises(DirectorStateError, match=r"running"):
            change(director)
        director.post(first, 1)
        wait_until(lambda: second.data == [1])


# ---- posting ----------------------------------------------------------------------------------------------------


def test_before_start_events_are_posted_up_to_capacity_and_then_refused() -> None:
    director = Director(size=2)
    sink = director.register_actor(Collector, "sink")
    director.post(sink, 1)
    director.post("sink", 2)
    refused = Event(3)
    with pytest.raises(QueueFullError, match=r"'sink'.*capacity 2.*not started"):
        director.post(sink, refused)
    assert_conserved(director)
    with running(director):
        director.post(sink, refused)
        wait_until(lambda: sink.data == [1, 2, 3])


def test_posting_an_event_twice_or_to_nobody_is_an_error() -> None:
    director, first, second = two_collectors()
    event = Event(1)
    with pytest.raises(ActorNotFoundError):
        director.post("nobody", event)
    director.post(first, event)
    with pytest.raises(EventNotOwnedError, match=r"already sent to 'first'"):
        director.post(second, event)
    with running(director):
        wait_until(lambda: first.data == [1])
    assert second.data == []


def test_after_a_stop_posting_is_an_error() -> None:
    director, first, _ = two_collectors()
    with running(director):
        pass
    with pytest.raises(DirectorStateError, match=r"stopped"):
        director.post(first, 1)
    assert_conserved(director)


# ---- starting ---------------------------------------------------------------------------------------------------


class Hooked(Collector):
    """Writes down its hooks; `pre` is called in its `pre_hook`."""

    def __init__(self, name: str, diary: list[str], pre: Callable[[Actor], object] | None = None) -> None:
        super().__init__(name)
        self.diary = diary
        self.pre = pre

    def pre_hook(self) -> None:
        self.diary.append(f"pre {self.name}")
        if self.pre is not None:
            self.pre(self)

    def post_hook(self) -> None:
        self.diary.append(f"post {self.name}")


class CustomBaseError(BaseException):
    """Neither an `Exception` nor one of those that gevent knows."""


def throw(error: BaseException) -> Callable[[Actor], object]:
    def pre(actor: Actor) -> object:
        raise error

    return pre


def chain_with_a_bad_middle(pre: Callable[[Actor], object], **options: Any) -> tuple[Director, list[str]]:
    """Source → middle → sink; the middle one's `pre_hook` calls `pre`."""
    director = Director(stop_timeout_s=STOP_TIMEOUT_S)
    diary: list[str] = []
    sink = director.register_actor(Hooked, "sink", diary)
    middle = director.register_actor(Hooked, "middle", diary, pre, options=options)
    source = director.register_actor(Hooked, "source", diary)
    director.connect_queue(source, middle)
    director.connect_queue(middle, sink)
    return director, diary


def test_actors_start_sinks_first_and_stop_in_reverse() -> None:
    director, diary = chain_with_a_bad_middle(lambda actor: None)
    with running(director):
        assert diary == ["pre sink", "pre middle", "pre source"]
    assert diary[3:] == ["post source", "post middle", "post sink"]


@pytest.mark.parametrize(
    "error",
    [
        *(ValueError("no"), MemoryError(), GreenletExit(), gevent.Timeout(), SystemExit(0), KeyboardInterrupt()),
        CustomBaseError("own"),
    ],
    ids=repr,
)
def test_a_pre_hook_that_raises_is_a_start_error_and_those_started_are_stopped_again(error: BaseException) -> None:
    director, diary = chain_with_a_bad_middle(throw(error))
    with pytest.raises(StartError, match=r"'middle'") as caught:
        director.start()
    # Whether the failed one's own post_hook is called is left open.
    assert [line for line in diary if line != "post middle"] == ["pre sink", "pre middle", "post sink"]
    assert caught.value.actor == "middle"
    assert caught.value.report is not None
    assert caught.value.report.exit_code == 2
    assert not director.is_running()
    assert_conserved(director)


def test_a_pre_hook_that_hangs_is_a_start_error_after_its_time() -> None:
    director, diary = chain_with_a_bad_middle(lambda actor: gevent.sleep(60), start_timeout_s=0.05)
    began = time.perf_counter()
    with pytest.raises(StartError, match=r"'middle'.*did not return within 0.05 s") as caught:
        director.start(block=False)
    assert time.perf_counter() - began < AT_ONCE_S
    assert caught.value.report is not None
    assert caught.value.report.exit_code == 2
    assert "post sink" in diary
    assert_conserved(director)


def test_a_pre_hook_that_hangs_and_swallows_its_kill_is_a_start_error_all_the_same() -> None:
    release = gevent.event.Event()

    def swallow(actor: Actor) -> None:
        while not release.is_set():
            try:
                release.wait()
            except GreenletExit:
                pass

    director, diary = chain_with_a_bad_middle(swallow, start_timeout_s=0.05)
    with pytest.raises(StartError, match=r"'middle'"):
        director.start(block=False)
    release.set()
    assert "post sink" in diary
    assert_conserved(director)


def test_a_start_that_fails_does_not_wait_for_events_that_nobody_can_handle() -> None:
    director, _ = chain_with_a_bad_middle(throw(ValueError("no")))
    for name in ("source", "middle", "sink"):
        director.post(name, f"for {name}")
    began = time.perf_counter()
    with pytest.raises(StartError) as caught:
        director.start()
    assert time.perf_counter() - began < AT_ONCE_S
    assert_conserved(director)
    assert {letter.event.data for letter in letters(director, "stopped")} >= {"for source", "for middle"}
    assert caught.value.report is not None
    assert caught.value.report.actors["middle"].left == 1


def test_a_start_that_fails_does_not_wait_for_sources_that_never_ran() -> None:
    director = Director(stop_timeout_s=STOP_TIMEOUT_S)
    sink = director.register_actor(Hooked, "sink", [], throw(ValueError("no")))
    source = director.register_actor(TestEvent, "source", interval=60)
    director.connect_queue(source, sink)
    began = time.perf_counter()
    with pytest.raises(StartError):
        director.start()
    assert time.perf_counter() - began < AT_ONCE_S
    assert_conserved(director)


def test_background_greenlets_of_a_hook_that_failed_are_not_left_behind() -> None:
    ran: list[str] = []

    def pre(actor: Actor) -> None:
        actor.background(lambda: ran.append("ran"))
        raise ValueError("no")

    director, _ = chain_with_a_bad_middle(pre)
    began = time.perf_counter()
    with pytest.raises(StartError):
        director.start()
    assert time.perf_counter() - began < AT_ONCE_S
    assert ran == []
    assert_conserved(director)


def test_a_director_that_could_not_start_can_once_the_cause_is_mended() -> None:
    is_broken = True

    def pre(actor: Actor) -> None:
        if is_broken:
            raise ValueError("no")

    director, _ = chain_with_a_bad_middle(pre)
    with pytest.raises(StartError):
        director.start(block=False)
    is_broken = False
    sink = director.get_actor("sink")
    assert isinstance(sink, Collector)
    with running(director):
        director.post("source", 1)
        wait_until(lambda: sink.data == [1])


def test_an_event_from_a_pre_hook_waits_until_its_destination_is_ready() -> None:
    director, _ = chain_with_a_bad_middle(lambda actor: actor.send_event(Event("early")))
    sink = director.get_actor("sink")
    assert isinstance(sink, Collector)
    with running(director):
        wait_until(lambda: sink.data == ["early"])


def test_a_request_to_stop_while_starting_ends_the_start() -> None:
    director, diary = chain_with_a_bad_middle(lambda actor: director.request_stop("changed my mind"))
    with pytest.raises(StartError, match=r"changed my mind") as caught:
        director.start(block=False)
    assert "pre source" not in diary
    assert "post sink" in diary
    assert caught.value.report is not None
    assert_conserved(director)


def test_a_request_to_stop_while_a_hook_is_slow_does_not_wait_for_the_hook() -> None:
    def pre(actor: Actor) -> None:
        director.request_stop("changed my mind")
        gevent.sleep(60)

    director, _ = chain_with_a_bad_middle(pre, start_timeout_s=STOP_TIMEOUT_S)
    began = time.perf_counter()
    with pytest.raises(StartError, match=r"changed my mind"):
        director.start(block=False)
    assert time.perf_counter() - began < AT_ONCE_S
    assert_conserved(director)


class Own(Actor):
    def __init__(self, name: str, colour: str, *, size: int = 1, **others: object) -> None:
        super().__init__(name)


class Inner(Actor):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        "".join(1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cls", "args", "kwargs", "why"),
    [
        (STDOUT, (), {"prefx": "a"}, r"STDOUT takes no argument 'prefx'; did you mean 'prefix'\?$"),
        (Actor, (), {"colour": 1}, r"Actor takes no argument 'colour'; there are: "),
        (
            STDOUT,
            (True, "a"),
            {},
            r"STDOUT was given 2 arguments by position, and takes none behind its name; by name ",
        ),
        (Own, (), {"size": 1}, r"Own needs the argument 'colour'$"),
        (
            Own,
            ("red",),
            {"colour": "red"},
            r"Own does not take these arguments: multiple values for argument 'colour'$",
        ),
        (
            Own,
            ("red", 1),
            {},
            r"Own was given 2 arguments by position, and takes 1 behind its name; by name it takes 'size'$",
        ),
        (Inner, (), {}, r"Inner\(\) raised TypeError: can only join an iterable$"),
    ],
)
def test_arguments_that_do_not_fit_say_what_the_class_takes(
    cls: type[Actor], args: tuple[object, ...], kwargs: dict[str, Any], why: str
) -> None:
    with pytest.raises(RegistrationError, match=rf"^actor 'x' cannot be registered: {why}"):
        Director().register_actor(cls, "x", *args, **kwargs)
