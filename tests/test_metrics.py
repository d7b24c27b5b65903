"""PSNR and SSIM against float64 loops that follow the papers word by word."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import correlate1d
from skimage.metrics import structural_similarity

from tlc_jax.evaluation.metrics import Protocol, luma, measure, psnr, ssim, ssim3d, ssim_uniform


def pair(*shape, noise=0.1, seed=0):
    """A smooth picture and a noisy copy, float32 in [0, 1]."""
    rng = np.random.default_rng(seed)
    waves = np.sin(np.arange(np.prod(shape)) / 17).reshape(shape) / 4 + 0.5
    noisy = waves + noise * rng.standard_normal(shape)
    return tuple(np.clip(image, 0, 1).astype(np.float32) for image in (noisy, waves))


def ssim_by_loops(x, y):
    """Wang et al. 2004 in float64: one 11 x 11 window after the other, moments about its mean."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / np.outer(line, line).sum()
    values = []
    for c in range(x.shape[2]):
        for i in range(x.shape[0] - 10):
            for j in range(x.shape[1] - 10):
                a, b = x[i : i + 11, j : j + 11, c], y[i : i + 11, j : j + 11, c]
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                var_a = (weights * (a - mean_a) ** 2).sum()
                var_b = (weights * (b - mean_b) ** 2).sum()
                cov = (weights * (a - mean_a) * (b - mean_b)).sum()
                values.append(
                    (2 * mean_a * mean_b + 0.01**2)
                    * (2 * cov + 0.03**2)
                    / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2))
                )
    return np.mean(values)


def ssim_of_nafnet(x, y):
    """A Gaussian of three dimensions in float64, SciPy's; beyond the borders the nearest number."""
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))

    def mean(z):
        for axis in range(3):
            z = correlate1d(z, line / line.sum(), axis, mode="nearest")
        return z

    x, y = x.astype(np.float64), y.astype(np.float64)
    a, b = mean(x), mean(y)
    variances, covariance = mean(x * x) - a * a + mean(y * y) - b * b, mean(x * y) - a * b
    luminance = (2 * a * b + 0.01**2) / (a * a + b * b + 0.01**2)
    return (luminance * (2 * covariance + 0.03**2) / (variances + 0.03**2)).mean()


def ssim_of_skimage(x, y):
    x, y = x.astype(np.float64), y.astype(np.float64)
    return structural_similarity(x, y, data_range=1, channel_axis=2)


def test_psnr_by_hand():
    reference = np.zeros((2, 2, 3), np.float32)
    image = reference.copy()
    image[0, 1, 2] = 0.3  # mean square 0.09 / 12
    assert psnr(image, reference) == pytest.approx(21.249387, abs=1e-5)


def test_psnr_sees_every_pixel_and_does_not_round():
    image, reference = pair(13, 7, 3)
    exact = -10 * np.log10(np.mean((image.astype(np.float64) - reference) ** 2))
    assert psnr(image, reference) == pytest.approx(exact, rel=1e-6)
    edge = reference.copy()
    edge[-1, -1, -1] += 0.5
    assert psnr(edge, reference) == pytest.approx(10 * np.log10(13 * 7 * 3 / 0.25), rel=1e-6)


def test_equal_images():
    image, _ = pair(16, 12, 3)
    assert psnr(image, image) == np.inf
    for similarity in (ssim, ssim3d, ssim_uniform):
        assert similarity(image, image) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("protocol", Protocol)
