"""How alike tasks are, and how LRs scale between them."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from lrbench_hpo.prior.similarity import lr_ratio, same_lr_unit, similarity
from lrbench_hpo.records.tasks import DATASETS, MODELS, recipe_for, task_for

TASKS = st.builds(
    lambda dataset, model, optimizer, batch: task_for(
        dataset, model, recipe_for(dataset, model, optimizer=optimizer, batch_size=batch)
    ),
    st.sampled_from([*DATASETS, "flowers"]),
    st.sampled_from([*MODELS, "vgg16", "torchvision:resnet18"]),
    st.sampled_from(["sgd", "nesterov", "adam", "adamw"]),
    st.integers(1, 4096),
)


@given(TASKS, TASKS)
def test_it_is_a_symmetric_share_and_one_for_the_same_task(task, other):
    assert similarity(task, task) == 1
    assert 0 < similarity(task, other) <= 1
    assert similarity(task, other) == similarity(other, task)


@given(TASKS, TASKS)
def test_lr_ratios_are_inverse(task, other):
    if same_lr_unit(task, other):
        assert lr_ratio(task, other) * lr_ratio(other, task) == pytest.approx(1)


def test_order_of_likeness():
    def to(dataset, model, **changes):
        other = task_for(dataset, model, recipe_for(dataset, model, **changes))
        return similarity(task_for("mnist", "lenet"), other)

    likeness = [
        to("mnist", "lenet"),
        to("mnist", "lenet", batch_size=200),
        to("kmnist", "lenet"),
        to("mnist", "mlp"),
        to("cifar10", "cnn3"),
        to("cifar10", "resnet32"),
    ]
    assert likeness == sorted(likeness, reverse=True)
    assert to("mnist", "lenet", momentum=0.0) < to("mnist", "lenet", batch_size=200) < 1
    assert to("mnist", "lenet", optimizer="nesterov") < 1
    assert to("mnist", "lenet", optimizer="adam") < to("cifar10", "cnn3") < to("kmnist", "lenet")


def test_lr_scales_with_batch_and_momentum():
    def task(optimizer, batch, momentum=0.9):
        details = {"optimizer": optimizer, "batch_size": batch, "momentum": momentum}
        return task_for("cifar10", "resnet32", details=details)

    assert lr_ratio(task("sgd", 512), task("sgd", 128)) == pytest.approx(4)
    assert lr_ratio(task("adam", 512), task("adam", 128)) == pytest.approx(2)
    assert lr_ratio(task("sgd", 128, 0.0), task("sgd", 128, 0.9)) == pytest.approx(10)
    assert not same_lr_unit(task("adam", 128), task("sgd", 128))


def test_networks_that_see_bytes_have_their_own_lr_unit():
    """Caffe's CIFAR-10 recipe feeds 0 to 255: its LRs are a thousandth of others'."""
    caffe, lenet, resnet = (task_for("cifar10", m) for m in ("CNN-3", "lenet", "resnet32"))
    assert not same_lr_unit(caffe, resnet)
    assert not same_lr_unit(lenet, caffe)
    assert same_lr_unit(caffe, task_for("mnist", "cnn3"))
    assert same_lr_unit(lenet, resnet)
    assert same_lr_unit(task_for("flowers", "somebodys_net"), resnet)


@given(TASKS, TASKS)
def test_having_one_lr_unit_is_mutual(task, other):
    assert same_lr_unit(task, task)
    assert same_lr_unit(task, other) == same_lr_unit(other, task)


def test_more_classes_are_less_alike():
    here = task_for("flowers", "lenet", details={"num_classes": 10})
    few, many = (task_for("shells", "lenet", details={"num_classes": n}) for n in (10, 1_000))
    assert similarity(here, many) < similarity(here, few)
