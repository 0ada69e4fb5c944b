# SPDX-License-Identifier: Apache-2.0
"""The layers of the package: who may import whom, and who may touch what.

A new module gets its place in `LAYERS` (and, if it needs a library, in `LIBRARIES`). A name stands for the module or
for the package of that name with all in it, unless a longer name has its own entry. What stands under
``if TYPE_CHECKING:`` is for the type checker and does not count; an import inside a function does.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "compysition"

#: From the ground up. A module imports from the layers below and, in its own, from those to the left of it.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__about__", "errors"),
    (
        *("logger", "setting_types", "setting_sources", "settings"),
        *("clock", "backoff", "arguments", "copying", "cores", "parking", "components", "event"),
    ),
    ("ledger", "deadlines", "lineage", "deadletter"),
    ("queue", "ring"),
    ("restartlet", "dispatch", "readiness", "cell", "actor"),
    ("stacks", "supervisor", "drain", "loopguard", "logs", "signals"),
    ("snapshot", "wiring", "hosting", "runtime", "asking", "director"),
    ("codec", "wire", "actors"),
    ("testing", "cli"),
)
#: Modules beside the layers: the highest layer that they may import, and the lowest that may import them.
BESIDE: dict[str, tuple[int, int]] = {
    "graph": (4, 5),
    "flow": (1, 6),
    "http": (3, 7),
    "mdp": (4, 7),
    "xml": (0, 7),
    "xslt_scope": (0, 7),
    "credentials": (0, 7),
    "logfile": (-1, 7),
}
#: Layers whose modules, though below, are not to be imported.
FORBIDDEN_LAYERS: dict[str, frozenset[int]] = {
    "actors": frozenset({5, 6}),  # actors do not know who starts, watches and stops them
    "__init__": frozenset({7, 8}),  # `import compysition` costs what the core costs
}
#: Packages whose modules may import each other; in `actors` only the class that is subclassed.
OPEN_PACKAGES = frozenset({"flow", "http", "mdp", "testing", "cli"})
SUBCLASSING_PACKAGES = frozenset({"actors"})

#: Libraries beside the standard one. A name without an entry has the core's.
CORE_LIBRARIES = frozenset({"gevent", "greenlet"})
LIBRARIES: dict[str, frozenset[str]] = {
    "xml": frozenset({"lxml"}),
    "xslt_scope": frozenset({"lxml"}),
    "credentials": frozenset({"bcrypt"}),
    "http": frozenset({"werkzeug", "geventhttpclient", "msgspec"}),
    "http.gunicorn": frozenset({"gunicorn"}),
    "mdp": frozenset({"zmq"}),
    "codec": frozenset({"msgspec"}),
    "actors": frozenset({"lxml", "cronsim"}),
}

#: Only here is the standard library patched.
PATCHERS = frozenset({"cli"})
#: Only here are greenlets made: everybody else has an owner who joins them.
SPAWNERS = frozenset({"restartlet", "dispatch", "supervisor", "cli", "testing"})

SPAWN_NAMES = frozenset({"spawn", "spawn_later", "spawn_raw", "start_later"})
GREENLET_CLASSES = frozenset({"gevent.Greenlet", "gevent.greenlet.Greenlet", "greenlet.greenlet", "gevent.hub.Hub"})


# ---- reading a module -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Import:
    """One imported thing. `target` is dotted, and the imported name is part of it: ``gevent.spawn``.

    `is_whole`: the bound name stands for all of it; after ``import a.b``, `a` stands for ``a``.
    """

    target: str
    bound_as: str
    line: int
    is_whole: bool = True


def is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def nodes_that_run(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `node`, without the bodies of ``if TYPE_CHECKING:``."""
    yield node
    children = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and is_type_checking(node.test):
        children = iter(node.orelse)
    for child in children:
        yield from nodes_that_run(child)


