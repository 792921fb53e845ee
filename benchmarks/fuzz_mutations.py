"""Valid bytes and JSON made wrong, by a generator of random numbers: what `fuzz.py` feeds."""

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

_NUMBERS = (0, 1, 2, 7, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**27, 2**31 - 1, 2**31, 2**32 - 1,
            2**40, 2**62, 2**63 - 1, 2**64 - 1)  # fmt: skip

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 65536, 2**31, 2**63, 2**64, 10**400, -(10**30), 0.5, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), float("-inf"), "", "a", "tiny", "0", "nan", "../../x", "/etc/passwd", "\x00", "\ud800",
    "Ž🦒\n\x1b[31m", "x" * 5000, "{}", [], {}, [[]], [0], [1, 2], [-1], ["a"], [None], {"a": 1}, {"": {}},
    {"a.b": 1}, {"get": 1}, [2**31, 2**31], [10**9] * 3,
)  # fmt: skip


def some(rng: np.random.Generator, among: Sequence) -> Any:
    """One of them; `Generator.choice` would make an array of them."""
    return among[int(rng.integers(len(among)))]


def changed_bytes(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """Bytes with one to four changes; now and then none of the old ones. others: to splice with."""
    if rng.random() < 0.02:
        return rng.bytes(int(rng.integers(0, 2000)))
    for _ in range(int(some(rng, (1, 1, 1, 2, 2, 4)))):
        data = some(rng, _CHANGES)(rng, data, others)
    return data


def _place(rng: np.random.Generator, data: bytes) -> int:
    """Anywhere, and half the time in the header."""
    return int(rng.integers(min(len(data), 96) if rng.random() < 0.5 else len(data))) if data else 0


def _flip(rng, data, _):
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        if changed:
            changed[_place(rng, data)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _number(rng, data, _):
    """A field of 1 to 8 bytes with a number at which programs go wrong."""
    at, size = _place(rng, data), some(rng, (1, 2, 4, 4, 8))
    field = (some(rng, _NUMBERS) % 256**size).to_bytes(size, some(rng, ("big", "little")))
    return data[:at] + field + data[at + size :]


def _cut(rng, data, _):
    return data[: int(rng.integers(len(data) + 1))]


def _zero(rng, data, _):
    at, size = _place(rng, data), int(rng.integers(1, 64))
    return data[:at] + bytes(len(data[at : at + size])) + data[at + size :]


def _remove(rng, data, _):
    at = _place(rng, data)
    return data[:at] + data[at + int(rng.integers(1, 32)) :]


def _repeat(rng, data, _):
    at, size = _place(rng, data), int(rng.integers(1, 200))
    return data[:at] + data[at : at + size] * int(rng.integers(2, 9)) + data[at + size :]


def _insert(rng, data, _):
    at = _place(rng, data)
    return data[:at] + rng.bytes(int(rng.integers(1, 32))) + data[at:]


def _splice(rng, data, others):
    other = some(rng, others)
    return data[: _place(rng, data)] + other[_place(rng, other) :]


_CHANGES = (_flip, _flip, _number, _number, _number, _cut, _zero, _remove, _repeat, _insert, _splice)


def changed_png(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """A PNG whose chunks are changed, left out, repeated or moved, with checksums that are right."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + size]])
        at += 12 + size
    for _ in range(int(some(rng, (1, 1, 2, 3)))):
        chunk, what = some(rng, chunks), rng.random()
        if what < 0.6:
            chunk[1] = changed_bytes(rng, chunk[1], others)
        elif what < 0.7:
            chunk[0] = some(
                rng, (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"iCCP", b"acTL", b"fcTL", b"zTXt", b"pHYs", b"gAMA")
            )
        elif what < 0.8 and len(chunks) > 1:
            chunks.remove(chunk)
        else:
            chunks.insert(int(rng.integers(len(chunks))), list(chunk))
    return data[:8] + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def changed_tiff(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """A TIFF whose tags have other types, counts and values."""
    order = "<" if data[:2] == b"II" else ">"
    (first,) = struct.unpack(order + "I", data[4:8])
    (count,) = struct.unpack(order + "H", data[first : first + 2])
    changed = bytearray(data)
    for _ in range(int(some(rng, (1, 1, 2, 3)))):
        at = first + 2 + 12 * int(rng.integers(count))
        form, offset, values = some(
            rng, (("H", 0, range(254, 340)), ("H", 2, range(14)), ("I", 4, _NUMBERS[:17]), ("I", 8, _NUMBERS[:17]))
        )
        changed[at + offset : at + offset + struct.calcsize(form)] = struct.pack(order + form, some(rng, values))
    return bytes(changed)


def changed_json(rng: np.random.Generator, text: bytes) -> bytes:
    """JSON with one to three changes in its tree, or in its text; deep nesting now and then."""
    if rng.random() < 0.05:
        return some(rng, (b"[" * 100_000, b'{"a":' * 50_000, b"", b"null", b"3", b"[]", b"{}", b'"a"', b"1" * 5000))
    if rng.random() < 0.25:
        return changed_bytes(rng, text, [text])
    tree = json.loads(text)
    for _ in range(int(some(rng, (1, 1, 2, 3)))):
        tree = _changed_tree(rng, tree)
    return json.dumps(tree).encode()


def _changed_tree(rng: np.random.Generator, tree: Any) -> Any:
    if isinstance(tree, dict) and tree and rng.random() < 0.93:
        name, what = some(rng, list(tree)), rng.random()
        if what < 0.8:
            return {**tree, name: _changed_tree(rng, tree[name])}
        if what < 0.9:
            return {key: value for key, value in tree.items() if key != name}
        return {**tree, str(some(rng, _VALUES)): tree[name]}
    if isinstance(tree, list) and tree and rng.random() < 0.5:
        at = int(rng.integers(len(tree)))
        return [*tree[:at], _changed_tree(rng, tree[at]), *tree[at + int(rng.integers(2)) :]]
    if isinstance(tree, str) and tree[:1] in ("{", "[") and rng.random() < 0.8:  # JSON in a text, as in metadata
        try:
            return json.dumps(_changed_tree(rng, json.loads(tree)))
        except ValueError:
            return tree
    if rng.random() < 0.4:  # of its own type
        if isinstance(tree, int | float):
            near = max(-(2**1000), min(tree, 2**1000))  # as a float holds
            return some(rng, (tree + 1, tree - 1, -tree, 2 * tree, near / 2, float(near), 10**6 * tree))
        if isinstance(tree, str):
            return some(rng, (tree[:-1], tree + "a", tree.upper(), "", tree * 2))
        if isinstance(tree, list):
            return some(rng, (tree * 2, tree[:-1], tree[::-1], [tree]))
    return some(rng, _VALUES)


def any_value(rng: np.random.Generator) -> Any:
    """A value at which programs go wrong."""
    return some(rng, _VALUES)
