# %% [markdown]
# # How TLC works
#
# In Colab: File, Upload notebook.
#
# Restoration networks are trained on small crops and then run on whole photographs. Layers that
# aggregate over all positions, such as channel attention, then meet other statistics than in
# training. TLC, the Test-time Local Converter, aggregates in a window around each position instead,
# not much larger than the crops. No weight changes.
#
# Chu, Chen, Chen and Lu, "Improving Image Restoration by Revisiting Global Information
# Aggregation", ECCV 2022, [arXiv 2112.04491](https://arxiv.org/abs/2112.04491).
#
# This notebook looks at those statistics, at what TLC makes of them, and at what it brings.

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
import functools

import jax
import matplotlib.pyplot as plt
import numpy as np

import tlc_jax as tlc
from tlc_jax import ops
from tlc_jax.evaluation.sheets import most_different, window_map
from tlc_jax.inference.sites import at_sites

EXAMPLES = Path(tlc.__file__).parent / "examples"
RESULTS = Path("results")
RESULTS.mkdir(exist_ok=True)
print("JAX runs on", jax.default_backend())

# %% [markdown]
# ## A network and a picture
#
# The small deblurrer of the package, a NAFNet, and a shaken photograph with its ground truth. The
# channel attention of the network weighs each channel by the mean of that channel. Any pair of
# pictures larger than the window will do, and any checkpoint of a NAFNet.

# %% tags=["parameters"]
CHECKPOINT = "deblur"  # @param {type: "string"}
PICTURE = ""  # @param {type: "string"}
REFERENCE = ""  # @param {type: "string"}

# %%
assert bool(PICTURE) == bool(REFERENCE), "Give both, PICTURE and REFERENCE, or neither."
model, params = tlc.load(CHECKPOINT)
local = model.clone(local_mode=True)
image = tlc.read_image(PICTURE or EXAMPLES / "shaken.png")
truth = tlc.read_image(REFERENCE or EXAMPLES / "kodim.png")
size = image.shape[:2]
crop = model.train_size[0]
print(f"picture {size[0]}x{size[1]}, training crops {crop}x{crop}")

# %% [markdown]
# ## The windows
#
# The places where the network aggregates, the size of the feature map there, and the window in
# force: 1.5 times the training crop, divided by as much as the map is smaller than the picture.

# %%
sites = tlc.sites(local, size)
print(f"{'site':20}{'statistics':12}{'map':>9}{'window':>9}")
for site in sites:
    (h, w), (k_h, k_w) = site.size, site.window
    print(f"{site.name:20}{site.kind:12}{f'{h}x{w}':>9}{f'{k_h}x{k_w}':>9}")

# %% [markdown]
# Over the picture: the window of the pixel in the middle and of one near the corner, where it is
# the nearest window that lies inside. White is a training crop.

# %%
figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
axes.imshow(window_map(image, sites))
corner = (size[1] - crop) / 2, (size[0] - crop) / 2
axes.add_patch(plt.Rectangle(corner, crop, crop, fill=False, color="white", linestyle="--"))
axes.axis("off")
figure.savefig(RESULTS / "windows.png")
plt.show()

# %% [markdown]
# ## What the network aggregates
#
# `at_sites` shows us each site while the network runs, with the feature map that comes in and the
# window. We note the mean of each channel: of the whole map, or with `local_mode` of each window.


# %%
@functools.partial(jax.jit, static_argnames="model")
def statistics(model, params, image):
    """The means that each site aggregates: (windows down, windows across, channels)."""
    found = {}

    def note(name, layer, inputs, window):
        found[name] = ops.window_mean(inputs[0], window)[0]

    with at_sites(note):
        model.apply({"params": params}, image[None])
    return found


# %% [markdown]
# Three times: for crops of the training size, which lie side by side in the picture, each a picture
# of its own to the network, as in training; for the whole picture; and for the windows.

# %%
down, across = size[0] // crop, size[1] // crop
of_crops = [
    statistics(model, params, image[y * crop :, x * crop :][:crop, :crop])
    for y in range(down)
    for x in range(across)
]
of_whole = statistics(model, params, image)
of_windows = statistics(local, params, image)

