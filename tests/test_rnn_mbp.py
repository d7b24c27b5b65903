"""RNN-MBP: the recurrences through a clip, whole and in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlc_jax as tlc
from tlc_jax.inference import clips
from tlc_jax.layers.network import abstract_params
from tlc_jax.models import RNNMBP

EPS = 2.0**-23  # of float32
NET = RNNMBP(4, num_cab=1, train_size=(16, 16))
FRAMES = 13
FORWARD = clips._forward_part


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(NET)


@pytest.fixture(scope="module")
def clip():
    return np.random.default_rng(1).uniform(size=(FRAMES, 17, 22, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def whole(params, clip):
    """Every frame of the clip restored at once, with local statistics."""
    local = NET.clone(local_mode=True, past_frames=0, future_frames=0)
    return np.asarray(jax.jit(local.apply)({"params": params}, clip[None]))[0]


def parts(params, clip, **sizes):
    local = NET.clone(local_mode=True)
    return np.stack(list(tlc.restore_clip(local, params, clip, **sizes)))


def same(a, b):
    return np.abs(a - b).max() <= 64 * EPS * np.abs(b).max()


def test_frames_without_enough_neighbours_are_left_out(params, clip, whole):
    local = NET.clone(local_mode=True)
    restored = jax.jit(local.apply)({"params": params}, clip[None])
    assert restored.shape == (1, FRAMES - 4, 17, 22, 3)
    assert same(restored[0], whole[2:-2])


def test_clips_of_a_batch_do_not_mix(params, clip):
    apply = jax.jit(NET.apply)
    two = np.stack([clip[:5], clip[5:10]])
    together = apply({"params": params}, two)
    for i in range(2):
        assert same(apply({"params": params}, two[i : i + 1])[0], together[i])


def test_the_program_does_not_grow_with_the_clip():
    def program(frames):
        clip = jax.ShapeDtypeStruct((1, frames, 16, 16, 3), jnp.float32)
        lowered = jax.jit(NET.apply).lower({"params": abstract_params(NET)}, clip)
        return [len(stage.as_text().splitlines()) for stage in (lowered, lowered.compile())]

    assert program(5) == program(50)


def test_both_directions_reach_a_frame(params, clip, whole):
    """What a frame becomes depends on all others, before and after it."""
    local = NET.clone(local_mode=True, past_frames=0, future_frames=0)
    apply = jax.jit(local.apply)
    for changed, asked in ((0, FRAMES - 1), (FRAMES - 1, 0)):
        other = clip.copy()
        other[changed] = 1 - other[changed]
        restored = apply({"params": params}, other[None])[0]
        assert np.abs(restored[asked] - whole[asked]).max() > 1e-6


def test_one_chunk_is_the_whole_clip(params, clip, whole):
    assert same(parts(params, clip, chunk=FRAMES + 1, overlap=0), whole)


def test_chunks_see_all_before_and_some_frames_after(params, clip, whole):
    """The last chunk is that of the whole clip; earlier ones come nearer the more they see."""
    restored = {overlap: parts(params, clip, chunk=4, overlap=overlap) for overlap in (1, 6)}
    assert all(x.shape == whole.shape for x in restored.values())
    assert same(restored[1][12:], whole[12:])  # chunks of 4, 4, 4 and the 1 frame that is left
    assert same(restored[6][4:], whole[4:])
    errors = {overlap: np.abs(x[:4] - whole[:4]).max() for overlap, x in restored.items()}
    assert errors[1] > errors[6] > 0


@pytest.mark.parametrize("length", [5, 8, 9])
def test_no_frame_is_lost_where_chunks_end(params, clip, length):
    """Whatever is left for the last chunk: 1 frame, 4 of them, or the 1 looked ahead at."""
    small = jax.tree.map(lambda x: 0.3 * x, params)  # so that frames are still alike afterwards
    restored = parts(small, clip[:length], chunk=4, overlap=1)
    nearest = [np.abs(clip - frame).mean(axis=(1, 2, 3)).argmin() for frame in restored]
    assert nearest == list(range(length))


def test_all_chunks_are_one_program(params, clip):
    """But for the last one, which may be shorter."""
    before = FORWARD._cache_size()
    list(tlc.restore_clip(NET.clone(window=(9, 9)), params, clip, chunk=3, overlap=2))
    assert FORWARD._cache_size() - before == 2


def test_frames_come_as_soon_as_their_chunk_is_read(params, clip):
    """Of a long clip only one chunk is held."""
    read = []

    def frames():
        for frame in clip:
            read.append(1)
            yield frame

    restored = tlc.restore_clip(NET, params, frames(), chunk=3, overlap=2)
    next(restored)
    assert len(read) == 5


def test_whole_numbers_stay_whole_numbers(params, clip):
    frames = (clip[:6] * 255).astype(np.uint8)
    restored = list(tlc.restore_clip(NET, params, frames, chunk=6))
    assert [x.dtype for x in restored] == [np.uint8] * 6


@pytest.mark.parametrize(
    ("frames", "sizes", "words"),
    [
        (4, {}, "clips of 5 frames or more, got 4"),
        (0, {}, "clips of 5 frames or more, got 0"),
        (6, {"chunk": 0}, "chunk is at least 1"),
        (6, {"chunk": 2, "overlap": 1}, "both together 5 frames or more"),
    ],
)
def test_refused(params, clip, frames, sizes, words):
    with pytest.raises(ValueError, match=words):
        parts(params, clip[:frames], **sizes)


def test_frames_of_two_sizes_are_refused(params, clip):
    frames = [*clip[:5], clip[5, :8]]
    with pytest.raises(ValueError, match=r"\(17, 22, 3\) and \(8, 22, 3\)"):
        list(tlc.restore_clip(NET, params, frames))


def test_a_single_clip_too_short_is_refused(params, clip):
    with pytest.raises(ValueError, match="at least 5 frames"):
        NET.apply({"params": params}, clip[None, :4])


def test_one_picture_is_no_clip(params, clip):
    with pytest.raises(ValueError, match="restore_clip"):
        tlc.restore(NET, params, clip[0])


def test_more_looking_ahead_than_frames_is_refused(params, clip):
    with pytest.raises(ValueError, match="ahead is 0 to 1 of 2 frames, got 2"):
        NET.apply({"params": params}, clip[None, :2], None, 2, method="resume")


def test_networks_for_pictures_take_each_frame_by_itself(clip):
    net = tlc.NAFNet(4, (1,), 0, (1,), train_size=(8, 8), local_mode=True)
    params = net.init(jax.random.key(0), clip[:1])["params"]
    restored = list(tlc.restore_clip(net, params, clip[:3]))
    for frame, one in zip(clip, restored, strict=False):
        assert np.array_equal(one, tlc.restore(net, params, frame))


def test_every_site_is_listed_once():
    names = [site.name for site in tlc.sites(NET.clone(local_mode=True), (64, 64))]
    assert len(names) == len(set(names))
    # Two U-Nets of 14 blocks, three in the ORSNet and the shallow one.
    assert len(names) == 2 * 14 + 3 + 1
    windows = {site.name: site.window for site in tlc.sites(NET.clone(local_mode=True), (64, 64))}
    assert windows["backward/propagation/encoder/encoder_level3_0/CA/pool"] == (6, 6)


def test_gradients_reach_every_parameter(params, clip):
    def loss(params):
        local = NET.clone(local_mode=True)
        return jnp.square(local.apply({"params": params}, clip[None, :5]) - 0.5).mean()

    for path, gradient in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(params)):
        assert jnp.isfinite(gradient).all(), path
        # A squeeze of 4 channels has one number, and ReLU may have cut it off.
        assert gradient.any() or "CA" in {key.key for key in path}, path


def test_bfloat16(params, clip):
    exact, half = (
        jax.jit(NET.clone(dtype=dtype).apply)({"params": params}, clip[None, :6])
        for dtype in (None, jnp.bfloat16)
    )
    assert half.dtype == jnp.float32
    assert 0 < np.abs(half - exact).mean() < 0.1 * np.abs(exact - clip[None, 2:4]).mean()
