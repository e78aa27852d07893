"""Command lines: arguments from dataclasses, and one place that turns a user's mistake into one line."""

import shlex
import signal
import sys
from argparse import (
    SUPPRESS,
    Action,
    ArgumentDefaultsHelpFormatter,
    ArgumentError,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, make_dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, get_args

from transformers import HfArgumentParser, PreTrainedConfig
from transformers.hf_argparser import string_to_bool

from ..errors import Terminated, UsageError, missing_extra, one_line
from ..techniques.config import TechniqueConfig
from ..vit_cb.configuration_vit_cb import ALLOWED, ViTCBConfig
from .flags import HfArg


EXIT_CODE_OF_A_MISTAKE = 2
# 128 and the number of the signal, as shells have it
EXIT_CODE_OF_TERMINATION = 143
# None is a value that flags may have
NOT_GIVEN = object()


# of --help, in its order
GROUPS = ("techniques", "model", "data", "loop", "distillation", "augmentation", "perturbations", "output")
# what each field of a technique does, for people who read --help alone
TECHNIQUE_HELP = {
    "context_broadcast": "Context Broadcasting, which gives every token the mean of all, so that attention need not be"
    " dense to spread what is common",
    "context_broadcast_position": "Where Context Broadcasting stands: at the MLP's end, before its second or its first"
    " linear layer, or after the attention",
    "attn_scale": "AttnScale, a learned factor a head for what attention does beside averaging, against tokens that"
    " grow alike in depth",
    "feat_scale": "FeatScale, learned factors for the tokens' mean and for the rest after the attention, against tokens"
    " that grow alike in depth",
    "apply_layers": "Which layers get the techniques",
}


class _HelpFormatter(RawDescriptionHelpFormatter, ArgumentDefaultsHelpFormatter):
    """The description as it is written; each flag once, with its default where it has one."""

    def _get_help_string(self, action: Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)

    def _format_action_invocation(self, action: Action) -> str:
        words = action.option_strings[:1] if action.dest != "help" else action.option_strings
        values = "" if action.nargs == 0 else f" {self._format_args(action, action.dest.upper())}"
        return ", ".join(words) + values


class ArgumentParser(HfArgumentParser):
    """`HfArgumentParser` that refuses unknown and shortened flags, and raises `UsageError` instead of exiting."""

    def __init__(self, *dataclass_types: type, **kwargs: Any):
        super().__init__(dataclass_types, allow_abbrev=False, formatter_class=_HelpFormatter, **kwargs)
        # a recipe's number can be taken back; configuration fields have a reading of `none` of their own
        optional = {f.name for kind in dataclass_types if kind is not ConfigArguments for f in fields(kind)}
        for action in self._actions:
            if action.dest in optional and action.default is None and action.type in (int, float):
                action.type = _number_or_none(action.type)
        self.renamed = {old: new for kind in dataclass_types for old, new in getattr(kind, "OLD_SPELLINGS", {}).items()}
        _arrange_groups(self)
        for action in self._actions:
            if action.const is False:
                # `--no_name` of a switch that is on: its help says the opposite of what it does
                action.help = SUPPRESS
            if action.nargs == "+":
                # `--apply_layers` without a value is the empty list
                action.nargs = "*"
            if action.type is string_to_bool:
                # `--attn_scale` without a value is true; HfArgumentParser has it so only where the default is a bool
                action.nargs, action.const = "?", True

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

    def given(self, arguments: Sequence[str] | None = None) -> dict[str, Any]:
        """The values of those flags that are on a command line, as `build` takes them.

        Raises:
            UsageError: a flag is unknown, or its value is not of its type.
        """
        arguments = self.with_present_spellings(sys.argv[1:] if arguments is None else arguments)
        nothing = Namespace(**dict.fromkeys((action.dest for action in self._actions), NOT_GIVEN))
        values, unknown = self.parse_known_args(arguments, nothing)
        _refuse_unknown(unknown)
        return {name: value for name, value in vars(values).items() if value is not NOT_GIVEN}

    def build(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """One instance for each dataclass, with its own defaults for what is not among the values.

        Raises:
            UsageError: a value is not allowed.
        """
        try:
            return self.parse_dict(dict(values))
        except ValueError as error:
            raise UsageError(one_line(error)) from error

    def parse(self, arguments: Sequence[str] | None = None) -> tuple[Any, ...]:
        """One instance for each dataclass.

        Raises:
            UsageError: a flag is unknown, or its value is not of its type.
        """
        *instances, unknown = self.parse_known(arguments)
        _refuse_unknown(unknown)
        return tuple(instances)

    def parse_known(self, arguments: Sequence[str] | None = None) -> tuple[Any, ...]:
        """One instance for each dataclass, and a list of the arguments that are none of theirs.

        Raises:
            UsageError: a value is not of its type.
        """
        arguments = self.with_present_spellings(sys.argv[1:] if arguments is None else arguments)
        try:
            return self.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
        except (ArgumentError, ValueError) as error:
            raise UsageError(one_line(error)) from error

    def with_present_spellings(self, arguments: Sequence[str]) -> list[str]:
        """A command line in which flags that once had another name have their present one; each is told of once."""
        words = []
        for argument in arguments:
            flag, *value = argument.split("=", 1)
            old = flag.removeprefix("--").replace("-", "_")
            if flag.startswith("--") and old in self.renamed:
                print(f"{program()}: --{old} is now called --{self.renamed[old]}.", file=sys.stderr)
                argument = "=".join([f"--{self.renamed[old]}", *value])
            words.append(argument)
        return words


def _refuse_unknown(arguments: Sequence[str]) -> None:
    if arguments:
        raise UsageError(f"unknown arguments: {' '.join(arguments)}; --help lists those that there are.")


def _arrange_groups(parser: ArgumentParser) -> None:
    """Have --help show each group of flags once, in the order in which one meets them, the techniques' first."""
    # argparse has no public way to move a flag
    positional, options, *groups = parser._action_groups
    flags: dict[str | None, list[Action]] = {name: [] for name in (options.title, *GROUPS)}
    for group in (options, *groups):
        for action in group._group_actions:
            flags["techniques" if action.dest in TECHNIQUE_HELP else group.title].append(action)
    options._group_actions = flags.pop(options.title)
    parser._action_groups = [positional, options]
    for name, actions in flags.items():
        if actions:
            parser.add_argument_group(name)._group_actions += actions


def _number_or_none(number: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        return None if text == "none" else number(text)

    # argparse names it in its messages
    parse.__name__ = f"{number.__name__} or none"
    return parse


def command_line(script: str, arguments: Sequence[str] | None) -> str:
    """The command that started a script, for its model card.

    Args:
        script: its file's name.
        arguments: those that its `main` got; None for the process' own.
    """
    words = [_without_place(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    started = program().split() if program().startswith("hf-cb ") else ["python", f"scripts/{script}"]
    return shlex.join([*started, *words])


def _without_place(word: str) -> str:
    """The last part of a path that begins at the root: the way to it is of one machine alone."""
    flag, equals, value = word.rpartition("=")
    return f"{flag}{equals}{Path(value).name}" if Path(value).is_absolute() else word


def print_next(command: str, *words: str) -> None:
    """Name the command that one may want next."""
    print(f"next: {shlex.join(['hf-cb', command, *words])}")


def run(main: Callable[[Sequence[str] | None], None], arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a script's `main`; a user's mistake becomes one line on stderr and exit code 2, Ctrl-C 130, SIGTERM 143."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        main(arguments)
    except UsageError as error:
        refuse(error)
    except ModuleNotFoundError as error:
        refuse(missing_extra(error))
    except Terminated as ending:
        print(f"{program()}: {one_line(ending)}", file=sys.stderr)
        raise SystemExit(EXIT_CODE_OF_TERMINATION) from None
    except KeyboardInterrupt:
        print(f"{program()}: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    raise SystemExit(0)


def refuse(mistake: object) -> NoReturn:
    """End with a user's mistake, in one line on stderr."""
    print(f"{program()}: error: {one_line(mistake)}", file=sys.stderr)
    raise SystemExit(EXIT_CODE_OF_A_MISTAKE)


def program() -> str:
    """What this process was started as: `train.py`, or `hf-cb train`."""
    return Path(sys.argv[0]).name


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated("terminated; nothing was written.")


def _optional_flag(name: str, annotation: Any) -> tuple[str, Any, Any]:
    """A dataclass field for a configuration field, None where the user did not say."""
    meaning = TECHNIQUE_HELP.get(name, f"ViTCBConfig.{name}")
    help_text = f"{meaning}: {ALLOWED[name]}." if name in ALLOWED else f"{meaning}."
    members = [member for member in get_args(annotation) if member is not type(None)] or [annotation]
    if any("list" in str(member) for member in members):
        kind, help_text = list[str] | None, f"{help_text} Values separated by spaces."
    elif bool in members:
        kind = bool | None
    elif float in members or int in members:
        kind = float | None if float in members else int | None
    else:
        kind = str | None
    return name, kind, HfArg(default=None, help=help_text)


def _config_fields() -> dict[str, Any]:
    inherited = {f.name for f in fields(PreTrainedConfig)}
    # the dataclass has `out_features` and `out_indices` with an underscore, behind properties
    return {f.name.lstrip("_"): f.type for f in fields(ViTCBConfig) if f.name not in inherited}


ConfigArguments = make_dataclass(
    "ConfigArguments", [_optional_flag(name, annotation) for name, annotation in _config_fields().items()]
)
ConfigArguments._argument_group_name = "model"
ConfigArguments.__doc__ = "Every field of `ViTCBConfig` as a flag of the same name; what is not given is None."

TechniqueArguments = make_dataclass(
    "TechniqueArguments", [_optional_flag(f.name, _config_fields()[f.name]) for f in fields(TechniqueConfig)]
)
TechniqueArguments.__doc__ = "Every field of `TechniqueConfig` as a flag of the same name; what is not given is None."


def _parse_config_value(name: str, value: Any) -> Any:
    """What a flag's strings mean: `none` for None, one integer or a list of them."""
    if value in ("none", ["none"]):
        return None
    if not isinstance(value, list) or str in get_args(get_args(_config_fields()[name])[0]):
        return value
    try:
        numbers = [int(part) for part in value]
    except ValueError:
        allowed = ALLOWED.get(name, "integers")
        raise UsageError(f"`{name}` must be {allowed}, got {' '.join(value)!r}.") from None
    is_size = int in get_args(_config_fields()[name])
    return numbers[0] if is_size and len(numbers) == 1 else numbers


def config_overrides(arguments: Any) -> dict[str, Any]:
    """The configuration fields that the user gave.

    Args:
        arguments: a `ConfigArguments` or `TechniqueArguments`.

    Raises:
        UsageError: a list holds something that is no integer.
    """
    given = {f.name: getattr(arguments, f.name) for f in fields(arguments)}
    return {name: _parse_config_value(name, value) for name, value in given.items() if value is not None}
