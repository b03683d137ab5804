"""The command line: `python -m bayesmix compare DATA`, `plan DATA` and `report FILE`."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import SourceLoader
from pathlib import Path
from typing import Any

_BAD_INPUT, _INTERRUPTED = 2, 130


class CommandError(Exception):
    """Something asked for on the command line that cannot be done; the message names the cure."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (0; 2 for bad input; 130 when interrupted)."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    try:
        return asked.run(asked)
    except KeyboardInterrupt:
        print("bayesmix: interrupted before any engine had finished", file=sys.stderr)
        return _INTERRUPTED
    except (CommandError, ValueError) as error:
        if not _is_ours(error):
            raise
        print(f"bayesmix: {error}", file=sys.stderr)
        return _BAD_INPUT


def _is_ours(error: Exception) -> bool:
    from .program.errors import ProgramError
    from .tables import TableError

    return isinstance(error, CommandError | ProgramError | TableError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bayesmix", description="Mixture models: MAP by EM beside full Bayes."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    compare = commands.add_parser(
        "compare", help="run one program through EM, Gibbs and NUTS, and compare the answers"
    )
    compare.set_defaults(run=_compare)
    plan = commands.add_parser("plan", help="print what is read from the program")
    plan.set_defaults(run=_plan)
    report = commands.add_parser(
        "report", help="print a saved comparison and write its report, from the file alone"
    )
    report.set_defaults(run=_report)
    report.add_argument("file", metavar="FILE", help="comparison.nc, or the folder that it is in")
    report.add_argument(
        "--out", metavar="FILE.html", help="the page (default report.html beside the file)"
    )
    for command in (compare, plan):
        _add_model(command)
    _add_lengths(compare)
    return parser


def _add_model(command: argparse.ArgumentParser) -> None:
    """The data and the program, which `compare` and `plan` take."""
    command.add_argument(
        "data",
        metavar="DATA",
        help="a shipped data set's name, or the path of a CSV or Parquet file",
    )
    command.add_argument(
        "-k", type=int, default=2, metavar="K", help="number of components (default 2)"
    )
    command.add_argument("--columns", nargs="+", metavar="NAME", help="the columns to use")
    command.add_argument(
        "--model",
        default="full",
        help="covariances: full (default), tied, diagonal, diagonal-tied, spherical, spherical-tied",
    )
    command.add_argument(
        "--program",
        metavar="FILE.py:NAME",
        help="a NumPyro program of your own, called with the data (N, D) and K",
    )


def _add_lengths(compare: argparse.ArgumentParser) -> None:
    """Which engines run, how long, and where the results go."""
    compare.add_argument(
        "--out", metavar="DIR", help="folder for the report (default bayesmix-DATA)"
    )
    compare.add_argument("--seed", type=int, default=0, help="for all random numbers (default 0)")
    compare.add_argument(
        "--engines",
        nargs="+",
        metavar="ENGINE",
        help="any of MLE-EM MAP-EM Laplace VB Gibbs NUTS SMC",
    )
    compare.add_argument("--restarts", type=int, default=30, help="EM starts (default 30)")
    compare.add_argument(
        "--warmup", type=int, default=500, help="warm-up draws a chain (default 500)"
    )
    compare.add_argument("--samples", type=int, default=1000, help="draws a chain (default 1000)")
    compare.add_argument("--chains", type=int, default=4, help="chains (default 4)")
    compare.add_argument(
        "--held-out",
        type=float,
        default=0.2,
        help="share of rows held out for scoring (default 0.2)",
    )
    compare.add_argument("--no-progress", action="store_true", help="no progress bars")


def _prepare() -> None:
    """Double precision, and compiled programs kept between runs."""
    import jax

    jax.config.update("jax_enable_x64", True)
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = (
            Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bayesmix" / "jax"
        )
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _read(asked: argparse.Namespace) -> tuple[Any, Callable[..., Any]]:
    """The table and the program that are asked for."""
    from .tables import read_table
    from .zoo import PROGRAMS

    if asked.k < 1:
        raise CommandError(f"-k is {asked.k}; ask for at least one component")
    if asked.program:
        program = _load(asked.program)
    elif asked.model in PROGRAMS:
        program = PROGRAMS[asked.model]
    else:
        raise CommandError(f"unknown --model '{asked.model}'; choose among {', '.join(PROGRAMS)}")
    return read_table(asked.data, asked.columns), program


