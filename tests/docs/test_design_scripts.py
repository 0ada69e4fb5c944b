# SPDX-License-Identifier: Apache-2.0
"""The scripts of the design that need no ZeroMQ run as printed there, with `python` and with `compysition run`."""

import base64
import http.client
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
EXAMPLES: Final = ROOT / "examples"
#: Nothing here takes longer, unless it hangs.
LIMIT_S: Final = 20.0

ONE_WAY: Final = """\
from compysition import Director
from compysition.actors import TestEvent, STDOUT

director = Director()
event_generator = director.register_actor(TestEvent, "event_generator", interval=1)
output_one = director.register_actor(STDOUT, "output_one", prefix="I am number one: ", timestamp=True)
output_two = director.register_actor(STDOUT, "output_two", prefix="I am number two: ", timestamp=True)
director.connect_queue(event_generator, [output_one, output_two])
director.start()
"""
FULL_CIRCLE: Final = """\
director = Director()
wsgi = director.register_actor(WSGIServer, "wsgi")
auth = director.register_actor(BasicAuth, "auth")
submit_transform = director.register_actor(Transformer, "submit_transform", xsls["submit"])
acknowledge_transform = director.register_actor(Transformer, "acknowledge_transform", xsls["acknowledge"])
request_executor = director.register_actor(SomeRequestExecutor, "request_executor")   # the user's own actor

director.connect_queue(wsgi, auth)
director.connect_queue(auth, submit_transform)
director.connect_queue_error(auth, wsgi)                  # a refused login is answered 401
director.connect_queue(submit_transform, request_executor)
director.connect_queue_error(submit_transform, wsgi)
director.connect_queue(request_executor, acknowledge_transform)
director.connect_queue(acknowledge_transform, wsgi)
director.start()
"""
LINE: Final = re.compile(rb"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\] I am number (one|two): test\n")
COMMANDS: Final = {
    "python": [sys.executable],
    "compysition run": [sys.executable, "-m", "compysition.cli", "run"],
    "compysition run --no-patch": [sys.executable, "-m", "compysition.cli", "run", "--no-patch"],
}


def words(script: str) -> list[str]:
    """The statements of a script, whatever a formatter makes of its spaces and of the order of imported names."""
    lines = [" ".join(line.partition("#")[0].split()) for line in script.splitlines()]
    return [
        f"{head} import {sorted(names.split(', '))}" if names else head
        for head, _, names in (line.partition(" import ") for line in lines)
        if head
    ]


@contextmanager
def started(command: str, script: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [*COMMANDS[command], str(script)],
        cwd=script.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[bytes], sent: signal.Signals) -> tuple[bytes, bytes, int]:
    process.send_signal(sent)
    out, err = process.communicate(timeout=LIMIT_S)
    return out, err, process.returncode


# ---- one way ----------------------------------------------------------------------------------------------------


def test_the_first_example_is_the_first_script_of_the_design() -> None:
    assert words((EXAMPLES / "01_one_way.py").read_text()) == words(ONE_WAY)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("origin", ["as printed", "example"])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_the_one_way_script_prints_its_lines_until_it_is_told_to_stop(
    tmp_path: Path, command: str, origin: str, sent: signal.Signals
) -> None:
    script = EXAMPLES / "01_one_way.py"
    if origin == "as printed":
        script = tmp_path / "script.py"
        script.write_text(ONE_WAY)

    with started(command, script) as process:
        assert process.stdout is not None
        first = b""
        while first.count(b"\n") < 2:
            assert select.select([process.stdout], [], [], LIMIT_S)[0]
            first += os.read(process.stdout.fileno(), 65536)
        out, err, code = ended(process, sent)

    written = first + out
    assert sorted(LINE.findall(first)) == [b"one", b"two"]
    assert LINE.sub(b"", written) == b""
    assert written.count(b"one") == written.count(b"two")
    assert code == 0
    # `compysition run` says in one line how it went; a plain script says nothing that it does not print itself.
    expected = [] if command == "python" else [f"everything drained (exit code 0); {sent.name}"]
    assert [line.partition(": ")[2] for line in err.decode().splitlines()] == expected


def test_a_second_lies_between_the_lines_of_the_one_way_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(ONE_WAY)
    with started("python", script) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        ended(process, signal.SIGTERM)

    times = [float(line[18:27]) for line in lines]
    assert all(LINE.fullmatch(line) for line in lines), lines
    assert 0.9 < (times[2] - times[0]) % 60 < 5


