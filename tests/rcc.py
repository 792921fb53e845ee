"""A writer of Qt resource containers, for tests of what reads them."""

import struct
import zlib


def write_rcc(path, files, version=3, packed=True, flags=None):
    """Breadth first, so that the children of a folder are beside each other; `packed` for zlib."""
    names, data, nodes = b"", b"", []
    waiting = [("", files)]
    while waiting:
        folder, inside = waiting.pop(0)
        offset = len(names)
        names += struct.pack(">HI", len(folder.encode("utf-16-be")) // 2, 0) + folder.encode("utf-16-be")
        if isinstance(inside, bytes):
            blob = struct.pack(">I", len(inside)) + zlib.compress(inside) if packed else inside
            kind = int(packed) if flags is None else flags
            nodes.append(struct.pack(">IHHHI", offset, kind, 0, 1, len(data)))
            data += struct.pack(">I", len(blob)) + blob
        else:
            children = _children(inside)
            first = len(nodes) + 1 + len(waiting)
            nodes.append(struct.pack(">IHII", offset, 2, len(children), first))
            waiting += children.items()
    tree = b"".join(node + (b"" if version == 1 else bytes(8)) for node in nodes)
    head = 20 if version < 3 else 24
    offsets = struct.pack(">4I", version, head, head + len(tree) + len(names), head + len(tree))
    path.write_bytes(b"qres" + offsets + bytes(head - 20) + tree + names + data)
    return path


def _children(files):
    found = {}
    for name, data in files.items():
        first, *rest = name.strip("/").split("/", 1)
        if rest:
            found.setdefault(first, {})[rest[0]] = data
        else:
            found[first] = data
    return found
