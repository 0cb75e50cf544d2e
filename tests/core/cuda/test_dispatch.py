"""Which implementation is chosen, why, and what is said about it."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gankit.core import cuda
from gankit.core.config.registry import Registry, registry
from gankit.core.cuda import dispatch, selftest
from gankit.core.interfaces.conditions import CondSpec
from gankit.core.interfaces.op_backend import OpBackend
from gankit.errors import GankitError
from gankit.plugins.generators.stylegan2 import StyleGAN2
from gankit.plugins.op_backends import triton

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(dispatch, "_choices", {})
    monkeypatch.setattr(dispatch, "_warned", set())
    monkeypatch.setattr(dispatch, "_failed", {})
    monkeypatch.setattr(dispatch, "requested", "auto")


@pytest.fixture
def calls(monkeypatch):
    """(implementation, operator) of each call."""
    made = []

    def spy(name, operator, function):
        return lambda *arguments: made.append((name, operator)) or function(*arguments)

    for name, table in (("reference", dispatch.REFERENCE), ("composite", dispatch.COMPOSITE)):
        for operator, function in list(table.items()):
            monkeypatch.setitem(table, operator, spy(name, operator, function))
    return made


def test_argument_beats_environment_beats_auto(calls, monkeypatch):
    x = torch.zeros(1, 1, 2, 2)
    cuda.bias_act(x)
    monkeypatch.setattr(dispatch, "requested", "reference")
    cuda.bias_act(x)
    cuda.upsample2d(x, None)
    cuda.bias_act(x, impl="composite")
    assert calls == [
        ("composite", "bias_act"),
        ("reference", "bias_act"),
        ("reference", "upfirdn2d"),
        ("composite", "bias_act"),
    ]
    assert "GANKIT_OPS=reference" in dispatch.choose("bias_act", CPU).reason


def test_unknown_value_of_the_environment(monkeypatch):
    monkeypatch.setattr(dispatch, "requested", "composit")
    with pytest.raises(GankitError, match="in GANKIT_OPS 'composit'; did you mean 'composite'"):
        cuda.bias_act(torch.zeros(1, 1))


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True,
                          text=True, cwd=Path(__file__).parent, check=False)  # fmt: skip


def test_environment_is_read():
    code = "import torch; from gankit.core.cuda.dispatch import choose; print(choose('bias_act', torch.device('cpu')))"
    done = run(code, GANKIT_OPS="reference")
    assert "GANKIT_OPS=reference asks for it" in done.stdout, done.stderr


def test_triton_is_refused_where_it_cannot_run(monkeypatch):
    x = torch.zeros(1, 1, 2, 2)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(
        ValueError, match="impl='triton': triton does not run on cpu here: it needs an NVIDIA GPU"
    ):
        cuda.bias_act(x, impl="triton")
    monkeypatch.setattr(dispatch, "requested", "triton")
    with pytest.raises(GankitError, match=r"GANKIT_OPS=triton: .* use 'auto' or 'composite'"):
        cuda.bias_act(x)


# -------------------------------------------------------------------------- on a GPU that this machine need not have


@pytest.fixture
def ampere(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    fake = type("Kernels", (), {"bias_act": lambda *a: "kernel", "upfirdn2d": lambda *a: "other"})
    monkeypatch.setattr(triton, "kernels", lambda: fake)


def chosen(operator="bias_act"):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        choice = dispatch.choose(operator, GPU)
    return choice, [str(w.message) for w in caught]


def test_auto_takes_a_kernel_that_passes_its_self_test(ampere, monkeypatch):
    tested = []
    monkeypatch.setattr(dispatch, "self_test", lambda *a: tested.append(a) or selftest.Result(2e-7))
    for _ in range(2):
        choice, messages = chosen()
        assert (choice.name, choice.function(), messages) == ("triton", "kernel", [])
    assert tested == [("bias_act", "triton", GPU)]  # once
    assert "2e-07" in choice.reason


@pytest.mark.parametrize("operator", dispatch.OPERATORS)
def test_auto_leaves_small_tensors_to_plain_torch(operator, monkeypatch):
    monkeypatch.setattr(triton.Triton, "obstacle", lambda self, device: None)
    monkeypatch.setattr(triton.Triton, "add_rgb", lambda *a: None, raising=False)
    monkeypatch.setattr(dispatch, "self_test", lambda *a: selftest.Result(2e-7))

    def function(elements, impl):
        return dispatch.function(operator, SimpleNamespace(device=GPU, numel=lambda: elements), impl)

    composite = dispatch.COMPOSITE[operator]
    assert function(triton.SMALL, "auto") is not composite
    always = operator in ("filtered_lrelu", "add_rgb")
    assert (function(triton.SMALL - 1, "auto") is not composite) == always
    assert function(triton.SMALL - 1, "triton") is not composite


def test_auto_avoids_a_kernel_that_fails_its_self_test_with_one_warning(ampere, monkeypatch):
    monkeypatch.setattr(dispatch, "self_test", lambda *a: selftest.Result(0.3, "was wrong by 3.0e-01"))
    choice, messages = chosen()
    assert choice.name == "composite"
    assert choice.function is dispatch.COMPOSITE["bias_act"]
    assert len(messages) == 1
    assert "the self-test of bias_act was wrong by 3.0e-01" in messages[0]
    assert "report it with what `gankit doctor` prints" in messages[0]
    assert chosen()[1] == []


def test_missing_triton_is_told_once(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))

    def missing():
        raise ImportError("No module named 'triton'")

    monkeypatch.setattr(triton, "kernels", missing)
    first, messages = chosen()
    assert first.name == "composite"
    assert len(messages) == 1
    assert "Triton cannot be imported (No module named 'triton')" in messages[0]
    assert chosen("upfirdn2d")[1] == []


def test_old_gpus_get_composites(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Some GPU")
    choice, _ = chosen()
    assert choice.name == "composite"
    assert "Some GPU has a compute capability below 8.0" in choice.reason


def test_an_image_is_made_of_parts_where_no_backend_has_it_whole(ampere, monkeypatch):
    """Each part is chosen by itself."""
    monkeypatch.setattr(dispatch, "self_test", lambda *a: selftest.Result(2e-7))
    assert chosen("add_rgb")[0].name == "parts"


# ---------------------------------------------------------------------------------------------------- op backends


class Doubled(OpBackend):
    """One operator, twice of what it should be, and not for tensors of one axis."""

    devices = ("cpu",)
    self_test = False

    def obstacle(self, device):
        return None if device.type == "cpu" else "it is for CPUs"

    def bias_act(self, x, *rest):
        return NotImplemented if x.ndim == 1 else 2 * dispatch.COMPOSITE["bias_act"](x, *rest)


@pytest.fixture
def doubled(monkeypatch):
    """A backend of another package, which `auto` asks first."""
    more = Registry(dict(registry().plugins))
    more.register(dispatch.KIND, "doubled", "no_such_module:Doubled", package="doubling", version="3.1")
    monkeypatch.setattr(
        more, "load", lambda kind, name: Doubled if name == "doubled" else registry().load(kind, name)
    )
    monkeypatch.setattr(dispatch, "registry", lambda: more)
    monkeypatch.setattr(
        dispatch, "names", lambda: ["doubled", *(n for n in more.names(dispatch.KIND) if n != "doubled")]
    )
    monkeypatch.setattr(dispatch, "backend", functools.cache(dispatch.backend.__wrapped__))


def test_a_backend_of_another_package(doubled):
    x = torch.ones(1, 1, 2, 2)
    assert cuda.bias_act(x).mean() == 2
    assert cuda.bias_act(x, impl="doubled").mean() == 2
    assert cuda.bias_act(x, impl="composite").mean() == 1
    assert cuda.bias_act(x[0, 0, 0], dim=0).mean() == 1  # left to torch
    assert cuda.upsample2d(x, None, impl="doubled").shape == (1, 1, 4, 4)
    assert "doubled leaves it to torch" in dispatch.choose("upfirdn2d", CPU, "doubled").reason
    assert dispatch.self_test("bias_act", "doubled", CPU).failure.startswith("was wrong by")
    with pytest.raises(ValueError, match="doubled does not run on meta here: it is for CPUs"):
        cuda.bias_act(x.to("meta"), impl="doubled")


def test_graphs_hold_no_backend(doubled):
    x = torch.ones(1, 1, 2, 2)
    compiled = torch.compile(lambda x: cuda.bias_act(x), fullgraph=True, backend="eager")
    assert compiled(x).mean() == 1
    assert torch.jit.trace(lambda x: cuda.bias_act(x), (x,), check_trace=False)(x).mean() == 1


def test_auto_tests_a_backend_that_wants_it(doubled, monkeypatch):
    monkeypatch.setattr(Doubled, "self_test", True)
    told = "'doubled' of package 'doubling' is not used on cpu: the self-test of bias_act was wrong"
    with pytest.warns(RuntimeWarning, match=told):
        assert cuda.bias_act(torch.ones(1, 1, 2, 2)).mean() == 1


def test_kernels_that_failed_fail_the_self_test(doubled, monkeypatch):
    monkeypatch.setattr(Doubled, "bias_act", lambda self, *a: dispatch.COMPOSITE["bias_act"](*a))
    assert dispatch.self_test("bias_act", "doubled", CPU).passed
    monkeypatch.setattr(Doubled, "failures", lambda self: ["RuntimeError: no such instruction"])
    assert "raised RuntimeError: no such" in dispatch.self_test("bias_act", "doubled", CPU).failure


def no_licence(self):
    raise RuntimeError("no licence")


def test_a_backend_that_cannot_be_set_up_costs_a_warning(doubled, monkeypatch):
    monkeypatch.setattr(Doubled, "__init__", no_licence)
    x = torch.ones(1, 1, 2, 2)
    with pytest.warns(
        RuntimeWarning, match=r"of package 'doubling' cannot be set up \(RuntimeError: no licence\)"
    ):
        assert cuda.bias_act(x).mean() == 1
    with pytest.raises(GankitError, match="uninstall that package, or set GANKIT_OPS=composite"):
        cuda.bias_act(x, impl="doubled")


def test_an_obstacle_that_fails_is_a_reason(doubled, monkeypatch):
    monkeypatch.setattr(Doubled, "obstacle", lambda self, device: no_licence(self))
    x = torch.ones(1, 1, 2, 2)
    with pytest.warns(RuntimeWarning, match="is not used on cpu: RuntimeError: no licence"):
        assert cuda.bias_act(x).mean() == 1
    with pytest.raises(ValueError, match="doubled does not run on cpu here: RuntimeError: no licence"):
        cuda.bias_act(x, impl="doubled")


def test_a_kernel_that_fails_later_is_replaced(doubled, monkeypatch):
    """With one warning, for the rest of the process; what is the caller's fault is raised as ever."""
    plain = dispatch.COMPOSITE["bias_act"]

    def for_small_batches(self, x, *rest):
        return plain(x, *rest) if len(x) < 7 else no_licence(self)

    monkeypatch.setattr(Doubled, "bias_act", for_small_batches)
    assert cuda.bias_act(torch.ones(1, 1, 2, 2)).mean() == 1
    with pytest.warns(RuntimeWarning, match="bias_act of op backend 'doubled' of package 'doubling' failed"):
        assert cuda.bias_act(torch.ones(7, 1, 2, 2)).mean() == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cuda.bias_act(torch.ones(7, 1, 2, 2)).mean() == 1
    assert dispatch.self_test("bias_act", "doubled", CPU).failure == "raised RuntimeError: no licence"


