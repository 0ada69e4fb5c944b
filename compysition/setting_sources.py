# SPDX-License-Identifier: Apache-2.0
"""Where the values of settings come from: flags, the environment, one TOML file, in this order.

Nothing is read before somebody asks, and no file that nobody named. Must not know what a script does with it.
Read next: `settings`.
"""

import os
import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from compysition.errors import SettingError, suggestion

if TYPE_CHECKING:
    from compysition.settings import Setting

#: The environment variable of the setting `name` is this and the name in capitals.
PREFIX = "COMPYSITION_"
#: The environment variable that names the file; an empty one names none.
FILE_VARIABLE = f"{PREFIX}SETTINGS"


@dataclass(frozen=True, slots=True)
class Found:
    """A value as it was found. `source` says where, as in ``environment COMPYSITION_PORT``."""

    value: object
    source: str


@dataclass(slots=True)
class Sources:
    """Where values come from.

    Attributes:
        flags: What the command line was told, by name.
        file: The file that the command line was told; otherwise the environment may name one.
        environment: The variables of the process.
        asked: What the Directors of the script have asked for: the name, and its variable.
        settings: What became of it, for those that got a value.
    """

    flags: Mapping[str, str] = field(default_factory=dict)
    file: str | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    asked: dict[str, str] = field(default_factory=dict)
    settings: list["Setting"] = field(default_factory=list)
    _table: Mapping[str, object] | None = None
    _text: str = ""

    def find(self, name: str, variable: str) -> Found | None:
        """The value of `name`, from the first source that has one.

        Raises:
            SettingError: the file cannot be used.
        """
        if name in self.flags:
            return Found(self.flags[name], f"--set {name}")
        if variable in self.environment:
            return Found(self.environment[variable], f"environment {variable}")
        table = self.table()
        return Found(table[name], self._place(name)) if name in table else None

    def table(self) -> Mapping[str, object]:
        """What is in the file; nothing if none was named. It is read once.

        Raises:
            SettingError: it cannot be read, or is no TOML.
        """
        if self._table is None:
            path = self.file_name()
            self._table = self._read(path) if path else {}
        return self._table

    def check_flags(self) -> None:
        """Refuse flags that nobody has asked for.

        Raises:
            SettingError: there is one.
        """
        for name in self.flags:
            if name not in self.asked:
                raise SettingError(
                    f"the script asks for no setting {name!r} (from --set){suggestion(name, self.asked)}",
                    name=name,
                    source=f"--set {name}",
                )

    def unused(self) -> list[str]:
        """One line for each name in the file or in the environment that looks like a setting and is none.

        Scripts may share a file and an environment, so this is no error. Empty if nothing was asked for.

        Raises:
            SettingError: the file cannot be used.
        """
        if not self.asked and self.file is None:
            return []
        lines = [
            f"{self.file_name()} sets {name!r}, but the script asks for no such setting{suggestion(name, self.asked)}"
            for name in self.table()
            if name not in self.asked
        ]
        own = {FILE_VARIABLE, *self.asked.values()}
        for variable in sorted(self.environment):
            if variable.startswith(PREFIX) and variable not in own:
                # Without a near name it is somebody else's.
                near = get_close_matches(variable.removeprefix(PREFIX).lower(), self.asked, n=1)
                lines += [
                    f"environment variable {variable} sets nothing that the script asks for; "
                    f"did you mean {self.asked[name]!r}?"
                    for name in near
                ]
        return lines

    def file_name(self) -> str:
        """The file that was named; empty if none was."""
        return self.environment.get(FILE_VARIABLE, "") if self.file is None else self.file

    def _read(self, path: str) -> Mapping[str, object]:
        # Not everybody who imports this has a file.
        import tomllib

        source = "--settings" if self.file is not None else FILE_VARIABLE
        what = f"settings file {path!r} (from {source})"
        try:
            self._text = Path(path).read_bytes().decode()
            return tomllib.loads(self._text)
        except FileNotFoundError as error:
            raise SettingError(f"{what} does not exist", source=path) from error
        except IsADirectoryError as error:
            raise SettingError(f"{what} is a directory: wanted is a TOML file", source=path) from error
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                why = f"cannot be read: {error.strerror or error}"
            elif isinstance(error, UnicodeDecodeError):
                why = f"is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"
            else:
                why = f"is no TOML: {error}"
            # Not chained: an error of the parser may carry the text, and that may hold secrets.
            raise SettingError(f"{what} {why}", source=path) from None

    def _place(self, name: str) -> str:
        pattern = re.compile(rf"\s*[\"']?{re.escape(name)}[\"']?\s*=")
        lines = [number for number, line in enumerate(self._text.splitlines(), 1) if pattern.match(line)]
        # Two of them: one is inside a text. None: the key is written in another way.
        return f"{self.file_name()}:{lines[0]}" if len(lines) == 1 else self.file_name()


#: Set by whoever reads a script and has flags for it; None in a plain ``python script.py``.
SOURCES: ContextVar[Sources | None] = ContextVar("compysition_sources", default=None)
