# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.arguments`."""

import inspect
from pathlib import Path
from typing import Annotated, Any

import pytest

from compysition import Actor, Director
from compysition.arguments import FLAG, FUNCTION, PATH, TEXT, Check, above, checked, number, one_of, text_that, whole
from compysition.errors import ConfigurationError, RegistrationError

NAN, INFINITE = float("nan"), float("inf")


class Pump(Actor):
    @checked
    def __init__(
        self,
        name: str,
        rate: Annotated[int, whole(1, 9)],
        *,
        limit: Annotated[int | None, whole(1)] = None,
        **rest: Any,
    ) -> None:
        super().__init__(name, **rest)
        self.rate = rate
        self.limit = limit


async def later() -> None:
    """Never awaited."""


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (whole(1), [1, 10**30], [0, -1, 1.0, "1", None, True, NAN]),
        (whole(0, 3), [0, 3], [-1, 4]),
        (number(0), [0, 0.5, 7], [-0.1, "1", None, False, NAN, INFINITE]),
        (above(0, "seconds"), [0.001, 3], [0, -1, None, NAN, INFINITE]),
        (one_of("fail", "wait"), ["fail"], ["", "Fail", None, 1, ["fail"]]),
        (text_that("is short", lambda text: len(text) < 3), ["", "ab"], ["abc", b"a", None]),
        (FLAG, [True, False], [1, 0, None, "no"]),
        (TEXT, ["", "a"], [b"a", None, 1]),
        (PATH, ["a", Path("a")], ["", None, 7, b"a"]),
        (FUNCTION, [len, lambda: None, str], [None, "len", later]),
    ],
    ids=lambda value: value.wanted if isinstance(value, Check) else "",
)
def test_a_check_holds_for_what_it_wants_and_for_nothing_else(check: Check, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not check.holds(value)] == []
    assert [value for value in bad if check.holds(value)] == []


def test_an_argument_that_does_not_fit_is_refused_with_its_name_the_actor_and_what_is_wanted() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Pump("pump", 10)
    assert str(caught.value) == "rate of 'pump' is 10: wanted is a whole number, 1 to 9"


def test_it_does_not_matter_how_arguments_are_given() -> None:
    with pytest.raises(ConfigurationError, match="rate of 'pump' is 0"):
        Director().register_actor(Pump, "pump", rate=0)


def test_none_passes_where_the_type_allows_it_and_nowhere_else() -> None:
    assert Pump("pump", 1, limit=None).limit is None
    with pytest.raises(ConfigurationError, match="limit of 'pump' is 0: wanted is a whole number, 1 or more, or None"):
        Pump("pump", 1, limit=0)
    with pytest.raises(ConfigurationError, match="rate of 'pump' is None"):
        Pump("pump", None)  # type: ignore[arg-type]


def test_missing_and_unknown_arguments_are_told_in_the_words_of_python() -> None:
    with pytest.raises(TypeError, match=r"Pump\.__init__\(\) missing 1 required positional argument: 'rate'"):
        Pump("pump")  # type: ignore[call-arg]
    with pytest.raises(RegistrationError, match="unexpected keyword argument 'speed'"):
        Director().register_actor(Pump, "pump", 1, speed=2)


def test_defaults_are_not_checked() -> None:
    class Lazy(Actor):
        @checked
        def __init__(self, name: str, rate: Annotated[int, whole(1)] = 0) -> None:
            super().__init__(name)
            self.rate = rate

    assert Lazy("lazy").rate == 0


def test_the_signature_is_that_of_the_constructor() -> None:
    assert list(inspect.signature(Pump).parameters) == ["name", "rate", "limit", "rest"]
