"""The command line: what it writes, what it says, and one sentence for whatever is wrong.

Most commands run in this process, in a folder as a user may have it (`world`).
"""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image, ImageCms
from safetensors.numpy import save_file

import tlc_jax as tlc
from tlc_jax import cli
from tlc_jax.evaluation.sheets import comparison, window_map
from tlc_jax.files.pictures import read_picture
from tlc_jax.inference import programs
from tlc_jax.inference.buckets import forward_within
from tlc_jax.layers.network import abstract_params
from tlc_jax.ops.pixels import to_gray

BIN = Path(sys.executable).parent

# One block, so that it compiles fast; its windows are 24 pixels.
NET = tlc.NAFNet(width=4, enc_blk_nums=(), middle_blk_num=1, dec_blk_nums=(), train_size=(16, 16))
LOCAL = NET.clone(local_mode=True)
GRAY = NET.clone(inp_channels=1)
# The smallest whose grids do not divide windows of any size.
MAXIM = tlc.Maxim(
    features=4,
    depth=2,
    num_stages=1,
    num_groups=1,
    num_bottleneck_blocks=1,
    block_size_hr=(2, 2),
    block_size_lr=(2, 2),
)


def weights(model, seed=0):
    """Random, beta and gamma too: as they are initialised, blocks do nothing."""
    rng = np.random.default_rng(seed)
    shapes = abstract_params(model)
    return jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), shapes)


def release(params):
    """The parameters of NET as its authors would publish them."""
    tensors = {}
    for path, x in flatten_dict(params, sep="/").items():
        for ours, theirs in {"_blks_": "_blks.", "/": ".", "sca.": "sca.1."}.items():
            path = path.replace(ours, theirs)
        tensors[re.sub("(kernel|scale)$", "weight", path)] = (
            np.ascontiguousarray(x.transpose(3, 2, 0, 1)) if x.ndim == 4 else x
        )
    return tensors


def noise(*shape, dtype=np.uint8, seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, shape, dtype, endpoint=True)


PARAMS = weights(NET)
PIXELS = noise(40, 56, 3)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    tlc.save(folder / "net", NET, PARAMS, weights_licence="MIT")
    tlc.save(folder / "gray", GRAY, weights(GRAY))
    tlc.save(folder / "maxim", MAXIM, weights(MAXIM))
    two_views = NET.clone(inp_channels=6)
    tlc.save(folder / "two-views", two_views, weights(two_views))
    tlc.save(folder / "nan", NET, jax.tree.map(lambda x: np.full_like(x, np.nan), PARAMS))
    shutil.copytree(folder / "net", folder / "damaged")
    for file in folder.glob("damaged/params/**/d/*"):
        file.write_bytes(file.read_bytes()[:100])
    shutil.copytree(folder / "net", folder / "edited")
    description = (folder / "edited/model.json").read_text()
    (folder / "edited/model.json").write_text(description.replace('"width": 4', '"width": 8'))

    (folder / "official.pth").write_bytes(b"PK\3\4")
    save_file(release(PARAMS), folder / "release.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "release.safetensors").read_bytes()[:1000])

    for name in ("pictures", "empty", "texts"):
        (folder / name).mkdir()
    tlc.write_image(folder / "a.png", PIXELS)
    tlc.write_image(folder / "small.png", noise(20, 24, 3))
    tlc.write_image(folder / "pictures/a.png", noise(40, 56, 3, seed=1))
    tlc.write_image(folder / "pictures/b.png", noise(20, 24, 3, seed=2))
    for note in ("texts/a.txt", "pictures/a.json"):
        (folder / note).write_text("{}")
    (folder / "text.png").write_text("a")
    (folder / "a.mp4").write_text("a")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:3000])
    return folder


def restored(run, *arguments):
    """What a command that has to succeed says."""
    code, out, err = run("restore", *arguments)
    assert (code, err) == (0, "")
    return out


def files(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if path.name != "cache"}


# What restore writes


def test_one_picture_to_a_file(run, tmp_path):
    out = restored(run, "a.png", "-o", tmp_path / "sharp.png", "--checkpoint", "net")
    written = read_picture(tmp_path / "sharp.png").pixels
    np.testing.assert_array_equal(written, tlc.restore(LOCAL, PARAMS, PIXELS))
    network, picture = out.splitlines()
    assert re.fullmatch(
        r"net: NAFNet local in float32 on \w+, licence of the weights: MIT", network
    )
    summary = r"a\.png -> \S+sharp\.png: 56x40, compiled in \d+\.\d s, ran in \d+\.\d s"
    assert re.fullmatch(summary, picture)


def test_pictures_and_folders_to_a_folder(run, world, tmp_path):
    """Sizes differ, and one of them is wider than any network was trained on."""
    sizes = {"one": (1, 1), "long": (10, 20000)}
    for name, size in sizes.items():
        tlc.write_image(tmp_path / f"{name}.PNG", noise(*size, 3))
    output = tmp_path / "new/folder.d"  # that has a dot does not make it a file
    output.mkdir(parents=True)
    inputs = [tmp_path / f"{name}.PNG" for name in sizes]
    names = {"a": "a.net.png", "b": "b.net.png"} | {name: f"{name}.net.PNG" for name in sizes}
    out = restored(run, "pictures", *inputs, "-o", output, "--checkpoint", "net")
    assert files(output) == set(map(Path, names.values()))
    for name, size in sizes.items():
        assert tlc.read_image(output / names[name]).shape == (*size, 3)
    for name in ("a", "b"):
        expected = tlc.restore(LOCAL, PARAMS, read_picture(world / f"pictures/{name}.png").pixels)
        np.testing.assert_array_equal(read_picture(output / names[name]).pixels, expected)
    assert all(size in out for size in ("56x40", "24x20", "1x1", "20000x10"))


