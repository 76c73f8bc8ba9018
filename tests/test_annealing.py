import pytest

from lrbench_hpo import coordinates
from lrbench_hpo.annealing import FAR_SHORTER, annealed, far_shorter
from lrbench_hpo.coordinates import Scale
from lrbench_hpo.space_files import load_space

SPACES = ["default", "mnist-lenet", "cifar10-cnn3", "cifar10-resnet32"]


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("peak", [0.01, 1.0, 6.0, 9.0, 1e4])
def test_the_lr_falls_over_the_whole_budget_from_the_peak(name, peak):
    space, scale = load_space(name), Scale(120, 0.01)
    found = list(annealed(peak, space))
    assert found
    for function, point, moved in found:
        policy = coordinates.to_policy(function, point, scale)
        rates = policy(range(120))
        assert (rates[1:] <= rates[:-1]).all()
        assert rates[0] == pytest.approx(0.01 * point["peak"], rel=1e-3)
        assert rates[-1] < 0.05 * rates[0]
        assert moved == ([] if point["peak"] == peak else ["peak"])


def test_a_function_that_the_space_lacks_is_left_out():
    space = load_space("default").restricted(["COS", "FIX"])
    assert [function for function, _, _ in annealed(2.0, space)] == ["COS"]
    assert not list(annealed(2.0, load_space("default").restricted("FIX")))


def test_a_space_of_many_cycles_has_no_cosine_that_falls_once():
    functions = [function for function, _, _ in annealed(9.0, load_space("cifar10-resnet32"))]
    assert functions == ["POLY"]


def test_only_far_shorter_budgets_count():
    assert not far_shorter(1_000, FAR_SHORTER * 1_000)
    assert far_shorter(1_000, FAR_SHORTER * 1_000 + 1)
    assert not far_shorter(1_000, 10)
