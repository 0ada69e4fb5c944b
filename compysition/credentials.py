# SPDX-License-Identifier: Apache-2.0
"""Who may log in: user names and passwords, plain or hashed, and the words of HTTP's Basic scheme.

`Credentials` says in two steps whether somebody is known. `Credentials.check` is cheap and belongs to one thread: it
re-reads a changed file, looks into the cache of good credentials, and decides what needs no hashing. What is left,
`Check.run`, is 50–500 ms of pure CPU that releases the GIL: run it in any thread, then hand the check to
`Credentials.remember`. Must not know actors or events. Read next: `compysition.actors.basicauth`, which runs the hashes
beside the hub.
"""

import base64
import binascii
import hashlib
import hmac
import logging
import os
import re
import secrets
import shlex
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Final, Literal

from compysition.errors import ConfigurationError, MissingExtraError

logger = logging.getLogger(__name__)

#: Good credentials are not hashed again for so long, in seconds: a page with twenty requests costs one hash …
CACHE_S: Final = 60.0
#: … and so many are kept, the oldest going first.
CACHE_SIZE: Final = 1_000
#: An `Authorization` header above this is not looked at, in bytes.
MAX_HEADER_BYTES: Final = 4_096
#: An htpasswd file above this is refused, in bytes: it is read by the hub's thread when it changes.
MAX_FILE_BYTES: Final = 1_048_576
#: bcrypt ignores what follows; so longer passwords are refused, not cut.
MAX_BCRYPT_BYTES: Final = 72
#: The most that one check may cost, so that a line in a file cannot occupy a core for minutes: bcrypt's cost (2^14
#: rounds take about a second), PBKDF2's iterations, scrypt's memory in bytes and its parallelism.
MAX_BCRYPT_COST: Final = 14
MAX_PBKDF2_ITERATIONS: Final = 5_000_000
MAX_SCRYPT_BYTES: Final = 64 * 1_048_576
MAX_SCRYPT_PARALLELISM: Final = 16
#: What `hash_password` uses: 16 MiB for one check, and as hard as OWASP's password storage cheat sheet asks for (2025).
SCRYPT_LOG2_N: Final = 14
SCRYPT_R: Final = 8
SCRYPT_P: Final = 5
PBKDF2_ITERATIONS: Final = 600_000
SALT_BYTES: Final = 16
HASH_BYTES: Final = 32

# The 22nd character of the salt holds two bits only: the library refuses any other at the time of checking.
_BCRYPT: Final = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_B64: Final = r"([A-Za-z0-9+/]{11,})"
_SCRYPT: Final = re.compile(rf"\$scrypt\$ln=(\d{{1,2}}),r=(\d{{1,3}}),p=(\d{{1,2}})\${_B64}\${_B64}")
_PBKDF2: Final = re.compile(rf"\$pbkdf2-sha256\$i=(\d{{1,8}})\${_B64}\${_B64}")
#: Begins like a hash, and is long enough to be one.
_LOOKS_HASHED: Final = re.compile(r"\$(?:2[abxy]|scrypt|pbkdf2[-a-z0-9]*|apr1|[156y])\$.{20}|\{SHA\}.{28}$")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
#: Hashes that are refused, by how they begin.
_WEAK: Final = {
    "$apr1$": "an apr1 (MD5) hash",
    "{SHA}": "a SHA-1 hash without salt",
    "{SSHA}": "a SHA-1 hash",
    "$1$": "an MD5 crypt hash",
    "$5$": "a SHA crypt hash",
    "$6$": "a SHA crypt hash",
    "$y$": "a yescrypt hash",
    "$2": "a bcrypt hash that is damaged or of an outdated kind",
    "$scrypt$": "a damaged scrypt hash",
    "$pbkdf2": "a damaged or unknown PBKDF2 hash",
}


# ---- HTTP's words (RFC 7617) ----------------------------------------------------------------------------------------


def parse_basic(header: str | None) -> tuple[str, str] | None:
    """User name and password from an `Authorization` header, or None if it is anything else than RFC 7617 wants.

    The scheme in any case, then exactly one token of strict base64, in it UTF-8 without control characters, split at
    the first colon: a password may hold further ones.

    >>> parse_basic("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
    ('Aladdin', 'open sesame')
    >>> parse_basic("Bearer abc") is None
    True
    """
    if not isinstance(header, str) or len(header) > MAX_HEADER_BYTES or not header.isascii():
        return None
    scheme, _, token = header.partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "basic" or not token:
        return None
    try:
        decoded = binascii.a2b_base64(token, strict_mode=True)
        text = decoded.decode()
    except ValueError:  # of both: binascii.Error and UnicodeDecodeError
        return None
    # Strict mode lets the unused bits of the last character be anything.
    if binascii.b2a_base64(decoded, newline=False) != token.encode() or _CONTROL.search(text):
        return None
    username, colon, password = text.partition(":")
    return (username, password) if colon else None


