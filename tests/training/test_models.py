from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from lrbench_hpo.errors import TrainingError, UnknownNameError
from lrbench_hpo.records.tasks import MODELS
from lrbench_hpo.training import MODEL_FACTORIES, build_model, model_name
from lrbench_hpo.training.models.caffe import CNN3, LeNet, local_response_norm


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def linear(num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))


@pytest.mark.parametrize(
    ("name", "shape", "published"),
    [
        ("lenet", (1, 28, 28), 431_080),
        ("cnn3", (3, 32, 32), 89_578),
        ("resnet20", (3, 32, 32), 269_722),
        ("resnet32", (3, 32, 32), 464_154),
        ("resnet44", (3, 32, 32), 658_586),
        ("resnet56", (3, 32, 32), 853_018),
        ("resnet110", (3, 32, 32), 1_727_962),
    ],
)
def test_parameter_counts_are_the_published_ones(name, shape, published):
    assert count(build_model(name, 10, shape)) == published == MODELS[name].num_parameters


def test_the_tables_of_names_agree():
    assert set(MODEL_FACTORIES) == set(MODELS)


@pytest.mark.parametrize("name", ["lenet", "cnn3", "mlp", "resnet20"])
@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 28, 28), (3, 32, 32), (3, 27, 30)])
def test_every_model_takes_every_usual_shape(name, shape):
    model = build_model(name, 7, shape)
    assert model.training
    assert model(torch.zeros(3, *shape)).shape == (3, 7)


def test_initial_weights_depend_on_the_seed_alone_and_leave_torchs_state():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = build_model("resnet20", 10, (3, 32, 32), seed=3).state_dict()
    assert torch.equal(torch.rand(3), expected)
    two = build_model("resnet20", 10, (3, 32, 32), seed=3).state_dict()
    other = build_model("resnet20", 10, (3, 32, 32), seed=4).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["conv.weight"], other["conv.weight"])


def test_lenet_starts_as_caffes_xavier():
    model = build_model("lenet", 10, (1, 28, 28))
    bound = (3 / 800) ** 0.5
    assert bound * 0.98 < model.fc1.weight.abs().max() <= bound
    assert not model.fc1.bias.any()


def test_cnn3_starts_as_caffes_gaussians_with_its_decay_multipliers():
    model = build_model("cnn3", 10, (3, 32, 32))
    assert model.conv1.weight.std().item() == pytest.approx(1e-4, rel=0.1)
    assert model.conv2.weight.std().item() == pytest.approx(1e-2, rel=0.1)
    assert model.fc.weight.std().item() == pytest.approx(1e-2, rel=0.1)
    groups = model.parameter_groups(0.004)
    assert sum(p.numel() for g in groups for p in g["params"]) == count(model)
    rates = {id(p): (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert rates[id(model.fc.weight)] == (1.0, 1.0)
    assert rates[id(model.fc.bias)] == (2.0, 0.0)
    assert rates[id(model.conv2.bias)] == (2.0, 0.004)
    assert rates[id(model.conv2.weight)] == (1.0, 0.004)


def test_local_response_norm_is_its_formula_with_its_gradient():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    windows = nn.functional.unfold((x * x).view(6, 1, 5, 6), 3, padding=1).mean(1).view_as(x)
    assert torch.allclose(local_response_norm(x, alpha=0.5), x / (1 + 0.5 * windows) ** 0.75)
    inputs = x.requires_grad_()
    assert torch.autograd.gradcheck(lambda y: local_response_norm(y, alpha=0.5), inputs)


def test_local_response_norm_goes_through_vmap():
    x = torch.randn(4, 2, 3, 5, 5)
    mapped = torch.func.vmap(local_response_norm)(x)
    assert torch.allclose(mapped, torch.stack([local_response_norm(part) for part in x]))


def test_resnet_shortcut_has_no_parameters_and_keeps_every_second_pixel():
    block = build_model("resnet20", 10, (3, 32, 32)).stages[1][0]
    x = torch.rand(1, 16, 8, 8)
    shortcut = block.shortcut(x)
    assert shortcut.shape == (1, 32, 4, 4)
    assert torch.equal(shortcut[:, 8:24], x[:, :, ::2, ::2])
    assert not shortcut[:, :8].any()
    assert not shortcut[:, 24:].any()


def test_torchvision_models_take_grey_images():
    model = build_model("torchvision:resnet18", 5, (1, 32, 32))
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 5)


def test_a_users_model_is_found_by_path_class_factory_or_instance():
    by_path = build_model("lrbench_hpo.training.models.build:MLP", 4, (1, 8, 8))
    assert type(by_path).__name__ == "MLP"
    assert isinstance(build_model(LeNet, 4, (1, 16, 16)), LeNet)
    assert build_model(linear, 4, (1, 8, 8))[1].weight.shape == (4, 64)
    assert count(build_model(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), 4, (1, 8, 8)))
    mine = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    copied = build_model(mine, 4, (1, 8, 8))
    assert copied is not mine
    assert torch.equal(copied[1].weight, mine[1].weight)


