"""`gankit evaluate`: numbers against a second path from images to numbers, what is recorded, the cache, bad input."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import TINY, Result, write_images
from torch import Tensor

import gankit
from gankit.core import options
from gankit.core.extraction import on_white, resize
from gankit.core.interfaces import FeatureNetwork, Tap
from gankit.core.plugins import registry
from gankit.evaluation import evaluate

NETWORK = {"feature.model": "test_efficientnet.r160_in1k", "feature.pretrained": False}
TINY_NETWORK = [part for k, v in NETWORK.items() for part in ("--set", f"{k}={json.dumps(v)}")] + [
    "--side",
    32,
]


class Broken(FeatureNetwork):
    """NaN for bright images."""

    name, num_pooled, num_logits = "broken", 2, 0
    taps = [Tap(2, 1)]

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images[:, :2]]

    def pooled(self, images: Tensor) -> Tensor:
        return (images.mean((2, 3))[:, :2] - 10).sqrt()


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
    registry().register("feature", "broken", "test_evaluate:Broken", package="gankit-broken", version="1.0")
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


def test_resizing_is_pillows_bicubic() -> None:
    rng = np.random.default_rng(0)
    for size in ((40, 24), (9, 17)):
        channel = rng.random(size).astype(np.float32)
        expected = np.asarray(Image.fromarray(channel).resize((16, 16), Image.Resampling.BICUBIC))
        actual = resize(torch.from_numpy(channel)[None, None], 16)[0, 0].numpy()
        assert abs(actual - expected).max() < 1e-5


def test_transparent_parts_become_white() -> None:
    rgba = torch.tensor([200, 100, 0, 0, 200, 100, 0, 255, 200, 100, 0, 51], dtype=torch.uint8).view(
        3, 4, 1, 1
    )
    assert on_white(rgba).flatten(1).tolist() == [[255, 255, 255], [200, 100, 0], [244, 224, 204]]
    grey = torch.tensor([[[[7]]]], dtype=torch.uint8)
    assert on_white(grey).flatten().tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
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
    broken: None,
    gankit_cli: Callable[..., Result],
    arguments: tuple[Any, ...],
    message: str,
) -> None:
    out = tmp_path / "page.json"
    network = () if "broken" in arguments else TINY_NETWORK
    done = gankit_cli("evaluate", run, "--num", 8, "--metrics", "fd", *network, *arguments, "--out", out)
    assert done.code == 2
    assert message in done.message
    assert not out.exists()
