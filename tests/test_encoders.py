import pytest
import torch

from legolas_metric.encoders import Conv4


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
