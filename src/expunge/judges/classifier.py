"""A local judge: TF-IDF and logistic regression, trained on labelled texts. No network, no pickle, the same each time.

It learns from texts whose label is known (a story was asked for a twist, or was not) and then judges generations. How
far to trust it is measured on texts kept apart, and travels with it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from expunge.core.decode import decode, strict
from expunge.core.errors import ConfigError, DataError
from expunge.core.files import whole_folder, write_json
from expunge.core.records import Floats
from expunge.judges.api import JudgeReply, JudgeScores
from expunge.judges.calibration import Calibration, CalibrationBin, calibrate

FORMAT = 1


@strict
@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """ngrams: longest run of words (or characters) that is a feature; strength: the inverse of the L2 penalty.

    max_features: the most frequent ones are kept. test_share of the texts, drawn from `seed` with the shares of both
    labels kept, are for the calibration alone. threshold: the probability from which the verdict is yes.
    """

    unit: Literal["word", "char_wb"] = "word"
    ngrams: int = 2
    min_texts: int = 2
    max_features: int = 50_000
    strength: float = 10.0
    test_share: float = 0.25
    threshold: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("ngrams", "min_texts", "max_features"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.strength <= 0:
            raise ValueError("strength must be > 0")
        for name in ("test_share", "threshold"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be between 0 and 1")


@dataclass(frozen=True)
class TextClassifier:
    """A trained judge. vocabulary: the F features in order; idf_F, coef_F, intercept: its weights."""

    name: str
    config: ClassifierConfig
    vocabulary: tuple[str, ...]
    idf_F: Floats
    coef_F: Floats
    intercept: float
    calibration: Calibration

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """The probability of yes for each text."""
        return _probabilities(self.config, self.vocabulary, self.idf_F, self.coef_F, self.intercept, texts)

    def judge(self, said: Sequence[JudgeReply]) -> list[JudgeScores]:
        """1 or 0 for each text, by the threshold."""
        return [JudgeScores(float(p >= self.config.threshold)) for p in self.probabilities([s.text for s in said])]

    def save(self, folder: Path) -> None:
        """Write a new folder: classifier.json (settings, vocabulary, calibration) and weights.safetensors."""
        with whole_folder(folder) as part:
            told = {"format": FORMAT, "name": self.name, "config": dataclasses.asdict(self.config)}
            shown = {"calibration": _shown(self.calibration), "vocabulary": list(self.vocabulary)}
            write_json(part / "classifier.json", told | shown)
            arrays = {"idf": self.idf_F, "coef": self.coef_F, "intercept": np.array([self.intercept])}
            save_file(arrays, part / "weights.safetensors")


def train_classifier(
    name: str, texts: Sequence[str], labels: Sequence[bool], config: ClassifierConfig | None = None
) -> TextClassifier:
    """Train on part of the labelled texts, calibrate on the rest. Equal texts fall on one side, and count once.

    Raises DataError where labels do not fit, a text has both, or there are too few texts of either label to split.
    """
    config = config or ClassifierConfig()
    if len(texts) != len(labels):
        raise DataError(f"labels: {len(labels)} for {len(texts)} texts")
    known: dict[str, bool] = {}
    for i, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if known.setdefault(text, bool(label)) != bool(label):
            raise DataError(f"labels: text {i} stands there twice, with both labels")
    kept, y = sorted(known), np.array([known[t] for t in sorted(known)])
    n_test = math.ceil(len(y) * config.test_share)
    n_yes, n_no = int(y.sum()), int(len(y) - y.sum())
    if min(n_yes, n_no) < 2 or min(n_test, len(y) - n_test) < 2:
        raise DataError(f"texts: {n_yes} labelled yes and {n_no} no, each once: too few to train and test on")
    train_t, test_t, train_y, test_y = train_test_split(kept, y, test_size=n_test, random_state=config.seed, stratify=y)
    vectorizer = _vectorizer(config, None)
    try:
        x = vectorizer.fit_transform(train_t)
    except ValueError:  # scikit-learn's words for an empty vocabulary
        raise DataError(f"texts: no feature stands in {config.min_texts} of the {len(train_t)} texts") from None
    fitted = LogisticRegression(C=config.strength, max_iter=5000, tol=1e-6).fit(x, train_y)
    vocabulary = tuple(str(w) for w in vectorizer.get_feature_names_out())
    idf, coef = (np.asarray(v, dtype=np.float64) for v in (vectorizer.idf_, fitted.coef_[0]))
    intercept = float(fitted.intercept_[0])
    told = _probabilities(config, vocabulary, idf, coef, intercept, test_t)
    calibration = calibrate(told, [bool(v) for v in test_y], threshold=config.threshold)
    return TextClassifier(name, config, vocabulary, idf, coef, intercept, calibration)


def load_classifier(folder: Path) -> TextClassifier:
    """Read a saved judge. Raises DataError for files that are missing, of another format, or do not fit each other."""
    try:
        told = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "weights.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"{folder}: not a saved classifier: {str(error).splitlines()[0]}") from None
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise DataError(f"{folder}: classifier.json is not of format {FORMAT}")
    vocabulary, shown = told.get("vocabulary"), told.get("calibration")
    if not isinstance(vocabulary, list) or not all(isinstance(w, str) for w in vocabulary):
        raise DataError(f"{folder}: classifier.json: vocabulary is not a list of texts")
    sizes = {k: v.shape for k, v in weights.items()}
    n = len(vocabulary)
    if sizes != {"idf": (n,), "coef": (n,), "intercept": (1,)} or len(set(vocabulary)) != n:
        raise DataError(f"{folder}: weights.safetensors does not fit the vocabulary of {n} features")
    try:
        config = decode(ClassifierConfig, told.get("config", {}), where="config")
        calibration = _read(shown)
    except (ConfigError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{folder}: classifier.json: {error}") from None
    idf, coef = (weights[k].astype(np.float64) for k in ("idf", "coef"))
    return TextClassifier(
        str(told.get("name")), config, tuple(vocabulary), idf, coef, float(weights["intercept"][0]), calibration
    )


def _vectorizer(config: ClassifierConfig, vocabulary: dict[str, int] | None) -> Any:
    return TfidfVectorizer(
        analyzer=config.unit,
        ngram_range=(1, config.ngrams),
        min_df=1 if vocabulary else config.min_texts,
        max_features=None if vocabulary else config.max_features,
        sublinear_tf=True,
        token_pattern=r"(?u)\b\w+\b" if config.unit == "word" else None,
        vocabulary=vocabulary,
    )


def _probabilities(
    config: ClassifierConfig,
    vocabulary: Sequence[str],
    idf_F: Floats,
    coef_F: Floats,
    intercept: float,
    texts: Sequence[str],
) -> list[float]:
    """The probability of yes for each text, from the weights alone."""
    if not texts:
        return []
    vectorizer = _vectorizer(config, {word: k for k, word in enumerate(vocabulary)})
    vectorizer.idf_ = idf_F
    logits = vectorizer.transform(texts) @ coef_F + intercept
    return [float(p) for p in 0.5 * (1 + np.tanh(0.5 * logits))]  # the logistic function, without overflow


def _shown(found: Calibration) -> dict[str, Any]:
    """A calibration as JSON: null for a number that is missing."""
    told = dataclasses.asdict(found)
    told["reliability"] = [_nulls(b) for b in told["reliability"]]
    return _nulls(told)


def _nulls(group: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in group.items()}


def _read(shown: Any) -> Calibration:
    told: dict[str, Any] = {k: math.nan if v is None else v for k, v in shown.items() if k != "reliability"}
    lines: list[dict[str, Any]] = [
        {k: math.nan if v is None else v for k, v in b.items()} for b in shown["reliability"]
    ]
    bins = tuple(CalibrationBin(**line) for line in lines)
    return Calibration(**told, reliability=bins)
