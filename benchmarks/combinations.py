"""Train every combination of posterior, prior, likelihood, data and objective for two steps, and write down what happened.

Run as ``python benchmarks/combinations.py``; it takes about an hour on one core, since each combination is compiled. The
log is benchmarks/results/combinations.md. With ``--sample 20`` only so many models, drawn at random, are tried. Outcomes
are kept as they come in the file named by ``--progress``: a run that was interrupted goes on where it stopped.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import groupby, product
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
# Every program runs for two steps only: compile it fast rather than well.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax  # noqa: E402
import numpy as np  # noqa: E402

import tightbound as tb  # noqa: E402
from parts import LIKELIHOODS, OBJECTIVES, Choice, grid, train_two_steps  # noqa: E402

TRAINED = "trained"


def outcome(choice: Choice) -> str:
    """Return what two steps did: trained, or the reason why not."""
    try:
        record, unmoved = train_two_steps(choice)
    except tb.TightboundError as error:
        return f"refused: {error}"
    numbers = (record.loss, record.bound, record.reconstruction, record.kl)
    if not np.all(np.isfinite(numbers)) or record.skipped:
        return f"not finite: {numbers}"
    return f"no gradient: {', '.join(unmoved)}" if unmoved else TRAINED


def models(sample: int | None) -> list[tuple[Choice, ...]]:
    """Return the combinations, grouped so that those which differ in their objective only share a model."""
    ordered = sorted(grid(), key=lambda choice: choice._replace(objective=""))
    groups = [tuple(group) for _, group in groupby(ordered, key=lambda choice: choice._replace(objective=""))]
    if sample is None:
        return groups
    return [groups[i] for i in np.random.default_rng(0).permutation(len(groups))[:sample]]


def earlier(progress: Path) -> dict[Choice, str]:
    """Return the outcomes of an interrupted run."""
    lines = progress.read_text(encoding="utf-8").splitlines() if progress.exists() else []
    return {Choice(*names): result for *names, result in map(json.loads, lines)}


def refusals() -> Iterator[tuple[str, str]]:
    """Yield what does not go together, with the words that say so."""
    kinds = ("binary", "levels", "category", "count", "real")  # an array of one kind; "mixed" is refused in the same words
    for (name, (likelihood, _)), kind in product(LIKELIHOODS.items(), kinds):
        sites = tb.Sites(kind=kind, shape=(4,), levels=4 if kind in ("levels", "category") else 0)
        yield f"{name} on {kind} sites", words(tb.VAE(sites=sites, latent=2, likelihood=likelihood).check)
    yield "IWAE(gradient='stl')", words(lambda: tb.IWAE(gradient="stl"))
    for kind in kinds[:3] + kinds[4:]:
        levels = 4 if kind in ("levels", "category") else 0
        yield f"an exposure on {kind} sites", words(lambda: tb.Sites(kind=kind, shape=(4,), levels=levels, exposure=True))  # noqa: B023


def words(attempt: Callable[[], object]) -> str:
    """Return the message of the refusal, or nothing if there is none."""
    try:
        attempt()
    except tb.TightboundError as error:
        return str(error)
    return ""


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)


def main() -> int:
    """Run the grid and write the log; the exit code says whether every combination trained."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sample", type=int, help="try so many models only")
    options.add_argument("--progress", type=Path, default=Path("combinations.jsonl"), help="outcomes so far")
    options.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "combinations.md")
    given = options.parse_args()
    groups, done = models(given.sample), earlier(given.progress)
    for number, group in enumerate(groups, 1):
        missing = [choice for choice in group if choice not in done]
        started = time.process_time()
        done |= {choice: outcome(choice) for choice in missing}
        with given.progress.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps([*choice, done[choice]]) + "\n" for choice in missing)
        print(f"{number}/{len(groups)} models, {time.process_time() - started:.0f} s", flush=True)
        if number % 10 == 0:
            jax.clear_caches()  # hundreds of programs would fill the memory
    outcomes = [done[choice] for group in groups for choice in group]
    rows = [
        (
            first.posterior,
            first.prior,
            first.likelihood,
            first.data,
            *(done[first._replace(objective=name)] for name in OBJECTIVES),
        )
        for first, *_ in groups
    ]
    refused = [row for row in refusals() if row[1]]
    trained = outcomes.count(TRAINED)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(
        f"# Combinations\n\n{trained} of {len(outcomes)} combinations ({len(groups)} models × {len(OBJECTIVES)} objectives) "
        f"trained for two steps: every number finite, every trained array moved. {len(refused)} choices that do not go "
        f"together are refused before anything runs. jax {jax.__version__}.\n\n"
        "Written by `python benchmarks/combinations.py`.\n\n## Trained\n\n"
        + table(("posterior", "prior", "likelihood", "data", *OBJECTIVES), rows)
        + "\n\n## Refused\n\n"
        + table(("choice", "reason"), refused)
        + "\n",
        encoding="utf-8",
    )
    print(f"{trained}/{len(outcomes)} trained, {len(refused)} refused; written to {given.out}")
    return 0 if trained == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
