"""Reads pickles without executing anything in them.

A pickle is a program for a stack machine that may import any name and call it with any arguments. This module has a
machine of its own that neither imports nor calls: a name becomes a `Global` node, a call a `Call` node with target and
arguments, and so on. `gankit.interop.torch_files` looks for the patterns of nodes that stand for tensors and modules;
the rest, such as embedded source text or hooks, is ignored.

Why not a subclass of `pickle.Unpickler` that allows a few names: it does call what `find_class` returns, with
arguments from the file, and lets BUILD set attributes, so it is only as safe as the most dangerous of those names. The
C implementation also allocates whatever size a file claims: ten bytes that store memo entry 2**31 take gigabytes. This
machine allocates at most a constant for each byte of the file, and needs neither torch nor numpy, so that `gankit
inspect` starts fast.

`pickletools.genops` decodes the instructions; it interprets none of them.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from gankit.errors import GankitError

MAX_INSTRUCTIONS = (
    3_000_000  # the largest published snapshots have some 200,000; each makes at most one small object
)
COPIED_ITEM = (
    8  # instructions charged for each item of a copied container: it takes memory, but no byte of the file
)
MAX_MEMO = 2**32
MAX_INTEGER = 2**80  # torch marks its files with a number of 77 bits
MAX_PATH = 200  # characters of a name that a message shows


class DamagedPickle(Exception):
    """The bytes are not a pickle, or it is truncated, or exceeds a limit; the message is the reason."""


@dataclass(eq=False, frozen=True)
class Global:
    """A name that unpickling would import."""

    module: str
    name: str

    @property
    def path(self) -> str:
        return printable(f"{self.module}.{self.name}")

    def __repr__(self) -> str:
        return f"<{self.path}>"


@dataclass(eq=False)
class Call:
    """A call that unpickling would make: of a function, or of a class to make an instance.

    Attributes:
        target: the callable; a `Global` in honest files.
        args: positional arguments.
        kwargs: keyword arguments.
        state: argument of BUILD, the attributes that would be set on the result.
        items: values, or pairs of keys and values, that would be added to the result.
    """

    target: Any
    args: Any
    kwargs: Any = None
    state: Any = None
    items: list[Any] = field(default_factory=list)

    def calls(self, module: str, name: str) -> bool:
        return isinstance(self.target, Global) and (self.target.module, self.target.name) == (module, name)

    def __repr__(self) -> str:
        return f"<call of {self.target!r}>" if isinstance(self.target, Global) else "<call>"


@dataclass(eq=False)
class Persistent:
    """An object that lives outside of the pickle, such as a storage of torch."""

    key: Any


class Opaque:
    """Placeholder for a dictionary key or set member of a type that no network file needs."""


class Ledger:
    """Instruction budget of a file with all pickles inside it, and a record of its calls and references.

    Attributes:
        left: instructions left.
        called: dotted names that the file would call.
        persistent: references to objects outside of the pickle.
    """

    def __init__(self, instructions: int = MAX_INSTRUCTIONS) -> None:
        self.left = instructions
        self.called: set[str] = set()
        self.persistent: list[Persistent] = []

    def spend(self, count: int = 1) -> None:
        self.left -= count
        if self.left < 0:
            raise DamagedPickle("it has more instructions than any network needs")


def printable(text: str) -> str:
    """Text from a file, safe to print: at most MAX_PATH characters, control characters replaced by '?'."""
    shown = "".join(c if c.isprintable() else "?" for c in text[:MAX_PATH])
    return shown + ("..." if len(text) > MAX_PATH else "")


def read_pickle(file: BinaryIO, size: int, ledger: Ledger) -> Any:
    """Object graph of one pickle, made of plain values and `Global`, `Call`, `Persistent` and `Opaque` nodes.

    Args:
        file: positioned at the start of the pickle; afterwards at its end.
        size: total bytes of `file`.
        ledger: budget and record, shared by all pickles of a file.

    Raises DamagedPickle."""
    return _Machine(ledger, size).run(_Clamped(file, size))


class _Clamped:
    """A file whose `read(n)` allocates at most the bytes that are left, whatever n a pickle claims."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size
        self.tell, self.readline = file.tell, file.readline

    def read(self, count: int) -> bytes:
        if count < 256:
            return self.file.read(count)
        return self.file.read(min(count, max(self.size - self.file.tell(), 0)))


_PLAIN_KEYS = (str, int, bool, bytes, type(None), Global, Call)


def _key(value: Any) -> Any:
    # Hashing deeply nested tuples overflows the stack; floats and long integers may be chosen to collide. No network
    # file needs them as keys.
    if isinstance(value, _PLAIN_KEYS) and not (isinstance(value, int) and abs(value) >= 2**31):
        return value
    return Opaque()


