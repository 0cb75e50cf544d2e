"""WebDataset shards: paths, labels, the cached index, mistakes."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from source_files import grey, labels, png, write, write_tar

from gankit.core.data.images import BadImage
from gankit.core.interfaces.labels import Label
from gankit.errors import GankitError
from gankit.plugins.sources import shards
from gankit.plugins.sources.shards import ShardSource


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gankit" / "shards"


def make_shards(root: Path, count: int = 3, each: int = 4) -> Path:
    root.mkdir(exist_ok=True)
    for s in range(count):
        files: dict[str, bytes | str] = {}
        for i in range(s * each, (s + 1) * each):
            files |= {f"{i:04}.png": png(i), f"{i:04}.txt": f"number {i}", f"{i:04}.cls": str(i % 2)}
        write_tar(root / f"shard-{s:03}.tar", files)
    return root


def test_shard_paths(tmp_path, cache):
    root = make_shards(tmp_path / "set")
    (root / "stats.json").write_text("{}")
    forms = {
        str(root): 12,
        str(root / "shard-001.tar"): 4,
        str(root / "shard-{000..002}.tar"): 12,
        str(root / "shard-{000,002}.tar"): 8,
    }
    for path, images in forms.items():
        assert ShardSource.matches(Path(path))
        assert len(ShardSource(path)) == images
    whole = ShardSource(str(root))
    assert [grey(whole, i) for i in (11, 0, 4, 3, 7)] == [11, 0, 4, 3, 7]
    assert whole.name(5) == "shard-001.tar/0005.png"
    assert whole.label(5) == Label("1", texts=("number 5",))
    assert whole.vocabulary().classes == {"0": 6, "1": 6}
    assert grey(pickle.loads(pickle.dumps(whole)), 6) == 6


def test_shard_labels(tmp_path, cache):
    path = write_tar(
        tmp_path / "a.tar",
        {
            "d/1.jpg": png(1),
            "d/1.json": '{"caption": "from json", "tags": ["a"], "url": "x"}',
            "d/1.txt": "from txt",
            "d/1.cls": "3\n",
            "2.cls": "cat",
            "2.WEBP": png(2),
            "2.mask.png": png(),
            "3.png": png(3),
            "3.json": '{"label": 5, "text": ["a", "b"], "class": null}',
            "4.txt": "no image",
            "._3.png": b"junk",
        },
    )
    assert labels(ShardSource(str(path))) == {
        "a.tar/d/1.jpg": Label("3", {"a": 1}, ("from json",), {"url": "x"}),
        "a.tar/2.WEBP": Label("cat"),
        "a.tar/3.png": Label("5", texts=("a", "b")),
    }


def test_shard_written_by_webdataset(tmp_path, cache):
    import webdataset

    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for i in range(3):
            writer.write({"__key__": f"{i:05}", "png": png(i), "json": {"text": f"t{i}"}, "cls": i})
    found = ShardSource(str(tmp_path / "a.tar"))
    assert [(grey(found, i), found.label(i)) for i in range(3)] == [
        (i, Label(str(i), texts=(f"t{i}",))) for i in range(3)
    ]


def test_shard_index_is_cached_and_renewed(tmp_path, cache, monkeypatch):
    root = make_shards(tmp_path / "set", count=1)
    first = ShardSource(str(root))
    fingerprint = first.fingerprint()
    (index,) = cache.glob("*.npz")

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_scan", lambda _: pytest.fail("the index was not used"))
        again = ShardSource(str(root))
    assert again.names == first.names
    assert again.fingerprint() == fingerprint

    index.write_bytes(index.read_bytes()[:50])
    assert ShardSource(str(root)).fingerprint() == fingerprint

    shard = write_tar(root / "shard-000.tar", {"x.png": png(77)})
    assert ShardSource(str(shard)).names == ["shard-000.tar/x.png"]
    assert ShardSource(str(shard)).fingerprint() != fingerprint


def test_unwritable_cache(tmp_path):
    root = make_shards(tmp_path / "set")
    (tmp_path / "file").write_text("")
    assert len(ShardSource(str(root), cache=str(tmp_path / "file"))) == 12


def test_shard_mistakes(tmp_path, cache):
    root = make_shards(tmp_path / "set")
    with pytest.raises(GankitError, match=r"shard-003\.tar does not exist \(2 of 5"):
        ShardSource(str(root / "shard-{000..004}.tar"))
    with pytest.raises(GankitError, match="unbalanced"):
        ShardSource(str(root / "shard-{000..004.tar"))
    with pytest.raises(GankitError, match=r"none\.tar does not exist"):
        ShardSource(str(root / "none.tar"))
    with pytest.raises(GankitError, match=r"no \.tar files"):
        ShardSource(str(write(tmp_path / "other", {"a.txt": "x"})))
    with pytest.raises(GankitError, match="no images"):
        ShardSource(str(write_tar(tmp_path / "a.tar", {"1.txt": "x"})))
    for content in (b"", b"text" * 500, (root / "shard-000.tar").read_bytes()[:700]):
        (tmp_path / "b.tar").write_bytes(content)
        with pytest.raises(GankitError, match=r"b\.tar cannot be read as an uncompressed tar"):
            ShardSource(str(tmp_path / "b.tar"))
    bad = ShardSource(str(write_tar(tmp_path / "c.tar", {"1.png": png(), "1.json": "{"})))
    with pytest.raises(GankitError, match=r"\.json file of 'c\.tar/1\.png': not valid JSON"):
        bad.label(0)


def test_shard_that_shrinks(tmp_path, cache):
    root = make_shards(tmp_path / "set", count=1)
    found = ShardSource(str(root))
    os.truncate(root / "shard-000.tar", 600)
    with pytest.raises(BadImage, match="shorter"):
        found.image(3)
