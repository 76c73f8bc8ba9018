"""Similarity of two tasks, from their metadata alone."""

from __future__ import annotations

import math

from lrbench_hpo.checks import canonical_name
from lrbench_hpo.records.run import Task
from lrbench_hpo.records.tasks import MODELS, dataset_info, model_family

SAME_TASK = 0.999
_ADAPTIVE = ("adam", "adamw")

# Factors of the similarity, one for each difference. The optimizer weighs most: the results of LRs
# with Adam and with SGD have a rank correlation of 0.39 on the same task, those with SGD with
# momentum one of 0.94 between tasks.
_SAME_SHAPE_OF_DATA = 0.85  # same family of data, channels and classes: MNIST and Fashion-MNIST
_SAME_DATA_FAMILY = 0.7
_OTHER_DATA = 0.4
_SAME_MODEL_FAMILY = 0.85
_OTHER_MODEL = 0.5
_RELATED_OPTIMIZER = 0.95  # SGD and Nesterov, Adam and AdamW
_OTHER_OPTIMIZER = 0.3
_OTHER_MOMENTUM = 0.7
# Rates: what a doubling of the ratio costs, so that exp(-rate) is left of it.
_CLASSES_RATE, _PARAMETERS_RATE, _BATCH_RATE, _BUDGET_RATE = 0.05, 0.03, 0.07, 0.15


def similarity(task: Task, other: Task) -> float:
    """How far results on one task should hold on another: 1 for the same task.

    Args:
        task: the task to be tuned.
        other: a task with known results.

    Returns:
        A share in (0, 1].

    >>> a, b = Task("mnist", "lenet", num_classes=10), Task("digits", "LeNet", num_classes=10)
    >>> similarity(a, a), similarity(a, b)
    (1.0, 0.85)
    """
    # similarity = data * model * optimizer * exp(-0.07 |log2(batch / batch')|).
    #
    # A product, because each difference alone can make results useless: with another kind of
    # optimizer, an equal data set helps little. It is about 0.2 where nothing but the size agrees.
    # Unknown facts count as equal.
    return round(
        _datasets(task, other)
        * _models(task, other)
        * _optimizers(task, other)
        * _ratio(task.batch_size, other.batch_size, _BATCH_RATE),
        4,
    )


def _datasets(task: Task, other: Task) -> float:
    if canonical_name(task.dataset) == canonical_name(other.dataset):
        return 1.0
    mine, theirs = dataset_info(task.dataset), dataset_info(other.dataset)
    if mine and theirs and mine.family == theirs.family:
        shape = (mine.image_shape[0], mine.num_classes)
        same = shape == (theirs.image_shape[0], theirs.num_classes)
        return _SAME_SHAPE_OF_DATA if same else _SAME_DATA_FAMILY
    return _OTHER_DATA * _ratio(task.num_classes, other.num_classes, _CLASSES_RATE)


def _models(task: Task, other: Task) -> float:
    if canonical_name(task.model) == canonical_name(other.model):
        return 1.0
    size = _ratio(task.num_parameters, other.num_parameters, _PARAMETERS_RATE)
    same_family = model_family(task.model) == model_family(other.model)
    return (_SAME_MODEL_FAMILY if same_family else _OTHER_MODEL) * size


def _optimizers(task: Task, other: Task) -> float:
    mine, theirs = task.optimizer, other.optimizer
    if mine is None or theirs is None:
        return 1.0
    if (mine in _ADAPTIVE) != (theirs in _ADAPTIVE):
        return _OTHER_OPTIMIZER
    factor = 1.0 if mine == theirs else _RELATED_OPTIMIZER
    momenta = (task.momentum, other.momentum)
    if None not in momenta and min(momenta) < 0.5 <= max(momenta):  # type: ignore[type-var, operator]
        factor *= _OTHER_MOMENTUM
    return factor


def _ratio(mine: int | None, theirs: int | None, rate: float) -> float:
    """The factor ``exp(-rate |log2(mine / theirs)|)`` of a difference in size; 1 if unknown."""
    if not mine or not theirs:
        return 1.0
    return math.exp(-rate * abs(math.log2(mine / theirs)))


def budget_share(max_iterations: int, known: float) -> float:
    """The factor of a result's weight for another budget: about 15 % is lost each doubling.

    Args:
        max_iterations: the new budget, in iterations.
        known: the result's budget.

    >>> budget_share(1_000, 1_000), round(budget_share(1_000, 4_000), 2)
    (1.0, 0.74)
    """
    return math.exp(-_BUDGET_RATE * abs(math.log2(max_iterations / known)))


def lr_ratio(task: Task, known: Task) -> float:
    """The factor between good LRs of two tasks with the same kind of optimizer.

    >>> known = Task("cifar10", "resnet32", optimizer="sgd", momentum=0.9, batch_size=128)
    >>> lr_ratio(Task("cifar10", "resnet32", optimizer="sgd", momentum=0.9, batch_size=512), known)
    4.0
    """
    # With B the batch size and m the momentum:
    #
    #     SGD:   B / B' * (1 - m) / (1 - m')    (Goyal et al. 2017, arXiv 1706.02677)
    #     Adam:  sqrt(B / B')                   (Malladi et al. 2022, arXiv 2205.10287)
    #
    # SGD with momentum moves the weights by about LR / (1 - m) times the gradient, so equal values
    # of LR / (1 - m) mean equal steps. Unknown facts count as equal.
    ratio = (task.batch_size or 1) / (known.batch_size or 1)
    if not task.batch_size or not known.batch_size:
        ratio = 1.0
    if task.optimizer in _ADAPTIVE:
        return math.sqrt(ratio)
    if task.momentum is not None and known.momentum is not None:
        ratio *= (1 - task.momentum) / (1 - known.momentum)
    return ratio


def same_lr_unit(task: Task, known: Task) -> bool:
    """Whether absolute LRs of one task can be compared with those of the other.

    Both optimizers are adaptive, or neither; and both networks see pixels of the same size.
    """
    same_kind = (task.optimizer in _ADAPTIVE) == (known.optimizer in _ADAPTIVE)
    return same_kind and _sees_bytes(task) == _sees_bytes(known)


def _sees_bytes(task: Task) -> bool:
    """Whether the model's usual inputs are bytes less their mean, as in Caffe's CIFAR-10 recipe."""
    known = {canonical_name(name): info for name, info in MODELS.items()}
    info = known.get(canonical_name(task.model))
    return info is not None and info.recipe.pixels == "caffe"
