"""Files of `torch.save`, written by hand here: a zip of one pickle and raw storages. No PyTorch needed."""

import io
import os
import pickle
import struct
import zipfile
from typing import ClassVar

import ml_dtypes
import numpy as np
import pytest

from mofme_jax.models import checkpoint_file
from mofme_jax.models.checkpoint_file import LEGACY_MAGIC, CheckpointError, load_checkpoint


class Global:
    """Pickled as a reference to `module name`, calling nothing when written."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickled as a call of `function` on `args`, with `state` set on the result where given."""

    def __init__(self, function, *args, state=None):
        self.function, self.args, self.state = function, args, state


class Storage(tuple):
    """Pickled as a persistent id."""


class Pickler(pickle._Pickler):
    """The pickler in Python, which lets a test write globals that do not exist here."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def persistent_id(self, obj):
        """The id of a Storage."""
        return tuple(obj) if isinstance(obj, Storage) else None

    def save_fake_global(self, obj):
        """GLOBAL, as protocol 2 writes it."""
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())

    def save_fake_call(self, obj):
        """REDUCE, then BUILD."""
        self.save(obj.function)
        self.save(obj.args)
        self.write(pickle.REDUCE)
        if obj.state is not None:
            self.save(obj.state)
            self.write(pickle.BUILD)

    dispatch[Global] = save_fake_global
    dispatch[Call] = save_fake_call


FLOAT = Global("torch", "FloatStorage")
UNTYPED = Global("torch.storage", "UntypedStorage")


def tensor(key, size, shape, strides, offset=0, kind=FLOAT, dtype=None, rebuild=None):
    """What pickles as a tensor of storage `key` with `size` elements."""
    storage = Storage(("storage", kind, key, "cpu", size))
    hooks = Call(Global("collections", "OrderedDict"))
    rebuild = rebuild or Global("torch._utils", "_rebuild_tensor_v2" if dtype is None else "_rebuild_tensor_v3")
    extra = () if dtype is None else (Global("torch", dtype),)
    return Call(rebuild, storage, offset, shape, strides, False, hooks, *extra)


def dump(content):
    """The bytes of a pickle of protocol 2, PyTorch's."""
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(content)
    return buffer.getvalue()


def write(path, content, storages, byteorder="little", pickled=None, compression=zipfile.ZIP_STORED, extra=()):
    """Writes a checkpoint; `storages` maps keys to bytes."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", dump(content) if pickled is None else pickled)
        if byteorder:
            archive.writestr("archive/byteorder", byteorder)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        for name in extra:
            archive.writestr(name, "")
    return path


@pytest.fixture
def path(tmp_path):
    """Where a test writes its file."""
    return tmp_path / "weights.pth"


def test_views_of_one_storage(path):
    """Offsets, strides (a transposed tensor) and sharing."""
    content = {
        "whole": tensor("0", 12, (3, 4), (4, 1)),
        "transposed": tensor("0", 12, (4, 3), (1, 4)),
        "row": tensor("0", 12, (4,), (1,), offset=8),
        "scalar": tensor("0", 12, (), (), offset=5),
        "empty": tensor("1", 0, (0, 3), (3, 1)),
    }
    numbers = np.arange(12, dtype="<f4")
    loaded = load_checkpoint(write(path, content, {"0": numbers.tobytes(), "1": b""}))
    grid = numbers.reshape(3, 4)
    assert list(loaded) == list(content)
    np.testing.assert_array_equal(loaded["whole"], grid)
    np.testing.assert_array_equal(loaded["transposed"], grid.T)
    np.testing.assert_array_equal(loaded["row"], grid[2])
    assert loaded["scalar"] == 5
    assert loaded["scalar"].shape == ()
    assert loaded["empty"].shape == (0, 3)
    assert np.shares_memory(loaded["whole"], loaded["row"])
    assert not loaded["whole"].flags.writeable


@pytest.mark.parametrize("byteorder", ["little", "big", None])
@pytest.mark.parametrize(
    ("storage", "dtype"),
    [
        ("DoubleStorage", np.float64),
        ("FloatStorage", np.float32),
        ("HalfStorage", np.float16),
        ("BFloat16Storage", ml_dtypes.bfloat16),
        ("LongStorage", np.int64),
        ("ByteStorage", np.uint8),
        ("BoolStorage", np.bool_),
        ("ComplexFloatStorage", np.complex64),
        ("untyped uint16", np.uint16),
    ],
)
def test_dtypes_and_byte_orders(path, storage, dtype, byteorder):
    """Every element type, in the file's byte order; without a byteorder record, little-endian."""
    values = np.array([1, 0, 3], dtype)
    width = values.itemsize // (2 if values.dtype.kind == "c" else 1)
    words = np.frombuffer(values.tobytes(), f"u{width}")
    data = words.astype(f"{'>' if byteorder == 'big' else '<'}u{width}").tobytes()
    if storage.startswith("untyped"):
        content = tensor("0", values.nbytes, (3,), (1,), kind=UNTYPED, dtype="uint16")
    else:
        content = tensor("0", 3, (3,), (1,), kind=Global("torch", storage))
    loaded = load_checkpoint(write(path, {"x": content}, {"0": data}, byteorder))["x"]
    assert loaded.dtype == dtype
    np.testing.assert_array_equal(loaded, values)


