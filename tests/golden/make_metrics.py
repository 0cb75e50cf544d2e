"""How `metrics.json`, `inception.safetensors` and `avatar_features.safetensors` were made, by torch-fidelity 0.4.0.

`pip install torch-fidelity gankit-avatars`, then `python tests/golden/make_metrics.py`. The tests read the files only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))  # metric_cases

from metric_cases import avatar_pixels, inception_images, write_inception

HERE = Path(__file__).parent


def inception() -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = Path(sys.argv[1] if len(sys.argv) > 1 else "/tmp") / "inception.pth"
    write_inception(path)
    names = ["2048", "logits_unbiased"]
    network = FeatureExtractorInceptionV3(
        "inception-v3-compat", names, feature_extractor_weights_path=str(path)
    )
    found = {}
    for side, images in inception_images().items():
        with torch.no_grad():
            pooled, logits = network(images)
        found[f"pooled_{side}"], found[f"logits_{side}"] = pooled[:, ::16].clone(), logits[:, ::16].clone()
    save_file(found, HERE / "inception.safetensors", {"made_by": "torch-fidelity 0.4.0, make_metrics.py"})


def measured(real: torch.Tensor, fake: torch.Tensor, logits: torch.Tensor) -> dict[str, float]:
    """The numbers of torch-fidelity for float32 rows."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    quiet = {"verbose": False}
    statistics = [fid_features_to_statistics(x) for x in (fake, real)]
    kid = kid_features_to_metric(fake, real, kid_subsets=20, kid_subset_size=50, rng_seed=2020, **quiet)
    pr = prc_features_to_metric(fake.double(), real.double(), prc_neighborhood=3, prc_batch_size=64, **quiet)
    score = isc_features_to_metric(logits, splits=5, shuffle=True, rng_seed=2020)
    values = {
        "fd": fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"],
        "kid": kid["kernel_inception_distance_mean"],
        "kid_std": kid["kernel_inception_distance_std"],
        "is": score["inception_score_mean"],
        "is_std": score["inception_score_std"],
        "precision": pr["precision"],
        "recall": pr["recall"],
    }
    return {key: float(value) for key, value in values.items()}


def made_up() -> None:
    rng = np.random.RandomState(20)
    mix = rng.randn(24, 24)
    fake = torch.from_numpy((rng.randn(150, 24) @ mix * 0.7 + 0.2).astype(np.float32))
    real = torch.from_numpy((rng.randn(170, 24) @ mix).astype(np.float32))
    page = {
        "made_by": "torch-fidelity 0.4.0",
        "command": "python tests/golden/make_metrics.py",
        "rng": 2020,
        "kid": {"subsets": 20, "subset_size": 50},
        "is": {"splits": 5},
        "values": measured(real, fake, fake / 3),
    }
    (HERE / "metrics.json").write_text(json.dumps(page, indent=1) + "\n", encoding="utf-8")


def avatars() -> None:
    from gankit.core.config import options
    from gankit.evaluation.backbone import Backbone

    network = options.build("feature", "timm-cnn")
    backbone = Backbone(network, 64, torch.device("cpu"))
    sets = {}
    for name, pixels in avatar_pixels().items():
        found = backbone.read(pixels, ["pooled", "logits"])
        # every 16th and 32nd number, as the file is small and 150 images do not span 1280 numbers anyway
        sets[f"{name}_pooled"] = found["pooled"][:, ::16].half().contiguous()
        sets[f"{name}_logits"] = found["logits"][:, ::32].half().contiguous()
    real, fake = sets["real_pooled"].float(), sets["fake_pooled"].float()
    values = measured(real, fake, sets["fake_logits"].float())
    note = {
        "made_by": "torch-fidelity 0.4.0, make_metrics.py",
        "network": json.dumps(network.identity()),
        "values": json.dumps(values),
    }
    save_file(sets, HERE / "avatar_features.safetensors", note)


if __name__ == "__main__":
    made_up()
    inception()
    avatars()