def pillow(mode, **options):
    """Saves PIXELS in one of Pillow's modes."""

    def save(path):
        Image.fromarray(PIXELS).convert(mode).save(path, **options)

    return save


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(np.ascontiguousarray(np.rot90(PIXELS))).save(path, exif=exif)


def deep(*, channels=3, alpha=False):
    def write(path):
        opacity = noise(40, 56, dtype=np.uint16, seed=1) if alpha else None
        tlc.write_image(path, noise(40, 56, channels, dtype=np.uint16), alpha=opacity)

    return write


def transparent(path):
    tlc.write_image(path, PIXELS, alpha=noise(40, 56, seed=1))


# Checkpoint; name and maker of the file; a note; and what is written: channels, bits, whether with
# alpha and with a profile.
KINDS = {
    "16 bits": ("net", "x.png", deep(), None, (3, 16, False, False)),
    "16 bits, gray": ("gray", "x.png", deep(channels=1), None, (1, 16, False, False)),
    "16 bits, alpha": ("net", "x.png", deep(alpha=True), None, (3, 16, True, False)),
    "alpha": ("net", "x.png", transparent, None, (3, 8, True, False)),
    "profile": ("net", "x.png", pillow("RGB", icc_profile=SRGB), None, (3, 8, False, True)),
    "turned": ("net", "x.png", turned, "turned upright", (3, 8, False, False)),
    "JPEG": ("net", "x.jpg", pillow("RGB"), None, (3, 8, False, False)),
    "palette": ("net", "x.png", pillow("P"), "palette converted to RGB", (3, 8, False, False)),
    "CMYK": ("net", "x.tif", pillow("CMYK"), "CMYK converted to RGB", (3, 8, False, False)),
    "gray as RGB": ("net", "x.png", pillow("L"), "gray repeated to RGB", (1, 8, False, False)),
    "RGB as gray": ("gray", "x.png", pillow("RGB"), "RGB converted to gray", (1, 8, False, False)),
}


@pytest.mark.parametrize(("checkpoint", "name", "write", "note", "kind"), KINDS.values(), ids=KINDS)
def test_kinds_of_pictures(run, tmp_path, checkpoint, name, write, note, kind):
    write(tmp_path / name)
    channels, bits, *with_alpha_and_profile = kind
    out = restored(run, tmp_path / name, "-o", tmp_path / "out", "--checkpoint", checkpoint)
    given = read_picture(tmp_path / name, channels=3 if checkpoint == "net" else 1)
    suffix = name.removeprefix("x")
    written = read_picture(tmp_path / f"out/x.{checkpoint}{suffix}")
    assert written.pixels.shape == (40, 56, channels)
    assert written.pixels.dtype == f"uint{bits}"
    extras = [written.alpha is not None, written.icc_profile is not None]
    assert extras == with_alpha_and_profile
    assert written.icc_profile == given.icc_profile
    np.testing.assert_array_equal(written.alpha, given.alpha)
    model = (LOCAL if checkpoint == "net" else GRAY).clone(local_mode=True)
    expected = tlc.restore(model, PARAMS if checkpoint == "net" else weights(GRAY), given.pixels)
    if channels == 1 and checkpoint == "net":  # as it came
        expected = to_gray(expected)
    if suffix == ".jpg":
        Image.fromarray(expected).save(tmp_path / "same.jpg", quality=95)
        expected = np.asarray(Image.open(tmp_path / "same.jpg"))
    np.testing.assert_array_equal(written.pixels, expected)
    assert "turned" not in "".join(written.notes)  # it is upright: nobody is to turn it again
    _, _, *notes = out.splitlines()
    assert len(notes) == (note is not None) and (note or "") in "".join(notes)


@pytest.mark.parametrize(
    ("options", "said", "fields"),
    [
        ("--mode global", "global in float32", {"local_mode": False}),
        ("--window 12", "local in float32", {"window": (12, 12)}),
        ("--set train_size=[8,16]", "local in float32", {"train_size": (8, 16)}),
        ("--dtype bfloat16", "local in bfloat16", {"dtype": jnp.bfloat16}),
        ("--dtype float16", "local in float16", {"dtype": jnp.float16}),
    ],
)
def test_options(run, tmp_path, options, said, fields):
    out = restored(run, "a.png", "-o", tmp_path / "a.png", "--checkpoint", "net", *options.split())
    written = read_picture(tmp_path / "a.png").pixels
    expected = tlc.restore(LOCAL.clone(**fields), PARAMS, PIXELS)
    np.testing.assert_array_equal(written, expected)
    assert (written != tlc.restore(LOCAL, PARAMS, PIXELS)).any()
    assert out.startswith(f"net: NAFNet {said} on ")


def test_precision_is_set_for_all_that_follows(run, tmp_path, monkeypatch):
    set_to = []
    monkeypatch.setattr(jax.config, "update", lambda *of: set_to.append(of))
    restored(run, "a.png", "-o", tmp_path / "a.png", "--precision", "high")
    assert ("jax_default_matmul_precision", "high") in set_to


def test_padding_as_the_network_was_published(run, tmp_path):
    net = NET.clone(enc_blk_nums=(0, 0, 0, 0), dec_blk_nums=(0, 0, 0, 0))  # pads to multiples of 16
    params = weights(net)
    tlc.save(tmp_path / "net", net, params)
    options = ["--checkpoint", tmp_path / "net", "--set", "padding=end"]
    restored(run, "a.png", "-o", tmp_path / "a.png", *options)
    reflected, zeros = (
        tlc.restore(net.clone(local_mode=True, padding=padding), params, PIXELS)
        for padding in ("end", "zeros")
    )
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").pixels, reflected)
    assert (reflected != zeros).any()


