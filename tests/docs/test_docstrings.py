# SPDX-License-Identifier: Apache-2.0
"""The examples in docstrings run as they stand, each module's in a process of its own."""

import ast
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "compysition"
#: One module's examples have to be done after this many seconds.
LIMIT_S: Final = 20.0

#: Says how many examples ran; what fails is told on standard output, as `doctest` does.
SCRIPT: Final = """
import doctest, importlib, sys
result = doctest.testmod(importlib.import_module(sys.argv[1]))
print(f"{result.attempted} examples ran")
sys.exit(result.failed > 0)
"""


def has_examples(path: Path) -> bool:
    nodes = ast.walk(ast.parse(path.read_text()))
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return any(">>> " in (ast.get_docstring(node) or "") for node in nodes if isinstance(node, kinds))


#: By module, its file.
MODULES: Final = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__main__.py"
}
WITH_EXAMPLES: Final = [name for name, path in MODULES.items() if has_examples(path)]
#: Actors that need nothing around them but a Director show how they are used.
SHOWN: Final = [
    *("data", "eventattributemodifier", "eventjoin", "eventlogger", "eventrouter", "filelogger"),
    *("flowcontroller", "source", "stdout", "timer"),
]


def run(module: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, module],
        cwd=ROOT,
        env={**os.environ, "PYTHONUTF8": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def results() -> "dict[str, Future[subprocess.CompletedProcess[str]]]":
    """All of them, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return {module: pool.submit(run, module) for module in WITH_EXAMPLES}


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_of_a_module_run(
    results: "dict[str, Future[subprocess.CompletedProcess[str]]]", module: str
) -> None:
    done = results[module].result(timeout=0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert not done.stdout.startswith("0 examples")


@pytest.mark.parametrize("name", SHOWN)
def test_a_simple_actor_shows_how_it_is_used(name: str) -> None:
    assert f"compysition.actors.{name}" in WITH_EXAMPLES
