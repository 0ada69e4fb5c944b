# SPDX-License-Identifier: Apache-2.0
"""What can be read in the source of a script's actors: how they send, and which libraries they wait in.

Reads files, runs nothing. What is looked for stands in `compysition.flow.conduct` and `compysition.flow.libraries`.
"""

import ast
import inspect
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import FunctionType

from compysition.actor import Actor
from compysition.flow.conduct import Conduct, conduct_of
from compysition.flow.findings import Code, Finding
from compysition.flow.libraries import CURES, holding, imports_of
from compysition.flow.values import Place

_PACKAGE = Path(__file__).parents[1]
_NOT_OWN = frozenset({"site-packages", "dist-packages"})
_STANDARD = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))


def conduct_in_source(cls: type[Actor]) -> Conduct:
    """How actors of `cls` are seen to send; the usual, if not all of the source is there."""
    trees = []
    for each in cls.__mro__[: cls.__mro__.index(Actor)]:
        if any(_functions_of(each)):
            tree = _tree_of(each)
            if tree is None:
                return Conduct()
            trees.append(tree)
    return conduct_of(trees)


def find_holding(classes: Mapping[str, type[Actor]], *, is_patched: bool) -> Iterator[Finding]:
    """Libraries that hold all actors, in the modules of the actors and in those beside the script that they import.

    Args:
        classes: By the actor's name, its class. Actors that offload are left out: they know what they do.
        is_patched: Whether the standard library is.
    """
    users: dict[tuple[str, str], list[str]] = {}
    found: dict[tuple[str, str], tuple[int, str]] = {}
    for name, cls in classes.items():
        if conduct_in_source(cls).offloads:
            continue
        files = _files_of(cls)
        cures = {cure: 0 for cure in CURES.values() for file in files if _has(cure, imports_in(file))}
        for file in files:
            for library, line, remedy in holding({**imports_in(file), **cures}, is_patched=is_patched):
                users.setdefault((file, library), []).append(name)
                found[file, library] = (line, remedy)
    for (file, library), names in users.items():
        line, remedy = found[file, library]
        who = ", ".join(map(repr, names))
        yield Finding(
            Code.C204,
            f"{who}: {library}, imported here, holds all actors while it waits",
            "call it through self.offload(…)" + (f"; or: {remedy}" if remedy else ""),
            actor=names[0],
            place=Place(file, line),
        )


@cache
def imports_in(file: str) -> Mapping[str, int]:
    """What a file imports, and the first line where it does."""
    tree = _parse(file)
    found: dict[str, int] = {}
    for name, line in imports_of(tree) if tree is not None else ():
        found.setdefault(name, line)
    return found


def _has(name: str, imports: Mapping[str, int]) -> bool:
    return any(f"{each}.".startswith(f"{name}.") for each in imports)


def _files_of(cls: type[Actor]) -> list[str]:
    """The files of an actor's classes, and those of the script's own modules that they import."""
    waiting = [file for each in cls.__mro__[: cls.__mro__.index(Actor)] for file in [_file_of(each)] if file]
    files: dict[str, None] = {}
    while waiting:
        file = waiting.pop()
        if file in files or Path(file).is_relative_to(_PACKAGE):
            continue
        files[file] = None
        for name in imports_in(file):
            module = sys.modules.get(name)
            imported = getattr(module, "__file__", None)
            if imported and _is_own(Path(imported)):
                waiting.append(imported)
    return list(files)


def _is_own(file: Path) -> bool:
    return not _NOT_OWN.intersection(file.parts) and not any(map(file.is_relative_to, _STANDARD))


def _file_of(cls: type) -> str | None:
    for function in _functions_of(cls):
        if function.__qualname__ == f"{cls.__qualname__}.{function.__name__}":
            return os.fspath(function.__code__.co_filename)
    return None


def _functions_of(cls: type) -> Iterator[FunctionType]:
    """The methods as they were written: a decorator's wrapper has its code in the decorator's file."""
    for value in vars(cls).values():
        if inspect.isfunction(value):
            yield inspect.unwrap(value)


def _tree_of(cls: type) -> ast.ClassDef | None:
    """The part of the source that defines `cls`; not by its module's name, which a script has lost when it was read."""
    file = _file_of(cls)
    tree = _parse(file) if file is not None else None
    if tree is None:
        return None
    first = min(each.__code__.co_firstlineno for each in _functions_of(cls) if each.__code__.co_filename == file)
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and node.name == cls.__name__
        and node.lineno <= first <= (node.end_lineno or 0)
    ]
    return max(around, key=lambda node: node.lineno, default=None)


@cache
def _parse(file: str) -> ast.Module | None:
    try:
        return ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
