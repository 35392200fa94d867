"""ALDA against a second implementation, and what each of its switches trains."""

from functools import partial

import pytest
import torch
from conftest import fill, make_agent
from reference import Reference
from tiny import parts_moved

from alda.agents.alda import ALDA, ALDAConfig
from alda.agents.base import parameters_of
from alda.training.acceleration import accelerate
from alda.training.replay import Replay
from alda.types import EnvSpec

SPEC = EnvSpec(frames=3, image_size=32, action_dim=2)
SIZES = {"hidden_dim": 32, "batch_size": 3}
small = partial(make_agent, "alda", spec=SPEC, widths=(4, 6, 8, 10))


def sample(size):
    return fill(Replay(SPEC, 100, 0.99)).sample(size)


class SameBatch(Replay):
    def __init__(self, batch):
        self.batch = batch

    def sample(self, size):
        return self.batch


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize(
    ("updates", "config", "switches"),
    [
        (10, {}, ()),
        (4, {"codebook_grad": "critic+quant"}, ("codebook_critic", "codebook_quant")),
        (4, {"codebook_grad": "quant", "beta": 10.0}, ("codebook_quant",)),
        (4, {"critic_grad": "ste"}, ("critic_ste",)),
    ],
)
def test_updates_equal_a_second_implementation(updates, config, switches):
    torch.manual_seed(0)
    agent = ALDA(ALDAConfig(**SIZES, **config), SPEC)
    reference = Reference(size=32, hidden=32, beta=agent.config.beta, switches=switches)
    reference.copy_from(agent)
    replay, by_loss = fill(Replay(SPEC, 100, 0.99)), 0.0
    for step in range(updates):
        batch = replay.sample(3)
        torch.manual_seed(step)
        metrics = agent.update(SameBatch(batch), step)
        torch.manual_seed(step)
        losses = reference.update(*batch, step)
        by_loss = max(by_loss, *(abs(metrics[name].item() - value) for name, value in losses.items()))
    pairs = [(agent.get_submodule(name), part) for name, part in reference.parts().items()]
    pairs += [(agent.get_submodule(name), part) for name, part in reference.target_parts().items()]
    values = [(agent.log_temperature, reference.log_alpha), (agent.representation.memory.values, reference.V)]
    values += [(agent.target_representation.memory.values, reference.V_target)]
    values += [ab for mine, other in pairs for ab in zip(mine.parameters(), other.parameters(), strict=True)]
    # Not 1e-15: Adam divides by the gradient's own size, which turns rounding in a vanishing gradient (the bias before
    # an instance normalisation has none) into a step of up to lr * 1e-4.
    assert by_loss < 1e-6
    assert max((a - b).abs().max().item() for a, b in values) < 1e-6


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize(
    ("config", "passes"),
    [
        ({}, [3, 9]),  # frames encoded, with one pass over the frames: with gradient, and without
        ({"recon_frames": "all"}, [9, 3]),
        ({"codebook_grad": "critic+quant"}, [3, 9]),
        ({"critic_grad": "ste"}, [9, 3, 3]),  # the decoder looks again, at what the critic has left
        ({"critic_grad": "soft", "beta": 10.0, "recon_frames": "all"}, [9, 3, 9]),
        ({"stack": "channels"}, [3, 3]),
        ({"stack": "channels", "critic_grad": "ste"}, [3, 3, 3]),
        ({"latent": "bio"}, [3, 9]),
    ],
)
def test_one_pass_over_the_frames_learns_what_two_passes_learn(config, passes):
    """Losses and parameters after some updates, in float64."""
    agents, losses, encoded = [], [], []
    for one_pass in (False, True):
        agent = small(**SIZES, **config)
        agent.representation.one_pass = one_pass
        replay = fill(Replay(SPEC, 100, 0.99))
        torch.manual_seed(1)
        losses.append([agent.update(replay, step) for step in range(3)])
        agents.append(agent)
    for two, one in zip(*losses, strict=True):
        assert two.keys() == one.keys()
        for name in two:
            assert one[name].item() == pytest.approx(two[name].item(), rel=1e-6, abs=1e-6), name
    for two, one in zip(*(agent.state_dict().values() for agent in agents), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)  # as against the second implementation
    agent.representation.encoder.register_forward_hook(lambda _, given, out: encoded.append(len(given[0])))
    agent.learn(replay.sample(3), actor=False, targets=False)
    assert encoded == passes


CRITIC = {"critic", "representation.history"}
AUTOENCODER = {"representation.encoder", "decoder"}


@pytest.mark.parametrize(
    ("config", "by_critic", "by_autoencoder"),
    [
        ({"codebook_grad": "critic"}, CRITIC | {"representation.memory"}, AUTOENCODER),
        ({"codebook_grad": "quant"}, CRITIC, AUTOENCODER | {"representation.memory"}),
        ({"critic_grad": "ste"}, CRITIC | {"representation.encoder"}, AUTOENCODER),
        ({"critic_grad": "soft", "beta": 10.0}, CRITIC | {"representation.encoder"}, AUTOENCODER),
        ({"latent": "quantized"}, CRITIC, AUTOENCODER | {"representation.memory"}),
        ({"latent": "identity", "critic_grad": "ste"}, CRITIC | {"representation.encoder"}, AUTOENCODER),
        ({"latent": "bio"}, CRITIC, AUTOENCODER),
        ({"stack": "channels"}, {"critic"}, AUTOENCODER),
    ],
)
def test_each_loss_trains_exactly_its_own_parts(config, by_critic, by_autoencoder):
    agent, batch = small(**SIZES, **config), sample(6)
    features = agent.representation.encode_transition(batch)

    def moved(change):
        names = (name.split(".") for name in parts_moved(agent, change))
        return {".".join(n[:2]) if n[0] == "representation" else n[0] for n in names} - {"log_temperature"}

    assert moved(lambda: agent.update_critic(batch, features)) == by_critic
    assert moved(lambda: agent.update_representation(batch, features)) == by_autoencoder
    assert moved(lambda: agent.update_actor(batch)) == {"actor"}


