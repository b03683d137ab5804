"""House rules that a machine can hold: size, docstrings, finished work, and true documents."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bayesmix"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")])
LONGEST = 450
TEXT = {".py", ".md", ".toml", ".ipynb", ".html", ".css", ".js", ".csv", ".json", ".txt", ".cfg"}

INSTALL_AND_RUN = "pip install . && python -m bayesmix compare faithful"
INSTALL_AND_TEST = 'pip install -e ".[test]" && pytest'

UNWANTED = {
    "a path of one machine": re.compile(r"(?<![\w.~}])/(?:tmp|home|root|work|Users)/\w"),
    "a folder outside the project": re.compile(r"\.\./shared\b"),
    "a package index": re.compile(r"--(?:extra-)?index-url|--find-links|--trusted-host"),
    "unfinished work": re.compile(r"\b(?:TODO|FIXME|XXX)\b|raise NotImplementedError"),
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def project_texts() -> list[Path]:
    """Every text file that is under version control or would be at the next commit."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    paths = (ROOT / name for name in listed if name)
    return sorted(
        path
        for path in paths
        if path.is_file() and (path.suffix in TEXT or path.suffix == "" or path.name[0] == ".")
    )


def public_definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """The public functions and classes of a module."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_are_short_enough_to_read(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{name_of(path)} has {lines} lines; split it by subject"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_public_functions_and_classes_have_docstrings(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bare = [node.name for node in public_definitions(tree) if not ast.get_docstring(node)]
    assert bare == []
    assert ast.get_docstring(tree) or not tree.body, "the file does not say what it is for"


def test_no_text_mentions_what_it_should_not():
    found = []
    for path in project_texts():
        if path == Path(__file__):
            continue  # the patterns above are what it looks for
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            found += [
                f"{name_of(path)}:{number} mentions {what}: {line.strip()[:100]}"
                for what, pattern in UNWANTED.items()
                if pattern.search(line)
            ]
    assert found == []


@pytest.mark.parametrize("text", ["open('/tmp/x')", "cd /home/ann", "see ../shared/a", "# TODO: b"])
def test_the_patterns_find_what_they_are_for(text):
    assert any(pattern.search(text) for pattern in UNWANTED.values())


@pytest.mark.parametrize("text", ["https://a.org/home/x", "a ratio x/tmp", "$work/root/a"])
def test_the_patterns_leave_the_rest_alone(text):
    assert not any(pattern.search(text) for pattern in UNWANTED.values())


def test_no_test_is_switched_off():
    switched_off = re.compile(r"pytest\.(?:skip|xfail)|mark\.(?:skip|xfail)|assert True\b")
    for path in (ROOT / "tests").rglob("*.py"):
        if path != Path(__file__):
            assert not switched_off.search(path.read_text(encoding="utf-8")), name_of(path)


@pytest.mark.parametrize("command", [INSTALL_AND_RUN, INSTALL_AND_TEST])
def test_the_readme_gives_the_command(command):
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")


def test_ci_runs_the_test_command_of_the_readme():
    script = ROOT / ".ci" / "run"
    assert INSTALL_AND_TEST in script.read_text(encoding="utf-8")
    assert script.stat().st_mode & 0o111, ".ci/run is not executable"


def test_extras_do_not_refer_to_the_package_itself():
    assert "bayesmix[" not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
