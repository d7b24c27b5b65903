"""The command line for pairs of views, videos, clips and gray networks."""

import shutil
from fractions import Fraction
from pathlib import Path

import av
import jax
import numpy as np
import pytest
from PIL import Image
from skimage.data import stereo_motorcycle

import tlc_jax as tlc
from tlc_jax.files import catalogue
from tlc_jax.files.pictures import read_picture
from tlc_jax.files.video import read_video
from tlc_jax.ops.pixels import from_float, to_float

STEREO = tlc.NAFSSR(2, width=4, num_blks=1, train_size=(16, 16))
DUAL_PIXEL = tlc.Restormer(
    inp_channels=6,
    dim=4,
    num_blocks=(1, 0, 0, 0),
    num_refinement_blocks=0,
    heads=(1, 1, 1, 1),
    dual_pixel_task=True,
    train_size=(16, 16),
)
VIDEO = tlc.RNNMBP(4, num_cab=1, train_size=(16, 16))
SINGLE = tlc.NAFNet(4, (), 1, (), train_size=(16, 16))
GRAY = SINGLE.clone(inp_channels=1)
NETWORKS = {
    "stereo": STEREO,
    "dual-pixel": DUAL_PIXEL,
    "video": VIDEO,
    "single": SINGLE,
    "gray": GRAY,
    "pairs": SINGLE.clone(inp_channels=6),
    "four": SINGLE.clone(inp_channels=4),
}
FRAMES = 30
H, W = 36, 48
EXAMPLE = Path(__file__).parent.parent / "tlc_jax/examples/kodim.png"
PHOTO = np.asarray(Image.open(EXAMPLE).convert("RGB"))


def moving_crop(i):
    """A camera that pans over a photograph."""
    return PHOTO[40 + i : 40 + i + H, 60 + 2 * i : 60 + 2 * i + W]


