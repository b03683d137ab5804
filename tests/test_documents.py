"""Every Python example in the README, the docs and the notebooks is executed."""

import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
NOTEBOOKS = sorted(ROOT.glob("notebooks/**/*.ipynb"))

FENCE = re.compile(r"^( *)(```+|~~~+)[ \t]*([^\n]*)\n(.*?)^\1\2[ \t]*$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_blocks(text: str) -> Iterator[str]:
    """Blocks fenced as ``python``, padded so that a traceback gives the line of the document."""
    for match in FENCE.finditer(text):
        indent, _, language, body = match.groups()
        if language.strip().split(" ")[0] == "python":
            code = "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))
            yield "\n" * text.count("\n", 0, match.start(4)) + code


def notebook_cells(text: str) -> Iterator[str]:
    for cell in json.loads(text)["cells"]:
        if cell["cell_type"] == "code":
            yield "".join(cell["source"])


def execute(blocks: list[str], filename: str) -> None:
    """Run blocks of code in order in one namespace, as a reader would who pastes them."""
    main = types.ModuleType("__main__")
    main.__dict__["display"] = lambda *shown: None  # notebooks have it built in
    previous = sys.modules["__main__"]
    sys.modules["__main__"] = main
    try:
        for number, block in enumerate(blocks, start=1):
            code = compile(block, f"{filename} (block {number})", "exec")
            exec(code, main.__dict__)
    finally:
        sys.modules["__main__"] = previous
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("document", [*PAGES, *NOTEBOOKS], ids=name_of)
def test_its_examples_run(document):
    text = document.read_text(encoding="utf-8")
    blocks = notebook_cells(text) if document in NOTEBOOKS else python_blocks(text)
    execute(list(blocks), name_of(document))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_between_files_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for match in LINK.finditer(text):
        target = (match[1] or match[2]).split("#")[0]
        if target and "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{name_of(page)} links to {target}"


def test_blocks_are_found_in_order_with_their_lines():
    text = "a\n```python\nx = 1\n```\n```bash\nls\n```\n- b\n  ```python\n  y = x\n  ```\n"
    blocks = list(python_blocks(text))
    assert [block.strip() for block in blocks] == ["x = 1", "y = x"]
    assert blocks[1].splitlines()[9] == "y = x"
    execute(blocks, "a page")


def test_cells_of_code_are_found_in_a_notebook():
    cells = [
        {"cell_type": "markdown", "source": ["# x = 2"]},
        {"cell_type": "code", "source": ["x = 1\n", "display(x)"]},
    ]
    assert list(notebook_cells(json.dumps({"cells": cells}))) == ["x = 1\ndisplay(x)"]


def test_a_block_that_raises_is_a_failure():
    with pytest.raises(ZeroDivisionError):
        execute(["x = 1", "x / 0"], "a page")
