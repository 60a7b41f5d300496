"""The command line from end to end, on a table of sixty rows."""

import json
import os
import random
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import typer

import tightbound as tb
from running import LEAN, SMALL, SOURCE, call, finished, fit_flags, sha256, start, table
from tightbound import cli, fitting
from tightbound.errors import StoreError
from tightbound.settings import merge, read_toml, template

GOLDEN = Path(__file__).parent / "golden"


def test_a_run_ends_with_its_numbers_its_model_and_its_pictures() -> None:
    run, _, outcome = finished()
    order = ["test ELBO", "log p(x) ≥", "posterior   diagonal", *(f"{run}/pictures/{name}.png" for name in PICTURES)]
    text = outcome.out[outcome.out.rindex("test ELBO") :].replace("\n", "")
    positions = [text.index(words) for words in order]
    assert positions == sorted(positions)
    assert "nats per row" in text and "importance sampling, k = 10" in text
    assert "48 train, 6 validation, 6 test" in outcome.out


PICTURES = ("reconstructions", "samples", "latents", "training")


def test_a_run_folder_holds_what_it_should_and_nothing_else() -> None:
    run, data, _ = finished()
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert files == {
        "environment.json", "metrics.jsonl", "model.safetensors", "spec.json", "split.safetensors", "summary.json",
        "training.json", *(f"pictures/{name}.png" for name in PICTURES),
    }  # fmt: skip
    assert not list(data.parent.glob("*.partial"))


def test_the_same_seed_gives_the_same_file_and_another_seed_another(tmp_path: Path) -> None:
    run, data, _ = finished()
    for name, seed in (("same", "0"), ("other", "1")):
        assert call("fit", data, "--out", tmp_path / name, *fit_flags(), "--seed", seed, "--no-pictures").code == 0
    assert sha256(tmp_path / "same") == sha256(run)
    assert sha256(tmp_path / "other") != sha256(run)
    assert not (tmp_path / "same" / "pictures").exists()


def test_json_prints_records_and_then_the_summary(tmp_path: Path) -> None:
    _, data, _ = finished()
    outcome = call("fit", data, "--out", tmp_path / "run", *fit_flags(), "--json", "--no-pictures")
    *records, summary = outcome.lines()
    assert [record["step"] for record in records] == list(range(1, 41))
    assert {record["event"] for record in records} == {"record"}
    assert summary["event"] == "summary" and summary["elbo"]["side"] == "lower" and summary["rows"]["train"] == 48
    assert summary["elbo"]["value"] <= summary["log_evidence"]["value"]
    assert [{"event": "record", **record} for record in tb.read_run(tmp_path / "run").metrics()] == records


def test_evaluate_repeats_the_numbers_of_the_run() -> None:
    run, data, _ = finished()
    (own,) = call("evaluate", run, "--draws", 10, "--json").lines()
    stored = tb.read_run(run).summary
    assert own["elbo"] == stored["elbo"] and own["log_evidence"] == stored["log_evidence"]
    (other,) = call("evaluate", run, data, "-k", 10, "--max-examples", 9, "--json").lines()
    assert other["elbo"]["examples"] == 9
    shown = call("evaluate", run, data, "-k", 10, "--max-examples", 9).out
    assert "nats per row" in shown and "lower bound" in shown and "importance sampling, k = 10" in shown


def test_evaluate_by_other_methods_and_proposals() -> None:
    run, data, _ = finished()
    given = ("evaluate", run, data, "--max-examples", 3, "-k", 20, "--method", "importance,exact", "--json")
    (plain,), (refined,) = (call(*given, *more).lines() for more in ((), ("--proposal", "refined", "--defensive", 0.1)))
    assert plain["exact"]["side"] == "exact" and plain["exact"]["value"] == refined["exact"]["value"]
    assert "refined proposal, 2 steps, 10% of the draws from the prior" in refined["log_evidence"]["method"]
    assert "elbo" not in plain, "only what was asked for"


def test_diagnose_says_what_is_wrong(tmp_path: Path) -> None:
    run, data, _ = finished()
    findings = call("diagnose", run, "--json").lines()
    assert [finding["code"] for finding in findings] == [f"TB{number:03}" for number in range(1, 13)]
    assert all(finding["event"] == "finding" and finding["text"] for finding in findings)
    everything, brief = call("diagnose", run, "--all").out, call("diagnose", run).out
    assert "TB012 skipped steps: in order" in everything and "TB012" not in brief and "in order" in brief
    flags = (flag for flag in fit_flags() if flag != "--no-diagnosis")
    outcome = call("fit", data, "--out", tmp_path / "run", *flags, "--warmup", 4000, "--no-pictures")
    assert outcome.code == 0, outcome.err
    assert "TB010 warm-up never ended" in outcome.out
    stored = tb.read_run(tmp_path / "run").summary["diagnosis"]
    assert [finding["status"] for finding in stored if finding["code"] == "TB010"] == ["problem"]


