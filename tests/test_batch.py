"""`tlc_jax.batch.Restorer`: batches as engines for many machines give them, and Ray itself."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import tlc_jax as tlc
from tlc_jax.batch import Restorer
from tlc_jax.files.whole import is_done
from tlc_jax.inference import ways
from tlc_jax.jobs.job import JobError

NET = tlc.NAFNet(width=4, enc_blk_nums=(), middle_blk_num=1, dec_blk_nums=(), train_size=(16, 16))


@pytest.fixture(scope="module")
def world(tmp_path_factory, random_params):
    folder = tmp_path_factory.mktemp("world")
    tlc.save(folder / "net", NET, random_params(NET))
    tlc.save(folder / "stereo", NET.clone(inp_channels=6), random_params(NET.clone(inp_channels=6)))
    (folder / "photos").mkdir()
    for i, name in enumerate(["a.png", "b.jpg", "c\n.bmp", "d.png"]):
        noise = np.random.default_rng(i).integers(0, 255, (40, 56 + i // 3, 3), np.uint8)
        Image.fromarray(noise).save(folder / "photos" / name)
    return folder


@pytest.fixture
def commanded(run, tmp_path) -> Path:
    """What the command makes of the same folder."""
    assert run("restore", "photos", "--checkpoint", "net", "-o", tmp_path / "commanded").code == 0
    return tmp_path / "commanded"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def planned(world: Path, output: Path) -> dict[str, np.ndarray]:
    jobs = tlc.jobs.plan(NET, [world / "photos"], output, label="net")
    return {
        "path": np.array([os.fsencode(job.sources[0]) for job in jobs], object),
        "target": np.array([str(job.targets[0]) for job in jobs], object),
    }


def test_from_file_to_file(world, tmp_path, commanded):
    batch = planned(world, tmp_path / "out")
    made = Restorer(world / "net")(batch | {"more": np.arange(4)})
    assert made["error"].tolist() == [""] * 4 and made["more"].tolist() == [0, 1, 2, 3]
    assert made["path"] is batch["path"] and contents(tmp_path / "out") == contents(commanded)


def test_what_is_there_is_kept(world, tmp_path):
    batch, other = planned(world, tmp_path), {name: np.zeros(0) for name in ("path", "target")}
    Restorer(world / "net")(batch)
    before = contents(tmp_path)
    target = Path(batch["target"][0])
    target.write_bytes(target.read_bytes()[:-20])  # as no writer of ours leaves it
    Restorer(world / "net", mode="global")(batch)
    after = contents(tmp_path)
    assert [name for name in before if before[name] != after[name]] == [target.name]
    assert is_done(target)
    Restorer(world / "net", mode="global", overwrite=True)(batch)
    assert all(before[name] != x for name, x in contents(tmp_path).items())
    assert Restorer(world / "net")(other)["error"].size == 0


def test_encoded_pictures(world, tmp_path, commanded):
    names = ["a.png", "b.jpg", "c\n.bmp"]
    encoded = [(world / "photos" / name).read_bytes() for name in names]
    # As Ray names what comes from an object store.
    paths = [f"bucket/{name}" for name in names]
    made = Restorer(world / "net")({"bytes": np.array(encoded, object), "path": np.array(paths)})
    expected = [commanded / name for name in ("a.net.png", "b.net.jpg", "c\n.net.png")]
    assert made["bytes"].tolist() == [file.read_bytes() for file in expected]
    assert made["error"].tolist() == [""] * 3


def test_what_cannot_be_read_costs_a_sentence(world, tmp_path):
    batch = {
        "bytes": np.array([(world / "photos/a.png").read_bytes(), b"", b"text", b"x"], object),
        "path": np.array(["a", "b/empty.png", "text.jpg\n", "c." + "x" * 300], object),
    }
    made = Restorer(world / "net")(batch)
    assert [bool(one) for one in made["bytes"]] == [True, False, False, False]
    assert made["error"][:2].tolist() == ["", "cannot read b/empty.png: it is empty."]
    assert all(re.match(r"cannot read (text|c\.).*\.$", one) for one in made["error"][2:])
    files = {"path": np.array([str(world / "gone.png")]), "target": np.array([str(tmp_path / "x")])}
    assert "gone.png: no such file or directory." in Restorer(world / "net")(files)["error"][0]


def test_out_of_memory_costs_a_sentence(world, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr("tlc_jax.jobs.pictures.restore_timed", fail)
    made = Restorer(world / "net")(planned(world, tmp_path))
    assert all("not enough memory; try bfloat16" in error for error in made["error"])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_arrays_of_one_size(world, dtype):
    restore = Restorer(world / "net")
    images = np.random.default_rng(0).random((2, 24, 32, 3))
    top = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    images = (images * top).astype(dtype)
    images.flags.writeable = False  # as those of Ray are
    made = restore({"image": images})["image"]
    model, params = tlc.load(world / "net")
    local = model.clone(local_mode=True)
    expected = [ways.restore(local, params, image) for image in images]
    assert made.dtype == dtype and np.array_equal(made, np.stack(expected))


def test_arrays_of_several_sizes(world):
    images = np.empty(2, object)
    images[0], images[1] = np.zeros((24, 32, 3), np.uint8), np.zeros((24, 40, 3), np.uint8)
    made = Restorer(world / "net")({"image": images})["image"]
    assert [one.shape for one in made] == [(24, 32, 3), (24, 40, 3)]
    assert Restorer(world / "net")({"image": images[:0]})["image"].shape == (0,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "auto"}, "mode is local or global, got 'auto'"),
        ({"dtype": "float64"}, "dtype is float32, bfloat16 or float16, got 'float64'"),
        ({"quality": 0}, "quality is 1 to 100, got 0"),
    ],
)
def test_odd_options(world, options, words):
    with pytest.raises(ValueError, match=words):
        Restorer(world / "net", **options)


def test_odd_networks_and_batches(world):
    with pytest.raises(JobError, match=r"stereo: NAFNet takes no single pictures\."):
        Restorer(world / "stereo")
    with pytest.raises(ValueError, match="path and target, path and bytes, or image; got label, x"):
        Restorer(world / "net")({"x": np.zeros(1), "label": np.zeros(1)})
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        Restorer(world / "net")({"image": np.zeros((2, 8, 8, 4), np.uint8)})


# A worker that tells its process, and takes its time.
SLOW = """
import os, pathlib, time
from tlc_jax.batch import Restorer

