"""The same promises on a GPU; skipped where there is none."""

import dataclasses

import pytest
import torch
from conftest import METHODS, SPEC, STORED, config_for, fill, filled, make_agent, records

from alda.agents import AGENTS
from alda.agents.sac import SAC
from alda.training.checkpoint import load_weights
from alda.training.replay import Replay
from alda.training.trainer import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("replay_device", ["cpu", "cuda"])
@pytest.mark.parametrize("speed", ["plain", "fast"])
def test_updates_are_finite_and_never_wait_for_the_device(name, replay_device, speed):
    replay = filled(replay_device, "cuda")
    agent = make_agent(name, speed, device="cuda")
    for step in range(10 * len(agent.hot)):  # the first calls warm up and are captured
        agent.update(replay, step)
    if replay_device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        metrics = [agent.update(replay, step) for step in range(4)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(value.isfinite() for row in metrics for value in row.values())


@pytest.mark.parametrize("name", METHODS)
def test_graphs_learn_and_act_as_eager_calls_do(name):
    results = []
    for captured in (False, True):
        replay = filled("cuda")
        agent = make_agent(name, "fast", device="cuda")
        for method in () if captured else (*agent.hot, "act"):
            setattr(agent, method, getattr(agent, method).method)
        torch.manual_seed(1)
        obs, state = replay.sample(2).obs, agent.initial_state(2)
        results.append([])
        for step in range(12 * len(agent.hot)):
            metrics = agent.update(replay, step)
            action, state = agent.act(obs, state, explore=True)
            results[-1].append({**metrics, "action": action.mean()})
    for eager, graph in zip(*results, strict=True):
        for key, value in eager.items():
            assert graph[key].item() == pytest.approx(value.item(), rel=0.02, abs=0.01), key


@pytest.mark.parametrize("name", [name for name, (_, agent) in AGENTS.items() if issubclass(agent, SAC)])
def test_features_of_a_batch_equal_those_of_the_cpu(name):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    batch, results = fill(Replay(SPEC, 100, 0.99)).sample(4), []
    for device in ("cpu", "cuda"):
        agent = make_agent(name, device=device)
        moved = type(batch)(*(field.to(device) for field in batch))
        features = agent.representation.encode_transition(moved)
        results.append(agent.update_representation(moved, features) if name == "alda" else {})
        results[-1]["features"] = features.obs.detach().mean()
    for key, value in results[0].items():
        assert results[1][key].item() == pytest.approx(value.item(), rel=1e-3, abs=1e-3), key


@pytest.mark.parametrize("replay_device", ["cpu", "cuda"])
@pytest.mark.parametrize("method", ["alda", "repo", *STORED])
def test_a_run_trains_and_resumes(tmp_path, replay_device, method):
    config = config_for(tmp_path / "run", method, steps=20, device="cuda", replay_device=replay_device, eval_workers=2)
    train(config)
    train(dataclasses.replace(config, steps=31))
    assert [row["step"] for row in records(tmp_path / "run") if "eval/train/return" in row] == [0, 10, 20, 30, 31]
    agent = make_agent(method, spec=dataclasses.replace(SPEC, action_dim=1))
    assert load_weights(tmp_path / "run", agent) == 31
