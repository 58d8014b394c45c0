"""Published architectures: as many weights as published, and the arithmetic of an independent implementation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedkd.base.errors import UserError
from fedkd.base.streams import stream
from fedkd.models import ARCHITECTURES, Model, build_model
from fedkd.models.architecture import Shape
from fedkd.models.blocks.norm import normalised
from fedkd.models.blocks.resnet import BasicBlock
from fedkd.models.wrn import PreactivationBlock

RGB: Shape = (3, 32, 32)


def outlined(spec: str, shape: Shape, classes: int) -> Model:
    """The model without values."""
    with torch.device("meta"):
        return ARCHITECTURES.build(spec).build(shape, classes)


def count(spec: str, shape: Shape, classes: int) -> int:
    return sum(parameter.numel() for parameter in outlined(spec, shape, classes).parameters())


def resnet_size(n: int, classes: int) -> int:
    """Weights of the ResNet of He et al. with 6n + 2 layers and option A, by hand: convolutions, norms, head."""
    stem = 3 * 16 * 9 + 2 * 16
    first = 2 * n * (16 * 16 * 9 + 2 * 16)
    second = 16 * 32 * 9 + 2 * 32 + (2 * n - 1) * (32 * 32 * 9 + 2 * 32)
    third = 32 * 64 * 9 + 2 * 64 + (2 * n - 1) * (64 * 64 * 9 + 2 * 64)
    return stem + first + second + third + (64 + 1) * classes


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize(
    ("spec", "classes", "published"),
    [
        # He et al. 2016, table 6: 0.27 M, 0.46 M and 0.85 M.
        ("resnet8", 10, resnet_size(1, 10)),
        ("resnet20", 10, 269_722),
        ("resnet32", 10, 464_154),
        ("resnet56", 10, 853_018),
        # The networks that distillation is compared on, for the 100 classes of CIFAR-100.
        ("resnet8x4", 100, 1_233_540),
        ("resnet32x4", 100, 7_433_860),
        ("wrn(depth=16, width=2)", 100, 703_284),
        ("wrn(depth=40, width=2)", 100, 2_255_156),
        ("vgg8", 100, 3_965_028),
        ("vgg13", 100, 9_462_180),
        # Zagoruyko & Komodakis 2016, table 4: 36.5 M.
        ("wrn(depth=28, width=10)", 10, 36_479_194),
        # Strides have no weights: these are the sizes of the networks for ImageNet.
        ("mobilenet_v2", 1000, 3_504_872),
        ("shufflenet_v2(width=0.5)", 1000, 1_366_792),
        ("shufflenet_v2", 1000, 2_278_604),
        ("shufflenet_v2(width=1.5)", 1000, 3_503_624),
        ("shufflenet_v2(width=2.0)", 1000, 7_393_996),
    ],
)
def test_a_network_has_the_published_number_of_weights(spec: str, classes: int, published: int, norm: str) -> None:
    name, _, rest = spec.partition("(")
    assert count(f"{name}({rest.removesuffix(')') + ', ' if rest else ''}norm={norm!r})", RGB, classes) == published


@pytest.mark.parametrize(("n", "spec"), [(1, "resnet8"), (3, "resnet20"), (5, "resnet32"), (9, "resnet56")])
def test_a_resnet_of_6n_plus_2_layers_is_counted_by_hand(n: int, spec: str) -> None:
    assert count(spec, RGB, 10) == resnet_size(n, 10)
    convolutions = [module for module in outlined(spec, RGB, 10).modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) + 1 == 6 * n + 2


def test_the_baseline_of_federated_learning_has_the_weights_of_its_paper() -> None:
    # McMahan et al. 2017: 832 + 51,264 + 1,606,144 + 5,130.
    assert count("fedavg_cnn", (1, 28, 28), 10) == 1_663_370
    assert count("fedavg_cnn(padding=0)", (1, 28, 28), 10) == 582_026


@pytest.mark.parametrize("depth", [4, 9, 12, 17])
def test_a_wide_network_of_a_depth_that_three_stages_cannot_have_is_refused(depth: int) -> None:
    with pytest.raises(UserError, match=r"model wrn: depth"):
        ARCHITECTURES.build(f"wrn(depth={depth})")


def test_a_shufflenet_of_a_width_that_was_not_published_is_refused() -> None:
    with pytest.raises(UserError, match=r"shufflenet_v2: width: the widths of the paper are 0\.5, 1\.0, 1\.5, 2\.0"):
        ARCHITECTURES.build("shufflenet_v2(width=0.75)")


@pytest.mark.parametrize("width", [0.01, 0.35, 0.75, 1.4])
def test_channels_of_a_mobilenet_are_multiples_of_eight_and_no_tenth_is_lost(width: float) -> None:
    for module in outlined(f"mobilenet_v2(width={width})", RGB, 10).modules():
        if isinstance(module, nn.Conv2d):
            assert module.out_channels % 8 == 0
    stem = next(m for m in outlined(f"mobilenet_v2(width={width})", RGB, 10).modules() if isinstance(m, nn.Conv2d))
    assert 0.9 * 32 * width <= stem.out_channels < max(8, 32 * width + 8) + 1


def filled(network: nn.Module, name: str) -> nn.Module:
    """`network` with all tensors drawn anew, variances above 0, in evaluation."""
    rng = stream("independent", name)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=rng) * 0.2 + (0.5 if tensor.ndim == 1 else -0.1))
    return network.eval()


def assert_same_function(spec: str, theirs: nn.Module, x: Tensor, *, classes: int) -> None:
    """Our network gives the logits of another implementation when it has its tensors, taken in order."""
    ours = build_model(spec, (x.shape[1], x.shape[2], x.shape[3]), classes, 0, "init").eval()
    names, given = list(ours.state_dict()), list(theirs.state_dict().values())
    assert len(names) == len(given)
    ours.load_state_dict(dict(zip(names, given, strict=True)))
    torch.testing.assert_close(ours(x), theirs(x * 2 - 1), rtol=1e-3, atol=1e-4)


class TestArithmetic:
    """Against torchvision's layers, at strides for small images."""

    x = torch.rand(3, 3, 16, 16, generator=stream("independent"))

    def test_mobilenet(self) -> None:
        from torchvision.models import mobilenet_v2

        theirs: Any = filled(mobilenet_v2(num_classes=7), "mobilenet")
        theirs.features[0][0].stride = (1, 1)
        theirs.features[2].conv[1][0].stride = (1, 1)
        assert_same_function("mobilenet_v2(norm='batch')", theirs, self.x, classes=7)

    def test_shufflenet(self) -> None:
        from torchvision.models import shufflenet_v2_x0_5

        theirs: Any = filled(shufflenet_v2_x0_5(num_classes=7), "shufflenet")
        theirs.conv1[0].stride = (1, 1)
        theirs.maxpool = nn.Identity()
        assert_same_function("shufflenet_v2(width=0.5, norm='batch')", theirs, self.x, classes=7)

    @pytest.mark.parametrize(("spec", "times"), [("vgg8", 1), ("vgg13", 2)])
    def test_vgg(self, spec: str, times: int) -> None:
        from torchvision.models.vgg import make_layers

        plan = [*[64] * times, "M", *[128] * times, "M", *[256] * times, "M", *[512] * 2 * times]
        layers = make_layers(plan, batch_norm=True)
        theirs = nn.Sequential(layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 7))
        assert_same_function(f"{spec}(norm='batch')", filled(theirs, spec), self.x, classes=7)

    @pytest.mark.parametrize(("spec", "blocks"), [("resnet8x4", 1), ("resnet32x4", 5)])
    def test_resnet_with_projections(self, spec: str, blocks: int) -> None:
        from torchvision.models.resnet import BasicBlock as TheirBlock

        layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
        inputs = 32
        for stage, width in enumerate((64, 128, 256)):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                down = None
                if not block:
                    down = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))
                layers.append(TheirBlock(inputs, width, stride, down))
                inputs = width
        theirs = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 7))
        assert_same_function(f"{spec}(norm='batch')", filled(theirs, spec), self.x, classes=7)