class Module:
    """The source of one module, by its name inside the package: ``http.gunicorn``; ``__init__`` is the package."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.nodes = list(nodes_that_run(ast.parse(source)))
        self.imports = [found for node in self.nodes for found in self._imports_of(node)]

    def _imports_of(self, node: ast.AST) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound_as = alias.asname or alias.name.partition(".")[0]
                yield Import(alias.name, bound_as, node.lineno, is_whole=alias.asname is not None)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:  # ruff forbids it; this keeps it from hiding anything
                origin = ".".join(filter(None, (PACKAGE, origin)))
            for alias in node.names:
                yield Import(f"{origin}.{alias.name}", alias.asname or alias.name, node.lineno)
        elif isinstance(node, ast.Call) and node.args:
            argument = node.args[0]
            called = ast.unparse(node.func)
            if called.rpartition(".")[2] in {"import_module", "__import__"} and isinstance(argument, ast.Constant):
                yield Import(str(argument.value), "", node.lineno)

    def dotted(self, node: ast.AST) -> str | None:
        """What a name or a chain of attributes stands for: ``g.spawn`` after ``import gevent as g`` is gevent.spawn."""
        if isinstance(node, ast.Attribute):
            base = self.dotted(node.value)
            return base and f"{base}.{node.attr}"
        if isinstance(node, ast.Name):
            for found in self.imports:
                if found.bound_as == node.id:
                    return found.target if found.is_whole else node.id
        return None

    def references(self) -> Iterator[tuple[str, int]]:
        """Everything of another module that is named, with its line; imported names count as named."""
        for found in self.imports:
            yield found.target, found.line
        for node in self.nodes:
            if isinstance(node, ast.Attribute) and (dotted := self.dotted(node)):
                yield dotted, node.lineno

    def calls(self) -> Iterator[tuple[str, int]]:
        for node in self.nodes:
            if isinstance(node, ast.Call) and (dotted := self.dotted(node.func)):
                yield dotted, node.lineno

    def base_classes(self) -> set[str]:
        """Names and dotted names of all bases of the classes defined here."""
        classes = [node for node in self.nodes if isinstance(node, ast.ClassDef)]
        return {dotted for cls in classes for base in cls.bases if (dotted := self.dotted(base))}


def entry_of(name: str, table: frozenset[str] | set[str]) -> str | None:
    """The longest entry of `table` that is `name` or a package around it."""
    while name:
        if name in table:
            return name
        name = name.rpartition(".")[0]
    return None


def known_modules() -> set[str]:
    return {name for layer in LAYERS for name in layer} | set(BESIDE)


def layer_of(entry: str) -> int | None:
    """The layer of an entry; None for those beside."""
    return next((number for number, layer in enumerate(LAYERS) if entry in layer), None)


# ---- the rules --------------------------------------------------------------------------------------------------


def why_not_package_import(importer: Module, found: Import) -> str | None:
    """The reason why this import from the package itself is against the layers; None if it is not."""
    known = known_modules()
    target = found.target.removeprefix(PACKAGE).removeprefix(".")
    target_entry = entry_of(target, known)
    if target_entry is None:
        path = ROOT / PACKAGE / target.partition(".")[0]
        if path.is_dir() or path.with_suffix(".py").exists():
            return "a module that has no place in the table yet"
        return "imports from the package's face: name the module that defines it"
    if importer.name == "__init__":
        above = layer_of(target_entry) in FORBIDDEN_LAYERS["__init__"]
        return "`import compysition` must not load it" if above else None

    entry = entry_of(importer.name, known)
    if entry is None:
        return None  # reported once, by its own test
    if entry == target_entry:
        is_subclassed = found.target in importer.base_classes()
        if entry in OPEN_PACKAGES or (entry in SUBCLASSING_PACKAGES and is_subclassed):
            return None
        if entry in SUBCLASSING_PACKAGES:
            return "modules of this package import each other only to subclass"
        return "modules of this package do not import each other"
    return why_not_layer(entry, target_entry)


def why_not_layer(entry: str, target: str) -> str | None:
    """The same for two different entries of the tables."""
    layer, target_layer = layer_of(entry), layer_of(target)
    if target_layer is None:
        lowest = BESIDE[target][1]
        if layer is None or layer < lowest:
            return f"{target!r} is only for layer {lowest} and above"
    elif layer is None:
        highest = BESIDE[entry][0]
        if target_layer > highest:
            return f"{entry!r} imports nothing above layer {highest}; this is layer {target_layer}"
    elif target_layer in FORBIDDEN_LAYERS.get(entry, ()):
        return f"{entry!r} imports nothing from layer {target_layer}"
    elif target_layer > layer:
        return f"layer {layer} imports nothing from layer {target_layer}"
    elif target_layer == layer and LAYERS[layer].index(target) > LAYERS[layer].index(entry):
        return f"in layer {layer} {target!r} stands after {entry!r}"
    return None


def wrong_imports(module: Module) -> Iterator[tuple[int, str]]:
    """Imports against the layers, and of libraries that the module has no business with."""
    entry = entry_of(module.name, set(LIBRARIES))
    libraries = CORE_LIBRARIES | sys.stdlib_module_names | (LIBRARIES[entry] if entry else frozenset())
    for found in module.imports:
        top = found.target.partition(".")[0]
        if top == PACKAGE:
            why = why_not_package_import(module, found)
        else:
            why = None if top in libraries else f"{top} is not one of its libraries"
        if why:
            yield found.line, f"import of {found.target}: {why}"


def wrong_uses(module: Module) -> Iterator[tuple[int, str]]:
    """Patches, and greenlets made, where nobody may."""
    if entry_of(module.name, PATCHERS) is None:
        for name, line in module.references():
            if name.startswith("gevent.monkey.patch_"):
                yield line, f"{name}: only {sorted(PATCHERS)} may patch"
    if entry_of(module.name, SPAWNERS) is None:
        for name, line in module.references():
            if name.startswith("gevent.") and name.rpartition(".")[2] in SPAWN_NAMES:
                yield line, f"{name}: only {sorted(SPAWNERS)} make greenlets"
        for name, line in module.calls():
            if name in GREENLET_CLASSES:
                yield line, f"{name}(…): only {sorted(SPAWNERS)} make greenlets"


def violations(module: Module) -> list[str]:
    """All that is wrong with one module, each with its line."""
    wrong = {*wrong_imports(module), *wrong_uses(module)}
    return [f"{module.name}:{line}: {text}" for line, text in sorted(wrong)]


# ---- the package holds them -------------------------------------------------------------------------------------


def package_modules() -> Iterator[Module]:
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = list(path.relative_to(ROOT / PACKAGE).with_suffix("").parts)
        if parts[-1] == "__init__" and len(parts) > 1:
            parts.pop()
        yield Module(".".join(parts), path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", list(package_modules()), ids=lambda module: module.name)
def test_module_has_a_place_in_the_table(module: Module) -> None:
    is_known = module.name == "__init__" or entry_of(module.name, known_modules()) is not None
    assert is_known, f"{PACKAGE}.{module.name} has no layer: add it to LAYERS or BESIDE in {Path(__file__).name}"


@pytest.mark.parametrize("module", list(package_modules()), ids=lambda module: module.name)
def test_module_keeps_to_its_layer(module: Module) -> None:
    wrong = violations(module)
    assert not wrong, "\n".join(wrong)


def test_every_name_stands_in_one_place_of_the_table() -> None:
    names = [*(name for layer in LAYERS for name in layer), *BESIDE]
    assert len(names) == len(set(names))


def test_director_and_actors_do_not_know_each_other() -> None:
    assert why_not_layer("director", "actors")
    assert why_not_layer("actors", "director")


def test_core_has_no_libraries_of_its_own() -> None:
    core = {name for layer in LAYERS[:7] for name in layer} | {"graph", "flow"}
    assert not core & set(LIBRARIES)


def test_only_one_module_may_import_gunicorn() -> None:
    assert [name for name, libraries in LIBRARIES.items() if "gunicorn" in libraries] == ["http.gunicorn"]


# ---- the rules see what they should -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source"),
    [
        pytest.param("event", "import compysition.queue", id="a layer above"),
        pytest.param("event", "from compysition.queue import Queue", id="a name from a layer above"),
        pytest.param("event", "from compysition import queue", id="a module from the package"),
        pytest.param("event", "from .queue import Queue", id="relative"),
        pytest.param("event", "def f():\n    import compysition.queue", id="inside a function"),
        pytest.param("event", "import importlib\nimportlib.import_module('compysition.queue')", id="by text"),
        pytest.param("event", "if TYPE_CHECKING:\n    pass\nelse:\n    import compysition.queue", id="else of a guard"),
        pytest.param("clock", "from compysition.event import Event", id="to the right in its layer"),
        pytest.param("queue", "from compysition import Event", id="the package's face"),
        pytest.param("director", "from compysition.actors.stdout import STDOUT", id="director and actor"),
        pytest.param("actors.stdout", "from compysition.director import Director", id="actor and director"),
        pytest.param("actors.stdout", "import compysition.drain", id="actor and drain"),
        pytest.param("actors.stdout", "from compysition.actors.data import Data", id="actor and actor"),
        pytest.param("http.request", "import compysition.cell", id="http above 3"),
        pytest.param("xml", "import compysition.event", id="xml above 0"),
        pytest.param("credentials", "import compysition.xml", id="beside and beside"),
        pytest.param("actor", "import compysition.graph", id="graph from below"),
        pytest.param("testing", "import compysition.cli", id="testing and cli"),
        pytest.param("__init__", "from compysition.actors import STDOUT", id="the package and actors"),
        pytest.param("queue", "import lxml.etree", id="a library in the core"),
        pytest.param("graph", "def f():\n    from lxml import etree", id="a library in a function"),
        pytest.param("http.request", "import gunicorn", id="gunicorn elsewhere"),
        pytest.param("cli.run", "from gunicorn.app.base import BaseApplication", id="gunicorn in the command line"),
        pytest.param("director", "from gevent import monkey\nmonkey.patch_all()", id="patch"),
        pytest.param("director", "from gevent.monkey import patch_socket", id="patch by name"),
        pytest.param("director", "import gevent.monkey\ngevent.monkey.patch_all()", id="patch, dotted"),
        pytest.param("director", "import gevent\ngevent.spawn(f)", id="spawn"),
        pytest.param("director", "import gevent as g\nstart = g.spawn_later", id="spawn under another name"),
        pytest.param("director", "from gevent import spawn_raw", id="spawn by name"),
        pytest.param("director", "from gevent import Greenlet\nGreenlet(f).start()", id="a Greenlet"),
        pytest.param("director", "import gevent\ngevent.Greenlet.spawn(f)", id="Greenlet.spawn"),
        pytest.param("director", "from greenlet import greenlet\ngreenlet(f)", id="a raw greenlet"),
    ],
)
def test_violation_is_seen(name: str, source: str) -> None:
    assert violations(Module(name, source))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        pytest.param("event", "from compysition.clock import now\nfrom compysition import errors", id="below"),
        pytest.param("event", "if TYPE_CHECKING:\n    from compysition.director import Director", id="for types"),
        pytest.param("event", "import typing\nif typing.TYPE_CHECKING:\n    import lxml", id="a library for types"),
        pytest.param(
            "actors.stdout", "from compysition.actor import Actor\nimport compysition.http.request", id="actor"
        ),
        pytest.param(
            "actors.wsgiserver", "from compysition.actors.wsgi import WSGI\nclass W(WSGI): ...", id="subclass"
        ),
        pytest.param("http.pywsgi", "import compysition.http.request\nimport gevent.pywsgi", id="inside http"),
        pytest.param("http.gunicorn", "import gunicorn.workers.ggevent", id="gunicorn in its place"),
        pytest.param("drain", "import compysition.graph", id="graph from above"),
        pytest.param("__init__", "from compysition.director import Director", id="the package's face is filled"),
        pytest.param("cli.run", "from gevent import monkey\nmonkey.patch_all()", id="the command line patches"),
        pytest.param("event", "from gevent import monkey\nmonkey.is_module_patched('os')", id="asking for a patch"),
        pytest.param("restartlet", "import gevent\ngevent.spawn(f)", id="spawn in its place"),
        pytest.param("director", "from gevent import Greenlet\nisinstance(x, Greenlet)", id="a class named only"),
        pytest.param("actors.stdout", "self.threads.spawn(f)", id="another spawn"),
    ],
)
def test_what_is_allowed_passes(name: str, source: str) -> None:
    assert violations(Module(name, source)) == []


def test_unknown_module_has_no_entry() -> None:
    assert entry_of("utils", known_modules()) is None