def test_backends_in_use(doubled, monkeypatch):
    used = dispatch.backends_in_use(CPU)
    assert used["doubled"] == "doubling 3.1"
    assert used["composite"] == f"torch {torch.__version__}"
    assert "parts" not in used
    monkeypatch.setattr(Doubled, "uses", ("torch", "no-such-distribution"))
    assert dispatch.version_of("doubled").startswith("doubling 3.1, torch ")
    assert dispatch.version_of("doubled").endswith(", no no-such-distribution")
    monkeypatch.setattr(dispatch, "requested", "reference")
    assert dispatch.backends_in_use(CPU) == {"reference": f"torch {torch.__version__}"}


def test_cpu_without_its_package(monkeypatch):
    plugins = {key: plugin for key, plugin in registry().plugins.items() if key != (dispatch.KIND, "cpu")}
    monkeypatch.setattr(dispatch, "registry", lambda: Registry(plugins))
    x = torch.ones(1, 1, 2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that it is not there is no reason to warn
        cuda.modulated_conv2d(x, x, x[:, :, 0, 0])
    with pytest.raises(
        ValueError, match=r"'composite' is plain torch, .* `pip install gankit-cpu` brings 'cpu'"
    ):
        cuda.bias_act(x, impl="cpu")
    monkeypatch.setattr(dispatch, "requested", "cpu")
    with pytest.raises(GankitError, match=r"GANKIT_OPS 'cpu'.* `pip install gankit-cpu` brings 'cpu'"):
        cuda.bias_act(x)
    assert dispatch.choose("modulated_conv2d", CPU, "composite").name == "composite"


# --------------------------------------------------------------------------------------------------- self-tests


@pytest.mark.parametrize("operator", dispatch.OPERATORS)
@pytest.mark.parametrize("name", dispatch.PLAIN)
def test_self_tests_pass(operator, name):
    result = dispatch.self_test(operator, name, CPU)
    assert result.passed
    assert 0 < result.error < 1e-5  # float32 against float64: zero would mean that nothing was compared


@pytest.mark.parametrize("operator", dispatch.OPERATORS)
def test_self_tests_find_wrong_values_and_derivatives(operator):
    right = dispatch.COMPOSITE[operator]

    class WrongGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, dy):
            return dy * 1.01

    for wrong in (
        lambda *a: right(*a) + 0.01,
        lambda *a: WrongGradient.apply(right(*a)),
        lambda *a: right(*a)[:1],
    ):
        assert not selftest.check(operator, wrong, CPU).passed
    with pytest.raises(ValueError, match="no self-test of an operator 'bias_acts'"):
        selftest.check("bias_acts", lambda *a: 1, CPU)
    assert "raised ZeroDivisionError" in selftest.check(operator, lambda *a: 1 // 0, CPU).failure


def test_a_self_test_hides_no_other_warning(monkeypatch):
    right = dispatch.COMPOSITE["bias_act"]

    def warns(*arguments):
        warnings.warn("something failed (in this test)", RuntimeWarning, stacklevel=1)
        return right(*arguments)

    monkeypatch.setitem(dispatch.COMPOSITE, "bias_act", warns)
    with pytest.warns(RuntimeWarning, match="in this test"):
        assert dispatch.self_test("bias_act", "composite", torch.device("cpu")).passed


def test_self_tests_leave_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert dispatch.self_test("modulated_conv2d", "composite", CPU).passed
    assert torch.equal(torch.rand(3), expected)


# ------------------------------------------------------------------------------------------ compiled and exported


class Small(nn.Module):
    """Every operator once."""

    def forward(self, x, w, s):
        f = cuda.setup_filter([1, 3, 3, 1])
        x = cuda.modulated_conv2d(
            x, w, s, up=2, padding=1, resample_filter=f, flip_weight=False, act="lrelu", gain=None
        )
        x = cuda.filtered_lrelu(x, f[0], f[0], up=2, down=2, padding=3, clamp=4)
        x = cuda.filtered_lrelu(x, f, f, up=2, down=2, padding=3)
        x = cuda.conv2d_resample(x, w, f, down=2, padding=1)
        x = cuda.downsample2d(cuda.upsample2d(cuda.filter2d(x, f), f), f)
        return cuda.bias_act(x, w[:, 0, 0, 0], act="swish", clamp=3)


def inputs(batch):
    torch.manual_seed(0)
    return torch.randn(batch, 3, 6, 4), torch.randn(3, 3, 3, 3), torch.randn(batch, 3)


@pytest.mark.parametrize("request_", ["auto", "reference"])
def test_compiles_without_graph_breaks(request_, monkeypatch):
    monkeypatch.setattr(dispatch, "requested", request_)
    module = Small()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=False)
    torch.testing.assert_close(compiled(*inputs(2)), module(*inputs(2)))
    variables = [v.requires_grad_() for v in inputs(2)]
    actual, expected = (
        torch.autograd.grad(call(*variables).square().sum(), variables) for call in (compiled, module)
    )
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_exports_with_dynamic_batch_and_without_gankit():
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        Small(), inputs(3), dynamic_shapes=({0: batch}, None, {0: batch}), strict=False
    )
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any("gankit" in target for target in targets)
    for n in (1, 3, 5):
        torch.testing.assert_close(program.module()(*inputs(n)), Small()(*inputs(n)), rtol=1e-4, atol=1e-5)


class Images(nn.Module):
    """z -> images of a small generator."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.generator = StyleGAN2((3, 16, 8), CondSpec(0), **StyleGAN2.conformance).eval()

    def forward(self, z):
        return self.generator.synthesis(self.generator.mapping(z), noise_mode="const")


def test_a_generator_compiles_without_graph_breaks():
    z, images = torch.randn(2, 16), Images()
    compiled = torch.compile(images, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z), images(z), rtol=1e-4, atol=1e-5)


def test_a_generator_exports_with_dynamic_batch():
    images, dim = Images(), torch.export.Dim("batch", min=1)
    program = torch.export.export(images, (torch.randn(2, 16),), dynamic_shapes=({0: dim},), strict=False)
    for n in (1, 4):
        z = torch.randn(n, 16)
        torch.testing.assert_close(program.module()(z), images(z), rtol=1e-4, atol=1e-5)
