"""The stream of batches: order, resume, workers, processes, mirroring, captions, bad images; and opening sources."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gankit.core.data import loader
from gankit.core.data.images import BadImage, from_uint8
from gankit.core.data.loader import Batches, default_workers, open_source
from gankit.core.interfaces.data import Source
from gankit.core.interfaces.labels import Label
from gankit.errors import GankitError
from gankit.plugins.sources.archive import ZipSource
from gankit.plugins.sources.folder import FolderSource


class Painted(Source):
    """Image i is grey level i on the left half and white on the right one."""

    def __init__(self, count: int = 10, bad: tuple[int, ...] = (), broken_label: int = -1) -> None:
        self.count, self.bad, self.broken_label = count, bad, broken_label

    def __len__(self) -> int:
        return self.count

    def image(self, index: int) -> Image.Image:
        if index in self.bad:
            raise BadImage("spoilt")
        pixels = np.full((4, 4), 255, np.uint8)
        pixels[:, :2] = index
        return Image.fromarray(pixels)

    def label(self, index: int) -> Label:
        if index == self.broken_label:
            raise GankitError("this label is broken")
        return Label(f"c{index}", {"t": 0.5}, tuple(f"{index}-{k}" for k in range(4)))

    def name(self, index: int) -> str:
        return f"image {index}"

    def fingerprint(self) -> str:
        return str(self.count)


def stream(source: Source | None = None, batch: int = 4, workers: int = 0, **kwargs) -> Batches:
    shape = {"size": (4, 4), "channels": 1, **kwargs}
    return Batches(source or Painted(), batch=batch, workers=workers, **shape)


def rows(batches: Batches, count: int) -> list[tuple]:
    """(index, label, pixels) of each image of `count` batches."""
    out = [
        (index, label, image.numpy().tobytes())
        for batch in islice(batches, count)
        for index, label, image in zip(batch.indices, batch.labels, batch.images)
    ]
    batches.close()
    return out


def test_a_batch():
    for channels in (1, 3, 4):
        batch = next(Batches(Painted(), (6, 8), channels=channels, fit="stretch", batch=4, workers=0))
        assert batch.images.shape == (4, channels, 6, 8)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert from_uint8(batch.images).is_contiguous(memory_format=torch.channels_last)
        assert [label.cls for label in batch.labels] == [f"c{i}" for i in batch.indices]
        assert batch.labels[0].tags == {"t": 0.5}
    batch = next(stream())
    assert [int(image[0, 0, 0]) for image in batch.images] == batch.indices


def test_each_epoch_is_another_permutation():
    indices = [index for index, *_ in rows(stream(batch=4), 10)]
    epochs = [indices[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert indices != [index for index, *_ in rows(stream(batch=4, seed=1), 10)]


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 13),
    start=st.integers(0, 60),
    batch=st.integers(1, 9),
    later=st.integers(1, 9),
    seed=st.integers(0, 2**63),
)
def test_resume_anywhere_with_any_batch(count, start, batch, later, seed):
    whole = rows(stream(Painted(count), 80, mirror=True, seed=seed), 1)
    resumed = rows(stream(Painted(count), later, mirror=True, seed=seed, start_image=start), 20 // later)
    assert resumed == whole[start : start + len(resumed)]
    assert rows(stream(Painted(count), batch, mirror=True, seed=seed), 5) == whole[: 5 * batch]


def test_processes_share_the_batch():
    whole = rows(stream(batch=6, mirror=True, start_image=5), 4)
    shares = [rows(stream(batch=6, mirror=True, start_image=5, rank=r, world=3), 4) for r in range(3)]
    together = [row for step in range(4) for share in shares for row in share[2 * step : 2 * step + 2]]
    assert together == whole
    with pytest.raises(GankitError, match="batch of 6 cannot be shared by 4"):
        stream(batch=6, world=4)


def test_workers_change_nothing():
    source = Painted(bad=(3,))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    expected = rows(stream(source, mirror=True, start_image=7), 8)
    assert rows(stream(source, mirror=True, start_image=7, workers=2), 8) == expected
    assert torch.equal(torch.get_rng_state(), before), "the loader drew from the global generator"


def test_mirror():
    sides = Counter()
    for index, _, pixels in rows(stream(mirror=True, batch=50), 20):
        image = np.frombuffer(pixels, np.uint8).reshape(4, 4)
        flipped = image[0, 0] == 255
        assert ((image[:, 2:] if flipped else image[:, :2]) == index).all()
        sides[bool(flipped)] += 1
    assert 430 < sides[True] < 570  # 1000 coins, sigma 16
    assert all(p[0] == i for i, _, p in rows(stream(mirror=False, batch=50), 2))


def test_one_caption_is_drawn():
    drawn = Counter()
    for index, label, _ in rows(stream(batch=50), 20):
        (text,) = label.texts
        assert text.startswith(f"{index}-")
        drawn[text.split("-")[1]] += 1
    assert len(drawn) == 4
    assert all(190 < n < 310 for n in drawn.values())  # 1000 draws, sigma 14


def test_mirror_coin_and_caption_are_independent():
    flips = {str(k): [] for k in range(4)}
    for index, label, pixels in rows(stream(mirror=True, batch=50), 20):
        flips[label.text.split("-")[1]].append(pixels[0] != index)
    assert all(0.3 < np.mean(f) < 0.7 for f in flips.values())


# ------------------------------------------------------------------------------------------- bad images


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_replaced_and_reported_once(workers):
    batches = stream(Painted(bad=(2, 3, 9)), batch=10, workers=workers)
    first, second = islice(batches, 2)
    batches.close()
    good = next(stream(batch=10)).indices
    assert first.indices == [{2: 4, 3: 4, 9: 0}.get(i, i) for i in good]
    assert [label.cls for label in first.labels] == [f"c{i}" for i in first.indices]
    assert {name: why for name, why in first.skipped} == {f"image {i}": "spoilt" for i in (2, 3, 9)}
    assert len(first.skipped) == 3
    assert second.skipped == []


@pytest.mark.parametrize("workers", [0, 1])
def test_only_bad_images(workers):
    batches = stream(Painted(bad=tuple(range(10))), workers=workers)
    with pytest.raises(
        GankitError, match=r"^10 images in a row cannot be read, of 10; the first of them is image .: spoilt$"
    ):
        next(batches)
    batches.close()


def test_a_long_run_of_bad_images(monkeypatch):
    monkeypatch.setattr(loader, "MAX_BAD_IN_A_ROW", 5)
    with pytest.raises(GankitError, match="5 images in a row"):
        rows(stream(Painted(50, bad=tuple(range(40)))), 20)


def test_mistakes_in_workers_stay_one_sentence():
    batches = stream(Painted(broken_label=4), batch=10, workers=1)
    with pytest.raises(GankitError, match=r"^this label is broken$"):
        next(batches)
    batches.close()


def test_unknown_fit():
    with pytest.raises(GankitError, match="did you mean 'stretch'"):
        stream(fit="strech")


# ------------------------------------------------------------------------------------------------ workers


def test_real_sources_in_workers(tmp_path):
    for i in range(6):
        (tmp_path / f"{i % 2}").mkdir(exist_ok=True)
        Image.new("RGB", (9, 7), (i, i, i)).save(tmp_path / f"{i % 2}" / f"{i}.png")
    (tmp_path / "1" / "x.png").write_text("not an image")
    source = FolderSource(str(tmp_path))
    streams = [Batches(source, (4, 4), batch=7, workers=w) for w in (0, 2)]
    for alone, spread in islice(zip(*streams), 3):
        assert torch.equal(alone.images, spread.images)
        assert alone.labels == spread.labels
        assert alone.skipped == spread.skipped
    for batches in streams:
        batches.close()


def test_wait_is_measured():
    class Slow(Painted):
        def image(self, index):
            time.sleep(0.01)
            return super().image(index)

    batches = stream(Slow(), batch=4)
    assert batches.wait_s == 0
    next(batches)
    time.sleep(0.1)
    assert 0.04 <= batches.wait_s < 0.1


def test_default_workers(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    for cores, workers in {1: 0, 2: 1, 4: 2, 64: 4}.items():
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False)
        assert default_workers() == workers
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert default_workers() == 2 // 2


def _signal_the_group(folder: str, context: str | None = None) -> None:
    """Take batches before and after Ctrl-C and SIGTERM reached this process and its workers."""
    if context:
        torch.multiprocessing.set_start_method(context, force=True)
    batches = Batches(FolderSource(folder), (4, 4), batch=2, workers=2)
    for _ in range(3):
        next(batches)
    caught = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: caught.append(n))
        os.killpg(0, number)
    for _ in range(20):
        next(batches)
    batches.close()
    os._exit(0 if caught == [signal.SIGINT, signal.SIGTERM] else 1)


@pytest.fixture
def four_images(tmp_path):
    for i in range(4):
        Image.new("L", (4, 4), i).save(tmp_path / f"{i}.png")
    return str(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="process groups of POSIX")
def test_ctrl_c_leaves_the_workers_alone(four_images):
    child = os.fork()
    if not child:
        try:
            os.setsid()
            _signal_the_group(four_images)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="process groups of POSIX")
def test_spawned_workers(four_images):
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_loader as t\n"
    main = Path(four_images) / "main.py"
    main.write_text(code + f"if __name__ == '__main__': t._signal_the_group({four_images!r}, 'spawn')")
    subprocess.run([sys.executable, str(main)], check=True, timeout=300, start_new_session=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="spawned workers need a main module of their own")
def test_an_interpreter_ends_though_batches_are_left_open(four_images):
    """Workers ignore SIGTERM, with which multiprocessing would end them before it waits for them."""
    code = "import sys\nfrom gankit.core.data.loader import Batches\n"
    code += "from gankit.plugins.sources.folder import FolderSource\n"
    code += "batches = Batches(FolderSource(sys.argv[1]), (4, 4), batch=2, workers=1); next(batches)\n"
    subprocess.run([sys.executable, "-c", code, four_images], check=True, timeout=60)


# ---------------------------------------------------------------------------------------------- open_source


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set" / "a").mkdir(parents=True)
    Image.new("L", (4, 4)).save(tmp_path / "set" / "a" / "1.png")
    return tmp_path / "set"


def test_paths_and_names(folder):
    for path in (str(folder), "set", "./set", "folder:set", f"folder:{folder}"):
        assert isinstance(open_source(path), FolderSource), path
    assert open_source("set").label(0).cls == "a"
    assert open_source("set", {"classes": False}).label(0).cls is None


def test_paths_with_colons(folder):
    for name in ("a:b", "zip:data", "C:"):
        other = folder.rename(folder.parent / name)
        assert isinstance(open_source(name), FolderSource), name
        other.rename(folder)


def test_zip_and_patterns(folder, monkeypatch):
    import zipfile

    with zipfile.ZipFile("x.zip", "w") as file:
        file.write(folder / "a" / "1.png", "1.png")
    assert isinstance(open_source("x.zip"), ZipSource)
    with pytest.raises(GankitError, match=r"s-0\.tar does not exist"):
        open_source("s-{0..3}.tar")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", "the data path nothing does not exist"),
        ("C:\\data\\faces", "does not exist"),
        ("floder:set", "unknown source 'floder'; did you mean 'folder'"),
        ("https://example.org/x.zip", "unknown source 'https'"),
        ("folder:nothing", "folder nothing does not exist"),
        ("set/a/1.png", "no source reads set/a/1.png; say which"),
    ],
)
def test_open_mistakes(folder, path, message):
    with pytest.raises(GankitError) as caught:
        open_source(path)
    assert message in str(caught.value)


def test_unknown_option(folder):
    with pytest.raises(GankitError, match="did you mean 'classes'"):
        open_source("set", {"clases": True})


def test_third_party_sources(folder, monkeypatch):
    from gankit.core.config.registry import Plugin, Registry, registry

    mine = {
        n: Plugin("source", n, t, "mine", "1")
        for n, t in {"painted": f"{__name__}:Sun", "bad": "no_such:X"}.items()
    }
    found = Registry({("source", n): p for n, p in mine.items()} | registry().plugins)
    for module in (loader, loader.options):
        monkeypatch.setattr(module, "registry", lambda: found)
    assert open_source("painted:").path == ""
    assert open_source("painted:12").path == "12"
    (Path("sky.sun")).write_text("")
    assert isinstance(open_source("sky.sun"), Sun)
    assert isinstance(open_source("set"), FolderSource)  # the broken one does not stand in the way
    with pytest.raises(GankitError, match="source 'bad' of package 'mine' cannot be imported"):
        open_source("nothing")


class Sun(Painted):
    def __init__(self, path: str, *, brightness: int = 1) -> None:
        super().__init__()
        self.path = path

    @classmethod
    def matches(cls, path: Path) -> bool:
        return path.suffix == ".sun"


def test_signal_handlers_of_this_process_are_untouched():
    before = signal.getsignal(signal.SIGINT)
    rows(stream(workers=1), 1)
    assert signal.getsignal(signal.SIGINT) is before


class Boxed(Painted):
    """The images of `Painted` with fields."""

    def label(self, index: int) -> Label:
        return replace(super().label(index), fields={"left": 0, "index": index, "unread": [1.5] * 1000})


class Photo(Boxed):
    """Of 3:2, rounded to pixels."""

    def image(self, index: int) -> Image.Image:
        return super().image(index).resize((1024, 683))


def flip(label: Label) -> Label:
    return replace(label, fields={**label.fields, "left": 1})


@pytest.mark.parametrize("workers", [0, 2])
def test_labels_are_mirrored_with_their_images(workers):
    batches = stream(Boxed(), workers=workers, mirror=True, mirror_label=flip, fields={"left", "index"})
    seen = Counter()
    for batch in islice(batches, 8):
        for image, label, flipped, index in zip(batch.images, batch.labels, batch.flipped, batch.indices):
            assert label.fields == {"left": int(flipped), "index": index}
            assert bool(image[0, 0, 0] == 255) == flipped
            seen[flipped] += 1
    batches.close()
    assert min(seen[True], seen[False]) > 8


@pytest.mark.parametrize("workers", [0, 1])
def test_fields_that_speak_of_places_are_told_of_where_images_are_reframed(workers):
    """Once for a run; a box of the uncut image would train places that are not there."""
    wanted = {"workers": workers, "mirror_label": flip}
    quiet = [
        {"size": (8, 8)},  # of the images' shape
        {"size": (8, 4), "fit": "stretch"},
        {"size": (8, 4), "fields": {"index"}},  # which mirroring leaves
        {"size": (8, 4), "fields": ()},
        {"size": (8, 4), "rank": 1, "world": 2},  # the first process tells
        {"source": Photo(), "size": (128, 192)},  # cut by less than a pixel of these
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in quiet:
            with contextlib.closing(stream(**{"source": Boxed(), **wanted, **options})) as batches:
                next(batches)
    for fit in ("crop", "top-crop", "pad"):
        with (
            contextlib.closing(stream(Boxed(), size=(8, 4), fit=fit, **wanted)) as batches,
            pytest.warns(
                UserWarning, match=rf"^image \d has another shape .* '{fit}' .* leaves 'left' of"
            ) as told,
        ):
            list(islice(batches, 3))
        assert len(told) == 1


def test_all_fields_are_kept_unless_names_are_given():
    assert next(stream(Boxed())).labels[0].fields.keys() == {"left", "index", "unread"}
    assert next(stream(Boxed(), fields=())).labels[0].fields == {}