class _Machine:
    def __init__(self, ledger: Ledger, size: int) -> None:
        self.ledger = ledger
        self.letters = size  # characters of text that may be encoded: honest files encode each one once
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: _Clamped) -> Any:
        try:
            for opcode, argument, _ in pickletools.genops(file):  # type: ignore[arg-type]
                self.ledger.spend()
                if opcode.name == "STOP":
                    return self.pop()
                action = _ACTIONS.get(opcode.name)
                if action is None:
                    raise DamagedPickle(f"it has an instruction {opcode.name}, which no network file has")
                action(self, argument)
        except (ValueError, OverflowError) as error:  # raised by genops for bytes that are no pickle
            raise DamagedPickle(printable(" ".join(str(error).split()))) from None
        raise DamagedPickle("it ends early")

    # ---------------------------------------------------------------------------------------------- the stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise DamagedPickle("an instruction lacks its operand")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise DamagedPickle("an instruction lacks its mark")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def number(self, value: Any) -> None:
        if isinstance(value, int) and abs(value) >= MAX_INTEGER:
            raise DamagedPickle("it has an integer of more than 80 bits")
        self.push(value)

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def discard(self, _: Any) -> None:
        if self.marks and self.marks[-1] == len(self.stack):  # POP of a mark
            self.marks.pop()
        else:
            self.pop()

    def pop_mark(self, _: Any) -> None:
        self.since_mark()

    def put(self, index: Any) -> None:
        if not 0 <= index < MAX_MEMO:
            raise DamagedPickle("it has a memo index out of range")
        self.memo[index] = self.top()

    def get(self, index: Any) -> None:
        if index not in self.memo:
            raise DamagedPickle("it refers to an object that it does not have")
        self.push(self.memo[index])

    # --------------------------------------------------------------------------------------------- containers

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def dict_of(self, values: list[Any]) -> None:
        self.push({})
        self.set_items(values)

    def add(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, set):
            target.update(map(_key, values))
        elif isinstance(target, Call):
            target.items.extend(values)
        else:
            raise DamagedPickle("it adds items to something that has none")

    def set_items(self, values: list[Any]) -> None:
        if len(values) % 2:
            raise DamagedPickle("a key of it lacks a value")
        pairs = zip(values[::2], values[1::2])
        target = self.top()
        if isinstance(target, dict):
            for key, value in pairs:
                target[_key(key)] = value
        elif isinstance(target, Call):
            target.items.extend(pairs)
        else:
            raise DamagedPickle("it sets items of something that has none")

    def set_item(self, _: Any) -> None:
        value = self.pop()
        self.set_items([self.pop(), value])

    # ------------------------------------------------------------------------------------------- names, calls

    def name(self, path: Any) -> None:
        module, _, name = path.partition(" ")
        self.push(Global(module, name))

    def stack_name(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise DamagedPickle("a name in it is not text")
        self.push(Global(module, name))

    def call(self, target: Any, args: Any, kwargs: Any = None) -> None:
        if isinstance(target, Global):
            self.ledger.called.add(target.path)
            builder = _BUILDERS.get((target.module, target.name))
            if builder is not None and not kwargs:
                self.copying(args)
                self.push(builder(args))
                return
        self.push(Call(target, args, kwargs))

    def copying(self, args: Any) -> None:
        """Charge the budget for the object that a builder copies: a file can refer to it again with two bytes."""
        given = args[0] if isinstance(args, tuple) and args else None
        if isinstance(given, str):
            self.letters -= len(given)
            if self.letters < 0:
                raise DamagedPickle("it converts the same text again and again")
        elif isinstance(given, (dict, list, tuple, set)):
            self.ledger.spend(COPIED_ITEM * len(given))

    def reduce(self, _: Any) -> None:
        args = self.pop()
        self.call(self.pop(), args)

    def new_with_keywords(self, _: Any) -> None:
        kwargs, args = self.pop(), self.pop()
        self.call(self.pop(), args, kwargs)

    def persist(self, key: Any) -> None:
        self.push(Persistent(key))
        self.ledger.persistent.append(self.stack[-1])

    def build(self, _: Any) -> None:
        state = self.pop()
        target = self.top()
        if isinstance(target, Call):
            target.state = state

    def object(self, _: Any) -> None:
        values = self.since_mark()
        if not values:
            raise DamagedPickle("an instruction lacks its operand")
        self.call(values[0], tuple(values[1:]))

    def instance(self, path: Any) -> None:
        values = self.since_mark()
        self.name(path)
        self.call(self.pop(), tuple(values))


def _pairs(args: Any) -> dict[Any, Any]:
    """Arguments of dict() or OrderedDict() -> a dictionary."""
    given = args[0] if isinstance(args, tuple) and args else ()
    if isinstance(given, dict):
        return dict(given)
    if not isinstance(given, (list, tuple)):
        return {}
    return {_key(pair[0]): pair[1] for pair in given if isinstance(pair, (list, tuple)) and len(pair) == 2}


def _members(args: Any) -> set[Any]:
    """Arguments of set() or frozenset() -> a set."""
    given = args[0] if isinstance(args, tuple) and args else ()
    return {_key(value) for value in given} if isinstance(given, (list, tuple, set)) else set()


def _latin(args: Any) -> Any:
    """Arguments of _codecs.encode(text, 'latin1'), by which Python 2 pickles store bytes -> bytes."""
    match args:
        case (str(text), "latin1" | "latin-1"):
            try:
                return text.encode("latin-1")
            except UnicodeEncodeError:
                return b""
    return b""


_BUILDERS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("collections", "OrderedDict"): _pairs,
    ("dnnlib.util", "EasyDict"): _pairs,
    ("dnnlib", "EasyDict"): _pairs,
    ("builtins", "dict"): _pairs,
    ("builtins", "set"): _members,
    ("builtins", "frozenset"): _members,
    ("__builtin__", "set"): _members,
    ("__builtin__", "frozenset"): _members,
    ("_codecs", "encode"): _latin,
    ("builtins", "bytes"): lambda _: b"",  # protocols before 3 write only empty bytes like this
    ("__builtin__", "bytes"): lambda _: b"",
}

