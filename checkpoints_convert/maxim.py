"""MAXIM as Google publishes it (Apache-2.0): a Flax tree already, whose paths stay as they are."""

import math

from checkpoints_convert.engine import FLAX, Config, Release, Rule, Shapes, count

RULES = (Rule(r"(.+)", "{}", FLAX),)
# The half and quarter size outputs of the last stage, used in training only.
UNUSED = r"stage_\d+_output_conv_[12]/(kernel|bias)"


def _infer_maxim(shapes: Shapes) -> Config:
    inp_channels, features = shapes["stage_0_input_conv_0/kernel"][2:]

    def block_size(level: int) -> tuple[int, int]:
        gate = "SplitHeadMultiAxisGmlpLayer_0/BlockGmlpLayer/BlockGatingUnit/Dense_0/kernel"
        side = math.isqrt(shapes[f"stage_0_encoder_block_{level}/{gate}"][0])
        return side, side

    return {
        "inp_channels": inp_channels,
        "features": features,
        "depth": count(shapes, r"stage_0_encoder_block_(\d+)/"),
        "num_stages": count(shapes, r"stage_(\d+)_"),
        "num_groups": count(shapes, r"stage_0_encoder_block_0/SplitHeadMultiAxisGmlpLayer_(\d+)"),
        "num_bottleneck_blocks": count(shapes, r"stage_0_global_block_(\d+)"),
        "block_size_hr": block_size(0),
        "block_size_lr": block_size(2),
    }


RELEASES = {"maxim": Release(r"stage_0_input_conv_0/kernel", _infer_maxim, RULES, unused=UNUSED)}
