# SPDX-License-Identifier: Apache-2.0
"""The pages: what they show is run, and what they name exists.

Pages are ``README.md`` and ``docs/**/*.md``. The conventions are few:

- A fenced ``python`` block is a whole script. It is run as one: plain Python, a process and an empty directory of its
  own. It has to end by itself with exit code 0.
- A fenced ``text`` block right behind it is what it prints on standard output, exactly; without one it prints nothing.
  Ids of events differ from run to run, so each is taken for any other.
- ``<!-- not run: why -->`` before a block keeps it from being run. It still has to be Python.
- ``<!-- examples/NAME.py -->`` before a block says that it is that file without its licence line. The tests of the
  examples run it.
- ``<!-- serves: NAME.py -->`` and ``<!-- file: NAME -->`` belong to services: `test_served_docs.py`.

Files are named in backquotes with their path in the repository, or in the package; a test is named
``tests/…/test_x.py::test_y``.
"""

import ast
import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from compysition import ActorOptions, errors
from compysition import deadletter as reasons
from compysition.flow.findings import Code
from compysition.ledger import Outcome
from compysition.snapshot import ActorSnapshot
from tests.unit.test_layers import LAYERS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "compysition"
DOCS = ROOT / "docs"
ARCHITECTURE = DOCS / "architecture.md"
GLOSSARY = DOCS / "glossary.md"
DECISIONS = DOCS / "decisions"
PAGES = [*(page for page in [ROOT / "README.md"] if page.exists()), *sorted(DOCS.rglob("*.md"))]

#: A script of a page has to be done after this many seconds.
SCRIPT_S = 20.0
#: Names of files that stand for any file.
PLACEHOLDERS = frozenset({"script.py", "python script.py"})

EVENT_ID = re.compile(r"\b[0-9a-f]{16}-[0-9a-f]+\b")
FENCE = re.compile(r"^```(\w*)")
COMMENT = re.compile(r"^<!--\s*(.*?)\s*-->$")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
QUOTED = re.compile(r"`([^`\n]+)`")
NAMED_FILE = re.compile(r"^[\w./-]+\.(?:py|md|toml|xsl|xml)$")
NAMED_TEST = re.compile(r"\b(tests/[\w/]+\.py)::(\w+)")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# ---- reading a page ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `line` is that of its first line of text, `comment` the HTML comment right before it."""

    page: Path
    line: int
    language: str
    text: str
    comment: str
    #: The text block right behind a python or sh block; None if there is none.
    output: str | None

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of `page`, in order."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    comment = ""
    is_behind = False  # nothing but empty lines since the last block
    number = 0
    while number < len(lines):
        line = lines[number]
        fence = FENCE.match(line)
        if fence is None:
            note = COMMENT.match(line)
            if line.strip():
                comment = note[1] if note else ""
                is_behind = False
            number += 1
            continue
        end = next(n for n in range(number + 1, len(lines)) if lines[n].startswith("```"))
        text = "".join(f"{text}\n" for text in lines[number + 1 : end])
        language = fence[1]
        if language == "text" and is_behind and found[-1].language in {"python", "sh"} and found[-1].output is None:
            found[-1] = dataclasses.replace(found[-1], output=text)
        else:
            found.append(Block(page, number + 2, language, text, comment, None))
        comment, is_behind = "", True
        number = end + 1
    return found


