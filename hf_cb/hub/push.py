"""A trained or converted model becomes a page on the Hub that loads with and without this package."""

import hashlib
import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from ..cli.flags import HfArg
from .client import LOGIN, check_card, hub_errors, quiet_client, read_token
from .folder import CARD, REPLACED, HubError, ModelFolder, read_model_folder
from .verify import check_loads_elsewhere


DEFAULT_BRANCH = "main"
# hexadecimal digits of the SHA-256 of what is uploaded, in the name of its tag; as many as tell 10^6 uploads apart
TAG_DIGITS = 12
COMMIT_MESSAGE = "Upload a ViT-CB with hf_cb"


@dataclass(frozen=True)
class Destination:
    """Where a model goes, once the Hub was asked about it.

    Args:
        repo_id: user or organisation, and name.
        private: make the repository a private one.
        branch: to commit to.
        exists: the repository is there.
        token: of the user; never shown.
    """

    repo_id: str
    private: bool
    branch: str
    exists: bool
    token: str = field(repr=False)

    @property
    def api(self) -> HfApi:
        """The client of the user."""
        return HfApi(token=self.token)


@dataclass(frozen=True)
class Push:
    """What was pushed, or would be.

    Args:
        repo_id: user or organisation, and name.
        branch: that the commit is on.
        files: names and sizes in bytes.
        tag: that the card pins.
        url: of the commit, None where nothing was pushed.
    """

    repo_id: str
    branch: str
    files: dict[str, int]
    tag: str
    url: str | None = None


def push_to_hub(
    model_dir: str | Path,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    *,
    commit_message: str = COMMIT_MESSAGE,
    show_progress: bool = False,
) -> Push:
    """Upload a model with its code, image processor, card, results and figures to the Hub, in one commit.

    Before anything is uploaded, or a repository made, the folder is loaded in a process that cannot import this
    package, and its outputs are compared with those here. Checkpoints, averaged weights, pickles and hidden files stay.
    Files of an earlier push that this one does not have are deleted by the same commit. The commit gets a tag named
    after what it holds, and the uploaded card says to load that; the folder itself is not changed. The token is
    that of the environment or of the logged-in user.

    Args:
        model_dir: a folder as `scripts/train.py`, `scripts/convert_checkpoint.py` or `save_pretrained` writes it.
        repo_id: `USER/NAME`, or `NAME` for the user who is logged in.
        private: make a new repository a private one.
        revision: the branch to commit to, made where there is none; by default `main`.
        dry_run: check the folder and tell what would go where; the Hub is not asked.
        commit_message: the commit's title.
        show_progress: show progress bars.

    Raises:
        HubError: a `UsageError`; the folder, the card, the token, the right, the repository or the connection is not as
            it must be. The repository has then the commit that it had.
    """
    _check_names(repo_id, revision)
    folder = read_model_folder(model_dir)
    if dry_run:
        check_loads_elsewhere(model_dir)
        return _collect_upload(folder, repo_id, revision or DEFAULT_BRANCH)[0]
    destination = check_destination(repo_id, private, revision)
    check_loads_elsewhere(model_dir)
    push, contents = _collect_upload(folder, destination.repo_id, destination.branch)
    with quiet_client(show_progress):
        _check_contents(folder, contents, destination.token)
        return _upload(folder.path, destination, push, contents, commit_message)


def check_destination(repo_id: str, private: bool = False, revision: str | None = None) -> Destination:
    """Ask the Hub whether a model can go there; nothing is made or changed.

    Args:
        repo_id, private, revision: as in `push_to_hub`.

    Raises:
        HubError: a name is not allowed, nobody is logged in, the user may not write there, a data set or Space has the
            name, the repository is public and was to be private, or the revision is no branch.
    """
    _check_names(repo_id, revision)
    token = read_token()
    api = HfApi(token=token)
    with quiet_client(show_progress=False), hub_errors(f"The Hub cannot be asked about {repo_id}", token):
        user = api.whoami()
        repo_id = repo_id if "/" in repo_id else f"{user['name']}/{repo_id}"
        _check_rights(user, repo_id)
        exists = _check_repository(api, repo_id, private)
        if exists and revision in {tag.name for tag in api.list_repo_refs(repo_id).tags}:
            raise HubError(f"`revision` must be a branch, and {revision!r} is a tag of {repo_id}.")
    return Destination(repo_id, private, revision or DEFAULT_BRANCH, exists, token)


@dataclass
class HubArguments:
    """Whether the trained model goes to the Hub."""

    _argument_group_name = "output"

    push_to_hub: bool = HfArg(default=False, help="Push the trained model to the Hub.")
    hub_model_id: str | None = HfArg(
        default=None, help="USER/NAME to push to; by default the output folder's name, of the user."
    )
    hub_private_repo: bool = HfArg(default=False, help="Make a new repository a private one.")
    hub_revision: str | None = HfArg(default=None, help="Branch to push to; by default main.")


def prepare_push(arguments: HubArguments, output_dir: str | Path) -> Destination | None:
    """Before a training run: ask the Hub whether its result can go there; None if it is not to.

    Raises:
        HubError: as `check_destination`, or a flag lacks `push_to_hub`.
    """
    if not arguments.push_to_hub:
        for name in ("hub_model_id", "hub_private_repo", "hub_revision"):
            if getattr(arguments, name):
                raise HubError(f"`{name}` is given without `push_to_hub`: add --push_to_hub, or leave it out.")
        return None
    repo_id = arguments.hub_model_id or Path(output_dir).resolve().name
    return check_destination(repo_id, arguments.hub_private_repo, arguments.hub_revision)


