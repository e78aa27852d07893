"""Export an image classifier to ONNX.

python scripts/export_onnx.py --help
"""

from hf_cb.cli.parser import run
from hf_cb.commands.export_onnx import main


if __name__ == "__main__":
    run(main)
