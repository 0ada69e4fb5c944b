# SPDX-License-Identifier: Apache-2.0
"""`MDPBrokerRegistrationService`: tells clients and workers where brokers are.

The rules are in `compysition.mdp.registrar`, the sockets in `compysition.mdp.discovery`.
"""

import os
from typing import Annotated

from compysition.actor import Actor, ActorOptions
from compysition.arguments import FLAG, checked, text_that, whole
from compysition.errors import ConfigurationError
from compysition.mdp.discovery import RegistrarDriver
from compysition.mdp.registrar import Registrar, is_loopback


class MDPBrokerRegistrationService(Actor):
    """The registrar: brokers announce themselves to it, clients and workers find them by it.

    It may restart, or run twice: brokers announce to all registrars that they are told of, every second. Nobody who has
    found a broker needs it any more. It has neither inbox nor outbox.

    Args:
        name: Its name.
        listen_port: Where brokers announce and others ask; 0 = a free one.
        publish_port: Where it tells of changes; 0 = a free one.
        address: Loopback by default. On any other address whoever reaches the port may announce a broker: the script
            has to say ``insecure=True``.
        insecure: Listen on other addresses than loopback without encryption.

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
        listen_port: Annotated[int, whole(0, 65535)] = 6000,
        publish_port: Annotated[int, whole(0, 65535)] = 6001,
        address: Annotated[str, text_that("is an address of this machine", bool)] = "127.0.0.1",
        insecure: Annotated[bool, FLAG] = False,
        blocking_consume: bool = False,
    ) -> None:
        super().__init__(name, blocking_consume=blocking_consume)
        if not insecure and not is_loopback(address):
            raise ConfigurationError(
                f"{name!r} would listen on {address} for anybody who reaches it: keep to 127.0.0.1, or say "
                "insecure=True if the network is yours alone"
            )
        self.address = address
        self._endpoints = (f"tcp://{address}:{listen_port or '*'}", f"tcp://{address}:{publish_port or '*'}")
        self._driver: RegistrarDriver | None = None

    @property
    def endpoints(self) -> tuple[str, str]:
        """Where it listens and where it publishes, also when 0 was given: the `registrar=` of the others."""
        return self._endpoints

    def pre_hook(self) -> None:
        """Begin to listen. A restart comes back on the same ports; within a second it knows all brokers again."""
        clock = self._hosted.clock
        driver = RegistrarDriver(clock, Registrar(os.urandom(16), clock.monotonic()))
        try:
            driver.listen(*self._endpoints, who=self.name)
        except ConfigurationError:
            driver.reactor.close()
            raise
        self._endpoints = driver.endpoints
        self._driver = driver
        self.background(driver.reactor.run)

    def post_hook(self) -> None:
        """Close."""
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.reactor.close()

    def _on_flow_drained(self) -> None:
        if self._driver is not None:
            self._driver.reactor.stop()

    def _listens_on(self) -> tuple[str, ...]:
        return self._endpoints

    def _door(self) -> str | None:
        return None if self._driver is None else f"{self.name}: brokers register at {self._endpoints[0]}"
