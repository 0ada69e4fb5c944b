# SPDX-License-Identifier: Apache-2.0
"""`Timer`: events at an interval without drift, or when a cron text says."""

import datetime
import math
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from compysition.actor import Actor, ActorOptions
from compysition.arguments import FLAG, FUNCTION, TEXT, above, checked, one_of, whole
from compysition.clock import Clock
from compysition.copying import copy_data
from compysition.errors import ConfigurationError, MissingExtraError, QueueFullError, suggestion
from compysition.event import FRESH, Event, Failure

#: A wall clock may be set: it is looked at again after so many seconds, however long the wait is.
LOOK_S: Final = 60.0
#: Missed ticks of a cron text are counted up to here; a clock that was set by years must not hold the hub.
MAX_COUNTED: Final = 1_000


class Timer(Actor):
    """Makes an event at each tick: every `interval` seconds, or whenever `cron` says.

    Ticks do not drift: the number n of an interval is due n intervals after the first look at the clock, however long
    events take to be sent. The attribute `due` of an event is the time for which it was meant, in seconds since 1970,
    UTC. A tick is missed when connections have no room, or the process stood still, until the next one is due.

    Where a server runs several worker processes it runs in one of them (its option ``once``).

    Args:
        name: Its name.
        interval: Seconds between two ticks; the first comes after one interval.
        cron: Or the times of ticks: ``minute hour day month weekday``, as for cron, or six fields with the seconds in
            front. Needs the extra ``cron``. When clocks are put forward or back, a job at a fixed time runs once, as
            Debian's cron does it.
        timezone: The zone in which `cron` is meant, as in ``Europe/Vienna``.
        data: The events' data; each gets a copy.
        factory: Or a function that makes the data of each event. If it raises, that event fails, and the next tick
            comes all the same.
        at_start: Whether a tick comes at once when the Director has started, besides the others.
        missed: What becomes of ticks that were missed. ``skip``: the newest of them is made up for at once, those
            before it are counted in `missed_ticks`. ``catch_up``: all are made up for.
        max_events: After so many it is finished; 0 = no end.

    Raises:
        ConfigurationError: An argument makes no sense, both or neither of `interval` and `cron` are given, or `cron`
            would never fire.
        MissingExtraError: `cron` is given and the extra ``cron`` is not installed.

    >>> from compysition import Director
    >>> from compysition.actors import STDOUT, Timer
    >>> director = Director()
    >>> timer = director.register_actor(
    ...     Timer, "timer", 0.01, factory=iter("abc").__next__, missed="catch_up", max_events=3
    ... )
    >>> out = director.register_actor(STDOUT, "out", prefix="tick ")
    >>> director.connect_queue(timer, out)
    >>> director.start(until_idle=True).ok
    tick a
    tick b
    tick c
    True
    """

    options = ActorOptions(once=True)

    @checked
    def __init__(
        self,
        name: str,
        interval: Annotated[float | None, above(0, "seconds")] = None,
        *,
        cron: Annotated[str | None, TEXT] = None,
        timezone: Annotated[str, TEXT] = "UTC",
        data: Any = None,
        factory: Annotated[Callable[[], Any] | None, FUNCTION] = None,
        at_start: Annotated[bool, FLAG] = False,
        missed: Annotated[Literal["skip", "catch_up"], one_of("skip", "catch_up")] = "skip",
        max_events: Annotated[int, whole(0)] = 0,
        blocking_consume: bool = False,
    ) -> None:
        super().__init__(name, blocking_consume=blocking_consume)
        if (interval is None) == (cron is None):
            seen = "nothing" if cron is None else "interval= and cron="
            raise ConfigurationError(f"{name!r} is given {seen}: wanted is one of interval= and cron=")
        if data is not None and factory is not None:
            raise ConfigurationError(f"{name!r} is given data= and factory=: leave one out")
        zone = _zone(name, timezone)
        if cron is not None:
            self._schedule: Schedule = Cron(name, cron, zone)
        elif interval is not None:
            self._schedule = Interval(interval)
        self.data = data
        self.factory = factory
        self.at_start = at_start
        self.missed = missed
        self.max_events = max_events
        #: Ticks for which there was no event, because later ones were due already.
        self.missed_ticks = 0
        self._made = 0
        #: The tick that comes next, by the schedule's clock; None before the first.
        self._due: float | None = None
        #: An event that was made and perhaps not sent yet; a restart goes on with it.
        self._event: Event | None = None
        self.background(self._run)

    def _run(self) -> None:
        schedule = self._schedule
        if self._due is None:
            now = schedule.begin(self._hosted.clock)
            self._due = now if self.at_start else schedule.following(now)
        self._send()
        while self.max_events == 0 or self._made < self.max_events:
            if not self._wait(self._due):
                break
            due = self._newest(self._due)
            event = self._make(due)
            # Both at once: whoever is killed behind this has made the event, and comes back to send it.
            self._event, self._due = event, schedule.following(due)
            self._made += 1
            self._send()
        if self._hosted.is_stopping:
            # The next start counts from its own beginning.
            self._due = None

    def _wait(self, due: float) -> bool:
        """Wait for a tick, and in any case until others have had their turn. Returns whether to go on."""
        while True:
            left_s = due - self._schedule.now(self._hosted.clock)
            if not self.sleep(min(max(left_s, 0.0), LOOK_S)):
                return False
            if self._schedule.now(self._hosted.clock) >= due:
                return True

    def _newest(self, due: float) -> float:
        """The tick to make up for, of those that are due."""
        if self.missed == "catch_up":
            return due
        newest, passed = self._schedule.newest(due, self._schedule.now(self._hosted.clock))
        if passed and not self.missed_ticks:
            self.logger.warning(
                "%s misses ticks (%d at once): what it feeds has no room, or the process stood still; they are counted "
                "in missed_ticks (said once)",
                self.name,
                passed,
            )
        self.missed_ticks += passed
        return newest

    def _make(self, due: float) -> Event:
        event = Event()
        event.set("due", self._schedule.wall(due))
        try:
            event.data = copy_data(self.data) if self.factory is None else self.factory()
        except Exception as error:
            # Boundary: a user's function, as in a handler. Its event fails, the timer goes on.
            self.logger.error("the factory of %s raised %s", self.name, type(error).__name__, exc_info=error)
            event.error = Failure.of(error, actor=self.name)
        return event

    def _send(self) -> None:
        """Send what was made, unless it has gone already and whoever did that was killed before it knew."""
        event = self._event
        if event is not None and event._owner is FRESH:
            try:
                if event.error is None:
                    self.send_event(event)
            except QueueFullError as error:
                event.error = Failure.of(error, actor=self.name)
            if event.error is not None:
                self.send_error(event)
        self._event = None


