"""What a user did wrong, in one sentence, and how a run may end early."""

import re
from importlib.metadata import PackageNotFoundError, requires


class UsageError(ValueError):
    """A user's mistake: one sentence that says what came, what is allowed and what to do."""


class Terminated(Exception):
    """The process was asked to end (SIGTERM), and left everything in order."""


def one_line(message: object) -> str:
    """A message without its line breaks."""
    return " ".join(str(message).split())


# modules that bear another name than the package that brings them
PACKAGES = {"sklearn": "scikit-learn", "PIL": "pillow"}


def missing_extra(error: ModuleNotFoundError) -> str:
    """What to install for a module that is not there: the extra of this package that names it, else its own name.

    Raises:
        ModuleNotFoundError: the module is one of this package, which is a bug and no missing package.
    """
    module = (error.name or "").partition(".")[0]
    if module in ("", __package__):
        raise error
    package = PACKAGES.get(module, module)
    try:
        named = [line for line in requires("hf_cb") or [] if re.match(rf"{re.escape(package)}\b", line, re.IGNORECASE)]
    except PackageNotFoundError:
        named = []
    extra = next((found[1] for line in named if (found := re.search(r"extra == [\"'](\w+)", line))), None)
    wanted = package if extra is None else f"'hf_cb[{extra}]'"
    return f"{module} is not installed: pip install {wanted}"
