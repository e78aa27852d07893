"""Recipes: small files of flags' values that belong together."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cli.flags import HfArg
from ..cli.parser import ArgumentParser
from ..errors import UsageError


FOLDER = Path(__file__).parent / "recipes"
# flags that take the place of another one that a recipe gives
INSTEAD_OF = {"warmup_epochs": "warmup_ratio", "warmup_ratio": "warmup_epochs"}
RECIPES = tuple(sorted(file.stem for file in FOLDER.glob("*.toml")))


@dataclass
class RecipeArguments:
    """Which values the flags have where the user gives none."""

    _argument_group_name = "loop"

    recipe: str | None = HfArg(
        default=None,
        help=f"{', '.join(RECIPES)} or a file of your own, {FOLDER.name}/*.toml being the pattern. By default digits"
        " for the digits, finetune with --model_name_or_path, and deit for other images. Its values stand in place"
        " of the defaults below.",
    )


def read_recipe(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of flags in a recipe, and those of its table `model`, which describe a model from scratch.

    Args:
        name: of a recipe of this package, or a TOML file.

    Raises:
        UsageError: there is no such recipe, or it is no TOML.
    """
    file = FOLDER / f"{name}.toml" if name in RECIPES else Path(name)
    if not file.is_file():
        raise UsageError(f"`recipe` must be one of {', '.join(RECIPES)} or a TOML file, got {name!r}.")
    try:
        values = tomllib.loads(file.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the recipe {name!r} is no TOML: {error}") from error
    return values, values.pop("model", {})


def parse_with_recipe(
    parser: ArgumentParser, arguments: Sequence[str] | None, default: Callable[[Mapping[str, Any]], str]
) -> tuple[Any, ...]:
    """Parse a command line whose defaults are those of a recipe.

    Args:
        parser: of dataclasses with `RecipeArguments` and `ModelArguments` among them.
        arguments: the command line; None for the process' own.
        default: the values of the flags that the user gave to the name of the recipe, where none was named.

    Returns:
        One instance for each dataclass; the `recipe` of `RecipeArguments` is the one that was used.

    Raises:
        UsageError: a flag is wrong, or the recipe.
    """
    # not yet the dataclasses: what they check may hold only together with the recipe
    given = parser.given(arguments)
    recipe = given.get("recipe") or default(given)
    values, model = read_recipe(recipe)
    if not given.get("model_name_or_path") and not given.get("preset"):
        values |= model
    values = {name: value for name, value in values.items() if INSTEAD_OF.get(name) not in given}
    try:
        # as words of a command line, a recipe's values are of the types that flags have
        values = parser.given([word for name, value in values.items() for word in as_flag(name, value)])
        parser.build(values)
    except UsageError as error:
        raise UsageError(f"the recipe {recipe!r} does not fit: {error}") from error
    return parser.build({**values, **given, "recipe": recipe})


def as_flag(name: str, value: Any) -> list[str]:
    """A value of a recipe as words of a command line."""
    words = value if isinstance(value, list) else [value]
    return [f"--{name}", *(str(word).lower() if isinstance(word, bool) else str(word) for word in words)]