# By site, where the windows have one for each position of the feature map.
crops, whole, windows = {}, {}, {}
for site in sites:
    found = np.array([one[site.name] for one in of_crops])
    crops[site.name] = found.reshape(down, across, site.channels)
    whole[site.name] = np.asarray(of_whole[site.name])
    windows[site.name] = np.asarray(ops.spread(of_windows[site.name][None], site.size)[0])

# %% [markdown]
# How far is what a site gets from what it would get on a crop at that place? By channel, the root
# mean square over the crops, in units of how much crops differ.


# %%
def distance(name, given):
    """By channel; `given` is (1, 1, channels), or one for each position of the feature map."""
    expected = crops[name]
    height, width, _ = given.shape
    rows = (np.arange(down) * crop + crop // 2) * height // size[0]  # of the crops' middles
    columns = (np.arange(across) * crop + crop // 2) * width // size[1]
    error = np.square(given[np.ix_(rows, columns)] - expected).mean(axis=(0, 1))
    return np.sqrt(error) / expected.std(axis=(0, 1))


# %% [markdown]
# ## One statistic
#
# One channel at one site, of median distance. On crops its mean depends on where the crop lies:
# that is what the layers behind it were trained on. The whole picture has one value for all of it.
# The windows bring back what is particular about each place, smoothly.

# %% tags=["parameters"]
SITE = "encoders_1_0/pool"  # @param {type: "string"}

# %%
distances = distance(SITE, windows[SITE])
channel = np.argsort(distances)[len(distances) // 2]
ways = {
    f"{down * across} crops": crops[SITE][..., channel],
    "the whole picture": whole[SITE][..., channel],
    "windows (TLC)": windows[SITE][..., channel],
}
low, *_, high = np.sort(np.concatenate([values.ravel() for values in ways.values()]))
figure = plt.figure(figsize=(14, 6.5), layout="constrained")
axes = figure.subplot_mosaic("abc;ddd", height_ratios=(3, 2))
for panel, (way, values) in zip("abc", ways.items(), strict=True):
    height, width = (down * crop, across * crop) if panel == "a" else size
    shown = axes[panel].imshow(values, vmin=low, vmax=high, extent=(0, width, height, 0))
    axes[panel].set(title=way, xlim=(0, size[1]), ylim=(size[0], 0))
    axes[panel].axis("off")
figure.colorbar(shown, ax=axes["c"])
edges = np.linspace(low, high, 25)
on_crops, on_whole, in_windows = ways.values()
axes["d"].hist(on_crops.ravel(), edges, density=True, color="lightgray", label="crops")
axes["d"].hist(
    in_windows.ravel(), edges, density=True, histtype="step", linewidth=2, label="windows"
)
axes["d"].axvline(on_whole.item(), color="C3", linewidth=2, label="the whole picture")
axes["d"].set_xlabel(f"mean of channel {channel} at {SITE}")
axes["d"].set_ylabel("density")
axes["d"].legend()
figure.savefig(RESULTS / "statistic.png")
plt.show()

# %% [markdown]
# ## All of them
#
# The distance at every site, the median over channels. For the whole picture it is about 1: that
# says nothing of a place. A window is larger than a crop, and where the border allows centred on
# it, so its statistics are not the same either, but nearer.

# %%
by_way = {
    way: [np.median(distance(site.name, given[site.name])) for site in sites]
    for way, given in {"whole picture": whole, "windows (TLC)": windows}.items()
}
figure, axes = plt.subplots(figsize=(10, 3.6), layout="constrained")
for (way, values), colour in zip(by_way.items(), ("C3", "C0"), strict=True):
    axes.plot(values, ".-", color=colour, label=way)
    print(f"{way:15}{np.mean(values):.2f} of the spread of crops, mean over the sites")
axes.set_xticks(range(len(sites)), [site.name.split("/")[0] for site in sites], rotation=20)
axes.set_ylim(bottom=0)
axes.set_ylabel("distance from a crop's statistics")
axes.legend()
figure.savefig(RESULTS / "statistics.png")
plt.show()

# %% [markdown]
# ## Global, local, tiles
#
# The older way to give a network statistics of a place is to restore overlapping tiles of the
# training size, each a picture of its own, and to average them where they overlap. It costs the
# overlap, and at their borders tiles lack neighbours.

# %% tags=["parameters"]
OVERLAP = 16  # @param {type: "integer"}

# %%
results = {
    "global": tlc.restore(model, params, image),
    "local (TLC)": tlc.restore(local, params, image),
    f"tiles of {crop}": tlc.restore(model, params, image, way=tlc.tiled(crop, OVERLAP)),
}
for way, result in ({"input": image} | results).items():
    print(f"{way:13}PSNR {tlc.psnr(result, truth):.2f} dB")
    tlc.write_image(RESULTS / f"{way.split()[0]}.png", result)

# %% [markdown]
# Side by side, the place where local and global differ most.

# %%
top, left, height, width = most_different(abs(results["local (TLC)"] - results["global"]), 1)[0]
here = np.s_[top : top + height, left : left + width]
figure, axes = plt.subplots(1, 5, figsize=(20, 3.2), layout="constrained")
shown = {"input": image} | results | {"ground truth": truth}
for one, (way, result) in zip(axes, shown.items(), strict=True):
    one.imshow(result[here].clip(0, 1), interpolation="nearest")
    psnr = "" if result is truth else f", {tlc.psnr(result[here], truth[here]):.2f} dB"
    one.set_title(way + psnr)
    one.axis("off")
figure.savefig(RESULTS / "side_by_side.png")
plt.show()

# %% [markdown]
# Above, how they differ from the global one, on a logarithmic scale: tiles leave the edges of their
# lattice, windows change by a row or a column from one position to the next. Below, where a result
# is nearer to the ground truth than the global one (blue), or farther from it (red), in dB over
# 16 x 16 pixels.


# %%
def squared_error(result, side=16):
    """Against the ground truth, the mean over blocks; the rest below and right is cut off."""
    error = np.square(result - truth).mean(axis=-1)
    h, w = (length // side for length in error.shape)
    return error[: h * side, : w * side].reshape(h, side, w, side).mean(axis=(1, 3))


globally, locally, tiled = results.values()
figure, axes = plt.subplots(2, 2, figsize=(13, 8.4), layout="constrained")
for (above, below), way in zip(axes.T, [*results][1:], strict=True):
    difference = abs(results[way] - globally).mean(axis=-1)
    differing = above.imshow(np.log10(difference + 1e-5), cmap="magma", vmin=-4, vmax=-1.5)
    above.set_title(f"log10 |{way} - global|")
    gain = 10 * np.log10(squared_error(globally) / squared_error(results[way]))
    gaining = below.imshow(gain, cmap="RdBu", vmin=-2, vmax=2)
    below.set_title(f"{way}: {tlc.psnr(results[way], truth) - tlc.psnr(globally, truth):+.2f} dB")
figure.colorbar(differing, ax=axes[0])
figure.colorbar(gaining, ax=axes[1], label="gain over global, dB")
for one in axes.ravel():
    one.axis("off")
figure.savefig(RESULTS / "ways.png")
plt.show()

# %% [markdown]
# ## How large a window?
#
# PSNR against the side of the window. Small windows hold statistics that crops of the training size
# do not have; large ones are the whole picture again. The paper's choice is 1.5 times the crop,
# for all networks. Each size compiles anew, which is what takes the time here.

# %% tags=["parameters"]
FACTORS = (0.75, 1, 1.5, 2, 4)  # of the training crop

# %%
scores = {}
for factor in FACTORS:
    side = int(factor * crop)
    windowed = local.clone(window=(side, side))
    scores[side] = tlc.psnr(tlc.restore(windowed, params, image), truth)
    print(f"window {side:4}: {scores[side]:.2f} dB")

figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
axes.plot(scores.keys(), scores.values(), "o-", label="local, by the side of the window")
axes.axhline(tlc.psnr(globally, truth), color="C3", label="global")
axes.axhline(tlc.psnr(tiled, truth), color="gray", linestyle="--", label=f"tiles of {crop}")
axes.axvline(1.5 * crop, color="lightgray", zorder=0, label="1.5 times the training crop")
axes.set_xlabel("side of the window, pixels")
axes.set_ylabel("PSNR, dB")
axes.legend()
figure.savefig(RESULTS / "window_size.png")
plt.show()

# %% [markdown]
# This is one photograph. What TLC gains over many, with networks trained here and with published
# weights, and where it gains nothing, is in `docs/paper.md`.
