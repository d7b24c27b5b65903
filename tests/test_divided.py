"""One picture divided over devices: the numbers of one, and no device holds a whole map."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import tlc_jax as tlc
from tlc_jax import ops
from tlc_jax.inference.divided import divided_shape, forward_divided, mesh_of
from tlc_jax.inference.timed import restore_timed
from tlc_jax.layers import LocalPool, Network
from tlc_jax.layers.network import abstract_params
from tlc_jax.ops.backends import forms_of
from tlc_jax.ops.divided import ROWS, Rows

# Windows of 24 rows, where a device holds 16 or fewer.
SMALL = {"train_size": (16, 16)}
NETWORKS = {
    "nafnet": tlc.NAFNet(4, (1, 1), 1, (1, 1), **SMALL),
    "baseline": tlc.Baseline(4, (1, 1), 1, (1, 1), **SMALL),
    "hinet": tlc.HINet(4, 3, 0, 2, **SMALL),
    "restormer": tlc.Restormer(
        dim=4, num_blocks=(1, 0, 0, 1), num_refinement_blocks=0, heads=(1, 2, 4, 8), bias=True,
        **SMALL,
    ),
    "mprnet": tlc.MPRNet(4, 4, 4, num_cab=1, reduction=2, **SMALL),
    "nafssr": tlc.NAFSSR(2, 4, 1, train_size=(16, 16)),
}  # fmt: skip


def photo(*shape):
    return np.random.default_rng(sum(shape)).uniform(size=shape).astype(np.float32)


@pytest.mark.parametrize("mode", ["global", "local"])
@pytest.mark.parametrize("name", NETWORKS)
def test_numbers_are_those_of_one_device(name, mode, random_params):
    model = NETWORKS[name].clone(local_mode=mode == "local")
    params, image = random_params(NETWORKS[name]), photo(53, 37, model.inp_channels)
    alone = tlc.restore(model, params, image)
    divided = tlc.restore(model, params, image, devices=4)
    np.testing.assert_allclose(divided, alone, atol=1e-5 * max(1, np.abs(alone).max()))


def test_more_devices_than_rows(random_params):
    model, image = NETWORKS["nafnet"], photo(5, 9, 3)
    params = random_params(model)
    for one in (model, model.clone(local_mode=True)):
        alone = tlc.restore(one, params, image)
        np.testing.assert_allclose(tlc.restore(one, params, image, devices=8), alone, atol=1e-5)


def test_in_tiles_and_in_integers(random_params):
    model = NETWORKS["nafnet"].clone(local_mode=True)
    params = random_params(model)
    image = np.round(255 * photo(100, 40, 3)).astype(np.uint8)
    way = tlc.tiled(48)
    alone = tlc.restore(model, params, image, way=way)
    divided = tlc.restore(model, params, image, way=way, devices=3)
    assert divided.dtype == np.uint8
    assert np.abs(divided.astype(int) - alone).max() <= 1


class Other(Network):
    """Convolutions with strides, dilations and paddings of their own."""

    multiple, buckets = 4, True

    @nn.compact
    def forward(self, image):
        x = nn.Conv(4, (5, 3), padding="SAME", kernel_dilation=(2, 1))(image)
        x = nn.Conv(4, (3, 3), strides=2, padding=1)(x)
        x = nn.Conv(8, (2, 2), strides=(2, 2), padding="VALID")(x)
        x = nn.Conv(8, (3, 3), padding=((2, 0), (1, 1)))(x)
        x = x * nn.sigmoid(ops.spread(LocalPool()(x), (x.shape[1], x.shape[2])))
        x = nn.ConvTranspose(3, (4, 4), strides=(4, 4))(x)
        return image + x


def test_a_network_of_ones_own():
    model = Other(train_size=(16, 16))
    params = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    image = photo(44, 20, 3)
    for one in (model, model.clone(local_mode=True)):
        alone = tlc.restore(one, params, image)
        np.testing.assert_allclose(tlc.restore(one, params, image, devices=4), alone, atol=1e-5)


def test_the_command(random_params, tmp_path, terminal):
    model = tlc.NAFNet(4, (1,), 1, (1,), train_size=(16, 16))
    blocks = tlc.Maxim(
        features=4, depth=2, num_stages=1, num_groups=1, num_bottleneck_blocks=1,
        block_size_hr=(2, 2), block_size_lr=(2, 2), train_size=(16, 16),
    )  # fmt: skip
    for name, net in {"net": model, "blocks": blocks}.items():
        tlc.save(tmp_path / name, net, random_params(net))
    (tmp_path / "in").mkdir()
    for i in range(2):
        tlc.write_image(tmp_path / f"in/{i}.png", photo(44 + i, 40, 3))

    def restore(*options):
        return terminal(tmp_path, "restore", "in", "--overwrite", "--checkpoint", *options)

    assert restore("net", "-o", "one").code == 0
    assert restore("net", "-o", "four", "--split", "4").code == 0
    for i in range(2):
        one, four = (tlc.read_image(tmp_path / out / f"{i}.net.png") for out in ("one", "four"))
        assert np.abs(one - four).max() < 1.01 / 255
    for options, sentence in {
        ("net", "--split", "9"): "--split 9: this machine has 8; say 1 to 8, or all.",
        ("net", "--split", "2", "--devices", "2"): "--split divides each; choose one.",
        ("blocks", "--split", "all"): "--split all: Maxim cannot be divided; leave it out.",
    }.items():
        code, _, err = restore(*options)
        assert code == 2
        assert sentence in err


class Unpadded(Network):
    buckets = True

    @nn.compact
    def forward(self, image):
        return jnp.pad(nn.Conv(3, (3, 3), padding="VALID")(image), ((0, 0), (1, 1), (1, 1), (0, 0)))


def test_what_cannot_be_divided():
    image = photo(32, 32, 3)
    with pytest.raises(ValueError, match="Maxim mixes rows from all over a picture"):
        tlc.restore(tlc.Maxim(), {}, image, devices=2)
    with pytest.raises(ValueError, match="devices 9: this machine has 8; say 1 to 8, or all"):
        tlc.restore(NETWORKS["nafnet"], {}, image, devices=9)
    with pytest.raises(ValueError, match="devices 0: this machine has 8"):
        tlc.planned_memory(NETWORKS["nafnet"], (32, 32), devices=0)
    with pytest.raises(ValueError, match="in a bucket is not divided"):
        tlc.restore(NETWORKS["nafnet"], {}, image, devices=2, bucket=(64, 64))
    with pytest.raises(ValueError, match="Conv_0: a convolution with padding='VALID'"):
        tlc.planned_memory(Unpadded(), (32, 32), devices=2)


@pytest.mark.parametrize("name", ["nafnet", "hinet", "restormer", "mprnet"])
def test_each_device_holds_its_part(name):
    model = NETWORKS[name].clone(local_mode=True)
    size, params = (512, 96), abstract_params(NETWORKS[name])
    mesh = mesh_of(model, 8)
    program = forward_divided.lower(
        model, params, *divided_shape(model, size, mesh), mesh
    ).compile()
    text = program.as_text()
    assert not re.findall(r" (?:all-gather|all-to-all)[\w-]*\(", text)
    assert re.findall(r" collective-permute\(", text)
    whole, part = (tlc.planned_memory(model, size, devices=n) for n in (1, 8))
    assert part < 0.3 * whole


def test_devices_of_a_cpu_share_its_memory(random_params, monkeypatch):
    """What fits each of them alone need not fit all at once."""
    model = NETWORKS["nafnet"].clone(local_mode=True)
    params, image = random_params(model), photo(2080, 2080, 3)
    each = tlc.planned_memory(model, image.shape[:2], devices=8)
    monkeypatch.setattr("tlc_jax.inference.timed.room_for", lambda *_: 2.0 * each)
    tile = []

    def stop(model, size, room):
        tile.append(room)
        raise MemoryError

    monkeypatch.setattr("tlc_jax.inference.timed.tile_for", stop)
    with pytest.raises(MemoryError):
        restore_timed(model, params, image, devices=8, fit=True)
    assert tile == [2.0 * each]


# The operations by themselves.


def divided(function, height, devices, *maps):
    """A function of `Rows` and the rows of each device, put together again."""
    rows = -(-height // devices)
    here, mesh = Rows(height, devices), mesh_of(NETWORKS["nafnet"], devices)

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=PartitionSpec(None, ROWS),
        out_specs=PartitionSpec(None, ROWS), check_vma=False,
    )  # fmt: skip
    def run(*maps):
        made = function(here, *maps)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (*x.shape[:1], rows, *x.shape[2:])), made)

    beyond = rows * devices - height
    filled = (np.pad(x, [(0, 0), (0, beyond), (0, 0), (0, 0)], constant_values=7) for x in maps)
    return jax.tree.map(lambda x: x[:, :height], jax.jit(run)(*filled))


@pytest.mark.parametrize("window", [(9, 7), (4, 30), (20, 20), (41, 3), (50, 8), None, (1, 1)])
def test_windows_across_cuts(window):
    height = 42  # of which the eighth device has none
    x = 3 + photo(2, height, 24, 3)

    def means(here, x):
        return here.window_mean(x, window), *here.window_moments(x, window)

    made = divided(means, height, 8, x)
    size = height, 24
    exact = ops.window_mean(x, window), *ops.window_moments(x, window)
    for y, expected in zip(made, exact, strict=True):
        expected = jnp.broadcast_to(ops.spread(expected, size), (2, *size, 3))
        y = jnp.broadcast_to(ops.spread(y, size), expected.shape)
        np.testing.assert_allclose(y, expected, rtol=3e-5)


def test_a_bad_pixel_stays_in_its_windows():
    x = photo(1, 40, 24, 1)
    x[0, 21, 5] = np.nan
    mean = divided(lambda here, x: here.window_mean(x, (9, 9)), 40, 4, x)
    spoilt = np.isnan(np.asarray(mean)).any(axis=(0, 2, 3))
    assert np.flatnonzero(spoilt).tolist() == [*range(17, 26)]


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("window", [(12, 9), (40, 10), None])
def test_attention_across_cuts(window, platform):
    height = 42
    q, k, v = (photo(2, height + i, 24, 8)[:, i:] for i in range(3))
    temperature, project = jnp.array([1.0, 3.0]), photo(8, 6)

    def attend(here, *qkv):
        return here.transposed_attention(*qkv, temperature, window, project=project)

    exact = ops.transposed_attention(q, k, v, temperature, window, project=project)
    with forms_of(platform):
        made = divided(attend, height, 4, q, k, v)
    np.testing.assert_allclose(made, exact, atol=1e-5)
