import math

import pytest
import torch
import torch.nn.functional as F
from conftest import SPEC, fill
from conftest import make_agent as make
from torch import nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution
from torch.distributions import kl_divergence as true_kl

from alda.agents.repo import RePo, RePoConfig, balanced_kl, lambda_returns, masked_error
from alda.errors import UserError
from alda.nets.distributions import SquashedNormal
from alda.nets.rssm import RSSM, Belief, Gaussian, kl_divergence
from alda.training.replay import Replay
from alda.types import EnvSpec, Sequence

MODEL = {"encoder", "rssm", "reward"}


@pytest.fixture
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def _noiseless(monkeypatch):
    """Gaussians give their means."""
    monkeypatch.setattr(torch.Tensor, "normal_", torch.Tensor.zero_)
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)


def some_belief(agent, *shape):
    return Belief(torch.randn(*shape, agent.config.deter_dim), torch.randn(*shape, agent.config.stoch_dim))


def some_sequences(batch=3, length=6, seed=2):
    g = torch.Generator().manual_seed(seed)
    frame = torch.randint(256, (batch, length, 3, 64, 64), dtype=torch.uint8, generator=g)
    action = torch.rand(batch, length, 2, generator=g) * 2 - 1
    reward = torch.rand(batch, length, generator=g)
    never = torch.zeros(batch, length, dtype=torch.bool)
    return Sequence(frame, action, reward, never, never.clone())


def some_gaussian(*shape):
    return Gaussian(torch.randn(shape, requires_grad=True), torch.rand(shape).add(0.1).requires_grad_())


def test_parameters_are_as_many_as_published():
    agent = RePo(RePoConfig(), EnvSpec(frames=3, image_size=64, action_dim=6))
    gru, hidden = 3 * 200 * (200 + 200) + 2 * 3 * 200, 200 * 200 + 200
    expected = {
        "encoder": sum(i * o * 16 + o for i, o in ((3, 32), (32, 64), (64, 128), (128, 256))),
        "rssm": (30 + 6 + 1) * 200 + gru + hidden + (200 + 1024 + 1) * 200 + 2 * (201 * 60),
        "reward": 231 * 200 + 2 * hidden + 201,
        "value": 231 * 200 + 2 * hidden + 201,
        "actor": 231 * 200 + 3 * hidden + 201 * 12,
        "probe": 231 * 1024
        + sum(i * o * k * k + o for i, o, k in ((1024, 128, 5), (128, 64, 5), (64, 32, 6), (32, 3, 6))),
    }
    for name, count in expected.items():
        assert sum(p.numel() for p in agent.get_submodule(name).parameters()) == count, name
    image = torch.rand(2, 3, 64, 64)
    assert agent.encoder(image).shape == (2, 1024)
    assert agent.probe(torch.rand(2, 230)).shape == image.shape


def test_kl_divergence_is_that_of_the_normal_distributions():
    p, q = some_gaussian(4, 3, 5), some_gaussian(4, 3, 5)
    torch.testing.assert_close(kl_divergence(p, q), true_kl(Normal(*p), Normal(*q)).sum(-1))


def test_the_prior_moves_five_times_as_much_as_the_posterior():
    posterior, prior = some_gaussian(4, 3, 5), some_gaussian(4, 3, 5)
    everything = [*posterior, *prior]
    truth = true_kl(Normal(*posterior), Normal(*prior)).sum(-1).mean()
    of_posterior_mean, of_posterior_std, *of_prior = torch.autograd.grad(truth, everything)
    balanced = balanced_kl(posterior, prior, 5)
    assert balanced.item() == pytest.approx(truth.item(), rel=1e-5)
    expected = [of_posterior_mean / 6, of_posterior_std / 6, *(5 / 6 * gradient for gradient in of_prior)]
    for got, wanted in zip(torch.autograd.grad(balanced, everything), expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_reward_loss_leaves_out_what_led_to_a_first_frame():
    predicted, reward, first = torch.randn(3, 4), torch.randn(3, 4), torch.zeros(3, 4, dtype=torch.bool)
    first[0, 2] = first[2, 0] = True
    total = 0.0
    for b in range(3):
        for t in range(4):
            if not first[b, t]:
                log_prob = Normal(predicted[b, t], 1.0).log_prob(reward[b, t]).item()
                total += -log_prob - 0.5 * math.log(2 * math.pi)
    assert masked_error(predicted, reward, first).item() == pytest.approx(total / 12, rel=1e-5)


def test_lambda_returns_equal_a_table():
    reward, next_value = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[4.0], [6.0], [8.0]])

    def returns(discount, return_lambda):
        return lambda_returns(reward, next_value, discount, return_lambda).flatten().tolist()

    assert returns(0.5, 0.5) == [3.3125, 5.25, 7.0]
    assert returns(0.5, 0.0) == [3.0, 5.0, 7.0]  # r + gamma v
    assert returns(0.5, 1.0) == [1 + 0.5 * (2 + 0.5 * 7), 2 + 0.5 * 7, 7.0]  # all rewards, then v