@pytest.mark.parametrize("one_pass", [False, True])
def test_by_default_encoder_and_codebook_get_no_gradient_from_the_critic(one_pass):
    agent, batch = small(**SIZES), sample(6)
    agent.representation.one_pass = one_pass
    agent.update_critic(batch, agent.representation.encode_transition(batch))
    assert all(p.grad is None for p in agent.representation.encoder.parameters())
    for step in range(20):
        agent.update(SameBatch(batch), step)
    for seen in (agent.representation, agent.target_representation):
        assert torch.equal(seen.memory.values, torch.linspace(-1, 1, 12).repeat(12, 1))


def test_weight_decay_is_decoupled_and_covers_encoder_and_decoder_alone():
    agent = small(**SIZES)
    decayed = {id(p) for g in agent.optimizers["autoencoder"].param_groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {id(p) for p in parameters_of(agent.representation.encoder, agent.decoder)}
    assert isinstance(agent.optimizers["autoencoder"], torch.optim.AdamW)
    for name, optimizer in agent.optimizers.items():
        assert name == "autoencoder" or all(g["weight_decay"] == 0 for g in optimizer.param_groups)
    decayed, excluded = small(**SIZES, decay_exclude_bias_norm=True).optimizers["autoencoder"].param_groups
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in excluded["params"])
    assert (decayed["weight_decay"], excluded["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize("stack", ["history", "channels"])
@pytest.mark.parametrize("recon", ["bce", "mse"])
@pytest.mark.parametrize("recon_frames", ["last", "all"])
def test_reconstruction_losses_equal_their_formulas(stack, recon, recon_frames):
    agent, batch = small(**SIZES, stack=stack, recon=recon, recon_frames=recon_frames), sample(4)
    frames = batch.obs[:, 2] if recon_frames == "last" else batch.obs.flatten(0, 1)
    x = (batch.obs.flatten(1, 2) if stack == "channels" else frames).float() / 255
    with torch.no_grad():
        logits = agent.decoder(agent.representation.memory(agent.representation.encoder(x)).decode).double()
    p, zero = 1 / (1 + (-logits).exp()), torch.zeros(())
    cross_entropy = x * torch.logaddexp(zero, -logits) + (1 - x) * torch.logaddexp(zero, logits)
    truth = cross_entropy.mean() if recon == "bce" else ((p - x) ** 2).mean()
    metrics = agent.update_representation(batch, agent.representation.encode_transition(batch))
    assert metrics["autoencoder/reconstruction"].item() == pytest.approx(truth.item(), rel=1e-4)
    assert metrics["autoencoder/psnr"].item() == pytest.approx(-10 * ((p - x) ** 2).mean().log10().item(), abs=1e-3)


def test_the_newest_frame_is_read_last_and_is_what_is_shown():
    agent, obs = small(**SIZES), sample(3).obs
    code = agent.representation.code(agent.representation.encode(obs))
    newest = agent.representation.memory(agent.representation.encoder(obs[:, -1].float() / 255)).policy
    torch.testing.assert_close(code[:, -1], newest)
    other = obs.clone()
    other[:, :-1] = 0
    assert torch.equal(agent.reconstruct(obs), agent.reconstruct(other))
    assert agent.diagnose(obs) == agent.diagnose(other)
    swept = agent.sweep(agent.latents(obs), 9)
    assert torch.equal(swept, torch.linspace(-1, 1, 9).expand(12, -1))


def test_a_stack_of_channels_has_one_code_that_stands_for_all_its_frames():
    agent, obs = small(**SIZES, stack="channels"), sample(3).obs
    code = agent.representation.memory(agent.representation.encoder(obs.flatten(1, 2).float() / 255)).policy
    assert torch.equal(agent.representation(obs), code)  # what actor and critic read
    logits = agent.decoder(code)
    assert logits.shape == (3, 9, 32, 32)
    assert torch.equal(agent.reconstruct(obs), (logits[:, 6:].sigmoid() * 255).round().byte())


def test_bioae_adds_the_weights_of_its_decoder_to_the_loss():
    agent, batch = small(**SIZES, latent="bio"), sample(4)
    dense = sum(p.square().sum().item() for n, p in agent.decoder.head.named_parameters() if n.endswith("weight"))
    metrics = agent.update_representation(batch, agent.representation.encode_transition(batch))
    rest = metrics["autoencoder/loss"] - metrics["autoencoder/reconstruction"]
    expected = (0.5 * metrics["autoencoder/energy"].item() + 0.03 * dense) / 12_288
    assert rest.item() == pytest.approx(expected, rel=1e-3)


class Shaken(ALDA):
    """Moves obs and next_obs on their own, so that they have no frame in common."""

    shares_frames = False

    def augment(self, batch):
        return batch._replace(obs=batch.obs.roll(1, -1))


class Generous(ALDA):
    """Changes rewards alone."""

    def augment(self, batch):
        return batch._replace(reward=batch.reward + 1)


def test_frames_are_shared_wherever_the_method_leaves_them_alone():
    for kind, shared in ((ALDA, True), (Generous, True), (Shaken, False)):
        agent = accelerate(kind(ALDAConfig(**SIZES), SPEC), "fast")
        assert agent.representation.one_pass is shared
    batch = agent.augment(sample(3))
    features = agent.representation.encode_transition(batch)
    torch.testing.assert_close(features.next_obs, agent.representation(batch.next_obs))
