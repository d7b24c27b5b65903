"""Published weights to networks: what is recognised, what is refused, and in which words."""

import hashlib
import json
import lzma
import os
import pickle
import re
import resource
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy

from checkpoints_convert import RELEASES, ConversionError, convert_file, convert_state_dict
from checkpoints_convert.mprnet import _reduction
from checkpoints_convert.parts import find_parts
from checkpoints_convert.sources import read_source
from tlc_jax.files import catalogue
from tlc_jax.files.checkpoints import CheckpointError, count_params, load
from tlc_jax.layers.network import abstract_params
from tlc_jax.models import MODELS

GOLDEN = (
    *("nafnet_a", "nafnet_b", "baseline_a", "baseline_b", "maxim_a", "maxim_b"),
    *("restormer_withbias", "restormer_biasfree", "restormer_gray", "restormer_dualpixel"),
    *("hinet_a", "hinet_right", "mprnet_a", "mprnet_denoise_like", "nafssr_a", "rnnmbp_a"),
)
# Names and shapes of the tensors in every published file of PyTorch and the options that its
# authors list for it; files that are equal in all of this share an entry.
DATA = Path(__file__).parent / "data/published.json.xz"
PUBLISHED = json.loads(lzma.decompress(DATA.read_bytes()))

Tensors = dict[str, np.ndarray]


def network(name: str, options: dict) -> nn.Module:
    """The network that options in its authors' words ask for."""
    config = {key: tuple(x) if isinstance(x, list) else x for key, x in options.items()}
    if "LayerNorm_type" in config:
        config["norm_bias"] = config.pop("LayerNorm_type") == "WithBias"
    if name == "maxim":
        config["num_bottleneck_blocks"] = 1  # so the golden ones are, and do not say it
    return MODELS[name](**config)


def same(a: Tensors, b: Tensors) -> bool:
    """Equal names, types and bits."""
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and np.array_equal(a[name], b[name]) for name in a
    )


def assert_fills(model: nn.Module, params: dict) -> None:
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), abstract_params(model))


@pytest.fixture(scope="module")
def nafnet(golden) -> Tensors:
    return golden("nafnet_a").tensors


# What is recognised


@pytest.mark.parametrize("name", GOLDEN)
def test_the_network_is_told_from_names_and_shapes(golden, name):
    config = golden(name).meta["config"]
    told = {key: config[key] for key in config if key.endswith("_frames")}
    model, params = convert_state_dict(golden(name).tensors, **told)
    assert model == network(golden(name).meta["model"], config)
    assert_fills(model, params)


LARGE = 30_000_000  # parameters; of what is larger one number is seen as a whole tensor


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda published: published["files"][0])
def test_every_published_file_fits(published):
    rng = np.random.default_rng(0)

    def tensor(shape: list[int]) -> np.ndarray:
        if published["parameters"] > LARGE:
            return np.broadcast_to(np.float32(1), shape)
        # The slopes of PReLU, the only single numbers, are shared and so equal.
        return np.full(1, 0.25) if shape == [1] else rng.random(shape, np.float32)

    tensors = {key: tensor(shape) for key, shape in published["tensors"].items()}
    model, params = convert_state_dict(tensors)
    assert model == network(published["network"], published["config"])
    listed = [entry for entry in catalogue.PUBLISHED if Path(entry.file).stem in published["files"]]
    assert listed and all(model == type(model).variant(entry.variant) for entry in listed)
    unused = sum(x.size for key, x in tensors.items() if key.startswith("fusion."))
    assert count_params(params) == published["parameters"] - unused


def tensors_of(path: Path) -> Tensors:
    """What the one network in a file is made of."""
    source = read_source(path)
    (part,) = find_parts(source.content, RELEASES)
    return {name: source.array(x) for name, x in part.tensors.items()}


def test_only_the_target_of_a_flax_optimizer_is_read(golden, tmp_path):
    tensors = golden("maxim_b").tensors
    state = {"opt/state/step": np.array(7), "opt/state/param_states/mean": np.ones(3, np.float32)}
    target = {f"opt/target/{name}": x for name, x in tensors.items()}
    np.savez(tmp_path / "checkpoint.npz", **state, **target)
    assert same(tensors_of(tmp_path / "checkpoint.npz"), tensors)