@pytest.mark.parametrize("key", ["model_state_dict", "state_dict"])
def test_state_dict_beside_a_pickled_network(path, key):
    """A network of unknown classes, an optimiser's state and NumPy scalars lie beside the weights, unread."""
    weights = Call(Global("collections", "OrderedDict"), state={"_metadata": {"": 1}})
    layer = Call(Global("torch.nn.modules.linear", "Linear"), state={"weight": tensor("0", 2, (2,), (1,))})
    network = Call(Global("models.mofme", "Net"), state={"layers": [layer], "act": Global("torch._C._nn", "gelu")})
    names = Call(Global("__builtin__", "set"), ["a", "b"])
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), tensor("0", 2, (2,), (1,)), True, None)
    content = {"model": network, "names": names, "epoch": 3, "ema": weights, key: {"module.w": parameter}}
    loaded = load_checkpoint(write(path, content, {"0": np.ones(2, "<f4").tobytes()}))
    assert list(loaded) == ["module.w"]
    np.testing.assert_array_equal(loaded["module.w"], [1, 1])


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "getattr"),
        ("subprocess", "Popen"),
        ("importlib", "import_module"),
        ("pickle", "loads"),
        ("torch", "os.system"),
        ("commands", "getoutput"),
    ],
)
def test_dangerous_globals_are_refused_by_name(path, module, name):
    """The error names the global, and nothing has run."""
    marker = path.parent / "executed"
    attack = Call(Global(module, name), f"touch {marker}")
    content = {"state_dict": {"x": tensor("0", 1, (1,), (1,))}, "model": attack}
    with pytest.raises(pickle.UnpicklingError, match=rf"weights\.pth: .*{name}"):
        load_checkpoint(write(path, content, {"0": bytes(4)}))
    assert not marker.exists()


def test_unknown_globals_keep_and_call_nothing(path):
    """A class of this very test, importable or not, is not even looked up; state set on it goes nowhere."""
    bomb = Call(Global("unheard_of", "detonate"), "now", state={"__class__": 1, "armed": True})
    dropped = {"x": tensor("0", 1, (1,), (1,)), "bomb": bomb}
    with pytest.raises(CheckpointError, match="'bomb' of the state dict is not a plain tensor"):
        load_checkpoint(write(path, dropped, {"0": bytes(4)}))


