"""Text conditioner on the text tower of an open_clip CLIP model (StyleGAN-T, Sauer et al. 2023, section 3)."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gankit.core.interfaces.conditions import Condition
from gankit.core.models.pretrained import find_folder, shapes_only
from gankit.core.runtime.tensor_files import sha256_of
from gankit.errors import GankitError, unknown
from gankit.plugins.conditioning.text import EncodedText

RANDOM = "random"  # in place of the name of published weights


class CLIPTextConditioner(EncodedText):
    """Projected text feature of a CLIP model, in the space shared with images; zeros where no text is given.

    Args:
        model: architecture in open_clip, such as ViT-L-14 or ViT-B-32.
        pretrained: weights of that architecture by their tag in open_clip, such as openai or laion2b_s34b_b79k, or a
            .safetensors file (OpenAI's weights as a file need a model such as ViT-L-14-quickgelu); random keeps random
            ones, to try a recipe out.
        normalize: scale the feature to length 1.
        trainable: fine-tune the text tower together with G (StyleGAN-T's text-encoder phase); turns the cache off.
        noise: standard deviation of Gaussian noise that training adds, in units of 1/sqrt(width); 0.5 to 1 keeps D
            from memorising captions.
        dropout: probability in [0, 1] with which training hides the text of an image.
    """

    name = "clip-text"

    def __init__(
        self,
        *,
        model: str = "ViT-L-14",
        pretrained: str = "openai",
        normalize: bool = True,
        trainable: bool = False,
        noise: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(trainable=trainable, noise=noise, dropout=dropout)
        self.model, self.pretrained, self.normalize = model, pretrained, normalize
        self.encoder_name = f"{model} {pretrained} {normalize}"
        self._file = clip_weights(model, pretrained)
        self._tokenizer: Any = None
        self.set_up(c_dim=clip_config(model)["embed_dim"])

    def load_encoder(self) -> nn.Module:
        clip = load_clip(self.model, self.pretrained)
        del clip.visual, clip.logit_scale
        clip.logit_bias = None
        return clip

    def features(self, encoder: Any, texts: Sequence[str]) -> Condition:
        if self._tokenizer is None:
            self._tokenizer = clip_tokenizer(self.model)
        tokens = self._tokenizer(list(texts)).to(next(encoder.parameters()).device)
        return Condition(encoder.encode_text(tokens, normalize=self.normalize).float())

    def cache_key(self) -> str:
        digest = hashlib.sha256()
        if self._file is None:
            digest.update(torch.__version__.encode())  # which determines random weights
        else:
            with open(self._file, "rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        return json.dumps([digest.hexdigest(), self.model, self.pretrained, self.normalize])

    def identity(self) -> dict[str, str]:
        if self.trainable:
            return {}
        encoder = self.load_encoder() if self.frozen is None else self.frozen.network
        return {"sha256": sha256_of(encoder.state_dict())}


def clip_config(model: str) -> dict[str, Any]:
    """The configuration of an architecture of open_clip. Raises GankitError for an unknown one and for one whose
    tokenizer is not part of open_clip."""
    import open_clip

    config = open_clip.get_model_config(model) if ":" not in model else None
    if config is None:
        raise GankitError(unknown("open_clip model", model, open_clip.list_models()))
    if {"hf_model_name", "hf_tokenizer_name"} & config["text_cfg"].keys() or "siglip" in model.lower():
        raise GankitError(
            f"open_clip model {model!r} has a tokenizer that open_clip does not bring; use one like ViT-B-16"
        )
    return config


def clip_weights(model: str, pretrained: str) -> Path | None:
    """Path of the safetensors file of a whole CLIP model, None for random weights. Raises GankitError if there is
    none."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    clip_config(model)
    if pretrained == RANDOM or shapes_only():
        return None
    file = Path(pretrained).expanduser()
    if file.suffix == ".safetensors":
        if not file.is_file():
            raise GankitError(f"pretrained = {pretrained!r}: there is no such file")
        return file
    config = get_pretrained_cfg(model, pretrained)
    if not config:
        tags = open_clip.list_pretrained_tags_by_model(model)
        what = f"weights of open_clip model {model!r}:"
        raise GankitError(unknown(what, pretrained, tags, hint="or the path of a .safetensors file"))
    if not config.get("hf_hub"):
        raise GankitError(
            f"open_clip offers the weights {pretrained!r} of {model!r} as a pickle only; convert them and give "
            "pretrained the path of the .safetensors file"
        )
    hub_id, name = os.path.split(config["hf_hub"])
    folder = find_folder(hub_id)
    wanted = [f"{Path(name).stem}.safetensors"] if name else []
    wanted += ["open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors"]
    for candidate in wanted:
        if (folder / candidate).is_file():
            return folder / candidate
    raise GankitError(f"{folder} has no open_clip_model.safetensors, which {model!r} needs; put it there")


def load_clip(model: str, pretrained: str) -> Any:
    """Load a frozen CLIP model in eval mode on the CPU. Raises GankitError if the weights do not fit the
    architecture."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    file = clip_weights(model, pretrained)
    # OpenAI's weights were trained with another GELU than the architecture of the same name has in open_clip.
    quick_gelu = bool(get_pretrained_cfg(model, pretrained).get("quick_gelu"))
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # "initialized randomly": the weights come right below
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            clip = open_clip.create_model(
                model,
                load_weights=False,
                force_quick_gelu=quick_gelu,
                pretrained_text=False,
                device=torch.get_default_device(),
            )
        if file is not None:
            open_clip.load_checkpoint(clip, str(file))
    except (RuntimeError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise GankitError(f"{file} does not fit open_clip model {model!r} ({reason}); check both") from None
    finally:
        logging.disable(level)
    clip.eval().requires_grad_(False)
    return clip


def clip_normalisation(model: str, pretrained: str) -> tuple[Tensor, Tensor]:
    """Scale and shift [3, 1, 1] from images in [-1, 1] to the normalisation that the image tower was trained with."""
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    from open_clip.pretrained import get_pretrained_cfg

    config = get_pretrained_cfg(model, pretrained)
    mean = torch.tensor(config.get("mean") or OPENAI_DATASET_MEAN)
    std = torch.tensor(config.get("std") or OPENAI_DATASET_STD)
    # ((x + 1) / 2 - mean) / std as one multiplication and one addition
    return (0.5 / std).view(3, 1, 1), ((0.5 - mean) / std).view(3, 1, 1)


def clip_tokenizer(model: str) -> Any:
    import open_clip

    return open_clip.get_tokenizer(model)
