"""`hf-cb`: each command by its name, and one line for what is missing."""

import subprocess
import sys
from pathlib import Path

import pytest

import hf_cb.__main__ as entry
from hf_cb.errors import missing_extra


def ended(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["hf-cb", *words])
    with pytest.raises(SystemExit) as exit_:
        entry.main()
    return exit_.value.code, capsys.readouterr()


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)], ids=["nothing", "help", "h"])
def test_help_names_every_command(monkeypatch, capsys, words):
    code, printed = ended(monkeypatch, capsys, *words)
    assert code == 0 and all(f"\n  {name} " in printed.out for name in entry.COMMANDS)


def test_every_command_has_its_file_and_its_script():
    commands = Path(entry.__file__).parent / "commands"
    scripts = Path(entry.__file__).parents[1] / "scripts"
    files = {module for module, _ in entry.COMMANDS.values()}
    assert files == {path.stem for path in commands.glob("*.py")} - {"__init__"}
    assert not scripts.is_dir() or files <= {path.stem for path in scripts.glob("*.py")}


def test_an_unknown_command_is_one_line_with_those_that_there_are(monkeypatch, capsys):
    code, printed = ended(monkeypatch, capsys, "trian")
    assert code == 2 and printed.err.count("\n") == 1
    assert "'trian'" in printed.err and "train, finetune" in printed.err


def test_a_mistake_names_the_command(monkeypatch, capsys):
    code, printed = ended(monkeypatch, capsys, "push", "--modle_dir", "x")
    assert code == 2 and printed.err.startswith("hf-cb push: error: ") and printed.err.count("\n") == 1


@pytest.mark.parametrize("name", list(entry.COMMANDS))
def test_every_command_tells_its_flags(monkeypatch, capsys, name):
    code, printed = ended(monkeypatch, capsys, name, "--help")
    assert code == 0 and printed.out.startswith(f"usage: hf-cb {name}")


@pytest.mark.parametrize(
    ("module", "wanted"),
    [
        ("accelerate", "'hf_cb[train]'"),
        ("sklearn", "'hf_cb[train]'"),
        ("onnx", "'hf_cb[export]'"),
        ("unheard", "unheard"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(module, wanted):
    said = missing_extra(ModuleNotFoundError(f"No module named {module!r}", name=f"{module}.part"))
    assert said == f"{module} is not installed: pip install {wanted}"


def test_a_missing_module_of_our_own_is_a_bug_and_stays_one():
    with pytest.raises(ModuleNotFoundError):
        missing_extra(ModuleNotFoundError("No module named 'hf_cb.gone'", name="hf_cb.gone"))


def test_a_command_without_its_packages_ends_in_one_line():
    code = (
        "import sys; sys.modules['accelerate'] = None; sys.argv = ['hf-cb', 'train', '--help'];"
        " import hf_cb.__main__ as entry; entry.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "hf-cb train: error: accelerate is not installed: pip install 'hf_cb[train]'" in done.stderr
