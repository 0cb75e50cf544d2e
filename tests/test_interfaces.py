"""The names that plugin authors may import from gankit.interfaces: taking one away breaks their packages."""

from __future__ import annotations

import gankit.interfaces

NAMES = {
    "contracts": """
        AdversarialLoss Augmentation Component Composition Conditioner Discriminator Engine Exporter FeatureNetwork
        FrozenNetwork Generator Guidance ImageMetric Imported Importer Measure Metric ModelMetric OpBackend Optimizer
        Pretrained Regularizer Source StepContext Tap Tracker WeightSource""",
    "labels and conditions": """
        Cond CondSpec Condition ImageShape Label Vocabulary embedding_of required_embedding""",
    "what metrics, importers and on_event are given": """
        Album BatchSlice Event FeatureSet ForeignNetwork MetricContext TensorRecord""",
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
        assert base.startswith("'") or base in gankit.interfaces.__all__, base


def test_what_op_backends_need_is_this() -> None:
    from gankit.interfaces import ops

    names = """
        ACTIVATIONS ConstantWeights Convolutions Kernels OpBackend Ready add_rgb bf16_units bias_act conv2d
        conv2d_resample conv_transpose2d correlation_taps filter_size filtered_lrelu modulated_conv2d modulation
        multiplies multiplies_like operators output_size ready_for transposed_padding upfirdn2d values_only"""
    assert sorted(names.split()) == sorted(ops.__all__)
    for name in ops.__all__:
        assert getattr(ops, name) is not None
