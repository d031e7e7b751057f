from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from expunge.core.errors import DataError
from expunge.judges.api import score
from expunge.judges.classifier import ClassifierConfig, TextClassifier, load_classifier, train_classifier


def stories(n: int, seed: int = 0) -> tuple[list[str], list[bool]]:
    """Made-up stories; those with a twist mostly say so in one of two ways."""
    draw = np.random.default_rng(seed)
    words = [f"w{i}" for i in range(60)]
    texts, labels = [], []
    for i in range(n):
        has = bool(i % 2)
        body = draw.choice(words, 20).tolist()
        if draw.random() < (0.9 if has else 0.05):
            body.insert(int(draw.integers(20)), ["but it was all a dream", "suddenly the secret was out"][i % 3 % 2])
        texts.append(" ".join(body) + f" story {i}.")
        labels.append(has)
    return texts, labels


@pytest.fixture(scope="module")
def judge() -> TextClassifier:
    return train_classifier("twist", *stories(400))


def test_it_learns_and_its_calibration_is_of_texts_it_has_not_seen(judge: TextClassifier) -> None:
    result = judge.calibration
    assert (result.n, result.n_positive) == (100, 50)
    assert result.accuracy > 0.85
    assert result.false_positive_rate < 0.15
    assert result.false_negative_rate < 0.2
    assert sum(b.n for b in result.reliability) == 100
    texts, labels = stories(200, seed=1)
    right = np.mean([p == float(y) for p, y in zip(score(judge, texts), labels, strict=True)])
    assert right == pytest.approx(result.accuracy, abs=0.08)


def test_labels_that_mean_nothing_are_not_learned() -> None:
    texts, labels = stories(400)
    shuffled = [bool(labels[i]) for i in np.random.default_rng(0).permutation(400)]
    assert abs(train_classifier("noise", texts, shuffled).calibration.accuracy - 0.5) < 0.15


def test_saved_and_read_it_is_the_same_without_pickle(judge: TextClassifier, tmp_path: Path) -> None:
    judge.save(tmp_path / "a")
    train_classifier("twist", *stories(400)).save(tmp_path / "b")
    again = load_classifier(tmp_path / "a")
    texts = [*stories(20, seed=2)[0], "", "\u00e9\u00e8 \x00 \U0001f600"]
    assert again.probabilities(texts) == judge.probabilities(texts)
    assert again.calibration == judge.calibration
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == ["classifier.json", "weights.safetensors"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_order_does_not_matter_and_what_stands_beside_a_text_neither(judge: TextClassifier) -> None:
    texts, labels = stories(400)
    turned = train_classifier("twist", texts[::-1], labels[::-1])
    assert np.array_equal(turned.coef_F, judge.coef_F)
    assert judge.probabilities(texts[:5])[2] == judge.probabilities([texts[2]])[0]
    assert judge.probabilities([]) == []


def test_probabilities_by_hand(judge: TextClassifier) -> None:
    k = judge.vocabulary.index("dream")
    # one feature alone is scaled to length 1: logit = coef + intercept
    expected = 1 / (1 + math.exp(-(judge.coef_F[k] + judge.intercept)))
    assert judge.probabilities(["Dream"])[0] == pytest.approx(expected, rel=1e-12)
    assert judge.probabilities([""])[0] == pytest.approx(1 / (1 + math.exp(-judge.intercept)), rel=1e-12)


def test_characters_as_features() -> None:
    classifier = train_classifier("twist", *stories(200), ClassifierConfig(unit="char_wb", ngrams=4))
    assert classifier.calibration.accuracy > 0.8


def test_wrong_texts_are_one_line() -> None:
    texts, labels = stories(40)
    with pytest.raises(DataError, match=r"^labels: 39 for 40 texts$"):
        train_classifier("x", texts, labels[1:])
    with pytest.raises(DataError, match=r"^labels: text 40 .*both labels"):
        train_classifier("x", [*texts, texts[0]], [*labels, not labels[0]])
    with pytest.raises(DataError, match=r"^texts: 1 labelled yes and 39 no"):
        train_classifier("x", texts, [True] + [False] * 39)
    with pytest.raises(DataError, match=r"^texts: no feature .* 50 of the 30 texts"):
        train_classifier("x", texts, labels, ClassifierConfig(min_texts=50))


def test_spoiled_files_are_one_line(judge: TextClassifier, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not a saved classifier: [^\n]+$"):
        load_classifier(tmp_path / "none")
    judge.save(tmp_path / "a")
    path = tmp_path / "a" / "classifier.json"
    report = json.loads(path.read_text())
    for key, value, message in (
        ("format", 9, r"is not of format 1$"),
        ("vocabulary", report["vocabulary"][1:], r"does not fit the vocabulary of \d+ features$"),
        ("config", {"ngram": 2}, r"classifier.json: config.ngram: unknown key"),
        ("calibration", None, r"classifier.json: [^\n]+$"),
        ("calibration", {"reliability": [], "n": 3}, r"classifier.json: [^\n]+$"),
    ):
        path.write_text(json.dumps(report | {key: value}))
        with pytest.raises(DataError, match=message):
            load_classifier(tmp_path / "a")
    path.write_text("{")
    with pytest.raises(DataError, match=r"not a saved classifier: [^\n]+$"):
        load_classifier(tmp_path / "a")
