# SPDX-License-Identifier: Apache-2.0
"""How long to wait before the next attempt. Pure arithmetic; read next: `event`."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with jitter.

    The defaults are a judgement: quick enough that one hiccup is not noticed, slow enough that a
    service that is down is not hammered; the jitter keeps many processes from coming back in step.

    Attributes:
        first_s: Delay before the second attempt, in seconds.
        factor: By how much each further delay is longer.
        most_s: No delay is longer than this, before jitter.
        jitter: Share of the delay by which it may vary, up and down: 0.2 = ± 20 %.
    """

    first_s: float = 0.1
    factor: float = 2.0
    most_s: float = 30.0
    jitter: float = 0.2

    def delay_s(self, attempt: int, rng: random.Random | None = None) -> float:
        """Seconds to wait after failed attempt number `attempt`, counted from 1."""
        # Beyond 64 doublings the limit has long ruled; without the bound the power would overflow.
        plain_s = min(self.most_s, self.first_s * self.factor ** min(attempt - 1, 64))
        draw = rng.random() if rng is not None else random.random()
        return plain_s * (1 + self.jitter * (2 * draw - 1))