def test_lambda_returns_are_mixtures_of_returns_over_n_steps():
    reward, value, discount, mix = torch.rand(5, 2), torch.rand(5, 2), 0.9, 0.8
    for t in range(5):

        def over(n, t=t):
            return sum(discount**k * reward[t + k] for k in range(n)) + discount**n * value[t + n - 1]

        longest = 5 - t
        expected = sum((1 - mix) * mix ** (n - 1) * over(n) for n in range(1, longest)) + mix ** (longest - 1) * over(
            longest
        )
        torch.testing.assert_close(lambda_returns(reward, value, discount, mix)[t], expected)


def small_rssm():
    torch.manual_seed(0)
    return RSSM(action_dim=2, embed_dim=5, deter_dim=4, stoch_dim=3, hidden_dim=6)


def test_the_memory_is_a_gated_recurrent_unit():
    rssm, belief, action = small_rssm(), Belief(torch.randn(7, 4), torch.randn(7, 3)), torch.randn(7, 2)
    mix, gru = rssm.mix[0], rssm.gru
    x = F.elu(torch.cat([belief.stoch, action], 1) @ mix.weight.T + mix.bias)
    from_x, from_h = x @ gru.weight_ih.T + gru.bias_ih, belief.deter @ gru.weight_hh.T + gru.bias_hh
    reset = torch.sigmoid(from_x[:, :4] + from_h[:, :4])
    update = torch.sigmoid(from_x[:, 4:8] + from_h[:, 4:8])
    new = torch.tanh(from_x[:, 8:] + reset * from_h[:, 8:])
    torch.testing.assert_close(rssm.advance(belief, action), (1 - update) * new + update * belief.deter)


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


def test_a_prior_knows_of_earlier_frames_only():
    rssm, embed, action = small_rssm(), torch.randn(2, 6, 5), torch.randn(2, 6, 2)
    first, other = torch.zeros(2, 6, dtype=torch.bool), embed.clone()
    other[:, 3] += 1
    seen = []
    for e in (embed, other):
        torch.manual_seed(1)
        _, prior, posterior = rssm.observe(e, action, first)
        seen.append((prior.mean, posterior.mean))
    (prior, posterior), (other_prior, other_posterior) = seen
    changed = [
        [not torch.equal(a[:, t], b[:, t]) for t in range(6)]
        for a, b in ((prior, other_prior), (posterior, other_posterior))
    ]
    assert changed == [[False] * 4 + [True] * 2, [False] * 3 + [True] * 3]


def test_states_are_samples_of_their_posteriors():
    rssm, first = small_rssm(), torch.zeros(500, 4, dtype=torch.bool)
    belief, _, posterior = rssm.observe(torch.randn(500, 4, 5), torch.randn(500, 4, 2), first)
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
def test_acting_follows_the_same_beliefs_as_learning():
    agent, batch = make("repo"), some_sequences()
    batch.first[:, 0] = True
    image = batch.frame.flatten(0, 1).float() / 127.5 - 1
    belief, _, _ = agent.rssm.observe(agent.encoder(image).unflatten(0, (3, 6)), batch.action, batch.first)
    state = agent.initial_state(3)
    for t in range(6):
        obs = torch.randint(256, (3, 3, 3, 64, 64), dtype=torch.uint8)
        obs[:, -1] = batch.frame[:, t]  # older frames do not matter
        taken = state if t == 0 else {**state, "action": batch.action[:, t]}
        action, state = agent.act(obs, taken, explore=False)
        torch.testing.assert_close(state["deter"], belief.deter[:, t])
        torch.testing.assert_close(state["stoch"], belief.stoch[:, t])
        assert torch.equal(state["action"], action)


