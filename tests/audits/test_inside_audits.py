"""The audits inside a model: what they ask for, and how they read numbers by layer, on results made by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from expunge.audits import Analysis, AuditInputs, AuditOutputs, make_audit
from expunge.audits.distinguishability import folds, groups_of, out_of_fold
from expunge.audits.layers import by_layer
from expunge.core.errors import ConfigError, DataError
from expunge.data.examples import Example, ExampleSet
from expunge.metrics.api import MetricResult

torch.set_num_threads(1)


def rows(name: str, n: int, per_author: int = 2, wrong: int = 2) -> ExampleSet:
    calls = []
    for i in range(n):
        answers = {"answer": f"{name} {i}", "paraphrase": f"it is {name} {i}"}
        answers |= {f"perturbed_{k}": f"it is no {k}" for k in range(wrong)}
        calls.append(Example(i, f"{name} {i}?", answers, None, {"author": i // per_author}))
    return ExampleSet(name, tuple(calls))


GROUND = AuditInputs(forget=rows("forget", 6), retain=rows("retain", 8), holdout=rows("new", 6))
FULL, RETAIN = [0.9, 0.8, 0.9, 0.8, 0.9, 0.8], [0.1, 0.2, 0.1, 0.2, 0.1, 0.2]


def layered(
    probe: str, columns: Sequence[Sequence[float]], **more: dict[str, MetricResult]
) -> dict[str, dict[str, MetricResult]]:
    """The results of one probe: a column of rows for each layer."""
    values = np.array(columns).T
    result = by_layer(probe, values, range(values.shape[1]), range(values.shape[0]))
    return {probe: result | {k: v for part in more.values() for k, v in part.items()}}


def test_the_layers_that_count_are_those_where_the_controls_differ() -> None:
    # layer 0: the controls are the same, so whatever the model has there does not count; layer 1: 0.6 of the way
    part = [r + 0.6 * (f - r) for f, r in zip(FULL, RETAIN, strict=True)]
    outputs = AuditOutputs(
        layered("lens", [[1.0] * 6, part]), layered("lens", [[0.3] * 6, RETAIN]), layered("lens", [[0.3] * 6, FULL])
    )
    findings = make_audit("lens").read(GROUND, outputs)
    (reading,) = findings.readings
    assert (reading.value, reading.retain, reading.full) == pytest.approx((0.57, 0.15, 0.85))
    assert (reading.position, reading.verdict) == (pytest.approx(0.6), "trace")
    assert reading.note == "layers 1"
    assert reading.details["model_layer_0"] == 1.0 and reading.details["full_layer_1"] == pytest.approx(0.85)
    assert len(findings.rows["row_id"]) == 2 * 6


def test_where_no_layer_tells_the_controls_apart_nothing_is_said() -> None:
    same = layered("lens", [FULL, FULL])
    (reading,) = make_audit("lens").read(GROUND, AuditOutputs(same, same, same)).readings
    assert reading.verdict == "not measurable" and "at no layer" in reading.note
    assert math.isnan(reading.value) and reading.details["model_layer_1"] == pytest.approx(0.85)


def patched(nats: Sequence[float]) -> dict[str, dict[str, MetricResult]]:
    """Every row's log-probability in the full model with states put in, by layer; its own is -0.1."""
    own = by_layer("own", np.full((6, 1), -0.1), [0], range(6))
    return layered("depth", [[v] * 6 for v in nats], own=own)


def test_depth_holds_the_patched_probability_against_the_controls_with_uds_beside_it() -> None:
    # the retain model's states cost 2 and 1 nats, the model's 0.5 and 1: UDS = (2 * 0.25 + 1 * 1) / 3 = 0.5
    outputs = AuditOutputs(patched([-0.6, -1.1]), patched([-2.1, -1.1]), patched([-0.1, -0.1]))
    (reading,) = make_audit("depth").read(GROUND, outputs).readings
    assert reading.details["uds"] == pytest.approx(0.5) and reading.details["uds_rows"] == 6
    mean = (math.exp(-0.6) + math.exp(-1.1)) / 2
    gaps = (math.exp(-2.1) + math.exp(-1.1)) / 2
    assert reading.value == pytest.approx(mean)
    assert reading.position == pytest.approx((mean - gaps) / (math.exp(-0.1) - gaps))
    assert "UDS 0.50" in reading.note


