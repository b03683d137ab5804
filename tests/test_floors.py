"""Files import from their own floor or lower ones, in no circle, and heavy packages only when used."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bayesmix"
FILES = sorted(PACKAGE.rglob("*.py"))

LOWER = {"families": 1, "program": 2, "infer": 3, "posterior": 4, "plots": 5, "comparison": 6}
EDGE = 7  # everything else: zoo, datasets, tables, the command line ...

# Packages that cost seconds to import, and the places that may import them on their first line.
# What `import bayesmix` reaches is held separately, in a fresh interpreter below.
HEAVY = {
    "arviz": (),
    "pandas": (),
    "pyarrow": (),
    "matplotlib": ("plots",),
    "sklearn": ("estimators",),
    "optax": ("infer",),
}


def part(path: Path) -> str:
    """The folder or file of the package that ``path`` belongs to: ``infer``, ``plots`` ..."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor(name: str) -> int:
    return LOWER.get(name, EDGE)


def resolved(node: ast.Import | ast.ImportFrom, path: Path) -> Iterator[str]:
    """The dotted names that an import statement reaches, relative ones made absolute."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        package = path.relative_to(PACKAGE.parent).parent.parts
        above = package[: len(package) - node.level + 1]
        base = ".".join([*above, base]).rstrip(".")
    yield from (f"{base}.{alias.name}" for alias in node.names)


def imports(body: list[ast.stmt], *, nested: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements of a module; without ``nested`` only those run when it is imported."""
    for statement in body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield statement
            continue
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) and not nested:
            continue
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            yield from imports(statement.orelse, nested=nested)
            continue
        for field in ("body", "orelse", "finalbody"):
            yield from imports(getattr(statement, field, []), nested=nested)
        for inner in (*getattr(statement, "handlers", []), *getattr(statement, "cases", [])):
            yield from imports(inner.body, nested=nested)


def climbs(path: Path, source: str) -> list[str]:
    """Imports in ``source`` that reach a floor above the one ``path`` is on."""
    own = floor(part(path))
    bad = []
    for node in imports(ast.parse(source).body, nested=True):
        for name in resolved(node, path):
            parts = name.split(".")
            if parts[0] != "bayesmix" or parts[1:2] == ["*"]:
                continue
            above = floor(parts[1]) if len(parts) > 1 else EDGE
            if above > own:
                bad.append(f"{path.name}:{node.lineno} imports {name}")
    return bad


def heavy(path: Path, source: str) -> list[str]:
    """Imports of heavy packages that run as soon as ``path`` is imported."""
    bad = []
    for node in imports(ast.parse(source).body, nested=False):
        for name in resolved(node, path):
            top = name.split(".")[0]
            if top in HEAVY and part(path) not in HEAVY[top]:
                bad.append(f"{path.name}:{node.lineno} imports {top} before it is used")
    return bad


def module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circles(sources: dict[Path, str]) -> list[list[str]]:
    """Groups of modules that import each other, directly or by way of others, at any time."""
    modules = {module(path) for path in sources}
    reached = {}
    for path, source in sources.items():
        names = [
            name
            for node in imports(ast.parse(source).body, nested=True)
            for name in resolved(node, path)
        ]
        # `from .a import b` reaches the module a.b or, where there is none, the name b of module a
        own = {name if name in modules else name.rpartition(".")[0] for name in names}
        reached[module(path)] = (own & modules) - {module(path), PACKAGE.name}
    for middle in modules:
        for start in modules:
            if middle in reached[start]:
                reached[start] |= reached[middle]
    rings = {
        tuple(
            sorted(other for other in modules if other in reached[name] and name in reached[other])
        )
        for name in modules
        if name in reached[name]
    }
    return sorted(map(list, rings))


def test_no_files_import_each_other_in_a_circle():
    assert circles({path: path.read_text(encoding="utf-8") for path in FILES}) == []


@pytest.mark.parametrize(
    ("a", "b", "count"),
    [
        ("from .b import f", "from .c import g", 0),
        ("from .b import f", "from .a import g", 1),
        ("from . import b", "def f():\n    from bayesmix.infer import a", 1),
        ("from . import b", "if TYPE_CHECKING:\n    from .a import A", 0),
    ],
)
def test_the_check_of_circles_sees(a, b, count):
    sources = {"infer/a.py": a, "infer/b.py": b, "infer/c.py": "", "infer/__init__.py": ""}
    assert len(circles({PACKAGE / name: text for name, text in sources.items()})) == count


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_stay_on_the_same_floor_or_below(path):
    if path != PACKAGE / "__init__.py":  # the public face gathers names from every floor
        assert climbs(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_packages_are_imported_only_when_used(path):
    assert heavy(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("where", "source", "count"),
    [
        ("families/a.py", "from bayesmix.program import plan", 1),
        ("families/a.py", "from ..program import plan", 1),
        ("families/a.py", "from .. import infer", 1),
        ("families/a.py", "from . import b", 0),
        ("families/a.py", "import bayesmix", 1),
        ("infer/a.py", "def f():\n    import bayesmix.plots", 1),
        ("infer/a.py", "try:\n    pass\nexcept ValueError:\n    from bayesmix import posterior", 1),
        ("infer/a.py", "from bayesmix.families.b import c\nfrom bayesmix.program import d", 0),
        ("cli.py", "from bayesmix.infer import em\nfrom bayesmix import plots, zoo", 0),
    ],
)
def test_the_floor_check_sees(where, source, count):
    assert len(climbs(PACKAGE / where, source)) == count


@pytest.mark.parametrize(
    ("where", "source", "count"),
    [
        ("posterior/a.py", "import arviz as az", 1),
        ("posterior/a.py", "from arviz.stats import loo", 1),
        ("posterior/a.py", "def f():\n    import arviz", 0),
        ("posterior/a.py", "class A:\n    import pandas", 1),
        ("posterior/a.py", "if TYPE_CHECKING:\n    import arviz", 0),
        ("infer/a.py", "import optax", 0),
        ("program/a.py", "import optax", 1),
        ("plots/a.py", "import matplotlib.pyplot as plt", 0),
    ],
)
def test_the_check_of_heavy_packages_sees(where, source, count):
    assert len(heavy(PACKAGE / where, source)) == count


def test_importing_the_package_leaves_heavy_packages_alone():
    code = (
        "import sys; sys.path[:0] = [sys.argv[1]]; import bayesmix; "
        "print(*sorted({'arviz', 'matplotlib', 'pandas', 'pyarrow', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(PACKAGE.parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


# ----------------------------------------------------------------------------- one idea, said once
def annotations(function: ast.FunctionDef) -> set[str]:
    """The types of a function's parameters as they are written."""
    arguments = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return {ast.unparse(each.annotation) for each in arguments if each.annotation}


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_a_program_travels_with_its_data():
    """A plan and the arguments of a call are one `Problem` wherever both are needed."""
    both = [
        f"{path.name}: {function.name}"
        for path in FILES
        for function in functions(path)
        if annotations(function) >= {"Plan", "Arguments"}
    ]
    assert both == []


def test_fits_run_in_one_loop():
    """Progress of fits is shown in `infer/run.py`; other bars count rows, batches of a stream, stages
    of temperature, or fits themselves."""
    others = {"search.py", "search_comparison.py", "smc.py", "stream.py"}
    where = {
        path.name
        for path in (PACKAGE / "infer").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "tqdm"
    }
    assert where == {"run.py"} | others
