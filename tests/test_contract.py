"""What every method must satisfy, checked for each one in the registry."""

import importlib
import pkgutil
from copy import deepcopy

import pytest
import torch
from conftest import METHODS, SPEC, STORED, fill, filled
from conftest import make_agent as make
from torch.utils._python_dispatch import TorchDispatchMode

import alda.agents
from alda.agents import AGENTS, Agent
from alda.agents.codes import SACOnCodes
from alda.training.replay import Replay

SPEEDS = ["plain", "fast"]
MOST_UPDATES = 12  # in which a small agent of any method comes to all of its stages

# Which optimisers a loss steps, and what moves.
SAC_HEADS = {"actor": {"actor"}, "temperature": {"log_temperature"}}
CRITIC = {"critic.trunk", "critic.q"}
OWNED = {
    "alda": {
        "critic": {*CRITIC, "representation.history"},
        "autoencoder": {"representation.encoder", "decoder"},
        **SAC_HEADS,
    },
    "sac": {"critic": {*CRITIC, "representation.net"}, **SAC_HEADS},
    "drq": {"critic": {*CRITIC, "representation.net"}, **SAC_HEADS},
    "svea": {"critic": {*CRITIC, "representation.net"}, **SAC_HEADS},
    "sada": {"critic": {*CRITIC, "representation.net"}, **SAC_HEADS},
    "sac_ae": {
        "critic": {*CRITIC, "representation.net"},
        "encoder+decoder": {"critic.trunk", "representation.net", "decoder"},
        **SAC_HEADS,
    },
    "darla": {
        "denoiser": {"denoiser"},
        "vae": {"representation.encoder", "decoder"},
        "critic": {*CRITIC, "representation.history"},
        **SAC_HEADS,
    },
    "repo": {
        "model": {"encoder", "rssm", "reward"},
        "probe": {"probe"},
        "multiplier": {"log_multiplier"},
        "actor": {"actor"},
        "value": {"value"},
    },
}
OWNED |= {name: OWNED[name.removesuffix("_stored")] for name in STORED}


@pytest.mark.parametrize("name", METHODS)
def test_actions_are_bounded_and_repeatable(name, replay):
    agent, obs = make(name), replay.sample(4).obs
    state = agent.initial_state(4)
    modes = [agent.act(obs, state, explore=False)[0] for _ in range(2)]
    assert torch.equal(*modes)
    samples = [agent.act(obs, state, explore=True)[0] for _ in range(2)]
    assert not torch.equal(*samples)
    for action in modes + samples:
        assert action.shape == (4, 2)
        assert action.abs().max() <= 1
        assert not action.requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_what_is_seen_is_what_is_decoded(name, replay):
    agent, obs = make(name), replay.sample(4).obs
    latents = agent.latents(obs)
    if latents is None:
        assert agent.traverse(obs) is None
        return
    assert torch.equal(latents.code, agent.latents(obs).code)
    assert latents.encoded.shape == latents.code.shape
    assert not latents.code.requires_grad
    image = agent.decode(latents.code)
    if image is None:
        assert agent.reconstruct(obs) is None
        assert agent.traverse(obs) is None
        assert agent.diagnose(obs) == {}
        return
    assert image.min() >= 0
    assert image.max() <= 1
    assert (agent.reconstruct(obs) - image.detach() * 255).abs().max() <= 0.51
    quality = -10 * (image - obs[:, -1] / 255).square().mean().log10()
    assert agent.diagnose(obs)["psnr"].item() == pytest.approx(quality.item(), abs=1e-3)
    sweep = agent.sweep(latents, 3)
    code = latents.code[0].clone()
    code[1] = sweep[1, 2]
    shown = agent.traverse(obs, 3)
    assert shown.shape == (latents.code.shape[1], 3, 3, 64, 64)
    assert (shown[1, 2] - agent.decode(code[None])[0].detach() * 255).abs().max() <= 0.51


@pytest.mark.parametrize("name", METHODS)
def test_acting_without_exploring_draws_no_random_numbers(name, replay):
    """On a GPU evaluation acts beside learning, and CUDA graphs share the generator's place on the device."""
    agent, obs = make(name), replay.sample(2).obs
    before = torch.get_rng_state()
    agent.act(obs, agent.initial_state(2), explore=False)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("speed", SPEEDS)
