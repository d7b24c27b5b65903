"""The evidence for TLC: what is measured is what it says, and ends up in tables and figures."""

import json

import jax
import numpy as np
import pytest

import tlc_jax as tlc
from benchmarks.tlc_gain import __main__ as command
from benchmarks.tlc_gain import gain, maxim, report, statistics
from benchmarks.tlc_gain.gain import FACTORS, Network
from tlc_jax.checkpoints import abstract_params
from tlc_jax.degradations import EightBits, GaussianNoise, InTurn
from tlc_jax.image import write_image
from tlc_jax.models import HINet, NAFNet, Restormer

SIDE = 16
KINDS = {
    "NAFNet": NAFNet(8, (1,), 1, (1,), train_size=(SIDE, SIDE)),
    "HINet": HINet(4, depth=2, hin_position_right=1, train_size=(SIDE, SIDE)),
    "Restormer": Restormer(
        dim=4, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, heads=(1, 1, 1, 1),
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
    name, image, truth = next(gain.spoilt(degradation, folder))
    assert scores[name]["input"] == pytest.approx(20.2, abs=0.4)
    for factor in FACTORS:
        side = round(SIDE * factor)
        local = tlc.restore(model.clone(local_mode=True, window=(side, side)), params, image)
        assert scores[name][f"local {factor:g}x"] == gain.psnr(local, truth)
    everywhere = tlc.restore(model, params, image)
    assert scores[name]["global"] == gain.psnr(everywhere, truth)
    assert scores[name]["global"] != scores[name]["local 0.5x"] != scores[name]["tiles"]


def test_gain_by_size_begins_with_none(networks, folder, tmp_path, write_photographs, monkeypatch):
    """On a picture no larger than the window, local is global; each size has the same pictures."""
    monkeypatch.setattr(gain, "SIZES", (24, 64, 128))
    write_photographs(tmp_path, 2, (160, 136))
    write_image(tmp_path / "small.png", np.zeros((160, 96, 3), np.uint8))
    gains = gain.by_size(networks["NAFNet"], tmp_path)
    assert gains[24] == [0, 0]
    assert len(gains[64]) == len(gains[128]) == 2 and all(gains[128])


@pytest.mark.parametrize("name", KINDS)
def test_statistics_are_those_of_the_sites(networks, folder, name):
    """Whole pictures vary less than crops do; each site has as many values as windows and more."""
    ways = statistics.by_way(networks[name], folder, folder)
    sites = tlc.sites(networks[name].model.clone(local_mode=True), (160, 96))
    assert [*ways["crops"]] == [site.name for site in sites]
    for site in sites:
        (h, w), (k_h, k_w) = site.size, site.window
        assert len(ways["windows"][site.name]) == 2 * (h // k_h) * (w // k_w)
        assert len(ways["crops"][site.name]) == 2 * 4
        assert len(ways["whole photographs"][site.name]) == 2
    spreads = statistics.spreads(ways)
    assert np.median([*spreads["whole photographs"].values()]) < 1


def test_the_mean_of_alignments(networks, folder, monkeypatch):
    """Each is one way to lay the lattice; a network without any does not depend on it."""
    monkeypatch.setattr(maxim, "FACTORS", (1.5, 2))
    model = tlc.Maxim(
        features=4, depth=2, num_stages=1, num_groups=1, num_bottleneck_blocks=1,
        block_size_hr=(2, 2), block_size_lr=(2, 2), train_size=(SIDE, SIDE),
    )  # fmt: skip
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), abstract_params(model))
    _, image, truth = next(gain.spoilt(networks["NAFNet"].degradation, folder))
    scores = dict(maxim.by_way(model, params, image, truth))
    blurred = gain.psnr(image, truth)
    for way in ("global", "both local", "tiles"):  # without weights all give back what they got
        assert scores[way]["psnr"] == pytest.approx([blurred] * len(maxim.SHIFTS))
        assert scores[way]["mean"] == pytest.approx(blurred, abs=1e-3)


def test_what_is_recorded_is_drawn_and_listed(networks, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    folders = {"small": folder, "large": folder}
    named = {"NAFNet, seed 0": networks["NAFNet"]}
    monkeypatch.setattr(gain, "SIZES", (24, 64, 96))
    parts = ["ways", "seconds", "sizes", "statistics"]
    command.measure_networks(parts, {}, named, folders, folder)
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


def test_the_gain_of_the_package_is_listed_with_its_error(tmp_path):
    scores = {"noise": {"input": [20.0, 20.0], "denoise, global": [30.0, 32.0]}}
    scores["noise"]["denoise, local"] = [30.5, 33.5]
    text = report.markdown({"shipped": {"Kodak": scores, "large": scores}})
    assert "| noise: denoise, local | 32.00 | +1.00 ± 0.35 | 32.00 | +1.00 ± 0.35 |" in text
    assert "| noise: input | 20.00 |  | 20.00 |  |" in text
