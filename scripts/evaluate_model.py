"""Evaluate an image classifier: accuracy, calibration, and how it bears occlusion, corruption and attack.

python scripts/evaluate_model.py --help
"""

from hf_cb.cli.parser import run
from hf_cb.commands.evaluate_model import main


if __name__ == "__main__":
    run(main)
