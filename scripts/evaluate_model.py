"""Evaluate an image classifier: accuracy, calibration, and how it bears occlusion, corruption and attack.

python scripts/evaluate_model.py --help        the same as hf-cb evaluate
"""

from hf_cb.__main__ import run


if __name__ == "__main__":
    run("evaluate")