@pytest.mark.parametrize("package", ["torch", "torchvision", "sklearn", "psutil"])
def test_a_missing_package_is_one_line_with_the_pip_command(package):
    code = f"import sys; sys.modules['{package}'] = None; import lrbench_hpo.training"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert "MissingExtraError" in last
    assert "pip install 'lrbench-hpo[torch]'" in last


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def broken(:", "SyntaxError: "),
        ("undefined_name", "NameError: name 'undefined_name' is not defined"),
        ("assert False", "AssertionError"),
        ("raise KeyError('x\\ny')", "KeyError: "),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_fails_to_import_is_one_line(tmp_path, monkeypatch, source, words):
    name = f"mine_{words[:6].lower()}"
    (tmp_path / f"{name}.py").write_text(source + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnknownNameError) as caught:
        build_model(f"{name}:net", 10, (1, 8, 8))
    assert f"model '{name}:net' cannot be imported ({words}" in str(caught.value)
    assert "\n" not in str(caught.value)


class Raising(nn.Module):
    """A network that raises what it is told, in the mode that it is told."""

    def __init__(self, error: Exception, training: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.error = error
        self.when = training

    def forward(self, images):
        if self.training == self.when:
            raise self.error
        return self.layer(images.flatten(1))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("x"), "(KeyError: 'x')"),
        (AttributeError("two\nlines"), "(AttributeError: two)"),
        (AssertionError(), "(AssertionError)"),
        (ZeroDivisionError("division"), "(ZeroDivisionError: division)"),
    ],
)
def test_a_factory_or_network_may_raise_anything(error, words):
    def factory():
        raise error

    for model in (factory, Raising(error, training=False)):
        with pytest.raises(TrainingError) as caught:
            build_model(model, 10, (1, 8, 8))
        assert words in str(caught.value)
        assert model_name(model) in str(caught.value)
        assert "1x8x8" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_names_for_the_record():
    assert model_name("resnet32") == "resnet32"
    assert model_name(CNN3) == "lrbench_hpo.training.models.caffe:CNN3"
    assert model_name(nn.Flatten()) == "torch.nn.modules.flatten:Flatten"


@pytest.mark.parametrize(
    ("model", "shape", "error", "words"),
    [
        ("lenett", (1, 28, 28), UnknownNameError, "did you mean lenet"),
        ("torchvision:resnet19", (3, 32, 32), UnknownNameError, "resnet18"),
        ("no.such.module:net", (3, 32, 32), UnknownNameError, "no.such.module"),
        ("lrbench_hpo.training.models.build:Nothing", (3, 32, 32), UnknownNameError, "Nothing"),
        ("lenet", (1, 8, 8), TrainingError, "at least 13 pixels"),
        ("torchvision:alexnet", (3, 16, 16), TrainingError, "3x16x16"),
        (lambda: nn.Flatten(), (1, 8, 8), TrainingError, r"gives \(2, 64\).* shape \(2, 10\)"),
        (lambda: "a network", (1, 8, 8), TrainingError, "no nn.Module"),
        (42, (1, 8, 8), TrainingError, "expected a name"),
        (dict, (1, 8, 8), TrainingError, "tells no signature"),
    ],
)
def test_models_that_cannot_be_built_are_one_line(model, shape, error, words):
    with pytest.raises(error, match=words) as caught:
        build_model(model, 10, shape)
    assert "\n" not in str(caught.value)
