"""Pairs of pictures from folders, LMDB and .mat files, and what is said of those that do not pair.

The data sets are built in miniature, each as it is distributed.
"""

import io
import sys

import numpy as np
import pytest
import scipy.io
from PIL import Image

import tlc_jax as tlc
from tlc_jax.files.datasets import DataError, dataset, pairs, photographs
from tlc_jax.files.pictures import ImageError


def pixels(number, size=(6, 8), dtype=np.uint8):
    top = np.iinfo(dtype).max
    return np.random.default_rng(number).integers(0, top, (*size, 3), dtype, endpoint=True)


def write(folder, **numbers):
    """Pictures by their names without suffix; "__" stands for a folder."""
    for name, number in numbers.items():
        path = folder / f"{name.replace('__', '/')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        tlc.write_image(path, pixels(number))


def write_lmdb(folder, images, listed=None):
    """As BasicSR: PNG files by name, and a list of the names."""
    lmdb = pytest.importorskip("lmdb")
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=2**20) as database, database.begin(write=True) as writer:
        for key, image in images.items():
            encoded = io.BytesIO()
            Image.fromarray(image).save(encoded, "PNG")
            writer.put(key.encode(), encoded.getvalue())
    lines = [f"{key}.png (6,8,3) 1\n" for key in listed or images]
    (folder / "meta_info.txt").write_text("".join(lines))


def contents(found):
    """Which picture is which: by name, the numbers of input and target."""
    known = {pixels(number).tobytes(): number for number in range(40)}
    return {pair.name: tuple(known[image.tobytes()] for image in pair.read(3)) for pair in found}


# Folders


def test_folders_pair_by_name_at_any_depth(tmp_path):
    write(tmp_path / "in", b=1, a=2, deep__er__a=3)
    write(tmp_path / "out", a=12, b=11, deep__er__a=13)
    (tmp_path / "in/notes.txt").write_text("not a picture")
    Image.fromarray(pixels(4)).save(tmp_path / "in/c.bmp")  # suffixes may differ
    Image.fromarray(pixels(14)).save(tmp_path / "out/c.TIFF")
    found = pairs(tmp_path / "in", tmp_path / "out")
    assert [pair.name for pair in found] == ["a", "b", "c", "deep/er/a"]
    assert contents(found) == {"a": (2, 12), "b": (1, 11), "c": (4, 14), "deep/er/a": (3, 13)}


def test_folders_are_followed_through_links_but_not_hidden_ones(tmp_path):
    write(tmp_path / "disk", b=1)
    write(tmp_path / "in", a=2)
    write(tmp_path / "in/.thumbnails", a=4)
    (tmp_path / "in/linked").symlink_to(tmp_path / "disk")
    (tmp_path / "in/round").symlink_to(tmp_path / "in")
    (tmp_path / "in/again").symlink_to(tmp_path / "disk")
    assert sorted(photographs(tmp_path / "in")) == ["a", "again/b", "linked/b"]


def test_pictures_are_read_only_when_asked_for(tmp_path):
    write(tmp_path / "in", a=1, b=2)
    write(tmp_path / "out", a=11, b=12)
    (tmp_path / "in/b.png").write_text("damaged")
    a, b = pairs(tmp_path / "in", tmp_path / "out")
    assert contents([a]) == {"a": (1, 11)}
    with pytest.raises(ImageError, match=r"in/b\.png"):
        b.read(3)


def test_channels_and_depth(tmp_path):
    for kind in ("in", "out"):
        (tmp_path / kind).mkdir()
        tlc.write_image(tmp_path / kind / "a.png", pixels(1, dtype=np.uint16))
    (pair,) = pairs(tmp_path / "in", tmp_path / "out")
    image, _ = pair.read(3)
    np.testing.assert_array_equal(image, pixels(1, dtype=np.uint16))
    assert all(gray.shape == (6, 8, 1) for gray in pair.read(1))


def test_sizes_that_differ(tmp_path):
    write(tmp_path / "in", a=1)
    (tmp_path / "out").mkdir()
    tlc.write_image(tmp_path / "out/a.png", pixels(1, size=(8, 6)))
    (pair,) = pairs(tmp_path / "in", tmp_path / "out")
    with pytest.raises(DataError) as error:
        pair.read(3)
    assert str(error.value) == "picture a: is 8x6, but its target is 6x8; mend one."


@pytest.mark.parametrize(("more", "fewer"), [("in", "out"), ("out", "in")])
def test_names_without_partner(tmp_path, more, fewer):
    write(tmp_path / more, a=1, b=2, c=3, d=4, e=5)
    write(tmp_path / fewer, b=1)
    with pytest.raises(DataError) as error:
        pairs(tmp_path / "in", tmp_path / "out")
    assert str(error.value) == (
        f"{tmp_path / more}: pictures without one of the same name in {tmp_path / fewer}: 4 "
        "(a, c, d, ...); add the missing ones or remove these."
    )


