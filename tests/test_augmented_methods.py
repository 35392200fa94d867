"""DrQ, SVEA and SADA: which images each loss sees, and what it makes of them."""

import pytest
import torch
import torch.nn.functional as F
from conftest import fill, small_config
from PIL import Image
from tiny import CONVS, spec_of, tiny_agent, tiny_replay

from alda import agents
from alda.agents import drq
from alda.agents.sada import SADA, SADAConfig
from alda.envs.backgrounds.data import Data
from alda.errors import UserError
from alda.nets.representation import to_float
from alda.training.replay import Replay
from alda.types import EnvSpec, Transition


@pytest.fixture
def replay():
    return tiny_replay("drq")


def gradients(agent, loss):
    parameters = [*agent.representation.parameters(), *agent.critic.parameters()]
    return torch.autograd.grad(loss, parameters, retain_graph=True)


def close(got, truth):
    torch.testing.assert_close(got, truth, rtol=1e-4, atol=1e-5)


def test_obs_and_next_obs_are_shifted_on_their_own_in_every_copy():
    torch.manual_seed(0)
    place = torch.arange(16, dtype=torch.uint8).expand(120, 3, 3, 16, 16).contiguous()  # every pixel its column
    numbers = torch.arange(120.0)
    batch = Transition(place, numbers[:, None].expand(120, 2), numbers, numbers, place)
    augmented = tiny_agent("drq", num_shifts=2).augment(batch)
    for x in (augmented.action[:, 0], augmented.reward, augmented.discount):
        assert torch.equal(x, numbers.repeat(2))
    offsets = []
    for images in (augmented.obs, augmented.next_obs):
        assert (images == images[:, :1, :1]).all()  # all frames alike
        offsets += list((images[:, 0, 0, 8, 8].double() - 8).chunk(2))
    for offset in offsets:
        assert set(offset.tolist()) == set(range(-4, 5))
    assert torch.stack(offsets).corrcoef().fill_diagonal_(0).abs().max() < 0.3


def test_without_shifts_drq_is_sac(monkeypatch, replay):
    monkeypatch.setattr(drq, "random_shift", lambda obs, pad: obs)
    results = []
    for name in ("sac", "drq"):
        agent = tiny_agent(name)
        torch.manual_seed(1)
        results.append([agent.update(replay, step) for step in range(3)] + [agent.state_dict()])
    for sac, other in zip(*results, strict=True):
        assert sac.keys() == other.keys()
        for key in sac:
            assert torch.equal(sac[key], other[key]), key


def test_targets_and_losses_of_two_copies_equal_a_loop(replay):
    agent = tiny_agent("drq", num_shifts=2)
    batch = agent.augment(replay.sample(3))
    features = agent.representation.encode_transition(batch)
    torch.manual_seed(3)
    target = agent.td_target(batch, features.next_obs)
    torch.manual_seed(3)
    loss, _ = agent.critic_loss(batch, features.obs, target)
    action, log_prob = agent.actor(agent.representation(batch.next_obs)).rsample()
    truth = torch.zeros(())
    for i in range(3):
        values = []
        for row in (i, 3 + i):
            next_obs = agent.target_representation(batch.next_obs[row : row + 1])
            q = agent.target_critic(next_obs, action[row : row + 1])[:, 0]
            values.append(batch.reward[i] + 0.99 * (torch.min(q[0], q[1]) - agent.temperature * log_prob[row]))
        y = (values[0] + values[1]) / 2
        for row in (i, 3 + i):
            close(target[row], y.detach())
            q = agent.critic(agent.representation(batch.obs[row : row + 1]), batch.action[row : row + 1])[:, 0]
            truth = truth + ((q[0] - y.detach()) ** 2 + (q[1] - y.detach()) ** 2) / 6
    close(loss, truth)
    for got, expected in zip(gradients(agent, loss), gradients(agent, truth), strict=True):
        close(got, expected)


