# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.flow.libraries`."""

import ast

import pytest

from compysition.flow.libraries import WAIT_IN_C, WAIT_IN_PYTHON, holding, imports_of


def found(source: str, *, is_patched: bool) -> list[tuple[str, int]]:
    imports = dict(imports_of(ast.parse(source)))
    return [(library, line) for library, line, _ in holding(imports, is_patched=is_patched)]


@pytest.mark.parametrize(
    "source",
    [
        "import requests",
        "import requests.adapters as r",
        "from requests import get",
        "from requests.adapters import HTTPAdapter",
        "def f(): import requests",
    ],
)
def test_a_library_that_waits_through_python_holds_only_where_nothing_is_patched(source: str) -> None:
    assert found(source, is_patched=False) == [("requests", 1)]
    assert found(source, is_patched=True) == []


@pytest.mark.parametrize(
    "source", ["import urllib.request", "from urllib import request", "from urllib.request import urlopen"]
)
def test_a_module_of_a_package_is_known_by_its_whole_name(source: str) -> None:
    assert found(source, is_patched=False) == [("urllib.request", 1)]
    assert found("import urllib.parse, requestsx", is_patched=False) == []


def test_a_library_that_waits_in_c_holds_always_unless_it_is_cured() -> None:
    assert found("\nimport psycopg2", is_patched=True) == [("psycopg2", 2)]
    assert found("import psycopg2\nimport psycogreen.gevent", is_patched=True) == []
    assert found("import psycopg", is_patched=True) == []


def test_what_is_for_the_type_checker_only_holds_nothing() -> None:
    source = "import typing\nif typing.TYPE_CHECKING:\n    import requests\nelse:\n    import redis\n"
    assert found(source, is_patched=False) == [("redis", 5)]


def test_no_library_is_of_both_kinds() -> None:
    assert not WAIT_IN_PYTHON & set(WAIT_IN_C)
