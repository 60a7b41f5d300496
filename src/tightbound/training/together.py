"""Several models of the same shapes trained side by side: the step of the training loop, mapped over them.

They may differ in whatever is traced: weights, masks, the numbers of the objective, the seed. The loop runs outside of the
map, so that all are at the same step; each has the rows, noise, evaluations and best weights that it would have alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from tightbound.errors import CombinationError, TrainingError
from tightbound.model import Model, merge, stacked, trainable
from tightbound.objectives import ELBO, Objective, ObjectiveSpec, Terms
from tightbound.rows import Rows, RowSource, blocks, over_blocks, place, require_sites
from tightbound.training.loop import (
    CHUNK,
    EVALUATION_BLOCK,
    GIVE_UP_AFTER,
    Marks,
    Pace,
    State,
    StepRecord,
    begin,
    evaluation_key,
    next_event,
    next_length,
    paces_of,
    pack,
    padded_stream,
    post_mortem,
    repeat,
    rows_terms,
    run_key,
    step_of,
    unpack,
)
from tightbound.training.packing import Loose, Packing
from tightbound.training.plan import Method, Plan, Rates

__all__ = ["Member", "Together", "TogetherProgress"]

Tree = TypeVar("Tree")


class Member(NamedTuple):
    """One of the models: where it starts, what it minimises, the seed of its rows and noise, and a name for people."""

    model: Model
    objective: ObjectiveSpec
    seed: int
    name: str


@dataclass(frozen=True)
class TogetherProgress:
    """Where the models stand after a compiled call; ``bounds`` are theirs over its steps, in nats per example."""

    step: int
    total_steps: int
    bounds: tuple[float, ...]
    examples_per_second: float
    seconds: float


class Together:
    """Runs in progress: the states on the device, with a leading axis (M,), and the few numbers beside each.

    Raises :class:`~tightbound.errors.DataError` when the data does not fit the models.
    """

    def __init__(self, members: Sequence[Member], data: RowSource, plan: Plan, validation: RowSource | None = None) -> None:
        self.members, self.plan, self.count = members, plan, len(data.x)
        self.layers = members[0].model.spec.layers
        for member in members:
            member.objective.check(self.layers)
            if member.objective.then is not None:
                raise CombinationError(f"{member.name} trains in phases, which only a run by itself does: leave out `then`")
        for source in (data, validation):
            if source is not None:
                require_sites(members[0].model.spec.sites, source)
        self.batch = min(plan.batch_size, self.count)
        self.total, self.rates = plan.total_steps(self.count), plan.rates(self.count)
        self.validation = place(validation) if validation is not None and len(validation.x) else None
        self.validation_count = len(validation.x) if validation is not None else 0
        self.interval = plan.evaluation_interval(self.count) if self.validation is not None else None
        self.rows = place(data)
        self.keys = jnp.stack([run_key(member.seed) for member in members])
        built = [member.objective.build() for member in members]
        self.objectives: Objective = stacked(built)
        halves = [trainable(member.model) for member in members]
        self.judges: Objective = stacked([member.objective.judge() or ELBO().build() for member in members])
        self.rests: Model = stacked([rest for _, rest in halves])
        self.states: State = stacked([begin(trained, self.rates, plan.method) for trained, _ in halves])
        self.best = self.states.trained
        self.marks = [Marks() for _ in members]

    def run(self) -> Iterator[TogetherProgress]:
        """Run until every model is at its end or stopped early, yielding after every compiled call."""
        started, length = time.monotonic(), 1
        while not self.finished:
            step = self.marks[0].step
            steps = min(step + min(length, CHUNK), next_event(step, self.total, self.interval)) - step
            before = time.monotonic()
            bounds = self._advance(steps)
            seconds = time.monotonic() - before
            self._evaluate_when_due()
            length = next_length(steps, seconds)
            rate = len(self.members) * steps * self.batch / seconds
            yield TogetherProgress(step + steps, self.total, bounds, rate, time.monotonic() - started)

    @property
    def finished(self) -> bool:
        """Whether all of the runs are over."""
        return all(marks.step >= self.total or marks.stopped(self.plan.patience) for marks in self.marks)

    def model(self, number: int) -> Model:
        """Return the model that one of the runs would hand over now."""
        kept = self.best if self.marks[number].best_step is not None else self._current()
        return merge(_one_of(kept, number), _one_of(self.rests, number))

    def _current(self) -> Model:
        return self.states.average if self.plan.average else self.states.trained

    def _advance(self, steps: int) -> tuple[float, ...]:
        step = self.marks[0].step
        orders = {seed: padded_stream(self.plan, seed, self.count, step, steps) for seed in {m.seed for m in self.members}}
        order = np.stack([orders[member.seed] for member in self.members])
        inputs: tuple[Any, ...] = (order, np.int32(steps), self.keys, self.rates, self.plan.method)
        self.states, log = _run(self.states, self.rests, self.objectives, self.rows, *inputs)
        for number in map(int, np.flatnonzero(np.asarray(self.states.skipped_in_row) >= GIVE_UP_AFTER)):
            raise TrainingError(self._post_mortem(number, order[number], step))
        for marks in self.marks:
            marks.step += steps
        made = np.asarray(log, np.float64)[:steps]
        counted, bounds = made[:, :, -1] > 0, made[:, :, StepRecord._fields.index("bound")]
        return tuple(np.where(counted, bounds, 0.0).sum(axis=0) / np.maximum(counted.sum(axis=0), 1))

    def _post_mortem(self, number: int, order: np.ndarray, started: int) -> str:
        model = merge(_one_of(self.states.trained, number), _one_of(self.rests, number))
        member, step = self.members[number], int(self.states.step[number])
        why = post_mortem(model, member.objective.build(), self.rows, order[step - started - 1], self.keys[number], step)
        return f"{member.name}: {why}"

    def _evaluate_when_due(self) -> None:
        """Evaluate every model that has not stopped as the loop of one model does, and keep its best weights."""
        step, rows = self.marks[0].step, self.validation
        if rows is None or self.interval is None or (step % self.interval and step < self.total):
            return
        current, keys = self._current(), jax.vmap(evaluation_key)(self.keys)
        parts = ((rows, *block) for block in blocks(self.validation_count, EVALUATION_BLOCK))
        each = over_blocks(_evaluate_block, parts, current, self.rests, self.judges, keys)
        means: list[Any] = [np.mean(term, axis=0, dtype=np.float64) for term in each]
        terms = Terms(*(jnp.asarray(mean, jnp.float32) for mean in means))
        losses = _values(self.objectives, terms, jnp.int32(self.total), self.layers)
        elbos = -(means[0] + np.sum(means[1], axis=-1))
        better = [
            not marks.stopped(self.plan.patience) and marks.judge(elbo, weighted)
            for marks, elbo, weighted in zip(self.marks, elbos.tolist(), (-np.asarray(losses)).tolist(), strict=True)
        ]
        self.best = _chosen(jnp.array(better), current, self.best)


def _one_of(tree: Tree, number: int) -> Tree:
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[number]) if eqx.is_array(leaf) else leaf, tree)


_MAPPED = eqx.if_array(0)


def _told_apart(axis: Any, shared: Any = None) -> Any:
    """Return which of a chunk's numbers differ between models: along ``axis``, or not at all."""
    own = {"rows": axis, "data_key": axis, "noise_key": axis}
    return Pace(**dict.fromkeys(Pace._fields, shared) | own)


