"""Attention between the two views of a stereo pair, along the rows.

Chu et al., "NAFSSR: Stereo Image Super-Resolution Using NAFNet" (CVPR Workshops 2022, arXiv
2204.08714), section 3.2. In rectified views a point lies in the same row of both.
"""

import jax
import jax.numpy as jnp

from tlc_jax.ops.checks import check_maps

LARGEST = 2**24  # numbers in the attention matrices that are in memory at once


def parallax_attention(
    q_left: jax.Array, q_right: jax.Array, v_left: jax.Array, v_right: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Softmax attention of each view to the other, among the positions of a row.

    With A = q_left q_right^T / sqrt(C), W x W for each row: softmax(A) v_right and
    softmax(A^T) v_left. It takes 6 H W^2 C multiplications for a pair, and memory for some rows of
    A at a time. Products and softmax are float32 whatever the type of the inputs.

    Args:
      q_left, q_right, v_left, v_right: (N, H, W, C).

    Returns:
      For the left view and for the right one (N, H, W, C), of the values' type.

    Raises:
      ValueError: arrays of unlike shapes.
    """
    check_maps("all four are (N, H, W, C)", q_left, q_right, v_left, v_right)
    n, h, w, c = q_left.shape

    def attend(row: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        q_left, q_right, v_left, v_right = row
        wide = {"precision": "highest", "preferred_element_type": jnp.float32}
        scores = jnp.einsum("ic,jc->ij", q_left, q_right, **wide) / jnp.sqrt(jnp.float32(c))
        to_right = jax.nn.softmax(scores, axis=1).astype(v_right.dtype)
        to_left = jax.nn.softmax(scores, axis=0).astype(v_left.dtype)
        return (
            jnp.einsum("ij,jc->ic", to_right, v_right, **wide).astype(v_right.dtype),
            jnp.einsum("ij,ic->jc", to_left, v_left, **wide).astype(v_left.dtype),
        )

    rows = [x.reshape(n * h, w, c) for x in (q_left, q_right, v_left, v_right)]
    at_once = max(1, min(n * h, LARGEST // w**2))
    left, right = jax.lax.map(attend, tuple(rows), batch_size=at_once)
    return left.reshape(n, h, w, c), right.reshape(n, h, w, c)
