"""Networks and distributions against published sizes, torch.distributions and hand-made cases."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from alda.agents.base import polyak_
from alda.errors import UserError
from alda.nets.conv import (
    EluDecoder,
    EluEncoder,
    FrameDecoder,
    FrameEncoder,
    HistoryEncoder,
    StackDecoder,
    StackEncoder,
)
from alda.nets.distributions import SquashedNormal
from alda.nets.mlp import Actor, Critic, initialize_


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_networks_have_the_released_sizes():
    assert count(FrameEncoder(12)) == 1_808_812
    assert count(FrameDecoder(12)) == 1_819_267
    assert count(HistoryEncoder(3, 12, 256)) == 17_272
    actor = Actor(256, 6, 256, 1024, "gelu", (-10.0, 2.0))
    critic = Critic(256, 6, 256, 1024, "gelu")
    assert (count(actor.policy), count(actor.trunk), count(critic.q)) == (1_325_068, 66_304, 2_639_874)
    assert [StackEncoder(3, size).out_dim for size in (64, 84)] == [3_872, 14_112]
    assert [StackEncoder(3, size, depth=4).out_dim for size in (64, 84)] == [32 * 25**2, 32 * 35**2]
    assert EluEncoder(64).out_dim == 1_024
    for latents in (2, 3, 11, 12, 256):
        assert HistoryEncoder(2, latents, 4).net[-1].in_features == 16 * (latents // 4 + 1)


@pytest.mark.parametrize("size", [16, 44, 61, 84])
def test_decoders_give_back_the_size_that_their_encoders_took(size):
    image, widths = torch.rand(2, 3, size, size), (4, 6, 8, 10)
    assert FrameDecoder(5, size, widths=widths)(FrameEncoder(5, size, widths=widths)(image)).shape == image.shape
    assert EluEncoder(size, widths)(image).shape == (2, EluEncoder(size, widths).out_dim)
    assert EluDecoder(7, size, widths)(torch.rand(2, 7)).shape == image.shape
    stack = torch.rand(2, 9, size, size)
    for halvings in (1, 2) if size == 16 else (1, 2, 3):
        encoder, decoder = StackEncoder(3, size, 4, 3, halvings), StackDecoder(7, 3, size, 4, 3, halvings)
        assert encoder(stack).shape == (2, encoder.out_dim)
        assert decoder(torch.rand(2, 7)).shape == stack.shape
        strides = [layer.stride[0] for layer in encoder.convs if isinstance(layer, nn.Conv2d)]
        assert strides == [2] * halvings + [1] * (3 - halvings)
        assert [layer.stride[0] for layer in decoder.convs if isinstance(layer, nn.ConvTranspose2d)] == strides[::-1]


def test_norm_instance_is_instance_normalisation():
    encoder = FrameEncoder(4)
    nn.init.normal_(encoder.convs[1].weight)
    x = torch.randn(2, 32, 8, 8)
    expected = F.instance_norm(x, weight=encoder.convs[1].weight, bias=encoder.convs[1].bias)
    torch.testing.assert_close(encoder.convs[1](x), expected)
    assert FrameEncoder(4, norm="layer").convs[1].num_groups == 1
    assert not any(isinstance(m, nn.GroupNorm) for m in FrameEncoder(4, norm="none").modules())


@pytest.mark.parametrize("conv", [nn.Conv2d(8, 16, 4, 2, 1), nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.Conv2d(4, 4, 3)])
def test_convolutions_start_delta_orthogonal_and_linear_layers_orthogonal(conv):
    initialize_(conv)
    tap = conv.kernel_size[0] // 2
    matrix, rest = conv.weight[:, :, tap, tap].detach().clone(), conv.weight.detach().clone()
    rest[:, :, tap, tap] = 0
    assert rest.abs().max() == 0
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    torch.testing.assert_close(small @ small.T, 2 * torch.eye(len(small)), rtol=0, atol=1e-5)  # gain sqrt 2
    initialize_(linear := nn.Linear(16, 8))
    torch.testing.assert_close(linear.weight @ linear.weight.T, torch.eye(8), rtol=0, atol=1e-5)
    assert max(conv.bias.abs().max(), linear.bias.abs().max()) == 0
    assert (FrameEncoder(12).apply(initialize_).convs[0].weight != 0).sum() == 96  # as released


def test_log_probability_and_entropy_equal_torch_distributions():
    torch.manual_seed(0)
    mean, log_std = torch.randn(500, 3).double(), torch.randn(500, 3).double() * 0.5 - 1
    policy, normal = SquashedNormal(mean, log_std), Independent(Normal(mean, log_std.exp()), 1)
    action, log_prob = policy.rsample()
    safe = action.abs().amax(-1) < 0.999
    truth = TransformedDistribution(normal, [TanhTransform()]).log_prob(action)
    torch.testing.assert_close(log_prob[safe], truth[safe], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(policy.gaussian_entropy(), normal.entropy())
    far = SquashedNormal(torch.tensor([[40.0, -40.0]]), torch.zeros(1, 2))
    assert far.rsample()[1].isfinite().all()
    assert torch.equal(far.mode, torch.tensor([[1.0, -1.0]]))


def test_log_std_stays_within_its_bounds():
    actor = Actor(4, 2, 8, 16, "gelu", (-10.0, 2.0))
    nn.init.normal_(actor.policy[-1].weight, std=1_000)
    log_std = actor(torch.randn(1_000, 4)).log_std
    assert log_std.min().item() == pytest.approx(-10, abs=1e-3)
    assert log_std.max().item() == pytest.approx(2, abs=1e-3)


@pytest.mark.parametrize("size", [44, 64])
def test_a_decoder_that_shuffles_pixels_lays_channels_out_as_blocks(size):
    """By hand: pixel (4y + i, 4x + j) of colour c is channel 16c + 4i + j at (y, x)."""
    decoder, code = FrameDecoder(6, size, widths=(4, 6, 8, 10), shuffle=True), torch.randn(2, 6)
    *layers, conv, _ = decoder.convs
    small, image = conv(nn.Sequential(*layers)(decoder.head(code))), decoder(code)
    assert image.shape == (2, 3, size, size)
    for c, y, x, i, j in [(0, 0, 0, 0, 0), (2, 3, 5, 1, 2), (1, size // 4 - 1, 0, 3, 3)]:
        assert torch.equal(image[:, c, 4 * y + i, 4 * x + j], small[:, 16 * c + 4 * i + j, y, x])
    with pytest.raises(UserError, match="a multiple of 4 pixels, not 46"):
        FrameDecoder(6, 46, shuffle=True)


def test_q_functions_may_be_normalised():
    plain, normed = (Critic(5, 2, 8, 16, "relu", norm=norm) for norm in (False, True))
    assert count(normed) - count(plain) == 2 * 2 * 2 * 16  # two Qs, two layers, gain and offset
    assert normed.q[0][:2](torch.randn(4, 10)).mean(-1).abs().max() < 1e-5


def test_a_target_that_lacks_parts_follows_in_those_it_has():
    source = nn.ModuleDict({"encoder": nn.Linear(3, 4), "history": nn.Linear(4, 2)})
    target = nn.ModuleDict({"encoder": nn.Identity(), "history": nn.Linear(4, 2)})
    expected = [0.75 * t + 0.25 * s for t, s in zip(target.parameters(), source["history"].parameters(), strict=True)]
    polyak_(target, source, 0.25)
    for found, wanted in zip(target.parameters(), expected, strict=True):
        torch.testing.assert_close(found.data, wanted.data)
