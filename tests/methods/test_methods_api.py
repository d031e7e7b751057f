from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.methods import Requirements, SideOutputs, find, method, registry


def test_every_file_of_the_folder_is_registered_with_a_page_and_a_source() -> None:
    assert {"GradAscent", "GradDiff", "NPO", "finetune"} <= set(registry())
    for spec in registry().values():
        assert spec.page, spec.name
        assert spec.paper, spec.name
        assert "Try: expunge " in spec.page, spec.name


def test_a_method_is_found_by_name_and_by_alias() -> None:
    assert find("NPO").name == "NPO"
    assert find("ascent") is find("GradAscent")


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"^trainer: no method named 'GradAsent'; did you mean 'GradAscent'\?"):
        find("GradAsent")


def test_two_methods_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="method NPO: registered twice"):

        @method("NPO", revision=1, needs=Requirements(), paper="none")
        @dataclass(frozen=True)
        class Other:
            pass

    assert find("NPO").cls.__name__ == "NPO"


def test_a_class_that_is_no_dataclass_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^method Plain: Plain is no dataclass"):

        @method("Plain", revision=1, needs=Requirements(), paper="none")
        class Plain:
            pass

    assert "Plain" not in registry()


def test_sums_and_means_of_rows_by_hand() -> None:
    # tokens of the rows lie mixed: row 1 has 1 and 3, row 0 has 2, row 2 has 5, 6 and 10
    row_N = torch.tensor([1, 0, 1, 2, 2, 2])
    x_N = torch.tensor([1.0, 2.0, 3.0, 5.0, 6.0, 10.0], dtype=torch.float64)
    side = SideOutputs(logps_N=-x_N, row_N=row_N, n_rows=3)
    assert side.row_sums(x_N).tolist() == [2.0, 4.0, 21.0]
    assert side.row_means(x_N).tolist() == [2.0, 2.0, 7.0]
    assert side.nll.item() == pytest.approx(27 / 6)  # the mean over tokens, not (2 + 2 + 7) / 3 over rows


@pytest.mark.parametrize("layer", ["model.layers.0:output", ("model.layers.0", "model.layers.1:inputs"), "", ("a b",)])
def test_a_name_that_is_no_module_is_refused_before_weights(layer: str | tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"^layer: '.*' names no module; write model.layers.7 for its output"):
        Requirements(layer=layer)
    assert Requirements(layer=("model.layers.0:input", "lm_head")).layer is not None