def test_a_text_beside_the_tensors_is_left_out(nafnet, tmp_path):
    np.savez(tmp_path / "net.npz", note=np.array("trained on GoPro"), **nafnet)
    assert same(tensors_of(tmp_path / "net.npz"), nafnet)


def write(path: Path, tensors: Tensors) -> None:
    """A file of the kind that its suffix says."""
    if path.suffix == ".npz":
        np.savez(path, **tensors)
    elif path.suffix == ".safetensors":
        safetensors.numpy.save_file(tensors, path)
    else:
        torch = pytest.importorskip("torch")
        # NumPy has no bfloat16 that torch takes: it travels as float32, without loss.
        kinds = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
        wide = {name: torch.from_numpy(x.astype(np.float32)) for name, x in tensors.items()}
        torch.save({name: x.to(kinds[tensors[name].dtype.name]) for name, x in wide.items()}, path)


FORMATS = [(suffix, "float32") for suffix in (".pth", ".pt", ".safetensors", ".npz")]
HALVES = [(suffix, "float16") for suffix in (".pth", ".safetensors", ".npz")]
HALVES += [(suffix, "bfloat16") for suffix in (".pth", ".safetensors")]  # .npz has no bfloat16


@pytest.mark.parametrize(("suffix", "dtype"), FORMATS + HALVES)
def test_every_format_is_read_as_float32(nafnet, suffix, dtype, tmp_path):
    stored = {name: x.astype(jax.numpy.dtype(dtype)) for name, x in nafnet.items()}
    write(tmp_path / f"net{suffix}", stored)
    _, params = convert_state_dict({name: x.astype(np.float32) for name, x in stored.items()})
    model, loaded = load(convert_file(tmp_path / f"net{suffix}", tmp_path / "out"))
    assert_fills(model, loaded)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, params))


def test_a_state_dict_in_half_precision_becomes_float32(nafnet):
    model, params = convert_state_dict({name: x.astype(np.float16) for name, x in nafnet.items()})
    assert_fills(model, params)


# Overrides


def test_overrides_replace_what_shapes_tell(nafnet):
    model, _ = convert_state_dict(nafnet, train_size=(128, 96))
    assert model == convert_state_dict(nafnet)[0].clone(train_size=(128, 96))


@pytest.mark.parametrize(
    ("override", "words"),
    {
        "unknown": ({"train_sise": (8, 8)}, "NAFNet has no field train_sise; it has .*train_size"),
        "how it is run": ({"local_mode": True}, "NAFNet has no field local_mode"),
        "at odds with the tensors": ({"width": 16}, r"intro\.bias: gives shape \(8,\).*\(16,\)"),
        "no size": ({"width": 0}, "NAFNet, which cannot be of this configuration"),
        "no crop": ({"train_size": (0, 8)}, r"cannot be of this .*: train_size is .*got \(0, 8\)"),
    }.values(),
)
def test_overrides_that_cannot_be(nafnet, override, words):
    with pytest.raises(ConversionError, match=words):
        convert_state_dict(nafnet, **override)


# The folder that it writes


def test_convert_file_writes_a_checkpoint_that_says_where_it_comes_from(nafnet, tmp_path):
    source = tmp_path / "NAFNet-GoPro-width8.npz"
    write(source, nafnet)
    convert_file(source, tmp_path / "out", train_size=(64, 64))

    described = json.loads((tmp_path / "out/model.json").read_text())
    expected, params = convert_state_dict(nafnet, train_size=(64, 64))
    assert described["network"] == "nafnet"
    assert described["config"] == {
        "width": 8,
        "enc_blk_nums": [1, 1, 2],
        "middle_blk_num": 1,
        "dec_blk_nums": [1, 1, 1],
        "inp_channels": 3,
        "train_size": [64, 64],
    }
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    assert described["source"] == {"file": source.name, "sha256": sha256}
    assert (
        described["weights_licence"] == "unknown; the authors of NAFNet publish theirs under: MIT"
    )
    assert described["task"] == "motion deblurring"
    assert described["assumed"] == []  # train_size was given

    model, loaded = load(tmp_path / "out")
    assert model == expected
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, params))


