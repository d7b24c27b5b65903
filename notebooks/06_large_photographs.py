# %% [markdown]
# # A large photograph: tiles and devices
#
# In Colab: File, Upload notebook.
#
# A photograph of many megapixels may not fit in memory as a whole. It can go in tiles that overlap,
# or its rows can be divided over the devices of a machine. Here both are measured against the
# whole: what each takes of memory and time, and what the seams cost. The picture is small enough
# for two CPU cores, and the end tells what to change for a large one of yours.

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
# ## Four devices out of one
#
# A CPU is one device, unless JAX is told otherwise before it starts. GPUs and TPUs are as many as
# there are, and this changes nothing for them. The devices of a CPU share its cores and its memory:
# they show how a picture is divided, and gain no time.

# %%
import jax

jax.config.update("jax_num_cpu_devices", 4)

# %% [markdown]
# All that the notebook writes goes into the folder `results`. The example pictures come with the
# package.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np

import tlc_jax as tlc

EXAMPLES = Path(tlc.__file__).parent / "examples"
RESULTS = Path("results")
RESULTS.mkdir(exist_ok=True)
print("devices:", jax.device_count(), jax.default_backend())

# %% [markdown]
# ## Your photograph
#
# Give the path of a picture, of its ground truth if you have it, and what to do: "denoise",
# "deblur", or a checkpoint. Without a PICTURE, the notebook lays an example of the package, which
# a camera shook, out in four mirrored copies: 1.6 megapixels.

# %% tags=["parameters"]
PICTURE = ""  # @param {type: "string"}
REFERENCE = ""  # @param {type: "string"}
TASK = "deblur"  # @param {type: "string"}
TILE = 640  # @param {type: "integer"}

# %%
model, params = tlc.load(TASK)
local = model.clone(local_mode=True)
truth = None
if PICTURE:
    image = tlc.read_image(PICTURE, channels=model.inp_channels)
    if REFERENCE:
        truth = tlc.read_image(REFERENCE, channels=model.inp_channels)
else:
    image, truth = (
        np.pad(photograph, ((0, 512), (0, 768), (0, 0)), "symmetric")
        for photograph in map(tlc.read_image, (EXAMPLES / "shaken.png", EXAMPLES / "kodim.png"))
    )

size = image.shape[:2]
window = tlc.sites(local, size)[0].window  # at full resolution
print("picture {}x{}".format(*size), f"{size[0] * size[1] / 1e6:.1f} megapixels")
print("window of TLC {}x{}".format(*window))

# %% [markdown]
# ## What it takes, before anything runs
#
# `tlc.planned_memory` compiles the network for a size and tells the bytes that XLA plans to
# allocate: parameters, picture, result and all between them. Those of the whole grow with its
# pixels, those of a tile do not.

# %%
plans = {
    "the whole": tlc.planned_memory(local, size),
    f"a tile of {TILE}": tlc.planned_memory(local, (min(TILE, size[0]), min(TILE, size[1]))),
}
if model.divides:  # MAXIM does not
    plans["each of the devices"] = tlc.planned_memory(local, size, devices=jax.device_count())
for name, planned in plans.items():
    print(f"{name:20} {planned / 2**30:6.3f} GiB, {planned / plans['the whole']:.2f} of the whole")
per_pixel = plans["the whole"] / (size[0] * size[1])
print(f"a picture of 24 megapixels would take about {per_pixel * 24e6 / 2**30:.1f} GiB at once")

# %% [markdown]
# ## Three ways
#
# `tlc.restore` takes the picture at once, with `way=tlc.tiled(...)` in tiles, with `devices=`
# divided. A tile sees half a window of TLC around what is its own, its *context*, and fades into
# its neighbours. Devices hand each other the rows that they need, and the result is that of one
# device but for rounding. One compiled program serves all tiles.


# %%
def timed(title, **how):
    """Restores; says how long it took and what came of it."""
    start = time.perf_counter()
    restored = tlc.restore(local, params, image, **how)
    line = f"{title:24} {time.perf_counter() - start:6.2f} s"
    if truth is not None:
        line += f"  PSNR {tlc.psnr(restored, truth):.3f} dB"
    print(line)
    return restored


tlc.restore(local, params, image)  # the first run takes longer
results = {
    "whole": timed("whole"),
    "tiles": timed("tiles", way=tlc.tiled(TILE)),
    "tiles without context": timed("tiles without context", way=tlc.tiled(TILE, context=0)),
}
if model.divides:
    everywhere = {"devices": jax.device_count()}
    tlc.restore(local, params, image, **everywhere)
    results["devices"] = timed("devices", **everywhere)
tlc.write_image(RESULTS / "large.png", results["whole"])

# %% [markdown]
# ## What the seams cost
#
# The difference of each to the whole. Tiles without a context show where they meet: there the
# network sees no further, and their windows hold other pixels. With half a window of context the
# seam is far below a level of 8 bits almost everywhere. Divided over devices there is none.

# %%
AMPLIFIED = 60
ways = [name for name in results if name != "whole"]
differences = {name: np.abs(results[name] - results["whole"]).max(axis=-1) for name in ways}
figure, axes = plt.subplots(
    1, 1 + len(ways), figsize=(4.5 * (1 + len(ways)), 3.4), layout="constrained"
)
axes[0].imshow(results["whole"].clip(0, 1), cmap="gray")
axes[0].set_title("whole")
for one, (name, difference) in zip(axes[1:], differences.items(), strict=True):
    one.imshow((AMPLIFIED * difference).clip(0, 1), cmap="gray", vmin=0, vmax=1)
    one.set_title(f"{name} - whole, {AMPLIFIED} times")
    seen = 255 * difference
    print(f"{name:24} farthest {seen.max():8.4f} of 255, mean {seen.mean():.5f}")
for one in axes:
    one.axis("off")
figure.savefig(RESULTS / "seams.png")
plt.show()

# %% [markdown]
# Global statistics have another problem in tiles: those of a tile are not those of the picture,
# whatever it sees around it. So a result of tiles is not that of the network at all.

# %%
whole = tlc.restore(model, params, image)
tiles = tlc.restore(model, params, image, way=tlc.tiled(TILE, context=window[0] // 2))
print(f"global, tiles - whole: farthest {255 * np.abs(tiles - whole).max():.2f} of 255")

# %% [markdown]
# ## A large one of yours
#
# - Set PICTURE. TILE = 1024 or more: the larger, the smaller is the share of the context. With our
#   deblurrer a tile of 1024 sees 1.5 times the pixels that are its own, one of 2048 1.2 times.
# - Choose tiles where one device has not the memory, and devices where there are several: `devices`
#   takes NAFNet, Baseline, HINet, Restormer, MPRNet and NAFSSR. MAXIM goes in tiles.
# - On a GPU or TPU `model.clone(local_mode=True, dtype=jnp.bfloat16)` halves most of the memory.
# - Several pictures are better shared out, each to one device:
#   `tlc.restore_files(..., devices="all")`.
#
# On the command line the same is
#
#     tlc-jax info deblur --size 6000x4000               # the memory that it plans
#     tlc-jax restore scan.tif --task deblur             # in tiles where memory asks for it
#     tlc-jax restore scan.tif --task deblur --tiles 1024
#     tlc-jax restore scan.tif --task deblur --split all
#     tlc-jax restore photos/ --devices all
