import pytest
import torch
from conftest import SPEC, fill
from conftest import make_agent as make

from alda.agents.sac_ae import five_bits, newest
from alda.nets.conv import StackDecoder
from alda.nets.representation import PixelEncoder
from alda.training.replay import Replay
from alda.types import EnvSpec, Transition


def test_pixels_are_quantised_to_five_bits_as_in_this_table():
    pixels = torch.tensor([0, 7, 8, 127, 128, 247, 248, 255], dtype=torch.uint8)
    lowest = torch.tensor([0, 0, 1, 15, 16, 30, 31, 31]) / 32 - 0.5
    assert torch.equal(five_bits(pixels, torch.zeros(8)), lowest)
    torch.testing.assert_close(five_bits(pixels, torch.full((8,), 0.5)), lowest + 1 / 64, rtol=0, atol=1e-7)
    noise = torch.rand(8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(((five_bits(pixels, noise) + 0.5) * 32).floor(), (lowest + 0.5) * 32)


def test_the_newest_frame_is_the_last_of_the_decoded_stack():
    decoded = torch.full((1, 9, 2, 2), -7.0)
    decoded[:, 6:] = torch.tensor([-0.6, 0.25, 0.75]).view(3, 1, 1)
    assert newest(decoded)[0, :, 0, 0].tolist() == [0.0, 0.75, 1.0]


@pytest.mark.parametrize(("size", "side"), [(64, 25), (84, 35), (33, 10)])
def test_the_decoder_mirrors_the_encoder(size, side):
    """Sides as released at 64 and 84 pixels; an odd one needs no output padding."""
    spec = EnvSpec(frames=3, image_size=size, action_dim=1)
    encoder, decoder = PixelEncoder(spec, depth=4, last_relu=True), StackDecoder(50, 3, size)
    assert encoder.out_dim == 32 * side * side
    assert decoder.head[0].out_features == encoder.out_dim
    assert decoder(torch.zeros(2, 50)).shape == (2, 9, size, size)
    assert sum(p.numel() for p in decoder.convs.parameters()) == 3 * (32 * 32 * 9 + 32) + 32 * 9 * 9 + 9


def test_the_loss_equals_a_loop_over_pixels(replay):
    agent, batch = make("sac_ae", latent_coef=0.1), replay.sample(2)
    ends = agent.representation.encode_transition(batch)
    with torch.no_grad():
        code = agent.critic.trunk(agent.representation(batch.obs)).tolist()
        decoded = agent.decoder(torch.tensor(code)).double()
    torch.manual_seed(4)
    noise = torch.rand(2, 9, 64, 64).double()
    torch.manual_seed(4)
    metrics = agent.update_representation(batch, ends)

    total = 0.0
    for frame in range(3):
        for channel in range(3):
            steps = (batch.obs[:, frame, channel].double() / 8).floor()
            for b in range(2):
                target = steps[b] / 32 + noise[b, 3 * frame + channel] / 32 - 0.5
                total += ((decoded[b, 3 * frame + channel] - target) ** 2).sum().item()
    penalty = sum(0.5 * sum(h**2 for h in row) for row in code) / 2
    assert metrics["autoencoder/reconstruction"].item() == pytest.approx(total / (2 * 9 * 64 * 64), rel=1e-5)
    assert metrics["autoencoder/penalty"].item() == pytest.approx(penalty, rel=1e-5)
    expected = total / (2 * 9 * 64 * 64) + 0.1 * penalty
    assert metrics["autoencoder/loss"].item() == pytest.approx(expected, rel=1e-5)


def test_the_penalty_pulls_the_code_towards_zero(replay):
    """At weight w, the loss's gradient on the code is w * code / batch more than without."""
    batch, seen = replay.sample(3), []
    for coef in (0.0, 2.0):
        agent = make("sac_ae", latent_coef=coef)
        code = agent.code(batch.obs).detach().requires_grad_()
        agent.code = lambda _, code=code: code
        agent.descend = lambda *_, loss: loss.backward()
        torch.manual_seed(2)
        agent.update_representation(batch, agent.representation.encode_transition(batch))
        seen.append(code)
    torch.testing.assert_close(seen[1].grad - seen[0].grad, 2.0 * seen[1].detach() / 3, rtol=1e-4, atol=1e-6)


def moved(agent, change):
    before = {name: p.clone() for name, p in agent.named_parameters()}
    change()
    changed = {name for name, p in agent.named_parameters() if not torch.equal(p, before[name])}
    parts = ("representation", "decoder", "critic.trunk", "critic.q", "actor", "log_temperature")
    return {part for part in parts if any(name == part or name.startswith(part + ".") for name in changed)}


def test_each_loss_trains_exactly_its_own_parts(replay):
    agent, batch = make("sac_ae"), replay.sample(4)
    ends = agent.representation.encode_transition(batch)
    assert moved(agent, lambda: agent.update_critic(batch, ends)) == {"representation", "critic.trunk", "critic.q"}
    assert moved(agent, lambda: agent.update_representation(batch, ends)) == {
        *("representation", "critic.trunk", "decoder")
    }
    assert moved(agent, lambda: agent.update_actor(batch)) == {"actor", "log_temperature"}


def test_the_decoder_alone_decays_and_by_its_gradient():
    agent = make("sac_ae")
    decays = {name: o.param_groups[0]["weight_decay"] for name, o in agent.optimizers.items()}
    assert decays == {"critic": 0, "actor": 0, "temperature": 0, "encoder": 0, "decoder": 1e-7}
    assert type(agent.optimizers["decoder"]) is torch.optim.Adam  # whose decay is coupled, AdamW's is not


def test_the_decoder_learns_from_what_the_critic_left(replay, monkeypatch):
    """Its look at the frames comes after the critic's step, at weights that have changed."""
    agent, batch = make("sac_ae"), replay.sample(3)
    weights, look = [], agent.code
    monkeypatch.setattr(agent, "code", lambda obs: weights.append(agent.critic.trunk[0].weight.clone()) or look(obs))
    before = agent.critic.trunk[0].weight.clone()
    agent.learn(batch, actor=False, targets=False)
    assert len(weights) == 1
    assert not torch.equal(weights[0], before)


def test_two_images_are_learned():
    small = EnvSpec(frames=2, image_size=18, action_dim=1)
    agent = make("sac_ae", spec=small, embed_dim=16)
    obs = torch.zeros(2, 2, 3, 18, 18, dtype=torch.uint8)
    obs[0, :, :, :9] = 200
    obs[1, :, :, :, 9:] = 120
    batch = fill(Replay(small, 50, 0.99), steps=20).sample(2)._replace(obs=obs)
    ends = agent.representation.encode_transition(batch)
    first, *_, last = (agent.update_representation(batch, ends) for _ in range(150))
    assert last["autoencoder/reconstruction"] < 0.1 * first["autoencoder/reconstruction"]
    assert agent.diagnose(obs)["psnr"] > first["autoencoder/psnr"] + 10


def test_reconstruct_and_diagnose_say_the_same(replay):
    agent, obs = make("sac_ae"), replay.sample(3).obs
    image, truth = agent.reconstruct(obs).double() / 255, obs[:, -1].double() / 255
    assert image.shape == (3, 3, SPEC.image_size, SPEC.image_size)
    quality = -10 * ((image - truth) ** 2).mean().log10()
    assert agent.diagnose(obs)["psnr"].item() == pytest.approx(quality.item(), abs=0.01)


def test_reconstruction_may_learn_from_a_part_of_the_batch(replay):
    """The first so many transitions; Q-functions learn from all."""
    whole, part = make("sac_ae"), make("sac_ae", decoder_samples=2)
    batch, seen = replay.sample(4), []
    part.decoder.register_forward_hook(lambda *hooked: seen.append(len(hooked[-1])))
    for agent, given in ((whole, Transition(*(field[:2] for field in batch))), (part, batch)):
        torch.manual_seed(4)
        agent.metrics = agent.update_representation(given, agent.representation.encode_transition(given))
    assert seen == [2]
    assert whole.metrics.keys() == part.metrics.keys()
    for key, value in whole.metrics.items():
        assert torch.equal(part.metrics[key], value), key
