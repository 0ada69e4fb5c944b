# SPDX-License-Identifier: Apache-2.0
"""Settings: which source rules, how each type is read, and that no secret is ever shown."""

import os
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import assert_type

import pytest

from compysition import Director, seconds
from compysition.errors import ConfigurationError, SettingError
from compysition.setting_sources import SOURCES, Sources
from compysition.settings import MASK, Settings


class Level(Enum):
    LOW = "low"
    HIGH = "high"


class Number(IntEnum):
    ONE = 1


def director_with(
    flags: Mapping[str, str] | None = None, environment: Mapping[str, str] | None = None, file: Path | None = None
) -> Director:
    """A Director whose script was given these."""
    token = SOURCES.set(Sources(flags or {}, None if file is None else str(file), environment or {}))
    try:
        return Director()
    finally:
        SOURCES.reset(token)


# ---- where a value comes from -----------------------------------------------------------------------------------


def test_flag_rules_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = tmp_path / "app.toml"
    file.write_text("a = 1\nb = 1\nc = 1\n")
    director = director_with({"a": "3"}, {"COMPYSITION_A": "2", "COMPYSITION_B": "2"}, file)
    assert [director.setting(name, 0) for name in "abcd"] == [3, 2, 1, 0]
    assert [setting.source for setting in director.settings()] == [
        "--set a",
        "environment COMPYSITION_B",
        f"{file}:3",
        "default",
    ]


def test_a_plain_script_has_the_environment_and_the_file_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "app.toml"
    file.write_text('name = "from the file"\n')
    monkeypatch.setenv("COMPYSITION_PORT", "8081")
    monkeypatch.setenv("COMPYSITION_SETTINGS", str(file))
    director = Director()
    assert (director.setting("port", 8080), director.setting("name", "")) == (8081, "from the file")


def test_a_variable_of_another_name_is_the_one_that_is_looked_at() -> None:
    director = director_with(environment={"DATABASE": "b", "COMPYSITION_DB": "a"})
    assert director.setting("db", "", environment="DATABASE") == "b"


def test_a_director_that_is_only_made_reads_nothing(tmp_path: Path) -> None:
    director_with(file=tmp_path / "no such file.toml")


def test_asking_again_in_the_same_way_gives_the_same_value() -> None:
    environment = {"COMPYSITION_PORT": "1"}
    director = director_with(environment=environment)
    assert director.setting("port", 8080) == 1
    environment["COMPYSITION_PORT"] = "2"
    assert director.setting("port", 8080) == 1
    assert len(director.settings()) == 1


# ---- types ------------------------------------------------------------------------------------------------------


def test_the_type_of_the_value_is_known_to_the_type_checker() -> None:
    director = director_with({"a": "1", "b": "2", "l": "1,2", "d": "1.5"})
    assert_type(director.setting("port", 8080), int)
    assert_type(director.setting("name", "x"), str)
    assert_type(director.setting("debug", False), bool)
    assert_type(director.setting("level", Level.LOW), Level)
    assert_type(director.setting("a", type=int), int)
    assert_type(director.setting("b", None, int), int | None)
    assert_type(director.setting("l", type=list[int]), list[int])
    assert_type(director.setting("d", type=Decimal), Decimal)
    assert_type(director.setting("timeout_s", 30.0, seconds), float)
    assert_type(director.setting("where", Path()), Path)


@pytest.mark.parametrize(
    ("type_", "text", "wanted"),
    [
        (bool, "yes", True),
        (bool, "OFF", False),
        (bool, "0", False),
        (int, " 80 ", 80),
        (int, "-1", -1),
        (float, "1e3", 1000.0),
        (str, "", ""),
        (str, " x ", " x "),
        (Path, "a/b", Path("a/b")),
        (Path, "~/b", Path.home() / "b"),
        (Level, "high", Level.HIGH),
        (Level, "High", Level.HIGH),
        (Number, "1", Number.ONE),
        (list, "a, b", ["a", "b"]),
        (list[int], "1,2", [1, 2]),
        (list[Level], "low", [Level.LOW]),
        (list[str], " ", []),
        (seconds, "2.5", 2.5),
        (seconds, "250ms", 0.25),
        (seconds, "1 min 30 s", 90.0),
        (seconds, "1h1min", 3660.0),
        (Decimal, "1.10", Decimal("1.10")),
    ],
)
def test_text_is_read_as_its_type(type_: type[object], text: str, wanted: object) -> None:
    value = director_with({"x": text}).setting("x", None, type_)
    assert (value, type(value)) == (wanted, type(wanted))


