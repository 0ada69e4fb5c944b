# SPDX-License-Identifier: Apache-2.0
"""Reading a script: what every command that needs its Director does in the same way. Read next: `run`.

A script is run as plain ``python script.py`` would run it, with a host that says what becomes of `Director.start`.
"""

import inspect
import os
import re
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from compysition.director import Director
from compysition.errors import CompysitionError, RegistrationError, StartError, suggestion
from compysition.hosting import HOST, ScriptHost

#: Modules of libraries, and the extra that brings them.
EXTRAS = {
    "lxml": "xml",
    "zmq": "zmq",
    "msgspec": "zmq",
    "gunicorn": "http",
    "werkzeug": "http",
    "geventhttpclient": "http",
    "bcrypt": "http",
    "cronsim": "cron",
}
#: What scripts import from.
_MODULES = ("compysition.actors", "compysition.errors", "compysition.testing")
_FOREIGN = frozenset({"site-packages", "dist-packages"})
_PACKAGE = Path(__file__).parents[1]


class ScriptError(Exception):
    """There is no such script, or nothing in it that could be started. The text is one line."""


@dataclass(frozen=True)
class Reading:
    """What a script has left behind.

    Attributes:
        script: Where it is.
        directors: Those that are bound to names at its top level, in that order.
        exit: What it exited with by itself; None if it came to its end.
    """

    script: Path
    directors: Sequence[Director] = field(default=())
    exit: SystemExit | None = None

    def director_to_start(self) -> Director:
        """The one that is meant, if the script has started none.

        Raises:
            ScriptError: there is none, or more than one.
        """
        if not self.directors:
            raise ScriptError(f"{self.script.name} makes no Director: bind one to a name at the top level, or start it")
        if len(self.directors) > 1:
            number = len(self.directors)
            raise ScriptError(
                f"{self.script.name} makes {number} Directors and starts none: start the one that is meant"
            )
        return self.directors[0]


def find(script: str) -> Path:
    """The file of `script`.

    Raises:
        ScriptError: there is none; says which there are.
    """
    path = Path(script)
    if path.is_dir():
        raise ScriptError(f"{script!r} is a directory: name the script in it")
    if not path.is_file():
        if not path.parent.is_dir():
            raise ScriptError(f"there is no directory {os.fspath(path.parent)!r}")
        raise ScriptError(
            f"there is no script {script!r}{suggestion(path.name, [other.name for other in path.parent.glob('*.py')])}"
        )
    return path


@contextmanager
def hosted(host: ScriptHost) -> Iterator[None]:
    """What is started inside asks `host` first."""
    token = HOST.set(host)
    try:
        yield
    finally:
        HOST.reset(token)


def read(path: Path, arguments: Sequence[str] = ()) -> Reading:
    """Run the script, which is told `arguments`. The process then is that of the script: its arguments and its path.

    Raises:
        BaseException: whatever leaves the script, but for `SystemExit`.
    """
    sys.argv = [os.fspath(path), *arguments]
    # As plain ``python script.py`` does it: what lies beside the script can be imported.
    sys.path.insert(0, os.fspath(path.resolve().parent))
    try:
        names = runpy.run_path(os.fspath(path), run_name="__main__")
    except SystemExit as exit_:
        return Reading(path, exit=exit_)
    found = {id(value): value for value in names.values() if isinstance(value, Director)}
    return Reading(path, tuple(found.values()))


def explain(path: Path, error: Exception) -> str:
    """What left the script at `path`, in one line that says where."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or path}{f':{error.lineno}' if error.lineno else ''}: {error.msg}"
    cause = error.__cause__ if isinstance(error, StartError | RegistrationError) else None
    place = (place_of(path, cause) if cause is not None else None) or place_of(path, error)
    text = str(error) if isinstance(error, CompysitionError) else _in_python_s_words(error)
    if cause is not None and str(cause) not in text:
        text += f": {cause}"
    # A note that names the actor says nothing new to who has read its name.
    notes = [note for note in getattr(error, "__notes__", ()) if not _names_what(text, note)]
    text += f" ({' '.join(notes)})" if notes else ""
    return f"{place or path.name}: {' '.join(text.split())}"


def place_of(path: Path, error: BaseException) -> str | None:
    """The innermost line that `error` came through in the script at `path`, or in what lies beside it."""
    home = path.resolve().parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_file() and file.resolve().is_relative_to(home):
            inside = file.resolve().relative_to(home)
            if not _FOREIGN.intersection(inside.parts) and not file.resolve().is_relative_to(_PACKAGE):
                return f"{inside}:{frame.lineno}"
    return None


def own_traceback(path: Path, error: Exception) -> str:
    """The traceback of `error` from the first line of the script on: what is above it is ours."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != os.fspath(path):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace or error.__traceback__)).rstrip()


def _in_python_s_words(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        extra = EXTRAS.get(error.name.partition(".")[0])
        if error.name.startswith("compysition."):
            return f"there is no module {error.name!r}{suggestion(error.name, _MODULES)}"
        return f"there is no module {error.name!r}" + (
            f": it comes with the extra {extra!r}: pip install 'compysition[{extra}]'" if extra else ""
        )
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "compysition":
        # Python puts its own words in the place of ours when a name is imported from a module.
        module = sys.modules[error.name or ""]
        wrong = re.match(r"cannot import name '(\w+)'", error.msg or "")
        if wrong is not None and not hasattr(module, wrong[1]):
            known = [name for name in getattr(module, "__all__", dir(module)) if not name.startswith("_")]
            return f"{error.name} has no {wrong[1]!r}{suggestion(wrong[1], known)}"
    if isinstance(error, TypeError) and (words := _of_our_call(str(error))):
        return words
    if isinstance(error, AttributeError) and (words := _of_our_object(error)):
        return words
    lines = traceback.TracebackException.from_exception(error).format_exception_only()
    return next(line for line in lines if not line.startswith(" ")).strip()


def _of_our_call(message: str) -> str | None:
    """What is wrong with an argument of a class that scripts import; not every Python says what was meant."""
    found = re.fullmatch(r"(\w+)\.(\w+)\(\) got an unexpected keyword argument '(\w+)'.*", message)
    function = found and getattr(_our_class(found[1]), found[2], None)
    if found is None or not inspect.isfunction(function):
        return None
    call = found[1] if found[2] == "__init__" else f"{found[1]}.{found[2]}"
    known = [name for name in inspect.signature(function).parameters if name not in ("self", "args", "kwargs")]
    return f"{call}() takes no argument {found[3]!r}{suggestion(found[3], known)}"


def _our_class(name: str) -> type | None:
    ours = [module for key, module in list(sys.modules.items()) if key.partition(".")[0] == "compysition"]
    return next((found for module in ours if isinstance(found := vars(module).get(name), type)), None)


def _of_our_object(error: AttributeError) -> str | None:
    """What an object of a class of ours, or of one that derives from it, does not have."""
    cls = type(error.obj)
    if not error.name or not any(each.__module__.partition(".")[0] == "compysition" for each in cls.__mro__):
        return None
    known = [name for name in dir(error.obj) if not name.startswith("_")]
    return f"{cls.__name__} has no {error.name!r}{suggestion(error.name, known)}"


def _names_what(text: str, note: str) -> bool:
    names = re.findall(r"'[^']+'", note)
    return bool(names) and all(name in text for name in names)
