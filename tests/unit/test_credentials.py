# SPDX-License-Identifier: Apache-2.0
"""Who may log in: RFC 7617's header, htpasswd files as they are found in the wild, and what a check costs."""

import base64
import hmac
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compysition.credentials import (
    CACHE_S,
    CACHE_SIZE,
    MAX_FILE_BYTES,
    MAX_HEADER_BYTES,
    Credentials,
    challenge,
    hash_password,
    parse_basic,
)
from compysition.errors import ConfigurationError, MissingExtraError

#: The cheapest hashes of "secret": what they cost is not what is tested.
BCRYPT = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
PBKDF2 = "$pbkdf2-sha256$i=1$c2FsdHNhbHQ$7q77FNs/69qVkPyRNSqXo6plaOX9a1Kyv7l1dRFK7ZE"


def needs_hashing(credentials: Credentials, username: str, password: str) -> bool:
    """Whether `verify` would hash now."""
    return credentials.check(username, password).verdict is None


def verify(credentials: Credentials, username: str, password: str) -> bool:
    """All steps at once: what `BasicAuth` does, in this thread."""
    check = credentials.check(username, password)
    return credentials.remember(check, check.run())


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The passwords that bcrypt was asked for."""
    asked: list[bytes] = []

    def checkpw(password: bytes, stored: bytes) -> bool:
        asked.append(password)
        return original(password, stored)

    original = bcrypt.checkpw
    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    return asked


def htpasswd(path: Path, *lines: str) -> Path:
    file = path / "htpasswd"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def basic(text: str | bytes) -> str:
    return "Basic " + base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


# ---- the header ----


def test_the_examples_of_rfc_7617_are_understood() -> None:
    assert parse_basic("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==") == ("Aladdin", "open sesame")
    assert parse_basic("Basic dGVzdDoxMjPCow==") == ("test", "123£")


@pytest.mark.parametrize("scheme", ["basic", "BASIC", "bAsIc", "Basic "])
def test_the_scheme_is_known_in_any_case_and_with_more_blanks(scheme: str) -> None:
    assert parse_basic(f"{scheme} YTpi") == ("a", "b")


def test_the_first_colon_parts_name_and_password() -> None:
    assert parse_basic(basic("a:b:c:")) == ("a", "b:c:")
    assert parse_basic(basic(":")) == ("", "")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "YTpi",
        "Bearer YTpi",
        "Basicly YTpi",
        "Basic\tYTpi",
        " Basic YTpi",
        "Basic YTpi YTpi",
        "Basic YTpi,Basic YTpi",
        "Basic Y Tpi",
        "Basic YTpi=",
        "Basic YTpiYw",
        "Basic YTpiYx==",  # the same bytes as YTpiYw==, in bits that mean nothing
        "Basic =YTpi",
        "Basic YT-_",
        "Basic YTpé",
        "Basic user:password",
        basic("no colon"),
        basic(b"a:\xff"),
        basic(b"a:\xed\xa0\x80"),
        basic("a:b\n"),
        basic("a\0:b"),
        basic("a:\x7f"),
        basic("a:\x9f"),
        basic("a:" + "b" * MAX_HEADER_BYTES),
    ],
)
def test_whatever_rfc_7617_does_not_allow_is_nobody(header: str | None) -> None:
    assert parse_basic(header) is None


@given(st.text())
def test_no_header_breaks_the_parser(header: str) -> None:
    parse_basic(header)
    parse_basic("Basic " + header)


@given(
    st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters=":")),
    st.text(st.characters(exclude_categories=("Cc", "Cs"))),
)
def test_what_a_browser_sends_is_what_it_was_given(username: str, password: str) -> None:
    assert parse_basic(basic(f"{username}:{password}")) == (username, password)


def test_the_challenge_asks_for_utf_8_and_escapes_the_realm() -> None:
    assert challenge("orders") == 'Basic realm="orders", charset="UTF-8"'
    assert challenge('the "old\\new" one') == 'Basic realm="the \\"old\\\\new\\" one", charset="UTF-8"'


@pytest.mark.parametrize("realm", ["", "é", "a\nb", "a\r\nSet-Cookie: x", "\x7f", None, 7])
def test_a_realm_that_is_no_printable_ascii_is_refused(realm: Any) -> None:
    with pytest.raises(ConfigurationError, match="realm="):
        challenge(realm)


# ---- a mapping ----


def test_a_known_user_with_the_right_password_is_let_in() -> None:
    credentials = Credentials({"ann": "secret", "bob": "b:ö", "": ""})

    assert verify(credentials, "ann", "secret") is True
    assert verify(credentials, "bob", "b:ö") is True
    assert verify(credentials, "", "") is True


@pytest.mark.parametrize(
    ("username", "password"),
    [("ann", "Secret"), ("ann", ""), ("ann", "secret "), ("Ann", "secret"), ("eve", "secret"), ("eve", ""), ("", "")],
)
def test_anybody_else_is_refused(username: str, password: str) -> None:
    assert verify(Credentials({"ann": "secret"}), username, password) is False


def test_an_empty_mapping_lets_nobody_in() -> None:
    credentials = Credentials({})

    assert credentials.n_users == 0
    assert verify(credentials, "", "") is False


def test_plain_passwords_need_no_hashing() -> None:
    credentials = Credentials({"ann": "secret"})

    assert not credentials.is_hashed
    assert not needs_hashing(credentials, "ann", "secret")
    assert not needs_hashing(credentials, "eve", "secret")


def test_known_and_unknown_users_are_compared_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []

    def compare_digest(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return False

    credentials = Credentials({"ann": "a long, long, long password"})
    monkeypatch.setattr(hmac, "compare_digest", compare_digest)

    verify(credentials, "ann", "x")
    verify(credentials, "eve", "x")

    assert compared == [(32, 32)] * 2


def test_a_mapping_that_changes_later_changes_nothing() -> None:
    users = {"ann": "secret"}
    credentials = Credentials(users)

    users["eve"] = "x"

    assert not verify(credentials, "eve", "x")


@pytest.mark.parametrize(
    ("users", "text"),
    [
        ({"a:b": "x"}, "'a:b' can never log in"),
        ({"a\n": "x"}, "can never log in"),
        ({"ann": "x\0"}, "'ann' can never log in"),
        ({"ann": None}, "see user 'ann'"),
        ({"ann": b"x"}, "see user 'ann'"),
        ({7: "x"}, "see user 7"),
        ([("ann", "x")], "a mapping"),
        ("ann:x", "a mapping"),
        ({"ann": BCRYPT}, "'ann' is a hash: use htpasswd="),
        ({"ann": PBKDF2}, "'ann' is a hash"),
        ({"ann": "$apr1$abcdefgh$0123456789abcdefghijkl"}, "'ann' is a hash"),
        ({"ann": "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="}, "'ann' is a hash"),
    ],
)
def test_a_mapping_that_cannot_work_is_refused_without_showing_passwords(users: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        Credentials(users)

    assert "$" not in str(caught.value)


@pytest.mark.parametrize("password", ["$2", "$2b$", "{SHA}", "$scrypt$", "$1$ is too much"])
def test_a_plain_password_may_begin_like_a_hash(password: str) -> None:
    assert verify(Credentials({"ann": password}), "ann", password)


def test_exactly_one_of_mapping_and_file_is_wanted(tmp_path: Path) -> None:
    for arguments in ({}, {"users": {"a": "b"}, "htpasswd": htpasswd(tmp_path, f"ann:{BCRYPT}")}):
        with pytest.raises(ConfigurationError, match="either users= or htpasswd="):
            Credentials(**arguments)  # type: ignore[arg-type]


# ---- a file ----


@pytest.mark.parametrize("prefix", ["$2y$", "$2b$", "$2a$"])
def test_bcrypt_lines_are_understood(tmp_path: Path, prefix: str) -> None:
    credentials = Credentials(htpasswd=htpasswd(tmp_path, f"ann:{prefix}{BCRYPT[4:]}"))

    assert verify(credentials, "ann", "secret") is True
    assert verify(credentials, "ann", "Secret") is False
    assert verify(credentials, "eve", "secret") is False


@pytest.mark.parametrize("scheme", ["scrypt", "pbkdf2-sha256"])
def test_hashes_of_our_own_are_understood(tmp_path: Path, scheme: Any) -> None:
    stored = hash_password("pässword: 1", scheme=scheme)
    credentials = Credentials(htpasswd=htpasswd(tmp_path, f"ann:{stored}"))

    assert verify(credentials, "ann", "pässword: 1") is True
    assert verify(credentials, "ann", "password: 1") is False


def test_a_hash_of_our_own_is_salted() -> None:
    assert hash_password("x") != hash_password("x")


def test_a_password_that_no_browser_can_send_is_not_hashed() -> None:
    with pytest.raises(ConfigurationError, match="control characters"):
        hash_password("a\nb")


def test_comments_blank_lines_and_line_ends_of_windows_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "htpasswd"
    file.write_bytes(f"\ufeff# who may\r\n\r\nann:{BCRYPT}\r\nbob:{PBKDF2}".encode())

    credentials = Credentials(htpasswd=str(file))

    assert credentials.n_users == 2
    assert verify(credentials, "ann", "secret")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("bob:$apr1$abcdefgh$0123456789abcdefghijkl", "user 'bob' has an apr1"),
        ("bob:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "user 'bob' has a SHA-1 hash"),
        ("bob:$1$abcdefgh$0123456789abcdefghijkl", "MD5 crypt"),
        ("bob:$5$abcdefgh$0123456789", "SHA crypt"),
        ("bob:$6$abcdefgh$0123456789", "SHA crypt"),
        ("bob:rqXexS6ZhobKA", "a plain password or a crypt hash"),
        ("bob:verysecret", "a plain password or a crypt hash"),
        (f"bob:{BCRYPT[:-1]}", "damaged or of an outdated kind"),
        (f"bob:$2x${BCRYPT[4:]}", "damaged or of an outdated kind"),
        (f"bob:{BCRYPT[:28]}z{BCRYPT[29:]}", "damaged or of an outdated kind"),
        (f"bob:$2b$31${BCRYPT[7:]}", "bcrypt's cost 31"),
        ("bob:$scrypt$ln=14,r=8,p=5$c2FsdHNhbHQ", "damaged scrypt"),
        ("bob:$scrypt$ln=0,r=8,p=5$c2FsdHNhbHQ$c2FsdHNhbHQ", "damaged scrypt"),
        ("bob:$scrypt$ln=24,r=8,p=5$c2FsdHNhbHQ$c2FsdHNhbHQ", "a scrypt hash that needs more"),
        ("bob:$scrypt$ln=14,r=8,p=99$c2FsdHNhbHQ$c2FsdHNhbHQ", "a scrypt hash that needs more"),
        ("bob:$pbkdf2-sha512$i=1$c2FsdHNhbHQ$c2FsdHNhbHQ", "unknown PBKDF2"),
        ("bob:$pbkdf2-sha256$i=0$c2FsdHNhbHQ$c2FsdHNhbHQ", "damaged PBKDF2"),
        ("bob:$pbkdf2-sha256$i=99999999$c2FsdHNhbHQ$c2FsdHNhbHQ", "a PBKDF2 hash of more than"),
        (f"bob:{BCRYPT}:comment", "damaged"),
    ],
)
def test_a_hash_that_is_not_taken_names_line_user_and_remedy(tmp_path: Path, line: str, text: str) -> None:
    file = htpasswd(tmp_path, f"ann:{BCRYPT}", "", line)

    with pytest.raises(ConfigurationError) as caught:
        Credentials(htpasswd=file)

    message = str(caught.value)
    assert f"'{file}', line 3: user 'bob' has " in message
    assert text in message
    assert f"htpasswd -B {file} bob" in message
    assert line.removeprefix("bob:") not in message


@pytest.mark.parametrize("line", ["ann", ":", "ann:", f":{BCRYPT}", f"a\x01:{BCRYPT}"])
def test_a_line_that_is_no_entry_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigurationError, match="line 1: 'user:hash' is wanted"):
        Credentials(htpasswd=htpasswd(tmp_path, line))


def test_a_user_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="line 2: user 'ann' stands in it twice"):
        Credentials(htpasswd=htpasswd(tmp_path, f"ann:{BCRYPT}", f"ann:{PBKDF2}"))


def make_directory(path: Path) -> None:
    path.mkdir()


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_huge(path: Path) -> None:
    path.write_bytes(b"#" * (MAX_FILE_BYTES + 1))


def make_latin(path: Path) -> None:
    path.write_bytes(f"j\xfcrgen:{BCRYPT}".encode("latin-1"))


@pytest.mark.parametrize("make", [lambda path: None, make_directory, make_pipe, make_huge, make_latin])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "htpasswd"
    make(path)

    with pytest.raises(ConfigurationError, match="htpasswd"):
        Credentials(htpasswd=path)


def test_an_empty_file_lets_nobody_in(tmp_path: Path) -> None:
    credentials = Credentials(htpasswd=htpasswd(tmp_path))

    assert credentials.n_users == 0
    assert verify(credentials, "", "") is False


def test_bcrypt_is_named_with_its_extra_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bcrypt", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'compysition\[http\]'"):
        Credentials(htpasswd=htpasswd(tmp_path, f"ann:{BCRYPT}"))
    assert Credentials(htpasswd=htpasswd(tmp_path, f"ann:{PBKDF2}")).n_users == 1


def test_bcrypt_is_imported_only_for_a_file_that_needs_it(tmp_path: Path) -> None:
    file = htpasswd(tmp_path, f"ann:{PBKDF2}")
    script = (
        "import sys\nfrom compysition.credentials import Credentials\n"
        f"Credentials(htpasswd={str(file)!r})\nprint('bcrypt' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == "False\n"


# ---- what a check costs ----


def test_an_unknown_user_costs_the_same_hash_as_a_known_one(tmp_path: Path, counted: list[bytes]) -> None:
    credentials = Credentials(htpasswd=htpasswd(tmp_path, f"ann:{BCRYPT}"))

    verify(credentials, "ann", "wrong")
    verify(credentials, "eve", "wrong")

    assert counted == [b"wrong"] * 2


def test_an_unknown_user_is_refused_even_with_the_stand_ins_password(tmp_path: Path, counted: list[bytes]) -> None:
    credentials = Credentials(htpasswd=htpasswd(tmp_path, f"ann:{BCRYPT}"))

    for _ in range(2):
        assert verify(credentials, "eve", "secret") is False

    assert counted == [b"secret"] * 2


def test_an_unknown_user_always_meets_the_same_stand_in(tmp_path: Path) -> None:
    stored = [bcrypt.hashpw(b"x", bcrypt.gensalt(4)).decode() for _ in range(8)]
    lines = [f"user{number}:{text}" for number, text in enumerate(stored)]
    credentials = Credentials(htpasswd=htpasswd(tmp_path, *lines))

    assert len({credentials.check("eve", "x").key for _ in range(20)}) == 1


@pytest.mark.parametrize("username", ["ann", "eve"])
def test_bcrypt_refuses_what_it_would_cut_at_the_same_cost(tmp_path: Path, counted: list[bytes], username: str) -> None:
    password = "é" * 36
    stored = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    credentials = Credentials(htpasswd=htpasswd(tmp_path, f"ann:{stored}"))

    assert verify(credentials, "ann", password) is True
    assert verify(credentials, username, password + "x") is False
    assert len(counted) == 2


def test_other_hashes_take_long_passwords(tmp_path: Path) -> None:
    stored = hash_password("x" * 100, scheme="pbkdf2-sha256")
    credentials = Credentials(htpasswd=htpasswd(tmp_path, f"ann:{stored}"))

    assert verify(credentials, "ann", "x" * 100) is True
    assert verify(credentials, "ann", "x" * 99) is False


def test_good_credentials_are_not_hashed_again_for_a_while(tmp_path: Path, counted: list[bytes], clock: Clock) -> None:
    credentials = Credentials(htpasswd=htpasswd(tmp_path, f"ann:{BCRYPT}"), clock=clock)

    assert needs_hashing(credentials, "ann", "secret")
    assert verify(credentials, "ann", "secret")
    clock.now_s += CACHE_S - 1
    assert not needs_hashing(credentials, "ann", "secret")
    assert verify(credentials, "ann", "secret")
    assert len(counted) == 1

    clock.now_s += 1
    assert needs_hashing(credentials, "ann", "secret")
    assert verify(credentials, "ann", "secret")
    assert len(counted) == 2


def test_bad_credentials_are_hashed_each_time(tmp_path: Path, counted: list[bytes]) -> None:
    credentials = Credentials(htpasswd=htpasswd(tmp_path, f"ann:{BCRYPT}"))
    verify(credentials, "ann", "secret")

    for _ in range(3):
        assert needs_hashing(credentials, "ann", "wrong")
        assert not verify(credentials, "ann", "wrong")

    assert len(counted) == 4


def test_the_cache_is_bounded_and_the_oldest_goes_first(tmp_path: Path, clock: Clock) -> None:
    credentials = Credentials(htpasswd=htpasswd(tmp_path, f"ann:{BCRYPT}"), clock=clock)

    for number in range(CACHE_SIZE + 10):
        credentials.remember(credentials.check("ann", f"password {number}"), True)

    assert len(credentials._good) == CACHE_SIZE
    assert needs_hashing(credentials, "ann", "password 9")
    assert not needs_hashing(credentials, "ann", "password 10")


def test_names_and_passwords_that_run_together_are_told_apart(tmp_path: Path) -> None:
    credentials = Credentials(htpasswd=htpasswd(tmp_path, f"a:{BCRYPT}", f"ab:{BCRYPT}"))

    assert credentials.check("a", "bc").key != credentials.check("ab", "c").key


def test_no_password_shows(tmp_path: Path) -> None:
    credentials = Credentials(htpasswd=htpasswd(tmp_path, f"ann:{BCRYPT}"))
    verify(credentials, "ann", "secret")
    shown = f"{credentials!r} {credentials.check('ann', 'secret')!r} {Credentials({'ann': 'secret'})!r}"

    assert "secret" not in shown
    assert "$2b" not in shown


# ---- a file that changes ----


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = htpasswd(tmp_path, f"ann:{BCRYPT}")
    credentials = Credentials(htpasswd=file)

    htpasswd(tmp_path, f"ann:{BCRYPT}", f"bob:{BCRYPT}")

    assert verify(credentials, "bob", "secret")
    assert credentials.n_users == 2


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_read_again(tmp_path: Path) -> None:
    file = htpasswd(tmp_path, f"ann:{BCRYPT}")
    credentials = Credentials(htpasswd=file)
    status = file.stat()
    (tmp_path / "new").write_text(f"bob:{BCRYPT}\n")
    os.utime(tmp_path / "new", ns=(status.st_atime_ns, status.st_mtime_ns))

    (tmp_path / "new").replace(file)

    assert verify(credentials, "bob", "secret")
    assert not verify(credentials, "ann", "secret")


def test_a_new_hash_forgets_the_good_credentials_of_the_old_one(tmp_path: Path, clock: Clock) -> None:
    file = htpasswd(tmp_path, f"ann:{BCRYPT}")
    credentials = Credentials(htpasswd=file, clock=clock)
    assert verify(credentials, "ann", "secret")

    new = bcrypt.hashpw(b"changed", bcrypt.gensalt(4)).decode()
    htpasswd(tmp_path, "# changed", f"ann:{new}")

    assert not verify(credentials, "ann", "secret")
    assert verify(credentials, "ann", "changed")


def test_a_removed_user_is_out_at_once(tmp_path: Path) -> None:
    file = htpasswd(tmp_path, f"ann:{BCRYPT}", f"bob:{BCRYPT}")
    credentials = Credentials(htpasswd=file)
    assert verify(credentials, "ann", "secret")

    htpasswd(tmp_path, f"bob:{BCRYPT}")

    assert not verify(credentials, "ann", "secret")


def test_an_emptied_file_lets_nobody_in(tmp_path: Path) -> None:
    file = htpasswd(tmp_path, f"ann:{BCRYPT}")
    credentials = Credentials(htpasswd=file)
    assert verify(credentials, "ann", "secret")

    file.write_text("")

    assert not verify(credentials, "ann", "secret")


@pytest.mark.parametrize("how", ["broken", "missing", "a directory"])
def test_a_broken_new_file_keeps_the_old_users_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    file = htpasswd(tmp_path, f"ann:{BCRYPT}")
    credentials = Credentials(htpasswd=file)
    if how == "broken":
        htpasswd(tmp_path, f"ann:{BCRYPT}", "bob:verysecret")
    else:
        file.unlink()
        if how == "a directory":
            file.mkdir()

    with caplog.at_level(logging.INFO, "compysition"):
        for _ in range(3):
            assert verify(credentials, "ann", "secret")
            assert not verify(credentials, "bob", "verysecret")

    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "the 1 users read before stay" in record.getMessage()
    assert "verysecret" not in record.getMessage()


def test_a_file_that_is_mended_is_taken(tmp_path: Path) -> None:
    file = htpasswd(tmp_path, f"ann:{BCRYPT}")
    credentials = Credentials(htpasswd=file)
    file.unlink()
    assert verify(credentials, "ann", "secret")

    htpasswd(tmp_path, f"bob:{BCRYPT}")

    assert verify(credentials, "bob", "secret")


def test_a_running_check_is_not_touched_by_a_change(tmp_path: Path) -> None:
    credentials = Credentials(htpasswd=htpasswd(tmp_path, f"ann:{BCRYPT}"))
    check = credentials.check("ann", "secret")

    htpasswd(tmp_path, f"ann:{bcrypt.hashpw(b'changed', bcrypt.gensalt(4)).decode()}", "# changed")
    credentials.remember(check, check.run())

    assert check.run()
    assert not verify(credentials, "ann", "secret")
