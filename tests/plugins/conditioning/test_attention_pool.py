"""The conditioner `text` with a fitted attention pool: its layer, its identity, files that are no pool."""

import pytest
import torch
from conditioning_utils import make_bert, ready, text
from safetensors.torch import save_file

from gankit.core.models.stored_state import stored_state
from gankit.core.nn.attention_pool import AttentionPool
from gankit.errors import GankitError
from gankit.plugins.conditioning.text import TextConditioner


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def pool_file(tmp_path, bert):
    torch.manual_seed(0)
    width = TextConditioner(model=str(bert)).spec.c_dim
    pool = AttentionPool(width, queries=3, values=5)
    pool.mean.normal_()
    pool.std.uniform_(0.5, 2)
    save_file(pool.state_dict(), tmp_path / "pool.safetensors")
    return tmp_path / "pool.safetensors", pool


def test_pool_is_applied_to_the_tokens_of_its_layer(bert, pool_file):
    path, pool = pool_file
    pooled = ready(
        TextConditioner(
            model=str(bert), pooling="attention", pool_weights=str(path), layers=(1,), normalize=False
        )
    )
    tokens = ready(TextConditioner(model=str(bert), tokens=True, layers=(1,)))
    encoder = tokens.load_encoder().eval()
    batch = tokens.tokenizer(["red hair"], return_tensors="pt")
    with torch.no_grad():
        hidden = encoder(**batch, output_hidden_states=True).hidden_states[1]
        scores = (hidden @ pool.query.weight.t() + pool.query.bias).softmax(1)[0]  # [T, 3]
        values = (hidden @ pool.value.weight.t() + pool.value.bias)[0]  # [T, 5]
        expected = (torch.stack([scores[:, q] @ values for q in range(3)]).flatten() - pool.mean) / pool.std
    cond = pooled.encode(text("red hair", ""))
    assert pooled.spec.c_dim == 15
    torch.testing.assert_close(cond.embedding[0], expected, atol=1e-5, rtol=1e-4)
    assert not cond.embedding[1].any()  # no text
    assert not any("pool" in name for name in stored_state(pooled))  # referenced, not stored


def test_another_pool_is_another_encoder(bert, pool_file, tmp_path):
    path, pool = pool_file

    def conditioner(file):
        return TextConditioner(model=str(bert), pooling="attention", pool_weights=str(file))

    other = tmp_path / "other.safetensors"
    save_file({k: v + 1 for k, v in pool.state_dict().items()}, other)
    assert conditioner(path).identity() != conditioner(other).identity()
    assert conditioner(path).cache_key() != conditioner(other).cache_key()


def test_mistakes(bert, pool_file, tmp_path):
    path, _ = pool_file
    wrong = tmp_path / "wrong.safetensors"
    save_file(AttentionPool(3).state_dict(), wrong)
    with pytest.raises(GankitError, match="width 3"):
        TextConditioner(model=str(bert), pooling="attention", pool_weights=str(wrong))
    save_file({"x": torch.zeros(1)}, wrong)
    with pytest.raises(GankitError, match="not a fitted attention pool"):
        TextConditioner(model=str(bert), pooling="attention", pool_weights=str(wrong))
    with pytest.raises(GankitError, match="go together"):
        TextConditioner(model=str(bert), pooling="attention")
    with pytest.raises(GankitError, match="one layer"):
        TextConditioner(model=str(bert), pooling="attention", pool_weights=str(path), layers=(0, 1))
