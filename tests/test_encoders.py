import pytest
import torch

from legolas_metric.encoders import Conv4, ResNet1D


def test_conv4_has_the_literatures_shape_and_size():
    encoder = Conv4()
    assert encoder(torch.zeros(3, 1, 28, 28)).shape == (3, 64)
    # 3x3 kernels without bias (batch norm has one), and two parameters a channel of batch norm
    assert sum(p.numel() for p in encoder.parameters()) == 9 * 64 + 3 * 9 * 64 * 64 + 4 * 2 * 64


@pytest.mark.parametrize(("channels", "width", "size"), [(3, 8, 32), (1, 16, 84)])
def test_conv4_takes_other_images(channels, width, size):
    out = Conv4(in_channels=channels, width=width)(torch.zeros(2, channels, size, size))
    assert out.shape == (2, width * (size // 16) ** 2)


def test_conv4_is_the_plain_stack_of_layers():
    encoder = Conv4(width=5).eval()
    x = torch.rand(4, 1, 28, 28)
    expected = x
    for conv, norm, _, _ in encoder.blocks:
        y = torch.nn.functional.conv2d(expected, conv.weight, padding=1)
        y = norm.weight[:, None, None] * y / torch.sqrt(1 + torch.tensor(norm.eps)) + norm.bias[:, None, None]
        expected = torch.nn.functional.max_pool2d(y.relu(), 2)
    torch.testing.assert_close(encoder(x), expected.flatten(1))


def test_resnet1d_maps_signals_of_any_length():
    encoder = ResNet1D(in_channels=2, widths=(4, 8), kernel=5)
    assert encoder(torch.randn(3, 2, 64)).shape == encoder(torch.randn(3, 2, 301)).shape == (3, 8)
    # stem, then a block of each width: two convolutions, a shortcut of one sample, two parameters a channel of norm
    convolutions = 5 * 2 * 4 + (5 * 4 * 4 + 5 * 4 * 4 + 4 * 4) + (5 * 4 * 8 + 5 * 8 * 8 + 4 * 8)
    assert sum(p.numel() for p in encoder.parameters()) == convolutions + 2 * (4 + 3 * 4 + 3 * 8)


def test_resnet1d_is_a_chain_of_residual_blocks():
    encoder = ResNet1D(widths=(3, 5), kernel=3).eval()

    def convolved(x, conv, norm, stride):
        y = torch.nn.functional.conv1d(x, conv.weight, padding=conv.weight.shape[2] // 2, stride=stride)
        return norm.weight[:, None] * y / torch.sqrt(1 + torch.tensor(norm.eps)) + norm.bias[:, None]

    signal = torch.randn(4, 1, 50)
    x = convolved(signal, encoder.stem[0], encoder.stem[1], 2).relu()
    for block in encoder.blocks:
        first, norm1, _, second, norm2 = block.body
        y = convolved(convolved(x, first, norm1, 2).relu(), second, norm2, 1)
        x = (y + convolved(x, *block.shortcut, 2)).relu()
    torch.testing.assert_close(encoder(signal), x.mean(2))


@pytest.mark.parametrize("settings", [{"widths": ()}, {"kernel": 4}])
def test_resnet1d_says_what_it_cannot_be(settings):
    with pytest.raises(ValueError, match="expected at least one width and an odd kernel"):
        ResNet1D(**settings)