@pytest.mark.parametrize(
    ("name", "licence", "assumed"),
    [
        ("baseline_a", "MIT", ["train_size"]),
        ("restormer_gray", "MIT", ["train_size", "ffn_expansion_factor"]),
        ("maxim_b", "Apache-2.0", ["train_size"]),
        ("hinet_right", "MIT", ["train_size"]),
        ("mprnet_a", "non-commercial", ["train_size"]),
        ("nafssr_a", "MIT", ["train_size"]),
        ("rnnmbp_a", "none stated", ["train_size", "past_frames", "future_frames"]),
    ],
)
def test_licence_and_what_was_assumed(golden, name, licence, assumed, tmp_path):
    write(tmp_path / "net.npz", golden(name).tensors)
    convert_file(tmp_path / "net.npz", tmp_path / "out")
    described = json.loads((tmp_path / "out/model.json").read_text())
    assert licence in described["weights_licence"]
    assert described["assumed"] == assumed
    assert described["task"] is None


@pytest.mark.parametrize(
    ("file", "task"),
    [
        ("NAFNet-REDS-width64", "motion deblurring"),
        ("Baseline-SIDD-width32", "denoising of photographs"),
        ("single_image_defocus_deblurring", "defocus deblurring"),
        ("dual_pixel_defocus_deblurring", "dual-pixel defocus deblurring"),
        ("gaussian_gray_denoising_blind", "denoising of Gaussian noise, gray"),
        ("gaussian_color_denoising_sigma15", "denoising of Gaussian noise, colour"),
        ("deraining", "deraining"),
        ("model_deblurring", "motion deblurring"),
        ("model_denoising", "denoising of photographs"),
        ("HINet-Rain13k", "deraining"),
        ("NAFSSR-L_4x", "stereo super-resolution, 4x"),
        ("RNN-MBP-GoPro", "motion deblurring"),
    ],
)
def test_the_task_is_told_from_the_file_name(nafnet, file, task, tmp_path, monkeypatch):
    told = {}
    monkeypatch.setattr("checkpoints_convert.save", lambda *args, **metadata: told.update(metadata))
    write(tmp_path / f"{file}.npz", nafnet)
    convert_file(tmp_path / f"{file}.npz", tmp_path / "out")
    assert told["task"] == task