# ---- full circle ------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def asked(port: int, body: str, user: str | None) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    headers = {"Content-Type": "application/xml"}
    if user is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
    try:
        connection.request("POST", "/", body.encode(), headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
    finally:
        connection.close()


def await_port(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        else:
            return
    pytest.fail(f"the script has ended: {process.communicate()!r}")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_the_second_example_is_the_second_script_of_the_design() -> None:
    text = (EXAMPLES / "02_full_circle.py").read_text()
    assert words(text)[-len(words(FULL_CIRCLE)) :] == words(FULL_CIRCLE)


#: The user's own part: everything that the printed script takes for granted.
OWN: Final = """\
from compysition import Actor
from compysition.actors import BasicAuth as Base

HEAD = '<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">'
xsls = {
    "submit": HEAD + '<xsl:template match="/order"><job number="{@id}"/></xsl:template></xsl:stylesheet>',
    "acknowledge": HEAD + '<xsl:template match="/done"><ack id="{@number}"/></xsl:template></xsl:stylesheet>',
}


class BasicAuth(Base):
    def _authenticate(self, username, password):
        return (username, password) == ("ann", "secret")


class SomeRequestExecutor(Actor):
    def consume(self, event):
        event.data = f'<done number="{event.data.getroot().get("number")}"/>'
        self.send_event(event)
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_the_full_circle_runs_as_printed(tmp_path: Path, command: str) -> None:
    (tmp_path / "own.py").write_text(OWN)
    imports = (
        "from compysition import Director\nfrom compysition.actors import WSGIServer, Transformer\n"
        "from own import BasicAuth, SomeRequestExecutor, xsls\n\n"
    )
    port = free_port()
    script = tmp_path / "script.py"
    script.write_text(imports + FULL_CIRCLE.replace('WSGIServer, "wsgi"', f'WSGIServer, "wsgi", port={port}'))

    with started(command, script) as process:
        await_port(process, port)
        good = asked(port, '<order id="7"/>', "ann:secret")
        refused = [asked(port, '<order id="7"/>', user) for user in (None, "ann:wrong")]
        malformed = asked(port, '<order id="7"', "ann:secret")
        again = asked(port, '<order id="8"/>', "ann:secret")
        out, err, code = ended(process, signal.SIGTERM)

    assert (good[0], good[2].strip()[-13:]) == (200, '<ack id="7"/>')
    assert [answer[0] for answer in refused] == [401, 401]
    assert all(answer[1]["www-authenticate"].startswith("Basic realm=") for answer in refused)
    assert malformed[0] == 400
    assert (again[0], again[2].strip()[-13:]) == (200, '<ack id="8"/>')
    assert (out, code) == (b"", 0)
    if command == "python":
        assert err == b""
    else:
        # One line for the door: actor, URL, a curl line; and one line at the end.
        assert [b"wsgi" in line and b"curl" in line for line in err.splitlines()] == [True, False]
        assert f"http://127.0.0.1:{port}/".encode() in err
    assert is_free(port)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_full_circle_that_refuses_everybody_until_told_whom_to_accept(tmp_path: Path, command: str) -> None:
    """Word for word as printed, `BasicAuth` included, which nobody has told whom to accept."""
    (tmp_path / "own.py").write_text(OWN)
    imports = (
        "from compysition import Director\nfrom compysition.actors import WSGIServer, BasicAuth, Transformer\n"
        "from own import SomeRequestExecutor, xsls\n\n"
    )
    port = free_port()
    script = tmp_path / "script.py"
    script.write_text(imports + FULL_CIRCLE.replace('WSGIServer, "wsgi"', f'WSGIServer, "wsgi", port={port}'))

    with started(command, script) as process:
        await_port(process, port)
        assert asked(port, '<order id="7"/>', "ann:secret")[0] == 401
        _, err, code = ended(process, signal.SIGTERM)

    assert code == 0
    assert b"refuses everybody" in err


def test_the_second_example_answers_its_sample_document() -> None:
    if not is_free(8080):
        pytest.skip("port 8080, which the script as printed uses, is taken on this machine")
    document = next((EXAMPLES / "full_circle").glob("*.xml")).read_text()

    with started("python", EXAMPLES / "02_full_circle.py") as process:
        await_port(process, 8080)
        good = asked(8080, document, "ada:countess")
        refused = asked(8080, document, None)
        out, err, code = ended(process, signal.SIGINT)

    assert good[0] == 200
    assert "<total" in good[2]
    assert refused[0] == 401
    assert (out, err, code) == (b"", b"", 0)
    assert is_free(8080)


def test_a_port_that_is_taken_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        script = tmp_path / "script.py"
        script.write_text(
            "from compysition import Director\nfrom compysition.actors import WSGIServer\n\n"
            f'director = Director()\ndirector.register_actor(WSGIServer, "wsgi", port={port})\ndirector.start()\n'
        )
        with started("compysition run", script) as process:
            out, err = process.communicate(timeout=LIMIT_S)

    assert (out, process.returncode) == (b"", 2)
    (line,) = err.decode().splitlines()
    assert str(port) in line
    assert "127.0.0.1" in line
    assert "'wsgi'" in line
