"""Checkpoint folders: what is written comes back, and what cannot be read says why."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlc_jax.files import checkpoints
from tlc_jax.files.checkpoints import CheckpointError, describe, load, save
from tlc_jax.layers.network import abstract_params
from tlc_jax.models import MODELS

ROOT = Path(__file__).parent.parent
NAFNET = MODELS["nafnet"](
    width=16, enc_blk_nums=(1, 2), middle_blk_num=1, dec_blk_nums=(1, 1), train_size=(48, 64)
)
NETWORKS = {
    "nafnet": NAFNET,
    "baseline": MODELS["baseline"](
        width=4, enc_blk_nums=(1,), middle_blk_num=0, dec_blk_nums=(1,), dw_expand=2
    ),
    "restormer": MODELS["restormer"](
        dim=8,
        num_blocks=(1, 1, 1, 2),
        heads=(1, 2, 2, 4),
        ffn_expansion_factor=2.5,
        norm_bias=False,
    ),
    "maxim": MODELS["maxim"](features=4, num_stages=1, num_groups=1, block_size_hr=(4, 4)),
    "hinet": MODELS["hinet"](wf=4, depth=2, hin_position_left=1, hin_position_right=1),
    "mprnet": MODELS["mprnet"](8, 4, 2, num_cab=1, reduction=2),
    "nafssr": MODELS["nafssr"](2, width=4, num_blks=1, train_size=(20, 40)),
    "rnn_mbp": MODELS["rnn_mbp"](4, num_cab=1, past_frames=1, future_frames=0),
}


def params_of(model, kind=np.asarray):
    """Parameters that a mistake in place or type would change: all different, some not finite."""
    generator = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: kind(generator.normal(size=leaf.shape).astype(leaf.dtype)),
        abstract_params(model),
    )
    if "intro" in params:  # a subnormal number is the last
        extremes = np.array([-0.0, np.nan, np.inf, 1e-40], np.float32)
        params["intro"]["bias"] = kind(np.resize(extremes, params["intro"]["bias"].shape))
    return params


def bits(params):
    return jax.tree.map(lambda leaf: (leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()), params)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One checkpoint for the tests that only read it."""
    path = tmp_path_factory.mktemp("written") / "net"
    save(path, NAFNET, params_of(NAFNET), task="deblurring", source={"file": "net\u202f1.pth"})
    return path


@pytest.fixture
def copy(written, tmp_path):
    """A copy of it for the tests that damage it."""
    return Path(shutil.copytree(written, tmp_path / "net"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, np.asarray) for name in NETWORKS), ("nafnet", jnp.asarray)],
    ids=[*NETWORKS, "nafnet in JAX"],
)
def test_round_trip(name, kind, tmp_path):
    model = NETWORKS[name]
    params = params_of(model, kind)
    save(tmp_path / "net", model, params)
    loaded, restored = load(tmp_path / "net")
    assert loaded == model
    assert hash(loaded) == hash(model)  # tuples are tuples again: a network is a static argument
    assert loaded.train_size == model.train_size
    assert bits(restored) == bits(params)
    assert os.listdir(tmp_path) == ["net"]


def test_every_network_makes_the_round_trip():
    assert NETWORKS.keys() == MODELS.keys()


def test_how_a_network_is_run_is_not_stored(tmp_path):
    running = NAFNET.clone(local_mode=True, window=(32, 32), dtype=jnp.bfloat16)
    save(tmp_path / "net", running, params_of(NAFNET))
    model, _ = load(tmp_path / "net")
    assert model == NAFNET
    assert describe(tmp_path / "net")["config"].keys().isdisjoint({"local_mode", "window", "dtype"})


def test_describe_gives_what_was_written(written):
    description = describe(written)
    size = sum(leaf.size for leaf in jax.tree.leaves(abstract_params(NAFNET)))
    assert description["format"] == 1
    assert description["network"] == "nafnet"
    assert description["config"]["enc_blk_nums"] == [1, 2]
    assert description["config"]["train_size"] == [48, 64]
    assert description["parameters"] == size
    assert description["task"] == "deblurring"
    assert description["source"] == {"file": "net\u202f1.pth"}


