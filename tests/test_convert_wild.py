"""Checkpoints as people have them: what training code wraps around a network is taken off.

Each file is written by PyTorch, read without it, and equal in every bit to the tensors it was made
of; or refused in words that let one go on.
"""

import argparse
import collections
import enum
import json
import pathlib
import pickle
import re
import resource
import subprocess
import zipfile
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

import tlc_jax as tlc
from checkpoints_convert import ConversionError, convert_file, convert_state_dict
from tlc_jax.files import catalogue

torch = pytest.importorskip("torch")
peer = pytest.importorskip("benchmarks.torch_peer.nafnet")
restormer_peer = pytest.importorskip("benchmarks.torch_peer.restormer")

WIDTH = {"width": 4, "enc_blk_nums": (1, 1), "middle_blk_num": 1, "dec_blk_nums": (1, 1)}


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


def naf(**config: Any) -> torch.nn.Module:
    return randomised(peer.NAFNet(**(WIDTH | config)))


torch.manual_seed(0)
NET = naf()
STATE = NET.state_dict()
OTHER = {name: x + 1 for name, x in STATE.items()}
RESTORMER = randomised(
    restormer_peer.Restormer(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1)
)


def under(prefix: str, state: dict = STATE) -> dict:
    return {f"{prefix}{name}": x for name, x in state.items()}


class Kind(enum.Enum):
    """Of an experiment, as configurations hold them."""

    DEBLUR = 1


class Settings(dict):
    """Like the dictionaries with attributes of training frameworks."""


def averaged() -> dict:
    from torch.optim.swa_utils import AveragedModel

    return AveragedModel(NET).state_dict()


def lightning() -> dict:
    """What Lightning writes beside the weights: settings of any class, callbacks, optimizers."""
    return {
        "pytorch-lightning_version": "2.4.0",
        "epoch": 7,
        "state_dict": under("net_g.") | {"loss.vgg.0.weight": torch.ones(2, 3, 3, 3)},
        "callbacks": {"ModelCheckpoint{'monitor': 'psnr'}": {"best": torch.tensor(31.0)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(5)}}, "param_groups": [{}]}],
        "hyper_parameters": argparse.Namespace(
            kind=Kind.DEBLUR, path=pathlib.PurePosixPath("x"), more=Settings(lr=np.float64(1e-3))
        ),
        "hparams_type": Settings,
        "counts": collections.Counter("ab"),
        "lists": collections.defaultdict(list, a=[1]),
    }


# What a file holds, and where in it the network is found.
FITTING: dict[str, tuple[str, Callable[[], Any], str]] = {
    "bare.pth": ("net.pth", lambda: STATE, ""),
    "params, as BasicSR writes it": ("net.pth", lambda: {"params": STATE}, "params"),
    "params_ema before params": (
        "net.pth",
        lambda: {"params": OTHER, "params_ema": STATE},
        "params_ema",
    ),
    "state_dict": ("net.pth.tar", lambda: {"epoch": 3, "state_dict": STATE}, "state_dict"),
    "module., of several GPUs": ("net.pth", lambda: under("module."), "module"),
    "module.module.": ("net.pth", lambda: under("module.module."), "module.module"),
    "state_dict and module.": (
        "net.ckpt",
        lambda: {"state_dict": under("module."), "best_psnr": 32.1},
        "state_dict.module",
    ),
    "model": ("net.pt", lambda: {"model": STATE, "optimizer": {"lr": 1e-3}}, "model"),
    "model_state_dict": ("net.tar", lambda: {"model_state_dict": STATE}, "model_state_dict"),
    "net": ("net.PTH", lambda: {"net": STATE}, "net"),
    "network": ("net.bin", lambda: {"network": STATE}, "network"),
    "generator beside a discriminator": (
        "gan.pth",
        lambda: {"generator": STATE, "discriminator": {"features.0.weight": torch.ones(3)}},
        "generator",
    ),
    "ema before model": ("net.pth", lambda: {"model": OTHER, "ema": STATE}, "ema"),
    "state_dict_ema": (
        "net.pth",
        lambda: {"state_dict": OTHER, "state_dict_ema": STATE},
        "state_dict_ema",
    ),
    "model_ema as a prefix": (
        "net.ckpt",
        lambda: {"state_dict": under("model.", OTHER) | under("model_ema.")},
        "state_dict.model_ema",
    ),
    "two wrappers": ("net.pth", lambda: {"model": {"state_dict": STATE}}, "model.state_dict"),
    "net_g.": ("net.pth", lambda: under("net_g."), "net_g"),
    "generator.": ("net.pth", lambda: under("generator."), "generator"),
    "a prefix that no list has": ("net.pth", lambda: under("my.own_net2."), "my.own_net2"),
    "torch.compile": ("net.pth", lambda: torch.compile(NET, backend="eager").state_dict(), ""),
    "torch.compile in a module": ("net.pth", lambda: under("module._orig_mod."), "module"),
    "a compiled stack of blocks": (
        "net.pth",
        lambda: {
            name.replace("encoders.0.", "encoders.0._orig_mod."): x for name, x in STATE.items()
        },
        "",
    ),
    "FSDP": ("net.pth", lambda: under("_fsdp_wrapped_module."), ""),
    "an averaged model, with its counter": ("net.pth", averaged, "module"),
    "counters beside the weights": (
        "net.pth",
        lambda: STATE | {"step": torch.tensor(5), "lr": torch.tensor(1e-3)},
        "",
    ),
    "in a list": ("net.pth", lambda: [STATE, {"lr": 1e-3}], "0"),
    "by numbers": ("net.pth", lambda: {"models": {1: STATE}}, "models.1"),
    "trainable": (
        "net.pth",
        lambda: {name: torch.nn.Parameter(x.clone()) for name, x in STATE.items()},
        "",
    ),
    "Lightning": ("epoch=7.ckpt", lightning, "state_dict.net_g"),
    "a whole module": ("net.pt", lambda: NET, ""),
    "a whole module in a wrapper": ("net.pt", lambda: {"model": NET, "best": 1}, "model"),
    "the same weights twice": ("net.pth", lambda: {"a": STATE, "b": dict(STATE)}, "a"),
    "no suffix": ("net", lambda: {"params": STATE}, "params"),
    "dates in the name": ("net_2024.05.01", lambda: {"params": STATE}, "params"),
    "transposed views": (
        "net.pth",
        lambda: {name: x.permute(*range(x.ndim)[::-1]).contiguous().permute(*range(x.ndim)[::-1])
                 for name, x in STATE.items()},
        "",
    ),
    "views of one row": (
        "net.pth",
        lambda: dict(
            zip(
                STATE,
                (part.view_as(x) for part, x in zip(
                    torch.cat([x.flatten() for x in STATE.values()]).split(
                        [x.numel() for x in STATE.values()]
                    ),
                    STATE.values(),
                    strict=True,
                )),
                strict=True,
            )
        ),
        "",
    ),
}  # fmt: skip


