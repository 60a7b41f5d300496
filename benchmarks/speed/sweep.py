"""Eight models of the digits: trained and evaluated by one `tb.sweep`, or by eight calls of `tb.fit` in turn.

    python benchmarks/speed/sweep.py [--rounds N]

Every way is a process of its own that starts without compiled programs; the ways take turns. Eight weights of the KL are
one program for `fit`, too, compiled once; eight numbers of latents are a program each. Printed are CPU seconds, which do not
depend on what else the machine does, and wall seconds, the medians of the rounds; written to results/sweep.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
BETAS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
LATENTS = (1, 2, 3, 4, 6, 8, 12, 16)
GRIDS = ("8 weights of the KL", "8 numbers of latents")
WIDTHS = {"64": (64,), "300, 300": (300, 300)}
WAYS = ("sweep", "fits")
EPOCHS, DRAWS = 50, 100


def work(grid: str, way: str, widths: str) -> None:
    """Train and evaluate, and print what that took."""
    started = time.monotonic()
    import tightbound as tb

    data = tb.load("digits")
    network = tb.MLP(hidden=WIDTHS[widths])
    parts = {"encoder": network, "decoder": network, "likelihood": tb.DiscretisedLogistic()}
    spec = tb.VAE(sites=data.sites, latent=8, **parts)
    plan = tb.Plan(epochs=EPOCHS)
    swept = {"beta": BETAS} if grid == GRIDS[0] else {"latent": LATENTS}
    if way == "sweep":
        result = tb.sweep(data, spec, plan=plan, draws=DRAWS, **swept)
        training, elbos = result.seconds["training"], [member.elbo.value for member in result.members]
    else:
        fits = [
            tb.fit(
                data, spec.replace(latent=value) if grid == GRIDS[1] else spec,
                tb.ELBO(beta=value if grid == GRIDS[0] else 1.0), plan, draws=DRAWS, diagnosis=False,
            )
            for (values,) in [swept.values()] for value in values
        ]  # fmt: skip
        training, elbos = sum(fit.summary["training_seconds"] for fit in fits), [fit.elbo.value for fit in fits]
    cpu = sum(os.times()[:2])
    print(json.dumps({"cpu": cpu, "wall": time.monotonic() - started, "training": training, "elbos": elbos}))


def measured(grid: str, way: str, widths: str) -> dict[str, Any]:
    """Run one way in a process of its own with an empty compilation cache."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
        command = [sys.executable, str(Path(__file__).resolve()), "--work", grid, way, widths]
        return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", nargs=3)
    options = parser.parse_args()
    if options.work:
        work(*options.work)
        return
    results = []
    for grid in GRIDS:
        for widths in WIDTHS:
            results.append(raced(grid, widths, options.rounds))
            print(_line(results[-1]), flush=True)
    told = {"cores": len(os.sched_getaffinity(0)), "rounds": options.rounds, "results": results}
    (HERE / "results" / "sweep.json").write_text(json.dumps(told, indent=1) + "\n")


def raced(grid: str, widths: str, rounds: int) -> dict[str, Any]:
    """Return the medians over rounds of both ways, and how far their ELBOs are apart."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            found[way].append(measured(grid, way, widths))
    names = ("cpu", "wall", "training")
    ways = {way: {name: median(times[name] for times in found[way]) for name in names} for way in WAYS}
    apart = max(abs(a - b) for a, b in zip(*(found[way][0]["elbos"] for way in WAYS), strict=True))
    return {"grid": grid, "widths": widths, "elbos_apart": apart, **ways}


def _line(result: dict[str, Any]) -> str:
    times = ", ".join(f"{way} {result[way]['cpu']:.1f} CPU s ({result[way]['wall']:.1f} s wall)" for way in WAYS)
    ratio = result["fits"]["cpu"] / result["sweep"]["cpu"]
    apart = f"ELBOs apart by {result['elbos_apart']:.4f} nats at most"
    return f"{result['grid']}, hidden {result['widths']}: {times}, {ratio:.2f} times as long; {apart}"


if __name__ == "__main__":
    main()
