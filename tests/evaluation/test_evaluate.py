"""`gankit evaluate`: numbers against a second path from images to numbers, what is recorded, the cache, bad input."""

from __future__ import annotations

import errno
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conditioning_utils import make_bert, make_open_clip
from PIL import Image
from runs import TINY, Result, start_gankit, torchrun, write_images

import gankit
from gankit.core.config import options
from gankit.core.config.registry import FILE_VERSION, Plugin, registry
from gankit.core.runtime import devices
from gankit.evaluation.backbone import resize
from gankit.evaluation.evaluate import evaluate

NETWORK = {"feature.model": "test_efficientnet.r160_in1k", "feature.pretrained": False}
TINY_NETWORK = [part for k, v in NETWORK.items() for part in ("--set", f"{k}={json.dumps(v)}")] + [
    "--side",
    32,
]
JUDGE = {"name": "timm-cnn", "model": "test_efficientnet.r160_in1k", "pretrained": False}
ACCURACY = ("--set", f"accuracy.classifier={json.dumps(JUDGE)}", "--set", "accuracy.classes={square: 1}")


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    overrides = {**TINY, "train.images": 16, "conditioner": "class", "trackers": {}}
    gankit.train("stylegan2", out, data=str(images), overrides=overrides, quiet=True)
    return out


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GANKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def broken() -> Iterator[None]:
    registry().register("feature", "broken", "fake_plugins:Broken", package="gankit-broken", version="1.0")
    yield
    del registry().plugins["feature", "broken"]


