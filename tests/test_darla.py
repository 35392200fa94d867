"""DARLA: its losses against loops, its stages, and the judgement between them."""

import json
from copy import deepcopy
from functools import partial

import pytest
import torch
from tiny import parts_moved, tiny_agent, tiny_replay
from torch import nn
from torch.distributions import Normal, kl_divergence

from alda.agents.darla import DARLA, DARLAConfig, beta_at
from alda.errors import LearningError, UserError
from alda.training.replay import Replay
from alda.training.tensors import join_tensors, split_tensors
from alda.types import EnvSpec

SPEC = EnvSpec(frames=3, image_size=16, action_dim=2)
make = partial(tiny_agent, "darla")


@pytest.fixture
def replay():
    return tiny_replay("darla")


def covers(corners, size):
    """Pixels whose centres a rectangle holds, one after the other."""
    (x0, x1), (y0, y1) = corners
    covered = torch.zeros(size, size, dtype=torch.bool)
    for row in range(size):
        for column in range(size):
            x, y = (column + 0.5) / size, (row + 0.5) / size
            covered[row, column] = min(x0, x1) <= x < max(x0, x1) and min(y0, y1) <= y < max(y0, y1)
    return covered


def test_the_denoiser_learns_the_whole_from_the_covered(replay):
    agent, frames = make(), replay.sample(3).obs[:, -1]
    torch.manual_seed(3)
    corners = torch.rand(3, 2, 2)  # uniform: a point at share p of a side is covered with probability 2 p (1 - p)
    image = frames.double() / 255
    covered = image * ~torch.stack([covers(one, 16) for one in corners.tolist()])[:, None]
    assert (covered == 0).sum() > (image == 0).sum()
    with torch.no_grad():
        decoded = agent.denoiser(covered.float()).sigmoid().double()
    torch.manual_seed(3)
    metrics = agent.learn_denoiser(frames)
    assert metrics["denoiser/loss"].item() == pytest.approx(((decoded - image) ** 2).mean().item(), rel=1e-5)


def test_the_vae_objective_equals_a_loop_over_images(replay):
    agent, frames = make(), replay.sample(3).obs[:, -1]
    agent.feature_std.uniform_(0.5, 2.0)
    image = frames.float() / 255
    with torch.no_grad():
        mean, log_var = agent.representation.encoder(image)
        torch.manual_seed(5)
        z = mean + log_var.exp().sqrt() * torch.randn(3, 4)  # exp(log variance), not its square
        decoded = agent.decoder(z).sigmoid()
        distance, divergence = 0.0, 0.0
        for b in range(3):
            seen, painted = (agent.denoiser.encoder(x[b : b + 1])[0] for x in (image, decoded))
            distance += sum(((p - s) / d).item() ** 2 for s, p, d in zip(seen, painted, agent.feature_std, strict=True))
            latents = Normal(mean[b], (0.5 * log_var[b]).exp())
            divergence += kl_divergence(latents, Normal(torch.zeros(4), torch.ones(4))).sum().item()
    torch.manual_seed(5)
    metrics = agent.learn_vae(frames, torch.tensor(2.5))
    assert metrics["vae/distance"].item() == pytest.approx(distance / 3, rel=1e-4)
    assert metrics["vae/kl"].item() == pytest.approx(divergence / 3, rel=1e-4)
    assert metrics["vae/loss"].item() == pytest.approx((distance + 2.5 * divergence) / 3, rel=1e-4)


class Told(nn.Module):
    """An encoder that gives what it is told, whatever it sees."""

    def __init__(self, mean, log_var):
        super().__init__()
        self.mean, self.log_var = nn.Parameter(mean), nn.Parameter(log_var)

    def forward(self, image):
        return self.mean.expand(len(image), -1), self.log_var.expand(len(image), -1)


def test_beta_rises_as_in_this_table():
    config = DARLAConfig(beta=4.0, beta_warm_up=10)
    table = {0: 0.0, 1: 0.4, 5: 2.0, 9: 3.6, 10: 4.0, 11: 4.0, 1_000: 4.0}
    assert {update: beta_at(update, config) for update in table} == pytest.approx(table)


def test_features_are_scaled_by_their_deviation_over_the_data(replay):
    agent = make(sample_frames=10)  # three batches of four
    agent.denoiser.encoder.convs[6].weight.data[0] = 0  # the last convolution's first channel does not vary
    torch.manual_seed(7)
    agent._scale_features(replay)
    torch.manual_seed(7)
    frames = torch.cat([replay.sample(4).obs[:, -1] for _ in range(3)])
    with torch.no_grad():
        features = agent.denoiser.encoder(frames.float() / 255).double()
    std = ((features - features.mean(0)) ** 2).sum(0).div(11).sqrt()
    least = 0.1 * std.mean()
    assert std[0] < least
    torch.testing.assert_close(agent.feature_std.double(), torch.where(std < least, least, std), rtol=1e-4, atol=0)