def test_a_window_that_covers_the_picture_is_global(run, tmp_path):
    for options in ("--window 56", "--mode global"):
        restored(run, "a.png", "-o", tmp_path, "--checkpoint", "net", *options.split())
    names = ("a.net-window56.png", "a.net-global.png")
    images = [read_picture(tmp_path / name).pixels for name in names]
    np.testing.assert_array_equal(*images)


@pytest.mark.parametrize("reference", ["pictures/a.png", "pictures"])
def test_reference(run, tmp_path, reference):
    truth = tlc.read_image("pictures/a.png")
    options = ["--checkpoint", "net", "--reference", reference]
    out = restored(run, "a.png", "-o", tmp_path / "another-name.png", *options)
    floats = PIXELS.astype(np.float32) / np.float32(255)
    images = floats, tlc.restore(LOCAL, PARAMS, floats)
    psnrs = [
        float(tlc.psnr(x, truth)) for x in (*images, tlc.read_image(tmp_path / "another-name.png"))
    ]
    ssims = [float(tlc.ssim(x, truth)) for x in images]
    assert out.splitlines()[-1].strip() == (
        "PSNR {:.3f} -> {:.3f} dB ({:.3f} as written), SSIM per channel {:.4f} -> {:.4f}".format(
            *psnrs, *ssims
        )
    )


def test_reference_smaller_than_the_window_of_ssim(run, tmp_path):
    tlc.write_image(tmp_path / "one.png", noise(1, 1, 3))
    options = ["--checkpoint", "net", "--reference", tmp_path / "one.png"]
    out = restored(run, tmp_path / "one.png", "-o", tmp_path / "out", *options)
    assert "PSNR inf ->" in out and "SSIM" not in out


def test_another_try_has_a_name_of_its_own(run, tmp_path):
    """None is there already; of the same name is only what is the same."""
    names = {
        "": "a.denoise.png",
        "--task deblur --quality fast": "a.deblur.png",
        "--task denoise,deblur --quality fast": "a.denoise-deblur.png",
        "--strength 0.5": "a.denoise-strength0.5.png",
        "--mode auto": "a.denoise-auto.png",
        "--window 200": "a.denoise-window200.png",
        "--shifts 2": "a.denoise-shifts2.png",
        "--dtype bfloat16": "a.denoise-bfloat16.png",
        "--precision highest": "a.denoise-highest-precision.png",
        "--set train_size=[64,64]": "a.denoise-train-size-64-64.png",
    }
    for options, name in names.items():
        out = restored(run, "a.png", "-o", tmp_path, *options.split())
        assert "there already" not in out and (tmp_path / name).is_file()
    assert files(tmp_path) == set(map(Path, names.values()))
    assert "1 of 1 are there already" in restored(run, "a.png", "-o", tmp_path)


def test_tasks_one_after_the_other(run, tmp_path):
    """As by hand, but for the rounding between the two."""
    restored(
        run, "a.png", "-o", tmp_path / "both.png", "--task", "denoise,deblur", "--quality", "fast"
    )
    floats = tlc.read_image("a.png")
    for task in ("denoise", "deblur"):
        model, params = tlc.load(task)
        floats = tlc.restore(model.clone(local_mode=True), params, floats)
    written = read_picture(tmp_path / "both.png").pixels
    assert np.abs(written - 255 * floats.clip(0, 1)).max() <= 0.51


@pytest.mark.parametrize("strength", [0, 0.25, 1])
def test_strength(run, tmp_path, strength):
    target = tmp_path / "a.png"
    restored(run, "a.png", "-o", target, "--checkpoint", "net", "--strength", strength)
    floats = tlc.read_image("a.png")
    mixed = floats + strength * (tlc.restore(LOCAL, PARAMS, floats) - floats)
    assert np.abs(read_picture(target).pixels - 255 * mixed.clip(0, 1)).max() <= 0.51


def test_strength_of_a_network_that_enlarges(run, tmp_path):
    arguments = ["--left", "a.png", "--right", "a.png", "-o", tmp_path, "--checkpoint", "two-views"]
    code, _, err = run("restore", *arguments, "--strength", "0.5")
    assert code == 2 and "--strength" in err and not files(tmp_path)


def test_one_stem_twice(run, tmp_path):
    """Formats that are written keep their names; others become PNG."""
    for name in ("x.png", "x.jpg", "x.bmp", "x.gif", "x.webp"):
        Image.fromarray(PIXELS).save(tmp_path / name)
    restored(run, *sorted(tmp_path.glob("x.*")), "-o", tmp_path / "out", "--checkpoint", "net")
    names = ("x.net.jpg", "x.net.webp", "x.bmp.net.png", "x.gif.net.png", "x.png.net.png")
    assert files(tmp_path / "out") == set(map(Path, names))


def test_results_beside_their_sources_are_no_sources(run, tmp_path):
    shutil.copy("a.png", tmp_path)
    for _ in range(2):
        restored(run, tmp_path, "-o", tmp_path, "--checkpoint", "net")
        assert files(tmp_path) == {Path("a.png"), Path("a.net.png")}


