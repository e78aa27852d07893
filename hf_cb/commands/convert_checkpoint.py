"""Convert a published checkpoint to ViT-CB, or to transformers' DeiT or Swin with techniques.

    python scripts/convert_checkpoint.py --checkpoint deit_featscale.pth --output_dir outputs/featscale

reads a checkpoint of the published AttnScale and FeatScale code, of DeiT, Swin, timm's VisionTransformer (`.pth`,
`.pt`, `.safetensors`) or Google (`.npz`), and writes a folder with the same logits and the right preprocessing, which
`hf_cb.from_pretrained` loads. A ViT becomes a ViT-CB, which `AutoModelForImageClassification.from_pretrained` loads
too. Nothing in the file is executed. ViT-B/16 takes a few seconds.

    python scripts/convert_checkpoint.py --timm_model deit_small_patch16_224 --output_dir outputs/deit-small
    python scripts/convert_checkpoint.py --checkpoint vit.pth --timm_model vit_base_patch16_224 --output_dir outputs/vit

takes weights and preprocessing from timm's model of that name (a download), or its preprocessing alone. And

    python scripts/convert_checkpoint.py --to timm --checkpoint outputs/deit-small --output_dir outputs/deit-small-timm

writes the weights of a ViT-CB folder without techniques as a timm state dict, `model.safetensors`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformers.utils import logging

from ..cli.flags import HfArg, ThreadArguments
from ..cli.parser import ArgumentParser, command_line, print_next
from ..conversion.convert import convert_checkpoint, convert_to_timm
from ..errors import UsageError


@dataclass
class ConversionArguments(ThreadArguments):
    """What is converted, and to what."""

    output_dir: str = HfArg(default="outputs/converted", help="Folder to write.")
    checkpoint: str | None = HfArg(default=None, help="File with the weights; with `--to timm` the folder of a ViT-CB.")
    to: Literal["vit_cb", "timm"] = HfArg(
        default="vit_cb", help="`timm` takes a ViT-CB without techniques back to a timm state dict."
    )
    timm_model: str | None = HfArg(
        default=None, help="Name of a timm model: its weights if no checkpoint is given, and its preprocessing."
    )
    num_attention_heads: int | None = HfArg(
        default=None, help="Needed where the tensors do not tell it and the width is no multiple of 64."
    )
    featscale_gain: int | None = HfArg(
        default=None,
        help="What FeatScale's scales are multiplied with: 2 (default), since the released DeiT code adds its"
        " two parts twice, or 1 for checkpoints trained before that code's change of April 2022; 1 by default for"
        " Swin, whose code adds them once.",
    )
    use_ema: bool = HfArg(default=False, help="Take the entry `model_ema` in place of `model`.")
    context_broadcast: Literal["none", "plain", "scaled"] = HfArg(
        default="none", help="Context Broadcasting to add; plain changes what the model computes."
    )
    overwrite_output_dir: bool = HfArg(default=False, help="Replace what stands in the folder.")


def main(arguments: Sequence[str] | None = None) -> None:
    (parsed,) = ArgumentParser(ConversionArguments, description=__doc__).parse(arguments)
    logging.disable_progress_bar()
    parsed.limit_threads()
    if parsed.to == "timm":
        _convert_to_timm(parsed)
        return
    conversion = convert_checkpoint(
        parsed.checkpoint,
        parsed.output_dir,
        num_attention_heads=parsed.num_attention_heads,
        featscale_gain=parsed.featscale_gain,
        use_ema=parsed.use_ema,
        context_broadcast=None if parsed.context_broadcast == "none" else parsed.context_broadcast,
        timm_model=parsed.timm_model,
        overwrite_output_dir=parsed.overwrite_output_dir,
        command=command_line("convert_checkpoint.py", arguments),
    )
    print(f"{conversion.describe()}: {parsed.output_dir}")
    print_next("evaluate", "--model_name_or_path", parsed.output_dir, "--validation_dir", "FOLDER")


def _convert_to_timm(parsed: ConversionArguments) -> None:
    for name in ("timm_model", "num_attention_heads", "featscale_gain", "use_ema", "context_broadcast"):
        if getattr(parsed, name) not in (None, False, "none"):
            raise UsageError(f"`{name}` does not go with `--to timm`: the ViT-CB's folder tells everything.")
    if parsed.checkpoint is None:
        raise UsageError("`--to timm` needs `--checkpoint`, the folder of a ViT-CB.")
    expression = convert_to_timm(parsed.checkpoint, parsed.output_dir, overwrite_output_dir=parsed.overwrite_output_dir)
    print(f"{parsed.output_dir}/model.safetensors, for timm.models.vision_transformer.{expression}")
