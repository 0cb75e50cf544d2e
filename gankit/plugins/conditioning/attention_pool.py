"""Loads a fitted attention pool, with which the conditioner `text` reads the tokens of its encoder."""

from __future__ import annotations

from pathlib import Path

from gankit.core.models.pretrained import find_state_dict, read_safetensors, shapes_only
from gankit.core.nn.attention_pool import AttentionPool
from gankit.errors import GankitError


def load_pool(weights: str, token_dim: int) -> AttentionPool:
    """Load a fitted pool from a safetensors file or a hub id. Raises GankitError if it is no pool or for tokens of
    another width."""
    path = Path(weights).expanduser()
    tensors = read_safetensors(path) if path.is_file() else find_state_dict(weights)
    try:
        queries, values = tensors["query.weight"], tensors["value.weight"]
        pool = AttentionPool(queries.shape[1], len(queries), len(values))
        if not shapes_only():
            pool.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except (KeyError, IndexError, RuntimeError):
        raise GankitError(
            f"pool_weights = {weights!r} of conditioner 'text' is not a fitted attention pool"
        ) from None
    if queries.shape[1] != token_dim:
        raise GankitError(
            f"pool_weights = {weights!r} of conditioner 'text' is for tokens of width {queries.shape[1]}, "
            f"the encoder's have {token_dim}"
        )
    return pool.eval().requires_grad_(False)
