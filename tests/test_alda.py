import pytest
import torch
from conftest import SPEC, fill
from reference import Reference
from torch.nn.functional import softplus

from alda.agents.alda import ALDA, ALDAConfig
from alda.agents.base import parameters_of
from alda.agents.decoding import TRAVERSED, psnr
from alda.training.acceleration import accelerate
from alda.training.replay import Replay
from alda.types import EnvSpec, Transition

SIZES = {"hidden_dim": 32, "batch_size": 6}


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize(
    ("updates", "config", "switches"),
    [
        (10, {"hidden_dim": 256}, ()),
        (4, {"codebook_grad": "critic+quant"}, ("codebook_critic", "codebook_quant")),
        (4, {"codebook_grad": "quant", "beta": 10.0}, ("codebook_quant",)),
        (4, {"critic_grad": "ste"}, ("critic_ste",)),
    ],
)
def test_updates_equal_a_second_implementation(updates, config, switches):
    config = ALDAConfig(**{**SIZES, "batch_size": 3, **config})
    torch.manual_seed(0)
    agent = ALDA(config, SPEC)
    reference = Reference(hidden=config.hidden_dim, beta=config.beta, switches=switches)
    reference.copy_from(agent)
    replay = fill(Replay(SPEC, 100, 0.99))

    by_loss = 0.0
    for step in range(updates):
        batch = replay.sample(config.batch_size)
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
    by_parameter = max((a - b).abs().max().item() for a, b in values)
    print(f"largest difference after {updates} updates: losses {by_loss:.1e}, parameters {by_parameter:.1e}")
    # Not 1e-15: Adam divides by the gradient's own size, which turns rounding in a vanishing gradient (the bias before
    # an instance normalisation has none) into a step of up to lr * 1e-4.
    assert by_loss < 1e-6
    assert by_parameter < 1e-6


class SameBatch(Replay):
    def __init__(self, batch):
        self.batch = batch

    def sample(self, size):
        assert len(self.batch.reward) == size
        return self.batch


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize(
    ("updates", "config"),
    [
        (5, {}),
        (3, {"recon_frames": "all"}),
        (3, {"codebook_grad": "critic+quant"}),
        (3, {"critic_grad": "ste"}),
        (3, {"critic_grad": "soft", "beta": 10.0, "recon_frames": "all"}),
        (3, {"stack": "channels"}),
        (3, {"stack": "channels", "critic_grad": "ste"}),
        (3, {"latent": "quantized"}),
        (3, {"latent": "bio"}),
    ],
)
def test_one_pass_over_the_frames_learns_what_two_passes_learn(updates, config):
    """Losses and parameters after some updates, in float64."""
    agents, losses = [], []
    for one_pass in (False, True):
        torch.manual_seed(0)
        agent = ALDA(ALDAConfig(**{**SIZES, "batch_size": 3, **config}), SPEC)
        agent.representation.one_pass = one_pass
        replay = fill(Replay(SPEC, 100, 0.99))
        torch.manual_seed(1)
        losses.append([agent.update(replay, step) for step in range(updates)])
        agents.append(agent)
    for two, one in zip(*losses, strict=True):
        assert two.keys() == one.keys()
        for name in two:
            assert one[name].item() == pytest.approx(two[name].item(), rel=1e-6, abs=1e-6), name
    for two, one in zip(*(agent.state_dict().values() for agent in agents), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)  # as against the second implementation


@pytest.mark.parametrize(("critic_grad", "passes"), [("none", [3, 9]), ("ste", [9, 3, 3])])
def test_one_pass_encodes_every_frame_once_for_the_same_weights(critic_grad, passes):
    torch.manual_seed(0)
    agent = ALDA(ALDAConfig(**{**SIZES, "batch_size": 3}, critic_grad=critic_grad), SPEC)
    agent.representation.one_pass = True
    encoded = []
    agent.representation.encoder.register_forward_hook(lambda _, given, out: encoded.append(len(given[0])))
    agent.learn(fill(Replay(SPEC, 100, 0.99)).sample(3), actor=False, targets=False)
    assert encoded == passes


def moved(agent, change):
    before = {name: p.clone() for name, p in agent.named_parameters()}
    change()
    parts = ("representation.encoder", "representation.memory", "representation.history", "decoder", "critic", "actor")
    changed = {name for name, p in agent.named_parameters() if not torch.equal(p, before[name])}
    return {part for part in parts if any(name.startswith(part + ".") for name in changed)}


CRITIC = {"critic", "representation.history"}
AUTOENCODER = {"representation.encoder", "decoder"}


