"""Commands within the process of a test."""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest

from hf_cb.cli.parser import run


def load_script(name: str) -> ModuleType:
    """What a file of scripts/ runs."""
    return importlib.import_module(f"hf_cb.commands.{name}")


def refusal(script: str, arguments: Sequence[Any], capsys: pytest.CaptureFixture) -> str:
    """The one line on stderr of a command that refuses its arguments."""
    with pytest.raises(SystemExit) as exit_:
        run(load_script(script).main, [str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert exit_.value.code == 2 and out == "" and err.count("\n") == 1
    return err