@pytest.mark.filterwarnings("ignore:fd of")
def test_evaluate(
    run: Path, images: Path, tmp_path: Path, cache: Path, gankit_cli: Callable[..., Result]
) -> None:
    out = tmp_path / "deep" / "page.json"
    wish = ("evaluate", run, "--num", 20, "--num-real", "all", "--seed", 5, "--batch-size", 8, *TINY_NETWORK)
    first = gankit_cli(*wish, "--metrics", "fd,kid,pr", "--set", "pr.k=2", "--out", out)
    assert first.code == 0, first.err
    page = json.loads(out.read_text())
    facts = [page["generated"][key] for key in ("trained_images", "images", "seed", "psi", "labels")]
    assert facts == [16, 20, 5, 1.0, "of the data set"]
    assert [page["real"][key] for key in ("images", "of", "cached")] == [24, 24, False]
    assert page["real"]["resize"] == "lanczos, antialiased, crop"
    assert page["feature"]["resize"].startswith("bicubic, antialiased")
    network = options.build("feature", {"name": "timm-cnn", **{k[8:]: v for k, v in NETWORK.items()}})
    assert page["feature"]["sha256"] == network.identity()["sha256"]
    assert page["feature"]["input"] == 32
    assert page["metrics"]["pr"]["options"]["k"] == 2
    assert page["metrics"]["fd"]["options"] == {"covariance": "unbiased"}
    assert page["versions"]["torch"] == torch.__version__
    assert page["seconds"] > 0
    for name, value in page["metrics"]["fd"]["values"].items():
        assert f"{name}" in first.out
        assert f"{value:.6g}" in first.out

    again = evaluate(
        str(run), metrics=["fd", "pr"], num=20, num_real=24, seed=5, batch_size=5, side=32, settings=NETWORK
    )
    assert again["real"]["cached"]
    fd = page["metrics"]["fd"]["values"]["fd"]
    # batches of another size draw other per-pixel noise, whose strength starts at 0
    assert again["metrics"]["fd"]["values"]["fd"] == pytest.approx(fd, rel=0.05)
    assert len(list((cache / "metrics").iterdir())) == 1

    # the real half of the numbers, by Pillow and numpy
    files = sorted(images.rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    with torch.no_grad():
        rgb = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        rows = network.pooled(resize(rgb, 32)).numpy().astype(np.float64)
    (folder,) = (cache / "metrics").iterdir()
    with np.load(folder / "moments.npz") as moments:
        assert np.allclose(moments["mean"], rows.mean(0), rtol=1e-4, atol=1e-5)
        covariance = moments["scatter"] / 23
    assert np.allclose(
        covariance, np.cov(rows, rowvar=False), rtol=1e-3, atol=1e-4 * np.abs(covariance).max()
    )


def test_other_images_or_another_network_are_not_taken_from_the_cache(run: Path, tmp_path: Path) -> None:
    def cached(data: Path, **extra: Any) -> bool:
        page = evaluate(
            str(run), metrics=["kid"], num=8, data=str(data), **{"side": 32, "settings": NETWORK, **extra}
        )
        return bool(page["real"]["cached"])

    data = write_images(tmp_path / "data")
    assert [cached(data), cached(data)] == [False, True]
    assert not cached(data, side=64)
    assert not cached(data, num_real=9)
    assert not cached(data, settings={**NETWORK, "feature.seed": 1})
    picture = next(data.rglob("*.png"))
    Image.new("RGB", (16, 16), "red").save(picture)
    assert not cached(data)


def test_a_feature_network_of_a_file_is_known_by_the_file(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its version does not change with its code."""
    target = registry().get("feature", "timm-cnn").target.replace(":", " import ")
    file = tmp_path / "my_features.py"
    file.write_text(f"from {target} as Mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = Plugin("feature", "mine", "my_features:Mine", "my_features.py", FILE_VERSION)
    monkeypatch.setitem(registry().plugins, ("feature", "mine"), mine)
    data = write_images(tmp_path / "data")

    def cached() -> bool:
        wishes = {"feature": "mine", "side": 32, "settings": NETWORK}
        return bool(evaluate(str(run), metrics=["kid"], num=8, data=str(data), **wishes)["real"]["cached"])

    assert [cached(), cached()] == [False, True]
    file.write_text(file.read_text() + "# other means\n")
    assert [cached(), cached()] == [False, True]


@pytest.mark.filterwarnings("ignore:fd of", "ignore:sfid of")
def test_every_kind_of_metric_at_once(
    run: Path, tmp_path: Path, cache: Path, gankit_cli: Callable[..., Result]
) -> None:
    """Features of two networks, scores of single images, probes of the model, and a picture."""
    out = tmp_path / "page.json"
    own = {f"{metric}.{k}": v for metric in ("is", "sfid") for k, v in NETWORK.items()}
    own |= {"is.side": 32, "is.splits": 2, "sfid.feature.name": "timm-cnn", "is.feature.name": "timm-cnn"}
    own |= {"sfid.feature.seed": 3, "memorised.rows": 3, "memorised.neighbours": 2, "diversity.images": 4}
    own |= {"accuracy.classifier": JUDGE, "accuracy.classes": {"round": 0, "square": 1}, "accuracy.side": 32}
    wish = ("evaluate", run, "--num", 16, "--num-real", "all", "--batch-size", 8, *TINY_NETWORK, "--out", out)
    names = "fd,is,sfid,memorised,accuracy,diversity,ppl-w-end"
    settings = [part for k, v in own.items() for part in ("--set", f"{k}={json.dumps(v)}")]
    done = gankit_cli(*wish, "--metrics", names, *settings)
    assert done.code == 0, done.err
    page = json.loads(out.read_text())
    assert list(page["metrics"]) == names.split(",")
    found = page["metrics"]
    assert found["is"]["feature"]["output"] == "logits"
    assert found["sfid"]["feature"]["output"] == "spatial"
    assert found["sfid"]["feature"]["sha256"] != found["fd"]["feature"]["sha256"] == page["feature"]["sha256"]
    assert found["accuracy"]["details"]["class"].keys() == {"round", "square"}
    assert found["accuracy"]["feature"]["sha256"] == page["feature"]["sha256"]
    assert found["ppl-w-end"]["feature"]["sha256"] == page["feature"]["sha256"]
    assert found["diversity"]["values"]["diversity"] > 0
    for metric in names.split(","):
        assert f"\n{metric} " in done.out
    assert found["memorised"]["pictures"] == ["page-memorised.png"]
    picture = np.asarray(Image.open(tmp_path / "page-memorised.png"))
    assert picture.shape == (3 * 18 + 2, 3 * 18 + 2, 3)
    assert len(list((cache / "metrics").iterdir())) == 2  # Inception Score needs no real images


def test_the_picture_shows_the_images_that_were_measured(run: Path, images: Path, tmp_path: Path) -> None:
    """Rows of the picture are looked up again by number: their features must be those of the rows."""
    from gankit.core.data.loader import open_source
    from gankit.evaluation.image_stream import Features, generated_features, real_features
    from gankit.evaluation.metric_context import Album, MetricContext

    context = MetricContext(
        gankit.load(str(run), device="cpu"), open_source(str(images)), num=20, num_real=24, batch=8
    )
    spec = options.check("feature", {"name": "timm-cnn", **{k[8:]: v for k, v in NETWORK.items()}})
    features = Features()
    job = features.want(options.build("metric", "pr"), context.backbone(spec, 32))
    real = real_features(context, features)[0][job].rows
    fake = generated_features(context, features, {}, tmp_path)[0][job].rows
    assert real is not None
    assert fake is not None
    for row in (0, 11, 19):
        for rows, show in ((real, Album(context).real), (fake, Album(context).fake)):
            pixels = torch.from_numpy(show(row).copy()).permute(2, 0, 1)[None]
            again = context.backbone(spec, 32).read(pixels, ["pooled"])["pooled"].numpy()[0]
            assert np.allclose(again, rows[row], rtol=1e-3, atol=1e-4)


def test_the_networks_options_are_part_of_the_caches_key(run: Path, images: Path) -> None:
    """The same weights pooled in another way are other features."""

    def fd(**extra: Any) -> tuple[bool, float]:
        settings = {**NETWORK, **extra}
        page = evaluate(str(run), metrics=["kid"], num=8, data=str(images), side=64, settings=settings)
        return page["real"]["cached"], page["metrics"]["kid"]["values"]["kid"]

    first = fd()
    assert fd() == (True, first[1])
    other = fd(**{"feature.model_args": {"global_pool": "max"}})
    assert not other[0]
    assert other[1] != first[1]


def test_half_precision_says_how_far_it_is_off(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "multiplies", lambda dtype, device: True)
    pages = [
        evaluate(str(run), metrics=["kid"], num=16, side=32, settings=NETWORK, dtype=dtype)
        for dtype in ("fp32", "bf16")
    ]
    exact, half = (page["metrics"]["kid"] for page in pages)
    assert not pages[1]["real"]["cached"]
    assert half["feature"]["dtype"] == "bfloat16"
    assert 0 < half["feature"]["deviation"] < 0.05
    assert "deviation" not in exact["feature"]
    assert half["values"]["kid"] == pytest.approx(exact["values"]["kid"], rel=0.1)
    # a CPU whose products in bf16 are slow
    monkeypatch.setattr(devices, "multiplies", lambda dtype, device: False)
    page = evaluate(str(run), metrics=["kid"], num=16, side=32, settings=NETWORK, dtype="bf16")
    assert page["metrics"]["kid"]["feature"]["dtype"] == "float32"


def test_a_full_disk_is_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gankit.evaluation.moments import Collector

    def no_space(self: Collector, rows: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(self.file))

    monkeypatch.setattr(Collector, "add", no_space)
    with pytest.raises(gankit.GankitError, match=r"cannot write .*No space left on device; free some space"):
        evaluate(str(run), metrics=["pr"], num=8, side=32, settings=NETWORK)


@pytest.fixture(scope="module")
def text_run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bert = make_bert(tmp_path_factory.mktemp("bert"))
    out = tmp_path_factory.mktemp("runs") / "text"
    conditioner = {"name": "text", "model": str(bert)}
    overrides = {**TINY, "train.images": 8, "conditioner": conditioner, "trackers": {}}
    gankit.train("stylegan2", out, data=str(images), overrides=overrides, quiet=True)
    return out


def test_zero_shot_under_a_list_of_captions(text_run: Path, tmp_path: Path, cache: Path) -> None:
    """Captions decide what is drawn, image by image, and are recorded; CLIP score judges by them."""
    captions = tmp_path / "captions.txt"
    captions.write_text("a red cat\n\n  the blue hat \nwoman with glasses\n")
    model, weights = make_open_clip(tmp_path)
    settings = {**NETWORK, "clip-score.model": model, "clip-score.pretrained": str(weights)}
    common: dict[str, Any] = {"num": 12, "side": 32, "settings": settings, "device": "cpu"}
    names = ["fd", "clip-score", "diversity"]
    common["settings"]["diversity.images"] = 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        page = evaluate(str(text_run), metrics=names, captions=captions, **common)
        usual = evaluate(str(text_run), metrics=names, **common)
    assert page["generated"]["labels"]["of"] == 3
    assert usual["generated"]["labels"] == "of the data set"
    for name in names:
        assert page["metrics"][name]["values"] != usual["metrics"][name]["values"]

    from gankit.evaluation.metric_context import MetricContext

    context = MetricContext(gankit.load(str(text_run)), captions=["one", "two"])
    assert [label.text for label in context.labels([0, 1, 2])] == ["one", "two", "one"]


def test_images_without_captions_have_no_clip_score(run: Path, images: Path, tmp_path: Path) -> None:
    for cls in ("round", "square"):
        shutil.copytree(images / cls, tmp_path / "data" / cls)
    model, weights = make_open_clip(tmp_path)
    settings = {"clip-score.model": model, "clip-score.pretrained": str(weights)}
    with pytest.raises(
        gankit.GankitError, match=r"'clip-score' needs a caption for each image.*--captions FILE"
    ):
        evaluate(str(run), metrics=["clip-score"], num=8, data=str(tmp_path / "data"), settings=settings)


def test_two_processes_measure_what_one_does(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "fd,kid,memorised,diversity,ppl-w-end"
    wish = (
        "evaluate",
        run,
        "--data",
        images,
        "-n",
        11,
        "--num-real",
        13,
        "--batch-size",
        4,
        *TINY_NETWORK,
    )
    wish = (*wish, "--metrics", names, "--device", "cpu", "--set", "diversity.images=4")
    # over the default step of 1e-4 the rounding of the images is near 1e-3 of the result
    wish = (*wish, "--set", "ppl-w-end.epsilon=0.01")
    pages = []
    for count, launch in ((1, start_gankit), (2, torchrun)):
        out = tmp_path / f"page{count}.json"
        monkeypatch.setenv("GANKIT_CACHE", str(tmp_path / f"cache{count}"))
        done = launch(*wish, "--out", out)
        if count == 1:
            assert done.wait(120) == 0, done.communicate()
        else:
            assert done.returncode == 0, done.stderr
        pages.append(json.loads(out.read_text()))
    assert [page["processes"] for page in pages] == [1, 2]
    for name in names.split(","):
        one, two = (page["metrics"][name]["values"] for page in pages)
        for key, value in one.items():
            assert two[key] == pytest.approx(value, rel=1e-4, abs=1e-6), (name, key)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--metrics", "eq-t"),
            "equivariance can be measured only of generators whose input can be transformed",
        ),
        (("--metrics", "clip-score"), "no weights for 'laion/CLIP-ViT-g-14"),
        (("--captions", "nowhere.txt"), "--captions nowhere.txt: No such file"),
        (("--captions", "BLANK"), "the file holds no captions; write one a line"),
        (("--captions", "FULL"), "--captions: this model takes no text"),
        (("--dtype", "fp8"), "--dtype fp8: say fp32 or bf16"),
        (("--metrics", "fid"), "no weights for 'inception'"),
        (("--metrics", "accuracy", *ACCURACY), "unknown class 'round'"),
        (("--metrics", "ppl-w-end", "--set", "ppl-w-end.epsilon=0"), "epsilon = 0.0"),
        (("--metrics", "is", "--num", 19), "'is' needs 20 images or more, not 19 (--num)"),
        (("--set", "fd.feature.model=x"), "must be the name of a feature or a mapping with 'name'"),
        (("--metrics", "fdd"), "unknown metric 'fdd'; did you mean 'fd'"),
        (("--metrics", ""), "no metrics are named"),
        (("--num", "many"), "--num: 'many' is not a number of images"),
        (("--num", "0"), "--num 0"),
        (("--num-real", "0"), "--num-real 0 must be at least 1"),
        (("--metrics", "pr", "--num", 5), "'pr' needs 6 images or more, not 5 (--num)"),
        (
            ("--metrics", "pr", "--num-real", 2),
            "'pr' needs 6 images or more, not 2 (--num-real or the data set)",
        ),
        (("--data", "nowhere/at/all"), "the data path nowhere/at/all does not exist"),
        (("--feature", "timm-cmm"), "unknown feature 'timm-cmm'"),
        (("--side", 33), "--side 33: 'test_efficientnet"),
        (("--set", "fid.covariance=biased"), "--set fid.covariance: say OWNER.OPTION"),
        (("--set", "fd.covariance=robust"), "fd"),
        (("--feature", "broken"), "the feature network 'broken' gives NaN or infinity for real image 0"),
    ],
)
def test_bad_input(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: None,
    gankit_cli: Callable[..., Result],
    arguments: tuple[Any, ...],
    message: str,
) -> None:
    out = tmp_path / "page.json"
    network = () if "broken" in arguments else TINY_NETWORK
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, text in {"BLANK": " \n\n", "FULL": "a cat"}.items():
        (tmp_path / name).write_text(text)
    arguments = tuple(tmp_path / a if a in ("BLANK", "FULL") else a for a in arguments)
    done = gankit_cli("evaluate", run, "--num", 8, "--metrics", "fd", *network, *arguments, "--out", out)
    assert done.code == 2
    assert message in done.message
    assert not out.exists()
