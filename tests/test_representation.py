"""Autoencoders alone: on codes that are known, on numbers with known answers, and as a small study."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from alda.agents.alda import ALDA, ALDAConfig
from alda.analysis.representation.autoencoder import learn, measure, r2_of_joints
from alda.analysis.representation.dataset import Dataset
from alda.analysis.representation.summary import contrast, estimate
from alda.commands import represent as command
from alda.commands.represent import represent
from alda.errors import UserError
from alda.training.tensors import read_tensors
from alda.types import EnvSpec

RESULTS = Path(__file__).parents[1] / "results" / "representation"
SIDE = 32


def config(**changes):
    return ALDAConfig(**{"batch_size": 8, "hidden_dim": 8, "embed_dim": 8, **changes})


class Reader(nn.Module):
    """An encoder that reads twelve pixels: from 0 to 255 is from -2 to 2."""

    def forward(self, image):
        return image[:, 0, 0, :12] * 4 - 2


def written(code):
    """Frames of which Reader makes these codes, as far as 255 levels go."""
    frame = torch.zeros(len(code), 3, SIDE, SIDE, dtype=torch.uint8)
    frame[:, 0, 0, :12] = ((code.clamp(-2, 2) + 2) / 4 * 255).round().to(torch.uint8)
    return frame


@pytest.fixture(scope="module")
def known():
    """Codes in [-0.95, 0.95], of which the first four are the joints. Shifts: the same; the first four moved out of the
    range by 1, on the side where they are; turned round."""
    generator = torch.Generator().manual_seed(0)
    learned, held_out = (torch.rand(n, 12, generator=generator) * 1.9 - 0.95 for n in (400, 100))
    held_out[:, :4] = torch.where(held_out[:, :4] > 0, 0.95, -0.95)
    out = held_out.clone()
    out[:, :4] += held_out[:, :4].sign()
    worlds = [held_out, held_out, out, -held_out]
    sample = torch.rand(400, 12, generator=generator) * 1.9 - 0.95
    return Dataset(
        frame=written(learned),
        joints=learned[:, :4],
        twin=torch.stack([written(code) for code in worlds]),
        twin_joints=held_out[:, :4],
        turns=torch.tensor([False, False, False, True]),
        sample=written(sample),
        sample_joints=sample[:, :4],
        sample_colors=torch.rand(400, 9, generator=generator),
    )


def test_known_codes_get_known_numbers(known):
    agent = ALDA(config(), EnvSpec(1, SIDE, 1))
    agent.representation.encoder = Reader()
    found = measure(agent, known, ["same", "out", "turned"], seed=0)
    same, out, turned = (found["worlds"][name] for name in ("same", "out", "turned"))
    assert list(same["distance"]) == ["before", "clamped", "after"]
    assert set(same["distance"].values()) == {0}
    assert same["pose"] == found["pose"]
    assert found["pose"]["before"] > 0.97
    assert same["psnr"]["after"] == same["psnr_seen"] == found["psnr"]
    # four of twelve numbers move by one, the others not at all: 2 by the theorem of Pythagoras
    apart = torch.cdist(known.twin[0][:, 0, 0, :12] / 255 * 4, known.twin[0][:, 0, 0, :12] / 255 * 4)
    apart = apart.sum().item() / (100 * 99)
    assert out["distance"]["before"] == pytest.approx(2 / apart, rel=0.01)
    assert out["distance"]["clamped"] == pytest.approx(4**0.5 * 0.05 / apart, rel=0.1)
    assert out["distance"]["after"] < 0.01
    assert (found["outside"], out["outside"]) == (0, pytest.approx(1 / 3, abs=1e-4))
    assert out["same_value"] == 1  # 0.95 and 1.95 both are nearest to the end of the range
    assert out["pose"]["clamped"] > 0.97  # the retrieved ends say what the twin says
    assert out["pose"]["after"] > 0.95
    assert turned["same_value"] < 0.1
    assert turned["pose"]["before"] == 0
    assert found["information"]["active"] == 12
    assert found["information"]["joints"] > 5 * found["information"]["colors"]
    assert found["theorem1"]["t1_excess_largest"] < 0.05


def test_of_a_joint_that_turns_the_point_on_the_circle_is_told():
    truth = np.array([[1.0, 0.0, 1.0], [3.0, 1.0, 0.0], [5.0, 0.0, -1.0], [7.0, -1.0, 0.0]])  # slides; sine, cosine
    guess = truth.mean(0) * np.ones((4, 1))
    np.testing.assert_allclose(r2_of_joints(truth, truth, 1), [1, 1])
    np.testing.assert_allclose(r2_of_joints(truth, guess, 1), [0, 0])
    guess[:, 1] = truth[:, 1]  # half of the circle's variance
    np.testing.assert_allclose(r2_of_joints(truth, guess, 1), [0, 0.5])
    np.testing.assert_allclose(r2_of_joints(truth, -truth, 0)[1:], [-3, -3])


def test_intervals_are_students_and_differences_are_taken_seed_by_seed():
    assert estimate([1.0, 2.0, 3.0]) == "2.00 ± 2.48"  # 4.303 of Student's t, over the root of 3
    assert (estimate([-0.001]), estimate([])) == ("0.00", "")

    def row(latent, norm, seed, before, after):
        return {"latent": latent, "norm": norm, "seed": seed, "w.before": before, "w.after": after}

    ours, other = ("associative", "instance"), ("identity", "none")
    rows = [row(*ours, 0, 9.0, 1.0), row(*ours, 1, 8.0, 4.0), row(*other, 1, 6.5, 6.0), row(*other, 2, 7.5, None)]
    assert contrast(rows, (ours, "after"), (other, "before"), "w") == [4.0 - 6.5]
    assert contrast(rows, (ours, "after"), (ours, "before"), "w") == [-8.0, -4.0]
    assert contrast(rows, (other, "before"), (other, "after"), "w") == [0.5]  # seed 2 has no distance
    assert contrast(rows, (ours, "after"), (("bio", "none"), "after"), "w") == []


def test_published_tables_are_made_anew_from_the_published_numbers(tmp_path):
    with pytest.raises(UserError, match="holds no result"):
        represent((), out=tmp_path)
    shutil.copy(RESULTS / "summary.json", tmp_path)
    represent((), out=tmp_path)
    for name in ("summary.json", "summary.md"):
        assert (tmp_path / name).read_text() == (RESULTS / name).read_text()
    for name in ("walker_walk.png", "cartpole_balance.png"):
        with Image.open(tmp_path / name) as new, Image.open(RESULTS / name) as old:
            assert new.size == old.size


def test_an_autoencoder_alone_learns_and_repeats_itself():
    generator = torch.Generator().manual_seed(1)
    frame = torch.zeros(60, 3, SIDE, SIDE, dtype=torch.uint8)
    for image, place in zip(frame, torch.randint(0, SIDE - 8, (60, 2), generator=generator).tolist(), strict=True):
        image[:, place[0] : place[0] + 8, place[1] : place[1] + 8] = 200
    first, again = (learn(config(), frame, updates=60, seed=3) for _ in range(2))
    for one, other in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    untaught, bio = (learn(config(latent=latent), frame, updates=0, seed=3) for latent in ("associative", "bio"))
    for part in ("representation.encoder", "decoder"):  # latent models begin alike
        pairs = zip(untaught.get_submodule(part).parameters(), bio.get_submodule(part).parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)

    def error(agent):
        return (agent.reconstruct(frame[:, None]).float() - frame).square().mean()

    assert error(first) < error(untaught) / 4


SMALL = {"frames": 100, "states": 40, "samples": 200, "updates": 4, "batch_size": 4}


@pytest.fixture(scope="module")
def study(trained, tmp_path_factory):
    """Return a function that runs a small study with changes, and its folder."""
    out = tmp_path_factory.mktemp("study") / "out"

    def run(**changes):
        settings = {"norms": ("instance",), "seeds": (0,), "shifts": ("color_hard",), "device": "cpu", "out": out}
        represent((trained("alda"),), **settings | SMALL | {"latents": ("associative", "identity")} | changes)

    run()
    return run, out


def test_a_study_resumes_where_it_ended(study):
    run, out = study
    results = sorted(out.glob("cartpole_balance/*/s0.json"))
    assert [file.parent.name for file in results] == ["associative-instance", "identity-instance"]
    old, kept = json.loads(results[0].read_text()), results[1].stat().st_mtime_ns
    results[0].unlink()
    run()
    assert results[1].stat().st_mtime_ns == kept
    new = json.loads(results[0].read_text())
    assert {**old, "seconds": 0} == {**new, "seconds": 0}  # from the same frames, the same numbers
    summary = json.loads((out / "summary.json").read_text())
    assert summary["cartpole_balance"][0].items() <= new.items()
    assert "| associative, instance |" in (out / "summary.md").read_text()
    for name in ("cartpole_balance.png", "cartpole_balance_decoded.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 100


def test_frames_show_the_same_states_under_every_shift(study):
    data = Dataset(**read_tensors(study[1] / "cartpole_balance" / "material.safetensors"))
    assert data.frame.shape == (100, 3, SIDE, SIDE)
    assert data.twin.shape == (2, 40, 3, SIDE, SIDE)
    usual, plain, shifted = (images.float().mean((0, 2, 3)) for images in (data.frame, *data.twin))
    assert (plain - usual).norm() < (shifted - usual).norm() / 4  # the plain task comes first
    assert data.turns.tolist() == [False, True]
    assert not torch.equal(data.joints[:10], data.joints[50:60])  # the policy's, and those of random actions
    assert 0 <= data.sample_colors.min() <= data.sample_colors.max() <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"updates": 5}, r"other settings \(updates: 4 -> 5\)"),
        ({"samples": 300}, r"other settings \(samples: 200 -> 300\)"),
        ({"latents": ("nonesuch",)}, "unknown latent model 'nonesuch'"),
        ({"shifts": ("nonesuch",)}, "unknown shift 'nonesuch'"),
        ({"states": 50}, "--states must be a multiple of 40"),
        ({"batch_size": 1}, "--batch-size 2"),
    ],
)
def test_what_cannot_work_is_refused(study, changes, message):
    with pytest.raises(UserError, match=message):
        study[0](**changes)


def test_an_autoencoder_that_cannot_be_measured_is_named_and_the_others_go_on(study, monkeypatch, capsys):
    run, out = study
    measured = command.measure

    def diverged(agent, *args, **options):
        if agent.config.latent == "clamp":
            raise ValueError("Input contains NaN.")
        return measured(agent, *args, **options)

    monkeypatch.setattr(command, "measure", diverged)
    with pytest.raises(SystemExit) as ended:
        run(latents=("clamp", "fsq"))
    assert ended.value.code == 1
    assert "cartpole_balance/clamp-instance/s0: failed: Input contains NaN." in capsys.readouterr().out
    assert not (out / "cartpole_balance/clamp-instance/s0.json").exists()
    assert (out / "cartpole_balance/fsq-instance/s0.json").exists()
