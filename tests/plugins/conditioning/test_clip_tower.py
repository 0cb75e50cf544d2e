"""The text tower that a snapshot brings encodes as open_clip does."""

from __future__ import annotations

import torch


def test_stored_tower_encodes_as_open_clip_does() -> None:
    import open_clip

    from gankit.core.interfaces.labels import Label
    from gankit.plugins.conditioning.clip_tower import CLIPTowerConditioner

    sizes = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    torch.manual_seed(3)
    clip = open_clip.model.CLIP(
        8,
        open_clip.CLIPVisionCfg(layers=1, width=64, image_size=16),
        open_clip.CLIPTextCfg(**sizes),
        quick_gelu=True,
    )
    conditioner = CLIPTowerConditioner(embed_dim=8, **sizes).eval()
    state = {k: v for k, v in clip.state_dict().items() if not k.startswith("visual.") and k != "logit_scale"}
    conditioner.encoder.load_state_dict(state)
    texts = ["a red cat", "two dogs on a hill"]
    tokens = open_clip.tokenizer.SimpleTokenizer(context_length=20)(texts)
    with torch.no_grad():
        expected = clip.encode_text(tokens, normalize=True)
        actual = conditioner.encode([Label(texts=(text,)) for text in texts]).embedding
    assert torch.allclose(actual, expected, atol=1e-6)
    assert not any(p.requires_grad for p in conditioner.parameters())
    assert all(
        p.requires_grad for p in CLIPTowerConditioner(embed_dim=8, trainable=True, **sizes).parameters()
    )
