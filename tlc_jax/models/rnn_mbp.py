"""RNN-MBP: deblurring of video, by recurrences through the clip in both directions.

Zhu et al., "Deep Recurrent Neural Network with Multi-Scale Bi-Directional Propagation for Video
Deblurring" (AAAI 2022, arXiv 2112.05150). Each direction is a U-Net that adds its own maps of the
frame before; at each frame the maps of both directions restore it. The loops over the frames are
`nn.scan`: the program is as large for 5 frames as for 50.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from tlc_jax.layers import local_window
from tlc_jax.layers.cab import Decoder, Encoder, ORSNet, Pyramid, ShallowFeatures
from tlc_jax.ops import Window, pad_to_multiple

LEVELS = 3  # of the U-Nets
MULTIPLE = 2 ** (LEVELS - 1)
REDUCTION = 4

# What a recurrence carries from frame to frame: the maps of its encoder and of its decoder.
State = tuple[Pyramid, Pyramid]


class Common(NamedTuple):
    """What all parts of the network have in common."""

    widths: tuple[int, ...]  # channels of each level
    windows: tuple[Window, ...]  # of each level, in its own pixels
    num_cab: int  # blocks between two additions of a U-Net's maps
    dtype: Dtype | None


class Propagation(nn.Module):
    """The U-Net of one direction (section 3.1), at one frame: (N, H, W, C) to its maps."""

    common: Common

    @nn.compact
    def __call__(self, x: jax.Array, before: State) -> State:
        widths, windows, _, dtype = self.common
        encoder = Encoder(widths, REDUCTION, windows, dtype, name="encoder")
        encoded = encoder(x, before)
        decoder = Decoder(REDUCTION, windows, dtype, name="decoder")
        return encoded, decoder(encoded)


class BackwardStep(nn.Module):
    """From the frame after to this one, (N, H, W, 3): its features, and the recurrence's maps."""

    common: Common

    @nn.compact
    def __call__(self, after: State, frame: jax.Array) -> tuple[State, tuple[jax.Array, State]]:
        widths, windows, _, dtype = self.common
        shallow = ShallowFeatures(widths[0], REDUCTION, windows[0], dtype, name="shallow_cell")
        x = shallow(frame)
        state = Propagation(self.common, name="propagation")(x, after)
        return state, (x, state)


class ForwardStep(nn.Module):
    """From the frame before to this one, and its restoration (N, H, W, 3) from both directions."""

    common: Common

    @nn.compact
    def __call__(
        self, before: State, inputs: tuple[jax.Array, jax.Array, State]
    ) -> tuple[State, jax.Array]:
        frame, x, backward = inputs
        _, windows, num_cab, dtype = self.common
        state = Propagation(self.common, name="propagation")(x, before)
        encoded, decoded = jax.tree.map(jnp.add, state, backward)
        restore = ORSNet(num_cab, REDUCTION, windows[0], dtype, name="TFR")
        x = restore(x, encoded, decoded)
        residual = nn.Conv(frame.shape[-1], (5, 5), dtype=dtype, name="recons")(x)
        return state, frame + residual.astype(frame.dtype)


class RNNMBP(nn.Module):
    """RNN-MBP. Call with clips (N, T, H, W, C) RGB in [0, 1], any size.

    Returns (N, T - past_frames - future_frames, H, W, C): the frames that have enough neighbours.
    It restores the past frames, too, and drops them; `resume` keeps them.
    """

    n_features: int = 90
    num_cab: int = 8
    past_frames: int = 2
    future_frames: int = 2
    inp_channels: int = 3
    local_mode: bool = False
    train_size: tuple[int, int] = (256, 256)  # pixels, of the training crops
    window: Window = None  # input pixels; None is 1.5 x train_size
    dtype: Dtype | None = None

    def __call__(self, clip: jax.Array) -> jax.Array:
        needed = self.past_frames + self.future_frames + 1
        if clip.ndim != 5 or clip.shape[1] < needed:
            raise ValueError(
                f"a clip is (N, T, H, W, C) of at least {needed} frames, got {clip.shape}."
            )
        return self.resume(clip, ahead=self.future_frames)[0][:, self.past_frames :]

    @nn.compact
    def resume(
        self, clip: jax.Array, state: State | None = None, ahead: int = 0
    ) -> tuple[jax.Array, State]:
        """Restore every frame of one part of a long clip.

        Args:
          clip: (N, T, H, W, C).
          state: of the forward recurrence before this part; `None` at the beginning.
          ahead: how many frames at the end belong to the next part, less than T. Only the backward
            recurrence sees them. It starts at the last of them rather than at the end of the clip:
            the one difference from restoring the clip whole.

        Returns:
          (N, T - ahead, H, W, C), and the state for the next part.
        """
        n, t, h, w, c = clip.shape
        if not 0 <= ahead < t:
            raise ValueError(f"ahead is 0 to {t - 1} of {t} frames, got {ahead}.")
        padded = pad_to_multiple(clip.reshape(n * t, h, w, c), MULTIPLE)
        frames = padded.reshape(n, t, *padded.shape[1:]).swapaxes(0, 1)

        strides = [2**level for level in range(LEVELS)]
        common = Common(
            widths=tuple(self.n_features + i * (self.n_features // 2) for i in range(LEVELS)),
            windows=tuple(local_window(self, stride=s, multiple=MULTIPLE) for s in strides),
            num_cab=self.num_cab,
            dtype=self.dtype,
        )
        over_frames = {"variable_broadcast": "params", "split_rngs": {"params": False}}
        backward = nn.scan(BackwardStep, reverse=True, **over_frames)(common, name="backward")
        forward = nn.scan(ForwardStep, **over_frames)(common, name="forward")

        # The convolutions of a state have no bias: one of zeros is the same as none.
        pyramid = tuple(
            jnp.zeros(
                (n, padded.shape[1] // stride, padded.shape[2] // stride, width),
                self.dtype or jnp.float32,
            )
            for stride, width in zip(strides, common.widths, strict=True)
        )
        nothing = pyramid, pyramid
        centred = frames - 0.5
        after = nothing
        if ahead:  # a loop of its own, as these maps need not be kept
            after, _ = backward(after, centred[t - ahead :])
        centred = centred[: t - ahead]
        _, (features, maps) = backward(after, centred)
        state, restored = forward(state or nothing, (centred, features, maps))
        return (restored.swapaxes(0, 1) + 0.5)[:, :, :h, :w], state