def test_what_is_installed_is_not_called(path):
    call = Call(Global("numpy", "savetxt"), str(path.parent / "executed"), (1.0,))
    content = {"state_dict": {"x": tensor("0", 1, (1,), (1,))}, "model": call}
    assert list(load_checkpoint(write(path, content, {"0": bytes(4)}))) == ["x"]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "target",
    [
        Global("collections", "OrderedDict"),
        Global("torch._utils", "_rebuild_parameter"),
        Global("torch._utils", "_rebuild_tensor_v2"),
        Global("torch._tensor", "_rebuild_from_type_v2"),
        Global("torch", "Size"),
        Global("torch", "FloatStorage"),
        Global("unheard_of", "Net"),
    ],
)
def test_a_pickle_cannot_change_the_reader(path, target):
    """BUILD on a class, rather than on an object of it, would set the class's attributes for good."""
    build = dump(target)[:-1] + dump((None, {"__new__": 1, "__init__": 1}))[2:-1] + pickle.BUILD + pickle.STOP
    subclass = Global("torch._tensor", "_rebuild_from_type_v2")
    plain = tensor("0", 1, (1,), (1,))
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), plain, True, None)
    good = {"x": parameter, "y": Call(subclass, plain.function, None, plain.args, None)}
    with pytest.raises(CheckpointError):
        load_checkpoint(write(path, None, {}, pickled=build))
    assert load_checkpoint(write(path, good, {"0": bytes(4)}))["x"] == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 4, "shape": (5,), "strides": (1,)}, "leave a storage of 4"),
        ({"size": 4, "shape": (2,), "strides": (4,)}, "leave a storage of 4"),
        ({"size": 4, "shape": (1,), "strides": (1,), "offset": 4}, "leave a storage of 4"),
        ({"size": 4, "shape": (2**40,), "strides": (0,)}, "leave a storage of 4"),
        ({"size": 4, "shape": (2**62, 2**62), "strides": (1, 1)}, "leave a storage of 4"),
        ({"size": 4, "shape": (-1,), "strides": (1,)}, "shape"),
        ({"size": 4, "shape": (1,), "strides": (-1,)}, "strides"),
        ({"size": 4, "shape": (1.5,), "strides": (1,)}, "shape"),
        ({"size": 4, "shape": (1,) * 65, "strides": (1,) * 65}, "65 dimensions"),
        ({"size": 4, "shape": (1,), "strides": ()}, "one length"),
        ({"size": 2**40, "shape": (1,), "strides": (1,)}, "16 bytes where 4398046511104 are claimed"),
    ],
)
def test_a_tensor_lies_inside_its_storage(path, fields, message):
    """Nothing is allocated for a tensor that does not."""
    with pytest.raises(CheckpointError, match=f"tensor x: .*{message}"):
        load_checkpoint(write(path, {"x": tensor("0", **fields)}, {"0": bytes(16)}))


def test_missing_record(path):
    """A storage the file does not hold."""
    with pytest.raises(CheckpointError, match="no record archive/data/7"):
        load_checkpoint(write(path, {"x": tensor("7", 1, (1,), (1,))}, {}))


def test_compressed_records_are_refused(path):
    """A decompression bomb needs compression."""
    with pytest.raises(CheckpointError, match=r"record archive/data\.pkl is compressed"):
        load_checkpoint(write(path, {}, {"0": bytes(10**6)}, compression=zipfile.ZIP_DEFLATED))


def test_records_claim_no_more_than_the_file_has(path):
    with zipfile.ZipFile(write(path, {"x": tensor("0", 1, (1,), (1,))}, {"0": bytes(4)}), "a") as archive:
        info = archive.getinfo("archive/data/0")
        info.file_size = info.compress_size = 2**40
        archive.writestr("archive/version", "3")  # and with it a new table of contents
    with pytest.raises(CheckpointError, match="claim more bytes than the file has"):
        load_checkpoint(path)


def test_a_description_without_end_is_refused(path, monkeypatch):
    write(path, {"x": tensor("0", 1, (1,), (1,))}, {"0": bytes(4)})
    monkeypatch.setattr(checkpoint_file, "MAX_PICKLE_BYTES", 100)
    with pytest.raises(CheckpointError, match="description is larger than 100 bytes"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"\x80\x02}r" + struct.pack("<I", 2**31) + b".", "more places"),
        (b"\x80\x02\x82\x01.", "extensions"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**50) + b".", "damaged"),
        (b"\x80\x02}", "damaged"),
        (b"", "damaged"),
        (b"\x80\x02K\x01Q.", "not a storage"),
        (dump([1]), "pickled object"),
        (dump({"epoch": 3}), r"a dict of \['epoch'\]"),
    ],
)
def test_bad_pickles(path, pickled, message):
    """Each is an error of one class that names the file."""
    with pytest.raises(CheckpointError, match=rf"weights\.pth: .*{message}"):
        load_checkpoint(write(path, None, {}, pickled=pickled))


