# SPDX-License-Identifier: Apache-2.0
"""Greenlets with an owner: started, watched, restarted and joined in one place.

`RestartPool` owns `RestartableGreenlet`s. Actors have one for their background greenlets, where a death restarts the
whole actor; the Director has one for its own services, where a death restarts that greenlet alone.
Must not know actors. Read next: `dispatch`.
"""

import enum
import math
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from gevent import Greenlet, GreenletExit, getcurrent

from compysition.backoff import Backoff
from compysition.clock import Clock, Timer
from compysition.logger import get_logger
from compysition.parking import Parking, wait_until

logger = get_logger("restartlet")


class GreenletState(enum.Enum):
    """What became of a `RestartableGreenlet`."""

    #: Not started yet.
    NEW = "new"
    RUNNING = "running"
    #: Its function returned: it is not restarted.
    ENDED = "ended"
    #: An exception left its function, or somebody else killed it.
    DIED = "died"
    #: Its owner killed it.
    KILLED = "killed"


class OwnedGreenlet(Greenlet):  # type: ignore[type-arg]  # generic in the stubs only
    """A greenlet that knows for whom it runs."""

    #: The `id` of that Director, for the records that are made here; None for nobody's.
    director: int | None = None


class RestartableGreenlet:
    """A function in a greenlet that can be run again after it died.

    Args:
        pool: The owner.
        function: Called with `args`; a return value is not kept.
        restart: Whether a death asks for a restart. False is honoured: it is logged and counted, nothing else.
        name: For logs; by default the function's.
    """

    def __init__(
        self, pool: "RestartPool", function: Callable[..., Any], args: tuple[Any, ...], *, restart: bool, name: str
    ) -> None:
        self.function = function
        self.args = args
        self.restart = restart
        self.name = name
        self.state = GreenletState.NEW
        #: What it died of: "" unless `state` is `DIED`.
        self.reason = ""
        #: Whether the owner's start hook made it; a restart then leaves it to that hook.
        self.is_from_hook = False
        #: Whether it was spawned before its owner was started for the first time, as in a constructor.
        self.is_original = not pool.is_started
        self._pool = pool
        self._greenlet: Greenlet[[], None] | None = None

    def __repr__(self) -> str:
        return f"<RestartableGreenlet {self.name} {self.state.value}>"

    @property
    def greenlet(self) -> "Greenlet[[], None] | None":
        """The greenlet that runs the function, if it was started."""
        return self._greenlet

    def start(self) -> None:
        """Run the function, from its beginning."""
        self.state = GreenletState.RUNNING
        self.reason = ""
        greenlet = self._greenlet = OwnedGreenlet(self._run)
        greenlet.director = self._pool.director
        greenlet.rawlink(self._left)
        greenlet.start()

    def renewed(self) -> "RestartableGreenlet":
        """The same again, not started yet. What is left of this one's greenlet has nothing to do with it."""
        return RestartableGreenlet(self._pool, self.function, self.args, restart=self.restart, name=self.name)

    def kill(self) -> None:
        """Throw `GreenletExit` into it, and do not wait. It counts as killed by its owner."""
        if self.state is GreenletState.RUNNING:
            self.state = GreenletState.KILLED
        if self._greenlet is not None and not self._greenlet.dead:
            self._greenlet.kill(block=False)

    def is_over(self) -> bool:
        """Whether it will not run again."""
        return self.state is GreenletState.ENDED or (
            not self.restart and self.state in (GreenletState.DIED, GreenletState.KILLED) and not self.is_alive()
        )

    def is_alive(self) -> bool:
        """Whether its greenlet has still to end, whoever killed it."""
        return self._greenlet is not None and not self._greenlet.dead

    def _run(self) -> None:
        try:
            self.function(*self.args)
        except GreenletExit:
            self._died("it was killed from outside")
        except (SystemExit, KeyboardInterrupt) as error:
            # It asks for an ordered stop; nothing is broken that a restart would mend.
            self.state = GreenletState.ENDED
            self._pool.on_exit(f"{type(error).__name__} was raised in background greenlet {self.name!r}")
        except BaseException as error:
            # Boundary: the supervisor's. The error is logged here, and the owner decides about a restart.
            if self.state is GreenletState.RUNNING:
                self._pool.logger.error(
                    "background greenlet %r died: %s", self.name, type(error).__name__, exc_info=error
                )
            self._died("".join(traceback.format_exception_only(error)).strip())
        else:
            if self.state is GreenletState.RUNNING:
                # One that has seen `loop()` turn false because of a restart has not come to its own end.
                self.state = GreenletState.KILLED if self._pool.is_restarting else GreenletState.ENDED
        self._pool._ended(self)

    def _left(self, greenlet: "Greenlet[[], None]") -> None:
        """Runs in the hub when the greenlet is gone, which it may be without ever having run."""
        if self._greenlet is greenlet:
            self._died("it was killed from outside")
            self._pool._ended(self)

    def _died(self, reason: str) -> None:
        if self.state is GreenletState.RUNNING:
            self.state = GreenletState.DIED
            self.reason = reason