STAGES = {"denoiser_updates": 2, "vae_updates": 3, "catch_up_updates": 4, "random_steps": 6}
ORDER = ["learn_denoiser"] * 2 + ["learn_vae"] * 3 + ["learn"]


def spied(agent):
    called = []
    for name in agent.hot:
        method = getattr(agent, name)
        setattr(agent, name, lambda *a, n=name, m=method, **k: called.append(n) or m(*a, **k))
    return called


def test_stages_come_in_order_and_each_moves_its_own_parts(replay):
    agent = make(**STAGES, beta_warm_up=2, beta=3.0)
    assert [agent.updates_due(step) for step in range(9)] == [0] * 6 + [9, 1, 1]
    called, logged, moved = spied(agent), [], []
    for step in (6,) * 9 + (7, 8):
        names = parts_moved(agent, lambda step=step: logged.append(agent.update(replay, step)))
        moved.append({name.split(".")[0] + (".encoder" if ".encoder." in name else "") for name in names})
    assert called == ORDER + ["learn"] * 5
    assert [m["vae/beta"].item() for m in logged if "vae/beta" in m] == [0.0, 1.5, 3.0]
    judged = [i for i, metrics in enumerate(logged) if "darla/accepted" in metrics]
    assert judged == [4]  # the last of stage 1
    assert {"darla/active", "darla/psnr", "darla/psnr_gain", "vae/loss"} <= logged[4].keys()
    vae = {"representation.encoder", "decoder"}
    assert moved[2:5] == [vae, vae, vae | {"target_representation.encoder"}]  # which is made equal, once
    assert all(part == {"denoiser", "denoiser.encoder"} for part in moved[:2])
    sac = {"representation", "critic", "actor", "log_temperature", "target_representation", "target_critic"}
    assert moved[5] == sac
    online, target = (seen.encoder.state_dict() for seen in (agent.representation, agent.target_representation))
    assert all(torch.equal(value, target[name]) for name, value in online.items())


def test_steady_learning_is_stage_2_alone(replay):
    agent = DARLA(DARLAConfig(hidden_dim=16, batch_size=2).steady(), SPEC)
    called = spied(agent)
    assert [agent.updates_due(step) for step in range(4)] == [0, 0, 2, 1]
    agent.update(replay, 2)
    assert called == ["learn"]


def after(updates, replay, **config):
    agent = make(**{**STAGES, **config})
    torch.manual_seed(1)
    for _ in range(updates):
        agent.update(replay, 6)
    return agent


def saved(agent):
    """As it comes back from a file."""
    content, tensors = split_tensors(deepcopy(agent.training_state()))
    return deepcopy(agent.state_dict()), join_tensors(json.loads(json.dumps(content)), tensors)


@pytest.mark.parametrize("updates", [1, 2, 3, 5, 6])
def test_a_run_saved_anywhere_in_its_stages_goes_on_bit_for_bit(updates, replay):
    original = after(updates, replay)
    weights, training = saved(original)
    loaded = make(**STAGES)
    loaded.load_state_dict(weights)
    loaded.load_training_state(training)
    called = spied(loaded)
    for agent in (original, loaded):
        torch.manual_seed(2)
        for _ in range(4):
            agent.update(replay, 6)
    assert called == (ORDER + ["learn"] * 9)[updates : updates + 4]
    for name, value in original.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


@pytest.mark.usefixtures("_float64")
def test_one_pass_over_the_frames_learns_what_two_passes_learn():
    results, encoded = [], []
    for one_pass in (False, True):
        agent, replay = make(**STAGES), tiny_replay("darla")
        agent.representation.one_pass = one_pass
        with agent.representation.encoder.register_forward_hook(lambda *a: encoded.append(len(a[-1][0]))):
            features = agent.representation.encode_transition(replay.sample(3))
        assert features.obs.requires_grad
        assert not features.next_obs.requires_grad
        torch.manual_seed(1)
        losses = [agent.update(replay, 6) for _ in range(8)]
        results.append((losses[-1], agent.state_dict()))
    assert encoded == [9, 9, 12]
    (two_losses, two), (one_losses, one) = results
    assert one_losses.keys() == two_losses.keys()
    for name, value in two_losses.items():
        assert one_losses[name].item() == pytest.approx(value.item(), rel=1e-6, abs=1e-6), name
    for name, value in two.items():
        torch.testing.assert_close(one[name], value.to(one[name]), rtol=0, atol=1e-6)


