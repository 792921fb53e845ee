"""What a pickle would cost to read, found from its program before it is run.

A few bytes can build a tuple of twice itself, forty times over: small in memory, and without end to hash as the key of
a dict. Here the stack of the pickle's machine holds, for each object, only how many parts a hash would visit and how
deep they lie.
"""

import pickletools
from typing import Any

_MOST_WORK = 64
"""Parts visited for each byte of a pickle; those of networks have fewer parts than bytes."""

_DEEPEST = 500
"""Tuples and lists in each other: beyond some ten thousand, a hash would end the process."""

_MOST_LARGE = 1000
"""Numbers of more than 60 bits. They can be chosen to have one hash, and a dict of many such takes a square of time."""

_INTO = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"}
_GETS, _PUTS = {"GET", "BINGET", "LONG_BINGET"}, {"PUT", "BINPUT", "LONG_BINPUT"}


class _Part:
    """An object on the stack: the parts that its hash would visit, and how deep they lie."""

    __slots__ = ("deep", "parts")

    def __init__(self) -> None:
        self.parts, self.deep = 1, 1

    def take(self, others: "list[_Part]") -> None:
        """The others are put into it."""
        self.parts += sum(other.parts for other in others)
        self.deep = max(self.deep, 1 + max((other.deep for other in others), default=0))


def excess(content: bytes) -> str:
    """Why a pickle is not to be read: it allocates, nests or hashes more than its length lets expect. "" where not.

    Raises:
      ValueError, IndexError, KeyError: it is damaged.
    """
    stack, marks, memo = list[_Part](), list[int](), dict[Any, _Part]()
    left, large = _MOST_WORK * len(content), 0
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if name.startswith("EXT"):
            return "its pickle uses registered extensions"
        if name in _PUTS and (argument or 0) > len(content):
            return "its pickle reserves more places than it has bytes"
        large += isinstance(argument, int) and argument.bit_length() > 60
        if large > _MOST_LARGE:
            return f"its pickle has more than {_MOST_LARGE} numbers of more than 60 bits"
        if name == "MARK":
            marks.append(len(stack))
        elif name == "POP" and marks and marks[-1] == len(stack):
            marks.pop()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in _GETS:
            stack.append(memo[argument])
        elif name in _PUTS or name == "MEMOIZE":
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        else:
            taken = _taken(stack, marks, opcode.stack_before)
            if name in _INTO:  # of a dict's values nothing is hashed
                result, items = taken[0], taken[1::2] if name.startswith("SETITEM") else taken[1:]
            else:  # what a state is set on keeps none of it
                result, items = (taken[0], []) if name == "BUILD" else (_Part(), taken)
            result.take(items)
            left -= sum(item.parts for item in items)
            if left < 0 or result.deep > _DEEPEST:
                return "its pickle puts tuples or lists into each other too often"
            stack.extend([result] * len(opcode.stack_after))
    return ""


def _taken(stack: list[_Part], marks: list[int], before: list[pickletools.StackObject]) -> list[_Part]:
    """Takes from the stack what an operation takes, the lowest first; what is above a mark may be any number."""
    if pickletools.markobject in before:
        before = before[: before.index(pickletools.markobject)]
        first = marks.pop() - len(before)
    else:
        first = len(stack) - len(before)
    if first < (marks[-1] if marks else 0):
        raise IndexError("it takes what is not there")
    taken = stack[first:]
    del stack[first:]
    return taken
