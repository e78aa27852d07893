"""How good a classifier is: accuracy, calibration, and what occlusion, corruption and attack do to it.

It imports `models`, `data` and the floors below, and no other job.
"""
