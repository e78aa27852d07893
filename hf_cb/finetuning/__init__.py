"""Fine-tuning with transformers' Trainer, LoRA included.

It imports `models`, `data` and the floors below, and no other job.
"""
