"""Random NumPyro programs with finite latents in their rows, composed as source text from a seed.

Each comes twice: as a user would write it, with gaps (NaN, masked arrays, labels that are known), and
plainly, with the gaps spelled out by masks, so that NumPyro alone gives its density."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .enumeration import Enumeration
from .families import FAMILIES, Family
from .plain import NAMES


class Composed(NamedTuple):
    """A program with its arguments, its plain twin's enumeration, and what it is made of."""

    name: str
    source: str
    program: Callable[..., Any]
    arguments: dict[str, Any]
    exact: Enumeration
    words: tuple[str, ...]
    rows: int
    by_row: frozenset[str]

    def tiled(self, times: int) -> tuple[Callable[..., Any], dict[str, Any]]:
        """The program and its arguments with all rows so many times over."""
        plate = f'numpyro.plate("rows", {self.rows}'
        source = self.source.replace(plate, f"{plate[: -len(str(self.rows))]}{times * self.rows}")
        arguments = {
            name: np.ma.concatenate([value] * times)
            if np.ma.isMaskedArray(value)
            else np.concatenate([value] * times)
            for name, value in self.arguments.items()
            if name in self.by_row
        }
        return compiled(source), {**self.arguments, **arguments}


class Hidden(NamedTuple):
    """A latent of the program: its name, the number of its values and the first of them."""

    name: str
    size: int
    first: int

    @property
    def index(self) -> str:
        """Its place among its values, as source text."""
        return f"({self.name} - {self.first})" if self.first else self.name


