"""NAFSSR as its authors publish it (MIT): tensors under `params`."""

import math

from checkpoints_convert.engine import CONV, NORM, Config, Release, Rule, Shapes, count, vectors
from checkpoints_convert.shared import naf_rules

FUSION = r"(body\.\d+)\.module\.fusion"
RULES = (
    Rule(r"(intro)", "{}", CONV),
    Rule(r"(up)\.0", "{}", CONV),
    *naf_rules(r"(body\.\d+)\.module\.blk", "{}_blk"),
    Rule(FUSION, "{}_fusion", vectors("beta", "gamma")),
    Rule(FUSION + r"\.(norm_[lr])", "{}_fusion/{}", NORM),
    Rule(FUSION + r"\.([lr]_proj[12])", "{}_fusion/{}", CONV),
)


def _infer_nafssr(shapes: Shapes) -> Config:
    width, channels = shapes["intro.weight"][:2]
    return {
        "up_scale": math.isqrt(shapes["up.0.weight"][0] // channels),
        "width": width,
        "num_blks": count(shapes, r"body\.(\d+)\."),
        "inp_channels": 2 * channels,
    }


RELEASES = {
    "nafssr": Release(r"body\.\d+\.module\.fusion\.beta|up\.0\.weight", _infer_nafssr, RULES)
}
