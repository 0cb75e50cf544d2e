"""A field of labels that gankit does not know, from each kind of data set through training to pictures and pages."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_plugins import Angle
from PIL import Image
from runs import TINY, Result, pixels, write_images

import gankit
from gankit.cli.model_facts import facts
from gankit.core.config import recipe as recipes
from gankit.core.config.registry import registry
from gankit.core.interfaces.conditions import Conditioner
from gankit.core.interfaces.labels import Label
from gankit.core.models.model_folder import read_vocabulary
from gankit.core.runtime import tensor_files
from gankit.core.training.assembly import check_labels
from gankit.core.training.step import Stepper
from gankit.evaluation.metric_context import MetricContext
from gankit.plugins.conditioning.none import NoCondition
from gankit.plugins.sources.folder import FolderSource
from gankit.sampling.export_model import export_model
from gankit.sampling.sample_grid import SampleGrid

CONDITIONER = {"name": "combined", "parts": {"angle": {}, "class": {}}}
FAST = {"train.images": 16, "train.lr_g": 0.02, "train.ema_rampup": 0.001, "trackers": {}}


def angle_of(index: int) -> float:
    return 15.0 * (index % 13) - 90


@pytest.fixture(scope="module", autouse=True)
def angle() -> Iterator[None]:
    registry().register("conditioner", "angle", "fake_plugins:Angle", package="gankit-angle", version="1.0")
    yield
    del registry().plugins["conditioner", "angle"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in two classes with an angle, and with more that nobody reads."""
    folder = write_images(tmp_path_factory.mktemp("angles"))
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for i, line in enumerate(lines):
        line |= {"angle": angle_of(i), "aesthetic": 0.5, "exif": {"iso": [100, None]}}
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def train(out: Path, data: Path, **overrides: Any) -> Path:
    changes = {**TINY, **FAST, "conditioner": CONDITIONER, **overrides}
    gankit.train("stylegan2", out, data=str(data), overrides=changes, quiet=True)
    return out


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "run", data)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Label]:
    """The labels that training gets."""
    labels: list[Label] = []
    original = Stepper.run

    def record(self: Stepper, images: Any, given: list[Label], **rest: Any) -> bool:
        labels.extend(given)
        return original(self, images, given, **rest)

    monkeypatch.setattr(Stepper, "run", record)
    return labels


@pytest.mark.parametrize("kind", ["folder", "files beside", "zip", "shards"])
@pytest.mark.parametrize("workers", [0, 1])
def test_every_source_feeds_training(
    data: Path, tmp_path: Path, seen: list[Label], kind: str, workers: int
) -> None:
    where = data
    images = sorted(data.rglob("*.png"))
    beside = {
        path: json.dumps({"angle": angle_of(int(path.stem)), "cls": path.parent.name}) for path in images
    }
    if kind == "files beside":
        where = tmp_path / "beside"
        for path, text in beside.items():
            (where / path.parent.name).mkdir(parents=True, exist_ok=True)
            copy = where / path.relative_to(data)
            copy.write_bytes(path.read_bytes())
            copy.with_suffix(".json").write_text(text)
    elif kind == "zip":
        where = tmp_path / "set.zip"
        with zipfile.ZipFile(where, "w") as archive:
            for path in (*images, data / "metadata.jsonl"):
                archive.write(path, path.relative_to(data))
    elif kind == "shards":
        where = tmp_path / "set.tar"
        with tarfile.open(where, "w") as tar:
            for path, text in beside.items():
                tar.add(path, path.name)
                (tmp_path / "one.json").write_text(text)
                tar.add(tmp_path / "one.json", f"{path.stem}.json")
    train(tmp_path / "run", where, **{"train.workers": workers})
    assert len(seen) == 16
    assert all(label.fields.keys() == {"angle"} for label in seen)  # what nobody reads does not travel
    assert len({(label.cls, label.fields["angle"]) for label in seen}) > 8


def test_labels_are_mirrored_in_training(data: Path, tmp_path: Path, seen: list[Label]) -> None:
    for mirror in (False, True):
        train(tmp_path / str(mirror), data, **{"data.mirror": mirror})
    angles = [label.fields["angle"] for label in seen]
    before, after = angles[:16], angles[16:]  # of the same images
    assert [abs(a) for a in after] == [abs(a) for a in before]
    turned = sum(a == -b for a, b in zip(after, before) if b)
    assert 3 < turned < 13


def test_what_nobody_reads_is_told(data: Path, tmp_path: Path, gankit_cli: Callable[..., Result]) -> None:
    sets = [
        f"{key}={json.dumps(value)}" for key, value in {**TINY, **FAST, "conditioner": CONDITIONER}.items()
    ]
    arguments = [part for item in sets for part in ("--set", item)]
    told = "the data has captions, tags, 'aesthetic' and 'exif', which this recipe does not use"
    done = gankit_cli("train", "stylegan2", "--data", data, "--out", tmp_path / "run", *arguments)
    assert done.code == 0, done.err
    assert (done.out + done.err).count(told) == 1
    assert told in gankit_cli("train", "stylegan2", "--data", data, "--dry-run", *arguments).out
    assert (
        "\ncondition: " in gankit_cli("train", "stylegan2", "--dry-run", *arguments).out
    )  # without data, too