class Composer:
    """Writes one program; `seed` decides everything."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.seed = seed
        self.shape = self.choose("one", "one", "one", "two", "parent", "observed parent", "chain")
        self.rows = 3 if self.shape == "chain" else int(self.rng.integers(3, 5))
        self.priors: list[str] = []
        self.inside: list[str] = []
        self.data: dict[str, Any] = {}
        self.by_row: set[str] = set()
        self.known: dict[str, np.ndarray] = {}
        self.words: list[str] = []
        self.inner = self.chance(0.15)  # a plate of columns inside the rows
        self.tables = 0
        self.most = 3  # values of a latent

    # ---------------------------------------------------------------------------------- small parts
    def chance(self, share: float) -> bool:
        """True so often."""
        return bool(self.rng.random() < share)

    def choose(self, *options: Any) -> Any:
        """One of the options; it becomes a word where it is text."""
        return options[int(self.rng.integers(len(options)))]

    def word(self, text: str) -> str:
        """Note what the program is made of."""
        self.words.append(text)
        return text

    def argument(self, name: str, value: np.ndarray, per_row: bool = True) -> str:
        """An argument of the program, as the text that stands for it."""
        self.data[name] = value
        if per_row:
            self.by_row.add(name)
        if self.inner and per_row and np.ndim(value) == 1:
            return f"{name}[:, None]"
        return name

    def pick(self, table: str, latents: list[Hidden], event: int) -> str:
        """The entry of a table at the latents' values, by some idiom."""
        if len(latents) > 1:
            places = ", ".join(latent.index for latent in latents)
            idiom = self.word(self.choose("brackets", "Vindex"))
            colons = ", :" * event
            return (
                f"{table}[{places}]"
                if idiom == "brackets"
                else f"Vindex({table})[{places}{colons}]"
            )
        latent = latents[0]
        i, size = latent.index, latent.size
        expand = f"[..., {', '.join(['None'] * event)}]" if event else ""
        tests = [f"({latent.name} == {latent.first + k}){expand}" for k in range(size)]
        idiom = self.word(
            self.choose("brackets", "brackets", "take", "one_hot", "where", "Vindex", "select")
        )
        if idiom == "take":
            return f"jnp.take({table}, {i}, axis=0)"
        if idiom == "one_hot":
            return f"jnp.tensordot(one_hot({i}, {size}), {table}, 1)"
        if idiom == "where":
            found = f"{table}[{size - 1}]"
            for k in range(size - 2, -1, -1):
                found = f"jnp.where({tests[k]}, {table}[{k}], {found})"
            return found
        if idiom == "select" and not event:
            parts = ", ".join(f"{table}[{k}]" for k in range(size))
            return f"jnp.select([{', '.join(tests)}], [{parts}])"
        if idiom == "Vindex":
            return f"Vindex({table})[{i}{', :' * event}]"
        return f"{table}[{i}]"

    def table(self, prefix: str, latents: list[Hidden], event: tuple[int, ...], kind: str) -> str:
        """A table of parameters by component, of one kind: real, positive, unit or simplex."""
        name = f"{prefix}{self.tables}"
        self.tables += 1
        shape = [latent.size for latent in latents]
        if kind != "simplex":
            return self._declare(name, shape, event, kind)
        alpha = self.word(self.choose(*["Dirichlet(2)"] * 5, "Dirichlet(1)", "Dirichlet(0.7)"))
        fn = f"dist.{alpha[:9]}({alpha[10:-1]} * jnp.ones({event[0]}))"
        self.priors.append(
            f'{name} = numpyro.sample("{name}", {fn}.expand({shape}).to_event({len(shape)}))'
        )
        return name

    def _declare(self, name: str, shape: list[int], event: tuple[int, ...], kind: str) -> str:
        full = [*shape, *event]
        prior = self.word(self.choose(*_PRIORS[kind]))
        if prior == "known table":
            made = (
                self.rng.normal(size=full) if kind == "real" else self.rng.uniform(0.3, 0.9, full)
            )
            self.priors.append(f"{name} = jnp.array({np.round(made, 2).tolist()})")
            return name
        if prior == "known NumPy argument":
            made = (
                self.rng.normal(size=full) if kind == "real" else self.rng.uniform(0.3, 0.9, full)
            )
            return self.argument(name, np.round(made, 2), per_row=False)
        if prior == "ordered" and not event and len(shape) == 1:
            fn = (
                f"dist.TransformedDistribution(dist.Normal(0.0, 1.0).expand({full}).to_event(1), "
                "dist.transforms.OrderedTransform())"
            )
            self.priors.append(f'{name} = numpyro.sample("{name}", {fn})')
            return name
        if prior in ("hierarchical", "LocScaleReparam"):
            self.priors += [
                f'{name}_top = numpyro.sample("{name}_top", dist.Normal(0.0, 2.0))',
                f'{name}_spread = numpyro.sample("{name}_spread", dist.Gamma(3.0, 2.0))',
            ]
            line = (
                f'{name} = numpyro.sample("{name}", dist.Normal({name}_top, {name}_spread)'
                f".expand({full}).to_event({len(full)}))"
            )
            if prior == "LocScaleReparam":
                self.priors.append(
                    f'with handlers.reparam(config={{"{name}": LocScaleReparam(0.0)}}):'
                )
                line = "    " + line
            self.priors.append(line)
            return name
        if prior == "ordered":
            prior = "Normal(0.0, 2.0)"
        if self.chance(0.3) and len(shape) == 1:
            self.priors += [
                f'with numpyro.plate("{name}_components", {shape[0]}):',
                f'    {name} = numpyro.sample("{name}", dist.{prior}.expand({list(event)})'
                f".to_event({len(event)}))"
                if event
                else f'    {name} = numpyro.sample("{name}", dist.{prior})',
            ]
            return name
        self.priors.append(
            f'{name} = numpyro.sample("{name}", dist.{prior}.expand({full}).to_event({len(full)}))'
        )
        return name

    # -------------------------------------------------------------------------------------- latents
    def latent(self, name: str, parents: list[Hidden], gate: str | None) -> Hidden:
        """A latent, declared with its prior and sampled in the rows."""
        kinds = ["Categorical", "Categorical", "Bernoulli", "logits", "DiscreteUniform", "Binomial"]
        kind = self.word(self.choose(*kinds[: 3 if parents else 6], *(["gate"] if gate else [])))
        size, first = int(self.choose(2, 2, self.most)), 0
        if kind == "Bernoulli":
            size = 2
            share = self.table("share", parents, (), "unit")
            fn = f"dist.Bernoulli({self.pick(share, parents, 0) if parents else share})"
        elif kind == "Categorical":
            table = self.table("weights", parents, (size,), "simplex")
            fn = f"dist.Categorical({self.pick(table, parents, 1) if parents else table})"
        elif kind == "logits":
            table = self.table("logits", [], (size,), "real")
            fn = f"dist.Categorical(logits={table})"
        elif kind == "gate":
            slope = self.table("gate", [], (size,), "real")
            fn = f"dist.Categorical(logits={gate}[..., None] * {slope})"
        elif kind == "Binomial":
            share = self.table("share", [], (), "unit")
            fn = f"dist.Binomial({size - 1}, {share})"
        else:
            first = int(self.choose(0, 1, 5))
            fn = f"dist.DiscreteUniform({first}, {first + size - 1})"
        found = Hidden(name, size, first)
        told = self._known_labels(found) if not parents and self.chance(0.12) else ""
        self.inside.append(f'{name} = numpyro.sample("{name}", {fn}{told})')
        return found

    def _known_labels(self, latent: Hidden) -> str:
        self.word("known labels")
        labels = latent.first + self.rng.integers(0, latent.size, self.rows).astype(float)
        labels[self.rng.random(self.rows) < 0.6] = np.nan
        self.known[latent.name] = labels[:, None] if self.inner else labels
        return f", obs={self.argument('labels_' + latent.name, labels)}"

    # ----------------------------------------------------------------------------------------- sites
    def site(self, name: str, parents: list[Hidden], covariate: str | None) -> None:
        """An observed site: family, link, gaps, mask."""
        families = [
            f for f in FAMILIES if (not f.regression or covariate) and not (self.inner and f.event)
        ]
        family: Family = self.choose(*families)
        self.word(family.name)
        value = family.data(self.rng, self.rows)
        fn = family.write(self, parents, covariate or "")
        if self.inner and not family.event and not family.regression and self.chance(0.6):
            self.word("plate inside")
            value = np.stack([value, family.data(self.rng, self.rows)], 1)
        wrap = None
        if self.chance(0.12) and family.gaps:
            value = value.astype(float)
            gaps = self.rng.random(value.shape) < 0.3
            if not gaps.all():
                value[gaps] = np.nan
                if self.word(self.choose("NaN", "NaN", "masked array")) == "masked array":
                    value = np.ma.masked_array(np.where(np.isnan(value), -999.0, value), gaps)
        elif self.chance(0.1):
            mask = np.append(True, self.rng.random(self.rows - 1) < 0.7)
            wrap = f"mask={self.argument('mask_' + name, mask)}"
            self.word("mask by row")
        elif self.chance(0.1):
            wrap = f"mask={parents[0].name} == {parents[0].first}"
            self.word("mask by label")
        elif self.chance(0.05):
            wrap = "mask=False"
            self.word("mask false")
        told = self.argument(name, value)
        plain_factor = family.gaps and wrap is None and not np.ma.isMaskedArray(value)
        if plain_factor and self.chance(0.08) and not np.isnan(value).any():
            self.word("factor as likelihood")
            line = f'numpyro.factor("{name}", ({fn}).log_prob({told}))'
        else:
            line = f'SITE("{name}", {fn}, {told})'
        columns = np.ndim(value) == 2 and self.inner and not family.event
        if columns:
            wrap_lines = [f'with numpyro.plate("columns_{name}", 2, dim=-1):', "    " + line]
        else:
            wrap_lines = [line]
        if wrap:
            wrap_lines = [f"with handlers.mask({wrap}):", *("    " + text for text in wrap_lines)]
        self.inside += wrap_lines

    # --------------------------------------------------------------------------------------- program
    def compose(self) -> Composed:
        """The program and its twin."""
        rng = self.rng
        covariate = gate = None
        if self.chance(0.5):
            covariate = gate = self.argument("u", np.round(rng.normal(size=self.rows), 2))
        weight = ""
        if self.chance(0.2):
            weight = self._weight()
        latents = self._latents(gate)
        for i in range(int(self.choose(1, 1, 2))):
            parents = [self.choose(*latents)]
            if len(latents) > 1 and self.chance(0.4):
                parents = list(latents[:2])
            self.site(f"x{i}", parents, covariate)
        self._extras(latents)
        dim = ", dim=-2" if self.inner else ""
        head = f'with numpyro.plate("rows", {self.rows}{dim}){weight}:'
        body = [*self.priors, head, *("    " + line for line in self.inside)]
        text = f"def program({', '.join(self.data)}):\n" + textwrap.indent("\n".join(body), "    ")
        return self._made(text)

    def _latents(self, gate: str | None) -> list[Hidden]:
        shape = self.word(self.shape)
        self.most = 3 if self.rows < 4 and shape in ("one", "observed parent") else 2
        if shape == "observed parent":
            size = 2
            share = self.table("common", [], (size,), "simplex")
            labels = self.argument("a", self.rng.integers(0, size, self.rows))
            self.inside.append(f'a_ = numpyro.sample("a", dist.Categorical({share}), obs={labels})')
            return [self.latent("z", [Hidden("a_", size, 0)], gate)]
        first = self.latent("z", [], gate)
        if shape == "two":
            return [first, self.latent("y", [], gate)]
        if shape == "parent":
            return [first, self.latent("y", [first], gate)]
        if shape == "chain":
            table = self.table("move", [first], (first.size,), "simplex")
            found = [first]
            for t in (1, 2):
                row = self.pick(table, [found[-1]], 1)
                shift = f" + {first.first}" if first.first else ""
                # labels of a chain start where the first one does
                self.inside.append(f'z{t} = numpyro.sample("z{t}", dist.Categorical({row})){shift}')
                found.append(Hidden(f"z{t}", first.size, first.first))
            return found
        return [first]

    def _weight(self) -> str:
        kind = self.word(self.choose("scale", "weights", "zero weights"))
        if kind == "scale":
            weights = np.full(self.rows, 0.7)
        else:
            weights = np.round(self.rng.uniform(0.3, 2.5, self.rows), 1)
        if kind == "zero weights":
            weights[0] = 0.0
        return f", handlers.scale(scale={self.argument('weight', weights)})"

    def _extras(self, latents: list[Hidden]) -> None:
        latent = latents[0]
        if self.chance(0.06):
            self.word("factor of the label")
            self.inside.append(f'numpyro.factor("prefer", 0.7 * {latent.index})')
        if self.chance(0.06) and not self.known:
            self.word("structural zero")
            never = np.zeros(self.rows, bool)
            never[0] = True
            told = self.argument("never", never)
            self.inside.append(
                f'numpyro.factor("never", jnp.where({told} & ({latent.index} == 0), -jnp.inf, 0.0))'
            )
        if self.chance(0.05) and "weight" not in self.data:
            self.word("labels summed over rows")
            self.inside.append(
                f'numpyro.factor("total", 0.3 * jnp.cumsum({latent.index}, {-1 - self.inner}))'
            )
        if self.chance(0.05):
            self.word("deterministic of rows")
            self.inside.append(f'numpyro.deterministic("place", {latent.index} + 1)')
        scalars = [
            line.split(" = ")[0] for line in self.priors if line.startswith(("mean", "rate"))
        ]
        if scalars and self.chance(0.15):
            self.word("factor as prior")
            self.priors.append(f'numpyro.factor("pull", -0.1 * jnp.sum({scalars[0]} ** 2))')

    def _made(self, text: str) -> Composed:
        told = _observed(text)
        plain = text.replace("SITE(", "observe(")
        for name in self.known:
            label = f"labels_{name}"
            plain = plain.replace(f", obs={label}[:, None])", ")").replace(f", obs={label})", ")")
        program, twin = (compiled(source) for source in (told, plain))
        data = {n: _filled(v) for n, v in self.data.items()}
        exact = Enumeration(twin, (), data, self.known, data.pop("weight", None))
        return Composed(
            f"seed {self.seed}",
            told,
            program,
            self.data,
            exact,
            tuple(self.words),
            self.rows,
            frozenset(self.by_row),
        )


