"""audit on models in memory: positions between the controls, the models untouched, one relearning."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from library_facts import FACTS, FORGET, RETAIN, SHORT

import expunge
from expunge.audits.api import AuditFindings
from expunge.audits.run import AuditReport
from expunge.core.errors import ConfigError
from expunge.metrics.equivalence import AuditFinding
from expunge.models.build import build_llama
from expunge.models.config import ModelArgs
from expunge.models.load import load_model, save_model

Weights = Callable[[Any], torch.Tensor]
RELEARN = {"name": "relearn", "rows": 1, "steps": [0, 1, 2], "ways": ["same_rows"]}


@pytest.fixture(scope="session")
def retain_model(tokenizer: Any) -> Any:
    model = build_llama("llama-64k", tokenizer, vocab_size=320, seed=0)
    settings = expunge.FinetuneConfig(**{**SHORT, "learning_rate": 1e-2, "num_train_epochs": 15})
    expunge.UnlearnTrainer(model, settings, retain_dataset=RETAIN, processing_class=tokenizer).train()
    return model


@pytest.mark.slow
def test_the_controls_are_the_ends_of_the_scale(full: Any, retain_model: Any, tokenizer: Any, weights: Weights) -> None:
    controls = {"retain": retain_model, "full": full}
    before = weights(full), weights(retain_model)
    for model, place in ((retain_model, 0.0), (full, 1.0)):
        report = expunge.audit(
            copy.deepcopy(model), tokenizer, ["quantize", RELEARN], forget=FORGET, retain=RETAIN, controls=controls,
            learning_rate=1e-3,
        )  # fmt: skip
        (same,) = report["relearn"]
        assert same.position == pytest.approx(place, abs=1e-6)
        assert [one.position for one in report["quantize"]] == pytest.approx([place, place], abs=1e-6)
    assert torch.equal(weights(full), before[0])
    assert torch.equal(weights(retain_model), before[1])
    table = report.to_pandas()
    assert list(table["finding"]) == ["int8", "int4", "same_rows"]
    assert set(table["verdict"]) == {"undecided"}  # three rows decide nothing
    assert report.verdict.robust.word == "undecided" and "verdict needs at least 6" in str(report.verdict)
    assert repr(report).splitlines()[0] == "AuditReport(controls: retain, full)"
    assert "<table" in report._repr_html_()
    assert len(report.examples("quantize")) == 3 * len(FORGET)


def modes(*models: Any) -> list[bool]:
    return [part.training for model in models for part in model.modules()]


def test_each_module_keeps_its_mode(full: Any, retain_model: Any, tokenizer: Any) -> None:
    """A model with one frozen layer in eval mode comes back as it was, and so do the controls and the original."""
    model, control = copy.deepcopy(full).train(), copy.deepcopy(retain_model).train()
    model.model.layers[0].eval()
    before = modes(model, control)
    assert len(set(before)) == 2
    words = {"max_new_tokens": 2}
    expunge.evaluate(model, tokenizer, forget=FORGET, generation=words)
    expunge.inspect(model, tokenizer, ["lens"], forget=FORGET, controls={"retain": control})
    controls = {"retain": control, "full": model}
    expunge.audit(model, tokenizer, ["lens", "quantize"], forget=FORGET, controls=controls, generation=words)
    assert modes(model, control) == before


@pytest.mark.slow
def test_the_relearning_is_a_finetuning_run(full: Any, retain_model: Any, tokenizer: Any) -> None:
    (finding,) = expunge.audit(
        retain_model, tokenizer, [{**RELEARN, "batch_size": 1}], forget=FORGET, retain=RETAIN,
        controls={"retain": retain_model, "full": full}, learning_rate=1e-3,
    )["relearn"]  # fmt: skip
    report = expunge.audit(
        retain_model, tokenizer, [{**RELEARN, "batch_size": 1, "learning_rate": 1e-3}], forget=FORGET, retain=RETAIN,
        controls={"retain": retain_model, "full": full},
    )  # fmt: skip
    assert report["relearn"][0].details == finding.details  # the audit's own rate counts


def test_without_controls_there_is_no_verdict(full: Any, tokenizer: Any) -> None:
    (finding, _) = expunge.audit(full, tokenizer, "quantize", forget=FORGET)["quantize"]
    assert finding.verdict == "not measurable"
    assert "retain model" in finding.note


def test_membership_reads_unseen_examples(full: Any, retain_model: Any, tokenizer: Any) -> None:
    unseen = [{"question": f"Where does {n} live?", "answer": f"{n} lives in town 99."} for n in ("Ivy", "Jon", "Kay")]
    report = expunge.audit(
        full, tokenizer, ["exposure"], forget=FORGET, retain=RETAIN, holdout=unseen,
        controls={"retain": retain_model, "full": full},
    )  # fmt: skip
    assert [one.name for one in report["exposure"]] == ["known_rows", "erased_rows"]


def test_four_bits_round_the_weights_and_leave_the_head(full: Any) -> None:
    pytest.importorskip("bitsandbytes")
    from expunge.audits.changes import to_nf4

    to_nf4(other := copy.deepcopy(full))
    name = "model.layers.0.mlp.down_proj.weight"
    mine, theirs = full.get_parameter(name), other.get_parameter(name)
    assert not torch.equal(mine, theirs)
    assert torch.allclose(mine, theirs, atol=float(mine.detach().abs().max()) / 4)
    assert torch.equal(full.lm_head.weight, other.lm_head.weight)


def test_four_bits_equal_those_of_a_loaded_model(full: Any, tokenizer: Any, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from expunge.audits.changes import to_nf4

    save_model(full, tokenizer, tmp_path)
    loaded = load_model(str(tmp_path), ModelArgs(), device=torch.device("cpu"), quantize="nf4").dequantize()
    to_nf4(other := copy.deepcopy(full))
    weights = other.state_dict()
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, weights[name]), name


@pytest.mark.parametrize(
    ("audits", "more", "message"),
    [
        (["quantise"], {}, "audits[0].name: no audit named 'quantise'; did you mean 'quantize'"),
        ([{"name": "quantize", "frms": ["int8"]}], {}, "frms: unknown key; did you mean 'forms'"),
        ([], {}, "audits: name at least one audit"),
        ([5], {}, "audits[0]: expected an audit's name, settings or object, got an int"),
        (["quantize"], {"controls": ["m"]}, "controls: expected a mapping of roles to models, got a list"),
        (["quantize"], {"controls": {"retian": None}}, "controls: no role named 'retian'; did you mean 'retain'"),
    ],
)
def test_a_wrong_argument_is_named(audits: Any, more: Any, message: str, full: Any, tokenizer: Any) -> None:
    with pytest.raises(ConfigError) as error:
        expunge.audit(full, tokenizer, audits, forget=FORGET, retain=RETAIN, **more)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"n": 0}, "n: must be a whole number of at least 1, got 0"),
        ({"n": "3"}, "n: must be a whole number of at least 1, got '3'"),
        ({"controls": ["m"]}, "controls: expected a mapping of names to models, got a list"),
        ({"analyses": ["drift"]}, "analyses: drift needs reference="),
    ],
)
def test_a_wrong_argument_of_inspect_is_named(more: Any, message: str, full: Any, tokenizer: Any) -> None:
    with pytest.raises(ConfigError) as error:
        expunge.inspect(full, tokenizer, forget=FORGET, **more)
    assert message in str(error.value)


def test_a_layer_report_has_a_line_per_layer(full: Any, retain_model: Any, tokenizer: Any) -> None:
    modes = full.training, retain_model.training
    report = expunge.inspect(
        full, tokenizer, forget=FORGET, retain=RETAIN, reference=full, controls={"retain": retain_model}
    )
    table = report.to_pandas()
    assert list(table.index) == [0, 1]
    assert list(table["drift"]) == [0.0, 0.0]
    assert list(table["lens model"]) == list(table["lens reference"])
    assert {"lens retain", "probe model", "probe retain"} <= set(table.columns)
    assert (full.training, retain_model.training) == modes
    drift = expunge.inspect(full, tokenizer, "drift", forget=FORGET, reference=retain_model)
    assert (drift.to_pandas()["drift"] > 0).all()
    assert "self_attn.q_proj.weight" in set(drift.details("drift")["module"])
    assert {"cka: too few positions", "probe_model: an AUC over 2 test rows"} <= set(report.notes)
    assert "LayerReport(2 layers)" in repr(report) and "<table" in report._repr_html_()


def test_an_analysis_says_what_it_lacks(full: Any, tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="drift needs reference="):
        expunge.inspect(full, tokenizer, ["drift"], forget=FORGET)
    with pytest.raises(ConfigError, match="did you mean 'lens'"):
        expunge.inspect(full, tokenizer, ["lenses"], forget=FORGET)
    assert "left out: drift, cka, probe" in repr(expunge.inspect(full, tokenizer, forget=FACTS))


def test_controls_that_no_finding_could_use_are_not_called_missing() -> None:
    findings = AuditFindings((AuditFinding("grey_box", note="no rows"), AuditFinding("white_box", 1.0, note="unlike")))
    report = AuditReport({"forensic": findings}, ("retain", "full"))
    assert report.verdict.forgot.word == "not tested" and "no retain model" not in str(report)
    assert "forensic white_box: 1 not measurable (unlike)" in str(report)  # the reason, also next to a number
    alone = AuditReport({"forensic": findings}, ("full",))
    assert alone.verdict.forgot.sentence == "There is no retain model to compare it with."