def test_exploring_samples_state_and_action(monkeypatch):
    agent, obs = make("repo"), some_sequences(1, 3).frame
    embed = agent.encoder(obs[:, -1] / 127.5 - 1).detach()
    monkeypatch.setattr(agent.encoder, "forward", lambda image: embed.expand(len(image), -1))
    _, mean = agent.act(obs, agent.initial_state(1), explore=False)
    action, state = agent.act(obs.expand(1000, -1, -1, -1, -1), agent.initial_state(1000), explore=True)
    posterior = agent.rssm.posterior(mean["deter"], agent.rssm.from_embed(embed))
    torch.testing.assert_close(state["stoch"].mean(0), mean["stoch"][0], atol=0.12, rtol=0)
    torch.testing.assert_close(state["stoch"].std(0), posterior.std[0], atol=0.08, rtol=0)
    policy = agent.policy(Belief(state["deter"], state["stoch"]))
    noise = (action.atanh() - policy.mean) / policy.log_std.exp()
    torch.testing.assert_close(noise.mean(0), torch.zeros(2), atol=0.15, rtol=0)
    torch.testing.assert_close(noise.std(0), torch.ones(2), atol=0.15, rtol=0)


def test_the_policy_is_bounded_as_published():
    agent = make("repo")
    belief = some_belief(agent, 5)
    mean, std = agent.actor(torch.cat(belief, -1)).chunk(2, -1)
    policy = agent.policy(belief)
    torch.testing.assert_close(policy.mean, 5 * torch.tanh(mean / 5))
    torch.testing.assert_close(policy.log_std.exp(), (1 + std.exp()).log() + 0.1)


def test_without_exploring_the_likeliest_of_a_hundred_actions_is_taken():
    agent, policy = make("repo"), SquashedNormal(torch.randn(4, 2), torch.randn(4, 2) / 2)
    chosen = agent.likeliest(policy)
    assert agent.draws.shape == (100, 1, 2)
    for b in range(4):
        truth = TransformedDistribution(Normal(policy.mean[b], policy.log_std[b].exp()), TanhTransform())
        actions = (policy.mean[b] + policy.log_std[b].exp() * agent.draws[:, 0]).tanh()
        best = max(actions, key=lambda a: truth.log_prob(a).sum().item())
        torch.testing.assert_close(chosen[b], best)


def test_the_draws_are_the_same_for_every_seed():
    draws, following = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        draws.append(RePo(RePoConfig(), SPEC).draws)
        following.append(torch.rand(()))
    assert torch.equal(*draws)
    assert not torch.equal(*following)
    assert abs(draws[0].mean().item()) < 0.2
    assert 0.8 < draws[0].std().item() < 1.2


def test_entropy_is_that_of_the_squashed_policy():
    agent = make("repo", entropy_samples=4000)
    belief = some_belief(agent, 2, 3)
    policy = agent.policy(belief)
    z = torch.linspace(-8, 8, 4001)[:, None, None, None]  # H = -integral of N(z) log pi(tanh(mean + std z))
    std = policy.log_std.exp()
    squashed = (1 - (policy.mean + std * z).double().tanh().square()).log().float()
    density = Normal(0.0, 1.0).log_prob(z)
    log_pi = (density - policy.log_std - squashed).sum(-1)
    marginals = (density.exp() * (density - policy.log_std - squashed)).sum(0) * (16 / 4000)
    assert log_pi.isfinite().all()
    assert agent.entropy(belief).item() == pytest.approx(-marginals.sum(-1).mean().item(), abs=0.05)


@pytest.mark.parametrize(("target_kl", "direction"), [(0.0, 1), (1e3, -1)])
def test_the_multiplier_rises_while_the_divergence_is_above_its_target(target_kl, direction, replay):
    agent = make("repo", target_kl=target_kl)
    assert agent.log_multiplier.item() == pytest.approx(math.log(1e-5))
    agent.update_model(replay.sample_sequences(4, 6))
    assert agent.log_multiplier.item() - math.log(1e-5) == pytest.approx(direction * 1e-4, rel=0.02)  # one Adam step


@pytest.mark.parametrize("stride", [1, 4])
def test_model_losses_are_their_equations(stride):
    agent, batch = make("repo", initial_multiplier=0.5, probe_stride=stride), some_sequences()
    batch.first[1, 3] = True
    frame, action = batch.frame[:, 1:].float() / 127.5 - 1, batch.action[:, 1:]
    torch.manual_seed(1)
    with torch.no_grad():
        embed = agent.encoder(frame.flatten(0, 1)).unflatten(0, (3, 5))
        belief, prior, posterior = agent.rssm.observe(embed, action, batch.first[:, 1:])
        reward = agent.reward(belief.features)[..., 0]
        error = (agent.probe(belief.features.flatten(0, 1)) - frame.flatten(0, 1)).square()
        error = torch.stack([error[i] for i in range(0, 15, stride)])
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
    agent = make("repo", horizon=5, entropy_coef=0.1)
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
    agent = make("repo", entropy_coef=0.0)
    start, weight, read, losses = some_belief(agent, 3), agent.actor[-1].weight, [], []
    policy = agent.policy

    def note(belief):
        read.append(belief.detach())
        return policy(belief)

    monkeypatch.setattr(agent, "descend", lambda *names, loss, max_norm: losses.append(loss))
    monkeypatch.setattr(agent, "policy", note)
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


