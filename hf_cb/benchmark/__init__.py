"""What the techniques cost in time and memory, beside other models and the published code's formulation.

It imports `models`, `data` and the floors below, and no other job.
"""
