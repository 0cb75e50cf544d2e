"""The text about a plugin and its options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_packages import registering, site_folder, write_package
from option_plugins import registered

from gankit.cli.describe import describe
from gankit.errors import GankitError


@pytest.fixture(autouse=True)
def plugins() -> Iterator[None]:
    with registered():
        yield


def test_describe() -> None:
    page = describe("outer")
    assert "outer: augmentation of fake 1.0" in page
    assert "More about it." in page
    assert "  width  (int, default 8)\n      number of channels, 1 to 64." in page
    assert "  part  (loss plugin, default {'name': 'inner', 'gain': 2})" in page
    assert "parts  (loss plugins, required)" in describe("loss/many")
    with pytest.raises(GankitError, match="unknown plugin 'outr'; did you mean 'outer'"):
        describe("outr")


def test_describe_what_is_no_class(tmp_path: Path) -> None:
    """Recipes, models and commands have no options: the page says what is in them, whatever their author wrote."""
    command = "import typer\n\ngroup = typer.Typer(help='Things to do.')\n\ndef hello():\n    '''Greet somebody.'''\n"
    with site_folder(tmp_path / "site") as folder:
        lines = ("'command', 'hello', 'odds.greet:hello'", "'command', 'things', 'odds.greet:group'")
        lines += ("'recipe', 'sound', 'odds:sound.yaml'", "'recipe', 'odd', 'odds:odd.yaml'")
        lines += ("'model', 'drawn', 'odds:drawn'",)
        page = "description: my page\ngenerator: {name: stylegan2, z_dim: 8}\naugmentation: null\n"
        page += "tiny: {data.size: 8}\n"
        files = {
            "odds/__init__.py": registering(*lines),
            "odds/greet.py": command,
            "odds/sound.yaml": page,
            "odds/odd.yaml": "generator: [1, true]\nstages: 7\ndata: {path: 'avatars:'}\n",
            "odds/drawn/recipe.yaml": page,
            "odds/drawn/generator.safetensors": "",
        }
        write_package(folder, "odds", files)
        recipe = describe("sound")
        assert "my page\n\n  generator: stylegan2, z_dim: 8\n  augmentation: null\n\n" in recipe
        assert recipe.endswith(
            "train it: gankit train sound --data FOLDER (add --tiny to try it out in seconds)"
        )
        odd = describe("recipe/odd")
        assert "it has no description\n\n  data: {path: avatars:}\n  generator: [1, True]\n" in odd
        assert odd.endswith("train it: gankit train odd")
        assert (
            "my page\n\n  generator: stylegan2, z_dim: 8\n\ndraw pictures: gankit sample drawn"
            in describe("drawn")
        )
        assert "Greet somebody.\n\nsee: gankit hello --help" in describe("hello")
        assert "Things to do." in describe("things")
