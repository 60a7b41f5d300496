"""Sweeps: what they say of many models is what those are by themselves, and the errors of their differences hold."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tightbound as tb
from running import call, table
from tightbound.errors import CombinationError, DataError, OutputExistsError, SpecError
from tightbound.files import read_json
from tightbound.sweeping import QUANTITIES, Mean, _Comparison, _Grid

NETWORK = tb.MLP(hidden=(6,), activation="tanh")
FLAGS = ("--hidden", "8", "--batch-size", "16", "--epochs", "2", "--draws", "10")


def data() -> tb.Dataset:
    noise = np.random.default_rng(0).normal(size=(80, 4))
    return tb.from_arrays(noise @ np.linspace(-1, 1, 16).reshape(4, 4) + 0.5 * noise, kind="real")


def spec(rows: tb.Dataset, **changes: Any) -> tb.VAE:
    parts = {"latent": 2, "encoder": NETWORK, "decoder": NETWORK, "likelihood": tb.Gaussian(), **changes}
    return tb.VAE(sites=rows.sites, **parts)


def compared(evidence: np.ndarray, latents: tuple[int, ...]) -> _Comparison:
    """What is said of given log p(x) (latents, seeds, rows), all at one weight of the KL."""
    grid = _Grid((1.0,), latents, tuple(range(evidence.shape[1])))
    return _Comparison(grid, dict.fromkeys(QUANTITIES, evidence), "row")


def evidence(means: list[float], *, rows: float = 30.0, own: float = 1.0, seeds: int = 1, chance: float = 0.0) -> np.ndarray:
    """log p(x) that differs much between rows (the same for all models), and less between models."""
    rng = np.random.default_rng(1)
    shape = (len(means), seeds, 400)
    each = np.array(means)[:, None, None] + chance * rng.normal(size=(*shape[:2], 1))
    return each + rows * rng.normal(size=400) + own * rng.normal(size=shape)


def test_the_fewest_latents_within_two_standard_errors_of_the_best_are_enough() -> None:
    """The errors are of differences of the same rows: of the means alone, ± 1.5, nothing could be said."""
    (verdict,) = compared(evidence([-100.05, -102.0, -100.0]), (4, 1, 16)).verdicts()
    assert (verdict.latent, verdict.best, verdict.largest) == (4, 16, False)
    assert verdict.text.startswith("at β = 1: 4 latents are enough: 0.")
    assert "below 16, the best; 1 are too few: 2." in verdict.text and "one seed, so that chance" in verdict.text
    assert 0.05 < verdict.below.se < 0.1


def test_when_the_most_latents_are_the_best_more_may_do_better() -> None:
    (verdict,) = compared(evidence([-103.0, -102.0, -100.0]), (1, 4, 16)).verdicts()
    assert verdict.largest and verdict.latent == verdict.best == 16
    assert "16 latents, the most that were tried, do best, and more might do better still; 4 are too few" in verdict.text


def test_when_fewer_latents_are_the_best_more_are_said_to_be_worse() -> None:
    (verdict,) = compared(evidence([-100.0, -102.0]), (4, 16)).verdicts()
    assert not verdict.largest and verdict.latent == verdict.best == 4
    assert "4 latents do best; 16 are " in verdict.text


def test_chance_in_training_is_in_the_errors_when_there_are_seeds() -> None:
    """By rows alone the fewer latents would be too few; seeds differ by more than that."""
    values = evidence([-101.0, -100.0], seeds=4, chance=2.0)
    (verdict,) = compared(values, (1, 4)).verdicts()
    below = max((point.below for point in compared(values, (1, 4)).points()), key=lambda mean: mean.value)
    assert below.value > 2 * below.over_rows and below.between_seeds is not None and below.between_seeds > below.over_rows
    assert verdict.latent == 1 and "± over rows and 4 seeds" in verdict.text


def test_two_standard_errors_hold_the_true_difference() -> None:
    """400 repeats with 8 seeds, whose t distribution has 91.4 % within 2; the interval is ± 4 standard errors of the share."""
    rng, held = np.random.default_rng(3), 0
    for _ in range(400):
        values = rng.normal(size=(2, 8, 1)) + 30 * rng.normal(size=60) + rng.normal(size=(2, 8, 60))
        found = compared(values + np.array([0.0, 50.0])[:, None, None], (1, 2)).below(0, 0)
        held += abs(found.value - 50.0) <= 2 * found.se
    assert 0.86 < held / 400 < 0.98


def test_a_sweep_is_what_its_models_are(tmp_path: Path) -> None:
    rows, plan, out = data(), tb.Plan(steps=30, batch_size=32, seed=5), tmp_path / "sweep"
    found = tb.sweep(rows, spec(rows), plan=plan, beta=(0.5, 2.0), latent=(1, 3), seeds=2, draws=20, out=out)
    assert [(m.beta, m.latent, m.seed) for m in found.members] == [
        (b, z, s) for b in (0.5, 2.0) for z in (1, 3) for s in (5, 6)
    ]
    for number in (0, 6):  # seeds of the plan, so that fit has the same split, start and noise
        member = found.members[number]
        alone = tb.fit(rows, spec(rows, latent=member.latent), tb.ELBO(beta=member.beta), plan, draws=20, diagnosis=False)
        assert member.model.spec == alone.model.spec and member.best_step == alone.summary["best_step"]
        assert member.elbo.value == pytest.approx(alone.elbo.value, abs=0.3)  # other noise where latents are switched off
        part = rows.take(found_test := alone.split.test)
        np.testing.assert_allclose(tb.embed(member.model, part).mean, tb.embed(alone.model, part).mean, atol=1e-4)
        assert len(found_test) == found.rows["test"] == found.values["elbo"].shape[1]
    for member in found.members:
        assert member.elbo.value == pytest.approx(-member.rate.value - member.distortion.value)
        assert member.elbo.value <= member.log_evidence.value and member.log_evidence.side == "lower"
    told = read_json(out / "sweep.json")
    assert len(told["members"]) == 8 and len(told["points"]) == 4 and len(told["verdicts"]) == 2
    assert told["points"][0]["rate"]["value"] == np.mean([m.rate.value for m in found.members[:2]])
    with (out / "models.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["elbo"]) for line in lines] == [m.elbo.value for m in found.members]
    kept = tb.load_model(out / "models" / "beta-0.5-latent-1-seed-6.safetensors")
    assert kept.spec.latent == 1
    with np.load(out / "rows.npz", allow_pickle=False) as arrays:
        assert {name: arrays[name].shape for name in arrays} == dict.fromkeys(QUANTITIES, (8, 8))
    files = {path.name for path in out.iterdir()}
    assert files == {"sweep.json", "models.csv", "rows.npz", "rate-distortion.png", "latents.png", "models"}
    with pytest.raises(OutputExistsError):
        tb.sweep(rows, spec(rows), plan=plan, out=out)


def test_the_iwae_is_swept_over_latents_and_seeds() -> None:
    rows = data()
    found = tb.sweep(rows, spec(rows), tb.IWAE(k=3), tb.Plan(steps=3), latent=(1, 2), seeds=(4, 9), draws=5)
    assert [member.name for member in found.members][1] == "1 latent, seed 9"
    assert found.members[0].beta is None and not found.verdicts[0].text.startswith("at β")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"beta": ()}, SpecError, "beta: names nothing to sweep over"),
        ({"beta": (1, 1.0)}, SpecError, "beta: 1 is named twice"),
        ({"latent": (2, 4, 2)}, SpecError, "latent: 2 is named twice"),
        ({"latent": (0, 4)}, SpecError, "latent: Input should be greater than or equal to 1"),
        ({"beta": (-1.0,)}, SpecError, "beta: Input should be greater than or equal to 0"),
        ({"seeds": 0}, SpecError, "seeds: names nothing"),
        ({"seeds": (-1,)}, SpecError, "seed: Input should be greater than or equal to 0"),
        ({"draws": 0}, SpecError, "draws: expected at least 1, got 0"),
        ({"beta": (1, 2), "objective": tb.IWAE()}, SpecError, "'iwae' has no weight of the KL"),
        ({"latent": (1, 2), "objective": tb.ELBO(free_bits=0.1)}, SpecError, "free_bits: are per latent"),
        ({"latent": (1, 2), "prior": tb.FlowPrior()}, CombinationError, "the prior 'flow'"),
        ({"test": 0.01}, DataError, "at least two rows, got 1"),
    ],
)
def test_what_cannot_be_swept_over_is_refused(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    rows = data()
    prior = arguments.pop("prior", tb.StandardNormal())
    with pytest.raises(error, match=words):
        tb.sweep(rows, spec(rows, prior=prior), plan=tb.Plan(steps=1), **arguments)


def test_the_command_says_what_came_out(tmp_path: Path) -> None:
    rows, out = table(tmp_path / "rows.csv"), tmp_path / "out"
    given = ("sweep", rows, "--beta", "0.5,2", "--latent", "1,2", "--seeds", "2", "--label", "sex", *FLAGS)
    told = call(*given, "--out", out)
    assert told.code == 0, told
    for words in ("8 models", "± over rows and 2 seeds", "below the best", "At β = 0.5: ", f"{out}: numbers, pictures"):
        assert words in told.out
    lines = call(*given, "--out", tmp_path / "again", "--json").lines()
    events = [line["event"] for line in lines if line["event"] != "progress"]
    assert events == ["model"] * 8 + ["setting"] * 4 + ["verdict"] * 2 + ["summary"]
    assert lines[-1]["folder"] == str(tmp_path / "again")
    first, second = (read_json(folder / "sweep.json") for folder in (out, tmp_path / "again"))
    assert first["seconds"] != second["seconds"]
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    for path in sorted((out / "models").iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / "models" / path.name).read_bytes()


def test_means_are_written_with_their_error() -> None:
    assert str(Mean(-1.0, 0.3, 0.4)) == "−1.00 ± 0.50" and json.dumps(Mean(1.0, 0.5, None).se) == "0.5"
