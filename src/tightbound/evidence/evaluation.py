"""Several estimates of log p(x) of the same rows, side by side, with what speaks against believing them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from tightbound.errors import CombinationError, SpecError
from tightbound.evidence.annealed import Walk, annealed, bracket
from tightbound.evidence.estimate import Estimate
from tightbound.evidence.exact import exact
from tightbound.evidence.importance import importance
from tightbound.evidence.proposals import Proposal
from tightbound.model import Model
from tightbound.rows import RowSource

__all__ = ["METHODS", "Evaluation", "Line", "evaluate"]

Method = Literal["elbo", "importance", "annealed", "exact"]
METHODS: tuple[str, ...] = get_args(Method)
SIMULATED = 32  # rows drawn from the model to measure the annealing itself
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Line:
    """An estimate, the quantity that it is of in words for people, and a name for programs."""

    name: str
    quantity: str
    estimate: Estimate


@dataclass(frozen=True)
class Evaluation:
    """Estimates in the order in which they were asked for; ``notes`` say what could not be had or believed."""

    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def evaluate(
    model: Model,
    data: RowSource,
    methods: Sequence[str] = ("elbo", "importance"),
    *,
    draws: int = 1000,
    proposal: Proposal = Proposal(),  # noqa: B008
    walk: Walk = Walk(),  # noqa: B008
    simulated: int = SIMULATED,
    seed: int = 0,
    report: Report | None = None,
) -> Evaluation:
    """Estimate log p(x) of the rows by the given methods: of ``"elbo"``, ``"importance"``, ``"annealed"``, ``"exact"``.

    Annealing bounds log p(x) of the rows from below, and from both sides that of ``simulated`` rows that the model has
    drawn itself: the distance of the two is an upper bound on what the annealing misses there. Asked for alone,
    ``"exact"`` raises :class:`~tightbound.errors.CombinationError` for a model that it cannot handle; among others it
    becomes a note. ``report(method, done, total)`` is called now and then. Raises
    :class:`~tightbound.errors.SpecError` for a method that does not exist.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods:
        raise SpecError("evaluate", (("methods", f"expected some of {', '.join(METHODS)}, got {unknown or 'none'}"),))

    def told(method: str) -> Callable[[int, int], None] | None:
        return None if report is None else lambda done, total: report(method, done, total)

    lines: list[Line] = []
    notes: list[str] = []
    if {"elbo", "importance"} & set(methods):
        # The ELBO is that of q(z|x), whatever the importance samples are drawn from.
        plain = proposal == Proposal()
        if "elbo" in methods:
            own = importance(model, data, draws=draws, seed=seed, report=told("elbo"))
            lines.append(Line("elbo", "ELBO", own.elbo_estimate()))
        if "importance" in methods:
            reuse = plain and "elbo" in methods
            result = own if reuse else importance(
                model, data, draws=draws, proposal=proposal, seed=seed, report=told("importance")
            )  # fmt: skip
            lines.append(Line("log_evidence", "log p(x) ≥", result.bound()))
            notes += result.warnings()
    if "annealed" in methods:
        found, warnings = _annealed(model, data, walk, simulated, seed, told("annealed"))
        lines, notes = lines + found, notes + warnings
    if "exact" in methods:
        try:
            lines.append(Line("exact", "log p(x) =", exact(model, data).estimate()))
        except CombinationError as error:
            if len(methods) == 1:
                raise
            notes.append(f"no exact value: {error}")
    if len(data.x) == 1:
        notes.append("one example has no standard error over examples")
    return Evaluation(tuple(lines), tuple(notes))


def _annealed(
    model: Model, data: RowSource, walk: Walk, simulated: int, seed: int, report: Callable[[int, int], None] | None
) -> tuple[list[Line], list[str]]:
    # The bracket first: it refuses too few rows before any long work is done.
    both = bracket(model, simulated, walk, seed=seed, report=report)
    lower = annealed(model, data, walk, seed=seed, report=report)
    gap, se = both.gap
    ends = both.lower.estimate(), both.upper.estimate()
    distance = replace(ends[1], value=gap, se=se, ess=None)
    lines = [
        Line("annealed", "log p(x) ≥", lower.estimate()),
        Line("simulated_lower", "simulated: log p(x) ≥", ends[0]),
        Line("simulated_upper", "simulated: log p(x) ≤", ends[1]),
        Line("simulated_gap", "simulated: upper − lower", distance),
    ]
    return lines, [*lower.warnings(), *both.upper.warnings()]
