"""Reads the tensors of a PyTorch checkpoint without PyTorch and without executing what is pickled in it.

A file written by `torch.save` is an uncompressed zip archive: `<name>/data.pkl` describes the objects,
`<name>/data/<key>` holds the bytes of one storage, `<name>/byteorder` their byte order. The description is
read by `checkpoint_pickle`, which gives plain data and recorded tensors; this file turns those into arrays.

Sizes are checked before anything is allocated: records are stored uncompressed, together no larger than the
file, and the arrays returned are views of them, so a file cannot ask for much more memory than its own size.
"""

import os
import reprlib
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from mofme_jax.models.checkpoint_pickle import CheckpointError, StorageRef, TensorRef, read_pickle

# Keys under which a checkpoint that is not itself a state dict may hold one, tried in this order.
STATE_DICT_KEYS = ("model_state_dict", "state_dict")

MAX_PICKLE_BYTES = 4 * 2**20  # a description of 20,000 tensors, which takes seconds to check
MAX_DIMENSIONS = 32
LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
RESAVE = "where you trust the file, load it with PyTorch 1.6 or later and torch.save its state_dict() again"


def load_checkpoint(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the state dict of a file written by `torch.save`, executing nothing that is in it.

    The file may hold the state dict itself, or a dict with one under a key of STATE_DICT_KEYS; whatever else
    lies beside it (a pickled network, an optimiser's state) is not looked at.

    Args:
      path: a file in the zip format, which PyTorch writes since 1.6.

    Returns:
      Tensor names to arrays, in the file's order: read-only views in the tensors' own dtypes (bfloat16 from
      ml_dtypes). Tensors that share a storage share its memory.

    Raises:
      CheckpointError: a pickle.UnpicklingError and ValueError; for a truncated or damaged file, another kind
        of file, a global that no network needs, a tensor that does not fit its storage, or no state dict.
      OSError: the file cannot be opened.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would keep its reader waiting
        raise CheckpointError(f"{path} is no file")
    with open(path, "rb") as file:
        start = file.read(len(LEGACY_MAGIC))
        if not start.startswith(b"PK"):
            kind = "is in PyTorch's format before 1.6" if start == LEGACY_MAGIC else "is not a PyTorch zip file"
            raise CheckpointError(f"{path} {kind}; {RESAVE}")
        try:
            with zipfile.ZipFile(file) as archive:
                return _read_archive(archive, os.fstat(file.fileno()).st_size)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        # zipfile reports damage by all of these; RuntimeError is an encrypted record.
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
            raise CheckpointError(f"{path} is truncated or damaged ({error}); copy or download it again") from error


def _read_archive(archive: zipfile.ZipFile, file_size: int) -> dict[str, np.ndarray]:
    """The state dict in `archive`."""
    records = {info.filename: info for info in archive.infolist()}
    packed = [name for name, info in records.items() if info.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise CheckpointError(f"record {packed[0]} is compressed, which PyTorch never does; {RESAVE}")
    if sum(info.file_size for info in records.values()) > file_size:
        raise CheckpointError("its records claim more bytes than the file has")
    descriptions = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(descriptions) != 1:
        raise CheckpointError(f"a zip file, but not one of PyTorch (no <name>/data.pkl); {RESAVE}")
    root = descriptions[0].removesuffix("data.pkl")
    if root + "constants.pkl" in records:
        raise CheckpointError(f"a TorchScript program, not a checkpoint; {RESAVE}")
    if records[descriptions[0]].file_size > MAX_PICKLE_BYTES:
        raise CheckpointError(f"its description is larger than {MAX_PICKLE_BYTES} bytes; {RESAVE}")
    tensors = _find_state_dict(read_pickle(archive.read(descriptions[0])))
    big_endian = root + "byteorder" in records and archive.read(root + "byteorder").strip() == b"big"
    storages = _Storages(archive, root + "data/", big_endian)
    state_dict = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, TensorRef):
            raise CheckpointError(f"entry {reprlib.repr(name)} of the state dict is not a plain tensor; {RESAVE}")
        try:
            state_dict[name] = _to_array(tensor, storages)
        except (ValueError, TypeError, OverflowError) as error:
            raise CheckpointError(f"tensor {name}: {error}") from error
    return state_dict


def _find_state_dict(content: Any) -> dict[str, Any]:
    """The state dict in what the file describes: the whole of it, or under one of STATE_DICT_KEYS."""
    if isinstance(content, dict):
        for key in STATE_DICT_KEYS:
            if isinstance(content.get(key), dict):
                return content[key]
        if any(isinstance(value, TensorRef) for value in content.values()):
            return content
        held = f"a dict of {reprlib.repr(list(content))}"
    else:
        held = "a pickled object (a whole network?)"
    raise CheckpointError(f"it holds {held}, not a state dict or one under {STATE_DICT_KEYS}; {RESAVE}")


class _Storages:
    """The storages of an archive as flat arrays in the machine's byte order, each read once."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str, big_endian: bool):
        self._archive, self._prefix, self._big_endian = archive, prefix, big_endian
        self._sizes = {info.filename: info.file_size for info in archive.infolist()}
        self._flat: dict[tuple[str, np.dtype], np.ndarray] = {}

    def read(self, storage: StorageRef, dtype: np.dtype) -> np.ndarray:
        """The storage's elements, read-only."""
        record = self._prefix + storage.key
        if record not in self._sizes:
            raise ValueError(f"the file has no record {record}")
        size_in_bytes = storage.size * (dtype.itemsize if storage.dtype else 1)
        if size_in_bytes > self._sizes[record]:
            raise ValueError(f"record {record} has {self._sizes[record]} bytes where {size_in_bytes} are claimed")
        if (storage.key, dtype) not in self._flat:
            content = self._archive.read(record)
            if self._big_endian:
                word = dtype.itemsize // (2 if dtype.kind == "c" else 1)
                content = np.frombuffer(content, f">u{word}").astype(f"=u{word}").tobytes()
            self._flat[storage.key, dtype] = np.frombuffer(content, dtype, len(content) // dtype.itemsize)
        return self._flat[storage.key, dtype]


def _to_array(tensor: TensorRef, storages: _Storages) -> np.ndarray:
    """A view of the tensor's storage; ValueError where the tensor does not lie inside it."""
    storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
    if not isinstance(storage, StorageRef):
        raise ValueError("has no storage")
    name = storage.dtype or tensor.dtype
    if name is None:
        raise ValueError("has a dtype that NumPy does not know")
    dtype = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
        raise ValueError("has no shape and strides of one length")
    if any(type(n) is not int or n < 0 for n in (*shape, *strides, tensor.offset)):
        raise ValueError(
            f"has shape {reprlib.repr(shape)}, strides {reprlib.repr(strides)}, offset {reprlib.repr(tensor.offset)}"
        )
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"has {len(shape)} dimensions")
    flat = storages.read(storage, dtype)
    if 0 in shape:
        return np.zeros(shape, dtype)
    # A tensor repeated by zero strides has few bytes and any size; a network's weights are never that.
    count = 1
    for n in shape:
        count *= n
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if count > flat.size or last >= flat.size:
        raise ValueError(f"shape {shape}, strides {strides}, offset {tensor.offset} leave a storage of {flat.size}")
    in_bytes = [stride * dtype.itemsize for stride in strides]
    return np.ndarray(shape, dtype, flat, tensor.offset * dtype.itemsize, in_bytes)
