"""What people ask of a model of a table, in the table's own terms: rows given conditions, scores with their culprits."""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

import numpy as np

from tightbound.completion import Models, complete, conformal_p_values, site_scores
from tightbound.data.arrays import Dataset
from tightbound.data.frames import Column, TableSchema, alike, seconds_or_days
from tightbound.errors import DataError, SpecError
from tightbound.evidence.importance import importance
from tightbound.evidence.proposals import WARY
from tightbound.model import Model

__all__ = ["Condition", "Scores", "conditions", "draw_given", "ends", "score_table", "scores", "surprise"]

ROUND = 1024  # rows drawn before the conditions are looked at
ROUNDS, PATIENCE = 64, 8  # at most, and without a single row
MASK = 0xE000  # the first character that Unicode leaves to programs
CANDIDATES = 16_384  # importance samples that a round chooses from


class Condition(NamedTuple):
    """What a column is to be, in sites: between ``low`` and ``high``, or one of ``codes``.

    Draws within ``around`` of an end are rounded to it: half a step of rounded numbers, 0 for others.
    """

    number: int
    low: float
    high: float
    codes: tuple[float, ...] = ()
    around: float = 0.0

    @property
    def exact(self) -> float | None:
        """The one value that is asked for, None when there are several."""
        if self.codes:
            return self.codes[0] if len(self.codes) == 1 else None
        return self.low if self.low == self.high else None

    def holds(self, x: np.ndarray) -> np.ndarray:
        """Return for which rows (n, D) the condition holds."""
        cells = x[:, self.number]
        if self.codes:
            return np.isin(cells, self.codes)
        return (cells >= self.low - self.around) & (cells <= self.high + self.around)


class Scores(NamedTuple):
    """How plausible rows are: log p(x) (n,) from below in nats, conformal p-values (n,), and what is odd about them.

    ``se`` (n,) is the standard error of log p(x), NaN where the draws are too few for any.
    ``surprise`` (n, D) is by how many nats log p(x_d | the other cells) is below its median over the calibration rows:
    densities of single columns compare with their own kind only. NaN where a cell is missing.
    """

    log_evidence: np.ndarray
    se: np.ndarray
    p_value: np.ndarray
    surprise: np.ndarray


def conditions(schema: TableSchema, text: str) -> tuple[Condition, ...]:
    """Return the conditions in a text such as ``age=30..40,sex=F``: values, a|b for several, low..high or one end of it.

    A comma or a bar within double quotes is part of a value: ``town="Halle, Saale"``. Raises :class:`SpecError` for a text of
    another form, :class:`DataError` for columns and values that the table does not have.

    >>> import pyarrow
    >>> from tightbound.data.frames import infer
    >>> schema = infer(pyarrow.table({"age": [31.5, 40.2, 28.0], "sex": ["F", "M", "F"]}))
    >>> [condition.codes for condition in conditions(schema, "age=30..,sex=F|M")]
    [(), (0.0, 1.0)]
    """
    if not isinstance(text, str):
        raise SpecError("given", (("", f"expected text such as 'age=30..40,sex=F', got {text!r}"),))
    masked, quoted = _masked(text)
    found = tuple(_condition(schema, part, quoted) for part in masked.split(",") if part.strip())
    numbers = [condition.number for condition in found]
    twice = sorted({schema.names[number] for number in numbers if numbers.count(number) > 1})
    if twice:
        raise SpecError(
            "given", (("", f"{', '.join(map(repr, twice))} occurs twice; a column has one condition, a|b for several"),)
        )
    return found


def ends(schema: TableSchema, given: Sequence[Condition]) -> dict[int, tuple[float, float]]:
    """Return by number between which sites the columns with a condition end: as asked, and where that is open as training saw.

    What is asked for may be beyond everything that was seen.
    """
    found = {}
    for condition in given:
        low, high = schema.columns[condition.number].ends
        low = condition.low if math.isfinite(condition.low) else min(low, condition.high)
        high = condition.high if math.isfinite(condition.high) else max(high, condition.low)
        found[condition.number] = (-math.inf, math.inf) if condition.codes else (low, high)
    return found


