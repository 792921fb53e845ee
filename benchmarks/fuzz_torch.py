"""Files of torch.save for `fuzz.py`, and pickles that would run commands, or count without end."""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from fuzz_mutations import changed_bytes, some

from mofme_jax.models.reference import from_state_dict, load_checkpoint, model_from_config, to_state_dict

_CONFIG = {"gate": "film", "patch_size": 8, "embed_dim": 8, "dim_head": 4, "n_heads": 2, "depth": 1, "scale_dim": 1,
           "out_ch": 4, "out_ch_scale": 1, "num_expert": 2, "top_k": 1, "img_size": 16}  # fmt: skip


class TorchFiles:
    """A tiny state dict, its pickle and its archive changed; hostile pickles in its place."""

    one_line, names = False, False  # a state dict that does not fit is told tensor by tensor

    def __init__(self, kept: Path, run: Path):
        model = model_from_config(_CONFIG)
        shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))["params"]
        params = jax.tree.map(lambda like: np.zeros(like.shape, np.float32), shapes)
        self._storages, entries = {}, b""
        for key, (name, array) in enumerate(to_state_dict(model, params).items()):
            self._storages[str(key)] = np.ascontiguousarray(array).tobytes()
            entries += _text(name) + _tensor(str(key), array.shape)
        self._pickle = b"\x80\x02}(" + entries + b"u."
        self._whole = _archive(self._pickle, self._storages)

    def valid(self) -> list[Callable[[Path], Path]]:
        """The state dict as it is, and under a key beside something else."""
        beside = b"\x80\x02}(" + _text("state_dict") + self._pickle[2:-1] + _text("epoch") + b"K\x03u."
        return [lambda folder: _file(folder, self._whole),
                lambda folder: _file(folder, _archive(beside, self._storages))]  # fmt: skip

    def make(self, rng: np.random.Generator, folder: Path) -> Path:
        """Writes a file that is changed or hostile."""
        what = rng.random()
        if what < 0.3:
            return _file(folder, changed_bytes(rng, self._whole, [self._whole]))
        if what < 0.7:
            return _file(folder, _archive(changed_bytes(rng, self._pickle, _HOSTILE), self._storages))
        # a hostile value among the tensors, alone, or as a tensor's arguments
        hostile = some(rng, _HOSTILE)
        if rng.random() < 0.3:
            hostile = changed_bytes(rng, hostile, _HOSTILE)
        names = some(rng, (_text("a"), b"", _text("state_dict"), _text("head.0.weight")))
        pickled = b"\x80\x04" + some(rng, (
            hostile + b".", b"}(" + names + hostile + b"u.", b"}(" + hostile + b"K\x01" + self._pickle[4:],
            self._pickle[2:-2] + names + hostile + b"u.",
            b"}(" + _text("a") + _rebuild() + b"(" + hostile * 4 + b"tRu.",
            b"}(" + _text("a") + _rebuild() + b"(" + _storage("0", 3) + b"K\x00" + hostile + b"(K\x01t\x89NtRu.",
        ))  # fmt: skip
        return _file(folder, _archive(pickled, self._storages))

    def steps(self, path: Path, out: Path) -> Iterator[Callable[[], object]]:
        """What reads it."""
        yield lambda: from_state_dict(load_checkpoint(path), _CONFIG)


def _file(folder: Path, data: bytes) -> Path:
    path = folder / "a.pth"
    path.write_bytes(data)
    return path


