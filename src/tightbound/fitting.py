"""One whole run: split, train, evaluate on the test rows, draw, and keep everything in a run folder."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax
import numpy as np

from tightbound.data.arrays import Dataset, Split
from tightbound.diagnosis.diagnose import diagnose
from tightbound.diagnosis.finding import Finding
from tightbound.diagnosis.subject import Steps
from tightbound.errors import DataError, SpecError
from tightbound.evidence.estimate import Estimate
from tightbound.evidence.evaluation import Evaluation, evaluate
from tightbound.files import remove
from tightbound.holdout import data_digest, held_out, subject
from tightbound.inference import decode, embed, prior_draws, reconstruct, sample
from tightbound.model import Model, ModelSpec, to_arrays, trainable
from tightbound.objectives import ELBO, ObjectiveSpec
from tightbound.pictures import Sheets, draw
from tightbound.report.material import Material
from tightbound.report.page import PAGE, write_page
from tightbound.rows import bucket
from tightbound.schema import Sites, Statistics
from tightbound.store import Resumed, Run, RunWriter, read_run
from tightbound.training.loop import Progress, Record, Trainer, run_key
from tightbound.training.plan import Plan

__all__ = ["Evaluating", "Fitted", "Interrupted", "Started", "fit", "plain", "summarise"]

EXAMPLES = 2048  # training rows that are shown to parts which start at data
LOOKED_AT = 2000  # rows in a picture of the latent space, at most
SAMPLES = 128  # images that are drawn from the model


class Started(NamedTuple):
    """What a run is about to do; ``step`` is where it continues and ``differences`` what has changed since it began."""

    rows: dict[str, int]
    parameters: int
    step: int
    total_steps: int
    differences: tuple[str, ...]


class Evaluating(NamedTuple):
    """How many of the test rows have been evaluated."""

    done: int
    total: int


Event = Started | Progress | Evaluating


class Interrupted(KeyboardInterrupt):
    """A run was stopped by Ctrl-C or SIGTERM; what it did up to ``step`` is kept in ``partial`` (None: nowhere)."""

    def __init__(self, step: int, partial: Path | None) -> None:
        super().__init__(f"interrupted at step {step}")
        self.step, self.partial = step, partial


@dataclass(frozen=True)
class Fitted:
    """What came out of a run: the model, the two test numbers, and how it went.

    ``elbo`` and ``evidence`` are lower bounds on log p(x), in nats per example, over the rows of ``evaluated_on``:
    ``"test"``, or ``"training"`` when no row was held out. ``findings`` are those of the diagnosis. ``summary`` holds the
    same as plain numbers, as it stands in the run folder ``run`` (None when nothing was written), and ``page`` is the report
    there (None when none was asked for).
    """

    model: Model
    elbo: Estimate
    evidence: Estimate
    evaluated_on: str
    split: Split
    records: list[dict[str, Any]]
    warnings: tuple[str, ...]
    findings: tuple[Finding, ...]
    summary: dict[str, Any]
    run: Run | None = None
    page: Path | None = None


def fit(
    data: Dataset,
    spec: ModelSpec,
    objective: ObjectiveSpec | None = None,
    plan: Plan | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    loaded: dict[str, Any] | None = None,
    validation: float = 0.1,
    test: float = 0.1,
    draws: int = 1000,
    pictures: bool = True,
    diagnosis: bool = True,
    page: bool = True,
    report: Callable[[Event], None] | None = None,
) -> Fitted:
    """Train a model on a data set, evaluate it on held-out rows and, with ``out``, keep the run in a folder.

    The rows are split by ``plan.seed``; statistics come from the training rows; the weights of the best validation ELBO
    are kept. The test rows give the ELBO and, by importance sampling with ``draws`` draws, a lower bound on log p(x); the
    diagnosis says in words what is wrong with the model, if anything is.
    Under dynamic binarisation the bits of the held-out rows are drawn once, by the seed. ``report`` is called with
    :class:`Started`, with every :class:`~tightbound.Progress`, and while the test rows are evaluated.

    A run with ``out`` ends with a page to look at, that of :func:`tightbound.write_report`, unless ``page`` is false. It
    writes a checkpoint every ``plan.checkpoint_seconds``; killed at any moment, ``resume=True`` and
    the same arguments continue it to the same model file, bit for bit, on the same kind of machine. ``loaded`` says how
    the data was read and is kept with the run.

    Raises the errors of :func:`tightbound.train`, :class:`~tightbound.errors.OutputExistsError` when ``out`` exists,
    :class:`~tightbound.errors.StoreError` when it cannot be written, and :class:`Interrupted` on Ctrl-C.

    >>> from tightbound import Bernoulli, MLP, from_arrays
    >>> data = from_arrays(np.eye(30)[:, :4] > 0)
    >>> small = MLP(hidden=(4,))
    >>> from tightbound import VAE
    >>> spec = VAE(sites=data.sites, latent=1, encoder=small, decoder=small, likelihood=Bernoulli())
    >>> fit(data, spec, plan=Plan(steps=4), draws=10).elbo.examples
    3
    """
    if draws < 1:
        raise SpecError("fit", (("draws", f"expected at least 1, got {draws}"),))
    if not isinstance(data, Dataset):
        raise DataError(f"expected a data set, got {type(data).__name__}; tightbound.load makes one of it")
    if resume and out is None:
        raise SpecError("fit", (("resume", "names no run: say where it was written by out=…"),))
    fitting = _Fitting(data, spec, objective or ELBO(), plan or Plan(), validation, test, report or (lambda event: None))
    if out is None:
        fitting.train(None)
        return fitting.evaluate(draws, diagnosis)
    with RunWriter(out) as writer:
        fitting.keep(writer, resume, loaded or {})
        fitted = fitting.evaluate(draws, diagnosis)
        sheets = draw(fitting.sheets(fitted), writer.partial / "pictures") if pictures else []
        summary = {**fitted.summary, "pictures": [f"pictures/{path.name}" for path in sheets]}
        writer.fill(fitted.model, summary)
        if page:
            _write_page(writer, fitted.model, data)
        writer.finish()
    run = read_run(out)
    return replace(fitted, summary=summary, run=run, page=run.path / PAGE if page else None)


def summarise(result: Evaluation, sites: Sites) -> dict[str, Any]:
    """Return estimates as plain numbers: nats per example and, under a counting measure, bits per dimension."""
    summary: dict[str, Any] = {"unit": "nats per image" if sites.is_image else "nats per row"}
    for line in result.lines:
        numbers = {key: _number(value) for key, value in asdict(line.estimate).items()}
        if line.estimate.measure == "counting" and line.name != "simulated_gap":
            numbers["bits_per_dimension"] = [_number(value) for value in line.estimate.bits_per_dimension(sites.count)]
        summary[line.name] = {"quantity": line.quantity, **numbers}
    return {**summary, "notes": list(result.notes)}


def _write_page(writer: RunWriter, model: Model, data: Dataset) -> None:
    """Write the report into the unfinished run, in place of one that a killed process left there."""
    path = writer.partial / PAGE
    for leftover in (path, path.with_suffix("")):
        remove(leftover)
    write_page(Material(read_run(writer.partial), model, given=data), path)


class _Fitting:
    """The stages of one run, in their order: prepare, train, evaluate, draw."""

    def __init__(
        self,
        data: Dataset,
        spec: ModelSpec,
        objective: ObjectiveSpec,
        plan: Plan,
        validation: float,
        test: float,
        report: Callable[[Event], None],
    ) -> None:
        self.data, self.spec, self.objective, self.plan, self.report = data, spec, objective, plan, report
        self.fractions = {"validation": validation, "test": test}
        if not len(data):
            raise DataError("the data set has no rows to train on")
        if data.sites != spec.sites:
            raise DataError(f"the data has {data.sites.describe()}, but the model is for {spec.sites.describe()}")
        self.split = data.split(validation, test, plan.seed)
        rows = data.take(self.split.train)
        model = spec.build(run_key(plan.seed), starting_statistics(rows, plan.seed))
        held = held_out(data, self.split.validation, plan.seed) if len(self.split.validation) else None
        self.trainer = Trainer(model, objective, rows, plan, held)
        self.parameters = sum(array.size for array in to_arrays(trainable(model)[0]).values())
        self.records: list[dict[str, Any]] = []
        self.seconds = 0.0

    def keep(self, writer: RunWriter, resume: bool, loaded: dict[str, Any]) -> None:
        """Train with a run folder: begin it or continue it; remove it again if it fails before it holds anything."""
        training = {
            "objective": self.objective.model_dump(mode="json"),
            "plan": self.plan.model_dump(mode="json"),
            "data": {"digest": data_digest(self.data), **self.fractions},
            "loaded": {**loaded, "source": loaded.get("source", self.data.source), "names": list(self.data.names)},
        }
        split = self.split._asdict()
        if resume:
            resumed = writer.resume(self.spec, training, split)
            self._restore(resumed)
            self.train(writer, resumed.differences)
            return
        writer.begin(self.spec, training, split)
        try:
            self.train(writer)
        except BaseException:
            if not writer.has_checkpoint:
                writer.discard()
            raise

    def _restore(self, resumed: Resumed) -> None:
        if resumed.arrays is not None:
            self.trainer.restore(resumed.arrays)
        self.records = resumed.records

    def train(self, writer: RunWriter | None, differences: tuple[str, ...] = ()) -> None:
        """Run the training to its end, with a checkpoint now and then and one when it is over or interrupted."""
        trainer = self.trainer
        rows = {name: len(part) for name, part in self.split._asdict().items()}
        self.report(Started(rows, self.parameters, trainer.marks.step, trainer.total, differences))
        saved = time.monotonic()
        with _patient_interrupts() as interrupted:
            for progress in trainer.run():
                self.seconds = progress.seconds
                stop = interrupted.is_set() and (writer is None or bool(progress.records))
                self._record(progress.records, writer)
                due = time.monotonic() - saved >= self.plan.checkpoint_seconds
                if writer is not None and progress.records and (due or stop or progress.finished):
                    writer.checkpoint(trainer.checkpoint(), progress.step)
                    saved = time.monotonic()
                self.report(progress)
                if stop:
                    raise Interrupted(progress.step, writer.partial if writer is not None else None)

    def _record(self, records: tuple[Record, ...], writer: RunWriter | None) -> None:
        lines = [plain(record) for record in records]
        self.records += lines
        if writer is not None and lines:
            writer.record(lines)

    def evaluate(self, draws: int, diagnosis: bool) -> Fitted:
        """Return the test numbers of the trained model, and its diagnosis; without test rows they are of the training rows."""
        model = self.trainer.model()
        result = evaluate(
            model, self.evaluated(), draws=draws, seed=self.plan.seed,
            report=lambda _, done, total: self.report(Evaluating(done, total)),
        )  # fmt: skip
        found = {line.name: line.estimate for line in result.lines}
        warnings = self._warnings()
        summary = {
            **summarise(result, self.spec.sites),
            "evaluated_on": self.evaluated_on,
            "rows": {name: len(part) for name, part in self.split._asdict().items()},
            "parameters": self.parameters,
            "steps": self.trainer.marks.step,
            "planned_steps": self.trainer.total,
            "best_step": self.trainer.marks.best_step,
            "validation_elbo": _number(self.trainer.marks.best_elbo),
            "training_seconds": self.seconds,
            "warnings": list(warnings),
        }
        findings = self._diagnose(model) if diagnosis else ()
        summary["diagnosis"] = [finding.as_dict() for finding in findings]
        return Fitted(
            model,
            found["elbo"],
            found["log_evidence"],
            self.evaluated_on,
            self.split,
            self.records,
            warnings,
            findings,
            summary,
        )

    def _diagnose(self, model: Model) -> tuple[Finding, ...]:
        steps = Steps(self.trainer.total, self.trainer.marks.step)
        return diagnose(subject(model, self.data, self.split, self.plan, self.objective.model_dump(), self.records, steps))

    @property
    def evaluated_on(self) -> str:
        """The part that the final numbers are of."""
        return "test" if len(self.split.test) else "training"

    def evaluated(self) -> Dataset:
        """Return the rows that the final numbers are of."""
        rows = self.split.test if self.evaluated_on == "test" else self.split.train
        return held_out(self.data, rows, self.plan.seed)

    def sheets(self, fitted: Fitted) -> Sheets:
        """Return what the pictures show: evaluated rows, their reconstructions, embeddings, draws from the model."""
        rows, seed, model = self.evaluated(), self.plan.seed, fitted.model
        seen = rows.take(np.arange(min(len(rows), LOOKED_AT)))
        some = _order(len(self.data), seed)[:LOOKED_AT]
        mapped = held_out(self.data, some, seed)
        z = np.asarray(prior_draws(model, jax.random.split(run_key(seed), SAMPLES)))
        return Sheets(
            sites=self.spec.sites,
            rows=seen.x,
            observed=seen.observed,
            labels=seen.labels,
            names=self.data.names,
            reconstructions=reconstruct(model, seen),
            means=embed(model, mapped).mean,
            mean_labels=mapped.labels,
            samples=sample(model, SAMPLES if self.spec.sites.is_image else LOOKED_AT, seed=seed),
            decoded=decode(model, z),
            records=fitted.records,
            part=self.evaluated_on,
            kept=self.trainer.marks.best_step,
        )

    def _warnings(self) -> tuple[str, ...]:
        return tuple(_warn(self.objective, self.evaluated_on))


def _warn(objective: ObjectiveSpec, evaluated_on: str) -> Iterator[str]:
    beta = getattr(objective.chain()[-1], "beta", 1.0)
    if beta != 1:
        yield f"trained with β = {beta:g}: its loss is not minus the ELBO; the numbers above are at β = 1"
    if evaluated_on == "training":
        yield "no row was held out: the numbers above are of the training rows and flatter the model"


def _order(count: int, seed: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).permutation(count)


def starting_statistics(rows: Dataset, seed: int) -> Statistics:
    """Return the statistics of the training rows, with some rows for parts that start at data."""
    statistics = rows.statistics()
    chosen = rows.take(_order(len(rows), seed)[:EXAMPLES])
    bits = chosen.binarised(seed) if chosen.binarise else chosen
    examples = bits.x.astype(np.float32)
    if bits.observed is not None:
        examples = np.where(bits.observed, examples, statistics.mean)
    return statistics._replace(examples=np.resize(examples, (bucket(len(examples)), examples.shape[1])))


def plain(record: Record) -> dict[str, Any]:
    """Return a record as JSON can hold it: what is not finite becomes None."""
    return {name: _number(value) for name, value in record._asdict().items()}


def _number(value: Any) -> Any:
    """Return a value as JSON can hold it: what is not finite becomes None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _patient_interrupts() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into a flag, so that a step is never cut in half; the second strikes at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        flag.set()
        for handled, handler in before.items():
            signal.signal(handled, handler)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
        yield flag
    finally:
        for handled, handler in before.items():
            signal.signal(handled, handler)
