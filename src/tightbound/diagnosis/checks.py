"""The checks, one function per code; :data:`CHECKS` holds them in order, with why each matters and what to change.

=====  =========================  ==============================================================================
code   title                      it is a problem when
=====  =========================  ==============================================================================
TB001  posterior collapse         the whole KL is below 0.1 nats, or no latent is active
TB002  inactive latents           more than half of the latents, but not all, have an activity of at most 0.01
TB003  KL in one latent           one of at least four latents carries more than 80 % of the KL
TB004  prior hole                 KL(aggregate posterior ‖ prior) exceeds 0.2 nats per active latent
TB005  importance weights         the median row has fewer than 2 effective of 200 draws (1 %)
TB006  data outside the support   a value is inadmissible, has no finite log-density, lies more than 10 standard
                                  deviations out (real sites), or varies where training was constant
TB007  noise scale                σ of a column is within twice its floor, or above 0.98 of the data's own spread in
                                  most columns
TB008  over-fitting               train − held-out log p(x) exceeds 3 standard errors and 5 % of \\|log p(x)\\| (2 nats
                                  for densities)
TB009  under-training             the ELBO rises over the last tenth (of a short run: the last third) by more than 3
                                  standard errors and 0.1 nats per epoch; not told of fewer than 500 steps that end flat
TB010  warm-up never ended        the warm-up is longer than the run, or the last weight of the KL is below β
TB011  dead components            more than a quarter of the components of a mixture prior (and more than chance leaves
                                  out) are never responsible for a row
TB012  skipped steps              any step had no finite gradient
=====  =========================  ==============================================================================

Rows are at most 500 of each part; KL, activity and noise are of training rows, importance weights of held-out rows where
there are any. All numbers are in nats per example unless the unit says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tightbound.diagnosis.course import cause_of_skips, finite, learning_rate_left, rise
from tightbound.diagnosis.finding import Finding, Status
from tightbound.diagnosis.subject import ACTIVE, DRAWS, Subject
from tightbound.diagnosis.values import inadmissible, oddities
from tightbound.errors import TightboundError
from tightbound.likelihoods import Gaussian

__all__ = ["CHECKS", "Check", "Outcome"]

COLLAPSED = 0.1  # nats: all latents together tell less than a seventh of a bit about x
MOST = 0.5
ONE_LATENT = 0.8
FEWEST_LATENTS = 4  # with fewer, one latent may well hold most
HOLE = 0.2  # nats per active latent: that of a Gaussian with a third of the prior's variance, or moved by 0.63 deviations
FEWEST_ROWS = 20  # for a standard error to mean something
FEWEST_EFFECTIVE = 0.01 * DRAWS
FLOOR = 2.0  # times the floor
WIDE = 0.98  # of the data's own spread: 4 % of the variance or less is explained
CERTAIN = 3.0  # standard errors
OVERFIT_SHARE = 0.05
OVERFIT_NATS = 2.0
RISING = 0.1  # nats per epoch
SLOW = 0.1  # of the highest learning rate: a schedule that ends near 0 flattens the end of any run
FEW_STEPS = 500  # of which such an end tells nothing: a run of six steps has one
REACHED = 0.99  # the last record is a mean over some steps
DEAD = 1e-3  # times 1/K, the responsibility that every component would have if they were alike
DEAD_SHARE = 0.25


class Outcome(NamedTuple):
    """What a check found: the status, the sentence, the number."""

    status: Status
    text: str
    number: float | None = None


class Check(NamedTuple):
    """One check: its code and title, the unit of its number, what it is for, and the function that measures."""

    code: str
    title: str
    unit: str
    why: str
    change: str
    measure: Callable[[Subject], Outcome]

    def __call__(self, subject: Subject) -> Finding:
        """Return the finding; what cannot be measured, or is no finite number, is not applicable.

        Errors on purpose (:class:`~tightbound.errors.TightboundError`) become the reason; any other error is a bug and
        is not caught.
        """
        try:
            outcome = self.measure(subject)
        except TightboundError as error:
            outcome = skip(str(error))
        status, text, number = outcome
        if status == "ok" and number is not None and not math.isfinite(number):
            status, text, number = skip(f"the measurement is no finite number ({number}); see TB006 and TB012")
        number = None if number is None else float(number)
        return Finding(self.code, self.title, status, text, number, self.unit, self.why, self.change)


def judged(bad: bool | np.bool_, text: str, number: float) -> Outcome:
    """Return a problem or an ok with the same sentence."""
    return Outcome("problem" if bad else "ok", text, number)


def skip(reason: str) -> Outcome:
    """Return that a check is not applicable, and why."""
    return Outcome("not applicable", reason)


def number_of(count: int, thing: str) -> str:
    """Return a count with its noun.

    >>> number_of(1, "row"), number_of(2000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def collapse(subject: Subject) -> Outcome:
    """TB001: whether the latents tell anything about x at all."""
    if len(subject.rows.x) < 2:
        return skip("a single row cannot tell whether the latents respond to x")
    kl, active, latents = subject.kl, subject.active, subject.model.spec.latent
    layers = ", ".join(f"{nats:.3g}" for nats, _ in subject.layer_kl)
    of_layers = f" ({layers} in the layers, the top one first)" if layers else ""
    text = (
        f"the KL of q(z|x) from the prior is {kl:.3g} nats{of_layers} and {active} of {number_of(latents, 'latent')} are active"
    )
    return judged(kl < COLLAPSED or active == 0, text, kl)


def inactive(subject: Subject) -> Outcome:
    """TB002: how many latents do not respond to x."""
    latents, active = subject.model.spec.latent, subject.active
    if len(subject.rows.x) < 2:
        return skip("a single row cannot tell which latents respond to x")
    if active == 0:
        return skip("no latent is active at all, which is TB001")
    count = latents - active
    text = f"{count} of {number_of(latents, 'latent')} have a posterior mean that varies by less than {ACTIVE:.0%} of the prior"
    return judged(count > MOST * latents, text, count)


def concentration(subject: Subject) -> Outcome:
    """TB003: how the KL is spread over latents."""
    latents, kl = subject.model.spec.latent, subject.latent_kl
    if latents < FEWEST_LATENTS:
        return skip(f"with {number_of(latents, 'latent')}, one may well carry most of the KL; at least {FEWEST_LATENTS} needed")
    if kl is None:
        return skip("the KL does not split into latents: it does for a DiagonalGaussian posterior and StandardNormal prior")
    if kl.sum() < COLLAPSED:
        return skip(f"the whole KL is only {kl.sum():.3g} nats, which is TB001")
    share = float(kl.max() / kl.sum())
    text = (
        f"the KL per latent goes from {kl.min():.3g} to {kl.max():.3g} nats (median {np.median(kl):.3g}); the largest, "
        f"latent {int(kl.argmax())}, carries {share:.0%} of the whole"
    )
    return judged(share > ONE_LATENT, text, 100 * share)


def hole(subject: Subject) -> Outcome:
    """TB004: how far the prior is from the aggregate posterior, by a lower bound."""
    if (count := len(subject.rows.x)) < FEWEST_ROWS:
        return skip(f"the aggregate posterior of {number_of(count, 'row')} says little; at least {FEWEST_ROWS} are needed")
    gap, active = subject.gap, max(subject.active, 1)
    if gap.nats + CERTAIN * gap.se < 0:
        return skip(
            f"{number_of(count, 'row')} give no lower bound above 0 on the KL of the aggregate posterior from this prior in "
            f"{number_of(subject.model.spec.latent, 'dimension')}"
        )
    nats = max(gap.nats, 0.0)
    text = (
        f"the aggregate posterior is at least {nats:.3g} ± {gap.se:.2g} nats from the prior in KL, "
        f"{nats / active:.3g} per active latent"
    )
    return judged(gap.certain > HOLE * active, text, nats / active)


def degeneracy(subject: Subject) -> Outcome:
    """TB005: how many of the importance samples count."""
    training, held_out = subject.evidence
    result, part = (training, "training") if held_out is None else (held_out, "held-out")
    ess = np.nan_to_num(result.ess, nan=0.0)
    median = float(np.median(ess))
    text = (
        f"{median:.3g} of {DRAWS} importance samples are effective in the median {part} row "
        f"({median / DRAWS:.1%}); {np.mean(ess < 5):.0%} of the rows have fewer than 5"
    )
    return judged(median < FEWEST_EFFECTIVE, text, median)


def support(subject: Subject) -> Outcome:
    """TB006: which values the likelihood is not made for."""
    results = dict(zip(("training", "held-out"), subject.evidence, strict=True))
    parts = [("training", subject.training), *([] if subject.held_out is None else [("held-out", subject.held_out)])]
    wrong = [f"the {name} rows: {text}" for name, part in parts if (text := inadmissible(part)) is not None]
    if wrong:
        return Outcome("problem", "; ".join(wrong))
    found = list(oddities(subject.training, subject.held_out))
    marked = sum(
        int(np.any([odd.rows for odd in found if odd.held_out == side], axis=0).sum())
        for side in {odd.held_out for odd in found}
    )
    texts = [
        f"{number_of(int(odd.rows.sum()), ('held-out' if odd.held_out else 'training') + ' row')} with {odd.text}"
        for odd in found
    ]
    impossible = {name: int(np.sum(~np.isfinite(r.log_evidence))) for name, r in results.items() if r is not None}
    texts += [f"{number_of(n, f'{name} row')} whose log p(x) is not a finite number" for name, n in impossible.items() if n]
    rows = max(marked, sum(impossible.values()))
    if texts:
        return Outcome("problem", "; ".join(texts), rows)
    return Outcome("ok", "every value is admissible, has a finite log-density and lies where training values do", 0)


def noise(subject: Subject) -> Outcome:
    """TB007: whether the noise of a Gaussian likelihood is anywhere between its floor and the data's own spread."""
    family = subject.model.spec.likelihood
    if not isinstance(family, Gaussian):
        return skip(f"the likelihood '{getattr(family, 'kind', '?')}' has no Gaussian noise scale")
    if (count := len(subject.rows.x)) < FEWEST_ROWS:
        return skip(f"{number_of(count, 'row')} do not tell the data's own spread; at least {FEWEST_ROWS} are needed")
    sigma = np.median(subject.posteriors.noise, axis=0)
    spread = _spread(subject)
    varies = spread > 0
    floored = int(np.sum(on_floor(subject)))
    ratio = float(np.median(sigma[varies] / spread[varies])) if varies.any() else math.nan
    wide = float(np.mean(sigma[varies] > WIDE * spread[varies])) if varies.any() else 0.0
    text = (
        f"the noise σ is {ratio:.3g} of the data's own spread in the median column, "
        f"within {FLOOR:g} times its floor in {floored} of {number_of(len(sigma), 'column')}, "
        f"and above {WIDE} of the spread in {wide:.0%} of them"
    )
    return judged(floored > 0 or wide > MOST, text, ratio)


def on_floor(subject: Subject) -> np.ndarray:
    """Return which columns (D,) have a trained noise scale within twice its floor."""
    family, sigma = subject.model.spec.likelihood, np.median(subject.posteriors.noise, axis=0)
    if not isinstance(family, Gaussian) or family.noise == "fixed":
        return np.zeros(len(sigma), bool)
    unit: np.ndarray = np.asarray(subject.model.likelihood_head.spread())  # type: ignore[attr-defined]
    return sigma < FLOOR * family.floor * unit


def _spread(subject: Subject) -> np.ndarray:
    """Return the standard deviation of every column (D,) over the training rows where it is observed."""
    rows = subject.rows
    seen = np.ones(rows.x.shape, bool) if rows.observed is None else rows.observed
    cells, weight = np.where(seen, rows.x, 0.0).astype(np.float64), np.maximum(seen.sum(axis=0), 1)
    mean = cells.sum(axis=0) / weight
    deviation: np.ndarray = np.sqrt((np.where(seen, cells - mean, 0.0) ** 2).sum(axis=0) / weight)
    return deviation


def overfitting(subject: Subject) -> Outcome:
    """TB008: how much better log p(x) is on training rows than on others."""
    training, held_out = subject.evidence
    if held_out is None:
        return skip("no rows were held out")
    if (count := min(len(training.log_evidence), len(held_out.log_evidence))) < FEWEST_ROWS:
        return skip(f"{number_of(count, 'row')} in the smaller part say little; at least {FEWEST_ROWS} are needed")
    if not all(np.isfinite(part.log_evidence).all() for part in (training, held_out)):
        return skip("log p(x) of some rows is not a finite number, which is TB006")
    seen, unseen = training.bound(), held_out.bound()
    difference, se = seen.value - unseen.value, math.hypot(seen.se, unseen.se)
    allowed = OVERFIT_SHARE * abs(unseen.value) if held_out.measure == "counting" else OVERFIT_NATS
    text = (
        f"log p(x) is {difference:.3g} ± {se:.2g} nats higher on training rows ({seen.value:.4g}) than on "
        f"held-out rows ({unseen.value:.4g})"
    )
    return judged(difference > max(CERTAIN * se, allowed), text, difference)


def undertraining(subject: Subject) -> Outcome:
    """TB009: whether the bound was still rising when training ended."""
    steps = subject.steps
    if subject.patience is not None and steps is not None and steps.made < steps.planned:
        return Outcome(
            "ok", f"training stopped by itself, after {number_of(subject.patience, 'evaluation')} without a better one"
        )
    found = rise(subject.records)
    if found is None:
        return skip(f"the end of the run has too few records ({len(subject.records)} in all) to fit a slope to")
    text = f"over the last {found.part} of the run the {found.of} changes by {found.slope:+.3g} ± {found.se:.2g} nats per epoch"
    rising = found.slope > max(CERTAIN * found.se, RISING)
    left = learning_rate_left(subject.records)
    if not rising and left < SLOW:
        text += f"; its learning rate had fallen to {left:.0%} of the highest by then, so a longer run may still be better"
        if steps is not None and steps.made < FEW_STEPS:
            return skip(f"{text}: after {number_of(steps.made, 'step')} a flat end says nothing")
    return judged(rising, text, found.slope)


def warmup(subject: Subject) -> Outcome:
    """TB010: whether the KL ever had its full weight, in every phase of the run that has a warm-up."""
    outcomes = [_warmup(subject, phase, one) for phase, one in enumerate(_chain(subject.objective)) if _warms_up(one)]
    if not outcomes:
        return skip("the objective has no warm-up of the KL")
    return next((outcome for outcome in outcomes if outcome.status == "problem"), outcomes[0])


def _chain(objective: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Yield the fields of an objective and of those that follow it."""
    while objective is not None:
        yield objective
        objective = objective.get("then")


def _warms_up(objective: Mapping[str, Any]) -> bool:
    return bool(np.max(objective.get("warmup", 0))) and bool(objective.get("beta", 1.0))


def _warmup(subject: Subject, phase: int, objective: Mapping[str, Any]) -> Outcome:
    length, beta = int(np.max(objective["warmup"])), objective.get("beta", 1.0)
    of_phase = [record for record in subject.records if record.get("phase", 0) == phase]
    last = finite(of_phase[-1], "beta") if of_phase else None
    if subject.steps is None and last is None:
        return skip("neither the number of steps nor the metrics of the run are known")
    over = phase < max((record.get("phase", 0) for record in subject.records), default=0)
    made = of_phase[-1]["step"] if over and of_phase else length if subject.steps is None else subject.steps.made
    weight = beta * min(made / length, 1.0) if last is None else last
    text = f"the weight of the KL reached {weight:.3g} of {beta:g} in a warm-up of {number_of(length, 'step')}"
    text += "" if subject.steps is None else f", of which {min(made, length):,} were made"
    return judged(length > made or weight < REACHED * beta, text, 100 * weight / beta)


def dead_components(subject: Subject) -> Outcome:
    """TB011: how many components of a mixture prior no row ever uses."""
    weights, responsibility, rows = subject.prior.weights, subject.prior.responsibility, len(subject.rows.x)
    if weights is None or responsibility is None:
        return skip(f"the prior '{getattr(subject.model.spec.prior, 'kind', '?')}' is not a mixture")
    count = len(weights)
    if rows < count:
        return skip(f"{number_of(rows, 'row')} cannot tell which of {count:,} components are used; at least as many are needed")
    dead = responsibility < DEAD / count
    # If every row used one component, each as often as any other, chance alone would leave this share without a row.
    missed = (1.0 - 1.0 / count) ** rows
    text = (
        f"{int(dead.sum())} of {number_of(count, 'component')}, with {weights[dead].sum():.0%} of the prior's weight, "
        f"are responsible for none of {number_of(rows, 'row')}"
    )
    return judged(dead.mean() > DEAD_SHARE + missed, text, int(dead.sum()))


def skipped(subject: Subject) -> Outcome:
    """TB012: how many steps had no finite gradient, and why."""
    if not subject.records:
        return skip("the metrics of the run are not known")
    count, made = int(subject.records[-1].get("skipped") or 0), int(subject.records[-1]["step"])
    if not count:
        return Outcome("ok", f"each of {number_of(made, 'step')} had a finite gradient", 0)
    floored = isinstance(subject.model.spec.likelihood, Gaussian) and bool(on_floor(subject).any())
    cause = cause_of_skips(subject.records, floored)
    return Outcome("problem", f"{count:,} of {number_of(made, 'step')} had no finite gradient and were skipped; {cause}", count)


CHECKS: tuple[Check, ...] = (
    Check(
        "TB001", "posterior collapse", "nats",
        "a model whose q(z|x) is the prior ignores its latents: embeddings and reconstructions say nothing about x",
        "warm the weight of the KL up over more steps (ELBO(warmup=...)), use free bits (ELBO(free_bits=0.1)), a smaller β "
        "or a decoder with fewer weights; check that the noise scale of the likelihood is not too large",
        collapse,
    ),
    Check(
        "TB002", "inactive latents", "latents",
        "inactive latents carry no information; they cost nothing in the bound but make the model look larger than it is",
        "build the model with about as many latents as are active, or use a warm-up or free bits to keep more of them alive",
        inactive,
    ),
    Check(
        "TB003", "KL in one latent", "%",
        "one latent that carries nearly all information makes the others useless for embeddings and traversals",
        "look at what that latent encodes (often an outlier or a scale): transform or scale that column; use free bits",
        concentration,
    ),
    Check(
        "TB004", "prior hole", "nats per active latent",
        "samples start from the prior: where no row's posterior lies, the decoder was never trained, and samples are poor; "
        "a prior equal to the aggregate posterior would raise the ELBO by at least this KL",
        "use a prior that is trained (TrainedMixture or VampPrior), train longer, or use β nearer to 1",
        hole,
    ),
    Check(
        "TB005", "importance weights", f"effective draws of {DRAWS}",
        "when one draw carries all weight, the estimate of log p(x) is far below the truth and its standard error is not to "
        "be trusted",
        "report annealed importance sampling instead; a FullGaussian posterior or a larger encoder brings q(z|x) nearer",
        degeneracy,
    ),
    Check(
        "TB006", "data outside the support", "rows",
        "single rows with extreme or impossible values decide the mean of log p(x) and the gradient",
        "repair or remove these rows, rescale or transform the columns, drop columns that are constant in training, or "
        "choose a likelihood for such values",
        support,
    ),
    Check(
        "TB007", "noise scale", "of the data's spread",
        "σ on its floor makes log p(x) grow without meaning (a column that is constant or copied); σ as large as the data's "
        "own spread means that the decoder explains nothing",
        "on the floor: drop constant or copied columns, or treat discrete values as such; too wide: see TB001, give the "
        "decoder more weights or train longer",
        noise,
    ),
    Check(
        "TB008", "over-fitting", "nats",
        "the model describes its training rows better than new ones: only held-out numbers may be reported",
        "stop earlier (Plan(patience=...)), use smaller networks, more weight decay or more data",
        overfitting,
    ),
    Check(
        "TB009", "under-training", "nats per epoch",
        "the numbers are those of an unfinished model, and comparisons with it are unfair to it",
        "train for more epochs, or with a higher learning rate",
        undertraining,
    ),
    Check(
        "TB010", "warm-up never ended", "% of the full weight",
        "the model was trained with a smaller weight of the KL than was asked for: its loss was not minus the ELBO",
        "shorten the warm-up or train longer",
        warmup,
    ),
    Check(
        "TB011", "dead components", "components",
        "components that no row uses are wasted, and samples that start from them are unlike the data",
        "use fewer components, start the pseudo-inputs at training rows, or train longer",
        dead_components,
    ),
    Check(
        "TB012", "skipped steps", "steps",
        "a step without a finite gradient changes nothing; many of them mean that the loss is on the edge of overflow",
        "lower the learning rate or the clip of the gradient, and look for extreme values in the data (TB006)",
        skipped,
    ),
)  # fmt: skip
