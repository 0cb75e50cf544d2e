"""Published networks become models: same images, one sentence for what cannot be taken, and nothing is executed."""

from __future__ import annotations

import collections
import contextlib
import pickle
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pickle_utils import MARKER, PICKLES, SNAPSHOTS, mutate, reference
from runs import Result
from safetensors.torch import load_file
from test_rosinality import random_discriminator, random_generator

import gankit
from gankit.core.config import recipe as recipes
from gankit.core.models import model_folder
from gankit.errors import GankitError
from gankit.interop import find_model, import_foreign
from gankit.interop.import_foreign import convert
from gankit.interop.torch_files import open_foreign

Cli = Callable[..., Result]
KNOWN = ("sg2_uncond", "sg2_cond", "sg3_t", "sg3_r", "sgxl_stem", "sgxl_superres", "sgt")


def check_images(model: model_folder.Model, name: str) -> None:
    """ws and images of all reference cases, by the pass rule of the reference vectors."""
    meta, tensors = reference(name)
    for case in meta["cases"]:
        inputs = {key: tensors[where] for key, where in case["inputs"].items()}
        with torch.no_grad():
            ws = model.generator.mapping(inputs["z"], inputs.get("c"), **case["kwargs"]["mapping"])
            images = model.generator.synthesis(ws, noise_mode="const")
        for key, actual in (("ws", ws), ("img", images)):
            expected = case["outputs"][key]
            error = (actual - tensors[expected["key"]]).abs().max().item()
            assert error <= 1e-4 * expected["absmax"] + 20 * expected["noise"] + 1e-6, (
                case["name"],
                key,
                error,
            )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GANKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# ------------------------------------------------------------------------------------------ published snapshots


@pytest.mark.filterwarnings("ignore:D is left out")
@pytest.mark.parametrize("name", KNOWN)
def test_converted_snapshot_draws_the_reference_images(name: str, tmp_path: Path, gankit_cli: Cli) -> None:
    done = gankit_cli("convert", PICKLES / f"{name}.pkl", tmp_path / "model")
    assert done.code == 0, done.err
    model = model_folder.load_model(tmp_path / "model")
    check_images(model, name)
    assert recipes.read(str(tmp_path / "model")).name == name


@pytest.mark.filterwarnings("ignore:D is left out")
@pytest.mark.parametrize("name", KNOWN)
def test_load_opens_a_snapshot(name: str, cache: Path) -> None:
    pipe = gankit.load(PICKLES / f"{name}.pkl", device="cpu")
    check_images(model_folder.Model(pipe.recipe, pipe.conditioner, pipe.generator), name)
    (folder,) = (cache / "imported").iterdir()
    stamp = (folder / "generator.safetensors").stat().st_mtime_ns
    gankit.load(str(PICKLES / f"{name}.pkl"), device="cpu")
    assert (folder / "generator.safetensors").stat().st_mtime_ns == stamp  # not converted again


@pytest.mark.parametrize("name", ["sg2_uncond", "sg2_cond", "sg3_t", "sg3_r"])
def test_bare_state_dict_with_official_names(name: str, tmp_path: Path) -> None:
    """What `torch.save(G.state_dict())` writes: sizes and architecture are taken from names and shapes."""
    network = open_foreign(PICKLES / f"{name}.pkl").networks["G_ema"]
    state = collections.OrderedDict((key, record.to_tensor()) for key, record in network.tensors.items())
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    for content in (state, {"g_ema": state}):
        torch.save(content, tmp_path / "file.pt")
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        convert(tmp_path / "file.pt", tmp_path / "model")
        check_images(model_folder.load_model(tmp_path / "model"), name)


def test_discriminator_comes_along(tmp_path: Path) -> None:
    """All its tensors, and the same logits as the official network with the same weights gives (test_stylegan2)."""
    assert convert(PICKLES / "sg2_cond.pkl", tmp_path / "model") == []
    saved = load_file(tmp_path / "model" / "training" / "discriminator.safetensors")
    network = open_foreign(PICKLES / "sg2_cond.pkl").networks["D"]
    assert saved.keys() == network.tensors.keys()
    for key, tensor in saved.items():
        assert torch.equal(tensor, network.tensors[key].to_tensor())
    recipe = recipes.read(str(tmp_path / "model"))
    expected = {"channel_base": 192, "channel_max": 12, "conv_clamp": 256.0, "mbstd_group_size": 2}
    assert expected.items() <= {**recipe.discriminator}.items()
    assert recipe.discriminator["mapping_layers"] == 2
    convert(PICKLES / "sg2_cond.pkl", tmp_path / "slim", discriminator=False)
    assert not (tmp_path / "slim" / "training").exists()


