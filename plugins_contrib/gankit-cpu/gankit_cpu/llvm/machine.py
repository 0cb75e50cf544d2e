"""Loops for which torch has no operator, compiled in memory by LLVM (llvmlite) when they are first needed.

No compiler is called and no file is written: a kernel takes some hundredths of a second. Vectors are of `LANES` floats;
LLVM splits them where the CPU's registers are narrower.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import torch
from llvmlite import ir
from torch import Tensor

from gankit_cpu.kernels import LANES

INT, FLOAT = ir.IntType(64), ir.FloatType()
HALF = ir.IntType(16)  # the bits of a bfloat16
WORD = ir.IntType(32)
FLOATS, HALVES, WORDS = (ir.VectorType(t, LANES) for t in (FLOAT, HALF, WORD))
PAIRS = ir.VectorType(HALF, 2 * LANES)


@dataclass(frozen=True)
class Int:
    """A number that the kernel computes with, not negative where it is divided."""

    code: ir.IRBuilder
    value: ir.Value

    def __add__(self, other: Int | int) -> Int:
        return self._with(self.code.add, other)

    def __sub__(self, other: Int | int) -> Int:
        return self._with(self.code.sub, other)

    def __mul__(self, other: Int | int) -> Int:
        return self._with(self.code.mul, other)

    def __floordiv__(self, other: Int | int) -> Int:
        return self._with(self.code.udiv, other)

    def __mod__(self, other: Int | int) -> Int:
        return self._with(self.code.urem, other)

    def compared(self, operator: str, other: Int | int) -> ir.Value:
        return self.code.icmp_signed(operator, self.value, self._value(other))

    def _with(self, operation: Callable[[ir.Value, ir.Value], ir.Value], other: Int | int) -> Int:
        return Int(self.code, operation(self.value, self._value(other)))

    def _value(self, other: Int | int) -> ir.Value:
        return ir.Constant(INT, other) if isinstance(other, int) else other.value


def _words(n: int) -> ir.Constant:
    return ir.Constant(WORDS, [n] * LANES)


class Code:
    """A function without result, of pointers, under construction. The last of `arguments` is to floats that a thread
    has for itself."""

    def __init__(self, pointers: Sequence[ir.Type]) -> None:
        self.module = ir.Module()
        signature = ir.FunctionType(ir.VoidType(), [t.as_pointer() for t in (*pointers, FLOAT)])
        function = ir.Function(self.module, signature, "kernel")
        self.arguments = function.args
        self.b = ir.IRBuilder(function.append_basic_block())

    def number(self, value: Int | int) -> Int:
        return Int(self.b, ir.Constant(INT, value)) if isinstance(value, int) else value

    @contextmanager
    def loop(
        self, start: Int | int, stop: Int | int, step: Int | int = 1, carried: list[ir.Value] | None = None
    ) -> Iterator[Int]:
        """for i in range(start, stop, step). What the body puts into `carried` is there in the next turn, and after."""
        b = self.b
        values = carried if carried is not None else []
        before, (head, body, end) = b.block, (b.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(INT)
        i.add_incoming(self.number(start).value, before)
        variables = [b.phi(value.type) for value in values]
        for variable, value in zip(variables, values):
            variable.add_incoming(value, before)
        values[:] = variables
        b.cbranch(Int(b, i).compared("<", stop), body, end)
        b.position_at_end(body)
        yield Int(b, i)
        i.add_incoming((Int(b, i) + step).value, b.block)
        for variable, value in zip(variables, values):
            variable.add_incoming(value, b.block)
        values[:] = variables
        b.branch(head)
        b.position_at_end(end)

    def at(self, pointer: ir.Value, index: Int | int) -> ir.Value:
        return self.b.gep(pointer, [self.number(index).value])

    def load(self, pointer: ir.Value, index: Int, vector: ir.Type) -> ir.Value:
        address = self.b.bitcast(self.at(pointer, index), vector.as_pointer())
        return self.b.load(address, align=2 if vector == HALVES else 4)

    def store(self, value: ir.Value, pointer: ir.Value, index: Int) -> None:
        address = self.b.bitcast(self.at(pointer, index), value.type.as_pointer())
        self.b.store(value, address, align=4 if value.type in (FLOATS, WORDS) else 2)

    def put(self, values: Sequence[ir.Value], half: bool, pointer: ir.Value, index: Int) -> None:
        """One vector of floats, or two, one after the other; as bfloat16 if `half`."""
        if half:
            self.store(self.joined(*values) if len(values) == 2 else self.rounded(*values), pointer, index)
        else:
            for i, value in enumerate(values):
                self.store(value, pointer, index + i * LANES)

    def within(self, index: Int, size: Int) -> ir.Value:
        return self.b.and_(index.compared(">=", 0), index.compared("<", size))

    def lower(self, a: Int, b: Int | int) -> Int:
        return Int(self.b, self.b.select(a.compared("<", b), a.value, self.number(b).value))

    def every(self, value: ir.Value) -> ir.Value:
        """A vector of equal floats, or of equal words."""
        empty = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
        one = self.b.insert_element(empty, value, ir.Constant(WORD, 0))
        return self.b.shuffle_vector(one, empty, _words(0))

    def dot(self, x: Sequence[ir.Value], weights: Sequence[ir.Value]) -> ir.Value:
        """Sum of products, which may be rounded once each."""
        total = self.b.fmul(x[0], weights[0], flags=["contract"])
        for value, weight in zip(x[1:], weights[1:]):
            total = self.plus(total, value, weight)
        return total

    def plus(self, total: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
        """total + x * y, which may be rounded once."""
        return self.b.fadd(total, self.b.fmul(x, y, flags=["contract"]), flags=["contract"])

    def widened(self, bits: ir.Value) -> ir.Value:
        """bfloat16 -> float32."""
        words = self.b.zext(bits, WORDS)
        return self.b.bitcast(self.b.shl(words, _words(16)), FLOATS)

    def rounded(self, value: ir.Value) -> ir.Value:
        """float32 -> bfloat16, to the nearest, of ties to the even one."""
        b = self.b
        bits = b.bitcast(value, WORDS)
        last = b.and_(b.lshr(bits, _words(16)), _words(1))
        near = b.add(bits, b.add(last, _words(0x7FFF)))  # which could make a number of what is none
        bits = b.select(b.fcmp_unordered("uno", value, value), _words(0x7FC00000), near)
        return b.trunc(b.lshr(bits, _words(16)), HALVES)

    def even_and_odd(self, pairs: ir.Value) -> list[ir.Value]:
        """32 bfloat16, in words of two -> the first of each word in float32, and the second."""
        even = self.b.shl(pairs, _words(16))
        odd = self.b.and_(pairs, _words(0xFFFF0000))
        return [self.b.bitcast(half, FLOATS) for half in (even, odd)]

    def sum(self, vector: ir.Value) -> ir.Value:
        """The sum of the vector's floats."""
        empty = ir.Constant(FLOATS, ir.Undefined)
        for half in (8, 4, 2, 1):
            other = ir.Constant(WORDS, [(i + half) % LANES for i in range(LANES)])
            vector = self.b.fadd(vector, self.b.shuffle_vector(vector, empty, other))
        return self.b.extract_element(vector, ir.Constant(WORD, 0))

    def clamped(self, value: ir.Value, bound: ir.Value) -> ir.Value:
        """To -bound to bound; what is not a number stays so."""
        b, below = self.b, self.b.fneg(bound)
        value = b.select(b.fcmp_ordered(">", value, bound), bound, value)
        return b.select(b.fcmp_ordered("<", value, below), below, value)

    def in_turn(self, even: ir.Value, odd: ir.Value) -> list[ir.Value]:
        """From two vectors of floats, to the first and the second half of what takes one from each in turn."""
        orders = [[i // 2 + i % 2 * LANES for i in range(start, start + LANES)] for start in (0, LANES)]
        return [self.b.shuffle_vector(even, odd, ir.Constant(WORDS, order)) for order in orders]

    def joined(self, first: ir.Value, second: ir.Value) -> ir.Value:
        """Two vectors of float32, one after the other, as 32 bfloat16. Like `rounded`, but AVX512_BF16 makes 0 of what
        is below the normal numbers."""
        if not multiplies_pairs():
            order = ir.Constant(ir.VectorType(WORD, 2 * LANES), list(range(2 * LANES)))
            return self.b.shuffle_vector(self.rounded(first), self.rounded(second), order)
        function = self._instruction("avx512bf16.cvtne2ps2bf16.512", PAIRS, [FLOATS, FLOATS])
        return self.b.call(function, [second, first])

    def sum_of_pairs(self, total: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
        """total + x * y, of both bfloat16 of each word; AVX512_BF16."""
        function = self._instruction("avx512bf16.dpbf16ps.512", FLOATS, [FLOATS, WORDS, WORDS])
        return self.b.call(function, [total, x, y])

    def _instruction(self, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
        name = f"llvm.x86.{name}"
        known = self.module.globals.get(name)
        return known or ir.Function(self.module, ir.FunctionType(result, arguments), name)

    def compiled(self) -> Kernel:
        """With an entry for threads, which take one task after the other."""
        self.b.ret_void()
        function = self.b.function
        entry = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [INT.as_pointer()]), "entry")
        b = self.b = ir.IRBuilder(entry.append_basic_block())
        (data,) = entry.args

        def next_number(place: int) -> Int:
            """Another for each thread that asks."""
            return Int(b, b.atomic_rmw("add", self.at(data, place), ir.Constant(INT, 1), "seq_cst"))

        tasks, scratch, size = (Int(b, b.load(self.at(data, i))) for i in (2, 3, 4))
        own = scratch + next_number(1) * size
        head, body, end = (b.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        task = next_number(0)
        b.cbranch(task.compared("<", tasks), body, end)
        b.position_at_end(body)
        first = task * (len(function.args) - 1) + HEADER
        values = [b.load(self.at(data, first + i)) for i in range(len(function.args) - 1)]
        pairs = zip([*values, own.value], function.args)
        b.call(function, [b.inttoptr(value, argument.type) for value, argument in pairs])
        b.branch(head)
        b.position_at_end(end)
        b.ret_void()
        return Kernel(_compile(str(self.module)))


HEADER = 5  # numbers before the tasks: the next task and thread, how many tasks, scratch, and a thread's bytes of it


@dataclass(frozen=True)
class Kernel:
    address: int

    def run(self, tasks: Sequence[Sequence[int]], scratch: int = 0) -> None:
        """Run the function for each task, which is the addresses of its arguments, on all threads that torch has for a
        CPU; each has so many floats of `scratch`."""
        if len(tasks):
            data = np.concatenate([_header(len(tasks), scratch), np.asarray(tasks, np.int64).ravel()])
            self._start(data)

    def _start(self, data: np.ndarray) -> None:
        tasks, size = int(data[2]), int(data[4])
        threads = min(torch.get_num_threads(), tasks)
        space = torch.empty(threads * size, dtype=torch.uint8, device="cpu")
        data[3] = space.data_ptr()
        on_all_threads(self.address, data.ctypes.data, threads)


def _header(tasks: int, scratch: int) -> np.ndarray:
    return np.array([0, 0, tasks, 0, scratch * 4], np.int64)


class Plan:
    """Calls of a kernel that are alike but for what arguments point to: the work of each sample in equal tasks.

    Args:
        kernel: takes addresses that differ from sample to sample, then `constants`, then that of a task's sizes.
        samples: how many.
        own: of the first kind of addresses, how many.
        constants: kept, and addressed in all tasks.
        sizes: int64, a row for each task of a sample.
        scratch: see `Kernel.run`.
    """

    def __init__(
        self, kernel: Kernel, samples: int, own: int, constants: Sequence[np.ndarray], sizes: np.ndarray,
        scratch: int = 0,
    ) -> None:  # fmt: skip
        self.kernel, self.own, self._kept = kernel, own, (constants, sizes)
        self._shape = (samples, len(sizes), own + len(constants) + 1)
        tasks = np.zeros(self._shape, np.int64)
        tasks[:, :, own:-1] = [array.ctypes.data for array in constants]
        tasks[:, :, -1] = sizes.ctypes.data + np.arange(len(sizes)) * sizes.strides[0]
        self._data = np.concatenate([_header(samples * len(sizes), scratch), tasks.ravel()])

    def run(self, places: Sequence[tuple[int, int]]) -> None:
        """With the first sample's address of each, and the bytes from sample to sample, see `place`."""
        data = self._data.copy()
        first, step = np.array(places, np.int64).T
        addresses = first + np.arange(self._shape[0])[:, None] * step
        data[HEADER:].reshape(self._shape)[:, :, : self.own] = addresses[:, None]
        self.kernel._start(data)


def place(t: Tensor | np.ndarray) -> tuple[int, int]:
    """(address of the first sample, bytes from one sample to the next)."""
    if isinstance(t, np.ndarray):
        return t.ctypes.data, t.strides[0]
    return t.data_ptr(), t.stride(0) * t.element_size()


_lock = threading.Lock()
_engines: list[Any] = []  # own the machine code


@functools.cache
def features() -> dict[str, bool]:
    """Instruction sets of the CPU by LLVM's names; True for those that it has."""
    try:
        return dict(llvm.get_host_cpu_features())
    except RuntimeError:  # LLVM does not know it of some CPUs
        return {}


def multiplies_pairs() -> bool:
    """True if the CPU has AVX512_BF16: sums in float32 of products of pairs of bfloat16."""
    return bool(features().get("avx512bf16"))


def _compile(text: str) -> int:
    with _lock:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        target = llvm.Target.from_default_triple()
        known = ",".join(("+" if has else "-") + name for name, has in sorted(features().items()))
        machine = target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=known, opt=3)
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(text), machine)
        engine.finalize_object()
        _engines.append(engine)
        return int(engine.get_function_address("entry"))


@functools.cache
def channels_in_groups(count: int, group: int, half: bool = False) -> np.ndarray:
    """Their numbers in groups, of which the last has the last channels; if `half`, in each even ones come first."""
    starts = [min(start, count - group) for start in range(0, count, group)]
    numbers = np.array(starts)[:, None] + np.arange(group)
    return (np.concatenate([numbers[:, ::2], numbers[:, 1::2]], 1) if half else numbers).ravel()


def on_all_threads(address: int, data: int, count: int) -> None:
    """Call the function at `address` with `data` from so many threads at once."""
    team = _openmp()
    if count > 1 and team is not None:
        team(address, data, count, 0)
        return
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
    if count == 1:
        function(data)
    else:
        with ThreadPoolExecutor(count - 1) as pool:
            others = [pool.submit(function, data) for _ in range(count - 1)]
            function(data)
            for other in others:
                other.result()


@functools.cache
def _openmp() -> Callable[..., None] | None:
    """OpenMP's entry to the threads of torch's operators. These wait for work in a busy loop for some milliseconds
    after an operator, so that other threads would have to share the cores with them."""
    if not sys.platform.startswith("linux") or not torch.backends.openmp.is_available():
        return None
    team = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    if team is not None:
        team.restype, team.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    return team
