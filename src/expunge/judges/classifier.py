"""A local judge: TF-IDF and logistic regression, trained on labelled texts. No network, no pickle, deterministic.

It learns from texts with known labels (the prompt of a story requested a twist, or did not) and then judges
generations. Its calibration on held-out texts is stored with it.
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
from expunge.core.errors import ConfigError, DataError, first_line
from expunge.core.files import whole_folder, write_json
from expunge.core.records import Floats
from expunge.judges.api import JudgeReply, JudgeScores
from expunge.judges.calibration import Calibration, CalibrationBin, calibrate

FORMAT = 1


@strict
@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Settings of a text classifier."""

    unit: Literal["word", "char_wb"] = "word"
    """Unit of the features: words, or characters within words."""
    ngrams: int = 2
    """Longest run of units that is a feature."""
    min_texts: int = 2
    """Number of training texts that must contain a feature."""
    max_features: int = 50_000
    """Largest number of features; the most frequent ones stay."""
    strength: float = 10.0
    """Inverse of the L2 penalty."""
    test_share: float = 0.25
    """Share of the texts for the calibration only, stratified by label."""
    threshold: float = 0.5
    """Probability from which the verdict is yes."""
    seed: int = 0
    """Seed of the split into training and calibration texts."""

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
        """Return the probability of yes for each text."""
        return _probabilities(self.config, self.vocabulary, self.idf_F, self.coef_F, self.intercept, texts)

    def judge(self, replies: Sequence[JudgeReply]) -> list[JudgeScores]:
        """Return 1 or 0 for each text, by the threshold."""
        return [JudgeScores(float(p >= self.config.threshold)) for p in self.probabilities([s.text for s in replies])]

    def save(self, folder: Path) -> None:
        """Write a new folder: classifier.json (settings, vocabulary, calibration) and weights.safetensors."""
        with whole_folder(folder) as part:
            about = {"format": FORMAT, "name": self.name, "config": dataclasses.asdict(self.config)}
            stored = {"calibration": _to_json(self.calibration), "vocabulary": list(self.vocabulary)}
            write_json(part / "classifier.json", about | stored)
            arrays = {"idf": self.idf_F, "coef": self.coef_F, "intercept": np.array([self.intercept])}
            save_file(arrays, part / "weights.safetensors")


def train_classifier(
    name: str, texts: Sequence[str], labels: Sequence[bool], config: ClassifierConfig | None = None
) -> TextClassifier:
    """Train on part of the labelled texts, calibrate on the rest. Equal texts are on one side, and count once.

    Raises DataError if labels do not fit, a text has both labels, or a label has too few texts to split.
    """
    config = config or ClassifierConfig()
    if len(texts) != len(labels):
        raise DataError(f"labels: {len(labels)} for {len(texts)} texts")
    label_of: dict[str, bool] = {}
    for i, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if label_of.setdefault(text, bool(label)) != bool(label):
            raise DataError(f"labels: text {i} occurs twice, with both labels")
    unique, y = sorted(label_of), np.array([label_of[t] for t in sorted(label_of)])
    n_test = math.ceil(len(y) * config.test_share)
    n_yes, n_no = int(y.sum()), int(len(y) - y.sum())
    if min(n_yes, n_no) < 2 or min(n_test, len(y) - n_test) < 2:
        raise DataError(f"texts: {n_yes} labelled yes and {n_no} no, each once: too few to train and test on")
    train_t, test_t, train_y, test_y = train_test_split(
        unique, y, test_size=n_test, random_state=config.seed, stratify=y
    )
    vectorizer = _vectorizer(config, None)
    try:
        x = vectorizer.fit_transform(train_t)
    except ValueError:  # scikit-learn rejects an empty vocabulary
        raise DataError(f"texts: no feature occurs in {config.min_texts} of the {len(train_t)} texts") from None
    model = LogisticRegression(C=config.strength, max_iter=5000, tol=1e-6).fit(x, train_y)
    vocabulary = tuple(str(w) for w in vectorizer.get_feature_names_out())
    idf, coef = (np.asarray(v, dtype=np.float64) for v in (vectorizer.idf_, model.coef_[0]))
    intercept = float(model.intercept_[0])
    scores = _probabilities(config, vocabulary, idf, coef, intercept, test_t)
    calibration = calibrate(scores, [bool(v) for v in test_y], threshold=config.threshold)
    return TextClassifier(name, config, vocabulary, idf, coef, intercept, calibration)


def load_classifier(folder: Path) -> TextClassifier:
    """Read a saved judge. Raises DataError if files are missing, have another format, or do not fit each other."""
    try:
        content = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "weights.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"{folder}: not a saved classifier: {first_line(error)}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{folder}: classifier.json is not of format {FORMAT}")
    vocabulary, stored = content.get("vocabulary"), content.get("calibration")
    if not isinstance(vocabulary, list) or not all(isinstance(w, str) for w in vocabulary):
        raise DataError(f"{folder}: classifier.json: vocabulary is not a list of texts")
    sizes = {k: v.shape for k, v in weights.items()}
    n = len(vocabulary)
    if sizes != {"idf": (n,), "coef": (n,), "intercept": (1,)} or len(set(vocabulary)) != n:
        raise DataError(f"{folder}: weights.safetensors does not fit the vocabulary of {n} features")
    try:
        config = decode(ClassifierConfig, content.get("config", {}), where="config")
        calibration = _from_json(stored)
    except (ConfigError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{folder}: classifier.json: {error}") from None
    idf, coef = (weights[k].astype(np.float64) for k in ("idf", "coef"))
    return TextClassifier(
        str(content.get("name")), config, tuple(vocabulary), idf, coef, float(weights["intercept"][0]), calibration
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
    """Return the probability of yes for each text, from the weights alone."""
    if not texts:
        return []
    vectorizer = _vectorizer(config, {word: k for k, word in enumerate(vocabulary)})
    vectorizer.idf_ = idf_F
    logits = vectorizer.transform(texts) @ coef_F + intercept
    return [float(p) for p in 0.5 * (1 + np.tanh(0.5 * logits))]  # the logistic function, without overflow


def _to_json(calibration: Calibration) -> dict[str, Any]:
    """Return a calibration as JSON types; null for a missing number."""
    values = dataclasses.asdict(calibration)
    values["reliability"] = [_nulls(b) for b in values["reliability"]]
    return _nulls(values)


def _nulls(group: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in group.items()}


def _from_json(stored: Any) -> Calibration:
    values: dict[str, Any] = {k: math.nan if v is None else v for k, v in stored.items() if k != "reliability"}
    lines: list[dict[str, Any]] = [
        {k: math.nan if v is None else v for k, v in b.items()} for b in stored["reliability"]
    ]
    bins = tuple(CalibrationBin(**line) for line in lines)
    return Calibration(**values, reliability=bins)
