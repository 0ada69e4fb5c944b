# SPDX-License-Identifier: Apache-2.0
"""A flow as plain values, what is wrong with it, and pictures of it. Pure: nothing here runs, reads or opens anything.

Must not know actors; whoever has them makes a `values.Flow` of them. Read next: `values`, then `checks` or `pictures`.
"""
