"""Several models of one data set trained in one program: the rate–distortion curve, and how many latents are enough."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from tightbound.data.arrays import Dataset
from tightbound.errors import DataError, SpecError
from tightbound.evidence.estimate import Estimate, mean_estimate
from tightbound.evidence.gaps import rates
from tightbound.evidence.importance import FEW, importance
from tightbound.files import refuse_existing, write_folder, write_json
from tightbound.fitting import Evaluating, starting_statistics
from tightbound.holdout import data_digest, held_out
from tightbound.model import Model, ModelSpec
from tightbound.objectives import ELBO, ObjectiveSpec
from tightbound.pictures import Place, latent_sizes, rate_distortion, save
from tightbound.schema import Measure
from tightbound.store import save_model
from tightbound.training.loop import run_key
from tightbound.training.nested import nested, outline, require_nesting, unnested
from tightbound.training.plan import Plan
from tightbound.training.together import Member, Together, TogetherProgress

__all__ = ["Mean", "Sweep", "SweepMember", "SweepPoint", "Verdict", "sweep"]

QUANTITIES = ("rate", "distortion", "elbo", "log_evidence")
ERRORS = 2.0  # standard errors within which two models are not told apart
Event = TogetherProgress | Evaluating


class Mean(NamedTuple):
    """A mean over rows and seeds in nats, with its standard error over rows and the one between seeds (None: one seed)."""

    value: float
    over_rows: float
    between_seeds: float | None

    @property
    def se(self) -> float:
        """The standard error that holds both."""
        return math.hypot(self.over_rows, self.between_seeds or 0.0)

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.se:.2f}".replace("-", "−")


@dataclass(frozen=True)
class SweepMember:
    """One model of a sweep: its settings (``beta`` None where the objective has none), its terms, its best step.

    ``rate`` is the KL term, ``distortion`` −E log p(x|z), ELBO = −rate − distortion, ``log_evidence`` the lower bound on
    log p(x) by importance sampling: means over the evaluated rows in nats per example.
    """

    beta: float | None
    latent: int
    seed: int
    rate: Estimate
    distortion: Estimate
    elbo: Estimate
    log_evidence: Estimate
    best_step: int | None
    model: Model

    @property
    def name(self) -> str:
        """What tells this model from the others, in words."""
        return f"{_setting(self.beta, self.latent)}, seed {self.seed}"


@dataclass(frozen=True)
class SweepPoint:
    """The models of one weight of the KL and one number of latents: means over rows and seeds.

    ``below`` is how far their log p(x) is below that of the best number of latents at the same weight, of the same rows
    and seeds.
    """

    beta: float | None
    latent: int
    rate: Mean
    distortion: Mean
    elbo: Mean
    log_evidence: Mean
    below: Mean


@dataclass(frozen=True)
class Verdict:
    """How many latents are enough at one weight of the KL: the fewest whose log p(x) is within two standard errors of the best.

    ``text`` says so in words, with what fewer and more latents do; ``below`` is how far they are below the ``best`` number,
    and ``largest`` whether no larger number was tried, so that more might do better.
    """

    beta: float | None
    latent: int
    best: int
    below: Mean
    largest: bool
    text: str


@dataclass(frozen=True)
class Sweep:
    """What came out of a sweep.

    ``members`` are all models, ``points`` their means over seeds, ``verdicts`` one per weight of the KL when there are
    several numbers of latents. ``values`` has the terms of every model and row, arrays (models, rows) in nats; ``notes``
    what to bear in mind; ``seconds`` what training and evaluation took; ``path`` the folder, None when nothing was written.
    """

    members: tuple[SweepMember, ...]
    points: tuple[SweepPoint, ...]
    verdicts: tuple[Verdict, ...]
    values: dict[str, np.ndarray]
    rows: dict[str, int]
    evaluated_on: str
    unit: str
    notes: tuple[str, ...]
    seconds: dict[str, float]
    path: Path | None = None

    @property
    def heading(self) -> str:
        """What the numbers are of, in words."""
        seeds = len({member.seed for member in self.members})
        return f"{self.unit}, {self.values['elbo'].shape[1]:,} {self.evaluated_on} rows; {_errors(seeds)}"

    def as_dict(self) -> dict[str, Any]:
        """Return everything but models and single rows as plain numbers."""
        members = [
            {**_settings(member), **{name: _plain(asdict(getattr(member, name))) for name in QUANTITIES}}
            | {"seed": member.seed, "best_step": member.best_step}
            for member in self.members
        ]
        points = [
            {**_settings(point), **{name: _plain(getattr(point, name)._asdict()) for name in (*QUANTITIES, "below")}}
            for point in self.points
        ]
        verdicts = [{**_settings(v), "best": v.best, "below": _plain(v.below._asdict()), "text": v.text} for v in self.verdicts]
        kept = {name: getattr(self, name) for name in ("rows", "evaluated_on", "unit", "seconds")}
        return {**kept, "members": members, "points": points, "verdicts": verdicts, "notes": list(self.notes)}


def sweep(
    data: Dataset,
    spec: ModelSpec,
    objective: ObjectiveSpec | None = None,
    plan: Plan | None = None,
    *,
    beta: Sequence[float] | None = None,
    latent: Sequence[int] | None = None,
    seeds: int | Sequence[int] = 1,
    out: str | Path | None = None,
    loaded: dict[str, Any] | None = None,
    validation: float = 0.1,
    test: float = 0.1,
    draws: int = 1000,
    report: Callable[[Event], None] | None = None,
) -> Sweep:
    r"""Train a model for every weight of the KL, number of latents and seed, all in one compiled program, and compare them.

    The rows are split once, by ``plan.seed``; ``seeds`` (a number of them from there on, or themselves) decide weights,
    order of rows and noise. Each model is to rounding what it would be alone: by :func:`tightbound.fit` when its seed is that
    of the plan, by :func:`tightbound.train` on the same training rows otherwise. What is not named is as ``spec`` and
    ``objective`` say.

    Rate, distortion, ELBO and a lower bound on log p(x) with ``draws`` importance samples are of the same test rows for all,
    with standard errors over rows and between seeds of every mean and every difference. Rows that have chosen a model
    flatter it: judge the chosen one by others. With ``out`` a folder is written: numbers, pictures, and every model.

    Raises :class:`~tightbound.errors.SpecError` for settings that name nothing or one thing twice, or draws below 1,
    :class:`~tightbound.errors.CombinationError` for parts whose latents cannot be switched off, when there are several
    numbers of them, and for free bits beside those, :class:`~tightbound.errors.DataError` for fewer than two rows to compare
    on, and the errors of :func:`tightbound.train` with the model named.

    >>> from tightbound import VAE, Bernoulli, MLP, from_arrays
    >>> data = from_arrays(np.eye(30)[:, :4] > 0)
    >>> small = MLP(hidden=(4,))
    >>> spec = VAE(sites=data.sites, latent=1, encoder=small, decoder=small, likelihood=Bernoulli())
    >>> [member.name for member in sweep(data, spec, plan=Plan(steps=4), beta=(0.5, 1), draws=10).members]
    ['β = 0.5, 1 latent, seed 0', 'β = 1, 1 latent, seed 0']
    """
    started = time.monotonic()
    objective, plan = objective or ELBO(), plan or Plan()
    if out is not None:
        refuse_existing(Path(out))
    if draws < 1:
        raise SpecError("sweep", (("draws", f"expected at least 1, got {draws}"),))
    grid = _grid(spec, objective, plan, beta, latent, seeds)
    split = data.split(validation, test, plan.seed)
    chosen, part = (split.test, "test") if len(split.test) else (split.train, "training")
    if len(chosen) < 2:
        raise DataError(f"models are compared on at least two rows, got {len(chosen)}: hold out more by test=…")
    held = held_out(data, split.validation, plan.seed) if len(split.validation) else None
    together = Together(_members(grid, spec, objective, data.take(split.train)), data.take(split.train), plan, held)
    tell = report or (lambda event: None)
    for progress in together.run():
        tell(progress)
    trained = time.monotonic()
    models = [together.model(number) for number in range(len(grid.members))]
    values, notes = _values(models, held_out(data, chosen, plan.seed), draws, plan.seed, tell)
    seconds = {"training": trained - started, "evaluation": time.monotonic() - trained}
    found = _Comparison(grid, values, "image" if data.sites.is_image else "row")
    if part == "training":
        notes = ("no row was held out: the numbers are of the training rows and flatter the models", *notes)
    if len(grid.latents) > 1:
        forms = {size: outline(_sized(spec, size)) for size in grid.latents}
        models = [unnested(model, forms[size]) for model, (_, size, _) in zip(models, grid.members, strict=True)]
    members = tuple(
        SweepMember(*setting, best_step=marks.best_step, model=model, **_estimates(values, number, draws, model.measure))
        for number, (setting, model, marks) in enumerate(zip(grid.members, models, together.marks, strict=True))
    )
    result = Sweep(
        members, found.points(), found.verdicts(), values, {name: len(rows) for name, rows in split._asdict().items()},
        part, found.unit, notes, seconds, None if out is None else Path(out),
    )  # fmt: skip
    if out is not None:
        kept = {"objective": objective.model_dump(mode="json"), "plan": plan.model_dump(mode="json"), "draws": draws}
        kept |= {"model": spec.model_dump(mode="json"), "loaded": loaded or {}, "data": data_digest(data)}
        write_folder(Path(out), lambda folder: _write(result, kept, folder))
    return result


class _Grid(NamedTuple):
    """What is swept over; models come in the order of their product."""

    betas: tuple[float | None, ...]
    latents: tuple[int, ...]
    seeds: tuple[int, ...]

    @property
    def points(self) -> list[tuple[float | None, int]]:
        return list(product(self.betas, self.latents))

    @property
    def members(self) -> list[tuple[float | None, int, int]]:
        return list(product(*self))


def _grid(
    spec: ModelSpec,
    objective: ObjectiveSpec,
    plan: Plan,
    beta: Sequence[float] | None,
    latent: Sequence[int] | None,
    seeds: int | Sequence[int],
) -> _Grid:
    """Return what is swept over, once it is known that it can be."""
    own = getattr(objective, "beta", None)
    if beta is not None and own is None:
        kind = getattr(objective, "kind", type(objective).__name__)
        raise SpecError("sweep", (("beta", f"the objective '{kind}' has no weight of the KL to sweep over: choose 'elbo'"),))
    if isinstance(seeds, int):
        seeds = range(plan.seed, plan.seed + seeds)
    betas: tuple[Any, ...] = (own,) if beta is None else tuple(float(weight) for weight in beta)
    given = {"beta": betas, "latent": (spec.latent,) if latent is None else tuple(latent), "seeds": tuple(seeds)}
    problems = [(name, "names nothing to sweep over, expected at least one") for name, values in given.items() if not values]
    problems += [
        (name, f"{value:g} is named twice")
        for name, values in given.items()
        for value in sorted({value for value in values if values.count(value) > 1})
    ]
    if problems:
        raise SpecError("sweep", tuple(problems))
    grid = _Grid(*given.values())
    if len(grid.latents) > 1:
        require_nesting(spec, grid.latents)
    for size in grid.latents:
        _sized(spec, size)
    for seed in grid.seeds:
        plan.replace(seed=seed)
    if len(grid.latents) > 1 and np.any(np.asarray(getattr(objective, "free_bits", 0.0)) > 0):
        raise SpecError("sweep", (("free_bits", "are per latent: sweep over one number of latents with them"),))
    return grid


def _sized(spec: ModelSpec, latent: int) -> ModelSpec:
    """Return the spec with so many latents."""
    return spec if latent == spec.latent else spec.replace(latent=latent)


def _members(grid: _Grid, spec: ModelSpec, objective: ObjectiveSpec, rows: Dataset) -> list[Member]:
    """Return the models where they start, all of them in the form of the one with the most latents."""
    statistics = {seed: starting_statistics(rows, seed) for seed in grid.seeds}
    starts = {
        (size, seed): _sized(spec, size).build(run_key(seed), statistics[seed])
        for size, seed in product(grid.latents, grid.seeds)
    }
    if len(grid.latents) > 1:
        form = outline(_sized(spec, max(grid.latents)))
        starts = {which: nested(model, form) for which, model in starts.items()}
    return [
        Member(
            starts[size, seed],
            objective if weight is None else objective.replace(beta=weight),
            seed,
            f"{_setting(weight, size)}, seed {seed}",
        )
        for weight, size, seed in grid.members
    ]


def _values(
    models: list[Model], rows: Dataset, draws: int, seed: int, tell: Callable[[Event], None]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the terms of every model and row, and what speaks against believing them; the noise is the same for all."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in QUANTITIES}
    loose = 0
    for number, model in enumerate(models):
        result = importance(model, rows, draws=draws, seed=seed)
        rate = rates(model, rows, seed=seed).astype(np.float64)
        elbo = result.elbo.astype(np.float64)
        terms = (rate, -elbo - rate, elbo, result.log_evidence.astype(np.float64))
        for name, term in zip(QUANTITIES, terms, strict=True):
            found[name].append(term)
        loose += bool(np.median(result.ess) < min(FEW, draws / 2))
        tell(Evaluating(number + 1, len(models)))
    note = (
        f"{loose} of {len(models)} models have importance weights that rest on fewer than {FEW:g} of {draws:,} draws for most "
        "rows: their bounds on log p(x) hold, but are further from it than those of the others; compare with more draws"
    )
    return {name: np.stack(terms) for name, terms in found.items()}, (note,) * bool(loose)


def _estimates(values: dict[str, np.ndarray], number: int, draws: int, measure: Measure) -> dict[str, Any]:
    """Return the means over rows of one model's terms."""
    said: dict[str, tuple[Any, str]] = {
        "rate": ("exact", "KL term"),
        "distortion": ("exact", f"−ELBO − rate, {draws:,} draws"),
        "elbo": ("lower", f"ELBO, {draws:,} draws"),
        "log_evidence": ("lower", f"importance sampling, k = {draws:,}"),
    }
    return {
        name: mean_estimate(values[name][number], side=side, method=method, draws=draws, measure=measure)
        for name, (side, method) in said.items()
    }