class RestartPool:
    """Owns greenlets.

    Args:
        clock: Where time comes from.
        on_death: Called, once per death of a greenlet with ``restart=True``, with that greenlet. None: it is restarted
            alone, with `backoff`.
        on_exit: Called with a reason when `SystemExit` or `KeyboardInterrupt` left a greenlet.
        on_end: Called whenever a greenlet has ended, however.
        backoff: Delays between restarts, where the pool restarts.
        calm_s: After so many seconds without a death the backoff begins anew.
        is_started: Whether `spawn` starts at once; else `start` does.
        director: For whom all this runs; no reference to it is kept.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        on_death: Callable[[RestartableGreenlet], None] | None = None,
        on_exit: Callable[[str], None] | None = None,
        on_end: Callable[[], None] | None = None,
        backoff: Backoff | None = None,
        calm_s: float = 60.0,
        is_started: bool = True,
        director: object | None = None,
    ) -> None:
        self.clock = clock
        self.director = None if director is None else id(director)
        self.logger = logger if director is None else logger.of(director)
        self.on_exit = on_exit or (lambda reason: None)
        self.on_death = on_death or self._restart_alone
        self.on_end = on_end or (lambda: None)
        self.is_started = is_started
        #: Whether greenlets spawned now are the start hook's (see `RestartableGreenlet.is_from_hook`).
        self.is_in_hook = False
        #: Whether the owner is being restarted: greenlets that return now are run again by `restart`.
        self.is_restarting = False
        #: How many died without being restarted because they said ``restart=False``.
        self.deaths_ignored = 0
        self._backoff = backoff or Backoff()
        self._greenlets: list[RestartableGreenlet] = []
        self._timers: dict[RestartableGreenlet, Timer] = {}
        self._calm_s = calm_s
        #: Deaths without a calm between them, and when the newest one was.
        self._deaths = 0
        self._last_death = -math.inf
        self._joining: set[Parking] = set()

    def spawn(
        self, function: Callable[..., Any], *args: Any, restart: bool = True, name: str | None = None
    ) -> RestartableGreenlet:
        """Run ``function(*args)`` in a greenlet that this pool owns."""
        greenlet = RestartableGreenlet(
            self, function, args, restart=restart, name=name or str(getattr(function, "__qualname__", function))
        )
        greenlet.is_from_hook = self.is_in_hook
        greenlet.is_original = greenlet.is_original and not self.is_in_hook
        self._greenlets = [g for g in self._greenlets if g.is_original or not g.is_over()]
        self._greenlets.append(greenlet)
        if self.is_started:
            greenlet.start()
        return greenlet

    def start(self) -> None:
        """Start what was spawned before, and from now on start at once."""
        self.is_started = True
        for greenlet in self._greenlets:
            if greenlet.state is GreenletState.NEW:
                greenlet.start()

    def restart(self) -> None:
        """Start again all that did not end by themselves and want a restart, but for those that the hook made anew."""
        self.is_restarting = False
        self.is_started = True
        stale = [g for g in self._greenlets if g.state in (GreenletState.DIED, GreenletState.KILLED)]
        for greenlet in stale:
            self._greenlets.remove(greenlet)
            if greenlet.restart and not greenlet.is_from_hook:
                again = self.spawn(greenlet.function, *greenlet.args, name=greenlet.name)
                again.is_original = greenlet.is_original
        self.start()

    def reset(self) -> None:
        """Be as before the first start: only what was spawned before it is left, and waits for `start`."""
        self.is_started = self.is_restarting = self.is_in_hook = False
        self._greenlets = [greenlet.renewed() for greenlet in self._greenlets if greenlet.is_original]

    def kill(self) -> None:
        """Kill all that live, without waiting; none is restarted."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for greenlet in self._greenlets:
            greenlet.kill()

    def join(self, timeout_s: float = math.inf) -> bool:
        """Wait until all but the present greenlet have ended, at most `timeout_s` seconds. Returns whether it is so."""
        current = getcurrent()
        return wait_until(
            lambda: not self.is_alive(but=current), clock=self.clock, timeout_s=timeout_s, places=self._joining
        )

    def is_alive(self, *, but: object = None) -> bool:
        """Whether any greenlet, `but` for one of gevent's, has still to end, or waits for its restart."""
        return bool(self._timers) or any(
            g.state is GreenletState.NEW or (g.is_alive() and g.greenlet is not but) for g in self._greenlets
        )

    def __iter__(self) -> Iterator[RestartableGreenlet]:
        return iter(tuple(self._greenlets))

    def __len__(self) -> int:
        return len(self._greenlets)

    def _ended(self, greenlet: RestartableGreenlet) -> None:
        """Runs in the greenlet that ends, as the last thing it does."""
        # Not `dead` yet, but nothing of it is left to run: whoever waits for it need not wait for the switch.
        greenlet._greenlet = None
        if greenlet.is_over() and not greenlet.is_original and greenlet in self._greenlets:
            # It must not keep alive what it was given: that may be an event somebody waits for.
            self._greenlets.remove(greenlet)
        if greenlet.state is GreenletState.DIED:
            if greenlet.restart:
                self.on_death(greenlet)
            else:
                self.deaths_ignored += 1
                self.logger.warning(
                    "background greenlet %r died (%s) and says restart=False: it stays dead",
                    greenlet.name,
                    greenlet.reason,
                )
        self.on_end()
        for place in self._joining:
            place.wake()

    def _restart_alone(self, greenlet: RestartableGreenlet) -> None:
        now = self.clock.monotonic()
        if now - self._last_death > self._calm_s:
            self._deaths = 0
        self._last_death = now
        self._deaths += 1
        delay_s = self._backoff.delay_s(self._deaths, self.clock.rng)

        def again() -> None:
            self._timers.pop(greenlet, None)
            greenlet.start()

        self._timers[greenlet] = self.clock.call_later(delay_s, again)
