"""A loaded model lies in its file and may be changed; pretrained networks inside its generator are compared."""

from __future__ import annotations

import pytest
import torch
from fake_packages import registering, site_folder, write_package

import gankit
from gankit.core.config import options
from gankit.core.config import recipe as recipes
from gankit.core.interfaces.conditions import CondSpec
from gankit.core.interfaces.labels import Vocabulary
from gankit.core.models import build, model_folder, stored_state
from gankit.errors import GankitError


def test_a_loaded_model_lies_in_its_file_and_may_be_changed(tmp_path):
    pytest.importorskip("gankit_avatars")
    stored = gankit.load("avatars", device="cpu")  # in fp16, which is widened into memory
    model_folder.save_model(
        tmp_path,
        stored.recipe,
        stored.conditioner,
        stored.generator,
        nimg=1,
        encoders=stored.conditioner.identity(),
    )
    pipe = gankit.load(tmp_path, device="cpu")
    own = [
        p
        for m in pipe.generator.modules()
        if getattr(m, "any_layout", False)
        for p in m.parameters(recurse=False)
    ]
    large = [p for p in own if p.numel() > 10000]
    assert large
    picture = pipe(seeds=0)[0]
    before = [p.clone() for p in own]
    with torch.no_grad():
        for p in own:
            p.mul_(0.5)
    assert pipe(seeds=0)[0].tobytes() != picture.tobytes()
    with torch.no_grad():
        for p, value in zip(own, before):
            p.copy_(value)
    assert pipe(seeds=0)[0].tobytes() == picture.tobytes()
    assert (
        gankit.load("avatars", device="cpu")(seeds=0)[0].tobytes() == picture.tobytes()
    )  # the file was not written


STEM = """
import torch
from torch import nn
from gankit.interfaces import Generator, Pretrained

class Mine(Generator):
    z_dim, w_dim, num_ws = 4, 4, 1

    def __init__(self, image_shape, cond):
        super().__init__()
        self.image_shape = image_shape
        self.stems = nn.ModuleList(Pretrained(f"stem {i}", nn.Linear(4, 4)) for i in range(2))
        for stem in self.stems:
            if not stem.network.weight.is_meta:
                stem.network.load_state_dict({"weight": torch.eye(4), "bias": torch.zeros(4)})
        self.to_image = nn.Linear(4, 3 * 64 * 64)

    def mapping(self, z, cond=None, *, truncation_psi=1, truncation_cutoff=None, update_emas=False):
        return z[:, None]

    def synthesis(self, ws, cond=None, *, noise_mode="random"):
        for stem in self.stems:
            ws = stem.network(ws)
        return self.to_image(ws[:, 0]).view(-1, 3, 64, 64).tanh()
"""


@pytest.mark.parametrize("device", ["cpu", "meta"])  # meta: as networks of other code bases are imported
def test_pretrained_networks_inside_g_are_compared(tmp_path, monkeypatch, device):
    with site_folder(tmp_path / "site") as site:
        files = {"stem_gan/__init__.py": registering("'generator', 'mine', 'stem_gan.parts:Mine'")}
        write_package(site, "stem-gan", {**files, "stem_gan/parts.py": STEM})
        recipe = recipes.parse({"generator": "mine"}, "test")
        conditioner = build.build_conditioner(recipe, Vocabulary())
        with torch.device(device):
            generator = options.build("generator", recipe.generator, recipe.image_shape, CondSpec())
        weights = {k: torch.rand(t.shape) for k, t in stored_state.stored_state(generator).items()}
        folder = tmp_path / "model"
        folder.mkdir()
        model_folder.save_model(
            folder, recipe, conditioner, generator, nimg=0, encoders=conditioner.identity(), weights=weights
        )
        model = model_folder.load_model(folder)
        assert torch.equal(model.generator.to_image.weight, weights["to_image.weight"])
        again = tmp_path / "again"  # as an export
        again.mkdir()
        model_folder.save_model(
            again, model.recipe, model.conditioner, model.generator, nimg=0, encoders=conditioner.identity()
        )
        calls = []
        monkeypatch.setattr(
            model_folder, "frozen_in", lambda G, real=model_folder.frozen_in: calls.append(1) or real(G)
        )
        model_folder.load_model(again)
        assert len(calls) == 1
        monkeypatch.setattr(torch, "eye", lambda n: torch.ones(n, n))
        with pytest.raises(GankitError, match="other weights of the pretrained network 'stem 0'"):
            model_folder.load_model(again)
