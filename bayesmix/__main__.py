"""The command line: `python -m bayesmix compare DATA`, `plan DATA` and `report FILE`."""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import SourceLoader
from pathlib import Path
from typing import Any

from . import __version__

_FAILED, _BAD_INPUT, _STOPPED = 1, 2, 128  # the last plus the number of the signal


class CommandError(Exception):
    """Something asked for on the command line that cannot be done; the message names the cure."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0; 1 where an engine stopped with an error; 2 for bad
    input; 130 when interrupted, and 143 when terminated."""
    parser = _parser()
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given:
        parser.print_help()
        return 0
    asked = parser.parse_args(given)
    asked.signal = signal.SIGINT
    try:
        with _terminated_as_interrupted(asked):
            return asked.run(asked)
    except KeyboardInterrupt:
        _say(f"bayesmix: interrupted{_kept(getattr(asked, 'folder', None))}")
        return _STOPPED + asked.signal
    except Exception as error:
        sentence = _sentence(error, asked)
        if sentence is None:
            raise
        _say(f"bayesmix: {sentence}")
        return _BAD_INPUT


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _terminated_as_interrupted(asked: argparse.Namespace) -> Iterator[None]:
    """SIGTERM stops a command as Ctrl-C does; `asked.signal` is the one that came."""

    def stop(number: int, _: Any) -> None:
        asked.signal = number
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _kept(folder: Path | None) -> str:
    """What is said of the answers that a folder keeps."""
    from .comparison.kept_answers import FOLDER, kept_names

    names = [] if folder is None else kept_names(folder)
    if folder is None or not names:
        return ""
    return (
        f"; '{folder / FOLDER}' keeps what has finished ({', '.join(names)}), and the same command goes "
        "on from it"
    )


def _sentence(error: Exception, asked: argparse.Namespace) -> str | None:
    """What is wrong with what was asked for; None where something else is wrong."""
    from .program.errors import ProgramError
    from .tables import TableError

    if isinstance(error, CommandError | ProgramError | TableError):
        return str(error)
    place = str(getattr(asked, "program", None) or "").rpartition(":")[0]
    if isinstance(error, SyntaxError) and place and error.filename in (place, None):
        line = f", line {error.lineno}" if error.lineno else ""
        return f"'{place}'{line}: {type(error).__name__}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == place]
    if own and not Path(frames[-1].filename).is_relative_to(Path(__file__).parent):
        said = " ".join(str(error).split())
        where = f"'{place}', line {own[-1].lineno}, in {own[-1].name}"
        return f"{where}: {type(error).__name__}: {said}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot use '{error.filename}' ({error.strerror}); check the path, or give another"
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bayesmix", description="Mixture models: MAP by EM beside full Bayes."
    )
    parser.add_argument("--version", action="version", version=f"bayesmix {__version__}")
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

    from .program.compiling import cache_compiled

    jax.config.update("jax_enable_x64", True)
    cache_compiled()


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
    table = read_table(asked.data, asked.columns)
    if asked.k > len(table.values):
        raise CommandError(
            f"{asked.k} components need at least as many rows, and there are {len(table.values)}; "
            "lower K (-k)"
        )
    return table, program


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
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        # not by the loader, which would leave compiled code beside the user's file
        exec(spec.loader.source_to_code(Path(path).read_bytes(), path), module.__dict__)
    except SystemExit as error:
        raise CommandError(
            f"'{path}' ends Python when it is read; put what is no definition under "
            "if __name__ == '__main__'"
        ) from error
    if not callable(getattr(module, name, None)):
        raise CommandError(f"'{path}' has no function '{name}'; check the name after the colon")
    program = getattr(module, name)
    try:
        inspect.signature(program).bind("x", "K")
    except TypeError as error:
        raise CommandError(
            f"'{name}' of '{path}' cannot be called as {name}(x, K): {error}; let it take the data and "
            "the number of components"
        ) from error
    except ValueError:  # no signature to look at
        pass
    return program


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Find out before the work that the folder cannot be written; leave none behind that is empty."""
    made = False
    try:
        made = not folder.exists()
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
        ("--seed", asked.seed),
    ):
        if value < {"--samples": 4, "--seed": 0}.get(option, 1):
            raise CommandError(f"{option} is {value}; it is too small")
    from .comparison.engines import ENGINES, USUAL

    engines = tuple(asked.engines or USUAL)
    unknown = [name for name in engines if name not in ENGINES]
    if unknown:
        raise CommandError(f"unknown engine '{unknown[0]}'; choose among {', '.join(ENGINES)}")
    if not 0 <= asked.held_out < 1:
        raise CommandError(f"--held-out is {asked.held_out}; give a share from 0 to below 1")
    asked.folder = folder = Path(asked.out or f"bayesmix-{table.name}")
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
    from .comparison.report import earlier_files

    if earlier_files(folder):
        _say(f"'{folder}' holds an earlier comparison, whose files this one will replace")
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
        announce=_say,
        folder=folder,
    )
    try:
        report = found.write(folder)
    except OSError as error:
        print(found.table())
        raise CommandError(
            f"cannot write into '{folder}' ({error.strerror or error}); make room there, or give "
            f"another --out{_kept(folder)}"
        ) from error
    print(found.table())
    print(
        f"\nWritten: {report}, and beside it comparison.nc, summary.json and the draws (posterior.nc)"
    )
    if found.interrupted:
        _say(f"bayesmix: interrupted{_kept(folder)}")
        return _STOPPED + int(asked.signal)
    return _FAILED if found.raised else 0


def _words(program: Callable[..., Any]) -> str:
    return getattr(program, "__name__", "program").replace("_", " ").capitalize()


def _plan(asked: argparse.Namespace) -> int:
    _prepare()
    table, program = _read(asked)
    from .program.plan import plan

    print(plan(program, table.values, asked.k))
    return 0


def _report(asked: argparse.Namespace) -> int:
    from .comparison.report import write_report
    from .comparison.result import file_of, load_comparison

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