def moved_by_each_descent(agent, monkeypatch):
    """Filled while the agent learns: names of optimisers -> parts that have moved."""
    moved, original = {}, agent.descend

    def descend(*names, **options):
        before = {name: p.clone() for name, p in agent.named_parameters()}
        original(*names, **options)
        moved[names] = {n.split(".")[0] for n, p in agent.named_parameters() if not torch.equal(p, before[n])}

    monkeypatch.setattr(agent, "descend", descend)
    return moved


@pytest.mark.parametrize("joint_clip", [False, True])
def test_each_loss_trains_exactly_its_own_parts(joint_clip, replay, monkeypatch):
    agent = make("repo", joint_clip=joint_clip)
    moved = moved_by_each_descent(agent, monkeypatch)
    agent.update(replay, 0)
    model = {("model", "probe"): MODEL | {"probe"}} if joint_clip else {("model",): MODEL, ("probe",): {"probe"}}
    rest = {("multiplier",): {"log_multiplier"}, ("actor",): {"actor"}, ("value",): {"value"}}
    assert moved == model | rest


def test_the_pictures_scale_down_the_model_only_where_both_share_a_bound():
    def gradients(**config):
        agent = make("repo", **config)
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


def test_a_sequence_is_learned():
    """Bright frames are rewarded; a constant prediction would be left with an eighth."""
    agent = make("repo", model_learning_rate=3e-3)
    g = torch.Generator().manual_seed(3)
    losses = []
    for _ in range(30):
        bright = torch.rand(3, 4, generator=g) < 0.5
        frame = (255 * bright[..., None, None, None]).to(torch.uint8).expand(-1, -1, 3, 64, 64)
        none = torch.zeros(3, 4, dtype=torch.bool)
        _, metrics = agent.update_model(Sequence(frame, torch.zeros(3, 4, 2), bright.float(), none, none))
        losses.append(metrics["model/reward_loss"].item())
    assert sum(losses[:5]) / 5 > 0.08
    assert sum(losses[-5:]) / 5 < 0.02


def test_learning_goes_on_across_short_episodes():
    agent, replay = make("repo"), fill(Replay(SPEC, 100, 0.99), steps=20, length=2)
    assert all(value.isfinite() for value in agent.update(replay, 0).values())


def test_learning_comes_in_rounds():
    agent = make("repo", random_steps=5_000, update_every=500, updates_each_time=100)
    due = {step: agent.updates_due(step) for step in range(6_001)}
    assert {step: n for step, n in due.items() if n} == {5_000: 100, 5_500: 100, 6_000: 100}


def test_steady_learning_takes_as_many_updates_over_time():
    steady = RePo(RePoConfig().steady(), SPEC)
    due = [steady.updates_due(step) for step in range(500)]
    assert set(due) == {0, 1}
    assert sum(due[2:]) == 99  # every fifth step but the first, which is random


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="64x64"):
        RePo(RePoConfig(), EnvSpec(frames=3, image_size=84, action_dim=2))
    for config in ({"sequence_length": 1}, {"horizon": 2}):
        with pytest.raises(UserError, match="at least"):
            RePo(RePoConfig(**config), SPEC)


def test_the_probe_draws_what_beliefs_along_an_episode_hold():
    agent, obs = make("repo"), some_sequences(1, 5).frame.transpose(0, 1).expand(5, 3, 3, 64, 64).contiguous()
    state = agent.initial_state(1)
    drawn = agent.reconstruct(obs)
    for t in range(5):
        _, state = agent.act(obs[t : t + 1], state, explore=False)
        image = agent.probe(torch.cat([state["deter"], state["stoch"]], dim=-1))[0]  # in [-1, 1]
        assert (drawn[t] - 127.5 * (image.clamp(-1, 1) + 1)).abs().max() <= 0.51
    mse = ((drawn.double() - obs[:, -1].double()) / 255).square().mean()
    assert agent.diagnose(obs)["psnr"].item() == pytest.approx(-10 * mse.log10().item(), rel=1e-4)


@pytest.mark.parametrize(
    "setting", [{"max_norm": 0.0}, {"initial_multiplier": 0.0}, {"return_lambda": 2.0}, {"horizon": 2}]
)
def test_settings_with_which_nothing_would_be_learned_are_refused(setting):
    with pytest.raises(UserError, match="RePo needs"):
        make("repo", **setting)
