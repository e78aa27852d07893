"""Try the papers' claims: train each technique at several depths over several seeds, and measure what it changes.

    python scripts/study.py

trains plain ViTs and those with CB, CB_S, AttnScale, FeatScale and all together (CB in its plain form) on the digits,
6 and 12 layers deep, over 5 seeds: 60 runs, two at a time, in under an hour on two cores. It writes `study.md` (a table
with paired differences to plain and their intervals), `study.json`, `study.png` and the runs to `outputs/study`.
Started again it goes on where it ended. Every flag that is not listed below goes to `scripts/train.py`, the same for
all runs:

    python scripts/study.py --depths 6 12 24 --train_file train.parquet --validation_file validation.parquet \
        --image_size 32 --output_dir outputs/study-glyphs
"""

import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers.utils import logging

from ..analysis.models import AnalyzedModel
from ..analysis.running import ImageBatches, analyze
from ..analysis.study import Run, RunPool, StudyFolder
from ..analysis.study_results import RUN_RESULTS, mean_over_seeds, render_table, save_study, summarise
from ..cli.flags import Checked, HfArg
from ..cli.output_dir import check_output_dir, replacing, write_json
from ..cli.parser import ArgumentParser, command_line
from ..cli.progress import progress_bar
from ..cli.record import describe_run
from ..data.sources import DataArguments, ImageData, load_data
from ..errors import UsageError
from ..techniques.variants import VARIANTS


# what the study itself decides for each run
RESERVED = ("seed", "num_hidden_layers", "context_broadcast", "attn_scale", "feat_scale", "resume_from_checkpoint")
TRAIN_COMMAND = (sys.executable, "-m", "hf_cb", "train")
STUDY_FILES = ("study.json", "study.md", "study.png")
EVAL_BATCH_SIZE = 64


@dataclass
class StudyArguments(Checked):
    """Which runs, and where they go. All other flags are those of scripts/train.py."""

    output_dir: str = HfArg(default="outputs/study", help="Folder of the study.")
    variants: list[str] = HfArg(default_factory=lambda: list(VARIANTS), help=", ".join(VARIANTS) + ".")
    depths: list[int] = HfArg(default_factory=lambda: [6, 12], help="Numbers of layers.")
    seeds: list[int] = HfArg(default_factory=lambda: list(range(5)), help="Seeds, for each of them.")
    num_train_epochs: int = HfArg(default=20, help="Epochs of each run.")
    num_workers: int = HfArg(default=2, help="Runs at a time, each a process of one thread.")
    overwrite_output_dir: bool = HfArg(default=False, help="Remove the runs that are there first.")
    disable_tqdm: bool = HfArg(default=False, help="Show no progress bar.")

    def __post_init__(self) -> None:
        different = "one value or several different ones"
        self.require_all("variants depths seeds", lambda values: 0 < len(set(values)) == len(values), different)
        self.require_all("variants", lambda names: set(names) <= set(VARIANTS), f"among {', '.join(VARIANTS)}")
        self.require_all("depths", lambda depths: min(depths) >= 1, "numbers of at least 1")
        self.require_all("seeds", lambda seeds: min(seeds) >= 0, "numbers of at least 0")
        self.require_all("num_train_epochs num_workers", lambda value: value >= 1, "at least 1")

    def runs(self) -> list[Run]:
        """Seed by seed, so that a study that is cut short has all variants."""
        return [Run(d, v, s) for s, d, v in product(self.seeds, self.depths, self.variants)]


def main(arguments: Sequence[str] | None = None) -> None:
    study, training = ArgumentParser(StudyArguments, description=__doc__).parse_known(arguments)
    # only whether it can be a folder: a study goes on in its own
    output_dir = check_output_dir(study.output_dir, overwrite=True)
    data_arguments = check_training_arguments(training)
    description = describe_run(study)
    settings = {
        "training_arguments": training,
        "num_train_epochs": study.num_train_epochs,
        "versions": description["versions"],
    }
    folder = StudyFolder(output_dir, settings)
    if study.overwrite_output_dir:
        folder.remove_runs()
    folder.check_settings()
    with ended_by_sigterm():
        train_all(study, folder, training)
        analyses = analyze_all(study, folder, data_arguments)
    results = {one: folder.results(one) for one in study.runs()}
    command = command_line("study.py", arguments)
    write_study(output_dir, results, analyses, {**description, **settings, "command": command})
    print((output_dir / "study.md").read_text(encoding="utf-8"))