def _masked(text: str) -> tuple[str, list[str]]:
    """Return a text in which a character of its own stands for everything in quotes, and what was in them.

    A quote opens where a name or a value begins and closes where it ends; elsewhere it is a character like others.
    """
    quoted: list[str] = []

    def mask(match: re.Match[str]) -> str:
        quoted.append(match[2].replace('""', '"'))
        return match[1] + chr(MASK + len(quoted) - 1)

    return re.sub(r'((?:^|[,|=]|\.\.)\s*)"((?:[^"]|"")*)"(?=\s*(?:$|[,|=]|\.\.))', mask, text), quoted


def _unmasked(text: str, quoted: Sequence[str], mark: str = "") -> str:
    """Return a text with what was in quotes again, between marks."""
    shown = {MASK + number: f"{mark}{words}{mark}" for number, words in enumerate(quoted)}
    return text.strip().translate(shown)


def _condition(schema: TableSchema, masked: str, quoted: Sequence[str]) -> Condition:
    text = _unmasked(masked, quoted, '"')
    name, _, wanted = masked.partition("=")
    words = [_unmasked(word, quoted) for word in wanted.split("|")]
    if not all(word.strip() for word in wanted.split("|")):
        raise SpecError("given", (("", f"expected COLUMN=VALUE, COLUMN=LOW..HIGH or COLUMN=A|B, got '{text}'"),))
    column = schema.column(_unmasked(name, quoted))
    number = schema.columns.index(column)
    low, dots, high = (_unmasked(part, quoted) for part in wanted.partition(".."))
    if column.values and not dots:
        return Condition(number, -math.inf, math.inf, tuple(_code(column, word) for word in words))
    if column.values and column.kind != "ordinal":
        known = ", ".join(column.values[:10])
        raise DataError(f"column '{column.name}' has no order to take {low}..{high} from; name its values: {known}")
    if not dots:
        return Condition(number, *2 * (_code(column, low),))
    least = _end(column, low, lower=True) if low else -math.inf
    most = _end(column, high, lower=False) if high else math.inf
    if least > most or most == -math.inf:
        raise DataError(f"nothing of column '{column.name}' is in {low}..{high}: expected LOW..HIGH with LOW at most HIGH")
    return Condition(number, least, most, around=0.5 * column.step / column.scale)


def _code(column: Column, word: str) -> float:
    """Return the site of a value in words."""
    if column.values:
        codes = column.code_of
        if column.kind == "boolean" and word not in codes:
            codes, word = {side.lower(): code for side, code in codes.items()}, word.lower()
        value = alike(word, tuple(codes))
        if value not in codes:
            known = ", ".join(column.values[:10]) + (", …" if len(column.values) > 10 else "")
            raise DataError(f"column '{column.name}' has no value '{word}'; it has {known}")
        return codes[value]
    number = _number(column, word)
    between = column.multiple(number, math.floor) < column.multiple(number, math.ceil)
    return _site(column, math.nan if between else number, word)


def _site(column: Column, number: float, word: str) -> float:
    """Return the site of a number that stands in a condition as a word."""
    code = float(column.encode(np.array([number]))[0])
    if math.isnan(code):
        steps = f", {column.steps}" if column.steps else ""
        raise DataError(f"column '{column.name}' ({column.kind}{steps}) cannot be {word}")
    return code


def _end(column: Column, word: str, *, lower: bool) -> float:
    """Return the site at which a range ends, which need not be a value that a cell can have."""
    if column.values:
        return _code(column, word) if word in column.values else _level(column, word, lower=lower)
    number = _number(column, word)
    if column.kind == "positive" and number <= 0.0:
        return -math.inf
    if column.kind == "count" and math.isfinite(number):
        return max(float(math.ceil(number) if lower else math.floor(number)), -1.0)
    return _site(column, column.multiple(number, math.ceil if lower else math.floor), word)


def _level(column: Column, word: str, *, lower: bool) -> float:
    """Return the first level from a number on, or the last one up to it, where all levels are numbers in their order."""
    try:
        wanted, levels = float(word), list(map(float, column.values))
    except ValueError:
        return _code(column, word)
    if levels != sorted(levels):
        return _code(column, word)
    return float(bisect_left(levels, wanted) if lower else bisect_right(levels, wanted) - 1)


