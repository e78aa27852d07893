"""What the Hub answers, in words: one place that turns its client's errors into one sentence, without the token."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_token

# the base class of its HTTP library, which is not the same in all versions
from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    build_hf_headers,
    disable_progress_bars,
    enable_progress_bars,
    get_session,
    hf_raise_for_status,
    logging,
)

from ..errors import one_line
from .folder import HubError


# what huggingface_hub raises: the Hub's answers, its own checks, connections that break, uploads that fail
CLIENT_ERRORS = (HfHubHTTPError, HTTPError, OSError, ValueError, RuntimeError)

LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token with the right to write"


def read_token() -> str:
    """The token of the environment or of the user who is logged in.

    Raises:
        HubError: there is none, or it holds characters that no token has.
    """
    with hub_errors("The token cannot be read"):
        token = get_token()
    if token is None:
        raise HubError(f"You are not logged in to the Hub: {LOGIN}.")
    # the client's own errors would print it
    if not re.fullmatch(r"[!-~]+", token):
        raise HubError("The token in HF_TOKEN, or of `hf auth login`, holds characters that no token has: set it anew.")
    return token


@contextmanager
def hub_errors(failed: str, token: str | None = None) -> Iterator[None]:
    """Turn what the Hub's client raises into a `HubError` that begins with what failed, and never holds the token."""
    try:
        yield
    except HubError:
        raise
    except CLIENT_ERRORS as error:
        text = f"{failed}: {_reason(error)}"
        # not `from error`: that would be printed too, unscrubbed
        raise HubError(scrub(text, token)) from None


def scrub(text: str, token: str | None) -> str:
    """A text without the token."""
    return re.sub(r"\bhf_[A-Za-z0-9]{20,}", "***", text.replace(token, "***") if token else text)


def check_card(card: str, token: str) -> None:
    """Ask the Hub whether it takes a card.

    Not `ModelCard.validate`, which huggingface_hub 1 sends to huggingface.co whatever the Hub is.

    Raises:
        ValueError: it does not; with its reasons.
    """
    response = get_session().post(
        f"{constants.ENDPOINT}/api/validate-yaml",
        json={"content": card, "repoType": "model"},
        headers=build_hf_headers(token=token),
    )
    if response.status_code == 400:
        raise ValueError("; ".join(str(error.get("message")) for error in response.json().get("errors", [])))
    hf_raise_for_status(response)


def _reason(error: Exception) -> str:
    if isinstance(error, HfHubHTTPError):
        return _answer(error)
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        # "Error while uploading", and why
        return f"{one_line(error)} {_reason(error.__cause__)}" if isinstance(error.__cause__, Exception) else str(error)
    if isinstance(error, HTTPError):
        return f"the connection to the Hub failed ({one_line(error) or type(error).__name__})."
    return f"{one_line(error) or type(error).__name__}"


def _answer(error: HfHubHTTPError) -> str:
    status, message = error.response.status_code, one_line(error.server_message or "")
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        return f"the Hub does not accept the token: {LOGIN}."
    meanings = {
        403: "you have no right to do that there",
        404: "there is no such thing on the Hub, or you may not see it",
        412: "somebody else has pushed there meanwhile: run the command again",
    }
    return f"{meanings.get(status, f'the Hub answered {status}')}{f' ({message})' if message else ''}."


@contextmanager
def quiet_client(show_progress: bool) -> Iterator[None]:
    """Within the context the Hub's client shows no warnings, which errors repeat, and progress bars on request."""
    verbosity, were_disabled = logging.get_verbosity(), are_progress_bars_disabled()
    logging.set_verbosity_error()
    if not show_progress:
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if not show_progress and not were_disabled:
            enable_progress_bars()
