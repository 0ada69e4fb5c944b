# SPDX-License-Identifier: Apache-2.0
"""Reads a script under a host that starts nothing, and looks at what it has built. Runs in `isolated_child`.

Once the script has started a Director its flow is complete. What happens behind that is not held against it: an error
or an endless loop there comes of a flow that does not run. Read next: `source_code`, and `compysition.flow.checks`.
"""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, cast

import gevent.exceptions
import greenlet
from gevent import monkey

from compysition.actor import Actor
from compysition.cli.isolated import still_running
from compysition.cli.script import EXTRAS, Reading, ScriptError, explain, own_traceback, read
from compysition.cli.source_code import conduct_in_source, find_holding
from compysition.director import Director
from compysition.drain import StopReport
from compysition.errors import MissingExtraError
from compysition.flow.checks import check
from compysition.flow.findings import Code, Finding
from compysition.flow.pictures import FORMATS
from compysition.flow.values import Flow, Place
from compysition.hosting import host_everywhere
from compysition.setting_sources import SOURCES, Sources

#: ``place: text``, as `explain` writes it.
_EXPLAINED = re.compile(r"(?P<file>[^:\n]+?)(?::(?P<line>\d+))?: (?P<text>.*)", re.DOTALL)
#: A remedy that an error tells itself.
_INSTALL = re.compile(r"pip install '[^']+'")


