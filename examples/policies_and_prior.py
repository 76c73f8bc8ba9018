"""Policies by themselves, and what the LR database says about a task. No training, no torch.

python examples/policies_and_prior.py
"""

import numpy as np

import lrbench_hpo

policy = lrbench_hpo.LRPolicy("SINEXP", k0=1e-4, k1=0.9, gamma=0.99994, l=2000)
lrs = policy(np.arange(64_000))
print(f"{policy}: from {lrs.max():.3f} down to {lrs.min():.4f}, minima at", policy.minima(10_000))
print("with a warm-up:", lrbench_hpo.warmup(policy, 500)(np.array([0, 250, 500, 2500])).round(4))

print("\nknown good for CIFAR-10 / ResNet-32, rescaled to 6,400 iterations:")
for entry in lrbench_hpo.recommend("cifar10", "resnet32", n=3, max_iterations=6_400):
    print(f"  {entry.policy}  <- {entry.why}")

print("\nranked by Top-1, ties share a rank:")
[board, *_] = lrbench_hpo.leaderboards("mnist", "lenet", by="top1")
for place in board.ranked[:5]:
    print(f"  {place.rank}. {place.policy}  {place.mean:.4f}")
