# SPDX-License-Identifier: Apache-2.0
"""``python -m compysition.cli`` does what ``compysition`` does."""

import sys

from compysition.cli.main import main

sys.exit(main())
