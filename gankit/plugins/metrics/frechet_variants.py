"""Frechet distances on fixed networks: FID, spatial and random FID, EfficientNet-Lite0, DINOv2, CLIP."""

from __future__ import annotations

from typing import Literal

from gankit.plugins.metrics.frechet import FrechetDistance
from gankit.plugins.metrics.networks import (
    CLIP,
    DINOV2,
    EFFICIENTNET,
    INCEPTION,
    RANDOM_INCEPTION,
    OwnFeature,
)


class FID(FrechetDistance):
    """Frechet Inception distance (Heusel et al., GANs Trained by a Two Time-Scale Update Rule, NeurIPS 2017).

    Drawn under a list of captions (--captions) and compared with another data set (--data), it is the zero-shot FID of
    text-to-image models.

    Args:
        covariance: unbiased divides by N - 1 as numpy and torch-fidelity do, biased by N as NVIDIA's code does.
        feature: feature network.
    """

    values = {"fid": "lower"}

    def __init__(
        self,
        *,
        covariance: Literal["unbiased", "biased"] = "unbiased",
        feature: OwnFeature = INCEPTION,
    ) -> None:
        super().__init__(covariance=covariance, feature=feature)


class SpatialFID(FID):
    """Spatial FID: the Frechet distance of 7 x 17 x 17 activations of an intermediate layer, which depend on position
    (Nash et al., Generating Images with Sparse Representations, 2021, section 4).

    Args:
        covariance: unbiased divides by N - 1, biased by N.
        feature: feature network; another one than Inception gives about as many activations of its map at stride 16.
    """

    values = {"sfid": "lower"}
    output = "spatial"


class RandomFID(FID):
    """FID on an Inception with random weights, which does not depend on ImageNet: a check that a model does not just
    please networks trained on it (StyleGAN-XL, Sauer et al. 2022; Naeem et al., ICML 2020).

    Values of different resolutions or of other random weights are not comparable.

    Args:
        covariance: unbiased divides by N - 1, biased by N.
        feature: feature network.
    """

    values = {"rfid": "lower"}

    def __init__(
        self,
        *,
        covariance: Literal["unbiased", "biased"] = "unbiased",
        feature: OwnFeature = RANDOM_INCEPTION,
    ) -> None:
        super().__init__(covariance=covariance, feature=feature)


class EfficientNetDistance(FrechetDistance):
    """Frechet distance on EfficientNet-Lite0, whose weights come with gankit-avatars.

    Args:
        covariance: unbiased divides by N - 1, biased by N.
        feature: feature network.
        side: side in pixels of the square images that enter it; 224 when omitted.
    """

    def __init__(
        self,
        *,
        covariance: Literal["unbiased", "biased"] = "unbiased",
        feature: OwnFeature = EFFICIENTNET,
        side: int | None = None,
    ) -> None:
        super().__init__(covariance=covariance, feature=feature, side=side)


class DINOv2Distance(FrechetDistance):
    """Frechet distance on DINOv2 ViT-L/14 (Stein et al., Exposing flaws of generative model evaluation metrics, NeurIPS
    2023), which follows human judgement more closely than FID.

    Args:
        covariance: unbiased divides by N - 1, biased by N.
        feature: feature network.
        side: side in pixels of the square images that enter it.
    """

    def __init__(
        self,
        *,
        covariance: Literal["unbiased", "biased"] = "unbiased",
        feature: OwnFeature = DINOV2,
        side: int | None = 224,
    ) -> None:
        super().__init__(covariance=covariance, feature=feature, side=side)


class CLIPDistance(FrechetDistance):
    """Frechet distance of image embeddings of CLIP ViT-B/32 (Kynkaanniemi et al., The Role of ImageNet
    Classes in Frechet Inception Distance, ICLR 2023).

    Args:
        covariance: unbiased divides by N - 1, biased by N.
        feature: feature network, whose logits are the embeddings.
        side: side in pixels of the square images that enter it.
    """

    output = "logits"

    def __init__(
        self,
        *,
        covariance: Literal["unbiased", "biased"] = "unbiased",
        feature: OwnFeature = CLIP,
        side: int | None = 224,
    ) -> None:
        super().__init__(covariance=covariance, feature=feature, side=side)