def _archive(pickled: bytes, storages: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return file.getvalue()


# a pickle is a program: these are pieces of it


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _numbers(numbers) -> bytes:
    return b"(" + b"".join(b"J" + struct.pack("<i", n) for n in numbers) + b"t"


def _storage(key: str, size: int) -> bytes:
    kind = _global("torch", "FloatStorage")
    return b"(" + _text("storage") + kind + _text(key) + _text("cpu") + b"J" + struct.pack("<i", size) + b"tQ"


def _rebuild() -> bytes:
    return _global("torch._utils", "_rebuild_tensor_v2")


def _tensor(key: str, shape: tuple[int, ...]) -> bytes:
    strides = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
    hooks = _global("collections", "OrderedDict") + b")R"
    size = int(np.prod(shape))
    return (
        _rebuild()
        + b"("
        + _storage(key, size)
        + b"K\x00"
        + _numbers(shape)
        + _numbers(strides)
        + b"\x89"
        + hooks
        + b"tR"
    )


def _call(module: str, name: str, argument: str = "touch ../escaped") -> bytes:
    return _global(module, name) + b"(" + _text(argument) + b"tR"


def _doubled(times: int, last: bytes = b"") -> bytes:
    """A tuple of twice itself, so many times: short to write, and without end to count."""
    return b")" + b"2\x86" * times + last


_HOSTILE = (
    *(_call(module, name) for module, name in (
        ("os", "system"), ("posix", "system"), ("nt", "system"), ("subprocess", "Popen"), ("builtins", "eval"),
        ("builtins", "exec"), ("__builtin__", "eval"), ("builtins", "getattr"), ("torch", "os.system"), ("commands",
        "getoutput"),
        ("importlib", "import_module"), ("runpy", "run_path"), ("pickle", "loads"), ("webbrowser", "open"),
        ("socket", "socket"),
        ("numpy", "load"), ("numpy.core.multiarray", "_reconstruct"), ("shutil", "rmtree"), ("torch.serialization",
        "load"),
        ("torch", "Size.__class__"), ("collections", "OrderedDict.fromkeys"), ("pathlib", "Path"), ("functools",
        "partial"),
        ("mofme_jax.data.debian_package", "subprocess.Popen"), ("jax", "numpy"), ("absl.app", "run"), ("code",
        "interact"),
        ("timeit", "timeit"), ("pip", "main"), ("torch.hub", "load"), ("site", "main"), ("ctypes", "CDLL"), ("", ""),
    )),
    b"(S'touch ../escaped'\nios\nsystem\n",  # INST
    b"(" + _global("os", "system") + _text("touch ../escaped") + b"o",  # OBJ
    _text("os") + _text("system") + b"\x93" + _text("touch ../escaped") + b"\x85R",  # STACK_GLOBAL
    _text("torch") + _text("storage.UntypedStorage.__class__") + b"\x93",
    _global("torch", "FloatStorage") + b"}" + _text("upper") + b"K\x01sb",  # BUILD on what is no object
    _global("torch._utils", "_rebuild_tensor_v2") + b"}" + _text("storage") + b"K\x01sb",
    _global("collections", "OrderedDict") + b")R(" + _text("__class__") + b"K\x01d" + b"b",
    b"\x82\x01", b"\x84\xff\xff\xff\x7f",  # EXT1, EXT4
    b"r\xff\xff\xff\x7f", b"p999999999\n", b"j\x00\x00\x00\x70", b"h\x09",  # places in the memo
    b"B\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 7 + b"\x7f", b"X\xff\xff\xff\xff", b"\x96" + struct.pack("<Q", 2**40),
    b"\x95" + struct.pack("<Q", 2**62),  # FRAME
    b"\x8b\xff\xff\xff\x7f", b"\x8a\xff" + b"\x7f" * 255, b"I" + b"9" * 5000 + b"\n", b"L" + b"9" * 9000 + b"L\n",
    b"F1e999\n",
    b"(" * 20_000, b"]" * 50_000 + b"a" * 49_999, b"(" * 20_000 + b"t" * 20_000, b")" + b"\x85" * 50_000, b"}" * 3000,
    _doubled(25), _doubled(60), b"}" + _doubled(60) + b"K\x01s", _doubled(60) + b"\x91",
    b"\x8f(" + _doubled(60) + b"\x90",
    _global("torch", "Size") + _doubled(60) + b"\x85R", b"]q\x00h\x00a", b"}q\x00" + _text("a") + b"h\x00s",
    b"(" + _text("storage") + _doubled(60) + _doubled(60) + b"K\x01K\x01tQ", b"(" + _text("storage") + b"K\x01K\x01tQ",
    _global("torch._utils", "_rebuild_parameter") + _doubled(60) + b"\x85R", b"K\x01Q", b"N", b"\x88", b"}", b"]", b")",
    _numbers((2**31 - 1, 2**31 - 1)), _numbers((0, 2**31 - 1)), _numbers((-1,)), _numbers(range(40)),
    _numbers([0] * 40),
    b"}(" + b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(60_000)) + b"u",
    pickle.dumps({"a": [1, (2.0, "b", b"c")], "d": {1: None}}, 2)[2:-1],
)  # fmt: skip