@pytest.mark.parametrize(
    ("type_", "toml", "wanted"),
    [
        (bool, "true", True),
        (int, "80", 80),
        (int, '"80"', 80),
        (float, "1", 1.0),
        (str, '"ü"', "ü"),
        (Path, '"a"', Path("a")),
        (Level, '"low"', Level.LOW),
        (Number, "1", Number.ONE),
        (list[float], "[1, 2.5]", [1.0, 2.5]),
        (seconds, "30", 30.0),
        (seconds, '"2 min"', 120.0),
    ],
)
def test_toml_is_read_as_its_type(type_: type[object], toml: str, wanted: object, tmp_path: Path) -> None:
    file = tmp_path / "app.toml"
    file.write_text(f"x = {toml}\n", encoding="utf-8")
    value = director_with(file=file).setting("x", None, type_)
    assert (value, type(value)) == (wanted, type(wanted))


@pytest.mark.parametrize(
    ("type_", "text", "why"),
    [
        (int, "eighty", "setting 'x' is 'eighty' (from environment COMPYSITION_X): wanted is a whole number"),
        (int, "80.5", "wanted is a whole number"),
        (int, "9" * 5000, "9999… (from environment"),
        (float, "nan", "wanted is a number"),
        (float, "x", "wanted is a number"),
        (bool, "2", "wanted is true or false"),
        (Path, "a\0b", "wanted is a path"),
        (Path, "~nobody-of-this-name/x", "nobody knows that home directory"),
        (Level, "hihg", "wanted is one of 'low', 'high'; did you mean 'high'?"),
        (list[int], "1,,2", "item 2 does not fit: wanted is a whole number"),
        (seconds, "2 weeks", "wanted is a time: seconds as a number, or with units, as in '250 ms'"),
        (seconds, "-1", "from 0 on"),
        (seconds, "1 s" * 40 + "x", "wanted is a time"),
        (Decimal, "x", "wanted is what Decimal() takes"),
        (int, "", "setting 'x' is empty (from environment COMPYSITION_X): wanted is a whole number; take it away for"),
        (str, "\udcff", "wanted is text in UTF-8"),
    ],
)
def test_what_does_not_fit_is_named_with_its_source(type_: type[object], text: str, why: str) -> None:
    with pytest.raises(SettingError) as caught:
        director_with(environment={"COMPYSITION_X": text}).setting("x", None, type_)
    assert why in str(caught.value)
    assert len(str(caught.value)) < 300
    assert (caught.value.name, caught.value.source) == ("x", "environment COMPYSITION_X")


