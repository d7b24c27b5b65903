"""TLC's operations on a map whose rows are divided over devices, each of which holds its own part.

For what runs inside `jax.shard_map`. Device d holds the rows d r, d r + 1, ..., of which the last
devices may have fewer, or none; what lies beyond the map has no influence on the result, and the
result is meaningless there. Neighbours send each other the rows next to their cuts, and sums over
the map are added up; no device ever holds a whole map.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tlc_jax.ops.attention import attention_of_tiles
from tlc_jax.ops.backends import by_backend
from tlc_jax.ops.masked import attention_of_masks, axis_slots, column_slots
from tlc_jax.ops.shape import resize_bilinear
from tlc_jax.ops.sliding import MOMENTS, SUMS, Runs, Statistic, along
from tlc_jax.ops.windows import AxisTiles, Window, axis_tiles, clip_window, tile_size

ROWS = "rows"  # the axis of the mesh

total = functools.partial(lax.psum, axis_name=ROWS)


class Rows(NamedTuple):
    """A map of `height` rows, divided over so many devices.

    The methods are called on each device, with its own rows of the map, (N, r, W, C); r is the same
    on all of them.
    """

    height: int
    devices: int

    def positions(self, x: jax.Array, border: int = 0) -> jax.Array:
        """The numbers of these rows in the map, where x has so many more on both sides."""
        rows = x.shape[1] - 2 * border
        return lax.axis_index(ROWS) * rows + jnp.arange(-border, rows + border)

    def inside(self, x: jax.Array, border: int = 0) -> jax.Array:
        """Whether these rows are of the map."""
        position = self.positions(x, border)
        return (position >= 0) & (position < self.height)

    def zero_beyond(self, x: jax.Array) -> jax.Array:
        """x with zeros in the rows that lie beyond the map."""
        if x.shape[1] * self.devices == self.height:
            return x
        return jnp.where(_of_rows(self.inside(x)), x, jnp.zeros((), x.dtype))

    def with_neighbours(self, x: jax.Array, above: int, below: int) -> jax.Array:
        """Rows of the devices above and below added: (N, above + r + below, W, C).

        Zeros above the map and below all devices.
        """
        rows = x.shape[1]

        def hops(count: int, step: int) -> list[jax.Array]:
            """So many rows from the devices that lie in this direction, the nearest first."""
            parts = []
            for hop in range(1, -(-count // rows) + 1):
                few = min(count - (hop - 1) * rows, rows)
                part = x[:, rows - few :] if step > 0 else x[:, :few]
                parts.append(_sent(part, hop * step, self.devices))
            return parts

        return jnp.concatenate([*hops(above, 1)[::-1], x, *hops(below, -1)], axis=1)

    def window_mean(self, x: jax.Array, window: Window) -> jax.Array:
        """As `ops.window_mean`, of the window of each row; those of the border are repeated.

        Returns:
          (N, r, W - k_w + 1, C) float32, or one row if the window covers all of the map's.
        """
        (mean,) = self._slide(x, window, SUMS, lambda total, count: total / count)
        return mean

    def window_moments(self, x: jax.Array, window: Window) -> tuple[jax.Array, jax.Array]:
        """As `ops.window_moments`, arranged as in `window_mean`."""
        mean, variance = self._slide(x, window, MOMENTS)
        return mean, variance

    def _slide(
        self,
        x: jax.Array,
        window: Window,
        statistic: Statistic,
        finish: Callable[[jax.Array, np.float32], jax.Array] = lambda x, count: x,
    ) -> Runs:
        """The statistic of each window, of which `finish` makes what is wanted, by its pixels."""
        k_h, k_w = clip_window(window, (self.height, x.shape[2]))
        count = np.float32(k_h * k_w)
        # Columns first: there are fewer of them to send.
        runs = along(statistic.first(x), 2, k_w, statistic)
        runs = tuple(x.astype(jnp.float32) for x in runs)
        if k_h == self.height:
            runs = tuple(map(self.zero_beyond, runs))
            whole = self._whole_sums if statistic is SUMS else self._whole_moments
            return tuple(finish(x, count) for x in whole(*runs))
        above, below = (k_h - 1) // 2, k_h // 2
        position = self.positions(x)

        # Some columns after the others: with the rows around, all of them take a multiple of x.
        columns = runs[0].shape[2]
        least = min(4 * (1 + -(-k_h // x.shape[1])), columns)
        # Evenly, or columns have to be added.
        strips = next((n for n in range(least, 4 * least) if columns % n == 0), least)
        width = -(-columns // strips)

        def strip(number: jax.Array, runs: Runs) -> Runs:
            begin = number * width
            few = (lax.dynamic_slice_in_dim(x, begin, width, axis=2) for x in runs)
            around = tuple(self.with_neighbours(x, above, below) for x in few)
            made = (
                finish(self._repeated(x, position, above, self.height - 1 - below), count)
                for x in along(around, 1, k_h, statistic)
            )
            return tuple(
                lax.dynamic_update_slice_in_dim(x, part, begin, axis=2)
                for x, part in zip(runs, made, strict=True)
            )

        filled = [(0, 0), (0, 0), (0, strips * width - columns), (0, 0)]
        runs = lax.fori_loop(0, strips, strip, tuple(jnp.pad(x, filled) for x in runs))
        return tuple(x[:, :, :columns] for x in runs)

    def _repeated(self, x: jax.Array, position: jax.Array, first: int, last: int) -> jax.Array:
        """The rows before the first one and behind the last one replaced by those."""

        def row(wanted: int) -> jax.Array:
            mine = jnp.where(_of_rows(position == wanted), x, 0.0)
            return total(mine.sum(axis=1, keepdims=True))

        x = jnp.where(_of_rows(position < first), row(first), x)
        return jnp.where(_of_rows(position > last), row(last), x)

    def _whole_sums(self, sums: jax.Array) -> Runs:
        return (total(sums.sum(axis=1, keepdims=True)),)

    def _whole_moments(self, means: jax.Array, variances: jax.Array) -> Runs:
        def mean_of(x: jax.Array) -> jax.Array:
            return total(self.zero_beyond(x).sum(axis=1, keepdims=True)) / self.height

        rough = mean_of(means)
        mean = rough + mean_of(means - rough)  # in two passes, as for a map that is not divided
        return mean, mean_of(variances + jnp.square(means - mean))

    def transposed_attention(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        temperature: jax.Array,
        window: Window,
        *,
        project: jax.Array | None,
    ) -> jax.Array:
        """As `ops.transposed_attention`."""
        _, r, w, channels = v.shape
        size = self.height, w
        window = clip_window(window, size)
        whole = window == size
        if project is None:
            project = jnp.eye(channels, dtype=jnp.float32)
        t_h, t_w = tile_size((r, w), (r, w)) if whole else tile_size(size, window)
        holds = axis_slots(self.height, window[0]).holds[0]
        holds = np.pad(holds, ((0, r * self.devices - self.height), (0, 0)))
        forms = {
            "tiles": functools.partial(
                attention_of_tiles, rows=self._tiles(r, window[0], min(t_h, r)),
                columns=axis_tiles(w, window[1], t_w), total=total,
            ),
            "masks": functools.partial(
                attention_of_masks, rows=_mine(holds.reshape(self.devices, r, -1)),
                columns=column_slots(w, window[1], holds.shape[1]), whole=whole, total=total,
            ),
        }  # fmt: skip
        q, k = self.zero_beyond(q), self.zero_beyond(k)
        return by_backend("attention", forms, q, k, v, temperature, project)

    def _tiles(self, rows: int, window: int, tile: int) -> AxisTiles:
        """Tiles of this device's rows; where others have more, the last ones are empty."""
        cuts = [min(device * rows, self.height) for device in range(self.devices + 1)]
        parts = [axis_tiles(self.height, window, tile, part) for part in itertools.pairwise(cuts)]
        most = max(part.cover.shape[1] for part in parts)

        def mine(of_parts: Sequence[np.ndarray], length: int) -> jax.Array:
            widths = ([*[(0, 0)] * (x.ndim - 1), (0, length - x.shape[-1])] for x in of_parts)
            return _mine(np.stack(list(map(np.pad, of_parts, widths))))

        source, inside, place, cover = zip(*parts, strict=True)
        return AxisTiles(
            mine(source, most * tile),
            mine(inside, most * tile),
            mine(place, rows),
            mine(cover, most),
        )

    def resize_bilinear(self, x: jax.Array, levels: int) -> jax.Array:
        """As `ops.resize_bilinear`, for `levels` of 0 or more."""
        around = self.with_neighbours(x, 1, 1)
        # Beyond the map its last row is repeated.
        position = self.positions(around, 1)
        nearest = jnp.clip(position, 0, self.height - 1) - position[0]
        around = jnp.take(around, nearest, axis=1, mode="clip")
        resized = resize_bilinear(around, levels)
        return resized[:, 2**levels : resized.shape[1] - 2**levels]

    def halves(self, x: jax.Array) -> jax.Array:
        """The upper and the lower half of the map, (N, r, W, C) -> (2 N, r / 2, W, C)."""
        n, rows, w, c = x.shape
        x = _relaid(x, self._of_whole(self.height, rows), self._of_halves(self.height, rows))
        return x.reshape(2 * n, rows // 2, w, c)

    def joined(self, x: jax.Array) -> jax.Array:
        """The inverse of `halves`, called on one of them."""
        n, rows, w, c = x.shape
        x = x.reshape(n // 2, 2 * rows, w, c)
        height, rows = 2 * self.height, 2 * rows
        return _relaid(x, self._of_halves(height, rows), self._of_whole(height, rows))

    def _of_whole(self, height: int, rows: int) -> np.ndarray:
        """(devices, r): the numbers of the rows of a map where they are held; -1 beyond it."""
        number = np.arange(self.devices * rows).reshape(self.devices, rows)
        return np.where(number < height, number, -1)

    def _of_halves(self, height: int, rows: int) -> np.ndarray:
        """As `_of_whole`, of a map whose halves are held one after the other."""
        half = self._of_whole(height // 2, rows // 2)
        return np.concatenate([half, np.where(half < 0, -1, half + height // 2)], axis=1)


def _of_rows(x: jax.Array) -> jax.Array:
    return x[None, :, None, None]


def _mine(table: np.ndarray) -> jax.Array:
    """This device's entry."""
    return jnp.asarray(table)[lax.axis_index(ROWS)]


def _sent(x: jax.Array, step: int, devices: int) -> jax.Array:
    """x of the device so many before this one, zeros where there is none."""
    if abs(step) >= devices:
        return jnp.zeros_like(x)
    pairs = [(d, d + step) for d in range(devices) if 0 <= d + step < devices]
    return lax.ppermute(x, ROWS, pairs)


def _relaid(x: jax.Array, have: np.ndarray, want: np.ndarray) -> jax.Array:
    """Rows brought from where they are to where they are wanted, both (devices, r) numbers."""
    devices = len(have)
    places = np.zeros(1 + max(have.max(), want.max()), int)
    holders = np.zeros_like(places)
    for device, numbers in enumerate(have):
        held = numbers >= 0
        places[numbers[held]], holders[numbers[held]] = np.flatnonzero(held), device
    parts: list[jax.Array] = []
    place, filled = np.zeros_like(want), 0
    for step in range(devices):
        holder = (np.arange(devices) - step) % devices
        sent = (want >= 0) & (holders[want] == holder[:, None])
        count = sent.sum(axis=1).max()
        if count:
            of_sender = np.zeros((devices, count), int)
            for device, mine in enumerate(sent):
                few = places[want[device, mine]]
                of_sender[holder[device], : few.size] = few
                place[device, mine] = filled + np.arange(few.size)
            part = jnp.take(x, _mine(of_sender), axis=1, mode="clip")
            pairs = [(int(holder[d]), d) for d in range(devices)]
            parts.append(lax.ppermute(part, ROWS, pairs) if step else part)
            filled += count
    return jnp.take(jnp.concatenate(parts, axis=1), _mine(place), axis=1, mode="clip")