def test_a_checkpoint_of_many_devices_loads_on_one(tmp_path):
    """Networks are trained on other machines than they are used on."""
    code = """
import sys, jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tests.test_checkpoints import NAFNET, params_of, save
everywhere = NamedSharding(Mesh(jax.devices(), ("device",)), PartitionSpec())
assert len(jax.devices()) == 2
save(sys.argv[1], NAFNET, jax.device_put(params_of(NAFNET), everywhere))
"""
    two = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", code, tmp_path / "net"]
    run = subprocess.run(command, cwd=ROOT, env=two, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert bits(load(tmp_path / "net")[1]) == bits(params_of(NAFNET))


# Folders that cannot be read


def test_no_folder(tmp_path):
    (tmp_path / "file").touch()
    for name, sentence in {"nothing": "there is no such", "file": "a file, not a"}.items():
        with pytest.raises(CheckpointError, match=f"{name}: {sentence} checkpoint folder"):
            load(tmp_path / name)


def test_parameters_of_another_network(tmp_path):
    with pytest.raises(CheckpointError, match="not the parameters of this NAFNet"):
        save(tmp_path / "net", NAFNET.clone(width=12), params_of(NAFNET))
    assert not list(tmp_path.iterdir())


def test_another_s_network(tmp_path):
    class Mine(MODELS["nafnet"]):
        pass

    with pytest.raises(CheckpointError, match="Mine is none of nafnet, "):
        save(tmp_path / "net", Mine(), {})


def test_a_folder_without_model_json(tmp_path):
    with pytest.raises(CheckpointError, match=r"it holds no model\.json; make one with"):
        load(tmp_path)


def test_a_model_json_that_is_no_file_or_too_large(tmp_path, copy):
    """Neither waited for, nor read without an end."""
    os.mkfifo(tmp_path / "model.json")
    with pytest.raises(CheckpointError, match=r"it holds no model\.json"):
        describe(tmp_path)
    (tmp_path / "model.json").unlink()
    (tmp_path / "model.json").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=r"it holds no model\.json"):
        describe(tmp_path)
    with (copy / "model.json").open("a") as file:
        file.write(" " * 2**20)
    with pytest.raises(CheckpointError, match="more than 1,048,576 bytes"):
        load(copy)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"network": "nafnet"}', b"\xff\xfe", 9**5 * "["],
    ids=range(7),
)
def test_a_damaged_model_json(copy, content):
    content = content.encode() if isinstance(content, str) else content
    (copy / "model.json").write_bytes(content)
    for read in (load, describe):
        with pytest.raises(CheckpointError, match=r"net/model\.json: cannot be read"):
            read(copy)


UNKNOWN = "update tlc-jax"
NOT_A_CONFIGURATION = r"model\.json: not a configuration of nafnet"
NOT_ITS_PARAMS = "net/params: .*not the parameters of the network in model.json"


@pytest.mark.parametrize(
    ("entries", "fields", "words"),
    [
        ({"network": "unet"}, {}, f"'unet'.*{UNKNOWN}"),
        ({"network": ["nafnet"]}, {}, UNKNOWN),
        ({"format": 2}, {}, f"format 2 .*{UNKNOWN}"),
        ({"config": [4]}, {}, UNKNOWN),
        ({"weights_licence": "MIT\x1b[2J"}, {}, "control characters"),
        ({}, {"depth": 4}, f"{NOT_A_CONFIGURATION}.*depth"),
        ({}, {"width": "wide"}, NOT_A_CONFIGURATION),
        # Whether an initialiser minds a size of 0 depends on its version.
        ({}, {"width": 0}, f"{NOT_A_CONFIGURATION}|{NOT_ITS_PARAMS}"),
        ({}, {"width": -4}, NOT_A_CONFIGURATION),
        ({}, {"inp_channels": 3.5}, NOT_A_CONFIGURATION),
        ({}, {"enc_blk_nums": [1]}, NOT_A_CONFIGURATION),  # fewer levels down than up
        # Configurations of other networks than the one whose parameters lie there.
        ({}, {"width": 8}, NOT_ITS_PARAMS),
        ({}, {"inp_channels": 1}, NOT_ITS_PARAMS),
        ({}, {"middle_blk_num": 0}, NOT_ITS_PARAMS),
        ({}, {"middle_blk_num": 2}, NOT_ITS_PARAMS),
        ({"network": "baseline"}, {}, NOT_ITS_PARAMS),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_another_model_json(copy, entries, fields, words):
    description = json.loads((copy / "model.json").read_text()) | entries
    if fields:
        description["config"] |= fields
    (copy / "model.json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=words) as caught:
        load(copy)
    assert "\n" not in str(caught.value)


def test_what_file_managers_leave_is_no_damage(copy):
    (copy / "params" / ".DS_Store").write_bytes(b"what a window looked like")
    load(copy)


def largest(params: Path) -> Path:
    """The file with the numbers in it."""
    return max(params.rglob("*"), key=lambda file: file.stat().st_size if file.is_file() else 0)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    {
        "no params": lambda params: shutil.rmtree(params),
        "a file is missing": lambda params: largest(params).unlink(),
        "a file is empty": lambda params: largest(params).write_bytes(b""),
        "a file is cut": lambda params: os.truncate(largest(params), 1000),
        "one byte is wrong": lambda params: flip(largest(params)),
        "the index is missing": lambda params: (params / "_METADATA").unlink(),
        "the index is cut": lambda params: os.truncate(params / "_METADATA", 1000),
    }.items(),
    ids=lambda damage: damage[0],
)
def test_damaged_params(copy, damage, capfd):
    damage[1](copy / "params")
    with pytest.raises(CheckpointError, match="net/params: damaged") as caught:
        load(copy)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err  # of the threads that read


# Folders by somebody who means no good


def resigned(folder: Path, **config: object) -> Path:
    """With a digest of the files as they are, and other fields."""
    description = json.loads((folder / "model.json").read_text())
    description["config"] |= config
    description["params_sha256"] = checkpoints._digest(folder / "params")
    (folder / "model.json").write_text(json.dumps(description))
    return folder


def store(folder: Path):
    return checkpoints.array_store(folder / "params")


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("nafnet", "middle_blk_num"),
        ("nafnet", "enc_blk_nums"),
        ("restormer", "num_blocks"),
        ("maxim", "depth"),
        ("hinet", "depth"),
        ("mprnet", "num_cab"),
        ("nafssr", "num_blks"),
        ("rnn_mbp", "num_cab"),
    ],
)
def test_more_layers_than_arrays(tmp_path, name, field):
    """So many that to trace the network would never end."""
    model = NETWORKS[name]
    save(tmp_path / "net", model, params_of(model))
    value = getattr(model, field)
    huge = 10**8 if isinstance(value, int) else tuple(10**8 for _ in value)
    with pytest.raises(CheckpointError, match=r"model\.json: not a configuration of .*arrays"):
        load(resigned(tmp_path / "net", **{field: huge}))


