"""The shapes in annotations are true: jaxtyping and beartype check them while models of every kind of part run."""

import os
import subprocess
import sys
from pathlib import Path

import tightbound

# Modules whose annotations are checkable at run time; typing.Self and protocols are not, and keep the others out.
MODULES = (
    "distributions", "likelihoods.base", "likelihoods.bernoulli", "likelihoods.categorical", "likelihoods.counts",
    "likelihoods.discretised", "model", "objectives", "posteriors", "priors",
)  # fmt: skip
PROGRAM = f"""
from jaxtyping import install_import_hook
import importlib
names = {[f"tightbound.{name}" for name in MODULES]!r}
with install_import_hook(names, "beartype.beartype"):
    for name in names:  # the package itself imports nothing until it is asked
        importlib.import_module(name)
    import tightbound
from parts import Choice, train_two_steps
for names in (
    ("full", "vamp", "logistic-mixture", "iwae-dreg", "missing"),
    ("diagonal", "mixture", "negative-binomial-predicted", "elbo", "missing-exposure"),
    ("diagonal", "normal", "categorical", "elbo-stl", "complete"),
    ("full", "normal", "bernoulli", "iwae", "image"),
):
    assert not train_two_steps(Choice(*names)).unmoved
try:
    tightbound.distributions.diagonal_gaussian(tightbound.distributions.jnp.zeros(2), tightbound.distributions.jnp.ones(3))
except Exception as error:
    print(type(error).__name__)
"""


def test_shapes_in_annotations_hold() -> None:
    paths = [str(Path(tightbound.__file__).parents[1]), str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.strip() == "TypeCheckError"  # the hook was at work: a wrong shape is seen
