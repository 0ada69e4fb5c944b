# SPDX-License-Identifier: Apache-2.0
"""Pictures in the repository are those that `compysition graph` makes of the examples.

Each example has its picture beside it, ``NAME.mmd``; a page may carry one in a ``mermaid`` block behind the comment
``<!-- graph of examples/NAME.py -->``. Pictures of scripts that a page makes itself: `test_served_docs`.
"""

from pathlib import Path

import pytest

from compysition.cli.isolated import inspect
from tests.docs.test_docs import PAGES, blocks_of

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))
GRAPH_OF = "graph of "


def picture_of(example: Path) -> Path:
    return example.with_suffix(".mmd")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_picture_beside_an_example_is_that_of_its_flow(example: Path) -> None:
    inspection = inspect(example)
    (director,) = inspection.directors
    name = example.relative_to(ROOT)
    assert director.pictures["mermaid"] == picture_of(example).read_text(encoding="utf-8"), (
        f"renew it: compysition graph {name} > {picture_of(name)}"
    )


def test_every_picture_belongs_to_an_example() -> None:
    assert sorted((ROOT / "examples").rglob("*.mmd")) == [picture_of(example) for example in EXAMPLES]


def test_a_picture_in_a_page_is_that_of_an_example() -> None:
    drawn = [block for page in PAGES for block in blocks_of(page) if block.language == "mermaid"]
    assert all(block.comment.startswith(GRAPH_OF) for block in drawn)
    of_examples = [block for block in drawn if block.comment.startswith(f"{GRAPH_OF}examples/")]
    assert of_examples
    for block in of_examples:
        example = ROOT / block.comment.removeprefix(GRAPH_OF)
        assert block.text == picture_of(example).read_text(encoding="utf-8"), block
