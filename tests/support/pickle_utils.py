"""Pickles for tests: the reference snapshots, and programs written by hand that no honest writer makes."""

from __future__ import annotations

import json
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import torch
from golden_utils import GOLDEN
from safetensors import safe_open

from gankit.core.models import model_folder
from gankit.interop.import_foreign import convert

PICKLES = GOLDEN / "pickles"
MARKER = Path("/tmp/pwned_marker")  # what the hostile reference files create if they are executed
SNAPSHOTS = ("sg2_uncond", "sg2_cond", "sg3_t", "sg3_r", "sgt", "sgxl_stem", "sgxl_superres")


def reference(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Metadata and tensors that belong to a reference snapshot."""
    with safe_open(PICKLES / f"{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()["golden"]), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def program(body: bytes) -> bytes:
    """A pickle of protocol 4 that leaves the value of `body` as {'G_ema': value}."""
    return b"\x80\x04}" + text("G_ema") + body + b"s."


def call(module: str, name: str, *arguments: str) -> bytes:
    """Instructions that call a function with texts."""
    return text(module) + text(name) + b"\x93(" + b"".join(map(text, arguments)) + b"tR"


class Payload:
    """Pickles to a call of `os.system` that creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (f"touch {self.marker}",)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage of one of the kinds that disks, networks and attackers do."""
    broken = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(broken))
        match rng.randrange(7):
            case 0:
                broken[at] = rng.randrange(256)
            case 1:
                broken[at] ^= 1 << rng.randrange(8)
            case 2:
                del broken[at : at + rng.choice((1, 2, 8, 1000))]
            case 3:
                start = rng.randrange(len(broken))
                broken[at:at] = broken[start : start + rng.choice((1, 3, 50, 2000))]
            case 4:
                broken[at : at + 4] = struct.pack(
                    "<I", rng.choice((0, 2**31 - 1, 2**32 - 1, rng.randrange(2**32)))
                )
            case 5:
                broken[at : at + 1] = rng.choice(INSTRUCTIONS)
            case 6:
                broken = broken[:at] or broken
        if not broken:
            return b""
    return bytes(broken)


INSTRUCTIONS = [bytes([code]) for code in b"().012FGIJKLMNQRSTUVX]abcdeghijlopqrstu}BC"] + [
    *(bytes([code]) for code in range(0x80, 0x99)),
    pickle.GLOBAL + b"os\nsystem\n",
    b"\x8c\x04eval\x93",
    b"r" + b"\xff" * 4,
    b"\x8e" + b"\xff" * 8,
    b"\x8b" + b"\xff" * 3 + b"\x7f",
]


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


def snapshot_pair(folder: Path) -> tuple[Path, Path]:
    """The raw generator of a snapshot and its moving average as model folders: two networks of one architecture."""
    for role in ("G", "G_ema"):
        convert(PICKLES / "sg2_uncond.pkl", folder / role, network=role)
    return folder / "G", folder / "G_ema"
