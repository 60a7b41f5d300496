"""What people get wrong at the command line: one clear line, exit code 2, nothing left behind."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from running import SMALL, call, finished, fit_flags, table
from tightbound import store

GOOD = "a,b\n1.5,2\n2.5,1\n3.5,0.5\n"


def text(content: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "data.csv").write_text(content)
        return folder / "data.csv"

    return write


def array(values: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.save(folder / "data.npy", np.asarray(values), allow_pickle=True)
        return folder / "data.npy"

    return write


def images(*sizes: tuple[int, int], broken: bool = False) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "images").mkdir()
        for number, size in enumerate(sizes):
            Image.new("L", size).save(folder / "images" / f"{number}.png")
        if broken:
            (folder / "images" / "9.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
        return folder / "images"

    return write


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


BAD_DATA = {
    "nan": (text("a,b\n1.5,2\nnan,1\n"), "missing", "--kind", "real"),
    "inf": (text("a,b\n1.5,2\ninf,1\n"), "infinite"),
    "nan in an array": (array([[1.5, np.nan]]), "missing"),
    "empty file": (text(""), "is empty"),
    "header only": (text("a,b\n"), "no rows"),
    "ragged": (text("a,b\n1,2\n3\n"), "line 3"),
    "text column": (text("a,b\n1.5,red\n2.5,blue\n"), "'b'", "--kind", "real"),
    "ragged numbers": (text("a,b\n1,2\n3\n"), "line 3", "--kind", "real"),
    "nothing to learn": (text("a,b\n1,x\n1,x\n"), "'a': it has one value only, 1; 'b': it has one value only, x"),
    "not a parquet file": (lambda folder: written(folder / "x.parquet", b"PAR1 and no more"), "cannot be read"),
    "one number": (array(3.0), "expected an array of numbers of shape (n, D)"),
    "too many dimensions": (array(np.zeros((2, 2, 2, 2, 2))), "dimension"),
    "no rows": (array(np.zeros((0, 3))), "empty|no rows"),
    "pickled objects": (array(np.array([{}], object)), "pickled"),
    "mixed sizes": (images((4, 4), (4, 5)), "differ in size"),
    "unreadable image": (images((4, 4), broken=True), "cannot be read as an image"),
    "no such file": (lambda folder: folder / "nowhere.csv", "does not exist"),
    "unknown built-in": (lambda folder: "digitz", "did you mean 'digits'"),
}


def refused(folder: Path, *arguments: object, words: str) -> str:
    """Run a command that must fail with one line and exit code 2 and leave the folder as it was; return the line."""
    before = sorted(folder.rglob("*"))
    outcome = call(*arguments)
    assert outcome.code == 2, outcome
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ") and "Traceback" not in line
    assert words in line or any(word in line for word in words.split("|")), line
    assert sorted(folder.rglob("*")) == before
    return line


@pytest.mark.parametrize("case", BAD_DATA, ids=str)
def test_bad_data(tmp_path: Path, case: str) -> None:
    make, words, *flags = BAD_DATA[case]
    refused(tmp_path, "fit", make(tmp_path), "--out", tmp_path / "run", *SMALL, *flags, words=words)


BAD_FLAGS = {
    "posterior": (
        ("--posterior", "diagnal"),
        "VAE: posterior: unknown kind 'diagnal' (allowed: diagonal, full, flow, custom)",
    ),
    "prior": (("--prior", "waves"), "VAE: prior: unknown kind 'waves' (allowed: normal, mixture, vamp, flow, custom)"),
    "network": (("--network", "lstm"), "unknown kind 'lstm' (allowed: mlp, convolutional, mixer, custom)"),
    "likelihood": (("--likelihood", "normal"), "unknown kind 'normal' (allowed: bernoulli, gaussian, "),
    "unfit likelihood": (
        ("--likelihood", "bernoulli"),
        "'bernoulli' is for binary sites, but the data has 2 sites: 2 sites, real",
    ),
    "objective": (("--objective", "elbow"), "[objective]: kind: unknown kind 'elbow' (allowed: elbo, iwae)"),
    "objective's field": (("-k", "3"), "ELBO: k: unknown field (allowed: beta, free_bits, gradient, kind, share"),
    "biased gradient": (("--objective", "iwae", "--gradient", "stl"), "use gradient='dreg'"),
    "image network": (("--network", "convolutional"), "for rows of a table use MLP"),
    "widths": (("--hidden", "wide"), "--hidden: expected whole numbers such as 300,300, got 'wide'"),
    "two lengths": (("--epochs", "1", "--steps", "1"), "give epochs or steps, not both"),
    "negative": (("--learning-rate", "-1"), "Plan: learning_rate: Input should be greater than 0 (given: -1.0)"),
    "kind": (("--kind", "reel"), "DataOptions: kind: "),
    "no image": (("--binarise", "fixed"), "binarisation turns grey levels into bits"),
    "option of another file": (("--grey",), "grey cannot be used with"),
    "fractions": (("--validation", "0.6", "--test", "0.5"), "sum is less than 1"),
    "assignment": (("--set", "latent"), "--set: expected TABLE.FIELD=VALUE"),
    "assigned table": (("--set", "plans.seed=1"), "spec: plans: is not one of the tables of a spec"),
    "spec file": (("--spec", "nowhere.toml"), "nowhere.toml: cannot be read: No such file or directory"),
    "resume": (("--resume",), "nothing to resume"),
}


@pytest.mark.parametrize("case", BAD_FLAGS, ids=str)
def test_bad_flags(tmp_path: Path, case: str) -> None:
    flags, words = BAD_FLAGS[case]
    refused(tmp_path, "fit", text(GOOD)(tmp_path), "--out", tmp_path / "run", *flags, words=words)


BAD_SWEEPS = {
    "weights": (("--beta", "1,much"), "--beta: expected numbers such as 0.5,1,2,4, got '1,much'"),
    "weight": (("--beta", "1,-2"), "ELBO: beta: Input should be greater than or equal to 0 (given: -2.0)"),
    "latents": (("--latent", "2,4.5"), "--latent: expected whole numbers such as 2,4,8,16, got '2,4.5'"),
    "twice": (("--latent", "2,2"), "sweep: latent: 2 is named twice"),
    "weight of another objective": (("--objective", "iwae", "--beta", "1"), "IWAE: beta: unknown field"),
    "flow": (("--latent", "1,2", "--posterior", "flow"), "of the posterior 'flow': use a diagonal or full posterior"),
    "free bits": (("--latent", "1,2", "--free-bits", "0.1"), "free_bits: are per latent"),
    "several layers": (("--latent", "1,2", "--latents", "1,2"), "latents in several layers cannot be switched off one by one"),
    "option of fit": (("--network", "lstm"), "unknown kind 'lstm' (allowed: mlp, convolutional, mixer, custom)"),
}


@pytest.mark.parametrize("case", BAD_SWEEPS, ids=str)
def test_bad_sweeps(tmp_path: Path, case: str) -> None:
    flags, words = BAD_SWEEPS[case]
    refused(tmp_path, "sweep", table(tmp_path / "rows.csv"), "--out", tmp_path / "sweep", *flags, words=words)


def test_an_output_that_exists_is_left_alone(tmp_path: Path) -> None:
    run, data, _ = finished()
    (tmp_path / "run").mkdir()
    refused(tmp_path, "fit", data, "--out", tmp_path / "run", *fit_flags(), words="exists and is left as it is")
    (tmp_path / "z.npz").write_text("mine")
    refused(tmp_path, "encode", run, data, "--out", tmp_path / "z.npz", words="exists and is left as it is")
    (tmp_path / "run").rmdir()
    (tmp_path / "run.partial").mkdir()
    refused(tmp_path, "fit", data, "--out", tmp_path / "run", *fit_flags(), words="continue it with --resume")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    _, data, _ = finished()
    (tmp_path / "file").write_text("")
    refused(tmp_path, "fit", data, "--out", tmp_path / "file" / "run", *fit_flags(), words="cannot write")


@pytest.mark.parametrize("what", ["checkpoint", "record", "finish"])
def test_a_full_disk_during_a_run(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, data, _ = finished()
    real = os.fsync if what != "record" else None

    def full(*given: object) -> None:
        raise store.StoreError("cannot write the file: No space left on device; nothing was left behind")

    def sync(descriptor: int) -> None:
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if (what == "checkpoint" and ".checkpoint" in name) or (what == "finish" and ".model" in name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        assert real is not None
        real(descriptor)

    if what == "record":
        monkeypatch.setattr(store.RunWriter, "record", full)
    else:
        monkeypatch.setattr(os, "fsync", sync)
    outcome = call("fit", data, "--out", tmp_path / "run", *fit_flags(), "--no-pictures")
    assert outcome.code == 2 and "No space left on device" in outcome.err
    if what != "finish":  # nothing had been kept yet
        assert not list(tmp_path.iterdir())
        return
    assert outcome.err.rstrip().endswith("--resume")
    monkeypatch.undo()
    assert call("fit", data, "--out", tmp_path / "run", *fit_flags(), "--no-pictures", "--resume").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("info", "nowhere"), "nowhere is not a run folder"),
        (("evaluate", "nowhere"), "nowhere is not a run folder"),
        (("evaluate", "nowhere", "--proposal", "best"), "kind: expected posterior, refined or laplace, got 'best'"),
        (("evaluate", "nowhere", "--start", "middle"), "start: expected one of prior, posterior, refined, got 'middle'"),
        (("evaluate", "nowhere", "--chains", "0"), "chains: expected at least 1, got 0"),
        (("diagnose", "nowhere"), "nowhere is not a run folder"),
        (("sample", "nowhere", "--out", "x.npy"), "nowhere is not a run folder"),
        (("info",), "name a run folder"),
        (("sample", "RUN", "--out", "x.txt"), "the name must end in .npy or .csv"),
        (("encode", "RUN", "digits", "--out", "z.npz"), "the model is for 3 sites, real numbers"),
    ],
)
def test_bad_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str) -> None:
    monkeypatch.chdir(tmp_path)
    run = str(finished().run)
    refused(tmp_path, *(run if argument == "RUN" else argument for argument in arguments), words=words)


def test_an_unfinished_run_says_how_to_finish_it(tmp_path: Path) -> None:
    (tmp_path / "run.partial").mkdir()
    refused(tmp_path, "info", tmp_path / "run", words="is an unfinished run: continue it with --resume")


@pytest.mark.parametrize("damage", ["truncated model", "newer run", "foreign model"])
def test_damaged_runs(tmp_path: Path, damage: str) -> None:
    run = Path(shutil.copytree(finished().run, tmp_path / "run"))
    if damage == "newer run":
        spec = json.loads((run / "spec.json").read_text())
        (run / "spec.json").write_text(json.dumps(spec | {"format": 99}))
        words = "has format 99, this version reads up to 1: install a newer tightbound"
    else:
        whole = (run / "model.safetensors").read_bytes()
        (run / "model.safetensors").write_bytes(whole[:100] if damage == "truncated model" else b"no model" * 99)
        words = "is truncated or not a tightbound file"
    refused(tmp_path, "sample", run, "--out", tmp_path / "x.npy", words=words)


def test_code_of_ones_own_in_a_spec_file(tmp_path: Path) -> None:
    data = table(tmp_path / "table.csv")
    (tmp_path / "spec.toml").write_text('[model]\nprior = "own.parts:Prior"\n')
    arguments = ("fit", data, "--spec", tmp_path / "spec.toml", "--out", tmp_path / "run", *fit_flags())
    refused(tmp_path, *arguments, words="(on the command line: --trust own.parts:Prior)")
    refused(tmp_path, *arguments, "--trust", "own.parts:Prior", words="cannot import 'own.parts:Prior'")


def test_a_run_with_code_of_ones_own_is_trusted_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = "import tightbound as tb\ndef Prior(latent, sites, statistics, *, key):\n"
    (tmp_path / "ownprior.py").write_text(head + "    return tb.StandardNormal().build(latent)\n")
    monkeypatch.syspath_prepend(tmp_path)
    data = table(tmp_path / "table.csv")
    flags = (*fit_flags(2), "--no-pictures", "--prior", "ownprior:Prior")
    assert call("fit", data, "--out", tmp_path / "run", *flags).code == 0
    (tmp_path / "__pycache__").mkdir(exist_ok=True)
    refused(tmp_path, "sample", tmp_path / "run", "--out", tmp_path / "x.npy", words="--trust ownprior:Prior")
    outcome = call("sample", tmp_path / "run", "--out", tmp_path / "x.npy", "--trust", "ownprior:Prior")
    assert outcome.code == 0, outcome.err


def test_a_run_that_fails_in_training_leaves_nothing(tmp_path: Path) -> None:
    data = table(tmp_path / "table.csv")
    flags = (*fit_flags(), "--learning-rate", "1e30", "--set", "plan.warmup=0.0")
    refused(tmp_path, "fit", data, "--out", tmp_path / "run", *flags, words="steps in a row")