def challenge(realm: str) -> str:
    """Value of the `WWW-Authenticate` header (RFC 7617, section 2.1).

    Raises:
        ConfigurationError: The realm is empty or holds anything but printable ASCII.

    >>> challenge("orders")
    'Basic realm="orders", charset="UTF-8"'
    """
    if not isinstance(realm, str) or not realm or not (realm.isascii() and realm.isprintable()):
        raise ConfigurationError(f"realm={realm!r}: one or more printable ASCII characters are wanted")
    escaped = realm.replace("\\", "\\\\").replace('"', '\\"')
    return f'Basic realm="{escaped}", charset="UTF-8"'


# ---- hashes ---------------------------------------------------------------------------------------------------------


def hash_password(password: str, *, scheme: Literal["scrypt", "pbkdf2-sha256"] = "scrypt") -> str:
    """A new hash of a password, for the part of an htpasswd line behind the colon. Takes 0.1–0.3 s of CPU.

    Raises:
        ConfigurationError: The password holds control characters: no browser could send it.
    """
    if _CONTROL.search(password):
        raise ConfigurationError("a password with control characters cannot be sent in HTTP: choose another")
    salt, secret = secrets.token_bytes(SALT_BYTES), password.encode()
    if scheme == "scrypt":
        made = _Scrypt(SCRYPT_LOG2_N, SCRYPT_R, SCRYPT_P, salt).derive(secret, HASH_BYTES)
        settings = f"$scrypt$ln={SCRYPT_LOG2_N},r={SCRYPT_R},p={SCRYPT_P}"
    else:
        made = hashlib.pbkdf2_hmac("sha256", secret, salt, PBKDF2_ITERATIONS, HASH_BYTES)
        settings = f"$pbkdf2-sha256$i={PBKDF2_ITERATIONS}"
    return f"{settings}${_to_base64(salt)}${_to_base64(made)}"


@dataclass(frozen=True, slots=True)
class _Entry:
    """One stored hash and how to compare a password with it; comparing costs the same whatever comes out."""

    stored: bytes = field(repr=False)
    matches: Callable[[bytes], bool] = field(repr=False)


def _entry(text: str) -> _Entry | str:
    """An entry for a stored hash; or in words what is wrong with it, without the hash."""
    if found := _BCRYPT.fullmatch(text):
        if not 4 <= int(found[1]) <= MAX_BCRYPT_COST:
            return f"bcrypt's cost {int(found[1])}, and {MAX_BCRYPT_COST} is the most that is taken"
        return _Entry(text.encode(), partial(_bcrypt_matches, _bcrypt(), text.encode()))
    if found := _SCRYPT.fullmatch(text):
        log2_n, r, p = int(found[1]), int(found[2]), int(found[3])
        salt, wanted = _from_base64(found[4]), _from_base64(found[5])
        if not (1 <= log2_n <= 24 and r and p and salt and wanted):
            return "a damaged scrypt hash"
        if 128 * r * 2**log2_n > MAX_SCRYPT_BYTES or p > MAX_SCRYPT_PARALLELISM:
            return f"a scrypt hash that needs more than {MAX_SCRYPT_BYTES} bytes or p={MAX_SCRYPT_PARALLELISM}"
        return _Entry(text.encode(), partial(_scrypt_matches, _Scrypt(log2_n, r, p, salt), wanted))
    if found := _PBKDF2.fullmatch(text):
        iterations, salt, wanted = int(found[1]), _from_base64(found[2]), _from_base64(found[3])
        if not (iterations and salt and wanted):
            return "a damaged PBKDF2 hash"
        if iterations > MAX_PBKDF2_ITERATIONS:
            return f"a PBKDF2 hash of more than {MAX_PBKDF2_ITERATIONS} iterations"
        return _Entry(text.encode(), partial(_pbkdf2_matches, iterations, salt, wanted))
    return next((words for start, words in _WEAK.items() if text.startswith(start)), "a plain password or a crypt hash")


def _bcrypt() -> ModuleType:
    try:
        import bcrypt  # an extra, and only for files that hold such hashes
    except ModuleNotFoundError as err:
        raise MissingExtraError("a bcrypt hash", "http") from err
    return bcrypt


