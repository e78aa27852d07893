"""What a user did wrong, in one sentence, and how a run may end early."""


class UsageError(ValueError):
    """A user's mistake: one sentence that says what came, what is allowed and what to do."""


class Terminated(Exception):
    """The process was asked to end (SIGTERM), and left everything in order."""


def one_line(message: object) -> str:
    """A message without its line breaks."""
    return " ".join(str(message).split())