@pytest.mark.parametrize(
    ("config", "by_critic", "by_autoencoder"),
    [
        ({}, CRITIC, AUTOENCODER),
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
    torch.manual_seed(0)
    agent = ALDA(ALDAConfig(**{**SIZES, **config}), SPEC)
    batch = fill(Replay(SPEC, 100, 0.99)).sample(6)
    features = agent.representation.encode_transition(batch)
    assert moved(agent, lambda: agent.update_critic(batch, features)) == by_critic
    assert moved(agent, lambda: agent.update_representation(batch, features)) == by_autoencoder
    assert moved(agent, lambda: agent.update_actor(batch)) == {"actor"}


@pytest.mark.parametrize("one_pass", [False, True])
def test_encoder_gets_no_gradient_from_the_critic(one_pass):
    agent = ALDA(ALDAConfig(**SIZES), SPEC)
    agent.representation.one_pass = one_pass
    batch = fill(Replay(SPEC, 100, 0.99)).sample(6)
    agent.update_critic(batch, agent.representation.encode_transition(batch))
    assert all(p.grad is None for p in agent.representation.encoder.parameters())
    assert agent.representation.memory.values.grad is None


def test_codebook_is_bit_identical_after_a_hundred_updates():
    torch.manual_seed(0)
    spec = EnvSpec(frames=3, image_size=16, action_dim=2)
    agent = ALDA(ALDAConfig(**{**SIZES, "batch_size": 2}), spec)
    replay = fill(Replay(spec, 100, 0.99))
    for step in range(100):
        agent.update(replay, step)
    expected = torch.linspace(-1, 1, 12).repeat(12, 1)
    assert torch.equal(agent.representation.memory.values, expected)
    assert torch.equal(agent.target_representation.memory.values, expected)


def test_weight_decay_is_decoupled_and_covers_encoder_and_decoder_alone():
    agent = ALDA(ALDAConfig(**SIZES), SPEC)
    decayed = {id(p) for g in agent.optimizers["autoencoder"].param_groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {id(p) for p in parameters_of(agent.representation.encoder, agent.decoder)}
    assert isinstance(agent.optimizers["autoencoder"], torch.optim.AdamW)
    for name, optimizer in agent.optimizers.items():
        assert name == "autoencoder" or all(g["weight_decay"] == 0 for g in optimizer.param_groups)
    spared = ALDA(ALDAConfig(**SIZES, decay_exclude_bias_norm=True), SPEC).optimizers["autoencoder"].param_groups
    assert all(p.ndim > 1 for p in spared[0]["params"])
    assert all(p.ndim == 1 for p in spared[1]["params"])
    assert (spared[0]["weight_decay"], spared[1]["weight_decay"]) == (0.1, 0.0)


def test_no_parameter_has_two_optimizers_unless_the_critic_reaches_the_encoder():
    for config, shared in (({}, 0), ({"codebook_grad": "critic+quant"}, 0), ({"critic_grad": "ste"}, 22)):
        agent = ALDA(ALDAConfig(**SIZES, **config), SPEC)
        owned = [p for o in agent.optimizers.values() for g in o.param_groups for p in g["params"]]
        assert len(owned) - len({id(p) for p in owned}) == shared


@pytest.mark.parametrize("recon", ["bce", "mse"])
@pytest.mark.parametrize("recon_frames", ["last", "all"])
def test_reconstruction_losses_equal_their_formulas(recon, recon_frames):
    torch.manual_seed(0)
    agent = ALDA(ALDAConfig(**SIZES, recon=recon, recon_frames=recon_frames), SPEC)
    batch = fill(Replay(SPEC, 100, 0.99)).sample(4)
    frames = batch.obs[:, 2] if recon_frames == "last" else batch.obs.reshape(-1, 3, 64, 64)
    x = frames.float() / 255
    with torch.no_grad():
        latent = agent.representation.memory(agent.representation.encoder(x))
        logits = agent.decoder(latent.decode).double()
    p, zero = 1 / (1 + (-logits).exp()), torch.zeros(())
    cross_entropy = x * torch.logaddexp(zero, -logits) + (1 - x) * torch.logaddexp(zero, logits)
    truth = cross_entropy.mean() if recon == "bce" else ((p - x) ** 2).mean()
    metrics = agent.update_representation(batch, agent.representation.encode_transition(batch))
    assert metrics["autoencoder/reconstruction"].item() == pytest.approx(truth.item(), rel=1e-4)
    assert metrics["autoencoder/psnr"].item() == pytest.approx(-10 * ((p - x) ** 2).mean().log10().item(), abs=1e-3)


def test_policy_reads_the_newest_frame_last():
    torch.manual_seed(0)
    agent = ALDA(ALDAConfig(**SIZES), SPEC)
    obs = fill(Replay(SPEC, 100, 0.99)).sample(3).obs
    code = agent.representation.code(agent.representation.encode(obs))
    newest = agent.representation.memory(agent.representation.encoder(obs[:, -1].float() / 255)).policy
    torch.testing.assert_close(code[:, -1], newest)


def test_reconstruct_and_diagnose_look_at_the_newest_frame():
    torch.manual_seed(0)
    agent = ALDA(ALDAConfig(**SIZES), SPEC)
    obs = fill(Replay(SPEC, 100, 0.99)).sample(3).obs
    other = obs.clone()
    other[:, :-1] = 0
    assert torch.equal(agent.reconstruct(obs), agent.reconstruct(other))
    assert agent.diagnose(obs) == agent.diagnose(other)
    image = agent.reconstruct(obs).float() / 255
    assert agent.diagnose(obs)["psnr"].item() == pytest.approx(psnr(image, obs[:, -1] / 255).item(), abs=0.05)


def test_a_stack_of_channels_has_one_code_that_stands_for_all_its_frames():
    torch.manual_seed(0)
    agent = ALDA(ALDAConfig(**SIZES, stack="channels"), SPEC)
    obs = fill(Replay(SPEC, 100, 0.99)).sample(3).obs
    stack = obs.flatten(1, 2).float() / 255
    code = agent.representation.memory(agent.representation.encoder(stack)).policy
    assert torch.equal(agent.representation(obs), code)  # what actor and critic read
    assert code.shape == (3, 12)
    logits = agent.decoder(code)
    assert logits.shape == (3, 9, 64, 64)
    assert torch.equal(agent.reconstruct(obs), (logits[:, 6:].sigmoid() * 255).round().byte())
    metrics = agent.update_representation(obs_only(obs), agent.representation.encode_transition(obs_only(obs)))
    truth = (stack * softplus(-logits) + (1 - stack) * softplus(logits)).mean()
    assert metrics["autoencoder/reconstruction"].item() == pytest.approx(truth.item(), rel=1e-4)


def obs_only(obs):
    nothing = torch.zeros(len(obs))
    return Transition(obs, torch.zeros(len(obs), SPEC.action_dim), nothing, nothing, obs)


@pytest.mark.parametrize("stack", ["history", "channels"])
def test_a_traversal_leads_one_latent_through_its_range_and_leaves_the_others(stack):
    torch.manual_seed(0)
    agent = ALDA(ALDAConfig(**SIZES, stack=stack), SPEC)
    obs = fill(Replay(SPEC, 100, 0.99)).sample(3).obs
    pictures = agent.traverse(obs)
    assert pictures.shape == (12, TRAVERSED, 3, 64, 64)
    code = agent.representation.memory(agent.representation.newest(obs[:1])).decode.detach()
    for latent, value in ((0, 0), (7, 3), (11, 8)):
        changed = code.clone()
        changed[0, latent] = torch.linspace(-1, 1, TRAVERSED)[value]
        expected = agent.decoder(changed)[0, -3:].sigmoid() * 255
        assert (pictures[latent, value] - expected).abs().max() <= 0.51


def test_bioae_adds_the_weights_of_its_decoder_to_the_loss():
    torch.manual_seed(0)
    agent = ALDA(ALDAConfig(**SIZES, latent="bio"), SPEC)
    batch = fill(Replay(SPEC, 100, 0.99)).sample(4)
    dense = sum(p.square().sum().item() for n, p in agent.decoder.head.named_parameters() if n.endswith("weight"))
    metrics = agent.update_representation(batch, agent.representation.encode_transition(batch))
    rest = metrics["autoencoder/loss"] - metrics["autoencoder/reconstruction"]
    expected = (0.5 * metrics["autoencoder/energy"].item() + 0.03 * dense) / 12_288
    assert rest.item() == pytest.approx(expected, rel=1e-3)


class Shaken(ALDA):
    """Moves obs and next_obs on their own, so that they have no frame in common."""

    def augment(self, batch):
        return batch._replace(obs=batch.obs.roll(1, -1))


def test_frames_are_shared_only_where_the_method_leaves_them_alone():
    for kind, shared in ((ALDA, True), (Shaken, False)):
        agent = accelerate(kind(ALDAConfig(**SIZES), SPEC), "fast")
        assert agent.representation.one_pass is shared
    batch = agent.augment(fill(Replay(SPEC, 100, 0.99)).sample(3))
    torch.testing.assert_close(
        agent.representation.encode_transition(batch).next_obs, agent.representation(batch.next_obs)
    )
