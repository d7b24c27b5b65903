"""Restormer as its authors publish it (MIT since October 2025): tensors under `params`."""

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


def _infer_restormer(shapes: Shapes) -> Config:
    dim, inp_channels = shapes["patch_embed.proj.weight"][:2]
    levels = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
    return {
        "inp_channels": inp_channels,
        "out_channels": shapes["output.weight"][0],
        "dim": dim,
        "num_blocks": tuple(count(shapes, rf"{level}\.(\d+)\.") for level in levels),
        "num_refinement_blocks": count(shapes, r"refinement\.(\d+)\."),
        "heads": tuple(shapes[f"{level}.0.attn.temperature"][0] for level in levels),
        "ffn_expansion_factor": _expansion(shapes, levels),
        "bias": "encoder_level1.0.attn.qkv.bias" in shapes,
        "norm_bias": "encoder_level1.0.norm1.body.bias" in shapes,
        "dual_pixel_task": "skip_conv.weight" in shapes,
    }


def _expansion(shapes: Shapes, levels: tuple[str, ...]) -> float:
    """An f with int(dim * f) hidden channels at every level; the published one if it fits."""
    sizes = [shapes[f"{level}.0.ffn.project_out.weight"][:2] for level in levels]
    low = max(hidden / dim for dim, hidden in sizes)
    high = min((hidden + 1) / dim for dim, hidden in sizes)
    return PUBLISHED_EXPANSION if low <= PUBLISHED_EXPANSION < high else (low + high) / 2


RELEASES = {
    "restormer": Release(
        r".+\.attn\.temperature", _infer_restormer, RULES, ("train_size", "ffn_expansion_factor")
    )
}
