"""Promises that every registered method keeps."""

import importlib
import inspect
import pkgutil
from copy import deepcopy

import pytest
import torch
from conftest import METHODS, STORED
from tiny import parts_moved, tiny_agent, tiny_replay
from torch.utils._python_dispatch import TorchDispatchMode

import alda.agents
from alda.agents import AGENTS, Agent
from alda.agents.codes import SACOnCodes
from alda.agents.decoding import DecodingAgent, LatentAgent, ReconstructingAgent
from alda.training import acceleration

SPEEDS = ["plain", "fast"]
MOST_UPDATES = 12  # in which a small agent of any method comes to all of its stages

# Which optimisers a loss steps, and what moves.
SAC_HEADS = {"actor": {"actor"}, "temperature": {"log_temperature"}}
CRITIC = {"critic.trunk", "critic.q"}
SAC = {"critic": {*CRITIC, "representation.net"}, **SAC_HEADS}
OWNED = {
    **dict.fromkeys(("sac", "drq", "svea", "sada"), SAC),
    "sac_ae": SAC | {"encoder+decoder": {"critic.trunk", "representation.net", "decoder"}},
    "alda": {
        "critic": {*CRITIC, "representation.history"},
        "autoencoder": {"representation.encoder", "decoder"},
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


def test_every_method_is_registered():
    found = set()
    for module in pkgutil.iter_modules(alda.agents.__path__):
        contents = vars(importlib.import_module(f"alda.agents.{module.name}")).values()
        found |= {c for c in contents if isinstance(c, type) and issubclass(c, Agent) and not inspect.isabstract(c)}
    assert found - {SACOnCodes} == {agent for _, agent in AGENTS.values()}  # what two of them share


@pytest.mark.parametrize("name", METHODS)
def test_actions_are_bounded_and_repeatable(name):
    agent, obs = tiny_agent(name), tiny_replay(name).sample(4).obs
    state, before = agent.initial_state(4), torch.get_rng_state()
    modes = [agent.act(obs, state, explore=False)[0] for _ in range(2)]
    assert torch.equal(*modes)
    assert torch.equal(torch.get_rng_state(), before)  # evaluation, beside learning, leaves the generator alone
    samples = [agent.act(obs, state, explore=True)[0] for _ in range(2)]
    assert not torch.equal(*samples)
    for action in modes + samples:
        assert action.shape == (4, 2)
        assert action.abs().max() <= 1
        assert not action.requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_what_is_seen_is_what_is_decoded(name):
    agent, obs = tiny_agent(name), tiny_replay(name).sample(4).obs
    assert isinstance(agent, ReconstructingAgent) == ("psnr" in agent.diagnose(obs))
    if not isinstance(agent, LatentAgent):
        return
    latents = agent.latents(obs)
    assert latents.encoded.shape == latents.code.shape
    assert not latents.code.requires_grad
    if not isinstance(agent, DecodingAgent):
        return
    image = agent.decode(latents.code)
    assert 0 <= image.min() <= image.max() <= 1
    assert (agent.reconstruct(obs) - image.detach() * 255).abs().max() <= 0.51
    quality = -10 * (image - obs[:, -1] / 255).square().mean().log10()
    assert agent.diagnose(obs)["psnr"].item() == pytest.approx(quality.item(), abs=1e-3)
    values, shown = agent.sweep(latents, 3), agent.traverse(obs, 3)
    assert shown.shape == (*values.shape, *image.shape[1:])
    for latent, value in ((0, 0), (1, 2), (3, 1)):
        code = latents.code[:1].clone()
        code[0, latent] = values[latent, value]
        assert (shown[latent, value] - agent.decode(code)[0].detach() * 255).abs().max() <= 0.51


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"repo"}))
def test_methods_declare_whether_both_observations_share_frames(name):
    agent = tiny_agent(name, batch_size=6)
    batch = agent.augment(tiny_replay(name).sample(6))
    assert torch.equal(batch.next_obs[:, :-1], batch.obs[:, 1:]) == agent.shares_frames


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("speed", SPEEDS)
def test_updates_report_finite_scalars_and_a_loaded_agent_continues_bit_for_bit(name, speed):
    def learn(agent, seed, replay):
        torch.manual_seed(seed)
        for step in range(6):
            for key, value in agent.update(replay, step).items():
                assert value.ndim == 0, key
                assert value.isfinite(), key
                assert not value.requires_grad, key  # a metric must not keep its graph alive

    original, replay = tiny_agent(name, speed), tiny_replay(name)
    learn(original, 5, replay)
    weights, training = deepcopy(original.state_dict()), deepcopy(original.training_state())
    seen = deepcopy(replay)  # with its codes
    learn(original, 6, replay)
    loaded = tiny_agent(name, speed)
    learn(loaded, 7, tiny_replay(name))
    loaded.load_state_dict(weights)
    loaded.load_training_state(training)
    learn(loaded, 6, seen)
    for key, value in original.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key


