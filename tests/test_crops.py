"""Samples of a training run: random, but the same ones when it resumes."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tlc_jax.files.datasets import DataError
from tlc_jax.files.writing import write_image
from tlc_jax.training.crops import Crops, batches, decode, picture_of, widest_type


@pytest.fixture
def pictures(tmp_path):
    """Five pairs of unequal sizes; a target is its input and a half more."""
    random = np.random.default_rng(0)
    for i in range(5):
        image = random.integers(0, 100, (20 + 3 * i, 31 - 2 * i, 3), np.uint8)
        for kind, array in (("input", image), ("target", image + image // 2)):
            (tmp_path / kind).mkdir(exist_ok=True)
            write_image(tmp_path / kind / f"{i}.png", array)
    return tmp_path


def decoded(root: Path, paired: bool = True, may_fail: int = 0, notes: list | None = None):
    inputs = root / "input" if paired else None
    watch = (notes if notes is not None else []).append
    return tuple(decode(inputs, root / "target", 3, root / "npy", may_fail=may_fail, watch=watch))


def crops(files, rows=(4, 0, 4), first=0, count=40, flips=True, size=16, seed=1):
    return Crops(files, seed, first, count, size, flips, np.dtype(np.uint8), rows)


def test_inputs_and_targets_stay_together(pictures):
    made = crops(decoded(pictures))
    assert len(made) == 40
    for i in range(40):
        sample = made[i]
        assert sample["input"].shape == (16, 16, 3) and sample["input"].dtype == np.uint8
        assert np.array_equal(sample["target"], sample["input"] + sample["input"] // 2)
        assert sample["seed"].dtype == np.uint32
    assert len({int(made[i]["seed"]) for i in range(40)}) == 40


def test_every_picture_once_in_each_epoch(pictures):
    files = decoded(pictures, paired=False)
    which = {target.pixels().tobytes(): i for i, (target,) in enumerate(files)}
    whole = [crops((one,), size=1) for one in files]
    assert len(which) == len(whole) == 5

    # Each picture painted with its number tells where a sample comes from.
    for i, (target,) in enumerate(files):
        np.save(target.file, np.full(target.shape, i, target.dtype))
    order = [int(crops(files)[i]["target"][0, 0, 0]) for i in range(20)]
    epochs = [order[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1


@pytest.mark.parametrize("flips", [True, False])
def test_flips_and_turns(tmp_path, flips):
    (tmp_path / "target").mkdir()
    image = np.arange(75, dtype=np.uint8).reshape(5, 5, 3)
    write_image(tmp_path / "target" / "0.png", image)
    made = crops(decoded(tmp_path, paired=False), flips=flips, size=5, count=200)
    seen = {made[i]["target"].tobytes() for i in range(200)}
    turns = [np.rot90(x, k) for x in (image, image[::-1]) for k in range(4)]
    assert seen == {x.tobytes() for x in (turns if flips else turns[:1])}


def test_processes_share_the_rows_of_a_batch(pictures):
    files = decoded(pictures)
    whole = list(batches(crops(files, count=12), 0, workers=0))
    parts = [
        list(batches(crops(files, rows=(4, begin, begin + 2), count=12), 0, workers=0))
        for begin in (0, 2)
    ]
    assert len(whole) == 3
    for batch, *shares in zip(whole, *parts, strict=True):
        for name, array in batch.items():
            assert np.array_equal(array, np.concatenate([share[name] for share in shares]))


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_from_a_batch(pictures, workers):
    files = decoded(pictures)
    whole = list(batches(crops(files), 0, workers=0))
    rest = list(batches(crops(files), 7, workers=workers))
    assert len(rest) == 3
    for one, other in zip(whole[7:], rest, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_later_stretch_has_samples_of_its_own(pictures):
    files = decoded(pictures)
    later = crops(files, first=8)
    assert np.array_equal(later[0]["target"], crops(files)[8]["target"])


def test_eight_bits_among_sixteen(pictures):
    files = decoded(pictures)
    wide = files[0][0].pixels().astype(np.uint16) * 257
    np.save(files[0][0].file, wide)
    files = decoded(pictures)
    assert widest_type(files, 16) == np.uint16
    made = Crops(files, 0, 0, 20, 16, True, np.dtype(np.uint16), (4, 0, 4))
    for i in range(20):
        levels = made[i]["input"]
        assert levels.dtype == np.uint16 and (levels % 257 == 0).all() and levels.max() > 255


def test_small_pictures_are_refused(pictures):
    with pytest.raises(
        DataError, match="3 pictures are smaller than the crops of 24x24 pixels, one is 31x20"
    ):
        widest_type(decoded(pictures), 24)


def test_unreadable_pictures(pictures):
    bad = pictures / "input" / "2.png"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(DataError, match=r"cannot read .*2\.png.*skip_unreadable is 0"):
        decoded(pictures)
    notes: list[str] = []
    assert len(decoded(pictures, may_fail=1, notes=notes)) == 4
    assert len(notes) == 1 and "2.png" in notes[0]
    (pictures / "input" / "3.png").write_bytes(b"no picture")
    shutil.rmtree(pictures / "npy")
    with pytest.raises(DataError, match=r"3\.png"):
        decoded(pictures, may_fail=1)


def test_unreadable_pictures_in_a_database(pictures):
    lmdb = pytest.importorskip("lmdb")
    (pictures / "lmdb").mkdir()
    with (
        lmdb.open(str(pictures / "lmdb"), map_size=2**20) as database,
        database.begin(write=True) as writer,
    ):
        for i in range(4):
            writer.put(b"%d" % i, (pictures / "target" / f"{i}.png").read_bytes())
        writer.put(b"4", b"no picture")
    lines = [f"{i}.png (20,31,3) 1\n" for i in range(5)]
    (pictures / "lmdb" / "meta_info.txt").write_text("".join(lines))
    notes: list[str] = []
    files = decode(None, pictures / "lmdb", 3, pictures / "npy", may_fail=1, watch=notes.append)
    assert len(files) == 4 and len(notes) == 1 and "4 in " in notes[0]


def test_pairs_that_do_not_match_are_never_left_out(pictures):
    write_image(pictures / "input" / "2.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(DataError, match="picture 2: is 9x9, but its target is"):
        decoded(pictures, may_fail=5)


def test_sources_that_cannot_be_used(pictures, tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        decode(None, tmp_path / "none", 3, tmp_path, may_fail=0, watch=print)
    (pictures / "target" / "4.png").unlink()
    with pytest.raises(DataError, match="without one of the same name"):
        decoded(pictures)


def test_what_is_decoded_is_not_decoded_again(pictures):
    files = decoded(pictures)
    before = [file.file.stat().st_mtime_ns for pair in files for file in pair]
    assert decoded(pictures) == files
    assert [file.file.stat().st_mtime_ns for pair in files for file in pair] == before

    picture = pictures / "input" / "2.png"
    os.utime(picture, (1, 1))  # a copy, maybe of another picture
    write_image(pictures / "input" / "3.png", np.zeros((29, 25, 3), np.uint8))
    again = decoded(pictures)
    assert [one == other for one, other in zip(files, again, strict=True)] == [1, 1, 0, 0, 1]
    assert not again[3][0].pixels().any()
    same = [
        picture_of(one[0]) == picture_of(other[0]) for one, other in zip(files, again, strict=True)
    ]
    assert same == [1, 1, 1, 0, 1]

    files = again
    turned = decode(
        pictures / "input", pictures / "target", 3, pictures / "other",
        may_fail=0, watch=print, host=(1, 2),
    )  # fmt: skip
    for one, other in zip(files, turned, strict=True):
        for a, b in zip(one, other, strict=True):
            assert np.array_equal(a.pixels(), b.pixels())
