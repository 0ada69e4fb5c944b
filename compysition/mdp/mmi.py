# SPDX-License-Identifier: Apache-2.0
"""8/MMI: what a broker answers about itself, and what we add to it. Read next: `broker`.

Names that begin with ``mmi.`` never reach a worker (8/MMI, Namespace). `mmi.service` is the RFC's; `mmi.ping`,
`mmi.capabilities` and `mmi.status` are ours; every other one is answered 501 (8/MMI, Default services).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from compysition.mdp.hello import dump

if TYPE_CHECKING:
    from compysition.mdp.broker import Broker

PREFIX: Final = b"mmi."
SERVICE: Final = b"mmi.service"
PING: Final = b"mmi.ping"
CAPABILITIES: Final = b"mmi.capabilities"
STATUS: Final = b"mmi.status"

OK: Final = b"200"
NOT_FOUND: Final = b"404"
NOT_IMPLEMENTED: Final = b"501"

#: The answer to `mmi.status` has at most so many bytes; services with the least to do are left out first.
MOST_STATUS_BYTES: Final = 1024 * 1024
#: A service is described in at most so many bytes: its name, escaped as JSON may, and numbers.
_SERVICE_BYTES: Final = 6 * 255 + 200


def answer(broker: "Broker", name: bytes, body: Sequence[bytes], now: float) -> list[bytes]:
    """The body of the answer to a request for the service `name`."""
    if name == SERVICE:
        service = broker.services.get(body[0])
        return [OK if service is not None and service.workers else NOT_FOUND]
    if name == PING:
        return [OK, *body]
    if name == CAPABILITIES:
        return [OK, broker.capabilities.pack()]
    if name == STATUS:
        return [OK, status(broker, now)]
    return [NOT_IMPLEMENTED]


def status(broker: "Broker", now: float) -> bytes:
    """What the broker has to do, as JSON: services, workers, depths and rates."""
    services = sorted(broker.services.values(), key=lambda service: (-service.depth, -service.rate, service.name))
    shown = services[: MOST_STATUS_BYTES // (_SERVICE_BYTES * 2)]
    return dump(
        {
            "broker_id": broker.capabilities.broker_id,
            "uptime_s": round(now - broker.started_at, 3),
            "workers": len(broker.workers),
            "open": len(broker.requests),
            "bytes": broker.size,
            "accepted": broker.accepted,
            "ended": {ending.value: number for ending, number in broker.ended.items()},
            "counts": dict(broker.counts),
            "services_left_out": len(services) - len(shown),
            "services": [
                {
                    "name": service.name.decode(),
                    "workers": len(service.workers),
                    "busy": sum(1 for worker in service.workers.values() if worker.held),
                    "suspect": len(service.suspects),
                    "queued": service.depth,
                    "answered": service.answered,
                    "per_s": round(service.rate, 3),
                }
                for service in shown
            ],
        }
    )
