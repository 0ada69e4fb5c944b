# SPDX-License-Identifier: Apache-2.0
"""`Watch`: what a test could leave behind, and nobody would notice: errors, greenlets, Directors.

The fixture ``compysition_watch`` of ``pytest_compysition`` is one of these around a test; other test runners use it as
a context manager. Read next: `timelimit`.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import gevent
from gevent import Greenlet, monkey
from gevent.hub import Hub

from compysition.director import Director
from compysition.dispatch import Consumer, Dispatcher
from compysition.testing.running import assert_conserved, stop
from compysition.testing.waiting import LOOK_S, PATIENCE_S, describe_greenlet, settle

ErrorT = TypeVar("ErrorT", bound=BaseException)

#: Real seconds that a greenlet may take to end after the test has.
END_S = 1.0


class Watch:
    """Sees what happens between its beginning and its end, and raises if anything was left.

    ::

        with Watch():
            …  # the test

    It raises when an error left a greenlet and nobody looked at it; when a greenlet that was started meanwhile is still
    alive, a second after the end; when a Director still runs; when a Director's balance is not even. Before it raises,
    it stops and kills what was left, so that the next test does not find it.

    Attributes:
        errors: What left greenlets and was printed by the hub, also if somebody got it from `Greenlet.get`. Who expects
            one uses `take`.
    """

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        # The real one: patched, every greenlet is a thread of its own.
        self._get_ident: Callable[[], int] = monkey.get_original("threading", "get_ident")
        self._thread = self._get_ident()
        self._greenlets: weakref.WeakSet[Any] = weakref.WeakSet()
        self._allowed: weakref.WeakSet[Any] = weakref.WeakSet()
        self._directors: list[Director] = []
        #: Dispatchers that began to run meanwhile.
        self._bound: list[Dispatcher] = []
        self._undo: list[Callable[[], object]] = []

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        problems = self.end()
        if problems and error is None:
            raise AssertionError(problems)

    def take(self, error_class: type[ErrorT]) -> list[ErrorT]:
        """The errors of this class that left greenlets so far; from now on they count as looked at.

        Raises:
            AssertionError: there is none.
        """
        __tracebackhide__ = True
        taken = [error for error in self.errors if isinstance(error, error_class)]
        if not taken:
            raise AssertionError(f"no {error_class.__name__} left a greenlet; there are {self.errors}")
        self.errors[:] = [error for error in self.errors if error not in taken]
        return taken

    def allow(self, greenlet: object) -> None:
        """Let `greenlet` outlive the test: it belongs to something that several tests share."""
        self._allowed.add(greenlet)

    def begin(self) -> None:
        """Begin to look."""
        handle_error, make, start = Hub.handle_error, Consumer.__init__, Director.start
        bind, bound = Dispatcher.bind, self._bound

        def on_error(hub: Any, context: Any, kind: Any, error: Any, trace: Any) -> None:
            if isinstance(kind, type) and not issubclass(kind, (*hub.NOT_ERROR, KeyboardInterrupt)):
                make_error: Any = kind
                self.errors.append(error if isinstance(error, BaseException) else make_error(error))
            handle_error(hub, context, kind, error, trace)

        def on_consumer(consumer: Consumer, *args: Any, **kwargs: Any) -> None:
            make(consumer, *args, **kwargs)
            # Consumers are switched to, never started, so that gevent does not tell of them. Those of a Director that
            # was running before are that Director's, which several tests share.
            if consumer._dispatcher in bound:
                self._on_spawn(consumer)

        def on_bind(dispatcher: Dispatcher) -> None:
            bound.append(dispatcher)
            bind(dispatcher)

        def on_start(director: Director, *args: Any, **kwargs: Any) -> Any:
            if director not in self._directors:
                self._directors.append(director)
            return start(director, *args, **kwargs)

        Greenlet.add_spawn_callback(self._on_spawn)
        self._undo.append(lambda: Greenlet.remove_spawn_callback(self._on_spawn))
        self._replace(Hub, "handle_error", on_error)
        self._replace(Consumer, "__init__", on_consumer)
        self._replace(Director, "start", on_start)
        self._replace(Dispatcher, "bind", on_bind)

    def end(self) -> str:
        """Stop what still runs, wait for what is to end, and look no more. Returns what was left, as text; or ""."""
        try:
            return "\n".join(self._what_was_left())
        finally:
            while self._undo:
                self._undo.pop()()

    def _on_spawn(self, greenlet: Any) -> None:
        if self._get_ident() == self._thread:
            self._greenlets.add(greenlet)

    def _replace(self, owner: type, name: str, value: object) -> None:
        former = getattr(owner, name)
        setattr(owner, name, value)
        self._undo.append(lambda: setattr(owner, name, former))

    def _what_was_left(self) -> Iterator[str]:
        for director in [director for director in self._directors if director.is_running()]:
            yield f"the test has left {director!r} running:\n{director.stacks()}"
            with gevent.Timeout(PATIENCE_S, False):  # type: ignore[arg-type]  # the stubs know no False
                stop(director, 0.0)
        # What was on its way has to come first: else it would be the next test's.
        gevent.sleep(LOOK_S)
        try:
            settle(END_S)
        except AssertionError as error:
            yield str(error)
        self._wait_for_the_end()
        leaked = self._alive()
        if leaked:
            stacks = "\n".join(map(describe_greenlet, leaked))
            yield f"{len(leaked)} greenlets outlive the test:\n{stacks}"
            gevent.killall(leaked, block=False)
            self._wait_for_the_end()
        if self.errors:
            counts = Counter(map(repr, self.errors))
            seen = ", ".join(f"{number} × {error}" if number > 1 else error for error, number in counts.items())
            yield f"errors left greenlets, and nobody looked at them by compysition_watch.take(…): {seen}"
        for director in self._directors:
            try:
                assert_conserved(director)
            except AssertionError as error:
                yield str(error)

    def _alive(self) -> list[Any]:
        return [greenlet for greenlet in self._greenlets if not greenlet.dead and greenlet not in self._allowed]

    def _wait_for_the_end(self) -> None:
        with gevent.Timeout(END_S, False):  # type: ignore[arg-type]  # as above
            while self._alive():
                gevent.sleep(LOOK_S)
