# SPDX-License-Identifier: Apache-2.0
"""Every test here is observed; see `tests.fault.conservation`."""

from tests.fault.conservation import observed_fixture

__all__ = ["observed_fixture"]