def test_an_existing_destination_stays_as_it_is(nafnet, tmp_path):
    write(tmp_path / "net.npz", nafnet)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/mine.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    before = sorted(tmp_path.rglob("*"))
    for name in ("folder", "file"):
        with pytest.raises(CheckpointError, match=f"{name}: exists already"):
            convert_file(tmp_path / "net.npz", tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "keep"


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (OSError(28, "No space left on device"), CheckpointError, "No space left on device"),
        (OSError("connection lost"), CheckpointError, "connection lost"),  # without a number
        # What tensorstore, which writes for orbax, raises where Python raises OSError.
        (ValueError("OUT_OF_RANGE: Failed to write"), CheckpointError, "Failed to write"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
    ids=repr,
)
def test_nothing_half_written_stays(nafnet, error, raised, words, tmp_path, monkeypatch):
    def half(self, path, params):
        path.mkdir()
        (path / "half").write_text("written")
        raise error

    write(tmp_path / "net.npz", nafnet)
    monkeypatch.setattr(ocp.StandardCheckpointer, "save", half)
    with pytest.raises(raised, match=words) as caught:
        convert_file(tmp_path / "net.npz", tmp_path / "out")
    assert os.listdir(tmp_path) == ["net.npz"]
    if raised is CheckpointError:
        assert str(caught.value).startswith(f"{tmp_path / 'out'}: cannot be written")


# Files that hold no weights


class Armed:
    """Leaves a file behind where it is unpickled with trust."""

    def __init__(self, sentinel: Path):
        self.command = f"touch {sentinel}"

    def __reduce__(self):
        return os.system, (self.command,)


def torch_file(content: Callable) -> Callable[[Path, Tensors], None]:
    def write(path: Path, tensors: Tensors) -> None:
        torch = pytest.importorskip("torch")
        torch.save(content(torch), path)

    return write


def cut(path: Path, tensors: Tensors) -> None:
    write(path, tensors)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text(path: Path, tensors: Tensors) -> None:
    path.write_text("hello, these are no weights\n" * 9)


def page(path: Path, tensors: Tensors) -> None:
    path.write_text("<!DOCTYPE html>\n<html>Sign in to download</html>\n")


def empty(path: Path, tensors: Tensors) -> None:
    path.touch()


DAMAGED = "damaged|refused|a page of the web|an empty file"
TORCH_ONLY = (".pth", ".pt")
NO_WEIGHTS = {
    "missing": ("net.pth", lambda path, tensors: None, "there is no such file"),
    "a folder": ("net.pth", lambda path, tensors: path.mkdir(), "a folder, and no package"),
    "another kind": ("net.h5", text, "no weights of PyTorch, safetensors or NumPy"),
    **{
        f"{write.__name__} {suffix}": (f"net{suffix}", write, DAMAGED)
        for suffix in (".pth", ".pt", ".safetensors", ".npz")
        for write in (empty, cut, text, page)
    },
    "a list": ("net.pth", torch_file(lambda torch: [torch.ones(3)]), "no known network"),
    "one tensor": ("net.pth", torch_file(lambda torch: torch.ones(3)), "holds no tensors"),
    "no tensors": ("net.pth", torch_file(lambda torch: {"epoch": 3}), "holds no tensors"),
    "empty params": ("net.pth", torch_file(lambda torch: {"params": {}}), "holds no tensors"),
    "numbers for names": (
        "net.pth",
        torch_file(lambda torch: {0: torch.ones(3)}),
        "no known network",
    ),
    "no safetensors": ("net.safetensors", lambda path, _: write(path, {}), "holds no tensors"),
    "objects": (
        "net.npz",
        lambda path, tensors: np.savez(path, **tensors, extra=np.array([{}], object)),
        "[Oo]bject",
    ),
}


def assert_clear(error: ConversionError, source: Path) -> None:
    """One sentence that starts with the file and does not advise to trust it."""
    message = str(error)
    assert message.startswith(f"{source}: ")
    assert "\n" not in message
    assert not re.search(r"Traceback|unsafe|`weights_only` set to `False`|\(\d+\);", message)


@pytest.mark.parametrize(("file", "make", "words"), NO_WEIGHTS.values(), ids=NO_WEIGHTS)
def test_files_without_weights_are_refused(nafnet, file, make, words, tmp_path):
    source = tmp_path / "in" / file
    source.parent.mkdir()
    if source.suffix in TORCH_ONLY:
        pytest.importorskip("torch")
    make(source, nafnet)
    with pytest.raises(ConversionError, match=words) as caught:
        convert_file(source, tmp_path / "out")
    assert_clear(caught.value, source)
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("way", ["torch", "torch, before 1.6", "pickle 2", "pickle 4", "npz"])
def test_nothing_in_a_file_is_run(nafnet, way, tmp_path):
    sentinel, source = tmp_path / "sentinel", tmp_path / "net.pth"
    content = {"params": nafnet, "armed": Armed(sentinel)}
    if way == "npz":
        source = source.with_suffix(".npz")
        np.savez(source, armed=np.array([Armed(sentinel)], object))
        with np.load(source, allow_pickle=True) as arrays:
            _ = arrays["armed"]
    else:
        torch = pytest.importorskip("torch")
        if way.startswith("torch"):
            torch.save(content, source, _use_new_zipfile_serialization=way == "torch")
            torch.load(source, weights_only=False)
        else:
            source.write_bytes(pickle.dumps(content, int(way[-1])))
            pickle.loads(source.read_bytes())
    sentinel.unlink()  # it was there: the file does what it says to whoever trusts it

    with pytest.raises(ConversionError) as caught:
        convert_file(source, tmp_path / "out")
    assert_clear(caught.value, source)
    assert os.listdir(tmp_path) == [source.name]


@pytest.mark.filterwarnings("ignore")  # as for a user: what torch warns of is no error
def test_a_torchscript_archive_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    source = tmp_path / "net.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(source))
    with pytest.raises(ConversionError, match="TorchScript") as caught:
        convert_file(source, tmp_path / "out")
    assert_clear(caught.value, source)


def _views(path: Path, make: Callable[[object], object]) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"params": make(torch)}, path)


