"""Restormer as its authors publish it (academic licence at first): tensors under `params`."""

from checkpoints_convert.engine import CONV, NORM, Config, Release, Rule, Shapes, count, vectors

BLOCK_NAME = r"((?:encoder_level[1-3]|decoder_level[1-3]|latent|refinement)\.\d+)"
RULES = (
    Rule(r"(output|skip_conv|reduce_chan_level[23])", "{}", CONV),
    Rule(r"(patch_embed)\.proj", "{}", CONV),
    Rule(r"(down\d_\d|up\d_\d)\.body\.0", "{}", CONV),
    Rule(BLOCK_NAME + r"\.(norm[12])\.body", "{}/{}", NORM),
    Rule(BLOCK_NAME + r"\.(attn)", "{}/{}", vectors("temperature")),
    Rule(BLOCK_NAME + r"\.(attn|ffn)\.(qkv|(?:qkv_)?dwconv|project_(?:in|out))", "{}/{}/{}", CONV),
)
PUBLISHED_EXPANSION = 2.66
LEVELS = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")


def _infer_restormer(shapes: Shapes) -> Config:
    dim, inp_channels = shapes["patch_embed.proj.weight"][:2]

    def heads(*stacks: str) -> int:
        """Of a level; of one without blocks no parameter depends on them."""
        names = (f"{stack}.0.attn.temperature" for stack in stacks)
        return next((shapes[name][0] for name in names if name in shapes), 1)

    return {
        "inp_channels": inp_channels,
        "out_channels": shapes["output.weight"][0],
        "dim": dim,
        "num_blocks": tuple(count(shapes, rf"{level}\.(\d+)\.") for level in LEVELS),
        "num_refinement_blocks": count(shapes, r"refinement\.(\d+)\."),
        "heads": (heads("encoder_level1", "refinement"), *map(heads, LEVELS[1:])),
        "ffn_expansion_factor": _expansion(shapes),
        "bias": any(name.endswith(".attn.qkv.bias") for name in shapes),
        "norm_bias": any(name.endswith(".norm1.body.bias") for name in shapes),
        "dual_pixel_task": "skip_conv.weight" in shapes,
    }


def _expansion(shapes: Shapes) -> float:
    """An f with int(dim * f) hidden channels in every block; the published one if it fits."""
    sizes = [
        shape[:2] for name, shape in shapes.items() if name.endswith(".ffn.project_out.weight")
    ]
    low = max(hidden / dim for dim, hidden in sizes)
    high = min((hidden + 1) / dim for dim, hidden in sizes)
    return PUBLISHED_EXPANSION if low <= PUBLISHED_EXPANSION < high else (low + high) / 2


RELEASES = {
    "restormer": Release(
        BLOCK_NAME + r"\.attn\.temperature",
        _infer_restormer,
        RULES,
        ("train_size", "ffn_expansion_factor"),
    )
}