def test_a_bad_value_is_told_with_its_image_before_training(data: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (16, 16)).save(tmp_path / "set" / name)
    rows = [{"file_name": "a.png", "angle": 5}, {"file_name": "b.png", "angle": "steep"}]
    (tmp_path / "set" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(gankit.GankitError, match=r"^b\.png: an angle must be .* not 'steep'"):
        train(tmp_path / "run", tmp_path / "set", conditioner="angle")


def test_a_value_that_cannot_be_stored_matters_where_it_is_read(tmp_path: Path, seen: list[Label]) -> None:
    """NaN in a column that nobody accepts stops nothing; in one that a conditioner accepts, the image is named."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (16, 16)).save(folder / name)
    line = '{"file_name": "%s.png", "angle": %s, "score": NaN, "deep": ' + "[" * 40 + "]" * 40 + "}\n"
    (folder / "metadata.jsonl").write_text(line % ("a", 5) + line % ("b", 6))
    train(tmp_path / "good", folder, conditioner="angle", **{"train.workers": 1})
    assert {label.fields["angle"] for label in seen} == {5, 6}
    assert all(label.fields.keys() == {"angle"} for label in seen)
    (folder / "metadata.jsonl").write_text(line % ("a", 5) + line % ("b", "[NaN]"))
    with pytest.raises(gankit.GankitError, match=r"^b\.png: 'angle' must be finite, not nan"):
        train(tmp_path / "bad", folder, conditioner="angle")


def test_the_hash_of_labels_is_of_what_the_conditioner_accepts(data: Path, tmp_path: Path) -> None:
    def hash_of(change: Callable[[dict[str, Any]], Any], *conditioners: Conditioner) -> list[str]:
        lines = [json.loads(line) for line in (data / "metadata.jsonl").read_text().splitlines()]
        for line in lines:
            change(line)
        for path in data.rglob("*.png"):
            (tmp_path / path.relative_to(data)).parent.mkdir(exist_ok=True)
            (tmp_path / path.relative_to(data)).write_bytes(path.read_bytes())
        (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
        source = FolderSource(str(tmp_path))
        return [check_labels(source, conditioner) for conditioner in conditioners]

    both = Angle(), NoCondition()
    before, none = hash_of(lambda line: None, *both)
    assert none == ""
    assert hash_of(lambda line: line.pop("aesthetic"), *both) == [before, ""]
    assert hash_of(lambda line: line.update(angle=line["angle"] / 2), *both)[0] != before
    assert hash_of(lambda line: line.pop("angle"), *both)[0] != before


def test_an_old_run_on_data_with_fields_continues(data: Path, tmp_path: Path) -> None:
    """It says nothing of them; a run of now notices changes of those that its conditioner reads, and of no other."""
    copy = tmp_path / "data"
    for path in [p for p in data.rglob("*") if p.is_file()]:
        (copy / path.relative_to(data)).parent.mkdir(parents=True, exist_ok=True)
        (copy / path.relative_to(data)).write_bytes(path.read_bytes())
    out = train(tmp_path / "run", copy, **{"train.images": 8})
    state = out / "checkpoints" / "000000008" / "training" / "state.json"
    page = json.loads(state.read_text())
    recipe = out / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("images: 8\n", "images: 16\n"))
    text = (copy / "metadata.jsonl").read_text()
    changed = text.replace('"aesthetic": 0.5', '"aesthetic": 0.75')
    shutil.copytree(out, tmp_path / "old")
    (copy / "metadata.jsonl").write_text(changed.replace('"angle": -15', '"angle": -16'))
    with pytest.raises(gankit.GankitError, match="the data set has changed"):
        train(out, copy)
    (copy / "metadata.jsonl").write_text(changed)
    train(out, copy)
    assert (out / "checkpoints" / "000000016").is_dir()
    (copy / "metadata.jsonl").write_text(changed.replace('"angle": -15', '"angle": -16'))
    del page["sha256"]
    del page["fields"]
    tensor_files.write_json(tmp_path / "old" / state.relative_to(out), page)
    train(tmp_path / "old", copy)
    assert (tmp_path / "old" / "checkpoints" / "000000016").is_dir()


def test_requests(run: Path) -> None:
    pipe = gankit.load(run, device="cpu")
    (steep,) = pipe(angle=80, cls="round", seeds=3)
    (same,) = pipe(angle=np.float64(80), cls="round", seeds=3)
    assert steep.tobytes() == same.tobytes()
    for other in (pipe(angle=-80, cls="round", seeds=3), pipe(cls="round", seeds=3), pipe(angle=80, seeds=3)):
        assert abs(pixels(other) - pixels([steep])).max() > 0
    for wish, message in (
        ({"box": [1]}, "this model does not take 'box'; it takes a class or 'angle'"),
        ({"seed": 3}, "does not take 'seed'; it takes a class or 'angle'"),
        ({"text": "a cat"}, "does not take 'text'"),
        ({"prompt": "a cat", "angle": 3}, "does not take a prompt; it takes a class or 'angle'"),
        ({"angle": float("nan")}, "'angle' must be finite, not nan"),
        ({"angle": object()}, "'angle' must be text, a number, or a list or mapping of these, not object"),
        ({"angle": 200}, "an angle must be -180 to 180 degrees, not 200"),
    ):
        with pytest.raises(gankit.GankitError, match=message):
            pipe(**wish)


def test_requests_on_the_command_line(run: Path, tmp_path: Path, gankit_cli: Callable[..., Result]) -> None:
    wish = ("--label", "angle=30", "--label", "angle=-60.5", "--class", "round", "--seeds", "0-1")
    assert gankit_cli("sample", run, *wish, "--out", tmp_path / "out").code == 0
    pages = [
        json.loads(Image.open(tmp_path / "out" / f"00{i}-seed0001.png").text["gankit"])  # type: ignore[attr-defined]
        for i in range(2)
    ]
    assert [(page["label"], page["cls"]) for page in pages] == [
        ({"angle": 30}, "round"),
        ({"angle": -60.5}, "round"),
    ]
    pipe = gankit.load(run, device="cpu")
    drawn = pipe(angle=-60.5, cls="round", seeds=1, psi=0.7)
    assert abs(pixels(drawn) - pixels([Image.open(tmp_path / "out" / "001-seed0001.png")])).max() <= 1
    for arguments, message in (
        (["--label", "angle=steep"], "an angle must be -180 to 180 degrees, not 'steep'"),
        (["--label", "box=0.1,0.2"], "this model does not take 'box'; it takes a class or 'angle'"),
        (["--label", "angle"], "--label 'angle' must look like name=value"),
        (["--label", "cls=round"], "prompts, tags and classes are given by --prompt, --tags and --class"),
        (["--label", "seeds=3"], "this model does not take 'seeds'"),
        (
            [*wish[:4], "--class", "a", "--class", "b", "--class", "c"],
            "--label angle is given 2 times and another 3 times; give it once or 3 times",
        ),
    ):
        assert message in gankit_cli("sample", run, *arguments, "--out", tmp_path / "none").message


def test_models_know_their_fields(run: Path, tmp_path: Path, gankit_cli: Callable[..., Result]) -> None:
    export_model(str(run), tmp_path / "model", "fp32")
    assert read_vocabulary(tmp_path / "model").fields == {"angle": 24}
    assert "label fields (1): angle" in gankit_cli("inspect", tmp_path / "model").out
    told = {"angle": {"images": 24, "examples": Angle().examples()["angle"]}}
    assert json.loads(gankit_cli("inspect", tmp_path / "model", "--json").out)["takes"]["fields"] == told
    page = tensor_files.read_json(tmp_path / "model" / "conditioner.json", 1)
    for key in ("sha256", "examples"):
        page.pop(key, None)
    tensor_files.write_json(tmp_path / "model" / "conditioner.json", page)
    told["angle"]["examples"] = []
    assert facts(str(tmp_path / "model"))["takes"]["fields"] == told
    del page["accepts"]  # as an earlier gankit wrote it; found by building the conditioner
    tensor_files.write_json(tmp_path / "model" / "conditioner.json", page)
    told["angle"]["examples"] = Angle().examples()["angle"]
    assert facts(str(tmp_path / "model"))["takes"]["fields"] == told
    assert (
        "pipe(cls='a class', angle=30.0, seeds=range(8), psi=0.7)"
        in (tmp_path / "model/README.md").read_text()
    )


def test_evaluation_and_sample_grids_take_the_fields_of_the_data(run: Path, data: Path) -> None:
    pipe, source = gankit.load(run, device="cpu"), FolderSource(str(data))
    context = MetricContext(pipe, source, num=8)
    given = context.labels(range(8))
    known = [source.label(i) for i in range(len(source))]
    assert {label.fields["angle"] for label in given} <= {label.fields["angle"] for label in known}
    assert len({label.fields["angle"] for label in given}) > 3
    assert context.condition(given).embedding[:, 0].tolist() == [1.0] * 8

    class Run:
        class parts:
            G = pipe.generator

    grid = SampleGrid(source, Run, recipes.read(str(run)))  # type: ignore[arg-type]
    assert [label.fields for label in grid.labels] == [label.fields for label in known]
    assert isinstance(Angle().encode(grid.labels).embedding[0, 1].item(), float)
