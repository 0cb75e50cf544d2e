"""Kernels for CPUs: what they are made of, threads, and what `gankit doctor` says of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from llvmlite import ir

from gankit.cli import doctor
from gankit.core.cuda import dispatch
from gankit_cpu import kernels
from gankit_cpu.kernels import LANES
from gankit_cpu.llvm import filters, machine, winograd_tiles
from gankit_cpu.llvm.machine import FLOAT, FLOATS, HALF, HALVES, INT, WORDS, Code, Int

EVERY_HALF = np.arange(2**16).astype(np.uint16)  # the values of a bfloat16, as bits


def run(pointers, build, *arrays):
    code = Code(pointers)
    build(code, *code.arguments[:-1])
    code.compiled().run([[array.ctypes.data for array in arrays]])


def test_widening_and_rounding_are_those_of_torch():
    torch.manual_seed(0)
    random = torch.randint(-(2**31), 2**31, (2**16,), dtype=torch.int64).to(torch.int32).view(torch.float32)
    ties = torch.from_numpy(EVERY_HALF.astype(np.uint32) << 16 | 0x8000).view(torch.float32)
    x = torch.cat([random, ties, torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0] * 4)])
    y = np.zeros(len(x), np.uint16)

    def rounded(code, source, target):
        with code.loop(0, len(x), LANES) as i:
            code.store(code.rounded(code.load(source, i, FLOATS)), target, i)

    run([FLOAT, HALF], rounded, x.numpy(), y)
    actual = torch.from_numpy(y).view(torch.bfloat16)
    torch.testing.assert_close(actual, x.bfloat16(), rtol=0, atol=0, equal_nan=True)

    def widened(code, x, y):
        with code.loop(0, 2**16, LANES) as i:
            code.store(code.widened(code.load(x, i, HALVES)), y, i)

    x, wide = EVERY_HALF, np.zeros(2**16, np.float32)
    run([HALF, FLOAT], widened, x, wide)
    expected = torch.from_numpy(x).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(wide.view(np.uint32), expected.view(np.uint32))


@pytest.fixture(params=[True, False], ids=["OpenMP", "Python"])
def team(request, monkeypatch):
    """Whose threads these are."""
    if not request.param:
        monkeypatch.setattr(machine, "_openmp", lambda: None)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("tasks", [0, 1, 2, 40])
def test_each_task_is_done_once(team, threads, count, tasks):
    threads(count)
    code = Code([INT])
    b, (mine, scratch) = code.b, code.arguments
    b.store(b.add(b.load(mine), ir.Constant(INT, 1)), mine)
    with code.loop(0, 100) as i:  # a thread has these for itself
        b.store(ir.Constant(FLOAT, 7.0), code.at(scratch, i))
    done = np.zeros(tasks, np.int64)
    kernel = code.compiled()
    for _ in range(20):
        kernel.run([[done[i:].ctypes.data] for i in range(tasks)], scratch=100)
    assert (done == 20).all()


@pytest.mark.parametrize("count", [2, 5])
def test_threads_work_at_once(team, threads, count):
    """Each waits, for a long time at most, until as many have come."""
    threads(count)
    code = Code([INT, INT])
    b, (come, seen, _) = code.b, code.arguments
    b.atomic_rmw("add", come, ir.Constant(INT, 1), "seq_cst")
    waiting = b.alloca(INT)
    b.store(ir.Constant(INT, 1), waiting)
    with code.loop(0, 3 * 10**9):
        with b.if_then(Int(b, b.load(waiting)).compared(">", 0)):
            now = Int(b, b.load_atomic(come, "seq_cst", 8))
            b.store(b.zext(now.compared("<", count), INT), waiting)
        with b.if_then(Int(b, b.load(waiting)).compared("==", 0)):
            b.store(ir.Constant(INT, 1), seen)
            b.ret_void()
    together, all_seen = np.zeros(1, np.int64), np.zeros(count, np.int64)
    code.compiled().run([[together.ctypes.data, all_seen[i:].ctypes.data] for i in range(count)])
    assert all_seen.all()


def test_what_a_loop_carries():
    code = Code([INT])
    b, (result, _) = code.b, code.arguments
    values = [ir.Constant(INT, 1), ir.Constant(INT, 0)]
    with code.loop(0, 10, carried=values) as i:
        values[:] = [b.mul(values[0], ir.Constant(INT, 2)), (Int(b, values[1]) + i).value]
    for i, value in enumerate(values):
        b.store(value, code.at(result, i))
    out = np.zeros(2, np.int64)
    code.compiled().run([[out.ctypes.data]])
    assert out.tolist() == [1024, 45]


@pytest.mark.skipif(not machine.features().get("avx512bf16"), reason="has no AVX512_BF16")
def test_instructions_for_bfloat16():
    torch.manual_seed(0)
    x = torch.cat(
        [torch.randn(58) * 3, torch.tensor([torch.inf, -torch.inf, torch.nan, 3e38, -0.0, 1 + 2**-8])]
    )
    bits = np.zeros(64, np.uint16)

    def joined(code, source, target):
        for i in (0, 32):
            parts = [code.load(source, code.number(i + j), FLOATS) for j in (0, LANES)]
            code.store(code.joined(*parts), target, code.number(i))

    run([FLOAT, HALF], joined, x.numpy(), bits)
    halves = torch.from_numpy(bits).view(torch.bfloat16)
    torch.testing.assert_close(halves, x.bfloat16(), rtol=0, atol=0, equal_nan=True)

    apart, again = np.zeros(64, np.float32), np.zeros(64, np.float32)

    def split(code, source, apart, again):
        for i in (0, 32):
            pairs = code.load(source, code.number(i // 2), WORDS)
            for j, part in enumerate(code.even_and_odd(pairs)):
                code.store(part, apart, code.number(i + j * LANES))
            for j, part in enumerate(code.in_turn(*code.even_and_odd(pairs))):
                code.store(part, again, code.number(i + j * LANES))

    run([machine.WORD, FLOAT, FLOAT], split, bits, apart, again)
    expected = halves.float().numpy()
    np.testing.assert_array_equal(again, expected)
    np.testing.assert_array_equal(apart, expected.reshape(2, 16, 2).transpose(0, 2, 1).ravel())

    y, total = torch.randn(64).bfloat16(), np.ones(16, np.float32)

    def summed(code, a, b, c):
        values = [code.load(p, code.number(0), WORDS) for p in (a, b)]
        code.store(code.sum_of_pairs(code.load(c, code.number(0), FLOATS), *values), c, code.number(0))

    run([machine.WORD, machine.WORD, FLOAT], summed, bits, y.view(torch.int16).numpy(), total)
    products = (halves.double() * y.double())[:32].view(16, 2).sum(1)
    np.testing.assert_allclose(total, 1 + products, rtol=1e-6, atol=1e-6)


def test_doctor_tells_of_kernels(monkeypatch):
    monkeypatch.setattr(dispatch, "_choices", {})
    page, well = doctor.examine()
    assert well
    assert "llvmlite" in page
    monkeypatch.setattr(kernels, "_missing", ["llvmlite cannot be imported: none here"])
    page, well = doctor.examine()
    assert well
    assert "no kernels by LLVM: llvmlite cannot be imported: none here" in page


@pytest.mark.parametrize("module", [filters, winograd_tiles])
def test_doctor_finds_a_kernel_that_fails_or_is_wrong(monkeypatch, module):
    monkeypatch.setattr(dispatch, "_choices", {})
    monkeypatch.setattr(kernels, "_failures", [])
    right = module.run
    monkeypatch.setattr(module, "run", lambda x, y, *rest: (right(x, y, *rest), y.mul_(1.01))[1])
    page, well = doctor.examine()
    assert not well
    assert "was wrong by" in page

    def broken(*arguments):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(module, "run", broken)
    page, well = doctor.examine()
    assert not well
    assert "FAILED: raised RuntimeError: no such instruction" in page