def test_discriminator_of_another_code_base(tmp_path: Path) -> None:
    """The StyleGAN2 copy of StyleGAN3's code base has other defaults (clamp 256), which the file does not spell out."""
    network = open_foreign(PICKLES / "sg3_r.pkl").networks["D"]
    assert "conv_clamp" not in network.modules[""].kwargs
    assert import_foreign.import_network(network).spec["conv_clamp"] == 256


class AugmentPipe(torch.nn.Module):
    """Attributes and buffers as in the snapshots of StyleGAN2-ADA and its heirs."""

    def __init__(self, p: float, **options: Any) -> None:
        super().__init__()
        self.__dict__.update(options)
        self.register_buffer("p", torch.tensor(p))
        self.register_buffer("Hz_geom", torch.zeros(12))


BGC = dict.fromkeys(["xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac"], 1.0) | dict.fromkeys(
    ["brightness", "contrast", "lumaflip", "hue", "saturation"], 1.0
)
PUBLISHED = {"xint_max": 0.125, "scale_std": 0.2, "rotate_max": 1.0, "imgfilter_bands": [1, 1, 1, 1]}


@pytest.mark.parametrize(
    ("p", "options", "expected"),
    [
        (0.25, {**BGC, **PUBLISHED, "imgfilter": 0.0}, {"pipeline": "bgc", "multipliers": {}, "ranges": {}}),
        (0.5, {"xflip": 1, "rotate90": 1, "xint": 1}, {"pipeline": "blit", "multipliers": {}}),
        (
            0.25,
            {
                **BGC,
                "hue": 0.5,
                "rotate": 0.0,
                "cutout": 1,
                "scale_std": 0.1,
                "imgfilter_bands": [1, 0, 1, 1],
            },
            {
                "pipeline": "bgc",
                "multipliers": {"hue": 0.5, "rotate": 0.0, "cutout": 1.0},
                "ranges": {"scale": 0.1},
                "filter_bands": (1.0, 0.0, 1.0, 1.0),
            },
        ),
    ],
)
def test_augmentation_comes_along(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    p: float,
    options: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    notes, recipe = convert_beside(AugmentPipe(p, **options), tmp_path, monkeypatch)
    assert notes == []
    assert {"name": "ada", "p": p, **expected}.items() <= recipe.augmentation.items()


@pytest.mark.parametrize(
    ("pipe", "note"),
    [
        (AugmentPipe(float("nan"), **BGC), r"p = nan of augment_pipe"),
        (AugmentPipe(0.5, hue=-1), r"hue = -1 of augment_pipe"),
        (AugmentPipe(0.5, imgfilter_bands=[1]), r"imgfilter_bands"),
        (torch.nn.Identity(), r"unknown class 'Identity'"),
    ],
)
def test_odd_augmentation_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: torch.nn.Module, note: str
) -> None:
    (found,), recipe = convert_beside(pipe, tmp_path, monkeypatch)
    assert found.startswith("augment_pipe is left out: ")
    assert note in found
    assert recipe.augmentation is None


def convert_beside(
    pipe: torch.nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], recipes.Recipe]:
    """Convert a snapshot that has `pipe` as its augmentation; the notes, and the recipe."""
    (folder / "pipe.pkl").write_bytes(pickle.dumps({"augment_pipe": pipe}))
    file = open_foreign(PICKLES / "sg2_cond.pkl")
    file.networks |= open_foreign(folder / "pipe.pkl").networks
    monkeypatch.setattr(import_foreign, "open_foreign", lambda path: file)
    notes = convert(PICKLES / "sg2_cond.pkl", folder / "model")
    return notes, recipes.read(str(folder / "model"))


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


