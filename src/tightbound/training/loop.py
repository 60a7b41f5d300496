"""The training loop: a generator of records around one compiled function that runs many steps.

The data stays on the device. The order of rows is a function of (seed, epoch) and the noise of a step one of (seed,
step), and nothing else is random, so that to resume is to recompute. Batches are cut from one endless stream of epoch
orders: every batch is full, every row comes once per epoch, and all rows weigh the same.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from tightbound.errors import TrainingError
from tightbound.model import Model, from_arrays, merge, to_arrays, trainable
from tightbound.objectives import ELBO, Loss, Objective, ObjectiveSpec, Terms, phases
from tightbound.rows import Rows, RowSource, blocks, bucket, over_blocks, place, require_sites
from tightbound.training.packing import Loose, Packed, Packing
from tightbound.training.plan import Method, Plan, Rates

__all__ = ["Progress", "Record", "State", "Trainer", "train"]

CHUNK = 256  # steps in one compiled call, at most
# A call is made about this long, so that progress is seen and a checkpoint can be taken. Each call asks the system for its
# working memory anew: half a second costs large convolutional networks 15 % of their speed.
CALL_SECONDS = 2.0
RECORDS = 500  # lines in the record of a whole run, about
GIVE_UP_AFTER = 5  # steps in a row without a finite gradient
EVALUATION_BLOCK = 256  # rows in one evaluated block
_KEY_KIND, _KEY_WORDS = "threefry2x32", 2


class State(NamedTuple):
    """Everything that a step changes."""

    trained: Model
    optimiser: optax.OptState
    average: Model
    step: Int[Array, ""]
    skipped: Int[Array, ""]
    skipped_in_row: Int[Array, ""]


class StepRecord(NamedTuple):
    """What one step reports, in nats per example."""

    loss: Float[Array, ""]
    bound: Float[Array, ""]
    reconstruction: Float[Array, ""]
    kl: Float[Array, ""]
    beta: Float[Array, ""]
    learning_rate: Float[Array, ""]
    finite: Float[Array, ""]


class Record(NamedTuple):
    """The mean of the step records over consecutive steps of one phase, nats per example, up to and including ``step``.

    ``bound`` is the lower bound that the objective of that phase gives, ``beta`` the weight of the KL that was used.
    """

    step: int
    epoch: float
    loss: float
    bound: float
    reconstruction: float
    kl: float
    beta: float
    learning_rate: float
    skipped: int
    validation_elbo: float | None = None
    phase: int = 0


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a compiled call.

    ``records`` are the records completed by this call, ``validation_elbo`` the latest one in nats per example,
    ``model`` what the run would hand over if it ended here.
    """

    step: int
    total_steps: int
    records: tuple[Record, ...]
    latest: Record
    examples_per_second: float
    seconds: float
    validation_elbo: float | None
    best_step: int | None
    finished: bool
    trainer: Trainer = field(repr=False)

    @property
    def model(self) -> Model:
        """The averaged weights, at the best evaluation when there was validation data."""
        return self.trainer.model()


def train(
    model: Model,
    objective: ObjectiveSpec,
    data: RowSource,
    plan: Plan | None = None,
    *,
    validation: RowSource | None = None,
    resume: dict[str, np.ndarray] | None = None,
) -> Iterator[Progress]:
    """Train a model and yield a :class:`Progress` after every compiled call; the last one holds the result.

    ``resume`` is a checkpoint, as :meth:`Trainer.checkpoint` gave it in a run with the same arguments: the rest of the
    run is then bit-identical to one that was never interrupted, on the same kind of machine. Where the objective names
    another that follows, the run has phases, and every record says which it is of. Raises
    :class:`~tightbound.errors.DataError` when the data does not fit the model, and
    :class:`~tightbound.errors.TrainingError` when gradients stay non-finite.
    """
    trainer = Trainer(model, objective, data, plan or Plan(), validation)
    if resume is not None:
        trainer.restore(resume)
    return trainer.run()


