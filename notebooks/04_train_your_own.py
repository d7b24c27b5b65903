# %% [markdown]
# # Train your own
#
# In Colab: File, Upload notebook.
#
# Fine-tuning: a network that knows photographs learns what degrades *yours*. Here the denoiser of
# the package, which knows Gaussian noise, learns noise that went through JPEG compression. A few
# steps show how it goes; a useful network takes thousands, see `docs/training.md`.

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

PACKAGE = "tlc-jax[plot,train]"
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
import dataclasses
import json

import jax
import matplotlib.pyplot as plt
import numpy as np

import tlc_jax as tlc
from tlc_jax.files.datasets import photographs
from tlc_jax.ops.pixels import to_float
from tlc_jax.training.config import Phase
from tlc_jax.training.configs import gaussian
from tlc_jax.training.degradations import GaussianNoise, InTurn, Jpeg
from tlc_jax.training.run import train

EXAMPLES = Path(tlc.__file__).parent / "examples"
RESULTS = Path("results")
RESULTS.mkdir(exist_ok=True)
print("JAX runs on", jax.default_backend())

# %% [markdown]
# ## Photographs
#
# A folder of clean photographs to train on, and another one to measure with; the degraded ones are
# made on the way. Without folders, crops of the package's example: from its left two thirds to
# train on, and the right third to measure with, so that nothing is measured that was trained on.

# %% tags=["parameters"]
PHOTOGRAPHS = ""  # @param {type: "string"}
HELD_OUT = ""  # @param {type: "string"}

# %%
if not PHOTOGRAPHS:
    PHOTOGRAPHS, HELD_OUT = RESULTS / "photographs", RESULTS / "held_out"
    for folder in (PHOTOGRAPHS, HELD_OUT):
        folder.mkdir(exist_ok=True)
    photograph = tlc.read_image(EXAMPLES / "kodim.png")
    for top in (0, 256):
        for left in (0, 256):
            crop = photograph[top : top + 256, left : left + 256]
            tlc.write_image(PHOTOGRAPHS / f"{top}-{left}.png", crop)
    tlc.write_image(HELD_OUT / "right.png", photograph[:, 512:])
assert HELD_OUT, "Name a folder HELD_OUT, too: photographs to measure with."
found, held_out = photographs(Path(PHOTOGRAPHS)), photographs(Path(HELD_OUT))
print(f"{len(found)} photographs to train on, {len(held_out)} to measure with")

# %% [markdown]
# ## What degrades them
#
# A degradation is called with a random key and a photograph; those of
# `tlc_jax.training.degradations` combine. Write your own where you know what your
# camera does, as a frozen dataclass, of which `docs/training.md` has an
# example: it runs under `jax.jit`. Four draws:

# %%
DEGRADATION = InTurn((GaussianNoise((0, 15)), Jpeg((10, 40))))

first = to_float(next(iter(found.values()))(3))[:192, :192]
figure, axes = plt.subplots(1, 5, figsize=(14, 3.2), layout="constrained")
axes[0].imshow(first)
axes[0].set_title("clean")
for number, one in enumerate(axes[1:]):
    degraded = np.asarray(DEGRADATION(jax.random.key(number), first))
    one.imshow(degraded.clip(0, 1))
    one.set_title(f"{tlc.psnr(degraded, first):.2f} dB")
for one in axes:
    one.axis("off")
figure.savefig(RESULTS / "draws.png")
plt.show()

# %% [markdown]
# ## The configuration
#
# Of the recipe of the denoiser's first stage we keep the network and change the rest. The
# training size of the network must be that of the crops: TLC's window follows from it. `average` is
# the decay of the moving average of the parameters, short as so short a run needs it.

# %% tags=["parameters"]
STEPS = 30  # @param {type: "integer"}
BATCH = 4  # @param {type: "integer"}

# %%
config = dataclasses.replace(
    gaussian.config,
    init_from="denoise",
    phases=(Phase(steps=STEPS, crop=96, batch=BATCH),),
    target=str(PHOTOGRAPHS),
    degradation=DEGRADATION,
    learning_rate=3e-4,
    warmup=0,
    average=0.9,
    validation_target=str(HELD_OUT),
    report_every=max(1, STEPS // 15),
    validate_every=max(1, STEPS // 3),
    save_every=STEPS,
)

# %% [markdown]
# ## Train
#
# A run is a folder. Interrupt it and run this cell again: it resumes. To begin anew, or with other
# settings, name another folder. Validation restores whole pictures, global and local.

# %% tags=["parameters"]
RUN = "results/run"  # @param {type: "string"}


# %%
def tell(report):
    """Prints notes, as of pictures that cannot be read, and what was measured but for the speed."""
    report.pop("samples_per_second", None)
    told = (f"{name} {x:.4g}" if name != "note" else x for name, x in report.items())
    print(*told, sep="  ")


checkpoint = train(config, RUN, watch=tell)

# %% [markdown]
# ## How it went
#
# The loss of this recipe is PSNR with a minus; crops differ, so it is noisy. Right, PSNR of the
# photographs that were held out, whole.

# %%
reports = [json.loads(line) for line in (Path(RUN) / "metrics.jsonl").read_text().splitlines()]
losses = [report for report in reports if "loss" in report]
scores = [report for report in reports if "local" in report]
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.6), layout="constrained")
left.plot([one["step"] for one in losses], [-one["loss"] for one in losses], ".-")
left.set_ylabel("PSNR of the crops trained on, dB")
for way in ("input", "global", "local"):
    style = "--" if way == "input" else "o-"
    right.plot([one["step"] for one in scores], [one[way] for one in scores], style, label=way)
right.set_ylabel("PSNR of what was held out, dB")
right.legend()
for one in (left, right):
    one.set_xlabel("step")
figure.savefig(RESULTS / "curves.png")
plt.show()

# %% [markdown]
# ## Restore with it
#
# `model/` in the folder of the run is a checkpoint like any other, for `tlc.load` and for
# `tlc-jax restore --checkpoint`. Beside the denoiser that it began as, on a photograph that was
# held out: what to that one looks like detail worth keeping, the fine-tuned one knows for traces of
# compression.

# %%
truth = to_float(next(iter(held_out.values()))(3))
degraded = np.asarray(DEGRADATION(jax.random.key(0), truth))
pictures = {"degraded": degraded}
for name, source in {"before": "denoise", "fine-tuned": checkpoint}.items():
    model, params = tlc.load(source)
    pictures[name] = tlc.restore(model.clone(local_mode=True), params, degraded)
for name, pixels in pictures.items():
    tlc.write_image(RESULTS / f"{name}.png", pixels)
    print(f"{name:11}PSNR {tlc.psnr(pixels, truth):.2f} dB")

side = min(192, *truth.shape[:2])
top, left = ((length - side) // 2 for length in truth.shape[:2])
figure, axes = plt.subplots(1, 4, figsize=(16, 4.5), layout="constrained")
for one, (name, pixels) in zip(axes, (pictures | {"ground truth": truth}).items(), strict=True):
    shown = pixels if pixels is truth else pixels.clip(0, 1)
    one.imshow(shown[top : top + side, left : left + side], interpolation="nearest")
    one.set_title(name if pixels is truth else f"{name}, {tlc.psnr(pixels, truth):.2f} dB")
    one.axis("off")
figure.savefig(RESULTS / "fine-tuned-figure.png")
plt.show()