def test_network_can_be_chosen(tmp_path: Path) -> None:
    for role in ("G", "G_ema"):
        convert(PICKLES / "sg2_uncond.pkl", tmp_path / role, network=role)
    raw, average = (load_file(tmp_path / role / "generator.safetensors") for role in ("G", "G_ema"))
    name = "synthesis.b8.conv1.weight"
    assert not torch.equal(raw[name], average[name])
    assert torch.equal(
        raw[name], open_foreign(PICKLES / "sg2_uncond.pkl").networks["G"].tensors[name].to_tensor()
    )
    with pytest.raises(GankitError, match="unknown network 'G_emma'; did you mean 'G_ema'"):
        convert(PICKLES / "sg2_uncond.pkl", tmp_path / "x", network="G_emma")
    with pytest.raises(GankitError, match="is a discriminator"):
        convert(PICKLES / "sg2_uncond.pkl", tmp_path / "x", network="D")


def test_classes_get_names(tmp_path: Path, gankit_cli: Cli) -> None:
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\neel\n")
    for names in ("ant,bee, cat,dog,eel", tmp_path / "names.txt"):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        gankit_cli("convert", PICKLES / "sg2_cond.pkl", tmp_path / "model", "--classes", names)
        pipe = gankit.load(tmp_path / "model", device="cpu")
        assert pipe.conditioner.encode([pipe.label(cls="dog")]).embedding.tolist() == [[0, 0, 0, 1, 0]]
    for wrong, message in (("a,b", "gives 2 different names, but"), ("a,a,b,c,d", "gives 4 different names")):
        done = gankit_cli("convert", PICKLES / "sg2_cond.pkl", tmp_path / "other", "--classes", wrong)
        assert done.code == 2
        assert message in done.message
    numbered = gankit.load(str(PICKLES / "sg2_cond.pkl"), device="cpu")
    assert numbered.conditioner.encode([numbered.label(cls="3")]).embedding.tolist() == [[0, 0, 0, 1, 0]]


def test_text_tower_comes_along(tmp_path: Path) -> None:
    """StyleGAN-T carries its CLIP text encoder; the reference has one whose tokens no tokenizer makes."""
    convert(PICKLES / "sgt.pkl", tmp_path / "model")
    pipe = gankit.load(tmp_path / "model", device="cpu")
    network = open_foreign(PICKLES / "sgt.pkl").networks["G_ema"]
    prefix = "mapping.clip.model."
    tower = {n.removeprefix(prefix): t for n, t in network.tensors.items() if n.startswith(prefix)}
    own = pipe.conditioner.encoder.state_dict()
    assert own.keys() == tower.keys() - {"logit_scale"}
    assert all(torch.equal(own[name], tower[name].to_tensor()) for name in own)
    assert pipe.conditioner.encode([gankit.core.interfaces.labels.Label()]).embedding.abs().sum() == 0
    with pytest.raises(GankitError, match="cannot take prompts"):
        pipe(prompt="a cat")


def test_stored_tower_encodes_as_open_clip_does() -> None:
    import open_clip

    from gankit.core.interfaces.labels import Label
    from gankit.plugins.conditioning.clip_tower import CLIPTowerConditioner

    sizes = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    torch.manual_seed(3)
    clip = open_clip.model.CLIP(
        8,
        open_clip.CLIPVisionCfg(layers=1, width=64, image_size=16),
        open_clip.CLIPTextCfg(**sizes),
        quick_gelu=True,
    )
    conditioner = CLIPTowerConditioner(embed_dim=8, **sizes).eval()
    state = {k: v for k, v in clip.state_dict().items() if not k.startswith("visual.") and k != "logit_scale"}
    conditioner.encoder.load_state_dict(state)
    texts = ["a red cat", "two dogs on a hill"]
    tokens = open_clip.tokenizer.SimpleTokenizer(context_length=20)(texts)
    with torch.no_grad():
        expected = clip.encode_text(tokens, normalize=True)
        actual = conditioner.encode([Label(texts=(text,)) for text in texts]).embedding
    assert torch.allclose(actual, expected, atol=1e-6)
    assert not any(p.requires_grad for p in conditioner.parameters())
    assert all(
        p.requires_grad for p in CLIPTowerConditioner(embed_dim=8, trainable=True, **sizes).parameters()
    )


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "fragments"),
    [
        ("evil_eval_nested", ["is hostile", "builtins.eval", "nothing of it was executed"]),
        ("evil_os_system", ["is hostile", "posix.system", "nothing of it was executed"]),
        ("evil_truncated", ["is damaged", "get another copy"]),
    ],
)
@pytest.mark.parametrize("command", ["convert", "sample", "train"])
def test_hostile_files_are_refused(
    name: str, fragments: list[str], command: str, tmp_path: Path, cache: Path, images: Path, gankit_cli: Cli
) -> None:
    assert not MARKER.exists()
    file, out = PICKLES / f"{name}.pkl", tmp_path / "out"
    arguments = {
        "convert": ("convert", file, out),
        "sample": ("sample", file, "--out", out),
        "train": (
            "train",
            "stylegan2",
            "--data",
            images,
            "--init",
            file,
            "--out",
            out,
            "--set",
            "data.size=16",
        ),
    }
    done = gankit_cli(*arguments[command], *(("--device", "cpu") if command != "convert" else ()))
    assert done.code == 2
    assert all(fragment in done.message for fragment in [*fragments, str(file)])
    assert not MARKER.exists()
    assert not (out / "generator.safetensors").exists()
    assert not list((cache / "imported").glob("*")) if cache.exists() else True


