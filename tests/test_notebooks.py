"""Every notebook runs from a fresh kernel, says what its reader must know, and is stored clean."""

import re
from pathlib import Path

import numpy as np
import pytest

from tlc_jax import read_image, write_image

pytest.importorskip("nbclient")

import nbclient
import nbformat
from safetensors.numpy import save_file

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RESTORE = ROOT / "notebooks" / "restore.ipynb"

SIZE = (160, 192)

# What a reader must see, by notebook, when it runs without files of the reader's own.
MUST_SAY = {
    "restore.ipynb": (
        r"network +nafnet",
        r"weights_licence +MIT",
        r"largest difference: 0*\.?\d*[1-9]",
        r"site +statistics +map +window\n",
        r"encoders_0_0/pool +mean +160x192 +144x144\n",
        r"global +PSNR +\d+\.\d\d dB +SSIM -?0\.\d{4}\nlocal +PSNR",
        r"\[1\. 2\. 3\. 4\. 5\. 6\. 7\.\]\nlocal mean +\[2\. 2\. 3\. 4\. 5\. 6\. 6\.\]",
        r"local equals global: True",
    ),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to run in; nothing of the kernel's is left outside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / ".jupyter"))
    return tmp_path


def run(path: Path, **values: object) -> str:
    """Runs a notebook in the current folder with some of its parameters replaced.

    Returns:
      What its cells printed. No cell may write to stderr, where warnings go.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            for name in [*values]:
                line = f"{name} = {values[name]!r}"
                cell.source, found = re.subn(rf"(?m)^{name} = .*$", line, cell.source)
                if found:
                    del values[name]
    assert not values, "no such parameters"
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    streams = [output for output in outputs if output.output_type == "stream"]
    assert not [output.text for output in streams if output.name == "stderr"]
    assert any("image/png" in output.get("data", ()) for output in outputs)
    return "".join(output.text for output in streams)


def test_every_notebook_is_tested():
    assert {path.name for path in NOTEBOOKS} == MUST_SAY.keys()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_runs_without_the_readers_files(path, place):
    text = run(path, SIZE=SIZE)
    for pattern in MUST_SAY[path.name]:
        assert re.search(pattern, text), f"{pattern} is not in:\n{text}"


def test_restore_takes_the_readers_files(place, golden):
    save_file(golden("nafnet_a").tensors, place / "mine.safetensors")
    write_image(place / "blurry.png", np.random.default_rng(0).random((*SIZE, 3)))
    text = run(RESTORE, CHECKPOINT="mine.safetensors", PICTURE="blurry.png")
    assert "picture: blurry.png" in text
    assert "No REFERENCE given" in text
    # The official networks' windows of 384 pixels cover so small a picture.
    assert "largest difference: 0 of" in text
    assert read_image(place / "results" / "restored.png").shape == (*SIZE, 3)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_is_stored_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, cell.id
        assert not re.search(r"(?<![\w.:/])(/[\w.]+/|[A-Z]:\\|~/)", cell.source), cell.id
