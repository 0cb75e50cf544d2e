"""A loaded model lies in its file and may be changed."""

from __future__ import annotations

import pytest
import torch

import gankit
from gankit.core.models import model_folder


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