def test_names_that_differ_in_their_suffix_only(tmp_path):
    write(tmp_path / "in", a=1)
    Image.fromarray(pixels(2)).save(tmp_path / "in/a.jpg")
    write(tmp_path / "out", a=1)
    with pytest.raises(DataError, match=r"in/a\.png: a\.jpg has the same name but for the suffix"):
        pairs(tmp_path / "in", tmp_path / "out")


def test_folders_that_are_empty_or_not_there(tmp_path):
    write(tmp_path / "in", a=1)
    with pytest.raises(DataError, match="out: there is no such folder"):
        pairs(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("not a picture")
    with pytest.raises(DataError, match=r"out: no pictures in this folder \(\.png,"):
        pairs(tmp_path / "in", tmp_path / "out")


# LMDB


def test_lmdb(tmp_path):
    keys = {"GOPR0384_11_00-000001": 1, "a b.c": 2}
    for name, offset in (("input.lmdb", 0), ("target.lmdb", 10)):
        images = {key: pixels(number + offset) for key, number in keys.items()}
        write_lmdb(tmp_path / "test" / name, images)
        (tmp_path / "test" / name / "lock.mdb").unlink()
    expected = {key: (number, number + 10) for key, number in keys.items()}
    assert contents(dataset(tmp_path)) == expected
    assert contents(dataset(tmp_path)) == expected  # and again, as nothing was left open
    assert not list(tmp_path.rglob("lock.mdb"))  # reading writes nothing


def test_lmdb_with_a_folder(tmp_path):
    write_lmdb(tmp_path / "in.lmdb", {"a": pixels(1)})
    write(tmp_path / "out", a=11)
    assert contents(pairs(tmp_path / "in.lmdb", tmp_path / "out")) == {"a": (1, 11)}


def test_lmdb_that_is_damaged(tmp_path):
    write_lmdb(tmp_path / "in.lmdb", {"a": pixels(1)}, listed=["a", "b"])
    write(tmp_path / "out", a=11, b=12)
    a, b = pairs(tmp_path / "in.lmdb", tmp_path / "out")
    assert contents([a]) == {"a": (1, 11)}
    with pytest.raises(DataError, match=r"in\.lmdb: holds no b, which its meta_info\.txt names"):
        b.read(3)
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "in.lmdb")) as database, database.begin(write=True) as writer:
        writer.put(b"b", b"no picture")
    with pytest.raises(ImageError, match=r"cannot read b in \S+in\.lmdb: it is no picture") as bad:
        b.read(3)
    assert not isinstance(bad.value, DataError)  # the others may be whole
    (tmp_path / "in.lmdb/data.mdb").write_bytes(b"damaged" * 10)
    with pytest.raises(DataError, match=r"in\.lmdb: cannot be read \(.*\); copy it again"):
        a.read(3)
    (tmp_path / "in.lmdb/meta_info.txt").write_text("a.png\n")
    with pytest.raises(DataError, match=r"meta_info\.txt: not the list of names"):
        pairs(tmp_path / "in.lmdb", tmp_path / "out")
    (tmp_path / "in.lmdb/meta_info.txt").unlink()
    with pytest.raises(DataError, match=r"in\.lmdb: no meta_info\.txt"):
        pairs(tmp_path / "in.lmdb", tmp_path / "out")


def test_lmdb_without_the_package(tmp_path, monkeypatch):
    write_lmdb(tmp_path / "in.lmdb", {"a": pixels(1)})
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(DataError, match=r"needs the package lmdb; install the extra \[data\]"):
        pairs(tmp_path / "in.lmdb", tmp_path / "in.lmdb")


# Data sets as they are distributed


def test_gopro(tmp_path):
    sequences = "GOPR0384_11_00", "GOPR0385_11_01"
    for i, sequence in enumerate(sequences):
        for kind, offset in (("blur", 0), ("blur_gamma", 20), ("sharp", 10)):
            folder = tmp_path / "test" / sequence / kind
            write(folder, **{"000001": 2 * i + offset, "000002": 2 * i + 1 + offset})
        write(tmp_path / "train" / sequence / "blur", **{"000001": 30})
    assert contents(dataset(tmp_path)) == {
        "test/GOPR0384_11_00/blur/000001": (0, 10),
        "test/GOPR0384_11_00/blur/000002": (1, 11),
        "test/GOPR0385_11_01/blur/000001": (2, 12),
        "test/GOPR0385_11_01/blur/000002": (3, 13),
    }
    for kind, other in (("sharp", "blur"), ("blur", "sharp")):
        picture = tmp_path / f"test/GOPR0385_11_01/{kind}/000002.png"
        encoded = picture.read_bytes()
        picture.unlink()
        with pytest.raises(DataError, match=rf"{other}: pictures without .*{kind}: 1 \(000002\);"):
            dataset(tmp_path)
        picture.write_bytes(encoded)


