"""Labels from metadata files, files beside images and folder names, and the base class of sources of files.

Four places are read, and each field of a label is taken from the first of them that has it:

1. one file for the whole set: `metadata.jsonl` or `metadata.csv` with the columns `file_name, class, tags, text` and
   others, or a `dataset.json` as StyleGAN's tools write it;
2. a JSON file beside an image, `x.json` beside `x.png`, with the same names;
3. a text file beside an image, `x.txt`, one caption a line;
4. the name of the first-level folder, as the class.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from PIL import Image

from gankit.core.data.images import BadImage, open_image
from gankit.core.interfaces.data import Source
from gankit.core.interfaces.labels import EMPTY, Label
from gankit.errors import GankitError

METADATA_FILES = ("metadata.jsonl", "metadata.csv", "dataset.json")  # an earlier file wins

_FILE = ("file_name", "file")
_CLASS = ("class", "cls", "label")
_TAGS = ("tags",)
_TEXT = ("text", "caption", "texts", "captions")
_NOT_FIELDS = {"", *_FILE, *_CLASS, *_TAGS, *_TEXT}  # '': the column of row numbers that pandas writes
_CONTENT_SAMPLES = 256  # images whose bytes enter a fingerprint


class FileSource(Source):
    """Base of sources whose images are files; subclasses implement the access to them (`_read`, `_stamp`).

    Args:
        path: path as the user gave it, for messages.
        names: relative paths of the images with '/'.
        metadata: the files of `METADATA_FILES` that exist, by name.
        classes: take the names of first-level folders as classes.
        strict: raise GankitError for an image that is broken or that is not in the metadata, and for a JSON file beside
            an image that says nothing of it.
        max_megapixels: limit for images; larger ones raise BadImage.
    """

    others_json = True  # x.json beside x.png may be a file of another tool, which is no mistake

    def __init__(
        self,
        path: str,
        names: list[str],
        metadata: Mapping[str, bytes],
        *,
        classes: bool,
        strict: bool,
        max_megapixels: float,
    ) -> None:
        self.path, self.names = path, names
        self._strict, self._max_megapixels = strict, max_megapixels
        # StyleGAN's tools number their folders, so beside a dataset.json they do not mean classes
        self._folders = classes and "dataset.json" not in metadata
        self._told = False  # that a JSON file beside an image says nothing of it
        places = {name: index for index, name in enumerate(names)} if metadata else {}
        tables = [
            parse_metadata(file, metadata[file], path, places) for file in METADATA_FILES if file in metadata
        ]
        self._table = tables[0] if tables else LabelTable(len(names))
        for table in tables[1:]:
            for index in (i for i, label in enumerate(table.labels) if label is not None):
                self._table[index] = merge(self._table[index], table[index])
        missing = [name for name, label in zip(names, self._table.labels) if label is None]
        if strict and 0 < len(missing) < len(names):
            raise GankitError(
                f"{path}: {len(missing)} of {len(names)} images are not in the metadata, the first is {missing[0]!r}; "
                "add them or set strict to false"
            )

    @abstractmethod
    def _read(self, index: int, suffix: str = "") -> bytes | None:
        """The bytes of an image, or of the file beside it with another suffix; None if there is no such file.

        Raises BadImage if it cannot be read."""

    @abstractmethod
    def _stamp(self, index: int) -> int:
        """Size or checksum of an image file, without reading it."""

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def image(self, index: int) -> Image.Image:
        try:
            data = self._read(index)
            if data is None:
                raise BadImage("the file has disappeared")
            return open_image(data, max_megapixels=self._max_megapixels)
        except BadImage as error:
            if self._strict:
                raise GankitError(
                    f"{self.name(index)}: {error}; remove the file or set strict to false"
                ) from None
            raise

    def label(self, index: int) -> Label:
        name = self.names[index]
        folder = name.split("/", 1)[0] if self._folders and "/" in name else None
        return merge(self._table[index], self._beside(index), Label(folder))

    def _beside(self, index: int) -> Label:
        """The label from the files next to an image."""
        text = self._text(index, ".txt")
        return merge(self._record(index), Label(texts=captions((text or "").splitlines(), "")))

    def _record(self, index: int) -> Label:
        """The label from the JSON file next to an image."""
        place, skip = self._place(index, ".json"), self._tell
        try:
            text = self._text(index, ".json")
            return Label() if text is None else label_from(load_json(text, place), place, skip)
        except GankitError as error:
            skip(error)
            return Label()

    def _tell(self, error: GankitError) -> None:
        """Warn once of a JSON file beside an image that says nothing of it; raise if there should be none."""
        if self._strict or not self.others_json:
            raise error from None
        if not self._told:
            self._told = True
            warnings.warn(
                f"{error}; this is left out, here and in other such files; data.options.strict=true makes it an error",
                stacklevel=2,
            )

    def _text(self, index: int, suffix: str) -> str | None:
        try:
            data = self._read(index, suffix)
        except BadImage as error:
            raise GankitError(f"{self._place(index, suffix)}: {error}") from None
        return None if data is None else decode(data, self._place(index, suffix))

    def _place(self, index: int, suffix: str) -> str:
        return f"{self.path}: the {suffix} file of {self.name(index)!r}"

    def fingerprint(self) -> str:
        """Hash of names, labels and sizes of all images and the content of up to 256; the same for a copy elsewhere.

        Of labels it has class, tags and captions; a run compares the further fields that its conditioner accepts."""
        digest = hashlib.blake2b(digest_size=16)
        for index in range(len(self)):
            label = self.label(index)
            key = (self.names[index], self._stamp(index), label.cls, sorted(label.tags.items()), label.texts)
            digest.update(repr(key).encode())
        count = min(len(self), _CONTENT_SAMPLES)
        for index in (i * len(self) // count for i in range(count)):
            try:
                digest.update(hashlib.blake2b(self._read(index) or b"").digest())
            except BadImage:
                digest.update(b"unreadable")
        return digest.hexdigest()


NOTHING = Label()


class LabelTable:
    """Labels by an image's index; one that was not set is empty.

    Fields are kept as JSON text until they are asked for: as objects, those of a million images take many times the
    memory, in every worker."""

    def __init__(self, images: int) -> None:
        self.labels: list[Label | None] = [None] * images  # without fields
        self._fields: list[str | None] = [None] * images

    def __setitem__(self, index: int, label: Label) -> None:
        common = Label(label.cls, label.tags or EMPTY, label.texts)
        self.labels[index] = NOTHING if common == NOTHING else common
        if label.fields:
            self._fields[index] = json.dumps(label.fields, ensure_ascii=False, separators=(",", ":"))

    def __getitem__(self, index: int) -> Label:
        label, text = self.labels[index] or NOTHING, self._fields[index]
        return label if text is None else replace(label, fields=json.loads(text))


def merge(*labels: Label) -> Label:
    """A label with each field from the first of `labels` that has it."""
    return Label(
        next((label.cls for label in labels if label.cls is not None), None),
        next((label.tags for label in labels if label.tags), EMPTY),
        next((label.texts for label in labels if label.texts), ()),
        {name: value for label in reversed(labels) for name, value in label.fields.items()} or EMPTY,
    )


def parse_metadata(file: str, data: bytes, path: str, places: Mapping[str, int]) -> LabelTable:
    """The labels of a metadata file, where `places` has the index of every image by its name.

    Lines that repeat a name add captions, tags and fields to it. Raises GankitError with file and line, also for a name
    that is not an image's.
    """
    where = f"{path}/{file}"
    text = decode(data, where)
    if file.endswith(".jsonl"):
        rows = _jsonl(text, where)
    elif file.endswith(".csv"):
        rows = _csv(text, where)
    else:
        rows = _dataset_json(text, where)
    table = LabelTable(len(places))
    any_row = any_label = False
    for place, name, label in rows:
        name = name.replace("\\", "/").removeprefix("./")
        if name not in places:
            raise GankitError(
                f"{place}: {name!r} is not among the {len(places)} images found; names are relative to the folder of "
                "the metadata, such as 'cats/1.png'"
            )
        any_row, any_label = True, any_label or label != NOTHING
        index = places[name]
        if table.labels[index] is not None:
            before = table[index]
            if None not in (before.cls, label.cls) and before.cls != label.cls:
                raise GankitError(
                    f"{place}: {name!r} is of class {label.cls!r} here and {before.cls!r} before"
                )
            texts = tuple(dict.fromkeys(before.texts + label.texts))
            fields = {**before.fields, **label.fields}
            label = Label(before.cls or label.cls, {**before.tags, **label.tags}, texts, fields)
        try:
            table[index] = label
        except RecursionError:
            raise GankitError(f"{place}: a value is nested too deep") from None
    if any_row and not any_label and file != "dataset.json":
        raise GankitError(f"{where}: no line has a class, tags, text or another field")
    return table


Rows = Iterator[tuple[str, str, Label]]  # place for messages, image name, label


def _jsonl(text: str, where: str) -> Rows:
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: JSON may hold U+2028
        if line.strip():
            place = f"{where}, line {number}"
            record = load_json(line, place)
            yield place, _file_name(record, place), label_from(record, place)


def _csv(text: str, where: str) -> Rows:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = [column.strip() for column in reader.fieldnames or []]
        reader.fieldnames = columns
        if not set(columns) & set(_FILE):
            raise GankitError(
                f"{where}: the first line must name the columns, such as file_name,class,tags,text, not {columns}"
            )
        for record in reader:
            place = f"{where}, line {reader.line_num}"
            if None in record:
                raise GankitError(
                    f"{place}: more values than the {len(columns)} columns; put values with commas in quotes"
                )
            fields = {name: _cell(text) for name, text in record.items() if name not in _NOT_FIELDS}
            yield place, _file_name(record, place), label_from({**record, **fields}, place)
    except csv.Error as error:
        raise GankitError(f"{where}, line {reader.line_num}: not valid CSV ({error})") from None


def _dataset_json(text: str, where: str) -> Rows:
    """Rows of {"labels": [["00000/img00000000.png", label], ...]}, or of null labels.

    A label is a class number, a vector of numbers, a caption, or an object with the names of metadata.jsonl. Vectors
    that are all one-hot are class numbers, others are tags '0', '1', ... with weights.
    """
    content = load_json(text, where)
    if "labels" not in content:
        raise GankitError(f"{where}: has no 'labels'; it must be a list of [file name, label] pairs, or null")
    pairs = content["labels"] or []
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs
    ):
        raise GankitError(f"{where}: 'labels' must be a list of [file name, label] pairs, or null")
    vectors = [label for _, label in pairs if isinstance(label, list)]
    if len({len(vector) for vector in vectors}) > 1:
        raise GankitError(f"{where}: 'labels' has vectors of different lengths")
    one_hot = all([x for x in vector if x] in ([], [1]) for vector in vectors)
    for number, (name, label) in enumerate(pairs, 1):
        place = f"{where}, label {number} ({name!r})"
        if isinstance(label, list):
            weights = parse_tags({str(i): x for i, x in enumerate(label)}, place)
            yield place, name, Label(next(iter(weights), None)) if one_hot else Label(tags=weights)
        elif isinstance(label, dict):
            yield place, name, label_from(label, place)
        elif isinstance(label, str):
            yield place, name, Label(texts=captions(label, place))
        else:
            yield place, name, Label(class_name(label, place))


def label_from(
    record: Mapping[str, Any], place: str, skip: Callable[[GankitError], None] | None = None
) -> Label:
    """A label from class, tags and text (and the other names in use for them); whatever else is there is a field.

    Raises GankitError for a class, tags or text of another type, or passes it to `skip` and leaves them out. Values of
    fields may still be NaN: that is a mistake only if a conditioner accepts the field, see `check_labels`."""

    def read(parse: Callable[[Any, str], Any], names: tuple[str, ...]) -> Any:
        value = next((record[name] for name in names if record.get(name) is not None), None)
        try:
            return parse(value, place)
        except GankitError as error:
            if skip is None:
                raise
            skip(error)
            return parse(None, place)

    fields = {name: x for name, x in record.items() if name not in _NOT_FIELDS and x is not None}
    return Label(read(class_name, _CLASS), read(parse_tags, _TAGS), read(captions, _TEXT), fields or EMPTY)


def _cell(text: str | None) -> Any:
    """The value of a cell of a CSV file: JSON where it is JSON, such as 30 or [0.1, 0.2, 0.5, 0.6], else text."""
    try:
        return json.loads((text or "").strip() or "null", parse_constant=str)  # NaN stays text
    except (ValueError, RecursionError):
        return text


def _file_name(record: Mapping[str, Any], place: str) -> str:
    name = next((record[key] for key in _FILE if record.get(key)), None)
    if not isinstance(name, str):
        raise GankitError(f"{place}: has no 'file_name'")
    return name.strip()


def class_name(value: Any, place: str) -> str | None:
    """A class as text, None if it is empty. Raises GankitError unless it is a name or a whole number."""
    if value is None or (isinstance(value, (str, int)) and not isinstance(value, bool)):
        return str(value if value is not None else "").strip() or None
    raise GankitError(f"{place}: the class must be a name or a whole number, not {value!r}")


def captions(value: Any, place: str) -> tuple[str, ...]:
    """A caption or a list of captions -> tuple without empty ones. Raises GankitError for anything else."""
    values = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
        raise GankitError(f"{place}: the text must be a caption or a list of captions, not {value!r}")
    return tuple(text.strip() for text in values if text.strip())


def parse_tags(value: Any, place: str) -> dict[str, float]:
    """Tags ['a', 'b'], {'a': 1, 'b': 0.5}, 'a, b' or 'a b' -> weights in (0, 1]; those of weight 0 are dropped.

    A string with a comma is split at commas only, so that 'red eyes, hat' is two tags. Raises GankitError for other
    weights or types.
    """
    if isinstance(value, str):
        value = value.split(",") if "," in value else value.split()
    if isinstance(value, list):
        if not all(isinstance(tag, str) for tag in value):
            raise GankitError(f"{place}: the tags must be strings, not {value!r}")
        value = dict.fromkeys(value, 1.0)
    if not isinstance(value or {}, Mapping):
        raise GankitError(
            f"{place}: the tags must be a list, a string or a mapping tag: weight, not {value!r}"
        )
    tags = {}
    for tag, weight in (value or {}).items():
        number = float(weight) if isinstance(weight, (int, float)) else math.nan
        if not 0 <= number <= 1:
            raise GankitError(f"{place}: the weight of tag {tag!r} must be between 0 and 1, not {weight!r}")
        if number and tag.strip():
            tags[tag.strip()] = number
    return tags


def load_json(text: str, place: str) -> dict[str, Any]:
    """Parse a JSON object. Raises GankitError for anything else."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GankitError(f"{place}: not valid JSON ({error})") from None
    if not isinstance(record, dict):
        raise GankitError(f"{place}: must be a JSON object {{...}}, not {type(record).__name__}")
    return record


def decode(data: bytes, place: str) -> str:
    """Decode UTF-8 text. Raises GankitError if it is not."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GankitError(
            f"{place} is not UTF-8 text ({error.reason} at byte {error.start}); convert it"
        ) from None
