# SPDX-License-Identifier: Apache-2.0
"""The ring of events that ended badly, and why they do. A durable store is a later matter; read next: `queue`."""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass

from compysition.errors import DirectorStoppedError
from compysition.event import Event, Failure

#: Dead letters kept: enough to see a pattern, little enough that nobody minds the memory.
DEAD_LETTERS_KEPT = 1_000

#: failed: its handler raised and there was no error outbox left to take.
FAILED = "failed"
#: poison: three times a handler was killed, or raised `Fatal`, over it.
POISON = "poison"
#: retries: its handler raised `Retry` more often than the actor allows.
RETRIES = "retries"
#: overflow: a full queue refused it.
OVERFLOW = "overflow"
#: stopped: the Director's stop reached its deadline.
STOPPED = "stopped"
#: killed: the actor is gone for good and nobody else could take it.
KILLED = "killed"
#: abandoned: its handler survived its own kill.
ABANDONED = "abandoned"
#: Reasons that say that nobody has handled the event to its end, as opposed to a handler that failed.
UNHANDLED = (POISON, STOPPED, KILLED, ABANDONED)

#: When to come again, for whoever asked for something that a stop has ended, in seconds.
RETRY_AFTER_STOP_S = 5


def stopped_failure() -> Failure:
    """Why events end that a stop does not wait for any longer, and requests that are still open then."""
    return Failure(DirectorStoppedError, "the Director stopped", 503, retry_after_s=RETRY_AFTER_STOP_S)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that ended as `dead`.

    Attributes:
        event: The event itself, as its last handler left it.
        actor: Name of the actor at which it died.
        inbox: Name of the inbox it had come through; "" if it was in none.
        reason: One of ``failed, poison, retries, overflow, stopped, killed, abandoned``.
        error: Why, if an error was the cause.
        attempts: How often it had been given back.
        time: When, in seconds since 1970, UTC.
    """

    event: Event
    actor: str
    inbox: str
    reason: str
    error: Failure | None
    attempts: int
    time: float


class DeadLetters:
    """The newest dead letters; what falls out of the ring is counted in `lost`."""

    def __init__(self, kept: int = DEAD_LETTERS_KEPT) -> None:
        self._letters: deque[DeadLetter] = deque(maxlen=kept)
        #: How many dead letters are no longer kept.
        self.lost = 0
        #: How many there were, by actor and reason.
        self.counts: Counter[tuple[str, str]] = Counter()

    def add(self, letter: DeadLetter) -> None:
        """Keep `letter`, in place of the oldest one if there is no room."""
        self.counts[letter.actor, letter.reason] += 1
        if len(self._letters) == self._letters.maxlen:
            self.lost += 1
        self._letters.append(letter)

    def clear(self) -> None:
        """Forget all that are kept; `lost` stays."""
        self._letters.clear()

    def __len__(self) -> int:
        return len(self._letters)

    def __iter__(self) -> Iterator[DeadLetter]:
        """Oldest first; safe while further ones are added."""
        return iter(tuple(self._letters))

    def __repr__(self) -> str:
        return f"<DeadLetters {len(self._letters)} kept, {self.lost} lost>"
