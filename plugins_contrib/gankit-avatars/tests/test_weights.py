"""The packaged weights: what they see and read, and names that are matched in order."""

from __future__ import annotations

import pytest
import torch

from gankit_avatars.source import AvatarSource
from gankit_avatars.weights import CAPTION_POOL, EFFICIENTNET, MINILM, PackagedWeights, rename_in_order

torch.set_num_threads(1)


def test_efficientnet_sees():
    """It calls drawn heads masks and T-shirts; layers in a wrong order would not."""
    timm = pytest.importorskip("timm")
    from timm.data import ImageNetInfo

    net = timm.create_model("tf_efficientnet_lite0").eval()
    net.load_state_dict(PackagedWeights().state_dict(EFFICIENTNET))
    source = AvatarSource("", count=8, size=224, cache="off")
    images = torch.stack(
        [torch.frombuffer(bytearray(source.image(i).tobytes()), dtype=torch.uint8) for i in range(8)]
    )
    images = images.view(-1, 224, 224, 3)
    with torch.no_grad():
        logits = net(images.permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert logits.isfinite().all()
    assert logits.std(0).mean() > 0.3
    names = " ".join(ImageNetInfo().index_to_description(int(i)) for i in logits.topk(5)[1].flatten())
    assert "mask" in names or "T-shirt" in names


def test_minilm_folder():
    weights = PackagedWeights()
    folder = weights.folder(MINILM)
    assert (folder / "config.json").is_file()
    assert (folder / "model.safetensors").is_file()
    assert set(weights.ids()) == {EFFICIENTNET, MINILM, CAPTION_POOL}
    assert weights.folder("other/model") is None
    assert weights.state_dict("other/model") is None


def test_rename_checks_shapes():
    a, b = torch.zeros(2, 3), torch.zeros(4)
    renamed = rename_in_order({"x": a, "y": b}, {"p": a, "n.num_batches_tracked": torch.zeros(()), "q": b})
    assert list(renamed) == ["p", "n.num_batches_tracked", "q"]
    assert renamed["q"] is b
    with pytest.raises(ValueError, match="layers"):
        rename_in_order({"x": b, "y": a}, {"p": a, "q": b})


def test_caption_pool_binds_colours_to_their_nouns():
    """Prompts that an average over words cannot tell apart: swapping two colours moves the vector far."""
    from gankit.core.interfaces.labels import Label, Vocabulary
    from gankit.plugins.conditioning.text import TextConditioner

    conditioner = TextConditioner(
        pooling="attention", pool_weights=CAPTION_POOL, layers=(3,), normalize=False
    )
    conditioner.set_vocabulary(Vocabulary(captioned=1, total=1))
    texts = (
        "a person with red hair and pale skin wearing a blue hoodie",
        "a person with blue hair and pale skin wearing a red hoodie",
        "a person in a blue hoodie, with pale skin and red hair",
    )
    first, swapped, reworded = conditioner.encode([Label(texts=(t,)) for t in texts]).embedding
    assert (first - swapped).norm() > (first - reworded).norm()
