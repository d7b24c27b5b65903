"""Every notebook runs, shows what its reader must see and what is stored, and installs itself."""

import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import tlc_jax as tlc
from tlc_jax.files.pictures import read_picture

pytest.importorskip("nbclient")

import jupytext
import nbclient
import nbformat
from safetensors.numpy import save_file

from notebooks.__main__ import METADATA, address, client, execute, with_address

ROOT = Path(__file__).parent.parent
SHAKEN = ROOT / "tlc_jax/examples/shaken.png"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

Run = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where all of them run; what one of them compiles the next one has."""
    folder = tmp_path_factory.mktemp("notebooks")
    # Matplotlib looks for fonts once on a machine, and says so on stderr where that takes long.
    subprocess.run([sys.executable, "-c", "import matplotlib.font_manager"], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_PLATFORMS", "cpu")
        for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
            patch.setenv(variable, str(folder / ".jupyter"))
        yield folder


@pytest.fixture(scope="module")
def kernel(folder: Path) -> Iterator[nbclient.NotebookClient]:
    """One for all of them, as each new one would import JAX; `make notebooks` takes new ones."""
    kernel = client(folder)
    yield kernel
    execute(kernel, nbformat.v4.new_notebook())


@pytest.fixture(scope="module")
def run(kernel: nbclient.NotebookClient, folder: Path) -> Run:
    """Runs a notebook with some of its parameters replaced, in a new kernel if `alone`.

    Up to the first of those, it must show the words and pictures that are stored, and the numbers
    but for rounding.

    Returns:
      What its cells showed in words.
    """

    def run(name: str, *, alone: bool = False, **values: object) -> str:
        stored = read(name)
        notebook = read(name)
        unchanged = len(notebook.cells)
        for number, cell in enumerate(notebook.cells):
            if "parameters" in cell.metadata.get("tags", ()):
                for parameter in [*values]:
                    line = f"{parameter} = {values[parameter]!r}"
                    cell.source, found = re.subn(rf"(?m)^{parameter} = .*$", line, cell.source)
                    if found:
                        del values[parameter]
                        unchanged = min(unchanged, number)
        assert not values, "no such parameters"
        notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
        execute(client(folder) if alone else kernel, notebook, last=alone)
        shown = [displayed(cell) for cell in notebook.cells[1:]]
        expected = [displayed(cell) for cell in stored.cells]
        for (text, pictures), (stored_text, stored_pictures) in zip(
            shown[:unchanged], expected[:unchanged], strict=True
        ):
            words, figures = apart(text)
            stored_words, stored_figures = apart(stored_text)
            assert (words, pictures) == (stored_words, stored_pictures), "make notebooks"
            assert figures == pytest.approx(stored_figures, rel=1e-3, abs=0.02), "make notebooks"
        assert any(pictures for _, pictures in shown)
        return "".join(text for text, _ in shown)

    return run


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def displayed(cell: nbformat.NotebookNode) -> tuple[str, int]:
    """The words, and the number of pictures."""
    text, pictures = "", 0
    for output in cell.get("outputs", ()):
        if output.output_type == "stream":
            text += output.text
        else:
            text += output.data.get("text/markdown", "") + "\n"
            pictures += any(kind.startswith("image/") for kind in output.data)
    return text, pictures


def apart(text: str) -> tuple[str, list[float]]:
    """The words, and the numbers but for those in names.

    Words without digests, and without what depends on whether PyTorch is there.
    """
    text = re.sub(r"\b[0-9a-f]{64}\b|\.(pth|safetensors)\b", "", text)
    number = r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)"
    return re.sub(number, "", text), [*map(float, re.findall(number, text))]


def numbers(pattern: str, text: str) -> list[float]:
    """The numbers of the first place in a text that matches."""
    found = re.search(pattern, text)
    assert found, f"{pattern} is not in:\n{text}"
    return [float(number) for number in found.groups()]


def by_command_line(folder: Path, source: Path, *options: str) -> np.ndarray:
    """The pixels of what `tlc-jax restore` writes."""
    out = folder / "command_line.png"
    code = "from tlc_jax.__main__ import main; main()"
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
        expected = by_command_line(
            folder, ROOT / "tlc_jax/examples" / f"{name}.png", "--task", task
        )
        np.testing.assert_array_equal(written, expected)
    assert 0 < numbers(r"largest difference: (\S+) of full scale", text)[0] < 0.5


def test_convert(run):
    text = run("02_convert_official_weights")
    assert r"NAFNet-GoPro-width64.pth](https://" in text
    assert "| 67,888,835 | 33.08 | 33.71 | MIT |" in text  # under headings that say "published"
    assert re.search(r"network +nafnet\nparameters +972075\n.*'train_size': \[96, 96\]", text)
    assert "every parameter as it was: True" in text
    assert (
        "1 tensor does not fit:\n  intro.bias is missing, intro/bias: no tensor for this parameter"
        in text
    )
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
    tlc.write_image(folder / "mine.png", pixels, alpha=alpha[..., 0])
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
        run(name, PICTURE=str(ROOT / "tlc_jax/examples/noisy.png"))


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
    assert after > before + 0.05
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


def test_large_photographs(run, folder, random_params):
    """In a kernel where JAX has not started, as it takes its devices then."""
    tlc.write_image(folder / "crop.png", tlc.read_image(SHAKEN)[:192, :320])
    model = tlc.NAFNet(4, (1,), 1, (1,), train_size=(64, 64))
    tlc.save(folder / "tiny", model, random_params(model))
    crop = {"PICTURE": "crop.png", "REFERENCE": "crop.png", "TASK": "./tiny", "TILE": 160}
    text = run("06_large_photographs", alone=True, **crop)
    assert "devices: 4 cpu" in text
    (tile,) = numbers(r"a tile of 160 .* GiB, (\S+) of the whole", text)
    (device,) = numbers(r"each of the devices .* GiB, (\S+) of the whole", text)
    assert tile < 0.7 and device < 0.7
    seams = [
        numbers(rf"\n{way} +farthest +(\S+) of 255", text)[0]
        for way in ("devices", "tiles", "tiles without context")
    ]
    assert seams[0] < 0.01 < seams[1] < seams[2]


def test_from_another_framework(run):
    text = run("07_from_another_framework", STEPS=3)
    assert len(re.findall(r"the mean .* 96x96 of 384x512 pixels", text)) == 2
    assert "the network, global        384x512 of" in text
    assert numbers(r"the network, local +(\d+)x", text)[0] < 220  # two sites, one after the other
    for same in (
        "a picture of 96x96, local - global, largest",
        "covers the picture, local - global, largest",
        "that of the batch, largest",
        *(("Equinox - PyTorch, global, largest",) if find_spec("torch") else ()),
    ):
        assert numbers(rf"{same}: (\S+)", text)[0] < 1e-5
    assert numbers(r"local - global, largest: (\S+)\none picture", text)[0] > 1e-2
    assert len(re.findall(r": no local form of \w+ at \d+\.py:\d+: .*\.\n", text)) == 4


@each_notebook
def test_both_files_are_one_notebook(path):
    as_script = jupytext.read(path.with_suffix(".py"), fmt="py:percent")
    stored, script = (
        [(cell.cell_type, cell.source, cell.metadata.get("tags")) for cell in notebook.cells]
        for notebook in (nbformat.read(path, as_version=4), as_script)
    )
    assert stored == script, "make notebooks"


@each_notebook
def test_is_stored_as_it_ran(path):
    """From the first cell to the last, and without what is of one machine only."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == METADATA
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)], "make notebooks"
    for cell in notebook.cells:
        for text in (cell.source, displayed(cell)[0]):
            assert not re.search(r"(?<![\w.:/])(/[\w.]+/|[A-Z]:\\|~/)", text), cell.id


