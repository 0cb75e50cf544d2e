"""The functions of gankit that join its rooms: lists, export, conversion, mistakes of whoever calls them."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden_utils import GOLDEN
from tiny_models import write_model

import gankit
from gankit.errors import for_python
from gankit.hookspecs import KINDS


def test_lists() -> None:
    recipes = gankit.list_recipes()
    assert list(recipes) == sorted(recipes)
    assert "StyleGAN2" in recipes["stylegan2"]
    everything = gankit.list_plugins()
    assert {plugin.kind for plugin in everything} <= KINDS.keys()
    assert [p for p in everything if p.kind == "loss"] == gankit.list_plugins("loss")
    assert {"hinge", "non-saturating"} <= {plugin.name for plugin in gankit.list_plugins("loss")}
    assert gankit.list_models() == sorted(p.name for p in gankit.list_plugins("model"))
    with pytest.raises(gankit.GankitError, match="unknown plugin kind 'los'; did you mean 'loss'"):
        gankit.list_plugins("los")


def test_export_of_a_folder_and_its_mistakes(tmp_path: Path) -> None:
    model = str(write_model(tmp_path / "model"))
    out = gankit.export(model, tmp_path / "slim", dtype="fp16")
    assert out == tmp_path / "slim"
    assert gankit.load(out, device="cpu")(cls="round", seeds=0)[0].size == (16, 8)
    with pytest.raises(gankit.GankitError, match="noise is for files"):
        gankit.export(model, tmp_path / "other", noise="none")
    with pytest.raises(gankit.GankitError, match="dtype fp16 is for model folders"):
        gankit.export(model, tmp_path / "other", format="torch-export", dtype="fp16")
    assert not (tmp_path / "other").exists()


def test_errors_of_functions_name_their_arguments() -> None:
    def measure(text: str, *, num_real: int = 1) -> None:
        raise gankit.GankitError(text)

    for text, told in {
        "--num-real 0 is not possible": "num_real 0 is not possible",
        "raise --num-real, or lower --num": "raise num_real, or lower --num",
        "continue it by `gankit train --num-real RUN`": "continue it by `gankit train --num-real RUN`",
        "continue it by gankit train --resume RUN": "continue it by gankit train --resume RUN",
        "a --b: no such file": "a --b: no such file",
    }.items():
        with pytest.raises(gankit.GankitError) as caught:
            for_python(measure)(text)
        assert str(caught.value) == told


def test_the_example_of_a_model_card_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gankit.export(str(write_model(tmp_path / "model", cls=False)), tmp_path / "slim")
    code = (
        (tmp_path / "slim" / "README.md")
        .read_text(encoding="utf-8")
        .split("```python")[1]
        .partition("```")[0]
    )
    monkeypatch.chdir(tmp_path)  # the card calls the model by its folder
    exec(code, {})


def test_convert(tmp_path: Path) -> None:
    notes = gankit.convert(GOLDEN / "pickles" / "sg2_uncond.pkl", tmp_path / "converted")
    assert all(isinstance(note, str) for note in notes)
    assert gankit.load(tmp_path / "converted", device="cpu")(seeds=0)
    with pytest.raises(gankit.GankitError, match="neither a pickle or torch file"):
        gankit.convert(tmp_path / "missing.pkl", tmp_path / "nothing")
