"""The table of published checkpoints agrees with the files, the networks and the converter."""

import json
import lzma
import math
import re
from pathlib import Path

import pytest

from checkpoints_convert import TASKS
from tlc_jax.files.catalogue import PUBLISHED
from tlc_jax.files.checkpoints import count_params
from tlc_jax.layers.network import abstract_params
from tlc_jax.models import MODELS, Maxim

DATA = Path(__file__).parent / "data/published.json.xz"
# By name, without the ending: the published PyTorch files.
FILES = {
    name: entry
    for entry in json.loads(lzma.decompress(DATA.read_bytes()))
    for name in entry["files"]
}
CATALOGUE = {entry.file.removesuffix(".pth"): entry for entry in PUBLISHED}


def test_every_published_file_is_listed_once():
    assert len(CATALOGUE) == len(PUBLISHED)
    listed = {name for name, entry in CATALOGUE.items() if entry.network != "maxim"}
    assert listed == FILES.keys() and len(listed) == 39


@pytest.mark.parametrize("name", FILES)
def test_network_and_parameters_are_those_of_the_file(name):
    entry, file = CATALOGUE[name], FILES[name]
    # RNN-MBP's has some that its authors' network does not use.
    unused = sum(
        math.prod(shape) for key, shape in file["tensors"].items() if key.startswith("fusion.")
    )
    assert (entry.network, entry.parameters) == (file["network"], file["parameters"] - unused)


def test_parameters_of_maxim_are_those_of_the_network():
    listed = {entry.variant: entry.parameters for entry in PUBLISHED if entry.network == "maxim"}
    assert listed == {
        name: count_params(abstract_params(Maxim.variant(name))) for name in Maxim.variants
    }


@pytest.mark.parametrize("network", MODELS)
def test_every_variant_is_of_a_published_file(network):
    """What the variants are is compared with the files in test_convert.py."""
    listed = {entry.variant for entry in PUBLISHED if entry.network == network}
    assert listed == MODELS[network].variants.keys()


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry.file)
def test_entry(entry):
    assert entry.network in MODELS
    assert re.fullmatch(r"https://[\w./-]+", entry.source)
    # Converting the file says the same of its task, or nothing.
    told = next(
        (task for mark, task in TASKS if re.search(mark, Path(entry.file).name, re.I)), None
    )
    assert told in (None, entry.task)


def test_figures_are_plausible():
    """No digit was lost, and TLC is never published as a loss."""
    for entry in PUBLISHED:
        figures = [x for x in (entry.psnr_global, entry.psnr_local) if x is not None]
        assert all(20 < x < 45 for x in figures) and figures == sorted(figures)
