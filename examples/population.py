"""Many policies trained together, losers stopped at their LR minima: about half a minute.

python examples/population.py
"""

import lrbench_hpo

study = lrbench_hpo.create_study(
    "digits", "mlp", max_iterations=300, pruner=lrbench_hpo.LRMinimaPruner(), seed=0
)
objective = lrbench_hpo.Objective("digits", "mlp")
counted = lrbench_hpo.optimize(study, objective, n_trials=16)

best = study.best_trial
print(lrbench_hpo.LRPolicy.from_dict(best.user_attrs["policy"]))
print("score:", round(best.user_attrs["score"], 4))
print("Top-1 on the test split:", objective.test(study)["top1"])
print("iterations trained, and spared by stopping:", counted["trained"], counted["stopped"])
objective.close()