def push_run(destination: Destination, output_dir: str | Path, show_progress: bool = False) -> Push:
    """After a training run: push its folder to where `prepare_push` found that it can go.

    Raises:
        HubError: as `push_to_hub`, and how to push the folder, which is complete, later.
    """
    try:
        return push_to_hub(
            output_dir, destination.repo_id, destination.private, destination.branch, show_progress=show_progress
        )
    except HubError as error:
        command = [
            "python",
            "scripts/push_to_hub.py",
            "--model_dir",
            str(output_dir),
            "--hub_model_id",
            destination.repo_id,
        ]
        command += ["--hub_private_repo"] if destination.private else []
        command += ["--hub_revision", destination.branch] if destination.branch != DEFAULT_BRANCH else []
        raise HubError(f"{error} The model is in {output_dir}; `{shlex.join(command)}` pushes it.") from None


def _check_names(repo_id: str, revision: str | None) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        raise HubError(
            "`repo_id` must be USER/NAME or NAME, of at most 96 letters, digits, '-', '_' and '.', without '--' or '..'"
            f" and with neither '-' nor '.' at an end, got {repo_id!r}."
        ) from None
    if revision is None:
        return
    is_branch = re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", revision) and not revision.startswith("refs/")
    if not is_branch or re.fullmatch("[0-9a-f]{40}", revision):
        raise HubError(f"`revision` must be the name of a branch, got {revision!r}.")


def _check_rights(user: dict, repo_id: str) -> None:
    owner = repo_id.split("/")[0]
    organisations = {organisation["name"]: organisation.get("roleInOrg") for organisation in user.get("orgs", [])}
    role = ((user.get("auth") or {}).get("accessToken") or {}).get("role")
    if owner != user["name"] and organisations.get(owner, "read") == "read":
        raise HubError(
            f"{user['name']}, who is logged in, has no right to write to {repo_id}: name a repository of"
            f" {' or '.join([user['name'], *organisations])}."
        )
    if role == "read":
        raise HubError(f"The token of {user['name']} may only read: {LOGIN}.")


def _check_repository(api: HfApi, repo_id: str, private: bool) -> bool:
    """Whether it exists, as one that can be pushed to."""
    try:
        info = api.repo_info(repo_id)
    except RepositoryNotFoundError:
        for kind, name in {"dataset": "data set", "space": "Space"}.items():
            if api.repo_exists(repo_id, repo_type=kind):
                raise HubError(f"{repo_id} is a {name} on the Hub, and a model needs a name of its own.") from None
        return False
    if private and not info.private:
        raise HubError(f"{repo_id} is there and public: make it private in its settings, or leave out `private`.")
    return True


def _collect_upload(folder: ModelFolder, repo_id: str, branch: str) -> tuple[Push, dict[str, Path | bytes]]:
    """What goes where: the files on the disk, and the card with its address and tag filled in."""
    digest = hashlib.sha256(folder.card.encode())
    for name in folder.files:
        with open(folder.path / name, "rb") as file:
            digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    tag = f"upload-{digest.hexdigest()[:TAG_DIGITS]}"
    card = folder.card_for(repo_id, tag).encode()
    contents = {CARD: card, **{name: folder.path / name for name in folder.files}}
    sizes = {name: len(card) if name == CARD else (folder.path / name).stat().st_size for name in sorted(contents)}
    return Push(repo_id, branch, sizes, tag), contents


def _check_contents(folder: ModelFolder, contents: dict[str, Path | bytes], token: str) -> None:
    """The Hub takes the card, and no text holds the token, which a command line in the card may."""
    for name, content in contents.items():
        if name.endswith((".md", ".json", ".py")):
            text = content if isinstance(content, bytes) else content.read_bytes()
            if token.encode() in text:
                raise HubError(f"{folder.path / name}: holds your token, which everybody could read: take it out.")
    with hub_errors(f"{folder.path / CARD}: the Hub does not take the card", token):
        check_card(contents[CARD].decode(), token)


def _upload(
    path: Path, destination: Destination, push: Push, contents: dict[str, Path | bytes], commit_message: str
) -> Push:
    api, repo_id, branch, token = destination.api, destination.repo_id, destination.branch, destination.token
    failed = f"{path} did not get to {repo_id}, which has no new commit"
    with hub_errors(failed, token):
        if not destination.exists:
            api.create_repo(repo_id, private=destination.private, exist_ok=True)
        if branch not in {ref.name for ref in api.list_repo_refs(repo_id).branches}:
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        head = api.repo_info(repo_id, revision=branch).sha
        present = api.list_repo_files(repo_id, revision=head)
        stale = [name for name in present if name not in contents and _is_ours(name)]
        operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
        operations += [CommitOperationDelete(name) for name in stale]
        commit = api.create_commit(
            repo_id, operations, commit_message=commit_message, revision=branch, parent_commit=head
        )
    # the card is there and names the tag: the same push again makes no second commit and sets the tag
    with hub_errors(f"{repo_id} has the model, but not the tag {push.tag}; run the command again", token):
        api.create_tag(repo_id, tag=push.tag, revision=commit.oid, exist_ok=True)
    return replace(push, url=commit.commit_url)


def _is_ours(name: str) -> bool:
    return "/" not in name and any(Path(name).match(pattern) for pattern in REPLACED)
