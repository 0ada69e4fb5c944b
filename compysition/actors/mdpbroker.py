# SPDX-License-Identifier: Apache-2.0
"""`MDPBroker`: gives requests of MajorDomo clients to workers, and their answers back.

The rules are in `compysition.mdp.broker`, the sockets in `compysition.mdp.driving`; here is only its life as an actor.
"""

import os
from collections.abc import Sequence
from typing import Annotated

from compysition.actor import Actor, ActorOptions
from compysition.arguments import FLAG, above, checked, text_that, whole
from compysition.errors import ConfigurationError
from compysition.mdp.broker import Broker, BrokerSettings, Letter
from compysition.mdp.discovery import LOOPBACK, Announcer, Place, places_of
from compysition.mdp.driving import BrokerDriver
from compysition.mdp.neighbours import Neighbours
from compysition.mdp.registrar import is_loopback
from compysition.mdp.registry import Notice


class MDPBroker(Actor):
    """A MajorDomo broker: 7/MDP (0.1) and 18/MDP (0.2) on one port, with 8/MMI.

    It keeps a request until it is answered, expired or refused, and gives it to another worker, a bounded number of
    times, if the one that has it is lost. It has neither inbox nor outbox: what it passes on never becomes an event.

    Args:
        name: Its name.
        port: Where it listens; 0 = a free one.
        address: Loopback by default. On any other address whoever reaches the port may ask and serve: the script has
            to say ``insecure=True``.
        heartbeat_s: How often it sends heartbeats, in seconds; foreign workers have 2.5.
        liveness: After how many silent intervals a worker is gone.
        insecure: Listen on other addresses than loopback without encryption.
        unserved_expiry_s: How long a request may wait while nobody serves it, in seconds.
        max_requests: Requests that may wait at one service; further ones are refused with 503.
        max_body_bytes: Larger bodies are refused with 413.
        max_attempts: How often one request may be given out.
        registrar: Whom to tell where it is: a pair of endpoints (asked, published), or several pairs; None = nobody.
            By default the one on loopback, which need not be there.

    Raises:
        ConfigurationError: an argument makes no sense, or the address is not loopback and nothing says it may.
    """

    answers = True
    options = ActorOptions(once=True)

    @checked
    def __init__(
        self,
        name: str,
        *,
        port: Annotated[int, whole(0, 65535)] = 5555,
        address: Annotated[str, text_that("is an address of this machine", bool)] = "127.0.0.1",
        heartbeat_s: Annotated[float, above(0, "seconds")] = 2.5,
        liveness: Annotated[int, whole(1, 100)] = 3,
        insecure: Annotated[bool, FLAG] = False,
        unserved_expiry_s: Annotated[float, above(0, "seconds")] = 60.0,
        max_requests: Annotated[int, whole(1)] = 100_000,
        max_body_bytes: Annotated[int, whole(1)] = 64 * 1024 * 1024,
        max_attempts: Annotated[int, whole(1, 65535)] = 3,
        registrar: Place | Sequence[Place] | None = LOOPBACK,
        blocking_consume: bool = False,
    ) -> None:
        super().__init__(name, blocking_consume=blocking_consume)
        if not insecure and not is_loopback(address):
            raise ConfigurationError(
                f"{name!r} would listen on {address} for anybody who reaches it: keep to 127.0.0.1, or say "
                "insecure=True if the network is yours alone"
            )
        self.address = address
        self.registrars = places_of(registrar, who=name)
        self.settings = BrokerSettings(
            heartbeat_s=heartbeat_s,
            liveness=liveness,
            unserved_expiry_s=unserved_expiry_s,
            max_requests=max_requests,
            max_body_bytes=max_body_bytes,
            max_attempts=max_attempts,
        )
        self._port = port
        self._bound_port: int | None = None
        self._driver: BrokerDriver | None = None

    @property
    def port(self) -> int:
        """The port on which it listens, also when 0 was given."""
        return self._bound_port or self._port

    @property
    def endpoint(self) -> str:
        """Where clients and workers reach it."""
        return f"tcp://{self.address}:{self.port}"

    def pre_hook(self) -> None:
        """Begin to listen. A restart comes back on the same port, as another broker: its peers ask again."""
        clock = self._hosted.clock
        broker = Broker(self.settings, broker_id=os.urandom(16), now=clock.monotonic())
        driver = BrokerDriver(
            clock, broker, on_letter=self._on_letter, on_notice=self._on_notice, on_turn=self._leave_if_done
        )
        self._driver = driver
        try:
            driver.listen(self.endpoint, who=self.name)
        except ConfigurationError:
            driver.reactor.close()
            raise
        self._bound_port = int(driver.endpoint.rpartition(":")[2])
        if self.registrars:
            driver.announcer = Announcer(
                driver.reactor, self.registrars, bytes.fromhex(broker.capabilities.broker_id), [self.endpoint]
            )
        Neighbours.of(self._hosted).listen(self.name, driver.reactor.wake)
        self.background(driver.reactor.run)

    def post_hook(self) -> None:
        """Refuse what is left, let the workers go, close. Before a restart only close: its peers ask again."""
        driver, self._driver = self._driver, None
        if driver is not None:
            if self._hosted.is_stopping:
                now = self._hosted.clock.monotonic()
                if driver.announcer is not None:
                    driver.announcer.withdraw()
                driver.broker.finish_stop(now)
                driver.flush(now)
            Neighbours.of(self._hosted).done(self.name)
            driver.reactor.close(linger_s=LINGER_S)

    def _close_intake(self) -> None:
        if self._driver is not None:
            self._driver.reactor.wake()

    def _leave_if_done(self) -> None:
        """During a stop: refuse what is new once nobody here needs it, and end when nothing is held."""
        driver = self._driver
        if driver is None or not self._hosted.is_stopping:
            return
        neighbours = Neighbours.of(self._hosted)
        if neighbours.clients:
            return
        driver.broker.begin_stop()
        if not driver.broker.requests and not neighbours.workers:
            driver.reactor.stop()

    def _on_letter(self, letter: Letter) -> None:
        self.logger.warning(
            "request for %r was refused (%s, status %d) at its attempt %d; id %s",
            letter.service.decode(errors="replace"),
            letter.reason,
            letter.status,
            letter.attempt,
            letter.id.hex(),
        )

    def _on_notice(self, notice: Notice) -> None:
        self.logger.info("peer %s: %s", notice.key[1].hex(), notice.text)

    def _listens_on(self) -> tuple[str, ...]:
        return (f"tcp://{self.address}:{self._port}",)

    def _door(self) -> str | None:
        return None if self._driver is None else f"{self.name}: {self.endpoint} (MajorDomo 0.1 and 0.2)"


#: What was sent last gets so many seconds to leave.
LINGER_S = 0.1