def _load(place: str) -> Callable[..., Any]:
    path, _, name = place.rpartition(":")
    if not path or not name:
        raise CommandError(
            f"--program '{place}' is not FILE.py:NAME; name a file and a function in it"
        )
    if not Path(path).is_file():
        raise CommandError(f"--program names '{path}', which is no file; check the path")
    spec = importlib.util.spec_from_file_location("bayesmix_user_program", path)
    if spec is None or not isinstance(spec.loader, SourceLoader):
        raise CommandError(f"'{path}' is not a Python file; give one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    # not by the loader, which would leave compiled code beside the user's file
    exec(spec.loader.source_to_code(Path(path).read_bytes(), path), module.__dict__)
    if not callable(getattr(module, name, None)):
        raise CommandError(f"'{path}' has no function '{name}'; check the name after the colon")
    return getattr(module, name)


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Find out before the work that the folder cannot be written; leave none behind that is empty."""
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CommandError(
            f"cannot write into '{folder}' ({error.strerror or error}); give another --out"
        ) from error
    try:
        yield
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()


def _compare(asked: argparse.Namespace) -> int:
    _prepare()
    table, program = _read(asked)
    for option, value in (
        ("--restarts", asked.restarts),
        ("--warmup", asked.warmup),
        ("--samples", asked.samples),
        ("--chains", asked.chains),
    ):
        if value < (4 if option == "--samples" else 1):
            raise CommandError(f"{option} is {value}; it is too small")
    from .posterior.engines import ENGINES, USUAL

    engines = tuple(asked.engines or USUAL)
    unknown = [name for name in engines if name not in ENGINES]
    if unknown:
        raise CommandError(f"unknown engine '{unknown[0]}'; choose among {', '.join(ENGINES)}")
    if not 0 <= asked.held_out < 1:
        raise CommandError(f"--held-out is {asked.held_out}; give a share from 0 to below 1")
    folder = Path(asked.out or f"bayesmix-{Path(table.name).stem}")
    with _writable(folder):
        return _compare_into(folder, asked, table, program, engines)


def _compare_into(
    folder: Path,
    asked: argparse.Namespace,
    table: Any,
    program: Callable[..., Any],
    engines: Sequence[str],
) -> int:
    from .comparison import compare

    found = compare(
        program,
        table.values,
        asked.k,
        engines=engines,
        seed=asked.seed,
        restarts=asked.restarts,
        num_warmup=asked.warmup,
        num_samples=asked.samples,
        num_chains=asked.chains,
        held_out=asked.held_out,
        columns=table.columns,
        title=f"{_words(program)}, K = {asked.k}, on {table.name} ({len(table.values)} rows)",
        progress_bar=not asked.no_progress,
        announce=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(found.table())
    report = found.write(folder)
    print(
        f"\nWritten: {report}, and beside it comparison.nc, summary.json and the draws (posterior.nc)"
    )
    return _INTERRUPTED if found.interrupted else 0


def _words(program: Callable[..., Any]) -> str:
    return getattr(program, "__name__", "program").replace("_", " ").capitalize()


def _plan(asked: argparse.Namespace) -> int:
    _prepare()
    table, program = _read(asked)
    from .program.plan import plan

    print(plan(program, table.values, asked.k))
    return 0


def _report(asked: argparse.Namespace) -> int:
    from .report import write_report
    from .saved_comparison import file_of, load_comparison

    found: Any = load_comparison(asked.file)
    page = Path(asked.out) if asked.out else file_of(asked.file).with_name("report.html")
    print(found.table())
    try:
        written = write_report(found, page)
    except OSError as error:
        raise CommandError(
            f"cannot write '{page}' ({error.strerror or error}); give another --out"
        ) from error
    print(f"\nWritten: {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
