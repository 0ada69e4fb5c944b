# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.flow.checks`: each mistake is found, and what is right is not.

A flow is written as ``"wsgi > a > b > wsgi"`` for connections and ``"a ! wsgi"`` for an error wire. Actors whose name
begins with ``wsgi`` are doors, those that begin with ``log`` are ends by their nature.
"""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compysition.flow.checks import check
from compysition.flow.conduct import Conduct
from compysition.flow.findings import Code, Finding, Severity
from compysition.flow.values import Flow, FlowActor, FlowConnection

USUAL = Conduct()
NAMES_OUTBOXES = Conduct(names_outboxes=True)
NEVER_SENDS = Conduct(sends=False)


def flow_of(*lines: str, **attributes: Any) -> Flow:
    """`attributes`: by actor, a mapping of what differs."""
    names: dict[str, None] = {}
    connections: dict[FlowConnection, None] = {}
    for line in lines:
        words = line.split()
        names.update(dict.fromkeys(words[::2]))
        for source, arrow, target in zip(words[::2], words[1::2], words[2::2], strict=False):
            connections[FlowConnection(source, target, target, source, 500, is_error=arrow == "!")] = None
    actors = (
        FlowActor(
            name,
            **{
                "is_door": name.startswith("wsgi"),
                "is_cut": name.startswith("wsgi"),
                "is_end": name.startswith("log"),
                **attributes.get(name, {}),
            },
        )
        for name in names
    )
    return Flow("test", 500, tuple(actors), tuple(connections))


def found(flow: Flow, **conduct: Conduct | None) -> list[tuple[str, str | None]]:
    return [(finding.code.name, finding.actor) for finding in check(flow, conduct)]


def only(flow: Flow, **conduct: Conduct | None) -> Finding:
    (finding,) = check(flow, conduct)
    return finding


# ---- C101: no way back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["wsgi > wsgi"], id="straight back"),
        pytest.param(["wsgi > a > b > wsgi"], id="a full circle"),
        pytest.param(["wsgi > auth > submit > work > ack > wsgi", "auth ! wsgi", "submit ! wsgi"], id="the README"),
        pytest.param(["wsgi > a > wsgi", "wsgi > b > wsgi"], id="two services"),
        pytest.param(["wsgi > a > wsgi", "a > log"], id="a tap"),
        pytest.param(["wsgi > a > wsgi", "a > store > audit"], id="a side branch of several actors"),
        pytest.param(["wsgi > a > wsgi", "wsgi > log"], id="a tap at the door"),
        pytest.param(["wsgi > a > b > wsgi", "a > c > b"], id="two ways that meet"),
        pytest.param(["wsgi > a > wsgi", "a ! log"], id="failures that end in a log"),
        pytest.param(["wsgi > a > wsgi", "a ! shape > wsgi"], id="failures that are shaped"),
        pytest.param(["wsgi > a > wsgi", "a ! dead > end"], id="failures that end behind an error wire"),
        pytest.param(["source > a > log"], id="no door"),
        pytest.param(["wsgi1 > a > wsgi1", "wsgi2 > b > wsgi2"], id="two doors with their own flows"),
        pytest.param(["wsgi > client > wsgi", "worker > data > worker"], id="MajorDomo"),
    ],
)
def test_requests_that_come_back_are_no_finding(lines: list[str]) -> None:
    flow = flow_of(*lines, client={"is_cut": True}, worker={"is_cut": True, "is_door": True})
    assert found(flow) == []


def test_a_forgotten_answer_wire_is_found_at_the_last_actor_with_the_way_to_it() -> None:
    finding = only(flow_of("wsgi > auth > work > ack", "auth ! wsgi"))
    assert (finding.code, finding.actor, finding.connection) == (Code.C101, "ack", "wsgi → auth → work → ack")
    assert "connect_queue('ack', 'wsgi')" in finding.remedy
    assert "ends_flow" in finding.remedy


def test_every_service_of_a_door_needs_its_own_way_back() -> None:
    assert found(flow_of("wsgi > orders > wsgi", "wsgi > users")) == [("C101", "users")]


def test_an_actor_that_chooses_among_its_outboxes_needs_a_way_back_from_each() -> None:
    flow = flow_of("wsgi > router > a > wsgi", "router > b")
    assert found(flow, router=NAMES_OUTBOXES) == [("C101", "b")]
    assert found(flow, router=USUAL) == []
    assert found(flow_of("wsgi > router > a > wsgi", "router > log"), router=NAMES_OUTBOXES) == []
    assert found(flow, router=NAMES_OUTBOXES, b=NEVER_SENDS) == []


@given(st.lists(st.integers(0, 100), max_size=9), st.integers(0, 100))
def test_in_a_tree_of_choices_every_forgotten_wire_is_found_and_nothing_else(parents: list[int], choice: int) -> None:
    names = [f"n{number}" for number in range(len(parents) + 1)]
    lines = ["wsgi > n0"]
    lines += [f"{names[parent % (number + 1)]} > {names[number + 1]}" for number, parent in enumerate(parents)]
    leaves = [name for name in names if not any(line.startswith(f"{name} >") for line in lines)]
    forgotten = leaves[choice % len(leaves)]
    conduct = dict.fromkeys(names, NAMES_OUTBOXES)
    wires = {name: f"{name} > wsgi" for name in leaves}

    assert found(flow_of(*lines, *wires.values()), **conduct) == []
    del wires[forgotten]
    assert found(flow_of(*lines, *wires.values()), **conduct) == [("C101", forgotten)]


def test_an_end_by_nature_answers_nobody_unless_another_branch_does() -> None:
    assert found(flow_of("wsgi > a > log")) == [("C101", "log")]


def test_each_end_is_found_once_however_many_ways_lead_to_it() -> None:
    assert found(flow_of("wsgi > a > c", "wsgi > b > c", "b > d")) == [("C101", "c"), ("C101", "d")]


def test_a_ring_without_exit_is_no_way_back() -> None:
    findings = check(flow_of("wsgi > a > b > a"), {})
    assert [finding.code for finding in findings] == [Code.C101, Code.C202]
    assert "go round at 'a' for ever" in findings[0].message


def test_a_ring_with_an_exit_to_the_door_is_a_way_back() -> None:
    assert found(flow_of("wsgi > a > b > a", "b > wsgi"), b=NAMES_OUTBOXES) == [("C202", "a")]


def test_a_door_that_is_only_answered_sends_its_requests_nowhere() -> None:
    finding = only(flow_of("source > wsgi"))
    assert (finding.code, finding.actor) == (Code.C101, "wsgi")
    assert "go nowhere" in finding.message


def test_who_ends_requests_on_purpose_says_so() -> None:
    assert found(flow_of("wsgi > a > hook", hook={"ends_flow": True})) == []
    assert found(flow_of("wsgi > a > cache"), cache=Conduct(sends=False, stops_flow=True)) == []
    # It may end them, and it may send them on: the wire is missing.
    assert found(flow_of("wsgi > a > cache"), cache=Conduct(stops_flow=True)) == [("C101", "cache")]


def test_requests_do_not_go_on_through_another_door() -> None:
    finding = only(flow_of("wsgi1 > a > wsgi2 > b > wsgi2", "b > wsgi1"), b=NAMES_OUTBOXES)
    assert (finding.code, finding.actor, finding.connection) == (Code.C101, "wsgi2", "wsgi1 → a → wsgi2")
    assert "a door that did not ask" in finding.message


def test_a_client_of_another_process_gives_back_what_it_takes() -> None:
    client = {"client": {"is_cut": True}}
    assert found(flow_of("wsgi > a > client > b > wsgi", **client)) == []
    assert found(flow_of("wsgi > a > client > b", **client)) == [("C101", "b")]


# ---- C102, C103 -------------------------------------------------------------------------------------------------


def test_an_error_wire_is_no_way_back_for_what_has_not_failed() -> None:
    finding = only(flow_of("wsgi > a > b", "a ! wsgi", "b ! shape > wsgi"))
    assert (finding.code, finding.actor) == (Code.C102, "b")
    assert "only its error wire leads back to 'wsgi'" in finding.message
    assert found(flow_of("wsgi > a", "errors > wsgi", errors={"is_error_actor": True})) == [("C102", "a")]


def test_an_error_wire_is_the_way_of_an_actor_that_sends_nothing_else() -> None:
    assert found(flow_of("wsgi > a > refuse ! wsgi"), refuse=Conduct(sends=False, sends_errors=True)) == []
    assert found(flow_of("wsgi > a > refuse ! wsgi"), refuse=Conduct(sends_errors=True)) == [("C102", "refuse")]


def test_an_answer_for_several_doors_has_to_name_its_outbox() -> None:
    flow = flow_of("wsgi1 > a > wsgi1", "wsgi2 > a > wsgi2")
    first, second = check(flow, {})
    assert (first.code, second.code) == (Code.C103, Code.C103)
    assert (first.actor, first.connection, second.connection) == ("a", "a → wsgi2", "a → wsgi1")
    assert found(flow, a=NAMES_OUTBOXES) == []


# ---- C104, C202: rings ------------------------------------------------------------------------------------------


def test_a_ring_is_named_with_its_actors_in_order() -> None:
    finding = only(flow_of("source > a > b > c > a"))
    assert (finding.code, finding.connection) == (Code.C202, "a → b → c → a")


def test_an_actor_that_sends_twice_into_its_own_ring_multiplies() -> None:
    flow = flow_of("source > a > b > a", "a > c > a")
    finding = check(flow, {})[0]
    assert (finding.code, finding.actor, finding.connection) == (Code.C104, "a", "a → b, a → c")
    assert found(flow, a=NAMES_OUTBOXES) == [("C202", "a")]


def test_an_actor_with_one_way_back_and_one_way_out_does_not_multiply() -> None:
    assert found(flow_of("source > a > b > a", "a > log", "b ! a")) == [("C202", "a")]


def test_a_full_circle_is_no_ring() -> None:
    assert found(flow_of("wsgi > a > b > wsgi", "a > c > wsgi")) == []


# ---- C201, C203: single actors ----------------------------------------------------------------------------------


def test_an_actor_without_any_connection_is_found() -> None:
    finding = only(flow_of("a > log", "lonely"))
    assert (finding.code, finding.actor) == (Code.C201, "lonely")
    assert found(flow_of("a ! log")) == []
    assert found(flow_of("wsgi")) == [("C201", "wsgi")]


@pytest.mark.parametrize(
    "attributes",
    [{"is_log_actor": True}, {"is_error_actor": True}, {"is_posted_to": True}, {"listens": ("tcp://127.0.0.1:5555",)}],
)
def test_an_actor_that_is_reached_in_another_way_needs_no_connection(attributes: dict[str, Any]) -> None:
    assert found(flow_of("alone", alone=attributes)) == []


@pytest.mark.parametrize(
    ("url", "is_public"),
    [
        ("http://127.0.0.1:8080/", False),
        ("http://[::1]:8080/", False),
        ("http://localhost:8080/", False),
        ("http://127.8.0.1:80/", False),
        ("http://0.0.0.0:8080/", True),
        ("http://[::]:8080/", True),
        ("http://example.org:8080/", True),
        ("tcp://192.168.1.1:5555", True),
    ],
)
def test_what_listens_beyond_this_machine_is_found(url: str, is_public: bool) -> None:
    assert found(flow_of("wsgi > a > wsgi", wsgi={"listens": (url,)})) == [("C203", "wsgi")] * is_public


# ---- all of them ------------------------------------------------------------------------------------------------


def test_nothing_is_said_of_an_actor_whose_class_is_not_there() -> None:
    flow = flow_of("lonely", "a > b > a")
    assert found(flow, lonely=None, a=None) == []


def test_errors_come_first() -> None:
    codes = [finding.code for finding in check(flow_of("lonely", "wsgi > a", "b > b"), {})]
    assert codes == [Code.C101, Code.C201, Code.C202]


def test_codes_from_200_on_are_warnings() -> None:
    assert {code.name: code.severity for code in Code} == {
        code.name: Severity.WARNING if int(code.name[1:]) >= 200 else Severity.ERROR for code in Code
    }
