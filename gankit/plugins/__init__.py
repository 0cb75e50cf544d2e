"""Registration of gankit's built-in plugins and recipes, by the hook that third-party packages use."""

from __future__ import annotations

from collections.abc import Callable

from gankit.hookspecs import hookimpl

BUILTIN = {
    "generator": {
        "stylegan2": "generators.stylegan2:StyleGAN2",
        "stylegan3": "generators.stylegan3:StyleGAN3",
        "stylegan-xl": "generators.stylegan_xl:StyleGANXL",
        "stylegan-t": "generators.stylegan_t:StyleGANT",
        "fastgan": "generators.fastgan:FastGAN",
        "fastgan-lite": "generators.fastgan:FastGANLite",
        "r3gan": "generators.r3gan:R3GAN",
    },
    "discriminator": {
        "stylegan2": "discriminators.stylegan2:StyleGAN2Discriminator",
        "projected": "discriminators.projected:ProjectedDiscriminator",
        "stylegan-t": "discriminators.stylegan_t:StyleGANTDiscriminator",
        "r3gan": "discriminators.r3gan:R3GANDiscriminator",
        "stylegan-xl": "discriminators.stylegan_xl:StyleGANXLDiscriminator",
    },
    "feature": {
        "timm-cnn": "features.timm_cnn:TimmCNN",
        "timm-vit": "features.timm_vit:TimmViT",
        "clip-image": "features.clip_image:CLIPImage",
        "inception": "features.inception:Inception",
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
        "r2": "regularizers.r2:R2",
        "path-length": "regularizers.path_length:PathLength",
        "mismatch": "regularizers.mismatch:Mismatch",
        "reconstruction": "regularizers.reconstruction:Reconstruction",
        "attributes": "regularizers.attributes:Attributes",
    },
    "optimizer": {
        "adam": "optimizers.adam:Adam",
        "adamw": "optimizers.adam:AdamW",
        "muon": "optimizers.muon:Muon",
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
        "stylegan3": "importers.stylegan3:StyleGAN3Importer",
        "stylegan-xl": "importers.stylegan_xl:StyleGANXLImporter",
        "stylegan-t": "importers.stylegan_t:StyleGANTImporter",
        "projected": "importers.projected:ProjectedImporter",
        "r3gan": "importers.r3gan:R3GANImporter",
        "fastgan": "importers.fastgan:FastGANImporter",
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
    "op-backend": {"triton": "op_backends.triton:Triton"},
    "metric": {
        "fd": "metrics.frechet:FrechetDistance",
        "kid": "metrics.kernel:KernelDistance",
        "pr": "metrics.neighbours:PrecisionRecall",
        "fid": "metrics.frechet_variants:FID",
        "sfid": "metrics.frechet_variants:SpatialFID",
        "rfid": "metrics.frechet_variants:RandomFID",
        "fd-efficientnet": "metrics.frechet_variants:EfficientNetDistance",
        "fd-dinov2": "metrics.frechet_variants:DINOv2Distance",
        "fd-clip": "metrics.frechet_variants:CLIPDistance",
        "is": "metrics.inception_score:InceptionScore",
        "memorised": "metrics.memorised:Memorised",
        "ppl-z-full": "metrics.path_length:PathLengthZFull",
        "ppl-z-end": "metrics.path_length:PathLengthZ",
        "ppl-w-full": "metrics.path_length:PathLengthWFull",
        "ppl-w-end": "metrics.path_length:PathLengthW",
        "eq-t": "metrics.equivariance:Translation",
        "eq-t-frac": "metrics.equivariance:FractionalTranslation",
        "eq-r": "metrics.equivariance:Rotation",
        "clip-score": "metrics.clip_score:CLIPScore",
        "diversity": "metrics.diversity:Diversity",
        "accuracy": "metrics.accuracy:Accuracy",
    },
    "tracker": {"tensorboard": "trackers.tensorboard:TensorBoardTracker"},
}


RECIPES = (
    *("stylegan2", "stylegan2-class", "anime-tags", "stylegan2-ext-danbooru"),
    *("stylegan2-ada-auto", "stylegan2-ada-paper256", "stylegan2-ada-paper512", "stylegan2-ada-paper1024"),
    "stylegan2-ada-cifar",
    *("projected-fastgan", "projected-fastgan-lite", "projected-stylegan2"),
    *("stylegan-t", "stylegan-t-64", "stylegan-t-512"),
    *("stylegan3-t", "stylegan3-r", "stylegan-xl", "stylegan-xl-small"),
    *("r3gan-cifar10", "r3gan-ffhq64", "r3gan-ffhq256", "r3gan-imagenet32", "r3gan-imagenet64"),
)


@hookimpl
def gankit_register(register: Callable[[str, str, str], None]) -> None:
    for kind, plugins in BUILTIN.items():
        for name, target in plugins.items():
            register(kind, name, f"gankit.plugins.{target}")
    for recipe in RECIPES:
        register("recipe", recipe, f"gankit:recipes/{recipe}.yaml")