@pytest.mark.parametrize("augmentation", ["overlay", "conv", "mix", "none"])
def test_the_weighted_losses_are_the_loss_on_both_halves_at_once(augmentation, replay):
    """As released: one batch of clean and strong images, mean over all of it."""
    agent = tiny_agent("svea", augmentation=augmentation, batch_size=6)
    batch, target = agent.augment(replay.sample(6)), torch.randn(6)
    torch.manual_seed(5)
    loss, metrics = agent.critic_loss(batch, agent.representation(batch.obs), target)
    torch.manual_seed(5)
    both = torch.cat([batch.obs, agent.strongly_augmented(batch.obs)])
    q1, q2 = agent.critic(agent.representation(both), batch.action.repeat(2, 1))
    truth = F.mse_loss(q1, target.repeat(2)) + F.mse_loss(q2, target.repeat(2))
    close(loss, truth)
    for got, expected in zip(gradients(agent, loss), gradients(agent, truth), strict=True):
        close(got, expected)
    halves = [((q1[h] - target) ** 2).mean() + ((q2[h] - target) ** 2).mean() for h in (slice(6), slice(6, 12))]
    close(torch.stack([metrics["critic/clean_loss"], metrics["critic/strong_loss"]]), torch.stack(halves).detach())
    assert torch.equal(metrics["critic/clean_loss"], metrics["critic/strong_loss"]) == (augmentation == "none")
    weighted = tiny_agent("svea", alpha_coef=0.7, beta_coef=0.2, augmentation=augmentation, batch_size=6)
    metrics = weighted.update(replay, 0)
    close(metrics["critic/loss"], 0.7 * metrics["critic/clean_loss"] + 0.2 * metrics["critic/strong_loss"])


@pytest.mark.parametrize("name", ["svea", "sada"])
def test_targets_and_clean_losses_do_not_depend_on_the_strong_augmentation(name, replay):
    results = []
    for augmentation in ("overlay", "conv", "none"):
        agent = tiny_agent(name, augmentation=augmentation)
        torch.manual_seed(1)
        results.append(agent.update(replay, 1))
    for key in ("critic/target", "critic/q", "critic/clean_loss"):
        assert len({metrics[key].item() for metrics in results}) == 1
    assert len({metrics["critic/strong_loss"].item() for metrics in results}) == 3


@pytest.mark.parametrize("name", ["drq", "svea"])
def test_the_actor_sees_the_first_shifted_copy_alone(name, monkeypatch, replay):
    agent = tiny_agent(name, num_shifts=2)
    batch, seen = agent.augment(replay.sample(4)), []
    features = agent.representation(batch.obs[:4]).detach()
    monkeypatch.setattr(agent, "strongly_augmented", None, raising=False)  # nobody may ask for one
    monkeypatch.setattr(agent, "actor_step", lambda *inputs: seen.extend(inputs) or {})
    agent.update_actor(batch)
    assert len(seen) == 2
    assert all(torch.equal(x, features) for x in seen)


def test_sadas_actor_sees_both_kinds_of_images_and_is_judged_on_clean_ones(replay):
    agent, batch = tiny_agent("sada"), replay.sample(4)
    with torch.no_grad():
        clean, strong = agent.representation(batch.obs), agent.representation(batch.obs.flip(-1))
    torch.manual_seed(4)
    action, log_prob = agent.actor(torch.cat([clean, strong])).rsample()
    truth, entropy = torch.zeros(()), torch.zeros(())
    for row in range(8):
        i = row % 4
        q1, q2 = agent.critic(clean[i : i + 1], action[row : row + 1])[:, 0]
        truth = truth + (agent.temperature * log_prob[row] - torch.min(q1, q2)).detach() / 8
        entropy = entropy - log_prob[row].detach() / 8
    temperature_loss = (agent.temperature * (entropy + 2)).detach()  # two actions
    torch.manual_seed(4)
    metrics = agent.actor_step(torch.cat([clean, strong]), torch.cat([clean, clean]))
    close(metrics["actor/loss"], truth)
    close(metrics["actor/entropy"], entropy)
    close(metrics["temperature/loss"], temperature_loss)


@pytest.mark.parametrize("num_shifts", [1, 2])
def test_sadas_actor_reads_the_features_that_the_critic_learned_from(monkeypatch, num_shifts, replay):
    agent = tiny_agent("sada", num_shifts=num_shifts)
    batch, seen = agent.augment(replay.sample(6)), []
    monkeypatch.setattr(agent, "augment", lambda batch: batch)
    monkeypatch.setattr(agent, "strongly_augmented", lambda obs: obs.flip(-1))
    clean, strong = agent.representation(batch.obs[:6]).detach(), agent.representation(batch.obs[:6].flip(-1)).detach()
    monkeypatch.setattr(agent, "actor_step", lambda *inputs: seen.extend(inputs) or {})
    agent.learn(batch, actor=True, targets=False)
    close(seen[0], torch.cat([clean, strong]))
    close(seen[1], torch.cat([clean, clean]))
    assert not any(x.requires_grad for x in seen)