def prose_of(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def rows_of(page: Path, heading: str) -> list[list[str]]:
    """The rows of the tables under `heading`, without their heads."""
    text = prose_of(page)
    head = re.search(rf"^(#+) {re.escape(heading)}$", text, flags=re.MULTILINE)
    assert head is not None, f"{name_of(page)} has no heading {heading!r}"
    section = re.split(rf"^#{{1,{len(head[1])}}} ", text[head.end() :], maxsplit=1, flags=re.MULTILINE)[0]
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    dividers = [number for number, row in enumerate(rows) if all(set(cell) <= set("-: ") for cell in row)]
    skipped = {*dividers, *(number - 1 for number in dividers)}
    return [row for number, row in enumerate(rows) if number not in skipped]


def quoted_in(text: str) -> list[str]:
    """What stands in backquotes."""
    return QUOTED.findall(text)


def find_file(name: str, page: Path) -> Path | None:
    """The file that `page` calls `name`."""
    for place in (ROOT, PACKAGE, PACKAGE / "http", PACKAGE / "actors", PACKAGE / "cli", DOCS, page.parent):
        if (place / name).exists():
            return place / name
    return None


def slug_of(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors_of(file: Path) -> set[str]:
    """What can be linked to in `file`: headings, and in the glossary, terms."""
    if file.suffix != ".md" or not file.is_file():
        return set()
    headings = re.findall(r"^#+ (.+)$", prose_of(file), flags=re.MULTILINE)
    terms = [term for term, _ in glossary()] if file == GLOSSARY else []
    return {slug_of(text) for text in (*headings, *terms)}


BLOCKS = [block for page in PAGES for block in blocks_of(page) if block.language == "python"]
RUN = [block for block in BLOCKS if not block.comment.startswith(("not run:", "examples/", "serves:"))]
NOT_RUN = [block for block in BLOCKS if block.comment.startswith("not run:")]
EXAMPLES = [block for block in BLOCKS if block.comment.startswith("examples/")]


# ---- code ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_script_prints_what_the_page_says(block: Block, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(block.text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}

    done = subprocess.run(
        [sys.executable, script.name],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=SCRIPT_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert EVENT_ID.sub("ID", done.stdout) == EVENT_ID.sub("ID", block.output or ""), done.stderr


def test_a_script_that_is_not_run_has_a_reason_and_is_python() -> None:
    for block in NOT_RUN:
        assert block.comment.removeprefix("not run:").strip(), block
        assert block.output is None, f"{block}: nobody checks this output"
        ast.parse(block.text)


def test_a_script_that_is_an_example_is_that_file() -> None:
    for block in EXAMPLES:
        lines = (ROOT / block.comment).read_text(encoding="utf-8").splitlines(keepends=True)
        code = [line for line in lines if not line.startswith("# SPDX-License-Identifier:")]
        assert block.text == "".join(code).lstrip("\n"), block


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_fence_is_closed_and_says_what_is_in_it(page: Path) -> None:
    fences = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("```")]
    assert len(fences) % 2 == 0
    assert all(len(fence) > 3 for fence in fences[::2]), "say what is in it: python, text, sh"


# ---- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for target in LINK.findall(prose_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            dead.append(target)
    assert not dead


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    saved = {block.comment.partition(":")[2].strip() for block in blocks_of(page)}  # by the reader
    named = {name for name in quoted_in(prose_of(page)) if NAMED_FILE.match(name)} - PLACEHOLDERS - saved
    assert not [name for name in sorted(named) if find_file(name, page) is None]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tests_that_are_named_exist(page: Path) -> None:
    missing = []
    for file, test in NAMED_TEST.findall(page.read_text(encoding="utf-8")):
        path = ROOT / file
        if not path.exists() or not re.search(rf"^\s*def {test}\(", path.read_text(encoding="utf-8"), re.MULTILINE):
            missing.append(f"{file}::{test}")
    assert not missing


def test_every_page_can_be_reached_from_the_index() -> None:
    reached: set[Path] = set()
    ahead = [DOCS / "index.md"]
    while ahead:
        page = ahead.pop()
        reached.add(page)
        linked = {(page.parent / target.partition("#")[0]).resolve() for target in LINK.findall(prose_of(page))}
        ahead += [file for file in linked if file in PAGES and file not in reached]
    assert not [name_of(page) for page in DOCS.rglob("*.md") if page not in reached]


def test_the_index_fits_on_a_screen() -> None:
    assert len([line for line in prose_of(DOCS / "index.md").splitlines() if line]) <= 40


# ---- the architecture ---------------------------------------------------------------------------------------------


def test_the_reading_path_leads_from_the_readme_to_the_main_loop() -> None:
    rows = rows_of(ARCHITECTURE, "The reading path")
    files = [quoted_in(row[1])[0] for row in rows]
    assert files[0] == "README.md"
    assert files[-1] == "compysition/dispatch.py"
    for file, row in zip(files, rows, strict=True):
        path = ROOT / file
        assert path.is_file(), file
        text = path.read_text(encoding="utf-8")
        assert not [name for name in quoted_in(row[2]) if not all(part in text for part in name.split("."))], file


def test_main_loop_is_marked_once_in_the_tree() -> None:
    marked = [
        name_of(path)
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip() == "# MAIN LOOP"
    ]
    assert marked == ["compysition/dispatch.py"]


def package_files() -> Iterator[str]:
    for path in PACKAGE.rglob("*.py"):
        if not path.name.startswith("__"):
            yield path.relative_to(PACKAGE).as_posix()


def test_every_file_of_the_package_has_one_line_that_says_what_it_owns() -> None:
    named = [quoted_in(row[0])[0] for row in rows_of(ARCHITECTURE, "Who owns what")]
    assert sorted(named) == sorted(package_files())


def find_module(name: str) -> bool:
    return (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir()


def test_the_layers_are_those_that_are_held() -> None:
    rows = rows_of(ARCHITECTURE, "Layers")
    assert [tuple(quoted_in(row[1])) for row in rows if row[0].isdigit()] == [
        tuple(name for name in layer if not name.startswith("__") and find_module(name)) for layer in LAYERS
    ]


def test_every_outcome_is_explained() -> None:
    named = [quoted_in(row[0])[0] for row in rows_of(ARCHITECTURE, "Outcomes")]
    assert named == [outcome.value for outcome in Outcome]


def test_every_seam_names_what_exists() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    names = [name for row in rows_of(ARCHITECTURE, "Seams") for name in quoted_in(row[1])]
    assert names
    for name in names:
        assert find_file(name, ARCHITECTURE) or all(part in source for part in name.split(".")), name


# ---- the glossary -------------------------------------------------------------------------------------------------


def glossary() -> list[tuple[str, str]]:
    """Terms and what they mean."""
    lines = prose_of(GLOSSARY).splitlines()
    return [(line.split("**")[1], line.split("**", 2)[2]) for line in lines if line.startswith("- **")]


def test_the_glossary_is_in_order_and_has_one_line_per_term() -> None:
    terms = [term.lower() for term, _ in glossary()]
    assert terms
    assert terms == sorted(set(terms))
    lines = prose_of(GLOSSARY).splitlines()
    assert not [line for line in lines if line.startswith("  ")], "a term has one line"


def test_every_term_is_used() -> None:
    places = [*PACKAGE.rglob("*.py"), *(page for page in PAGES if page != GLOSSARY)]
    text = "\n".join(place.read_text(encoding="utf-8") for place in places)
    # As words, as a name with underscores, or as the name of a class; one or several of it.
    words = {term: r"[\s_]*".join(map(re.escape, term.split())) for term, _ in glossary()}
    assert not [term for term, word in words.items() if not re.search(rf"\b{word}(?:e?s)?\b", text, re.IGNORECASE)]


# ---- decisions ----------------------------------------------------------------------------------------------------


def test_decisions_are_numbered_without_gap() -> None:
    names = sorted(path.name for path in DECISIONS.glob("*.md"))
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))


@pytest.mark.parametrize("page", sorted(DECISIONS.glob("*.md")), ids=name_of)
def test_a_decision_names_what_was_refused_and_its_evidence(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert headings == ["Decision", "Why", "Options refused", "Evidence"]
    assert text.startswith(f"# {page.name[:4]} ")
    evidence = text.partition("## Evidence")[2]
    assert NAMED_TEST.search(evidence) or "```python" in evidence or "scripts/bench" in evidence


# ---- lists of names that must be whole ----------------------------------------------------------------------------


def test_every_option_of_an_actor_is_explained_with_its_default() -> None:
    rows = {
        quoted_in(row[0])[0]: quoted_in(row[1])[0] for row in rows_of(DOCS / "guides" / "custom-actors.md", "Options")
    }
    assert rows == {field.name: repr(field.default) for field in dataclasses.fields(ActorOptions)}


def test_every_reason_of_a_dead_letter_is_explained() -> None:
    rows = [quoted_in(row[0])[0] for row in rows_of(DOCS / "my-event-vanished.md", "Dead letters")]
    known = [value for name, value in vars(reasons).items() if name.isupper() and isinstance(value, str)]
    assert rows == known


def test_what_is_looked_up_in_a_snapshot_is_there() -> None:
    rows = rows_of(DOCS / "my-event-vanished.md", "Actors")
    fields = {field.name for field in dataclasses.fields(ActorSnapshot)}
    assert {name for row in rows for name in quoted_in(row[0])} <= fields


def test_every_code_of_check_is_explained_under_its_name() -> None:
    rows = [(quoted_in(code)[0], severity, title) for code, severity, title, _ in rows_of(DOCS / "checks.md", "Codes")]
    assert rows == [(code.name, code.severity.value, code.value) for code in Code]


def test_every_status_is_that_of_the_class() -> None:
    rows = rows_of(DOCS / "guides" / "custom-actors.md", "Errors")
    pairs = {quoted_in(name)[0]: int(status) for row in rows for name, status in (row[:2], row[3:])}
    wanted = {
        name for name, cls in vars(errors).items() if isinstance(cls, type) and issubclass(cls, errors.RequestError)
    }
    assert set(pairs) == wanted - {"RequestError"} | {"DeadlineError"}
    assert pairs == {name: getattr(errors, name).status for name in pairs}


def test_every_log_line_is_one_that_is_written() -> None:
    # Long texts are written in pieces, as in `"… one " "two …"`.
    source = re.sub(r'"\s*\n\s*f?"', "", "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")))
    rows = rows_of(DOCS / "my-event-vanished.md", "Log lines")
    assert not [line for row in rows for line in quoted_in(row[0]) if line not in source]
