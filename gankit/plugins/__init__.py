"""The built-in plugins, registered exactly as a third-party package registers its own."""

from __future__ import annotations

from collections.abc import Callable

from gankit.hookspecs import hookimpl

BUILTIN = {
    "generator": {
        "stylegan2": "generators.stylegan2:StyleGAN2",
        "stylegan-t": "generators.stylegan_t:StyleGANT",
    },
    "discriminator": {
        "stylegan2": "discriminators.stylegan2:StyleGAN2Discriminator",
        "projected": "discriminators.projected:ProjectedDiscriminator",
        "stylegan-t": "discriminators.stylegan_t:StyleGANTDiscriminator",
    },
    "feature": {
        "timm-cnn": "features.timm_cnn:TimmCNN",
        "timm-vit": "features.timm_vit:TimmViT",
    },
    "conditioner": {
        "class": "conditioning.classes:ClassConditioner",
        "tags": "conditioning.tags:TagConditioner",
        "text": "conditioning.text:TextConditioner",
        "clip-text": "conditioning.clip_text:CLIPTextConditioner",
        "clip-tower": "conditioning.clip_tower:CLIPTowerConditioner",
        "combined": "conditioning.combined:CombinedConditioner",
        "none": "conditioning.none:NoCondition",
    },
    "loss": {
        "non-saturating": "losses.non_saturating:NonSaturating",
        "hinge": "losses.hinge:Hinge",
        "relativistic": "losses.relativistic:Relativistic",
    },
    "regularizer": {
        "r1": "regularizers.r1:R1",
        "path-length": "regularizers.path_length:PathLength",
        "mismatch": "regularizers.mismatch:Mismatch",
        "reconstruction": "regularizers.reconstruction:Reconstruction",
        "attributes": "regularizers.attributes:Attributes",
    },
    "guidance": {
        "clip": "guidance.clip:CLIPGuidance",
        "classifier": "guidance.classifier:ClassifierGuidance",
    },
    "augmentation": {
        "ada": "augment.ada:ADA",
        "diffaugment": "augment.diffaugment:DiffAugment",
    },
    "source": {
        "folder": "sources.folder:FolderSource",
        "zip": "sources.archive:ZipSource",
        "webdataset": "sources.shards:ShardSource",
    },
    "weights": {"huggingface": "features.hub:HuggingFaceWeights"},
    "importer": {
        "stylegan2-ada": "importers.stylegan2:StyleGAN2Importer",
        "stylegan-t": "importers.stylegan_t:StyleGANTImporter",
        "rosinality": "importers.rosinality:RosinalityImporter",
    },
    "exporter": {
        "onnx": "exporters.onnx_file:ONNXExporter",
        "openvino": "exporters.openvino_file:OpenVINOExporter",
        "torch-export": "exporters.torch_program:TorchExporter",
    },
    "engine": {
        "eager": "engines.eager:Eager",
        "compile": "engines.compiled:Compiled",
        "openvino": "engines.openvino_cpu:OpenVINO",
    },
    "metric": {
        "fd": "metrics.frechet:FrechetDistance",
        "kid": "metrics.kernel:KernelDistance",
        "pr": "metrics.neighbours:PrecisionRecall",
    },
    "tracker": {"tensorboard": "trackers.tensorboard:TensorBoardTracker"},
}


RECIPES = ("stylegan2", "stylegan2-class", "projected-stylegan2", "stylegan-t", "anime-tags")


@hookimpl
def gankit_register(register: Callable[[str, str, str], None]) -> None:
    for kind, plugins in BUILTIN.items():
        for name, target in plugins.items():
            register(kind, name, f"gankit.plugins.{target}")
    for recipe in RECIPES:
        register("recipe", recipe, f"gankit:recipes/{recipe}.yaml")
