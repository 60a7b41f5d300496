"""The pictures of docs/evidence.md, and every number in them: what estimates of log p(x) of the built-in digits do.

    python benchmarks/evidence/figures.py [posteriors k annealing rate-distortion gaps]

Two latents, so that log p(x) and p(z|x) are known by quadrature: q(z|x) over p(z|x) for the test rows with the smallest,
the median and the largest gap log p(x) − ELBO; and importance sampling with rising k, from q(z|x), from refined proposals,
and from refined ones that take a tenth of their draws from the prior. Eight latents: the distance of the bounds of
annealed importance sampling on rows drawn from the model, with rising numbers of temperatures; rate and distortion of
models trained with five weights β of the KL term; and the split of log p(x) − ELBO. The pictures go to docs/images, the
numbers to results/figures.json.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "speed"))

import jax.numpy as jnp  # noqa: E402
import matplotlib.ticker as ticker  # noqa: E402
import numpy as np  # noqa: E402
from common import write  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

import tightbound as tb  # noqa: E402
from tightbound.evidence.annealed import Walk, bracket  # noqa: E402
from tightbound.evidence.estimate import Estimate  # noqa: E402
from tightbound.evidence.exact import exact, posterior_grid  # noqa: E402
from tightbound.evidence.gaps import gaps, surgery  # noqa: E402
from tightbound.evidence.importance import UNRELIABLE, importance  # noqa: E402
from tightbound.evidence.proposals import Proposal  # noqa: E402
from tightbound.evidence.truth import true_posterior  # noqa: E402
from tightbound.pictures import COLOURS, INK, PALE, PosteriorPlane, posterior_map, save, tiles  # noqa: E402

IMAGES = HERE.parents[1] / "docs" / "images"
EPOCHS = 100
DRAWS = (1, 3, 10, 30, 100, 1_000, 10_000)
PROPOSALS = {
    "q(z | x)": Proposal(),
    "refined": Proposal("refined"),
    "refined, 10 % from the prior": Proposal("refined", defensive=0.1),
}
TEMPERATURES = (12, 25, 50, 100, 200, 400)
STARTS: dict[Any, str] = {"prior": "the prior", "posterior": "q(z | x)", "refined": "refined proposals"}
SIMULATED, CHAINS, LEAPFROG = 48, 4, 5
SPLIT = 48
BETAS = (0.25, 0.5, 1.0, 2.0, 4.0)
MARKS = ("o", "s", "^", "D", "v")


def fitted(latent: int, beta: float = 1.0) -> tuple[tb.Model, tb.Dataset]:
    """Train a model of the built-in digits and return it with its test rows."""
    data, network = tb.load("digits"), tb.MLP(hidden=(100,))
    spec = tb.VAE(
        sites=data.sites, latent=latent, encoder=network, decoder=network, likelihood=tb.DiscretisedLogistic()
    )  # fmt: skip
    result = tb.fit(data, spec, tb.ELBO(beta=beta), tb.Plan(epochs=EPOCHS, seed=0), draws=1)
    return result.model, data.take(result.split.test)


def numbers(values: Sequence[float] | np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]


def mean_and_se(values: np.ndarray) -> list[float]:
    return numbers([values.mean(), values.std(ddof=1) / len(values) ** 0.5])


def pair(estimate: Estimate) -> list[float]:
    return numbers([estimate.value, estimate.se])


class Two:
    """The model with two latents, its test rows and their log p(x), each made once."""

    def __init__(self) -> None:
        self.model, self.test = fitted(2)
        self.log_evidence = exact(self.model, self.test).log_evidence


def posteriors(two: Two) -> dict[str, Any]:
    """Draw q(z|x) over p(z|x) of three test rows."""
    elbo = importance(two.model, two.test, draws=10_000).elbo
    gap = two.log_evidence - elbo
    order = np.argsort(gap)
    chosen = {"Smallest": order[0], "Median": order[len(order) // 2], "Largest": order[-1]}
    latents = tb.embed(two.model, two.test)
    planes, told = [], {}
    for name, row in chosen.items():
        grid = posterior_grid(two.model, jnp.asarray(two.test.x[row], jnp.float32))
        draws = true_posterior(two.model, two.test, int(row), draws=500)
        planes.append(
            PosteriorPlane(
                grid.axes, grid.log_density, latents.mean[row], np.diag(latents.scale[row] ** 2), grid.log_evidence,
                float(elbo[row]), draws.z.reshape(-1, 2)[::8], tiles(two.test.x[row], two.test.sites)[0],
                f"{name} gap of {len(gap)} test rows",
            )
        )  # fmt: skip
        told[name.lower()] = {
            "test_row": int(row), "label": str(two.test.labels[row]), "log_evidence": round(float(grid.log_evidence), 4),
            "elbo": round(float(elbo[row]), 4), "gap": round(float(gap[row]), 4), "q_mean": numbers(latents.mean[row]),
            "q_scale": numbers(latents.scale[row]), "true_mean": numbers(draws.mean),
            "true_scale": numbers(np.sqrt(np.diag(draws.covariance))), "r_hat": numbers(draws.r_hat),
            "ess": numbers(draws.ess), "divergences": draws.divergences, "warnings": draws.warnings(),
        }  # fmt: skip
    save(posterior_map(*planes), IMAGES / "evidence-posteriors.png")
    return {"rows": told, "mean_gap": mean_and_se(gap), "mean_elbo": mean_and_se(elbo)}


def rising_k(two: Two) -> dict[str, Any]:
    """Draw the mean bound against the number of draws."""
    truth, found = two.log_evidence, {}
    for name, proposal in PROPOSALS.items():
        lines = []
        for draws in DRAWS:
            result = importance(two.model, two.test, draws=draws, proposal=proposal)
            missed = truth - result.log_evidence
            heavy = int(np.sum(result.pareto_shape > UNRELIABLE)) if draws >= 25 else None
            lines.append(
                {
                    "k": draws, "bound": round(result.bound().value, 4), "below_exact": mean_and_se(missed),
                    "furthest_below": round(float(missed.max()), 4), "furthest_above": round(float(-missed.min()), 4),
                    "heavy_rows": heavy, "median_ess": round(float(np.median(result.ess)), 1),
                    "decoder_evaluations": result.evaluations,
                }
            )  # fmt: skip
        found[name] = lines
    exact_mean = float(truth.mean())
    figure = Figure(figsize=(9.0, 4.1), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, lines), colour, mark in zip(found.items(), (COLOURS[0], COLOURS[6], COLOURS[4]), MARKS, strict=False):
        missed, se = np.array([line["below_exact"] for line in lines]).T
        style: dict[str, Any] = {"color": colour, "marker": mark, "markersize": 5, "linewidth": 1.5, "capsize": 3}
        left.errorbar(DRAWS, exact_mean - missed, se, label=f"draws from {name}" if name[0] == "q" else name, **style)
        seen = missed > 0
        right.errorbar(np.array(DRAWS)[seen], missed[seen], on_log_scale(missed, se)[:, seen], **style)
        for draws, limit in zip(np.array(DRAWS)[~seen], (missed + 2.0 * se)[~seen], strict=True):
            right.errorbar(draws, limit, 0.4 * limit, uplims=True, color=colour, marker="_", capsize=3)
    left.axhline(exact_mean, color=INK, linewidth=1.2, linestyle="--", label="exact log p(x), by quadrature")
    left.set_ylabel("mean bound on log p(x), nats per image")
    right.set_ylabel("exact log p(x) − bound, nats per image")
    right.set_yscale("log")
    right.set_ylim(bottom=0.002)
    right.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    for axes, title in ((left, "The bound rises with k"), (right, "What is missing (arrow: at most that)")):
        axes.set_xscale("log")
        axes.set_xticks([1, 10, 100, 1_000, 10_000], ["1", "10", "100", "1,000", "10,000"])
        axes.set_xlabel("k, importance samples per image")
        plain(axes, title)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    save(figure, IMAGES / "evidence-k.png")
    return {"test_rows": len(truth), "exact": mean_and_se(truth), "bounds": found}


def annealing() -> dict[str, Any]:
    """Draw the distance of the bounds against the number of temperatures, for every start."""
    model, _ = fitted(8)
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes, found = figure.subplots(), {}
    for (start, words), colour, mark in zip(STARTS.items(), COLOURS, MARKS, strict=False):
        lines = []
        for steps in TEMPERATURES:
            both = bracket(model, SIMULATED, Walk(steps, CHAINS, LEAPFROG, start))
            lines.append(
                {
                    "temperatures": steps, "gap": numbers(both.gap), "lower": pair(both.lower.estimate()),
                    "upper": pair(both.upper.estimate()), "decoder_evaluations_per_side": CHAINS * steps * (4 + 3 * LEAPFROG),
                    "warnings": [*both.lower.warnings(), *both.upper.warnings()],
                }
            )  # fmt: skip
        gap, se = np.array([line["gap"] for line in lines]).T
        axes.errorbar(TEMPERATURES, gap, se, color=colour, marker=mark, markersize=5, capsize=3, label=f"chains from {words}")
        found[start] = lines
    axes.axhline(0.0, color=INK, linewidth=0.8, linestyle="--")
    axes.set_xscale("log", base=2)
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set_xticks(TEMPERATURES, [str(steps) for steps in TEMPERATURES])
    axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel("temperatures between the start and p(z | x)")
    axes.set_ylabel("upper − lower bound, nats per image")
    axes.legend(frameon=False, fontsize=9)
    plain(axes, f"Annealed bounds close in on log p(x) ({SIMULATED} simulated images)")
    save(figure, IMAGES / "evidence-annealing.png")
    return {"simulated_rows": SIMULATED, "chains": CHAINS, "leapfrog": LEAPFROG, "latents": 8, "brackets": found}


def rate_distortion() -> dict[str, Any]:
    """Draw rate against distortion of models trained with several weights of the KL term."""
    lines = []
    for beta in BETAS:
        model, test = fitted(8, beta)
        parts = surgery(model, test)
        lines.append(
            {
                "beta": beta, "rate": pair(parts.rate), "distortion": pair(parts.distortion),
                "negative_elbo": round(parts.rate.value + parts.distortion.value, 4),
                "information": [pair(bound) for bound in parts.information],
                "marginal_kl": [pair(bound) for bound in parts.marginal_kl],
            }
        )  # fmt: skip
    rate, distortion = np.array([[line["rate"], line["distortion"]] for line in lines]).transpose(1, 0, 2)
    best = min(lines, key=lambda line: line["negative_elbo"])
    figure = Figure(figsize=(6.0, 4.4), layout="constrained")
    axes = figure.subplots()
    ends = np.array([rate[:, 0].min() - 1.5, rate[:, 0].max() + 1.5])
    label = f"rate + distortion = {best['negative_elbo']:.1f}, the best −ELBO (β = {best['beta']:g})"
    axes.plot(ends, best["negative_elbo"] - ends, color=INK, linewidth=1.2, linestyle="--", label=label)
    axes.plot(rate[:, 0], distortion[:, 0], color=PALE, linewidth=1.5, zorder=0)
    axes.errorbar(
        rate[:, 0], distortion[:, 0], distortion[:, 1], rate[:, 1], color=COLOURS[0], marker="o", markersize=6,
        linestyle="", capsize=3, label="a model, ± standard error over test images",
    )  # fmt: skip
    for line in lines:
        where = (line["rate"][0], line["distortion"][0])
        told = f"β = {line['beta']:g}, −ELBO {line['negative_elbo']:.1f}"
        axes.annotate(told, where, xytext=(8, 7), textcoords="offset points", fontsize=9, color=INK)
    axes.set_xlim(right=1.25 * ends[1])
    axes.set_xlabel("rate, KL(q(z | x) ‖ p(z)), nats per image")
    axes.set_ylabel("distortion, −log p(x | z), nats per image")
    plain(axes, "Rate and distortion of models trained with KL weight β")
    axes.legend(frameon=False, fontsize=8.5)
    save(figure, IMAGES / "evidence-rate-distortion.png")
    return {"test_rows": len(test), "log_rows": round(float(np.log(len(test))), 4), "latents": 8, "models": lines}


def split() -> dict[str, Any]:
    """Split log p(x) − ELBO of a model with eight latents; nothing is drawn."""
    model, test = fitted(8)
    found = gaps(model, test.take(range(SPLIT)))
    parts = {"total": found.total, "approximation": found.approximation, "amortisation": found.amortisation}
    parts["full_covariance_gain"] = found.gain("full covariance")
    return {"test_rows": SPLIT, "latents": 8, **{name: pair(part) for name, part in parts.items()}}


def on_log_scale(values: np.ndarray, se: np.ndarray) -> np.ndarray:
    """Return lengths (2, n) of error bars that stop just short of 0, where the scale has no place."""
    return np.stack([np.minimum(se, 0.999 * np.abs(values)), se])


def plain(axes: Axes, title: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=PALE, linewidth=0.6, alpha=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=INK)
    axes.set_title(title, fontsize=10, loc="left", color=INK)


def main() -> None:
    began, two = time.perf_counter(), None
    parts = {"posteriors": posteriors, "k": rising_k, "annealing": annealing, "rate-distortion": rate_distortion, "gaps": split}
    wanted = sys.argv[1:] or list(parts)
    measured: dict[str, Any] = {}
    for name in wanted:
        start = time.perf_counter()
        if name in ("posteriors", "k"):
            two = two or Two()
            measured[name] = parts[name](two)
        else:
            measured[name] = parts[name]()
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    if set(wanted) == set(parts):
        # The writer's own folder is that of the speed benchmarks.
        write("../../evidence/results/figures", {**measured, "seconds": round(time.perf_counter() - began)})


if __name__ == "__main__":
    main()
