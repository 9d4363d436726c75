"""A stack machine that runs pickle instructions on inert records.

It builds containers, and asks `known` what stands in for a named object; nothing that a file names is imported.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from snn_perception.foreign import known
from snn_perception.foreign.limits import MAX_OPCODES, Budget, Refusal, damaged, unknown
from snn_perception.foreign.opcodes import PUSHES, instructions
from snn_perception.foreign.records import GlobalRef

LoadStorage = Callable[[tuple[Any, ...]], Any]
"""Stands in for a persistent id, with which torch refers to data outside the pickle."""

_ABSENT = object()


class Machine:
    """Runs one or more pickles of a file in turn, within one budget."""

    def __init__(self, load_storage: LoadStorage, inert: Callable[[str], bool]) -> None:
        self._load_storage = load_storage
        self._inert = inert
        self._budget = Budget()
        self._position, self._opcode = 0, ""
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under each open MARK
        self._memo: list[Any] = []

    def run(self, data: bytes, start: int = 0) -> tuple[Any, int]:
        """Return the object that the pickle at `start` describes, and the position after it; raise Refusal."""
        self._stack, self._below, self._memo = [], [], []
        for self._position, self._opcode, argument in instructions(data, start):
            self._budget.opcodes -= 1
            if self._budget.opcodes < 0:
                raise unknown(f"refuses more than {MAX_OPCODES} pickle instructions")
            if self._opcode in PUSHES:
                self._stack.append(argument)
            else:
                self._HANDLERS[self._opcode](self, argument)
        result = self._pop()
        if self._stack or self._below:
            raise self._refusal("leaves values behind on the stack")
        return result, self._position + 1

    def _refusal(self, what: str) -> Refusal:
        return damaged(f"{what} ({self._where()})")

    def _where(self) -> str:
        return f"pickle opcode {self._opcode} at byte {self._position}"

    # The stack

    def _pop(self) -> Any:
        if not self._stack:
            raise self._refusal("takes a value from an empty stack")
        return self._stack.pop()

    def _top(self, kind: type) -> Any:
        if not self._stack or type(self._stack[-1]) is not kind:
            raise self._refusal(f"expected a {kind.__name__} on the stack")
        return self._stack[-1]

    def _pop_to_mark(self) -> list[Any]:
        if not self._below:
            raise self._refusal("looks for a mark that was never set")
        items, self._stack = self._stack, self._below.pop()
        return items

    def _drop_to_mark(self, _: None) -> None:
        self._pop_to_mark()

    def _mark(self, _: None) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _pop_one(self, _: None) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_to_mark()

    def _put(self, index: int | None) -> None:
        index = len(self._memo) if index is None else index
        if not self._stack:
            raise self._refusal("remembers a value of an empty stack")
        if index >= MAX_OPCODES:
            raise self._refusal(f"uses memo entry {index}, which no pickler reaches")
        self._memo.extend([_ABSENT] * (index + 1 - len(self._memo)))
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        if index >= len(self._memo) or self._memo[index] is _ABSENT:
            raise self._refusal(f"recalls memo entry {index}, which was never set")
        self._stack.append(self._memo[index])

    # Containers

    def _tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def _tuple_to_mark(self, _: None) -> None:
        items = self._pop_to_mark()
        self._stack.append(tuple(items))

    def _extend(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._top(dict)
        if len(items) % 2:
            raise self._refusal("gives a dictionary a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._budget.check_key(key)
            target[key] = value

    def _add_items(self, _: None) -> None:
        items = self._pop_to_mark()
        target = self._top(set)
        for item in items:
            self._budget.check_key(item)
            target.add(item)

    def _frozenset(self, _: None) -> None:
        items = self._pop_to_mark()
        for item in items:
            self._budget.check_key(item)
        self._stack.append(frozenset(items))

    def _set_item(self, _: None) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    # Names and what is done with them

    def _global(self, names: tuple[str, str]) -> None:
        self._stack.append(known.resolve(*names, self._inert, self._where))

    def _stack_global(self, _: None) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise self._refusal("names a global by something else than two texts")
        self._global((module, name))

    def _call(self, _: None) -> None:
        args, callee = self._pop(), self._pop()
        if type(callee) is not GlobalRef or type(args) is not tuple:
            raise self._refusal("calls something that is not a known name with a tuple")
        self._stack.append(known.stand_in(callee.name, args, self._budget, self._inert))

    def _build(self, _: None) -> None:
        state = self._pop()
        if not self._stack:
            raise self._refusal("gives a state to an empty stack")
        known.set_state(self._stack[-1], state, self._budget)

    def _persistent(self, _: None) -> None:
        reference = self._pop()
        if type(reference) is not tuple:
            raise self._refusal(f"refers to a storage by a {type(reference).__name__}, expected a tuple")
        self._stack.append(self._load_storage(reference))

    def _protocol(self, version: int) -> None:
        if version > 5:
            raise self._refusal(f"is of pickle protocol {version}, expected 2 to 5")

    _HANDLERS: ClassVar[dict[str, Callable[["Machine", Any], None]]] = {
        "PROTO": _protocol,
        "FRAME": lambda self, _: None,  # a hint for buffering
        "STOP": lambda self, _: None,
        "MARK": _mark,
        "POP": _pop_one,
        "POP_MARK": _drop_to_mark,
        "PUT": _put,
        "MEMOIZE": _put,
        "GET": _get,
        "NONE": lambda self, _: self._stack.append(None),
        "NEWTRUE": lambda self, _: self._stack.append(True),
        "NEWFALSE": lambda self, _: self._stack.append(False),
        "EMPTY_LIST": lambda self, _: self._stack.append([]),
        "EMPTY_DICT": lambda self, _: self._stack.append({}),
        "EMPTY_SET": lambda self, _: self._stack.append(set()),
        "EMPTY_TUPLE": lambda self, _: self._stack.append(()),
        "TUPLE": _tuple_to_mark,
        "TUPLE1": lambda self, _: self._tuple(1),
        "TUPLE2": lambda self, _: self._tuple(2),
        "TUPLE3": lambda self, _: self._tuple(3),
        "APPEND": lambda self, _: self._extend([self._pop()]),
        "APPENDS": lambda self, _: self._extend(self._pop_to_mark()),
        "SETITEM": _set_item,
        "SETITEMS": lambda self, _: self._set_items(self._pop_to_mark()),
        "ADDITEMS": _add_items,
        "FROZENSET": _frozenset,
        "GLOBAL": _global,
        "STACK_GLOBAL": _stack_global,
        "REDUCE": _call,
        "NEWOBJ": _call,
        "BUILD": _build,
        "BINPERSID": _persistent,
    }
