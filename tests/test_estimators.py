"""The scikit-learn face: all of scikit-learn's own checks, and what a table's user does with it."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import tightbound as tb
from data_checks import refused
from tightbound.errors import DataError, FormatError, OutputExistsError, SpecError, StoreError
from tightbound.evidence.proposals import WARY
from tightbound.model import to_arrays

ROLES = (tb.VAETransformer, tb.VAEDensity, tb.VAEOutlierDetector, tb.VAEImputer)
SMALL = {"hidden": (16,), "steps": 60, "random_state": 0}


def people(rows: int = 300, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    sex = rng.choice(["F", "M"], rows)
    table = pd.DataFrame({
        "age": rng.uniform(18, 80, rows), "sex": sex, "height": np.where(sex == "F", 165, 178) + rng.normal(0, 5, rows),
        "visits": rng.poisson(30, rows), "smoker": rng.random(rows) < 0.3,
    })  # fmt: skip
    table.loc[rng.random(rows) < 0.2, "height"] = np.nan
    table.loc[rng.random(rows) < 0.1, "sex"] = None
    return table


def correlated(rows: int = 400, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 1)) @ np.ones((1, 3)) * [1.0, 10.0, -3.0] + 0.3 * rng.normal(size=(rows, 3)) + [0, 500, 0]


@pytest.mark.filterwarnings("ignore:no row will be called an outlier")
@pytest.mark.parametrize("role", ROLES)
def test_scikit_learns_checks_pass_without_exception(role: type) -> None:
    # The detector's prior of two hundred pseudo-inputs takes most of the time, and is no other one with twenty.
    prior = {"prior": tb.VampPrior(components=20)} if role is tb.VAEOutlierDetector else {}
    results = check_estimator(role(hidden=(16,), steps=10, random_state=0, **prior), on_fail=None)
    failed = [
        f"{result['check_name']}: {result['exception']}" for result in results if result["status"] not in ("passed", "skipped")
    ]
    assert not failed, "\n".join(failed)
    skipped = {result["check_name"] for result in results if result["status"] == "skipped"}
    assert skipped <= {"check_array_api_input"}  # for estimators on other array libraries


@pytest.mark.parametrize("make", [pd.DataFrame, lambda table: pl.from_pandas(table)])
def test_one_fit_serves_all_roles_on_a_table(make: type) -> None:
    table = make(people())
    density = tb.VAEDensity(**SMALL).fit(table)
    assert np.isfinite(density.score_samples(table)).all() and density.score(table) == pytest.approx(
        density.score_samples(table).mean()
    )
    drawn = density.sample(5)
    assert type(drawn) is type(table) and list(drawn.columns) == list(table.columns) and set(drawn["sex"]) <= {"F", "M"}
    imputer = density.as_role(tb.VAEImputer)
    filled = imputer.transform(table)
    assert type(filled) is type(table) and list(filled.columns) == list(table.columns)
    whole = filled if isinstance(filled, pd.DataFrame) else filled.to_pandas()
    assert not whole.isna().any().any() and set(whole["sex"]) == {"F", "M"}
    pd.testing.assert_series_equal(whole["age"], people()["age"])
    versions = imputer.impute_draws(table, 4)
    heights = np.array([np.asarray(version["height"], float) for version in versions])
    missing = people()["height"].isna().to_numpy()
    assert (heights[:, missing].std(axis=0) > 0).all() and (heights[:, ~missing].std(axis=0) == 0).all()
    z = density.as_role(tb.VAETransformer).transform(table)
    assert z.shape == (300, density.model_.spec.latent)


def test_densities_are_per_unit_of_the_column() -> None:
    """Metres for centimetres: the density of a height is a hundred times as large, whatever the model."""
    table = people()
    one = tb.VAEDensity(**SMALL, columns={"height": "real"}).fit(table)
    other = tb.VAEDensity(**SMALL, columns={"height": "real"}).fit(table.assign(height=table["height"] / 100))
    difference = other.score_samples(table.assign(height=table["height"] / 100)) - one.score_samples(table)
    expected = np.where(table["height"].isna(), 0.0, np.log(100))
    np.testing.assert_allclose(difference, expected, atol=2e-3)


def test_rows_with_holes_that_the_fit_never_saw_keep_their_density() -> None:
    """From the same model by draws from the prior alone, within five standard errors; q(z|x) alone is about a nat low."""
    density = tb.VAEDensity(hidden=(32,), latent=2, steps=600, draws=20_000, validation=0.0, random_state=0).fit(correlated())
    rows = np.array([[np.nan, 525.0, np.nan], [np.nan, 540.0, np.nan]])
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400_000, 2)).astype(np.float32)
    data = density.dataset(rows)
    each = jax.jit(jax.vmap(density.model_.log_likelihood, (0, None, None)))
    errors = tb.importance(density.model_, data, draws=density.draws, proposal=WARY, shared_noise=True).se
    for row, score in enumerate(density.score_samples(rows) - density.schema_.log_units(data)):
        weights = np.exp(np.asarray(each(z, data.x[row], data.observed[row]), np.float64))
        error = np.hypot(errors[row], weights.std() / weights.mean() / len(z) ** 0.5)
        assert abs(score - np.log(weights.mean())) < 5 * error < 0.9


def test_it_works_in_pipelines_grids_and_column_transformers() -> None:
    table, target = people(), (people()["age"] > 50).to_numpy()
    pipeline = make_pipeline(tb.VAETransformer(**SMALL), LogisticRegression())
    assert pipeline.fit(table, target).score(table, target) > 0.4
    grid = GridSearchCV(tb.VAEDensity(**SMALL), {"learning_rate": [1e-4, 3e-3]}, cv=2).fit(correlated())
    assert grid.best_params_["learning_rate"] == 3e-3
    columns = ColumnTransformer([("vae", tb.VAETransformer(**SMALL, latent=2), ["age", "height"])], remainder="drop")
    assert columns.fit(table).get_feature_names_out().tolist() == ["vae__vaetransformer0", "vae__vaetransformer1"]
    named = clone(tb.VAEImputer(**SMALL)).fit(table)
    assert named.get_feature_names_out().tolist() == list(table.columns)
    assert tb.VAETransformer(**SMALL).set_output(transform="pandas").fit(table).transform(table).index.equals(table.index)


def spiky(rows: int, seed: int) -> pd.DataFrame:
    """People with hours that are mostly forty and prices in steps: columns with atoms and widths."""
    rng = np.random.default_rng(seed)
    hours = np.where(rng.random(rows) < 0.5, 40, rng.integers(1, 90, rows))
    return people(rows, seed).assign(hours=hours, price=np.round(rng.gamma(40.0, 0.05, rows), 2))


def arrays(seed: int) -> np.ndarray:
    return correlated(400) if seed == 0 else correlated(385)[:, :2]


@pytest.mark.parametrize(
    ("role", "make"),
    [(tb.VAEDensity, arrays), (tb.VAEDensity, lambda seed: spiky(400, seed)), (tb.VAEOutlierDetector, arrays)],
    ids=["array", "table", "outliers"],
)
def test_a_refit_compiles_nothing(role: Any, make: Callable[[int], Any]) -> None:
    """Other rows, more or fewer of them, columns of an array within a bucket, learning rates and lengths: no new program."""
    compiled: list[str] = []

    def note(name: str, seconds: float, **_: object) -> None:
        if name.endswith("backend_compile_duration"):
            compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(note)
    role(**SMALL).fit(make(0)).score_samples(make(0))
    jax.jit(lambda x: x * 7.0 + 3.0)(np.zeros(5))
    assert compiled  # what is counted is still called so
    compiled.clear()
    other = role(hidden=(16,), steps=90, learning_rate=3e-3, random_state=3)
    other.fit(make(1)).score_samples(make(1))
    assert not compiled
    for count in (1, 37, 300):
        other.score_samples(make(1)[:count])
    assert not compiled


@pytest.mark.parametrize("data", [pd.DataFrame(correlated()), people()], ids=["array", "table"])
def test_order_of_rows_and_weights_for_repetitions_do_not_change_a_bit(data: pd.DataFrame) -> None:
    def learnt(rows: pd.DataFrame, **more: object) -> dict[str, bytes]:
        given = rows.to_numpy() if "sex" not in rows else rows
        fitted = tb.VAEDensity(**SMALL).fit(given, **more)
        return {name: array.tobytes() for name, array in to_arrays(fitted.model_).items()}

    order = np.random.default_rng(1).permutation(len(data))
    assert learnt(data.iloc[order]) == learnt(data)
    weights = np.arange(len(data)) % 3
    assert learnt(data, sample_weight=weights) == learnt(data.iloc[np.repeat(np.arange(len(data)), weights)])


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_false_alarms_are_as_rare_as_stated(alpha: float) -> None:
    """2,000 new rows against 200 calibration rows: the rate itself varies by √(α(1 − α)/200); five of that, rate below 1e-6."""
    settings = {**SMALL, "draws": 20, "prior": tb.VampPrior(components=20)}  # however poor the scores are
    detector = tb.VAEOutlierDetector(**settings, calibration=0.2, false_alarms=alpha).fit(correlated(1000))
    new = correlated(2000, seed=1)
    alarms = detector.predict(new) == -1
    np.testing.assert_array_equal(alarms, detector.p_values(new) <= alpha)
    assert abs(np.mean(alarms) - alpha) < 5 * np.sqrt(alpha * (1 - alpha) * (1 / 200 + 1 / 2000)) + 1 / 201


def test_rows_that_repeat_are_called_odd_exactly_when_their_p_value_says_so() -> None:
    rows = np.repeat(correlated(4), 60, axis=0)  # 48 calibration rows: the fifth to least likely is one of about twelve twins
    detector = tb.VAEOutlierDetector(**SMALL, false_alarms=0.1).fit(rows)
    np.testing.assert_array_equal(detector.predict(rows) == -1, detector.p_values(rows) <= 0.1)


def test_odd_rows_are_found_and_the_odd_cell_is_named() -> None:
    detector = tb.VAEOutlierDetector(hidden=(32,), steps=1500, random_state=0).fit(correlated(1000))
    odd = correlated(5, seed=2)
    odd[:, 1] += 40.0  # four deviations, of a column that follows from the others to within a thirtieth of one
    assert (detector.predict(odd) == -1).all()
    surprise = detector.surprise(np.concatenate([correlated(200, seed=3), odd]))[-5:]
    # The three columns determine one another, so that the others are odd, too, given this one.
    assert (surprise[:, 1] > 5.0).all() and np.mean(surprise.argmax(axis=1) == 1) >= 0.8


def test_too_few_rows_to_keep_a_rate_raise_no_alarm() -> None:
    with pytest.warns(UserWarning, match="no row will be called an outlier: 12 rows set apart are too few for a rate of 0.01"):
        detector = tb.VAEOutlierDetector(**SMALL, false_alarms=0.01).fit(correlated(60))
    assert detector.offset_ == -np.inf and (detector.predict(correlated(10) + 1e6) == 1).all()


@pytest.mark.parametrize("data", [correlated(), people()], ids=["array", "table"])
def test_a_saved_estimator_gives_the_same_numbers(tmp_path: Path, data: object) -> None:
    prior = tb.VampPrior(components=7)
    fitted = tb.VAEOutlierDetector(**SMALL, prior=prior).fit(data)
    fitted.save(tmp_path / "kept")
    again = tb.VAEOutlierDetector.load(tmp_path / "kept")
    np.testing.assert_array_equal(again.score_samples(data), fitted.score_samples(data))
    np.testing.assert_array_equal(again.p_values(data), fitted.p_values(data))
    assert again.get_params() == {**fitted.get_params(), "hidden": [16]} and again.model_.spec.prior == prior
    with pytest.raises(OutputExistsError):
        fitted.save(tmp_path / "kept")
    (tmp_path / "kept" / "estimator.json").write_text("{}")
    with pytest.raises(FormatError):
        tb.VAEDensity.load(tmp_path / "kept")


def log_density(fitted: Any, number: int, table: pd.DataFrame) -> np.ndarray:
    data = fitted.dataset(table)
    found = tb.importance(fitted.models_[number], data, draws=fitted.draws, proposal=WARY, shared_noise=True).log_evidence
    return found.astype(np.float64) + fitted.schema_.log_units(data)


def test_members_are_one_density_their_mixture(tmp_path: Path) -> None:
    """Mean density, rows from every member, and E[x_d | seen] = Σ_m p_m(seen) E_m[x_d | seen] / Σ_m p_m(seen)."""
    table = people()
    settings = {**SMALL, "draws": 4000}
    both = tb.VAEImputer(**settings, members=2).fit(table)
    alone = tb.VAEImputer(**settings).fit(table)
    table = table.head(60)
    np.testing.assert_array_equal(alone.score_samples(table), log_density(both, 0, table))
    log_p = np.array([log_density(both, number, table) for number in (0, 1)])
    assert (log_p[0] != log_p[1]).all()
    np.testing.assert_allclose(both.score_samples(table), np.logaddexp(*log_p) - np.log(2), rtol=1e-5)
    holes = table["height"].isna()
    each = [tb.impute(model, both.dataset(table), draws=4000) for model in both.models_]
    weight = np.exp(log_p - np.logaddexp(*log_p))
    expected = both.schema_.decode(sum(w[:, None] * x for w, x in zip(weight, each, strict=True)))["height"].to_numpy()
    np.testing.assert_allclose(both.transform(table)["height"][holes], expected[holes], rtol=0.02)
    drawn = both.sample(50)["age"].to_numpy()
    own = [
        both.schema_.decode(both.schema_.within(tb.sample(model, 50, seed=m)))["age"] for m, model in enumerate(both.models_)
    ]
    found = np.array([np.isclose(drawn[:, None], ages.to_numpy(), rtol=1e-4).any(axis=1) for ages in own])
    assert found.any(axis=0).all() and (found.sum(axis=1) > 10).all() and not found.all(axis=1).any()
    with pytest.raises(tb.SpecError, match="n_samples"):
        both.sample(0)
    both.set_params(members=7).save(tmp_path / "kept")  # what the next fit would have
    again = tb.VAEImputer.load(tmp_path / "kept")
    assert len(again.models_) == 2 and again.members == 7
    pd.testing.assert_frame_equal(again.transform(table), both.transform(table))
    (tmp_path / "kept" / "model-2.safetensors").unlink()
    with pytest.raises(tb.TightboundError, match=r"model-2\.safetensors"):
        tb.VAEImputer.load(tmp_path / "kept")
    for members in (0, 2.5, "two", True):
        with refused(f"members: expected a whole number of at least 1, got {members!r}", error=SpecError):
            tb.VAEDensity(**SMALL, members=members).fit(table)


def test_saving_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = tb.VAEDensity(hidden=(16,), steps=5, random_state=np.int64(3)).fit(correlated())

    def fail(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr("tightbound.estimators.write_json", fail)
    with pytest.raises(StoreError, match="nothing was left behind"):
        fitted.save(tmp_path / "kept")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    fitted.save(tmp_path / "kept")
    assert tb.VAEDensity.load(tmp_path / "kept").random_state == 3


def test_what_cannot_be_learnt_is_refused() -> None:
    with refused("infinite values", error=DataError):
        tb.VAEDensity(**SMALL).fit(people().assign(age=[np.inf, *people()["age"][1:]]))
    with refused("learning_rate", error=SpecError):
        tb.VAEDensity(hidden=(16,), learning_rate=-1.0).fit(correlated())
    with refused("got an array; pass a table", error=DataError):
        tb.VAEDensity(**SMALL).fit(people()).score_samples(np.zeros((3, 5)))
    with refused("hidden: expected the widths of the layers", error=SpecError):
        tb.VAEDensity(hidden=16).fit(correlated())
    with refused("false_alarms: expected a share between 0 and 1, got 2.0", error=SpecError):
        tb.VAEOutlierDetector(**SMALL, false_alarms=2.0).fit(correlated())
    with refused("false_alarms: expected a share between 0 and 1, got 'few'", error=SpecError):
        tb.VAEOutlierDetector(**SMALL, false_alarms="few").fit(correlated())
    for wrong in ("late", 2.0):
        with refused(f"warmup: expected a share of training from 0 to 1, got {wrong!r}", error=SpecError):
            tb.VAEDensity(**SMALL, warmup=wrong).fit(correlated())
    with refused("'a'", error=DataError):
        tb.VAEDensity(**SMALL).fit(pd.DataFrame(correlated(), columns=["a", "a", "b"]))
    days = pd.period_range("2020-01-01", periods=18)
    for table in (
        pd.DataFrame([["a", 1.5], ["b", 2.5]] * 9),
        pd.DataFrame({0: days}),
        pd.DataFrame({"a": [1.5] * 9, 0: [2.5] * 9}),
    ):
        with refused("column names must be text, got 0; in pandas X.rename(columns=str)", error=DataError):
            tb.VAEDensity(**SMALL).fit(table)
    for name, wrong in (
        ("k", "x"),
        ("k", 0),
        ("draws", 2.5),
        ("draws", 0),
        ("validation", "x"),
        ("calibration", 1.5),
        ("hidden", b"ab"),
        ("hidden", ("8",)),
    ):
        with refused(f"{name}: expected", error=SpecError):
            tb.VAEDensity(**{**SMALL, name: wrong}).fit(correlated())
    with refused("validation: expected less than 1 together with calibration=0.95, got 0.1", error=SpecError):
        tb.VAEOutlierDetector(**SMALL, calibration=0.95).fit(correlated())
    with pytest.raises(SpecError) as told:
        tb.VAEDensity(members=0, draws=0, warmup=2.0).fit(correlated())
    assert all(f"{name}: expected" in str(told.value) for name in ("members", "draws", "warmup"))


@pytest.mark.parametrize("make", [lambda x: x, lambda x: pd.DataFrame(x, columns=["a", "b", "c"])], ids=["array", "table"])
def test_a_fit_that_fails_leaves_everything_as_it_was(make: Any) -> None:
    """New units with old weights would say nonsense, and not show it."""
    x = make(correlated())
    density = tb.VAEDensity(**SMALL).fit(x)
    before, known = density.score_samples(x), vars(density).copy()
    density.set_params(latent=-1)
    for _ in range(2):
        with pytest.raises(tb.TightboundError):
            density.fit(1e4 * x + 7.0)
    density.set_params(latent=None)
    assert vars(density) == known
    np.testing.assert_array_equal(density.score_samples(x), before)
    never = tb.VAEDensity(**SMALL, latent=-1)
    with pytest.raises(tb.TightboundError):
        never.fit(x)
    for ask in (lambda: never.score_samples(x), lambda: never.as_role(tb.VAEImputer), never.sample):
        with pytest.raises(NotFittedError):
            ask()


def test_rows_of_no_weight_decide_nothing() -> None:
    table = people(200)
    far = pd.concat([table, table.assign(height=1e9, sex="other")], ignore_index=True)
    weight = np.repeat([1.0, 0.0], 200)
    weighted, alone = tb.VAEDensity(**SMALL).fit(far, sample_weight=weight), tb.VAEDensity(**SMALL).fit(table)
    assert weighted.schema_ == alone.schema_
    np.testing.assert_array_equal(weighted.score_samples(table), alone.score_samples(table))
    with refused("whole weights say how often a row counts; these make 2e+302 rows of 200", error=DataError):
        tb.VAEDensity(**SMALL).fit(table, sample_weight=np.full(200, 1e300))


@pytest.mark.parametrize("weight", [2.0, 60.5, [60.0] * 5 + [1.0] * 95], ids=["doubled", "fractions", "a few"])
def test_weights_do_not_change_what_columns_are(weight: Any) -> None:
    """Rows that count twice tell an identifier from no other, and one row of much weight is no value that repeats."""
    rng = np.random.default_rng(0)
    views = pa.array(["a", "b"] * 50, pa.string_view())  # of which pyarrow cannot take rows
    table = pa.table({"id": [f"u{i}" for i in range(100)], "x": rng.normal(size=100), "y": rng.normal(size=100), "v": views})
    settings = {"hidden": (4,), "steps": 2, "latent": 1, "random_state": 0}
    weighted = tb.VAEDensity(**settings).fit(table, sample_weight=np.broadcast_to(weight, 100))
    assert weighted.schema_ == tb.VAEDensity(**settings).fit(table).schema_


def test_arrays_among_the_columns_are_kept(tmp_path: Path) -> None:
    asked = {"grade": {"kind": "ordinal", "values": np.array(["low", "high"])}, "size": {"kind": "real", "atoms": np.zeros(1)}}
    table = pd.DataFrame({"grade": ["low", "high"] * 10, "size": np.arange(20.0) ** 1.5})
    density = tb.VAEDensity(hidden=(4,), steps=2, random_state=0, columns=asked).fit(table)
    density.save(tmp_path / "kept")
    again = tb.VAEDensity.load(tmp_path / "kept")
    assert again.schema_ == density.schema_ and again.columns["grade"]["values"] == ["low", "high"]


def test_a_lazy_table_is_refused() -> None:
    with refused("give X.collect()", error=DataError):
        tb.VAEDensity(**SMALL).fit(pl.DataFrame({"a": [1.5, 2.5]}).lazy())


def test_rows_that_were_set_apart_go_with_their_fit() -> None:
    detector = tb.VAEOutlierDetector(**SMALL).fit(correlated())
    again = detector.as_role(tb.VAEDensity).fit(correlated(seed=1)).as_role(tb.VAEOutlierDetector)
    with refused("it was fitted in another role", error=DataError):
        again.predict(correlated())


@pytest.mark.parametrize("state", [None, np.random.RandomState(0), np.int64(3), True])
def test_imputations_are_drawn_from_any_random_state(state: Any) -> None:
    x = np.where(np.random.default_rng(0).random((40, 3)) < 0.2, np.nan, correlated(40))
    imputer = tb.VAEImputer(hidden=(8,), steps=3, draws=20, random_state=0).fit(x)
    assert len(imputer.impute_draws(x, 2, random_state=state)) == 2
    with refused("random_state: 'x' cannot be used to seed", error=SpecError):
        imputer.impute_draws(x, 2, random_state="x")


@pytest.mark.parametrize("wanted", ["default", "pandas", "polars"])
@pytest.mark.parametrize("given", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "pyarrow"])
def test_an_imputer_gives_the_tables_that_it_is_set_to(given: Any, wanted: str) -> None:
    table = given({"a": [1.5, None, 2.5, 4.0] * 5, "b": ["x", "y", None, "y"] * 5, "c": [1, 5, 2, 9] * 5})
    filled = tb.VAEImputer(hidden=(8,), steps=3, draws=20, random_state=0).set_output(transform=wanted).fit_transform(table)
    kind = {"default": type(table), "pandas": pd.DataFrame, "polars": pl.DataFrame}[wanted]
    assert isinstance(filled, kind) and nw.from_native(filled)["c"].dtype == nw.Int64
    assert nw.from_native(filled)["a"].null_count() == 0


def test_an_outlier_detector_needs_rows_that_were_set_apart(tmp_path: Path) -> None:
    density = tb.VAEDensity(hidden=(8,), steps=3, random_state=0).fit(correlated())
    density.save(tmp_path / "density")
    for detector in (density.as_role(tb.VAEOutlierDetector), tb.VAEOutlierDetector.load(tmp_path / "density")):
        for ask in (detector.predict, detector.p_values):
            with refused("it was fitted in another role, without rows set apart", error=DataError):
                ask(correlated())


def test_latents_far_out_decode_to_what_the_columns_can_hold() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"byte": rng.integers(0, 256, 200).astype("uint8"), "small": pd.array(rng.integers(-99, 99, 200), "Int16")}
    )
    transformer = tb.VAETransformer(hidden=(8,), steps=20, latent=2, random_state=0).fit(table)
    back = transformer.inverse_transform(50.0 * rng.normal(size=(40, 2)))
    assert back.dtypes.to_dict() == table.dtypes.to_dict()


def test_what_is_no_number_of_rows_and_no_latents_is_refused() -> None:
    table = people(60)
    transformer = tb.VAETransformer(hidden=(8,), steps=3, latent=2, draws=20, random_state=0).fit(table)
    for latents in ([[np.nan, 0.0]], [["a", "b"]], np.zeros((0, 2)), [[1.0]], [0.0, 1.0]):
        with refused("expected rows of 2 finite latents", error=DataError):
            transformer.inverse_transform(latents)
    for count in (1.5, "x", None):
        with refused("expected a whole number", error=SpecError):
            transformer.sample(count)
        with refused("expected a whole number", error=SpecError):
            transformer.impute_draws(table, count)
    assert len(transformer.impute_draws(table, np.int64(2))) == 2
    with refused("random_state", error=SpecError):
        transformer.sample(3, random_state="x")
    with refused("random_state", error=SpecError):
        tb.VAEDensity(hidden=(8,), steps=3, random_state=-1).fit(table)


def test_holes_of_a_numbered_data_frame_may_be_of_a_type_of_pandas() -> None:
    table = pd.DataFrame({0: np.arange(40.0), 1: pd.array([1, 2, None, 3] * 10, "Int64")})
    filled = tb.VAEImputer(hidden=(8,), steps=3, random_state=0).fit(table).transform(table)
    assert np.isfinite(filled).all() and (filled[:, 0] == np.arange(40.0)).all()


def test_synthetic_rows_lie_within_what_was_seen_and_less_weight_of_the_kl_lets_the_latents_carry_more() -> None:
    rng = np.random.default_rng(0)
    size = rng.gamma(1.0, 2.0, 400)
    table = pd.DataFrame(
        {"size": size, "twice": 2 * size + rng.normal(0, 0.1, 400), "kind": np.where(size > 2, "large", "small")}
    )
    rates = []
    for weight in ({}, {"beta": 0.1}, {"warmup": 1.0}):
        density = tb.VAEDensity(hidden=(32,), steps=300, latent=2, validation=0.0, random_state=0, **weight).fit(table)
        drawn = density.sample(2000)
        numbers = ["size", "twice"]
        assert (drawn[numbers].min() >= table[numbers].min() - 1e-5).all() and (
            drawn[numbers].max() <= table[numbers].max() + 1e-5
        ).all()
        found = tb.embed(density.model_, density.dataset(table))
        rates.append(0.5 * np.mean(np.sum(found.mean**2 + found.scale**2 - 1 - 2 * np.log(found.scale), axis=1)))
    assert min(rates[1:]) > 1.2 * rates[0]
    with pytest.raises(tb.SpecError, match=r"beta: expected 1 with k = 5, got 0\.1"):
        tb.VAEDensity(k=5, beta=0.1, steps=2).fit(table)
    with pytest.raises(tb.SpecError, match=r"warmup: expected 0 with k = 5, got 0\.5"):
        tb.VAEDensity(k=5, warmup=0.5, steps=2).fit(table)


def test_a_row_without_any_cell_is_learnt_from_scored_and_filled() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"size": rng.normal(5, 1, 200), "kind": rng.choice(["a", "b"], 200, p=[0.8, 0.2])})
    table.loc[[3, 50]] = [np.nan, None]
    imputer = tb.VAEImputer(hidden=(16,), steps=400, random_state=0).fit(table)
    whole = imputer.transform(table)
    assert abs(whole.loc[3, "size"] - 5) < 0.5 and whole.loc[3, "kind"] == "a"
    # log p(nothing) = 0, but for the noise of 200 importance weights p(z)/q(z|nothing).
    np.testing.assert_allclose(imputer.as_role(tb.VAEDensity).score_samples(table)[[3, 50]], 0.0, atol=0.05)


def test_holes_that_no_model_fills_are_warned_of() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"size": rng.normal(5, 1, 60), "kind": rng.choice(["a", "b"], 60), "never": [np.nan] * 60})
    table.loc[3, "size"] = np.nan
    imputer = tb.VAEImputer(hidden=(8,), steps=5, random_state=0).fit(table)
    told = "column 'never' was left out, none of its cells is known: its 60 holes stay"
    with pytest.warns(UserWarning, match=told) as wrapped:
        whole = imputer.transform(table)
    with pytest.warns(UserWarning, match=told) as plain:
        (drawn,) = imputer.impute_draws(table, 1)
    assert {warning.filename for warning in (*wrapped, *plain)} == {__file__}  # scikit-learn wraps one of the two
    for filled in (whole, drawn):
        assert filled["size"].notna().all() and filled["never"].isna().all()


def test_new_words_and_other_units_are_warned_of() -> None:
    table = pd.DataFrame({"size": np.linspace(1.5, 2.0, 60), "kind": ["a", "b"] * 30})
    density = tb.VAEDensity(hidden=(8,), steps=5, random_state=0).fit(table)
    with pytest.warns(UserWarning, match="column 'size': most numbers are beyond 1.5 … 2, which training saw"):
        density.score_samples(table.assign(size=100 * table["size"]))
    with pytest.warns(UserWarning, match="column 'kind': 1 cell, c, is nothing that training saw"):
        density.score_samples(table.assign(kind=["c", *table["kind"][1:]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        density.score_samples(table)
