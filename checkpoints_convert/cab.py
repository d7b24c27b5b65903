"""The blocks that MPRNet and RNN-MBP share."""

from checkpoints_convert.engine import CONV, SLOPE, Rule


def block_rules(source: str, path: str, slope: str) -> tuple[Rule, ...]:
    """Rules for the channel attention blocks that match `source`.

    Args:
      source: a regular expression for their names.
      path: their names here, with {} for the groups of `source`.
      slope: where the PReLU slope lies that they all share; the same groups.
    """
    return (
        Rule(source + r"\.body\.([02])", path + "/body_{}", CONV),
        Rule(source + r"\.body\.1", slope, SLOPE, shared=True),
        Rule(source + r"\.CA\.conv_du\.0", path + "/CA/Conv_0", CONV),
        Rule(source + r"\.CA\.conv_du\.2", path + "/CA/Conv_1", CONV),
    )