def _bcrypt_matches(bcrypt: ModuleType, stored: bytes, password: bytes) -> bool:
    # A password that is too long costs the same work, so that its user is not told apart from an unknown one.
    is_good: bool = bcrypt.checkpw(password[:MAX_BCRYPT_BYTES], stored)
    return is_good and len(password) <= MAX_BCRYPT_BYTES


@dataclass(frozen=True, slots=True)
class _Scrypt:
    log2_n: int
    r: int
    p: int
    salt: bytes = field(repr=False)

    def derive(self, password: bytes, length: int) -> bytes:
        # OpenSSL counts a little more than the 128·r·N bytes of the algorithm.
        limit = 2 * MAX_SCRYPT_BYTES
        return hashlib.scrypt(
            password, salt=self.salt, n=2**self.log2_n, r=self.r, p=self.p, maxmem=limit, dklen=length
        )


def _scrypt_matches(settings: _Scrypt, wanted: bytes, password: bytes) -> bool:
    return hmac.compare_digest(settings.derive(password, len(wanted)), wanted)


def _pbkdf2_matches(iterations: int, salt: bytes, wanted: bytes, password: bytes) -> bool:
    return hmac.compare_digest(hashlib.pbkdf2_hmac("sha256", password, salt, iterations, len(wanted)), wanted)


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _from_base64(text: str) -> bytes:
    """What the PHC string format means by base64: no padding. Empty if it is none."""
    try:
        return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except binascii.Error:
        return b""


# ---- who is known ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Check:
    """One question to `Credentials`. Holds a password: its `repr` does not."""

    #: The answer, or None if `run` has to find it.
    verdict: bool | None
    #: The same for the same user, password and stored hash; tells nothing about them.
    key: bytes = field(default=b"", repr=False)
    _entry: _Entry | None = field(default=None, repr=False)
    _is_known: bool = field(default=False, repr=False)
    _password: bytes = field(default=b"", repr=False)

    def run(self) -> bool:
        """Hash the password and compare: blocking work for any thread, as much for unknown users as for known ones."""
        if self.verdict is not None or self._entry is None:
            return bool(self.verdict)
        is_match = self._entry.matches(self._password)
        return is_match and self._is_known


# A plain password is answered at once; nothing else about the question is of use then.
_YES: Final = Check(True)
_NO: Final = Check(False)