class Trainer:
    """A run in progress: the state on the device and the few numbers beside it."""

    def __init__(
        self, model: Model, objective: ObjectiveSpec, data: RowSource, plan: Plan, validation: RowSource | None = None
    ) -> None:
        count = len(data.x)
        for source in (data, validation):
            if source is not None:
                require_sites(model.spec.sites, source)
        self.plan, self.count, self.batch = plan, count, min(plan.batch_size, count)
        self.total = plan.total_steps(count)
        self.interval = plan.evaluation_interval(count)
        self.record_every = max(1, math.ceil(self.total / RECORDS))
        self.rates = plan.rates(count)
        self.phases = phases(objective, self.total)
        for phase in self.phases:
            phase.objective.check(model.spec.layers)
        self.starts = [phase.start for phase in self.phases]
        self.objectives = [phase.objective.build() for phase in self.phases]
        self.rows = place(data)
        self.key = run_key(plan.seed)
        self.validation = place(validation) if validation is not None and len(validation.x) else None
        self.validation_count = len(validation.x) if validation is not None else 0
        trained, self.rest = trainable(model)
        self.state = begin(trained, self.rates, plan.method)
        self.best = trained
        self.marks = Marks()
        self.pending = np.empty((0, len(StepRecord._fields)))

    def run(self) -> Iterator[Progress]:
        """Run to the end, or to early stopping, yielding after every compiled call."""
        started, length = time.monotonic(), 1
        while not self.finished:
            steps = self._call_length(length)
            before = time.monotonic()
            self._advance(steps)
            seconds = time.monotonic() - before
            self._evaluate_when_due()
            length = next_length(steps, seconds)
            latest, records = self._records()
            yield Progress(
                self.marks.step, self.total, records, latest, steps * self.batch / seconds,
                time.monotonic() - started, self.marks.validation_elbo, self.marks.best_step, self.finished, self,
            )  # fmt: skip

    @property
    def finished(self) -> bool:
        """Whether the plan is fulfilled or early stopping has stopped the run, which it does in the last phase only."""
        last = self.marks.judged_phase == len(self.phases) - 1
        return self.marks.step >= self.total or (last and self.marks.stopped(self.plan.patience))

    def model(self) -> Model:
        """Return the model that the run would hand over now."""
        return merge(self.best if self.marks.best_step is not None else self._current(), self.rest)

    def checkpoint(self) -> dict[str, np.ndarray]:
        """Return everything that the rest of the run depends on, as named arrays.

        Raises :class:`TrainingError` between two records; ask when ``Progress.records`` is not empty.
        """
        if len(self.pending):
            raise TrainingError("a checkpoint is taken when a record has just been completed")
        marks = {f"marks.{name}": np.float64(np.nan if value is None else value) for name, value in vars(self.marks).items()}
        return {**to_arrays({"state": self.state, "best": self.best}), **{k: np.asarray(v) for k, v in marks.items()}}

    def restore(self, checkpoint: dict[str, np.ndarray]) -> None:
        """Continue from a checkpoint; raise :class:`~tightbound.errors.FormatError` when it is of another run."""
        arrays = dict(checkpoint)
        marks = {name: float(arrays.pop(f"marks.{name}", math.nan)) for name in vars(self.marks)}
        restored: dict[str, Any] = from_arrays({"state": self.state, "best": self.best}, arrays)
        self.state, self.best = restored["state"], restored["best"]
        self.marks = Marks.read(marks)

    def _current(self) -> Model:
        return self.state.average if self.plan.average else self.state.trained

    def _phase(self, step: int) -> int:
        """Return the number of the phase in which a step is made, steps being counted from 0."""
        return bisect_right(self.starts, step) - 1

    def _call_length(self, wanted: int) -> int:
        """Return the length of the next call, which ends at an evaluation or phase, or at a record if it reaches one."""
        step = self.marks.step
        end = [*self.starts, self.total][self._phase(step) + 1]
        event = next_event(step, end, None if self.validation is None else self.interval)
        last = min(step + min(wanted, CHUNK), event)
        whole = last - last % self.record_every
        return (whole if step < whole and last < event else last) - step

    def _advance(self, steps: int) -> None:
        order = padded_stream(self.plan, self.plan.seed, self.count, self.marks.step, steps)
        inputs: tuple[Any, ...] = (order, np.int32(steps), self.key, self.rates, self.plan.method)
        objective = self.objectives[self._phase(self.marks.step)]
        self.state, log = _run(self.state, self.rest, objective, self.rows, *inputs)
        self.pending = np.concatenate([self.pending, np.asarray(log, np.float64)[:steps]])
        if int(self.state.skipped_in_row) >= GIVE_UP_AFTER:
            model, index = merge(self.state.trained, self.rest), order[int(self.state.step) - self.marks.step - 1]
            raise TrainingError(post_mortem(model, objective, self.rows, index, self.key, int(self.state.step)))
        self.marks.step += steps

    def _records(self) -> tuple[Record, tuple[Record, ...]]:
        """Return the mean of the latest steps, and the records that the latest call has completed."""
        step, started = self.marks.step, self.marks.step - len(self.pending)
        ends = [end for end in range(started + 1, step + 1) if end % self.record_every == 0]
        if self.finished or self.marks.evaluated_step == step or step in self.starts:
            ends = sorted({*ends, step})
        if not ends:
            return self._mean(started, step), ()
        records = tuple(self._mean(*span) for span in pairwise([started, *ends]))
        self.pending = self.pending[:0]
        return records[-1], records

    def _mean(self, start: int, end: int) -> Record:
        """Return the mean of the pending steps after ``start`` up to ``end``; skipped ones are only counted."""
        marks, started = self.marks, self.marks.step - len(self.pending)
        steps, later = self.pending[start - started : end - started], self.pending[end - started :]
        taken = steps[steps[:, -1] > 0]
        means = taken.mean(axis=0) if len(taken) else np.full(len(StepRecord._fields), np.nan)
        loss, bound, reconstruction, kl, beta, rate, _ = means.tolist()
        skipped = int(self.state.skipped) - int(np.sum(later[:, -1] == 0))
        evaluated = marks.validation_elbo if marks.evaluated_step == end else None
        epoch = end * self.batch / self.count
        return Record(end, epoch, loss, bound, reconstruction, kl, beta, rate, skipped, evaluated, self._phase(end - 1))

    def _evaluate_when_due(self) -> None:
        """Evaluate the ELBO on the validation rows, with the same noise every time, and keep the best weights.

        Best is what the objective calls best at the end of training, with the KL weighted as there: by the ELBO itself a run
        with β < 1 would be cut short as soon as it learns what it was asked for, and one under an IWAE, which makes the ELBO
        worse and is meant to, while its own bound still rises. A new phase begins anew.
        """
        rows, current, marks = self.validation, self._current(), self.marks
        due = marks.step % self.interval == 0 or marks.step in (*self.starts, self.total)
        if rows is None or not due:
            return
        phase, model = self._phase(marks.step - 1), merge(current, self.rest)
        terms, elbo = self._judged(ELBO().build(), model, rows)
        judge = self.phases[phase].objective.judge()
        if judge is not None:
            terms, _ = self._judged(judge, model, rows)
        last = jnp.int32(self.total)
        weighted = -float(_value(self.objectives[phase], terms, last, model.spec.layers))
        if phase != marks.judged_phase:
            marks.judged_phase, marks.best_step, marks.since_best = phase, None, 0
        if marks.judge(elbo, weighted):
            self.best = current

    def _judged(self, objective: Objective, model: Model, rows: Rows) -> tuple[Terms, float]:
        """Return the mean of an objective's terms over the validation rows, and that of its bound in full precision."""
        key = evaluation_key(self.key)
        parts = ((rows, *block) for block in blocks(self.validation_count, EVALUATION_BLOCK))
        each = over_blocks(_evaluate_block, parts, model, objective, key)
        means = [np.mean(term, axis=0, dtype=np.float64) for term in each]
        return Terms(*(jnp.asarray(mean, jnp.float32) for mean in means)), float(means[-1])