def test_evaluate_notices_that_the_data_has_changed(tmp_path: Path) -> None:
    data = table(tmp_path / "table.csv")
    assert call("fit", data, "--out", tmp_path / "run", *fit_flags(2), "--no-pictures").code == 0
    table(data, seed=1)
    outcome = call("evaluate", tmp_path / "run")
    assert outcome.code == 2 and "has changed since" in outcome.err


def test_encode_writes_mean_and_scale_in_three_forms(tmp_path: Path) -> None:
    run, data, _ = finished()
    for suffix in ("npz", "npy", "csv"):
        assert call("encode", run, data, "--out", tmp_path / f"z.{suffix}").code == 0
    whole = np.load(tmp_path / "z.npz")
    assert whole["mean"].shape == whole["scale"].shape == (60, 2) and (whole["scale"] > 0).all()
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), [whole["mean"], whole["scale"]])
    lines = np.loadtxt(tmp_path / "z.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(lines, np.hstack([whole["mean"], whole["scale"]]), rtol=1e-6)


def test_reconstruct_and_sample_write_rows_with_the_names_of_the_columns(tmp_path: Path) -> None:
    run, data, _ = finished()
    assert call("reconstruct", run, data, "--out", tmp_path / "r.csv").code == 0
    assert call("sample", run, "-n", 7, "--seed", 3, "--out", tmp_path / "s.npy").code == 0
    assert (tmp_path / "r.csv").read_text().splitlines()[0] == '"length","width","depth"'
    model = tb.load_model(run)
    made = np.loadtxt(tmp_path / "r.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(made, tb.reconstruct(model, tb.load(data, label="sex", kind="real")), rtol=1e-6)
    np.testing.assert_array_equal(np.load(tmp_path / "s.npy"), tb.sample(model, 7, seed=3))
    cool = call("sample", run, "-n", 7, "--seed", 3, "--temperature", 0.5, "--out", tmp_path / "c.npy")
    assert "7 draws from p(x) with its prior at temperature 0.5" in cool.out
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), tb.sample(model, 7, seed=3, temperature=0.5))
    both = call("sample", run, "--temperature", 0.5, "--given", "a=1", "--out", tmp_path / "x.csv")
    assert both.code == 2 and "has no temperature" in both.err


def test_info_tells_people_and_programs(tmp_path: Path) -> None:
    run, _, _ = finished()
    text = call("info", run).out
    assert "diagonal(floor=0.0001)" in text and "48 train, 6 validation, 6 test" in text and "nats per row" in text
    whole = json.loads(call("info", run, "--json").out)
    assert set(whole) == {"model", "training", "environment", "summary"}


def test_a_spec_from_info_gives_the_same_run(tmp_path: Path) -> None:
    run, data, _ = finished()
    (tmp_path / "spec.toml").write_text(call("info", run, "--spec").out)
    outcome = call("fit", data, "--spec", tmp_path / "spec.toml", "--out", tmp_path / "again", "--draws", 10, *LEAN)
    assert outcome.code == 0, outcome.err
    assert sha256(tmp_path / "again") == sha256(run)


def test_the_spec_to_start_from_is_accepted_and_says_what_is_done_without_it(tmp_path: Path) -> None:
    (tmp_path / "start.toml").write_text(call("info", "--spec").out)
    _, data, _ = finished()
    for name, spec in (("with", ("--spec", tmp_path / "start.toml")), ("without", ())):
        assert call("fit", data, "--out", tmp_path / name, *spec, *fit_flags(3), "--no-pictures").code == 0
    assert sha256(tmp_path / "with") == sha256(tmp_path / "without")


def test_every_alternative_in_the_spec_to_start_from_is_a_real_one() -> None:
    parts = {
        "mlp": tb.MLP,
        "convolutional": tb.Convolutional,
        "vamp": tb.VampPrior,
        "iwae": tb.IWAE,
        "full": tb.FullGaussian,
    }
    lines = [line.removeprefix("# ") for line in template().splitlines()]
    for kind, part in parts.items():
        first = lines.index(f'kind = "{kind}"')
        end = next(i for i in range(first + 1, len(lines)) if not lines[i] or lines[i].startswith(("kind", "[")))
        assert part(**tomllib.loads("\n".join(lines[first:end]))) == part()


