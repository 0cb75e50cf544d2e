"""Op backends of other packages: which calls they get, and what happens when they fail."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch

from gankit.core import cuda
from gankit.core.config.registry import Registry, registry
from gankit.core.cuda import dispatch
from gankit.core.interfaces.op_backend import OpBackend
from gankit.errors import GankitError

CPU = torch.device("cpu")


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
    monkeypatch.setattr(dispatch, "registry", lambda: Registry(plugins, hidden=["gankit-cpu"]))
    with pytest.raises(
        GankitError, match=r"GANKIT_OPS 'cpu'.*GANKIT_PLUGINS hides the plugins of gankit-cpu"
    ) as e:
        cuda.bias_act(x)
    assert "pip install" not in str(e.value)