@pytest.mark.parametrize(
    ("type_", "toml", "why"),
    [
        (int, "80.0", "wanted is a whole number"),
        (int, "true", "wanted is a whole number"),
        (str, "80", "is 80 (from {file}:1): wanted is text, in quotes"),
        (bool, "1", "wanted is true or false"),
        (int, "1979-05-27", "wanted is a whole number"),
        (seconds, "[1]", "wanted is text"),
        (list[str], "1", "wanted is a list"),
        (list[str], "[1]", "item 1 does not fit: wanted is text, in quotes"),
        (int, "{a = 1}", "wanted is a whole number"),
    ],
)
def test_toml_of_another_type_is_refused(type_: type[object], toml: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "app.toml"
    file.write_text(f"x = {toml}\n")
    with pytest.raises(SettingError) as caught:
        director_with(file=file).setting("x", None, type_)
    assert why.format(file=file) in str(caught.value)


def test_a_required_setting_says_the_three_ways_to_give_it() -> None:
    with pytest.raises(SettingError) as caught:
        director_with().setting("host", type=str)
    assert str(caught.value) == (
        "setting 'host' has no value and no default: give it with 'compysition run --set host=…', in the environment "
        "as COMPYSITION_HOST, or as 'host = …' in a file that --settings or COMPYSITION_SETTINGS names"
    )


def test_a_required_text_may_not_be_empty() -> None:
    with pytest.raises(SettingError, match=r"is empty .*: wanted is text$"):
        director_with(environment={"COMPYSITION_HOST": ""}).setting("host", type=str)


# ---- the file ---------------------------------------------------------------------------------------------------


def test_a_file_that_is_missing_is_named_with_who_named_it(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"settings file '.*no\.toml' \(from --settings\) does not exist"):
        director_with(file=tmp_path / "no.toml").setting("x", 1)
    with pytest.raises(SettingError, match=r"\(from COMPYSITION_SETTINGS\) does not exist"):
        director_with(environment={"COMPYSITION_SETTINGS": "no such.toml"}).setting("x", 1)


def test_an_empty_variable_names_no_file() -> None:
    assert director_with(environment={"COMPYSITION_SETTINGS": ""}).setting("x", 1) == 1


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"x = \n", r"is no TOML: .*line 1"),
        (b"x = 1\nx = 2\n", r"is no TOML: .*line 2"),
        (b"x = '\xff'\n", r"is not UTF-8: byte 5 is 0xff"),
        (b"\xff\xfex\x00", r"is not UTF-8: byte 0 is 0xff"),
    ],
)
def test_a_file_that_is_no_toml_is_refused(content: bytes, why: str, tmp_path: Path) -> None:
    file = tmp_path / "app.toml"
    file.write_bytes(content)
    with pytest.raises(SettingError, match=why):
        director_with(file=file).setting("x", 1)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="is a directory: wanted is a TOML file"):
        director_with(file=tmp_path).setting("x", 1)
    file = tmp_path / "app.toml"
    file.write_text("x = 1\n")
    file.chmod(0)
    if not os.access(file, os.R_OK):  # root reads everything
        with pytest.raises(SettingError, match="cannot be read: Permission denied"):
            director_with(file=file).setting("x", 1)
    with pytest.raises(SettingError, match="cannot be read: Not a directory"):
        director_with(file=file / "x").setting("x", 1)


# ---- what makes no sense ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("http-port", "wanted is a lower-case identifier, as 'http_port'"),
        ("Port", "as 'port'"),
        ("1", "wanted is a lower-case identifier$"),
        ("", "wanted is a lower-case identifier$"),
        ("größe", "wanted is a lower-case identifier"),
        ("settings", "COMPYSITION_SETTINGS names the settings file"),
    ],
)
def test_a_name_that_is_no_identifier_is_refused(name: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        director_with().setting(name, 1)


def test_asking_twice_in_different_ways_is_refused_with_both() -> None:
    director = director_with()
    director.setting("port", 8080)
    with pytest.raises(ConfigurationError) as caught:
        director.setting("port", 80)
    assert "first (int, default 8080, from COMPYSITION_PORT), then (int, default 80, " in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"then \(str, required, "):
        director.setting("port", type=str)
    with pytest.raises(ConfigurationError, match="'port' has it"):
        director.setting("other", 1, environment="COMPYSITION_PORT")


def test_types_and_defaults_that_make_no_sense_are_refused() -> None:
    director = director_with()
    with pytest.raises(ConfigurationError, match=r"setting 'x' has no type: say it, as in setting\('x', type=str\)"):
        director.setting("x", None)
    with pytest.raises(ConfigurationError, match="is of type str: wanted is int, or None"):
        director.setting("x", "80", int)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="is of type bool: wanted is int"):
        director.setting("x", True, int)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="does not tell what the list is of"):
        director.setting("x", ["a", 1])
    with pytest.raises(ConfigurationError, match="say with type=… how it is read from text"):
        director.setting("x", Decimal(1))
    with pytest.raises(ConfigurationError, match="wanted is bool, int, float"):
        director.setting("x", {}, dict)


# ---- names that nobody asks for -----------------------------------------------------------------------------------


