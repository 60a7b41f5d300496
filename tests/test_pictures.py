"""The picture sheets: they show what they say, for every kind of data, whole or not at all."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tightbound.errors import StoreError
from tightbound.pictures import (
    PosteriorPlane,
    Sheets,
    draw,
    image_grid,
    latent_map,
    loss_curves,
    marginals,
    picture_map,
    posterior_map,
    region_levels,
    save,
    sheet,
    tiles,
)
from tightbound.pictures import plane as plane_of_means
from tightbound.schema import Sites

RECORDS = [
    {
        "step": step, "bound": -90.0 - 30 / step, "reconstruction": 80 + 300 / step, "kl": 10.0,
        "beta": min(1, step / 20), "validation_elbo": -95.0 if step % 5 == 0 else None,
    }
    for step in range(1, 41)
]  # fmt: skip


def sheets(sites: Sites, *, count: int = 30, latent: int = 3, labels: np.ndarray | None = None, **changes: object) -> Sheets:
    noise = np.random.default_rng(0)
    top = {"binary": 2, "levels": sites.levels, "category": sites.levels, "count": 50}.get(sites.kind)
    shape = (count, sites.count)
    rows = noise.integers(0, top, shape) if top else noise.normal(size=shape)
    made = Sheets(
        sites=sites, rows=rows, observed=None, labels=labels, names=(), reconstructions=rows * 0.9,
        means=noise.normal(size=(count, latent)), mean_labels=labels, samples=rows[::-1], decoded=rows * 0.8,
        records=RECORDS, part="test",
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


IMAGE = Sites(kind="levels", shape=(8, 8, 1), levels=17)
KINDS = {
    "grey": sheets(IMAGE, labels=np.arange(30) % 10),
    "colour": sheets(Sites(kind="levels", shape=(5, 7, 3), levels=256)),
    "bits, two channels": sheets(Sites(kind="binary", shape=(4, 4, 2)), latent=1),
    "one image": sheets(IMAGE, count=1),
    "real": sheets(Sites(kind="real", shape=(3,)), latent=2, names=("a", "b", "c"), labels=np.array(["x", "y", "z"] * 10)),
    "many columns": sheets(Sites(kind="count", shape=(40,))),
    "one row": sheets(Sites(kind="real", shape=(2,)), count=1),
    "categories": sheets(Sites(kind="category", shape=(2,), levels=4), labels=np.linspace(0, 1, 30)),
    "constant": sheets(Sites(kind="real", shape=(2,)), rows=np.zeros((30, 2)), samples=np.zeros((30, 2))),
    "no records": sheets(IMAGE, records=[]),
}


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.filterwarnings("error")
def test_every_kind_of_data_gets_its_four_sheets(tmp_path: Path, kind: str) -> None:
    paths = draw(KINDS[kind], tmp_path)
    assert [path.name for path in paths] == ["reconstructions.png", "samples.png", "latents.png", "training.png"]
    for path in paths:
        with Image.open(path) as image:
            assert min(image.size) > 100 and len(image.convert("L").histogram()) > 1


def test_missing_cells_are_left_out(tmp_path: Path) -> None:
    data = sheets(Sites(kind="real", shape=(2,), missing=True))
    observed = np.ones((30, 2), bool)
    observed[:, 1] = False
    draw(dataclasses.replace(data, observed=observed, rows=np.where(observed, data.rows, 1e30)), tmp_path)
    panels = marginals(dataclasses.replace(data, observed=observed, rows=np.where(observed, data.rows, 1e30))).axes
    assert all(abs(limit) < 10 for limit in panels[0].get_xlim())


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = (draw(KINDS["grey"], tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_levels_run_from_black_to_white_and_stay_where_they_are() -> None:
    rows = np.zeros((2, 64))
    rows[1, 0], rows[1, 63] = 16, 8
    pictures = tiles(rows, IMAGE)
    assert pictures.shape == (2, 8, 8, 3)
    assert (pictures[1, 0, 0] == 1).all() and (pictures[1, 7, 7] == 0.5).all() and pictures.sum() == 4.5


def test_a_grid_puts_pictures_in_rows_on_white() -> None:
    black = np.zeros((3, 56, 56, 3))
    grid = image_grid(black, 2, gap=4)
    assert grid.shape == (116, 116, 3)
    assert (grid[:56, :56] == 0).all() and (grid[:, 56:60] == 1).all() and (grid[60:, 60:] == 1).all()


def test_axes_say_their_units() -> None:
    left, right, beta = loss_curves(KINDS["grey"]).axes
    assert "nats per image" in left.get_ylabel() and right.get_ylabel() == "nats per image"
    assert "β" in beta.get_ylabel() and left.get_xlabel() == "step"
    plane = latent_map(KINDS["grey"]).axes[0]
    assert "of 3 latents" in plane.get_xlabel() and "% of the variance" in plane.get_xlabel()
    assert latent_map(KINDS["real"]).axes[0].get_xlabel() == "latent 0"


def test_two_latents_are_shown_as_they_are() -> None:
    data = sheets(IMAGE, latent=2)
    points = latent_map(data).axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points, data.means)


def test_a_map_is_not_mirrored_by_the_sign_of_its_directions() -> None:
    means = np.random.default_rng(0).normal(size=(50, 4)) * [3, 2, 1, 1]
    one, other = plane_of_means(means), plane_of_means(means[::-1] * 1.0)
    np.testing.assert_allclose(one.points, other.points[::-1], atol=1e-9)
    assert (one.axes[[0, 1], np.abs(one.axes).argmax(axis=1)] > 0).all()
    np.testing.assert_allclose(one.middle + one.points @ one.axes, one.middle + (means - one.middle) @ one.axes.T @ one.axes)


def test_pictures_on_a_map_stand_where_their_rows_are() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (4000, 2))
    shades = np.broadcast_to((points[:, 0] > 0)[:, None, None, None], (4000, 8, 8, 3)).astype(float)
    figure = picture_map(points, ("a", "b"), 1.0, lambda rows: shades[rows])
    (image,) = figure.axes[0].images
    drawn = np.asarray(image.get_array())
    left, right = np.split(drawn[:, : drawn.shape[1] // 2 * 2], 2, axis=1)
    assert (left == 0).mean() > 0.7 and (right == 1).all()
    low, high, bottom, top = image.get_extent()
    assert -1 <= low < -0.95 < 0.95 < high <= 1 and -1 <= bottom < -0.95 < 0.95 < top <= 1


def test_a_sheet_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        save(sheet(np.zeros((1, 64)), IMAGE, 1), tmp_path / "file" / "x.png")


def plane(**changes: object) -> PosteriorPlane:
    """A posterior with two modes, three tenths of its mass in the right one, and a q that covers the left one."""
    axes = (np.linspace(-6, 7, 261), np.linspace(-4, 4, 161))
    first, second = np.meshgrid(*axes, indexing="ij")
    density = 0.7 * np.exp(-0.5 * ((first + 2) ** 2 + second**2)) + 0.3 * np.exp(-0.5 * ((first - 3) ** 2 + second**2))
    made = PosteriorPlane(axes, np.log(density + 1e-300), np.array([-2.0, 0.0]), np.eye(2), -10.0, -10.5)
    return dataclasses.replace(made, **changes)


def test_regions_hold_their_mass() -> None:
    density = np.exp(plane().log_density)
    for mass, level in zip((0.5, 0.9, 0.99), region_levels(plane().log_density, (0.5, 0.9, 0.99)), strict=True):
        assert density[plane().log_density >= level].sum() / density.sum() == pytest.approx(mass, abs=2e-3)
    gaussian = -0.5 * np.linspace(-8, 8, 321)[:, None] ** 2 - 0.5 * np.linspace(-8, 8, 321) ** 2
    # In the plane the region of mass m of a standard Gaussian ends where −½ r² = log(1 − m).
    np.testing.assert_allclose(region_levels(gaussian, (0.5, 0.99)), np.log([0.5, 0.01]), atol=0.02)


def test_a_map_of_a_posterior_shows_both_distributions_and_their_distance() -> None:
    covariance = np.array([[0.5, 0.3], [0.3, 0.4]])
    axes = posterior_map(plane(covariance=covariance, name="row 7")).axes[0]
    assert axes.get_title(loc="left").splitlines() == [
        "row 7", "log p(x) = −10.00 nats", "ELBO = −10.50 nats", "KL(q(z | x) ‖ p(z | x)) = 0.50 nats",
    ]  # fmt: skip
    for line, mass in zip(axes.lines, (0.5, 0.9, 0.99), strict=True):
        away = line.get_xydata() - plane().mean
        distance = np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance), away)
        np.testing.assert_allclose(np.exp(-0.5 * distance), 1 - mass, rtol=1e-6)
    left, right = axes.get_xlim()
    assert left < -2 and right > 3, "both modes are inside the picture"
    widest = axes.collections[0].get_paths()[0]
    assert widest.contains_point((3.0, 0.0)) and not widest.contains_point((0.5, 3.5)), "across is the first latent"


@pytest.mark.filterwarnings("error")
def test_maps_of_several_posteriors_stand_side_by_side(tmp_path: Path) -> None:
    whole = plane(draws=np.zeros((5, 2)), picture=np.zeros((8, 8, 3)))
    one, three = (save(posterior_map(*[whole] * count), tmp_path / f"{count}.png") for count in (1, 3))
    with Image.open(one) as single, Image.open(three) as triple:
        assert triple.width > 2 * single.width and len(np.unique(np.asarray(triple.convert("L")))) > 20
