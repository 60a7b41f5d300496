"""The scikit-learn face: one fit of a table or an array, used as transformer, density, outlier detector or imputer."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Self

import narwhals.stable.v2 as nw
import numpy as np
from pydantic import TypeAdapter
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    DensityMixin,
    OneToOneFeatureMixin,
    OutlierMixin,
    TransformerMixin,
)
from sklearn.utils import Tags, check_array, check_random_state
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from tightbound.completion import complete, conformal_p_values, enough, impute
from tightbound.data.arrays import Dataset
from tightbound.data.frames import TableSchema, as_frame, infer, plain
from tightbound.errors import DataError, FormatError, SpecError
from tightbound.evidence.importance import importance
from tightbound.evidence.proposals import WARY
from tightbound.files import read_json, write_folder, write_json
from tightbound.fitting import starting_statistics
from tightbound.inference import decode, embed, sample
from tightbound.likelihoods import AnyLikelihood, Columns, Gaussian, LogisticMixture
from tightbound.model import VAE, Model
from tightbound.networks import MLP
from tightbound.objectives import ELBO, IWAE, ObjectiveSpec
from tightbound.priors import PriorSpec, StandardNormal, VampPrior
from tightbound.schema import Sites
from tightbound.settings import default_latent, default_plan
from tightbound.spec import Spec
from tightbound.store import load_model, save_model
from tightbound.tabular import surprise
from tightbound.training.loop import run_key, train
from tightbound.training.plan import Plan

__all__ = ["VAEDensity", "VAEImputer", "VAEOutlierDetector", "VAETransformer"]

WIDTH = 8  # arrays of few columns are padded to a multiple, so that few programs are compiled
WIDEST = 64
PARTS: dict[str, TypeAdapter[Any]] = {"prior": TypeAdapter(PriorSpec), "likelihood": TypeAdapter(AnyLikelihood)}
# A density as fine as the data allows is decided by its finest columns; to an outlier all columns count alike.
BLURRED = Gaussian(noise="fixed", scale=0.3)
ENOUGH_DRAWS, MANY_HOLES = 20, 0.05
MOST_ROWS = 2**31 - 1
PLANNED = ("epochs", "steps", "batch_size", "learning_rate", "weight_decay")  # parameters that are the plan's


@dataclass(frozen=True)
class ArraySchema:
    """What :class:`TableSchema` is for tables: how the columns of an array of real numbers become sites, x = (u − shift)/scale.

    Sites beyond the columns are never observed and have no influence; without them each number of columns would compile
    programs of its own.
    """

    shift: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def of(cls, u: np.ndarray) -> ArraySchema:
        """Return the schema of an array (n, D), NaN where a cell is missing."""
        seen = np.isfinite(u)
        count = np.maximum(seen.sum(axis=0), 1)
        shift = np.where(seen, u, 0.0).sum(axis=0) / count
        scale = np.sqrt((np.where(seen, u - shift, 0.0) ** 2).sum(axis=0) / count)
        # The deviation of equal numbers is what rounding leaves of it.
        constant = scale <= 1e-12 * np.maximum(np.abs(shift), 1e-300)
        return cls(tuple(shift.tolist()), tuple(np.where(constant, 1.0, scale).tolist()))

    def encode(self, u: np.ndarray) -> Dataset:
        """Return rows of sites."""
        count, wide = len(self.shift), len(self.shift)
        if count < WIDEST:
            wide = math.ceil(count / WIDTH) * WIDTH
        x, observed = np.zeros((len(u), wide)), np.zeros((len(u), wide), bool)
        observed[:, :count] = np.isfinite(u)
        x[:, :count] = np.where(observed[:, :count], (u - self.shift) / self.scale, 0.0)
        return Dataset(x.astype(np.float32), Sites(kind="real", shape=(wide,), missing=True), observed)

    def decode(self, x: np.ndarray) -> np.ndarray:
        """Return sites in the units of the array."""
        return x[:, : len(self.shift)].astype(np.float64) * self.scale + self.shift

    def log_units(self, data: Dataset) -> np.ndarray:
        """Return log |dx/du| of rows (n,) in nats, over the cells that are seen."""
        assert data.observed is not None
        return -(data.observed[:, : len(self.scale)] @ np.log(self.scale))


class _Estimator(BaseEstimator):
    """What the four roles share: parameters, the fit, and log p(row).

    A pandas, polars or pyarrow table is taken column by column, as :func:`tightbound.infer` says; ``columns`` overrules it. An
    array is taken as real numbers. NaN and null are missing cells, in training and after it. Rows with integer weights count
    as so many rows; other weights decide how often a row occurs in the training data.

    Training maximises the ELBO, or with ``k`` > 1 the importance-weighted bound, which fills holes better: by default k = 20
    when more than a twentieth of the cells are missing (Mattei & Frellsen 2019). ``beta`` is the weight of the KL, for k = 1
    alone; below 1 the latents carry more, which synthetic rows gain from and log p(row) loses by. ``warmup`` is the share of
    training, from 0 to 1, over which that weight rises from 0, for k = 1 alone: of many rows and columns dependences are then
    learnt that are worth few nats and otherwise never get a latent; few rows are learnt by heart. ``prior`` and ``likelihood``
    are parts such as :class:`tightbound.VampPrior`, left out those that serve the role. ``validation`` is the share of rows by
    which the best weights are chosen, ``draws`` the number of importance samples per row and member after training.

    ``members`` > 1 trains as many models that differ in their random numbers alone, and takes the mean of their densities,
    p(x) = (1/M) Σ_m p_m(x), for everything but embeddings: what few rows leave open is averaged over, which fills holes better
    and takes as many times as long (Lakshminarayanan et al. 2017). They are ``models_``, the first one ``model_``.
    """

    def __init__(
        self,
        *,
        latent: int | None = None,
        hidden: Sequence[int] = (300, 300),
        epochs: int | None = None,
        steps: int | None = None,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        weight_decay: float | None = None,
        k: int | None = None,
        beta: float = 1.0,
        warmup: float = 0.0,
        validation: float = 0.1,
        calibration: float = 0.2,
        false_alarms: float = 0.05,
        draws: int = 200,
        members: int = 1,
        columns: Mapping[str, Any] | None = None,
        prior: Any = None,
        likelihood: Any = None,
        random_state: Any = None,
    ) -> None:
        self.latent = latent
        self.hidden = hidden
        self.epochs = epochs
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.k = k
        self.beta = beta
        self.warmup = warmup
        self.validation = validation
        self.calibration = calibration
        self.false_alarms = false_alarms
        self.draws = draws
        self.members = members
        self.columns = columns
        self.prior = prior
        self.likelihood = likelihood
        self.random_state = random_state

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn the model of the rows of X; y is ignored. After a fit that fails everything is as it was before."""
        with self._anew():
            self._fit(X, sample_weight, held_out=0.0)
        return self

    @contextmanager
    def _anew(self) -> Iterator[None]:
        """Forget what was fitted; take it back when what comes now does not end well."""
        before = self._fitted()
        self._replace({})
        try:
            yield
        except BaseException:
            self._replace(before)
            raise

    def _replace(self, fitted: Mapping[str, Any]) -> None:
        for name in self._fitted():
            delattr(self, name)
        for name, value in fitted.items():
            setattr(self, name, value)

    def _fit(self, X: Any, sample_weight: Any, held_out: float) -> Dataset:
        """Train and return the rows that were held out."""
        self._check()
        data = self._read(X, reset=True, sample_weight=sample_weight)
        # In an order of their own: what is learnt does not depend on that in which rows are given.
        data = data.take(np.lexsort([*data.x.T, *(() if data.observed is None else data.observed.T)]))
        seed = _seed(self.random_state)
        if self.validation + held_out >= 1.0:
            told = f"expected less than 1 together with calibration={held_out:g}, got {self.validation:g}"
            raise SpecError(type(self).__name__, (("validation", told),))
        split = data.split(self.validation, held_out, seed)
        rows, checked = data.take(split.train), data.take(split.validation)
        network = MLP(hidden=tuple(self.hidden))
        latent = default_latent(data.sites) if self.latent is None else self.latent
        spec = VAE(sites=data.sites, latent=latent, encoder=network, decoder=network, **self._distributions(data.sites))
        asked = {name: getattr(self, name) for name in PLANNED}
        plan = default_plan(Plan(seed=seed, **{k: v for k, v in asked.items() if v is not None}), len(rows))
        objective, statistics = self._objective(rows, plan), starting_statistics(rows, seed)

        def trained(number: int) -> Model:
            own = plan.replace(seed=(seed + number) % 2**31)
            model = spec.build(run_key(own.seed), statistics)
            for progress in train(model, objective, rows, own, validation=checked if len(checked) else None):
                model, self.n_iter_ = progress.model, progress.step
            return model

        self.models_ = tuple(map(trained, range(self.members)))
        return data.take(split.test)

    def _check(self) -> None:
        """Raise :class:`SpecError` for parameters that no other part of the package looks at, before any row is read."""
        counted = ("members", "draws", *(() if self.k is None else ("k",)))
        problems = [(name, problem) for name in counted if (problem := _no_whole(getattr(self, name), 1))]
        for name in ("validation", "calibration"):
            if not isinstance(share := getattr(self, name), Real) or not 0.0 <= float(share) < 1.0:
                problems.append((name, f"expected a share of the rows from 0 to below 1, got {share!r}"))
        layers = list(self.hidden) if np.iterable(self.hidden) and not isinstance(self.hidden, str | bytes) else [None]
        if not all(isinstance(width, int | np.integer) and not isinstance(width, bool) for width in layers):
            problems.append(("hidden", f"expected the widths of the layers, such as (64, 64), got {self.hidden!r}"))
        if not isinstance(self.false_alarms, Real) or not 0.0 < self.false_alarms < 1.0:
            problems.append(("false_alarms", f"expected a share between 0 and 1, got {self.false_alarms!r}"))
        if not isinstance(self.warmup, Real) or not 0.0 <= self.warmup <= 1.0:
            problems.append(("warmup", f"expected a share of training from 0 to 1, got {self.warmup!r}"))
        if problems:
            raise SpecError(type(self).__name__, tuple(problems))

    def _whole(self, name: str, value: Any, least: int) -> int:
        """Return a whole number; raise :class:`SpecError` for anything else."""
        if problem := _no_whole(value, least):
            raise SpecError(type(self).__name__, ((name, problem),))
        return int(value)

    @property
    def model_(self) -> Model:
        """The model; of several members the first."""
        check_is_fitted(self)
        return self.models_[0]

    def _distributions(self, sites: Sites) -> dict[str, Any]:
        """Return prior and likelihood: those asked for, or else those that serve the role."""
        return {name: getattr(self, name) or suggested for name, suggested in self._suggested(sites).items()}

    def _suggested(self, sites: Sites) -> dict[str, Any]:
        return {"prior": StandardNormal(), "likelihood": Columns() if sites.parts else LogisticMixture()}

    def _objective(self, rows: Dataset, plan: Plan) -> ObjectiveSpec:
        given = (("beta", self.beta, 1.0), ("warmup", self.warmup, 0.0))
        weighed = [(name, got, plain) for name, got, plain in given if got != plain]
        k = self.k
        if k is None:
            counted = rows.observed[:, : self.n_features_in_] if rows.observed is not None else np.ones(1)
            k = ENOUGH_DRAWS if np.mean(counted) < 1.0 - MANY_HOLES and not weighed else 1
        if k > 1 and weighed:
            told = "the importance-weighted bound has no KL to weigh; set k=1"
            problems = [(name, f"expected {plain:g} with k = {k}, got {got}: {told}") for name, got, plain in weighed]
            raise SpecError(type(self).__name__, tuple(problems))
        warmup = round(self.warmup * plan.total_steps(len(rows)))
        return ELBO(beta=self.beta, warmup=warmup) if k == 1 else IWAE(k=k, gradient="dreg")

    def _read(self, X: Any, reset: bool = False, sample_weight: Any = None) -> Dataset:
        """Return X as rows of sites, each as often as its weight says; when fitting, decide what its columns are."""
        if _is_table(X):
            validate_data(self, X, reset=reset, skip_check_array=True)
            if sample_weight is not None:
                frame = as_frame(X)
                # Kinds, levels and units are those of the rows that count, each once: a row of much weight makes no atom.
                once, again = np.unique(_repeated(sample_weight, len(frame)), return_inverse=True)
                X = X if len(once) == len(frame) else frame[once.tolist()].to_native()
            if reset:
                self.schema_: TableSchema | ArraySchema = infer(X, columns=self.columns)
            if isinstance(self.schema_, TableSchema):
                data = self.schema_.encode(X, units=False)
                _warn(data.notes)
                return data if sample_weight is None else data.take(again)
            X = nw.from_native(X, eager_only=True).to_numpy()
        u = validate_data(self, X, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan")
        u = u if sample_weight is None else u[_repeated(sample_weight, len(u))]
        if reset:
            self.schema_ = ArraySchema.of(u[np.lexsort(u.T)])  # sums in one order, whatever that of the rows
        if isinstance(self.schema_, TableSchema):
            raise DataError("fitted on a table with named columns, got an array; pass a table")
        return self.schema_.encode(u)

    def dataset(self, X: Any) -> Dataset:
        """Return X as the rows that ``model_`` is for, to use it with the functions of tightbound."""
        check_is_fitted(self)
        return self._read(X)

    def score_samples(self, X: Any) -> np.ndarray:
        """Return log p(row) in nats, per unit of X: a lower bound by ``draws`` importance samples, half of them from the prior.

        Of a row unlike those that were fitted, q(z|x) alone may miss most of p(row), and not show it.
        """
        return self._log_density(self.dataset(X))

    def _log_density(self, data: Dataset) -> np.ndarray:
        options: dict[str, Any] = {"draws": self.draws, "proposal": WARY, "shared_noise": True}
        found = [importance(model, data, **options).log_evidence for model in self.models_]
        return np.logaddexp.reduce(np.asarray(found, np.float64)) - math.log(len(found)) + self.schema_.log_units(data)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean of log p(row) in nats."""
        return float(np.mean(self.score_samples(X)))

    def sample(self, n_samples: int = 1, random_state: Any = 0) -> Any:
        """Return rows drawn from the model, as an array or as a table of the library that it was fitted on.

        Numbers of a table lie within those that the fit saw: draws beyond them are put at the nearest.
        """
        check_is_fitted(self)
        x = self._drawn(self._whole("n_samples", n_samples, 1), _own_seed(random_state))
        return self.schema_.decode(self.schema_.within(x) if isinstance(self.schema_, TableSchema) else x)

    def _drawn(self, count: int, seed: int) -> np.ndarray:
        """Return rows of sites, each from a member chosen at random."""
        if len(self.models_) == 1:
            return sample(self.model_, count, seed=seed)
        x = np.empty((count, self.model_.spec.sites.count), np.float32)
        chosen = np.random.default_rng(seed).integers(len(self.models_), size=count)
        for number, model in enumerate(self.models_):
            at = np.flatnonzero(chosen == number)
            if len(at):
                x[at] = sample(model, len(at), seed=seed + number)
        return x

    def impute(self, X: Any) -> Any:
        """Return X with its missing cells at their expectation given the others, a category at its most probable value."""
        data = self._with_holes(X)
        return self._filled(X, data, impute(self.models_, data, draws=self.draws))

    def impute_draws(self, X: Any, count: int, random_state: Any = 0) -> list[Any]:
        """Return X ``count`` times, its missing cells drawn from p(missing | seen)."""
        count = self._whole("count", count, 1)
        data = self._with_holes(X)
        drawn = complete(self.models_, data, count, draws=enough(self.draws, count), seed=_own_seed(random_state))
        return [self._filled(X, data, x) for x in drawn.x]

    def _with_holes(self, X: Any) -> Dataset:
        """Return X as rows of sites, and warn of holes that stay."""
        data = self.dataset(X)
        if isinstance(self.schema_, TableSchema):
            _warn(self.schema_.unfilled(X))
        return data

    def _filled(self, X: Any, data: Dataset, x: np.ndarray) -> Any:
        if isinstance(self.schema_, TableSchema):
            return self.schema_.fill(X, x)
        assert data.observed is not None
        u = check_array(X, dtype=np.float64, ensure_all_finite="allow-nan")
        return np.where(data.observed[:, : u.shape[1]], u, self.schema_.decode(x))

    def as_role(self, role: type[_Estimator]) -> Any:
        """Return an estimator of another role with the same fit."""
        check_is_fitted(self)
        other = role(**self.get_params())
        other._replace(self._fitted())
        return other

    def _fitted(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name.endswith("_") and not name.startswith("_")}

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator to a folder, as JSON and safetensors, whole or not at all.

        Raises :class:`OutputExistsError` when the folder exists, and :class:`StoreError` when it cannot be written.
        """
        check_is_fitted(self)
        schema, params, fitted = self.schema_, self.get_params(), self._fitted()
        table = schema.model_dump(mode="json") if isinstance(schema, TableSchema) else vars(schema)
        if isinstance(params["random_state"], np.random.RandomState):
            params["random_state"] = None  # a generator that has moved on cannot be asked for the same again
        stored = {
            "role": type(self).__name__,
            "members": len(self.models_),
            "params": {name: _plain(value) for name, value in params.items()},
            "fitted": {name: _plain(value) for name, value in fitted.items() if name not in ("models_", "schema_")},
            "schema": table,
        }

        def write(folder: Path) -> None:
            for name, model in zip(_files(len(self.models_)), self.models_, strict=True):
                save_model(model, folder / name)
            write_json(folder / "estimator.json", stored)

        write_folder(Path(path), write)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read back what :meth:`save` wrote, in any of the roles; raise :class:`FormatError` for anything else."""
        stored = read_json(Path(path) / "estimator.json")
        try:
            estimator = cls(**{name: _part(name, value) for name, value in stored["params"].items()})
            schema, fitted, members = stored["schema"], stored["fitted"], int(stored.get("members", 1))
            known = (
                TableSchema(**schema)
                if schema.get("kind") == "table"
                else ArraySchema(**{k: tuple(v) for k, v in schema.items()})
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path} is no stored estimator: {error}") from None
        for name, value in fitted.items():
            if name == "feature_names_in_":
                value = np.array(value, object)
            setattr(estimator, name, np.asarray(value) if isinstance(value, list) else value)
        estimator.schema_ = known
        estimator.models_ = tuple(load_model(Path(path) / name) for name in _files(members))
        return estimator


class VAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _Estimator):
    """Rows as latent vectors: ``transform`` gives the mean of q(z|x), ``inverse_transform`` decodes.

    Latents of several ``members`` have nothing to do with one another: of them the first one's are given.

    >>> from sklearn.datasets import load_iris
    >>> x = load_iris(return_X_y=True)[0]
    >>> VAETransformer(latent=2, hidden=(16,), steps=20, random_state=0).fit(x).transform(x).shape
    (150, 2)
    """

    def transform(self, X: Any) -> np.ndarray:
        """Return the mean of q(z|x) (n, L)."""
        return embed(self.model_, self.dataset(X)).mean.astype(np.float64)

    def inverse_transform(self, Z: Any) -> Any:
        """Return E[x|z] for rows of Z, as an array or table like the one that was fitted on."""
        check_is_fitted(self)
        x = decode(self.model_, self._latents(Z))
        return self.schema_.decode(self.schema_.within(x) if isinstance(self.schema_, TableSchema) else x)

    def _latents(self, Z: Any) -> np.ndarray:
        """Return rows of latents as an array; raise :class:`DataError` for what is none."""
        try:
            z = np.asarray(Z, np.float64)
        except (TypeError, ValueError):
            z = np.zeros(0)
        if z.shape != (len(z), self._n_features_out) or not len(z) or not np.isfinite(z).all():
            raise DataError(f"expected rows of {self._n_features_out} finite latents, at least one, got {Z!r:.200}")
        return z

    @property
    def _n_features_out(self) -> int:
        model: Model = self.model_
        return model.spec.latent


class VAEDensity(DensityMixin, _Estimator):
    """The density of rows: ``score_samples`` gives log p(row) in nats from below, ``sample`` draws rows."""

    score = _Estimator.score  # the mixin has one that returns nothing


class VAEOutlierDetector(OutlierMixin, _Estimator):
    """Rows unlike those it was fitted on, with a stated rate of false alarms.

    A share ``calibration`` of the rows is kept out of training. The p-value of a row is the share of them that is as
    improbable (:func:`tightbound.conformal_p_values`); it is an outlier, −1, when that is at most ``false_alarms``. Of rows
    like those it was fitted on at most that share is called so, however good or bad the model is; with weights, a row that
    counts several times may stand on both sides, and the rate is no longer sure. log p is of the cells that are seen: a row
    with holes looks less odd than a whole one.

    Unless told otherwise, the model has a VampPrior of 200 pseudo-inputs, and Gaussian noise of 0.3 deviations on every real
    column: what is closer than that to a likely row is likely, too.
    """

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn the model of the rows of X, and how improbable rows like them are."""
        with self._anew():
            held = self._fit(X, sample_weight, self.calibration)
            self.calibration_scores_ = np.sort(self._log_density(held)) if len(held) else np.zeros(0)
            # As many of the m calibration rows may lie below as leave (1 + number)/(m + 1) within the rate.
            allowed = math.floor(self.false_alarms * (len(held) + 1))
            self.offset_ = float(self.calibration_scores_[allowed - 1]) if allowed else -np.inf
        if not allowed:
            needed = math.ceil(1.0 / self.false_alarms) - 1
            told = f"{len(held)} rows set apart are too few for a rate of {self.false_alarms:g}, which takes {needed}"
            _warn([f"no row will be called an outlier: {told}; give more rows, or raise calibration or false_alarms"])
        return self

    def _suggested(self, sites: Sites) -> dict[str, Any]:
        return {"prior": VampPrior(components=200), "likelihood": Columns(real=BLURRED) if sites.parts else BLURRED}

    def _calibrated(self) -> None:
        """Raise :class:`DataError` for a fit in another role, which has set no rows apart."""
        check_is_fitted(self)
        if not hasattr(self, "offset_"):
            raise DataError("it was fitted in another role, without rows set apart to compare with; fit a VAEOutlierDetector")

    def p_values(self, X: Any) -> np.ndarray:
        """Return conformal p-values: small for rows unlike those it was fitted on."""
        self._calibrated()
        return conformal_p_values(self.score_samples(X), self.calibration_scores_)

    def decision_function(self, X: Any) -> np.ndarray:
        """Return log p(row) above that from which on a row is no outlier: negative for outliers."""
        self._calibrated()
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """Return −1 for outliers, 1 for the others."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def surprise(self, X: Any) -> np.ndarray:
        """Return for every cell by how many nats it is less expected given the others than is usual in X."""
        data = self.dataset(X)
        return surprise(self.models_, data, data, draws=self.draws)[:, : self.n_features_in_]


class VAEImputer(OneToOneFeatureMixin, TransformerMixin, _Estimator):
    """Missing cells filled in: ``transform`` gives their expectation given the seen cells of the row."""

    def transform(self, X: Any) -> Any:
        """Return X with its missing cells filled, as a table of its own library or of that which ``set_output`` names."""
        filled = self.impute(X)
        wanted = _get_output_config("transform", self)["dense"]
        if wanted == "default" or not _is_table(filled):
            return filled  # scikit-learn wraps arrays
        frame = as_frame(filled)
        return filled if frame.implementation.value == wanted else getattr(frame, f"to_{wanted}")()


def _no_whole(value: Any, least: int) -> str:
    """Return what is wrong with a value that is to be a whole number; nothing if it is one."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= least
    return "" if whole else f"expected a whole number of at least {least}, got {value!r}"


def _seed(random_state: Any) -> int:
    """Return a number that a generator of scikit-learn's draws; raise :class:`SpecError` for what makes none."""
    try:
        return int(check_random_state(random_state).randint(2**31 - 1))
    except ValueError as error:
        raise SpecError("random_state", (("", str(error)),)) from None


def _own_seed(random_state: Any) -> int:
    """Return a seed that is given as it is, and for anything else one that it makes."""
    given = isinstance(random_state, int | np.integer) and not isinstance(random_state, bool) and random_state >= 0
    return int(random_state) if given else _seed(random_state)


def _warn(notes: Sequence[str]) -> None:
    """Warn of notes at the line of the caller's own code: scikit-learn wraps methods, some once and some twice."""
    frame, level = inspect.currentframe(), 1
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] in ("tightbound", "sklearn"):
        frame, level = frame.f_back, level + 1
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=level)


