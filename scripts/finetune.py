"""Fine-tune a ViT-CB, or any image classifier of transformers with techniques, with transformers' Trainer.

python scripts/finetune.py --help        the same as hf-cb finetune
"""

from hf_cb.__main__ import run


if __name__ == "__main__":
    run("finetune")