class _Comparison:
    """Means and paired differences over rows and seeds, and what they say about the number of latents."""

    def __init__(self, grid: _Grid, values: dict[str, np.ndarray], example: str) -> None:
        self.grid, self.unit = grid, f"nats per {example}"
        shape = (len(grid.betas), len(grid.latents), len(grid.seeds), -1)
        self.values = {name: array.reshape(shape) for name, array in values.items()}

    def below(self, weight: int, size: int) -> Mean:
        """Return how far log p(x) at a number of latents is below the best at the same weight."""
        found = self.values["log_evidence"][weight]
        return _mean(found[self.best(weight)] - found[size])

    def best(self, weight: int) -> int:
        return int(np.argmax(self.values["log_evidence"][weight].mean(axis=(1, 2))))

    def points(self) -> tuple[SweepPoint, ...]:
        return tuple(
            SweepPoint(
                self.grid.betas[weight],
                self.grid.latents[size],
                below=self.below(weight, size),
                **{name: _mean(self.values[name][weight, size]) for name in QUANTITIES},
            )
            for weight, size in np.ndindex(len(self.grid.betas), len(self.grid.latents))
        )

    def verdicts(self) -> tuple[Verdict, ...]:
        if len(self.grid.latents) == 1:
            return ()
        return tuple(self._verdict(weight) for weight in range(len(self.grid.betas)))

    def _verdict(self, weight: int) -> Verdict:
        beta, latents = self.grid.betas[weight], self.grid.latents
        by_size = sorted(range(len(latents)), key=lambda size: latents[size])
        below = {size: self.below(weight, size) for size in by_size}
        enough = next(size for size in by_size if below[size].value <= ERRORS * below[size].se)
        best = self.best(weight)
        larger, fewer = by_size[by_size.index(enough) + 1 :], by_size[: by_size.index(enough)]
        if not larger:
            text = f"{_latents(latents[enough])}, the most that were tried, do best, and more might do better still"
        elif enough == best:
            text = f"{_latents(latents[enough])} do best; {latents[larger[0]]} are {below[larger[0]]} below"
        else:
            text = f"{_latents(latents[enough])} are enough: {below[enough]} below {latents[best]}, the best"
        if fewer:
            text += f"; {latents[fewer[-1]]} are too few: {below[fewer[-1]]} below the best"
        text = text if beta is None else f"at β = {beta:g}: {text}"
        text = f"{text} ({self.unit}, {_errors(len(self.grid.seeds))})"
        return Verdict(beta, latents[enough], latents[best], below[enough], not larger, text)