class TestLimits:
    @staticmethod
    def without_residuals(block: type[nn.Module], made: nn.Module) -> None:
        """Let the convolved side of every block give zeros."""
        for module in made.modules():
            if isinstance(module, block):
                last: Any = list(module.get_submodule("convolutions").children())[-1]
                for parameter in last.parameters():
                    nn.init.zeros_(parameter)

    def test_shortcuts_of_option_a_subsample_and_pad_with_zeros(self) -> None:
        made = build_model("resnet20(norm='batch')", RGB, 10, 0, "init").eval()
        self.without_residuals(BasicBlock, made)
        x = torch.rand(2, *RGB, generator=stream("limits"))
        body: Any = made.body
        stem = body[:3](x * 2 - 1)
        # 16 channels get 8 on each side, 32 get 16: what the stem found stands in the middle of 64.
        wanted = torch.zeros(2, 64)
        wanted[:, 24:40] = stem[:, :, ::4, ::4].mean((2, 3))
        torch.testing.assert_close(made.features(x), wanted)

    def test_a_preactivated_block_without_its_convolutions_is_the_identity(self) -> None:
        block = PreactivationBlock(16, 16, 1, "group")
        self.without_residuals(PreactivationBlock, block)
        x = torch.randn(2, 16, 4, 4, generator=stream("limits"))
        assert torch.equal(block(x), x)

    def test_where_its_width_changes_the_shortcut_starts_after_the_activation(self) -> None:
        block = PreactivationBlock(16, 32, 2, "group")
        self.without_residuals(PreactivationBlock, block)
        assert block.shortcut is not None
        x = torch.randn(2, 16, 4, 4, generator=stream("limits"))
        active = torch.nn.functional.group_norm(x, 2).relu()
        places = active[:, :, ::2, ::2]
        wanted = torch.einsum("oi,nihw->nohw", block.shortcut.weight[:, :, 0, 0], places)
        torch.testing.assert_close(block(x), wanted)

    def test_group_statistics_are_those_of_half_of_the_channels_of_one_sample(self) -> None:
        x = torch.randn(3, 6, 4, 5, generator=stream("limits")) * 3 + 1
        halves = x.reshape(3, 2, -1)
        wanted = (halves - halves.mean(2, keepdim=True)) / halves.var(2, unbiased=False, keepdim=True).add(1e-5).sqrt()
        torch.testing.assert_close(normalised("group", 6)(x), wanted.reshape(x.shape))

    @pytest.mark.parametrize("spec", ["resnet20", "mobilenet_v2", "shufflenet_v2", "vgg8", "wrn"])
    def test_initial_weights_have_the_variance_of_he(self, spec: str) -> None:
        for module in build_model(spec, RGB, 10, 0, "init").modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 1000:
                reached = module.out_channels // module.groups * module.kernel_size[0] ** 2
                assert float(module.weight.detach().std()) == pytest.approx((2 / reached) ** 0.5, rel=0.12)


@pytest.mark.parametrize(("padding", "side"), [(0, 16), (1, 10), (2, 4)])
def test_fedavg_cnn_takes_images_down_to_what_its_convolutions_leave(padding: int, side: int) -> None:
    """As small as the message says, odd sides too, and no smaller."""
    spec = f"fedavg_cnn(padding={padding})"
    for height, width in ((side, side), (side + 1, side + 7)):
        model = build_model(spec, (1, height, width), 3, 0, "test")
        assert model(torch.zeros(2, 1, height, width)).shape == (2, 3)
    with pytest.raises(UserError, match=f"at least {side}×{side}"):
        build_model(spec, (1, side, side - 1), 3, 0, "test")