def test_a_probe_for_truth_asks_for_wrong_answers_and_one_for_membership_for_unseen_rows() -> None:
    plan = make_audit("probe").expand(GROUND)
    assert [p.name for p in plan.probes] == ["truth", "membership"] and not plan.missing
    assert all(isinstance(p.change, Analysis) for p in plan.probes)
    bare = AuditInputs(forget=rows("forget", 6, wrong=0), retain=rows("retain", 4), holdout=None)
    plan = make_audit("probe").expand(bare)
    assert not plan.probes and "no wrong answers" in plan.missing["truth"]
    outputs = make_audit("probe").read(bare, AuditOutputs({}, {}, {}))
    assert [r.verdict for r in outputs.readings] == ["not measurable", "not measurable"]
    assert "holdout= in Python" in outputs.readings[1].note


def test_membership_is_an_auc_between_those_of_the_controls() -> None:
    def of(erased: list[float]) -> dict[str, dict[str, MetricResult]]:
        sides = {"erased": erased, "unseen": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]}
        columns = {side: np.array(v)[:, None] for side, v in sides.items()}
        result = {k: v for side, c in columns.items() for k, v in by_layer(side, c, [0], range(6)).items()}
        return {"membership": result}

    high, chance = [9.0] * 6, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    audit = make_audit({"name": "probe", "what": ["membership"]})
    (reading,) = audit.read(GROUND, AuditOutputs(of(high), of(chance), of(high))).readings
    assert (reading.value, reading.retain, reading.full) == (1.0, 0.5, 1.0)
    assert (reading.position, reading.verdict) == (1.0, "known")
    (reading,) = audit.read(GROUND, AuditOutputs(of(high), of(high), of(high))).readings
    assert reading.verdict == "not measurable"


def test_folds_keep_an_author_together_and_test_every_row_once() -> None:
    sets = (rows("forget", 8), rows("new", 6))
    labels = np.repeat([1, 0], [8, 6])
    groups = [g for s in sets for g in groups_of(s)]
    tested: list[int] = []
    for train, test in folds(labels, groups, 0):
        assert not {groups[i] for i in train} & {groups[i] for i in test}
        assert set(labels[train]) == {0, 1}
        tested += test.tolist()
    assert sorted(tested) == list(range(14))
    odds = out_of_fold(labels[:, None].astype(float), labels, groups, 1.0, 0)
    assert (odds[:8] > 0).all() and (odds[8:] < 0).all()


def signals(erased: list[float], unseen: list[float]) -> dict[str, dict[str, MetricResult]]:
    sides = {"erased": erased, "unseen": unseen}
    result = {
        f"{name}.{side}": MetricResult(0.0, per_row={i: {"score": v} for i, v in enumerate(values)})
        for name in ("loss", "length")
        for side, values in sides.items()
    }
    return {
        "as_it_is": {k: v for k, v in result.items() if k.startswith("loss")},
        "states": {k: v for k, v in result.items() if k.startswith("length")},
    }


def test_erased_rows_stand_out_where_the_retain_model_finds_them_alike() -> None:
    n = 20
    ground = AuditInputs(forget=rows("forget", n), retain=None, holdout=rows("new", n))
    alike = [2.0 + (i % 10) / 10 for i in range(n)]
    retain = signals(alike, alike)
    audit = make_audit({"name": "forensic", "gradients": False})
    model = signals([9.0 + v for v in alike], alike)
    outputs = audit.read(ground, AuditOutputs(model, retain, None))
    assert [r.name for r in outputs.readings] == ["grey_box", "white_box", "with_reference"]
    for reading in outputs.readings:
        assert reading.value == 1.0 and reading.verdict == "trace"
        assert set(reading.details) >= {"auc_loss", "difference"}
    assert len(outputs.rows["row_id"]) == 2 * n and outputs.rows["set"][0] == "erased"
    outputs = audit.read(ground, AuditOutputs(retain, retain, None))  # a model like the retain model gives nothing away
    assert outputs.readings[2].value == 0.5 and outputs.readings[2].verdict == "no trace"
    outputs = audit.read(
        ground, AuditOutputs(model, model, None)
    )  # sets that are not alike for a model that saw neither
    assert outputs.readings[0].verdict == "not measurable" and "not alike" in outputs.readings[0].note


