"""Training with Accelerate: the loop, its checkpoints and loaders, recipes and distillation.

It imports `models`, `data` and the floors below, and no other job.
"""