def expected(state: dict) -> tuple[nn.Module, dict]:
    return convert_state_dict({name: x.float().numpy() for name, x in state.items()})


def assert_equal(folder: pathlib.Path, state: dict) -> None:
    model, params = tlc.load(folder)
    wanted, values = expected(state)
    assert model == wanted
    assert jax.tree.all(jax.tree.map(np.array_equal, params, values))


@pytest.mark.parametrize("old", [False, True], ids=["", "before PyTorch 1.6"])
@pytest.mark.parametrize(("file", "content", "place"), FITTING.values(), ids=FITTING)
def test_converted_and_equal(file, content, place, old, tmp_path):
    torch.save(content(), tmp_path / file, _use_new_zipfile_serialization=not old)
    made = convert_file(tmp_path / file, tmp_path / "out")
    assert_equal(made, STATE)
    source = json.loads((made / "model.json").read_text())["source"]
    assert source.get("part", "") == place


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("old", [False, True])
def test_other_precisions(kind, old, tmp_path):
    state = {name: x.to(getattr(torch, kind)) for name, x in STATE.items()}
    file = tmp_path / "net.pth"
    torch.save({"params": state}, file, _use_new_zipfile_serialization=not old)
    assert_equal(convert_file(file, tmp_path / "out"), state)


NETWORKS = {
    "an empty level of the encoder": {"enc_blk_nums": (1, 0, 1), "dec_blk_nums": (1, 1, 1)},
    "and of the decoder": {"enc_blk_nums": (1, 0, 1), "dec_blk_nums": (0, 1, 0)},
    "nothing in the middle": {"middle_blk_num": 0},
    "the middle alone": {"enc_blk_nums": (0, 0), "dec_blk_nums": (0, 0)},
    "the decoder alone": {"enc_blk_nums": (0, 0), "middle_blk_num": 0},
    "no levels": {"enc_blk_nums": (), "dec_blk_nums": ()},
    **{f"{n} channels": {"img_channel": n} for n in (1, 2, 4, 6, 12)},
}


