"""Networks of timm that cannot be used are explained."""

from __future__ import annotations

import pytest

from gankit.errors import GankitError
from gankit.plugins.features.timm_cnn import TimmCNN
from gankit.plugins.features.timm_vit import TimmViT


def test_mistakes_are_explained():
    with pytest.raises(GankitError, match=r"did you mean 'tf_efficientnet_lite0\.in1k'"):
        TimmCNN(model="tf_efficientnet_light0.in1k")
    with pytest.raises(GankitError, match="model_args"):
        TimmCNN(model="test_resnet", pretrained=False, model_args={"nonsense": 1})
    with pytest.raises(GankitError, match="timm-cnn"):
        TimmViT(model="test_resnet", pretrained=False)