def test_recursive(run, tmp_path):
    """The folders are made again; the output is none of them."""
    for name in ("in/a.png", "in/more/b.png", "in/more/deep/c.png", "in/.hidden/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("small.png", tmp_path / name)
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/more/notes.txt").write_text("none")
    (tmp_path / "in/more/e.dng").write_text("none")
    (tmp_path / "in/astray.png").symlink_to(tmp_path / "nowhere")
    arguments = (tmp_path / "in", "-o", tmp_path / "in/out", "--checkpoint", "net", "--recursive")
    out = restored(run, *arguments)
    assert f"{tmp_path}/in/more/e.dng: left out, raw files of cameras; develop them first" in out
    assert f"{tmp_path}/in/astray.png: left out, links that lead nowhere" in out
    assert f"{tmp_path}/in/more/notes.txt: left out, not called like" in out
    expected = {Path("a.net.png"), Path("more/b.net.png"), Path("more/deep/c.net.png")}
    assert {path for path in files(tmp_path / "in/out") if path.suffix} == expected
    assert "3 of 3 are there already" in restored(run, *arguments)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("small.png", ["small.png", "24x20", "56x40"]),
        ("cut.png", ["cut.png", "truncated"]),
        ("empty", ["a.png", "empty"]),
        ("texts", ["a.png", "texts"]),
    ],
)
def test_a_missing_reference_does_not_lose_the_result(run, tmp_path, reference, words):
    target = tmp_path / "a.png"
    code, _, err = run(
        "restore", "a.png", "-o", target, "--checkpoint", "net", "--reference", reference
    )
    assert code == 2 and len(err.splitlines()) == 1 and all(word in err for word in words), err
    np.testing.assert_array_equal(read_picture(target).pixels, tlc.restore(LOCAL, PARAMS, PIXELS))


def test_a_reference_that_is_not_there_is_seen_at_once(run, tmp_path):
    arguments = ("a.png", "-o", tmp_path / "a.png", "--checkpoint", "net", "--reference", "nowhere")
    assert run("restore", *arguments)[::2] == (
        2, "tlc-jax: --reference nowhere: no such file or folder.\n"
    )  # fmt: skip
    assert not files(tmp_path)


def test_references_in_folders(run, tmp_path):
    """By their folders, too, and measured as the files are that are written."""
    for folder, level in (("", 0), ("more", 50), ("more/deep", 100)):
        for root in ("in", "truth"):
            (tmp_path / root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((32, 48, 3), level, np.uint8)).save(
                tmp_path / root / folder / "a.jpg"
            )
    options = ("--recursive", "--checkpoint", "net", "--reference", tmp_path / "truth")
    out = restored(run, tmp_path / "in", "-o", tmp_path / "out", *options)
    told = [float(number) for number in re.findall(r"\(([\d.]+) as written\)", out)]
    for folder, psnr in zip(("", "more", "more/deep"), told, strict=True):
        paths = (tmp_path / "out" / folder / "a.net.jpg", tmp_path / "truth" / folder / "a.jpg")
        assert psnr == pytest.approx(float(tlc.psnr(*map(tlc.read_image, paths))), abs=1e-3)


def test_a_picture_is_not_its_own_reference(run, tmp_path):
    """Where it lies in a folder below that of the ground truth."""
    (tmp_path / "noisy").mkdir()
    shutil.copy("small.png", tmp_path / "noisy/a.png")
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(tmp_path / "a.png")
    options = ("-o", tmp_path / "out", "--checkpoint", "net", "--reference", tmp_path)
    out = restored(run, tmp_path / "noisy/a.png", *options)
    before = float(tlc.psnr(tlc.read_image("small.png"), np.zeros((20, 24, 3), np.float32)))
    assert f"PSNR {before:.3f} -> " in out


def test_results_are_no_sources(run, tmp_path):
    """Of another task, in the folder of their sources."""
    shutil.copy("small.png", tmp_path / "a.png")
    shutil.copy("small.png", tmp_path / "a.deblur-strength0.5.png")
    shutil.copy("small.png", tmp_path / "b.denoise.png")  # the result of nothing that is here
    out = restored(run, tmp_path, "-o", tmp_path, "--checkpoint", "net")
    assert "a.deblur-strength0.5.png: left out, restored already; name one to" in out
    assert {path.name for path in files(tmp_path)} == {
        "a.png", "a.net.png", "a.deblur-strength0.5.png", "b.denoise.png", "b.denoise.net.png"
    }  # fmt: skip


def test_pictures_of_all_kinds_in_a_folder(run, tmp_path):
    for suffix in ("gif", "ppm", "pgm", "bmp", "webp"):
        Image.open("small.png").convert("L" if suffix == "pgm" else "RGB").save(
            tmp_path / f"{suffix}.{suffix}"
        )
    for name in ("a.txt", "b.txt", "c", "d.CR2", "e.nef"):
        (tmp_path / name).write_text("none")
    out = restored(run, tmp_path, "-o", tmp_path / "out", "--checkpoint", "net")
    assert len(files(tmp_path / "out")) == 5
    assert "a.txt, " in out and "b.txt, " in out and "/c: left out, not called like" in out
    assert "e.nef: left out, raw files of cameras; develop" in out


NAMES = {
    b"bad\xff\xfe.png": r"bad\xff\xfe",
    b"two\nlines.png": r"two\nlines",
    b"red\x1b[31m.png": r"red\x1b[31m",
    "turned\u202egnp.png".encode(): r"turned\u202egnp",
    "ü 😀\u202f1.png".encode(): "ü 😀\u202f1",
    b"[bold].png": "[bold]",
}


def test_names_of_any_bytes(world, tmp_path):
    """In a terminal that takes UTF-8: each is restored, and shown as what does nothing there."""
    for name in NAMES:
        (tmp_path / os.fsdecode(name)).write_bytes((world / "small.png").read_bytes())
    (tmp_path / os.fsdecode(b"none\xff\n.png")).touch()
    command = Path(sys.executable).with_name("tlc-jax")
    ended = subprocess.run(
        [command, "restore", tmp_path, "-o", tmp_path / "out", "--task", "denoise"],
        env=os.environ | {"LC_ALL": "C.UTF-8"}, capture_output=True,
    )  # fmt: skip
    out, err = ended.stdout.decode(), ended.stderr.decode()
    assert ended.returncode == 2 and r"none\xff\n.png: it is empty" in err
    assert len(err.splitlines()) == 1 and len(out.splitlines()) == len(NAMES) + 2
    assert all(shown in out for shown in NAMES.values())
    written = {os.fsencode(path.name) for path in (tmp_path / "out").iterdir()}
    assert written == {name.replace(b".png", b".denoise.png") for name in NAMES}


