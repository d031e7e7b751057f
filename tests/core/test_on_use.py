from __future__ import annotations

import sys

import pytest

from expunge.core.on_use import ModuleOnUse


def test_a_module_is_imported_when_a_name_of_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    module = ModuleOnUse("colorsys")
    assert "colorsys" not in sys.modules
    assert module.rgb_to_hsv(1.0, 0.0, 0.0) == (0.0, 1.0, 1.0)
    with pytest.raises(AttributeError):
        _ = module.no_such_name