def test_other_kinds_of_file(path):
    """Each says what it is and what to do."""
    path.write_bytes(LEGACY_MAGIC + b"rest")
    with pytest.raises(CheckpointError, match=r"weights\.pth is in PyTorch's format before 1\.6; .*torch\.save"):
        load_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="not a PyTorch zip file"):
        load_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.png", "")
    with pytest.raises(CheckpointError, match="not one of PyTorch"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="TorchScript"):
        load_checkpoint(write(path, {}, {}, extra=["archive/constants.pkl"]))
    with pytest.raises(FileNotFoundError, match="absent"):
        load_checkpoint(path.with_name("absent.pth"))


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_truncated_files(path, kept):
    """A zip file's directory is at its end."""
    write(path, {"x": tensor("0", 1000, (1000,), (1,))}, {"0": bytes(4000)})
    os.truncate(path, int(path.stat().st_size * kept))
    with pytest.raises(CheckpointError, match=r"weights\.pth is truncated or damaged .*again"):
        load_checkpoint(path)


def test_damaged_bytes(path):
    """A changed byte is found by the record's checksum."""
    write(path, {"x": tensor("0", 1000, (1000,), (1,))}, {"0": bytes(4000)})
    content = bytearray(path.read_bytes())
    content[content.index(bytes(1000)) + 500] = 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_checkpoint(path)


def test_a_pipe_does_not_keep_its_reader_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth is no file"):
        load_checkpoint(tmp_path / "a.pth")


TWICE = b")" + b"2\x86" * 60  # a tuple of twice itself, sixty times over: 2^60 parts
PADDING = b"B" + struct.pack("<I", 10**6) + bytes(10**6) + b"0"  # bytes that are taken from the stack again
ONE_HASH = b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(2000))


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"}" + TWICE + b"K\x01s", "too often"),  # as a key
        (b"}(" + TWICE + b"K\x01u", "too often"),
        (b"\x8f(" + TWICE + b"\x90", "too often"),  # in a set
        (b")q\x00" + b"h\x00h\x00\x86q\x00" * 60, "too often"),  # through the memo
        (b"]q\x01" + b"h\x01ah\x01h\x01a" * 40 + b"\x85", "too often"),  # a list in itself
        (b"ctorch\nSize\n" + TWICE + b"\x85R", "too often"),
        (b"}" + b")" + b"\x85" * 100_000 + b"K\x01s", "too often"),  # whose hash would end the process
        pytest.param(PADDING + b"})" + b"\x85" * 5000 + b"K\x01s", "too often", id="deep in much else"),
        (b"}(" + ONE_HASH + b"u", "more than 1000 numbers"),
    ],
)
def test_what_would_take_without_end_to_read_is_refused(path, pickled, message):
    with pytest.raises(CheckpointError, match=rf"weights\.pth: its pickle .*{message}"):
        load_checkpoint(write(path, None, {}, pickled=b"\x80\x04" + pickled + b"."))


def test_what_is_shared_by_many_is_no_bomb(path):
    shared = [("a", 1)] * 200
    content = {"model": {"a": tensor("0", 1, (1,), (1,))}, "state_dict": {"b": tensor("0", 1, (1,), (1,))}}
    content |= {f"beside {i}": shared for i in range(200)}
    assert list(load_checkpoint(write(path, content, {"0": bytes(4)}))) == ["b"]


def test_an_error_is_no_longer_than_a_line(path):
    key = (("a" * 1000,) * 1000,) * 10
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(write(path, {key: tensor("0", 1, (1,), (1,))}, {"0": bytes(4)}))
    assert len(str(raised.value)) < 2000