@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
def test_nafnets_of_other_shapes(config, tmp_path):
    net = naf(**config)
    torch.save({"params": net.state_dict()}, tmp_path / "net.pth")
    model, params = tlc.load(convert_file(tmp_path / "net.pth", tmp_path / "out"))
    wanted = {key: x for key, x in (WIDTH | config).items() if key != "img_channel"}
    assert {key: getattr(model, key) for key in wanted} == wanted
    image = np.random.default_rng(0).random((16, 20, model.inp_channels), np.float32)
    with torch.no_grad():
        theirs = net(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    ours = tlc.restore(model, params, image)
    assert np.abs(ours - theirs).max() < 1e-5 * np.ptp(theirs)


RESTORMERS = {
    "an empty level": {"num_blocks": (1, 0, 1, 1), "heads": (1, 1, 4, 8)},
    "an empty latent": {"num_blocks": (1, 1, 1, 0), "heads": (2, 2, 4, 1)},
    "the refinement alone": {"num_blocks": (0, 0, 0, 0), "heads": (2, 1, 1, 1)},
    "no refinement": {"num_refinement_blocks": 0},
    "gray": {"inp_channels": 1, "out_channels": 1},
    "four channels": {"inp_channels": 4, "out_channels": 4},
}


@pytest.mark.parametrize("config", RESTORMERS.values(), ids=RESTORMERS)
def test_restormers_of_other_shapes(config, tmp_path):
    small = {"dim": 8, "num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1}
    net = randomised(restormer_peer.Restormer(**(small | config)))
    torch.save({"params": net.state_dict()}, tmp_path / "net.pth")
    model, params = tlc.load(convert_file(tmp_path / "net.pth", tmp_path / "out"))
    assert {key: getattr(model, key) for key in config} == config
    image = np.random.default_rng(0).random((16, 24, model.inp_channels), np.float32)
    with torch.no_grad():
        theirs = net(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    ours = tlc.restore(model, params, image)
    assert np.abs(ours - theirs).max() < 1e-4 * np.ptp(theirs)


def test_mlx(tmp_path):
    """Kernels OHWI, and one more name in each sequence."""
    import safetensors.numpy

    def renamed(name: str) -> str:
        name = re.sub(r"^(encoders\.\d|decoders\.\d|ups\.\d|middle_blks)\.", r"\1.layers.", name)
        return name.replace("sca.1", "sca.layers.1")

    tensors = {
        renamed(name): np.ascontiguousarray(x.permute(0, 2, 3, 1) if x.ndim == 4 else x)
        for name, x in STATE.items()
    }
    assert "encoders.0.layers.0.sca.layers.1.weight" in tensors
    safetensors.numpy.save_file(tensors, tmp_path / "weights.safetensors")
    assert_equal(convert_file(tmp_path / "weights.safetensors", tmp_path / "out"), STATE)


# What is refused, and the words that let one go on


class Armed:
    """Runs a command where it is unpickled with trust."""

    def __init__(self, function: Callable, *arguments: str):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


def lone(name: str) -> dict:
    return {key: x for key, x in STATE.items() if key != name}


REFUSED: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "two networks": (
        lambda: {"state_dict": under("teacher.") | under("student.", OTHER)},
        ["2 networks that differ, in state_dict.student, state_dict.teacher", "--part state_dict."],
    ),
    "one tensor missing": (
        lambda: under("net_g.", lone("encoders.0.0.conv1.bias")),
        ["net_g looks like NAFNet", r"encoders\.0\.0\.conv1\.bias is missing"],
    ),
    "with and without a prefix": (
        lambda: {
            f"module.{name}" if name.startswith("encoders") else name: x
            for name, x in STATE.items()
        },
        ["looks like NAFNet", "intro.weight"],
    ),
    "one tensor more": (
        lambda: STATE | {"encoders.0.0.conv9.weight": torch.ones(4, 4, 1, 1)},
        [r"encoders\.0\.0\.conv9\.weight \(4, 4, 1, 1\)", "tlc_jax.localize"],
    ),
    "another network": (
        lambda: {"model": {"conv_first.weight": torch.ones(8, 3, 3, 3)}},
        [r"no known network \(first tensors: model\.conv_first\.weight\)", "tlc_jax.localize"],
    ),
    "an optimizer alone": (
        lambda: {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
        [r"no known network \(first tensors: optimizer\.state\.0\.exp_avg\)"],
    ),
    "whole numbers": (
        lambda: {name: (x * 50).to(torch.int8) for name, x in STATE.items()},
        ["holds int8"],
    ),
    "bits that negate": (
        lambda: STATE | {"intro.bias": torch._neg_view(STATE["intro.bias"])},
        ["view with marks", r"torch\.save\(model\.state_dict\(\)"],
    ),
    "complex numbers": (
        lambda: STATE | {"intro.bias": STATE["intro.bias"].to(torch.complex64)},
        ["not read, such as complex"],
    ),
    "numbers of 8 bits": (
        lambda: {name: x.to(torch.float8_e4m3fn) for name, x in STATE.items()},
        ["not read|no tensors"],
    ),
    "weight norm": (
        lambda: (
            {name.replace("weight", "weight_g"): x for name, x in STATE.items()}
            | {"encoders.0.0.sca.1.weight": STATE["encoders.0.0.sca.1.weight"]}
        ),
        ["intro.weight.* is missing", "weight_g is of a change that has to be merged or removed"],
    ),
    "a command": (
        lambda: {"params": STATE, "x": Armed(subprocess.Popen, "ls")},
        ["refused, it holds (commands|subprocess)"],
    ),
    "code": (lambda: {"params": STATE, "x": Armed(eval, "1")}, ["builtin.*eval", "safetensors"]),
}


@pytest.mark.parametrize(("content", "words"), REFUSED.values(), ids=REFUSED)
def test_refused_with_what_to_do(content, words, tmp_path):
    torch.save(content(), tmp_path / "net.pth")
    with pytest.raises(ConversionError) as caught:
        convert_file(tmp_path / "net.pth", tmp_path / "out")
    for word in words:
        assert re.search(word, str(caught.value)), str(caught.value)


@pytest.mark.parametrize("opcodes", [b"r\xff\xff\xff\x7f", b"p999999999\n", b"\x8e" + b"\xff" * 8])
@pytest.mark.parametrize("old", [False, True])
def test_pickles_that_ask_for_memory(opcodes, old, tmp_path):
    """By a place beyond all others, or by bytes that are not there."""
    file, changed = tmp_path / "net.pth", tmp_path / "changed.pth"
    torch.save({"x": STATE}, file, _use_new_zipfile_serialization=not old)
    names = b"\x80\x02}" + opcodes + b"."
    if old:
        content = file.read_bytes()
        begin = content.index(b"\x80\x02}", 60)
        changed.write_bytes(content[:begin] + names)
    else:
        with zipfile.ZipFile(file) as before, zipfile.ZipFile(changed, "w") as after:
            for name in before.namelist():
                after.writestr(name, names if name.endswith(".pkl") else before.read(name))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConversionError, match="damaged"):
        convert_file(changed, tmp_path / "out")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 2**17  # kB


def test_the_part_that_is_named(tmp_path):
    torch.save({"teacher": OTHER, "student": STATE}, tmp_path / "net.pth")
    made = convert_file(tmp_path / "net.pth", tmp_path / "out", part="student")
    assert_equal(made, STATE)
    with pytest.raises(ConversionError, match="part ema: a network may be in student, teacher"):
        convert_file(tmp_path / "net.pth", tmp_path / "new", part="ema")


STARTS = {
    b"<!DOCTYPE html><html>": "a page of the web",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:1": "git lfs pull",
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"\x08\x07\x12\x07pytorch": "ONNX",
    b"GGUF\x03": "GGUF",
    pickle.dumps({"a": [1.0]}): r"torch\.save\(model\.state_dict\(\)",
}


@pytest.mark.parametrize(("start", "words"), STARTS.items())
@pytest.mark.parametrize("suffix", ["pth", "safetensors", "bin"])
def test_what_is_no_weights_at_all(start, words, suffix, tmp_path):
    (tmp_path / f"net.{suffix}").write_bytes(start)
    with pytest.raises(ConversionError, match=words):
        convert_file(tmp_path / f"net.{suffix}", tmp_path / "out")


# The licence is the file's


def test_the_licence_is_of_the_very_file(tmp_path, monkeypatch):
    torch.save(STATE, tmp_path / "NAFNet-GoPro-width32.pth")

    def licence(**told: str) -> str:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        made = convert_file(tmp_path / "NAFNet-GoPro-width32.pth", folder, **told)
        return json.loads((made / "model.json").read_text())["weights_licence"]

    assert licence() == "unknown; the authors of NAFNet publish theirs under: MIT"
    assert licence(licence="CC0") == "CC0"
    with pytest.raises(ConversionError, match="licence ' ': say it in one line"):
        licence(licence=" ")
    monkeypatch.setattr(catalogue, "of_digest", lambda digest: catalogue.PUBLISHED[0])
    assert licence() == "MIT"


def test_a_name_alone_makes_no_published_file(tmp_path, monkeypatch):
    """Of another's bytes neither the data set is known nor the name taken."""
    monkeypatch.setenv("TLC_JAX_HOME", str(tmp_path / "home"))
    torch.save(STATE, tmp_path / "NAFNet-GoPro-width32.pth")
    made = convert_file(tmp_path / "NAFNet-GoPro-width32.pth")
    description = json.loads((made / "model.json").read_text())
    assert description["task"] is description["dataset"] is None
    assert re.fullmatch(r"nafnet-gopro-width32-\w{8}", made.name)


@pytest.mark.parametrize("file", ["HINet-GoPro.pth", "NAFSSR-T_2x.pth"])
def test_the_name_of_another_network(file, tmp_path):
    torch.save(STATE, tmp_path / file)
    made = convert_file(tmp_path / file, tmp_path / "out")
    assert json.loads((made / "model.json").read_text())["dataset"] is None
