"""The Inception of FID against torch-fidelity; where its weights come from, and files that are not it.

`tests/golden/make_metrics.py` made the reference numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_utils import GOLDEN
from metric_cases import inception_images, write_inception
from safetensors import safe_open

from gankit import GankitError
from gankit.evaluation.backbone import Backbone
from gankit.plugins.features import inception
from gankit.plugins.features.inception import Inception, resize_like_tensorflow


def read(name: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / inception.FILES[0]
    write_inception(path)
    return path


def test_inception_is_torch_fidelitys(weights: Path) -> None:
    network = Inception(file=str(weights))
    backbone = Backbone(network, 299, torch.device("cpu"))
    golden, _ = read("inception")
    for size, images in inception_images().items():
        found = backbone.read(images, ["pooled", "logits"])
        for output, rows in found.items():
            expected = golden[f"{output}_{size}"]
            error = (rows[:, ::16] - expected).abs().max() / expected.abs().max()
            assert error < 1e-5, (size, output)


def test_inception_reads_all_outputs_in_one_pass(weights: Path) -> None:
    network = Inception(file=str(weights))
    images = inception_images()["small"][:1].float() / 127.5 - 1
    together = network.read(images, ["spatial", "logits", "pooled"])
    assert list(together) == ["spatial", "logits", "pooled"]
    assert {k: tuple(v.shape) for k, v in together.items()} == {
        "spatial": (1, 2023),
        "logits": (1, 1008),
        "pooled": (1, 2048),
    }
    for name, value in together.items():
        assert torch.allclose(getattr(network, name)(images), value, rtol=1e-4, atol=1e-5)
    # spatial FID reads the 1x1 branch of the block that TensorFlow calls mixed_6
    seen = []
    hook = network.Mixed_6d.branch1x1.register_forward_hook(lambda *x: seen.append(x[2]))
    network.pooled(images)
    hook.remove()
    assert torch.equal(seen[0][:, :7].flatten(1), together["spatial"])


def test_resizing_like_tensorflow() -> None:
    """Sample i of n lies at i * (length / n); beyond the last pixel that pixel is repeated."""
    x = torch.tensor([0.0, 10.0, 40.0]).view(1, 1, 1, 3)
    row = resize_like_tensorflow(x, 6)[0, 0, 0]
    assert torch.allclose(row, torch.tensor([0.0, 5.0, 10.0, 25.0, 40.0, 40.0]))


def test_antialiased_inception_differs_and_says_so(weights: Path) -> None:
    plain, smooth = Inception(file=str(weights)), Inception(file=str(weights), resize="antialiased")
    images = inception_images()["large"][:1].float() / 127.5 - 1
    assert not torch.allclose(plain.pooled(images), smooth.pooled(images), rtol=1e-3)
    assert "TensorFlow" in str(plain.own_resize)
    assert "antialiased, clamped" in str(smooth.own_resize)


def test_missing_inception_says_which_file_and_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(GankitError) as error:
        Inception()
    for part in (*inception.FILES, inception.SHA256, str(tmp_path / "torch"), "HF_HUB_OFFLINE is set"):
        assert part in str(error.value)


def test_inception_is_verified_and_downloaded_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    calls: list[str] = []

    def open_url(url: str, timeout: float) -> Any:
        calls.append(url)
        return open(weights, "rb")

    monkeypatch.setattr("urllib.request.urlopen", open_url)
    target = tmp_path / "hub" / "checkpoints" / inception.FILES[0]
    with pytest.raises(GankitError, match="what came has another sha256"):
        Inception()
    assert not list(target.parent.iterdir())
    monkeypatch.setattr(inception, "SHA256", inception._hash(weights))
    Inception()
    Inception()
    assert len(calls) == 2
    assert target.stat().st_size == weights.stat().st_size
    target.write_bytes(b"x")
    with pytest.raises(GankitError, match="is damaged: its sha256 is"):
        Inception()


@pytest.mark.parametrize("content", ["text", "other", "partial"])
def test_files_that_are_not_inception(tmp_path: Path, weights: Path, content: str) -> None:
    path = tmp_path / "weights.pth"
    if content == "text":
        path.write_text("not a file of weights")
    else:
        state = torch.load(weights, weights_only=True)
        torch.save({"a": torch.ones(1)} if content == "other" else dict(list(state.items())[:-1]), path)
    with pytest.raises(GankitError, match=r"weights\.pth does not hold the weights of Inception"):
        Inception(file=str(path))


def test_inception_executes_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"fc.bias": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(GankitError, match="does not hold the weights"):
        Inception(file=str(tmp_path / "evil.pth"))
    assert not (tmp_path / "executed").exists()
