"""The page of an analysis: curves by layer, maps of layers by examples, and the numbers as text."""

from __future__ import annotations

import math

from expunge.interpretability.lens import LensLine, LensResult, TokenLens, TokenLine
from expunge.report.inspect_page import inspect_page, layer_figure, maps_of

LINES = tuple(LensLine(row, layer, -1.0 - row + layer, 0.5) for row in range(20) for layer in range(3))
RESULT = LensResult("logit", (0, 1, 2), (-3.0, -2.0, -1.0), (0.5, 0.5, 0.5), LINES)
COLUMNS = {"log p, <model>": {0: -3.0, 1: -2.0, 2: -1.0, None: 9.0}, "retain": {0: -4.0, 1: math.nan, 2: -3.0}}


def test_the_curves_go_through_the_numbers() -> None:
    figure = layer_figure({k: {i: v for i, v in c.items() if i is not None} for k, c in COLUMNS.items()}, [0, 1, 2])
    assert figure is not None
    first, second = figure.curves
    heights = [y for _, y in first.points]
    assert heights == sorted(heights, reverse=True)  # a larger number is higher
    assert len(second.points) == 2  # no point without a number
    assert first.dash != second.dash and first.colour != second.colour
    assert [text for _, text in figure.y_ticks] == ["-4", "-3.25", "-2.5", "-1.75", "-1"]


def test_layers_by_examples() -> None:
    logp, accuracy = maps_of("lens_model", RESULT)
    assert (logp.title, logp.across, len(logp.columns), logp.left_out) == ("lens model: logp", "example", 16, 4)
    assert logp.rows[2][1][0] == ("1", 1.0) and logp.rows[0][1][0] == ("-1", 0.905)
    assert accuracy.rows[0][1][0] == ("0.5", 0.0)


def test_layers_by_tokens_of_each_example() -> None:
    texts = {4: ["<b>", " the", " the"], 7: ["a", "b"]}
    lines = [
        TokenLine(row, k, text, layer, -float(k) + layer)
        for row, tokens in texts.items()
        for k, text in enumerate(tokens)
        for layer in range(2)
    ]
    result = TokenLens((0, 1), tuple(lines))
    first, second = maps_of("lens_tokens_model", result)
    assert (first.title, first.across) == ("lens tokens model, example 4: logp", "token")
    assert first.columns == ("'<b>'", "' the'", "' the'")  # equal tokens at two places are two columns
    assert [text for text, _ in first.rows[1][1]] == ["1", "0", "-1"]
    assert second.columns == ("'a'", "'b'")
    page = inspect_page("lens", "Log p", "layer", COLUMNS, {"lens_tokens_model": result}, "", "expunge inspect lens")
    assert "<b>" not in page and "&lt;b&gt;" in page


def test_the_page_has_every_number_and_escapes() -> None:
    page = inspect_page("lens", "Log p", "layer", COLUMNS, {"lens_model": RESULT}, "a <line>", "expunge inspect lens")
    assert "<model>" not in page and "a &lt;line&gt;" in page
    assert page.count("<polyline") == 2 and page.count('class="heat"') == 2
    assert "default-src 'none'" in page


def test_one_place_has_a_table_alone() -> None:
    page = inspect_page("drift", "Drift", "layer", {"relative": {0: 0.5}}, {}, "", "expunge inspect drift")
    assert "<polyline" not in page and "0.5" in page
