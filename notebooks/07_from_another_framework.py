# %% [markdown]
# # TLC for a network from another framework
#
# In Colab: File, Upload notebook.
#
# A network that was written without this library is made local from outside: `tlc.localize` takes
# the function and the size of its training crops, and returns a function of the same arguments.
# Here with a network in Flax NNX that learns on the spot, and with one that came from PyTorch and
# runs in Equinox. It shows which windows were found, where local equals global, and what is
# refused.
# [05_your_own_network](05_your_own_network.ipynb) writes a network for both modes from the start.

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
if find_spec("equinox") is None:
    pass
    # %pip install --quiet equinox

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import tlc_jax as tlc

EXAMPLES = Path(tlc.__file__).parent / "examples"
RESULTS = Path("results")
RESULTS.mkdir(exist_ok=True)
TRAIN_SIZE = (64, 64)  # pixels, of the crops that a network is trained on
truth, noisy = (
    tlc.read_image(EXAMPLES / name)[64:448, 128:640] for name in ("kodim.png", "noisy.png")
)
print("JAX runs on", jax.default_backend())

# %% [markdown]
# ## A network in Flax NNX
#
# Instance normalization and channel attention at half the resolution, as anybody writes them: with
# means and variances over rows and columns. Nothing in it is of this library.


# %%
class Denoiser(nnx.Module):
    """(N, H, W, 3) -> the same; H and W are even."""

    def __init__(self, features=16, *, rngs):
        inner = 2 * features
        self.down = nnx.Conv(3, inner, (4, 4), strides=2, padding=1, rngs=rngs)
        self.inside = nnx.Conv(inner, inner, (3, 3), rngs=rngs)
        self.attention = nnx.Linear(inner, inner, rngs=rngs)
        self.up = nnx.ConvTranspose(inner, features, (2, 2), strides=(2, 2), rngs=rngs)
        self.beside = nnx.Conv(3, features, (5, 5), rngs=rngs)
        self.last = nnx.Conv(features, 3, (3, 3), rngs=rngs)

    def __call__(self, image):
        x = self.down(image)
        half, rest = jnp.split(x, 2, axis=-1)  # half of the channels are normalized, as in HINet
        mean = half.mean(axis=(1, 2), keepdims=True)
        variance = half.var(axis=(1, 2), keepdims=True)
        half = (half - mean) * jax.lax.rsqrt(variance + 1e-5)
        x = nnx.gelu(self.inside(jnp.concatenate([half, rest], axis=-1)))
        x = x * nnx.sigmoid(self.attention(x.mean(axis=(1, 2), keepdims=True)))
        return image + self.last(nnx.gelu(self.up(x) + self.beside(image)))


# %% [markdown]
# An NNX network holds its parameters. `nnx.split` takes them out, so that the function has them as
# an argument: then new parameters need no new trace, and no program holds a copy of them.

# %% tags=["parameters"]
STEPS = 250  # @param {type: "integer"}

# %%
graph, params = nnx.split(Denoiser(rngs=nnx.Rngs(0)))


def apply(params, image):
    return nnx.merge(graph, params)(image)


optimizer = optax.adam(2e-3)


@jax.jit
def step(params, state, crops, key):
    damaged = crops + 0.1 * jax.random.normal(key, crops.shape)

    def loss_of(params):
        return jnp.square(apply(params, damaged) - crops).mean()

    loss, gradients = jax.value_and_grad(loss_of)(params)
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(params, updates), state, loss


state = optimizer.init(params)
random = np.random.default_rng(0)
losses = []
for number in range(STEPS):
    corners = random.integers(0, np.subtract(truth.shape[:2], TRAIN_SIZE), (8, 2))
    crops = np.stack([truth[y : y + TRAIN_SIZE[0], x : x + TRAIN_SIZE[1]] for y, x in corners])
    params, state, loss = step(params, state, crops, jax.random.key(number))
    losses.append(loss.item())
print(f"PSNR of the crops: {-10 * np.log10(losses[0]):.2f} -> {-10 * np.log10(losses[-1]):.2f} dB")

# %% [markdown]
# ## One line
#
# The image is the last argument. The window is 1.5 times the crops in each direction, and
# `window=` chooses another. The network saw one photograph only, the one that it restores, and for
# some seconds: what its figures say is that both modes run, not which is better.

# %%
globally = jax.jit(apply)(params, noisy[None])[0]
local_apply = jax.jit(tlc.localize(apply, TRAIN_SIZE))
locally = local_apply(params, noisy[None])[0]
for title, pixels in (("input", noisy), ("global", globally), ("local", locally)):
    print(f"{title:10} PSNR {tlc.psnr(np.asarray(pixels), truth):.2f} dB")
print(f"local - global, largest: {abs(locally - globally).max():.2g}")
tlc.write_image(RESULTS / "localized.png", np.asarray(locally))

# %% [markdown]
# ## Which windows were found
#
# You say the size of the crops, and nothing of the network's depth. What a pixel of the result
# depends on is where its gradient is not zero. For a mean by itself that is the window: 96 pixels
# at any depth. A convolution adds its reach, and one site after the other sees further than one.


