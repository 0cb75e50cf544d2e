"""Programs of torch.export: they run without gankit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import write_model

from gankit.sampling.export_file import export_file


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    root = tmp_path_factory.mktemp("models")
    wanted = [("stylegan2", True), ("stylegan2", False), ("stylegan-t", True)]
    return {(name, cls): write_model(root / f"{name}-{cls}", name, cls=cls) for name, cls in wanted}


def test_a_torch_program_needs_no_gankit(folders: dict[Any, Path], tmp_path: Path) -> None:
    path = export_file(str(folders["stylegan-t", True]), tmp_path / "f", "torch-export")
    code = (
        "import sys; sys.modules['gankit'] = None; import torch\n"
        f"m = torch.export.load({str(path)!r}).module()\n"
        "print(*m(z=torch.zeros(5, 8), psi=torch.tensor(0.5), c=torch.zeros(5, 2)).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stdout == "5 3 8 16\n", done.stderr