class Slow(Restorer):
    def __call__(self, batch):
        pathlib.Path("workers", str(os.getpid())).touch()
        time.sleep(1)
        return super().__call__(batch)
"""


def test_a_worker_of_ray_is_killed(world, tmp_path, commanded):
    """The example of the page loses nothing, and what it writes is what the command writes."""
    pytest.importorskip("ray")
    page = (Path(__file__).parent.parent / "docs/machines.md").read_text()
    example = re.search(r"```python\n(.*?)```", page, re.S)[1]
    for there, here in {
        "ray.init()": "ray.init(num_cpus=2, object_store_memory=10**8, include_dashboard=False)",
        "from tlc_jax.batch import Restorer": "from slow import Slow as Restorer",
        '"denoise"': '"net"',
        "batch_size=8": "batch_size=1",
    }.items():
        assert there in example
        example = example.replace(there, here)
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "workers").mkdir()
    for name in ("photos", "net"):
        (tmp_path / name).symlink_to(world / name)
    root = Path(tlc.__file__).parent.parent
    environment = os.environ | {
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with subprocess.Popen([sys.executable, "-c", example], cwd=tmp_path, env=environment) as ray:
        until = time.monotonic() + 120
        while not list(tmp_path.glob("restored/*.png")) and ray.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.05)
        killed, *_ = (tmp_path / "workers").iterdir()
        os.kill(int(killed.name), signal.SIGKILL)
        assert ray.wait(120) == 0
    assert len(list((tmp_path / "workers").iterdir())) == 3
    assert contents(tmp_path / "restored") == contents(commanded)


def test_a_picture_is_not_its_own_target(world):
    source = next(iter(sorted(world.rglob("*.png"))))
    before = source.read_bytes()
    batch = {name: np.array([str(source)], object) for name in ("path", "target")}
    for overwrite in (False, True):
        (error,) = Restorer("denoise", overwrite=overwrite)(batch)["error"]
        assert error.endswith("this would replace an input; choose another output.")
    assert source.read_bytes() == before
