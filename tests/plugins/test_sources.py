"""Every path has one source."""

from __future__ import annotations

from source_files import png, write, write_zip

from gankit.plugins.sources.archive import ZipSource
from gankit.plugins.sources.folder import FolderSource
from gankit.plugins.sources.shards import ShardSource


def test_every_path_has_one_source(tmp_path):
    images = write(tmp_path / "images", {"1.png": png(), "backup.tar": b"", "a/b.tar": b""})
    tars = write(tmp_path / "tars", {"1.tar": b"", "1_stats.json": b""})
    zipped = write_zip(tmp_path / "a.zip", {})
    cases = {images: FolderSource, tars: ShardSource, zipped: ZipSource, tars / "1.tar": ShardSource}
    for path, expected in cases.items():
        assert [s for s in (FolderSource, ZipSource, ShardSource) if s.matches(path)] == [expected]
    for path in (tmp_path / "none", tmp_path / "none.zip", tmp_path / "none.tar", images / "1.png"):
        assert not any(s.matches(path) for s in (FolderSource, ZipSource, ShardSource))