# %%
def sees(fn):
    """The gradient of the middle pixel of a result, in the picture; and how far it reaches."""

    def middle(params, image):
        result = fn(params, image)
        return result[0, result.shape[1] // 2, result.shape[2] // 2].sum()

    of_image = jax.jit(jax.grad(middle, argnums=1))
    gradient = np.abs(of_image(params, noisy[None])[0]).sum(axis=-1)
    rows, columns = (np.flatnonzero(gradient.any(axis=axis)) for axis in (1, 0))
    return gradient, (np.ptp(rows) + 1, np.ptp(columns) + 1)


def mean_of(features):
    """A function that has a statistic for its result, the same at every position."""

    def fn(params, image):
        x = features(image)
        return jnp.broadcast_to(x.mean(axis=(1, 2), keepdims=True), x.shape)

    return fn


def halved(image):
    n, h, w, c = image.shape
    return image.reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


views = {
    "the mean of the picture": tlc.localize(mean_of(lambda image: image), TRAIN_SIZE),
    "the mean at half its size": tlc.localize(mean_of(halved), TRAIN_SIZE),
    "the network, global": apply,
    "the network, local": local_apply,
}
gradients = {}
for name, fn in views.items():
    gradients[name], (height, width) = sees(fn)
    print(f"{name:26} {height}x{width} of {truth.shape[0]}x{truth.shape[1]} pixels")

figure, axes = plt.subplots(1, len(gradients), figsize=(16, 3), layout="constrained")
for one, (name, gradient) in zip(axes, gradients.items(), strict=True):
    one.imshow(np.log10(gradient / gradient.max() + 1e-9), cmap="magma", vmin=-9, vmax=0)
    one.set_title(name)
    one.axis("off")
figure.savefig(RESULTS / "sees.png")
plt.show()

# %% [markdown]
# A picture no larger than the window has nothing to make local, and the function runs as it is. So
# does any picture with a window that covers it.

# %%
window = tuple(n * 3 // 2 for n in TRAIN_SIZE)
patch = noisy[None, 100 : 100 + window[0], 200 : 200 + window[1]]
same = abs(local_apply(params, patch) - jax.jit(apply)(params, patch)).max()
print("a picture of {}x{}, local - global, largest:".format(*window), f"{same:.2g}")
covering = jax.jit(tlc.localize(apply, TRAIN_SIZE, window=truth.shape[:2]))
same = abs(covering(params, noisy[None])[0] - globally).max()
print(f"a window that covers the picture, local - global, largest: {same:.2g}")

# %% [markdown]
# ## A network that came from PyTorch
#
# Its tensors have names, such as `qkv.weight`. A network in Equinox whose fields are called the
# same takes them by these names; kernels have the same layout, (out, in, rows, columns). This one
# normalizes, attends between channels as Restormer does, and then has channel attention.
# Weights of a release would come from `torch.load("weights.pth", weights_only=True)` or from a
# `.safetensors` file. Here they are drawn by chance, so its pictures mean nothing; that the numbers
# are those of PyTorch does.


# %%
class FromPyTorch(eqx.Module):
    """(3, H, W) -> the same. The fields have the names of the tensors."""

    intro: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    qkv: eqx.nn.Conv2d
    project: eqx.nn.Conv2d
    squeeze: eqx.nn.Linear
    ending: eqx.nn.Conv2d

    def __init__(self, features=16, *, key):
        keys = jax.random.split(key, 5)
        self.intro = eqx.nn.Conv2d(3, features, 3, padding=1, key=keys[0])
        self.norm = eqx.nn.GroupNorm(features, features)  # a group each: instance normalization
        self.qkv = eqx.nn.Conv2d(features, 3 * features, 1, key=keys[1])
        self.project = eqx.nn.Conv2d(features, features, 1, key=keys[2])
        self.squeeze = eqx.nn.Linear(features, features, key=keys[3])
        self.ending = eqx.nn.Conv2d(features, 3, 3, padding=1, key=keys[4])

    def __call__(self, image):
        x = self.intro(image)
        q, k, v = jnp.split(self.qkv(self.norm(x)).reshape(3 * len(x), -1), 3)
        q, k = (y / jnp.linalg.norm(y, axis=-1, keepdims=True) for y in (q, k))
        attended = jax.nn.softmax(q @ k.T, axis=-1) @ v
        x = x + self.project(attended.reshape(x.shape))
        x = x * jax.nn.sigmoid(self.squeeze(x.mean(axis=(1, 2))))[:, None, None]
        return image + self.ending(x)


def with_tensors(network, tensors):
    """The network with PyTorch's tensors by their names: each is used, and each field filled."""
    left = dict(tensors)

    def of(path, field):
        name = ".".join(key.name for key in path)
        tensor = left.pop(name)
        if tensor.size != field.size:
            raise ValueError(f"{name}: {tensor.shape} does not fit {field.shape}")
        return jnp.asarray(tensor.reshape(field.shape))  # biases are (channels, 1, 1) here

    network = jax.tree_util.tree_map_with_path(of, network)
    if left:
        raise ValueError(f"no field for {sorted(left)}")
    return network


# %% [markdown]
# Where PyTorch is there, as in Colab, the same network in PyTorch gives the tensors and what they
# should give. Where it is not, NumPy draws tensors of these names and shapes.

# %%
network = FromPyTorch(key=jax.random.key(0))
picture = np.moveaxis(noisy, -1, 0)  # (3, H, W)

if find_spec("torch"):
    import torch

    class Original(torch.nn.Module):
        """The network as PyTorch has it, (N, 3, H, W) -> the same."""

        def __init__(self, features=16):
            super().__init__()
            self.intro = torch.nn.Conv2d(3, features, 3, padding=1)
            self.norm = torch.nn.InstanceNorm2d(features, affine=True)
            self.qkv = torch.nn.Conv2d(features, 3 * features, 1)
            self.project = torch.nn.Conv2d(features, features, 1)
            self.squeeze = torch.nn.Linear(features, features)
            self.ending = torch.nn.Conv2d(features, 3, 3, padding=1)

        def forward(self, image):
            x = self.intro(image)
            q, k, v = self.qkv(self.norm(x)).flatten(2).chunk(3, dim=1)
            q, k = (torch.nn.functional.normalize(y, dim=-1) for y in (q, k))
            attended = (q @ k.transpose(1, 2)).softmax(dim=-1) @ v
            x = x + self.project(attended.reshape(x.shape))
            x = x * self.squeeze(x.mean(dim=(2, 3))).sigmoid()[:, :, None, None]
            return image + self.ending(x)

    torch.manual_seed(0)
    original = Original().eval()
    tensors = {name: tensor.numpy() for name, tensor in original.state_dict().items()}
else:
    original = None
    drawn = np.random.default_rng(0)
    tensors = {
        ".".join(key.name for key in path): drawn.normal(0, 0.1, field.shape).astype(np.float32)
        for path, field in jax.tree_util.tree_leaves_with_path(network)
    }

network = with_tensors(network, tensors)
for name, tensor in tensors.items():
    print(f"{name:16} {tensor.shape}")
if original is not None:
    with torch.inference_mode():
        expected = original(torch.from_numpy(picture[None])).numpy()[0]
    print(f"Equinox - PyTorch, global, largest: {abs(network(picture) - expected).max():.2g}")

# %% [markdown]
# In Equinox a network takes one picture; rows and columns are its axes 1 and 2, which is what
# `localize` assumes. A batch by `jax.vmap` is (N, C, H, W): `axes=(2, 3)`. The parameters are an
# argument here, too: `eqx.partition` takes them out.

# %%
arrays, rest = eqx.partition(network, eqx.is_array)


def apply_batch(arrays, images):
    return jax.vmap(eqx.combine(arrays, rest))(images)


local_batch = jax.jit(tlc.localize(apply_batch, TRAIN_SIZE, axes=(2, 3)))
batch = np.stack([picture, np.moveaxis(truth, -1, 0)])
locally = local_batch(arrays, batch)
globally = jax.jit(apply_batch)(arrays, batch)
print(f"local - global, largest: {abs(locally - globally).max():.2g}")
alone = jax.jit(tlc.localize(network, TRAIN_SIZE))(picture)
print(f"one picture - that of the batch, largest: {abs(alone - locally[0]).max():.2g}")

patches = batch[:, :, : window[0], : window[1]]
ours = local_batch(arrays, patches)
if original is not None:
    with torch.inference_mode():
        expected = original(torch.from_numpy(patches)).numpy()
    print(f"local - PyTorch, a picture as large as the window: {abs(ours - expected).max():.2g}")

# %% [markdown]
# ## What is refused
#
# Where no local form is known to be right, there is an error that names the line, rather than a
# result that is global in part. Mostly a few words in the network mend it.

# %%
image = noisy[None]


def grid(x):
    n, h, w, c = x.shape
    return x.reshape(n, 2, h // 2, 2, w // 2, c)


REFUSED = {
    "a maximum over the picture": lambda x: x / x.max(axis=(1, 2), keepdims=True),
    "a Fourier transform": lambda x: jnp.fft.ifft2(jnp.fft.fft2(x, axes=(1, 2)), axes=(1, 2)).real,
    "a number that depends on the size": lambda x: x * (x.shape[1] / 64),
    "a grid of 2 x 2 cells": lambda x: grid(x).mean(axis=(1, 3)),
}
for name, fn in REFUSED.items():
    try:
        tlc.localize(fn, TRAIN_SIZE)(image)
    except tlc.LocalizeError as error:
        print(f"{name}: {error}")

# %% [markdown]
# - A maximum over positions that are flattened to one axis has a local form: it is taken in the
#   fewest windows that cover the picture, as attention between channels is.
# - To divide by a count of positions, sum first, then divide; or take the mean.
# - Pad to a multiple before the function, and crop what it returns.
# - MAXIM's grids are made local by the network itself: `tlc.Maxim(local_mode=True)`.
