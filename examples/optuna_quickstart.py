"""Tune the LR policy of LeNet on handwritten digits: nothing to download, about a minute.

python examples/optuna_quickstart.py
"""

import lrbench_hpo

study = lrbench_hpo.create_study("digits", "lenet", max_iterations=300, seed=0)
objective = lrbench_hpo.Objective("digits", "lenet")
study.optimize(objective, n_trials=6)

best = study.best_trial
print("best policy:", lrbench_hpo.LRPolicy.from_dict(best.user_attrs["policy"]))
print("came from:  ", best.user_attrs["source"])
print("test split: ", objective.test(study))