def _files(members: int) -> Iterator[str]:
    """Yield the names of the model files of a stored estimator."""
    yield "model.safetensors"
    yield from (f"model-{number}.safetensors" for number in range(2, members + 1))


def _plain(value: Any) -> Any:
    """Return specs, and numpy's numbers and arrays, as values that JSON can hold."""
    if isinstance(value, Spec):
        return value.model_dump(mode="json")
    return {key: _plain(own) for key, own in value.items()} if isinstance(value, Mapping) else plain(value)


def _part(name: str, value: Any) -> Any:
    """Return a parameter as it was before it was stored: a prior or a likelihood as the spec that it describes."""
    return PARTS[name].validate_python(value) if name in PARTS and value is not None else value


def _is_table(X: Any) -> bool:
    try:
        frame = nw.from_native(X, eager_only=True)
    except TypeError:
        if hasattr(X, "collect"):
            raise DataError("the table is a lazy one, whose rows are not there yet: give X.collect()") from None
        return False
    except (ValueError, nw.exceptions.NarwhalsError):
        frame = as_frame(X)  # which says what is wrong
    named = [isinstance(name, str) for name in frame.columns]
    if any(named) != all(named) or not (all(named) or all(map(_may_be_numbers, frame.iter_columns()))):
        as_frame(X)  # it is neither: which says what a table has
    return all(named)


def _may_be_numbers(column: nw.Series[Any]) -> bool:
    return column.dtype.is_numeric() or column.dtype in (nw.Boolean, nw.Object)


def _repeated(sample_weight: Any, count: int) -> np.ndarray:
    """Return row numbers in which a row occurs as often as its weight says: exactly, or on average and rounded either way."""
    weight = _check_sample_weight(sample_weight, np.zeros((count, 1)), ensure_non_negative=True)
    whole = np.all(weight == np.round(weight))
    if whole and weight.sum() > MOST_ROWS:
        raise DataError(f"whole weights say how often a row counts; these make {weight.sum():g} rows of {count}: divide them")
    ends = np.cumsum(weight) * (1.0 if whole else len(weight) / weight.sum())
    starts = np.concatenate([[0.0], ends[:-1]])
    counts = np.round(ends).astype(int) - np.round(starts).astype(int)
    return np.repeat(np.arange(len(weight)), counts)