def test_weights_in_a_file_of_an_odd_name(run, tmp_path):
    """What is written of them can be loaded."""
    odd = tmp_path / os.fsdecode(b"a\n\x1b[31m\xff.safetensors")
    odd.write_bytes(Path("release.safetensors").read_bytes())
    arguments = [odd, tmp_path / "new", "--set", "train_size=[16,16]"]
    code, out, err = run("convert", *arguments)
    assert (code, err) == (0, "") and "\x1b" not in out
    assert type(tlc.load(tmp_path / "new")[0]).__name__ == "NAFNet"


def test_a_cut_output_is_none(run, tmp_path):
    """One that is whole is kept, also by whoever else wrote it."""
    restored(run, "a.png", "-o", tmp_path, "--checkpoint", "net")
    done = tmp_path / "a.net.png"
    whole = done.read_bytes()
    done.write_bytes(whole[:-40])
    out = restored(run, "a.png", "-o", tmp_path, "--checkpoint", "net")
    assert "there already" not in out and done.read_bytes() == whole
    done.write_text("a letter to somebody")
    assert "there already" in restored(run, "a.png", "-o", tmp_path, "--checkpoint", "net")
    assert done.read_text() == "a letter to somebody"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("info", "net", "--size", f"{10**30}x5"), "give width x height in pixels"),
        (("restore", "a.png", "--checkpoint", "net", "--set", f"x={'[' * 3000}"), "--set x: "),
        (("app", "--host", "a" * 300), "is no name of a machine"),
        (("restore", "/dev/zero", "--checkpoint", "net"), "/dev/zero: it is not a file"),
    ],
    ids=["size", "set", "host", "device"],
)  # fmt: skip
def test_odd_values(run, arguments, sentence):
    code, _, err = run(*arguments)
    assert (code, len(err.splitlines())) == (2, 1) and sentence in err


def test_what_nobody_thought_of(run, monkeypatch):
    """Is one sentence, too, and a traceback for those who ask for one."""

    def fails(*_, **__):
        raise ZeroDivisionError("of a kind\nand more")

    monkeypatch.setattr("tlc_jax.jobs.plan", fails)
    code, _, err = run("restore", "a.png", "--checkpoint", "net")
    assert code == 2 and len(err.splitlines()) == 1
    assert "(ZeroDivisionError: of a kind); 'tlc-jax --debug' with the same" in err
    with pytest.raises(ZeroDivisionError):
        cli.main(["--debug", "restore", "a.png", "--checkpoint", "net"])


def test_not_enough_memory(run, monkeypatch):
    def fails(*_, **__):
        raise MemoryError

    monkeypatch.setattr("tlc_jax.files.checkpoints.array_store", fails)
    code, _, err = run("restore", "a.png", "--checkpoint", "net")
    assert code == 2 and err.startswith("tlc-jax: not enough memory; close other programs")


