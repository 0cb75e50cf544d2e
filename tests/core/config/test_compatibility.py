"""Parts that cannot work together are refused with both names and the reason, before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from conditioning_utils import make_bert, make_open_clip
from fake_packages import registering, site_folder, write_package
from fake_plugins import Angle
from runs import TINY, write_images

import gankit
from gankit.core.config import compatibility
from gankit.core.config import recipe as recipes
from gankit.core.config.registry import registry
from gankit.core.interfaces.composition import CondSpec
from gankit.core.interfaces.labels import Vocabulary
from gankit.core.models import build
from gankit.core.training.assembly import build_parts
from gankit.errors import GankitError
from gankit.testing.compositions import VOCABULARY

SMALL_CNN = {"name": "timm-cnn", "model": "test_efficientnet.r160_in1k", "pretrained": False}


@pytest.fixture(scope="module", autouse=True)
def clip(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    model, weights = make_open_clip(tmp_path_factory.mktemp("clip"))
    return {"model": model, "pretrained": str(weights)}


# --------------------------------------------------------------------------------------------------- refusals


def refuse(**sections: Any) -> str:
    recipe = recipes.parse({"data": {"size": [32, 32]}, **sections}, "the test")
    conditioner = build.build_conditioner(recipe, VOCABULARY)
    with pytest.raises(GankitError) as caught:
        compatibility.check(recipe, conditioner)
    return str(caught.value)


@pytest.mark.parametrize(
    ("sections", "parts", "reason"),
    [
        (
            {"discriminator": {"name": "stylegan-t", "feature": "timm-cnn"}},
            ("discriminator 'stylegan-t'", "feature network 'timm-cnn'"),
            "token maps",
        ),
        (
            {"regularizers": {"mismatch": {}}},
            ("regularizer 'mismatch'", "conditioner 'none'"),
            "no condition",
        ),
        (
            {
                "conditioner": {"name": "clip-tower", "width": 16, "heads": 2, "layers": 1},
                "regularizers": {"attributes": {}},
            },
            ("regularizer 'attributes'", "conditioner 'clip-tower'"),
            "classes or tags",
        ),
        (
            {"conditioner": "tags", "guidance": {"classifier": {}}},
            ("guidance 'classifier'", "conditioner 'tags'"),
            "classes",
        ),
        (
            {"conditioner": "class", "guidance": {"classifier": {"feature": "clip-image"}}},
            ("guidance 'classifier'", "feature network 'clip-image'"),
            "no classifier",
        ),
        (
            {"guidance": {"clip": {}}},
            ("guidance 'clip'", "conditioner 'none'"),
            "captions",
        ),
        (
            {"discriminator": {"name": "projected", "feature": {**SMALL_CNN, "taps": [0, 2]}}},
            ("discriminator 'projected'", "feature network 'timm-cnn'"),
            "strides [2, 8]",
        ),
        (
            {
                "discriminator": {
                    "name": "stylegan-xl",
                    "features": {"even": SMALL_CNN, "odd": {**SMALL_CNN, "taps": [0, 2]}},
                }
            },
            ("discriminator 'stylegan-xl'", "feature network 'timm-cnn'"),
            "strides [2, 8]",
        ),
        (
            {"generator": "r3gan", "data": {"size": [1024, 1024]}},
            ("generator 'r3gan'", "images of 1024x1024 pixels"),
            "widths has 7 entries",
        ),
        (
            {"discriminator": {"name": "r3gan", "widths": [8, 8]}},
            ("discriminator 'r3gan'", "images of 32x32 pixels"),
            "widths has 2 entries",
        ),
        (
            {"generator": "fastgan", "data": {"size": [4, 4]}},
            ("generator 'fastgan'", "images of 4x4 pixels"),
            "8 to",
        ),
    ],
    ids=lambda value: "",
)
def test_refusals_name_both_parts_and_the_reason(sections, parts, reason):
    message = refuse(**sections)
    assert message.startswith(f"{parts[0]} and {parts[1]} cannot work together: ")
    assert reason in message


def test_training_asks_before_it_builds(monkeypatch):
    page = {"data": {"size": [32, 32]}, "regularizers": {"mismatch": {}}, "generator": {"name": "stylegan2"}}
    recipe = recipes.parse(page, "the test")
    monkeypatch.setattr(build, "build_generator", lambda *_: pytest.fail("a network was built"))
    with pytest.raises(GankitError, match="cannot work together"):
        build_parts(recipe, build.build_conditioner(recipe, VOCABULARY), torch.device("cpu"))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"regularizers": {"mismatch": {}}},
            "regularizer 'mismatch' and conditioner 'none' cannot work together",
        ),
        (
            {"discriminator": {"name": "projected", "feature": {**SMALL_CNN, "taps": [0, 2]}}},
            "discriminator 'projected' and feature network 'timm-cnn' cannot work together",
        ),
        ({"generator": {"name": "stylegan3"}, "data.size": 4}, "image size 4x4 is too small"),
    ],
    ids=["parts", "maps", "size"],
)
@pytest.mark.parametrize("staged", [False, True])
def test_mistakes_show_before_a_network_has_weights(tmp_path, monkeypatch, sections, message, staged):
    """Those of stages to come, too, before the first one's networks are built."""
    forbid_weights(monkeypatch)
    images = write_images(tmp_path / "images")
    changes = {**TINY, "train.images": 16}
    if staged:
        stage: dict[str, Any] = {}
        for path, value in sections.items():
            recipes.override(stage, path, value)
        sections = {"stages": [{"until": 8}, stage]}
    changes |= sections
    with pytest.raises(GankitError, match=("^stages\\.1: " if staged else "") + ".*" + message):
        gankit.train("stylegan2", tmp_path / "run", data=str(images), overrides=changes, quiet=True)


