"""The weights that come with the package: they restore, and leave alone what needs no mending."""

import re
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest

import tlc_jax as tlc
from tlc_jax.files import checkpoints
from tlc_jax.files.pictures import read_picture
from tlc_jax.ops.pixels import from_float
from tlc_jax.training.degradations import CameraShake, EightBits, GaussianNoise, InTurn

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "tlc_jax/examples"
TRUTH = tlc.read_image(EXAMPLES / "kodim.png")


def restored(task: str, image: np.ndarray, *, local: bool = True) -> np.ndarray:
    """As it is written, in 8 bits."""
    model, params = tlc.load(task)
    return from_float(tlc.restore(model.clone(local_mode=local), params, image), np.uint8)


@pytest.mark.parametrize(
    ("task", "name", "gain"), [("denoise", "noisy", 11.5), ("deblur", "shaken", 1.8)]
)
@pytest.mark.parametrize("local", [True, False], ids=["local", "global"])
def test_they_restore_the_examples(task, name, gain, local):
    image = tlc.read_image(EXAMPLES / f"{name}.png")
    before = tlc.psnr(image, TRUTH)
    assert tlc.psnr(restored(task, image, local=local), TRUTH) > before + gain


@pytest.mark.parametrize(
    ("name", "spoil"),
    [("noisy", GaussianNoise((25, 25))), ("shaken", CameraShake((5, 12), (0, 8)))],
)
def test_the_examples_are_what_is_said_of_them(name, spoil):
    """But for samples on the verge of two whole numbers."""
    spoil = jax.jit(InTurn((spoil, EightBits())))
    image = from_float(spoil(jax.random.key(0), TRUTH), np.uint8)
    error = np.abs(np.int16(image) - read_picture(EXAMPLES / f"{name}.png").pixels)
    assert error.max() <= 1 and error.mean() < 1e-4


@pytest.mark.parametrize("task", checkpoints.SHIPPED)
def test_they_leave_alone_what_needs_no_mending(task):
    assert tlc.psnr(restored(task, TRUTH), TRUTH) > 38


def test_the_denoiser_is_blind():
    """It is told no strength: what it takes away is what there is."""
    noise = np.asarray(jax.random.normal(jax.random.key(1), TRUTH.shape))
    for sigma, least in ((5, 38), (15, 34), (50, 29)):
        image = from_float(TRUTH + sigma / 255 * noise, np.uint8)
        assert tlc.psnr(restored("denoise", image), TRUTH) > least


def test_they_are_small_and_say_what_they_are():
    files = [file for file in checkpoints.WEIGHTS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 4e6
    for task in checkpoints.SHIPPED:
        described = checkpoints.describe(task)
        assert described["weights_licence"] == "MIT"
        assert task[:6] in described["task"]


def test_a_name_of_ours_is_no_folder_of_yours(tmp_path, monkeypatch):
    """And a folder of that name has its place written, or is a Path."""
    monkeypatch.chdir(tmp_path)
    model = tlc.NAFNet(4, (), 1, ())
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))["params"]
    tlc.save("./denoise", model, params)
    assert tlc.load("denoise")[0] != model
    assert tlc.load("./denoise")[0] == tlc.load(Path("denoise"))[0] == model


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_command_line_needs_no_more_than_a_picture(terminal, tmp_path, page):
    """The commands of the quick start, one after the other; what runs is told."""
    crop = from_float(TRUTH[100:164, 200:296], np.uint8)
    tlc.write_image(tmp_path / "photo.jpg", crop)
    crop = tlc.read_image(tmp_path / "photo.jpg")
    commands = re.findall(r"^    tlc-jax (restore photo\.jpg.*?)#", (ROOT / page).read_text(), re.M)
    results = {"restored/photo.denoise.jpg": "denoise", "sharp.png": "deblur"}
    for command, (file, task) in zip(commands, results.items(), strict=True):
        code, out, err = terminal(tmp_path, *command.split())
        assert (code, err) == (0, "")
        assert out.startswith(f"{task}: NAFNet local in float32") and f"-> {file}" in out
        written = tlc.read_image(tmp_path / file, channels=None)
        model, params = tlc.load(task)
        local = model.clone(local_mode=True)
        expected = tlc.restore(local, params, crop)
        difference = np.abs(from_float(written, np.uint8) - 255 * expected.clip(0, 1))
        assert difference.max() <= 0.51 if file.endswith("png") else difference.mean() < 1.5
    _, out, _ = terminal(tmp_path, "info", "deblur")
    assert "camera shake" in out and "MIT" in out


def test_the_readme_runs(monkeypatch, tmp_path):
    """Its example restores, and its badges say what the package says of itself."""
    (code,) = re.findall("```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "tlc_jax").mkdir()
    (tmp_path / "tlc_jax/examples").symlink_to(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    gained = [
        tlc.psnr(tlc.read_image(file), TRUTH)
        for file in ("tlc_jax/examples/shaken.png", "sharp.png")
    ]
    assert gained[1] > gained[0] + 1.8
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    badges = {
        name: (ROOT / f"docs/images/{name}.svg").read_text() for name in ("python", "licence")
    }
    assert package["requires-python"].removeprefix(">=") + " or newer" in badges["python"]
    assert package["license"] in badges["licence"]
