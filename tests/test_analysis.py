"""The analyses of a single run, on numbers with known answers and on runs that were trained for a moment."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SPEC, forget_digests, make_agent
from PIL import Image
from safetensors.torch import load_file, save_file

from alda.analysis.latents.association import View, compare, relative_distance, usage
from alda.analysis.latents.probes import probe
from alda.analysis.latents.readout import require_decoder, stored_range
from alda.analysis.latents.results import rounded
from alda.analysis.latents.trajectory import correlations, rank_correlations
from alda.analysis.latents.traversal import effect_of, localise, traverse
from alda.commands.analyze import association, disentanglement, theorem1, trajectory, traversal
from alda.config import Config
from alda.errors import UserError
from alda.policy import Policy


def test_an_effect_is_the_sum_of_absolute_steps():
    traversed = torch.zeros(2, 3, 3, 2, 2)  # latents, values, channels, height, width
    traversed[0, 1, 0, 0, 0] = 0.6  # up and down again in one colour of one pixel
    traversed[1, :, :, 1, 1] = torch.tensor([0.0, 0.5, 1.0])[:, None]  # steadily up in all
    np.testing.assert_allclose(effect_of(traversed), [[[0.4, 0], [0, 0]], [[0, 0], [0, 1]]], atol=1e-7)


def test_effects_are_found_where_they_are():
    mask = np.zeros((2, 16, 16), bool)
    mask[:, 8, 8] = True
    near = sum(abs(i - 8) + abs(j - 8) <= 3 for i in range(16) for j in range(16))  # 25: a diamond
    effects = np.zeros((2, 4, 16, 16))
    effects[:, 0, 8, 8:12] = 1.0  # within reach of the agent
    effects[:, 1, :2] = 1.0  # far from it
    effects[:, 2] = 1.0  # everywhere
    effects[:, 3, 0, 0] = 0.01  # hardly at all
    found = localise(effects, mask)
    assert found["where"] == ["agent", "background", "both", "none"]
    assert found["agent_area"] == pytest.approx(near / 256, rel=1e-3)
    assert found["agent_share"] == pytest.approx([1, 0, near / 256, 0], rel=1e-3)
    assert found["on_agent"] == pytest.approx([256 / near, 0, 1, 0], rel=1e-3)
    assert found["spread"] == pytest.approx([4 / 256, 32 / 256, 1, 1 / 256], rel=1e-3)
    assert found["effect"] == pytest.approx([4 / 256, 32 / 256, 1, 0.01 / 256], rel=1e-3)


def test_a_traversal_decodes_each_latent_with_each_value(replay):
    agent = make_agent("alda")
    latents = agent.latents(replay.sample(3).obs)
    values, changed = agent.sweep(latents, 4), latents.code[2].clone()
    traversed = traverse(agent, latents.code[2], values)
    changed[5] = values[5, 1]
    torch.testing.assert_close(traversed[5, 1], agent.decode(changed[None])[0].detach())
    assert traversed.shape == (12, 4, 3, 64, 64)


def test_correlations_are_pearsons_and_spearmans():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)), rng.normal(size=(50, 2))
    y[:, 1] += x[:, 0]
    np.testing.assert_allclose(correlations(x, y), np.corrcoef(x.T, y.T)[:3, 3:])
    np.testing.assert_allclose(rank_correlations(np.exp(x), y), rank_correlations(x, y**3))
    x[:, 1] = 4.0
    assert (correlations(x, y)[1] == 0).all()


def test_probes_find_what_is_there_and_no_more():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (1_200, 3))
    y = np.stack([2 * x[:, 0] - x[:, 1] + 5, x[:, 0] ** 2, rng.normal(size=1_200)], axis=1)
    held_out = np.arange(1_200) >= 800
    linear, nonlinear = (probe(x, y, held_out, kind, 0) for kind in ("linear", "nonlinear"))
    assert linear[0] == pytest.approx(1, abs=1e-3)
    assert abs(linear[1]) < 0.05  # even: no line tells it
    assert nonlinear[1] > 0.8
    assert max(linear[2], nonlinear[2]) < 0.05


def test_distances_are_relative_to_those_between_states():
    here = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])  # 5, 0 and 5 apart
    there = here + torch.tensor([0.0, 2.0])
    assert relative_distance(here, there).item() == pytest.approx(2 / (10 / 3))
    assert relative_distance(here, here).item() == 0
    assert rounded(relative_distance(here * 0, there)) is None
    nearest = torch.tensor([[0, 2], [0, 1], [1, 2], [0, 2]])
    np.testing.assert_array_equal(usage(nearest, 3), [[0.75, 0.25, 0], [0, 0.25, 0.75]])


@pytest.mark.parametrize("latent", ["associative", "quantized", "clamp", "fsq", "identity", "bio"])
def test_an_image_is_no_different_from_itself(replay, latent):
    agent, obs = make_agent("alda", latent=latent), replay.sample(5).obs
    numbers = compare(agent, View(agent, obs), View(agent, obs))
    assert numbers["distance"]["code"]["after"] == numbers["distance"]["features"]["before"] == numbers["q"] == 0
    quality = numbers["psnr"]["after"]
    assert quality["clean twin"] == quality["frame seen"]
    limited = latent in ("associative", "quantized", "clamp", "fsq")
    assert (stored_range(agent) is not None) == ("outside" in numbers) == limited
    if limited:
        assert [end.tolist() for end in stored_range(agent)] == [[-1] * 12, [1] * 12]
    if latent == "associative":
        assert numbers["same_value"] == [1] * 12


def test_retrieval_brings_outliers_back_to_the_range(replay):
    agent, obs = make_agent("alda"), replay.sample(6).obs
    clean, shifted = View(agent, obs), View(agent, obs)
    with torch.no_grad():  # an encoder that saturates: 1.5 where it was beyond 1, far beyond under the shift
        clean.encoded = torch.full_like(clean.encoded, 1.5)
        clean.encoded[::2, 0] = -0.2
        clean.encoded[:, 2] = -1.5
        shifted.encoded = clean.encoded + 2 * clean.encoded.sign() * (clean.encoded.abs() > 1)
        for view in (clean, shifted):
            view.code = agent.representation.memory(view.encoded).policy
            view.nearest = agent.representation.memory.nearest(view.encoded)
    numbers = compare(agent, clean, shifted)
    assert numbers["distance"]["code"]["before"] > 1
    assert numbers["distance"]["code"]["after"] == 0
    assert numbers["outside"]["shifted"] == [0.5] + [1] * 11
    assert numbers["distance_by_latent"]["after"][1] is None  # which never changes
    assert numbers["distance_by_latent"]["before"][0] == pytest.approx(1 / (1.7 * 18 / 30), rel=1e-3)


def drawn(file):
    """The numbers of an analysis, after a look at its picture."""
    for name in (file, *file.parent.glob(f"{file.stem}_?.png")):
        if name.exists():
            with Image.open(name) as picture:
                assert min(picture.size) > 200
                assert np.asarray(picture.convert("L")).std() > 10
    return json.loads(file.with_suffix(".json").read_text())


@pytest.mark.parametrize(("method", "latents"), [("alda", 12), pytest.param("sac_ae", 8, marks=pytest.mark.slow)])
def test_analyses_write_a_picture_and_numbers(trained, tmp_path, method, latents, capsys):
    run = trained(method)
    traversal(run, states=3, values=4, shown=2, out=tmp_path / "traversal.png")
    trajectory(run, episodes=3, out=tmp_path / "trajectory.png")
    association(run, episodes=2, states=3, out=tmp_path / "association.png")
    told = capsys.readouterr().out
    assert "traversal_0.png, traversal_1.png, traversal.json" in told
    assert next(line for line in told.splitlines() if "action" in line).split()[3] == "\N{EN DASH}"  # not a number
    numbers = {name: drawn(tmp_path / f"{name}.png") for name in ("traversal", "trajectory", "association")}
    assert len(numbers["traversal"]["where"]) == latents
    assert numbers["trajectory"]["variables"] == [f"position {i}" for i in range(3)] + ["velocity 0", "velocity 1"]
    assert len(numbers["trajectory"]["pearson"]) == latents
    assert len(numbers["association"]["distance_by_latent"]["after"]) == latents
    assert numbers["association"]["pairs"] == 6
    assert {(result["method"], result["step"]) for result in numbers.values()} == {(method, 12)}


@pytest.mark.slow
def test_disentanglement_is_measured_on_independent_and_visited_joints(trained, tmp_path):
    disentanglement(trained("alda"), samples=200, out=tmp_path / "disentanglement.png")
    scores = drawn(tmp_path / "disentanglement.png")
    assert scores["independent"]["sources"][:3] == ["slider", "hinge_1", "floor red"]
    assert scores["visited"]["samples"] == 16 * 9  # all that were visited


@pytest.mark.slow
def test_runs_are_compared_by_theorem_1(trained, tmp_path):
    shutil.copytree(trained("alda"), tmp_path / "still")  # an agent whose Q is 0 everywhere
    (weights,) = (tmp_path / "still" / "checkpoints").glob("save_*/agent.safetensors")
    zeroed = {name: value * 0 if "critic" in name else value for name, value in load_file(weights).items()}
    save_file(zeroed, weights)
    forget_digests(tmp_path / "still")
    runs = (trained("alda"), tmp_path / "still", trained("sac"))
    with pytest.raises(UserError, match="still: Q has the same value everywhere"):
        theorem1(runs, samples=200, permutations=20, out=tmp_path / "theorem1.png")
    comparison = drawn(tmp_path / "theorem1.png")
    assert [line["method"] for line in comparison] == ["alda", "sac"]
    single = json.loads((trained("sac") / "analysis" / "theorem1.json").read_text())
    assert len(single["latents"]["t1"]["largest"]) == 8
    assert single["premise"]["delta_q"] == pytest.approx(comparison[1]["delta_q"], rel=1e-3)


@pytest.mark.parametrize(
    ("method", "analysis", "options", "words"),
    [
        ("alda", traversal, {"states": 2, "shown": 3}, "--shown"),
        ("alda", association, {"shift": "nonesuch"}, "unknown shift"),
        ("alda", association, {"out": Path("picture.jpg")}, ".png"),
    ],
)
def test_what_cannot_be_analyzed_is_refused_with_a_sentence(trained, method, analysis, options, words):
    with pytest.raises(UserError, match=words):
        analysis(trained(method), **options)


@pytest.mark.parametrize(("method", "lacks"), [("repo", "latents"), ("sac", "decoder")])
def test_a_method_without_latents_or_a_decoder_says_so(method, lacks):
    agent = make_agent(method)
    with pytest.raises(UserError, match=f"{method} has no {lacks}"):
        require_decoder(Policy(agent, Config(agent=agent.config), SPEC, 0))
