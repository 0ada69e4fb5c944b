# SPDX-License-Identifier: Apache-2.0
"""Looking at a script without starting it: it is read in a process of its own, with a limit of time.

A process and not a watchdog in this one, because a script may do anything: hold the hub, block in C, exit, crash, leave
threads and processes behind. None of it reaches whoever asks, nor does what it prints, which goes to standard error.
What comes back is plain data: findings and pictures. Read next: `isolated_child`, which runs in that process.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from compysition.flow.findings import Code, Finding
from compysition.flow.values import Place
from compysition.setting_sources import SOURCES

#: Seconds that a script may take; most are read in less than one.
TIMEOUT_S = 10.0
#: The process ends itself when the time is over. After so many further seconds it is killed: it starts up before its
#: time begins, and ours is no machine alone.
KILL_S = 20.0


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of one Director: its name, numbers of its actors and connections, and by format its picture."""

    name: str
    actors: tuple[str, ...]
    connections: int
    pictures: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was seen of a script: what is wrong with it, and the Directors that it starts."""

    findings: tuple[Finding, ...]
    directors: tuple[Look, ...]


def inspect(
    path: Path,
    arguments: Sequence[str] = (),
    *,
    timeout_s: float = TIMEOUT_S,
    is_patched: bool = True,
    is_verbose: bool = False,
) -> Inspection:
    """Read the script at `path` in another process and look at what it has built. Nothing is started.

    Waits for that process, at most `timeout_s` and a few seconds more; it is ended in any case, with all that the
    script has started.
    """
    sources = SOURCES.get()
    order = {
        "script": os.fspath(path),
        "arguments": list(arguments),
        "timeout_s": timeout_s,
        "is_patched": is_patched,
        "is_verbose": is_verbose,
        "path": sys.path,
        "flags": dict(sources.flags) if sources is not None else {},
        "settings": sources.file if sources is not None else None,
    }
    with _file() as result, _file() as stacks:
        code = _run({**order, "result": result.fileno(), "stacks": stacks.fileno()}, timeout_s + KILL_S)
        answer = _json_in(result)
        if answer is not None:
            return _inspection(answer)
        stacks.seek(0)
        dump = stacks.read().decode("utf-8", "replace")
    return Inspection((_without_answer(path, code, dump, timeout_s),), ())


def _file() -> IO[bytes]:
    """A file without a name, on a descriptor that is none of the standard ones, though those may be closed."""
    with tempfile.TemporaryFile() as file:
        return os.fdopen(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 3), "w+b")


def _run(order: Mapping[str, Any], limit_s: float) -> int | None:
    """Run the child. Returns its exit code; None if it had to be killed."""
    child = Path(__file__).with_name("isolated_child.py")
    process = subprocess.Popen(  # noqa: S603 - ourselves
        [sys.executable, "-P", os.fspath(child), json.dumps(order)],
        stdin=subprocess.DEVNULL,
        stdout=2 if sys.stderr is not None else subprocess.DEVNULL,
        pass_fds=(order["result"], order["stacks"]),
        # Its own group, so that it can be ended with all that the script has started.
        start_new_session=True,
    )
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def _json_in(file: IO[bytes]) -> Any:
    file.seek(0)
    try:
        return json.loads(file.read() or b"null")
    except ValueError:
        return None  # it died while it wrote


def _inspection(answer: Mapping[str, Any]) -> Inspection:
    findings = []
    for fields in answer["findings"]:
        place = fields.pop("place")
        findings.append(Finding(Code[fields.pop("code")], place=place and Place(*place), **fields))
    directors = (
        Look(each["name"], tuple(each["actors"]), each["connections"], each["pictures"]) for each in answer["directors"]
    )
    return Inspection(tuple(findings), tuple(directors))


# ---- a process that says nothing ----------------------------------------------------------------------------------


def _without_answer(path: Path, code: int | None, dump: str, timeout_s: float) -> Finding:
    if code is None or dump:
        place, function = _where(path, dump)
        return still_running(timeout_s, place, function, how="and lets no other thread run")
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return Finding(
        Code.C114,
        f"the script ended the process with {how} before it could be looked at",
        "find what calls os._exit, or which library crashes; python -X faulthandler shows where",
        place=Place(os.fspath(path), 1),
    )


def still_running(timeout_s: float, place: Place | None, function: str | None, how: str = "") -> Finding:
    """The finding of a script that has not come to its end."""
    where = f": it is still in {function}" if function else ""
    return Finding(
        Code.C113,
        f"the script has not come to its end after {timeout_s:g} s{where}{f', {how}' if how else ''}",
        "let an actor's pre_hook do what waits, not the top level, or allow it more time with --timeout SECONDS",
        place=place,
    )


def _where(path: Path, dump: str) -> tuple[Place | None, str | None]:
    """The innermost line of the script in what `faulthandler` has written, and the innermost function of all."""
    # It writes what is not ASCII as an escape.
    name = os.fspath(path).encode("ascii", "backslashreplace").decode()
    for thread in dump.split("\n\n"):
        lines = [line.strip() for line in thread.splitlines() if line.strip().startswith("File ")]
        for line in lines:
            file, _, rest = line.removeprefix('File "').partition('", line ')
            if file == name:
                number = rest.partition(" ")[0]
                return Place(os.fspath(path), int(number)), lines[0].rpartition(" in ")[2]
    return None, None
