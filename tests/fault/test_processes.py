# SPDX-License-Identifier: Apache-2.0
"""Real processes and real signals: exit codes, the second signal, stacks, `atexit`, fork."""

import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(40)

ROOT = Path(__file__).parents[2]
#: Seconds that a process may take to say or do what it is to, on a busy machine.
PATIENCE_S = 20.0

#: What every script begins with. `say` cannot be held back by a buffer.
PRELUDE = """
import os, signal, sys, time
import gevent
from compysition import Actor, Director, Event, Fatal
from compysition.actors import STDOUT, Source, TestEvent
from compysition.errors import StartError, WrongContextError

def say(text):
    os.write(1, f"{text}\\n".encode())

def check(director):
    balance = director.snapshot().balance
    say(f"conserved {balance.is_even} held {balance.held}")

class Forward(Actor):
    def consume(self, event):
        self.send_event(event)

class Slow(Actor):
    def consume(self, event):
        say(f"begin {event.data}")
        gevent.sleep(event.data)
        say(f"end {event.data}")

class Ready(Actor):
    def pre_hook(self):
        self.background(self.tell)
    def tell(self):
        say("ready")
        while self.loop():
            self.sleep(60)
    def post_hook(self):
        say("post_hook")
"""


@dataclass
class Process:
    """A script that runs; reads its output line by line, with a deadline."""

    popen: "subprocess.Popen[bytes]"
    output: bytes = b""

    def wait_for(self, text: str) -> None:
        """Read its standard output until it has said `text`."""
        deadline = time.monotonic() + PATIENCE_S
        assert self.popen.stdout is not None
        while text.encode() not in self.output:
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"{text!r} was not said: {self.output!r}"
            if select.select([self.popen.stdout], [], [], left_s)[0]:
                block = os.read(self.popen.stdout.fileno(), 65536)
                assert block, f"it ended without saying {text!r}: {self.output!r} {self.finish()}"
                self.output += block

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def finish(self) -> tuple[int, str, str]:
        """Wait until it has ended: exit code, standard output, standard error."""
        try:
            out, err = self.popen.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            out, err = self.popen.communicate()
            pytest.fail(f"it did not end: {self.output + out!r}\n{err.decode()}")
        return self.popen.returncode, (self.output + out).decode(), err.decode()