def test_they_are_small():
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 4e6


def test_one_install_cell_but_for_the_extras():
    cells = [read(path.stem).cells[2].source for path in NOTEBOOKS]
    assert len({re.sub(r"tlc-jax\[[a-z,]+\]", "", cell) for cell in cells}) == 1


@each_notebook
def test_the_address_is_that_of_the_package(path):
    notebook = nbformat.read(path, as_version=4)
    with_address(notebook, path.stem, address())
    assert notebook == nbformat.read(path, as_version=4), "make notebooks"


def test_an_address_is_taken_to_the_badge_and_the_install_cell():
    notebook = read("01_restore")
    with_address(notebook, "01_restore", "https://github.com/owner/name")
    title, _, install, *_ = notebook.cells
    colab = "https://colab.research.google.com/github/owner/name/blob/main/notebooks/"
    assert f"]({colab}01_restore.ipynb)\n" in title.source
    assert '\nREPOSITORY = "https://github.com/owner/name"' in install.source
    with_address(notebook, "01_restore", address())
    assert notebook == read("01_restore")


def test_install(folder, tmp_path, monkeypatch):
    """The first cell, in a Python that has what the package needs and not the package itself."""
    pytest.importorskip("hatchling")
    build = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path)
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    venv.create(tmp_path / "venv", symlinks=True)
    (site,) = tmp_path.glob("venv/lib/python*/site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.suffix != ".pth" and not entry.name.startswith(("tlc_jax", "checkpoints_convert")):
            (site / entry.name).symlink_to(entry)
    python = tmp_path / "venv/bin/python"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "here").mkdir()

    def call(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path / "here", capture_output=True, text=True)

    def install() -> subprocess.CompletedProcess[str]:
        return call(python, "-m", "IPython", "--colors=nocolor", "-c", cell.source)

    _, _, cell, *_ = read("01_restore").cells
    failed = install()
    assert failed.returncode == 1
    said = [line for line in failed.stdout.splitlines() if line]
    assert len(said) == 1 and said[0].startswith("tlc-jax is not installed: upload the wheel")
    (wheel,) = tmp_path.glob("*.whl")
    wheel = wheel.rename(tmp_path / "here" / wheel.name)
    for _ in ("installs", "does nothing"):
        installed = install()
        assert (installed.returncode, installed.stdout) == (0, ""), installed.stderr
        wheel.unlink(missing_ok=True)
    found = call(python, "-c", "import tlc_jax; print(tlc_jax.__file__)")
    assert found.stdout == f"{site}/tlc_jax/__init__.py\n", found.stderr