class NoSync(TorchDispatchMode):
    """Fails where the host would wait for the device: .item(), bool(tensor), nonzero."""

    FORBIDDEN = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero")
    inside_optimizer = False  # Adam's step counter lives on the host unless it is fused

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = func._schema.name in self.FORBIDDEN
        assert self.inside_optimizer or not waits, f"{func._schema.name} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", METHODS)
def test_hot_methods_never_wait_for_the_device(name):
    agent, replay = tiny_agent(name), tiny_replay(name)
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
def test_fast_is_plain_but_for_its_precision(name, monkeypatch):
    """bfloat16 keeps eight bits; with it, the first loss alone is compared: Adam's first step is one of signs, and on
    frames of noise rounding turns many of them."""

    def metrics_of(speed, updates):
        agent, replay = tiny_agent(name, speed), tiny_replay(name)
        torch.manual_seed(1)
        return [agent.update(replay, step) for step in range(updates)]

    def assert_close(fast, plain, **tolerance):
        for key in plain:
            if "retrieval" not in key and "commitment" not in key and "quantization" not in key:
                assert fast[key].item() == pytest.approx(plain[key].item(), **tolerance), key

    plain, (low, *_) = metrics_of("plain", 3), metrics_of("fast", 1)
    group = next(iter(plain[0])).split("/")[0]
    first = {key: value for key, value in plain[0].items() if key.startswith(f"{group}/")}
    assert len(first) > 1
    assert_close(low, first, rel=0.1, abs=0.05)
    monkeypatch.setattr(acceleration, "has_bfloat16", lambda device: False)
    for expected, found in zip(plain, metrics_of("fast", 3), strict=True):
        assert_close(found, expected, rel=1e-3, abs=1e-4)


def test_only_image_layers_run_at_low_precision():
    agent, seen = tiny_agent("alda", "fast"), {}

    def note(part):
        return lambda *hooked: seen.update({part: hooked[-1].dtype})

    for part in ("convs", "head"):
        module = getattr(agent.representation.encoder, part)
        module.register_forward_hook(note(part))
        module[0].register_forward_hook(note(f"{part}[0]"))
    agent.act(tiny_replay("alda").sample(1).obs, None, explore=False)
    low = torch.bfloat16 if acceleration.has_bfloat16("cpu") else torch.float32
    assert seen == {"convs[0]": low, "convs": torch.float32, "head[0]": torch.float32, "head": torch.float32}


@pytest.mark.parametrize("name", METHODS)
def test_every_loss_trains_exactly_its_own_parts(name):
    agent, replay, found = tiny_agent(name), tiny_replay(name), {}
    descend = agent.descend

    def observed(*names, **options):
        moved = parts_moved(agent, lambda: descend(*names, **options))
        found.setdefault("+".join(names), set()).update(part_of(key) for key in moved)

    def learn():
        for step in range(MOST_UPDATES):
            agent.update(replay, step)

    agent.descend = observed
    moved = {part_of(key) for key in parts_moved(agent, learn)}
    assert found == OWNED[name]
    learned = set().union(*found.values())
    assert {part for part in moved - learned if not part.startswith("target_")} == set()


def part_of(parameter):
    parts = parameter.split(".")
    return ".".join(parts[:2]) if parts[0] in ("representation", "critic") else parts[0]


@pytest.mark.parametrize("name", sorted(set(AGENTS) - {"darla", "repo", "sada"}))  # which have schedules of their own
def test_learning_starts_with_as_many_updates_as_random_steps(name):
    for updates_per_step in (1, 2):
        agent = tiny_agent(name, random_steps=100, updates_per_step=updates_per_step)
        due = [agent.updates_due(step) for step in range(110)]
        assert due == [0] * 100 + [100 * updates_per_step] + [updates_per_step] * 9
