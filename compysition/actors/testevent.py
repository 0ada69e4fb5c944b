# SPDX-License-Identifier: Apache-2.0
"""`TestEvent`: makes events at an interval, to try a flow with."""

from typing import Annotated, Any

from compysition.actor import Actor
from compysition.arguments import checked, number, whole
from compysition.copying import copy_data
from compysition.event import Event


class TestEvent(Actor):
    """Makes the same event again and again.

    Args:
        name: Its name.
        data_value: The events' data; each gets a copy.
        producers: How many make events side by side.
        interval: Seconds between two events of one producer; 0 = as fast as they are taken.
        delay: Seconds before the first event.
        max_events: Events of all producers together, after which it is finished; 0 = no end.

    Raises:
        ConfigurationError: a number makes no sense.
    """

    #: pytest would otherwise collect a class of this name.
    __test__ = False

    @checked
    def __init__(
        self,
        name: str,
        data_value: Any = "test",
        *,
        producers: Annotated[int, whole(1)] = 1,
        interval: Annotated[float, number(0, "seconds")] = 1,
        delay: Annotated[float, number(0, "seconds")] = 0,
        max_events: Annotated[int, whole(0)] = 0,
        blocking_consume: bool = False,
    ) -> None:
        super().__init__(name, blocking_consume=blocking_consume)
        self.data_value = data_value
        self.interval = interval
        self.delay = delay
        self.max_events = max_events
        self._made = 0
        for _ in range(producers):
            self.background(self._produce)

    def _produce(self) -> None:
        if not self.sleep(self.delay):
            return
        while self.max_events == 0 or self._made < self.max_events:
            self._made += 1
            self.send_event(Event(copy_data(self.data_value)))
            if not self.sleep(self.interval):
                return
