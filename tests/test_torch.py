import sys
import warnings

import numpy as np
import pytest

import dynadnn as dn

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import torch.nn.functional as F  # noqa: E402
from cifar_resnet import CifarResNet, load_checkpoint  # noqa: E402
from torch import nn  # noqa: E402


def settle(module):
    """Eval mode, with batch norms that matter."""
    draw = torch.Generator().manual_seed(0)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1, generator=draw)
            m.running_var.uniform_(0.5, 1.5, generator=draw)
            if m.weight is not None:
                nn.init.uniform_(m.weight, 0.5, 1.5, generator=draw)
    return module.eval()


def agree(module, shape, bound=1e-5):
    """Outputs of module and network on random images."""
    settle(module)
    x = np.random.default_rng(0).standard_normal((3, *shape), np.float32)
    with torch.inference_mode():
        theirs = module(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).numpy()
    net = dn.from_torch(module, shape)
    ours = net(x)
    assert np.abs(ours - theirs).max() <= bound * max(1.0, np.abs(theirs).max())
    return net


class Function(nn.Module):
    """A module whose forward is a function of it and x."""

    def __init__(self, forward, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def head(channels, out=3):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, out)]


MODULES = {
    "batch norm after a convolution with bias": nn.Sequential(
        nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), *head(6)
    ),
    "a flatten of a map": nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1), nn.Flatten(), nn.Linear(384, 20), nn.ReLU(), nn.Linear(20, 3)
    ),
    "dropout between flatten and linear": nn.Sequential(
        nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3)
    ),
    "nested sequentials": nn.Sequential(
        nn.Sequential(nn.Conv2d(4, 6, 1), nn.Sequential(nn.Identity(), nn.ReLU6())), *head(6)
    ),
    "activations": nn.Sequential(
        nn.Conv2d(4, 6, 3),
        nn.LeakyReLU(0.2),
        nn.Conv2d(6, 6, 1),
        nn.Hardswish(),
        nn.Conv2d(6, 6, 1),
        nn.Hardsigmoid(),
        nn.Conv2d(6, 6, 1),
        nn.Sigmoid(),
        *head(6),
    ),
    "strides, dilation, groups, odd kernels": nn.Sequential(
        nn.Conv2d(4, 8, (3, 5), (2, 1), (1, 2), groups=2), nn.Conv2d(8, 8, 3, dilation=2, padding=2, groups=8), *head(8)
    ),
    "padding by name": nn.Sequential(nn.Conv2d(4, 6, 3, padding="same"), nn.Conv2d(6, 6, 3, padding="valid"), *head(6)),
    "average pools": nn.Sequential(nn.AvgPool2d(2), nn.AvgPool2d(3, 1, 1, count_include_pad=False), *head(4)),
    "adaptive pooling to 2 x 3": nn.Sequential(nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(24, 3)),
    "batch norm of features": nn.Sequential(*head(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)),
    "batch norm without scale": nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False), *head(6)),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_with(name):
    net = agree(MODULES[name], (8, 8, 4))
    assert list(net.points) == ["1.0"]


def sums_and_products(m, x):
    a, b = m.conv(x), m.conv2(x)
    return m.twelve(torch.cat([a + b, a * b], 1).mean((2, 3)))


def size_of_the_map(m, x):
    h = m.conv(x)
    return m.small(F.avg_pool2d(h, h.size()[3]).view(h.size(0), -1))


def excitation(m, x):
    return m.small((m.conv(x) * torch.sigmoid(m.gate(F.adaptive_avg_pool2d(m.conv2(x), 1)))).mean((2, 3)))


