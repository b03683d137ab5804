"""What a k-means fit returns: a codebook, with what vector quantisation asks of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr

from ..program.arguments import plain_array
from ..program.errors import ProgramError
from . import lloyd
from .fingerprint import Run
from .keep import ANY, read, write
from .modes import Mode
from .status import Status

_SHOWN_MODES = 10
_KIND = Run({"the engine": "KMeans, its result"})


@dataclass(frozen=True, eq=False)
class KMeansResult:
    """The best of the starts, what became of the others, and the codebook that its centroids are.

    Attributes:
        centroids: (K, D), the codebook.
        labels: nearest centroid of each fitted row, (N,): its code.
        trace: distortion (1/N) sum_i |x_i - c_{z_i}|^2 by step, (steps + 1,); entry 0 is the start. As
            in EM, the last step confirms that nothing moves.
        status: how the best start ended; truthy if it settled.
        modes: distinct ends of the starts up to the order of centroids, best first: `objective` (the
            distortion), `count`, `status`, `parameters["centroids"]`.
        restart_distortions, restart_statuses, restart_steps: one entry per start.
        origin: mean of the fitted rows (D,), subtracted from rows and centroids before computing.

    Example:
        >>> import jax, numpy as np
        >>> import bayesmix
        >>> x = np.array([[0.0, 0.0], [5.2, 1.0], [5.0, 1.0], [4.8, 1.0]])
        >>> fit = bayesmix.KMeans(2).run(jax.random.key(0), x, restarts=5)
        >>> fit.decode(fit.encode(x))[:2]
        array([[0., 0.],
               [5., 1.]])
        >>> round(fit.distortion(x), 3), fit.bits, round(fit.entropy, 3)
        (0.02, 1.0, 0.811)
    """

    centroids: np.ndarray
    labels: np.ndarray
    trace: np.ndarray
    status: Status
    modes: tuple[Mode, ...]
    restart_distortions: np.ndarray
    restart_statuses: tuple[Status, ...]
    restart_steps: np.ndarray
    origin: np.ndarray

    # -------------------------------------------------------------------------- vector quantisation
    def encode(self, x: ArrayLike) -> np.ndarray:
        """Codes (N,) of rows (N, D): argmin_k |x_i - c_k|^2, the lowest of several.

        Raises:
            ProgramError: where x is not a table of finite numbers with D columns.
        """
        return self._nearest(x)[0]

    def decode(self, codes: ArrayLike) -> np.ndarray:
        """The centroids that codes stand for: (N, D) for codes (N,).

        Raises:
            ProgramError: where a code is not a whole number from 0 to K - 1.
        """
        given, size = np.asarray(codes), len(self.centroids)
        whole = np.issubdtype(given.dtype, np.integer)
        if not whole or (given.size and not (0 <= given.min() and given.max() < size)):
            raise ProgramError(f"codes are not whole numbers from 0 to {size - 1}, as encode gives")
        return self.centroids[given]

    def distortion(self, x: ArrayLike) -> float:
        """(1/N) sum_i |x_i - decode(encode(x_i))|^2 of rows (N, D).

        Raises:
            ProgramError: as :meth:`encode`.
        """
        return float(np.mean(self._nearest(x)[1]))

    @property
    def bits(self) -> float:
        """Bits for each row where all codes are equally long: log2 K."""
        return float(np.log2(len(self.centroids)))

    @property
    def entropy(self) -> float:
        """Bits for each row where frequent codes are short: -sum_k p_k log2 p_k, with the shares p_k of
        the fitted rows. An entropy coder comes as close to it as one likes.

        Source: Cover & Thomas (2006), *Elements of Information Theory*, theorem 5.4.2.
        """
        return float(np.sum(entr(np.bincount(self.labels) / self.labels.size)) / np.log(2))

    def compression_ratio(self, cell_bits: float, *, entropy_coded: bool = False) -> float:
        """Bits of the fitted rows over those of their codes and the codebook: N D C / (N R + K D C).

        Args:
            cell_bits: C, bits for a cell of the rows and of the codebook (8 for a byte).
            entropy_coded: R is :attr:`entropy` where true, else :attr:`bits`.

        Source: Murphy (2012), *Machine Learning: A Probabilistic Perspective*, section 11.4.2.6.
        """
        num_clusters, columns = self.centroids.shape
        rate = self.entropy if entropy_coded else self.bits
        coded = len(self.labels) * rate + num_clusters * columns * cell_bits
        return len(self.labels) * columns * cell_bits / coded

    # ---------------------------------------------------------------------------------------- files
    def save(self, path: str | Path) -> None:
        """Write everything to an .npz file, without pickles; :meth:`load` reads it back.

        Example:
            >>> import tempfile, jax, numpy as np
            >>> import bayesmix
            >>> x = np.array([[0.0, 0.0], [5.2, 1.0], [5.0, 1.0], [4.8, 1.0]])
            >>> fit = bayesmix.KMeans(2).run(jax.random.key(0), x, restarts=5)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     fit.save(folder + "/codebook.npz")
            ...     again = bayesmix.KMeansResult.load(folder + "/codebook.npz")
            >>> (again.encode(x) == fit.labels).all()
            np.True_
        """
        told = {**vars(self), "modes": [vars(mode) for mode in self.modes]}
        header = {"run": _KIND.words, "modes": len(self.modes), "starts": len(self.restart_steps)}
        write(path, header, result=told)

    @classmethod
    def load(cls, path: str | Path) -> KMeansResult:
        """What :meth:`save` wrote.

        Raises:
            ProgramError: where the file is not of a k-means fit.
        """
        saved = read(path)
        saved.check(_KIND)
        mode = vars(Mode(ANY, ANY, ANY, {"centroids": ANY}))
        told = dict.fromkeys(cls.__annotations__, ANY) | {
            "modes": (mode,) * saved.header["modes"],
            "restart_statuses": (ANY,) * saved.header["starts"],
        }
        told = saved.fill(told, "result")
        for each in (told, *told["modes"]):
            each["status"] = Status(each["status"])
        told["modes"] = tuple(Mode(**each) for each in told["modes"])
        told["restart_statuses"] = tuple(map(Status, told["restart_statuses"]))
        return cls(**told)

    def print_summary(self) -> None:
        """Print the distortion, the rates, the status and the modes."""
        print(self)

    def __str__(self) -> str:
        size, columns = self.centroids.shape
        lines = [
            f"k-means: {size} centroids in {columns} dimensions for {len(self.labels)} rows",
            f"distortion: {self.trace[-1]:.6g} a row after {len(self.trace) - 1} steps",
            f"rate: {self.bits:.4g} bits a row, entropy coded {self.entropy:.4g}",
            str(self.status),
            "modes (up to relabelling):",
        ]
        for mode in self.modes[:_SHOWN_MODES]:
            note = "" if mode.status else f"  [{mode.status.name.lower().replace('_', ' ')}]"
            lines.append(f"    {mode.objective:.6g}  reached by {mode.count} start(s){note}")
        if len(self.modes) > _SHOWN_MODES:
            lines.append(f"    and {len(self.modes) - _SHOWN_MODES} more")
        return "\n".join(lines)

    __repr__ = __str__

    def _nearest(self, x: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Codes and squared distances (N,)."""
        given = read_rows(x, "x").astype(self.centroids.dtype, copy=False)
        size, columns = self.centroids.shape
        if given.shape[1] != columns:
            raise ProgramError(
                f"x has {given.shape[1]} columns and the centroids have {columns}; give rows with the "
                "columns of the fit"
            )
        rows = lloyd.arrange(given, self.origin, size)
        codes, squares = lloyd.encode(rows, self.centroids - self.origin)
        return np.asarray(codes), np.asarray(squares)


def read_rows(x: ArrayLike, name: str) -> np.ndarray:
    """A table of finite numbers (N, D): float32 as it is, anything else in JAX's default precision.

    Raises:
        ProgramError: where it is none.

    Example:
        >>> read_rows([[1, 2], [3, 4]], "x")
        array([[1., 2.],
               [3., 4.]])
    """
    given = plain_array(x)
    if given.dtype.kind not in "biuf":
        raise ProgramError(f"{name} does not hold numbers alone; give its numeric columns")
    if given.ndim != 2 or 0 in given.shape:
        raise ProgramError(
            f"{name} has shape {given.shape}; give a table of rows by columns, (N, D) "
            "(x[:, None] for a single column)"
        )
    finite = np.isfinite(given)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ProgramError(
            f"{name} is NaN or infinite in {np.sum(~finite)} cell(s), the first in row {row}, "
            f"column {column}; leave those rows out, or fit a mixture with bayesmix.EM, which "
            "integrates missing cells out"
        )
    single = given.dtype == np.float32
    return given.astype(np.float32 if single else jnp.result_type(float), copy=False)