# ---- schedules ------------------------------------------------------------------------------------------------------


class Schedule(Protocol):
    """When ticks are due, in seconds of a clock of its choice."""

    def now(self, clock: Clock) -> float:
        """What time it is."""

    def begin(self, clock: Clock) -> float:
        """Begin to count; returns what time it is."""

    def wall(self, due: float) -> float:
        """`due` in seconds since 1970, UTC."""

    def following(self, due: float) -> float:
        """The tick after `due`."""

    def newest(self, due: float, now: float) -> tuple[float, int]:
        """The newest tick that is due at `now`, from the tick `due` on, and how many lie before it."""


class Interval:
    """Ticks every `interval_s` seconds from the beginning on, by the monotonic clock."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._began = 0.0
        #: Between the two clocks, looked at once: the times of ticks are as far apart as the ticks.
        self._to_wall = 0.0

    def now(self, clock: Clock) -> float:
        """Seconds of the monotonic clock."""
        return clock.monotonic()

    def begin(self, clock: Clock) -> float:
        """Count from now on."""
        self._began = clock.monotonic()
        self._to_wall = clock.wall() - self._began
        return self._began

    def wall(self, due: float) -> float:
        """As `Schedule.wall`."""
        return due + self._to_wall

    def following(self, due: float) -> float:
        """The tick after `due`, counted from the beginning: nothing adds up."""
        return self._began + (round((due - self._began) / self._interval_s) + 1) * self._interval_s

    def newest(self, due: float, now: float) -> tuple[float, int]:
        """As `Schedule.newest`."""
        first = round((due - self._began) / self._interval_s)
        last = math.floor((now - self._began) / self._interval_s)
        return (due, 0) if last <= first else (self._began + last * self._interval_s, last - first)


class Cron:
    """Ticks as a cron text says, by the wall clock."""

    def __init__(self, name: str, text: str, zone: datetime.tzinfo) -> None:
        try:
            from cronsim import CronSim, CronSimError
        except ModuleNotFoundError as error:
            raise MissingExtraError("Timer(cron=…)", "cron") from error
        self._ticks = CronSim
        self._text = text
        self._zone = zone
        try:
            never = self.following(Clock.wall()) == math.inf
        except CronSimError as error:
            if not self._is_day_that_months_lack():
                raise ConfigurationError(
                    f"cron of {name!r} is {text!r}: {_lower(error)}; wanted is 'minute hour day month weekday', as in "
                    "'30 4 * * MON-FRI', or six fields with the seconds in front"
                ) from error
            never = True
        if never:
            raise ConfigurationError(f"cron of {name!r} is {text!r}, which never comes: no such month has such a day")

    def _is_day_that_months_lack(self) -> bool:
        """Whether a text that is refused would do with any other day, and in any other month."""
        from cronsim import CronSimError

        for place, anything in ((-3, "1"), (-2, "*")):
            fields = self._text.split()
            try:
                fields[place] = anything
                self._ticks(" ".join(fields), self._time(0.0))
            except (CronSimError, IndexError):
                return False
        return True

    def now(self, clock: Clock) -> float:
        """Seconds of the wall clock."""
        return clock.wall()

    def begin(self, clock: Clock) -> float:
        """Count from now on."""
        return clock.wall()

    def wall(self, due: float) -> float:
        """As `Schedule.wall`: that is what it counts in."""
        return due

    def following(self, due: float) -> float:
        """The tick after `due`; infinite if there is none in the next fifty years."""
        try:
            return next(self._ticks(self._text, self._time(due))).timestamp()
        except StopIteration:
            return math.inf

    def newest(self, due: float, now: float) -> tuple[float, int]:
        """As `Schedule.newest`; counts to `MAX_COUNTED`."""
        for passed in range(MAX_COUNTED):
            later = self.following(due)
            if later > now:
                return due, passed
            due = later
        return next(self._ticks(self._text, self._time(math.floor(now) + 1), reverse=True)).timestamp(), MAX_COUNTED

    def _time(self, seconds: float) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(seconds, self._zone)


def _zone(name: str, timezone: str) -> datetime.tzinfo:
    if timezone.upper() == "UTC":
        # Known without a database of zones.
        return datetime.UTC
    try:
        return ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        near = suggestion(timezone, available_timezones(), is_listed=False)
        hint = near or "; wanted is a name such as 'Europe/Vienna'"
        raise ConfigurationError(f"timezone of {name!r} is {timezone!r}, which is not known here{hint}") from error


def _lower(error: Exception) -> str:
    text = str(error)
    return text[:1].lower() + text[1:]
