"""Published networks become models that draw the same images."""

from __future__ import annotations

import collections
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pickle_utils import PICKLES, check_images
from runs import Result
from safetensors.torch import load_file

import gankit
from gankit.core.config import recipe as recipes
from gankit.core.models import model_folder
from gankit.errors import GankitError
from gankit.interop.import_foreign import convert
from gankit.interop.torch_files import open_foreign

Cli = Callable[..., Result]
KNOWN = ("sg2_uncond", "sg2_cond", "sg3_t", "sg3_r", "sgxl_stem", "sgxl_superres", "sgt")


@pytest.mark.filterwarnings("ignore:D is left out")
@pytest.mark.parametrize("name", KNOWN)
def test_converted_snapshot_draws_the_reference_images(name: str, tmp_path: Path, gankit_cli: Cli) -> None:
    done = gankit_cli("convert", PICKLES / f"{name}.pkl", tmp_path / "model")
    assert done.code == 0, done.err
    model = model_folder.load_model(tmp_path / "model")
    check_images(model, name)
    assert recipes.read(str(tmp_path / "model")).name == name


@pytest.mark.parametrize("name", ["sg2_uncond", "sg2_cond", "sg3_t", "sg3_r"])
def test_bare_state_dict_with_official_names(name: str, tmp_path: Path) -> None:
    """What `torch.save(G.state_dict())` writes: sizes and architecture are taken from names and shapes."""
    network = open_foreign(PICKLES / f"{name}.pkl").networks["G_ema"]
    state = collections.OrderedDict((key, record.to_tensor()) for key, record in network.tensors.items())
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    for content in (state, {"g_ema": state}):
        torch.save(content, tmp_path / "file.pt")
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        convert(tmp_path / "file.pt", tmp_path / "model")
        check_images(model_folder.load_model(tmp_path / "model"), name)


def test_network_can_be_chosen(tmp_path: Path) -> None:
    for role in ("G", "G_ema"):
        convert(PICKLES / "sg2_uncond.pkl", tmp_path / role, network=role)
    raw, average = (load_file(tmp_path / role / "generator.safetensors") for role in ("G", "G_ema"))
    name = "synthesis.b8.conv1.weight"
    assert not torch.equal(raw[name], average[name])
    assert torch.equal(
        raw[name], open_foreign(PICKLES / "sg2_uncond.pkl").networks["G"].tensors[name].to_tensor()
    )
    with pytest.raises(GankitError, match="unknown network 'G_emma'; did you mean 'G_ema'"):
        convert(PICKLES / "sg2_uncond.pkl", tmp_path / "x", network="G_emma")
    with pytest.raises(GankitError, match="is a discriminator"):
        convert(PICKLES / "sg2_uncond.pkl", tmp_path / "x", network="D")


def test_classes_get_names(tmp_path: Path, gankit_cli: Cli) -> None:
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\neel\n")
    for names in ("ant,bee, cat,dog,eel", tmp_path / "names.txt"):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        gankit_cli("convert", PICKLES / "sg2_cond.pkl", tmp_path / "model", "--classes", names)
        pipe = gankit.load(tmp_path / "model", device="cpu")
        assert pipe.conditioner.encode([pipe.label(cls="dog")]).embedding.tolist() == [[0, 0, 0, 1, 0]]
    for wrong, message in (("a,b", "gives 2 different names, but"), ("a,a,b,c,d", "gives 4 different names")):
        done = gankit_cli("convert", PICKLES / "sg2_cond.pkl", tmp_path / "other", "--classes", wrong)
        assert done.code == 2
        assert message in done.message
    numbered = gankit.load(str(PICKLES / "sg2_cond.pkl"), device="cpu")
    assert numbered.conditioner.encode([numbered.label(cls="3")]).embedding.tolist() == [[0, 0, 0, 1, 0]]
