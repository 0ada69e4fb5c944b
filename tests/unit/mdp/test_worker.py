# SPDX-License-Identifier: Apache-2.0
"""Rules of the worker's side: one session, the pool of them, and the window of repeats."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compysition.errors import ConfigurationError
from compysition.mdp.envelope import ERROR, REPEATED, REPLY, REQUEST, Envelope
from compysition.mdp.hello import Capabilities, WorkerHello
from compysition.mdp.pool import SURPLUS_S, WorkerPool
from compysition.mdp.window import Answer, RepeatWindow, Seen
from compysition.mdp.worker import Job, Open, Session, State, Transmit, WorkerSettings
from tests.unit.mdp.notation import frames, text_of

CAPABILITIES = Capabilities("00" * 16, 1000, 4)
SETTINGS = WorkerSettings(hello=WorkerHello(2, "id", 1, "host"))


def work(number: int = 1, *, left_ms: int | None = None) -> list[bytes]:
    envelope = Envelope(REQUEST, number.to_bytes(16), left_ms=left_ms, attempt=2)
    return [*frames("MDPW02, 0x02, c, '', hi"), envelope.pack()]


class Held:
    """One session whose socket is held by the test."""

    def __init__(self, settings: WorkerSettings = SETTINGS) -> None:
        self.now = 0.0
        self.session = Session(b"echo", settings, lambda number: 0.05 * 2 ** (number - 1))
        self.session.start(0.0)

    def done(self) -> list[str]:
        """What it wanted done."""
        actions, self.session.out[:] = list(self.session.out), []
        names: list[str] = []
        for action in actions:
            if isinstance(action, Transmit):
                names.append(text_of(action.frames))
            else:
                names.append("open" if isinstance(action, Open) else f"close {action.linger_s}")
        return names

    def hear(self, text: str) -> list[str]:
        self.session.receive(frames(text), self.now)
        return self.done()

    def wait(self, seconds: float) -> list[str]:
        until = self.now + seconds
        while self.session.wakes_at <= until:
            self.now = self.session.wakes_at
            self.session.tick(self.now)
        self.now = until
        return self.done()

    def join(self, *, is_ours: bool = False) -> "Held":
        self.done()
        self.session.connected(self.now)
        if is_ours:
            reply = [*frames("'', MDPC01, mmi.capabilities, 200"), CAPABILITIES.pack()]
            self.session.receive(reply, self.now)
        else:
            self.wait(0.5)
        self.session.connected(self.now)
        self.done()
        return self


# ---- the session ------------------------------------------------------------------------------------------------


def test_session_asks_for_capabilities_in_0_1_on_a_socket_of_its_own_before_ready() -> None:
    held = Held()
    assert held.done() == ["open"]
    held.session.connected(0.0)
    [asked] = held.done()
    assert asked.startswith("'', MDPC01, mmi.capabilities, {")
    assert held.hear("'', MDPC01, mmi.capabilities, 501") == ["open"]
    held.session.connected(0.0)
    assert held.done() == ["'', MDPW01, 0x01, echo"]


def test_broker_that_does_not_answer_in_half_a_second_is_plain() -> None:
    held = Held()
    held.session.connected(0.0)
    held.done()
    assert held.wait(0.49) == []
    assert held.wait(0.02) == ["open"]


def test_broker_of_ours_is_told_hello_in_0_2_and_its_interval_is_taken() -> None:
    held = Held()
    held.session.connected(0.0)
    held.session.receive([*frames("'', MDPC01, mmi.capabilities, 200"), CAPABILITIES.pack()], 0.0)
    held.done()
    held.session.connected(0.0)
    [ready] = held.done()
    assert ready == f"MDPW02, 0x01, echo, {SETTINGS.hello.pack().decode()}"
    assert held.wait(1.0) == ["MDPW02, 0x05"]


def test_named_protocol_is_not_probed() -> None:
    held = Held(WorkerSettings(protocol="0.2"))
    held.done()
    held.session.connected(0.0)
    assert held.done() == ["MDPW02, 0x01, echo"]


def test_ready_waits_for_the_connection_and_is_sent_once() -> None:
    held = Held(WorkerSettings(protocol="0.1"))
    assert held.wait(60.0) == ["open"]
    held.session.connected(held.now)
    held.session.connected(held.now)
    assert held.done() == ["'', MDPW01, 0x01, echo"]


def test_heartbeats_go_out_each_interval_also_while_it_works() -> None:
    held = Held().join()
    held.hear("'', MDPW01, 0x02, c, '', hi")
    held.wait(2.4)
    assert held.wait(0.2) == ["'', MDPW01, 0x04"]


def test_silent_broker_is_left_after_liveness_intervals_and_tried_again_for_ever() -> None:
    held = Held().join()
    assert held.wait(7.5)[-1] == "close 0.0"
    delays = []
    for _ in range(4):
        assert held.session.state.value == "backoff"
        delays.append(held.session.wakes_at - held.now)
        held.wait(delays[-1])
        assert held.session.state.value == "probing"
        held.session.lost(held.now)
        held.done()
    assert delays == pytest.approx([0.05, 0.1, 0.2, 0.4])


def test_sign_of_life_begins_the_backoff_anew() -> None:
    held = Held().join()
    for _ in range(3):
        held.session.lost(held.now)
        held.wait(1.0)
        held.join()
    held.hear("'', MDPW01, 0x04")
    held.session.lost(held.now)
    assert held.session.wakes_at - held.now == pytest.approx(0.05)


def test_worker_that_is_sent_away_says_nothing_more_and_comes_back() -> None:
    held = Held().join()
    assert held.hear("'', MDPW01, 0x05") == ["close 0.0"]
    assert held.session.state is State.BACKOFF


def test_worker_that_was_away_itself_does_not_blame_the_broker() -> None:
    held = Held().join()
    held.now = 100.0
    held.session.tick(held.now)
    assert held.done() == ["'', MDPW01, 0x04"]


@pytest.mark.parametrize(
    "said",
    [
        *("''", "'', MDPW01", "'', MDPW01, 0x03, c, '', x", "'', MDPW01, 0x02", "'', MDPW01, 0x02, c, x, y"),
        *("'', MDPW01, 0x04, extra", "MDPW02, 0x05", "'', MDPC01, echo, x", "'', MDPW01, 0x02, c, ''"),
    ],
)
def test_malformed_input_is_dropped_and_counted_and_no_sign_of_life(said: str) -> None:
    held = Held().join()
    assert held.hear(said) == []
    assert sum(held.session.counts.values()) == 1
    held.wait(4.0)
    held.hear(said)
    assert "close 0.0" in held.wait(4.0)


@given(st.lists(st.lists(st.binary(max_size=12) | st.sampled_from([b"", b"MDPW02", b"\x02", b"c"]), max_size=6)))
def test_any_frames_leave_a_session_alive(messages: list[list[bytes]]) -> None:
    held = Held().join(is_ours=True)
    for message in messages:
        held.session.receive(message, held.now)
        held.session.jobs.clear()


def test_plain_reply_goes_to_the_address_of_its_request() -> None:
    held = Held().join()
    held.hear("'', MDPW01, 0x02, c, '', hi, there")
    [job] = held.session.jobs
    assert list(job.body) == [b"hi", b"there"]
    assert held.session.final(job, Answer([b"yo"]), held.now)
    assert held.done() == ["'', MDPW01, 0x03, c, '', yo"]
    assert held.session.state is State.IDLE


def test_second_request_of_a_plain_broker_is_kept_for_later_and_counted() -> None:
    held = Held().join()
    held.hear("'', MDPW01, 0x02, c, '', one")
    held.hear("'', MDPW01, 0x02, d, '', two")
    [job] = held.session.jobs
    held.session.jobs.clear()
    held.session.final(job, Answer([b"did"]), held.now)
    [later] = held.session.jobs
    assert (list(later.body), held.session.counts["beyond credit"]) == ([b"two"], 1)


def test_reply_over_a_connection_that_is_gone_is_not_sent() -> None:
    held = Held().join()
    held.hear("'', MDPW01, 0x02, c, '', hi")
    [job] = held.session.jobs
    held.hear("'', MDPW01, 0x05")
    held.wait(0.1)
    held.join()
    assert not held.session.final(job, Answer([b"late"]), held.now)
    assert held.done() == []


def test_request_of_our_broker_without_an_envelope_ends_the_connection() -> None:
    held = Held().join(is_ours=True)
    assert held.hear("MDPW02, 0x02, c, '', hi") == ["close 0.0"]


def test_envelopes_pass_a_foreign_broker_if_the_script_says_so() -> None:
    held = Held(WorkerSettings(protocol="0.2", envelope="always")).join()
    held.session.receive(work(5), 0.0)
    [job] = held.session.jobs
    held.session.final(job, Answer([b"no"], 503, is_error=True), 0.0)
    [reply] = held.done()
    envelope = Envelope.unpack(bytes.fromhex(reply.rpartition("<")[2].strip(">")), REPLY)
    assert envelope == Envelope(REPLY, (5).to_bytes(16), ERROR, 2, None, 503)


def test_draining_session_ends_with_disconnect_when_its_last_job_is_done() -> None:
    held = Held().join(is_ours=True)
    held.session.receive(work(), 0.0)
    held.session.drain(0.0)
    assert held.done() == ["MDPW02, 0x05, <0000>"]
    assert held.wait(1.0) == ["MDPW02, 0x05"]
    held.session.final(held.session.jobs[0], Answer([b"yo"]), held.now)
    assert held.done()[1:] == ["MDPW02, 0x06", "close 0.1"]
    assert held.session.state is State.ENDED


def test_idle_session_that_is_drained_ends_at_once() -> None:
    held = Held().join()
    held.session.drain(0.0)
    assert held.done() == ["'', MDPW01, 0x05", "close 0.1"]


@pytest.mark.parametrize("wrong", [{"protocol": "0.3"}, {"envelope": "never"}, {"heartbeat_s": 0.0}])
def test_setting_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    make: Callable[..., object] = WorkerSettings
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        make(**wrong)


# ---- the pool ---------------------------------------------------------------------------------------------------


class Pooled:
    """A pool whose sockets are held by the test."""

    def __init__(self, concurrency: int = 2, *, is_ours: bool, brokers: tuple[str, ...] = ("tcp://a",)) -> None:
        self.now = 0.0
        self.is_ours = is_ours
        settings = WorkerSettings(hello=WorkerHello(concurrency))
        self.pool = WorkerPool(b"echo", settings, concurrency=concurrency, delay_s=lambda number: 0.05)
        self.sent: list[str] = []
        self.pool.set_brokers(brokers, 0.0)
        self.act()

    def act(self) -> None:
        while self.pool.out:
            session, action = self.pool.out.pop(0)
            if isinstance(action, Open):
                self.pool.connected(session, self.now)
            elif isinstance(action, Transmit):
                self.sent.append(text_of(action.frames))
                if b"mmi.capabilities" in action.frames:
                    answer = [b"200", CAPABILITIES.pack()] if self.is_ours else [b"501"]
                    self.pool.receive(session, [*frames("'', MDPC01, mmi.capabilities"), *answer], self.now)

    def give(self, session: Session, message: list[bytes]) -> list[Job]:
        """What begins because `message` came to `session`."""
        self.pool.receive(session, message, self.now)
        return self.begun()

    def begun(self) -> list[Job]:
        self.act()
        jobs, self.pool.starts[:] = list(self.pool.starts), []
        return jobs

    def finish(self, job: Job, text: bytes = b"yo") -> list[Job]:
        self.pool.finish(job, Answer([text]), self.now)
        return self.begun()

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.pool.wakes_at <= until:
            self.now = self.pool.wakes_at
            self.pool.tick(self.now)
            for session in [one for one in self.pool.sessions() if one.is_joined()]:
                beat = "MDPW02, 0x05" if self.is_ours else "'', MDPW01, 0x04"
                self.pool.receive(session, frames(beat), self.now)
            self.act()
        self.now = until

    def sessions(self, state: State) -> list[Session]:
        return [session for session in self.pool.sessions() if session.state is state]


PLAIN = frames("'', MDPW01, 0x02, c, '', hi")


def test_towards_a_foreign_broker_one_session_is_idle_up_to_concurrency() -> None:
    pooled = Pooled(3, is_ours=False)
    for busy in range(3):
        assert (len(pooled.sessions(State.WORKING)), len(pooled.sessions(State.IDLE))) == (busy, 1)
        [_] = pooled.give(pooled.sessions(State.IDLE)[0], PLAIN)
    assert (len(pooled.sessions(State.WORKING)), len(pooled.sessions(State.IDLE))) == (3, 0)
    assert sum("MDPW01, 0x01" in sent for sent in pooled.sent) == 3


def test_surplus_idle_sessions_are_closed_after_a_while() -> None:
    pooled = Pooled(3, is_ours=False)
    jobs = [pooled.give(pooled.sessions(State.IDLE)[0], PLAIN)[0] for _ in range(3)]
    for job in jobs:
        pooled.finish(job)
    pooled.wait(SURPLUS_S - 1.0)
    assert len(pooled.pool.sessions()) == 3
    pooled.wait(2.0)
    assert len(pooled.pool.sessions()) == 1
    assert pooled.sent.count("'', MDPW01, 0x05") == 2


def test_towards_a_broker_of_ours_one_session_with_credit_is_enough() -> None:
    pooled = Pooled(3, is_ours=True)
    [session] = pooled.pool.sessions()
    assert [len(pooled.give(session, work(number))) for number in (1, 2, 3)] == [1, 1, 1]
    assert pooled.pool.sessions() == [session]


def test_jobs_of_several_brokers_beyond_concurrency_wait_in_their_order() -> None:
    pooled = Pooled(1, is_ours=True, brokers=("tcp://a", "tcp://b"))
    first, second = pooled.pool.sessions()
    [job] = pooled.give(first, work(1))
    assert pooled.give(second, work(2)) == []
    assert pooled.pool.waiting == 1
    [waited] = pooled.finish(job)
    assert waited.session is second


def test_job_whose_time_ends_while_it_waits_is_answered_and_not_begun() -> None:
    pooled = Pooled(1, is_ours=True, brokers=("tcp://a", "tcp://b"))
    first, second = pooled.pool.sessions()
    [job] = pooled.give(first, work(1))
    pooled.give(second, work(2, left_ms=500))
    pooled.wait(0.6)
    assert "the deadline has passed" in pooled.sent[-1]
    assert pooled.finish(job) == []


def test_request_whose_time_is_over_is_not_begun() -> None:
    pooled = Pooled(1, is_ours=True)
    assert pooled.give(pooled.pool.sessions()[0], work(1, left_ms=0)) == []
    assert "the deadline has passed" in pooled.sent[-1]


def test_repeat_of_what_is_done_is_answered_from_the_window() -> None:
    pooled = Pooled(2, is_ours=True)
    [session] = pooled.pool.sessions()
    [job] = pooled.give(session, work(1))
    pooled.finish(job)
    assert pooled.give(session, work(1)) == []
    envelope = Envelope.unpack(bytes.fromhex(pooled.sent[-1].rpartition("<")[2].strip(">")), REPLY)
    assert envelope.flags == REPEATED


def test_repeat_of_what_is_running_is_answered_with_it_also_after_the_first_connection_is_lost() -> None:
    pooled = Pooled(2, is_ours=True, brokers=("tcp://a", "tcp://b"))
    first, second = pooled.pool.sessions()
    [job] = pooled.give(first, work(1))
    assert pooled.give(second, work(1)) == []
    pooled.pool.lost(first, pooled.now)
    pooled.sent.clear()
    pooled.finish(job, b"once")
    assert [sent[:25] for sent in pooled.sent] == ["MDPW02, 0x04, c, '', once"]
    assert pooled.pool.counts["result without a broker"] == 0


def test_result_that_nobody_waits_for_is_counted_and_kept_in_the_window() -> None:
    pooled = Pooled(2, is_ours=True)
    [session] = pooled.pool.sessions()
    [job] = pooled.give(session, work(1))
    pooled.pool.lost(session, pooled.now)
    pooled.finish(job)
    assert pooled.pool.counts["result without a broker"] == 1
    pooled.wait(0.1)
    assert pooled.give(session, work(1)) == []
    assert "'', yo" in pooled.sent[-1]


def test_drain_lets_what_is_held_end_and_says_goodbye_last() -> None:
    pooled = Pooled(1, is_ours=True)
    [session] = pooled.pool.sessions()
    [job] = pooled.give(session, work(1))
    pooled.pool.drain(pooled.now)
    pooled.act()
    assert pooled.give(session, work(2)) == []
    [crossed] = pooled.finish(job)
    assert not pooled.pool.is_ended()
    pooled.finish(crossed)
    assert pooled.pool.is_ended()
    assert pooled.sent[-1] == "MDPW02, 0x06"


def test_broker_that_is_no_longer_named_is_left_only_with_its_connection() -> None:
    pooled = Pooled(1, is_ours=True)
    [session] = pooled.pool.sessions()
    pooled.pool.set_brokers(["tcp://b"], pooled.now)
    pooled.act()
    assert len(pooled.pool.sessions()) == 2
    pooled.pool.lost(session, pooled.now)
    pooled.act()
    assert [pooled.pool.endpoint_of(one) for one in pooled.pool.sessions()] == ["tcp://b"]


# ---- the window -------------------------------------------------------------------------------------------------


def test_window_forgets_after_its_period_and_beyond_its_bounds() -> None:
    window: RepeatWindow[str] = RepeatWindow(10.0, most_ids=3, most_bytes=5_000)
    for number in range(5):
        assert window.begin(bytes([number]), "w", 0.0) is Seen.NEW
        window.done(bytes([number]), Answer([b"x"]), 0.0)
    assert len(window) == 3
    assert isinstance(window.begin(bytes([4]), "w", 9.9), Answer)
    assert window.begin(bytes([3]), "w", 10.0) is Seen.NEW
    window.done(bytes([3]), Answer([bytes(10_000)]), 10.0)
    assert window.size <= 5_000


def test_window_gives_back_who_asked_again_meanwhile() -> None:
    window: RepeatWindow[str] = RepeatWindow()
    window.begin(b"1", "first", 0.0)
    assert window.begin(b"1", "second", 0.0) is Seen.RUNNING
    assert window.done(b"1", Answer([b"x"]), 0.0) == ["second"]