def test_a_mistyped_flag_keeps_the_director_from_starting() -> None:
    director = director_with({"prot": "80"})
    director.setting("port", 8080)
    with pytest.raises(SettingError, match=r"asks for no setting 'prot' \(from --set\); did you mean 'port'\?"):
        director.start(block=False)
    assert not director.is_running()


def test_flags_may_be_for_any_director_of_the_script() -> None:
    sources = Sources({"a": "1"}, environment={})
    token = SOURCES.set(sources)
    try:
        one, other = Director(), Director()
    finally:
        SOURCES.reset(token)
    assert one.setting("a", 0) == 1
    with other:
        pass


def test_mistyped_names_in_file_and_environment_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "app.toml"
    file.write_text("prot = 1\n[table]\nx = 1\n")
    director = director_with(environment={"COMPYSITION_PROT": "1", "COMPYSITION_OTHER_THING": "1"}, file=file)
    director.setting("port", 8080)
    with director:
        pass
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        f"{file} sets 'prot', but the script asks for no such setting; did you mean 'port'?",
        f"{file} sets 'table', but the script asks for no such setting; there are: 'port'",
        "environment variable COMPYSITION_PROT sets nothing that the script asks for; did you mean 'COMPYSITION_PORT'?",
    ]


def test_who_asks_for_nothing_is_not_warned(caplog: pytest.LogCaptureFixture) -> None:
    with director_with(environment={"COMPYSITION_SETTINGS": "no such file.toml"}):
        pass
    assert not caplog.records


# ---- secrets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["password", "api_key", "token", "db_password", "client_secret"])
def test_a_name_that_sounds_like_a_secret_is_one(name: str) -> None:
    director = director_with({name: "s3cr3t"})
    assert director.setting(name, type=str) == "s3cr3t"
    (setting,) = director.settings()
    assert (setting.is_secret, setting.value, setting.text) == (True, None, MASK)
    assert "s3cr3t" not in repr(setting) + str(setting) + repr(director._settings) + repr(director)


def test_the_script_decides_what_is_a_secret() -> None:
    director = director_with({"key": "a", "pin": "1234"})
    director.setting("key", "", secret=False)
    director.setting("pin", 0, secret=True)
    assert [setting.text for setting in director.settings()] == ['"a"', MASK]


def picky(text: str) -> str:
    raise ValueError(f"{text} is too short")


def test_no_error_shows_a_secret() -> None:
    director = director_with({"pin": "s3cr3t"}, {"COMPYSITION_TOKEN": "s3cr3t"})
    for ask in (
        lambda: director.setting("pin", 0, secret=True),
        lambda: director.setting("token", type=picky),
        lambda: director.setting("password", "s3cr3t", int),  # type: ignore[arg-type]
        lambda: (director.setting("key", "s3cr3t"), director.setting("key", "s3cr3t2")),
    ):
        with pytest.raises(ConfigurationError) as caught:
            ask()
        assert "s3cr3t" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_a_password_in_a_url_is_masked() -> None:
    url = "postgres://ada:s3cr3t@db/" + "x" * 80
    director = director_with({"a": url, "b": url, "c": url})
    assert director.setting("a", "") == url
    director.setting("b", [url])
    assert all("s3cr3t" not in repr(setting) + setting.text for setting in director.settings())
    assert director.settings()[0].text.startswith(f'"postgres://ada:{MASK}@db/')
    with pytest.raises(SettingError) as caught:
        director.setting("c", 1)
    assert "s3cr3t" not in str(caught.value)


def test_settings_are_shown_as_they_would_stand_in_the_file() -> None:
    director = director_with({"path": "a b", "on": "yes", "level": "high", "l": "1, 2"})
    director.setting("path", Path())
    director.setting("on", False)
    director.setting("level", Level.LOW)
    director.setting("l", [0])
    director.setting("nothing", None, str)
    director.setting("wait_s", 1.5, seconds)
    assert [setting.text for setting in director.settings()] == [
        '"a b"', "true", '"high"', "[1, 2]", "(none)", "1.5"
    ]  # fmt: skip
    assert str(director.settings()[0]) == 'path = "a b" (--set path)'
    assert repr(Settings(Sources())) == "<Settings nothing was asked for>"
