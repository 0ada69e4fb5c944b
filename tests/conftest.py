# SPDX-License-Identifier: Apache-2.0
"""Which tests belong to this process.

Patching the standard library is for a whole process, so the suite runs twice: with plain ``pytest``, and as
``python -m gevent.monkey --module pytest``. Each test is taken by the run that fits its marker, ``patched`` or
``unpatched`` or both; without one, ``tests/integration`` is patched (its clients and servers share one process) and
everything else is not. ``scripts/test`` does both runs.

Every test has ``compysition_watch``, a fixture of our plugin (`pytest_compysition`), by the ini option of that name.
"""

from pathlib import Path

import hypothesis
import pytest
from gevent import monkey

TESTS = Path(__file__).parent
#: Directories whose tests are ``patched`` unless they say otherwise.
PATCHED_BY_DEFAULT = ("integration",)

# Machines are shared: how long one example takes says nothing. And a failure must come back when it is looked for.
hypothesis.settings.register_profile("compysition", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("compysition")


# ---- which tests ------------------------------------------------------------------------------------------------


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    mode = "patched" if monkey.is_module_patched("socket") else "unpatched"
    taken: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        marked = {marker.name for marker in item.iter_markers()} & {"patched", "unpatched"}
        if not marked:
            place = item.path.relative_to(TESTS).parts[0]
            marked = {"patched" if place in PATCHED_BY_DEFAULT else "unpatched"}
        (taken if mode in marked else left).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = taken
