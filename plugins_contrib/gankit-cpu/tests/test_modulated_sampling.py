"""The modulated convolution without gradients on a CPU: kept weights, half precision, when it stands back."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from gankit.core import cuda
from gankit.core.cuda import ConstantWeights, constant_weights, values_only
from gankit.core.interfaces.conditions import CondSpec
from gankit.plugins.generators.stylegan2 import StyleGAN2
from gankit.plugins.generators.stylegan_t import StyleGANT
from gankit_cpu import modulated_sampling, onednn
from gankit_cpu.backend import CPUKernels

F = cuda.setup_filter([1, 3, 3, 1])


def tensors(dtype=torch.float32):
    torch.manual_seed(0)
    return torch.randn(3, 16, 8, 6).to(dtype), torch.randn(24, 16, 3, 3), torch.rand(3, 16) + 0.5


def convolve(x, w, s, up=1, **options):
    options = {"resample_filter": F, "flip_weight": up == 1, "padding": 1, "act": "lrelu", **options}
    return cuda.modulated_conv2d(x, w, s, up=up, **options)


@pytest.fixture
def taken(monkeypatch):
    """How often the path was taken."""
    calls = []
    function = modulated_sampling._modulated_conv2d
    monkeypatch.setattr(modulated_sampling, "_modulated_conv2d", lambda *a: calls.append(1) or function(*a))
    return calls


@pytest.fixture
def reordered(monkeypatch):
    calls = []
    function = onednn.reorder
    monkeypatch.setattr(onednn, "reorder", lambda *a: calls.append(1) or function(*a))
    return calls


@torch.no_grad()
@pytest.mark.parametrize("up", [1, 2])
def test_weights_are_made_ready_once(reordered, monkeypatch, up):
    monkeypatch.setattr(modulated_sampling, "FOLD", 1e9)
    x, w, s = tensors()
    expected, weights = convolve(x, w, s, up, impl="reference"), ConstantWeights()
    for _ in range(3):
        with weights.kept():
            torch.testing.assert_close(convolve(x, w, s, up), expected, rtol=1e-4, atol=1e-4)
    assert len(reordered) == 1
    convolve(x, w, s, up)  # outside nothing is kept
    assert len(reordered) == 2


@torch.no_grad()
@pytest.mark.parametrize("change", ["in place", "data", "load", "under inference mode"])
def test_changed_weights_are_noticed(change, monkeypatch):
    monkeypatch.setattr(modulated_sampling, "FOLD", 1e9)
    x, w, s = tensors()
    weights, layer = ConstantWeights(), nn.Conv2d(16, 24, 3)
    layer.weight.copy_(w)
    other = w.flip(0) * 3
    with weights.kept():
        first = convolve(x, layer.weight, s, demodulate=False)
        if change == "in place":
            layer.weight.copy_(other)
        elif change == "data":
            layer.weight.data = other
        elif change == "load":
            layer.load_state_dict({"weight": other, "bias": layer.bias})
        else:
            with torch.inference_mode():
                layer.weight.copy_(other)
        second = convolve(x, layer.weight, s, demodulate=False)
    torch.testing.assert_close(second, 3 * first.flip(1), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_weights_may_be_kept_by_several_threads():
    x, w, s = tensors()
    expected, weights, wrong = convolve(x, w, s), ConstantWeights(), []
    barrier = threading.Barrier(2)

    def work():
        try:
            with torch.no_grad(), weights.kept():
                barrier.wait()
                same = torch.allclose(convolve(x, w, s), expected, atol=1e-4)
                barrier.wait()
            assert same
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@torch.no_grad()
@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("fold", [0, 1e9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_torchs_private_operators(monkeypatch, up, fold, dtype):
    monkeypatch.setattr(modulated_sampling, "FOLD", fold)
    x, w, s = tensors(dtype)
    expected = convolve(x, w, s, up)
    monkeypatch.setattr(onednn, "packs", lambda dtype: False)
    torch.testing.assert_close(convolve(x, w, s, up), expected)


@torch.no_grad()
@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("fold", [0, 1e9])
@pytest.mark.parametrize("stage", ["reorder", "convolve"])
def test_private_operators_that_fail_are_replaced_with_one_warning(monkeypatch, up, fold, stage):
    monkeypatch.setattr(modulated_sampling, "FOLD", fold)
    monkeypatch.setattr(onednn, "failures", [])
    x, w, s = tensors()
    if not onednn.packs(x.dtype):
        pytest.skip("this torch has no interface to oneDNN")
    expected, weights, calls = convolve(x, w, s, up, impl="reference"), ConstantWeights(), []
    with weights.kept():
        convolve(x, w, s, up)  # leaves a weight in oneDNN's order behind
        if stage == "reorder":
            weights.known.clear()

        def changed(*arguments):
            calls.append(1)
            raise RuntimeError("no such\noverload")

        middle = "" if up == 1 else "_transpose"
        name = (
            f"_reorder_convolution{middle}_weight"
            if stage == "reorder"
            else f"_convolution{middle}_pointwise"
        )
        monkeypatch.setattr(torch.ops.mkldnn, name, changed)
        message = r"oneDNN failed \(RuntimeError: no such overload\).*report"
        with pytest.warns(RuntimeWarning, match=message) as seen:
            results = [convolve(x, w, s, up) for _ in range(3)]
    for result in results:
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    assert (len(seen), len(calls)) == (1, 1)


@torch.no_grad()
def test_what_is_remembered_is_bounded(reordered, monkeypatch):
    monkeypatch.setattr(modulated_sampling, "FOLD", 1e9)
    monkeypatch.setattr(constant_weights, "WEIGHTS", 3)
    _, w, s = tensors()
    weights = ConstantWeights(most=4 * 4 * w.numel() + 100)

    def call(*sides):
        with weights.kept():
            for side in sides:
                convolve(torch.randn(3, 16, side, 6), w, s)
        (ready,) = weights.known.values()
        return [key[1][0] for key in ready.kernels]

    assert call(*range(4, 10)) == [4, 5, 6, 7]  # the first to come
    assert len(reordered) == 6
    assert call(*range(4, 10)) == [4, 5, 6, 7]
    assert len(reordered) == 8
    assert call(8, 9) == [4, 5, 6, 7]
    assert call(8, 9) == [8, 9]  # the others were not used by the last call
    with weights.kept():
        others = [w * i for i in range(5)]
        for other in others:
            convolve(torch.randn(3, 16, 8, 6), other, s)
    assert list(weights.known) == [id(other) for other in others[2:]]


@torch.no_grad()
def test_a_weight_without_room_is_made_ready_once_for_a_batch(reordered, monkeypatch):
    monkeypatch.setattr(modulated_sampling, "FOLD", 1e9)
    monkeypatch.setattr(modulated_sampling, "BLOCK_BYTES", 1)
    x, w, s = tensors()
    weights = ConstantWeights(most=0)
    with weights.kept():
        torch.testing.assert_close(
            convolve(x, w, s), convolve(x, w, s, impl="reference"), rtol=1e-4, atol=1e-4
        )
    assert len(reordered) == 1


@torch.no_grad()
def test_a_torch_without_the_private_names_gets_the_plain_path(taken, monkeypatch):
    x, w, s = tensors()
    expected = convolve(x, w, s)
    assert len(taken) == 1
    for owner, name in (
        (values_only.forward_ad, "_current_level"),
        (torch._C, "_are_functorch_transforms_active"),
    ):
        with monkeypatch.context() as patch:
            patch.delattr(owner, name)
            torch.testing.assert_close(convolve(x, w, s), expected, rtol=1e-4, atol=1e-4)
    assert len(taken) == 1
    convolve(x, w, s)
    assert len(taken) == 2


def test_stands_back_where_gradients_are_needed(taken):
    x, w, s = tensors()
    with torch.no_grad():
        convolve(x, w, s)
    convolve(x, w, s)
    assert len(taken) == 2
    convolve(x, w.requires_grad_(), s)
    convolve(x.double(), w.double(), s.double())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        convolve(x, w, s)
    _, tangent = torch.func.jvp(lambda x: convolve(x, w.detach(), s), (x,), (x,))
    assert tangent.abs().max() > 0
    assert len(taken) == 2


@torch.no_grad()
def test_leaves_its_inputs_alone():
    x, w, s = tensors()
    noise, b = torch.randn(3, 1, 8, 6), torch.randn(24)
    before = [t.clone() for t in (x, w, s, noise, b)]
    convolve(x.contiguous(memory_format=torch.channels_last), w, s, noise=noise, b=b, clamp=0.5, gain=2)
    for t, copy in zip((x, w, s, noise, b), before):
        torch.testing.assert_close(t, copy, rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("network", [StyleGAN2, StyleGANT])
def test_maps_follow_the_dtype_of_ws(network, monkeypatch):
    torch.manual_seed(0)
    generator = network((3, 32, 32), CondSpec(0), z_dim=32, channel_base=512, channel_max=32).eval()
    seen = []
    function = CPUKernels.modulated_conv2d
    monkeypatch.setattr(
        CPUKernels, "modulated_conv2d", lambda self, x, *a: seen.append(x.dtype) or function(self, x, *a)
    )
    monkeypatch.setattr(cuda.dispatch, "_choices", {})
    ws = generator.mapping(torch.randn(4, 32))
    full = generator.synthesis(ws, noise_mode="const")
    assert set(seen) == {torch.float32}
    seen.clear()
    half = generator.synthesis(ws.bfloat16(), noise_mode="const")
    assert set(seen) == {torch.bfloat16}
    assert half.dtype == torch.float32
    scale = 2 * full.std()  # 40 dB of images in [-1, 1] whose standard deviation is 0.5
    assert ((full - half) / scale).square().mean() < 4e-4


@torch.no_grad()
@pytest.mark.parametrize("fold", [0, 1e9])
@pytest.mark.parametrize("together", [1, 2, 3])
def test_phases_of_an_enlarging_convolution(monkeypatch, fold, together):
    """The way that a CPU with AMX takes in bf16, here in float32; also with a last block of samples that is smaller."""
    x, w, s = tensors()
    noise = torch.randn(3, 1, 16, 12)
    expected = convolve(x, w, s, 2, noise=noise, clamp=2, impl="reference")
    calls, phases = [], modulated_sampling._phases
    monkeypatch.setattr(modulated_sampling, "FOLD", fold)
    monkeypatch.setattr(modulated_sampling, "BLOCK_BYTES", together * 4 * (x[0].numel() + 24 * 16 * 12))
    monkeypatch.setattr(modulated_sampling, "_phases_pay", lambda x: True)
    monkeypatch.setattr(modulated_sampling, "_phases", lambda w: calls.append(1) or phases(w))
    weights = ConstantWeights()
    for _ in range(2):
        with weights.kept():
            y = convolve(x, w, s, 2, noise=noise, clamp=2)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    assert len(calls) == (6 if fold == 0 else 1)
