"""Share a trained or converted model on the Hugging Face Hub.

python scripts/push_to_hub.py --help        the same as hf-cb push
"""

from hf_cb.__main__ import run


if __name__ == "__main__":
    run("push")
