"""Zips of images: unsafe names, encryption, damage, forked processes."""

from __future__ import annotations

import os
import zipfile

import pytest
from source_files import grey, png, write_zip

from gankit.core.data.images import BadImage
from gankit.errors import GankitError
from gankit.plugins.sources import archive
from gankit.plugins.sources.archive import ZipSource


@pytest.mark.parametrize("name", ["/etc/x.png", "../x.png", "a/../../x.png", "..\\x.png", "C:\\x.png"])
def test_zip_with_unsafe_names(tmp_path, name):
    path = write_zip(tmp_path / "a.zip", {"ok.png": png(), name: png()})
    with pytest.raises(GankitError, match="unsafe name"):
        ZipSource(str(path))


def test_zip_mistakes(tmp_path):
    with pytest.raises(GankitError, match="does not exist"):
        ZipSource(str(tmp_path / "none.zip"))
    with pytest.raises(GankitError, match="holds no images"):
        ZipSource(str(write_zip(tmp_path / "a.zip", {"a.txt": "x"})))
    (tmp_path / "b.zip").write_bytes(b"not a zip")
    with pytest.raises(GankitError, match="cannot be read as a zip"):
        ZipSource(str(tmp_path / "b.zip"))


def test_encrypted_zip(tmp_path):
    data = bytearray(write_zip(tmp_path / "a.zip", {"1.png": png()}).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag of encryption in the directory
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(GankitError, match="encrypted"):
        ZipSource(str(tmp_path / "a.zip"))


def test_damaged_and_huge_zip_members(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("1.png", png(1))
        file.writestr("2.png", png(2, (50, 50)) + bytes(5000))
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 255
    path.write_bytes(data)
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 4096)
    found = ZipSource(str(path))
    with pytest.raises(BadImage, match="CRC"):
        found.image(0)
    with pytest.raises(BadImage, match="unpacks to"):
        found.image(1)


def test_zip_in_a_forked_process(tmp_path):
    """Parent and child read in turn; a shared file position would mix them up."""
    found = ZipSource(str(write_zip(tmp_path / "a.zip", {f"{i:02}.png": png(i) for i in range(40)})))
    assert grey(found, 0) == 0
    child = os.fork()
    values = [grey(found, i) for i in range(40)] * 5
    if not child:
        os._exit(0 if values == list(range(40)) * 5 else 1)
    assert values == list(range(40)) * 5
    assert os.waitpid(child, 0)[1] == 0
