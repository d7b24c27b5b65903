# %% [markdown]
# # From the authors' weights to the paper's table
#
# In Colab: File, Upload notebook.
#
# The authors of each network publish weights that were trained for weeks, mostly as PyTorch's
# `.pth` files. This notebook converts one, restores a picture with it, and measures it as the
# paper of TLC does (Chu, Chen, Chen and Lu, ECCV 2022,
# [arXiv 2112.04491](https://arxiv.org/abs/2112.04491)): PSNR with global and with local statistics.
# Without a file of yours it goes the same way with a small stand-in.

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

PACKAGE = "tlc-jax[convert,plot]"
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
import re
import shutil

import jax
import matplotlib.pyplot as plt
import numpy as np
from flax.traverse_util import flatten_dict
from IPython.display import Markdown, display
from PIL import Image

import tlc_jax as tlc
from checkpoints_convert import ConversionError, convert_file, convert_state_dict
from tlc_jax import MODELS
from tlc_jax.evaluation import reports
from tlc_jax.evaluation.evaluating import evaluate
from tlc_jax.evaluation.sheets import comparison
from tlc_jax.files import datasets as data
from tlc_jax.files.catalogue import PUBLISHED
from tlc_jax.files.checkpoints import describe

EXAMPLES = Path(tlc.__file__).parent / "examples"
RESULTS = Path("results")
RESULTS.mkdir(exist_ok=True)
print("JAX runs on", jax.default_backend())

# %% [markdown]
# ## What is published
#
# The package knows the published files, their licences and where they are, and the PSNR that was
# **published** for them; `tlc-jax models` prints the same. Here are those trained on GoPro, the
# data set of the paper's main table: 1111 test pictures of 1280 x 720. None of these figures was
# measured here.


# %%
def decibels(psnr):
    return "" if psnr is None else f"{psnr:.2f}"


rows = [
    "| network | file | parameters | global, published | local, published | licence |",
    "|---|---|---:|---:|---:|---|",
]
for one in PUBLISHED:
    if one.dataset == "GoPro":
        cells = (
            MODELS[one.network].__name__,
            f"[{one.file}]({one.source})",
            f"{one.parameters:,}",
            decibels(one.psnr_global),
            decibels(one.psnr_local),
            one.licence,
        )
        rows.append(f"| {' | '.join(cells)} |")
display(Markdown("\n".join(rows)))

# %% [markdown]
# What TLC gains, as published, for the files that both figures are published of: the same weights,
# with other statistics.

# %%
both = [one for one in PUBLISHED if one.dataset == "GoPro" and one.psnr_global and one.psnr_local]
both.sort(key=lambda one: one.psnr_local)
figure, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
for row, one in enumerate(both):
    axes.plot([one.psnr_global, one.psnr_local], [row, row], color="lightgray", linewidth=6)
    gain = one.psnr_local - one.psnr_global
    middle = (one.psnr_local + one.psnr_global) / 2
    axes.text(middle, row + 0.15, f"+{gain:.2f}", ha="center")
axes.plot([one.psnr_global for one in both], range(len(both)), "o", label="global")
axes.plot([one.psnr_local for one in both], range(len(both)), "o", label="local (TLC)")
axes.set_yticks(range(len(both)), [f"{MODELS[one.network].__name__}\n{one.file}" for one in both])
axes.margins(y=0.2)
axes.set_xlabel("PSNR on GoPro, dB, as published")
axes.legend(loc="lower right")
figure.savefig(RESULTS / "published.png")
plt.show()

# %% [markdown]
# ## A file of weights
#
# Download one from its authors, put it where the notebook can see it (in Colab: drop it on the
# Files pane) and give its path; here one for single pictures, as all but NAFSSR, RNN-MBP and the
# dual-pixel Restormer are. TRAIN_SIZE is the size of the training crops, which no file tells and
# which the window follows: `None` is right for the published files, else (height, width).

# %% tags=["parameters"]
WEIGHTS = ""  # @param {type: "string"}
TRAIN_SIZE = None  # @param {type: "raw"}

# %% [markdown]
# Without one, we make a **stand-in**: the small deblurrer of the package, written as NAFNet's
# authors write theirs. In their file the tensors have the names of PyTorch's modules and lie under
# `params`, kernels with their channels first. Its training crops were of 96 x 96. It is a `.pth`
# file, or `.safetensors` where there is no PyTorch.


# %%
def as_released(params):
    """Our parameters by the names, and in the layout, of NAFNet's release."""
    tensors = {}
    for path, leaf in flatten_dict(params, sep=".").items():
        name = re.sub(r"_(\d+)", r".\1", path)  # encoders_2_1 is one of a list in a list
        name = re.sub(r"(^ups\.\d+)", r"\1.0", name)  # before it shuffles pixels
        name = re.sub(r"\.sca\.", ".sca.1.", name)  # after it pools
        name = re.sub(r"(kernel|scale)$", "weight", name)
        if leaf.ndim == 4:
            leaf = leaf.transpose(3, 2, 0, 1)
        elif name.endswith((".beta", ".gamma")):
            leaf = leaf.reshape(1, -1, 1, 1)
        tensors[name] = np.array(leaf, order="C")
    return tensors


