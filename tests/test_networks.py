"""Networks: the formulas they promise, shapes, initial weights, and convolutions against XLA's own."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from pydantic import TypeAdapter

import tightbound as tb
from tightbound.errors import SpecError
from tightbound.networks import Network, convolution
from tightbound.networks.conv import ImageDecoder, ImageEncoder
from tightbound.networks.convolution import convolve, convolve_transposed, correlate
from tightbound.networks.layers import ACTIVATIONS
from tightbound.spec import Custom

KEY = jax.random.key(7)
INNER, OUTER = 5, 3
CLOSE = {"rtol": 2e-4, "atol": 2e-4}


def normal(name: str, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.fold_in(KEY, sum(name.encode())), shape)


def arrays(network: Any) -> list[jax.Array]:
    return jax.tree.leaves(eqx.filter(network, eqx.is_array))


def assert_close(left: Any, right: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), left, right)


# --- convolutions against XLA's


@pytest.fixture(params=[10**9, 4000], ids=["one block", "many blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "PATCH_BYTES", request.param)
    monkeypatch.setattr(convolution, "SUM_BYTES", request.param)


@pytest.fixture(params=[10**9, 1], ids=["patches", "sums"])
def channels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "MANY_CHANNELS", request.param)


def images() -> tuple[jax.Array, jax.Array, jax.Array]:
    """x (6, 6, 12, OUTER), kernel, y (6, 3, 6, INNER): one odd side, one even."""
    return normal("x", 6, 6, 12, OUTER), normal("k", INNER, 16 * OUTER), normal("y", 6, 3, 6, INNER)


def taps(kernel: jax.Array) -> jax.Array:
    return jnp.moveaxis(kernel.reshape(INNER, 4, 4, OUTER), 0, 3)


def by_xla(x: jax.Array, kernel: jax.Array) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, taps(kernel), (2, 2), ((1, 1), (1, 1)), dimension_numbers=layout)


def per_example(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return jax.vmap(function, in_axes=(0, None))


@pytest.mark.usefixtures("blocks", "channels")
def test_the_three_products_are_those_of_xla() -> None:
    x, kernel, y = images()
    transposed = lax.conv_transpose(y, taps(kernel), (2, 2), "SAME", transpose_kernel=True)
    with_respect_to_kernel = jax.linear_transpose(lambda k: by_xla(x, k), kernel)(y)[0]
    # A new function in every case: the compiled one would keep the size of its blocks.
    ours = jax.jit(lambda x, k, y: (per_example(convolve)(x, k), per_example(convolve_transposed)(y, k), correlate(x, y)))
    assert_close(ours(x, kernel, y), (by_xla(x, kernel), transposed, with_respect_to_kernel))


def test_devices_other_than_processors_compute_the_same() -> None:
    x, kernel, y = images()
    assert_close(convolution._convolve_by_xla(x, kernel), convolve(x, kernel))
    assert_close(convolution._convolve_transposed_by_xla(y, kernel), convolve_transposed(y, kernel))
    assert_close(convolution._correlate_by_xla(x, y), correlate(x, y))


def score(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A number that is not linear in anything, so that derivatives of every order matter."""
    weights = images()[2]
    return lambda x, kernel: jnp.sum(jnp.tanh(function(x, kernel)) * weights)


@pytest.mark.usefixtures("blocks", "channels")
def test_first_and_second_derivatives_are_those_of_xla() -> None:
    x, kernel, _ = images()

    def derivatives(function: Callable[..., jax.Array]) -> Any:
        gradient = jax.grad(score(function), (0, 1))
        return jax.jit(lambda *at: jax.jvp(gradient, at, at))(x, kernel)

    assert_close(derivatives(per_example(convolve)), derivatives(by_xla))