FUNCTIONS = {
    "functional relu, pool, flatten": lambda m, x: m.fc(torch.flatten(F.max_pool2d(F.relu(m.conv(x)), 2), 1)),
    "view with the batch's size": lambda m, x: m.fc(F.avg_pool2d(m.conv(x), 2).view(x.size(0), -1)),
    "view with shape[0]": lambda m, x: m.fc(F.avg_pool2d(m.conv(x), 2).view(x.shape[0], -1)),
    "reshape to a known size": lambda m, x: m.fc(m.conv(x).relu()[:, :, ::2, ::2].reshape(-1, 96)),
    "pooling as large as the map says": size_of_the_map,
    "a mean over pixels": lambda m, x: m.small(m.conv(x).mean((2, 3))),
    "a mean that keeps axes": lambda m, x: m.small(m.conv(x).mean([-1, -2], keepdim=True).flatten(1)),
    "add, mul and cat": sums_and_products,
    "squeeze and excitation": excitation,
    "spatial padding": lambda m, x: m.small(F.pad(m.conv(x), (1, 2, 0, 1)).mean((2, 3))),
    "channels padded, then a slice": lambda m, x: m.twelve(
        F.pad(m.conv(x), (0, 0, 0, 0, 3, 3))[:, :, ::2, ::2].mean((2, 3))
    ),
    "a slice, then channels padded": lambda m, x: m.twelve(
        F.pad(m.conv(x)[..., ::2, ::2], (0, 0, 0, 0, 2, 4)).mean((2, 3))
    ),
    "dropout and in-place relu": lambda m, x: m.small(F.dropout(F.relu_(m.conv(x)), 0.3, m.training).mean((2, 3))),
}


def layers():
    return {
        "conv": nn.Conv2d(4, 6, 3, padding=1),
        "conv2": nn.Conv2d(4, 6, 3, padding=1),
        "gate": nn.Conv2d(6, 6, 1),
        "fc": nn.Linear(96, 3),
        "small": nn.Linear(6, 3),
        "twelve": nn.Linear(12, 3),
    }


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_forward_with(name):
    agree(Function(FUNCTIONS[name], **layers()), (8, 8, 4))


def test_a_layer_used_twice_is_refused():
    module = Function(lambda m, x: m.small((m.conv(x) + m.conv(x)).mean((2, 3))), **layers())
    with pytest.raises(dn.UnsupportedError, match="used twice"):
        dn.from_torch(settle(module), (8, 8, 4))


def test_signals_and_features():
    agree(
        nn.Sequential(
            nn.Conv1d(2, 6, 5, 2, 2), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(48, 3)
        ),
        (32, 2),
    )
    module = settle(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)))
    x = np.random.default_rng(0).standard_normal((4, 5), np.float32)
    with torch.inference_mode():
        assert np.allclose(dn.from_torch(module, (5,))(x), module(torch.from_numpy(x)).numpy(), atol=1e-5)


def test_a_cifar_resnet_keeps_its_names_and_shortcuts():
    net = agree(CifarResNet(3), (32, 32, 3))
    assert net.macs() == 40_551_040 and "layer1.0.conv1.weight" in net.weights
    maps = [node.map for node in net._spec.nodes if node.op == "shortcut"]
    assert [len(m) for m in maps] == [32, 64] and maps[0][:9] == (-1,) * 8 + (0,)


def test_a_converted_network_becomes_dynamic():
    net = agree(CifarResNet(1), (16, 16, 3))
    made = net.make_dynamic((0.5, 1.0))
    x = np.random.default_rng(1).standard_normal((4, 16, 16, 3), np.float32)
    assert np.abs(net(x) - made(x)).max() < 1e-5 * max(1, np.abs(net(x)).max())
    made.recalibrate(x)
    assert np.isfinite(made(x, 0.5)).all()


