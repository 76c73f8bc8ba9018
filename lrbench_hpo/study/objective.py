"""The built-in objective: one trial is one training run, stored as soon as it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from lrbench_hpo.checks import canonical_name
from lrbench_hpo.database import Database, connect
from lrbench_hpo.database.run_store import RunStore, impatient
from lrbench_hpo.errors import DatabaseError, StudyError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.repeats import repeatable, same_training
from lrbench_hpo.records.reports import best_evaluation, score_at
from lrbench_hpo.records.run import Run
from lrbench_hpo.records.score import score_run
from lrbench_hpo.records.tasks import Recipe, recipe_for
from lrbench_hpo.study import results
from lrbench_hpo.study.settings import StudySettings
from lrbench_hpo.study.suggest import suggest_policy

if TYPE_CHECKING:
    from lrbench_hpo.training import Trainer


class Objective:
    """Trains a model with the policy of an Optuna trial: ``study.optimize(Objective(…))``.

    Batch size, optimizer, budget and score come from the study. Each trial's run goes into the LR
    database as soon as it ends, whatever its end: complete, pruned or diverged. A training that
    the database already holds (same task, policy, budget, seed, device and versions) is not done
    again: its numbers would be the same.

    Args:
        dataset: a data set's name, the path of a ``.npz`` file or image folder, or a
            ``torch.utils.data.Dataset``.
        model: a model's name, ``torchvision:NAME``, ``package.module:factory``, or a callable.
        data: folder of the data set; ``LRBENCH_DATA`` when None.
        download: whether torchvision may download what is missing.
        database: URL or file of the LR database; ``LRBENCH_DATABASE_URL`` or the user's own
            when None.
        seed: of initial weights, data order and validation split: the same for every trial, so
            that policies are compared on equal terms.
        device: ``auto`` (CUDA when there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        amp: train in bfloat16 where it is safe.
        evaluations: most evaluations in a trial.

    Raises:
        LRBenchError: for names, data or a database that cannot work, before any training.
    """

    def __init__(
        self,
        dataset: Any,
        model: Any,
        *,
        data: str | Path | None = None,
        download: bool = False,
        database: str | Path | Database | None = None,
        seed: int = 0,
        device: str = "auto",
        amp: bool = False,
        evaluations: int = 10,
    ) -> None:
        from lrbench_hpo import training

        self.dataset = dataset
        self.model = model
        self.seed = seed
        self._device, self._amp, self._evaluations = device, amp, evaluations
        self._data = training.load_data(dataset, data, download=download, seed=seed)
        self._own_database = not isinstance(database, Database)
        if isinstance(database, Database):
            self.database = database
            database.check_writable()
        else:
            with connect(database) as patient:
                patient.check_writable()
            # From now on there is training to do: a result that has to wait costs nothing.
            self.database = connect(impatient(database))
        self.store = RunStore(self.database)
        self._lock = threading.Lock()
        self._trainer: tuple[Recipe, Trainer] | None = None
        self.on_progress: Callable[[optuna.Trial, int], None] | None = None
        self._best: tuple[float, str, Mapping[str, Any] | None] | None = None

    def __call__(self, trial: optuna.Trial) -> float | tuple[float, ...]:
        """Train with the policy of one trial.

        Returns:
            The score, or Top-1, iterations to best and absolute loss difference in a Pareto study.

        Raises:
            optuna.TrialPruned: when the study's pruner stops the trial.
            StudyError: for a study of another task.
        """
        settings = StudySettings.of(trial.study)
        policy = suggest_policy(trial)
        # Threads of n_jobs train one by one: they share torch's random numbers and all cores.
        with self._lock:
            run, state = self._run(trial, settings, policy)
        value = self.note(trial, settings, run, state)
        if run.status == "pruned":
            raise optuna.TrialPruned(f"stopped after {run.curve[-1].iteration} iterations")
        return value

    def note(
        self,
        trial: optuna.Trial,
        settings: StudySettings,
        run: Run,
        state: Mapping[str, Any] | None,
    ) -> float | tuple[float, ...]:
        """Record an ended run in its trial, and its weights for `test`; return the objective value.

        Args:
            trial: the trial.
            settings: of its study.
            run: its ended run.
            state: weights at the run's best evaluation, where they are at hand.
        """
        score = score_run(run, settings.weights)
        results.note(trial, run, score)
        complete = run.status == "complete"
        if complete and (self._best is None or score > self._best[0]):
            self._best = (score, run.uid, state)
        return results.values(run, score, settings.objective)

    @property
    def dataset_name(self) -> str:
        """The name that the data's results are stored under."""
        return self._data.name

    @property
    def task_details(self) -> dict[str, Any]:
        """What the data define of the task: classes, images, shape."""
        return {
            "num_classes": self._data.num_classes,
            "num_train": len(self._data.train) + len(self._data.validation),
            "image_shape": list(self._data.image_shape),
        }

    def prepare(self, study: optuna.Study) -> None:
        """Build the trainer now, so that settings which cannot work fail before the first trial.

        Raises:
            LRBenchError: for a study of another task, or a recipe that does not fit the data.
        """
        self.trainer_for(StudySettings.of(study))

    def test(self, study: optuna.Study) -> dict[str, Any]:
        """Measure the study's winner on the test split, once.

        The winner is the trial with the best score; its weights are those of its best
        evaluation. If they are not at hand, because another process or an earlier run trained
        it, it is trained again with the same seed. The study keeps the result.

        Raises:
            StudyError: when no trial has finished without diverging.
        """
        winner = results.winner_to_test(study)
        known = results.tested(study, winner)
        if known is not None:
            return known
        settings = StudySettings.of(study)
        trainer = self.trainer_for(settings)
        state = self._weights_of(winner)
        if state is None:
            policy = LRPolicy.from_dict(winner.user_attrs["policy"])
            state = trainer.train(policy, settings.scale.max_iterations).state
        measured = {**trainer.test(state), "trial": winner.number}
        study.set_user_attr("test", measured)
        return measured

    def must_train_again(self, study: optuna.Study) -> bool:
        """Whether `test` has to train the winner again, for its weights are not at hand."""
        winner = results.winner(study)
        if winner is None or results.tested(study, winner) is not None:
            return False
        return self._weights_of(winner) is None

    def _weights_of(self, trial: optuna.trial.FrozenTrial) -> Mapping[str, Any] | None:
        best = self._best
        return best[2] if best is not None and best[1] == trial.user_attrs["run"] else None

    def close(self) -> tuple[Run, ...]:
        """Try once more to store what could not be stored, and close the database.

        Returns:
            The runs that are still not stored; they wait in the file ``store.file``.
        """
        waiting = self.store.close()
        if self._own_database:
            self.database.close()
        return waiting

    def trainer_for(self, settings: StudySettings) -> Trainer:
        """The trainer of a study's trials.

        Raises:
            LRBenchError: for a study of another task, or a recipe that does not fit the data.
        """
        from lrbench_hpo.training import Trainer

        self._refuse_other_task(settings)
        task = settings.task
        budget = settings.scale.max_iterations
        recipe = recipe_for(task.dataset, task.model, task.to_dict(), max_iterations=budget)
        if self._trainer is None or self._trainer[0] != recipe:
            trainer = Trainer(
                self._data,
                self.model,
                recipe,
                device=self._device,
                amp=self._amp,
                seed=self.seed,
                task=task,
                evaluations=self._evaluations,
            )
            self._trainer = (recipe, trainer)
        return self._trainer[1]

    def _refuse_other_task(self, settings: StudySettings) -> None:
        # Data sets and models given as objects have no name of their own: the study's is theirs.
        given = ("data set", self.dataset, self._data.name, settings.task.dataset)
        for what, spec, mine, theirs in (
            given,
            ("model", self.model, self.model, settings.task.model),
        ):
            if isinstance(spec, str) and canonical_name(mine) != canonical_name(theirs):
                raise StudyError(
                    f"the study is for {what} {theirs!r}, the objective for {mine!r}: "
                    "give both the same names"
                )

    def _run(
        self, trial: optuna.Trial, settings: StudySettings, policy: LRPolicy
    ) -> tuple[Run, Mapping[str, Any] | None]:
        """The run of a policy, and its weights if it was trained here and now."""
        trainer = self.trainer_for(settings)
        budget = settings.scale.max_iterations
        stored = self.recalled(trainer, policy, budget)
        trial.set_user_attr("recalled", stored is not None)
        if stored is not None:
            replay(trial, settings, stored)
            return stored, None
        report_progress = self.on_progress
        trained = trainer.train(
            policy,
            budget,
            on_evaluation=lambda _, run: should_stop(trial, settings, run),
            on_progress=(lambda iteration: report_progress(trial, iteration))
            if report_progress
            else None,
        )
        self.store.add(trained.run)
        return trained.run, trained.state

    def recalled(
        self,
        trainer: Trainer,
        policy: LRPolicy,
        budget: int,
        differing: Mapping[str, Any] | None = None,
    ) -> Run | None:
        """A stored run of exactly this training, which would give the same numbers again.

        Only for the package's own data sets and models: the user's own may have changed.

        Args:
            trainer: of the study's trials.
            policy: the LR of every iteration.
            budget: in iterations.
            differing: what differs from this process's environment where it would be trained.
        """
        from lrbench_hpo.training import SOURCES
        from lrbench_hpo.training.cost import environment

        if not repeatable(self.dataset, self.model, SOURCES):
            return None
        task, here = trainer.task, environment(trainer.device, amp=self._amp)
        here |= differing or {}
        if self.store.waiting:
            return None  # the database is away
        try:
            stored = self.database.find(
                task.dataset, task.model, policy=policy, imported=False, curves=True
            )
        except DatabaseError:
            return None  # away for now: the run is trained, and waits until it can be stored
        return next(iter(same_training(stored, task, budget, self.seed, here)), None)


def should_stop(trial: optuna.Trial, settings: StudySettings, run: Run) -> bool:
    """Report a trial's score at an LR minimum; return whether its pruner stops it.

    Args:
        trial: the trial.
        settings: of its study.
        run: its run so far.
    """
    return report(trial, settings, run) and trial.should_prune()


def report(trial: optuna.Trial, settings: StudySettings, run: Run) -> bool:
    """Report a trial's score at an LR minimum; return whether it was reported.

    Args:
        trial: the trial.
        settings: of its study.
        run: its run so far.
    """
    # Optuna refuses reports in studies of several objectives.
    if settings.objective != "score" or run.status == "diverged":
        return False
    step = run.curve[-1].iteration
    if step in _reported(trial):
        return False  # the training started again: at this step the trial went on before
    trial.report(score_run(run, settings.weights), step)
    return True


def _reported(trial: optuna.Trial) -> Container[int]:
    """The steps that are reported already; Optuna warns of each that is reported again."""
    return trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values


def replay(trial: optuna.Trial, settings: StudySettings, run: Run) -> None:
    """Report the scores of a stored run, as its training would.

    Args:
        trial: the trial that recalls it.
        settings: of its study.
        run: the run, with its curve.
    """
    if settings.objective != "score":
        return
    best, reported = None, _reported(trial)
    for point in run.curve:
        if point.top1 is None or point.eval_loss is None or point.train_loss is None:
            continue
        best = point if best is None else best_evaluation((best, point)) or best
        if point.iteration not in reported:
            trial.report(score_at(best, run.max_iterations, settings.weights), point.iteration)
