# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.mdp.frames`, `envelope`, `hello`, `buckets` and `recently`; and what machines may know."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import compysition.mdp
from compysition.errors import MalformedError, TooLargeError
from compysition.mdp.buckets import TICK_S, Buckets
from compysition.mdp.envelope import HEAD, REPLY, REQUEST, Envelope, has_envelope, identity_of, readdressed
from compysition.mdp.frames import (
    MDP_1,
    MDP_2,
    MDP_2_DELIMITED,
    Command,
    Dialect,
    is_service_name,
    read_at_broker,
    read_at_client,
    read_at_worker,
)
from compysition.mdp.hello import MOST_CREDIT, Capabilities, WorkerHello
from compysition.mdp.recently import Recently

#: Files of the package that may do I/O; all others are machines.
DRIVERS = frozenset({"reactor.py", "driving.py", "discovery.py"})

DIALECTS = st.sampled_from([MDP_1, MDP_2, MDP_2_DELIMITED])
BODIES = st.lists(st.binary(max_size=20), min_size=1, max_size=5)
NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=60).map(str.encode)
ADDRESSES = st.binary(min_size=1, max_size=255)


# ---- what machines may know -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(Path(compysition.mdp.__file__).parent.glob("*.py")) if path.name not in DRIVERS],
    ids=lambda path: path.stem,
)
def test_machine_knows_no_clock_no_sockets_and_of_the_rest_only_errors(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            assert name.partition(".")[0] not in {"time", "os", "gevent", "zmq", "socket", "random", "threading"}
            if name.startswith("compysition."):
                assert name == "compysition.errors" or name.startswith("compysition.mdp")


# ---- frames -----------------------------------------------------------------------------------------------------


@given(DIALECTS, NAMES, BODIES)
def test_request_reads_as_it_was_written(dialect: Dialect, name: bytes, body: list[bytes]) -> None:
    message = read_at_broker([*dialect.request, name, *body])
    assert (message.command, message.name, message.body) == (Command.REQUEST, name, body)
    assert message.dialect is dialect


@given(DIALECTS, ADDRESSES, BODIES, st.booleans())
def test_replies_of_workers_read_as_they_were_written(
    dialect: Dialect, address: bytes, body: list[bytes], is_final: bool
) -> None:
    head = dialect.work_final if is_final or dialect.work_partial is None else dialect.work_partial
    message = read_at_broker([*head, address, b"", *body])
    assert (message.name, message.body, message.is_worker, message.fault) == (address, body, True, "")
    assert message.command is (Command.PARTIAL if head == dialect.work_partial else Command.FINAL)


@given(DIALECTS, ADDRESSES, NAMES, BODIES)
def test_brokers_frames_read_as_they_were_written(
    dialect: Dialect, address: bytes, name: bytes, body: list[bytes]
) -> None:
    work = read_at_worker([*dialect.work, address, b"", *body])
    assert (work.command, work.name, work.body) == (Command.REQUEST, address, body)
    assert read_at_worker(list(dialect.heartbeat)).command is Command.HEARTBEAT
    assert read_at_worker(list(dialect.disconnect)).command is Command.DISCONNECT
    final = read_at_client([*dialect.final, name, *body])
    assert (final.command, final.name, final.body) == (Command.FINAL, name, body)
    if dialect.partial is not None:
        assert read_at_client([*dialect.partial, name, *body]).command is Command.PARTIAL


def test_message_of_more_than_1024_frames_is_malformed() -> None:
    assert read_at_broker([*MDP_2.request, b"echo", *[b"x"] * 1021]).command is Command.REQUEST
    assert read_at_broker([*MDP_2.request, b"echo", *[b"x"] * 1022]).fault == "too many frames"


@pytest.mark.parametrize("name", ["a", "with space", "a.b/c", "é", "x" * 255])
def test_service_name_is_printable_text(name: str) -> None:
    assert is_service_name(name.encode())


@pytest.mark.parametrize("name", [b"", b"x" * 256, b"a\x00", b"\n", b"\x7f", "\x85".encode(), b"\xff"])
def test_other_bytes_are_no_service_name(name: bytes) -> None:
    assert not is_service_name(name)


# ---- envelope and hello -----------------------------------------------------------------------------------------


@given(
    st.builds(
        Envelope,
        kind=st.sampled_from([REQUEST, REPLY]),
        id=st.binary(min_size=16, max_size=16),
        flags=st.integers(0, 255),
        attempt=st.integers(1, 65535),
        left_ms=st.none() | st.integers(0, 2**32 - 2),
        status=st.integers(0, 65535),
        metadata=st.binary(max_size=50),
    )
)
def test_envelope_reads_as_it_was_written(envelope: Envelope) -> None:
    frame = envelope.pack()
    assert Envelope.unpack(frame, envelope.kind) == envelope
    assert identity_of(frame) == envelope.id
    assert has_envelope([b"", frame])
    again = Envelope.unpack(readdressed(frame, 7, 99), envelope.kind)
    assert again == replace(envelope, attempt=7, left_ms=99)


def test_frame_too_short_for_an_envelope_is_none() -> None:
    assert not has_envelope([b"data", Envelope(REQUEST, bytes(16)).pack()[:-1]])


def test_metadata_of_an_envelope_is_limited_on_both_sides() -> None:
    envelope = Envelope(REQUEST, bytes(16), metadata=bytes(65_537))
    with pytest.raises(TooLargeError, match="65537"):
        envelope.pack()
    with pytest.raises(TooLargeError):
        Envelope.unpack(Envelope(REQUEST, bytes(16)).pack() + bytes(65_537), REQUEST)


def test_attempt_0_is_refused() -> None:
    frame = Envelope(REQUEST, bytes(16), attempt=0).pack()
    with pytest.raises(MalformedError, match="attempt 0"):
        Envelope.unpack(frame, REQUEST)
    assert len(frame) == HEAD.size


def test_hello_and_capabilities_read_as_they_were_written() -> None:
    hello = WorkerHello(5, "me", 12, "here")
    assert WorkerHello.unpack(hello.pack()) == hello
    capabilities = Capabilities("ab" * 16, 2500, 3)
    assert Capabilities.unpack(capabilities.pack()) == capabilities
    huge = WorkerHello.unpack(WorkerHello(10**6).pack())
    assert huge is not None
    assert huge.credit == MOST_CREDIT


@pytest.mark.parametrize(
    "frame",
    [
        *(b"", b"[" * 4000, b"{" + b" " * 5000 + b"}", b"[]", b"\xff", b"{}", b'{"compysition":2}', b"NaN"),
        b'{"compysition":1,"envelope":1,"credit":true,"mdp":5,"heartbeat_ms":"1","liveness":0}',
        b'{"compysition":1,"envelope":1,"credit":-1,"mdp":["0.1"],"heartbeat_ms":0,"liveness":1e9}',
    ],
)
def test_what_is_no_hello_is_taken_for_none(frame: bytes) -> None:
    assert WorkerHello.unpack(frame) is None
    assert Capabilities.unpack(frame) is None


# ---- time and memory --------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.0, 1000.0), min_size=1, max_size=30))
def test_entries_are_due_once_never_early_and_at_most_a_tick_late(times: list[float]) -> None:
    buckets: Buckets[int] = Buckets()
    for number, at in enumerate(times):
        buckets.add(number, at)
    seen: dict[int, float] = {}
    while len(buckets):
        now = buckets.wakes_at
        for number in buckets.due(now):
            assert number not in seen
            seen[number] = now
    assert all(times[number] <= at <= times[number] + TICK_S + 1e-9 for number, at in seen.items())
    assert len(seen) == len(times)


def test_entry_may_be_added_again_and_others_discarded_while_one_is_due() -> None:
    buckets: Buckets[str] = Buckets()
    index = buckets.add("a", 1.0)
    buckets.add("b", 1.0)
    for entry in buckets.due(1.0):
        buckets.discard("a" if entry == "b" else "b", index)
        buckets.add("again", 2.0)
        buckets.add("soon", 1.0)
        break
    assert len(buckets) == 2
    assert buckets.wakes_at <= 1.0


def test_peer_is_remembered_for_a_period_and_the_memory_is_bounded() -> None:
    recently = Recently(5.0, most=2)
    assert recently.is_first("a", 0.0)
    assert not recently.is_first("a", 4.9)
    assert recently.is_first("a", 5.0)
    recently.note("b", 5.0)
    recently.note("c", 5.0)
    assert len(recently) == 2
    assert recently.is_first("a", 5.1)
