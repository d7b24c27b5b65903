"""NAFSSR as its authors publish it (MIT): tensors under `params`."""

import math
from typing import Any

from checkpoints_convert.engine import CONV, NORM, Rule, Shapes, count, vectors

BLOCK = r"(body\.\d+)\.module\.(blk|fusion)"
RULES = (
    Rule(r"(intro)", "{}", CONV),
    Rule(r"(up)\.0", "{}", CONV),
    Rule(BLOCK, "{}_{}", vectors("beta", "gamma")),
    Rule(BLOCK + r"\.(norm[12]|norm_[lr])", "{}_{}/{}", NORM),
    Rule(BLOCK + r"\.(conv[1-5]|[lr]_proj[12])", "{}_{}/{}", CONV),
    Rule(BLOCK + r"\.(sca)\.1", "{}_{}/{}", CONV),
)


def infer_nafssr(shapes: Shapes) -> dict[str, Any]:
    """The configuration of a NAFSSR from its tensors' names and shapes."""
    width, channels = shapes["intro.weight"][:2]
    return {
        "up_scale": math.isqrt(shapes["up.0.weight"][0] // channels),
        "width": width,
        "num_blks": count(shapes, r"body\.(\d+)\."),
        "inp_channels": 2 * channels,
    }