def test_flat_folders(tmp_path):
    write(tmp_path / "test/input", **{"GOPR0384_11_00-000001": 1})
    write(tmp_path / "test/target", **{"GOPR0384_11_00-000001": 11})
    expected = {"GOPR0384_11_00-000001": (1, 11)}
    assert contents(dataset(tmp_path)) == contents(dataset(tmp_path / "test")) == expected


def test_hide(tmp_path):
    """Its one folder of targets is for training, too."""
    write(tmp_path / "test/test-close-ups", a=1)
    write(tmp_path / "test/test-long-shot", b=2)
    write(tmp_path / "train", c=3)
    write(tmp_path / "GT", a=11, b=12, c=13)
    expected = {"test/test-close-ups/a": (1, 11), "test/test-long-shot/b": (2, 12)}
    assert contents(dataset(tmp_path)) == expected
    (tmp_path / "GT/b.png").unlink()
    with pytest.raises(DataError, match=r"long-shot: pictures without .*GT: 1 \(b\);"):
        dataset(tmp_path)


def test_reds(tmp_path):
    frames = {"000__00000000": 1, "000__00000001": 2, "001__00000000": 3}
    write(tmp_path / "val/val_sharp", **{name: n + 10 for name, n in frames.items()})
    for name in frames:  # JPEG is lossy: the inputs are told by their names only
        path = tmp_path / f"val/val_blur_jpeg/{name.replace('__', '/')}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(0)).save(path)
    targets = {pair.name: pair.read(3)[1] for pair in dataset(tmp_path)}
    assert list(targets) == ["000/00000000", "000/00000001", "001/00000000"]
    np.testing.assert_array_equal(targets["001/00000000"], pixels(13))


@pytest.mark.parametrize(
    ("inputs", "targets"), [("blur_300", "sharp_300"), ("input_crops", "gt_crops")]
)
def test_lmdb_of_nafnet(tmp_path, inputs, targets):
    write_lmdb(tmp_path / f"val/{inputs}.lmdb", {"a": pixels(1)})
    write_lmdb(tmp_path / f"val/{targets}.lmdb", {"a": pixels(11)})
    assert contents(dataset(tmp_path)) == {"a": (1, 11)}


@pytest.mark.parametrize("compressed", [False, True])
def test_sidd(tmp_path, compressed):
    for kind, offset in (("Noisy", 0), ("Gt", 10)):
        blocks = np.array([[pixels(3 * i + j + offset) for j in range(3)] for i in range(2)])
        name = f"Validation{kind}BlocksSrgb"
        options = {"do_compression": compressed}
        scipy.io.savemat(tmp_path / f"{name}.mat", {name: blocks}, **options)
    names = [f"{i:02}_{j:02}" for i in range(2) for j in range(3)]
    assert contents(dataset(tmp_path)) == {name: (n, n + 10) for n, name in enumerate(names)}
    with pytest.raises(DataError, match="00_00: has 3 channels, the network takes 1"):
        dataset(tmp_path)[0].read(1)


def test_mat_files_of_other_things(tmp_path):
    """Objects above all: they are not even opened."""
    objects = np.empty((1, 1, 1, 1, 1), object)
    objects[:] = "anything"
    for name, value in {"objects": objects, "doubles": np.zeros((1, 1, 6, 8, 3))}.items():
        scipy.io.savemat(tmp_path / f"{name}.mat", {"blocks": value})
    (tmp_path / "text.mat").write_text("no MATLAB file" * 20)
    (tmp_path / "empty.mat").write_text("")
    scipy.io.savemat(tmp_path / "cut.mat", {"blocks": np.zeros((1, 1, 6, 8, 3), np.uint8)})
    (tmp_path / "cut.mat").write_bytes((tmp_path / "cut.mat").read_bytes()[:250])
    for name in ("objects", "doubles", "text", "empty", "cut", "nowhere"):
        with pytest.raises(DataError, match=rf"{name}\.mat: cannot be read \(.+\); give a file"):
            pairs(tmp_path / f"{name}.mat", tmp_path / f"{name}.mat")


def test_no_known_layout(tmp_path):
    write(tmp_path / "pictures", a=1)
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"no data set of a known layout .*--input"):
            dataset(folder)
