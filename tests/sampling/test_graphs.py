"""Traces of networks: what is printed meanwhile is shown, unless the place of a failure says it better."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from gankit.errors import GankitError
from gankit.sampling.graphs import export_program


class Talks(nn.Module):
    def forward(self, ws: Tensor) -> Tensor:
        print("from a network", file=sys.stderr)
        return ws * 2


class Fails(nn.Module):
    def forward(self, ws: Tensor) -> Tensor:
        print("from a network", file=sys.stderr)
        return ws if ws.mean() > 0 else -ws


def test_a_network_may_print(capsys: pytest.CaptureFixture[str]) -> None:
    export_program(Talks(), {"ws": torch.ones(2, 3)})
    assert "from a network\n" in capsys.readouterr().err


def test_where_a_place_is_known_nothing_else_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(GankitError, match=r"failed at .*test_graphs\.py:\d+ `return ws if ws.mean\(\) > 0"):
        export_program(Fails(), {"ws": torch.ones(2, 3)})
    assert capsys.readouterr().err == ""


def test_without_a_place_torch_is_heard(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, object] = {"sys": sys}
    code = (
        "def export(*_, **__):\n    print('about the graph', file=sys.stderr)\n    raise KeyError('inside')"
    )
    exec(code, names)  # no file's code, so that its frame is not taken for one of a network
    monkeypatch.setattr(torch.export, "export", names["export"])
    with pytest.raises(GankitError, match=r"^tracing for export failed \(KeyError: 'inside'\)"):
        export_program(Talks(), {"ws": torch.ones(2, 3)})
    assert capsys.readouterr().err == "about the graph\n"
