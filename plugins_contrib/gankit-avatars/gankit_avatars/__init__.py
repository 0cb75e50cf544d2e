"""The default data of gankit: drawn avatars with exact labels, recipes, a trained model and the demo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gankit import hookimpl


@hookimpl
def gankit_register(register: Callable[[str, str, str], None]) -> None:
    register("source", "avatars", "gankit_avatars.source:AvatarSource")
    register("weights", "avatars", "gankit_avatars.weights:PackagedWeights")
    register("feature", "avatar-judge", "gankit_avatars.judge:AvatarJudge")
    register("command", "demo", "gankit_avatars.demo:demo")
    if (Path(__file__).parent / "model").is_dir():  # a checkout may come without the trained weights
        register("model", "avatars", "gankit_avatars:model")
    for name in ("avatars", "avatars-tags", "avatars-class"):
        register("recipe", name, f"gankit_avatars:recipes/{name}.yaml")
