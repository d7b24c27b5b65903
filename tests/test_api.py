"""The public names: there, explained, and alike where they do alike."""

import dataclasses
import importlib.metadata
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import checkpoints_convert
import tlc_jax as tlc
from tlc_jax import batch, jobs, layers, ops
from tlc_jax.evaluation import evaluating as evaluate
from tlc_jax.evaluation import reports
from tlc_jax.files import catalogue
from tlc_jax.files import datasets as data
from tlc_jax.training import config as recipe
from tlc_jax.training import degradations, step
from tlc_jax.training import run as train

REFERENCE = Path(__file__).parent.parent / "docs/reference"
FUNCTIONS = [
    name
    for name in tlc.__all__
    if callable(getattr(tlc, name)) and not isinstance(getattr(tlc, name), type)
]
CLASSES = [name for name in tlc.__all__ if isinstance(getattr(tlc, name), type)]
ROOMS = [name for name in tlc.__all__ if inspect.ismodule(getattr(tlc, name))]
# The window stands where `local_mean` has it, after the arrays, and may be left out.
POSITIONAL_OPTIONS = {name: {"window"} for name in ("spatial_attention", "transposed_attention")}
POSITIONAL_OPTIONS["tiled"] = {"overlap"}  # tiled(256, 32), as papers write it


def sections(name: str) -> dict[str, str]:
    """The docstring by its headings: "" is what comes before the first, then Args, Returns, ..."""
    text = inspect.getdoc(getattr(tlc, name)) or ""
    parts = re.split(r"^(Args|Returns|Raises|Example):$", text, flags=re.M)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def test_version():
    assert tlc.__version__ == importlib.metadata.version("tlc-jax")


def test_every_public_name_is_of_some_kind():
    assert len(set(tlc.__all__)) == len(tlc.__all__)
    assert {*FUNCTIONS, *CLASSES, *ROOMS, "MODELS"} == set(tlc.__all__)


def public(module) -> list[str]:
    """What a module offers; without `__all__`, the functions and classes that it defines."""
    defined = (
        name
        for name, member in vars(module).items()
        if getattr(member, "__module__", None) == module.__name__ and callable(member)
    )
    names = getattr(module, "__all__", None) or list(defined)
    return [
        name
        for name in names
        if not name.startswith("_") and not inspect.ismodule(getattr(module, name))
    ]


MODULES = [tlc, ops, layers, jobs, batch, checkpoints_convert, evaluate, reports, data, catalogue]
MODULES += [train, recipe, step, degradations]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_is_in_the_reference(module):
    pages = "\n".join(page.read_text() for page in REFERENCE.glob("*.md"))
    # As mkdocstrings does it, which takes `tlc_jax.restore` for the module of that name.
    documented = [pkgutil.resolve_name(entry) for entry in re.findall(r"^::: (\S+)$", pages, re.M)]
    assert public(module)
    if module not in documented:  # as a whole
        for name in public(module):
            assert any(getattr(module, name) is one for one in documented), name


@pytest.mark.parametrize("name", FUNCTIONS + CLASSES)
def test_documented(name):
    # Dataclasses and named tuples without a docstring get one like "Site(name, size)".
    opening = sections(name)[""]
    assert re.match(r"[A-Z].*\.( |$)", opening.split("\n\n")[0].replace("\n", " ")), opening
    assert not opening.startswith(f"{name}("), opening


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_document_what_they_take_and_return(name):
    signature, documented = inspect.signature(getattr(tlc, name)), sections(name)
    if other := re.search(r"arguments as for `(\w+)`", " ".join(documented.values())):
        args = inspect.getdoc(getattr(tlc, other[1], None) or getattr(tlc.ops, other[1]))
    else:
        args = documented.get("Args", "")
    # Lines such as "  q, k, v: what they are".
    listed = re.findall(r"^  (\*{0,2}\w+(?:, \w+)*): ", args, re.M)
    names = [name.lstrip("*") for line in listed for name in line.split(", ")]
    missing = signature.parameters.keys() - names
    assert not missing
    if signature.return_annotation is not None:
        assert documented.get("Returns", "").strip()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_options_are_keyword_only(name):
    """An argument with a default is an option; a call should say which one it sets."""
    parameters = inspect.signature(getattr(tlc, name)).parameters.values()
    positional = {
        parameter.name
        for parameter in parameters
        if parameter.default is not parameter.empty and parameter.kind != parameter.KEYWORD_ONLY
    }
    assert positional == POSITIONAL_OPTIONS.get(name, set())


@pytest.mark.parametrize(("name", "network"), tlc.MODELS.items())
def test_networks_are_alike(name, network):
    assert network.__name__.lower() == name.replace("_", "") and network.__name__ in tlc.__all__
    fields = {field.name: field.default for field in dataclasses.fields(network)}
    shared = {
        "inp_channels": 3,
        "local_mode": False,
        "train_size": (256, 256),
        "window": None,
        "padding": "zeros",
        "dtype": None,
    }
    if name == "nafssr":  # two views, and crops of its own
        shared |= {"inp_channels": 6, "train_size": (30, 90)}
    if name == "maxim":
        shared |= {"padding": "both"}
    assert {field: fields.get(field, "missing") for field in shared} == shared
    # They go by their names, so that the fields of its own begin where one looks for them.
    by_name = {field.name for field in dataclasses.fields(network) if field.kw_only}
    assert shared.keys() <= by_name

    # Compiled functions are kept by network, so networks are values: equal ones are one key.
    model = network()
    assert hash(model) == hash(network()) and model == network()
    local = model.clone(local_mode=True)
    assert local != model and local.clone(local_mode=False) == model
