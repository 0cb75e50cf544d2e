"""Folder, zip and WebDataset sources and the metadata they share."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gankit.core.data.images import BadImage
from gankit.core.interfaces.labels import Label
from gankit.errors import GankitError
from gankit.plugins.sources import archive, shards
from gankit.plugins.sources.archive import ZipSource
from gankit.plugins.sources.folder import FolderSource
from gankit.plugins.sources.shards import ShardSource


def png(value: int = 0, size: tuple[int, int] = (4, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def write_zip(path: Path, files: dict[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: dict[str, bytes | str]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(params=["folder", "zip", "nested zip"])
def source(request, tmp_path):
    """A function that makes a source of {name: content}; the same tests run on folders and zips."""

    def make(files: dict[str, bytes | str], **options):
        if request.param == "folder":
            return FolderSource(str(write(tmp_path / "set", files)), **options)
        prefix = "top/" if request.param == "nested zip" else ""
        return ZipSource(
            str(write_zip(tmp_path / "set.zip", {prefix + n: c for n, c in files.items()})), **options
        )

    return make


def labels(source) -> dict[str, Label]:
    return {source.name(i): source.label(i) for i in range(len(source))}


def grey(source, index: int) -> int:
    return int(np.asarray(source.image(index))[0, 0, 0])


# ------------------------------------------------------------------------------------------ folder and zip


def test_files_that_count(source):
    files = {name: png(i) for i, name in enumerate(["b.png", "a.PNG", "c/d/e.jpeg"])}
    hidden = dict.fromkeys([".h.png", ".dir/x.png", "c/.y.png", "notes.md", "x.png.bak"], png())
    found = source({**files, **hidden, "c/d/e.txt": "caption"})
    assert [found.name(i) for i in range(len(found))] == ["a.PNG", "b.png", "c/d/e.jpeg"]
    assert [grey(found, i) for i in range(3)] == [1, 0, 2]


def test_classes_from_folders(source):
    files = {"x.png": png(), "cats/1.png": png(), "dogs/young/1.png": png()}
    assert {n: label.cls for n, label in labels(source(files)).items()} == {
        "x.png": None,
        "cats/1.png": "cats",
        "dogs/young/1.png": "dogs",
    }
    assert not source(files, classes=False).vocabulary().classes


def test_captions_beside(source):
    found = labels(
        source({"a.b.png": png(), "a.b.txt": "\ufeffone\r\n\n  two  \n", "c.png": png(), "c.txt": " \n"})
    )
    assert found["a.b.png"].texts == ("one", "two")
    assert found["c.png"].texts == ()


def test_jsonl_forms(source):
    rows = [
        {"file_name": "1.png", "class": "cat", "tags": ["a", "b c"], "text": "one"},
        {"file_name": "./2.png", "class": 7, "tags": "a, b c,", "text": ["one", "", "two"]},
        {"file_name": "d\\3.png", "tags": "a b", "text": None},
        {"file_name": "4.png", "tags": {"a": 0.25, "b": 0, "c": True}, "other": 1},
    ]
    lines = (
        "\n".join(json.dumps(row) for row in rows[:2])
        + "\n\n"
        + "\n".join(json.dumps(row) for row in rows[2:])
    )
    images = dict.fromkeys(["1.png", "2.png", "d/3.png", "4.png", "5.png"], png())
    assert labels(source({**images, "metadata.jsonl": lines}, classes=False)) == {
        "1.png": Label("cat", {"a": 1, "b c": 1}, ("one",)),
        "2.png": Label("7", {"a": 1, "b c": 1}, ("one", "two")),
        "d/3.png": Label(None, {"a": 1, "b": 1}),
        "4.png": Label(None, {"a": 0.25, "c": 1}),
        "5.png": Label(),
    }


def test_csv(source):
    table = '\ufefffile_name, class,tags,text\r\n1.png,cat,"a, b","says ""hi"",\nthen goes"\r\n2.png,,,\r\n'
    found = labels(source({"1.png": png(), "2.png": png(), "metadata.csv": table}))
    assert found["1.png"] == Label("cat", {"a": 1, "b": 1}, ('says "hi",\nthen goes',))
    assert found["2.png"] == Label()


def test_repeated_lines_add_captions(source):
    table = "file_name,text\n1.png,one\n1.png,two\n1.png,one\n"
    assert labels(source({"1.png": png(), "metadata.csv": table}))["1.png"].texts == ("one", "two")


def test_fields_come_from_the_first_that_has_them(source):
    files = {
        "metadata.jsonl": '{"file_name": "cats/1.png", "tags": ["a"]}\n{"file_name": "cats/2.png", "class": "lion"}',
        "metadata.csv": "file_name,class,tags,text\ncats/2.png,tiger,b,big cat\n",
        "cats/1.txt": "beside",
        "cats/2.txt": "beside",
        **dict.fromkeys(["cats/1.png", "cats/2.png", "cats/3.png"], png()),
    }
    assert labels(source(files)) == {
        "cats/1.png": Label("cats", {"a": 1}, ("beside",)),
        "cats/2.png": Label("lion", {"b": 1}, ("big cat",)),
        "cats/3.png": Label("cats"),
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 0], [Label("3"), Label("0")]),
        ([[0, 1, 0], [0, 0, 0]], [Label("1"), Label()]),
        ([[0, 1, 0], [1.0, 0.5, 0]], [Label(tags={"1": 1}), Label(tags={"0": 1, "1": 0.5})]),
        ([[0, 0.5], [0, 1]], [Label(tags={"1": 0.5}), Label(tags={"1": 1})]),
        (["a cat", "two\ndogs"], [Label(texts=("a cat",)), Label(texts=("two\ndogs",))]),
        (None, [Label(), Label()]),
    ],
)
def test_dataset_json(source, values, expected):
    names = ["00000/img0.png", "00000/img1.png"]
    content = {"labels": values and [list(pair) for pair in zip(names, values)]}
    found = labels(source({**dict.fromkeys(names, png()), "dataset.json": json.dumps(content)}))
    assert list(found.values()) == expected  # the numbered folders are not classes here


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metadata.jsonl", '{"file_name": "1.png", "text": "a"}\n{"file_name"', "jsonl, line 2: not valid JSON"),
        ("metadata.jsonl", "[1]", "line 1: must be a JSON object"),
        ("metadata.jsonl", '{"text": "x"}', "line 1: has no 'file_name'"),
        ("metadata.jsonl", '\n{"file_name": "2.png"}', "line 2: '2.png' is not among the 1 images"),
        ("metadata.jsonl", '{"file_name": "1.png", "kind": "x"}', "no line has a class, tags or text"),
        ("metadata.jsonl", '{"file_name": "1.png", "class": 1.5}', "class must be a name or a whole number, not 1.5"),
        ("metadata.jsonl", '{"file_name": "1.png", "tags": {"a": 2}}', "tag 'a' must be between 0 and 1, not 2"),
        ("metadata.jsonl", '{"file_name": "1.png", "tags": {"a": NaN}}', "weight of tag 'a'"),
        ("metadata.jsonl", '{"file_name": "1.png", "tags": [1]}', "tags must be strings"),
        ("metadata.jsonl", '{"file_name": "1.png", "tags": 5}', "tags must be a list"),
        ("metadata.jsonl", '{"file_name": "1.png", "text": 5}', "text must be a caption"),
        ("metadata.jsonl", b'{"file_name": "1.png", "text": "\xff"}', "not UTF-8"),
        ("metadata.csv", "1.png,cat\n", "first line must name the columns"),
        ("metadata.csv", "", "first line must name the columns"),
        ("metadata.csv", "file_name,text\n1.png,one, two\n", "line 2: more values than the 2 columns"),
        ("metadata.csv", 'file_name,text\n1.png,"one\n', "not valid CSV"),
        ("metadata.csv", "file_name,class\n1.png,a\n1.png,b\n", "line 3: '1.png' is of class 'b' here and 'a' before"),
        ("dataset.json", "{}", "has no 'labels'"),
        ("dataset.json", '{"labels": [["1.png"]]}', "list of .file name, label. pairs"),
        ("dataset.json", '{"labels": [["1.png", true]]}', "label 1 .'1.png'.: the class"),
        ("dataset.json", '{"labels": [["1.png", [0, 2]]]}', "weight of tag '1'"),
        ("dataset.json", '{"labels": [["1.png", [1]], ["1.png", [0, 1]]]}', "different lengths"),
        ("1.txt", b"\xff\xfe", "not UTF-8"),
    ],
)  # fmt: skip
def test_mistakes_name_file_and_line(source, file, content, message):
    with pytest.raises(GankitError, match=message) as caught:
        labels(source({"1.png": png(), file: content}))
    assert Path(file).suffix in str(caught.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_images_and_strict(source):
    files = {"1.png": png(), "2.png": b"text", "3.png": b"", "4.png": png(size=(1200, 1000))}
    found = source(files, max_megapixels=1)
    found.image(0)
    for index, reason in ((1, "not an image"), (2, "empty"), (3, "megapixels")):
        with pytest.raises(BadImage, match=reason):
            found.image(index)
    with pytest.raises(GankitError, match=r"2\.png: not an image"):
        source(files, strict=True).image(1)
    with pytest.raises(GankitError, match=r"3 of 4 images are not in the metadata, the first is '2\.png'"):
        source({**files, "metadata.csv": "file_name,class\n1.png,a\n"}, strict=True)


def test_pickles(source):
    found = source({"0.png": png(), "a/1.png": png(9), "a/1.txt": "x"})
    grey(found, 1)
    copy = pickle.loads(pickle.dumps(found))
    assert grey(copy, 1) == 9
    assert copy.label(1) == found.label(1) == Label("a", texts=("x",))
    assert copy.fingerprint() == found.fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"a/1.png": png(2)},
        {"a/2.png": None, "a/3.png": png(1)},
        {"a/1.txt": "two"},
        {"b.png": png(2)},
        {"metadata.csv": "file_name,tags\na/1.png,t\n"},
    ],
)
def test_fingerprint_follows_content(source, change):
    files = {
        "0.png": png(),
        "a/1.png": png(0),
        "a/2.png": png(1),
        "a/1.txt": "one",
        "a/4.txt": "no image of this",
    }
    before = source(files)
    first = before.fingerprint()
    assert first == source(files).fingerprint() != source(files, classes=False).fingerprint()
    if isinstance(before, FolderSource):
        os.utime(before.root / "a/1.png", (1, 1))
        moved = shutil.copytree(before.root, before.root.with_name("moved"))
        assert FolderSource(str(moved)).fingerprint() == first
        shutil.rmtree(before.root)
    changed = {n: c for n, c in {**files, **change}.items() if c is not None}
    assert source(changed).fingerprint() != first


# ------------------------------------------------------------------------------------------------- folder


def test_folder_mistakes(tmp_path):
    with pytest.raises(GankitError, match="does not exist"):
        FolderSource(str(tmp_path / "none"))
    with pytest.raises(GankitError, match=r"holds no images.*\.png"):
        FolderSource(str(write(tmp_path, {"a.txt": "x"})))
    with pytest.raises(GankitError, match="is a file"):
        FolderSource(str(tmp_path / "a.txt"))


def test_linked_folders_are_visited_once(tmp_path):
    write(tmp_path / "elsewhere", {"1.png": png()})
    write(tmp_path / "set", {"a/2.png": png()})
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "set" / "a" / "loop").symlink_to(tmp_path / "set", target_is_directory=True)
    assert set(labels(FolderSource(str(tmp_path / "set")))) == {"a/2.png", "b/1.png"}


def test_removed_file_is_a_bad_image(tmp_path):
    found = FolderSource(str(write(tmp_path, {"1.png": png()})))
    (tmp_path / "1.png").unlink()
    with pytest.raises(BadImage, match="disappeared"):
        found.image(0)
    assert found.fingerprint()


# ---------------------------------------------------------------------------------------------------- zip


@pytest.mark.parametrize("name", ["/etc/x.png", "../x.png", "a/../../x.png", "..\\x.png", "C:\\x.png"])
def test_zip_with_unsafe_names(tmp_path, name):
    path = write_zip(tmp_path / "a.zip", {"ok.png": png(), name: png()})
    with pytest.raises(GankitError, match="unsafe name"):
        ZipSource(str(path))


def test_zip_mistakes(tmp_path):
    with pytest.raises(GankitError, match="does not exist"):
        ZipSource(str(tmp_path / "none.zip"))
    with pytest.raises(GankitError, match="holds no images"):
        ZipSource(str(write_zip(tmp_path / "a.zip", {"a.txt": "x"})))
    (tmp_path / "b.zip").write_bytes(b"not a zip")
    with pytest.raises(GankitError, match="cannot be read as a zip"):
        ZipSource(str(tmp_path / "b.zip"))


def test_encrypted_zip(tmp_path):
    data = bytearray(write_zip(tmp_path / "a.zip", {"1.png": png()}).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag of encryption in the directory
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(GankitError, match="encrypted"):
        ZipSource(str(tmp_path / "a.zip"))


def test_damaged_and_huge_zip_members(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("1.png", png(1))
        file.writestr("2.png", png(2, (50, 50)) + bytes(5000))
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 255
    path.write_bytes(data)
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 4096)
    found = ZipSource(str(path))
    with pytest.raises(BadImage, match="CRC"):
        found.image(0)
    with pytest.raises(BadImage, match="unpacks to"):
        found.image(1)


def test_zip_in_a_forked_process(tmp_path):
    """Parent and child read in turn; a shared file position would mix them up."""
    found = ZipSource(str(write_zip(tmp_path / "a.zip", {f"{i:02}.png": png(i) for i in range(40)})))
    assert grey(found, 0) == 0
    child = os.fork()
    values = [grey(found, i) for i in range(40)] * 5
    if not child:
        os._exit(0 if values == list(range(40)) * 5 else 1)
    assert values == list(range(40)) * 5
    assert os.waitpid(child, 0)[1] == 0


# ------------------------------------------------------------------------------------------------- shards


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
        "a.tar/d/1.jpg": Label("3", {"a": 1}, ("from json",)),
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


# ----------------------------------------------------------------------------------------------- matching


def test_every_path_has_one_source(tmp_path):
    images = write(tmp_path / "images", {"1.png": png(), "backup.tar": b"", "a/b.tar": b""})
    tars = write(tmp_path / "tars", {"1.tar": b"", "1_stats.json": b""})
    zipped = write_zip(tmp_path / "a.zip", {})
    cases = {images: FolderSource, tars: ShardSource, zipped: ZipSource, tars / "1.tar": ShardSource}
    for path, expected in cases.items():
        assert [s for s in (FolderSource, ZipSource, ShardSource) if s.matches(path)] == [expected]
    for path in (tmp_path / "none", tmp_path / "none.zip", tmp_path / "none.tar", images / "1.png"):
        assert not any(s.matches(path) for s in (FolderSource, ZipSource, ShardSource))
