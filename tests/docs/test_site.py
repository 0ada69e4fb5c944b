# SPDX-License-Identifier: Apache-2.0
"""The site that `scripts/docs` makes: it is made without a warning, and holds every public name."""

import inspect
import re
import subprocess
import zlib
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

from tests.docs.test_docs import glossary

ROOT: Final = Path(__file__).parents[2]
#: Where users import from; see docs/extensions/public_names.py.
MODULES: Final = [
    name
    for name in ("compysition", "compysition.actors", "compysition.errors", "compysition.testing")
    if find_spec(name) is not None
]
#: What is public only for other parts of the runtime.
NOT_FOR_USERS: Final = {
    *("compysition.Director.crashed", "compysition.Director.is_stopping", "compysition.Director.offload"),
    "compysition.DeadLetters.add",
    "compysition.LogEntry.of",
    "compysition.Request.from_environ",
    "compysition.FrozenHeaders.from_environ",
    *("compysition.ResponseHeaders.from_environ", "compysition.ResponseHeaders.reserved"),
}
#: What makes a browser load something.
LOADED: Final = re.compile(r'<(?:script|img|link|iframe)\b[^>]*?\b(?:src|href)="([^"]+)"')

# The first test that needs the site waits until it is made, on a machine that may be busy.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, made anew."""
    place = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [ROOT / "scripts" / "docs", place],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def documented(site: Path) -> set[str]:
    """Every Python name that has its place on the site, as sphinx's inventory lists them."""
    _, _, _, _, packed = (site / "objects.inv").read_bytes().split(b"\n", 4)
    lines = zlib.decompress(packed).decode("utf-8").splitlines()
    return {line.split()[0] for line in lines if line.split()[1].startswith("py:")}


def names_of(module: str) -> list[str]:
    """The public names of `module`: what it exports, or the classes that are written in it."""
    found = import_module(module)
    if hasattr(found, "__all__"):
        return [name for name in found.__all__ if not name.startswith("__")]
    return [name for name, thing in vars(found).items() if inspect.isclass(thing) and thing.__module__ == module]


PUBLIC: Final = {f"{module}.{name}" for module in MODULES for name in names_of(module)}


def thing_of(name: str) -> object:
    module, _, last = name.rpartition(".")
    return getattr(import_module(module), last)


def described(cls: type) -> Iterator[str]:
    """The attributes that the docstrings of a class and its bases tell about."""
    for base in cls.__mro__:
        yield from re.findall(r"^\s*(\w+): ", base.__doc__ or "", flags=re.MULTILINE)


def undocumented(name: str, cls: type, documented: set[str]) -> Iterator[str]:
    """The public members of a class that the site does not tell about, neither there nor at one of its bases."""
    written = {f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__}
    places = {name} | written | {public for public in PUBLIC if thing_of(public) in cls.__mro__}
    for member in dir(cls):
        owner = next(base for base in cls.__mro__ if member in vars(base) or base is object)
        if (
            member.startswith("_")
            or f"{name}.{member}" in NOT_FOR_USERS
            or not owner.__module__.startswith("compysition")
        ):
            continue
        if member not in described(cls) and not any(f"{place}.{member}" in documented for place in places):
            yield f"{name}.{member}"


def test_the_site_is_made_without_a_warning(site: Path) -> None:
    assert (site / "index.html").is_file()


def test_every_public_name_is_documented_and_has_its_docstring(documented: set[str]) -> None:
    assert not sorted(PUBLIC - documented)
    assert not [name for name in sorted(PUBLIC) if not inspect.getdoc(thing_of(name))]


def test_nothing_but_public_names_is_documented_where_users_import_from(documented: set[str]) -> None:
    module = "|".join(map(re.escape, sorted(MODULES, key=len, reverse=True)))
    classes = {name for name in documented if re.fullmatch(rf"(?:{module})\.[A-Z]\w*", name)}
    assert classes <= PUBLIC


def test_every_public_member_of_a_public_class_is_documented(documented: set[str]) -> None:
    classes = [(name, thing) for name in sorted(PUBLIC) if isinstance(thing := thing_of(name), type)]
    assert not [member for name, cls in classes for member in undocumented(name, cls, documented)]


def test_every_term_of_the_glossary_can_be_referred_to(site: Path) -> None:
    page = (site / "glossary.html").read_text(encoding="utf-8")
    assert glossary()
    assert not [term for term, _ in glossary() if f'id="term-{term.replace(" ", "-")}"' not in page]


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    loaded = {target for page in pages for target in LOADED.findall(page.read_text(encoding="utf-8"))}
    assert loaded
    assert not [target for target in loaded if re.match(r"(?:[a-z]+:)?//", target)]
