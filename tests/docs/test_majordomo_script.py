# SPDX-License-Identifier: Apache-2.0
"""The third script of the design runs as printed there, with `python` and with `compysition run`."""

import http.client
import signal
import time
from pathlib import Path
from typing import Final

import pytest

from tests.docs.test_design_scripts import EXAMPLES, LIMIT_S, ended, started, words

MAJORDOMO: Final = """\
from compysition.actors import MDPClient, MDPWorker, MDPBroker, WSGI, MDPBrokerRegistrationService, STDOUT, Data
from compysition import Director

director = Director()
mdp_client = director.register_actor(MDPClient, "mdp_client")
mdp_broker = director.register_actor(MDPBroker, "mdp_broker")                            # may be its own process
mdp_regservice = director.register_actor(MDPBrokerRegistrationService, "mdp_regservice")  # may be its own process
mdp_worker = director.register_actor(MDPWorker, "mdp_worker", "test_service")            # may be its own processes
stdout = director.register_actor(STDOUT, "stdout")
data = director.register_actor(Data, "data", data="Hello, this has been a test")
wsgi = director.register_actor(WSGI, "wsgi", run_server=True, address="0.0.0.0", port=7000)
director.register_log_actor(STDOUT, "stdoutmodule", timestamp=True)

director.connect_queue(wsgi, mdp_client)
director.connect_queue(mdp_worker, data)
director.connect_queue(data, mdp_worker)
director.connect_queue(mdp_client, wsgi)
director.start()          # then: GET http://127.0.0.1:7000/test_service  ->  Hello, this has been a test
"""


def get(path: str) -> tuple[int, bytes]:
    """The answer of the script, once it listens."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", 7000, timeout=LIMIT_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        finally:
            connection.close()


def test_the_majordomo_example_is_the_third_script_of_the_design() -> None:
    assert words((EXAMPLES / "06_majordomo.py").read_text()) == words(MAJORDOMO)


@pytest.mark.parametrize("command", ["python", "compysition run"])
def test_the_majordomo_script_answers_and_stops(tmp_path: Path, command: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(MAJORDOMO)
    with started(command, script) as process:
        assert get("/test_service") == (200, b"Hello, this has been a test")
        out, err, code = ended(process, signal.SIGTERM)
    assert code == 0, (out, err)
    if command == "compysition run":
        assert b"everything drained (exit code 0); SIGTERM" in err