class Inspector:
    """Reads one script; it is the host of the whole process.

    Args:
        order: What `isolated` asks for.
    """

    def __init__(self, order: Mapping[str, Any]) -> None:
        self._path = Path(order["script"])
        self._arguments: list[str] = order["arguments"]
        self._is_verbose: bool = order["is_verbose"]
        self._started: list[Director] = []
        self._broken: Finding | None = None
        self._main = greenlet.getcurrent()
        self._main_thread: int = monkey.get_original("threading", "get_ident")()
        #: Classes that stand in for actors whose extra is missing; and by actor, the extra.
        self._stand_ins: dict[str, type[Actor]] = {}
        self._extras: dict[str, str] = {}
        SOURCES.set(Sources(dict(order["flags"]), order["settings"]))
        host_everywhere(self)

    # ---- the host -------------------------------------------------------------------------------------------------

    def start(self, director: Director) -> StopReport:
        """Note that the script starts this one, which goes on as if it had run and stopped."""
        if director not in self._started:
            self._started.append(director)
        return StopReport("hosted", 0)

    def ready(self, director: Director) -> None:
        """Nothing is ever started."""

    # ---- reading --------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Run the script."""
        self._lend_stand_ins()
        try:
            reading = read(self._path, self._arguments)
        except BaseException as error:  # noqa: BLE001 - boundary
            # Boundary: whatever leaves a script is told, not raised.
            if not self._started:
                self._broken = self._does_not_build(error)
            if self._is_verbose:
                print(own_traceback(self._path, cast(Exception, error)), file=sys.stderr, flush=True)
            return
        if not self._started:
            self._take_what_is_there(reading)

    def _take_what_is_there(self, reading: Reading) -> None:
        place = Place(os.fspath(self._path), 1)
        if reading.exit is not None:
            code = reading.exit.code
            said = f"saying {code!r}" if isinstance(code, str) else f"with exit code {int(code or 0)}"
            message = f"the script exited {said}, before it started a Director"
            self._broken = Finding(Code.C110, message, "give it the arguments that it wants, behind '--'", place=place)
            return
        try:
            self._started.append(reading.director_to_start())
        except ScriptError as error:
            message, _, remedy = str(error).removeprefix(self._path.name).partition(": ")
            found = Code.C112 if reading.directors else Code.C111
            self._broken = Finding(found, f"the script{message}", remedy, place=place)

    def _does_not_build(self, error: BaseException) -> Finding:
        if isinstance(error, SyntaxError):
            place = Place(error.filename or os.fspath(self._path), error.lineno or 1)
            text = (error.text or "").strip()
            return Finding(Code.C110, f"{error.msg}{f': {text}' if text else ''}", "mend it there", place=place)
        words = explain(self._path, cast(Exception, error))
        found = _EXPLAINED.fullmatch(words)
        file, line, text = (found["file"], found["line"], found["text"]) if found else (self._path.name, None, words)
        place = Place(os.fspath(self._path.parent / file), int(line or 1))
        if isinstance(error, gevent.exceptions.LoopExit):
            return Finding(
                Code.C113,
                "the script waits here for what can never come: nothing runs yet",
                "let an actor do it, in its pre_hook or in a background greenlet",
                place=place,
            )
        if _is_missing_extra(error):
            install = _INSTALL.search(text)
            text = text.removesuffix(f": {install[0]}") if install else text
            return Finding(Code.C115, text, install[0] if install else "install the extra", place=place)
        remedy = "mend it there" if self._is_verbose else "mend it there; -v shows the traceback"
        return Finding(Code.C110, text, remedy, place=place)

    def _lend_stand_ins(self) -> None:
        """Let a flow be looked at where an extra is missing: its actors are stood in for, and that is a finding."""
        package: Any = import_module("compysition.actors")
        real = package.__getattr__

        def find(name: str) -> Any:
            try:
                return real(name)
            except MissingExtraError as error:
                self._extras[name] = error.extra
                return self._stand_ins.setdefault(name, _stand_in(name))

        package.__getattr__ = find

    # ---- looking --------------------------------------------------------------------------------------------------

    def answer(self) -> dict[str, Any]:
        """What is wrong with the script, and its Directors, as plain data."""
        findings = [self._broken] if self._broken is not None else []
        directors = []
        named: set[str] = set()
        for director in self._started:
            flow = director.flow()
            classes = {actor.name: type(director.get_actor(actor.name)) for actor in flow.actors}
            named |= {name for cls in classes.values() if (name := self._missing(cls)) is not None}
            findings += self._findings(flow, classes)
            pictures = {name: draw(flow) for name, draw in FORMATS.items()}
            names = [actor.name for actor in flow.actors]
            directors.append(
                {"name": flow.name, "actors": names, "connections": len(flow.connections), "pictures": pictures}
            )
        findings += [self._extra_finding(name, None, None) for name in self._stand_ins if name not in named]
        return {
            "findings": [{**asdict(each), "code": each.code.name, "place": each.place} for each in findings],
            "directors": directors,
        }

    def answer_of_watchdog(self, timeout_s: float) -> dict[str, Any]:
        """The same when the script's time is over. Called in another thread, while the script goes on."""
        if not self._started:
            place, function = self._where_it_is()
            self._broken = still_running(timeout_s, place, function)
        return self.answer()

    def _findings(self, flow: Flow, classes: Mapping[str, type[Actor]]) -> list[Finding]:
        missing = {name: extra for name, cls in classes.items() if (extra := self._missing(cls)) is not None}
        conduct = {name: None if name in missing else conduct_in_source(cls) for name, cls in classes.items()}
        found = check(flow, conduct)
        found += find_holding(classes, is_patched=monkey.is_module_patched("socket"))
        found += [self._extra_finding(kind, name, flow.by_name[name].place) for name, kind in missing.items()]
        return [replace(finding, director=flow.name) for finding in found]

    def _missing(self, cls: type[Actor]) -> str | None:
        """The built-in actor that `cls` is or derives from and that is stood in for."""
        return next((name for name, stand_in in self._stand_ins.items() if issubclass(cls, stand_in)), None)

    def _extra_finding(self, kind: str, actor: str | None, place: Place | None) -> Finding:
        extra = self._extras[kind]
        who = f"{actor!r} ({kind})" if actor is not None else f"{kind}, which the script imports,"
        return Finding(
            Code.C205,
            f"{who} needs the extra {extra!r}, which is not installed here; nothing else can be said of it",
            f"pip install 'compysition[{extra}]'",
            actor=actor,
            place=place or Place(os.fspath(self._path), 1),
        )

    def _where_it_is(self) -> tuple[Place | None, str | None]:
        """The innermost line of the script that is being run, and what it has called."""
        # What runs now, in whatever greenlet; if that is only the hub, where the script waits for it.
        frames: tuple[FrameType | None, ...] = (sys._current_frames().get(self._main_thread), self._main.gr_frame)
        for start in frames:
            frame, called = start, None
            while frame is not None:
                if frame.f_code.co_filename == os.fspath(self._path):
                    return Place(os.fspath(self._path), frame.f_lineno), called
                called = frame.f_code.co_qualname
                frame = frame.f_back
        return None, None


def _is_missing_extra(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MissingExtraError):
            return True
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in EXTRAS:
            return True
        error = error.__cause__
    return False


def _stand_in(kind: str) -> type[Actor]:
    def __init__(self: Actor, name: str, *_arguments: Any, **_named: Any) -> None:  # noqa: N807 - it becomes one
        Actor.__init__(self, name)

    return type(kind, (Actor,), {"__init__": __init__, "__module__": "compysition.actors"})
