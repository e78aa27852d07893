"""The house stands as hf_cb/README.md draws it: floors, rooms, what travels, sizes."""

import ast
import configparser
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from statistics import median

import pytest

import hf_cb
from helpers import tiny_config


PACKAGE = Path(hf_cb.__file__).parent
TOP = PACKAGE.parent
ROOMS = sorted(path.parent for path in PACKAGE.glob("*/**/__init__.py"))
# they hand on the names that the documentation publishes
FACES = {"analysis", "conversion", "hub"}
MOST_LINES = 60


def floors_broken(folder):
    code = "import sys; from importlinter.cli import lint_imports_command as lint; sys.exit(lint())"
    command = [sys.executable, "-c", code, "--no-cache"]
    shutil.copy(TOP / "setup.cfg", folder / "setup.cfg")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copied(tmp_path, monkeypatch):
    pytest.importorskip("importlinter")
    shutil.copytree(PACKAGE, tmp_path / "hf_cb", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_a_room_imports_lower_floors_only(copied):
    code, said = floors_broken(copied)
    assert code == 0, said


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("models/heads.py", "from ..data import images"),
        ("training/plan.py", "from ..hub import push"),
        ("vit_cb/ops_vit_cb.py", "from ..techniques import config"),
    ],
    ids=["beside", "a job by a job", "upwards"],
)
def test_an_import_that_breaks_the_floors_is_found(copied, room, line):
    file = copied / "hf_cb" / room
    file.write_text(f"{file.read_text()}\n{line}\n")
    code, said = floors_broken(copied)
    assert code == 1 and "BROKEN" in said


def test_what_travels_is_the_folder_of_what_travels(tmp_path):
    model = hf_cb.ViTCBForImageClassification(tiny_config(attn_scale=True, feat_scale=True))
    model.save_pretrained(tmp_path)
    hf_cb.ViTCBImageProcessor().save_pretrained(tmp_path)
    written = {path.name for path in tmp_path.glob("*.py")}
    assert written == {path.name for path in (PACKAGE / "vit_cb").glob("*.py")} - {"__init__.py"}


def test_no_floor_and_no_room_is_crowded():
    assert len(list(PACKAGE.glob("*.py"))) <= 9
    assert len(list((TOP / "tests").glob("*.py"))) <= 6
    assert {room.name: len(list(room.glob("*.py"))) for room in ROOMS if len(list(room.glob("*.py"))) > 16} == {}


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_says_what_lives_there_and_what_it_may_touch(room):
    first, *rest = ast.parse((room / "__init__.py").read_text()).body
    text = " ".join(first.value.value.split())
    assert text.endswith(".") and text.count(". ") == 1, text
    assert "import" in text.split(". ")[1]
    assert not rest or room.name in FACES


def functions_of(folder):
    """Where each function stands, and its length: names repeat within a file, and files' names among rooms."""
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{file.relative_to(folder)}:{node.lineno}", node.end_lineno - node.lineno + 1


def test_functions_are_short():
    lengths = dict([*functions_of(PACKAGE), *functions_of(TOP / "scripts")])
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}
    assert median(lengths.values()) < 10


def test_a_long_function_is_found_beside_a_short_one_of_the_same_name(tmp_path):
    body = "    def run(self):\n" + "        pass\n" * MOST_LINES
    (tmp_path / "file.py").write_text(f"class Long:\n{body}\nclass Short:\n    def run(self):\n        pass\n")
    assert max(length for _, length in functions_of(tmp_path)) == MOST_LINES + 1


@pytest.mark.parametrize("script", sorted((TOP / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_a_script_is_a_docstring_and_a_call(script):
    docstring, imported, guard = ast.parse(script.read_text()).body
    assert isinstance(docstring.value, ast.Constant) and script.name in docstring.value.value
    assert imported.module == "hf_cb.__main__" and len(guard.body) == 1


def test_every_file_that_is_no_code_goes_into_a_wheel():
    setup = configparser.ConfigParser()
    setup.read(TOP / "setup.cfg")
    data = setup["options.package_data"]
    patterns = [
        f"{package.replace('.', '/')}/{pattern}" for package, listed in data.items() for pattern in listed.split()
    ]
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc", ".md")]
    files += list(PACKAGE.glob("*/templates/*"))
    left = [str(path.relative_to(TOP)) for path in files]
    assert [name for name in left if not any(fnmatch(name, pattern) for pattern in patterns)] == []


def test_import_hf_cb_opens_few_rooms():
    code = "import sys, hf_cb; print(*sorted({n.split('.')[1] for n in sys.modules if n.startswith('hf_cb.')}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["optimization", "vit_cb"]
