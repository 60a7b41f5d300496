"""The course of training."""

from __future__ import annotations

from typing import Any

from tightbound.pictures import COLOURS, curves
from tightbound.report.material import Material
from tightbound.report.parts import Panel, Section, axes_of, labelled

__all__ = ["course"]

NUMBERS = ("step", "epoch", "bound", "reconstruction", "kl", "beta", "learning_rate", "skipped", "validation_elbo", "phase")


def course(material: Material) -> Section:
    """Return how the bound, its terms and the learning rate went."""
    records, summary = material.run.metrics(), material.run.summary
    skipped = max((record["skipped"] for record in records), default=0)
    kept, last = summary["best_step"], records[-1].get("phase", 0) if records else 0
    words = [f"{summary['steps']:,} of {summary['planned_steps']:,} planned steps were made, {skipped:,} of them skipped."]
    if kept is not None:
        best = summary["validation_elbo"]
        among = "of the last phase " if last else ""
        words.append(
            f"The weights of step {kept:,} are kept, the best {among}on validation rows by what was trained there; their "
            f"validation ELBO is {best:.2f} {material.unit}."
        )
    for phase in range(last):
        end = max(record["step"] for record in records if record.get("phase", 0) == phase)
        words.append(f"At step {end:,}, the dotted line, another objective took over, whose bound is another one.")
    numbers: dict[str, Any] = {name: [record.get(name) for record in records] for name in NUMBERS}
    caption = (
        "Left, the bound on training rows (of the weights in training) and on validation rows (of the averaged weights): where "
        "they part, the model learns the rows by heart. Right, the two terms whose sum is minus the bound."
    )
    figure, (axes,) = axes_of(6.4, 1.9)
    axes.plot(numbers["step"], numbers["learning_rate"], color=COLOURS[0], linewidth=1.5)
    labelled(axes, "step", "learning rate")
    rate = {name: numbers[name] for name in ("step", "learning_rate")}
    panels = (
        Panel("curves", "Bound and terms", caption, curves(records, material.unit, kept), numbers),
        Panel("learning_rate", "Learning rate", "How fast the weights were allowed to move.", figure, rate),
    )
    return Section("training", "How training went", tuple(words), (), panels)