@pytest.fixture(name="launch")
def launch_fixture(tmp_path: Path) -> Iterator[Callable[[str], Process]]:
    started: list[Process] = []

    def launch(script: str) -> Process:
        path = tmp_path / f"script{len(started)}.py"
        path.write_text(PRELUDE + textwrap.dedent(script))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        started.append(
            Process(
                subprocess.Popen(
                    [sys.executable, "-W", "error", str(path)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=environment,
                )
            )
        )
        return started[-1]

    yield launch
    for process in started:
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.communicate()


Launch = Callable[[str], Process]


# ---- exit codes -------------------------------------------------------------------------------------------------

EXITS: dict[str, tuple[int, str]] = {
    "everything drained": (
        0,
        """
        director = Director()
        director.connect_queue(
            director.register_actor(Source, "source", range(10)), director.register_actor(Forward, "sink")
        )
        report = director.start(until_idle=True)
        """,
    ),
    "something left": (
        1,
        """
        director = Director(stop_timeout_s=0.1)
        slow = director.register_actor(Slow, "slow")
        director.connect_queue(director.register_actor(Source, "source", [60]), slow)
        director.register_actor(TestEvent, "ticker", interval=60)
        gevent.spawn_later(0.2, director.request_stop, "enough")
        report = director.start()
        """,
    ),
    "could not start": (
        2,
        """
        class Broken(Actor):
            def pre_hook(self):
                raise ValueError("no such host")
        director = Director()
        director.register_actor(Ready, "ready")
        director.register_actor(Broken, "broken")
        try:
            director.start()
        except StartError as error:
            say(error)
            report = error.report
        """,
    ),
    "restart budget spent": (
        3,
        """
        class Broken(Actor):
            def consume(self, event):
                raise Fatal("every time")
        director = Director(max_restarts=1, stop_timeout_s=1)
        director.connect_queue(
            director.register_actor(Source, "source", [1, 2]), director.register_actor(Broken, "broken")
        )
        report = director.start()
        """,
    ),
}


@pytest.mark.parametrize("name", EXITS)
def test_a_plain_script_exits_with_the_code_of_its_report(name: str, launch: Launch) -> None:
    code, script = EXITS[name]
    process = launch(textwrap.dedent(script) + "check(director)\nsys.exit(report.exit_code)\n")
    returned, out, err = process.finish()
    assert returned == code, err
    assert "conserved True held 0" in out


def test_a_script_that_only_starts_prints_no_traceback_and_exits_0_when_all_is_done(launch: Launch) -> None:
    process = launch("""
        director = Director()
        source = director.register_actor(TestEvent, "source", "line", interval=0.01, max_events=3)
        director.connect_queue(source, director.register_actor(STDOUT, "out", prefix="a "))
        director.start(until_idle=True)
    """)
    assert process.finish() == (0, "a line\na line\na line\n", "")


# ---- signals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_stop_signal_drains_and_the_handlers_that_were_there_are_put_back(number: int, launch: Launch) -> None:
    process = launch("""
        before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
        director = Director()
        director.register_actor(Ready, "ready")
        slow = director.register_actor(Slow, "slow")
        director.connect_queue(director.register_actor(Source, "source", [0.3]), slow)
        report = director.start()
        say(report.reason)
        assert before == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
        check(director)
        sys.exit(report.exit_code)
    """)
    process.wait_for("ready")
    process.wait_for("begin 0.3")
    process.signal(number)
    code, out, err = process.finish()
    assert code == 0, err
    assert "end 0.3\n" in out
    assert "post_hook\n" in out
    assert f"{signal.Signals(number).name}\n" in out
    assert "conserved True held 0" in out


def test_a_stop_signal_is_noticed_at_once_by_a_director_in_which_nothing_happens(launch: Launch) -> None:
    process = launch("""
        class Idle(Actor):
            def pre_hook(self):
                self.background(say, "ready")
        director = Director()
        director.register_actor(Idle, "idle")
        report = director.start()
        check(director)
        sys.exit(report.exit_code)
    """)
    process.wait_for("ready")
    time.sleep(0.2)  # so that it does sleep
    began = time.monotonic()
    process.signal(signal.SIGTERM)
    code, out, err = process.finish()
    assert code == 0, err
    assert time.monotonic() - began < 5
    assert "conserved True held 0" in out


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_the_second_signal_ends_the_process_at_once_and_prints_the_report_so_far(second: int, launch: Launch) -> None:
    process = launch("""
        class Stuck(Slow):
            def pre_hook(self):
                self.background(self.watch)
            def watch(self):
                while self.loop():
                    self.sleep(60)
                say("stopping")
        director = Director()
        stuck = director.register_actor(Stuck, "stuck")
        director.connect_queue(director.register_actor(Source, "source", [60]), stuck)
        director.start()
        say("never said")
    """)
    process.wait_for("begin 60")
    process.signal(signal.SIGTERM)
    process.wait_for("stopping")
    began = time.monotonic()
    process.signal(second)
    code, out, err = process.finish()
    assert code == 128 + second
    assert time.monotonic() - began < 5
    assert "never said" not in out
    assert "stuck" in err
    assert "SIGTERM" in err


def test_the_second_signal_ends_a_process_whose_handler_holds_the_hub(launch: Launch) -> None:
    process = launch("""
        class Holding(Actor):
            def consume(self, event):
                say("holding")
                until = time.monotonic() + 60
                while time.monotonic() < until:
                    pass
        director = Director()
        holding = director.register_actor(Holding, "holding")
        director.connect_queue(director.register_actor(Source, "source", [1]), holding)
        director.start()
    """)
    process.wait_for("holding")
    process.signal(signal.SIGTERM)
    time.sleep(0.2)
    process.signal(signal.SIGTERM)
    assert process.finish()[0] == 128 + signal.SIGTERM


def test_sigusr1_prints_all_stacks_by_actor_and_everything_goes_on(launch: Launch) -> None:
    process = launch("""
        class Waiting(Actor):
            def consume(self, event):
                say("in handler")
                self.wait_in_a_place_of_its_own()
            def wait_in_a_place_of_its_own(self):
                gevent.sleep(60)
        director = Director(stop_timeout_s=0.1)
        director.register_actor(Ready, "ready")
        waiting = director.register_actor(Waiting, "waiting")
        director.connect_queue(director.register_actor(Source, "source", [1]), waiting)
        director.start()
        check(director)
    """)
    process.wait_for("ready")
    process.wait_for("in handler")
    process.signal(signal.SIGUSR1)
    time.sleep(0.2)
    process.signal(signal.SIGUSR1)
    time.sleep(0.2)
    assert process.popen.poll() is None
    process.signal(signal.SIGTERM)
    code, out, err = process.finish()
    assert code == 0
    assert err.count("wait_in_a_place_of_its_own") >= 2
    assert "'waiting', event " in err
    assert "background greenlet" in err
    assert "'ready'" in err
    assert "conserved True held 0" in out


def test_sigusr1_works_while_the_hub_is_held(launch: Launch) -> None:
    process = launch("""
        class Holding(Actor):
            def consume(self, event):
                say("holding")
                self.hold()
            def hold(self):
                until = time.monotonic() + 2
                while time.monotonic() < until:
                    pass
        director = Director()
        holding = director.register_actor(Holding, "holding")
        director.connect_queue(director.register_actor(Source, "source", [1]), holding)
        director.start(until_idle=True)
    """)
    process.wait_for("holding")
    process.signal(signal.SIGUSR1)
    code, _, err = process.finish()
    assert code == 0
    # The loop guard speaks up as well; these are the words of the signal's answer.
    assert "handler of 'holding'" in err
    assert "in hold" in err.partition("handler of 'holding'")[2]


def test_a_signal_while_a_pre_hook_is_slow_ends_the_start_and_stops_what_was_started(launch: Launch) -> None:
    process = launch("""
        class Unready(Actor):
            def pre_hook(self):
                say("slow")
                gevent.sleep(30)
        director = Director()
        ready = director.register_actor(Ready, "ready")
        unready = director.register_actor(Unready, "unready")
        director.connect_queue(unready, ready)
        report = director.start()
        check(director)
        say(report)
        sys.exit(report.exit_code)
    """)
    process.wait_for("slow")
    process.signal(signal.SIGTERM)
    code, out, err = process.finish()
    assert code == 0, err
    assert "(exit code 0); SIGTERM" in out
    assert "post_hook\n" in out
    assert "conserved True held 0" in out


def test_signals_are_the_scripts_own_when_it_does_not_block(launch: Launch) -> None:
    process = launch("""
        director = Director()
        director.register_actor(Ready, "ready")
        before = signal.getsignal(signal.SIGTERM)
        director.start(block=False)
        assert signal.getsignal(signal.SIGTERM) is before
        gevent.sleep(0.05)
        director.stop()
        check(director)
    """)
    code, out, err = process.finish()
    assert code == 0, err
    assert "conserved True held 0" in out


@pytest.mark.parametrize("where", ["waits", "computes"])
def test_keyboard_interrupt_leaves_a_script_that_does_not_block_and_what_runs_is_drained(
    where: str, launch: Launch
) -> None:
    wait = "gevent.sleep(60)" if where == "waits" else "for _ in iter(int, 1): pass"
    process = launch(f"""
        director = Director()
        director.register_actor(Ready, "ready")
        slow = director.register_actor(Slow, "slow")
        director.start(block=False)
        director.post(slow, 0.3)
        gevent.sleep(0.05)
        try:
            say("waiting")
            {wait}
        finally:
            say("leaving")
    """)
    process.wait_for("waiting")
    process.signal(signal.SIGINT)
    code, out, err = process.finish()
    assert "KeyboardInterrupt" in err
    assert code in (130, -signal.SIGINT)
    assert "leaving\n" in out
    assert out.index("leaving") < out.index("post_hook")
    assert "end 0.3\n" in out


# ---- the end of the interpreter ---------------------------------------------------------------------------------


def test_a_director_still_running_at_exit_is_drained(launch: Launch) -> None:
    process = launch("""
        director = Director()
        director.register_actor(Ready, "ready")
        slow = director.register_actor(Slow, "slow")
        director.start(block=False)
        director.post(slow, 0.2)
        say("main is over")
    """)
    code, out, err = process.finish()
    assert code == 0
    assert err == ""
    assert "end 0.2\n" in out
    assert "post_hook\n" in out


def test_a_director_that_loses_something_at_exit_prints_its_report(launch: Launch) -> None:
    process = launch("""
        director = Director(stop_timeout_s=0.1)
        slow = director.register_actor(Slow, "slow")
        director.start(block=False)
        director.post(slow, 60)
        gevent.sleep(0.05)
    """)
    _, _, err = process.finish()
    assert "not everything drained (exit code 1)" in err


def test_several_directors_at_exit_are_all_drained(launch: Launch) -> None:
    process = launch("""
        directors = [Director(name=str(number)) for number in range(3)]
        for director in directors:
            director.register_actor(Ready, "ready")
            director.start(block=False)
        gevent.sleep(0.05)
    """)
    code, out, err = process.finish()
    assert (code, err) == (0, "")
    assert out.count("post_hook") == 3


def test_sys_exit_in_a_handler_ends_the_blocking_start_in_order(launch: Launch) -> None:
    process = launch("""
        class Exiting(Actor):
            def consume(self, event):
                if event.attempts == 0:
                    sys.exit(7)
                say("handled")
        director = Director()
        director.register_actor(Ready, "ready")
        exiting = director.register_actor(Exiting, "exiting")
        director.connect_queue(director.register_actor(Source, "source", [1]), exiting)
        report = director.start()
        say(report.reason)
        check(director)
        sys.exit(report.exit_code)
    """)
    code, out, err = process.finish()
    assert code == 0, err
    assert "SystemExit was raised in actor 'exiting'" in out
    assert "handled\n" in out
    assert "post_hook\n" in out
    assert "conserved True held 0" in out


# ---- logs -------------------------------------------------------------------------------------------------------


def test_lines_logged_in_the_last_millisecond_are_on_standard_output(launch: Launch) -> None:
    process = launch("""
        class Talking(Actor):
            def consume(self, event):
                self.logger.info("in a handler")
            def post_hook(self):
                for number in range(200):
                    self.logger.info("last words %d", number)
        director = Director()
        director.register_log_actor(STDOUT, "log", prefix="log: ")
        talking = director.register_actor(Talking, "talking")
        director.connect_queue(director.register_actor(Source, "source", [1]), talking)
        director.start(until_idle=True)
        check(director)
    """)
    code, out, err = process.finish()
    assert code == 0, err
    assert "in a handler\n" in out
    lines = [line.rpartition(" ")[2] for line in out.splitlines() if "last words" in line]
    assert lines == [str(number) for number in range(200)]
    assert "conserved True held 0" in out


# ---- fork -------------------------------------------------------------------------------------------------------


def test_after_a_fork_the_child_is_refused_and_the_parent_is_untouched(launch: Launch) -> None:
    process = launch("""
        import warnings
        warnings.simplefilter("ignore")  # newer Pythons warn of a fork beside threads, which is what is tested
        director = Director()
        director.register_actor(Ready, "ready")
        sink = director.register_actor(Forward, "sink")
        director.start(block=False)
        gevent.sleep(0.05)
        child = os.fork()
        if child == 0:
            for name, call in (
                ("stop", director.stop),
                ("block", director.block),
                ("post", lambda: director.post(sink, 1)),
                ("ask", lambda: director.ask(sink, 1)),
            ):
                try:
                    call()
                    say(f"{name} worked")
                except WrongContextError as error:
                    say(f"{name} refused: {'another process' in str(error)}")
            # Not os._exit: what the interpreter does at its end belongs to the test.
            sys.exit(0)
        status = os.waitpid(child, 0)[1]
        say(f"child ended with {os.waitstatus_to_exitcode(status)}")
        director.post(sink, 1)
        assert director.ask(sink, 2).data == 2
        say(director.stop().ok)
        check(director)
    """)
    code, out, err = process.finish()
    assert code == 0, err
    for name in ("stop", "block", "post", "ask"):
        assert f"{name} refused: True" in out
    assert "child ended with 0\n" in out
    assert out.count("post_hook") == 1
    assert "True\n" in out
    assert "conserved True held 0" in out


def test_a_director_made_before_a_fork_and_started_after_it_works_in_both(launch: Launch) -> None:
    process = launch("""
        import warnings
        warnings.simplefilter("ignore")
        director = Director()
        source = director.register_actor(Source, "source", range(3))
        director.connect_queue(source, director.register_actor(Forward, "sink"))
        child = gevent.fork() if hasattr(gevent, "fork") else os.fork()
        report = director.start(until_idle=True)
        check(director)
        if child:
            os.waitpid(child, 0)
        sys.exit(report.exit_code)
    """)
    code, out, err = process.finish()
    assert code == 0, err
    assert out.count("conserved True held 0") == 2


# ---- idle -------------------------------------------------------------------------------------------------------


def test_a_blocking_director_in_which_nothing_can_ever_happen_waits_for_signals(launch: Launch) -> None:
    """An idle graph must not die of `LoopExit`."""
    process = launch("""
        class Told(Actor):
            def pre_hook(self):
                say("ready")
        director = Director()
        director.register_actor(Told, "told")
        report = director.start()
        say(report)
        check(director)
    """)
    process.wait_for("ready")
    time.sleep(0.3)
    assert process.popen.poll() is None
    process.signal(signal.SIGINT)
    code, out, err = process.finish()
    assert (code, err) == (0, "")
    assert "everything drained (exit code 0); SIGINT" in out
