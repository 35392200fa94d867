"""The first command: it trains, and leaves what it says."""

import pytest
from PIL import Image

from alda.commands.demo import SHIFTED, demo
from alda.training.logger import read_metrics


@pytest.mark.slow
def test_the_demo_leaves_a_curve_a_picture_and_a_video(tmp_path, capsys):
    demo(out=tmp_path, steps=1_050, seed=0)
    printed = capsys.readouterr().out
    for name in ("curve.png", "reconstructions.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 100
    (video,) = (tmp_path / "run" / "videos").glob(f"*_{SHIFTED}.*")
    assert video.name.startswith("000001050")
    evaluations = [row for row in read_metrics(tmp_path / "run") if "eval/train/return" in row]
    assert [row["step"] for row in evaluations] == [0, 263, 526, 789, 1_050]
    for row in (evaluations[0], evaluations[-1]):
        assert f" {row[f'eval/{SHIFTED}/return']:.0f} " in printed
    assert str(video) in printed.replace("\n", "")
    assert "alda inspect" in printed