def test_flags_win_over_the_file_and_set_reaches_every_field(tmp_path: Path) -> None:
    _, data, _ = finished()
    (tmp_path / "spec.toml").write_text('[model]\nlatent = 3\nprior = "mixture"\n[plan]\nepochs = 9\nseed = 4\n')
    outcome = call(
        "fit", data, "--spec", tmp_path / "spec.toml", "--out", tmp_path / "run", *fit_flags(2), "--no-pictures",
        "--set", "model.likelihood.noise=site", "--set", "model.prior.components=3", "--objective", "iwae", "-k", "2",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    run = tb.read_run(tmp_path / "run")
    assert run.spec.latent == 2 and run.spec.prior == tb.TrainedMixture(components=3)
    assert run.spec.likelihood == tb.Gaussian(noise="site")
    assert run.training["objective"] == tb.IWAE(k=2).model_dump()
    assert (run.training["plan"]["steps"], run.training["plan"]["epochs"], run.training["plan"]["seed"]) == (2, None, 4)


def test_a_run_in_phases_from_flags_or_from_a_file_is_the_same_run(tmp_path: Path) -> None:
    data = table(tmp_path / "table.csv")
    flags = [*fit_flags(), "--no-pictures", "--beta", "0.5"]
    outcome = call("fit", data, "--out", tmp_path / "flags", *flags, "--then", "iwae,k=3,gradient=dreg,share=0.25")
    assert outcome.code == 0, outcome.err
    assert "then=iwae(share=0.25, k=3, gradient=dreg)" in outcome.out and "warning: trained with β" not in outcome.out
    run = tb.read_run(tmp_path / "flags")
    assert [record["phase"] for record in run.metrics()] == [0] * 30 + [1] * 10
    assert {record["beta"] for record in run.metrics()} == {0.5, 1.0}
    (tmp_path / "spec.toml").write_text(call("info", tmp_path / "flags", "--spec").out)
    outcome = call("fit", data, "--out", tmp_path / "file", *fit_flags(), "--no-pictures", "--spec", tmp_path / "spec.toml")
    assert outcome.code == 0 and sha256(tmp_path / "file") == sha256(tmp_path / "flags")
    outcome = call("fit", data, "--out", tmp_path / "wrong", "--then", "k=3")
    assert outcome.code == 2 and "expected NAME,FIELD=VALUE" in outcome.err
    outcome = call("fit", data, "--out", tmp_path / "wrong", "--then", "iwea")
    assert outcome.code == 2 and "then: unknown kind 'iwea' (allowed: elbo, iwae)" in outcome.err


def test_images_binarised_as_they_are_drawn(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (30, 4, 4), dtype=np.uint8)
    np.save(tmp_path / "x.npy", levels)
    outcome = call("fit", tmp_path / "x.npy", "--out", tmp_path / "run", *SMALL, "--steps", 3, "--binarise", "dynamic")
    assert outcome.code == 0, outcome.err
    assert "nats per image" in outcome.out
    (own,) = call("evaluate", tmp_path / "run", "-k", 10, "--json").lines()
    assert own["elbo"] == tb.read_run(tmp_path / "run").summary["elbo"]
    for command, name in (("sample", "s.png"), ("sample", "s.npy")):
        assert call(command, tmp_path / "run", "-n", 4, "--out", tmp_path / name).code == 0
    assert np.load(tmp_path / "s.npy").shape == (4, 4, 4, 1) and np.load(tmp_path / "s.npy").dtype == np.uint8
    assert call("encode", tmp_path / "run", tmp_path / "x.npy", "--out", tmp_path / "z.npz").code == 0


def test_numbers_of_training_rows_say_so(tmp_path: Path) -> None:
    data = table(tmp_path / "two.csv", rows=2)
    outcome = call("fit", data, "--out", tmp_path / "run", *fit_flags(2))
    assert outcome.code == 0, outcome.err
    assert "training ELBO" in outcome.out
    assert "warning: no row was held out" in outcome.out


def test_a_weight_of_the_kl_other_than_one_is_said_aloud(tmp_path: Path) -> None:
    _, data, _ = finished()
    outcome = call("fit", data, "--out", tmp_path / "run", *fit_flags(4), "--no-pictures", "--beta", 4)
    assert "trained with β = 4" in outcome.out


def killed_after(lines: int, *arguments: object, by: signal.Signals = signal.SIGKILL) -> tuple[int, str]:
    """Start a run and kill it when it has printed so many records; return its exit code and what it said."""
    process = start(*arguments, "--json", "--checkpoint-seconds", "0")
    assert process.stdout is not None and process.stderr is not None
    for _ in range(lines):
        if not process.stdout.readline():
            break
    process.send_signal(by)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


@pytest.mark.slow
def test_three_kills_change_nothing(tmp_path: Path) -> None:
    data = table(tmp_path / "table.csv")
    steps = 3000
    flags = (data, "--out", tmp_path / "run", *fit_flags(steps), "--no-pictures")
    resume: tuple[str, ...] = ()
    for moment in sorted(random.Random(0).sample(range(1, 300), 3)):
        code, err = killed_after(moment if not resume else 60, "fit", *flags, *resume)
        assert code == -signal.SIGKILL, err
        resume = ("--resume",)
        assert not (tmp_path / "run").exists()
    outcome = call("fit", *flags, "--resume", "--json")
    assert outcome.code == 0, outcome.err
    assert 100 < outcome.lines()[0]["step"] < steps
    whole = call("fit", data, "--out", tmp_path / "whole", *fit_flags(steps), "--no-pictures")
    assert whole.code == 0, whole.err
    assert sha256(tmp_path / "run") == sha256(tmp_path / "whole")
    assert tb.read_run(tmp_path / "run").metrics() == tb.read_run(tmp_path / "whole").metrics()
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_an_interrupt_takes_a_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    data = table(tmp_path / "table.csv")
    flags = ("fit", data, "--out", tmp_path / "run", *fit_flags(100_000), "--no-pictures")
    process = start(*flags, "--json")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.startswith("interrupted at step") and err.rstrip().endswith("--resume"), err
    assert (tmp_path / "run.partial" / "checkpoint.safetensors").exists()
    refused = call(*flags)
    assert refused.code == 2 and "continue it with --resume" in refused.err


class Stop(KeyboardInterrupt):
    """What a test throws into a run."""


def stop_at(kind: type, count: int = 1):
    """A report that stops the run at the count-th event of a kind."""
    seen = []

    def report(event: object) -> None:
        seen.append(isinstance(event, kind))
        if sum(seen) == count:
            raise Stop

    return report


def fitted(out: Path, resume: bool = False, **options: object) -> tb.Fitted:
    data = tb.load(finished().data, label="sex")
    network = tb.MLP(hidden=(8,))
    spec = tb.VAE(sites=data.sites, latent=2, encoder=network, decoder=network, likelihood=tb.Gaussian())
    plan = tb.Plan(steps=40, batch_size=16, checkpoint_seconds=0)
    return tb.fit(data, spec, plan=plan, out=out, resume=resume, draws=10, pictures=False, page=False, **options)


def test_a_kill_in_the_final_evaluation_costs_no_training(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        fitted(tmp_path / "run", report=stop_at(fitting.Evaluating))
    events: list[object] = []
    resumed = fitted(tmp_path / "run", resume=True, report=events.append)
    assert [type(event) for event in events] == [fitting.Started, fitting.Evaluating]
    whole = fitted(tmp_path / "whole")
    assert sha256(tmp_path / "run") == sha256(tmp_path / "whole")
    assert resumed.summary | {"training_seconds": 0} == whole.summary | {"training_seconds": 0}


def test_a_kill_between_the_name_and_the_clean_up_leaves_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def die_after(self: Path, target: Path) -> Path:
        rename(self, target)
        raise Stop

    monkeypatch.setattr(Path, "rename", die_after)
    with pytest.raises(Stop):
        fitted(tmp_path / "run")
    assert tb.read_run(tmp_path / "run").summary["steps"] == 40


def test_a_run_is_written_by_one_process_only(tmp_path: Path) -> None:
    refused: list[BaseException] = []

    def report(event: object) -> None:
        if isinstance(event, fitting.Evaluating) and not refused:
            try:
                fitted(tmp_path / "run", resume=True)
            except StoreError as error:
                refused.append(error)

    fitted(tmp_path / "run", report=report)
    assert "is being trained by another process" in str(refused[0])
    fitted(tmp_path / "other")
    assert sha256(tmp_path / "run") == sha256(tmp_path / "other")


def test_counts_with_exposures_go_from_a_table_through_every_command(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    size = rng.integers(20, 200, 60)
    counts = rng.poisson(size[:, None] * np.array([0.1, 0.3, 0.6]))
    lines = [",".join(map(str, [*row, total])) for row, total in zip(counts, size, strict=True)]
    path = tmp_path / "cells.csv"
    path.write_text("\n".join(["a,b,c,total", *lines]) + "\n")
    run = tmp_path / "run"
    assert call("fit", path, "--out", run, "--exposure", "total", "--steps", 20, *SMALL).code == 0
    assert tb.read_run(run).spec.sites.exposure
    assert call("evaluate", run, path, "--k", 10).code == 0
    rates = []
    for exposure in (10, 1000):
        out = tmp_path / f"{exposure}.npy"
        assert call("sample", run, "--out", out, "-n", 50, "--exposure", exposure).code == 0
        rates.append(np.load(out).mean() / exposure)
    assert rates[0] == pytest.approx(rates[1], rel=0.5)
    wrong = call("sample", run, "--out", tmp_path / "x.npy", "--exposure", "-1")
    assert wrong.code == 2 and "exposure=-1, expected a positive number" in wrong.err
    none = call("sample", finished().run, "--out", tmp_path / "x.npy", "--exposure", "2")
    assert none.code == 2 and "the model's data has no exposures" in none.err


def test_resuming_elsewhere_says_what_differs(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        fitted(tmp_path / "run", report=stop_at(tb.Progress, 3))
    file = tmp_path / "run.partial" / "environment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"cores": 999}))
    events: list[fitting.Event] = []
    result = fitted(tmp_path / "run", resume=True, report=events.append)
    started = events[0]
    assert isinstance(started, fitting.Started)
    assert started.step > 0 and [words.startswith("cores was 999 and is now") for words in started.differences] == [True]
    assert result.run is not None and result.run.environment["resumed_elsewhere"] == [list(started.differences)]


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        fitted(tmp_path / "run", report=stop_at(tb.Progress, 3))
    with pytest.raises(tb.StoreError, match=r"started with other settings \(data.test\)"):
        fitted(tmp_path / "run", resume=True, test=0.2)


def test_help_does_not_wait_for_jax() -> None:
    code = "import sys; from tightbound.cli import app; print('jax' in sys.modules, 'numpy' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
    )
    assert run.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("arguments", [(), ("--help",), ("fit", "--help"), ("--version",)])
def test_help_exits_well(arguments: tuple[str, ...]) -> None:
    outcome = call(*arguments)
    assert outcome.code == (0 if arguments else 2) and len(outcome.out + outcome.err) > 10


def test_the_help_texts_are_as_agreed() -> None:
    """Run with UPDATE_GOLDEN=1 after a change that is meant, and read the difference."""
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    lines = []
    for name, command in commands.items():
        lines.append(f"{name}: {command.help}")
        lines += [f"  {' '.join(p.opts)}: {p.help}" for p in command.params if getattr(p, "help", None)]
    golden = GOLDEN / "help.txt"
    text = "\n".join(lines) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "/tightbound/jax"),
        ({"JAX_COMPILATION_CACHE_DIR": "/mine"}, "/mine"),
        ({"TIGHTBOUND_CACHE": "off"}, None),
        ({"XDG_CACHE_HOME": "/cache"}, "/cache/tightbound/jax"),
    ],
)
def test_the_compile_cache_is_switched_on_through_the_environment(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str | None
) -> None:
    for name in ("JAX_COMPILATION_CACHE_DIR", "TIGHTBOUND_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    cli._switch_on_cache(True)
    found = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    assert found is None if expected is None else found is not None and found.endswith(expected)


def test_merging_settings() -> None:
    assert merge({"plan": {"epochs": 3}}, {"plan": {"steps": 5}}) == {"plan": {"steps": 5}}
    assert merge({"prior": "vamp"}, {"prior": {"components": 5}}) == {"prior": {"kind": "vamp", "components": 5}}


def test_a_spec_file_with_a_foreign_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text("[modell]\nlatent = 2\n")
    with pytest.raises(tb.SpecError, match=r"modell: is not one of the tables of a spec \(allowed: \[model\]"):
        read_toml(tmp_path / "spec.toml")


def test_bars_are_replaced_by_lines_where_there_is_no_terminal() -> None:
    assert "\x1b" not in finished().outcome.out
