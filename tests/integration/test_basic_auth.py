# SPDX-License-Identifier: Apache-2.0
"""`BasicAuth` in running flows: who passes, and that hashing never holds the hub."""

import base64
import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import bcrypt
import gevent
import pytest
from gevent.pool import Pool

from compysition import Director, Event, testing
from compysition.actor import Actor
from compysition.actors import BasicAuth
from compysition.actors.basicauth import MAX_WAITING
from compysition.errors import (
    ConfigurationError,
    DeadlineError,
    Fatal,
    ForbiddenError,
    UnauthorizedError,
    UnavailableError,
)
from compysition.http.request import Request
from compysition.testing import Watch

pytestmark = [pytest.mark.patched, pytest.mark.unpatched]

BCRYPT = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
USERS = {"ann": "secret"}
LIMIT_S = 20.0
wait_until = partial(testing.wait_until, timeout_s=LIMIT_S)


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def event(credentials: str | None = "ann:secret", data: Any = None) -> Event:
    return Event(data) if credentials is None else Event(data, authorization=basic(credentials))


@pytest.fixture
def director() -> Iterator[Director]:
    director = Director()
    yield director
    if director.is_running():
        director.stop()
    assert director.snapshot().balance.is_even
    assert director.snapshot().balance.held == 0


@pytest.fixture
def htpasswd(tmp_path: Path) -> Path:
    path = tmp_path / "htpasswd"
    path.write_text(f"ann:{BCRYPT}\nbob:{BCRYPT}\n")
    return path


