"""Reads a pickle as data: nothing in it is imported, called or run.

A pickle is a program whose globals name what it may call. Here that vocabulary is closed. The globals that
rebuild a tensor become the classes below, which only record their arguments. A global of Python's own library
that no network needs (`os.system`, `builtins.eval`) is an error that names it. Any other, such as the classes
of a whole network pickled beside its weights, becomes `_Inert`, which keeps nothing and calls nothing.

Every class a pickle can reach defines `__setstate__`, because pickle would otherwise set attributes on what
it is given, be it the class itself; dtypes and storage classes are strings, with nothing to set or call.
"""

import io
import pickle
import reprlib
import sys
from typing import Any, NamedTuple

from mofme_jax.models.pickle_bounds import excess


class CheckpointError(pickle.UnpicklingError, ValueError):
    """A checkpoint file that is damaged, of another kind, or asks for something that will not be done."""


class StorageRef(NamedTuple):
    """The bytes of one or more tensors.

    Attributes:
      dtype: NumPy's name of it; None where the storage is untyped.
      key: name of its record in the file.
      size: number of elements; of bytes where untyped.
    """

    dtype: str | None
    key: str
    size: int


class TensorRef:
    """The recorded arguments of a tensor, unchecked.

    Attributes:
      storage: a StorageRef, in a file that is what it says.
      offset: of the first element, in elements.
      shape, strides: tuples, strides in elements.
      dtype: NumPy's name of it where the storage is untyped; else None.
    """

    __slots__ = ("dtype", "offset", "shape", "storage", "strides")

    def __init__(self, storage, offset, shape, strides, *rest):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides
        # rest: requires_grad, hooks, and then a dtype where PyTorch has no storage class for it.
        self.dtype = rest[2] if len(rest) > 2 and isinstance(rest[2], str) else None

    def __setstate__(self, state):
        pass


class _Inert:
    """Stands for any object that is not read: takes all that pickle does to an object and keeps nothing."""

    __slots__ = ()

    def __new__(cls, *args, **kwargs):
        return object.__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def _ignore(self, *args):
        pass

    __setstate__ = __setitem__ = append = extend = add = _ignore


class _Dict(dict):
    """Stands for OrderedDict. Attributes set on it (PyTorch's `_metadata`) are dropped."""

    __slots__ = ()

    def __setstate__(self, state):
        pass


class _Parameter:
    """Stands for what rebuilds a Parameter: gives its first argument, the tensor."""

    __slots__ = ()

    def __new__(cls, data, *rest):
        return data

    def __setstate__(self, state):
        pass


class _TensorSubclass:
    """Stands for what rebuilds a tensor with attributes, from (rebuild, class, args, attributes)."""

    __slots__ = ()

    def __new__(cls, rebuild, kind, args, attributes):
        return rebuild(*args) if rebuild is TensorRef or rebuild is _Parameter else _Inert()

    def __setstate__(self, state):
        pass


# PyTorch's storage classes, by NumPy's names of their dtypes.
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
}
_UNTYPED = "untyped"
_DTYPES = (*_STORAGES.values(), "uint16", "uint32", "uint64")

_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dict,
    ("torch", "Size"): tuple,
    ("torch.storage", "UntypedStorage"): _UNTYPED,
    ("torch._utils", "_rebuild_tensor"): TensorRef,
    ("torch._utils", "_rebuild_tensor_v2"): TensorRef,
    ("torch._utils", "_rebuild_tensor_v3"): TensorRef,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _Parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _TensorSubclass,
    **{("torch", storage): dtype for storage, dtype in _STORAGES.items()},
    **{("torch", dtype): dtype for dtype in _DTYPES},
}

# Python's own containers and records, which scripts save beside the weights. They are not read either.
_UNREAD = {
    "builtins": (
        "set",
        "frozenset",
        "object",
        "list",
        "dict",
        "tuple",
        "slice",
        "range",
        "complex",
        "bytearray",
    ),
    "collections": ("defaultdict", "Counter", "deque"),
    "functools": ("partial",),
    "copyreg": ("_reconstructor",),
    "_codecs": ("encode",),
    "argparse": ("Namespace",),
    "types": ("SimpleNamespace",),
    "datetime": ("datetime", "date", "time", "timedelta", "timezone"),
    "pathlib": ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
}
# Python 2's names, which pickles of protocol 2 and below use.
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_PYTHON_2_LIBRARY = {"commands", "cPickle", "exceptions", "popen2", "urllib2", "UserDict", "UserList"}


class _Reader(pickle.Unpickler):
    """An Unpickler whose globals are those above."""

    def find_class(self, module: str, name: str) -> Any:
        """What the global `module.name` stands for; CheckpointError for one of Python's own library."""
        module = _PYTHON_2.get(module, module)
        if (module, name) in _GLOBALS:
            return _GLOBALS[module, name]
        if name in _UNREAD.get(module, ()):
            return _Inert
        # A dotted name could lead through an imported module, as torch's os.system.
        for part in (module.split(".")[0], *name.split(".")[:-1]):
            if part in sys.stdlib_module_names or part in _PYTHON_2_LIBRARY:
                raise CheckpointError(
                    f"it asks for the global {module:.100}.{name:.100}, which no weights need: it may be an attack"
                )
        return _Inert

    def persistent_load(self, pid: Any) -> StorageRef:
        """The storage that ("storage", class, key, device, size) names."""
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage":
            raise CheckpointError("it refers to something that is not a storage")
        _, kind, key, _, size = pid
        if not isinstance(kind, str) or type(key) is not str or type(size) is not int or size < 0:
            raise CheckpointError(f"it refers to a storage of an unknown class, {reprlib.repr(key)}")
        return StorageRef(None if kind == _UNTYPED else kind, key, size)


def read_pickle(content: bytes) -> Any:
    """Reads a pickle as plain data, TensorRefs and inert objects.

    Raises:
      CheckpointError: for a global of Python's own library, or a damaged pickle.
    """
    try:
        if complaint := excess(content):
            raise CheckpointError(complaint)
        return _Reader(io.BytesIO(content), encoding="utf-8").load()
    except CheckpointError:
        raise
    # A damaged pickle can fail in any way that plain data can be misused.
    except Exception as error:
        raise CheckpointError(f"its pickle is damaged ({error!s:.200})") from error
