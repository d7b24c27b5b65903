# %% [markdown]
# # Your own network
#
# In Colab: File, Upload notebook.
#
# TLC is not about certain networks. Whatever averages over positions, takes moments over them or
# attends between channels can do so in windows when it restores. Here a small network of our own
# learns to take away noise in some seconds, and restores a photograph with global and with local
# statistics. At the end the same in Flax NNX, with the operations alone.

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
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import tlc_jax as tlc
from tlc_jax import ops
from tlc_jax.layers import Conv1x1, LocalPool

EXAMPLES = Path(tlc.__file__).parent / "examples"
RESULTS = Path("results")
RESULTS.mkdir(exist_ok=True)
print("JAX runs on", jax.default_backend())

# %% [markdown]
# ## The operation
#
# `tlc.local_mean` takes (N, H, W, C) and gives the mean of the window around each position. Near
# the border it is the nearest window that lies inside. A window that covers the map is the global
# mean.

# %%
x = jnp.arange(1.0, 8.0).reshape(1, 1, 7, 1)
print("array      ", x.ravel())
print("local mean ", tlc.local_mean(x, window=(1, 3)).ravel())

truth = tlc.read_image(EXAMPLES / "kodim.png")
image = tlc.read_image(EXAMPLES / "noisy.png")
figure, axes = plt.subplots(1, 4, figsize=(16, 3), layout="constrained")
for one, window in zip(axes, ((1, 1), (48, 48), (144, 144), None), strict=True):
    one.imshow(tlc.local_mean(truth[None], window)[0])
    one.set_title("the whole picture" if window is None else "window {}x{}".format(*window))
    one.axis("off")
figure.savefig(RESULTS / "local_mean.png")
plt.show()

# %% [markdown]
# ## A network with two modes
#
# Two convolutions, and between them channel attention as NAFNet has it: the means of the channels
# say how much of each goes on. To make it local takes
#
# - the class `tlc.Network`, which brings the fields, among them `local_mode`, `train_size` and
#   `window`, and gives each site its window, 1.5 times what it saw in training by default;
# - `forward` for the name of its method;
# - `LocalPool` in place of the mean. It gives one position for each window that lies inside, so
#   what follows runs on a smaller map;
# - `ops.spread`, which brings the result back to each position.
#
# There are no further parameters, and no second class.


# %%
class Small(tlc.Network):
    """Two convolutions around channel attention, (N, H, W, C) -> the same."""

    features: int = 16

    @nn.compact
    def forward(self, image):
        x = nn.gelu(nn.Conv(self.features, (5, 5), name="conv1")(image))
        pooled = LocalPool(name="pool")(x)
        attention = nn.sigmoid(Conv1x1(self.features, name="attention")(pooled))
        x = x * ops.spread(attention, x.shape[1:3])
        return image + nn.Conv(self.inp_channels, (5, 5), name="conv2")(x)


model = Small(train_size=(64, 64))
local = model.clone(local_mode=True)
for site in tlc.sites(local, image.shape[:2]):
    print(site)

# %% [markdown]
# ## Some steps of training
#
# Global, on crops of the clean photograph with noise. It sees one photograph only, and so little of
# it that this is no denoiser to keep: [04_train_your_own](04_train_your_own.ipynb) trains in
# earnest.

# %% tags=["parameters"]
STEPS = 200  # @param {type: "integer"}

# %%
params = model.init(jax.random.key(0), jnp.zeros((1, *model.train_size, 3)))["params"]
optimizer = optax.adam(2e-3)


@jax.jit
def step(params, state, crops, key):
    noisy = crops + 0.1 * jax.random.normal(key, crops.shape)

    def loss_of(params):
        return jnp.square(model.apply({"params": params}, noisy) - crops).mean()

    loss, gradients = jax.value_and_grad(loss_of)(params)
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(params, updates), state, loss


state = optimizer.init(params)
random = np.random.default_rng(0)
side = model.train_size[0]
losses = []
for number in range(STEPS):
    corners = random.integers(0, np.array(truth.shape[:2]) - side, (8, 2))
    crops = np.stack([truth[y : y + side, x : x + side] for y, x in corners])
    params, state, loss = step(params, state, crops, jax.random.key(number))
    losses.append(loss.item())
print(f"PSNR of the crops: {-10 * np.log10(losses[0]):.2f} -> {-10 * np.log10(losses[-1]):.2f} dB")

# %% [markdown]
# ## Both modes
#
# What takes a network takes this one: `tlc.restore`, `tlc.tiled`, `sites`. The parameters are
# the same. With a window that covers the picture, local is global. Which mode is better shows in
# networks that were trained for longer, on more: [03_how_tlc_works](03_how_tlc_works.ipynb).

# %%
globally = tlc.restore(model, params, image)
locally = tlc.restore(local, params, image)
covering = tlc.restore(local.clone(window=image.shape[:2]), params, image)
tlc.write_image(RESULTS / "own.png", locally)
for name, pixels in {"input": image, "global": globally, "local": locally}.items():
    print(f"{name:8}PSNR {tlc.psnr(pixels, truth):.2f} dB")
print(f"local - global, largest: {abs(locally - globally).max():.2g}")
print(f"the same with a window that covers the picture: {abs(covering - globally).max():.2g}")

# %% [markdown]
# What the attention says of the channel where it varies most: one number for the picture, or one
# for each place.