@pytest.mark.parametrize(("name", "blocks"), [("resnet20-12fca82f.th", 3), ("resnet56-4bfd9763.th", 9)])
def test_pretrained_checkpoints_give_what_pytorch_gives(data_root, name, blocks):
    path = next(iter(sorted(data_root.rglob(name))), None)
    if path is None:
        pytest.skip(f"{name} is not below DYNADNN_DATA")
    module = load_checkpoint(path)
    net = dn.from_torch(module, (32, 32, 3), preprocess=dn.Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    with torch.inference_mode():
        theirs = module(torch.from_numpy(np.moveaxis(net.preprocess(x), -1, 1).copy())).numpy()
    assert np.abs(net(x) - theirs).max() < 1e-4 * np.abs(theirs).max()


UNSUPPORTED = {
    "GELU": (nn.Sequential(nn.Conv2d(4, 6, 3), nn.GELU(), *head(6)), "GELU"),
    "transposed convolution": (nn.Sequential(nn.ConvTranspose2d(4, 6, 3), *head(6)), "ConvTranspose2d"),
    "reflected padding": (
        nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), *head(6)),
        "padding_mode",
    ),
    "ceil mode": (nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True), *head(4)), "ceil_mode"),
    "padding that counts": (nn.Sequential(nn.AvgPool2d(3, 1, 1), *head(4)), "padding that counts"),
    "batch norm without statistics": (
        nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False), *head(4)),
        "running statistics",
    ),
    "a linear layer along the last axis": (nn.Sequential(nn.Linear(8, 8), *head(4)), "last axis"),
    "a constant": (Function(lambda m, x: x + 1.0), "constants"),
    "softmax": (Function(lambda m, x: torch.softmax(x.mean((2, 3)), 1)), "softmax"),
    "a mean over channels": (Function(lambda m, x: x.mean(1)), "mean"),
    "a cut of pixels": (Function(lambda m, x: x[:, :, 1:, 1:].mean((2, 3))), "slices"),
    "control flow on data": (Function(lambda m, x: x if x.sum() > 0 else -x), "cannot trace"),
    "several outputs": (Function(lambda m, x: (x.mean((2, 3)), x)), "one output"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_has_no_counterpart_is_named(name):
    module, text = UNSUPPORTED[name]
    with pytest.raises(dn.UnsupportedError, match=text):
        dn.from_torch(module.eval(), (8, 8, 4))


def test_shapes_that_do_not_fit_are_named():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), *head(8)).eval()
    with pytest.raises(ValueError, match="channels first"):
        dn.from_torch(module, (3, 32, 32))
    with pytest.raises(ValueError, match="0 takes 3 channels, its input has 4"):
        dn.from_torch(module, (8, 8, 4))
    with pytest.raises(TypeError, match=r"torch.nn.Module"):
        dn.from_torch(lambda x: x, (8, 8, 3))


def test_weights_that_are_not_finite_are_refused():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), *head(8)).eval()
    with torch.no_grad():
        module[0].weight[0] = float("nan")
    with pytest.raises(dn.NonFiniteError, match=r"0\.weight"):
        dn.from_torch(module, (8, 8, 3))


def test_without_pytorch_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r'pip install "dynadnn\[torch\]"'):
        dn.from_torch(None, (8, 8, 3))


def test_int8_is_right_where_signals_vary_less_than_the_statistics_say():
    """Twelve thin layers whose running variances are far above those of their sums: rounding is most of what varies."""
    torch.manual_seed(0)

    def norm(channels):
        made = nn.BatchNorm2d(channels)
        made.running_mean.normal_(0, 0.1)
        made.running_var.uniform_(0.8, 1.5)
        made.bias.data.normal_(0, 0.1)
        return made

    layers = [nn.Conv2d(3, 16, 3, padding=1, bias=False), norm(16), nn.ReLU6()]
    for _ in range(6):
        layers += [nn.Conv2d(16, 64, 1, bias=False), norm(64), nn.ReLU6()]
        layers += [nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False), norm(64), nn.ReLU6()]
        layers += [nn.Conv2d(64, 16, 1, bias=False), norm(16)]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).eval()
    net = dn.from_torch(module, (8, 8, 3))
    x = np.random.default_rng(0).normal(size=(24, 8, 8, 3)).astype(np.float32)
    expected = net(x[16:])
    error = np.abs(dn.quantize(net, x[:16])(x[16:]) - expected).max() / np.abs(expected).max()
    assert error < 0.01  # .003; .026 with the variances' ratio as correction


def test_channels_that_never_change_quantise_without_a_warning():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)
    )
    module.eval()[1].running_var.fill_(9)
    module[0].weight.data[0] = 0
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
    net = dn.from_torch(module, (8, 8, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = dn.quantize(net, x)
    assert np.abs(model(x) - net(x)).max() < 0.02
