"""`gankit doctor`: one page, exit code 0 where all is well, 1 where a self-test or the choice fails, no traceback."""

from __future__ import annotations

import pytest
import torch

from gankit._version import __version__
from gankit.core.config.registry import Registry, registry
from gankit.core.cuda import dispatch


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(dispatch, "_choices", {})
    monkeypatch.setattr(dispatch, "_warned", set())
    monkeypatch.setattr(dispatch, "requested", "auto")


def test_page(gankit_cli):
    result = gankit_cli("doctor")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert len(lines) < 60
    assert torch.__version__ in result.out
    assert "all is well" in lines[-1]
    assert any(line.split()[:3] == ["triton", "gankit", f"{__version__},"] for line in lines)
    for operator in dispatch.OPERATORS:
        rows = [line.split() for line in lines if line.startswith(operator)]
        own = "cpu" in dispatch.names() and hasattr(dispatch.backend("cpu"), operator)
        expected = "cpu" if own else "parts" if operator == "add_rgb" else "composite"
        assert [operator, "cpu", expected] in [row[:3] for row in rows]
        for name in ("reference", "composite", *(["cpu"] if own else [])):
            (error,) = [row[3] for row in rows if row[1:3] == ["cpu", name] and len(row) == 4]
            assert 0 < float(error) < 1e-5


def test_a_wrong_operator_is_found(gankit_cli, monkeypatch):
    right = dispatch.COMPOSITE["upfirdn2d"]
    monkeypatch.setitem(dispatch.COMPOSITE, "upfirdn2d", lambda *arguments: 1.01 * right(*arguments))
    result = gankit_cli("doctor")
    assert result.code == 1
    rows = [line for line in result.out.splitlines() if "FAILED:" in line]
    # the other one is made of it
    assert {tuple(row.split()[:3]) for row in rows} == {
        (op, "cpu", "composite") for op in ("upfirdn2d", "add_rgb")
    }
    assert all("was wrong by" in row for row in rows)
    assert "Traceback" not in result.out + result.err
    assert "see FAILED above" in result.out


def test_an_operator_that_raises_is_found(gankit_cli, monkeypatch):
    monkeypatch.setitem(dispatch.COMPOSITE, "bias_act", lambda *arguments: 1 // 0)
    result = gankit_cli("doctor")
    assert result.code == 1
    assert "FAILED: raised ZeroDivisionError" in result.out
    assert "Traceback" not in result.out + result.err


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("tritton", "unknown implementation in GANKIT_OPS 'tritton'; did you mean 'triton'"),
        ("triton", "GANKIT_OPS=triton: triton does not run on cpu here"),
    ],
)
def test_a_bad_environment_is_on_the_page(gankit_cli, monkeypatch, value, message):
    monkeypatch.setattr(dispatch, "requested", value)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    result = gankit_cli("doctor")
    assert result.code == 1
    assert message in result.out
    assert "Traceback" not in result.out + result.err


def without(monkeypatch, name):
    """As if the package of an op backend were not installed."""
    plugins = {key: plugin for key, plugin in registry().plugins.items() if key != (dispatch.KIND, name)}
    monkeypatch.setattr(dispatch, "registry", lambda: Registry(plugins))


def test_it_says_what_gankit_cpu_would_bring(gankit_cli, monkeypatch):
    without(monkeypatch, "cpu")
    result = gankit_cli("doctor")
    assert result.code == 0
    (line,) = [
        line for line in result.out.splitlines() if line.startswith("`pip install gankit-cpu` would bring")
    ]
    assert "half of the products" in line
    rows = [line.split()[:3] for line in result.out.splitlines()]
    assert ["modulated_conv2d", "cpu", "composite"] in rows
    assert ["add_rgb", "cpu", "parts"] in rows


def test_a_backend_that_cannot_be_imported_is_on_the_page(gankit_cli, monkeypatch):
    plugins = dict(registry().plugins)
    broken = Registry(plugins)
    broken.register(dispatch.KIND, "broken", "no_such_module:Backend", package="my-kernels", version="1.0")
    monkeypatch.setattr(dispatch, "registry", lambda: broken)
    monkeypatch.setattr("gankit.cli.doctor.registry", lambda: broken)
    result = gankit_cli("doctor")
    assert result.code == 0
    (line,) = [line for line in result.out.splitlines() if line.startswith("broken")]
    assert "my-kernels" in line
    assert "no_such_module" in line