def _errors(seeds: int) -> str:
    """Say what a standard error is over."""
    return f"± over rows and {seeds} seeds" if seeds > 1 else "± over rows; one seed, so that chance in training is not counted"


def _mean(values: Float[np.ndarray, "S n"]) -> Mean:
    """Return the mean over seeds and rows. Both errors are those of a mean over what was drawn: rows, and seeds."""
    rows, seeds = values.mean(axis=0), values.mean(axis=1)
    between = float(np.std(seeds, ddof=1) / math.sqrt(len(seeds))) if len(seeds) > 1 else None
    return Mean(float(values.mean()), float(np.std(rows, ddof=1) / math.sqrt(len(rows))), between)


def _write(result: Sweep, kept: dict[str, Any], folder: Path) -> None:
    """Fill the folder of a sweep."""
    write_json(folder / "sweep.json", {**kept, **result.as_dict()})
    with (folder / "models.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        terms = [f"{name}{error}" for name in QUANTITIES for error in ("", "_se")]
        writer.writerow(["beta", "latent", "seed", *terms, "best_step"])
        for member in result.members:
            numbers = [number for name in QUANTITIES for number in (getattr(member, name).value, getattr(member, name).se)]
            writer.writerow([member.beta, member.latent, member.seed, *numbers, member.best_step])
    arrays: dict[str, Any] = result.values
    np.savez(folder / "rows.npz", **arrays)
    enough = {(verdict.beta, verdict.latent) for verdict in result.verdicts}
    places = [
        Place(
            beta=point.beta, latent=point.latent, enough=(point.beta, point.latent) in enough,
            **{name: (getattr(point, name).value, getattr(point, name).se) for name in ("rate", "distortion", "below")},
        )
        for point in result.points
    ]  # fmt: skip
    save(rate_distortion(places, result.unit), folder / "rate-distortion.png")
    if result.verdicts:
        save(latent_sizes(places, result.unit), folder / "latents.png")
    for member in result.members:
        weight = "" if member.beta is None else f"beta-{member.beta:g}-"
        save_model(member.model, folder / "models" / f"{weight}latent-{member.latent}-seed-{member.seed}.safetensors")


def _settings(what: SweepMember | SweepPoint | Verdict) -> dict[str, Any]:
    return {"beta": what.beta, "latent": what.latent}


def _setting(beta: float | None, latent: int) -> str:
    return _latents(latent) if beta is None else f"β = {beta:g}, {_latents(latent)}"


def _latents(count: int) -> str:
    return f"{count} latent" + ("s" if count != 1 else "")


def _plain(numbers: dict[str, Any]) -> dict[str, Any]:
    """Return numbers as JSON can hold them: what is not finite becomes None."""
    return {name: None if isinstance(n, float) and not math.isfinite(n) else n for name, n in numbers.items()}