def compiled(source: str) -> Callable[..., Any]:
    """The program that a source text defines."""
    space: dict[str, Any] = dict(NAMES)
    exec(source, space)
    return space["program"]


def _observed(text: str) -> str:
    """Sites as NumPyro has them: the last argument of a site is what was observed."""
    lines = []
    for line in text.split("\n"):
        if "SITE(" in line:
            before, value = (
                line.rsplit(", ", 1)
                if not line.endswith(", None])")
                else line.rsplit(", ", 2)[0::2]
            )
            if line.endswith(", None])"):
                before, first, last = line.rsplit(", ", 2)
                value = f"{first}, {last}"
            line = before.replace("SITE(", "numpyro.sample(") + f", obs={value}"
        lines.append(line)
    return "\n".join(lines)


def _filled(value: Any) -> Any:
    return value.filled(np.nan) if np.ma.isMaskedArray(value) else value


_PRIORS = {
    "real": (
        *["Normal(0.0, 2.0)", "Normal(1.0, 0.7)", "hierarchical"] * 2,
        "StudentT(4.0, 0.0, 1.0)",
        "Laplace(0.0, 1.0)",
        "LocScaleReparam",
        "ordered",
        "known table",
        "known NumPy argument",
    ),
    "positive": (
        *["Gamma(2.0, 1.0)", "InverseGamma(3.0, 2.0)", "LogNormal(0.0, 0.5)"] * 2,
        "HalfNormal(1.0)",
        "Exponential(1.0)",
        "Uniform(0.1, 3.0)",
        "known table",
    ),
    "unit": (
        *["Beta(2.0, 2.0)", "Beta(3.0, 2.0)"] * 2,
        "Beta(0.7, 2.0)",
        "Uniform(0.0, 1.0)",
        "known table",
    ),
}


def compose(seed: int) -> Composed:
    """The program of a seed; the same at any time."""
    return Composer(seed).compose()
