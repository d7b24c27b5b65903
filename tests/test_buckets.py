"""Pictures in buckets: the numbers of each by itself, from one program for all."""

import numpy as np
import pytest

import tlc_jax as tlc
from tlc_jax.inference.buckets import choose_buckets, forward_within
from tlc_jax.models import Baseline, HINet, NAFNet, Restormer, restormer

# Windows of 24 pixels: the pictures are larger, smaller, and larger along one axis only.
NETWORKS = {
    "nafnet": NAFNet(4, (1, 1), 1, (1, 1), train_size=(16, 16)),
    "baseline": Baseline(4, (1, 1), 1, (1, 1), train_size=(16, 16)),
    "restormer": Restormer(
        dim=4, num_blocks=(1, 0, 0, 1), num_refinement_blocks=1, heads=(1, 2, 4, 8),
        train_size=(16, 16),
    ),
    "dualpixel": Restormer(
        inp_channels=6, dim=4, num_blocks=(1, 0, 0, 1), num_refinement_blocks=0,
        heads=(1, 2, 4, 8), dual_pixel_task=True, norm_bias=False, train_size=(16, 16),
    ),
    "hinet": HINet(4, 3, 0, 2, train_size=(16, 16)),
}  # fmt: skip
BUCKET = (75, 110)
SIZES = [(64, 97), (33, 24), (1, 9)]


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


def test_numbers_of_what_would_be_cut_in_strips(random_params, monkeypatch):
    """Strips of a bucket do not know where the picture ends."""
    model = NETWORKS["restormer"].clone(local_mode=True, train_size=(24, 24))
    params, image = random_params(NETWORKS["restormer"]), photo(40, 61, model.inp_channels)
    alone = tlc.restore(model, params, image)
    monkeypatch.setattr(restormer, "MOST_BYTES", 40_000)
    within = tlc.restore(model, params, image, bucket=(50, 70))
    np.testing.assert_allclose(within, alone, atol=1e-5 * max(1, np.abs(alone).max()))


def test_buckets_waste_no_more_than_asked():
    rng = np.random.default_rng(0)
    sizes = [tuple(map(int, size)) for size in rng.integers(300, 3000, (200, 2))]
    for waste in (0.0, 0.1, 0.5):
        buckets = choose_buckets(sizes, waste)
        assert set(buckets) <= set(sizes)
        for (h, w), (height, width) in buckets.items():
            assert h <= height and w <= width and height * width <= (1 + waste) * h * w
        # A bucket is for several sizes, and the more may be wasted the fewer programs there are.
        users = list(buckets.values())
        assert all(users.count(bucket) > 1 for bucket in users)
        programs = len(set(users)) + len(set(sizes) - buckets.keys())
        assert programs <= {0.0: 200, 0.1: 140, 0.5: 50}[waste]


def test_alike_sizes_share_the_smallest_that_holds_them():
    assert choose_buckets([(720, 1280), (736, 1240), (480, 640), (720, 1280)], 0.25) == {
        (720, 1280): (736, 1280),
        (736, 1240): (736, 1280),
    }


def test_buckets_that_grow_into_each_other():
    sizes = [(720, 1300), (720, 1299), (730, 1280), (729, 1280), (730, 1290), (700, 1300)]
    buckets = choose_buckets(sizes, 0.25)
    assert set(buckets) == set(sizes) and set(buckets.values()) == {(730, 1300)}


def test_bad_buckets(random_params):
    model, mprnet = NETWORKS["nafnet"], tlc.MPRNet(8, 4, 4, num_cab=1, reduction=2)
    with pytest.raises(ValueError, match=r"\(16, 20\) is too small for an image of \(17, 20\)"):
        tlc.restore(model, random_params(model), photo(17, 20, 3), bucket=(16, 20))
    with pytest.raises(ValueError, match="MPRNet has no buckets"):
        tlc.restore(mprnet, random_params(mprnet), photo(16, 16, 3), bucket=(16, 16))