@dataclass
class Marks:
    """The numbers that live on the host: where the run is and how the evaluations went."""

    step: int = 0
    evaluated_step: int | None = None
    validation_elbo: float | None = None
    best_step: int | None = None
    best_elbo: float = -math.inf
    best_weighted_elbo: float = -math.inf
    since_best: int = 0
    judged_phase: int = 0  # of the latest evaluation

    def judge(self, elbo: float, weighted: float) -> bool:
        """Take note of an evaluation at this step, and return whether it is the best so far by its weighted ELBO."""
        self.validation_elbo, self.evaluated_step = elbo, self.step
        self.since_best += 1
        best = self.best_step is None or weighted > self.best_weighted_elbo
        if best:
            self.best_weighted_elbo, self.best_elbo = weighted, elbo
            self.best_step, self.since_best = self.step, 0
        return best

    def stopped(self, patience: int | None) -> bool:
        """Whether early stopping has stopped the run."""
        return patience is not None and self.since_best >= patience

    @classmethod
    def read(cls, numbers: dict[str, float]) -> Marks:
        """Return the marks from floats, NaN standing for None."""
        known = {name: None if math.isnan(number) else number for name, number in numbers.items()}
        whole = {name: int(v) for name, v in known.items() if v is not None and "elbo" not in name}
        return cls(**{**known, **whole})  # type: ignore[arg-type]


