"""Known data sets, models and recipes."""

import pytest

from lrbench_hpo.database.paper import paper_runs
from lrbench_hpo.errors import RecordError, UnknownNameError
from lrbench_hpo.records.tasks import DATASETS, MODELS, recipe_for, task_for


@pytest.mark.parametrize("task", sorted({run.task for run in paper_runs()}, key=str), ids=str)
def test_recipes_are_those_of_the_papers_table_ii(task):
    recipe = recipe_for(task.dataset, task.model)
    assert recipe.optimizer == task.optimizer
    assert (recipe.momentum, recipe.weight_decay) == (task.momentum, task.weight_decay)
    assert (recipe.batch_size, recipe.init) == (task.batch_size, task.init)
    budgets = {r.max_iterations for r in paper_runs() if r.task == task}
    assert budgets == {recipe.max_iterations}


def test_names_are_matched_without_case_and_dashes():
    assert recipe_for("CIFAR-10", "ResNet-32") == recipe_for("cifar10", "resnet32")


def test_the_callers_changes_win():
    recipe = recipe_for("mnist", "lenet", batch_size=32, optimizer="Adam", max_iterations=7)
    assert (recipe.batch_size, recipe.optimizer, recipe.max_iterations) == (32, "adam", 7)
    assert recipe_for("mnist", "lenet", batch_size=None) == recipe_for("mnist", "lenet")


def test_unknown_names_are_no_error():
    task = task_for("flowers", "vgg16")
    assert (task.dataset, task.num_classes, task.optimizer) == ("flowers", None, "sgd")
    assert task_for("flowers", "vgg16", details={"num_classes": 102}).num_classes == 102


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("model", MODELS)
def test_every_pair_has_a_recipe(dataset, model):
    recipe = recipe_for(dataset, model)
    assert recipe.max_iterations >= 300
    assert (recipe.augment == "none") or DATASETS[dataset].augment


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"optimizer": "adm"}, UnknownNameError, "did you mean adam"),
        ({"batch_size": 0}, RecordError, "batch_size=0.*leave it out"),
        ({"max_iterations": -5}, RecordError, "max_iterations=-5"),
        ({"max_iterations": 2.5}, RecordError, "whole number"),
        ({"batch_size": True}, RecordError, "whole number"),
    ],
)
def test_bad_recipes_are_refused(changes, error, says):
    with pytest.raises(error, match=says):
        recipe_for("mnist", "lenet", **changes)


def test_an_unknown_detail_is_refused():
    with pytest.raises(RecordError, match="colour"):
        task_for("mnist", "lenet", details={"colour": "red"})
