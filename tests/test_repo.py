"""RePo and its world model against torch.distributions, tables and loops over steps."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from conftest import SPEC
from tiny import tiny_agent, tiny_replay
from torch import nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution
from torch.distributions import kl_divergence as true_kl

from alda.agents.repo import RePo, RePoConfig, balanced_kl, lambda_returns, masked_error
from alda.errors import UserError
from alda.nets.distributions import SquashedNormal
from alda.nets.rssm import RSSM, Belief, Gaussian, kl_divergence
from alda.types import EnvSpec, Sequence

make = partial(tiny_agent, "repo")


@pytest.fixture
def _noiseless(monkeypatch):
    """Gaussians give their means."""
    monkeypatch.setattr(torch.Tensor, "normal_", torch.Tensor.zero_)
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)


def some_belief(agent, *shape):
    return Belief(torch.randn(*shape, agent.config.deter_dim), torch.randn(*shape, agent.config.stoch_dim))


def some_sequences(batch=3, length=4):
    g = torch.Generator().manual_seed(2)
    frame = torch.randint(256, (batch, length, 3, 64, 64), dtype=torch.uint8, generator=g)
    action = torch.rand(batch, length, 2, generator=g) * 2 - 1
    never = torch.zeros(batch, length, dtype=torch.bool)
    return Sequence(frame, action, torch.rand(batch, length, generator=g), never, never.clone())


def some_gaussian(*shape):
    return Gaussian(torch.randn(shape, requires_grad=True), torch.rand(shape).add(0.1).requires_grad_())


def test_parameters_are_as_many_as_published():
    agent = RePo(RePoConfig(), EnvSpec(frames=3, image_size=64, action_dim=6))
    gru, hidden = 3 * 200 * (200 + 200) + 2 * 3 * 200, 200 * 200 + 200
    probe = ((1024, 128, 5), (128, 64, 5), (64, 32, 6), (32, 3, 6))
    expected = {
        "encoder": sum(i * o * 16 + o for i, o in ((3, 32), (32, 64), (64, 128), (128, 256))),
        "rssm": (30 + 6 + 1) * 200 + gru + hidden + (200 + 1024 + 1) * 200 + 2 * (201 * 60),
        "reward": 231 * 200 + 2 * hidden + 201,
        "value": 231 * 200 + 2 * hidden + 201,
        "actor": 231 * 200 + 3 * hidden + 201 * 12,
        "probe": 231 * 1024 + sum(i * o * k * k + o for i, o, k in probe),
    }
    for name, count in expected.items():
        assert sum(p.numel() for p in agent.get_submodule(name).parameters()) == count, name
    image = torch.rand(2, 3, 64, 64)
    assert agent.encoder(image).shape == (2, 1024)
    assert agent.probe(torch.rand(2, 230)).shape == image.shape


def test_the_divergence_is_that_of_normal_distributions_and_moves_the_prior_five_times_as_much():
    posterior, prior = some_gaussian(4, 3, 5), some_gaussian(4, 3, 5)
    truth = true_kl(Normal(*posterior), Normal(*prior)).sum(-1)
    torch.testing.assert_close(kl_divergence(posterior, prior), truth)
    balanced, everything = balanced_kl(posterior, prior, 5), [*posterior, *prior]
    assert balanced.item() == pytest.approx(truth.mean().item(), rel=1e-5)
    of_posterior_mean, of_posterior_std, *of_prior = torch.autograd.grad(truth.mean(), everything)
    expected = [of_posterior_mean / 6, of_posterior_std / 6, *(5 / 6 * gradient for gradient in of_prior)]
    for got, wanted in zip(torch.autograd.grad(balanced, everything), expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_reward_loss_leaves_out_what_led_to_a_first_frame():
    predicted, reward, first = torch.randn(3, 4), torch.randn(3, 4), torch.zeros(3, 4, dtype=torch.bool)
    first[0, 2] = first[2, 0] = True
    log_prob = Normal(predicted, 1.0).log_prob(reward) + 0.5 * math.log(2 * math.pi)
    total = -sum(log_prob[b, t].item() for b in range(3) for t in range(4) if not first[b, t])
    assert masked_error(predicted, reward, first).item() == pytest.approx(total / 12, rel=1e-5)


def test_lambda_returns_equal_a_table_and_are_mixtures_of_returns_over_n_steps():
    reward, next_value = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[4.0], [6.0], [8.0]])
    for mix, table in ((0.5, [3.3125, 5.25, 7.0]), (0.0, [3.0, 5.0, 7.0]), (1.0, [3.75, 5.5, 7.0])):
        assert lambda_returns(reward, next_value, 0.5, mix).flatten().tolist() == table
    reward, value, discount, mix = torch.rand(5, 2), torch.rand(5, 2), 0.9, 0.8
    for t in range(5):

        def over(n, t=t):
            return sum(discount**k * reward[t + k] for k in range(n)) + discount**n * value[t + n - 1]

        shorter = sum((1 - mix) * mix ** (n - 1) * over(n) for n in range(1, 5 - t))
        expected = shorter + mix ** (4 - t) * over(5 - t)
        torch.testing.assert_close(lambda_returns(reward, value, discount, mix)[t], expected)


def small_rssm():
    torch.manual_seed(0)
    return RSSM(action_dim=2, embed_dim=5, deter_dim=4, stoch_dim=3, hidden_dim=6)


def test_the_posterior_is_one_layer_on_memory_and_embedding():
    rssm, deter, embed = small_rssm(), torch.randn(7, 4), torch.randn(7, 5)
    joint = nn.Linear(9, 6)
    parts = [rssm.from_deter.weight, rssm.from_embed.weight]
    joint.load_state_dict({"weight": torch.cat(parts, 1), "bias": rssm.from_embed.bias})
    mean, std = rssm.posterior_net[1](F.elu(joint(torch.cat([deter, embed], 1)))).chunk(2, -1)
    posterior = rssm.posterior(deter, rssm.from_embed(embed))
    torch.testing.assert_close(posterior.mean, mean)
    torch.testing.assert_close(posterior.std, (1 + std.exp()).log() + 0.1)
    wide = RSSM(2, 1000, 24, 3, 50)
    for parameter in (wide.from_deter.weight, wide.from_embed.weight, wide.from_embed.bias):
        assert 0.8 / 32 < parameter.abs().max() <= 1 / 32  # as a layer of 1,024 inputs begins


def test_a_prior_knows_of_earlier_frames_only_and_states_are_samples_of_their_posteriors():
    rssm, embed, action = small_rssm(), torch.randn(500, 4, 5), torch.randn(500, 4, 2)
    first, other, seen = torch.zeros(500, 4, dtype=torch.bool), embed.clone(), []
    other[:, 2] += 1
    for e in (embed, other):
        torch.manual_seed(1)
        seen.append(rssm.observe(e, action, first))
    (belief, prior, posterior), (_, other_prior, other_posterior) = seen
    pairs = ((prior.mean, other_prior.mean), (posterior.mean, other_posterior.mean))
    changed = [[not torch.equal(a[:, t], b[:, t]) for t in range(4)] for a, b in pairs]
    assert changed == [[False] * 3 + [True], [False] * 2 + [True] * 2]
    noise = (belief.stoch - posterior.mean) / posterior.std
    assert noise.mean((0, 1)).abs().max() < 0.1
    assert (noise.std((0, 1)) - 1).abs().max() < 0.1
    assert torch.corrcoef(noise.flatten(1).T).triu(1).abs().max() < 0.25  # between steps and numbers


@pytest.mark.usefixtures("_noiseless")
def test_where_an_episode_begins_nothing_from_before_is_known():
    rssm, embed, action = small_rssm(), torch.randn(2, 7, 5), torch.randn(2, 7, 2)
    first = torch.zeros(2, 7, dtype=torch.bool)
    first[0, 3] = True
    together = rssm.observe(embed, action, first)
    alone = torch.zeros(1, 4, dtype=torch.bool)
    before = rssm.observe(embed[:1, :3], action[:1, :3], alone[:, :3])
    action[0, 3] = 0  # nothing led there
    after = rssm.observe(embed[:1, 3:], action[:1, 3:], alone)
    other = rssm.observe(embed[1:], action[1:], first[1:])
    for whole, *pieces, untouched in zip(together, before, after, other, strict=True):
        for part in range(2):
            expected = torch.cat([piece[part] for piece in pieces], 1)
            torch.testing.assert_close(whole[part][:1], expected)
            torch.testing.assert_close(whole[part][1:], untouched[part])


@pytest.mark.usefixtures("_noiseless")
def test_acting_and_the_probe_follow_the_same_beliefs_as_learning():
    agent, batch = make(), some_sequences(1)
    batch.first[:, 0] = True
    image = batch.frame[0].float() / 127.5 - 1
    belief, _, _ = agent.rssm.observe(agent.encoder(image)[None], batch.action, batch.first)
    state, seen = agent.initial_state(1), []
    for t in range(4):
        obs = torch.randint(256, (1, 3, 3, 64, 64), dtype=torch.uint8)
        obs[:, -1] = batch.frame[:, t]  # older frames do not matter
        seen.append(obs)
        taken = state if t == 0 else {**state, "action": batch.action[:, t]}
        action, state = agent.act(obs, taken, explore=False)
        torch.testing.assert_close(state["deter"], belief.deter[:, t])
        torch.testing.assert_close(state["stoch"], belief.stoch[:, t])
        assert torch.equal(state["action"], action)
    obs, state = torch.cat(seen), agent.initial_state(1)
    drawn = agent.reconstruct(obs)
    for t in range(4):
        _, state = agent.act(obs[t : t + 1], state, explore=False)
        image = agent.probe(torch.cat([state["deter"], state["stoch"]], dim=-1))[0]  # in [-1, 1]
        assert (drawn[t] - 127.5 * (image.clamp(-1, 1) + 1)).abs().max() <= 0.51
    mse = ((drawn.double() - obs[:, -1].double()) / 255).square().mean()
    assert agent.diagnose(obs)["psnr"].item() == pytest.approx(-10 * mse.log10().item(), rel=1e-4)


def test_without_exploring_the_likeliest_of_a_hundred_fixed_actions_is_taken():
    agent, policy = make(), SquashedNormal(torch.randn(4, 2), torch.randn(4, 2) / 2)
    chosen = agent.likeliest(policy)
    assert agent.draws.shape == (100, 1, 2)
    for b in range(4):
        truth = TransformedDistribution(Normal(policy.mean[b], policy.log_std[b].exp()), TanhTransform())
        actions = (policy.mean[b] + policy.log_std[b].exp() * agent.draws[:, 0]).tanh()
        best = max(actions, key=lambda a: truth.log_prob(a).sum().item())
        torch.testing.assert_close(chosen[b], best)
    following = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        assert torch.equal(RePo(agent.config, SPEC).draws, agent.draws)
        following.append(torch.rand(()))
    assert not torch.equal(*following)
    assert 0.8 < agent.draws.std().item() < 1.2


def test_the_policy_is_bounded_as_published_and_its_entropy_is_after_the_tanh():
    agent = make(entropy_samples=4000)
    belief = some_belief(agent, 2, 3)
    mean, std = agent.actor(torch.cat(belief, -1)).chunk(2, -1)
    policy = agent.policy(belief)
    torch.testing.assert_close(policy.mean, 5 * torch.tanh(mean / 5))
    torch.testing.assert_close(policy.log_std.exp(), (1 + std.exp()).log() + 0.1)
    z = torch.linspace(-8, 8, 4001)[:, None, None, None]  # H = -integral of N(z) log pi(tanh(mean + std z))
    squashed = (1 - (policy.mean + policy.log_std.exp() * z).double().tanh().square()).log().float()
    density = Normal(0.0, 1.0).log_prob(z)
    marginals = (density.exp() * (density - policy.log_std - squashed)).sum(0) * (16 / 4000)
    assert agent.entropy(belief).item() == pytest.approx(-marginals.sum(-1).mean().item(), abs=0.05)


@pytest.mark.parametrize(("target_kl", "direction"), [(0.0, 1), (1e3, -1)])
def test_the_multiplier_rises_while_the_divergence_is_above_its_target(target_kl, direction):
    agent = make(target_kl=target_kl)
    assert agent.log_multiplier.item() == pytest.approx(math.log(1e-5))
    agent.update_model(some_sequences())
    assert agent.log_multiplier.item() - math.log(1e-5) == pytest.approx(direction * 1e-4, rel=0.02)  # one Adam step


@pytest.mark.parametrize("stride", [1, 4])
def test_model_losses_are_their_equations(stride):
    agent, batch = make(initial_multiplier=0.5, probe_stride=stride), some_sequences()
    batch.first[1, 2] = True
    frame, action = batch.frame[:, 1:].float() / 127.5 - 1, batch.action[:, 1:]
    torch.manual_seed(1)
    with torch.no_grad():
        embed = agent.encoder(frame.flatten(0, 1)).unflatten(0, (3, 3))
        belief, prior, posterior = agent.rssm.observe(embed, action, batch.first[:, 1:])
        reward = agent.reward(belief.features)[..., 0]
        error = (agent.probe(belief.features.flatten(0, 1)) - frame.flatten(0, 1)).square()
        error = torch.stack([error[i] for i in range(0, 9, stride)])
    kl = true_kl(Normal(*posterior), Normal(*prior)).sum(-1).mean()
    reward_loss = masked_error(reward, batch.reward[:, 1:], batch.first[:, 1:])
    torch.manual_seed(1)
    used, metrics = agent.update_model(batch)
    expected = {
        "model/loss": reward_loss + 0.5 * (kl - 3),
        "model/reward_loss": reward_loss,
        "model/kl": kl,
        "probe/loss": sum(image.sum() / 2 for image in error) / len(error),
        "probe/psnr": 10 * (1 / ((error / 4).mean())).log10(),
    }
    for name, value in expected.items():
        assert metrics[name].item() == pytest.approx(value.item(), rel=1e-4), name
    torch.testing.assert_close(used.features, belief.features)
    assert not used.features.requires_grad


def test_behaviour_losses_are_their_equations():
    agent = make(horizon=5, entropy_coef=0.1)
    c, start = agent.config, some_belief(agent, 3)
    torch.manual_seed(1)
    with torch.no_grad():
        belief, states = start, []
        for _ in range(4):
            action = agent.policy(belief).rsample()[0]
            deter = agent.rssm.gru(agent.rssm.mix(torch.cat([belief.stoch, action], 1)), belief.deter)
            mean, std = agent.rssm.prior_net(deter).chunk(2, -1)
            belief = Belief(deter, mean + (F.softplus(std) + 0.1) * torch.randn_like(mean))
            states.append(belief)
        entropy = agent.entropy(Belief(*map(torch.stack, zip(*states, strict=True))))
        reward, value = ([net(s.features)[:, 0] for s in states] for net in (agent.reward, agent.value))

    def returns(t):
        if t == 3:
            return value[3]
        return reward[t] + c.discount * ((1 - 0.95) * value[t + 1] + 0.95 * returns(t + 1))

    gains = torch.stack([returns(t) for t in range(3)])
    errors = gains - torch.stack(value[:3])
    torch.manual_seed(1)
    metrics = agent.update_behaviour(start)
    expected = {
        "actor/loss": -gains.mean() - 0.1 * entropy,
        "actor/entropy": entropy,
        "actor/return": gains.mean(),
        "actor/reward": torch.stack(reward[:3]).mean(),
        "value/loss": errors.square().mean() / 2,
        "value/mean": torch.stack(value[:3]).mean(),
    }
    assert metrics.keys() == expected.keys()
    for name, number in expected.items():
        assert metrics[name].item() == pytest.approx(number.item(), rel=1e-4), name


@pytest.mark.usefixtures("_float64", "_noiseless")
def test_the_actor_learns_through_the_model_and_not_through_what_it_reads(monkeypatch):
    """Against differences of imagined returns in which the policy reads what it read before."""
    agent = make(entropy_coef=0.0, horizon=4)
    start, weight, read, losses = some_belief(agent, 3), agent.actor[-1].weight, [], []
    policy = agent.policy
    monkeypatch.setattr(agent, "descend", lambda *names, loss, max_norm: losses.append(loss))
    monkeypatch.setattr(agent, "policy", lambda belief: (read.append(belief.detach()), policy(belief))[1])
    agent.update_behaviour(start)
    (gradient,) = torch.autograd.grad(losses[0], [weight])
    for place in ((0, 0), (0, 3), (1, 7)):
        around = []
        for change in (1e-5, -1e-5):
            again = iter(read)
            monkeypatch.setattr(agent, "policy", lambda _, again=again: policy(next(again)))
            with torch.no_grad():
                weight[place] += change
                agent.update_behaviour(start)
                weight[place] -= change
            around.append(losses[-2].item())
        assert gradient[place].item() == pytest.approx((around[0] - around[1]) / 2e-5, rel=1e-4)
        assert gradient[place].abs() > 1e-9


def test_the_pictures_scale_down_the_model_only_where_both_share_a_bound():
    def gradients(**config):
        agent = make(**config)
        torch.manual_seed(1)
        agent.update_model(some_sequences())
        both = (agent.optimizers[name].param_groups[0]["params"] for name in ("model", "probe"))
        return [torch.cat([p.grad.flatten() for p in part]) for part in both]

    model, probe = gradients(max_norm=1e9)
    assert probe.norm() > 100 * model.norm()
    bound = 0.1 * model.norm().item()
    apart = gradients(max_norm=bound)
    for clipped, free in zip(apart, (model, probe), strict=True):
        torch.testing.assert_close(clipped, free * bound / free.norm(), rtol=1e-3, atol=1e-6)
    together = gradients(max_norm=bound, joint_clip=True)
    norm = torch.cat([model, probe]).norm()
    for clipped, free in zip(together, (model, probe), strict=True):
        torch.testing.assert_close(clipped, free * bound / norm, rtol=1e-3, atol=1e-6)


def test_learning_comes_in_rounds_and_goes_on_across_short_episodes():
    agent = make(random_steps=5_000, update_every=500, updates_each_time=100)
    due = {step: agent.updates_due(step) for step in range(6_001)}
    assert {step: n for step, n in due.items() if n} == {5_000: 100, 5_500: 100, 6_000: 100}
    steady = RePo(RePoConfig().steady(), SPEC)
    spread = [steady.updates_due(step) for step in range(500)]
    assert set(spread) == {0, 1}
    assert sum(spread[2:]) == 99  # every fifth step but the first, which is random
    replay = tiny_replay("repo", steps=20, length=2)
    assert all(value.isfinite() for value in agent.update(replay, 0).values())


@pytest.mark.parametrize(
    "setting",
    [{"max_norm": 0.0}, {"initial_multiplier": 0.0}, {"return_lambda": 2.0}, {"horizon": 2}, {"sequence_length": 1}],
)
def test_what_does_not_fit_is_refused(setting):
    with pytest.raises(UserError, match="RePo needs"):
        make(**setting)
    with pytest.raises(UserError, match="64x64"):
        RePo(RePoConfig(), EnvSpec(frames=3, image_size=84, action_dim=2))