def _number(column: Column, word: str) -> float:
    """Return a number, or what a column of dates counts by a moment."""
    try:
        if column.unit:
            return seconds_or_days((date if column.unit.startswith("days") else datetime).fromisoformat(word))
        if "_" not in word:  # Python reads 1_0 as ten
            return float(word)
    except ValueError:
        pass
    wanted = f"dates such as {column.moment(column.low or 0.0)}" if column.unit else "numbers"
    raise DataError(f"column '{column.name}' is of {wanted}, got '{word}'")


def draw_given(model: Model, given: Sequence[Condition], count: int, *, seed: int = 0) -> np.ndarray:
    """Return ``count`` rows (count, D) from p(x | the conditions).

    What is asked for exactly is observed, and the rest is drawn given it (:func:`tightbound.complete`); rows outside the ranges
    are thrown away and others drawn. Raises :class:`DataError` when next to none are inside, :class:`SpecError` for no rows.
    """
    if count < 1:
        raise SpecError("draw_given", (("count", f"expected at least 1, got {count}"),))
    sites = model.spec.sites
    x, observed = np.zeros((1, sites.count)), np.zeros((1, sites.count), bool)
    for condition in given:
        if condition.exact is not None:
            x[0, condition.number], observed[0, condition.number] = condition.exact, True
    row = Dataset(x, sites, observed)
    ranges = [condition for condition in given if condition.exact is None]
    kept: list[np.ndarray] = []
    for number in range(ROUNDS):
        own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        drawn = complete(model, row, ROUND, draws=CANDIDATES, seed=own).x[:, 0]
        kept.append(drawn[np.all([np.ones(ROUND, bool), *(condition.holds(drawn) for condition in ranges)], axis=0)])
        found = sum(map(len, kept))
        if found >= count:
            return np.concatenate(kept)[:count]
        if not found and number + 1 == PATIENCE:
            break
    tried = ROUND * len(kept)
    raise DataError(
        f"{found:,} of {tried:,} rows drawn meet the conditions, {count:,} were asked for: widen them or ask for fewer"
    )


def scores(model: Model, data: Dataset, calibration: Dataset, *, draws: int = 1000, seed: int = 0) -> Scores:
    """Return how plausible rows are, with p-values against ``calibration``: normal rows that the model was not trained on.

    log p(row) is a lower bound by ``draws`` importance samples, half of them from the prior: q(z|x) may miss odd rows.
    """
    found, known = (importance(model, rows, draws=draws, proposal=WARY, seed=seed) for rows in (data, calibration))
    p_value = conformal_p_values(found.log_evidence, known.log_evidence)
    return Scores(found.log_evidence, found.se, p_value, surprise(model, data, calibration, draws=draws, seed=seed))


def surprise(
    model: Models, data: Dataset, calibration: Dataset, *, draws: int = 1000, seed: int = 0, haste: bool = False
) -> np.ndarray:
    """Return by how many nats log p(x_d | other cells) is below its median over the calibration rows (n, D), NaN if missing.

    ``model`` and ``haste`` are those of :func:`tightbound.site_scores`.
    """
    cells = site_scores(model, data, draws=draws, seed=seed, haste=haste)
    usual = cells if calibration is data else site_scores(model, calibration, draws=draws, seed=seed, haste=haste)
    known = np.isfinite(usual).any(axis=0)
    return np.where(known, np.nanmedian(np.where(known, usual, 0.0), axis=0), np.nan) - cells


def score_table(found: Scores, names: Sequence[str], oddest: int = 3) -> dict[str, Any]:
    """Return scores as columns: log p(x) and its error, the p-value, and the cells least expected given the others, in nats.

    Cells that are expected as much as is usual are not named.
    """
    surprise = np.where(found.surprise > 0.0, found.surprise, np.nan)
    order = np.argsort(np.where(np.isnan(surprise), np.inf, -surprise), axis=1)[:, :oddest]
    numbers = {"log_p": found.log_evidence, "log_p_se": found.se, "p_value": found.p_value}
    columns: dict[str, Any] = {name: values.astype(np.float64) for name, values in numbers.items()}
    for place in range(order.shape[1]):
        at = order[:, place]
        nats = np.take_along_axis(surprise, at[:, None], axis=1)[:, 0].astype(np.float64)
        columns[f"oddest_{place + 1}"] = [names[j] if np.isfinite(n) else None for j, n in zip(at, nats, strict=True)]
        columns[f"surprise_{place + 1}"] = nats
    return columns
