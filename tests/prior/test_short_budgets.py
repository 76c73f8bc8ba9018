import pytest

from lrbench_hpo.policies import coordinates
from lrbench_hpo.policies.coordinates import Scale
from lrbench_hpo.policies.space_files import load_space
from lrbench_hpo.prior.short_budgets import FAR_SHORTER, annealed, far_shorter

SPACES = ["default", "mnist-lenet", "cifar10-cnn3", "cifar10-resnet32"]


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("peak", [0.01, 1.0, 6.0, 9.0, 1e4])
def test_the_lr_falls_over_the_whole_budget_from_the_peak(name, peak):
    function, point, moved = annealed(peak, load_space(name))
    rates = coordinates.to_policy(function, point, Scale(120, 0.01))(range(120))
    assert (rates[1:] <= rates[:-1]).all()
    assert rates[0] == pytest.approx(0.01 * point["peak"], rel=1e-3)
    assert rates[-1] < 0.05 * rates[0]
    assert moved == ([] if point["peak"] == peak else ["peak"])


def test_the_first_function_that_can_fall_once_is_taken():
    space = load_space("default")
    assert annealed(2.0, space)[0] == "COS"
    assert annealed(2.0, space.restricted(["POLY", "FIX"]))[0] == "POLY"
    assert annealed(2.0, space.restricted("FIX")) is None
    # A space of many cycles has no cosine that falls once.
    assert annealed(9.0, load_space("cifar10-resnet32"))[0] == "POLY"


def test_only_far_shorter_budgets_count():
    assert not far_shorter(1_000, FAR_SHORTER * 1_000)
    assert far_shorter(1_000, FAR_SHORTER * 1_000 + 1)
    assert not far_shorter(1_000, 10)
