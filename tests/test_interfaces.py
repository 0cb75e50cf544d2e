"""The names that plugin authors may import from gankit.interfaces: taking one away breaks their packages."""

from __future__ import annotations

import gankit.interfaces

NAMES = {
    "contracts": """
        AdversarialLoss Augmentation Component Composition Conditioner Discriminator Engine Exporter FeatureNetwork
        Generator Guidance ImageMetric Imported Importer Measure Metric ModelMetric Regularizer Source StepContext Tap
        Tracker WeightSource""",
    "labels and conditions": """
        Cond CondSpec Condition ImageShape Label Vocabulary embedding_of required_embedding""",
    "what metrics and importers are given": """
        Album BatchSlice FeatureSet ForeignNetwork MetricContext TensorRecord""",
    "random numbers": "rand randint randn shared_rand",
    "errors and registration": "GankitError Nested hookimpl registry unknown",
    "layers": """
        AttentionPool Conv2dLayer FullyConnected MappingNetwork SNConv1d SNConv2d SNConvTranspose2d SNLinear
        at_least_float32 channels entry_size levels minibatch_std nominal to_rgb without_autocast""",
    "weights": "find_folder find_state_dict read_safetensors sha256_of shapes_only",
    "files and images": """
        BadImage IMAGE_SUFFIXES cache_dir from_uint8 load_tensors open_image save_png save_tensors sheet to_uint8
        write_advice write_text""",
}


def test_the_names_are_these() -> None:
    listed = [name for names in NAMES.values() for name in names.split()]
    assert len(listed) == len(set(listed))
    assert sorted(listed) == sorted(gankit.interfaces.__all__)
    for name in listed:
        assert getattr(gankit.interfaces, name) is not None


def test_every_contract_of_a_kind_of_plugin_is_there() -> None:
    from gankit.hookspecs import KINDS

    for base, _, _ in KINDS.values():
        assert base.startswith("'") or base in (*gankit.interfaces.__all__, "OpBackend"), base
