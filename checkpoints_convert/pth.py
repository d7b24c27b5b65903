"""Tensors out of what `torch.save` wrote, read without PyTorch and without running code.

A file is a pickle that names tensors, and their numbers: a zip since PyTorch 1.6, before that one
after the other. A pickle calls what it names; here each name stands for a tensor, or for `Held`,
which only keeps what it is given. The numbers of a tensor are read when they are asked for.
"""

import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from checkpoints_convert.engine import ConversionError
from tlc_jax.files.printable import printable

MOST_NAMES = 2**23  # bytes of the pickles, which are read as slowly as they are long
TOO_LONG = f"refused, what names its tensors has more than {MOST_NAMES:,} bytes."
MAGIC = 0x1950A86A20F9469CFC6C  # begins files from before PyTorch 1.6
KINDS = {  # of numbers, by what PyTorch calls the storage
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
# Nothing of these is called here either, but no weights name them: what does is out for harm.
HARM = {
    *("os", "posix", "nt", "subprocess", "sys", "runpy", "pty", "importlib", "socket", "ctypes"),
    *("io", "_io", "shutil", "webbrowser", "code", "pickle", "commands"),
}
HARM_OF_BUILTINS = ("eval", "exec", "compile", "getattr", "__import__", "open", "globals")
ADVICE = (
    "in the program that made it, write only the tensors, with "
    "torch.save(model.state_dict(), 'net.pth')."
)


class Storage(NamedTuple):
    """Numbers in a row, of one kind."""

    key: str
    kind: np.dtype
    count: int


class Tensor(NamedTuple):
    """A tensor that is not read yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in numbers

    @property
    def nbytes(self) -> int:
        """Of its numbers, written out."""
        return math.prod(self.shape) * self.storage.kind.itemsize


class Held(dict):
    """What a pickle makes of any class but a tensor: its entries, or its attributes as such."""

    def __new__(cls, *arguments: Any, **named: Any) -> "Held":
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__()

    def __hash__(self) -> int:  # they are keys, too
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            self.update(state)

    def append(self, item: Any) -> None:
        """Forget an item of a list."""

    extend = append


class _Call:
    """A function of PyTorch that makes a tensor, by a function of ours."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a function has no state")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> Any:
    if any(more[2:]):  # such as bits that say to negate or to conjugate its numbers
        raise ConversionError(f"holds a tensor that is a view with marks of its own; {ADVICE}")
    whole = (offset, *shape, *strides)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in whole):
        raise pickle.UnpicklingError("a tensor that cannot be")
    if math.prod(shape) and last >= storage.count:
        raise pickle.UnpicklingError("a tensor outside of its numbers")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


TENSORS = {
    "_rebuild_tensor_v2": _Call(_tensor),
    "_rebuild_tensor": _Call(_tensor),
    "_rebuild_parameter": _Call(lambda tensor, *_: tensor),
    "_rebuild_parameter_with_state": _Call(lambda tensor, *_: tensor),
    "_rebuild_from_type_v2": _Call(
        lambda make, _, arguments, *__: make(*arguments) if isinstance(make, _Call) else Held()
    ),
}


