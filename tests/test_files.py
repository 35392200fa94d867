"""Files are complete or absent."""

import os

import pytest

from alda.files import check_writable, write_text


def test_a_file_to_be_written_later_is_checked_and_left_alone(tmp_path):
    check_writable(tmp_path / "new" / "scores.json")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "old.json").write_text("kept")
    check_writable(tmp_path / "old.json")
    assert (tmp_path / "old.json").read_text() == "kept"
    with pytest.raises(IsADirectoryError):
        check_writable(tmp_path)
    with pytest.raises(OSError, match=r"old\.json"):
        check_writable(tmp_path / "old.json" / "scores.json")


def test_an_interrupted_write_leaves_the_file_before_and_nothing_else(tmp_path, monkeypatch):
    write_text(tmp_path / "file", "before")

    def full(_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_text(tmp_path / "file", "after")
    assert (tmp_path / "file").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
