"""RNN-MBP: deblurring of video, by recurrences through the clip in both directions.

Zhu et al., "Deep Recurrent Neural Network with Multi-Scale Bi-Directional Propagation for Video
Deblurring" (AAAI 2022, arXiv 2112.05150). Each direction is a U-Net that adds its feature maps of
the frame before in that direction. A frame is restored from the maps of both directions. The loops
over the frames are `nn.scan`: the program is as large for 5 frames as for 50.
"""

from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from tlc_jax.layers import Network
from tlc_jax.layers.cab import Decoder, Encoder, ORSNet, Pyramid, ShallowFeatures
from tlc_jax.ops.windows import Size

LEVELS = 3  # of the U-Nets
REDUCTION = 4

# What a recurrence carries from frame to frame: the maps of its encoder and its decoder.
State = tuple[Pyramid, Pyramid]


class Common(NamedTuple):
    """Settings that all parts of the network share."""

    widths: tuple[int, ...]  # channels of each level
    num_cab: int  # blocks between two additions of a U-Net's maps
    dtype: Dtype | None


class Propagation(nn.Module):
    """The U-Net of one direction (section 3.1), at one frame: (N, H, W, C) to its feature maps."""

    common: Common

    @nn.compact
    def __call__(self, x: jax.Array, before: State) -> State:
        widths, _, dtype = self.common
        encoded = Encoder(widths, REDUCTION, dtype, name="encoder")(x, before)
        return encoded, Decoder(REDUCTION, dtype, name="decoder")(encoded)


class BackwardStep(nn.Module):
    """One step from the next frame to this one, (N, H, W, 3): its features and the new state."""

    common: Common

    @nn.compact
    def __call__(self, after: State, frame: jax.Array) -> tuple[State, tuple[jax.Array, State]]:
        widths, _, dtype = self.common
        x = ShallowFeatures(widths[0], REDUCTION, dtype, name="shallow_cell")(frame)
        state = Propagation(self.common, name="propagation")(x, after)
        return state, (x, state)


class ForwardStep(nn.Module):
    """One step from the previous frame to this one, restored (N, H, W, 3) from both directions."""

    common: Common

    @nn.compact
    def __call__(
        self, before: State, inputs: tuple[jax.Array, jax.Array, State]
    ) -> tuple[State, jax.Array]:
        frame, x, backward = inputs
        _, num_cab, dtype = self.common
        state = Propagation(self.common, name="propagation")(x, before)
        encoded, decoded = jax.tree.map(jnp.add, state, backward)
        x = ORSNet(num_cab, REDUCTION, dtype, name="TFR")(x, encoded, decoded)
        residual = nn.Conv(frame.shape[-1], (5, 5), dtype=dtype, name="recons")(x)
        return state, frame + residual.astype(frame.dtype)


class RNNMBP(Network):
    """RNN-MBP, called with clips (N, T, H, W, C).

    Returns (N, T - past_frames - future_frames, H, W, C): the frames that have enough neighbours.
    The first `past_frames` are restored, too, and dropped; `resume` keeps them.
    """

    n_features: int = 90
    num_cab: int = 8
    past_frames: int = 2
    future_frames: int = 2

    multiple = 2 ** (LEVELS - 1)
    variants: ClassVar = {"gopro": {}}

    @property
    def takes(self) -> str:
        return "clips"

    @property
    def shortest(self) -> int:
        """The fewest frames of a clip."""
        return self.past_frames + self.future_frames + 1

    @nn.nowrap
    def example_input(self, size: Size) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, self.shortest, *size, self.inp_channels), jnp.float32)

    def __call__(self, clip: jax.Array) -> jax.Array:
        if clip.ndim != 5 or clip.shape[1] < self.shortest:
            raise ValueError(
                f"a clip is (N, T, H, W, C) of at least {self.shortest} frames, got {clip.shape}."
            )
        return self.resume(clip, ahead=self.future_frames)[0][:, self.past_frames :]

    def resume(
        self, clip: jax.Array, state: State | None = None, ahead: int = 0
    ) -> tuple[jax.Array, State]:
        """Restore every frame of one part of a long clip.

        Args:
          clip: (N, T, H, W, C).
          state: of the forward recurrence after the previous part; `None` for the first part.
          ahead: how many frames at the end belong to the next part, less than T. Only the backward
            recurrence reads them. It starts at the last of them, not at the end of the long clip:
            this is the only difference from restoring the long clip at once.

        Returns:
          (N, T - ahead, H, W, C), and the state for the next part.
        """
        _, t, h, w, _ = clip.shape
        if not 0 <= ahead < t:
            raise ValueError(f"ahead is 0 to {t - 1} of {t} frames, got {ahead}.")
        with self.windowed():
            restored, state = self.forward(self.pad(clip), state, ahead)
        return self.crop(restored, (h, w)), state

    @nn.compact
    def forward(
        self, clip: jax.Array, state: State | None = None, ahead: int = 0
    ) -> tuple[jax.Array, State]:
        """`resume`, for frames whose sides are multiples of `multiple`."""
        n, t, h, w, _ = clip.shape
        widths = tuple(self.n_features + i * (self.n_features // 2) for i in range(LEVELS))
        common = Common(widths, self.num_cab, self.dtype)
        over_frames = {"variable_broadcast": "params", "split_rngs": {"params": False}}
        backward = nn.scan(BackwardStep, reverse=True, **over_frames)(common, name="backward")
        forward = nn.scan(ForwardStep, **over_frames)(common, name="forward")

        # The convolutions of a state have no bias: a state of zeros is the same as none.
        pyramid = tuple(
            jnp.zeros((n, h // 2**i, w // 2**i, width), self.dtype or jnp.float32)
            for i, width in enumerate(widths)
        )
        nothing = pyramid, pyramid
        centred = clip.swapaxes(0, 1) - 0.5
        after = nothing
        if ahead:  # a loop of its own, as these maps need not be kept
            after, _ = backward(after, centred[t - ahead :])
        centred = centred[: t - ahead]
        _, (features, maps) = backward(after, centred)
        state, restored = forward(state or nothing, (centred, features, maps))
        return restored.swapaxes(0, 1) + 0.5, state
