# %% [markdown]
# # Restoring a photograph
#
# In Colab: File, Upload notebook.
#
# A photograph in, the restored one out, with the two small networks that come with the package:
# "denoise" takes away noise, "deblur" the shake of a camera.
# Both run with TLC, the Test-time Local Converter (Chu, Chen, Chen and Lu, ECCV 2022,
# [arXiv 2112.04491](https://arxiv.org/abs/2112.04491)); what that is shows the notebook
# [03_how_tlc_works](03_how_tlc_works.ipynb).
#
# The files that this notebook writes hold the very pixels that `tlc-jax restore` writes.

# %% [markdown]
# ## Install
#
# Nothing happens where the package is installed already. Else pip takes the wheel that lies beside
# the notebook, or the package by its name. The runtime's own JAX stays, for its GPU or TPU.

# %%
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "tlc-jax[plot]"
REPOSITORY = ""  # [project.urls] of pyproject.toml

if find_spec("tlc_jax") is None:
    sources = [f"{PACKAGE} @ {wheel.resolve().as_uri()}" for wheel in Path().glob("tlc_jax-*.whl")]
    sources.append(PACKAGE)
    if REPOSITORY:
        sources.append(f"{PACKAGE} @ git+{REPOSITORY}")
    keep = [f"jax=={version('jax')}"] if find_spec("jax") else []
    pip = [sys.executable, "-m", "pip", "install", "--quiet", *keep]
    if all(subprocess.run([*pip, source]).returncode for source in sources):
        error = ImportError(
            "tlc-jax is not installed: upload the wheel that `make package` builds beside this "
            "notebook, or pip install your copy of the repository, then run this cell again."
        )
        error._render_traceback_ = lambda: [str(error)]  # in Jupyter and Colab, without a traceback
        raise error

# %% [markdown]
# All that the notebook writes goes into the folder `results`. The example pictures come with the
# package.

# %%
import jax
import matplotlib.pyplot as plt
from IPython.display import display
from PIL import Image

import tlc_jax as tlc
from tlc_jax.evaluation.sheets import comparison, most_different
from tlc_jax.files.pictures import read_picture
from tlc_jax.ops.pixels import to_float

EXAMPLES = Path(tlc.__file__).parent / "examples"
RESULTS = Path("results")
RESULTS.mkdir(exist_ok=True)
print("JAX runs on", jax.default_backend())

# %% [markdown]
# ## Your photograph
#
# Give the path of a picture (in Colab: drop it on the Files pane, or set UPLOAD and choose it when
# asked) and what to do with it: "denoise", "deblur", or the folder of a checkpoint.
# If you have the ground truth, give it as REFERENCE.
# Without a PICTURE, the notebook takes two of the package's, degraded from one photograph of the
# Kodak set: one with noise, one shaken.

# %% tags=["parameters"]
PICTURE = ""  # @param {type: "string"}
TASK = "denoise"  # @param {type: "string"}
REFERENCE = ""  # @param {type: "string"}
UPLOAD = False  # @param {type: "boolean"}

# %%
if UPLOAD:
    from google.colab import files

    PICTURE = next(iter(files.upload()))

if PICTURE:
    jobs = [(PICTURE, TASK, REFERENCE)]
else:
    truth = EXAMPLES / "kodim.png"
    jobs = [(EXAMPLES / "noisy.png", "denoise", truth), (EXAMPLES / "shaken.png", "deblur", truth)]

# %% [markdown]
# ## Restore
#
# A checkpoint loads as a Flax module and its parameters. `local_mode=True` turns TLC on, for the
# same parameters. A picture keeps its depth of 8 or 16 bits, its alpha and its colour profile. The
# first picture of a size compiles for some seconds; the next ones of that size do not.


# %%
def restore_file(source, task):
    """Restores a file into `results`; returns the picture and the result, as floats."""
    model, params = tlc.load(task)
    local = model.clone(local_mode=True)
    picture = read_picture(source, channels=model.inp_channels)
    restored = tlc.restore(local, params, picture.pixels)
    path = RESULTS / f"{Path(source).stem}-{Path(task).name}.png"
    tlc.write_image(path, restored, alpha=picture.alpha, icc_profile=picture.icc_profile)
    print(f"{Path(source).name} -> {path}")
    return to_float(picture.pixels), to_float(restored)


# %% [markdown]
# Below: the whole picture, and the place with the most detail, pixel by pixel. PSNR is against the
# reference; higher is better.


# %%
def show(pictures, truth=None):
    """Pictures by their titles, each whole and enlarged where the second has the most detail."""
    _, restored, *_ = pictures.values()
    top, left, height, width = most_different(abs(restored[:, 1:] - restored[:, :-1]), 1)[0]
    figure, axes = plt.subplots(
        2, len(pictures), figsize=(5 * len(pictures), 7), layout="constrained", squeeze=False
    )
    for (whole, enlarged), (title, pixels) in zip(axes.T, pictures.items(), strict=True):
        if truth is not None and pixels is not truth:
            title += f", {tlc.psnr(pixels, truth):.2f} dB"
        pixels = pixels.clip(0, 1)
        whole.imshow(pixels, cmap="gray")
        whole.add_patch(plt.Rectangle((left, top), width, height, fill=False, color="red"))
        whole.set_title(title)
        enlarged.imshow(
            pixels[top : top + height, left : left + width], cmap="gray", interpolation="nearest"
        )
        whole.axis("off")
        enlarged.axis("off")
    return figure


for source, task, reference in jobs:
    image, restored = restore_file(source, task)
    pictures = {"input": image, f"restored ({task})": restored}
    truth = None
    if reference:
        truth = pictures["reference"] = tlc.read_image(reference, channels=image.shape[-1])
        before, after = tlc.psnr(image, truth), tlc.psnr(restored, truth)
        print(f"PSNR {before:.2f} -> {after:.2f} dB")
    figure = show(pictures, truth)
    figure.savefig(RESULTS / f"{Path(source).stem}-{Path(task).name}-figure.png")
    plt.show()

# %% [markdown]
# ## What TLC changes
#
# The same network with global statistics, as it was trained, and where the two differ.
# `tlc-jax restore --compare` puts this sheet beside each result.

# %%
source, task, _ = jobs[-1]
model, params = tlc.load(task)
image = tlc.read_image(source, channels=model.inp_channels)
globally = tlc.restore(model, params, image)
locally = tlc.restore(model.clone(local_mode=True), params, image)
sheet = comparison(image, globally, locally)
tlc.write_image(RESULTS / "compare.png", sheet)
print(f"largest difference: {abs(locally - globally).max():.2g} of full scale")
display(Image.fromarray(sheet))

# %% [markdown]
# ## On the command line
#
#     tlc-jax restore photo.png -o restored.png --task deblur
#
# takes folders and videos, too. Published networks, which are many times as large, come next:
# [02_convert_official_weights](02_convert_official_weights.ipynb).
