# SPDX-License-Identifier: Apache-2.0
"""Services on the pages are started, asked with curl, and stopped.

The conventions beside those of `test_docs`:

- ``<!-- serves: NAME.py -->`` before a fenced ``python`` block says that it is a service. It is saved under that name
  and run by ``compysition run``, on a free port in place of its ``port=8080``.
- A fenced ``sh`` block behind it is run by a shell while it serves; the ``text`` block right behind that is what it
  prints.
- ``<!-- file: NAME -->`` before any block says that the reader saves it under that name, beside the script.
- ``<!-- graph of NAME.py -->`` before a fenced ``mermaid`` block says that it is what ``compysition graph`` prints of
  the service above it.

Every other ``sh`` block is for the reader alone, and shows no output that a test would have to look at.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.docs.test_docs import EVENT_ID, PAGES, ROOT, Block, blocks_of

#: A service has to be up after this many seconds, and down again, and each answer there.
LIMIT_S: Final = 30.0
#: The port that pages name.
PORT: Final = "8080"
DOOR: Final = re.compile(r"http://127\.0\.0\.1:(\d+)/")


@dataclass(frozen=True, slots=True)
class Service:
    """A script that serves, what is asked of it, and the files that lie beside it."""

    script: Block
    questions: tuple[Block, ...]
    files: tuple[Block, ...]
    #: Pictures of it.
    graphs: tuple[Block, ...]

    def __str__(self) -> str:
        return str(self.script)


def services_of(page: Path) -> Iterator[Service]:
    blocks = blocks_of(page)
    files = tuple(block for block in blocks if block.comment.startswith("file:"))
    for number, block in enumerate(blocks):
        if block.comment.startswith("serves:"):
            rest = blocks[number + 1 :]
            end = next((n for n, other in enumerate(rest) if other.language == "python"), len(rest))
            asked = tuple(other for other in rest[:end] if other.language == "sh" and other.output is not None)
            graphs = tuple(other for other in rest[:end] if other.comment.startswith("graph of"))
            yield Service(block, asked, files, graphs)


def name_in(block: Block) -> str:
    return block.comment.partition(":")[2].strip()


SERVICES: Final = [service for page in PAGES for service in services_of(page)]


def save_files(service: Service, place: Path) -> None:
    for block in service.files:
        (place / name_in(block)).write_text(block.text, encoding="utf-8")


@contextmanager
def serving(service: Service, place: Path) -> Iterator[str]:
    """Runs the service in `place`; the value is its port."""
    save_files(service, place)
    script = place / name_in(service.script)
    assert f"port={PORT}" in service.script.text
    script.write_text(service.script.text.replace(f"port={PORT}", "port=0"), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "compysition.cli", "run", script.name],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stderr is not None
    watchdog = threading.Timer(LIMIT_S, process.kill)
    watchdog.start()
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if door := DOOR.search(line):
                yield door[1]
                break
        else:
            pytest.fail(f"{service} has no door: {''.join(said)}")
    finally:
        process.send_signal(signal.SIGINT)
        said.append(process.communicate(timeout=LIMIT_S)[1])
        watchdog.cancel()
    assert process.returncode == 0, "".join(said)
    assert "everything drained (exit code 0); SIGINT" in said[-1]


@pytest.mark.skipif(shutil.which("curl") is None and "CI" not in os.environ, reason="there is no curl here")
@pytest.mark.timeout(4 * LIMIT_S)
@pytest.mark.parametrize("service", SERVICES, ids=str)
def test_a_service_answers_what_the_page_says(service: Service, tmp_path: Path) -> None:
    with serving(service, tmp_path) as port:
        for question in service.questions:
            done = subprocess.run(
                ["bash", "-c", question.text.replace(f":{PORT}/", f":{port}/")],
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                timeout=LIMIT_S,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert EVENT_ID.sub("ID", done.stdout) == EVENT_ID.sub("ID", question.output or ""), question


@pytest.mark.parametrize("service", [service for service in SERVICES if service.graphs], ids=str)
def test_a_picture_is_that_of_the_service_above_it(service: Service, tmp_path: Path) -> None:
    save_files(service, tmp_path)
    script = tmp_path / name_in(service.script)
    script.write_text(service.script.text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "compysition.cli", "graph", script.name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT_S,
        check=False,
    )
    assert [graph.text for graph in service.graphs] == [done.stdout], done.stderr


def test_every_service_is_asked_something() -> None:
    assert SERVICES
    assert not [str(service) for service in SERVICES if not service.questions]


def test_no_other_command_shows_an_output_that_nobody_checks() -> None:
    shown = [
        block for page in PAGES for block in blocks_of(page) if block.language == "sh" and block.output is not None
    ]
    assert shown == [question for service in SERVICES for question in service.questions]
