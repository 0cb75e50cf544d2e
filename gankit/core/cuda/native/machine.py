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
import torch
from llvmlite import ir

from gankit.core.cuda.native import LANES

INT, FLOAT = ir.IntType(64), ir.FloatType()
HALF = ir.IntType(16)  # the bits of a bfloat16
FLOATS, HALVES, WORDS = (ir.VectorType(t, LANES) for t in (FLOAT, HALF, ir.IntType(32)))


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
    """A function without result, of pointers, under construction."""

    def __init__(self, pointers: Sequence[ir.Type]) -> None:
        self.module = ir.Module()
        signature = ir.FunctionType(ir.VoidType(), [t.as_pointer() for t in pointers])
        function = ir.Function(self.module, signature, "kernel")
        self.arguments = function.args
        self.b = ir.IRBuilder(function.append_basic_block())

    def number(self, value: Int | int) -> Int:
        return Int(self.b, ir.Constant(INT, value)) if isinstance(value, int) else value

    @contextmanager
    def loop(self, start: Int | int, stop: Int | int, step: Int | int = 1) -> Iterator[Int]:
        """for i in range(start, stop, step)."""
        b = self.b
        before, (head, body, end) = b.block, (b.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(INT)
        i.add_incoming(self.number(start).value, before)
        b.cbranch(Int(b, i).compared("<", stop), body, end)
        b.position_at_end(body)
        yield Int(b, i)
        i.add_incoming((Int(b, i) + step).value, b.block)
        b.branch(head)
        b.position_at_end(end)

    def at(self, pointer: ir.Value, index: Int | int) -> ir.Value:
        return self.b.gep(pointer, [self.number(index).value])

    def load(self, pointer: ir.Value, index: Int, vector: ir.Type) -> ir.Value:
        address = self.b.bitcast(self.at(pointer, index), vector.as_pointer())
        return self.b.load(address, align=2 if vector == HALVES else 4)

    def store(self, value: ir.Value, pointer: ir.Value, index: Int) -> None:
        address = self.b.bitcast(self.at(pointer, index), value.type.as_pointer())
        self.b.store(value, address, align=2 if value.type == HALVES else 4)

    def every(self, value: ir.Value) -> ir.Value:
        """A vector of equal floats."""
        empty = ir.Constant(FLOATS, ir.Undefined)
        one = self.b.insert_element(empty, value, ir.Constant(ir.IntType(32), 0))
        return self.b.shuffle_vector(one, empty, _words(0))

    def dot(self, x: Sequence[ir.Value], weights: Sequence[ir.Value]) -> ir.Value:
        """Sum of products, which may be rounded once each."""
        total = None
        for value, weight in zip(x, weights):
            part = self.b.fmul(value, weight, flags=["contract"])
            total = part if total is None else self.b.fadd(total, part, flags=["contract"])
        return total

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

    def compiled(self) -> Callable[..., None]:
        """Takes addresses; other Python threads go on while it runs."""
        self.b.ret_void()
        return _compile(str(self.module), len(self.arguments))


_lock = threading.Lock()
_engines: list[Any] = []  # own the machine code


def _compile(text: str, arguments: int) -> Callable[..., None]:
    with _lock:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        try:
            features = llvm.get_host_cpu_features().flatten()
        except RuntimeError:  # LLVM does not know of some CPUs what they have
            features = ""
        target = llvm.Target.from_default_triple()
        machine = target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3)
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(text), machine)
        engine.finalize_object()
        _engines.append(engine)
        address = engine.get_function_address("kernel")
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)(address)  # type: ignore[no-any-return]


def on_all_threads(work: Callable[[], None]) -> None:
    """Call `work` as often as torch has threads on a CPU, at once. What one raises is raised here."""
    count, failures = torch.get_num_threads(), list[BaseException]()

    def guarded(_: object = None) -> None:
        try:
            work()
        except BaseException as error:  # would be lost in a thread of OpenMP
            failures.append(error)

    team = _openmp()
    if count == 1:
        guarded()
    elif team is not None:
        team(_TASK(guarded), None, count, 0)
    else:
        with ThreadPoolExecutor(count - 1) as pool:
            others = [pool.submit(guarded) for _ in range(count - 1)]
            guarded()
            for other in others:
                other.result()
    if failures:
        raise failures[0]


_TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def _openmp() -> Callable[..., None] | None:
    """OpenMP's entry to the threads of torch's operators. These wait for work in a busy loop for some milliseconds
    after an operator, so that other threads would have to share the cores with them."""
    if not sys.platform.startswith("linux") or not torch.backends.openmp.is_available():
        return None
    team = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    if team is not None:
        team.restype, team.argtypes = None, [_TASK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    return team