# %%
def attention(model):
    """(H', W', features), of the pooled map, from what the layer returned."""
    _, seen = model.apply({"params": params}, image[None], capture_intermediates=True)
    (found,) = seen["intermediates"]["attention"]["__call__"]
    return np.asarray(nn.sigmoid(found[0]))


of_places = np.asarray(ops.spread(attention(local)[None], image.shape[:2])[0])
of_picture = np.broadcast_to(attention(model), of_places.shape)
channel = of_places.std(axis=(0, 1)).argmax()
low, high = of_places[..., channel].min(), of_places[..., channel].max()
figure, axes = plt.subplots(1, 3, figsize=(15, 3.4), layout="constrained")
axes[0].imshow(locally.clip(0, 1))
axes[0].set_title(f"local, {tlc.psnr(locally, truth):.2f} dB")
for one, title, values in (
    (axes[1], "attention of a channel, global", of_picture),
    (axes[2], "local", of_places),
):
    shown = one.imshow(values[..., channel], vmin=low, vmax=high)
    one.set_title(title)
figure.colorbar(shown, ax=axes[1:])
for one in axes:
    one.axis("off")
figure.savefig(RESULTS / "own-figure.png")
plt.show()

# %% [markdown]
# ## Any network, in one line: NNX, Equinox, plain JAX
#
# A network that knows nothing of this library is made local from outside: `tlc.localize` takes a
# function and returns one that takes and returns the same. Here is `Small` once more in NNX, as one
# writes it, with an ordinary mean.


# %%
class SmallNNX(nnx.Module):
    """As `Small`, and as it is without TLC."""

    def __init__(self, features=16, *, rngs):
        self.conv1 = nnx.Conv(3, features, (5, 5), rngs=rngs)
        self.attention = nnx.Linear(features, features, rngs=rngs)
        self.conv2 = nnx.Conv(features, 3, (5, 5), rngs=rngs)

    def __call__(self, image):
        x = nnx.gelu(self.conv1(image))
        x = x * nnx.sigmoid(self.attention(x.mean(axis=(1, 2), keepdims=True)))
        return image + self.conv2(x)


# %% [markdown]
# With the parameters that were trained above it gives the same pictures as `Small`, in both modes.

# %%
network = SmallNNX(rngs=nnx.Rngs(0))
trained = jax.tree.map(jnp.asarray, params)
trained["attention"]["kernel"] = trained["attention"]["kernel"][0, 0]  # of a 1x1 convolution
nnx.update(network, trained)

made_local = jax.jit(tlc.localize(network, model.train_size))
print(f"NNX - Linen, global, largest: {abs(network(image[None])[0] - globally).max():.2g}")
print(f"NNX - Linen, local, largest: {abs(made_local(image[None])[0] - locally).max():.2g}")

# %% [markdown]
# In Equinox a network takes one picture (C, H, W); rows and columns are axes 1 and 2 there, too.
# Where a network lies in a batch (N, C, H, W), say `axes=(2, 3)`.

# %%
if find_spec("equinox") is None:
    pass
    # %pip install --quiet equinox

import equinox as eqx


class SmallEquinox(eqx.Module):
    """As `Small`, in Equinox."""

    conv1: eqx.nn.Conv2d
    attention: eqx.nn.Linear
    conv2: eqx.nn.Conv2d

    def __init__(self, features=16, *, key):
        keys = jax.random.split(key, 3)
        self.conv1 = eqx.nn.Conv2d(3, features, 5, padding=2, key=keys[0])
        self.attention = eqx.nn.Linear(features, features, key=keys[1])
        self.conv2 = eqx.nn.Conv2d(features, 3, 5, padding=2, key=keys[2])

    def __call__(self, image):
        x = jax.nn.gelu(self.conv1(image))
        weights = jax.nn.sigmoid(self.attention(x.mean(axis=(1, 2))))
        return image + self.conv2(x * weights[:, None, None])


def as_in_equinox(name):
    """Kernels (rows, columns, in, out) as (out, in, rows, columns), and biases beside them."""
    kernel, bias = trained[name]["kernel"], trained[name]["bias"]
    if kernel.ndim == 2:
        return kernel.T, bias
    return kernel.transpose(3, 2, 0, 1), bias[:, None, None]


network = SmallEquinox(key=jax.random.key(0))
for layer in ("conv1", "attention", "conv2"):
    kernel, bias = as_in_equinox(layer)
    network = eqx.tree_at(lambda n, layer=layer: getattr(n, layer).weight, network, kernel)
    network = eqx.tree_at(lambda n, layer=layer: getattr(n, layer).bias, network, bias)

made_local = jax.jit(tlc.localize(network, model.train_size))
restored = jnp.moveaxis(made_local(jnp.moveaxis(image, -1, 0)), 0, -1)
print(f"Equinox - Linen, local, largest: {abs(restored - locally).max():.2g}")

# %% [markdown]
# Means, sums, variances and attention are known. What has no local form is refused, with its line,
# rather than left global in silence: for example a maximum over the picture.

# %%
try:
    tlc.localize(lambda x: x / x.max(axis=(1, 2), keepdims=True), model.train_size)(image[None])
except tlc.LocalizeError as error:
    print(error)

# %% [markdown]
# A network that is to join the library brings two files: CONTRIBUTING.md in the repository tells
# which.