def test_updates_report_finite_scalars(name, speed, replay):
    agent = make(name, speed)
    for step in range(4):
        for key, value in agent.update(replay, step).items():
            assert value.ndim == 0, key
            assert value.isfinite(), key
            assert not value.requires_grad, key  # a metric must not keep its graph alive


class NoSync(TorchDispatchMode):
    """Fails where the host would wait for the device: .item(), bool(tensor), nonzero."""

    FORBIDDEN = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero")
    inside_optimizer = False  # Adam's step counter lives on the host unless it is fused

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = func._schema.name in self.FORBIDDEN
        assert self.inside_optimizer or not waits, f"{func._schema.name} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", METHODS)
def test_hot_methods_never_wait_for_the_device(name, replay):
    agent = make(name)
    agent.update(replay, 0)
    mode, guarded = NoSync(), []
    for optimizer in agent.optimizers.values():
        optimizer.register_step_pre_hook(lambda *_: setattr(mode, "inside_optimizer", True))
        optimizer.register_step_post_hook(lambda *_: setattr(mode, "inside_optimizer", False))
    for method in agent.hot:

        def guard(*inputs, method=method, original=getattr(agent, method), **switches):  # noqa: B008
            guarded.append(method)
            with mode:
                return original(*inputs, **switches)

        setattr(agent, method, guard)
    with mode:
        replay.sample(4)
        replay.sample_sequences(4, 5)
    for step in range(MOST_UPDATES):
        agent.update(replay, step)
    assert set(guarded) == set(agent.hot)
    with pytest.raises(AssertionError, match="waits for the device"), mode:
        torch.ones(()).item()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("speed", SPEEDS)
def test_a_loaded_agent_continues_bit_for_bit(name, speed, replay):
    def learn(agent, seed, replay):
        torch.manual_seed(seed)
        for step in range(6):
            agent.update(replay, step)

    original = make(name, speed)
    learn(original, 5, replay)
    weights, training = deepcopy(original.state_dict()), deepcopy(original.training_state())
    seen = deepcopy(replay)  # with its codes
    learn(original, 6, replay)
    loaded = make(name, speed)
    learn(loaded, 7, filled())
    loaded.load_state_dict(weights)
    loaded.load_training_state(training)
    learn(loaded, 6, seen)
    for key, value in original.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key


def metrics_of(name, speed, replay, updates):
    agent = make(name, speed)
    torch.manual_seed(1)
    return [agent.update(replay, step) for step in range(updates)]


def assert_close(fast, plain, *, rel, abs):
    for key in plain:
        if "retrieval" not in key and "commitment" not in key and "quantization" not in key:
            assert fast[key].item() == pytest.approx(plain[key].item(), rel=rel, abs=abs), key


