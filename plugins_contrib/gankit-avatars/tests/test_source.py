"""The source: determinism, labels, and a cache that several processes fill at once."""

from __future__ import annotations

import multiprocessing
import pickle

import numpy as np
import pytest

from gankit.core.interfaces.labels import Vocabulary
from gankit.errors import GankitError
from gankit_avatars.source import AvatarSource


def pixels(source: AvatarSource, index: int) -> np.ndarray:
    return np.asarray(source.image(index))


def test_an_index_is_always_the_same_avatar(tmp_path):
    a = AvatarSource("", count=50, cache="off")
    b = AvatarSource("avatars", count=50, cache=str(tmp_path))
    assert a.image(7).mode == "RGB"
    assert a.image(7).size == (64, 64)
    for index in (0, 7, 49):
        assert a.label(index) == b.label(index)
        drawn, cached = pixels(b, index), pixels(b, index)
        assert (drawn == cached).all()
        assert (drawn == pixels(a, index)).all()
    other = AvatarSource("", count=50, seed=1, cache="off")
    assert sum(a.label(i) == other.label(i) for i in range(50)) == 0
    assert a.name(3) != other.name(3)


def test_these_avatars_never_change():
    """A model that was trained on them expects it."""
    label = AvatarSource("", cache="off").label(3)
    assert label.cls == "pigtails"
    assert label.texts[1] == "an orange hoodie, round glasses"
    assert {"braided_pigtails", "dark_skin", "orange_clothes", "black_hair", "long_beard"} <= set(label.tags)


def test_fingerprint_changes_with_the_content():
    options = [{}, {"count": 10}, {"seed": 1}, {"size": 32}, {"background": "white"}]
    prints = [AvatarSource("", cache="off", **o).fingerprint() for o in options]
    assert len(set(prints)) == len(options)
    assert AvatarSource("", background="#CCD6E0", cache="auto").fingerprint() == prints[0]


def test_size_and_background():
    picture = AvatarSource("", count=3, size=48, background="#102030", cache="off").image(2)
    assert picture.size == (48, 48)
    assert picture.getpixel((0, 47)) == (16, 32, 48)


def test_vocabulary_is_exact():
    source = AvatarSource("", count=300, cache="off")
    found = source.vocabulary()
    assert found == Vocabulary.collect(source.label(i) for i in range(300))
    assert len(found.classes) == 18
    assert found.captioned == found.total == 300


def test_mistakes_are_told():
    for wrong, word in (
        (dict(count=0), "count"),
        (dict(size=0), "size"),
        (dict(background="blu"), "background"),
    ):
        with pytest.raises(GankitError, match=word):
            AvatarSource("", **wrong)
    with pytest.raises(GankitError, match="photos"):
        AvatarSource("photos")
    with pytest.raises(IndexError):
        AvatarSource("", count=5).label(5)


def test_goes_without_a_cache_where_it_cannot_write(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    source = AvatarSource("", count=4, cache=str(blocked))
    assert (pixels(source, 1) == pixels(AvatarSource("", count=4, cache="off"), 1)).all()


def test_cache_keys_and_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("GANKIT_CACHE", str(tmp_path))
    for seed in (0, 1):
        AvatarSource("", count=4, size=16, seed=seed).image(0)
    files = sorted(p.name for p in (tmp_path / "avatars").iterdir())
    assert len(files) == 4
    assert sum((tmp_path / "avatars" / name).stat().st_size for name in files) == 2 * (4 * 16 * 16 * 3 + 4)


def _draw(source: AvatarSource, start: int) -> None:
    for i in range(len(source)):
        source.image((start + i) % len(source))


def test_concurrent_writers(tmp_path):
    source = AvatarSource("", count=24, size=32, cache=str(tmp_path))
    source.image(0)  # the workers inherit open maps, as those of a data loader do
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else None)
    workers = [context.Process(target=_draw, args=(source, start)) for start in (0, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    (flags,) = tmp_path.glob("*.drawn")
    assert flags.read_bytes() == b"\1" * 24
    fresh, plain = pickle.loads(pickle.dumps(source)), AvatarSource("", count=24, size=32, cache="off")
    assert all((pixels(fresh, i) == pixels(plain, i)).all() for i in range(24))


def test_pickles_without_its_maps(tmp_path):
    source = AvatarSource("", count=2000, cache=str(tmp_path))
    source.image(3)
    assert len(pickle.dumps(source)) < 1000
