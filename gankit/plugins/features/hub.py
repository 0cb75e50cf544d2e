"""The built-in weight source: the Hugging Face cache, then the hub itself unless HF_HUB_OFFLINE is set."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from gankit.core.interfaces.data import WeightSource
from gankit.core.models.pretrained import read_safetensors

# Weights, configuration, tokenizers: nothing that could run code, hence neither pickles nor Python files.
ALLOWED = ["*.safetensors", "*.json", "*.txt", "*.model"]
WEIGHT_FILES = ("model.safetensors", "open_clip_model.safetensors")


class HuggingFaceWeights(WeightSource):
    """Safetensors of the Hugging Face hub; files in the local cache are used without network access."""

    def ids(self) -> Iterable[str]:
        return ()

    def state_dict(self, hub_id: str) -> dict[str, Tensor] | None:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            for name in WEIGHT_FILES:
                cached = try_to_load_from_cache(hub_id, name)
                if isinstance(cached, str):
                    return read_safetensors(Path(cached))
            for name in WEIGHT_FILES:
                try:
                    return read_safetensors(Path(hf_hub_download(hub_id, name)))
                except LocalEntryNotFoundError:  # the hub cannot be reached, so no other name needs a try
                    raise
                except EntryNotFoundError as error:
                    missing = error
            raise missing
        except (OSError, ValueError, EntryNotFoundError) as error:
            _not_downloaded(hub_id, error)
            return None

    def folder(self, hub_id: str) -> Path | None:
        from huggingface_hub import snapshot_download

        for offline in (True, False):
            try:
                path = Path(snapshot_download(hub_id, allow_patterns=ALLOWED, local_files_only=offline))
            except (OSError, ValueError) as error:
                reason: Exception = error
            else:
                if any(path.glob("**/*.safetensors")):
                    return path
                reason = FileNotFoundError("it holds no safetensors file")
        _not_downloaded(hub_id, reason)
        return None


def _not_downloaded(hub_id: str, error: Exception) -> None:
    reason = " ".join(str(error).split())[:300]
    warnings.warn(f"{hub_id} was not downloaded from the Hugging Face hub: {reason}", stacklevel=3)