_Action = Callable[[_Machine, Any], None]
_ACTIONS: dict[str, _Action] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "MARK": _Machine.mark,
    "POP": _Machine.discard,
    "POP_MARK": _Machine.pop_mark,
    "DUP": lambda m, _: m.push(m.top()),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_SET": lambda m, _: m.push(set()),
    "LIST": lambda m, _: m.push(m.since_mark()),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "DICT": lambda m, _: m.dict_of(m.since_mark()),
    "FROZENSET": lambda m, _: m.push(_members((m.since_mark(),))),
    "APPEND": lambda m, _: m.add([m.pop()]),
    "APPENDS": lambda m, _: m.add(m.since_mark()),
    "ADDITEMS": lambda m, _: m.add(m.since_mark()),
    "SETITEM": _Machine.set_item,
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.new_with_keywords,
    "BUILD": _Machine.build,
    "OBJ": _Machine.object,
    "INST": _Machine.instance,
    "PERSID": _Machine.persist,
    "BINPERSID": lambda m, _: m.persist(m.pop()),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _Machine.number),
    **dict.fromkeys(("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"), _Machine.push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _Machine.push),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _Machine.push),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
}


def refuse_attacks(called: Iterable[str], path: object) -> None:
    """Raise GankitError if a file would call a name that only an attack calls, see `attacks`.

    Nothing is called in any case; the error keeps users from trusting the rest of such a file."""
    bad = attacks(called)
    if bad:
        raise GankitError(
            f"{path} is hostile: opened by ordinary means it would call {', '.join(bad[:3])}; nothing of it was "
            "executed here, delete it"
        )


def attacks(called: Iterable[str]) -> list[str]:
    """The names, of those that a file would call, that no honest file calls, such as os.system; sorted."""
    return sorted(name for name in called if _hostile(name))


_HOSTILE_MODULES = frozenset(
    {
        "os",
        "posix",
        "nt",
        "subprocess",
        "sys",
        "shutil",
        "socket",
        "pty",
        "ctypes",
        "_ctypes",
        "runpy",
        "importlib",
    }
    | {
        "imp",
        "code",
        "codeop",
        "commands",
        "popen2",
        "webbrowser",
        "urllib",
        "http",
        "requests",
        "ftplib",
        "smtplib",
    }
    | {"pip", "ensurepip", "venv", "pdb", "bdb", "timeit", "cProfile", "profile", "trace", "tempfile", "site"}
)
_HOSTILE_BUILTINS = frozenset(
    {"eval", "exec", "execfile", "compile", "open", "input", "breakpoint", "__import__", "exit", "quit"}
    | {"globals", "locals", "vars", "apply", "file", "reload"}
)


def _hostile(path: str) -> bool:
    module, _, name = path.partition(".")
    if module in ("builtins", "__builtin__"):
        return name.split(".")[0] in _HOSTILE_BUILTINS
    return module in _HOSTILE_MODULES