def test_derivatives_of_the_transposed_convolution_are_those_of_xla() -> None:
    x, kernel, y = images()

    def xla(y: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_transpose(y, taps(kernel), (2, 2), "SAME", transpose_kernel=True)

    def derivatives(function: Callable[..., jax.Array]) -> Any:
        gradient = jax.grad(lambda y, k: jnp.sum(jnp.tanh(function(y, k)) * x), (0, 1))
        return jax.jit(lambda *at: jax.jvp(gradient, at, at))(y, kernel)

    assert_close(derivatives(per_example(convolve_transposed)), derivatives(xla))


def test_an_ensemble_of_kernels_is_its_members() -> None:
    x, kernel, y = images()
    kernels = jnp.stack([kernel, -2.0 * kernel])

    @jax.jit
    def ensemble(kernels: jax.Array) -> Any:
        return jax.vmap(lambda k: (convolve(x, k), convolve_transposed(y, k), jax.grad(score(convolve), 1)(x, k)))(kernels)

    members = [(convolve(x, k), convolve_transposed(y, k), jax.grad(score(convolve), 1)(x, k)) for k in kernels]
    assert_close(ensemble(kernels), jax.tree.map(lambda *parts: jnp.stack(parts), *members))


def test_gradients_per_example_add_up_to_that_of_the_batch() -> None:
    x, kernel, y = images()

    def gradient(x: jax.Array, y: jax.Array) -> jax.Array:
        return jax.grad(lambda k: jnp.sum(convolve(x, k) * y))(kernel)

    assert_close(jax.jit(jax.vmap(gradient))(x, y).sum(0), correlate(x, y))


def test_the_gradient_neither_keeps_the_patches_nor_a_kernel_per_example() -> None:
    x, kernel = jnp.ones((64, 32, 32, 8)), jnp.ones((8, 128))

    def loss(kernel: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(jax.vmap(lambda x: convolve(x, kernel))(x)))

    gradient = jax.jit(jax.grad(loss))
    assert str(jax.make_jaxpr(gradient)(kernel, x)).count("correlate_4x4") == 1
    patches = 64 * 16 * 16 * 128 * 4
    assert gradient.lower(kernel, x).compile().memory_analysis().temp_size_in_bytes < patches


# --- convolutional networks


MIXER = tb.Mixer(patch=4, width=5, depth=2, across=3, within=6, hidden=(9,))


def image_pair(shape: tuple[int, int, int], network: Any = None, **spec: Any) -> tuple[ImageEncoder, ImageDecoder]:
    network = network or tb.Convolutional(channels=(4, 6), **spec)
    return network.build(shape, (7,), key=KEY), network.build((3,), (2, *shape), key=KEY)


@pytest.mark.parametrize("spec", [{}, {"gated": True}, {"hidden": (9, 8)}, {"network": MIXER}], ids=str)
@pytest.mark.parametrize("shape", [(4, 4, 1), (9, 6, 3)], ids=str)
def test_images_of_any_size_pass_both_ways(shape: tuple[int, int, int], spec: dict[str, Any]) -> None:
    encoder, decoder = image_pair(shape, **spec)
    assert jax.eval_shape(encoder, normal("image", *shape)).shape == (7,)
    assert jax.eval_shape(decoder, normal("z", 3)).shape == (2, *shape)


@pytest.mark.parametrize("spec", [{"gated": True, "hidden": (9,)}, {"network": MIXER}], ids=str)
def test_every_parameter_of_both_sides_gets_a_gradient(spec: dict[str, Any]) -> None:
    networks = image_pair((9, 6, 3), **spec)
    x, z = normal("image", 5, 9, 6, 3), normal("z", 5, 3)

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(networks: Any) -> jax.Array:
        return jnp.sum(jax.vmap(networks[0])(x) ** 2) + jnp.sum(jax.vmap(networks[1])(z) ** 2)

    assert all(np.all(np.isfinite(g)) and np.any(g != 0) for g in arrays(gradient(networks)))


@pytest.mark.parametrize("network", [None, MIXER], ids=["convolutional", "mixer"])
def test_sides_that_do_not_divide_are_padded_with_zeros_at_the_far_edges(network: Any) -> None:
    encoder, _ = image_pair((9, 6, 3), network)
    x = normal("image", 9, 6, 3)
    assert_close(encoder(x), encoder(jnp.pad(x, ((0, 3), (0, 2), (0, 0)))))


@pytest.mark.parametrize("network", [tb.Convolutional(channels=(4, 6)), MIXER], ids=lambda spec: spec.kind)
def test_the_decoder_crops_at_the_far_edges(network: Any) -> None:
    odd, even = (network.build((3,), (2, *shape), key=KEY) for shape in ((9, 6, 1), (12, 8, 1)))
    z = normal("z", 3)
    assert_close(odd(z), even(z)[:, :9, :6])


def test_the_decoder_keeps_parameters_and_channels_apart() -> None:
    _, decoder = image_pair((4, 4, 3))
    named = jnp.arange(6.0)
    decoder = eqx.tree_at(lambda d: (d.output.kernel, d.output.bias), decoder, (0 * decoder.output.kernel, named))
    assert_close(decoder(normal("z", 3))[:, 1, 2], named.reshape(2, 3))


def test_a_mixer_sees_patches_and_puts_them_back_where_they_were() -> None:
    """With identities for its maps and no block the decoder inverts the encoder, but for the lengths of patches."""
    shape, network = (8, 12, 2), tb.Mixer(patch=4, width=32, across=3, within=6)
    encoder, decoder = network.build(shape, (6 * 32,), key=KEY), network.build((6 * 32,), (1, *shape), key=KEY)
    whole, patch = jnp.eye(6 * 32), jnp.eye(32)
    encoder = eqx.tree_at(lambda n: (n.patches.weight, n.output.output.weight, n.blocks), encoder, (patch, whole, ()))
    decoder = eqx.tree_at(lambda n: (n.patches.weight, n.input.output.weight, n.blocks), decoder, (patch, whole, ()))
    x = normal("image", *shape)
    assert_close(encoder(x).reshape(6, 4, 4, 2)[4], x[4:, 4:8])
    lengths = jnp.sqrt(jnp.mean(encoder(x).reshape(6, 32) ** 2, axis=1)).reshape(2, 1, 3, 1, 1)
    assert_close(decoder(encoder(x))[0], (x.reshape(2, 4, 3, 4, 2) / lengths).reshape(shape))


def test_a_block_of_a_mixer_is_the_formula() -> None:
    block = MIXER.build((8, 8, 1), (7,), key=KEY).blocks[0]
    h = normal("h", 4, 5)

    def branch(part: Any, y: jax.Array) -> jax.Array:
        return affine(part.output, jax.nn.silu(affine(part.hidden.linear, y)))

    def norm(h: jax.Array) -> jax.Array:
        return h / jnp.sqrt(jnp.mean(h**2, axis=1, keepdims=True))

    after = h + branch(block.across, norm(h).T).T
    assert_close(block(h), after + branch(block.within, norm(after)))


def test_one_convolution_is_the_formula() -> None:
    network = tb.Convolutional(channels=(INNER,), activation="tanh").build((6, 12, OUTER), (2,), key=KEY)
    kernel, bias = normal("k", INNER, 16 * OUTER), normal("b", INNER)
    network = eqx.tree_at(lambda n: (n.convolutions[0].kernel, n.convolutions[0].bias), network, (kernel, bias))
    x = images()[0][0]
    features = jnp.tanh(by_xla(x[None], kernel)[0] + bias).reshape(-1)
    assert_close(network(x), features @ network.output.weight + network.output.bias)


REFUSED = {
    "a table": (tb.Convolutional(), (5,), (3,), "for rows of a table use MLP"),
    "a table to decode": (tb.Convolutional(), (5,), (2, 7), "for rows of a table use MLP"),
    "a table to mix": (MIXER, (5,), (3,), "for rows of a table use MLP"),
    "too small": (tb.Convolutional(channels=(2, 2, 2)), (9, 7, 1), (3,), "at least 8×8 pixels, got 9×7"),
    "too small to decode": (tb.Convolutional(), (3,), (1, 3, 8, 1), "at least 4×4 pixels, got 3×8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_impossible_shapes_are_refused_with_advice(name: str) -> None:
    spec, in_shape, out_shape, message = REFUSED[name]
    with pytest.raises(SpecError, match=message):
        spec.build(in_shape, out_shape, key=KEY)


# --- multilayer perceptrons


def perceptron(**spec: Any) -> Any:
    """A network from (3, 2) to (2, 5), with biases that are not zero."""
    network = tb.MLP(**spec).build((3, 2), (2, 5), key=KEY)
    return jax.tree.map(lambda a: a + 0.1 if eqx.is_array(a) and a.ndim == 1 else a, network)


def affine(layer: Any, x: jax.Array) -> jax.Array:
    return x @ layer.weight + layer.bias


def test_no_hidden_layer_is_the_affine_map() -> None:
    network, x = perceptron(hidden=()), normal("x", 3, 2)
    assert len(arrays(network)) == 2
    assert_close(network(x), affine(network.output, x.reshape(6)).reshape(2, 5))


def test_gated_units_are_the_formula() -> None:
    network, x = perceptron(hidden=(4,), gated=True), normal("x", 3, 2)
    value, gate = jnp.split(affine(network.hidden[0].linear, x.reshape(6)), 2)
    assert_close(network(x), affine(network.output, value / (1.0 + jnp.exp(-gate))).reshape(2, 5))


def test_residual_adds_where_the_width_stays() -> None:
    network, x = perceptron(hidden=(4, 4), residual=True, activation="tanh"), normal("x", 3, 2)
    first, second = (unit.linear for unit in network.hidden)
    h = jnp.tanh(affine(first, x.reshape(6)))
    assert_close(network(x), affine(network.output, h + jnp.tanh(affine(second, h))).reshape(2, 5))


@pytest.mark.parametrize("spec", [tb.MLP, tb.Convolutional])
def test_gated_units_and_an_activation_are_refused_together(spec: type) -> None:
    with pytest.raises(SpecError, match="leave out one of activation and gated"):
        spec(gated=True, activation="tanh")


def test_a_batch_makes_one_product_per_layer() -> None:
    network = perceptron(hidden=(4, 4))
    jaxpr = jax.make_jaxpr(jax.vmap(network))(normal("x", 9, 3, 2))
    products = [equation for equation in jaxpr.eqns if equation.primitive.name == "dot_general"]
    assert [tuple(p.outvars[0].aval.shape) for p in products] == [(9, 4), (9, 4), (9, 10)]
    assert "transpose" not in str(jaxpr)


# --- initial weights


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_initial_weights_keep_signals_alive(activation: str) -> None:
    network = tb.MLP(hidden=(200,) * 6, activation=activation).build((200,), (200,), key=KEY)
    # Activations that do not vanish at zero have means of their own: what must live on is the spread between inputs.
    spread = jnp.std(jax.jit(jax.vmap(network))(normal("x", 64, 200)), axis=0).mean()
    smallest = 1e-5 if activation == "sigmoid" else 0.05  # its slope at zero is a quarter
    assert smallest < spread < 3.0
    assert all(not np.any(a) for a in arrays(network) if a.ndim == 1)


def test_initial_weights_of_convolutions_keep_the_variance() -> None:
    network = tb.Convolutional(channels=(32, 32, 32))
    encoder = network.build((32, 32, 32), (1,), key=KEY)
    x = normal("image", 32, 32, 32)
    for layer in encoder.convolutions:
        # He et al.: the mean square behind a rectifier is half of the variance before it, which is twice that of the input.
        # At the edges some taps meet the zeros of the padding.
        assert 0.5 < jnp.mean(x[2:-2, 2:-2] ** 2) < 1.5
        x = jax.jit(lambda x, layer: jax.nn.relu(layer.down(x)))(x, layer)
    assert np.isclose(np.var(encoder.convolutions[0].kernel), 2 / (16 * 32), rtol=0.05)


# --- the union


class Doubled(eqx.Module):
    """A network of the user's own."""

    weight: jax.Array
    out_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...], *, key: jax.Array, gain: float) -> None:
        self.weight = gain * jax.random.normal(key, (math.prod(in_shape), math.prod(out_shape)))
        self.out_shape = out_shape

    def __call__(self, x: jax.Array) -> jax.Array:
        return (x.reshape(-1) @ self.weight).reshape(self.out_shape)


@pytest.mark.parametrize(
    "spec",
    [
        tb.MLP(hidden=(3,), activation="gelu"),
        tb.Convolutional(channels=(4,), gated=True),
        MIXER,
        Custom(target=f"{__name__}:Doubled", args={"gain": 2.0}),
    ],
    ids=lambda spec: spec.kind,
)
def test_every_kind_comes_back_from_json_and_builds(spec: Any) -> None:
    back = TypeAdapter(Network).validate_json(spec.to_json())
    assert back == spec
    assert back.build((4, 4, 1), (3,), key=KEY)(jnp.ones((4, 4, 1))).shape == (3,)
