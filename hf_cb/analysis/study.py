"""A comparison of the techniques: the same training for each of them, at several depths and over several seeds.

Runs are processes of their own, which write their folders as a whole. A run that ended well gets a record, so that a
folder with a record is a complete run, whatever was killed.
"""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..cli.output_dir import replacing, write_json
from ..errors import UsageError, one_line
from ..techniques.variants import VARIANTS


RECORD = "study_run.json"


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        depth: layers.
        variant: one of `VARIANTS`.
        seed: of weights, order and augmentation; the same start for all variants.
    """

    depth: int
    variant: str
    seed: int

    @property
    def name(self) -> str:
        return f"depth{self.depth}-{self.variant}-seed{self.seed}"

    @property
    def flags(self) -> list[str]:
        fields = {"num_hidden_layers": self.depth, **VARIANTS[self.variant], "seed": self.seed}
        return [word for name, value in fields.items() for word in (f"--{name}", str(value).lower())]


class StudyFolder:
    """The runs of a study on disk.

    Args:
        folder: of the study.
        settings: what all of its runs share; JSON values.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.runs, self.settings = folder / "runs", settings

    def path(self, run: Run) -> Path:
        """Where a complete run is."""
        return self.runs / run.name

    def is_complete(self, run: Run) -> bool:
        """Whether it has been trained."""
        return (self.path(run) / RECORD).is_file()

    def results(self, run: Run) -> dict[str, Any]:
        """What `scripts/train.py` wrote of a complete run."""
        return json.loads((self.path(run) / "all_results.json").read_text(encoding="utf-8"))

    def check_settings(self) -> None:
        """Refuse a folder with runs of other settings.

        Raises:
            UsageError: naming the first difference.
        """
        for record in sorted(self.runs.glob(f"*/{RECORD}")):
            found = json.loads(record.read_text(encoding="utf-8"))
            for name in sorted({*found, *self.settings}):
                if found.get(name) != self.settings.get(name):
                    raise UsageError(
                        f"{record.parent} was run with other settings, {name} being {found.get(name)!r} and not"
                        f" {self.settings.get(name)!r}: results of both do not mix. Name another --output_dir, or give"
                        " --overwrite_output_dir to remove the runs that are there."
                    )

    def remove_runs(self) -> None:
        """Remove all runs, and nothing that is none."""
        for record in self.runs.glob(f"*/{RECORD}"):
            shutil.rmtree(record.parent)

    def keep(self, run: Run) -> None:
        """Make what a run wrote complete: a folder without a record is written over by the next try."""
        with replacing(self.path(run), ()) as staging:
            write_json(staging / RECORD, self.settings)


@dataclass
class RunPool:
    """Trains runs, some at a time, each in a process of its own.

    Args:
        study: where they go.
        command: words that start the training command.
        arguments: its flags that all runs share.
        num_workers: runs at a time.
    """

    study: StudyFolder
    command: Sequence[str]
    arguments: Sequence[str]
    num_workers: int
    processes: list[subprocess.Popen] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    is_stopping: bool = False

    def train(self, runs: Sequence[Run], when_done: Callable[[Run], None]) -> None:
        """Train runs. After a failure those under way come to their end, and no other begins.

        Args:
            runs: that are not complete.
            when_done: called after each.

        Raises:
            UsageError: a run failed; its last words.
        """
        with ThreadPoolExecutor(self.num_workers) as pool:
            futures = {pool.submit(self._train_one, run): run for run in runs}
            try:
                for future in as_completed(futures):
                    if future.result():
                        when_done(futures[future])
            except BaseException as error:
                # Ctrl-C and the like wait for nothing
                self._stop(at_once=not isinstance(error, UsageError))
                raise

    def _stop(self, at_once: bool) -> None:
        with self.lock:
            self.is_stopping = True
            for process in self.processes if at_once else ():
                process.terminate()

    def _train_one(self, run: Run) -> bool:
        """Whether it was trained: not after a stop."""
        # the folder's name becomes the model's
        process = self._start([*run.flags, "--overwrite_output_dir", "--output_dir", str(self.study.path(run))])
        if process is None:
            return False
        _, errors = process.communicate()
        if process.returncode != 0:
            self._stop(at_once=False)
            raise UsageError(f"the run {run.name} failed ({process.returncode}): {_last_line(errors)}")
        self.study.keep(run)
        return True

    def _start(self, arguments: Sequence[str]) -> subprocess.Popen | None:
        command = [*self.command, *self.arguments, *arguments]
        # a process of one thread: several of them share the cores
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        with self.lock:
            if self.is_stopping:
                return None
            self.processes.append(subprocess.Popen(command, env=environment, **pipes))
            return self.processes[-1]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return one_line(lines[-1]) if lines else "it said nothing"
