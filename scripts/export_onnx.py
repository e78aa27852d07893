"""Export an image classifier to ONNX.

python scripts/export_onnx.py --help        the same as hf-cb export-onnx
"""

from hf_cb.__main__ import run


if __name__ == "__main__":
    run("export-onnx")
