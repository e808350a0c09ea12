"""What is installed: the core's packages are what the library imports, extras are named where they
are missing, and type checkers see the public names."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module, metadata, util

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import qlstm
from qlstm.data.storage import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
USE = """
import ast, json, sys
sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))  # which then cannot be imported
import torch, qlstm
from qlstm.errors import MissingError
for layer in (qlstm.QuantLSTM, qlstm.QuantGRU):
    output, _ = layer(3, 4, quantizer="binary_connect", normalizer="layer")(torch.zeros(2, 2, 3))
    output.sum().backward()
model = qlstm.LanguageModel(9, 4, quantizer="ter_connect", normalizer="layer")
optimizer = torch.optim.Adam(model.parameters())
model(torch.ones(3, 2).long())[0].sum().backward()
optimizer.step()
qlstm.save_packed(model, "packed.safetensors")
qlstm.load_packed("packed.safetensors")
qlstm.export_c(model, ".")
qlstm.load_dataset("python_help")
config = qlstm.ExperimentConfig(profile="smoke", hidden_size=4, epochs=1, batch_size=500)
qlstm.run(config)
missing = []
for call in (lambda: qlstm.load_dataset("digits"), lambda: __import__("qlstm.report.tables"),
             lambda: __import__("qlstm.course.handouts")):
    try:
        call()
    except (qlstm.DataError, MissingError) as error:
        missing.append(str(error))
imported = set()
for name, module in list(sys.modules.items()):
    if name.partition(".")[0] == "qlstm" and module is not None:
        for node in ast.walk(ast.parse(open(module.__file__, encoding="utf-8").read())):
            names = ([alias.name for alias in node.names] if isinstance(node, ast.Import) else
                     [node.module] if isinstance(node, ast.ImportFrom) else [])
            imported |= {name.partition(".")[0] for name in names}
print(json.dumps([missing, sorted(
    name for name in imported - sys.stdlib_module_names - {"qlstm"} if sys.modules.get(name))]))
"""


def with_dependencies(names):
    """These distributions, and those that they require."""
    found, waiting = set(), list(names)
    while waiting:
        if (name := re.sub(r"[-_.]+", "-", waiting.pop()).lower()) in found:
            continue
        found.add(name)
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


def test_the_library_needs_what_it_declares(tmp_path):
    core = {Requirement(text).name for text in PROJECT["dependencies"]}
    kept = with_dependencies(core) | {"qlstm", "pip", "setuptools"}
    others = [module for module, owners in metadata.packages_distributions().items()
              if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & kept
              and module.isidentifier() and module[0] != "_"
              and module not in sys.stdlib_module_names]
    assert {"pandas", "matplotlib", "papermill", "pytest"} <= set(others)
    done = subprocess.run([sys.executable, "-c", USE, json.dumps(others)], cwd=tmp_path, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    missing, imported = json.loads(done.stdout.splitlines()[-1])
    assert imported == sorted(core)
    words = re.compile(r'package (\w+) .*"\.\[(\w+)\]" in the folder')
    assert [words.search(line).groups() for line in missing] == [
        ("sklearn", "reproduce"), ("pandas", "reproduce"), ("pandas", "learn")]


def test_extras_that_code_names_exist_and_bring_the_package():
    """A call of ``needs`` has to name modules of packages that its extra installs."""
    owners = metadata.packages_distributions()
    found = 0
    for path in sorted((ROOT / "qlstm").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "needs":
                extra, *modules = [argument.value for argument in node.args]
                names, waiting = set(), list(EXTRAS[extra])
                while waiting:
                    requirement = Requirement(waiting.pop())
                    names.add(requirement.name)
                    waiting += [line for more in requirement.extras for line in EXTRAS[more]]
                brought = with_dependencies(names - {"qlstm"})
                for module in modules:
                    assert {re.sub(r"[-_.]+", "-", name).lower()
                            for name in owners[module]} & brought, (path, module)
                    found += 1
    assert found > 10


def test_the_names_for_type_checkers_are_those_that_are_there():
    names = {alias.asname: node.module.removeprefix("qlstm.")
             for node in ast.parse((ROOT / "qlstm/__init__.pyi").read_text()).body
             if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names == qlstm._HOME
    for name, module in names.items():
        assert getattr(qlstm, name) is getattr(import_module(f"qlstm.{module}"), name)


@pytest.mark.skipif(util.find_spec("ty") is None, reason="the type checker ty is not installed")
def test_a_type_checker_sees_users_mistakes(tmp_path):
    def check(path):
        return subprocess.run(
            [sys.executable, "-m", "ty", "check", "--python", sys.prefix, "--project", ROOT,
             "--output-format", "concise", path], cwd=ROOT, capture_output=True, text=True).stdout

    right = ROOT / "tests" / "typed_use.py"
    assert "All checks passed" in check(right)
    wrong = ["qlstm.QuantLTSM(3, 4)", "qlstm.QuantLSTM(3, '4')",
             "qlstm.QuantLSTM(3, 4, quantiser='twn')", "qlstm.export_c(3, 'folder')",
             "len(qlstm.packed_bytes(torch.nn.Linear(2, 2)))"]
    file = tmp_path / "wrong.py"
    file.write_text("\n".join(["import torch, qlstm", *wrong]))
    said = check(file)
    assert re.findall(r"wrong\.py:(\d+):", said) == [str(2 + i) for i in range(len(wrong))], said


def test_the_workflow_of_github_names_what_is_there():
    """It cannot run here: what can be read from it is right."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    commands = [workflow["env"]["CORE"]]
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/x@v1"))
            commands.append(step.get("run", ""))
    named = re.findall(r"(?:tests|notebooks)/[\w/]+\.\w+", "\n".join(commands))
    assert len(named) > 10
    assert all((ROOT / name).is_file() for name in named)
    matrix = workflow["jobs"]["core"]["strategy"]["matrix"]
    assert all(SpecifierSet(PROJECT["requires-python"]).contains(f"{version}.0")
               for version in matrix["python"])
    json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())


def test_what_is_no_python_is_in_the_package():
    import setuptools

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["*"]
    packages = setuptools.find_packages(ROOT, include=settings["packages"]["find"]["include"])
    for path in (ROOT / "qlstm").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.parent.relative_to(ROOT).as_posix().replace("/", ".") in packages
            assert path.suffix == ".py" or any(path.match(pattern) for pattern in patterns), path