def test_sadas_targets_read_the_online_encoder_and_follow_at_one_percent_in_every_step(replay):
    agent, batch = tiny_agent("sada"), replay.sample(4)
    torch.nn.init.normal_(agent.target_critic.q[0][-1].weight)
    next_features = agent.representation(batch.next_obs).detach()
    torch.manual_seed(3)
    target = agent.td_target(batch, next_features)
    torch.manual_seed(3)
    action, log_prob = agent.actor(next_features).rsample()
    q = agent.target_critic(next_features, action)
    for i in range(4):
        truth = batch.reward[i] + 0.99 * (min(q[0, i], q[1, i]) - agent.temperature * log_prob[i])
        close(target[i], truth.detach())
    assert not any(key.startswith("target_representation") for key in agent.state_dict())
    for step in (2, 4):
        before = {k: v.clone() for k, v in agent.state_dict().items()}
        agent.update(replay, step)
        after = agent.state_dict()
        for name, _ in agent.critic.named_parameters():
            expected = 0.99 * before[f"target_critic.{name}"] + 0.01 * after[f"critic.{name}"]
            torch.testing.assert_close(after[f"target_critic.{name}"], expected, rtol=0, atol=1e-7)
        assert not torch.equal(after["log_temperature"], before["log_temperature"])


def test_sada_learns_every_second_step_and_catches_up_at_that_rate():
    agent = tiny_agent("sada", random_steps=1_000)
    due = [agent.updates_due(step) for step in range(1_010)]
    assert due == [0] * 1_000 + [500, 0, 1, 0, 1, 0, 1, 0, 1, 0]
    other = tiny_agent("sada", random_steps=4, update_every=3)
    assert [other.updates_due(step) for step in range(10)] == [0, 0, 0, 0, 1, 0, 1, 0, 0, 1]


def test_sada_begins_as_published():
    spec = EnvSpec(frames=3, image_size=64, action_dim=2)
    agent = SADA(SADAConfig(), spec)
    convs = [m for m in agent.representation.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [conv.weight.shape[:2] for conv in convs] == [(32, 9), *[(32, 32)] * 3]
    for conv in convs:
        flat = conv.weight.detach().flatten(1)
        close(flat @ flat.T, 2 * torch.eye(32))
    assert agent.actor.trunk[0].weight.shape == (50, 20_000)
    rates = {name: {group["lr"] for group in o.param_groups} for name, o in agent.optimizers.items()}
    assert rates == {"critic": {5e-4}, "actor": {5e-4}, "temperature": {5e-4}}
    assert agent.optimizers["temperature"].param_groups[0]["betas"] == (0.9, 0.999)
    obs = fill(Replay(spec, 30, 0.99), steps=9).sample(2).obs
    close(agent.representation(obs), agent.representation.net(to_float(obs.flatten(1, 2)) - 0.5))


def unprepared(name, **config):
    return agents.make_agent(small_config(name, **{**CONVS, "batch_size": 6, **config}), spec_of(name))


@pytest.mark.parametrize("name", ["svea", "sada"])
def test_an_agent_that_only_acts_has_no_overlays(name, replay):
    agent, trained = unprepared(name), tiny_agent(name)
    agent.load_state_dict(trained.state_dict())  # of a prepared one
    assert agent.act(replay.sample(1).obs, None, explore=False)[0].isfinite().all()
    assert agent.overlays is None
    with pytest.raises(UserError, match=r"call agent\.prepare\(data\) before learning"):
        agent.update(replay, 0)
    assert unprepared(name, augmentation="conv").update(replay, 0)["critic/strong_loss"].isfinite()


def test_preparing_says_where_the_overlays_come_from(tmp_path):
    assert tiny_agent("drq").prepare(Data()) == {}
    assert unprepared("svea", augmentation="conv").prepare(Data()) == {}
    agent, made_of = unprepared("sada"), {"images": 3, "size": 128}
    assert agent.prepare(Data()) == {"overlays": {"source": "procedural-v1 overlay", **made_of}}
    assert agent.overlays.shape == (3, 3, 128, 128)
    for i in range(4):
        Image.new("RGB", (40, 30), (60 * i, 0, 0)).save(tmp_path / f"{i}.jpg")
    record = unprepared("svea").prepare(Data(places=tmp_path, cache=tmp_path / "cache"))
    assert record == {"overlays": {"source": "places365", **made_of}}


@pytest.mark.parametrize(
    ("name", "config", "told"),
    [
        ("drq", {"pad": -1}, "pad must be from 0"),
        ("drq", {"num_shifts": 0}, "num-shifts must be at least 1"),
        ("sada", {"batch_size": 5}, "batch-size of at least 6"),
    ],
)
def test_settings_that_cannot_work_are_refused(name, config, told):
    with pytest.raises(UserError, match=told):
        tiny_agent(name, **config)