def _deflated(path: Path) -> None:
    _views(path, lambda torch: {"intro.weight": torch.zeros(2**25)})
    stored = zipfile.ZipFile(path)
    with zipfile.ZipFile(path.with_suffix(".tmp"), "w", zipfile.ZIP_DEFLATED) as archive:
        for member in stored.namelist():
            archive.writestr(member, stored.read(member))
    path.with_suffix(".tmp").rename(path)


def _many_names(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02" + b"}0" * 2**23 + b"}.")
        archive.writestr("net/version", b"3\n")


LARGER_THAN_THEY_ARE = {
    "one number as a tensor.pth": lambda path: _views(
        path, lambda torch: {"middle_blks.0.sca.1.weight": torch.zeros(1).expand(2**31)}
    ),
    "views of one.pth": lambda path: _views(
        path,
        lambda torch: dict.fromkeys(
            (f"middle_blks.{i}.sca.1.weight" for i in range(1000)), torch.zeros(2**20).half()
        ),
    ),
    "deflated.pth": _deflated,
    "many names.pth": _many_names,
    "zeros.npz": lambda path: np.savez_compressed(path, intro=np.zeros(2**26, np.float32)),
}


@pytest.mark.parametrize(("name", "make"), LARGER_THAN_THEY_ARE.items(), ids=LARGER_THAN_THEY_ARE)
def test_files_that_ask_for_more_than_they_are(tmp_path, name, make):
    """Refused before the memory is taken."""
    make(tmp_path / name)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConversionError, match="refused") as caught:
        convert_file(tmp_path / name, tmp_path / "out")
    assert_clear(caught.value, tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 2**17  # kB


def test_many_tensors_of_nothing(tmp_path):
    """Or of little, of which a network would have to be made that is as long."""
    for count, shape in ((3000, (0,)), (3000, (1,))):
        names = {f"middle_blks.{i}.conv1.weight": np.zeros(shape, np.float32) for i in range(count)}
        names |= {"intro.weight": np.ones((32, 3, 3, 3), np.float32)}
        safetensors.numpy.save_file(names, tmp_path / "net.safetensors")
        begin = time.monotonic()
        with pytest.raises(ConversionError):
            convert_file(tmp_path / "net.safetensors", tmp_path / "out")
        assert time.monotonic() - begin < 60


# Tensors that do not fit


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: x for key, x in tensors.items() if key != name}


def changed(**edits: np.ndarray) -> Callable[[Tensors], Tensors]:
    edits = {name.replace("__", "."): np.asarray(x, np.float32) for name, x in edits.items()}
    return lambda tensors: tensors | edits


ZERO_NAN = np.array([0, np.nan, *[0] * 6], np.float32)
MISFITS = {
    "one missing": (without("ending.bias"), ["1 tensor", "ending/bias: no tensor"]),
    "the first missing": (without("intro.weight"), ["'intro.weight' is missing"]),
    "one extra": (
        changed(encoders__0__0__conv9__weight=np.ones((8, 8, 1, 1))),
        [r"encoders\.0\.0\.conv9\.weight \(8, 8, 1, 1\): the network has no such tensor"],
    ),
    "of wrong shape": (
        changed(ending__bias=np.ones(4)),
        [r"ending\.bias: gives shape \(4,\), ending/bias has \(3,\)"],
    ),
    "a kernel of wrong rank": (
        changed(encoders__0__0__conv1__weight=np.ones((16, 8))),
        [r"encoders\.0\.0\.conv1\.weight: gives shape \(16, 8\)"],
    ),
    "the first of wrong rank": (changed(intro__weight=np.ones(7)), ["NAFNet", "unexpected shape"]),
    "transposed": (
        changed(encoders__0__0__conv1__weight=np.ones((8, 16, 1, 1))),
        [r"encoders\.0\.0\.conv1\.weight: gives shape \(1, 1, 16, 8\)"],
    ),
    "not a number": (changed(intro__bias=ZERO_NAN), [r"intro\.bias: holds NaN"]),
    "infinite": (changed(intro__bias=ZERO_NAN + np.inf), [r"intro\.bias: holds NaN or infinite"]),
    "two at once": (
        lambda tensors: without("ending.bias")(changed(intro__bias=ZERO_NAN)(tensors)),
        ["2 tensors", r"intro\.bias: holds NaN", "ending/bias: no tensor"],
    ),
    "another network": (
        lambda tensors: {"conv_first.weight": np.ones((8, 3, 3, 3), np.float32)},
        [r"no known network \(first tensors: conv_first\.weight\)", "nafnet, baseline, restormer"],
    ),
    "a relative": (  # NAFSSR has NAFNet's blocks in another order
        lambda tensors: {
            re.sub(r"^(encoders|decoders)\.\d+\.", "body.", name): x
            for name, x in tensors.items()
            if not name.startswith(("downs", "ups", "middle"))
        },
        ["no known network"],
    ),
}


