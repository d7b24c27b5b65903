"""What counts as written to its end."""

import numpy as np
from PIL import Image

import tlc_jax as tlc
from tlc_jax.files.whole import is_done

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


def pictures(folder):
    """A file of each kind that is written, and some that others write."""
    for name in ("a.png", "a.jpg", "a.webp", "a.tif", "a.avif"):
        tlc.write_image(folder / name, PIXELS)
    tlc.write_image(folder / "deep.tif", PIXELS.astype(np.uint16) * 257)
    Image.fromarray(PIXELS).save(folder / "trailer.jpg")
    with (folder / "trailer.jpg").open("ab") as file:
        file.write(b"what a camera adds" * 5000)
    return sorted(folder.iterdir())


def test_cut_pictures_are_not_done(tmp_path):
    for path in pictures(tmp_path):
        assert is_done(path), path
        whole = path.read_bytes()
        used = whole.partition(b"what a camera adds")[0]
        for count in (0, 20, len(used) // 2, len(used) - 1):
            path.write_bytes(whole[:count])
            assert not is_done(path), (path, count)
        path.write_bytes(bytes(len(whole)))  # as some disks have it after a power cut
        assert not is_done(path)


def test_what_is_no_picture_is_left_alone(tmp_path):
    (tmp_path / "a.png").write_text("a letter to somebody")
    (tmp_path / "folder.png").mkdir()
    assert is_done(tmp_path / "a.png") and is_done(tmp_path / "folder.png")
    assert not is_done(tmp_path / "none.png")
