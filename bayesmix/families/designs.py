"""Points at which a log density shows whether it is linear in a form's sufficient statistics.

A design is a set of values of one site and the linear combinations of the log density at those values
that vanish for every density of the form. No derivative is needed, so that one compiled evaluation of
the program serves every site and every form. Directions are random: a density that is not of the form
passes with probability zero, up to the rounding that the caller allows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .forms import BetaForm, DirichletForm, Form, NormalForm, PowerForm, WishartForm

_STEPS = np.array([-1.0, -0.6, -0.3, 0.0, 0.2, 0.5, 0.8, 1.0])
_CONTRAST = np.array([[1.0, -1.0, -1.0, 1.0]])
_BLOCKS_TRIED = 2


class Design(NamedTuple):
    """Values (M, ...) and combinations (R, M) with `combinations @ log_density(values) = 0`."""

    points: np.ndarray
    combinations: np.ndarray


def _annihilator(columns: np.ndarray) -> np.ndarray:
    """Rows spanning the combinations of M values that vanish on every column of (M, C)."""
    columns = np.concatenate([np.ones((len(columns), 1)), columns], axis=1)
    sizes = np.linalg.norm(columns, axis=0)
    scaled = columns / np.where(sizes > 0, sizes, 1.0)
    left, singular, _ = np.linalg.svd(scaled)
    rank = int(np.sum(singular > 1e-10 * singular[0]))
    return left[:, rank:].T


def designs(
    form: Form,
    value: np.ndarray,
    rng: np.random.Generator,
    step: float = 1.0,
    reach: float = 1.0,
) -> list[Design]:
    """Designs about `value` for a form; real values are moved by about `step`, others in proportion,
    and both as far as `reach` as well, where a link may bend.

    Each block of the value (an element, a vector, a matrix) is moved by itself, all are moved together,
    and random halves are moved together and apart, which shows whether blocks are independent.
    """
    if isinstance(form, NormalForm):
        return _normal(form, value, rng, step, reach)
    if isinstance(form, PowerForm):
        return _power(form, value, rng, reach)
    if isinstance(form, WishartForm):
        return _wishart(form, value, rng)
    if isinstance(form, DirichletForm):
        return _dirichlet(value, rng)
    assert isinstance(form, BetaForm)
    return _beta(value, rng)


def _halves(
    value: np.ndarray, moved: np.ndarray, batch: tuple[int, ...], rng: np.random.Generator
) -> list[Design]:
    """Moving half of the blocks, the other half, and all: the mixed difference must vanish."""
    size = int(np.prod(batch, dtype=int))
    if size < 2:
        return []
    found = []
    for _ in range(3):
        chosen = np.zeros(size, bool)
        chosen[rng.permutation(size)[: max(1, size // 2)]] = True
        mask = chosen.reshape(batch + (1,) * (value.ndim - len(batch)))
        one, other = np.where(mask, moved, value), np.where(mask, value, moved)
        found.append(Design(np.stack([value, one, other, moved]), _CONTRAST))
    return found


def _some(batch: tuple[int, ...], rng: np.random.Generator) -> list[tuple[int, ...]]:
    size = int(np.prod(batch, dtype=int))
    chosen = rng.permutation(size)[:_BLOCKS_TRIED]
    return [tuple(map(int, np.unravel_index(i, batch))) if batch else () for i in chosen]


def _replace(value: np.ndarray, index: tuple[int, ...], blocks: np.ndarray) -> np.ndarray:
    """Copies of `value` with one block replaced by each of `blocks`."""
    points = np.repeat(value[None], len(blocks), axis=0)
    points[(slice(None), *index)] = blocks  # type: ignore[index]
    return points


def _normal(
    form: NormalForm, value: np.ndarray, rng: np.random.Generator, step: float, reach: float
) -> list[Design]:
    columns = np.stack([_STEPS, _STEPS**2], axis=1)
    found = []
    for size in (step, step, reach) if reach > step else (step, step):
        direction = size * rng.normal(size=value.shape)
        steps = _STEPS.reshape(-1, *(1,) * value.ndim)
        found.append(Design(value + steps * direction, _annihilator(columns)))
    batch = value.shape[: value.ndim - form.joint_axes]
    return found + _halves(value, value + step * rng.normal(size=value.shape), batch, rng)


def _power(
    form: PowerForm, value: np.ndarray, rng: np.random.Generator, reach: float
) -> list[Design]:
    found = []
    for far in (1.0, 1.0 + np.log(reach)) if reach > 1 else (1.0,):
        logs = (far * _STEPS).reshape(-1, *(1,) * value.ndim)
        columns = np.stack([far * _STEPS, np.exp(form.power * far * _STEPS)], axis=1)
        found.append(Design(value * np.exp(logs), _annihilator(columns)))
    steps = np.exp(_STEPS)
    combinations = _annihilator(np.stack([_STEPS, np.exp(form.power * _STEPS)], axis=1))
    found += [
        Design(_replace(value, index, value[index] * steps), combinations)
        for index in _some(value.shape, rng)
    ]
    return found + _halves(value, value * np.exp(rng.normal(size=value.shape)), value.shape, rng)


def _wishart(form: WishartForm, value: np.ndarray, rng: np.random.Generator) -> list[Design]:
    batch, dimension = value.shape[:-2], value.shape[-1]
    sign = -1 if form.inverse else 1
    radial = np.stack([_STEPS, np.exp(sign * _STEPS)], axis=1)
    found = [Design(value * np.exp(_STEPS).reshape(-1, *(1,) * value.ndim), _annihilator(radial))]
    for index in _some(batch, rng):
        block = np.linalg.inv(value[index]) if form.inverse else value[index]
        root = np.linalg.cholesky(block)
        noise = rng.normal(size=(dimension, dimension))
        noise = noise + noise.T
        noise /= 1.5 * np.abs(np.linalg.eigvalsh(noise)).max()
        path = block + _STEPS[:, None, None] * (root @ noise @ root.T)
        columns = np.stack([_STEPS, np.linalg.slogdet(path)[1]], axis=1)
        blocks = np.linalg.inv(path) if form.inverse else path
        found.append(Design(_replace(value, index, blocks), _annihilator(columns)))
    root = np.linalg.cholesky(value)
    noise = rng.normal(size=value.shape) * 0.5 + np.eye(dimension)
    moved = root @ noise @ np.swapaxes(noise, -1, -2) @ np.swapaxes(root, -1, -2)
    return found + _halves(value, moved, batch, rng)


def _dirichlet(value: np.ndarray, rng: np.random.Generator) -> list[Design]:
    batch, size = value.shape[:-1], value.shape[-1]
    found = []
    for index in _some(batch, rng):
        points = rng.dirichlet(np.full(size, 2.0), size=size + 5)
        points = np.maximum(points, 1e-6)
        points /= points.sum(axis=1, keepdims=True)
        combinations = _annihilator(np.log(points))
        found.append(Design(_replace(value, index, points), combinations))
    moved = rng.dirichlet(np.full(size, 2.0), size=batch)
    return found + _halves(value, moved.reshape(value.shape), batch, rng)


def _beta(value: np.ndarray, rng: np.random.Generator) -> list[Design]:
    found = []
    for index in _some(value.shape, rng):
        points = rng.uniform(0.1, 0.9, size=8)
        combinations = _annihilator(np.stack([np.log(points), np.log1p(-points)], axis=1))
        found.append(Design(_replace(value, index, points), combinations))
    return found + _halves(value, rng.uniform(0.1, 0.9, size=value.shape), value.shape, rng)
