# SPDX-License-Identifier: Apache-2.0
"""The one place that knows the version. It imports nothing, so that a build can read it with nothing installed."""

__version__ = "2.0.0.dev0"
