# SPDX-License-Identifier: Apache-2.0
"""What is shipped, what it asks for, and that importing it does nothing."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "compysition"
#: Coverage would start in each of the interpreters.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("COV")}


def run_python(*arguments: str, cwd: Path = ROOT) -> str:
    """The output of a fresh interpreter, which must succeed."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """A wheel of this checkout, built from a copy so that nothing is left behind in the checkout."""
    copy = tmp_path_factory.mktemp("build")
    for name in "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "pytest_compysition.py":
        shutil.copy(ROOT / name, copy)
    for name in "compysition", "tests", "examples":
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    run_python("-c", "from setuptools import build_meta; build_meta.build_wheel('dist')", cwd=copy)
    (path,) = (copy / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def requirements(metadata: Message, extra: str | None) -> set[str]:
    """What the extra adds, as ``name>=floor``; None: what is always needed."""
    found = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    wanted = [one for one in found if (one.marker is None) == (extra is None)]
    if extra is not None:
        wanted = [one for one in wanted if one.marker and one.marker.evaluate({"extra": extra})]
    return {
        f"{one.name}{'[' + ','.join(sorted(one.extras)) + ']' if one.extras else ''}{one.specifier}" for one in wanted
    }


def test_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py")}
    assert shipped == modules | {"compysition/py.typed", "pytest_compysition.py"}


def test_every_directory_with_code_is_a_package() -> None:
    without = {path.parent for path in PACKAGE.rglob("*.py") if not (path.parent / "__init__.py").exists()}
    assert not without


def test_version_is_the_one_of_the_package(metadata: Message) -> None:
    version = run_python("-c", "from compysition.__about__ import __version__; print(__version__)").strip()
    assert metadata["Version"] == version == "2.0.0.dev0"


def test_core_needs_gevent_and_nothing_else(metadata: Message) -> None:
    assert requirements(metadata, None) == {"gevent>=26.9"}


@pytest.mark.parametrize(
    ("extra", "wanted"),
    [
        ("xml", {"lxml>=6.1"}),
        ("zmq", {"pyzmq>=27.1", "msgspec>=0.22"}),
        ("cron", {"cronsim>=2.8"}),
        (
            "http",
            {"gunicorn[gevent]<28,>=27", "werkzeug<4,>=3.1.9", "geventhttpclient>=2.4", "bcrypt>=5", "msgspec>=0.22"},
        ),
    ],
)
def test_extra_asks_for_its_libraries(metadata: Message, extra: str, wanted: set[str]) -> None:
    assert requirements(metadata, extra) == wanted


def test_all_is_every_extra_that_a_user_may_want(metadata: Message) -> None:
    assert requirements(metadata, "all") == set().union(
        *(requirements(metadata, name) for name in ("xml", "zmq", "http", "cron"))
    )


def test_extras_are_those_promised(metadata: Message) -> None:
    assert set(metadata.get_all("Provides-Extra", [])) == {"xml", "zmq", "http", "cron", "all", "test", "dev"}


def test_licence_and_python_are_declared(metadata: Message, wheel: zipfile.ZipFile) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())


def test_command_is_installed(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "compysition = compysition.cli:main" in wheel.read(name).decode().splitlines()


def test_the_fixtures_for_pytest_are_found_by_pytest(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "[pytest11]\ncompysition = pytest_compysition\n" in wheel.read(name).decode()


def test_pyproject_holds_no_metadata() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(settings) == {"build-system", "tool"}
    assert "setuptools" not in settings["tool"]


def test_every_python_file_names_its_licence_in_the_first_line() -> None:
    files = [ROOT / "setup.py"]
    for directory in "compysition", "tests", "examples":
        files += (ROOT / directory).rglob("*.py")
    lines = {path: path.read_text(encoding="utf-8").partition("\n")[0] for path in files}
    assert [path for path, line in lines.items() if line != "# SPDX-License-Identifier: Apache-2.0"] == []


#: Prints what an import of the core, or a look at every name it offers, changed in a fresh interpreter.
LOOK = """
import gc, json, logging, os, signal, sys, threading
def signals():
    return {n: str(signal.getsignal(n)) for n in signal.valid_signals() if n not in (signal.SIGKILL, signal.SIGSTOP)}
def files():
    return sorted(os.listdir("/dev/fd"))
before, old_signals, old_files = set(sys.modules), signals(), files()
import importlib
for name in sys.argv[1:]:
    module = importlib.import_module(name)
# What Cython shares between its modules is in sys.modules too, but was never imported and has no spec.
new = {name for name, module in sys.modules.items() if name not in before and getattr(module, "__spec__", None)}
top = sorted({name.partition(".")[0] for name in new} - set(sys.stdlib_module_names))
import greenlet
print(json.dumps({
    "libraries": top,
    "threads": threading.active_count(),
    "greenlets": sum(isinstance(o, greenlet.greenlet) and o is not greenlet.getcurrent() for o in gc.get_objects()),
    "signals": signals() == old_signals,
    "files": files() == old_files,
    "handlers": len(logging.getLogger("compysition").handlers) + len(logging.getLogger().handlers),
    "patched": "gevent.monkey" in sys.modules and bool(sys.modules["gevent.monkey"].saved),
}))
"""


@pytest.mark.parametrize("modules", [["compysition"], ["compysition", "compysition.actors", "compysition.errors"]])
def test_import_loads_nothing_but_gevent_and_starts_nothing(modules: list[str]) -> None:
    seen = json.loads(run_python("-c", LOOK, *modules))
    # zope.* and cffi's are gevent's own.
    assert set(seen.pop("libraries")) <= {"compysition", "gevent", "greenlet", "zope", "cffi", "_cffi_backend"}
    assert seen == {"threads": 1, "greenlets": 0, "signals": True, "files": True, "handlers": 0, "patched": False}


# ---- the lock -------------------------------------------------------------------------------------------------------


def lock_for(purpose: str, root: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-I", str(root / "scripts" / "lock"), "--for", purpose]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=50, check=False)


def test_the_lock_pins_everything_with_hashes() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(lines) > 20
    pinned = re.compile(r"[a-z0-9-]+==[^\s;]+( ; python_version == .+?)?(\s+--hash=sha256:[0-9a-f]{64})+")
    assert [line for line in lines if not pinned.fullmatch(line)] == []


def test_each_purpose_of_the_lock_has_what_those_before_it_have() -> None:
    done = [lock_for(purpose) for purpose in ("run", "test", "dev")]
    if done[0].returncode != 0:
        assert done[0].stderr.startswith("requirements.lock "), done[0].stderr
        pytest.skip(done[0].stderr)
    run, test, dev = ({line.partition("==")[0] for line in one.stdout.splitlines() if "==" in line} for one in done)
    assert {"gevent", "lxml", "setuptools"} <= run < test < dev
    assert "pytest" in test - run
    assert "mypy" in dev - test


def test_a_lock_for_other_dependencies_is_not_taken(tmp_path: Path) -> None:
    for name in "setup.py", "pyproject.toml", "requirements.lock", "README.md":
        shutil.copy(ROOT / name, tmp_path)
    for name in "scripts", "compysition":
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "scripts" / "lock", tmp_path / "scripts")
    shutil.copy(PACKAGE / "__about__.py", tmp_path / "compysition")
    script = tmp_path / "setup.py"
    script.write_text(script.read_text(encoding="utf-8").replace('"gevent>=', '"gevent>=1'), encoding="utf-8")

    done = lock_for("run", tmp_path)

    assert (done.returncode, done.stdout) == (3, "")
    assert "was made for other dependencies than setup.py has; renew it by scripts/lock" in done.stderr