@eqx.filter_jit
def _run(
    states: State,
    rests: Model,
    objectives: Objective,
    rows: Rows,
    order: Array,
    steps: Array,
    keys: Array,
    rates: Rates,
    method: Method,
) -> tuple[State, Float[Array, "C M 7"]]:
    """Run ``steps`` ≤ CHUNK steps of every model; stop early when the gradients of one stay non-finite."""
    first = states.step[0]
    paces = jax.vmap(lambda order, key: paces_of(first, order, key, rates), out_axes=_told_apart(1))(order, keys)
    packing = Packing(jax.tree.map(lambda leaf: leaf[0], states.trained)) if method.entrywise else Loose()

    def one(state: State, rest: Model, objective: Objective, pace: Pace) -> tuple[State, Array]:
        state, record = step_of(state, rest, objective, rows, pace, rates, method, packing)
        return state, jnp.stack(record)

    mapped = eqx.filter_vmap(one, in_axes=(_MAPPED, _MAPPED, _MAPPED, _told_apart(0)))
    log = jnp.zeros((CHUNK, len(order), len(StepRecord._fields)))
    packed = jax.vmap(lambda state: pack(packing, state))(states)
    packed, log = repeat(lambda state, pace: mapped(state, rests, objectives, pace), packed, log, paces, first, steps)
    return jax.vmap(lambda state: unpack(packing, state))(packed), log


@eqx.filter_jit
def _evaluate_block(rows: Rows, index: Int[Array, "B"], trained: Model, rests: Model, judges: Objective, keys: Array) -> Terms:
    def one(trained: Model, rest: Model, objective: Objective, key: Array) -> Terms:
        return rows_terms(merge(trained, rest), objective, rows, index, jax.random.fold_in(key, index[0]))

    return eqx.filter_vmap(one, in_axes=(_MAPPED, _MAPPED, _MAPPED, 0), out_axes=1)(trained, rests, judges, keys)


@eqx.filter_jit
def _values(objectives: Objective, terms: Terms, step: Int[Array, ""], layers: tuple[int, ...]) -> Float[Array, "M"]:
    return eqx.filter_vmap(lambda objective, mean: objective.value(mean, step, layers).value)(objectives, terms)


@eqx.filter_jit
def _chosen(better: Bool[Array, "M"], current: Model, best: Model) -> Model:
    def choose(new: Array, old: Array) -> Array:
        return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, current, best)