def test_equal_files_have_no_error(protocol, dtype):
    """Whatever a compiler makes of the division by full scale; 1 x 1 is what it likes best."""
    file = np.array([[[51, 3, 200]]], dtype) * dtype(np.iinfo(dtype).max // 255)
    found = measure(file, file, protocol)
    assert found.psnr == np.inf and found.mae == 0 and psnr(file, file) == np.inf


@pytest.mark.parametrize("shape", [(11, 11, 1), (14, 19, 3), (23, 11, 2)])
def test_ssim_by_loops(shape):
    image, reference = pair(*shape)
    for x, y in [(image, reference), (0.05 * image, 0.1 * reference)]:  # in the dark K1 counts
        assert ssim(x, y) == pytest.approx(ssim_by_loops(x, y), abs=1e-6)


@pytest.mark.parametrize("shape", [(11, 7, 1), (14, 19, 3)])
@pytest.mark.parametrize(
    ("ours", "theirs"), [(ssim3d, ssim_of_nafnet), (ssim_uniform, ssim_of_skimage)]
)
def test_other_kinds_of_ssim(ours, theirs, shape):
    image, reference = pair(*shape)
    assert ours(image, reference) == pytest.approx(theirs(image, reference), abs=1e-6)
    assert abs(theirs(image, reference) - theirs(reference, 1 - reference)) > 0.01


def test_ssim_of_a_bright_flat_region():
    """Where E[x^2] - E[x]^2 in float32 is wrong in the sixth digit already."""
    image, reference = (0.97 + 0.01 * x for x in pair(24, 24, 1, noise=0.5))
    exact = ssim_by_loops(image, reference)
    assert exact < 0.999
    optimised = jax.jit(ssim, compiler_options={"xla_backend_optimization_level": 3})
    assert optimised(image, reference) == pytest.approx(exact, abs=2e-7)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_one_float32_for_each_image_of_a_batch(metric):
    image, reference = pair(2, 3, 12, 15, 3)
    values = metric(image, reference)
    assert values.shape == (2, 3) and values.dtype == jnp.float32
    one = metric(image[1, 2], reference[1, 2])
    assert one.shape == ()
    assert values[1, 2] == pytest.approx(float(one), rel=1e-6)
    mapped = jax.jit(jax.vmap(metric))(image[0], reference[0])
    np.testing.assert_allclose(mapped, values[0], rtol=1e-6)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_whole_numbers_are_fractions_of_full_scale(metric, dtype):
    full = np.iinfo(dtype).max
    image, reference = (np.rint(x * full).astype(dtype) for x in pair(12, 15, 3))
    floats = (image / full, reference / full)
    assert metric(image, reference) == pytest.approx(float(metric(*floats)), rel=1e-5)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_gradient(metric):
    """Along a direction, against a central difference."""
    image, reference = pair(13, 12, 1)
    direction = reference - image
    slope = (jax.grad(metric)(image, reference) * direction).sum()
    step = 1e-2
    ahead, behind = (metric(image + s * direction, reference) for s in (step, -step))
    assert slope == pytest.approx(float(ahead - behind) / (2 * step), rel=2e-3)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_different_shapes(metric):
    with pytest.raises(ValueError, match=r"got \(12, 12, 3\) and \(12, 12, 1\)\."):
        metric(np.zeros((12, 12, 3)), np.zeros((12, 12, 1)))
    with pytest.raises(ValueError, match=r"\(\.\.\., H, W, C\) of one shape, got \(12, 12\)"):
        metric(np.zeros((12, 12)), np.zeros((12, 12)))


def test_smaller_than_the_window():
    with pytest.raises(ValueError, match="ssim needs images of at least 11 x 11 pixels, got 40 x"):
        ssim(np.zeros((40, 10, 3)), np.zeros((40, 10, 3)))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_other_types(metric):
    with pytest.raises(TypeError, match="uint8, uint16 or floats, got int32"):
        metric(np.zeros((12, 12, 1), np.int32), np.zeros((12, 12, 1), np.int32))


# Protocols

KINDS = "rgb", "y", "sidd"  # each of the others has the PSNR of one of these


def by_protocol(image, reference, protocol):
    """What is compared, in float64: both images, as the protocol has them."""
    x, y = image.astype(np.float64).clip(0, 1), reference.astype(np.float64) / 255
    if protocol not in ("sidd", "nafnet-sidd", "dpdd"):
        x = np.rint(x * 255) / 255
    if protocol == "y":
        x, y = (
            (65.481 * r + 128.553 * g + 24.966 * b + 16)[..., None] / 255
            for r, g, b in (np.moveaxis(z, -1, 0) for z in (x, y))
        )
    return x, y


@pytest.mark.parametrize("protocol", Protocol)
def test_protocols(protocol):
    """Of a float image that leaves [0, 1] and a truth of 8 bits."""
    image, reference = (3 * x - 1 for x in pair(14, 19, 3, noise=0.001))
    assert image.min() < 0 and image.max() > 1
    reference = np.rint(255 * reference.clip(0, 1)).astype(np.uint8)
    x, y = by_protocol(image, reference, protocol)
    found = measure(image, reference, protocol)
    kind = {"nafnet": ssim_of_nafnet, "nafnet-sidd": ssim_of_nafnet}
    kind |= {"nafssr": ssim_of_skimage, "dpdd": ssim_of_skimage}
    assert found.psnr == pytest.approx(-10 * np.log10(np.mean((x - y) ** 2)), abs=1e-3)
    assert found.ssim == pytest.approx(kind.get(protocol, ssim_by_loops)(x, y), abs=1e-5)
    assert found.mae == pytest.approx(np.abs(x - y).mean(), rel=1e-4)
    # Far above what the tolerance forgives, kinds of PSNR differ, and all differ from `psnr`.
    others = [measure(image, reference, Protocol(other)).psnr.item() for other in KINDS]
    assert np.diff(sorted([*others, psnr(image, reference).item()])).min() > 0.01


def test_rounding_to_the_truth_leaves_nothing():
    reference = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    image = reference / np.float32(255) + np.float32(0.4 / 255)
    assert measure(image, reference, Protocol.RGB)[0] == np.inf
    assert measure(image, reference, Protocol.SIDD)[0] == pytest.approx(56.1, abs=0.1)


def test_luma_by_hand():
    """BT.601: white is 235, black 16, and of the colours green is the brightest."""
    colours = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]])
    y = 255 * luma(colours.astype(np.uint8)[:, None])
    assert y.shape == (5, 1, 1) and y.dtype == jnp.float32
    np.testing.assert_allclose(y.ravel(), [16, 235, 81.481, 144.553, 40.966], rtol=1e-6)


def test_images_smaller_than_the_window_have_no_ssim():
    image = np.full((10, 20, 3), 0.6, np.float32)
    found = measure(image, np.full_like(image, 0.5), Protocol.SIDD)
    assert found[0] == pytest.approx(20, abs=1e-4) and np.isnan(found[1])


def test_gray_images_have_no_luma():
    with pytest.raises(ValueError, match=r"luma is of RGB images, got \(12, 12, 1\)"):
        luma(np.zeros((12, 12, 1)))
