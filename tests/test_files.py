"""Files are complete or absent."""

import os

import pytest
import torch

from alda.agents.decoding import to_pixels
from alda.envs.shifts.color import read_table
from alda.errors import UserError
from alda.files import check_writable, write_json, write_text
from alda.training.tensors import write_tensors


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


def test_a_link_under_the_name_of_a_temporary_file_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name, write in (("a.json", write_json), ("a.safetensors", write_tensors)):
        (tmp_path / f".partial.{name}").symlink_to(victim)
        write(tmp_path / name, {})
        assert victim.read_text() == "mine"
        assert not (tmp_path / name).is_symlink()
    assert {file.name for file in tmp_path.iterdir()} == {"victim", "a.json", "a.safetensors"}


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_weights_are_as_readable_as_text(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_json(tmp_path / "a.json", {})
        write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)})
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("a.json", "a.safetensors")]
    assert modes == [0o666 & ~mask] * 2


def test_what_is_no_number_is_drawn_black():
    image = torch.tensor([0.0, 1.0, torch.nan, 0.5]).expand(1, 3, 2, 4)
    assert to_pixels(image)[0, 0, 0].tolist() == [0, 255, 0, 128]


def test_a_colour_table_that_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "table.json")
    with pytest.raises(UserError, match=r"table\.json is no regular file"):
        read_table(tmp_path / "table.json")
