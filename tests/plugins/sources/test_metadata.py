"""Folders and zips of images: files that count, classes, captions, metadata files, mistakes in them, fingerprints."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_files import grey, labels, png, write, write_tar, write_zip

from gankit.core.data.images import BadImage
from gankit.core.interfaces.labels import Label
from gankit.errors import GankitError
from gankit.plugins.sources.archive import ZipSource
from gankit.plugins.sources.folder import FolderSource
from gankit.plugins.sources.metadata import METADATA_FILES, LabelTable
from gankit.plugins.sources.shards import ShardSource


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
        "4.png": Label(None, {"a": 0.25, "c": 1}, fields={"other": 1}),
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
        ("metadata.jsonl", '{"file_name": "1.png", "kind": null}', "no line has a class, tags, text or another field"),
        ("metadata.jsonl", '{"file_name": "1.png", "a": ' + "[" * 99999 + "]" * 99999 + "}", "line 1: not valid JSON"),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"image_id": 1, "bbox": [1, 2, 3, 4]}]', "must be a JSON object"),
        ('{"label": {"shapes": []}, "caption": "kept", "score": NaN}', "the class must be a name"),
        ('{"text": 5, "caption": "not reached", "score": NaN}', "the text must be a caption"),
        ('{"tags": [{"name": "a"}], "caption": "kept", "score": NaN}', "the tags must be strings"),
        ("{damaged", "not valid JSON"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_json_of_other_tools_beside_images_is_left_out_and_told_once(source, content, message):
    files = {name: png() for name in ("0.png", "a/1.png", "a/2.png")}
    files |= dict.fromkeys(["a/1.json", "a/2.json"], content)
    found = source(files)
    with pytest.warns(UserWarning, match=f"the .json file of 'a/1.png'.*{message}.*left out") as told:
        _, first, second = (found.label(i) for i in range(3))
    assert len(told) == 1
    assert first.cls == second.cls == "a"
    assert first.tags == {}
    assert first.texts == (("kept",) if "kept" in str(content) else ())
    assert first.fields.keys() == ({"score"} if "score" in str(content) else set())
    with pytest.raises(GankitError, match=message):
        source(files, strict=True).label(1)


def test_the_json_of_a_shard_is_its_own(tmp_path):
    write_tar(tmp_path / "set.tar", {"1.png": png(), "1.json": '{"label": {}}'})
    with pytest.raises(GankitError, match="the class must be a name"):
        ShardSource(str(tmp_path / "set.tar"), cache=str(tmp_path)).label(0)


def test_files_beside_are_opened_where_they_exist_only(tmp_path, monkeypatch):
    """On a network disk, an open that fails costs as much as one that does not."""
    write(tmp_path, {"a/1.png": png(), "a/1.txt": "one", "a/1.json": "{}", "a/2.PNG": png(), "3.png": png()})
    found, opened = FolderSource(str(tmp_path)), []
    with monkeypatch.context() as patch:
        real = open
        patch.setattr("builtins.open", lambda path, *rest: opened.append(path) or real(path, *rest))
        labels(found)
    assert [Path(path).name for path in opened] == ["1.txt", "1.json"]


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


BOX = [0.1, 0.2, 0.5, 0.6]
NAMES = st.sampled_from(
    ["file_name", "file", "class", "label", "tags", "text", "captions", "box", "labels", ""]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("1.png"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.filterwarnings("ignore:.*left out")
@settings(deadline=None, max_examples=150)
@given(st.sampled_from([*METADATA_FILES, "1.json"]), st.binary(max_size=60) | ANYTHING | st.text(max_size=60))
def test_any_content_is_read_or_refused_with_a_sentence(tmp_path_factory, file, content):
    if not isinstance(content, (bytes, str)):
        content = json.dumps(content)
    root = write(tmp_path_factory.mktemp("any"), {"1.png": png(), file: content})
    with contextlib.suppress(GankitError):
        found = FolderSource(str(root))
        json.dumps(dict(found.label(0).fields))
        assert found.fingerprint() == FolderSource(str(root)).fingerprint()


def test_other_names_are_fields(source):
    """From each place that labels come from, the earlier one first; null is not given."""
    files = {
        "metadata.jsonl": json.dumps(
            {"file_name": "1.png", "box": BOX, "pose": {"yaw": 3}, "none": None, "a": "x"}
        ),
        "metadata.csv": ",file_name,box,angle,word,code\r\n"
        '0,2.png,"[0, 0.5, 1, 1]",30,NaN,007\r\n1,1.png,"[0, 0, 1, 1]",,-1.5,true\r\n',
        "1.json": '{"a": "y", "deep": [{"b": [true, null]}]}',
        "3.json": json.dumps({"class": "cat", "caption": "one", "box": BOX}),
        "3.txt": "two",
        **dict.fromkeys(["1.png", "2.png", "3.png", "4.png"], png()),
    }
    found = source(files)
    assert labels(found) == {
        "1.png": Label(
            fields={
                "a": "x",
                "deep": [{"b": [True, None]}],
                "word": -1.5,
                "code": True,
                "box": BOX,
                "pose": {"yaw": 3},
            }
        ),
        "2.png": Label(fields={"box": [0, 0.5, 1, 1], "angle": 30, "word": "NaN", "code": "007"}),
        "3.png": Label("cat", texts=("one",), fields={"box": BOX}),
        "4.png": Label(),
    }
    assert found.vocabulary().fields == {
        "box": 3,
        "code": 2,
        "word": 2,
        "a": 1,
        "angle": 1,
        "deep": 1,
        "pose": 1,
    }
    assert pickle.loads(pickle.dumps(found)).label(0) == found.label(0)


def test_fields_of_dataset_json(source):
    content = {"labels": [["1.png", {"class": 3, "box": BOX}], ["2.png", 4]]}
    found = source({"1.png": png(), "2.png": png(), "dataset.json": json.dumps(content)})
    assert labels(found) == {"1.png": Label("3", fields={"box": BOX}), "2.png": Label("4")}


def test_repeated_lines_add_fields(source):
    lines = '{"file_name": "1.png", "a": 1}\n{"file_name": "1.png", "b": 2, "text": "one"}'
    found = source({"1.png": png(), "metadata.jsonl": lines})
    assert found.label(0) == Label(texts=("one",), fields={"a": 1, "b": 2})


def test_fields_are_not_in_the_fingerprint(source):
    """It is that of before they were read, so that runs of then continue, also those of sources that wrap others."""
    files = {"1.png": png(), "metadata.jsonl": '{"file_name": "1.png", "text": "one"}'}
    first = source(files).fingerprint()
    line = '{"file_name": "1.png", "text": "one", "box": [1, NaN]}'
    assert source({**files, "metadata.jsonl": line}).fingerprint() == first


def test_fields_take_the_memory_of_their_text():
    """A million rows with a large field that nobody reads are not a million objects with all their numbers."""
    table = LabelTable(50)
    numbers = list(range(2000))
    tracemalloc.start()
    for i in range(50):
        table[i] = Label(fields={"numbers": [n + 1e6 * i for n in numbers]})
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    text = len(json.dumps(table[49].fields))
    assert taken < 50 * text * 1.3
    assert table[49].fields["numbers"][1] == 49e6 + 1


@pytest.mark.parametrize(("label", "most"), [(Label(), 20), (Label("a"), 90)])
def test_labels_take_little_memory(label, most):
    table = LabelTable(1000)
    tracemalloc.start()
    for i in range(1000):
        table[i] = Label(label.cls, {}, (), {})
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 1000 * most


def test_one_metadata_file_is_not_merged(source, monkeypatch):
    """Merging parses the fields of each image once more; at a million images that takes a minute."""
    monkeypatch.setattr(LabelTable, "__getitem__", lambda *_: pytest.fail("read"))
    line = '{"file_name": "1.png", "box": [1]}'
    source({"1.png": png(), "metadata.jsonl": line})
    with pytest.raises(pytest.fail.Exception):
        source({"1.png": png(), "metadata.jsonl": line, "metadata.csv": "file_name,class\n1.png,a\n"})
