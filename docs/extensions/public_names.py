# SPDX-License-Identifier: Apache-2.0
"""Names in docstrings and signatures as references to what is documented.

A class is documented under the name by which users import it, `compysition.Director`; Python knows it by the place
where it is written, `compysition.director.Director`. References are found by either, and by the bare name.

A name in single backquotes is a reference if it names something documented, and code otherwise: in this code base
they also quote values and words of a specification. Every other reference has to lead somewhere: to a documented name,
or to something outside of compysition that can be imported.
"""

import builtins
import inspect
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Annotated, Any, TypeVar, get_origin

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxRole

#: Where users import from, in the order in which a bare name is looked up.
MODULES = ("compysition", "compysition.actors", "compysition.errors", "compysition.testing")
#: Types in public signatures that nobody needs to look into.
OPAQUE = frozenset({"compysition.restartlet.RestartableGreenlet", "compysition.actor.Threads"})
#: Kinds of documented things whose docstring begins with a sentence. Napoleon would take the words before a colon in it
#: for a type.
PLAIN = ("property", "attribute", "data")


def public_names(module: ModuleType) -> list[str]:
    """What users import from `module`: what it exports, or the classes that are written in it."""
    exported: list[str] | None = getattr(module, "__all__", None)
    if exported is not None:
        return [name for name in exported if not name.startswith("__")]
    return [
        name
        for name, thing in vars(module).items()
        if getattr(thing, "__module__", "") == module.__name__ and isinstance(thing, type)
    ]


def _aliases() -> dict[str, str]:
    """Every other way to write a public name → that name."""
    found: dict[str, str] = {}
    for place in MODULES:
        if find_spec(place) is None:
            continue
        module = import_module(place)
        for name in public_names(module):
            thing = getattr(module, name)
            public = f"{place}.{name}"
            found.setdefault(name, public)
            if isinstance(thing, type) or callable(thing):
                found.setdefault(f"{thing.__module__}.{thing.__qualname__}", public)
    return found


ALIASES = _aliases()


def candidates(target: str) -> list[str]:
    """The names under which `target` may be documented, likeliest first."""
    found = [target]
    head, tail = target, ""
    while head:
        if head in ALIASES:
            found.append(ALIASES[head] + tail)
        head, _, step = head.rpartition(".")
        tail = f".{step}{tail}"
    found += [f"{module}.{target}" for module in MODULES]
    return found


def exists_elsewhere(target: str) -> bool:
    """Whether `target` is something outside of compysition."""
    if hasattr(builtins, target):
        return True
    parts = target.split(".")
    if parts[0] == "compysition":
        return False
    for end in range(len(parts) - 1, 0, -1):
        try:
            thing: Any = import_module(".".join(parts[:end]))
        except ImportError:
            continue
        try:
            for part in parts[end:]:
                thing = getattr(thing, part)
        except AttributeError:
            return False
        return True
    return False


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement) -> nodes.Node | None:
    """Lead a reference that sphinx did not find to the documented name, or take its link away."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    python = env.domains.python_domain
    for name in candidates(target):
        if name in python.objects:
            return python.resolve_xref(env, node["refdoc"], app.builder, "obj", name, _bare(node), content)
    is_text = node.get("is_perhaps_code") or target in OPAQUE or exists_elsewhere(target) or is_type_variable(target)
    return content if is_text else None


def is_type_variable(target: str) -> bool:
    """Whether `target` stands for a type in signatures, and is none itself."""
    module, _, name = target.rpartition(".")
    return module.startswith("compysition") and isinstance(getattr(import_module(module), name, None), TypeVar)


def _bare(node: pending_xref) -> pending_xref:
    """The reference without the class and module around it: the name is whole."""
    bare: pending_xref = node.copy()
    bare.attributes.pop("py:module", None)
    bare.attributes.pop("py:class", None)
    bare["refspecific"] = False
    return bare


class Quoted(SphinxRole):
    """The role of what stands in single backquotes."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """A reference that may turn out to be code."""
        node = pending_xref(
            self.rawtext,
            nodes.literal(self.rawtext, self.text, classes=["py", "py-obj"]),
            refdomain="py",
            reftype="obj",
            reftarget=self.text.removesuffix("()"),
            refdoc=self.env.docname,
            is_perhaps_code=True,
        )
        node["py:module"] = self.env.ref_context.get("py:module")
        node["py:class"] = self.env.ref_context.get("py:class")
        self.set_source_info(node)
        return [node], []


class Shelter:
    """Hides the docstrings of properties and attributes from napoleon."""

    def __init__(self) -> None:
        self._hidden: list[str] = []

    def hide(self, _app: Sphinx, what: str, _name: str, _thing: object, _options: object, lines: list[str]) -> None:
        """Before napoleon."""
        if what in PLAIN:
            self._hidden, lines[:] = lines[:], [""]

    def show(self, _app: Sphinx, what: str, _name: str, _thing: object, _options: object, lines: list[str]) -> None:
        """Behind it."""
        if what in PLAIN:
            lines[:] = self._hidden


def drop_internal_bases(_app: Sphinx, _name: str, _thing: object, _options: object, bases: list[type]) -> None:
    """Leave out the base classes that only the runtime knows."""
    bases[:] = [
        base
        for base in bases
        if not base.__module__.startswith("compysition.") or f"{base.__module__}.{base.__qualname__}" in ALIASES
    ] or [object]


def drop_checks(_app: Sphinx, thing: object, _is_bound: bool) -> None:
    """Show an argument's type without the check that is written beside it in ``Annotated[type, check]``."""
    annotations = getattr(inspect.unwrap(thing) if callable(thing) else thing, "__annotations__", {})
    for name, annotation in annotations.items():
        if get_origin(annotation) is Annotated:
            annotations[name] = annotation.__origin__


def write_factories(
    _app: Sphinx, _what: str, _name: str, _thing: object, _options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    """Write the default of a dataclass's field that is made anew each time as one that sphinx can read."""
    return (signature.replace("<factory>", "..."), returns) if signature and "<factory>" in signature else None


def setup(app: Sphinx) -> dict[str, bool]:
    """For sphinx."""
    app.add_role("quoted", Quoted())
    app.config.default_role = "quoted"
    described: Any = PythonDomain.directives["class"]
    for kind in described.doc_field_types:
        if kind.name == "variable":
            kind.label = "Attributes"  # as in the docstrings
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-bases", drop_internal_bases)
    app.connect("autodoc-before-process-signature", drop_checks)
    app.connect("autodoc-process-signature", write_factories)
    shelter = Shelter()
    app.connect("autodoc-process-docstring", shelter.hide, priority=400)  # napoleon: 500
    app.connect("autodoc-process-docstring", shelter.show, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