@pytest.mark.parametrize("name", METHODS)
def test_fast_is_plain_but_for_its_precision(name, replay, monkeypatch):
    monkeypatch.setattr(alda.training.acceleration, "has_bfloat16", lambda device: False)
    plain, fast = (metrics_of(name, speed, deepcopy(replay), updates=3) for speed in SPEEDS)
    for expected, found in zip(plain, fast, strict=True):
        assert_close(found, expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_low_precision_is_close(name, replay):
    """bfloat16 keeps eight bits. Looked at before any weight has moved: Adam's first step is one of signs, and on
    frames of noise rounding turns many of them."""
    (plain,), (fast,) = (metrics_of(name, speed, deepcopy(replay), updates=1) for speed in SPEEDS)
    group = next(iter(plain)).split("/")[0]  # of the first loss
    first = {key: value for key, value in plain.items() if key.startswith(f"{group}/")}
    assert len(first) > 1
    assert_close(fast, first, rel=0.1, abs=0.05)


def test_only_image_layers_run_at_low_precision(replay):
    agent = make("alda", "fast")
    seen = {}

    def note(part, out):
        seen[part] = out.dtype

    for part in ("convs", "head"):
        module = getattr(agent.representation.encoder, part)
        module.register_forward_hook(lambda *a, part=part: note(part, a[-1]))
        module[0].register_forward_hook(lambda *a, part=part: note(f"{part}[0]", a[-1]))
    agent.act(replay.sample(1).obs, None, explore=False)
    low = torch.bfloat16 if alda.training.acceleration.has_bfloat16("cpu") else torch.float32
    assert seen == {"convs[0]": low, "convs": torch.float32, "head[0]": torch.float32, "head": torch.float32}


@pytest.mark.parametrize("name", METHODS)
def test_every_loss_trains_exactly_its_own_parts(name, replay):
    agent, found = make(name), {}
    descend = agent.descend

    def observed(*names, **options):
        before = {key: p.clone() for key, p in agent.named_parameters()}
        descend(*names, **options)
        moved = {part_of(key) for key, p in agent.named_parameters() if not torch.equal(p, before[key])}
        found.setdefault("+".join(names), set()).update(moved)

    agent.descend = observed
    for step in range(MOST_UPDATES):
        agent.update(replay, step)
    assert found == OWNED[name]
    learned = set().union(*found.values())
    fresh = dict(make(name).named_parameters())
    moved = {part_of(key) for key, p in agent.named_parameters() if not torch.equal(p, fresh[key])}
    assert {part for part in moved - learned if not part.startswith("target_")} == set()


def part_of(parameter):
    parts = parameter.split(".")
    return ".".join(parts[:2]) if parts[0] in ("representation", "critic") else parts[0]


OWN_SCHEDULE = {"darla", "repo", "sada"}


@pytest.mark.parametrize("name", sorted(set(AGENTS) - OWN_SCHEDULE))
def test_learning_starts_with_as_many_updates_as_random_steps(name):
    agent = make(name, random_steps=1_000)
    due = [agent.updates_due(step) for step in range(1_100)]
    assert due[:1_000] == [0] * 1_000
    assert due[1_000] == 1_000
    assert due[1_001:] == [1] * 99


def test_actor_and_targets_move_every_second_step_at_their_own_rates(replay):
    agent = make("sac")
    for step, moves in ((3, False), (4, True)):
        before = {k: v.clone() for k, v in agent.state_dict().items()}
        agent.update(replay, step)
        after = agent.state_dict()
        for key, tau in (
            ("critic.q.0.0.weight", 0.01),
            ("critic.trunk.0.weight", 0.05),
            ("representation.net.convs.0.weight", 0.05),
        ):
            target = f"target_{key}"
            expected = (1 - tau) * before[target] + tau * after[key] if moves else before[target]
            torch.testing.assert_close(after[target], expected, rtol=0, atol=1e-7)
            assert torch.equal(after[target], before[target]) != moves
        assert torch.equal(after["actor.policy.0.weight"], before["actor.policy.0.weight"]) != moves
        assert torch.equal(after["log_temperature"], before["log_temperature"]) != moves


def test_td_target_and_critic_loss_are_their_equations(replay):
    agent, batch = make("sac"), replay.sample(4)
    next_features = agent.representation(batch.next_obs)
    torch.manual_seed(3)
    target = agent.td_target(batch, next_features)
    torch.manual_seed(3)
    action, log_prob = agent.actor(next_features).rsample()
    q = agent.target_critic(agent.target_representation(batch.next_obs), action)
    for i in range(4):
        expected = batch.reward[i] + 0.99 * (min(q[0, i], q[1, i]) - 0.1 * log_prob[i])
        assert target[i].item() == pytest.approx(expected.item(), rel=1e-5)
    features = agent.representation(batch.obs)
    loss, _ = agent.critic_loss(batch, features, target)
    q = agent.critic(features, batch.action)
    assert loss.item() == pytest.approx(
        (((q[0] - target) ** 2).mean() + ((q[1] - target) ** 2).mean()).item(), rel=1e-5
    )


def test_temperature_falls_while_the_policy_is_too_random(replay):
    agent = make("sac")
    agent.target_entropy = -100.0
    before = agent.temperature.item()
    agent.update_actor(replay.sample(4))
    assert agent.temperature.item() < before
    other = make("sac")
    other.target_entropy = 100.0
    other.update_actor(replay.sample(4))
    assert other.temperature.item() > before


def test_every_method_is_registered():
    found = set()
    for module in pkgutil.iter_modules(alda.agents.__path__):
        contents = vars(importlib.import_module(f"alda.agents.{module.name}")).values()
        found |= {c for c in contents if isinstance(c, type) and issubclass(c, Agent) and c is not Agent}
    assert found - {SACOnCodes} == {agent for _, agent in AGENTS.values()}  # what two of them share


def test_replays_of_other_sizes_work():
    replay = fill(Replay(SPEC, 100, 0.99), steps=7, length=3)
    assert make("alda").update(replay, 0)["critic/loss"].isfinite()