@pytest.mark.parametrize(
    "change",
    [
        {"chunks": [10**9]},
        {"shape": [10**12], "chunks": [10**12]},
        {"dtype": "<f8"},
        {"compressor": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}},
        {"filters": [{"id": "gzip"}]},
        {"zarr_format": 3},
    ],
    ids=str,
)
def test_layouts_that_are_not_written(copy, change):
    """Signed again. TensorStore would take the memory that they ask for, or end the process."""
    files = store(copy)
    (key, *_) = (key for key in files.list().result() if key.endswith(b"intro.bias/.zarray"))
    described = json.loads(files.read(key).result().value) | change
    files.write(key, json.dumps(described).encode()).result()
    with pytest.raises(CheckpointError, match=r"params: (damaged|not the parameters)"):
        load(resigned(copy))


def test_other_files_among_them(copy):
    (copy / "params/pipe").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="params: damaged"):
        load(resigned(copy))
    (copy / "params/pipe").unlink()
    os.mkfifo(copy / "params/pipe")
    with pytest.raises(CheckpointError, match="params: damaged"):
        load(resigned(copy))


@pytest.mark.parametrize("name", ["manifest.ocdbt", "_METADATA", "d"])
def test_files_far_larger_than_their_arrays(copy, name):
    """On a disk they may take nothing, and to read them would take for ever."""
    file = copy / "params" / name
    os.truncate(next(file.iterdir()) if file.is_dir() else file, 2**40)
    with pytest.raises(CheckpointError, match="params: damaged"):
        load(copy)


def test_arrays_far_larger_than_their_files(tmp_path, monkeypatch):
    """Zeros, which pack well. They are not written, either: nobody could load them."""
    model = MODELS["nafnet"](width=1500, enc_blk_nums=(1,), middle_blk_num=0, dec_blk_nums=(0,))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract_params(model))
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "load_abstract", lambda folder: None)
        save(tmp_path / "net", model, params)
    with pytest.raises(CheckpointError, match="net/params: damaged"):
        load(tmp_path / "net")
    with pytest.raises(CheckpointError, match=f"^{tmp_path}/other/params: damaged"):
        save(tmp_path / "other", model, params)
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


# Folders that cannot be written


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("keep")
    with pytest.raises(CheckpointError, match="file/net: cannot be written"):
        save(tmp_path / "file/net", NAFNET, params_of(NAFNET))
    assert (tmp_path / "file").read_text() == "keep"


def test_an_existing_folder_is_not_replaced(written):
    before = (written / "model.json").read_text()
    with pytest.raises(CheckpointError, match="net: exists already; remove it or choose another"):
        save(written, NAFNET, params_of(NAFNET))
    assert (written / "model.json").read_text() == before


def test_who_comes_second_is_told_so(tmp_path, monkeypatch):
    """Where another process has made the folder meanwhile."""
    folder = tmp_path / "net"
    write = checkpoints._write_params

    def meanwhile(*arguments):
        write(*arguments)
        (folder / "params").mkdir(parents=True)

    monkeypatch.setattr(checkpoints, "_write_params", meanwhile)
    with pytest.raises(CheckpointError, match="net: exists already"):
        save(folder, NAFNET, params_of(NAFNET))
    assert os.listdir(tmp_path) == ["net"]


def test_missing_parents_are_made(tmp_path):
    save(tmp_path / "some/where/net", NAFNET, params_of(NAFNET))
    assert load(tmp_path / "some/where/net")[0] == NAFNET
