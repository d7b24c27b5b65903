"""RNN-MBP as its authors publish it (no licence stated): tensors under `state_dict`."""

from checkpoints_convert.engine import CONV, Config, Release, Rule, Shapes, count
from checkpoints_convert.shared import block_rules, orsnet_rules, unet_rules

SHALLOW = r"shallow_cell\.shallow_feat"
RULES = (
    *block_rules(SHALLOW + r"\.1", "backward/shallow_cell/block", "backward/shallow_cell"),
    Rule(SHALLOW + r"\.0", "backward/shallow_cell/conv", CONV),
    *unet_rules(
        r"(backward|forward)_(encoder|decoder)",
        "{}/propagation/{}",
        slope="{}/propagation/{}",
        fused="skip",
    ),
    *orsnet_rules("TFR", "forward/TFR", slope="forward/TFR"),
    Rule(r"(recons)", "forward/{}", CONV),
)
UNUSED = r"fusion\.(weight|bias)"  # in the file, but never called


def _infer_rnn_mbp(shapes: Shapes) -> Config:
    n_features, inp_channels = shapes["shallow_cell.shallow_feat.0.weight"][:2]
    return {
        "n_features": n_features,
        "num_cab": count(shapes, r"TFR\.orb1\.body\.(\d+)\.CA"),
        "inp_channels": inp_channels,
    }


RELEASES = {
    "rnn_mbp": Release(
        r"forward_encoder\.skip_enc1\.weight",
        _infer_rnn_mbp,
        RULES,
        assumed=("train_size", "past_frames", "future_frames"),
        unused=UNUSED,
    )
}