def interrupted(number, after, folder):
    """How a command ends by a signal, so many seconds after its network is known, and what it says.

    The exit code, what is written to the standard output, and to the standard error.
    """
    command = Path(sys.executable).with_name("tlc-jax")
    environment = os.environ | {"XDG_CACHE_HOME": str(folder)}  # so that it compiles
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    process = subprocess.Popen(
        [command, "restore", "a.png", "-o", folder / "out", "--task", "denoise"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.readline()
    time.sleep(after)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.parametrize(("number", "after"), [(2, 0), (2, 0.5), (15, 1)])
def test_a_signal_ends_it(world, tmp_path, monkeypatch, number, after):
    """Also while a network is compiled, where an exception would break the process."""
    monkeypatch.chdir(world)
    code, out, err = interrupted(number, after, tmp_path)
    if "ran in" not in out:  # else it was faster, and the signal met a program that ends
        assert (code, len(err.splitlines())) == (128 + number, 1) and "interrupted" in err
    assert not list(tmp_path.glob("out/.*"))


LONG = """
import jax, tlc_jax.__main__, tlc_jax.cli

def compute(arguments):
    print("computing", flush=True)
    jax.lax.while_loop(lambda x: x < 2, jax.numpy.sin, 1.0).block_until_ready()  # for ever

tlc_jax.cli.main = compute
tlc_jax.__main__.main()
"""


def test_a_signal_ends_what_xla_computes():
    """Where no code of Python runs that could take it."""
    process = subprocess.Popen(
        [sys.executable, "-c", LONG], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    time.sleep(3)  # it is compiled
    process.send_signal(2)
    try:
        _, err = process.communicate(timeout=10)
    finally:
        process.kill()
    assert (process.returncode, len(err.splitlines())) == (130, 1) and "interrupted" in err


def test_compare(run, tmp_path):
    """A sheet beside each picture, whatever the mode; it alone is made where it is missing."""
    expected = comparison(
        tlc.read_image("a.png"),
        *(tlc.restore(m, PARAMS, tlc.read_image("a.png")) for m in (NET, LOCAL)),
    )
    for name, mode in (("a.net", "local"), ("a.net-global", "global")):
        plain = ("a.png", "-o", tmp_path, "--checkpoint", "net", "--mode", mode)
        restored(run, *plain)
        done = (tmp_path / f"{name}.png").read_bytes()
        out = restored(run, *plain, "--compare")
        sheet = tmp_path / f"{name}-compare.png"
        assert f"a.png -> {sheet}: " in out
        assert (tmp_path / f"{name}.png").read_bytes() == done
        np.testing.assert_array_equal(read_picture(sheet).pixels, expected)


@pytest.mark.parametrize("mode", ["local", "global"])
def test_compared_with_nothing_finite(run, tmp_path, monkeypatch, mode):
    """The picture itself is written, and of the sheet is told why not."""
    other = "global" if mode == "local" else "local"

    def forward(model, *arguments, **options):
        restored = programs.forward(model, *arguments, **options)
        return restored if model.local_mode == (mode == "local") else restored * np.nan

    monkeypatch.setattr("tlc_jax.inference.timed.forward", forward)
    arguments = ("a.png", "-o", tmp_path / "out", "--checkpoint", "net", "--mode", mode)
    code, _, err = run("restore", *arguments, "--compare")
    assert code == 2 and err.startswith(f"tlc-jax: a.png in {other} mode: ") and "NaN" in err
    assert files(tmp_path / "out") == {Path("a.net.png" if mode == "local" else "a.net-global.png")}


def test_existing_outputs_are_kept(run, tmp_path):
    (tmp_path / "a.net.png").write_text("mine")
    arguments = ["pictures", "-o", tmp_path, "--checkpoint", "net"]
    out = restored(run, *arguments)
    assert (tmp_path / "a.net.png").read_text() == "mine" and (tmp_path / "b.net.png").is_file()
    assert f"1 of 2 are there already, {tmp_path / 'a.net.png'} first" in out
    assert "--overwrite" in out
    restored(run, *arguments, "--overwrite")
    assert tlc.read_image(tmp_path / "a.net.png").shape == (40, 56, 3)


def test_sizes_share_a_program(run, tmp_path):
    """Results are those of each picture by itself but for rounding; a portrait is too unlike."""
    sizes = [(40, 56), (38, 56), (40, 50), (56, 40)]
    (tmp_path / "in").mkdir()
    for i, size in enumerate(sizes):
        tlc.write_image(tmp_path / f"in/{i}.png", noise(*size, 3, seed=i))
    before = forward_within._cache_size()
    out = restored(run, tmp_path / "in", "-o", tmp_path / "out", "--checkpoint", "net")
    assert forward_within._cache_size() == before + 1
    assert out.count("in 56x40, compiled") == 3 and ": 40x56, compiled" in out
    alone = ("-o", tmp_path / "alone", "--checkpoint", "net", "--waste", "0")
    assert ": 56x38, compiled" in restored(run, tmp_path / "in", *alone)
    for i, _ in enumerate(sizes):
        ours, theirs = (
            read_picture(tmp_path / f"{to}/{i}.net.png").pixels.astype(int)
            for to in ("out", "alone")
        )
        assert np.abs(ours - theirs).max() <= 1 and (ours != theirs).mean() < 0.001


def test_a_common_size_has_a_program_of_its_own(run, tmp_path):
    """All its pictures would be larger, for the sake of one compilation."""
    (tmp_path / "in").mkdir()
    for i, size in enumerate([(40, 56), *[(38, 56)] * 5]):
        tlc.write_image(tmp_path / f"in/{i}.png", noise(*size, 3, seed=i))
    out = restored(run, tmp_path / "in", "-o", tmp_path / "out", "--checkpoint", "net")
    assert " in 56x40" not in out and ": 56x38, compiled" in out


def test_names_are_not_markup(run, tmp_path):
    """Brackets in names mean something to the library that prints them."""
    folder = tmp_path / "[bold]x["
    folder.mkdir()
    shutil.copy("a.png", folder / "]:smile:.png")
    out = restored(run, folder, "-o", tmp_path / "[out]", "--checkpoint", "net")
    assert f"{folder}/]:smile:.png -> {tmp_path}/[out]/]:smile:.net.png" in out


def test_folders_in_a_folder_are_left_out(run, tmp_path):
    """And that is said."""
    shutil.copytree("pictures", tmp_path / "in/more")
    shutil.copy("a.png", tmp_path / "in")
    out = restored(run, tmp_path / "in", "-o", tmp_path / "out", "--checkpoint", "net")
    assert f"{tmp_path}/in: the folders in it are left out" in out
    assert files(tmp_path / "out") == {Path("a.net.png")}


def test_one_bad_picture_among_others(run, tmp_path):
    inputs = ["a.png", "cut.png", "pictures/b.png"]
    code, out, err = run("restore", *inputs, "-o", tmp_path / "out", "--checkpoint", "net")
    assert code == 2 and "cut.png" in err and len(err.splitlines()) == 1
    assert files(tmp_path / "out") == {Path("a.net.png"), Path("b.net.png")}
    assert "a.png -> " in out and "b.png -> " in out and "cut.png -> " not in out
    assert out.splitlines()[-1].startswith("2 of 3 restored in ")
    assert out.endswith("; failed: cut.png\n")


def test_out_of_memory(run, tmp_path, monkeypatch):
    """One picture may be too large; the others need not be."""

    def forward(model, params, image, *options):
        if image.shape[0] == 40:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
        return programs.forward(model, params, image, *options)

    monkeypatch.setattr("tlc_jax.inference.timed.forward", forward)
    code, _, err = run("restore", "pictures", "-o", tmp_path / "out", "--checkpoint", "net")
    assert code == 2 and len(err.splitlines()) == 1
    assert "pictures/a.png" in err and "memory" in err and "bfloat16" in err
    assert files(tmp_path / "out") == {Path("b.net.png")}


def test_errors_of_the_disk(capsys):
    """Those of writing to a file that is open name none."""
    cli.complain(OSError(28, "No space left on device"))
    cli.complain(OSError(28, "No space left on device", "a.png"))
    said = capsys.readouterr().err.splitlines()
    assert said == ["tlc-jax: no space left on device.", "tlc-jax: a.png: no space left on device."]


# Info and convert


def test_info(run):
    code, out, err = run("info", "net")
    assert (code, err) == (0, "")
    said = dict(line.split(maxsplit=1) for line in out.splitlines())
    count = sum(x.size for x in jax.tree.leaves(PARAMS))
    assert said["network"] == "nafnet" and said["weights_licence"] == "MIT"
    assert said["parameters"] == str(count) and said["train_size"] == "[16, 16]"


@pytest.mark.parametrize(
    ("checkpoint", "model", "options", "fields"),
    [
        ("net", NET, "", {}),
        ("net", NET, "--window 100", {"window": (100, 100)}),
        ("net", NET, "--set train_size=[8,16]", {"train_size": (8, 16)}),
        ("maxim", MAXIM, "--set local_grid=false", {"local_grid": False}),
    ],
)
def test_info_of_windows(run, checkpoint, model, options, fields):
    code, out, _ = run("info", checkpoint, "--size", "1280x720", *options.split())
    sites = tlc.sites(model.clone(local_mode=True, **fields), (720, 1280))
    assert code == 0 and sites
    rows = [tuple(sorted(line.split())) for line in out.splitlines()]
    for site in sites:  # names whole: they are there to be looked up
        sizes = (f"{width}x{height}" for height, width in (site.size, site.window))
        row = (site.name, site.kind, *sizes)
        assert tuple(sorted(row)) in rows


def test_info_of_windows_drawn(run, tmp_path):
    drawn = tmp_path / "map.png"
    code, out, _ = run("info", "net", "--plot", "a.png", "-o", drawn)
    assert code == 0 and "56x40" in out and str(drawn) in out
    expected = window_map(tlc.read_image("a.png"), tlc.sites(LOCAL, (40, 56)))
    np.testing.assert_array_equal(read_picture(drawn).pixels, expected)

    drawn.write_text("mine")
    code, _, err = run("info", "net", "--plot", "a.png", "-o", drawn)
    assert code == 2 and f"{drawn}: exists already; --overwrite" in err
    assert drawn.read_text() == "mine"
    code, *_ = run("info", "net", "--plot", "a.png", "-o", drawn, "--overwrite")
    assert code == 0
    np.testing.assert_array_equal(read_picture(drawn).pixels, expected)


@pytest.mark.parametrize("option", ["--window 48", "--set train_size=[9,9]", "-o mine.png"])
def test_info_of_no_picture(run, option):
    """Options that would change nothing are refused."""
    code, out, err = run("info", "net", *option.split())
    assert (code, out) == (2, "") and "add --" in err and len(err.splitlines()) == 1


def test_info_of_memory(run):
    """More pixels take as much more, before anything of that size is allocated."""

    def gibibytes(*options):
        code, out, _ = run("info", "net", "--size", *options)
        assert code == 0
        return float(re.search(r"([\d.]+) GiB of memory on cpu", out)[1])

    assert 1.8 * gibibytes("2000x1000") <= gibibytes("2000x2000") <= 2.2 * gibibytes("2000x1000")
    # The least there can be, with a whole map of the widest layer: 8 channels of float32.
    assert gibibytes("20000x20000") >= 20000**2 * 8 * 4 / 2**30


def test_convert(run, tmp_path):
    arguments = ["release.safetensors", tmp_path / "new", "--set", "train_size=[16,16]"]
    code, out, err = run("convert", *arguments)
    assert (code, err) == (0, "")
    assert "release.safetensors" in out and "nafnet" in out and "MIT" in out
    description = json.loads((tmp_path / "new/model.json").read_text())
    assert description["config"]["train_size"] == [16, 16] and description["assumed"] == []
    restored(run, "a.png", "-o", tmp_path / "out", "--checkpoint", tmp_path / "new")
    written = read_picture(tmp_path / "out/a.new.png").pixels
    np.testing.assert_array_equal(written, tlc.restore(LOCAL, PARAMS, PIXELS))


# Whatever is wrong

# Each command, and words of its one sentence: what is meant, and what to do about it.
BAD = {
    "restore nowhere.png -o out --checkpoint net": ["nowhere.png", "no such file"],
    "restore cut.png -o out --checkpoint net": ["cut.png", "truncated"],
    "restore text.png -o out --checkpoint net": ["text.png", "give a PNG"],
    "restore empty -o out --checkpoint net": ["empty", "no pictures", ".png"],
    "restore texts -o out --checkpoint net": ["texts", "no pictures", ".png"],
    "restore a.png pictures/a.png -o out --checkpoint net": ["pictures/a.png", "rename"],
    "restore a.png -o a.png --checkpoint net": ["a.png", "another output"],
    "restore a.png -o a.png --overwrite --checkpoint net": ["a.png", "another output"],
    "restore a.png -o a.png/out --checkpoint net": ["a.png", "choose another output"],
    "restore a.png -o a.png/out.png --checkpoint net": ["a.png", "choose another output"],
    "restore a.png -o out.gif --checkpoint net": ["out.gif", ".png"],
    "restore a.png --task denoise,sharpen": ["sharpen", "denoise, deblur"],
    "restore a.png --task noise": ["is denoise meant"],
    "restore a.png --task deblur,deblur": ["twice"],
    "restore pictures -o out.png --checkpoint net": ["out.png", "name a folder"],
    "restore --left a.png --right a.png -o out --checkpoint two-views --compare": ["--compare"],
    "restore a.mp4 -o out --checkpoint net --mode auto": ["a.mp4", "--mode auto"],
    "restore a.mp4 -o out --checkpoint net --shifts 2": ["a.mp4", "--shifts"],
    "info net --plot text.png": ["text.png"],
    "info net --plot a.png --size 9x9": ["--size"],
    "info net --plot a.png -o nowhere/x.png": ["nowhere"],
    "info net --plot a.png -o a.png --overwrite": ["a.png", "choose another output"],
    "restore a.png --task deblur --checkpoint net": ["--task deblur", "leave --checkpoint out"],
    "restore a.png -o out --checkpoint nowhere": ["nowhere", "tlc-jax convert"],
    "restore a.png -o out --checkpoint denoise": ["--task denoise"],
    "convert release.safetensors out --set source=x": ["no field source"],
    "restore a.png -o out --checkpoint empty": ["empty", "model.json", "tlc-jax convert"],
    "restore a.png -o out --checkpoint damaged": ["damaged/params", "convert the weights again"],
    "restore a.png -o out --checkpoint edited": ["edited", "convert the weights again"],
    "restore a.png -o out --checkpoint official.pth": ["official.pth", "file", "tlc-jax convert"],
    "restore a.png -o out --checkpoint two-views": ["pairs", "--left", "--right"],
    "restore a.png -o out --checkpoint nan": ["a.png", "NaN", "weights"],
    "restore a.png -o out --checkpoint net --set wdth=8": ["wdth", "train_size"],
    "restore a.png -o out --checkpoint net --set width=8": ["width=8", "weights do not fit"],
    "restore a.png -o out --checkpoint net --set train_size": ["train_size=[256,256]"],
    "restore a.png -o out --checkpoint net --set train_size=7": ["train_size=7"],
    "restore a.png -o out --checkpoint net --set train_size=[7]": ["train_size=[7]"],
    "restore a.png -o out --checkpoint net --set train_size=[0,8]": ["train_size=[0,8]"],
    # Options of their own; that they were set silently without effect was worse than no effect.
    "restore a.png -o out --checkpoint net --set window=[8,8]": ["--set window", "--window"],
    "restore a.png -o out --checkpoint net --set local_mode=false": ["local_mode", "--mode"],
    "restore a.png -o out --checkpoint maxim --set train_size=[7,8]": ["train_size=(8, 8)"],
    "restore a.png -o out --checkpoint net --set padding=mirror": ["mirror", "'zeros'", "'end'"],
    # JSON says false: a text "False" would be true.
    "restore a.png -o out --checkpoint maxim --set local_grid=False": ["local_grid=true"],
    "info nowhere": ["nowhere", "tlc-jax convert"],
    "info net --size 720": ["--size 720", "1280x720"],
    "info net --size 0x5": ["--size 0x5", "1280x720"],
    "info net --size 20x20 --set wdth=8": ["wdth", "train_size"],
    "convert nowhere.pth new": ["nowhere.pth", "no such file"],
    "convert text.png new": ["text.png", "safetensors"],
    "convert cut.safetensors new": ["cut.safetensors", "download it again"],
    "convert release.safetensors net": ["net", "exists already"],
    "convert release.safetensors a.png/out": ["a.png/out", "another destination"],
    "convert release.safetensors new --set wdth=8": ["release.safetensors", "wdth", "train_size"],
    "convert release.safetensors new --set train_size=7": ["train_size"],
}


@pytest.mark.parametrize("command", BAD)
def test_bad_input(run, world, command):
    before = files(world)
    code, out, err = run(*command.split())
    assert code == 2
    assert len(err.splitlines()) == 1 and err.startswith("tlc-jax: "), err
    assert all(word in err for word in BAD[command]), err
    assert "Traceback" not in out
    assert files(world) == before


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("restore a.png -o out --checkpoint net --window 0", "--window"),
        ("restore a.png -o out --checkpoint net --window big", "--window"),
        ("restore a.png -o out --checkpoint net --mode both", "'local', 'global'"),
        ("restore a.png -o out --checkpoint net --dtype float8", "'float32', 'bfloat16'"),
        ("restore -o out --checkpoint net", "nothing to restore"),
        ("repair a.png", "repair"),
    ],
)
def test_bad_usage(run, world, command, word):
    before = files(world)
    code, _, err = run(*command.split())
    assert code == 2 and word in err and "Traceback" not in err
    assert files(world) == before


def test_version(run):
    code, out, err = run("--version")
    assert (code, out, err) == (0, f"tlc-jax {importlib.metadata.version('tlc-jax')}\n", "")


# As processes


def process(world, cache, *command):
    """With compiled programs where users have them, even those that took less than a second."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "JAX_COMPILATION_CACHE_DIR": ""}
    options = {"cwd": world, "env": environment, "capture_output": True, "text": True}
    return subprocess.run([str(word) for word in command], **options)


def test_the_command(world, tmp_path):
    arguments = ["restore", "small.png", "cut.png", "-o", tmp_path / "out", "--checkpoint", "net"]
    ended = process(world, tmp_path / "cache", BIN / "tlc-jax", *arguments)
    assert ended.returncode == 2
    assert ended.stderr.startswith("tlc-jax: ") and len(ended.stderr.splitlines()) == 1
    assert files(tmp_path / "out") == {Path("small.net.png")}
    assert files(tmp_path / "cache/tlc-jax")  # what is compiled is there for the next call


def test_the_converter_as_a_module(world, tmp_path):
    module = [sys.executable, "-m", "checkpoints_convert"]
    command = [*module, "release.safetensors", tmp_path / "new"]
    ended = process(world, tmp_path, *command)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert isinstance(tlc.load(tmp_path / "new")[0], tlc.NAFNet)
    ended = process(world, tmp_path, *command)
    assert ended.returncode == 2 and ended.stderr.startswith("tlc-jax: ")
    assert len(ended.stderr.splitlines()) == 1 and "exists already" in ended.stderr