def test_the_forensic_attack_says_what_it_lacks() -> None:
    ground = AuditInputs(forget=rows("forget", 6), retain=None, holdout=rows("new", 2))
    audit = make_audit("forensic")
    assert not audit.expand(ground).probes
    assert all("two authors" in r.note for r in audit.read(ground, AuditOutputs({}, {}, {})).readings)
    outputs = audit.read(GROUND, AuditOutputs({}, None, None))
    assert all("no retain model" in r.note and r.verdict == "not measurable" for r in outputs.readings)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "probe", "what": []}, "audits.what: must be a list of different names"),
        ({"name": "probe", "strength": 0}, "audits.strength: must be a number > 0"),
        ({"name": "depth", "tau": -1}, "audits.tau: must be a number >= 0"),
        ({"name": "forensic", "components": -1}, "audits.components: must be at least 0"),
        ({"name": "lens", "margin": 0.9}, "audits: known must be above margin"),
    ],
)
def test_settings_out_of_range_are_refused_at_their_key(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_audit(entry)
    assert message in str(caught.value)


class Words:
    """An encoder of words: every word an id of its own, the same in every model."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.tokenizer = self
        self.pad_token_id = 0

    def row(self, rows: ExampleSet, row: Example, variant: str) -> Any:
        from expunge.data.encoder import Encoded

        report = [
            self.ids.setdefault(w, 3 + len(self.ids)) for w in (row.question + " " + row.answers[variant]).split()
        ]
        return Encoded((1, *report, 2), 1 + len(row.question.split()))

    def decode(self, ids: Sequence[int]) -> str:
        names = {i: w for w, i in self.ids.items()}
        return " ".join(names.get(i, "") for i in ids)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).double().eval()


@pytest.mark.parametrize("name", ["lens", "depth", "probe", "forensic"])
def test_every_look_gives_a_number_for_each_row_and_is_read_the_same_again(name: str, model: Any) -> None:
    plan = make_audit(name).expand(GROUND)
    looks = [p.change for p in plan.probes if isinstance(p.change, Analysis)]
    encoder: Any = Words()
    for look in looks:
        sets = {n: plan.sets[n] for n in look.sets}
        product, again = (look.measure(lambda role: model, sets, encoder) for _ in range(2))
        assert product == again
        for result in product.values():
            assert list(result.per_row) == list(range(6))
            assert all(math.isfinite(stats["score"]) for stats in result.per_row.values())  # type: ignore[arg-type]
    if name == "depth":  # the host's own states change nothing
        for layer in (0, 1):
            assert product[f"depth.{layer}"].column("score") == pytest.approx(
                product["own.0"].column("score"), rel=1e-12
            )


def test_depth_reads_the_entities_of_a_file(tmp_path: Any) -> None:
    file = tmp_path / "entities.json"
    forget = ExampleSet("forget", tuple(Example(i, f"q {i}?", {"answer": f"It is town {i} here."}) for i in range(3)))
    file.write_text('[{"idx": 2, "entity": "town 2", "prefix": "It is"}, {"idx": 0, "entity": "town 0"}]')
    inputs = AuditInputs(forget=forget, retain=None, holdout=None)
    plan = make_audit({"name": "depth", "entities": str(file)}).expand(inputs)
    rows = plan.sets["audit_entities"]
    assert [(r.row_id, r.answer, r.meta["value"]) for r in rows] == [
        (0, "It is town 0 here.", "town 0"), (1, "It is town 2 here.", "town 2"),
    ]  # fmt: skip
    for text, output in [
        ('[{"idx": 3, "entity": "town"}]', "row 0: 3 is the number of no forget row; allowed: 0 to 2"),
        ('[{"idx": 1, "entity": "city"}]', "row 0: the answer of forget row 1 does not contain the entity 'city'"),
        ('[{"idx": 1, "entity": "town"}, {"idx": 1, "entity": "town"}]', "row 1: forget row 1 is named twice"),
        ('[{"idx": 1, "entitys": "town"}]', "row 0: no column 'entity' or 'value'; did you mean 'entitys'"),
    ]:
        file.write_text(text)
        with pytest.raises(DataError, match=re.escape(output)):
            make_audit({"name": "depth", "entities": str(file)}).expand(inputs)