def forbid_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test fail if a generator or a text encoder gets weights."""
    original = build.build_generator

    def build_generator(*args: Any) -> Any:
        assert torch.get_default_device().type == "meta", "a network was built"
        return original(*args)

    monkeypatch.setattr(build, "build_generator", build_generator)
    monkeypatch.setattr(
        "transformers.AutoModel.from_pretrained", lambda *_, **__: pytest.fail("an encoder was loaded")
    )


def test_a_plugin_that_cannot_be_rehearsed_trains(tmp_path, monkeypatch):
    hinge = registry().load("loss", "hinge")

    def needs_numbers(self: Any) -> None:
        assert torch.get_default_device().type != "meta"

    monkeypatch.setattr(hinge, "__init__", needs_numbers)
    images = write_images(tmp_path / "images")
    last = gankit.train(
        "stylegan2",
        tmp_path / "run",
        data=str(images),
        overrides={**TINY, "loss": "hinge", "train.images": 8},
        quiet=True,
    )
    assert last.is_dir()


@pytest.mark.parametrize("stage", [0, 1])
def test_a_trainable_encoder_is_not_loaded_for_parts_that_do_not_fit(tmp_path, monkeypatch, stage):
    encoder = make_bert(tmp_path / "bert")
    forbid_weights(monkeypatch)
    images = write_images(tmp_path / "images")
    wrong = {
        "conditioner": {"name": "text", "model": str(encoder), "trainable": True},
        "regularizers": {"attributes": {}},
    }
    changes = {**TINY, "train.images": 16, **(wrong if stage == 0 else {"stages": [{"until": 8}, wrong]})}
    with pytest.raises(
        GankitError, match="regularizer 'attributes' and conditioner 'text' cannot work together"
    ):
        gankit.train("stylegan2", tmp_path / "run", data=str(images), overrides=changes, quiet=True)


def test_plugins_of_others_are_asked(monkeypatch):
    """A third-party loss may have its say; a plugin that is a mere function has none."""
    hinge = registry().load("loss", "hinge")
    monkeypatch.setattr(
        hinge,
        "incompatibility",
        classmethod(lambda cls, options, made: (made.conditioner, f"{made.image_shape} {made.cond.c_dim}")),
    )
    message = refuse(loss="hinge", conditioner="class")
    assert message == "loss 'hinge' and conditioner 'class' cannot work together: (3, 32, 32) 2"
    monkeypatch.setattr(hinge, "incompatibility", None)
    recipe = recipes.parse({"loss": "hinge"}, "the test")
    compatibility.check(recipe, build.build_conditioner(recipe, VOCABULARY))


# ------------------------------------------------------------------------------------------- rules that are data


@pytest.fixture
def angle() -> Iterator[type[Angle]]:
    registry().register("conditioner", "angle", "fake_plugins:Angle", package="gankit-angle", version="1.0")
    yield Angle
    del registry().plugins["conditioner", "angle"]


COMBINED = {"name": "combined", "parts": {"class": {}, "turned": {"name": "angle"}}}


@pytest.mark.parametrize("conditioner", ["angle", COMBINED], ids=["alone", "within combined"])
def test_a_conditioner_states_conflicts_with_parts_of_others(angle, monkeypatch, conditioner):
    conflicts = {"discriminator/stylegan2": "it sees no angles", "loss/wasserstein": "is not in this recipe"}
    monkeypatch.setattr(angle, "conflicts", conflicts, raising=False)
    message = refuse(conditioner=conditioner, discriminator="stylegan2")
    assert (
        message == "conditioner 'angle' and discriminator 'stylegan2' cannot work together: it sees no angles"
    )
    del conflicts["discriminator/stylegan2"]
    recipe = recipes.parse({"conditioner": conditioner}, "the test")
    compatibility.check(recipe, build.build_conditioner(recipe, VOCABULARY))


def test_conflicts_with_a_plugin_that_is_an_option(monkeypatch):
    hinge = registry().load("loss", "hinge")
    monkeypatch.setattr(hinge, "conflicts", {"feature/timm-cnn": "it has maps"})
    message = refuse(loss="hinge", discriminator={"name": "projected", "feature": SMALL_CNN})
    assert message == "loss 'hinge' and feature 'timm-cnn' cannot work together: it has maps"


def test_needs_of_a_field_of_others(angle, monkeypatch):
    hinge = registry().load("loss", "hinge")
    monkeypatch.setattr(hinge, "needs_labels", ("cls", "angle"))
    message = refuse(loss="hinge", conditioner="tags")
    assert message.startswith(
        "loss 'hinge' and conditioner 'tags' cannot work together: it needs classes or 'angle', "
    )
    for conditioner in ("class", "angle", COMBINED):
        recipe = recipes.parse({"loss": "hinge", "conditioner": conditioner}, "the test")
        compatibility.check(recipe, build.build_conditioner(recipe, VOCABULARY))


@pytest.mark.parametrize("conditioner", ["angle", COMBINED], ids=["alone", "within combined"])
def test_mirroring_is_refused_where_a_field_has_no_mirror_image(angle, monkeypatch, conditioner):
    page = {"conditioner": conditioner, "data": {"size": [32, 32], "mirror": True}}
    recipe = recipes.parse(page, "the test")
    compatibility.check(recipe, build.build_conditioner(recipe, VOCABULARY))
    monkeypatch.delattr(angle, "mirror")
    assert "'angle' in a mirrored image; set data.mirror to false" in refuse(**page)
    compatibility.check(recipes.parse({**page, "data": {}}, "the test"), angle())


@pytest.mark.parametrize(
    ("conditioner", "told"),
    [
        ("class", "captions, tags, 'aesthetic' and 'angle'"),
        (COMBINED, "captions, tags and 'aesthetic'"),
        ({"name": "combined", "parts": {"class": {}, "tags": {}, "angle": {}}}, "captions and 'aesthetic'"),
    ],
)
def test_fields_that_nobody_reads_are_told(angle, conditioner, told):
    vocabulary = replace(VOCABULARY, fields={"angle": 4, "aesthetic": 1})
    recipe = recipes.parse({"conditioner": conditioner}, "the test")
    built = build.build_conditioner(recipe, vocabulary)
    sentence = compatibility.unused_labels(vocabulary, built)
    assert sentence == f"the data has {told}, which this recipe does not use (see conditioner in the recipe)"
    assert compatibility.unused_labels(Vocabulary({"a": 1}, fields={}, total=1), built) is None


# --------------------------------------------------------------------------------------------------- advice


@pytest.mark.parametrize("name", ["stylegan2", "stylegan-t", "projected-stylegan2", "anime-tags"])
def test_recipes_need_no_advice(name):
    assert compatibility.advice(recipes.read(name)) is None


def test_advice_names_the_nearest_recipe(monkeypatch):
    known = registry().names
    few = ["stylegan2", "projected-stylegan2", "anime-tags"]
    monkeypatch.setattr(registry(), "names", lambda kind: few if kind == "recipe" else known(kind))
    recipe = recipes.read("projected-stylegan2", {"generator": "stylegan-t", "guidance": {"clip": {}}})
    text = compatibility.advice(recipe)
    assert text is not None
    assert "'projected-stylegan2'" in text
    assert "generator stylegan-t (there stylegan2)" in text
    assert "guidance clip (there none)" in text
    assert "conditioner" not in text


BROKEN_PAGES = {
    "not-yaml": "generator: [",
    "not-text": b"\xff\xfe\x00",
    "a-list": "- generator",
    "empty": "",
    "missing": None,
    "sections": "generator: [1, 2]\nguidance: [clip]\nloss: 3\ndescription: {a: 1}",
    "nameless": "generator: {z_dim: 3}",
    "stages": "stages: 7",
    "stage": "stages: [7, {loss: {}}, null]",
    "keys": "guidance: {1: {}, clip: {}}",
}


def test_broken_recipes_of_a_package_cost_nobody_else(tmp_path):
    """They are listed with what is wrong; the search for the nearest recipe leaves them out."""
    with site_folder(tmp_path / "site") as folder:
        lines = [f"'recipe', {name!r}, 'bad_pages:{name}.yaml'" for name in BROKEN_PAGES]
        lines += [
            "'recipe', 'elsewhere', 'no_such_package:x.yaml'",
            "'recipe', 'raises', 'bad_pages.raises:x.yaml'",
        ]
        files = {"bad_pages/__init__.py": registering(*lines), "bad_pages/raises.py": "1 / 0"}
        write_package(folder, "bad-pages", files, module="bad_pages")
        for name, text in BROKEN_PAGES.items():
            if text is not None:
                content = text if isinstance(text, bytes) else text.encode()
                (folder / "bad_pages" / f"{name}.yaml").write_bytes(content)
        listed = gankit.list_recipes()
        assert listed.keys() > BROKEN_PAGES.keys()
        for name in ("not-yaml", "not-text", "a-list", "empty", "missing", "elsewhere", "raises"):
            assert listed[name].startswith(f"recipe '{name}' "), listed[name]
        assert listed["sections"] == "{'a': 1}"
        assert compatibility.advice(recipes.read("stylegan2")) is None
        unseen = recipes.read("stylegan2", {"generator": "fastgan"})
        assert "no installed recipe combines these parts" in str(compatibility.advice(unseen))


def test_cond_spec_is_what_parts_are_asked_with():
    made = {}
    hinge = registry().load("loss", "hinge")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            hinge, "incompatibility", classmethod(lambda cls, options, c: made.update(c=c, options=options))
        )
        recipe = recipes.parse({"loss": "hinge", "conditioner": "tags"}, "the test")
        compatibility.check(recipe, build.build_conditioner(recipe, VOCABULARY))
    assert made["options"]["name"] == "hinge"
    assert made["c"].accepts == {"tags"}
    assert isinstance(made["c"].cond, CondSpec)
