# SPDX-License-Identifier: Apache-2.0
"""How data is copied when an event goes to more than one destination.

One rule: what cannot change is shared; plain dicts, lists, tuples and sets are copied structurally; everything else
is asked through `copy.deepcopy`, so a class decides with ``__deepcopy__`` and may answer with itself. lxml elements
and trees copy themselves that way; the result of a stylesheet is shared, because lxml's copy of it forgets how
``xsl:output`` wants it written (docs/decisions): read it, and change a ``deepcopy`` of its root.
Must not know events. Read next: `event`.
"""

import datetime
import decimal
import fractions
import uuid
from copy import deepcopy
from enum import Enum
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

#: Exact classes whose instances never change, so that copies may share them.
IMMUTABLE: frozenset[type] = frozenset(
    {
        *(type(None), bool, int, float, complex, str, bytes, range, slice, type, Ellipsis.__class__),
        *(decimal.Decimal, fractions.Fraction, uuid.UUID),
        *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone),
        *(FunctionType, BuiltinFunctionType, ModuleType),
    }
)


def copy_data(data: Any) -> Any:
    """A copy of `data` that shares with it only what cannot change.

    An object that occurs twice in plain containers is copied twice; containers nested deeper than Python's recursion
    limit, or in themselves, are left to `copy.deepcopy`, which keeps a memo.

    Raises:
        Exception: whatever `copy.deepcopy` raises for an object that cannot be copied.
    """
    if data.__class__ in IMMUTABLE:
        return data
    try:
        return _copy_structure(data)
    except RecursionError:
        return deepcopy(data)


def _copy_structure(data: Any) -> Any:
    cls = data.__class__
    if cls is dict:
        # Keys are hashable; only a tuple or an own class among them could hold something that changes.
        return {key: value if value.__class__ in IMMUTABLE else _copy_structure(value) for key, value in data.items()}
    if cls is list:
        return [value if value.__class__ in IMMUTABLE else _copy_structure(value) for value in data]
    if cls is tuple:
        copied = tuple([value if value.__class__ in IMMUTABLE else _copy_structure(value) for value in data])
        return data if all(new is old for new, old in zip(copied, data, strict=True)) else copied
    if cls is set:
        return {value if value.__class__ in IMMUTABLE else _copy_structure(value) for value in data}
    if cls is bytearray:
        return bytearray(data)
    if isinstance(data, Enum) or cls.__name__ == "_XSLTResultTree":
        return data
    return deepcopy(data)
