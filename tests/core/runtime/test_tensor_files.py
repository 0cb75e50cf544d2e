"""The hash of weights."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from hub_cache import TENSORS

from gankit.core.runtime import tensor_files


def test_hash_is_over_float32_bytes_in_name_order():
    expected = hashlib.sha256(np.ones(4, np.float32).tobytes() + np.arange(3, dtype=np.float32).tobytes())
    assert tensor_files.sha256_of(TENSORS) == expected.hexdigest()
    plain = torch.arange(24.0).view(1, 2, 3, 4)
    permuted = plain.to(memory_format=torch.channels_last)
    assert tensor_files.sha256_of({"w": permuted}) == tensor_files.sha256_of({"w": plain})
    assert tensor_files.sha256_of({"a": torch.zeros(1)}) != tensor_files.sha256_of({"a": torch.ones(1)})
