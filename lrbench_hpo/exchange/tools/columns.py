"""What the columns of a training log are, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lrbench_hpo.errors import RecordError

_LR = re.compile(r"(?:^|[/_\-. ])(?:lr|learning[_\- ]?rate)(?:[/_\-. ]|$)", re.IGNORECASE)
_WORDS = re.compile(r"[^a-z0-9]+")
_VALIDATION = {"val", "valid", "validation", "eval", "dev"}
_TEST = {"test", "testing"}
_TRAIN = {"train", "training"}
_ACCURACY = {"acc", "accuracy", "top1", "acc1", "prec1"}
_STEPS = ("step", "global_step", "iteration", "iterations", "iter", "_step")
_EPOCHS = ("epoch", "epochs")


def lr_columns(names: Iterable[str]) -> list[str]:
    """The columns that hold learning rates.

    >>> lr_columns(["step", "lr-SGD", "train/learning_rate", "color"])
    ['lr-SGD', 'train/learning_rate']
    """
    return [name for name in names if _LR.search(name)]


def step_column(names: Sequence[str]) -> tuple[str, bool]:
    """The column that counts, and whether it counts epochs.

    Raises:
        RecordError: when there is none.

    >>> step_column(["epoch", "step", "lr"]), step_column(["epoch", "lr"])
    (('step', False), ('epoch', True))
    """
    by_key = {name.strip().lower(): name for name in reversed(names)}
    for known, epochs in ((_STEPS, False), (_EPOCHS, True)):
        for key in known:
            if key in by_key:
                return by_key[key], epochs
    raise RecordError("no column step, iteration or epoch: --map NAME=iteration names one")


def metric_columns(names: Sequence[str], split: str) -> dict[str, str]:
    """The columns of Top-1, training loss and evaluation loss, by our names.

    Where both are there, those of the split are taken: a test accuracy is no validation accuracy,
    and a training accuracy neither.

    >>> metric_columns(["loss", "accuracy", "val_loss", "val_accuracy"], "validation")
    {'top1': 'val_accuracy', 'train_loss': 'loss', 'eval_loss': 'val_loss'}
    """
    words = {name: set(_WORDS.split(name.lower())) for name in names}
    split_words = {"test": _TEST, "train": _TRAIN}.get(split, _VALIDATION)
    others = (_VALIDATION | _TEST | _TRAIN) - split_words

    def pick(wanted: set[str], having: set[str], without: set[str]) -> str | None:
        fits = [n for n, w in words.items() if w & wanted and not w & without and w & having]
        return min(fits, key=lambda n: ("epoch" not in words[n], len(n)), default=None)

    def plain(wanted: set[str]) -> str | None:
        known = _VALIDATION | _TEST | _TRAIN
        fits = [n for n, w in words.items() if w & wanted and not w & known]
        return min(fits, key=len, default=None)

    split_of_all = any(w & (_VALIDATION | _TEST) for w in words.values())
    found = {
        "top1": pick(_ACCURACY, split_words, others)
        or (None if split_of_all else plain(_ACCURACY)),
        "train_loss": pick({"loss"}, _TRAIN, _VALIDATION | _TEST) or plain({"loss"}),
        "eval_loss": pick({"loss"}, split_words - _TRAIN, others | _TRAIN),
    }
    return {ours: theirs for ours, theirs in found.items() if theirs is not None}