class Unheard(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))


def test_unknown_class_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file.pkl"
    file.write_bytes(pickle.dumps({"G_ema": Unheard()}))
    with pytest.raises(
        GankitError,
        match=r"unknown class 'Unheard'; known are AugmentPipe.*Discriminator \(stylegan2-ada.*Generator",
    ):
        convert(file, tmp_path / "out")
    torch.save({"some.weight": torch.zeros(2)}, tmp_path / "file.pt")
    with pytest.raises(GankitError, match="no importer knows a state dict with the names 'some"):
        convert(tmp_path / "file.pt", tmp_path / "out")
    file.write_bytes(pickle.dumps({"training_set_kwargs": {}}))
    with pytest.raises(GankitError, match=r"holds no generator \(G_ema or G\) but no network at all"):
        convert(file, tmp_path / "out")


def test_existing_folder_is_not_touched(tmp_path: Path) -> None:
    with pytest.raises(GankitError, match="exists already"):
        convert(PICKLES / "sg2_uncond.pkl", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"lrelu", b"sigmo", "activation = 'sigmo'"),
        (b"resnet", b"resnot", "resnot"),
        (b"conv_clamp", b"conv_klamp", "does not say its 'conv_clamp'"),
        (b"synthesis", b"synthesys", "Generator"),
    ],
)
def test_odd_words_are_refused(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    data = (PICKLES / "sg2_cond.pkl").read_bytes()
    assert old in data
    (tmp_path / "file.pkl").write_bytes(data.replace(old, new))
    with pytest.raises(GankitError, match=message):
        convert(tmp_path / "file.pkl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("module", "name", "value", "message"),
    [
        ("", "z_dim", 17, r"'mapping\.fc0\.weight' is \[16, 32\], generator 'stylegan2' needs \[16, 33\]"),
        ("", "img_resolution", 32, "does not say its 'architecture'"),
        ("", "img_resolution", 8, r"the tensor 'synthesis\.b16\..*' has no place in generator 'stylegan2'"),
        ("", "img_resolution", 2**40, "img_resolution = 1099511627776 .* is not possible"),
        ("", "img_resolution", "16", "img_resolution = '16' .* is not possible"),
        ("", "img_channels", 2, "img_channels = 2 .* is not possible"),
        ("", "c_dim", 2**30, "c_dim = 1073741824 .* is not possible"),
        ("", "c_dim", 4, r"'mapping\.embed\.weight' is \[16, 5\]"),
        ("synthesis.b16", "architecture", "skip", r"'synthesis\.b16\.skip\.\S+' has no place"),
        ("synthesis.b4.conv1", "use_noise", False, "noise_.*' has no place"),
        ("synthesis.b4.conv1", "conv_clamp", [], "conv_clamp"),
        ("mapping.fc0", "bias_gain", "x", "mapping_lr_multiplier"),
        ("mapping.fc0", "bias_gain", 0, "cannot be built"),
    ],
)
def test_arguments_and_tensors_must_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, value: Any, message: str
) -> None:
    file = open_foreign(PICKLES / "sg2_cond.pkl")
    file.networks["G_ema"].modules[module].state[name] = value
    monkeypatch.setattr(import_foreign, "open_foreign", lambda path: file)
    with pytest.raises(GankitError, match=message):
        convert(PICKLES / "sg2_cond.pkl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_broken_importer_keeps_nobody_from_answering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gankit.core.config.registry import Plugin, registry

    plugin = Plugin("importer", "broken", "no_such_module:Importer", "broken-package", "1")
    monkeypatch.setitem(registry().plugins, ("importer", "broken"), plugin)
    with pytest.warns(UserWarning, match="broken-package"):
        convert(PICKLES / "sg2_uncond.pkl", tmp_path / "out")


# ------------------------------------------------------------------------------------------------------- fuzz


def fuzz(seconds: float, seed: int, folder: Path) -> int:
    """Convert damaged snapshots; nothing but GankitError comes out, and what is converted loads."""
    networks = {"g_ema": random_generator(), "d": random_discriminator()}
    torch.save(networks, folder / "zip.pt")
    torch.save(networks, folder / "old.pt", _use_new_zipfile_serialization=False)
    files = [*(PICKLES / f"{name}.pkl" for name in SNAPSHOTS), folder / "zip.pt", folder / "old.pt"]
    originals = [path.read_bytes() for path in files]
    rng = random.Random(seed)
    end, count, file, out = time.monotonic() + seconds, 0, folder / "file.pkl", folder / "out"
    while time.monotonic() < end:
        file.write_bytes(mutate(rng.choice(originals), rng))
        with contextlib.suppress(GankitError):
            convert(file, out)
            model_folder.load_model(out)
            shutil.rmtree(out)
        count += 1
    assert not MARKER.exists()
    assert not out.exists()
    return count


def test_fuzz_briefly(tmp_path: Path) -> None:
    assert fuzz(6, 0, tmp_path) > 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_fuzz(tmp_path: Path, seed: int) -> None:
    assert fuzz(100, seed, tmp_path) > 100


# ------------------------------------------------------------------------------------------------ where files lie


def test_folder_with_a_snapshot(tmp_path: Path, cache: Path, gankit_cli: Cli) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(PICKLES / "sg2_uncond.pkl", folder)
    (folder / "readme.txt").write_text("hello")
    assert gankit.load(folder, device="cpu").recipe.name == "sg2_uncond"
    assert gankit_cli("convert", folder, tmp_path / "model").code == 0
    shutil.copy(PICKLES / "sg2_cond.pkl", folder)
    with pytest.raises(
        GankitError, match=r"holds 2 networks; name one of them: .*sg2_cond\.pkl, .*sg2_uncond\.pkl"
    ):
        gankit.load(folder, device="cpu")
    done = gankit_cli("convert", tmp_path / "model", tmp_path / "again")
    assert "neither a pickle or torch file" in done.message


class Hub:
    """A hub with one repo, or what its cache holds without a network."""

    def __init__(self, folder: Path, files: list[str]) -> None:
        self.folder, self.files = folder, files
        self.downloads: list[str] = []

    def snapshot_download(self, hub_id: str, **_: Any) -> str:
        return str(self.folder)

    def list_repo_files(self, hub_id: str) -> list[str]:
        return self.files

    def hf_hub_download(self, hub_id: str, file: str) -> str:
        self.downloads.append(file)
        return str(PICKLES / file)

    def __call__(self) -> Hub:
        return self


def test_hub_repo_with_a_snapshot(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    hub = Hub(tmp_path / "snapshot", ["README.md", "sg2_uncond.pkl"])
    for name in ("snapshot_download", "hf_hub_download"):
        monkeypatch.setattr(huggingface_hub, name, getattr(hub, name))
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    assert gankit.load("someone/faces", device="cpu").recipe.name == "sg2_uncond"
    assert hub.downloads == ["sg2_uncond.pkl"]
    assert gankit.load("someone/faces/sg2_cond.pkl", device="cpu").recipe.name == "sg2_cond"
    assert find_model.find_foreign("someone/faces/sg2_cond.pkl") == PICKLES / "sg2_cond.pkl"
    hub.files.append("sg2_cond.pkl")
    with pytest.raises(
        GankitError, match=r"name one of them: someone/faces/sg2_uncond\.pkl, someone/faces/sg2_cond"
    ):
        gankit.load("someone/faces", device="cpu")
    hub.files[:] = ["README.md"]
    with pytest.raises(GankitError, match=r"holds no recipe\.yaml and no \.pkl"):
        gankit.load("someone/faces", device="cpu")
    convert(PICKLES / "sg2_uncond.pkl", tmp_path / "snapshot")
    assert gankit.load("someone/faces", device="cpu").recipe.name == "sg2_uncond"
    with pytest.raises(GankitError, match="a gankit model already"):
        find_model.find_foreign("someone/faces")
