from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from expunge.core.on_use import ModuleOnUse, stand_ins


def test_a_module_is_imported_when_a_name_of_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    module = ModuleOnUse("colorsys")
    assert "colorsys" not in sys.modules
    assert module.rgb_to_hsv(1.0, 0.0, 0.0) == (0.0, 1.0, 1.0)
    with pytest.raises(AttributeError):
        _ = module.no_such_name


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package `heavy_one`, and a module `light_one` that imports it."""
    (tmp_path / "heavy_one" / "inner").mkdir(parents=True)
    (tmp_path / "heavy_one" / "__init__.py").write_text("class Thing:\n    size = 3\n")
    (tmp_path / "heavy_one" / "inner" / "__init__.py").write_text("def twice(x):\n    return 2 * x\n")
    (tmp_path / "light_one.py").write_text(
        "import heavy_one\nfrom heavy_one import Thing\nfrom heavy_one.inner import twice\n"
        "def is_thing(x):\n    return isinstance(x, (int, Thing)), isinstance(x, heavy_one.Thing)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("heavy_one", "heavy_one.inner", "light_one"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("packages")
def test_a_stand_in_is_imported_at_its_first_use() -> None:
    with stand_ins("heavy_one", "no_such_package"):
        light = importlib.import_module("light_one")
        with pytest.raises(ImportError):
            importlib.import_module("no_such_package")
    assert light.is_thing(1) == (True, False) and light.is_thing("") == (False, False)
    assert "heavy_one" not in sys.modules and "heavy_one.inner" not in sys.modules

    assert light.twice(4) == 8
    heavy = importlib.import_module("heavy_one")
    assert light.is_thing(heavy.Thing()) == (True, True)
    assert light.Thing.size == 3 and issubclass(heavy.Thing, light.Thing)
    assert issubclass(type("Own", (heavy.Thing,), {}), light.Thing) and not issubclass(int, light.Thing)

    class Own(light.Thing):  # type: ignore[misc,name-defined]
        pass

    assert Own.__mro__[1] is heavy.Thing


@pytest.mark.usefixtures("packages")
def test_an_imported_package_gets_no_stand_in() -> None:
    heavy = importlib.import_module("heavy_one")
    with stand_ins("heavy_one"):
        light = importlib.import_module("light_one")
    assert light.Thing is heavy.Thing and light.heavy_one is heavy


@pytest.mark.slow
def test_a_training_loads_only_the_packages_that_it_uses() -> None:
    """transformers' Trainer imports peft (which imports bitsandbytes) and datasets, and its models import scipy."""
    code = (
        "import sys, expunge.training.in_memory.unlearn_trainer, expunge.pipelines.study_jobs.work\n"
        "from expunge.core.on_use import import_model_base, transformers\n"
        "from expunge.metrics.words import rouge_score_words\n"
        "import_model_base(), transformers.LlamaForCausalLM, rouge_score_words('two words')\n"
        "unused = ('peft', 'bitsandbytes', 'datasets', 'scipy', 'sklearn', 'pandas', 'torch._inductor.compile_fx')\n"
        "print([name for name in unused if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
