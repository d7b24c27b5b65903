"""The base class of all networks: their fields, their padding, and the windows of their sites.

A site of TLC is a layer whose attribute `site` says what it aggregates over positions. It takes the
keyword `window`, (height, width) in pixels of its own feature map, and knows nothing else of TLC: a
local network passes a window to each of its sites while it runs. The window follows from the size
of the site's map for a training crop, see `ops.site_window`. So the network is traced once on one.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.module import InterceptorContext
from flax.typing import Dtype

from tlc_jax.ops import Window, pad_to_multiple, site_window
from tlc_jax.ops.shape import margins
from tlc_jax.ops.windows import Size, check_pair

Params = Any  # a tree of arrays, or of their shapes
Maps = dict[tuple[str, ...], list[Size]]  # of each site, by its path in the network


class Network(nn.Module, kw_only=True):
    """Base class of networks that restore images, with global or local statistics (TLC).

    A subclass defines `forward`, with sites such as `tlc_jax.layers.LocalPool` for whatever
    aggregates over positions. Call the network with (N, H, W, inp_channels) in [0, 1], any size; it
    returns (N, H scale, W scale, out_channels) of the same type.
    """

    multiple: ClassVar[int | Size] = 1  # pixels; H and W are padded to multiples
    scale: ClassVar[int] = 1  # output pixels for an input pixel, on each axis
    # Whether images of several sizes can share a program, see `tlc_jax.inference.buckets`. Not
    # inherited: a subclass may have layers for which that is wrong.
    buckets: ClassVar[bool] = False
    # Whether an image can be divided over devices, see `tlc_jax.inference.divided`, where it cannot
    # share programs. Not inherited, either.
    rows: ClassVar[bool] = False
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # fields of the published networks

    inp_channels: int = 3
    padding: str = "zeros"  # below and to the right; "end" reflects there, "both" on all sides
    local_mode: bool = False
    train_size: Size = (256, 256)  # pixels, of the training crops
    window: Window = None  # input pixels; None is 1.5 x train_size
    dtype: Dtype | None = None  # to compute in

    if TYPE_CHECKING:  # Flax makes one

        def __hash__(self) -> int: ...

    @classmethod
    def variant(cls, name: str, **changes: Any) -> Self:
        """The network with the fields that its authors published.

        Args:
          name: a key of `variants`.
          **changes: fields that replace the published ones.

        Raises:
          ValueError: an unknown name.

        Examples:
          >>> from tlc_jax.models import NAFNet
          >>> model = NAFNet.variant("gopro-width64", local_mode=True)
          >>> model.width, model.enc_blk_nums
          (64, (1, 1, 1, 28))
        """
        if name not in cls.variants:
            known = ", ".join(cls.variants) or "none"
            raise ValueError(f"{cls.__name__} has no variant {name!r}; it has {known}.")
        return cls(**{**cls.variants[name], **changes})

    @property
    def takes(self) -> str:
        """The input: "pictures", gray or RGB, "pairs" of RGB views, "clips", or other "arrays"."""
        return {1: "pictures", 3: "pictures", 6: "pairs"}.get(self.inp_channels, "arrays")

    @property
    def out_channels(self) -> int:
        return self.inp_channels

    @property
    def has_buckets(self) -> bool:
        return vars(type(self)).get("buckets", False)

    @property
    def divides(self) -> bool:
        return self.has_buckets or vars(type(self)).get("rows", False)

    @nn.nowrap
    def example_input(self, size: Size) -> jax.ShapeDtypeStruct:
        """Shape and type of a batch of one image of `size` = (H, W), or of one shortest clip."""
        return jax.ShapeDtypeStruct((1, *size, self.inp_channels), jnp.float32)

    def forward(self, image: jax.Array, /) -> Any:
        """The network itself, an `nn.compact` method; H and W are multiples of `multiple`."""
        raise NotImplementedError

    def __call__(self, image: jax.Array) -> jax.Array:
        _, h, w, _ = image.shape
        with self.windowed():
            restored = self.forward(self.pad(image))
        return self.crop(restored, (h, w))

    @nn.nowrap
    def pad(self, image: Any) -> Any:
        """Pad (..., H, W, C), of JAX or NumPy, so that H and W are multiples of `multiple`.

        Raises:
          TypeError: integers, to which the result would be truncated.
          ValueError: an unknown `padding`.
        """
        if not jnp.issubdtype(image.dtype, jnp.floating):
            raise TypeError(
                f"a network takes floats in [0, 1], got {image.dtype}; tlc_jax.restore takes both."
            )
        return pad_to_multiple(image, self.multiple, self.padding)

    @nn.nowrap
    def crop(self, restored: Any, size: Size) -> Any:
        """Cut off, from the result for an image of `size`, what belongs to the padding."""
        (top, _), (left, _) = margins(size, self.multiple, self.padding)
        top, left, h, w = (self.scale * n for n in (top, left, *size))
        return restored[..., top : top + h, left : left + w, :]

    @nn.nowrap
    def windowed(self) -> contextlib.AbstractContextManager[None]:
        """Context in which the sites of a local network get their windows.

        Raises:
          ValueError: as `check_windows`.
        """
        return nn.intercept_methods(_giver(self)) if self.local_mode else contextlib.nullcontext()

    @nn.nowrap
    def check_windows(self) -> None:
        """Refuse fields from which no windows follow; a global network needs none.

        Raises:
          ValueError: `train_size` or `window` is not two whole numbers of pixels.
        """
        check_pair("train_size", self.train_size)
        if self.window is not None:
            check_pair("window", self.window)

    @nn.nowrap
    def input_window(self, site: str) -> Window:
        """The window, in input pixels, for sites of the kind `site`; `None` leaves them global."""
        height, width = self.train_size
        return self.window or (height * 3 // 2, width * 3 // 2)


def abstract_params(model: Network, size: Size = (8, 8), most: int | None = None) -> Params:
    """The parameter tree as shapes and types, without allocating it.

    Args:
      model: a network.
      size: (H, W) of the pictures.
      most: how many arrays there can be; a network that somebody else describes may say any number
        of blocks, of which tracing would not come to an end.

    Raises:
      ValueError: there are many more than `most`.
    """
    # Local or global, they are the same, and a global network is not traced on a crop first.
    model = model.clone(local_mode=False)
    with contextlib.nullcontext() if most is None else nn.intercept_methods(_calls(most)):
        try:
            shapes = _shapes(model, size)
        except TypeError:  # a field holds a list, so that nothing can be kept by this network
            shapes = _shapes.__wrapped__(model, size)
    return jax.tree.map(lambda leaf: leaf, shapes)  # a tree of the caller's own


CALLS = 10  # of modules, for each array; of our networks RNN-MBP has most, 5.6


def _calls(most: int) -> Callable[..., Any]:
    """Intercept the calls of modules, and refuse them once there were too many."""
    done = itertools.count()

    def intercept(call: Any, args: Any, kwargs: Any, context: InterceptorContext) -> Any:
        if next(done) > CALLS * (most + 10):
            raise ValueError(f"it has far more layers than the {most} arrays that there are")
        return call(*args, **kwargs)

    return intercept


@functools.lru_cache
def _shapes(model: Network, size: Size) -> Params:
    return jax.eval_shape(model.init, jax.random.key(0), model.example_input(size))["params"]


def is_site(context: InterceptorContext) -> bool:
    """Whether the intercepted call is that of a site of TLC."""
    return hasattr(context.module, "site") and context.method_name == "__call__"


def check_network(model: nn.Module) -> None:
    """Refuse modules that are no `Network`, and networks whose sites would get no windows.

    Raises:
      TypeError: it is no `Network`, or has no `forward`.
    """
    if not isinstance(model, Network) or type(model).forward is Network.forward:
        raise TypeError(
            f"{type(model).__name__} is no network: derive it from tlc_jax.Network in place of "
            "nn.Module, and name its method forward, not __call__."
        )


def _giver(net: Network) -> Callable[..., Any]:
    """An interceptor that passes each site of a local network its window."""
    net.check_windows()
    # The sizes of the maps do not depend on these fields.
    fields = {"local_mode": False, "window": None, "dtype": None}
    of_crop = _maps_of_a_crop(net.copy(parent=None, name=None, **fields))
    met: Maps = {}
    inner: set[tuple[str, ...]] = set()  # local networks in this one, which give their own

    def give(call: Any, args: tuple, kwargs: dict, context: InterceptorContext) -> Any:
        layer: Any = context.module
        if isinstance(layer, Network) and layer.local_mode and layer.path != net.path:
            inner.add(layer.path)
        elif is_site(context) and not any(layer.path[: len(path)] == path for path in inner):
            path = layer.path[len(net.path) :]
            _note(met, path, args[0])
            number = met[path].index(args[0].shape[1:3])
            if path not in of_crop:
                raise ValueError(
                    f"{'/'.join(path)}: this site does not run on a training crop of "
                    f"{net.train_size}, so it has no window; run the same sites for images of all "
                    "sizes."
                )
            # Sizes that differ for this image may be equal for the crop.
            size = of_crop[path][min(number, len(of_crop[path]) - 1)]
            window = net.input_window(layer.site)
            kwargs.setdefault("window", window and site_window(size, net.train_size, window))
        return call(*args, **kwargs)

    return give


@functools.lru_cache
def _maps_of_a_crop(net: Network) -> Maps:
    """The sizes of the maps at the sites of a global network, for a training crop."""
    maps: Maps = {}

    def note(call: Any, args: tuple, kwargs: dict, context: InterceptorContext) -> Any:
        if is_site(context):
            _note(maps, context.module.path, args[0])
        return call(*args, **kwargs)

    def trace() -> None:
        key = jax.eval_shape(jax.random.key, 0)
        with nn.intercept_methods(note):
            jax.eval_shape(net.init, key, net.example_input(net.train_size))

    # In a thread of its own: other interceptors are local to a thread, and must not see the crop.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(trace).result()
    return maps


def _note(maps: Maps, path: tuple[str, ...], x: jax.Array) -> None:
    """Record the size of a site's map, in the order of calls; a shared layer may have several."""
    _, h, w, _ = x.shape
    if (h, w) not in maps.setdefault(path, []):
        maps[path].append((h, w))