class Slow:
    """bcrypt, held back in its thread, where only the operating system can be waited for."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self._read_fd, self._write_fd = os.pipe()
        self._original = bcrypt.checkpw

    def checkpw(self, password: bytes, stored: bytes) -> bool:
        self.asked.append(password)
        os.read(self._read_fd, 1)
        return self._original(password, stored)

    def release(self) -> None:
        """Let all go, also those that come later: a byte for each."""
        os.write(self._write_fd, bytes(1_000))

    def close(self) -> None:
        os.close(self._read_fd)
        os.close(self._write_fd)


@pytest.fixture
def slow(director: Director, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    slow = Slow()
    monkeypatch.setattr(bcrypt, "checkpw", slow.checkpw)
    yield slow
    slow.release()
    if director.is_running():
        director.stop()
    slow.close()


# ---- who passes ----


def test_a_known_user_passes_with_the_event_as_it_was_and_the_name(director: Director) -> None:
    director.register_actor(BasicAuth, "auth", USERS)
    director.start(block=False)
    sent = event(data={"a": 1})

    answer = director.ask("auth", sent)

    assert (answer.data, answer.get("user"), answer.event_id) == ({"a": 1}, "ann", sent.event_id)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (event("ann:wrong"), "wrong user name or password"),
        (event("eve:secret"), "wrong user name or password"),
        (event(None), "log in"),
        (event("no colon"), "Basic scheme"),
        (Event(authorization="Bearer abc"), "Basic scheme"),
        (Event(authorization=b"Basic YTpi"), "Basic scheme"),
    ],
)
@pytest.mark.parametrize("kind", ["users", "htpasswd"])
def test_anybody_else_is_answered_401_with_a_challenge(
    director: Director, htpasswd: Path, kind: str, given: Event, text: str
) -> None:
    arguments: dict[str, Any] = {"users": USERS} if kind == "users" else {"htpasswd": htpasswd}
    director.register_actor(BasicAuth, "auth", **arguments, realm="orders")
    director.start(block=False)

    with pytest.raises(UnauthorizedError, match=text) as caught:
        director.ask("auth", given.copy())

    assert caught.value.status == 401
    assert caught.value.headers == {"WWW-Authenticate": 'Basic realm="orders", charset="UTF-8"'}


def test_the_header_of_a_request_counts_and_not_an_attribute(director: Director) -> None:
    def request(credentials: str) -> Request:
        environ: dict[str, Any] = {"HTTP_AUTHORIZATION": basic(credentials)}
        setup_testing_defaults(environ)
        return Request.from_environ(environ)

    director.register_actor(BasicAuth, "auth", USERS)
    director.start(block=False)

    assert director.ask("auth", Event(request=request("ann:secret"))).get("user") == "ann"
    with pytest.raises(UnauthorizedError):
        director.ask("auth", Event(request=request("ann:wrong"), authorization=basic("ann:secret")))


def test_a_user_attribute_from_outside_is_not_believed(director: Director) -> None:
    director.register_actor(BasicAuth, "auth", USERS)
    director.start(block=False)

    assert director.ask("auth", Event(authorization=basic("ann:secret"), user="root")).get("user") == "ann"


@pytest.mark.parametrize("arguments", [{}, {"users": {}}])
def test_it_refuses_everything_until_told_whom_to_accept_and_says_so(
    director: Director, caplog: pytest.LogCaptureFixture, arguments: dict[str, Any]
) -> None:
    director.register_actor(BasicAuth, "auth", **arguments)
    with caplog.at_level(logging.WARNING, "compysition"):
        director.start(block=False)

    for given in (event(), event(":"), event(None)):
        with pytest.raises(UnauthorizedError):
            director.ask("auth", given)

    (record,) = [record for record in caplog.records if "refuses everybody" in record.getMessage()]
    assert record.name == "compysition.actor.auth"


def test_with_users_there_is_nothing_to_warn_of(
    director: Director, caplog: pytest.LogCaptureFixture, htpasswd: Path
) -> None:
    class Own(BasicAuth):
        def _authenticate(self, username: str, password: str) -> bool:
            return True

    director.register_actor(BasicAuth, "auth", USERS)
    director.register_actor(BasicAuth, "auth_by_file", htpasswd=htpasswd)
    director.register_actor(Own, "auth_of_its_own")
    director.start(block=False)

    assert not [record for record in caplog.records if "auth" in record.name]


def test_a_refused_event_takes_the_error_wire_and_never_the_way_on(director: Director) -> None:
    class Sink(Actor):
        def consume(self, event: Event) -> None:
            seen[self.name].append(event.error.status if event.error else 0)

    seen: dict[str, list[int]] = {"way_on": [], "errors": []}
    auth = director.register_actor(BasicAuth, "auth", USERS)
    director.connect_queue(auth, director.register_actor(Sink, "way_on"))
    director.connect_queue_error(auth, director.register_actor(Sink, "errors"))
    director.start(block=False)

    for given in (event(), event("ann:wrong"), event(None)):
        director.post("auth", given)
    director.stop()

    assert seen == {"way_on": [0], "errors": [401, 401]}


def test_no_secret_is_in_what_fails(director: Director) -> None:
    director.register_actor(BasicAuth, "auth", USERS)
    director.start(block=False)

    director.post("auth", event("ann:hunter2"))
    director.stop()

    (letter,) = director.dead_letters
    assert "hunter2" not in f"{letter!r} {letter.error} {letter.event!r} {letter.event.error!r}"
    assert base64.b64encode(b"ann:hunter2").decode() not in f"{letter!r} {letter.event.error!r}"


@pytest.mark.parametrize(
    "arguments",
    [
        {"realm": "é"},
        {"users": USERS, "htpasswd": "x"},
        {"users": ["ann"]},
        {"htpasswd": "no/such/file"},
    ],
)
def test_what_cannot_work_is_refused_at_registration(director: Director, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        director.register_actor(BasicAuth, "auth", **arguments)


# ---- of their own ----


def registered(director: Director, authenticate: Callable[..., Any]) -> BasicAuth:
    own: type[BasicAuth] = type("Own", (BasicAuth,), {"_authenticate": authenticate})
    actor = director.register_actor(own, "auth")
    director.start(block=False)
    return actor


def test_a_subclass_may_decide(director: Director) -> None:
    registered(director, lambda self, username, password: (username, password) == ("zoe", "a:b"))

    assert director.ask("auth", event("zoe:a:b")).get("user") == "zoe"
    with pytest.raises(UnauthorizedError):
        director.ask("auth", event("zoe:a"))


def test_a_subclass_may_wait_and_others_pass_meanwhile(director: Director) -> None:
    def authenticate(self: BasicAuth, username: str, password: str) -> bool:
        if username == "slow":
            waiting.append(username)
            gate.wait()
        return True

    waiting: list[str] = []
    gate = gevent.event.Event()
    registered(director, authenticate)
    first = Pool().spawn(director.ask, "auth", event("slow:x"))
    wait_until(lambda: waiting == ["slow"])

    assert director.ask("auth", event("fast:x")).get("user") == "fast"

    gate.set()
    assert first.get(timeout=LIMIT_S).get("user") == "slow"


def test_an_error_of_a_subclass_lets_nobody_pass(director: Director) -> None:
    def authenticate(self: BasicAuth, username: str, password: str) -> bool:
        raise ForbiddenError("not today")

    registered(director, authenticate)

    with pytest.raises(ForbiddenError, match="not today"):
        director.ask("auth", event())


async def coroutine(self: BasicAuth, username: str, password: str) -> bool:
    return False


@pytest.mark.parametrize("authenticate", [lambda *_: None, lambda *_: 1, lambda *_: "ann", lambda *_: object()])
def test_anything_but_true_lets_nobody_pass(director: Director, authenticate: Callable[..., Any]) -> None:
    registered(director, authenticate)

    with pytest.raises(TypeError, match="has to return True or False"):
        director.ask("auth", event())


@pytest.mark.filterwarnings("ignore:coroutine")
def test_an_async_function_lets_nobody_pass(director: Director) -> None:
    registered(director, coroutine)

    with pytest.raises(TypeError, match="it returned coroutine"):
        director.ask("auth", event())


def test_nobody_waits_longer_for_a_subclass_than_the_request_has_time(director: Director) -> None:
    gate = gevent.event.Event()
    ended: list[BaseException] = []

    def authenticate(self: BasicAuth, username: str, password: str) -> bool:
        try:
            gate.wait()
        except BaseException as err:
            ended.append(err)
            raise
        return True

    registered(director, authenticate)

    with pytest.raises(DeadlineError):
        director.ask("auth", event(), timeout_s=0.05)

    wait_until(lambda: len(ended) == 1)
    assert isinstance(ended[0], DeadlineError)


# ---- hashes ----


def test_a_user_of_a_file_passes(director: Director, htpasswd: Path) -> None:
    director.register_actor(BasicAuth, "auth", htpasswd=htpasswd)
    director.start(block=False)

    assert director.ask("auth", event()).get("user") == "ann"


def test_a_changed_file_counts_at_once(director: Director, htpasswd: Path) -> None:
    director.register_actor(BasicAuth, "auth", htpasswd=htpasswd)
    director.start(block=False)
    director.ask("auth", event())

    htpasswd.write_text(f"zoe:{BCRYPT}\n")

    assert director.ask("auth", event("zoe:secret")).get("user") == "zoe"
    with pytest.raises(UnauthorizedError):
        director.ask("auth", event())


def test_the_hub_turns_while_a_password_is_hashed(director: Director, htpasswd: Path, slow: Slow) -> None:
    director.register_actor(BasicAuth, "auth", htpasswd=htpasswd)
    director.register_actor(BasicAuth, "plain", USERS)
    director.start(block=False)
    first = Pool().spawn(director.ask, "auth", event())
    wait_until(lambda: bool(slow.asked))

    for _ in range(10):
        director.ask("plain", event())

    assert not first.ready()
    slow.release()
    assert first.get(timeout=LIMIT_S).get("user") == "ann"


def test_the_same_credentials_are_hashed_once_however_many_ask(director: Director, htpasswd: Path, slow: Slow) -> None:
    actor = director.register_actor(BasicAuth, "auth", htpasswd=htpasswd)
    director.start(block=False)
    asking = [Pool().spawn(director.ask, "auth", event()) for _ in range(20)]
    wait_until(lambda: actor._n_waiting == 20)
    slow.release()

    answers = [one.get(timeout=LIMIT_S) for one in asking]

    assert {answer.get("user") for answer in answers} == {"ann"}
    assert slow.asked == [b"secret"]
    director.ask("auth", event())
    assert slow.asked == [b"secret"]


def test_a_flight_that_finds_no_is_no_for_all_who_wait_for_it(
    director: Director, htpasswd: Path, slow: Slow, compysition_watch: Watch
) -> None:
    actor = director.register_actor(BasicAuth, "auth", htpasswd=htpasswd)
    director.start(block=False)
    asking = [Pool().spawn(director.ask, "auth", event("ann:wrong")) for _ in range(5)]
    wait_until(lambda: actor._n_waiting == 5)
    slow.release()

    for one in asking:
        with pytest.raises(UnauthorizedError):
            one.get(timeout=LIMIT_S)

    assert slow.asked == [b"wrong"]
    compysition_watch.take(UnauthorizedError)


def test_beyond_64_that_wait_everybody_unknown_is_answered_503_and_the_known_pass(
    director: Director, htpasswd: Path, slow: Slow, compysition_watch: Watch
) -> None:
    actor = director.register_actor(BasicAuth, "auth", htpasswd=htpasswd)
    assert actor._credentials is not None
    actor._credentials.remember(actor._credentials.check("bob", "secret"), True)
    director.start(block=False)
    asking = [Pool().spawn(director.ask, "auth", event(f"ann:wrong {number}")) for number in range(MAX_WAITING)]
    wait_until(lambda: actor._n_waiting == MAX_WAITING)

    with pytest.raises(UnavailableError, match="too many logins"):
        director.ask("auth", event())
    assert director.ask("auth", event("bob:secret")).get("user") == "bob"

    slow.release()
    for one in asking:
        with pytest.raises(UnauthorizedError):
            one.get(timeout=LIMIT_S)
    assert director.ask("auth", event()).get("user") == "ann"
    assert actor._n_waiting == 0
    assert actor._flights == {}
    compysition_watch.take(UnauthorizedError)


def test_nobody_waits_longer_for_a_hash_than_the_request_has_time(
    director: Director, htpasswd: Path, slow: Slow
) -> None:
    actor = director.register_actor(BasicAuth, "auth", htpasswd=htpasswd)
    director.start(block=False)

    with pytest.raises(DeadlineError):
        director.ask("auth", event(), timeout_s=0.05)

    wait_until(lambda: actor._n_waiting == 0)
    assert actor._flights == {}


def test_who_waited_for_somebody_who_gave_up_gets_an_answer_all_the_same(
    director: Director, htpasswd: Path, slow: Slow, compysition_watch: Watch
) -> None:
    actor = director.register_actor(BasicAuth, "auth", htpasswd=htpasswd)
    director.start(block=False)
    leader = Pool().spawn(director.ask, "auth", event(), timeout_s=0.1)
    wait_until(lambda: actor._n_waiting == 1)
    follower = Pool().spawn(director.ask, "auth", event())
    wait_until(lambda: actor._n_waiting == 2)
    with pytest.raises(DeadlineError):
        leader.get(timeout=LIMIT_S)
    wait_until(lambda: actor._n_waiting == 1)

    slow.release()

    assert follower.get(timeout=LIMIT_S).get("user") == "ann"
    compysition_watch.take(DeadlineError)


def test_an_error_while_hashing_fails_all_who_wait_and_nobody_passes(
    director: Director, htpasswd: Path, monkeypatch: pytest.MonkeyPatch, compysition_watch: Watch
) -> None:
    def checkpw(password: bytes, stored: bytes) -> bool:
        raise MemoryError

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    actor = director.register_actor(BasicAuth, "auth", htpasswd=htpasswd)
    director.start(block=False)
    asking = [Pool().spawn(director.ask, "auth", event()) for _ in range(3)]

    for one in asking:
        with pytest.raises(MemoryError):
            one.get(timeout=LIMIT_S)

    assert (actor._n_waiting, actor._flights) == (0, {})
    compysition_watch.take(MemoryError)


def test_a_stop_ends_the_threads(director: Director, htpasswd: Path) -> None:
    actor = director.register_actor(BasicAuth, "auth", htpasswd=htpasswd)
    director.start(block=False)
    director.ask("auth", event())
    threads: Any = actor._threads
    assert threads.size > 0

    director.stop()

    assert actor._threads is None
    assert threads.size == 0


def test_a_restart_hashes_on_in_new_threads(director: Director, htpasswd: Path) -> None:
    class Own(BasicAuth):
        def consume(self, event: Event) -> None:
            if event.data == "broken" and not event.attempts:
                raise Fatal
            super().consume(event)

    actor = director.register_actor(Own, "auth", htpasswd=htpasswd)
    director.start(block=False)
    director.ask("auth", event())
    threads = actor._threads

    answer = director.ask("auth", event("bob:secret", "broken"))

    assert answer.get("user") == "bob"
    assert actor._threads is not threads
