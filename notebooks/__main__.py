"""Runs the notebooks and stores what they show: `make notebooks`.

Both files of each are first brought to the newer one. The address of the repository, for the cell
that installs and for the badge of Colab, stands in pyproject.toml.
"""

import base64
import io
import re
import tempfile
import tomllib
from pathlib import Path

import jupytext.cli
import nbclient
import nbformat
from PIL import Image

FOLDER = Path(__file__).parent
METADATA = {
    "accelerator": "GPU",
    "colab": {"gpuType": "T4", "provenance": []},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def address() -> str:
    """Of the repository; empty where pyproject.toml has none."""
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]
    return project["urls"].get("Repository", "")


def opening(name: str, repository: str) -> str:
    """How to open a notebook in Colab, which itself opens those of GitHub only."""
    if not repository.startswith("https://github.com/"):
        return "In Colab: File, Upload notebook."
    colab = "https://colab.research.google.com"
    path = repository.removeprefix("https://").removesuffix(".git").replace(".com", "")
    badge = f"[![Open in Colab]({colab}/assets/colab-badge.svg)]"
    return f"{badge}({colab}/{path}/blob/main/notebooks/{name}.ipynb)"


def with_address(notebook: nbformat.NotebookNode, name: str, repository: str) -> None:
    """Writes the address to the two places that have it: the third line and the first code."""
    title, _, install, *_ = notebook.cells
    lines = title.source.splitlines()
    lines[2] = opening(name, repository)
    title.source = "\n".join(lines)
    line = f'REPOSITORY = "{repository}"'
    install.source = re.sub(r'(?m)^REPOSITORY = ".*?"', line, install.source)


def client(folder: Path) -> nbclient.NotebookClient:
    """Runs notebooks in a folder."""
    return nbclient.NotebookClient(
        nbformat.v4.new_notebook(),
        timeout=1200,
        startup_timeout=180,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": folder}},
    )


def execute(
    client: nbclient.NotebookClient, notebook: nbformat.NotebookNode, *, last: bool = True
) -> None:
    """Runs all cells, of which none may write to stderr, where warnings go.

    Args:
      client: what runs them; it starts a kernel where it has none.
      notebook: gets what they show.
      last: the kernel ends with it.
    """
    client.nb = notebook
    client.execute(cleanup_kc=last)
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            assert output.get("name") != "stderr", output.text


def compress(output: nbformat.NotebookNode) -> None:
    """Stores a picture as JPEG where that is smaller, as for all that shows photographs."""
    data = output.get("data", {})
    if "image/png" in data:
        png = base64.b64decode(data["image/png"])
        jpeg = io.BytesIO()
        Image.open(io.BytesIO(png)).convert("RGB").save(jpeg, "JPEG", quality=75, optimize=True)
        if jpeg.tell() < len(png):
            del data["image/png"]
            data["image/jpeg"] = base64.b64encode(jpeg.getvalue()).decode()


def main() -> None:
    """Syncs, runs and stores all of them."""
    paths = sorted(map(str, FOLDER.glob("*.ipynb")))
    jupytext.cli.jupytext(["--quiet", "--sync", *paths])
    for path in map(Path, paths):
        notebook = nbformat.read(path, as_version=4)
        with_address(notebook, path.stem, address())
        with tempfile.TemporaryDirectory() as folder:
            execute(client(Path(folder)), notebook)
        notebook.metadata = nbformat.from_dict(METADATA)
        for cell in notebook.cells:
            for output in cell.get("outputs", ()):
                compress(output)
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
    jupytext.cli.jupytext(["--quiet", "--sync", *paths])


if __name__ == "__main__":
    main()