def check_training_arguments(arguments: Sequence[str]) -> DataArguments:
    """The data among the arguments for scripts/train.py.

    Raises:
        UsageError: an argument is no flag, or is one that the study decides for each run.
    """
    if arguments and not arguments[0].startswith("--"):
        raise UsageError(f"unknown argument {arguments[0]!r}: flags begin with --; --help lists them.")
    taken = [name for name in flags_in(arguments) if name in RESERVED]
    if taken:
        raise UsageError(f"--{taken[0]} is decided by the study for each run: see --variants, --depths and --seeds.")
    return ArgumentParser(DataArguments).parse_known(arguments)[0]


def flags_in(arguments: Sequence[str]) -> list[str]:
    """The names of the flags on a command line; their words may be joined by hyphens too."""
    words = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    return [word.removeprefix("--").replace("-", "_") for word in words]


def train_all(study: StudyArguments, folder: StudyFolder, training: Sequence[str]) -> None:
    """Train the runs that are not complete."""
    left = [one for one in study.runs() if not folder.is_complete(one)]
    shared = [*training, "--num_train_epochs", str(study.num_train_epochs), "--disable_tqdm"]
    if "dataloader_num_workers" not in flags_in(training):
        # a loading process for each run would take a core from another
        shared += ["--dataloader_num_workers", "0"]
    pool = RunPool(folder, TRAIN_COMMAND, shared, study.num_workers)
    done, total = len(study.runs()) - len(left), len(study.runs())
    with progress_bar(desc="training", total=total, initial=done, unit="run", disable=study.disable_tqdm) as progress:

        def when_done(one: Run) -> None:
            progress.set_postfix({one.name: f"{folder.results(one)['eval_accuracy']:.4f}"})
            progress.update()

        pool.train(left, when_done)


def analyze_all(study: StudyArguments, folder: StudyFolder, data_arguments: DataArguments) -> dict[Run, dict[str, Any]]:
    """The measures of every run on the images that it was evaluated on; what is there is not measured again."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    # the seed decides which images are cut off, where no split to evaluate on is there
    load = cache(partial(load_data, data_arguments))
    analyses = {}
    for one in progress_bar(study.runs(), desc="measuring", unit="run", disable=study.disable_tqdm):
        file = folder.path(one) / "analysis.json"
        if not file.is_file():
            measured = analyze_run(folder.path(one), load(one.seed))
            with replacing(folder.path(one), ()) as staging:
                write_json(staging / file.name, measured, allow_nan=False)
        analyses[one] = json.loads(file.read_text(encoding="utf-8"))
    return analyses


def analyze_run(path: Path, data: ImageData) -> dict[str, Any]:
    """One trained model's measures."""
    model = AnalyzedModel.from_pretrained(str(path))
    batches = ImageBatches(data.evaluation, model, EVAL_BATCH_SIZE)
    return analyze(model, batches, PartialState().device, disable=True)[0]


def write_study(
    output_dir: Path,
    results: dict[Run, dict[str, Any]],
    analyses: dict[Run, dict[str, Any]],
    description: dict[str, Any],
) -> None:
    """The table, the numbers and the figure, at once."""
    summary, layers = summarise(results), mean_over_seeds(analyses)
    runs = [{**vars(one), **{name: result[name] for name in RUN_RESULTS}} for one, result in results.items()]
    first = next(iter(results.values()))
    words = (
        f"Each model was trained for {description['num_train_epochs']} epochs on {first['train_samples']:,} images and"
        f" tested on {first['eval_samples']:,}, with `{description['command']}`, on {description['hardware']}, torch"
        f" {description['versions']['torch']}, transformers {description['versions']['transformers']}."
    )
    with replacing(output_dir, STUDY_FILES) as folder:
        content = {"description": description, "summary": summary, "layers": layers, "runs": runs}
        write_json(folder / "study.json", content, allow_nan=False)
        (folder / "study.md").write_text(render_table(summary, layers, words), encoding="utf-8")
        save_study(results, summary, layers, folder / "study.png")


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """A request to end is taken as Ctrl-C: runs under way end too."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