class _Names(pickle.Unpickler):
    """A pickle that can call nothing but what is in this module."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        package = module_name.partition(".")[0]
        builtin = package in ("builtins", "__builtin__")  # the latter before Python 3
        if package in HARM or (builtin and global_name in HARM_OF_BUILTINS):
            raise ConversionError(
                f"refused, it holds {printable(f'{module_name}.{global_name}')}, which runs code "
                "when the file is read with trust; do not, and ask for a .safetensors file."
            )
        if package == "torch" and global_name in KINDS:
            return global_name
        return TENSORS.get(global_name, Held) if package == "torch" else Held

    def persistent_load(self, pid: Any, /) -> Any:
        if pid[0] == "module":  # a class, and its source
            return Held
        if isinstance(pid, str):
            raise ConversionError(f"written by pickle's protocol 0, which is not read; {ADVICE}")
        _, kind, key, _, count, *view = pid
        if not isinstance(kind, str):
            raise ConversionError(
                "holds numbers of a kind that is not read, such as complex, quantized or 8-bit "
                "ones; take the file that it was made of."
            )
        if kind not in KINDS or any(view) or type(key) is not str or type(count) is not int:
            raise pickle.UnpicklingError("numbers that cannot be")
        return Storage(key, KINDS[kind], count)


def _unpickle(file: IO[bytes]) -> Any:
    """The next pickle in a file.

    Looked through first: a place in its memory beyond all that is in it would be made.
    """
    start = file.tell()
    for opcode, argument, _ in pickletools.genops(file):
        length = file.tell() - start
        if length > MOST_NAMES:
            raise ConversionError(TOO_LONG)
        if opcode.name.endswith("PUT") and (argument or 0) > length:
            raise pickle.UnpicklingError("a place beyond its end")
    end = file.tell()
    file.seek(start)
    return _Names(io.BytesIO(file.read(end - start))).load()


class Saved(NamedTuple):
    """What a file holds: names and `Tensor`s, nested, and how their numbers are read."""

    content: Any
    read: Callable[[Storage], bytes]

    def array(self, tensor: Tensor) -> np.ndarray:
        """The numbers of a tensor.

        Raises:
          ConversionError: the file has fewer than it says.
        """
        storage = tensor.storage
        numbers = self.read(storage)
        if len(numbers) != storage.count * storage.kind.itemsize:
            raise ConversionError("damaged, numbers are missing; download it again.")
        row = np.frombuffer(numbers, storage.kind)[tensor.offset :]
        steps = [step * storage.kind.itemsize for step in tensor.strides]
        return np.lib.stride_tricks.as_strided(row, tensor.shape, steps, writeable=False)


def read_archive(path: Path) -> Saved:
    """A file of PyTorch 1.6 or newer, a zip."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (listing,) = (name for name in names if name.endswith("/data.pkl"))
        folder = listing.removesuffix("data.pkl")
        if f"{folder}constants.pkl" in names:
            raise ConversionError(
                "is a program of TorchScript; where PyTorch is, take the tensors out of it: "
                "torch.save(torch.jit.load('net.pt').state_dict(), 'net.pth')."
            )
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise ConversionError(f"written on a machine of another byte order; {ADVICE}")
        if archive.getinfo(listing).file_size > MOST_NAMES:
            raise ConversionError(TOO_LONG)
        content = _unpickle(io.BytesIO(archive.read(listing)))

    def read(storage: Storage) -> bytes:
        with zipfile.ZipFile(path) as archive:
            return archive.read(f"{folder}data/{storage.key}")

    return Saved(content, read)


def is_old(start: bytes) -> bool:
    """Whether a file that starts so is of PyTorch before 1.6."""
    return start.startswith(pickle.dumps(MAGIC, 2)[:14])


def read_old(path: Path) -> Saved:
    """A file from before PyTorch 1.6: pickles, and the numbers of all storages after them."""
    with path.open("rb") as file:
        _, _, machine, content, keys = (_unpickle(file) for _ in range(5))
        if not machine.get("little_endian"):
            raise ConversionError(f"written on a machine of another byte order; {ADVICE}")
        begin = file.tell()
    sizes = {storage.key: storage.kind.itemsize for storage in _storages(content)}
    places: dict[str, tuple[int, int]] = {}
    with path.open("rb") as file:
        file.seek(begin)
        for key in keys:
            (count,) = struct.unpack("<q", file.read(8))
            if key not in sizes or count < 0:
                raise ConversionError("damaged, or of tensors that share numbers; " + ADVICE)
            places[key] = file.tell(), count * sizes[key]
            file.seek(count * sizes[key], 1)

    def read(storage: Storage) -> bytes:
        start, length = places[storage.key]
        with path.open("rb") as file:
            file.seek(start)
            return file.read(length)

    return Saved(content, read)


def _storages(content: Any) -> Iterator[Storage]:
    left = [content]
    while left:
        match left.pop():
            case Tensor() as tensor:
                yield tensor.storage
            case Mapping() as inner:
                left.extend(inner.values())
            case list() | tuple() as inner:
                left.extend(inner)
