"""Pictures in buckets: the numbers of each by itself, from one program for all."""

import numpy as np
import pytest

import tlc_jax as tlc
from tlc_jax.buckets import forward_within
from tlc_jax.models import Baseline, HINet, NAFNet, Restormer

# Windows of 24 pixels: the pictures are larger, smaller, and larger along one axis only.
NETWORKS = {
    "nafnet": NAFNet(4, (1, 1), 1, (1, 1), train_size=(16, 16)),
    "baseline": Baseline(4, (1, 1), 1, (1, 1), train_size=(16, 16)),
    "restormer": Restormer(
        dim=4, num_blocks=(1, 1, 0, 1), num_refinement_blocks=1, heads=(1, 2, 4, 8),
        train_size=(16, 16),
    ),
    "dualpixel": Restormer(
        inp_channels=6, dim=4, num_blocks=(1, 0, 0, 1), num_refinement_blocks=0,
        heads=(1, 2, 4, 8), dual_pixel_task=True, norm_bias=False, train_size=(16, 16),
    ),
    "hinet": HINet(4, 3, 0, 2, train_size=(16, 16)),
}  # fmt: skip
BUCKET = (75, 110)
SIZES = [(75, 110), (64, 97), (33, 24), (1, 9)]


def photo(*shape):
    return np.random.default_rng(sum(shape)).uniform(size=shape).astype(np.float32)


@pytest.mark.parametrize("mode", ["global", "local"])
@pytest.mark.parametrize("name", NETWORKS)
def test_numbers_are_those_without_a_bucket(name, mode, random_params):
    model = NETWORKS[name].clone(local_mode=mode == "local")
    params = random_params(NETWORKS[name])
    before = forward_within._cache_size()
    for size in SIZES:
        image = photo(*size, model.inp_channels)
        alone = tlc.restore(model, params, image)
        within = tlc.restore(model, params, image, bucket=BUCKET)
        assert within.shape == alone.shape
        np.testing.assert_allclose(within, alone, atol=1e-5 * max(1, np.abs(alone).max()))
    assert forward_within._cache_size() == before + 1
