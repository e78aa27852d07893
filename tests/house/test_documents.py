"""README.md, the manual, the map and the changelog: their paths, names, flags, links and first example are so."""

import argparse
import pkgutil
import re
from pathlib import Path

import pytest
from transformers import ViTImageProcessor

from command_lines import load_script
from helpers import tiny_config
from hf_cb import ViTCBForImageClassification


ROOT = Path(__file__).parents[2]
MAP = ROOT / "hf_cb" / "README.md"
README, MANUAL, CHANGELOG = ROOT / "README.md", ROOT / "scripts" / "README.md", ROOT / "CHANGELOG.md"
DOCUMENTS = [README, MANUAL, MAP, CHANGELOG]
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))

# of which only the changelog tells: those that went, and the earlier names of others
FLAGS_THAT_WENT = {"--what", "--compare_with", "--repo_id", "--private", "--revision", "--max_samples"}

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def without_code(text):
    """A document's text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors_of(document):
    """What GitHub calls a document's headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def unresolved_links(document, text):
    """Local links of a text to a file that is not there, or to a heading that its file does not have."""
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        if not target.startswith("https://") and not (file.exists() and (not anchor or anchor in anchors_of(file))):
            yield target


def missing_paths(document, text):
    """Paths of a text, from the top or from the map's own folder, at which nothing is."""
    folders = [ROOT, MAP.parent] if document == MAP else [ROOT]
    paths = re.findall(r"(?<![\w./-])(?:hf_cb|tests|scripts|model_cards|\.ci)/[\w./-]*\w/?", text)
    if document == MAP:
        paths += re.findall(r"`([\w-]+/(?:[\w.-]+/?)*)`", text)
    return sorted({path for path in paths if not any((folder / path).exists() for folder in folders)})


def unknown_names(text):
    """Dotted names of a text that begin with the package and name nothing."""
    for name in sorted(set(re.findall(r"(?<![\w./-])hf_cb(?:\.[A-Za-z]\w*)+", text))):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            yield name


def test_the_readme_is_short():
    assert len(README.read_bytes()) <= 9_000


@pytest.mark.parametrize("script", SCRIPTS)
def test_readme_and_manual_tell_of_each_script(script):
    for document in (README, MANUAL):
        assert f"python scripts/{script}.py" in document.read_text()


@each_document
def test_local_links_lead_somewhere(document):
    assert not list(unresolved_links(document, document.read_text()))


@each_document
def test_paths_are_there(document):
    assert not missing_paths(document, document.read_text())


@each_document
def test_names_of_the_package_are_there(document):
    assert not list(unknown_names(document.read_text()))


def test_the_map_shows_every_room_with_files_that_it_has():
    rows = re.findall(r"^\| \d \| `(\w+)/` \|.*\| ([^|]+) \|$", MAP.read_text(), re.MULTILINE)
    rooms = {path.parent.name for path in MAP.parent.glob("*/__init__.py")}
    assert {room for room, _ in rows} == rooms
    missing = [f"{room}/{name}" for room, names in rows for name in re.findall(r"`([^`]+)`", names)]
    assert not [path for path in missing if not (MAP.parent / path).is_file()]


def test_modules_of_the_changelog_are_where_it_says():
    rows = re.findall(r"^\| `hf_cb\.(\w+)` \| (.+) \|$", CHANGELOG.read_text(), re.MULTILINE)
    assert len(rows) == 13
    for room, modules in rows:
        # what stands behind a semicolon is no module of the room
        for was, is_now in re.findall(r"`(\w+)`(?: → `(\w+)`)?(?=[,;]|$)", modules.partition(";")[0]):
            assert (ROOT / "hf_cb" / room / f"{is_now or was}.py").is_file(), f"{was} in {room}"


@pytest.fixture(scope="module")
def flags():
    """The flags of each command, from the parser that prints its help."""
    parsers = {}
    with pytest.MonkeyPatch.context() as patch:
        for script in SCRIPTS:
            patch.setattr(argparse.ArgumentParser, "print_help", lambda parser, s=script: parsers.update({s: parser}))
            with pytest.raises(SystemExit):
                load_script(script).main(["--help"])
    found = {script: set(parser._option_string_actions) for script, parser in parsers.items()}
    # what the study does not know goes to the training
    return {**found, "study": found["study"] | found["train"]}


def flags_in(text):
    """What a text calls a flag."""
    return set(re.findall(r"(?<![\w-])--\w+", text))


def commands_in(text):
    """Script and flags of each command line of a text."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    found = (re.search(r"(?:python|accelerate launch) scripts/(\w+)\.py(.*)", line) for line in lines)
    return [(match[1], flags_in(match[2])) for match in found if match]


@each_document
def test_flags_are_flags_of_a_command(document, flags):
    known = set().union(*flags.values(), FLAGS_THAT_WENT if document == CHANGELOG else ())
    assert not flags_in(document.read_text()) - known


@pytest.mark.parametrize("document", [README, MANUAL], ids=["readme", "manual"])
def test_commands_have_flags_of_their_script(document, flags):
    commands = commands_in(document.read_text())
    assert {script for script, _ in commands} == set(SCRIPTS)
    assert not [(script, given) for script, given in commands if not given <= flags[script]]


def test_the_first_example_prints_a_digits_label_and_a_guess(tmp_path, capsys):
    folder = tmp_path / "vit-cb-digits"
    labels = {"id2label": {i: str(i) for i in range(10)}, "label2id": {str(i): i for i in range(10)}}
    config = tiny_config(image_size=16, patch_size=4, num_labels=10, **labels)
    ViTCBForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    example = re.search("```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    assert example.count('"outputs/vit-cb-digits"') == 2
    exec(example.replace("outputs/vit-cb-digits", str(folder)), {})
    shape, guess = capsys.readouterr().out.splitlines()
    # as the comments say; the guess of an untrained model is any
    assert f"print(logits.shape)  # {shape}\n" in example
    label = example.rpartition("# ")[2].split()[0]
    assert guess.split()[0] == label and guess.split()[1] in labels["label2id"]


# the checks can fail


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (unresolved_links, "[no](nowhere.md)"),
        (unresolved_links, "[no such heading](README.md#nothing)"),
        (missing_paths, "`hf_cb/nothing.py`"),
        (missing_paths, "see tests/nowhere/test_nothing.py."),
    ],
)
def test_what_is_not_there_is_found(check, text):
    assert list(check(README, text))


def test_a_flag_of_another_script_is_found(flags):
    ((script, given),) = commands_in("python scripts/push_to_hub.py --model_dir x \\\n    --lora_r 8")
    assert given - flags[script] == {"--lora_r"}


@pytest.mark.parametrize("text", ["hf_cb.nothing", "hf_cb.conversion.nothing", "hf_cb.vit_cb.modeling_vit_cb.Nothing"])
def test_names_that_are_not_there_are_found(text):
    assert list(unknown_names(text))
