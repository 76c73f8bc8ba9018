"""Three objectives at once: Top-1 up, iterations to best down, loss difference down.

python examples/pareto.py
"""

import lrbench_hpo

study = lrbench_hpo.create_study(
    "digits", "mlp", max_iterations=300, objective="pareto", functions=["SINEXP", "COS", "STEP"]
)
study.optimize(lrbench_hpo.Objective("digits", "mlp"), n_trials=8)

print("no trial beats these in all three:")
for trial in study.best_trials:
    top1, iterations, difference = trial.values
    policy = lrbench_hpo.LRPolicy.from_dict(trial.user_attrs["policy"])
    print(f"  Top-1 {top1:.4f} after {iterations:.0f} iterations, gap {difference:.4f}: {policy}")
