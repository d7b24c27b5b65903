"""Commands that are killed, interrupted or asked to end at random moments, and then done again."""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image

import tlc_jax as tlc

CONFIG = """
from tlc_jax import NAFNet
from tlc_jax.training import Config, Phase
from tlc_jax.training.degradations import GaussianNoise

config = Config(
    model=NAFNet(
        width=4, enc_blk_nums=(1,), middle_blk_num=1, dec_blk_nums=(1,), train_size=(32, 32)
    ),
    phases=(Phase(steps=60, crop=32, batch=2),), target="pictures",
    degradation=GaussianNoise((25, 25)), report_every=10, save_every=10, validate_every=60,
)
"""
START = 0.2  # seconds in which Python itself begins


def attempts(folder: Path, given: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Yields the command, the moment of each signal, and what was wrong after it, if anything."""
    os.chdir(folder)
    rng = np.random.default_rng(given.seed)
    moments = random.Random(given.seed)
    Path("pictures").mkdir()
    for number in range(4):
        pixels = rng.integers(0, 256, (160, 200, 3), np.uint8)
        Image.fromarray(pixels).save(f"pictures/{number}.png")
    with np.load(given.tree / "tests/golden/nafnet_a.npz") as golden:
        tensors = {key[6:]: x for key, x in golden.items() if key.startswith("param:")}
    np.savez("weights.npz", **tensors)
    Path("config.py").write_text(CONFIG)
    film()
    for name, arguments, output in (
        ("restore", ["restore", "pictures", "--task", "denoise"], "restored"),
        ("convert", ["convert", "weights.npz", "made/net"], "made"),
        ("video", ["restore", "film.mp4", "--task", "denoise"], "restored"),
        ("train", ["train", "config.py"], "run"),
    ):
        if given.only in name:
            options = [] if name == "convert" else ["-o", output]
            for moment, problem in signalled([*arguments, *options], Path(output), given, moments):
                yield name, moment, problem


def film() -> None:
    """Three seconds in a file."""
    import av

    with av.open("film.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(30):
            pixels = np.full((64, 96, 3), 8 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())


def signalled(
    arguments: Sequence[str], output: Path, given: argparse.Namespace, moments: random.Random
) -> Iterator[tuple[str, str]]:
    """A command again and again, until it was done between its signals, and then anew."""
    begun = time.monotonic()
    process = start(arguments)
    _, err = process.communicate()
    assert process.returncode == 0, err
    seconds, expected = time.monotonic() - begun, digests(output)
    remove(output)
    numbers = [signal.SIGKILL] * given.kills
    numbers += [signal.SIGINT, signal.SIGTERM] * (given.kills // 3)
    for number in numbers:
        after = moments.uniform(START, seconds)
        process = start(arguments)
        time.sleep(after)
        process.send_signal(number)
        _, err = process.communicate()
        problem = ""
        right = {0, -number if number == signal.SIGKILL else 128 + number}
        if process.returncode not in right:
            problem = f"exit code {process.returncode}: {err[-200:]}"
        elif number != signal.SIGKILL and process.returncode and len(err.splitlines()) != 1:
            problem = f"said {err[-200:]}"
        elif wrong := differing(output, expected):
            problem = f"{wrong} was cut"
        # A run's folder is its own: what was begun there goes when the run resumes.
        elif number != signal.SIGKILL and arguments[0] != "train" and (left := unfinished()):
            problem = f"left {left}"
        yield f"{number.name} after {after:.2f} s", problem
        if digests(output) == expected:  # which would not be made again
            remove(output)
    process = start(arguments)
    _, err = process.communicate()
    problem = f"exit code {process.returncode}: {err[-200:]}" if process.returncode else ""
    if not problem and digests(output) != expected:
        problem = f"{sorted(digests(output).items() ^ expected.items())} differ"
    if not problem and (left := unfinished()):
        problem = f"left {left}"
    yield "done at last", problem
    remove(output)


def start(arguments: Sequence[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [Path(sys.executable).with_name("tlc-jax"), *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(Path("cache").absolute())},
    )  # fmt: skip


def digests(output: Path) -> dict[str, str]:
    """Of what a command makes, by its names; of a network its parameters, as their files vary."""
    made = {}
    for path in sorted(output.rglob("*")):
        if path.name == "model.json" and not hidden(path):
            params = jax.tree.leaves(tlc.load(path.parent)[1])
            made[str(path)] = hashlib.sha256(
                b"".join(map(bytes, map(np.asarray, params)))
            ).hexdigest()
        elif path.suffix in (".png", ".mp4") and not hidden(path):
            made[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return made


def differing(output: Path, expected: dict[str, str]) -> list[str]:
    return [path for path, digest in digests(output).items() if expected.get(path) != digest]


def hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def unfinished() -> list[str]:
    """What is left of what was not done."""
    return [str(path) for path in Path().rglob(".*") if "cache" not in path.parts]


def remove(output: Path) -> None:
    shutil.rmtree(output, ignore_errors=True)