class Painter(nn.Module):
    """Paints given images, one after another, whatever the code."""

    def __init__(self, images):
        super().__init__()
        self.logits = images.clamp(1e-4, 1 - 1e-4).logit()

    def forward(self, code):
        return self.logits[: len(code)]


class Seen(nn.Module):
    """A denoiser to which an image looks as it is."""

    def forward(self, image):
        return image.logit()


@pytest.mark.parametrize(
    ("active", "painted", "accepted"),
    [
        (6, 0.1, True),
        (5, 0.1, False),
        (0, 0.1, False),
        (8, 0.1, False),  # too many
        (7, 0.1, True),
        (6, 1.0, False),
        (6, 0.95, False),
        (6, torch.nan, False),
    ],
)
def test_a_beta_vae_is_accepted_for_latents_and_images(active, painted, accepted):
    """With so many active latents of eight, and images that keep a share of the distance to the mean image."""
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    instead = images + painted * (images.mean(0, keepdim=True) - images)
    agent = make(num_latents=8, batch_size=4, sample_frames=4, active_range=(6, 7))
    mean = torch.where(torch.arange(8) < active, 0.4, 0.2)  # 0.08 and 0.02 nats
    agent.representation.encoder = Told(mean, torch.zeros(8))
    agent.decoder, agent.denoiser = Painter(instead), Seen()
    agent._fresh = lambda _: iter([images])
    verdict = agent._judge(Replay(SPEC, 2, 0.99))
    assert verdict["accepted"] == accepted
    assert verdict["active"] == active
    gain = -20 * torch.tensor(painted).log10().item()  # what is left of the difference, squared
    assert verdict["psnr_gain"] == pytest.approx(gain, abs=0.01, nan_ok=True)
    truth = -10 * ((images - instead) ** 2).mean().log10()
    assert verdict["psnr"] == pytest.approx(truth.item(), abs=0.01, nan_ok=True)


def test_a_refusal_stops_the_run_again_and_again_until_it_is_told_to_continue(replay):
    impossible = {"min_psnr_gain": 100.0}
    free = after(5, replay, **impossible)
    refused = after(4, replay, **impossible, on_refusal="stop")
    called = spied(refused)
    for _ in range(3):
        with pytest.raises(LearningError, match=r"dB better than the mean image .*--agent.on-refusal continue") as told:
            refused.update(replay, 6)
        assert told.value.sound
    assert called == ["learn_vae"]  # counted at once, refused thrice
    weights, training = saved(refused)
    resumed = make(**STAGES, **impossible)
    resumed.load_state_dict(weights)
    resumed.load_training_state(training)
    assert resumed.update(replay, 6)["darla/accepted"] == 0.0  # in place of the one that was refused
    for agent in (free, resumed):
        torch.manual_seed(3)
        for step in range(6, 9):
            assert "critic/loss" in agent.update(replay, step)
    for name, value in free.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    good = after(4, replay, active_range=(0, 4), min_psnr_gain=0.0, on_refusal="stop")
    object.__setattr__(good.config, "min_psnr_gain", -100.0)  # after so few updates, any gain will do
    assert good.update(replay, 6)["darla/accepted"] == 1.0


def test_what_is_shown_of_a_frame_is_of_the_newest_through_the_denoiser(replay):
    agent, obs = make(), replay.sample(3).obs
    other = obs.clone()
    other[:, :-1] = 0
    assert agent.diagnose(obs) == agent.diagnose(other)
    with torch.no_grad():
        mean, log_var = agent.representation.encoder(obs[:, -1].float() / 255)
        image = agent.denoiser(agent.decoder(mean).sigmoid()).sigmoid()
    assert torch.equal(agent.reconstruct(obs), (image * 255).round().byte())
    numbers, by_latent = agent.diagnose(obs), 0.5 * (mean**2 + log_var.exp() - 1 - log_var).mean(0)
    assert numbers["kl"].item() == pytest.approx(by_latent.sum().item(), rel=1e-5)
    assert numbers["active"] == sum(value > 0.05 for value in by_latent.tolist())
    assert agent.sweep(agent.latents(obs), 9)[1].tolist() == [-3.0, -2.25, -1.5, -0.75, 0.0, 0.75, 1.5, 2.25, 3.0]


@pytest.mark.parametrize("setting", [{"active_range": (6, 2)}, {"active_range": (6, 32), "num_latents": 4}])
def test_a_criterion_that_nothing_can_meet_is_refused_before_anything_is_learned(setting):
    with pytest.raises(UserError, match=r"no beta-VAE of .* can have"):
        make(**setting)
