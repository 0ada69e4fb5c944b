# SPDX-License-Identifier: Apache-2.0
"""What a stop says: nothing that was left may hide behind "everything drained"."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import gevent
import pytest

from compysition import Actor, Director, Event, Retry
from compysition.actors import Source
from compysition.cell import RETRYING_MOST
from compysition.drain import Drain
from compysition.errors import ConfigurationError, WrongContextError
from tests.fault.conservation import Collector, Handler, assert_conserved, letters, running, wait_until

ROOT = Path(__file__).parents[2]
LIMIT_S = 20


def started(tmp_path: Path, text: str, *command: str) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    script.write_text(text)
    return subprocess.Popen(
        [sys.executable, *command, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


SLOW = """
from compysition import Actor, Director
from compysition.actors import Source

class Slow(Actor):
    def consume(self, event):
        print("began", flush=True)
        self.sleep(60)
        self.send_event(event)

    def post_hook(self):
        print("cleaned up", flush=True)

director = Director(stop_timeout_s=5)
source = director.register_actor(Source, "source", range(3))
slow = director.register_actor(Slow, "slow", options={"concurrency": 1})
director.connect_queue(source, slow)
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_script_that_does_not_block_is_drained_by_a_signal_under_run(tmp_path: Path, sent: signal.Signals) -> None:
    process = started(tmp_path, SLOW + "director.start(block=False)\n", "-m", "compysition.cli", "run")
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    process.send_signal(sent)
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out.splitlines()[-1]) == (0, "cleaned up")
    assert f"everything drained (exit code 0); {sent.name}" in err


def test_the_report_before_the_end_counts_what_is_held_as_left(tmp_path: Path) -> None:
    stuck = SLOW.replace("self.sleep(60)", "__import__('gevent').sleep(60)")
    process = started(tmp_path, stuck + "director.start()\n")
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert "not everything drained (exit code 1)" in err
    assert "3 left" in err


def test_a_stop_that_breaks_is_over_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    director = Director()
    director.register_actor(Collector, "collector")
    director.start(block=False)

    def broken(drain: Drain) -> None:
        raise OSError("no")

    monkeypatch.setattr(Drain, "run", broken)
    assert director.stop().exit_code in (0, 1)
    assert not director.is_running()
    assert_conserved(director)


def test_an_event_that_ends_the_process_each_time_is_left(observed: object) -> None:
    director = Director()

    def leave(actor: Actor, event: Event) -> None:
        raise SystemExit(5)

    director.register_actor(Handler, "handler", leave)
    director.start(block=False)
    director.post("handler", 1)
    report = director.block()
    assert (report.exit_code, report.actors["handler"].left) == (1, 1)
    assert [letter.reason for letter in letters(director)] == ["poison"]
    assert_conserved(director)


class Untidy(Actor):
    def post_hook(self) -> None:
        raise OSError("cannot flush")


def test_a_post_hook_that_fails_is_no_clean_end() -> None:
    director = Director()
    director.register_actor(Untidy, "untidy")
    director.start(block=False)
    report = director.stop()
    assert (report.exit_code, report.actors["untidy"].killed) == (1, 1)


def test_retries_that_wait_aside_are_bounded_and_hold_up_the_source() -> None:
    director = Director(size=10, stop_timeout_s=0.5)

    def later(actor: Actor, event: Event) -> None:
        raise Retry(30)

    source = director.register_actor(Source, "source", range(100_000))
    handler = director.register_actor(Handler, "handler", later)
    director.connect_queue(source, handler)
    with running(director):
        wait_until(lambda: director.snapshot().actors["handler"].delayed >= RETRYING_MOST)
        for _ in range(100):
            gevent.sleep(0)
        seen = director.snapshot()
        # Those that run when the bound is reached may still come on top: a chunk, and what waits.
        assert seen.actors["handler"].delayed <= RETRYING_MOST + handler._wired.concurrency
        assert seen.balance.held <= RETRYING_MOST + handler._wired.concurrency + 10 + 1
    assert_conserved(director)


@pytest.mark.parametrize(
    "arguments",
    [
        {"stop_timeout_s": None},
        {"stop_timeout_s": "x"},
        {"stop_timeout_s": float("nan")},
        {"stop_timeout_s": -1},
        {"max_restarts": None},
        {"max_restarts": -1},
        {"period_s": 0},
        {"size": 0},
    ],
)
def test_a_director_refuses_numbers_that_make_no_sense(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        Director(**arguments)  # type: ignore[arg-type]


def test_a_forked_child_cannot_ask_for_a_stop() -> None:
    director = Director()
    director.register_actor(Collector, "collector")
    with running(director):
        director._pid += 1
        with pytest.raises(WrongContextError, match="another process"):
            director.request_stop("from a child")
        director._pid -= 1


def test_an_event_that_waits_for_its_retry_may_be_sent_by_its_actor_meanwhile() -> None:
    director = Director()
    waiting: list[Event] = []

    def retry_then_send(actor: Actor, event: Event) -> None:
        if event.data == "first":
            waiting.append(event)
            raise Retry(0.05)
        actor.send_event(waiting.pop())

    handler = director.register_actor(Handler, "handler", retry_then_send)
    collector = director.register_actor(Collector, "collector")
    director.connect_queue(handler, collector)
    with running(director):
        director.post("handler", "first")
        wait_until(lambda: director.snapshot().actors["handler"].delayed == 1)
        director.post("handler", "second")
        wait_until(lambda: collector.data == ["first"])
        # The timer finds that there is nothing left to do.
        wait_until(lambda: not handler._wired._timers)
        assert_conserved(director)
