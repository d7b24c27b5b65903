"""Every notebook runs from a fresh kernel, shows what its reader must see, and is stored clean."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tlc_jax import write_image
from tlc_jax.files.pictures import read_picture

pytest.importorskip("nbclient")

import jupytext
import nbclient
import nbformat
from safetensors.numpy import save_file

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

Run = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where all of them run, beside the examples."""
    folder = tmp_path_factory.mktemp("notebooks")
    (folder / "examples").symlink_to(ROOT / "examples")
    # Matplotlib looks for fonts once on a machine, and says so on stderr where that takes long.
    subprocess.run([sys.executable, "-c", "import matplotlib.font_manager"], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_PLATFORMS", "cpu")
        for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
            patch.setenv(variable, str(folder / ".jupyter"))
        yield folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """Runs a notebook with some of its parameters replaced.

    Returns:
      What its cells showed in words. No cell may write to stderr, where warnings go.
    """

    def run(name: str, **values: object) -> str:
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        for cell in notebook.cells:
            if "parameters" in cell.metadata.get("tags", ()):
                for parameter in [*values]:
                    line = f"{parameter} = {values[parameter]!r}"
                    cell.source, found = re.subn(rf"(?m)^{parameter} = .*$", line, cell.source)
                    if found:
                        del values[parameter]
        assert not values, "no such parameters"
        nbclient.NotebookClient(
            notebook,
            timeout=300,
            startup_timeout=180,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
        ).execute()
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        shown = [output.data for output in outputs if "data" in output]
        assert any("image/png" in data for data in shown)
        text = ""
        for output in outputs:
            if output.output_type == "stream":
                assert output.name == "stdout", output.text
                text += output.text
            else:
                text += output.data.get("text/markdown", "") + "\n"
        return text

    return run


def numbers(pattern: str, text: str) -> list[float]:
    """The numbers of the first place in a text that matches."""
    found = re.search(pattern, text)
    assert found, f"{pattern} is not in:\n{text}"
    return [float(number) for number in found.groups()]


def by_command_line(folder: Path, source: Path, *options: str) -> np.ndarray:
    """The pixels of what `tlc-jax restore` writes."""
    out = folder / "command_line.png"
    code = "from tlc_jax.cli import main; main()"
    command = [sys.executable, "-c", code, "restore", source, "-o", out, "--overwrite", *options]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    return read_picture(out).pixels


def test_restore(run, folder):
    text = run("01_restore")
    for name, task in (("noisy", "denoise"), ("shaken", "deblur")):
        path = f"results/{name}-{task}.png"
        before, after = numbers(rf"{name}\.png -> {path}\nPSNR (\S+) -> (\S+) dB", text)
        assert after > before + 1
        written = read_picture(folder / path).pixels
        expected = by_command_line(folder, ROOT / "examples" / f"{name}.png", "--task", task)
        np.testing.assert_array_equal(written, expected)
    assert 0 < numbers(r"largest difference: (\S+) of full scale", text)[0] < 0.5


def test_convert(run):
    text = run("02_convert_official_weights")
    assert r"NAFNet-GoPro-width64.pth](https://" in text
    assert "| 67,888,835 | 33.08 | 33.71 | MIT |" in text  # under headings that say "published"
    assert re.search(r"network +nafnet\nparameters +972075\n.*'train_size': \[96, 96\]", text)
    assert "every parameter as it was: True" in text
    assert "1 tensors do not fit:\n  intro/bias: no tensor for this parameter" in text
    by_mode = [
        numbers(rf"\| {mode} +\| +(\S+) \|", text[text.index("Measured here:") :])[0]
        for mode in ("input", "global", "local")
    ]
    assert by_mode == sorted(by_mode)
    _, measured, local = by_mode
    assert f"**measured here** | {measured:.2f} | {local:.2f} |" in text


def test_own_weights_and_picture(run, folder, golden):
    """A release's file through one notebook, then a deep picture with alpha through another."""
    save_file(golden("nafnet_a").tensors, folder / "mine.safetensors")
    random = np.random.default_rng(0)
    pixels, alpha = (random.integers(0, 2**16, (72, 88, n), np.uint16) for n in (3, 1))
    write_image(folder / "mine.png", pixels, alpha=alpha[..., 0])
    mine = {"PICTURE": "mine.png", "REFERENCE": "mine.png"}
    text = run("02_convert_official_weights", WEIGHTS="mine.safetensors", **mine)
    assert "stand-in" not in text
    run("01_restore", PICTURE="mine.png", TASK="results/mine")
    written = read_picture(folder / "results" / "mine-mine.png")
    np.testing.assert_array_equal(written.alpha, alpha[..., 0])
    expected = by_command_line(folder, folder / "mine.png", "--checkpoint", "results/mine")
    assert expected.dtype == np.uint16
    np.testing.assert_array_equal(written.pixels, expected)


@pytest.mark.parametrize("name", ["02_convert_official_weights", "03_how_tlc_works"])
def test_a_picture_is_not_measured_against_the_truth_of_another(run, name):
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="or neither"):
        run(name, PICTURE=str(ROOT / "examples/noisy.png"))


