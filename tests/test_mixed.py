"""Sites of several kinds in one x: densities in the user's units, distributions of columns, a model of them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import tightbound as tb
from data_checks import refused
from parts import PARTS
from tightbound.distributions import Joined, LogisticMixture, Measured, OrderedLogistic, diagonal_gaussian, log_mass
from tightbound.errors import DataError, SpecError, SupportError

SITES = tb.Sites(kind="mixed", shape=(4,), parts=PARTS, missing=True)  # category, levels, real, count


def mixture(seed: int = 0) -> LogisticMixture:
    weights, loc, raw = np.random.default_rng(seed).normal(size=(3, 4, 1)).astype(np.float32)
    return LogisticMixture(*map(jnp.asarray, (weights, 2 * loc, np.exp(raw))))


def test_the_distribution_function_is_the_integral_of_the_density() -> None:
    x = mixture()
    for upper in (-3.0, 0.0, 2.5):
        total, _ = integrate.quad(lambda t: float(jnp.exp(x.log_prob(jnp.full(1, t))[0])), -np.inf, upper, limit=200)
        assert float(x.cdf(jnp.full(1, upper))[0]) == pytest.approx(total, abs=1e-5)


def test_draws_of_the_mixture_follow_its_distribution_function() -> None:
    """Kolmogorov-Smirnov with 20,000 draws: false-alarm rate 1e-6."""
    x = mixture(1)
    draws = np.asarray(x.sample(jax.random.key(0), (20_000,)))
    assert stats.kstest(np.asarray(x.cdf(jnp.asarray(draws)))[:, 0], "uniform").pvalue > 1e-6


def test_the_tail_is_heavy() -> None:
    """Far out the density falls as the third power: eight times less at twice the distance."""
    near, far = (float(mixture().log_prob(jnp.full(1, t))[0]) for t in (1e4, 2e4))
    assert near - far == pytest.approx(3 * np.log(2), rel=1e-3)


def test_the_density_is_right_from_the_middle_to_the_end_of_single_precision() -> None:
    x = mixture(2)
    weights, loc, scale = (np.asarray(given, np.float64)[:, 0] for given in (x.log_weights, x.loc, x.scale))
    for t in np.float32([0.0, loc[0], -3.0, 40.0, -200.0, 1e6, -1e20, 1e37]):
        y = (np.float64(t) - loc) / scale
        bells = stats.logistic.logpdf(y[:-1])
        expected = np.logaddexp.reduce(weights + np.append(bells, -3 * np.log(np.hypot(y[-1], 2**0.5))) - np.log(scale))
        value, slope = jax.value_and_grad(lambda t: x.log_prob(t.reshape(1))[0])(jnp.asarray(t))
        assert float(value) == pytest.approx(expected, rel=1e-6, abs=1e-6) and np.isfinite(slope)


def test_ordered_levels_are_those_of_the_cumulative_probabilities() -> None:
    location, cuts = jnp.array([0.3, -1.0]), jnp.array([[-1.0, 0.5, 2.0], [0.0, jnp.inf, jnp.inf]])
    x = OrderedLogistic(location, cuts)
    below = stats.logistic.cdf(np.concatenate([cuts, np.full((2, 1), np.inf)], axis=1) - np.asarray(location)[:, None])
    expected = np.diff(below, axis=1, prepend=0.0)
    with np.errstate(divide="ignore"):
        for level in range(4):
            probability = np.exp(x.log_prob(jnp.full(2, float(level))))
            sizes = np.array([level < 4, level < 2])
            np.testing.assert_allclose(probability[sizes], expected[sizes, level], rtol=1e-5)
    np.testing.assert_allclose(x.mean, expected @ np.arange(4), rtol=1e-5)


def test_one_level_can_be_nearly_certain_whatever_the_cuts() -> None:
    head = tb.Ordinal().build(tb.Sites(kind="levels", shape=(1,), levels=16))
    cuts = np.asarray(head(jnp.zeros(head.parameter_shape)).cuts)[0]
    between = jnp.array([[cuts[4:6].mean()], [-20.0]])  # a location, and a scale near its floor
    p = np.exp([float(head(between).log_prob(jnp.array([float(level)]))[0]) for level in range(16)])
    assert p[5] > 0.99 and p.sum() == pytest.approx(1.0, abs=1e-5)


def test_the_density_is_per_unit_of_what_the_user_measured() -> None:
    """x = (log u − 1)/2 has log |dx/du| = −log 2u = −log 2 − 1 − 2x: the density of u integrates to 1."""
    units = tb.Part(columns=(0,), sites=tb.Sites(kind="real", shape=(1,)), offset=(-np.log(2) - 1,), slope=(-2.0,))
    sites = tb.Sites(kind="mixed", shape=(1,), parts=(units,))
    head = tb.Columns().build(sites)
    p = head(jax.random.normal(jax.random.key(0), head.parameter_shape))
    u = np.exp(np.linspace(-60, 60, 200_001))
    density = np.exp(
        np.asarray(jax.vmap(p.log_prob)(jnp.asarray(((np.log(u) - 1) / 2)[:, None], jnp.float32)))[:, 0], dtype=np.float64
    )
    assert np.trapezoid(density * u, np.log(u)) == pytest.approx(1.0, abs=1e-3)


def test_joined_distributions_keep_the_order_of_the_sites() -> None:
    first, second = diagonal_gaussian(jnp.array([1.0, 2.0]), jnp.ones(2)).base_dist, mixture()
    joined = Joined((first, second), (2, 0, 1))
    x = jnp.array([5.0, 6.0, 7.0])  # the mixture's site first, then those of the first part
    expected = [second.log_prob(x[:1])[0], *first.log_prob(x[1:])]
    np.testing.assert_allclose(joined.log_prob(x), expected, rtol=1e-6)
    np.testing.assert_allclose(joined.mean, [second.mean[0], 1.0, 2.0], rtol=1e-6)


def smooth(family: str) -> object:
    """A mixture, or a normal distribution, of one site."""
    return mixture() if family == "mixture" else diagonal_gaussian(jnp.array([0.5]), jnp.array([0.8])).base_dist


@pytest.mark.parametrize("family", ["mixture", "normal"])
@pytest.mark.parametrize("width", [1e-4, 0.05, 0.7, 4.0, 60.0])
def test_the_probability_of_an_interval_is_the_integral_of_the_density(family: str, width: float) -> None:
    """Far out, too, where the distribution function is 0 or 1 to single precision, and for intervals wide and narrow."""
    x = smooth(family)
    for middle in (-300.0, -9.0, -1.0, 0.3, 2.5, 7.0, 1e4):
        points = middle + width * np.linspace(-0.5, 0.5, 4001)
        log_density = np.asarray(jax.vmap(x.log_prob)(jnp.asarray(points[:, None], jnp.float32)), np.float64)[:, 0]
        if family == "normal":  # in double precision: single has no such numbers
            log_density = stats.norm.logpdf(points, 0.5, np.float64(np.float32(0.8)))
        largest = log_density.max()
        expected = largest + np.log(integrate.simpson(np.exp(log_density - largest), x=points - middle))
        found = float(log_mass(x, jnp.full(1, middle), jnp.full(1, width))[0])
        assert found == pytest.approx(expected, rel=2e-5, abs=1e-3), (middle, found, expected)


ATOMS = (0.0, 2.5)


def measured(width: float, atoms: tuple[float, ...], seed: int = 0) -> Measured:
    part = tb.Part(columns=(0,), sites=tb.Sites(kind="real", shape=(1,)), width=(width,), atoms=(atoms,))
    head = tb.Columns().build(tb.Sites(kind="mixed", shape=(1,), parts=(part,)))
    return head(jax.random.normal(jax.random.key(seed), head.parameter_shape)).parts[0]


@pytest.mark.parametrize("width", [0.0, 0.5])
@pytest.mark.parametrize("atoms", [(), ATOMS])
def test_atoms_and_rounded_numbers_have_probabilities_that_sum_to_one(width: float, atoms: tuple[float, ...]) -> None:
    x = measured(width, atoms)
    grid = np.arange(-4e4, 4e4 + 1) * 0.5 if width else np.sinh(np.linspace(-14, 14, 400_001)) + 1e-3
    mass = np.exp(np.asarray(jax.vmap(x.log_prob)(jnp.asarray(grid[:, None], jnp.float32)), np.float64))[:, 0]
    at_atoms = np.exp(np.asarray(jax.vmap(x.log_prob)(jnp.array([[atom] for atom in atoms]).reshape(-1, 1)), np.float64))
    total = mass.sum() if width else np.trapezoid(mass, grid) + at_atoms.sum()
    assert total == pytest.approx(1.0, abs=2e-3)
    if atoms:
        assert (at_atoms[:, 0] >= np.exp(np.asarray(x.log_weights, np.float64))[0, 1:] * (1 - 1e-6)).all()


@pytest.mark.parametrize("atoms", [(), ATOMS])
def test_draws_are_at_atoms_as_often_as_stated_and_follow_the_smooth_part_elsewhere(atoms: tuple[float, ...]) -> None:
    """20,000 draws: five standard errors for every atom, Kolmogorov-Smirnov at 1e-6 for the rest."""
    x = measured(0.5, atoms)
    drawn = np.asarray(x.sample(jax.random.key(1), (20_000,)))[:, 0]
    weights = np.exp(np.asarray(x.log_weights))[0]
    for atom, weight in zip(atoms, weights[1:], strict=True):
        assert abs(np.mean(drawn == np.float32(atom)) - weight) < 5 * np.sqrt(weight / 20_000)
    rest = drawn[~np.isin(drawn, np.array(atoms, np.float32))]
    assert stats.kstest(np.asarray(x.smooth.cdf(jnp.asarray(rest[:, None])))[:, 0], "uniform").pvalue > 1e-6
    expected = weights[0] * float(x.smooth.mean[0]) + float(np.dot(weights[1:], atoms))
    assert float(x.mean[0]) == pytest.approx(expected, rel=1e-5)


def test_atoms_have_marks_of_their_own_and_no_part_in_the_statistics() -> None:
    part = tb.Part(columns=(0, 1), sites=tb.Sites(kind="real", shape=(2,)), atoms=((0.0,), (1.0, 7.0)))
    sites = tb.Sites(kind="mixed", shape=(2,), parts=(part,), missing=True)
    x = np.array([[0.0, 7.0], [2.0, 3.0], [4.0, 1.0], [0.0, 5.0]])
    data = tb.Dataset(x, sites, observed=np.array([[True, True], [True, True], [True, True], [False, True]]))
    np.testing.assert_allclose(data.statistics().mean, [3.0, 4.0])
    seen = [np.asarray(sites.features(jnp.asarray(row), jnp.asarray(mask), *data.statistics()[:2])) for row, mask in zip(
        x.astype(np.float32), data.observed, strict=True
    )]  # fmt: skip
    marks = np.array(seen)[:, 2:6]
    np.testing.assert_array_equal(marks, [[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])


def test_gradients_stay_finite_far_out_and_with_atoms() -> None:
    for width in (0.0, 0.5):
        part = tb.Part(columns=(0,), sites=tb.Sites(kind="real", shape=(1,)), width=(width,), atoms=(ATOMS,))
        head = tb.Columns().build(tb.Sites(kind="mixed", shape=(1,), parts=(part,)))
        for x in (0.0, 1e-6, -3e4, 1e6):
            slope = jax.grad(lambda h, x=x, head=head: jnp.sum(head(h).log_prob(jnp.full(1, x))))
            for h in (jnp.zeros(head.parameter_shape), 30.0 * jax.random.normal(jax.random.key(2), head.parameter_shape)):
                assert np.isfinite(np.asarray(slope(h))).all(), (width, x)


def test_statistics_are_those_of_each_kind() -> None:
    x = np.array([[0, 1, -1.5, 3], [2, 3, 2.5, 5], [1, 2, 0.5, 4.0]])
    mean, scale, _ = tb.Dataset(x, SITES).statistics()
    np.testing.assert_allclose(mean, [0, 2, 0.5, 4])
    assert scale[0] == 1 and scale[2] == pytest.approx(x[:, 2].std())


@pytest.mark.parametrize(
    ("cell", "value", "words"),
    [
        ((0, 0), 3, "column 0 has 3"),
        ((1, 1), 4, "column 1 has 4"),
        ((2, 3), -1, "column 3 has -1"),
        ((0, 3), 0.5, "column 3 has 0.5"),
    ],
)
def test_values_that_a_column_cannot_take_are_named(cell: tuple[int, int], value: float, words: str) -> None:
    x = np.zeros((3, 4))
    x[cell] = value
    with refused(words, error=SupportError):
        tb.Dataset(x, SITES)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"parts": PARTS[:3]}, "expected each of 0…3 once"),
        ({"parts": ()}, "have parts"),
        ({"parts": (*PARTS[:3], PARTS[0])}, "expected each of 0…3 once"),
        ({"kind": "real"}, "no others do"),
        ({"parts": (3,)}, "parts.0"),
        ({"parts": ({"columns": 3, "sites": {"kind": "real", "shape": [1]}},)}, "parts.0.columns"),
    ],
)
def test_parts_that_do_not_make_up_x_are_refused(fields: dict[str, object], words: str) -> None:
    with refused(words, error=SpecError):
        SITES.replace(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sites": SITES}, "sites of one kind"),
        ({"columns": (0, 1)}, "expected 2 plain sites"),
        ({"offset": (1.0, 2.0)}, "offset, slope, width and atoms for each"),
        (
            {"sites": tb.Sites(kind="count", shape=(1,)), "offset": (1.0,), "slope": (0.0,)},
            "only real sites have units, widths and atoms",
        ),
        ({"sites": tb.Sites(kind="real", shape=(1,), missing=True)}, "plain sites"),
        ({"width": (-1.0,)}, "at least 0"),
        ({"width": (0.5,), "offset": (1.0,)}, "a probability and no density"),
        (
            {
                "columns": (0, 1),
                "sites": tb.Sites(kind="real", shape=(2,)),
                "width": (0.5, 0.0),
                "offset": (0.0, 0.0),
                "slope": (0.0, 0.0),
                "atoms": ((), ()),
            },
            "all rounded or none",
        ),
        ({"sites": tb.Sites(kind="count", shape=(1,)), "atoms": ((1.0,),)}, "only real sites have units"),
    ],
)
def test_a_part_is_of_one_kind_and_size(fields: dict[str, object], words: str) -> None:
    with refused(words, error=SpecError):
        tb.Part(**{"columns": (0,), "sites": tb.Sites(kind="real", shape=(1,)), **fields})


def test_levels_may_differ_between_sites() -> None:
    sites = tb.Sites(kind="category", shape=(3,), levels=5, sizes=(2, 5, 3))
    tb.Dataset(np.array([[1, 4, 2]]), sites)
    with refused("column 0 has 2", error=SupportError):
        tb.Dataset(np.array([[2, 4, 2]]), sites)
    with refused("within 1…5", error=SpecError):
        sites.replace(sizes=(2, 6, 3))
    p = tb.Categorical().build(sites)(jnp.ones((5, 3)))
    np.testing.assert_allclose(np.asarray(p.probs).sum(axis=1), 1.0, rtol=1e-6)
    assert not np.asarray(p.probs)[0, 2:].any() and not np.asarray(p.probs)[2, 3:].any()


def test_mixed_sites_cannot_be_told_from_an_array() -> None:
    with refused("build a Dataset with its sites", error=DataError):
        tb.from_arrays(np.zeros((3, 4)), kind="mixed")


def two_clusters(rows: int = 400, seed: int = 0) -> tb.Dataset:
    """Rows of four columns that all follow one hidden bit, a fifth of the cells missing."""
    rng = np.random.default_rng(seed)
    bit = rng.integers(0, 2, rows)
    x = np.stack([
        np.where(rng.random(rows) < 0.05, 2, bit), np.where(bit, 3, rng.integers(0, 2, rows)),
        rng.normal(np.where(bit, 2.0, -2.0), 0.5), rng.poisson(np.where(bit, 20.0, 2.0)),
    ], axis=1)  # fmt: skip
    return tb.Dataset(x, SITES, observed=rng.random(x.shape) < 0.8)


def test_a_model_of_mixed_sites_learns_what_they_share_and_comes_back_from_disk(tmp_path: Path) -> None:
    data = two_clusters()
    small = tb.MLP(hidden=(16,))
    spec = tb.VAE(sites=SITES, latent=2, encoder=small, decoder=small, likelihood=tb.Columns())
    plan = tb.Plan(steps=600, batch_size=64, learning_rate=0.01)
    fitted = tb.fit(data, spec, plan=plan, draws=50, out=tmp_path / "run", page=False)
    # Only the hidden bit is shared: of the first column alone the model must tell the others.
    rows = np.array([[0, 0, 0, 0], [1, 0, 0, 0.0]])
    known = tb.Dataset(rows, SITES, observed=np.array([[True, False, False, False]] * 2))
    made = tb.reconstruct(fitted.model, known)
    assert made[0, 3] < 10 < made[1, 3] and made[0, 2] < 0 < made[1, 2]
    again = tb.load_model(tmp_path / "run")
    np.testing.assert_array_equal(tb.reconstruct(again, known), made)
    assert fitted.model.measure == "mixed" and "bits_per_dimension" not in fitted.summary["elbo"]
