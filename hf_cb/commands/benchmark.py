"""Measure what the techniques cost.

    python scripts/benchmark.py

times a forward pass and a training step of ViT-S/16 with each technique and with all three, against transformers' ViT,
the techniques as their published code computes them (attention matrix in memory), and timm's ViT: interleaved, all in
one process. It prints median and range, and as ratios to transformers' ViT the median of the ratios within a round,
their range, and the ratio of the shortest times; then peak memory, operations, and how the cost grows from 65 to 4,097
tokens. Table, `all_results.json` and `benchmark.png` go to `outputs/benchmark`. On one thread of a CPU it takes about
ten minutes. For example

    python scripts/benchmark.py --models cb attn_scale all --num_rounds 30 --sweep_image_sizes
    python scripts/benchmark.py --model_type dinov2 --num_rounds 30 --sweep_image_sizes
    python scripts/benchmark.py --preset base --batch_size 256 --dtype bfloat16 --compile --device cuda

The second of these measures the techniques on DINOv2, against transformers' plain one. A training step is forward,
backward and AdamW's update. Memory is weights, optimizer state and what the step holds at its peak. The counted
operations are those of matrix products, which the techniques do not change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..benchmark.measure import ModelBenchmarkArguments, benchmark_models
from ..benchmark.report import format_tables, save_figure
from ..cli.flags import HfArg
from ..cli.output_dir import check_output_dir, replacing, write_json
from ..cli.parser import ArgumentParser


@dataclass
class OutputArguments:
    """Where the results go."""

    output_dir: str = HfArg(default="outputs/benchmark", help="Folder of the results.")
    overwrite_output_dir: bool = HfArg(default=False, help="Replace the run in that folder.")
    disable_tqdm: bool = HfArg(default=False, help="Show no progress bar.")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(OutputArguments, ModelBenchmarkArguments, description=__doc__)
    output, chosen = parser.parse(arguments)
    output_dir = check_output_dir(output.output_dir, output.overwrite_output_dir)
    results = benchmark_models(chosen, output.disable_tqdm)
    with replacing(output_dir) as folder:
        save_figure(results, folder / "benchmark.png")
        write_json(folder / "all_results.json", {"what": "model", **results})
    print(f"{results['setting']}\n\n{format_tables(results)}\n\n{output_dir}")
