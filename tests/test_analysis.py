"""The analyses of a single run, on numbers with known answers and on runs that were trained for a moment."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import SPEC, make_agent
from PIL import Image
from safetensors.torch import load_file, save_file

import alda
from alda.analysis.latents.association import View, analyze_association, compare, relative_distance, stored_range, usage
from alda.analysis.latents.information import analyze_disentanglement
from alda.analysis.latents.invariance import analyze_theorem1, judge, q_of_code
from alda.analysis.latents.look import rounded
from alda.analysis.latents.probes import probe
from alda.analysis.latents.samples import draw_samples, read_latents, still
from alda.analysis.latents.studio import CAMERA_REACH
from alda.analysis.latents.theorem import delta_q
from alda.analysis.latents.trajectory import analyze_trajectory, correlations
from alda.analysis.latents.traversal import analyze_traversal, effect_of, lead, localise, ranges
from alda.errors import UserError


def silent(words, steps):
    return lambda *_: None


def test_an_effect_is_the_sum_of_absolute_steps():
    led = torch.zeros(2, 3, 3, 2, 2)  # latents, values, channels, height, width
    led[0, 1, 0, 0, 0] = 0.6  # up and down again in one colour of one pixel
    led[1, :, :, 1, 1] = torch.tensor([0.0, 0.5, 1.0])[:, None]  # steadily up in all
    effect = effect_of(led)
    np.testing.assert_allclose(effect[0], [[0.4, 0], [0, 0]], atol=1e-7)
    np.testing.assert_allclose(effect[1], [[0, 0], [0, 1]], atol=1e-7)


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


def test_leading_a_latent_decodes_it_with_each_value(replay):
    agent, obs = make_agent("alda"), replay.sample(3).obs
    code, sweep = ranges(agent, obs, 4)
    led = lead(agent, code[2], sweep)
    changed = code[2].clone()
    changed[5] = sweep[5, 1]
    torch.testing.assert_close(led[5, 1], agent.decode(changed[None])[0].detach())
    assert led.shape == (12, 4, 3, 64, 64)


def test_correlations_are_pearsons():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)), rng.normal(size=(50, 2))
    y[:, 1] += x[:, 0]
    np.testing.assert_allclose(correlations(x, y), np.corrcoef(x.T, y.T)[:3, 3:])
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
    for r2 in (linear, nonlinear):
        assert r2[2] < 0.05


def test_distances_are_relative_to_those_between_states():
    here = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])  # 5, 0 and 5 apart
    there = here + torch.tensor([0.0, 2.0])
    assert relative_distance(here, there).item() == pytest.approx(2 / (10 / 3))
    assert relative_distance(here, here).item() == 0
    assert rounded(relative_distance(here * 0, there)) is None


def test_usage_counts_what_is_retrieved():
    nearest = torch.tensor([[0, 2], [0, 1], [1, 2], [0, 2]])
    np.testing.assert_array_equal(usage(nearest, 3), [[0.75, 0.25, 0], [0, 0.25, 0.75]])


@pytest.mark.parametrize("latent", ["associative", "quantized", "clamp", "fsq", "identity", "bio"])
def test_an_image_is_no_different_from_itself(replay, latent):
    agent, obs = make_agent("alda", latent=latent), replay.sample(5).obs
    view = View(agent, obs)
    numbers = compare(agent, view, View(agent, obs))
    assert numbers["distance"]["code"]["after"] == numbers["distance"]["features"]["before"] == numbers["q"] == 0
    quality = numbers["psnr"]["after"]
    assert quality["clean twin"] == quality["frame seen"]
    limited = latent in ("associative", "quantized", "clamp", "fsq")
    assert (stored_range(agent) is not None) == limited
    if limited:
        low, high = stored_range(agent)
        assert low.tolist() == [-1] * 12
        assert high.tolist() == [1] * 12
        assert numbers["outside"]["train"] == numbers["outside"]["shifted"]
    if latent == "associative":
        assert numbers["same_value"] == [1] * 12


def test_retrieval_brings_outliers_back_to_the_range(replay):
    agent, obs = make_agent("alda"), replay.sample(6).obs
    clean, shifted = View(agent, obs), View(agent, obs)
    with torch.no_grad():  # an encoder that saturates: 1.5 where it was beyond 1, far beyond in the other world
        clean.encoded = torch.full_like(clean.encoded, 1.5)
        clean.encoded[::2, 0] = -0.2
        shifted.encoded = clean.encoded + 2 * (clean.encoded > 1)
        for view in (clean, shifted):
            view.code = agent.representation.memory(view.encoded).policy
            view.nearest = agent.representation.memory.nearest(view.encoded)
    numbers = compare(agent, clean, shifted)
    assert numbers["distance"]["code"]["before"] > 1
    assert numbers["distance"]["code"]["after"] == 0
    assert numbers["outside"]["shifted"] == [0.5] + [1] * 11
    assert numbers["distance_by_latent"]["after"][1] is None  # which never changes
    assert numbers["distance_by_latent"]["before"][0] == pytest.approx(1 / (1.7 * 18 / 30), rel=1e-3)


@pytest.mark.parametrize("name", ["alda", "alda channels", "sac", "sac_ae", "darla"])
def test_q_of_a_code_is_q_of_frames_that_have_it(name, replay):
    method, *channels = name.split()
    agent = make_agent(method, **({"stack": "channels", "embed_dim": 12} if channels else {}))
    obs = replay.sample(4).obs[:, -1:].expand(-1, 3, -1, -1, -1)
    action = torch.rand(4, SPEC.action_dim)
    with torch.no_grad():
        code = agent.latents(obs).code
        expected = agent.critic(agent.representation(obs), action).amin(0)
        torch.testing.assert_close(q_of_code(agent, code, action, 3), expected, rtol=1e-4, atol=1e-5)


def test_the_premise_is_measured_on_the_same_action(trained):
    policy = alda.load(trained("sac"))
    rng = np.random.default_rng(0)
    frame, elsewhere = rng.integers(0, 256, (2, 6, 3, 44, 44), dtype=np.uint8)
    premise, sensitivity = judge(policy, frame, frame)
    assert premise == {"delta_q": 0, "delta_pi": 0}
    premise, _ = judge(policy, frame, elsewhere)
    agent = policy.agent
    with torch.no_grad():
        features, others = (agent.representation(still(part, policy)) for part in (frame, elsewhere))
        action = agent.actor(features).mode
        q, changed = (agent.critic(part, action).amin(0).double().numpy() for part in (features, others))
        assert premise["delta_q"] == pytest.approx(delta_q(q, changed), rel=1e-5)
        code = agent.latents(still(frame, policy)).code.double()
        agent.double()
        step = torch.zeros_like(code)
        step[:, 3] = 1e-6
        up, down = (q_of_code(agent, code + sign * step, action.double(), 3) for sign in (1, -1))
        slope = ((up - down) / 2e-6).abs().mean() * code[:, 3].std()
    assert sensitivity[3] == pytest.approx(slope.item(), rel=1e-3)


@pytest.mark.slow
def test_samples_have_independent_known_sources(trained):
    policy = alda.load(trained("alda"))
    kinds = ("colors", "camera")
    drawn, again = (draw_samples(policy, 20, nuisances=kinds, twice=10, seed=1, begin=silent) for _ in range(2))
    np.testing.assert_array_equal(drawn.frame, again.frame)
    assert drawn.joint_names == ("slider", "hinge_1")
    assert drawn.nuisance.shape == (20, 13) == (20, len(drawn.nuisance_names))
    assert all(len(np.unique(column)) == 20 for column in drawn.nuisance.T)
    assert (np.abs(drawn.nuisance[:, 9:]) <= CAMERA_REACH).all()
    assert len(np.unique(drawn.joints[:, 0])) == 20
    assert len(drawn.elsewhere) == 10
    assert (drawn.elsewhere != drawn.frame[:10]).mean() > 0.5
    visited = draw_samples(policy, 20, independent=False, seed=1, begin=silent)
    assert len(visited.frame) == len(np.unique(visited.joints, axis=0)) == 20  # of 16 episodes of 9 states
    assert read_latents(policy, drawn.frame).dtype == np.int64
    with pytest.raises(UserError, match="--nuisances are colors and camera"):
        draw_samples(policy, 40, nuisances=("colours",), begin=silent)


@pytest.mark.parametrize("method", ["alda", "sac_ae"])
def test_every_analysis_writes_a_picture_and_numbers(trained, tmp_path, method):
    run = trained(method)
    analyze_traversal(run, states=3, values=4, shown=2, out=tmp_path / "traversal.png")
    analyze_trajectory(run, episodes=3, out=tmp_path / "trajectory.png")
    analyze_association(run, episodes=2, states=3, out=tmp_path / "association.png")
    for name in ("traversal_0", "traversal_1", "trajectory", "association"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) > 200
            assert np.asarray(picture.convert("L")).std() > 10
    numbers = {
        name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("traversal", "trajectory", "association")
    }
    latents = 12 if method == "alda" else 8
    assert len(numbers["traversal"]["where"]) == latents
    assert numbers["trajectory"]["variables"] == [f"position {i}" for i in range(3)] + ["velocity 0", "velocity 1"]
    assert len(numbers["trajectory"]["pearson"]) == latents
    assert len(numbers["association"]["distance_by_latent"]["after"]) == latents
    assert numbers["association"]["pairs"] == 6
    for result in numbers.values():
        assert result["method"] == method
        assert result["step"] == 12


@pytest.mark.slow
def test_disentanglement_writes_a_picture_and_numbers(trained, tmp_path):
    analyze_disentanglement(trained("alda"), samples=200, out=tmp_path / "disentanglement.png")
    with Image.open(tmp_path / "disentanglement.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    scores = json.loads((tmp_path / "disentanglement.json").read_text())
    assert scores["independent"]["sources"][:3] == ["slider", "hinge_1", "floor red"]
    assert scores["visited"]["samples"] == 16 * 9  # all that were visited


@pytest.mark.slow
def test_runs_are_compared_by_theorem_1(trained, tmp_path):
    shutil.copytree(trained("alda"), tmp_path / "still")  # an agent whose Q is 0 everywhere
    (weights,) = (tmp_path / "still" / "checkpoints").glob("save_*/agent.safetensors")
    zeroed = {name: value * 0 if "critic" in name else value for name, value in load_file(weights).items()}
    save_file(zeroed, weights)
    runs = [trained("alda"), tmp_path / "still", trained("sac")]
    with pytest.raises(UserError, match="still: Q has the same value everywhere"):
        analyze_theorem1(runs, samples=200, permutations=20, out=tmp_path / "theorem1.png")
    with Image.open(tmp_path / "theorem1.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    comparison = json.loads((tmp_path / "theorem1.json").read_text())
    assert [line["method"] for line in comparison] == ["alda", "sac"]
    single = json.loads((trained("sac") / "analysis" / "theorem1.json").read_text())
    assert len(single["latents"]["t1"]["largest"]) == 8
    assert single["premise"]["delta_q"] == pytest.approx(comparison[1]["delta_q"], rel=1e-3)


@pytest.mark.parametrize(
    ("method", "analysis", "options", "words"),
    [
        ("sac", analyze_traversal, {}, "sac has no decoder"),
        ("alda", analyze_traversal, {"states": 2, "shown": 3}, "--shown"),
        ("alda", analyze_trajectory, {"episodes": 2}, "--episodes"),
        ("alda", analyze_association, {"shift": "nonesuch"}, "unknown shift"),
        ("alda", analyze_association, {"out": "picture.jpg"}, ".png"),
        ("alda", analyze_disentanglement, {"samples": 10}, "--samples"),
    ],
)
def test_what_cannot_be_analyzed_is_refused_with_a_sentence(trained, tmp_path, method, analysis, options, words):
    if "out" in options:
        options = {"out": tmp_path / options["out"]}
    with pytest.raises(UserError, match=words):
        analysis(trained(method), **options)


def test_a_method_without_latents_says_so():
    from alda.analysis.latents.look import require_latents
    from alda.config import Config
    from alda.policy import Policy

    policy = Policy(make_agent("repo"), Config(agent=make_agent("repo").config), SPEC, 0)
    with pytest.raises(UserError, match="repo has no latents"):
        require_latents(policy)
