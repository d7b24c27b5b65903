# %% [markdown]
# # How TLC works
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
# This works on the CPU, GPU and TPU runtimes of Colab, and does nothing where the package is
# installed already. pip adds only what is missing; the runtime's own JAX stays.

# %%
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

REPOSITORY = ""  # where you got this notebook from: the address that git clones

if find_spec("tlc_jax") is None:
    assert REPOSITORY, "Set REPOSITORY above to the address of the tlc-jax repository."
    keep = [f"{name}=={version(name)}" for name in ("jax", "jaxlib") if find_spec(name)]
    Path("keep.txt").write_text("\n".join(keep))
    # !git clone --quiet --depth 1 {REPOSITORY} tlc-jax
    # %pip install --quiet --constraint keep.txt "./tlc-jax[plot]"

# %% [markdown]
# All that the notebook writes goes into the folder `results`. The repository's examples lie beside
# the notebooks, or in the copy that the cell above made.

# %%
import functools

import jax
import matplotlib.pyplot as plt
import numpy as np

import tlc_jax as tlc
from tlc_jax import ops
from tlc_jax.restore import at_sites
from tlc_jax.sheet import window_map

PLACES = [Path("examples"), Path("../examples"), Path("tlc-jax/examples")]
EXAMPLES = next((place for place in PLACES if place.is_dir()), PLACES[0])
RESULTS = Path("results")
RESULTS.mkdir(exist_ok=True)
print(f"JAX {jax.__version__} on {jax.default_backend()}")

# %% [markdown]
# ## A network and a picture
#
# The small deblurrer of the package, a NAFNet, and a shaken photograph whose truth is known. Its
# channel attention weighs each channel by the mean of that channel. Any pair of pictures larger
# than the window will do, and any checkpoint of a NAFNet.

# %% tags=["parameters"]
CHECKPOINT = "deblur"  # @param {type: "string"}
PICTURE = ""  # @param {type: "string"}
REFERENCE = ""  # @param {type: "string"}

# %%
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
# `at_sites` shows us each site while the network runs, with the feature map that comes in. We note
# the mean of each channel: of the whole map, or with `local_mode` of each window.


# %%
@functools.partial(jax.jit, static_argnames="model")
def statistics(model, params, image):
    """The means that each site aggregates: (windows down, windows across, channels)."""
    found = {}

    def note(name, layer, inputs):
        found[name] = ops.window_mean(inputs[0], layer.window)[0]

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
    whole[site.name] = np.asarray(of_whole[site.name]).reshape(site.channels)
    windows[site.name] = np.asarray(ops.spread(of_windows[site.name][None], site.size)[0])

# %% [markdown]
# ## One statistic
#
# One channel at one site. On crops it depends on where the crop lies: that is what the layers
# behind it were trained on. The whole picture has one value for all of it. The windows bring back
# what is particular about each place, smoothly.

# %% tags=["parameters"]
SITE = "encoders_2_0/pool"  # @param {type: "string"}

# %%
ratio = windows[SITE].std(axis=(0, 1)) / crops[SITE].std(axis=(0, 1))
channel = np.argsort(ratio)[len(ratio) // 2]  # a typical one, not the best
ways = {
    f"{down * across} crops": crops[SITE][..., channel],
    "the whole picture": whole[SITE][channel].reshape(1, 1),
    "windows (TLC)": windows[SITE][..., channel],
}
low, *_, high = np.sort(np.concatenate([values.ravel() for values in ways.values()]))
figure = plt.figure(figsize=(14, 6.5), layout="constrained")
axes = figure.subplot_mosaic("abc;ddd", height_ratios=(3, 2))
for panel, (way, values) in zip("abc", ways.items(), strict=True):
    shown = axes[panel].imshow(values, vmin=low, vmax=high, extent=(0, size[1], size[0], 0))
    axes[panel].set_title(way)
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
# How far is what a site gets from what it would get on a crop at that place? In units of how much
# crops differ, root mean square over the crops, the median over channels. For the whole picture
# that is about 1: it says nothing of the place. A window is larger than a crop and centred on it
# where the border allows, so its statistics are not the same either, but nearer.

# %%
distance = {"whole picture": [], "windows (TLC)": []}
for site in sites:
    expected = crops[site.name]
    middles = [
        (np.arange(count) * crop + crop // 2) * mapped // length
        for count, mapped, length in zip((down, across), site.size, size, strict=True)
    ]
    there = windows[site.name][np.ix_(*middles)]
    for way, values in zip(distance, (whole[site.name], there), strict=True):
        error = np.sqrt(np.square(values - expected).mean(axis=(0, 1)))
        distance[way].append(np.median(error / expected.std(axis=(0, 1))))

figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
for (way, values), colour in zip(distance.items(), ("C3", "C0"), strict=True):
    axes.plot(values, ".-", color=colour, label=way)
    print(f"{way:15}{np.mean(values):.2f} of the spread of crops, mean over the sites")
axes.set_xticks(range(len(sites)), [site.name.removesuffix("/pool") for site in sites], rotation=30)
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
    f"tiles of {crop}": tlc.restore_tiles(model, params, image, crop, OVERLAP),
}
for way, result in ({"input": image} | results).items():
    print(f"{way:13}PSNR {tlc.psnr(result, truth):.2f} dB")
    tlc.write_image(RESULTS / f"{way.split()[0]}.png", result)

# %% [markdown]
# Above, the results. In the middle, how they differ from the global one, all stretched alike:
# tiles leave their lattice of seams, windows do not. Below, where a result is nearer to the truth
# than the global one (blue) and where it is farther from it (red): the difference of the squared
# errors, averaged over 16 x 16 pixels.


# %%
def averaged(pixels, side=16):
    """A map (H, W) in blocks; what is left over at the right and below is cut off."""
    h, w = (length // side for length in pixels.shape)
    return pixels[: h * side, : w * side].reshape(h, side, w, side).mean(axis=(1, 3))


globally, locally, tiled = results.values()
stretch = 1 / np.quantile(abs(locally - globally), 0.99)
figure, axes = plt.subplots(3, 3, figsize=(14, 10), layout="constrained")
for column, (way, result) in zip(axes.T, results.items(), strict=True):
    column[0].set_title(f"{way}, {tlc.psnr(result, truth):.2f} dB")
    column[0].imshow(result.clip(0, 1))
    if way != "global":
        column[1].set_title(f"|{way.split()[0]} - global| x {stretch:.0f}")
        column[1].imshow((abs(result - globally) * stretch).clip(0, 1))
        gain = np.square(globally - truth) - np.square(result - truth)
        gain = averaged(gain.mean(axis=-1))
        limit = abs(gain).max() / 2
        column[2].set_title("nearer to the truth than global, or farther")
        column[2].imshow(gain, cmap="RdBu", vmin=-limit, vmax=limit)
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
FACTORS = (0.75, 1, 1.5, 2, 3, 4)  # of the training crop

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
