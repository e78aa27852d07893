"""The flags that say where images come from."""

from dataclasses import dataclass
from typing import Any

from ..cli.flags import Checked, HfArg
from ..errors import UsageError
from .layouts.layout import CLASS_LEVELS


@dataclass
class DataArguments(Checked):
    """Where images come from; without any, scikit-learn's handwritten digits."""

    _argument_group_name = "data"

    dataset_name: str | None = HfArg(default=None, help="Data set of the Hub, or a local folder that `datasets` reads.")
    dataset_config_name: str | None = HfArg(default=None, help="Configuration of that data set.")
    train_dir: str | None = HfArg(
        default=None,
        help="Folder of training images, a folder for each class, perhaps in folders train, val and test; or of parquet"
        " files.",
    )
    validation_dir: str | None = HfArg(default=None, help="The same of the images to evaluate on.")
    train_file: list[str] | None = HfArg(default=None, help="Parquet or arrow files to train on.")
    validation_file: list[str] | None = HfArg(default=None, help="The same to evaluate on.")
    class_level: str | None = HfArg(
        default=None,
        help="Which folders are classes where they lie in one another: the first ones, or the last, which hold the"
        " images; asked for where it does not follow from the names.",
        metadata={"choices": list(CLASS_LEVELS)},
    )
    image_column_name: str | None = HfArg(default=None, help="Column of the images; found by default.")
    label_column_name: str | None = HfArg(default=None, help="Column of the labels; found by default.")
    validation_split_name: str | None = HfArg(
        default=None, help="Split to evaluate on, such as test; by default the validation split."
    )
    train_val_split: float = HfArg(
        default=0.15, help="Share of each class of the training images to evaluate on, where no split is there for it."
    )
    streaming: bool = HfArg(default=False, help="Read the data as it comes, without copying it to disk.")
    max_train_samples: int | None = HfArg(
        default=None, help="Train on so many, drawn at random; from a stream, out of a buffer of its first 2,048."
    )
    max_eval_samples: int | None = HfArg(default=None, help="Evaluate on so many, drawn likewise.")

    def __post_init__(self) -> None:
        self.require_all("train_val_split", lambda share: 0 < share < 1, "a number between 0 and 1")
        self.require_all("max_train_samples max_eval_samples", lambda count: count >= 1, "at least 1")
        given = [f"--{kind}" for kind, sources in self.sources().items() if any(sources)]
        if len(given) > 1:
            raise UsageError(f"the images come from one place: give one of {' and '.join(given)}.")
        if self.streaming and not given:
            raise UsageError("`streaming` needs data to stream: give --dataset_name, --train_dir or --train_file.")

    def sources(self) -> dict[str, tuple[Any, Any]]:
        """The places that data can come from: what was given for training and for evaluation."""
        return {
            "dataset_name": (self.dataset_name, None),
            "train_dir": (self.train_dir, self.validation_dir),
            "train_file": (self.train_file, self.validation_file),
        }

    def words(self) -> list[str]:
        """The flags of the place that data come from, for another command line."""
        names = ("dataset_name", "train_dir", "validation_dir", "train_file", "validation_file")
        given = {name: getattr(self, name) for name in names}
        lists = {name: value if isinstance(value, list) else [value] for name, value in given.items() if value}
        return [word for name, value in lists.items() for word in (f"--{name}", *value)]

    def is_digits(self) -> bool:
        """Whether no source is given."""
        return not any(value for source in self.sources().values() for value in source)

    def place(self) -> str:
        """What was given first, for messages."""
        value = next((value for source in self.sources().values() for value in source if value), "the digits")
        return value[0] if isinstance(value, list) else value
