"""The public surface: one list, typed, documented, and quick to import."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import expunge
from expunge.training.in_memory.method_config_source import TARGET, config_name, shipped, source

INIT = Path(expunge.__file__)
COMMAND = "python -m expunge.training.in_memory.method_config_source"


def typed_names() -> set[str]:
    """The names under TYPE_CHECKING."""
    tree = ast.parse(INIT.read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.asname or alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }


def test_editors_and_python_see_the_same_names() -> None:
    assert typed_names() == set(expunge.__all__) == set(expunge._MODULES)
    assert len(set(expunge.__all__)) == len(expunge.__all__)
    assert sorted(expunge.__all__) == dir(expunge)


def test_a_type_checker_reads_no_rule_for_any_name() -> None:
    functions = [node.name for node in ast.parse(INIT.read_text()).body if isinstance(node, ast.FunctionDef)]
    assert "__dir__" in functions and "__getattr__" not in functions  # with it, `expunge.unlern` is no error of mypy


@pytest.mark.parametrize("name", expunge.__all__)
def test_each_name_exists_and_is_documented(name: str) -> None:
    value = getattr(expunge, name)
    assert inspect.getdoc(value), f"{name} has no docstring"
    if inspect.isfunction(value):
        assert "return" in value.__annotations__


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="unlern"):
        _ = expunge.unlern  # type: ignore[attr-defined]


def test_import_alone_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, time; start = time.process_time(); import expunge; spent = time.process_time() - start; "
        "heavy = {'torch', 'transformers', 'pandas', 'pydantic', 'numpy'} & set(sys.modules); print(spent, heavy)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
    spent, heavy = out.split(" ", 1)
    assert heavy.strip() == "set()"
    assert float(spent) < 0.1


def test_settings_load_no_torch() -> None:
    code = "import sys; from expunge import UnlearnConfig; UnlearnConfig(); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
    assert out.strip() == "False"


def test_the_settings_classes_are_those_of_the_methods() -> None:
    formatted = subprocess.run(
        [str(Path(sys.executable).with_name("ruff")), "format", "--line-length=120", "--stdin-filename=x.py", "-"],
        input=source(), capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip
    assert TARGET.read_text() == formatted, f"out of date; run: {COMMAND}"
    assert {config_name(spec.name) for spec in shipped()} <= set(expunge.__all__)


@pytest.mark.parametrize("method", [spec.name for spec in shipped()])
def test_each_settings_class_makes_its_method(method: str) -> None:
    cls = getattr(expunge, config_name(method))
    assert cls().objective().spec.name == method
    text = inspect.getsource(cls)
    body = ast.parse(text).body[0]
    assert isinstance(body, ast.ClassDef)
    fields = [n for n in body.body if isinstance(n, ast.AnnAssign) and "ClassVar" not in ast.unparse(n.annotation)]
    docs = [n for n in body.body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
    assert len(docs) == len(fields) + 1  # the class and each field


def test_each_field_of_the_settings_is_documented() -> None:
    from expunge.training.in_memory.method_config_source import field_docs

    own = ast.parse(inspect.getsource(expunge.UnlearnConfig)).body[0]
    assert isinstance(own, ast.ClassDef)
    names = {n.target.id for n in own.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    assert names - {"METHOD"} == set(field_docs(expunge.UnlearnConfig))