def encode(path, frames, *, sound=False, rate=25, codec="libx264"):
    """A video of frames (H, W, 3), with a tone if `sound`; `codec` mpeg4 has few key frames."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        stream.gop_size = 1  # every frame by itself, so that damage stays where it is
        tone = file.add_stream("aac", 48000, layout="mono") if sound else None
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))))
        file.mux(stream.encode(None))
        if tone is not None:
            count = len(frames) * 48000 // rate
            wave = np.sin(np.arange(count) * 2 * np.pi * 440 / 48000).astype(np.float32)[None]
            samples = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
            samples.sample_rate = 48000
            file.mux(tone.encode(samples))
            file.mux(tone.encode(None))


def audio_packets(path):
    with av.open(str(path)) as file:
        return [bytes(p) for p in file.demux(file.streams.audio) if p.size]


@pytest.fixture(scope="module")
def weights(random_params):
    """Small ones, so that frames stay pictures and survive the video codec."""
    return {
        name: jax.tree.map(lambda x: 0.3 * x, random_params(NETWORKS[name])) for name in NETWORKS
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory, weights):
    folder = tmp_path_factory.mktemp("tasks")
    for name, model in NETWORKS.items():
        tlc.save(folder / name, model, weights[name], weights_licence="MIT")
    left, right, _ = stereo_motorcycle()
    for name, view in (("left", left), ("right", right)):
        (folder / name).mkdir()
        tlc.write_image(folder / f"{name}.png", view[200:232, 300:348])
        for i in range(2):
            tlc.write_image(folder / name / f"{i}.png", view[200 + i : 224 + i, 300:340])
    tlc.write_image(folder / "narrow.png", right[200:232, 300:340])
    deep = (PHOTO.astype(np.uint16) * 257 + 3)[100:140, 200:250]  # no multiple of 257 any more
    tlc.write_image(folder / "deep_left.png", deep)
    tlc.write_image(folder / "deep_right.png", np.roll(deep, 1, axis=1))

    clip = [moving_crop(i) for i in range(FRAMES)]
    encode(folder / "clip.mp4", clip, sound=True)
    encode(folder / "silent.mp4", clip[:6])
    encode(folder / "short.mp4", clip[:4])
    (folder / "frames").mkdir()
    for i, frame in enumerate(clip[:12]):
        tlc.write_image(folder / f"frames/frame{i}.png", frame)
    (folder / "empty").mkdir()
    return folder


def succeed(run, *arguments):
    code, out, err = run("restore", *arguments)
    assert (code, err) == (0, ""), err
    return out


def refused(run, *arguments):
    """The one sentence of a command that cannot be done."""
    code, _, err = run("restore", *arguments)
    assert code == 2 and len(err.splitlines()) == 1 and err.startswith("tlc-jax: "), err
    return err


def local(model):
    return model.clone(local_mode=True)


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# Pairs of views


def test_a_stereo_pair_comes_out_twice_as_large(run, world, weights, tmp_path):
    left, right = (read_picture(world / f"{side}.png").pixels for side in ("left", "right"))
    pair = np.concatenate([to_float(left), to_float(right)], axis=-1)
    expected = tlc.restore(local(STEREO), weights["stereo"], pair)
    out = succeed(
        run, "--left", "left.png", "--right", "right.png", "-o", tmp_path, "--checkpoint", "stereo"
    )
    assert "48x32 to 96x64" in out
    for side, view in zip(("left", "right"), np.split(expected, 2, axis=-1), strict=True):
        written = read_picture(tmp_path / side / f"{side}.stereo.png").pixels
        assert np.abs(written - 255.0 * view.clip(0, 1)).max() <= 0.51


def test_folders_of_views_pair_by_name(run, tmp_path):
    arguments = ("--left", "left", "--right", "right", "-o", tmp_path, "--checkpoint", "stereo")
    succeed(run, *arguments)
    assert files(tmp_path) - {"cache"} >= {
        f"{s}/{i}.stereo.png" for s in ("left", "right") for i in "01"
    }
    assert "2 of 2 are there already" in succeed(run, *arguments)
    (tmp_path / "right/1.stereo.png").unlink()
    assert "1 of 2 are there already" in succeed(run, *arguments)
    assert (tmp_path / "right/1.stereo.png").exists()


def test_a_dual_pixel_pair_keeps_its_16_bits(run, world, weights, tmp_path):
    views = [read_picture(world / f"deep_{side}.png").pixels for side in ("left", "right")]
    assert views[0].dtype == np.uint16
    pair = np.concatenate(list(map(to_float, views)), axis=-1)
    expected = tlc.restore(local(DUAL_PIXEL), weights["dual-pixel"], pair)
    target = tmp_path / "sharp.png"
    succeed(
        run, "--left", "deep_left.png", "--right", "deep_right.png", "-o", target, "--checkpoint",
        "dual-pixel",
    )  # fmt: skip
    written = read_picture(target).pixels
    assert written.dtype == np.uint16
    assert np.abs(written - 65535.0 * expected.clip(0, 1)).max() <= 0.51 + 65535 * 1e-5


def test_views_of_unlike_depth_and_alpha(run, world, tmp_path):
    """The deeper one tells the depth; each view keeps its own alpha where the size stays."""
    pixels = read_picture(world / "deep_left.png").pixels
    tlc.write_image(tmp_path / "l.png", (pixels >> 8).astype(np.uint8))
    tlc.write_image(tmp_path / "r.png", pixels, alpha=pixels[..., 0])
    pair = ("--left", tmp_path / "l.png", "--right", tmp_path / "r.png")
    succeed(run, *pair, "-o", tmp_path / "out", "--checkpoint", "pairs")
    left, right = (read_picture(tmp_path / f"out/{s}/{s[0]}.pairs.png") for s in ("left", "right"))
    assert left.pixels.dtype == right.pixels.dtype == np.uint16
    assert left.alpha is None and np.array_equal(right.alpha, pixels[..., 0])
    out = succeed(run, *pair, "-o", tmp_path / "large", "--checkpoint", "stereo")
    assert "alpha left out" in out
    assert read_picture(tmp_path / "large/right/r.stereo.png").alpha is None


def test_views_against_the_truth(run, world, weights, tmp_path):
    """Of a folder with left/ and right/ in it; the input is of another size."""
    views = [read_picture(world / f"{side}.png").pixels for side in ("left", "right")]
    truth = [view.repeat(2, axis=0).repeat(2, axis=1) for view in views]
    for side, view in zip(("left", "right"), truth, strict=True):
        (tmp_path / "truth" / side).mkdir(parents=True)
        tlc.write_image(tmp_path / "truth" / side / f"{side}.png", view)
    out = succeed(
        run, "--left", "left.png", "--right", "right.png", "-o", tmp_path / "out", "--checkpoint",
        "stereo", "--reference", tmp_path / "truth",
    )  # fmt: skip
    pair, truth = (np.concatenate(list(map(to_float, x)), axis=-1) for x in (views, truth))
    restored = tlc.restore(local(STEREO), weights["stereo"], pair)
    assert f"PSNR {float(tlc.psnr(restored, truth)):.3f} dB" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--left left.png --right narrow.png", ["narrow.png: is 40x32", "left.png is 48x32"]),
        ("--left left.png", ["pairs", "--right"]),
        ("left.png", ["pairs", "--left"]),
        ("--left left.png --right right", ["two pictures, or two folders"]),
        ("--left left --right empty", ["empty", "no pictures"]),
        ("--left left --right frames", ["without one of the same name", "0, 1"]),
        ("--left left.png --right nowhere.png", ["nowhere.png", "cannot read"]),
    ],
)
def test_pairs_that_cannot_be(run, tmp_path, arguments, words):
    target = tmp_path / "out"
    err = refused(run, *arguments.split(), "-o", target, "--checkpoint", "stereo")
    assert all(word in err for word in words), err
    assert not target.exists()


def test_a_network_for_single_pictures_takes_no_pair(run, tmp_path):
    pair = ("--left", "left.png", "--right", "right.png")
    assert "takes no pairs" in refused(run, *pair, "-o", tmp_path, "--checkpoint", "single")


def test_no_file_holds_four_channels(run, tmp_path):
    said = refused(run, "left.png", "-o", tmp_path / "out", "--checkpoint", "four")
    assert "NAFNet takes pictures of 4 channels here, which no file holds" in said


# Videos


def test_a_video_is_restored_as_one_clip(run, world, weights, tmp_path):
    """30 frames in chunks of 10: frame rate, times, size and sound stay."""
    target = tmp_path / "sharp.mp4"
    out = succeed(run, "clip.mp4", "-o", target, "--checkpoint", "video")
    assert "30 frames of 48x36" in out and "25 frames/s" in out and "its sound" in out
    source, restored = read_video(world / "clip.mp4"), read_video(target)
    assert (restored.rate, restored.shape) == (Fraction(25), (H, W, 3))
    frames, times = [], []
    for time, pixels in source:
        frames.append(pixels)
        times.append(time)
    assert [time for time, _ in restored] == times and len(times) == FRAMES
    assert audio_packets(target) == audio_packets(world / "clip.mp4")
    expected = tlc.restore_clip(local(VIDEO), weights["video"], frames)
    for (_, written), exact in zip(restored, expected, strict=True):
        # H.264 with chroma of half the size is not exact, but another frame would be far off.
        assert np.abs(written.astype(float) - exact).mean() < 6


def test_frames_keep_their_depth_and_alpha_and_chunks_can_be_chosen(run, weights, tmp_path):
    """And they come in the order of their numbers, 10 after 9."""
    frames = [moving_crop(i).astype(np.uint16) * 257 + 3 for i in range(12)]
    (tmp_path / "deep").mkdir()
    for i, frame in enumerate(frames):
        tlc.write_image(tmp_path / f"deep/f{i}.png", frame, alpha=frame[..., 0])
    chunks = ("--chunk", "4", "--overlap", "2")
    out = tmp_path / "out"
    succeed(run, tmp_path / "deep", "-o", out, "--checkpoint", "video", *chunks)
    network = local(VIDEO), weights["video"]
    expected = list(tlc.restore_clip(*network, frames, chunk=4, overlap=2))
    other = list(tlc.restore_clip(*network, frames, chunk=4, overlap=5))
    written = [read_picture(out / f"deep.video/f{i}.png") for i in range(12)]
    for frame, picture, exact in zip(frames, written, expected, strict=True):
        assert picture.pixels.dtype == np.uint16
        assert np.abs(picture.pixels.astype(int) - exact).max() <= 2
        assert np.array_equal(picture.alpha, frame[..., 0])
    assert np.abs(np.stack(other).astype(int) - np.stack(expected)).max() > 4  # so it was heeded


def test_frame_by_frame_by_a_network_for_pictures(run, world, weights, tmp_path):
    out = succeed(run, "silent.mp4", "-o", tmp_path, "--checkpoint", "single")
    assert "no sound" in out
    restored = read_video(tmp_path / "silent.single.mp4")
    assert not restored.has_audio
    frames = zip(read_video(world / "silent.mp4"), restored, strict=True)
    for (_, blurred), (_, written) in frames:
        exact = tlc.restore(local(SINGLE), weights["single"], blurred)
        assert np.abs(written.astype(float) - exact).mean() < 6


def test_a_gray_network_makes_a_gray_video(run, world, weights, tmp_path):
    out = succeed(run, "silent.mp4", "-o", tmp_path, "--checkpoint", "gray")
    assert "converted to gray" in out
    _, pixels = next(iter(read_video(tmp_path / "silent.gray.mp4")))
    assert np.ptp(pixels.astype(int), axis=-1).max() <= 2
    _, colours = next(iter(read_video(world / "silent.mp4")))
    luma = from_float(to_float(colours) @ np.float32([[0.299], [0.587], [0.114]]), np.uint8)
    exact = tlc.restore(local(GRAY), weights["gray"], luma)
    assert np.abs(pixels[..., :1].astype(float) - exact).mean() < 3


def test_other_containers_become_matroska(run, world, tmp_path):
    encode(tmp_path / "clip.avi", [moving_crop(i) for i in range(3)], codec="mpeg4")
    succeed(run, tmp_path / "clip.avi", "-o", tmp_path / "out", "--checkpoint", "single")
    assert files(tmp_path / "out") == {"clip.single.mkv"}


def test_a_folder_of_pictures_and_videos(run, world, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(world / "silent.mp4", folder)
    shutil.copy(world / "left.png", folder)
    succeed(run, folder, "-o", tmp_path / "out", "--checkpoint", "single")
    assert files(tmp_path / "out") == {"left.single.png", "silent.single.mp4"}


@pytest.mark.parametrize("network", ["video", "single"])
def test_a_damaged_frame_costs_that_frame_only(run, world, network, tmp_path):
    data = bytearray((world / "clip.mp4").read_bytes())
    with av.open(str(world / "clip.mp4")) as file:
        packet = [p for p in file.demux(video=0) if p.size][12]
        data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    (tmp_path / "clip.mp4").write_bytes(data)
    target = tmp_path / "out/clip.mp4"
    err = refused(run, tmp_path / "clip.mp4", "-o", target, "--checkpoint", network)
    assert "damaged at 0.48 s" in err and "the others are restored" in err
    times = [time for time, _ in read_video(target)]
    assert len(times) == FRAMES - 1 and Fraction(12, 25) not in times
    assert audio_packets(target) == audio_packets(world / "clip.mp4")


def test_a_damaged_picture_in_a_clip(run, world, tmp_path):
    frames, target = tmp_path / "frames", tmp_path / "out"
    shutil.copytree(world / "frames", frames)
    (frames / "frame5.png").write_bytes((frames / "frame5.png").read_bytes()[:500])
    code, out, err = run("restore", frames, "-o", target, "--checkpoint", "video")
    assert code == 2 and "11 frames" in out
    assert "frame5.png" in err and "1 of 12 frames" in err and "the others are restored" in err
    assert files(target) == {f"frames.video/frame{i}.png" for i in range(12) if i != 5}


def test_each_damaged_picture_of_a_clip_is_named(run, world, tmp_path):
    frames = tmp_path / "frames"
    shutil.copytree(world / "frames", frames)
    for name in ("frame3.png", "frame7.png"):
        (frames / name).write_bytes(b"")
    _, _, err = run("restore", frames, "-o", tmp_path / "out", "--checkpoint", "video")
    third, seventh, both = err.splitlines()
    assert "frame3.png: it is empty" in third and "frame7.png: it is empty" in seventh
    assert "2 of" in both and "frame3.png first" in both


def test_a_clip_against_the_truth(run, world, weights, tmp_path):
    """The mean over frames of their PSNR; the truth here is the clip turned upside down."""
    frames = [read_picture(world / f"frames/frame{i}.png").pixels for i in range(12)]
    (tmp_path / "truth").mkdir()
    for i, frame in enumerate(frames):
        tlc.write_image(tmp_path / f"truth/frame{i}.png", frame[::-1])
    out = succeed(
        run, "frames", "-o", tmp_path / "out", "--checkpoint", "video", "--reference",
        tmp_path / "truth",
    )  # fmt: skip
    restored = tlc.restore_clip(local(VIDEO), weights["video"], list(map(to_float, frames)))
    pairs = [(x, y, x[::-1]) for x, y in zip(frames, restored, strict=True)]
    before = np.mean([float(tlc.psnr(x, truth)) for x, _, truth in pairs])
    after = np.mean([float(tlc.psnr(y, truth)) for _, y, truth in pairs])
    assert f"PSNR {before:.3f} -> {after:.3f} dB, mean over frames" in out


@pytest.mark.parametrize("clip", ["silent.mp4", "frames"])
def test_weights_that_make_no_pictures(run, world, weights, clip, tmp_path):
    nan = jax.tree.map(lambda x: np.nan * x, weights["single"])
    tlc.save(tmp_path / "nan", SINGLE, nan)
    code, _, err = run("restore", clip, "-o", tmp_path / "out", "--checkpoint", tmp_path / "nan")
    assert code == 2 and "NaN" in err and not files(tmp_path / "out")


def test_sound_that_the_container_does_not_take(run, world, tmp_path):
    """It is said, and the pictures are not lost."""
    with av.open(str(tmp_path / "clip.mkv"), "w") as file:
        stream = file.add_stream("libx264", 25)
        stream.height, stream.width, stream.pix_fmt = H, W, "yuv420p"
        tone = file.add_stream("wavpack", 44100, layout="mono")
        for i in range(3):
            frame = np.ascontiguousarray(moving_crop(i))
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        file.mux(stream.encode(None))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        samples.sample_rate = 44100
        file.mux(tone.encode(samples))
        file.mux(tone.encode(None))
    out = succeed(run, tmp_path / "clip.mkv", "-o", tmp_path / "clip.mp4", "--checkpoint", "single")
    assert "audio stream 1 left out" in out
    assert not read_video(tmp_path / "clip.mp4").has_audio


def test_an_input_is_never_replaced(run, world, tmp_path):
    """Not under another name, either."""
    shutil.copy(world / "left.png", tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.single.png").symlink_to(tmp_path / "a.png")
    err = refused(
        run, tmp_path / "a.png", "-o", tmp_path / "out", "--checkpoint", "single", "--overwrite"
    )
    assert "would replace an input" in err


def test_frames_of_two_sizes_are_named(run, world, tmp_path):
    frames = tmp_path / "frames"
    shutil.copytree(world / "frames", frames)
    shutil.copy(world / "narrow.png", frames / "frame7.png")
    err = refused(run, frames, "-o", tmp_path / "out", "--checkpoint", "video")
    assert "frame7.png: is 40x32, but frame0.png is 48x36" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("short.mp4 --checkpoint video", ["short.mp4", "5 frames or more, got 4"]),
        ("left --checkpoint video", ["left", "5 frames or more, got 2"]),
        ("left.png --checkpoint video", ["restores video", "folder of frames"]),
        ("empty --checkpoint video", ["empty", "no pictures or videos"]),
        ("empty --checkpoint single", ["empty", "no pictures or videos"]),
        ("clip.mp4 --checkpoint video --chunk 2 --overlap 1", ["together 5 frames"]),
        ("clip.mp4 --checkpoint single --reference frames", ["--reference is for pictures"]),
        ("nowhere.mp4 --checkpoint video", ["nowhere.mp4", "no such file"]),
        ("nowhere --checkpoint video", ["nowhere", "no such file"]),
    ],
)
def test_videos_that_cannot_be(run, tmp_path, arguments, words):
    target = tmp_path / "out"
    err = refused(run, *arguments.split(), "-o", target)
    assert all(word in err for word in words), err
    assert not files(target)


def test_what_is_no_video(run, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    err = refused(run, tmp_path / "text.mp4", "-o", tmp_path / "out", "--checkpoint", "video")
    assert "text.mp4" in err


def test_outputs_of_videos_are_videos(run, tmp_path):
    target = tmp_path / "clip.png"
    err = refused(run, "clip.mp4", "-o", target, "--checkpoint", "video")
    assert ".mp4" in err and not target.exists()


def test_several_outputs_need_a_folder(run, tmp_path):
    err = refused(run, "frames", "-o", tmp_path / "out.png", "--checkpoint", "video")
    assert "name a folder" in err


# Gray


def test_colours_for_a_gray_network(run, tmp_path):
    out = succeed(run, "left.png", "-o", tmp_path, "--checkpoint", "gray")
    assert "RGB converted to gray" in out
    assert read_picture(tmp_path / "left.gray.png").pixels.shape[-1] == 1


# What is published


def test_models_lists_every_published_file(run):
    code, out, err = run("models")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    listed = {one.name if one.address else one.file for one in catalogue.PUBLISHED}
    assert listed <= rows.keys() and len(listed) == 50
    row = rows["restormer-motion-deblurring"]
    assert all(word in row for word in ("motion deblurring", "GoPro", "104.7 MB", "33.57"))
    assert "20,127,073" in rows["model_deblurring.pth"]
    assert "'tlc-jax download NAME'" in out and "'tlc-jax convert FILE'" in out
    assert "non-commercial" in out and "https://github.com/" in out
    assert max(map(len, out.splitlines())) < 125
