"""Autoencoders alone: on codes that are known, on numbers with known answers, and as a study of real frames."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import run
from torch import nn

from alda.agents.alda import ALDA, ALDAConfig
from alda.analysis.representation.autoencoder import information, learn, measure, r2_of_joints
from alda.analysis.representation.dataset import Dataset
from alda.analysis.representation.summary import contrast, contrasts, estimate, group_results, tables, write_summary
from alda.errors import UserError
from alda.latents import LATENTS
from alda.sweep import local
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


def reading(latent):
    torch.manual_seed(0)
    agent = ALDA(config(latent=latent), EnvSpec(1, SIDE, 1))
    agent.representation.encoder = Reader()
    return agent


@pytest.fixture(scope="module")
def known():
    """Codes in [-0.95, 0.95], of which the first four are the joints. Shifts: the same; the first four moved out of the
    range by 1, on the side where they are; turned round."""
    generator = torch.Generator().manual_seed(0)
    learned, held_out = (torch.rand(n, 12, generator=generator) * 1.9 - 0.95 for n in (500, 200))
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


@pytest.mark.parametrize(
    "latent", ["associative", *(pytest.param(name, marks=pytest.mark.slow) for name in ("clamp", "identity"))]
)
def test_known_codes_get_known_numbers(known, latent):
    found = measure(reading(latent), known, ["same", "out", "turned"], seed=0)
    same, out, turned = (found["worlds"][name] for name in ("same", "out", "turned"))
    ranged = latent != "identity"
    assert list(same["distance"]) == (["before", "clamped", "after"] if ranged else ["before", "after"])
    assert set(same["distance"].values()) == {0}
    assert same["pose"] == found["pose"]
    assert found["pose"]["before"] > 0.97
    assert same["psnr"]["after"] == same["psnr_seen"] == found["psnr"]
    # four of twelve numbers move by one, the others not at all: 2 by the theorem of Pythagoras
    apart = torch.cdist(known.twin[0][:, 0, 0, :12] / 255 * 4, known.twin[0][:, 0, 0, :12] / 255 * 4)
    apart = apart.sum().item() / (200 * 199)
    assert out["distance"]["before"] == pytest.approx(2 / apart, rel=0.01)
    assert turned["pose"]["before"] == 0
    if ranged:
        assert out["outside"] == pytest.approx(1 / 3, abs=1e-4)
        assert found["outside"] == 0
        assert out["distance"]["clamped"] == pytest.approx(4**0.5 * 0.05 / apart, rel=0.1)
        assert out["pose"]["clamped"] > 0.97  # the retrieved ends say what the twin says
    if latent == "associative":
        assert out["same_value"] == 1  # 0.95 and 1.95 both are nearest to the end of the range
        assert out["distance"]["after"] < 0.01
        assert out["pose"]["after"] > 0.95
        assert turned["same_value"] < 0.1
    else:
        assert out["same_value"] is None
    best = found["information"]
    assert best["joints"] > 5 * best["colors"]
    assert found["theorem1"]["t1_excess_largest"] < 0.05


def test_of_a_joint_that_turns_the_point_on_the_circle_is_told():
    truth = np.array([[1.0, 0.0, 1.0], [3.0, 1.0, 0.0], [5.0, 0.0, -1.0], [7.0, -1.0, 0.0]])  # slides; sine, cosine
    guess = truth.mean(0) * np.ones((4, 1))
    np.testing.assert_allclose(r2_of_joints(truth, truth, 1), [1, 1])
    np.testing.assert_allclose(r2_of_joints(truth, guess, 1), [0, 0])
    guess[:, 1] = truth[:, 1]  # half of the circle's variance
    np.testing.assert_allclose(r2_of_joints(truth, guess, 1), [0, 0.5])
    np.testing.assert_allclose(r2_of_joints(truth, -truth, 0)[1:], [-3, -3])


def test_information_of_codes_that_are_the_sources_and_of_noise():
    rng = np.random.default_rng(0)
    joints, colors = rng.uniform(-1, 1, (2_000, 3)), rng.uniform(0, 1, (2_000, 2))
    whole = np.concatenate([joints, colors], axis=1)
    perfect = np.stack([np.searchsorted(np.quantile(x, np.linspace(0, 1, 11)[1:-1]), x) for x in whole.T], axis=1)
    found = information(joints, colors, perfect, seed=0)
    assert found["active"] == 5
    assert found["infoe"] > 0.97
    assert min(found["infom"], found["infoc"]) > 0.85  # less what chance tells of the others
    assert found["joints"] == pytest.approx(np.log(10) / np.log(20), rel=0.02)  # pairs of 20 bins are told apart
    only_joints = information(joints, colors, perfect[:, [0, 1, 2]], seed=0)
    assert only_joints["colors"] < 0.05 < 0.7 < only_joints["joints"]
    noise = information(joints, colors, rng.integers(0, 12, (2_000, 5)), seed=0)
    assert noise["infoe"] < 0.02
    assert max(noise["joints"], noise["colors"]) < 0.05


def test_intervals_are_students():
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.half) == (2, pytest.approx(4.30265 / 3**0.5, rel=1e-5))
    assert found.words(2) == "2.00 ± 2.48"
    assert estimate([-0.001]).words(2) == "0.00"


def test_contrasts_are_taken_seed_by_seed():
    def result(seed, after, before):
        return {"seed": seed, "worlds": {"w": {"distance": {"before": before, "after": after}}}}

    left, right = ("associative", "instance"), ("identity", "none")
    group = {left: [result(0, 1.0, 9.0), result(1, 4.0, 8.0)], right: [result(1, 6.0, 6.5), result(2, 7.0, 7.5)]}
    assert contrast(group, (left, "after"), (right, "before"), "w", "distance").values == [4.0 - 6.5]
    same = contrast(group, (left, "after"), (left, "before"), "w", "distance")
    assert same.values == [-8.0, -4.0]
    assert same.words(1) == "-6.0 ± 25.4"  # 12.706 of Student's times 2
    group[left][0] = result(0, None, 9.0)  # a code that is the same in all states has no distances
    assert contrast(group, (left, "after"), (left, "before"), "w", "distance").values == [-4.0]
    assert contrast({left: group[left]}, (left, "after"), (right, "after"), "w", "distance") is None
    names = [name for name, *_ in contrasts(LATENTS)]
    assert len(set(names)) == len(names)


def test_the_published_tables_are_those_of_the_published_numbers():
    results = json.loads((RESULTS / "summary.json").read_text())
    lines = [line for task, rows in results.items() for line in [*tables(task, group_results(rows)), ""]]
    assert "\n".join(lines) == (RESULTS / "summary.md").read_text()


@pytest.mark.parametrize("latent", ["associative", pytest.param("identity", marks=pytest.mark.slow)])
def test_an_autoencoder_alone_learns_and_repeats_itself(latent):
    generator = torch.Generator().manual_seed(1)
    frame = torch.zeros(60, 3, SIDE, SIDE, dtype=torch.uint8)
    for image, place in zip(frame, torch.randint(0, SIDE - 8, (60, 2), generator=generator).tolist(), strict=True):
        image[:, place[0] : place[0] + 8, place[1] : place[1] + 8] = 200
    first, again = (learn(config(latent=latent), frame, updates=60, seed=3) for _ in range(2))
    for one, other in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    untaught = learn(config(latent=latent), frame, updates=0, seed=3)

    def error(agent):
        return (agent.reconstruct(frame[:, None]).float() - frame).square().mean()

    assert error(first) < error(untaught) / 4


def test_latent_models_begin_alike():
    frame = torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8)
    one, other = (learn(config(latent=latent), frame, updates=0, seed=5) for latent in ("associative", "bio"))
    for part in ("representation.encoder", "decoder"):
        pairs = zip(one.get_submodule(part).parameters(), other.get_submodule(part).parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)


WORDS = "--frames 100 --states 40 --samples 200 --updates 4 --batch-size 4 --jobs 2 --shifts color_hard"


@pytest.fixture(scope="module")
def studied(trained, tmp_path_factory):
    """Return a study of two latent models: its folder, the words of its command, and what it said."""
    patch = pytest.MonkeyPatch()
    patch.setattr(local, "this_program", lambda: ["-m", "alda.cli"])  # which is that of the tests
    out = tmp_path_factory.mktemp("study") / "out"
    words = ["represent", trained("alda"), *WORDS.split(), "--norms", "instance", "--seeds", "0", "--out", out]
    first = run(*words, "--latents", "associative", "identity")
    assert first.returncode == 0, first.stdout + first.stderr
    yield out, words, first.stdout
    patch.undo()


def test_a_study_resumes_where_it_ended(studied):
    out, words, said = studied
    assert "difference, seed by seed" in said
    results = sorted(out.glob("cartpole_balance/*/s0.json"))
    assert [file.parent.name for file in results] == ["associative-instance", "identity-instance"]
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in results}
    results[0].unlink()
    again = run(*words, "--latents", "associative", "identity")
    assert again.returncode == 0, again.stdout + again.stderr
    assert results[1].stat().st_mtime_ns == before[results[1]][0]
    old, new = (json.loads(text) for text in (before[results[0]][1], results[0].read_bytes()))
    assert {**old, "seconds": 0} == {**new, "seconds": 0}  # from the same frames, the same numbers
    summary = json.loads((out / "summary.json").read_text())
    kept = {name: value for name, value in new.items() if name not in ("machine", "settings", "task")}
    assert summary["cartpole_balance"][0] == kept
    for name in ("cartpole_balance.png", "cartpole_balance_decoded.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 100


def test_the_frames_show_the_same_states_under_every_shift(studied):
    data = Dataset.read(studied[0] / "cartpole_balance" / "material.safetensors")
    assert data.frame.shape == (100, 3, SIDE, SIDE)
    assert data.twin.shape == (2, 40, 3, SIDE, SIDE)
    assert not torch.equal(*data.twin)
    assert data.turns.tolist() == [False, True]
    pose = data.pose(data.twin_joints)
    np.testing.assert_allclose(pose[:, 1] ** 2 + pose[:, 2] ** 2, 1, atol=1e-6)
    assert 0 <= data.sample_colors.min() <= data.sample_colors.max() <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--updates 5 --latents fsq", "settings (settings.updates: 4 -> 5"),  # of which there is none yet
        ("--samples 300", "settings (settings.samples: 200 -> 300"),
        ("--latents nonesuch", "unknown latent model 'nonesuch'"),
        ("--seeds 0 0", "--seeds must be one or more, each once, not 0 0"),
        ("--seeds -1", "--seeds must be from 0 to 2^32 - 1, not -1"),
        ("--states 50", "--states must be a multiple of 40"),
        ("--shifts nonesuch", "unknown shift 'nonesuch'"),
        ("--batch-size 1", "--batch-size must be at least 2"),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_is_lost(studied, change, message):
    out, words, _ = studied
    before = {file: file.read_bytes() for file in out.rglob("*.json")}
    result = run(*words, *change.split())
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())
    assert {file: file.read_bytes() for file in out.rglob("*.json")} == before


def test_results_on_frames_of_another_policy_are_refused_and_damaged_ones_named(studied, tmp_path):
    out, words, _ = studied
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    file = next(copy.glob("*/associative-instance/s0.json"))
    whole = file.read_text()
    file.write_text(json.dumps({**json.loads(whole), "policy": "another"}))
    result = run(*[copy if word == out else word for word in words])
    assert result.returncode == 2
    assert "(policy: another -> " in " ".join(result.stderr.split())
    file.write_text(whole[:100])
    with pytest.raises(UserError, match=r"s0\.json is damaged.*delete it"):
        write_summary(copy)
    with pytest.raises(UserError, match="holds no result"):
        write_summary(tmp_path / "nothing")


@pytest.mark.slow
def test_autoencoders_that_fail_are_named(studied, tmp_path):
    out, words, _ = studied
    copy = tmp_path / "out"
    shutil.copytree(out, copy, ignore=shutil.ignore_patterns("*-instance"))
    (copy / "cartpole_balance" / "material.safetensors").write_bytes(b"\x80\x04damaged")
    result = run(*[copy if word == out else word for word in words], "--latents", "identity")
    assert result.returncode == 1
    assert "cartpole_balance/identity-instance/s0: failed" in result.stdout
    assert "material.safetensors is damaged" in " ".join(result.stdout.split())