class Credentials:
    """Users and their passwords, from a mapping or from an htpasswd file. Used by one thread, but for `Check.run`.

    The file holds lines ``user:hash`` as ``htpasswd -B`` writes them (bcrypt), or with a hash of `hash_password`. It
    is read again when it changes; while the new file is broken or missing, the users read last stay, and it is logged.

    Args:
        users: User name to plain password. Compared without hashing, in constant time.
        htpasswd: Path of the file; one of the two is wanted.
        clock: Seconds that only go forward, for the cache.

    Raises:
        ConfigurationError: What is given cannot be used: file and line, what is wrong there, and how to mend it.
        MissingExtraError: The file holds bcrypt hashes and the extra ``http`` is not installed.
    """

    def __init__(
        self,
        users: Mapping[str, str] | None = None,
        *,
        htpasswd: str | Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if (users is None) == (htpasswd is None):
            raise ConfigurationError("either users= or htpasswd= is wanted, to say who may log in")
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._nobody = secrets.token_bytes(32)
        #: Key of a check to the time until which it counts as good; the oldest first.
        self._good: dict[bytes, float] = {}
        self._plain: dict[str, bytes] = {}
        self._hashed: dict[str, _Entry] = {}
        self._stand_ins: list[_Entry] = []
        self._file = None if htpasswd is None else Path(htpasswd)
        self._seen: object = None
        if users is not None:
            self._plain = {user: self._digest(password) for user, password in _checked_users(users)}
        if self._file is not None:
            self._take(*_read(self._file))

    def __repr__(self) -> str:
        return f"<Credentials of {self.n_users} users{f' from {str(self._file)!r}' if self._file else ''}>"

    @property
    def n_users(self) -> int:
        """How many users are known."""
        return len(self._plain) + len(self._hashed)

    @property
    def is_hashed(self) -> bool:
        """Whether a check may leave work for `Check.run`."""
        return self._file is not None

    def check(self, username: str, password: str) -> Check:
        """Ask for one user: answered at once for plain passwords and cached ones, else `Check.run` finds the answer."""
        secret = _bytes(password)
        if self._file is None:
            is_good = hmac.compare_digest(self._digest(secret), self._plain.get(username, self._nobody))
            return _YES if is_good else _NO
        self._refresh(self._file)
        entry = self._hashed.get(username)
        is_known = entry is not None
        if entry is None:
            if not self._stand_ins:
                return Check(False)
            # An unknown user costs what a known one does: always the same stranger's hash, and never a yes.
            lot = int.from_bytes(self._mac(_bytes(username))[:8], "big")
            entry = self._stand_ins[lot % len(self._stand_ins)]
        name = _bytes(username)
        key = self._mac(struct.pack("!?QQ", is_known, len(name), len(secret)) + name + secret + entry.stored)
        is_good = is_known and self._good.get(key, 0.0) > self._clock()
        return Check(True if is_good else None, key, entry, is_known, secret)

    def remember(self, check: Check, verdict: bool) -> bool:
        """Keep what `check.run()` found, if it was yes, for `CACHE_S`; returns the verdict."""
        if verdict and check.verdict is None:
            self._good.pop(check.key, None)
            while len(self._good) >= CACHE_SIZE:
                del self._good[next(iter(self._good))]
            self._good[check.key] = self._clock() + CACHE_S
        return verdict

    def _mac(self, data: bytes) -> bytes:
        return hmac.digest(self._secret, data, "sha256")

    def _digest(self, secret: bytes) -> bytes:
        """Of one length for all passwords, so that comparing tells nothing of theirs. A third of the time of `_mac`."""
        return hashlib.blake2b(secret, digest_size=32, key=self._secret).digest()

    def _take(self, entries: dict[str, _Entry], signature: object) -> None:
        self._hashed, self._stand_ins, self._seen = entries, list(entries.values()), signature

    def _refresh(self, path: Path) -> None:
        try:
            signature: object = _signature(path.stat())
        except OSError as err:
            signature = err.errno
        if signature == self._seen:
            return
        # Whatever comes of it, this state of the file is not looked at twice.
        self._seen = signature
        try:
            self._take(*_read(path))
        except ConfigurationError as err:
            logger.error("%s; the %d users read before stay", err, self.n_users)
        else:
            logger.info("%s was read again: %d users", path, self.n_users)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _signature(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


def _checked_users(users: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    if not isinstance(users, Mapping):
        raise ConfigurationError(f"users= wants a mapping of user names to passwords, not {type(users).__name__}")
    for user, password in users.items():
        if not isinstance(user, str) or not isinstance(password, str):
            raise ConfigurationError(f"users= wants text for names and passwords; see user {user!r}")
        if ":" in user or _CONTROL.search(user) or _CONTROL.search(password):
            raise ConfigurationError(
                f"users=: user {user!r} can never log in: no colon in the name, no control characters in either"
            )
        if _LOOKS_HASHED.match(password):
            raise ConfigurationError(f"users= wants plain passwords; that of user {user!r} is a hash: use htpasswd=")
        yield user, _bytes(password)


def _read(path: Path) -> tuple[dict[str, _Entry], tuple[int, ...]]:
    """All entries of a file, and the state it was read in."""
    try:
        if not path.is_file():  # opening a pipe would wait for somebody to write
            raise ConfigurationError(f"htpasswd file {str(path)!r}: there is no such file")
        with path.open("rb") as file:
            signature = _signature(os.fstat(file.fileno()))
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigurationError(f"htpasswd file {str(path)!r} is larger than {MAX_FILE_BYTES} bytes")
        lines = content.decode("utf-8-sig").split("\n")
    except OSError as err:
        raise ConfigurationError(f"htpasswd file {str(path)!r} cannot be read: {err.strerror or err}") from err
    except UnicodeDecodeError as err:
        raise ConfigurationError(f"htpasswd file {str(path)!r} is not UTF-8 at byte {err.start}") from err
    entries: dict[str, _Entry] = {}
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r ")
        if not text or text.startswith("#"):
            continue
        where = f"htpasswd file {str(path)!r}, line {number}"
        user, colon, stored = text.partition(":")
        if not (user and colon and stored) or _CONTROL.search(user):
            raise ConfigurationError(f"{where}: 'user:hash' is wanted")
        if user in entries:
            raise ConfigurationError(f"{where}: user {user!r} stands in it twice; take one line out")
        entry = _entry(stored)
        if isinstance(entry, str):
            remedy = f"write it again with bcrypt: htpasswd -B {shlex.quote(str(path))} {shlex.quote(user)}"
            raise ConfigurationError(f"{where}: user {user!r} has {entry}; {remedy}")
        entries[user] = entry
    return entries, signature
