"""The evidence for TLC: what is measured is what it says, and ends up in tables and figures."""

import json
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import tlc_jax as tlc
from benchmarks.tlc_gain import __main__ as command
from benchmarks.tlc_gain import gain, maxim, report, shipped, statistics
from benchmarks.tlc_gain.gain import FACTORS, Network
from tlc_jax import ops
from tlc_jax.files.writing import write_image
from tlc_jax.inference.sites import at_sites
from tlc_jax.inference.ways import moved
from tlc_jax.models import HINet, NAFNet, Restormer
from tlc_jax.ops.pixels import from_float
from tlc_jax.ops.windows import Window, clip_window
from tlc_jax.training.degradations import EightBits, GaussianNoise, InTurn

SIDE = 16
KINDS = {
    "NAFNet": NAFNet(8, (1,), 1, (1,), train_size=(SIDE, SIDE)),
    "HINet": HINet(4, depth=2, hin_position_right=1, train_size=(SIDE, SIDE)),
    "Restormer": Restormer(
        dim=4, num_blocks=(1, 0, 0, 1), num_refinement_blocks=0, heads=(1, 2, 1, 2),
        train_size=(SIDE, SIDE),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_photographs):
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder, 2, (160, 96))
    return folder


@pytest.fixture(scope="module")
def networks(random_params):
    noise = InTurn((GaussianNoise((25, 25)), EightBits()))
    return {
        name: Network(model, jax.tree.map(lambda x: 0.6 * x, random_params(model)), noise)
        for name, model in KINDS.items()
    }


