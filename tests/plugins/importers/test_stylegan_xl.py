"""StyleGAN-XL's snapshots: its stages are found."""

from __future__ import annotations

from typing import Any

import pytest

from gankit.interop import import_foreign


@pytest.mark.parametrize(
    "stages",
    [
        {},
        {"head_layers": [5], "up_factors": [4], "head_kernel": 3, "head_radial_filters": False},
        {"head_layers": [6, 4], "up_factors": [2, 4], "head_kernel": 1, "head_radial_filters": True},
        {"head_layers": [4, 4, 5], "up_factors": [2, 2, 2], "head_kernel": 3, "head_radial_filters": False},
    ],
)
def test_stages_of_stylegan_xl_are_found(stages: dict[str, Any]) -> None:
    """A snapshot names the layers of all its stages in one list, and the last stage's number of layers only."""
    from gankit.core.interfaces.conditions import CondSpec
    from gankit.interop.torch_files import ForeignNetwork, Module, TensorRecord
    from gankit.plugins.generators.stylegan_xl import StyleGANXL

    options = {"num_layers": 6, "channel_base": 256, "channel_max": 4, "conv_kernel": 1, "w_dim": 4, **stages}
    size = 16
    for factor in stages.get("up_factors", []):
        size *= factor
    generator = StyleGANXL((3, size, size), CondSpec(3), use_radial_filters=True, **options)
    names = generator.synthesis.layer_names
    network = ForeignNetwork("test", "G_ema")
    network.tensors = {name: TensorRecord.of(tensor) for name, tensor in generator.state_dict().items()}
    synthesis = {"layer_names": names, "num_layers": len(names), "channel_base": 256, "channel_max": 4}
    root = {"c_dim": 3, "img_resolution": size, "img_channels": 3, "z_dim": 64, "w_dim": 4}
    network.modules = {
        "": Module("SuperresGenerator" if stages else "Generator", "", root),
        "mapping.embed": Module("Embedding", "", {}),
        "mapping.fc0": Module("FullyConnectedLayer", "", {"bias_gain": 0.01}),
        "synthesis": Module("SynthesisNetwork", "", synthesis),
    }
    for name in names:
        spec = generator.synthesis.get_submodule(name).spec
        state = {
            "in_cutoff": spec.source.cutoff,
            "out_cutoff": spec.target.cutoff,
            "is_critically_sampled": spec.target.cutoff * 2 == spec.target.rate,
        }
        network.modules[f"synthesis.{name}"] = Module("SynthesisLayer", "", state)
    found = import_foreign.import_network(network).spec
    assert {key: found[key] for key in options} == options
    assert found.get("head_layers", []) == stages.get("head_layers", [])
