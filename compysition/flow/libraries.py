# SPDX-License-Identifier: Apache-2.0
"""Libraries that hold all actors while they wait, and what a source imports. Pure; see code C204 in `docs/checks.md`.

There are two kinds. Those that wait in C do so whatever is patched. Those that wait through Python's own sockets and
processes are cooperative once gevent has patched the standard library, as ``compysition run`` does.
"""

import ast
from collections.abc import Iterator, Mapping

#: Wait in C. By their name, what makes them cooperative or can be taken instead.
WAIT_IN_C: Mapping[str, str] = {
    "MySQLdb": "pymysql waits cooperatively",
    "confluent_kafka": "",
    "cx_Oracle": "oracledb in its thin mode waits cooperatively",
    "grpc": "grpc.experimental.gevent.init_gevent() makes it wait cooperatively",
    "ldap": "ldap3 waits cooperatively",
    "psycopg2": "psycopg 3 waits cooperatively, or psycogreen.gevent.patch_psycopg() makes it do so",
    "pycurl": "geventhttpclient waits cooperatively",
    "pymssql": "",
    "pyodbc": "",
    "sqlite3": "",
}
#: Wait through the standard library.
WAIT_IN_PYTHON = frozenset(
    {
        *("boto3", "botocore", "ftplib", "http.client", "httpx", "imaplib", "kombu", "ldap3", "oracledb", "paramiko"),
        *("pg8000", "pika", "poplib", "psycopg", "pymongo", "pymysql", "redis", "requests", "smtplib", "subprocess"),
        *("urllib.request", "urllib3", "xmlrpc.client"),
    }
)
#: Whoever imports the second makes the first cooperative.
CURES: Mapping[str, str] = {"psycopg2": "psycogreen", "grpc": "grpc.experimental.gevent"}


def imports_of(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Everything that a source imports, with the line, inside functions too; not what is for the type checker only."""
    for node in _that_run(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def holding(imports: Mapping[str, int], *, is_patched: bool) -> Iterator[tuple[str, int, str]]:
    """Those of `imports` that hold all actors: the library, its line, and what can be done besides `offload`."""
    for library, remedy in WAIT_IN_C.items():
        line = _line_of(library, imports)
        if line is not None and not (library in CURES and _line_of(CURES[library], imports) is not None):
            yield library, line, remedy
    if not is_patched:
        for library in sorted(WAIT_IN_PYTHON):
            line = _line_of(library, imports)
            if line is not None:
                yield library, line, "compysition run patches the standard library, and then it waits cooperatively"


def _line_of(library: str, imports: Mapping[str, int]) -> int | None:
    return next((line for name, line in imports.items() if f"{name}.".startswith(f"{library}.")), None)


def _that_run(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    children = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING":
        children = iter(node.orelse)
    for child in children:
        yield from _that_run(child)