def test_ways_are_what_they_are_called(networks, folder):
    """Each is scored by what it restores, and they are not the same."""
    model, params, degradation = networks["NAFNet"]
    scores = gain.by_way(networks["NAFNet"], folder)
    assert [*scores] == ["0", "1"]
    name, image, truth = next(gain.degraded(degradation, folder))
    assert scores[name]["input"] == pytest.approx(20.2, abs=0.4)
    for factor in FACTORS:
        side = round(SIDE * factor)
        local = tlc.restore(model.clone(local_mode=True, window=(side, side)), params, image)
        assert scores[name][f"local {factor:g}x"] == gain.psnr(local, truth)
    everywhere = tlc.restore(model, params, image)
    assert scores[name]["global"] == gain.psnr(everywhere, truth)
    tiled = tlc.restore(model, params, image, way=tlc.tiled(SIDE, SIDE // 3))
    assert scores[name]["tiles"] == gain.psnr(tiled, truth)
    assert len(set(scores[name].values())) == len(scores[name])


def test_gain_by_size_begins_with_none(networks, tmp_path, write_photographs, monkeypatch):
    """On a picture no larger than the window, local is global; each size has the same pictures."""
    monkeypatch.setattr(gain, "SIZES", (16, 64, 128))
    write_photographs(tmp_path, 2, (160, 136))
    write_image(tmp_path / "small.png", np.zeros((160, 96, 3), np.uint8))
    model, params, degradation = networks["NAFNet"]
    gains = gain.by_size(networks["NAFNet"], tmp_path)
    assert gains[16] == [0, 0]
    assert len(gains[64]) == 2 and all(gains[64])
    _, image, truth = next(gain.degraded(degradation, tmp_path))
    middle = np.s_[16:144, 4:132]
    local, everywhere = (
        gain.psnr(tlc.restore(model.clone(local_mode=mode), params, image[middle]), truth[middle])
        for mode in (True, False)
    )
    assert gains[128][0] == pytest.approx(local - everywhere, abs=1e-5)


def computed(layer: Any, args: tuple, window: Window, middle: tuple[int, int]) -> np.ndarray:
    """What a site aggregates for one position of its map."""
    size = args[0].shape[1:3]
    if layer.site == "mean":
        return ops.spread(layer(args[0], window=window), size)[0][middle]
    if layer.site == "moments":
        mean, variance = (ops.spread(x, size)[0][middle] for x in layer(args[0], window=window))
        return np.concatenate([mean, np.sqrt(variance)])
    window = clip_window(window, size)
    starts = (
        min(max(0, m - (k - 1) // 2), n - k) for m, k, n in zip(middle, window, size, strict=True)
    )
    rows, columns = (slice(at, at + k) for at, k in zip(starts, window, strict=True))
    q, k = (np.asarray(x)[0, rows, columns].reshape(-1, x.shape[-1]) for x in args[:2])
    cosines = q.T @ k / np.outer(np.linalg.norm(q, axis=0), np.linalg.norm(k, axis=0))
    c = len(cosines) // args[3].size
    heads = [cosines[at : at + c, at : at + c] for at in range(0, len(cosines), c)]
    return np.stack(heads).ravel()


@pytest.mark.parametrize("name", KINDS)
def test_statistics_are_those_of_the_sites(networks, folder, name):
    """Of each crop those of the window in force at its middle, as the layers compute them."""
    model, params, degradation = networks[name]
    local = model.clone(local_mode=True)
    ways = statistics.measured(networks[name], folder)
    sites = tlc.sites(local, (160, 96))
    across, count = 96 // SIDE, 160 * 96 // SIDE**2
    assert [*ways["crops"]] == [site.name for site in sites]
    for values in ways.values():
        assert {len(of_site) for of_site in values.values()} == {2 * count}

    _, image, _ = next(gain.degraded(degradation, folder))

    def meets(variant, picture):
        met = []
        with at_sites(lambda *site: met.append(site)):
            variant.apply({"params": params}, picture[None])
        return met

    of_image = meets(local, image)
    last = 160 // SIDE - 1, across - 1
    for down, right in ((4, 3), (0, 0), (0, last[1]), (last[0], 0), last):  # inside and in corners
        crop = image[down * SIDE :, right * SIDE :][:SIDE, :SIDE]
        for way, met in ((gain.LOCAL, of_image), ("crops", meets(model, crop))):
            for site, layer, args, window in met:
                sides = zip((down, right), args[0].shape[1:3], (160, 96), strict=True)
                middle = tuple((2 * at + 1) * n // (2 * side // SIDE) for at, n, side in sides)
                ours = ways[way][site][down * across + right]
                np.testing.assert_allclose(ours, computed(layer, args, window, middle), atol=2e-5)

    distances = statistics.distances(ways)
    assert all(x > 0.9 for x in distances["global"].values())


def test_the_mean_of_alignments(networks, folder, random_params, monkeypatch):
    """Each is one way to lay the lattice; a network without any does not depend on it."""
    monkeypatch.setattr(maxim, "FACTORS", (1.5, 2))
    model = tlc.Maxim(
        features=4, depth=2, num_stages=1, num_groups=1, num_bottleneck_blocks=1,
        block_size_hr=(2, 2), block_size_lr=(2, 2), train_size=(SIDE, SIDE),
    )  # fmt: skip
    _, image, truth = next(gain.degraded(networks["NAFNet"].degradation, folder))
    params = random_params(model)
    scores = dict(maxim.by_way(model, params, image, truth))
    at_end = model.clone(padding="end")
    for way, fields in {
        "global": {},
        "channel attention local": {"local_mode": True, "local_grid": False},
        "grid mixing local": {"local_mode": True, "local_attention": False},
        "both local": {"local_mode": True},
    }.items():
        restored = tlc.restore(at_end.clone(**fields), params, moved(image, (0, 0)))
        restored = restored[: image.shape[0], : image.shape[1]]
        assert scores[way]["psnr"][maxim.SHIFTS.index((0, 0))] == gain.psnr(restored, truth)
    assert len({of_way["mean"] for of_way in scores.values()}) == len(scores)

    nothing = jax.tree.map(np.zeros_like, params)
    scores = dict(maxim.by_way(model, nothing, image, truth))
    blurred = gain.psnr(image, truth)
    for way in ("global", "both local", "tiles"):  # without weights all give back what they got
        assert scores[way]["psnr"] == pytest.approx([blurred] * len(maxim.SHIFTS))
        assert scores[way]["mean"] == pytest.approx(blurred, abs=1e-3)


def test_what_is_recorded_is_drawn_and_listed(networks, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    monkeypatch.setattr(command, "IMAGES", tmp_path)
    folders = {"small": folder, "large": folder}
    named = {"NAFNet, seed 0": networks["NAFNet"]}
    monkeypatch.setattr(gain, "SIZES", (24, 48, 96))
    parts = ["ways", "seconds", "sizes", "statistics"]
    command.measure_networks(parts, {}, named, folders)
    command.record("maxim", {"input": 24.0, "global": {"psnr": [33.0, 34.0], "mean": 35.0}})
    command.draw()
    kept = json.loads((tmp_path / "results.json").read_text())
    assert all(time > 0 for time in kept["seconds"]["NAFNet, seed 0"].values())
    assert kept["ways"]["small"].keys() == named.keys()
    text = (tmp_path / "results.md").read_text()
    assert "| global | 33.000 | 34.000 | 33.500 | 0.500 | 35.000 |" in text
    drawn = {file.name for file in tmp_path.glob("*.png")}
    assert drawn == {
        "ways.png", "sizes.png", "statistics.png", "statistics-nafnet.png",
    }  # fmt: skip


def test_the_gain_of_the_package_is_listed_with_its_error():
    scores = {"noise": {"input": [20.0, 20.0], "denoise, global": [30.0, 32.0]}}
    scores["noise"]["denoise, local"] = [30.5, 33.5]
    text = report.markdown({"shipped": {"Kodak": scores}})
    assert "| noise: denoise, local | 32.00 | 30.50 | +1.000 ± 0.500 | 2 of 2 |" in text
    assert "| noise: input | 20.00 | 20.00 |  |  |" in text


def test_the_weights_of_the_package(networks, folder, tmp_path, monkeypatch):
    """Each is scored by what spoils photographs as it knows, and by photographs as they are."""
    model, params, _ = networks["NAFNet"]
    loaded = {"denoise": (model, params), "deblur": (model, jax.tree.map(lambda x: x / 2, params))}
    monkeypatch.setattr(tlc, "load", loaded.__getitem__)
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    few = (
        "noise, sigma 15",
        "noise, sigma 50",
        "noise, sigma 25, JPEG 92",
        "noise, sigma 25, JPEG 75",
    )
    monkeypatch.setattr(shipped, "DENOISE", {case: shipped.DENOISE[case] for case in few})
    others = {"as it was": lambda image: image}
    for name, further in {"small": others, "large": {}}.items():
        command.record("shipped", shipped.scores(folder, further), name)
    command.draw()
    assert "| noise, sigma 15: as it was |" in (tmp_path / "results.md").read_text()
    scores = json.loads((tmp_path / "results.json").read_text())["shipped"]["small"]
    known = shipped.DENOISE | shipped.DEBLUR
    for case, task in (("noise, sigma 50", "denoise"), ("camera shake", "deblur")):
        _, image, truth = next(gain.degraded(known[case].degradation, folder))
        for mode in (True, False):
            restored = tlc.restore(model.clone(local_mode=mode), loaded[task][1], image)
            way = f"{task}, {'local' if mode else 'global'}"
            assert scores[case][way][0] == gain.psnr(restored, truth)
    assert scores["noise, sigma 50"]["as it was"] == scores["noise, sigma 50"]["input"]
    assert len(scores["nothing"]) == 4
    _, image, truth = next(gain.degraded(shipped.noise(25), folder))
    for quality in (92, 75):
        file = tmp_path / f"{quality}.jpg"
        Image.fromarray(from_float(image, np.uint8)).save(file, quality=quality, subsampling=2)
        found = scores[f"noise, sigma 25, JPEG {quality}"]["input"][0]
        assert found == pytest.approx(gain.psnr(tlc.read_image(file), truth), abs=1e-3)