if not WEIGHTS:
    released = as_released(tlc.load("deblur")[1])
    if find_spec("torch"):
        import torch

        WEIGHTS = RESULTS / "stand-in.pth"
        state_dict = {name: torch.from_numpy(tensor) for name, tensor in released.items()}
        torch.save({"params": state_dict}, WEIGHTS)
    else:
        from safetensors.numpy import save_file

        WEIGHTS = RESULTS / "stand-in.safetensors"
        save_file({f"params.{name}": tensor for name, tensor in released.items()}, WEIGHTS)
    TRAIN_SIZE = (96, 96)
    for name in list(released)[:6]:
        print(f"{name:32}{released[name].shape}")
    print(f"... {len(released)} tensors in {WEIGHTS}")

# %% [markdown]
# ## Convert
#
# The converter recognises the network and its sizes from the names and shapes of the tensors, and
# writes a checkpoint folder, here in place of the one that this cell wrote before. On the command
# line it is `tlc-jax convert FILE FOLDER`.

# %%
checkpoint = RESULTS / Path(WEIGHTS).stem
shutil.rmtree(checkpoint, ignore_errors=True)
fields = {} if TRAIN_SIZE is None else {"train_size": tuple(TRAIN_SIZE)}
convert_file(WEIGHTS, checkpoint, **fields)
description = describe(checkpoint)
for name in ("network", "parameters", "config", "source", "weights_licence"):
    print(f"{name:16}{description[name]}")

# %% [markdown]
# Every tensor must be used once and every parameter filled once, or nothing is written. The
# stand-in shows both: what comes back is what went in, and a file with a tensor too few is refused.

# %%
model, params = tlc.load(checkpoint)
if Path(WEIGHTS).stem == "stand-in":
    same = jax.tree.map(np.array_equal, params, tlc.load("deblur")[1])
    print("every parameter as it was:", jax.tree.all(same))
    try:
        convert_state_dict({name: x for name, x in released.items() if name != "intro.bias"})
    except ConversionError as error:
        print(error)

# %% [markdown]
# ## A restored picture
#
# Give a picture that these weights are for, and its ground truth. Without one, it is the shaken
# photograph of the package. The sheet shows input, global, local, where those two differ, and
# enlarged the places where they differ most.

# %% tags=["parameters"]
PICTURE = ""  # @param {type: "string"}
REFERENCE = ""  # @param {type: "string"}

# %%
assert bool(PICTURE) == bool(REFERENCE), "Give both, PICTURE and REFERENCE, or neither."
image = tlc.read_image(PICTURE or EXAMPLES / "shaken.png", channels=model.inp_channels)
globally = tlc.restore(model, params, image)
locally = tlc.restore(model.clone(local_mode=True), params, image)
tlc.write_image(RESULTS / "restored.png", locally)
sheet = comparison(image, globally, locally)
tlc.write_image(RESULTS / "compare.png", sheet)
display(Image.fromarray(sheet))

# %% [markdown]
# ## The table of the paper
#
# Give the folder of GoPro's test set, as its authors or those of MPRNet or NAFNet distribute it,
# and how many of its pictures to measure: all 1111 for the table. Without it, one pair is measured,
# the picture above.

# %% tags=["parameters"]
DATA = ""  # @param {type: "string"}
PICTURES = 10  # @param {type: "integer"}

# %%
if not DATA:
    DATA = RESULTS / "pair"
    truth = tlc.read_image(REFERENCE or EXAMPLES / "kodim.png", channels=model.inp_channels)
    for kind, pixels in {"input": image, "target": truth}.items():
        (DATA / kind).mkdir(parents=True, exist_ok=True)
        tlc.write_image(DATA / kind / "picture.png", pixels)

MODES = ["local", "global"]
report = reports.open_report({"modes": MODES, "protocol": "rgb", "data": str(DATA)})
for pair in data.dataset(Path(DATA))[:PICTURES]:
    report["images"][pair.name] = evaluate(model, params, pair, MODES)
    reports.write_report(report, RESULTS / "report.json")
print("Measured here:")
# But for its last column, seconds: here the machine has much else to do.
display(Markdown(re.sub(r"[^|]+\|$", "", reports.table(report), flags=re.MULTILINE)))
print(reports.notes(report))

# %% [markdown]
# Beside what was published for this very file, if it is one of the published ones. They may be
# compared if all pictures of the test set were measured.

# %%
means = reports.means(report)
rows = ["| PSNR, dB | global | local | gain |", "|---|---:|---:|---:|"]
for one in PUBLISHED:
    # MAXIM's all are checkpoint.npz, in folders.
    if f"/{Path(WEIGHTS).as_posix()}".endswith(f"/{one.file}"):
        gain = one.psnr_local - one.psnr_global if one.psnr_local and one.psnr_global else None
        figures = map(decibels, (one.psnr_global, one.psnr_local, gain))
        rows.append(f"| {one.file}, {one.dataset}, **published** | {' | '.join(figures)} |")
figures = means["global"]["psnr"], means["local"]["psnr"], means["local"]["over_global"]
rows.append(
    f"| {Path(WEIGHTS).name}, {len(report['images'])} of {DATA}, **measured here** "
    f"| {' | '.join(map(decibels, figures))} |"
)
display(Markdown("\n".join(rows)))

# %% [markdown]
# `tlc-jax evaluate --data GoPro --checkpoint results/NAME --mode local,global --report report.json`
# does the same, and resumes where it was stopped.
