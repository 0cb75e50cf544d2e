"""The cache of text embeddings: nothing lost, nothing mixed up, whatever happens to its files."""

import copy
import multiprocessing
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gankit.core.data.text_cache import TextCache


def fake_encoder(dim: int, calls: list[str] | None = None):
    def encode(text: str) -> torch.Tensor:
        if calls is not None:
            calls.append(text)
        return torch.randn(dim, generator=torch.Generator().manual_seed(hash(text) % 2**31))

    return encode


@given(
    batches=st.lists(st.lists(st.text(max_size=3), max_size=5), max_size=6),
    keep=st.sampled_from([1, 3, 1000]),
)
@settings(deadline=None, max_examples=20)
def test_cache_gives_every_text_its_own_embedding(tmp_path_factory, batches, keep):
    for folder in (None, tmp_path_factory.mktemp("cache")):
        cache = TextCache(folder, "key", 4, memory_bytes=keep * 16)
        for batch in batches:
            expected = [fake_encoder(4)(text) for text in batch]
            rows = cache.get(batch, fake_encoder(4))
            assert rows.shape == (len(batch), 4)
            assert all(torch.equal(a, b) for a, b in zip(rows, expected))


def test_cache_on_disk_is_asked_before_the_encoder(tmp_path):
    calls: list[str] = []
    encode = fake_encoder(8, calls)
    first = TextCache(tmp_path, "key", 8).get(["a", "b", "a"], encode)
    assert calls == ["a", "b"]
    again = TextCache(tmp_path, "key", 8).get(["b", "a", "c"], encode)
    assert calls == ["a", "b", "c"]
    assert torch.equal(again[:2], first[[1, 0]])
    TextCache(tmp_path, "other key", 8).get(["a"], encode)
    TextCache(tmp_path, "key", 7).get(["a"], fake_encoder(7, calls))
    assert calls == ["a", "b", "c", "a", "a"]


def test_cache_reads_what_it_evicted_from_memory_back_from_disk(tmp_path):
    calls: list[str] = []
    cache = TextCache(tmp_path, "key", 8, memory_bytes=3 * 32)
    texts = [str(i) for i in range(20)]
    first = torch.cat([cache.get([text], fake_encoder(8, calls)) for text in texts])
    assert torch.equal(cache.get(texts, fake_encoder(8, calls)), first)
    assert calls == texts
    assert len(cache._rows) <= 3
    assert len(cache) == 20
    memory = TextCache(None, "key", 8, memory_bytes=3 * 32)
    memory.get(texts, fake_encoder(8))
    assert len(memory) == 3


@pytest.mark.parametrize("suffix", [".f32", ".idx"])
@pytest.mark.parametrize("cut", [1, 40])
def test_cache_ignores_what_a_crash_cut_off(tmp_path, suffix, cut):
    expected = TextCache(tmp_path, "key", 8).get(["a", "b", "c"], fake_encoder(8))
    (file,) = tmp_path.glob(f"*/*{suffix}")
    os.truncate(file, file.stat().st_size - cut)
    calls: list[str] = []
    assert torch.equal(TextCache(tmp_path, "key", 8).get(["a", "b", "c"], fake_encoder(8, calls)), expected)
    assert calls == (["c"] if cut == 1 else ["b", "c"])
    TextCache(tmp_path, "key", 8).get(["a", "b", "c"], fake_encoder(8, calls))
    assert len(calls) <= 2, "the rest was not stored in a new segment"


def test_cache_computes_a_damaged_embedding_again(tmp_path):
    expected = TextCache(tmp_path, "key", 8).get(["a", "b"], fake_encoder(8))
    (file,) = tmp_path.glob("*/*.f32")
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    calls: list[str] = []
    assert torch.equal(TextCache(tmp_path, "key", 8).get(["a", "b"], fake_encoder(8, calls)), expected)
    assert calls == ["a"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_cache_is_shared_by_processes(tmp_path):
    cache = TextCache(tmp_path, "key", 8)
    cache.get(["before"], fake_encoder(8))  # children inherit an open segment

    def work(number: int) -> None:
        for i in range(20):
            cache.get([f"{number} {i}", f"common {i}"], fake_encoder(8))

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=work, args=(i,)) for i in range(3)]
    for child in children:
        child.start()
    work(3)
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert len(list(tmp_path.glob("*/*.idx"))) == 4, "every process writes files of its own"
    calls: list[str] = []
    texts = [
        "before",
        *(f"{n} {i}" for n in range(4) for i in range(20)),
        *(f"common {i}" for i in range(20)),
    ]
    rows = TextCache(tmp_path, "key", 8).get(texts, fake_encoder(8, calls))
    assert calls == []
    assert all(torch.equal(row, fake_encoder(8)(text)) for row, text in zip(rows, texts))


def test_cache_survives_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    cache = TextCache(tmp_path / "file", "key", 8)
    with pytest.warns(UserWarning, match="no longer cached"):
        first = cache.get(["a"], fake_encoder(8))
    assert torch.equal(cache.get(["a", "b"], fake_encoder(8))[:1], first)
    assert copy.deepcopy(cache) is cache