def run_key(seed: int) -> Array:
    """Return the key of a run, from all 64 bits of the seed."""
    words = jnp.asarray(np.random.SeedSequence(seed).generate_state(_KEY_WORDS))
    return jax.random.wrap_key_data(words, impl=_KEY_KIND)


def step_key(key: Array, step: Array | int) -> Array:
    """Return the key of a step of the run."""
    return jax.random.fold_in(key, step)


def evaluation_key(key: Array) -> Array:
    """Return the key of the evaluations of a run, which no step has."""
    return jax.random.fold_in(key, 2**32 - 1)


def next_event(step: int, total: int, interval: int | None) -> int:
    """Return the step of the next evaluation, or the last step of the run where there is none (``interval`` None)."""
    return total if interval is None else min(total, step + interval - step % interval)


def next_length(steps: int, seconds: float) -> int:
    """Return how many steps the next call may take, from what the latest has taken."""
    return int(np.clip(steps * CALL_SECONDS / seconds, 1, 4 * steps))


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order of the rows in an epoch: a permutation that is a function of (seed, epoch)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).permutation(count)


def stream(seed: int, count: int, batch: int, step: int, steps: int) -> np.ndarray:
    """Return the rows (steps, batch) of consecutive steps, cut from the endless stream of epoch orders."""
    first, last = step * batch, (step + steps) * batch
    epochs = range(first // count, -(-last // count))
    joined = np.concatenate([epoch_order(seed, epoch, count) for epoch in epochs])
    offset = epochs.start * count
    return joined[first - offset : last - offset].reshape(steps, batch)


def padded_stream(plan: Plan, seed: int, count: int, step: int, steps: int) -> np.ndarray:
    """Return the rows of consecutive steps as a compiled call takes them: (CHUNK, batch), −1 where there is none."""
    order = np.full((CHUNK, min(plan.batch_size, bucket(count))), -1, np.int32)
    batch = min(plan.batch_size, count)
    order[:steps, :batch] = stream(seed, count, batch, step, steps)
    return order


def post_mortem(model: Model, objective: Objective, rows: Rows, index: Any, key: Array, step: int) -> str:
    """Say why the steps up to ``step`` had no finite gradient: ``index`` are the rows of the last one, ``key`` the run's."""
    terms = _examine(model, objective, rows, index, step_key(key, step - 1))
    parts = np.column_stack([np.asarray(terms.reconstruction), np.asarray(terms.kl).sum(axis=1)])
    bad = ~np.isfinite(parts[index >= 0])
    numbers = np.unique(index[index >= 0][bad.any(axis=1)])
    named = ", ".join(map(str, numbers[:10])) + (" …" if len(numbers) > 10 else "")
    if len(numbers) == 0:
        cause = "every row's loss is finite but the gradient is not: lower the learning rate or `clip`"
    elif len(numbers) > len(parts) / 2:
        cause = (
            f"most rows of the batch (such as {named}) have no finite loss: the weights have run away; lower the learning rate"
        )
    else:
        term = "reconstruction" if bad[:, 0].any() else "KL"
        cause = f"the {term} is not finite for training rows {named}: look for extreme values in them, and scale or remove them"
    return f"{GIVE_UP_AFTER} steps in a row, up to step {step}, had no finite gradient and were skipped; {cause}"


@eqx.filter_jit
def begin(trained: Model, rates: Rates, method: Method) -> State:
    """Return the state before the first step."""
    zero = jnp.int32(0)
    return State(trained, rates.descent(method, rates.peak).init(trained), trained, zero, zero, zero)


class Pace(NamedTuple):
    """What a step needs that depends on its number alone."""

    rows: Int[Array, "B"]
    data_key: Array
    noise_key: Array
    learning_rate: Float[Array, ""]
    batches: Int[Array, ""]
    averaging: Float[Array, ""]
    averages: Bool[Array, ""]


@eqx.filter_jit
def _run(
    state: State,
    rest: Model,
    objective: Objective,
    rows: Rows,
    order: Array,
    steps: Array,
    key: Array,
    rates: Rates,
    method: Method,
) -> tuple[State, Float[Array, "C 7"]]:
    """Run ``steps`` ≤ CHUNK steps, the rows of step i being ``order[i]``; stop early when gradients stay non-finite.

    A step is many small operations around a few products, and each of them costs a microsecond or two beside its work.
    So what depends on the step's number alone is computed for the whole chunk at once, and small arrays are joined
    when the optimiser works entry by entry.
    """
    packing = Packing(state.trained) if method.entrywise else Loose()

    def one(state: State, pace: Pace) -> tuple[State, Array]:
        state, record = step_of(state, rest, objective, rows, pace, rates, method, packing)
        return state, jnp.stack(record)

    paces = paces_of(state.step, order, key, rates)
    log = jnp.zeros((CHUNK, len(StepRecord._fields)))
    state, log = repeat(one, pack(packing, state), log, paces, state.step, steps)
    return unpack(packing, state), log


def paces_of(first: Array, order: Array, key: Array, rates: Rates) -> Pace:
    """Return what depends on the step's number alone, for a chunk of steps from ``first`` on."""
    numbers = first + jnp.arange(CHUNK)
    keys = jax.vmap(lambda number: jax.random.split(step_key(key, number)))(numbers)
    schedule = (rates.learning_rate(numbers), rates.batches(numbers))
    return Pace(order, keys[:, 0], keys[:, 1], *schedule, *rates.averaging(numbers))


def repeat(
    one: Callable[[State, Pace], tuple[State, Array]], state: State, log: Array, paces: Pace, first: Array, steps: Array
) -> tuple[State, Array]:
    """Repeat a step, of one model or of several at the same step, until ``steps`` are made or one model is given up."""

    def at(state: State) -> Array:
        return jnp.ravel(state.step)[0] - first

    def unfinished(carry: tuple[State, Array]) -> Array:
        return (at(carry[0]) < steps) & jnp.all(carry[0].skipped_in_row < GIVE_UP_AFTER)

    def advance(carry: tuple[State, Array]) -> tuple[State, Array]:
        state, log = carry
        position = at(state)
        state, record = one(state, jax.tree.map(lambda column: column[position], paces))
        return state, log.at[position].set(record)

    return jax.lax.while_loop(unfinished, advance, (state, log))


def pack(packing: Packing | Loose, state: State) -> State:
    """Return a state with the small arrays of its weights joined."""
    return _each(Model, packing.pack, state)


def unpack(packing: Packing | Loose, state: State) -> State:
    """Return a state with its arrays taken apart again."""
    return _each(Packed, packing.unpack, state)


def _each(kind: type, change: Callable[[Any], Any], state: State) -> State:
    """Return the state with every node of a type changed."""

    def is_kind(node: Any) -> bool:
        return isinstance(node, kind)

    return jax.tree.map(lambda node: change(node) if is_kind(node) else node, state, is_leaf=is_kind)


def step_of(
    state: State,
    rest: Model,
    objective: Objective,
    rows: Rows,
    pace: Pace,
    rates: Rates,
    method: Method,
    packing: Packing | Loose,
) -> tuple[State, StepRecord]:
    """Make one step of a packed state, and return what it reports."""
    batch = rows.batch(pace.rows, pace.data_key)
    packed: Any = state.trained

    def loss(trained: Model) -> tuple[Array, Loss]:
        result = objective(merge(trained, rest), batch, pace.noise_key, state.step)
        return result.value, result

    gradient, result = jax.grad(loss, has_aux=True)(packing.unpack(packed))
    gradient = packing.pack(gradient)
    # Inside a branch the gradient of a matrix has its natural layout, and XLA sums its squares in one pass. A branch for
    # each array, because it then runs as soon as that gradient is there, beside the products that are still to come.
    squares = [
        jax.lax.cond(jnp.isfinite(result.value), _square, lambda _: jnp.inf, array) for array in jax.tree.leaves(gradient)
    ]
    length = jnp.sqrt(sum(squares))
    finite = jnp.isfinite(length)

    def descend(kept: tuple[Any, optax.OptState, Any]) -> tuple[Any, optax.OptState, Any]:
        trained, memory, average = kept
        shorten = jnp.minimum(1.0, rates.clip / (length + 1e-12))
        shortened = jax.tree.map(lambda g: g * shorten, gradient)
        updates, memory = rates.descent(method, pace.learning_rate, pace.batches).update(shortened, memory, trained)
        trained = optax.apply_updates(trained, updates)
        return trained, memory, jax.lax.cond(pace.averages, blend, lambda kept: kept[0], (average, trained))

    def blend(kept: tuple[Any, Any]) -> Any:
        decay = pace.averaging
        return jax.tree.map(lambda a, w: decay * a + (1.0 - decay) * w, *kept)

    # A step without a finite gradient leaves everything as it was, but is counted. It is a branch, and not a choice
    # between the old arrays and the new, because only then are the new ones written over the old.
    kept = (state.trained, state.optimiser, state.average)
    trained, memory, average = jax.lax.cond(finite, descend, lambda kept: kept, kept)
    skipped = 1 - finite.astype(jnp.int32)
    following = State(trained, memory, average, state.step + 1, state.skipped + skipped, (state.skipped_in_row + 1) * skipped)
    terms = result.terms
    return following, StepRecord(
        result.value, terms.bound, terms.reconstruction, jnp.sum(terms.kl), result.beta, pace.learning_rate,
        finite.astype(jnp.float32),
    )  # fmt: skip


def _square(array: Array) -> Array:
    return jnp.sum(jnp.square(array))


@eqx.filter_jit
def _evaluate_block(rows: Rows, index: Array, model: Model, objective: Objective, key: Array) -> Terms:
    return rows_terms(model, objective, rows, index, jax.random.fold_in(key, index[0]))


@eqx.filter_jit
def _value(objective: Objective, terms: Terms, step: Int[Array, ""], layers: tuple[int, ...]) -> Array:
    return objective.value(terms, step, layers).value


@eqx.filter_jit
def _examine(model: Model, objective: Objective, rows: Rows, index: Array, key: Array) -> Terms:
    return rows_terms(model, objective, rows, index, key)


def rows_terms(model: Model, objective: Objective, rows: Rows, index: Array, key: Array) -> Terms:
    """Return the terms of some rows of a data set, leading axis (B,)."""
    data_key, noise_key = jax.random.split(key)
    return objective.rows(model, rows.batch(index, data_key), noise_key)