@pytest.mark.parametrize(("edit", "words"), MISFITS.values(), ids=MISFITS)
def test_tensors_that_do_not_fit_are_all_named(nafnet, edit, words, tmp_path):
    source = tmp_path / "net.npz"
    write(source, edit(nafnet))
    with pytest.raises(ConversionError) as caught:
        convert_file(source, tmp_path / "out")
    assert str(caught.value).startswith(f"{source}: ")
    for pattern in words:
        assert re.search(pattern, str(caught.value))
    assert os.listdir(tmp_path) == ["net.npz"]


def test_of_two_tensors_for_one_parameter_neither_wins(golden):
    tensors = golden("maxim_b").tensors
    tensors = tensors | {"stage_0_input_conv.0/bias": tensors["stage_0_input_conv_0/bias"] + 1}
    with pytest.raises(
        ConversionError, match=r"conv\.0/bias: another tensor is the same parameter"
    ):
        convert_state_dict(tensors)


@pytest.mark.parametrize("name", ["mprnet_a", "rnnmbp_a"])
def test_slopes_that_should_be_shared_and_differ(golden, name):
    """The one that is unlike the others is named, and no other."""
    tensors = golden(name).tensors
    odd = [key for key in tensors if key.endswith("body.1.weight")][3]
    with pytest.raises(ConversionError, match=r"^looks like .*, but 1 ") as refusal:
        convert_state_dict(tensors | {odd: tensors[odd] + 1})
    assert f"{odd}: unlike" in str(refusal.value)


def test_a_hinet_without_norms(golden):
    tensors = {key: x for key, x in golden("hinet_a").tensors.items() if ".norm." not in key}
    model, params = convert_state_dict(tensors)
    assert not any("norm" in block for block in params.values())
    assert model.hin_position_left == model.hin_position_right == model.depth


@pytest.mark.parametrize("config", [(40, 20, 16), (96, 48, 4), (8, 4, 3), (5, 0, 2)])
def test_the_reduction_of_an_mprnet(config):
    """Hidden channels are rounded down at each level, so one level alone does not tell."""
    n_feat, more, reduction = config
    squeeze = "stage1_encoder.encoder_level{}.0.CA.conv_du.0.weight"
    channels = [n_feat + i * more for i in range(3)]
    shapes = {squeeze.format(i + 1): (c // reduction, c, 1, 1) for i, c in enumerate(channels)}
    found = _reduction(shapes)
    assert [c // found for c in channels] == [c // reduction for c in channels]


@pytest.mark.parametrize("features", [0, 27, 3 * 4**23])
def test_a_nafssr_of_an_impossible_scale(golden, features):
    """Refused before anything of that size is made."""
    tensors = golden("nafssr_a").tensors | {"up.0.weight": np.zeros((features, 12, 0, 0))}
    with pytest.raises(ConversionError, match="cannot be of this configuration: up_scale is 1, 2"):
        convert_state_dict(tensors)


def test_what_only_training_of_maxim_needs_is_left_out(golden):
    """The outputs at half and quarter size of the last stage; any other stranger is an error."""
    tensors = golden("maxim_b").tensors  # of one stage
    extra = {f"stage_0_output_conv_{i}/bias": np.ones(3, np.float32) for i in (1, 2)}
    _, params = convert_state_dict(tensors | extra)
    assert params.keys().isdisjoint({"stage_0_output_conv_1", "stage_0_output_conv_2"})
    with pytest.raises(ConversionError, match="stage_0_output_conv_3/bias"):
        convert_state_dict(tensors | {"stage_0_output_conv_3/bias": np.ones(3, np.float32)})