def test_how_tlc_works(run):
    text = run("03_how_tlc_works", FACTORS=(1.5, 3))
    assert "picture 512x768, training crops 96x96\n" in text
    assert re.search(r"encoders_0_0/pool +mean +512x768 +144x144\n", text)
    (whole,) = numbers(r"whole picture +(\S+) of the spread", text)
    (windows,) = numbers(r"windows \(TLC\) +(\S+) of the spread", text)
    assert whole > 0.95 and windows < 0.8
    # A window of 1.5 crops is the default.
    assert numbers(r"local \(TLC\) +PSNR (\S+)", text) == numbers(r"window  144: (\S+)", text)
    assert numbers(r"global +PSNR (\S+)", text) < numbers(r"local \(TLC\) +PSNR (\S+)", text)


def test_train(run, folder):
    text = run("04_train_your_own", STEPS=12, BATCH=2)
    assert "4 photographs to train on, 1 to measure with\n" in text
    assert len(re.findall(r"step \d+  loss -\d+", text)) == 12
    assert len(re.findall(r"step \d+  input \S+  global \S+  local \S+\n", text)) == 3
    before, after = (
        numbers(rf"{name} +PSNR (\S+) dB", text)[0] for name in ("before", "fine-tuned")
    )
    assert after > before + 0.1
    assert (folder / "results" / "run" / "model" / "model.json").is_file()


def test_your_own_network(run):
    text = run("05_your_own_network", STEPS=20)
    assert "[1. 2. 3. 4. 5. 6. 7.]\nlocal mean  [2. 2. 3. 4. 5. 6. 6.]" in text
    assert "kind='mean', size=(512, 768), window=(96, 96), channels=16" in text
    assert numbers(r"local - global, largest: (\S+)", text)[0] > 1e-3
    for same in (
        "covers the picture",
        "NNX - Linen, global, largest",
        "NNX - Linen, local, largest",
        "Equinox - Linen, local, largest",
    ):
        assert numbers(rf"{same}: (\S+)", text)[0] < 1e-5
    assert "no local form of reduce_max" in text


@each_notebook
def test_both_files_are_one_notebook(path):
    as_script = jupytext.read(path.with_suffix(".py"), fmt="py:percent")
    stored, script = (
        [(cell.cell_type, cell.source, cell.metadata.get("tags")) for cell in notebook.cells]
        for notebook in (nbformat.read(path, as_version=4), as_script)
    )
    assert stored == script, "make notebooks"


@each_notebook
def test_is_stored_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, cell.id
        assert not re.search(r"(?<![\w.:/])(/[\w.]+/|[A-Z]:\\|~/)", cell.source), cell.id


def test_one_install_cell_but_for_the_extras():
    cells = [nbformat.read(path, as_version=4).cells[2].source for path in NOTEBOOKS]
    assert len({re.sub(r"\[[a-z,]+\]\"$", "", cell) for cell in cells}) == 1
