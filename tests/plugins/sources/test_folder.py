"""Folders of images: mistakes, linked folders, removed files."""

from __future__ import annotations

import pytest
from source_files import labels, png, write

from gankit.core.data.images import BadImage
from gankit.errors import GankitError
from gankit.plugins.sources.folder import FolderSource


def test_folder_mistakes(tmp_path):
    with pytest.raises(GankitError, match="does not exist"):
        FolderSource(str(tmp_path / "none"))
    with pytest.raises(GankitError, match=r"holds no images.*\.png"):
        FolderSource(str(write(tmp_path, {"a.txt": "x"})))
    with pytest.raises(GankitError, match="is a file"):
        FolderSource(str(tmp_path / "a.txt"))


def test_linked_folders_are_visited_once(tmp_path):
    write(tmp_path / "elsewhere", {"1.png": png()})
    write(tmp_path / "set", {"a/2.png": png()})
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "set" / "a" / "loop").symlink_to(tmp_path / "set", target_is_directory=True)
    assert set(labels(FolderSource(str(tmp_path / "set")))) == {"a/2.png", "b/1.png"}


def test_removed_file_is_a_bad_image(tmp_path):
    found = FolderSource(str(write(tmp_path, {"1.png": png()})))
    (tmp_path / "1.png").unlink()
    with pytest.raises(BadImage, match="disappeared"):
        found.image(0)
    assert found.fingerprint()
