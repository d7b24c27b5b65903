"""Whatever a file or a command line holds, it is done or refused with one sentence.

TLC_JAX_FUZZ is how many inputs each test tries; `make fuzz` tries many.
"""

import contextlib
import io
import json
import os
import resource
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import tlc_jax as tlc
from checkpoints_convert import ConversionError, convert_file
from tlc_jax import cli
from tlc_jax.files import limits
from tlc_jax.files.checkpoints import CheckpointError, load_abstract
from tlc_jax.files.pictures import ImageError, picture_size, read_picture
from tlc_jax.files.printable import printable
from tlc_jax.files.whole import is_done
from tlc_jax.layers.network import abstract_params
from tlc_jax.models import MODELS

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())
NET = MODELS["nafnet"](width=4, enc_blk_nums=(1,), middle_blk_num=1, dec_blk_nums=(1,))
# In CI the same inputs each time, so that a change alone decides.
COUNT = int(os.environ.get("TLC_JAX_FUZZ", 100))
settings.register_profile(
    "fuzz",
    max_examples=COUNT,
    derandomize="TLC_JAX_FUZZ" not in os.environ,
    database=None,
    deadline=20_000,  # thousandths of a second
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("fuzz")
slow = settings(max_examples=COUNT // 4)
pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries, about what is damaged
MEGAPIXEL = 10**6


@st.composite
def damaged(draw, whole):
    """Bytes with some of them overwritten, left out or repeated, or cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 4))):
        where = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.integers(0, 4)):
            case 0:
                data[where : where + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:  # sizes and offsets
                size = draw(st.sampled_from([2, 4, 8]))
                number = draw(
                    st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**16 - 1])
                )
                order = draw(st.sampled_from(["big", "little"]))
                data[where : where + size] = (number % 2 ** (8 * size)).to_bytes(size, order)
            case 2:
                del data[where : where + draw(st.integers(1, 40))]
            case 3:
                data[where:where] = data[where : where + 200] * draw(st.integers(1, 20))
            case 4:
                del data[where:]
    return bytes(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where inputs are written, with a checkpoint and weights as they are published."""
    folder = tmp_path_factory.mktemp("fuzz")
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), abstract_params(NET))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
    tlc.save(folder / "net", NET, params)
    tensors = {f"intro.{i}.weight": np.ones((2, i), np.float32) for i in range(1, 4)}
    save_file(tensors, folder / "whole.safetensors")
    np.savez(folder / "whole.npz", **tensors)
    with contextlib.suppress(ImportError):
        import torch

        state = {k: torch.from_numpy(v) for k, v in tensors.items()}
        torch.save(state, folder / "whole.pth")
        torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    tlc.write_image(folder / "a.png", np.zeros((8, 8, 3), np.uint8))
    return folder


@pytest.fixture(scope="module", autouse=True)
def bounded():
    """No input is as large as this."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(limits, "_limit", MEGAPIXEL)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        yield
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # kB


@pytest.mark.parametrize("source", CORPUS, ids=lambda path: path.name)
@given(st.data())
def test_pictures(folder, source, data):
    path = folder / source.name
    path.write_bytes(data.draw(damaged(source.read_bytes())))
    sentence = None
    try:
        height, width = picture_size(path)
    except ImageError as error:
        sentence = str(error)
    else:
        assert 0 < height * width <= MEGAPIXEL
    try:
        picture = read_picture(path)
    except ImageError as error:
        sentence = str(error)
    else:
        assert picture.pixels.size <= 3 * MEGAPIXEL
    assert sentence is None or sentence.startswith(f"cannot read {path}: ")
    assert isinstance(is_done(path), bool)


@given(st.data())
def test_descriptions(folder, data):
    """What model.json says, of a checkpoint whose arrays are whole."""
    file = folder / "net/model.json"
    whole = file.read_bytes()
    try:
        file.write_bytes(data.draw(damaged(whole)))
        with contextlib.suppress(CheckpointError):
            load_abstract(folder / "net")
    finally:
        file.write_bytes(whole)


NUMBERS = st.one_of(
    st.integers(-2, 10), st.sampled_from([2**31, 2**63, 10**30, -(10**9)]), st.floats(),
    st.none(), st.booleans(), st.text(max_size=5), st.lists(st.integers(-1, 10**9), max_size=5),
)  # fmt: skip


@slow
@given(st.sampled_from(["width", "middle_blk_num", "enc_blk_nums", "train_size", "x"]), NUMBERS)
@example("middle_blk_num", 10**8)
@example("width", 10**9)
@example("enc_blk_nums", [10**8])
def test_configurations(folder, field, value):
    """JSON that is whole, with other values."""
    file = folder / "net/model.json"
    whole = file.read_bytes()
    description = json.loads(whole)
    description["config"][field] = value
    try:
        file.write_text(json.dumps(description))
        with contextlib.suppress(CheckpointError):
            load_abstract(folder / "net")
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("name", ["whole.safetensors", "whole.npz", "whole.pth", "old.pth"])
@given(st.data())
def test_weights(folder, name, data):
    if name.endswith("pth"):
        pytest.importorskip("torch")
    path = folder / f"damaged{Path(name).suffix}"
    path.write_bytes(data.draw(damaged((folder / name).read_bytes())))
    with pytest.raises(ConversionError) as refused:
        convert_file(path, folder / "never")
    assert str(refused.value).startswith(str(path))


ODD = st.one_of(
    st.text(max_size=8), st.integers().map(str), st.floats().map(str), NUMBERS.map(str),
    st.sampled_from(["a.png", "net", "none", "-", "--", "", "\0", "\udcff", "[" * 3000,
                     "9" * 5000]),
)  # fmt: skip
COMMANDS = {
    "restore": ["--checkpoint", "--task", "--mode", "--window", "--tiles", "--strength", "--set",
                "--max-pixels", "--quality-jpeg", "--dtype", "-o", "--reference", "--shifts"],
    "evaluate": ["--checkpoint", "--mode", "--window", "--noise", "--target", "--subset", "--seed",
                 "--max-pixels", "--report"],
    "download": ["--accept-licence"],
    "convert": ["--set", "--half", "--part", "--licence"],
    "info": ["--size", "--set", "--mode"],
    "models": ["--task"],
    "app": ["--port", "--host", "--jobs", "--timeout", "--max-disk"],
    "train": ["--set", "--target", "-o"],
}  # fmt: skip


@slow
@given(st.data())
def test_command_lines(folder, data):
    command = data.draw(st.sampled_from(sorted(COMMANDS)))
    arguments = data.draw(st.lists(ODD, min_size=1, max_size=2))
    for _ in range(data.draw(st.integers(1, 3))):
        arguments += [data.draw(st.sampled_from(COMMANDS[command])), data.draw(ODD)]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        try:
            cli.main([command, *arguments])
        except SystemExit as end:
            assert end.code in (0, 2)
    said = err.getvalue()
    assert "Traceback" not in said and "nobody thought of" not in said
    assert all(printable(line) == line for line in said.splitlines())
