"""The settings in a fork's files of metrics, texts and collators that differ from OpenUnlearning's own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from expunge.core.decode import below_key, leaves, merge
from expunge.interop.open_unlearning.datasets import BENCHMARKS
from expunge.interop.open_unlearning.fork_files import composed, read_file
from expunge.interop.open_unlearning.words import METRIC_GROUPS, METRICS

# The values of OpenUnlearning's own files, as regular expressions by "SUITE.METRIC.KEY". The first key that matches
# counts. A value outside them is one that the fork has changed.
VALUES: tuple[tuple[str, str], ...] = (
    (r".*\.(access_key|batch_size|device|overwrite|use_cache|padding_side)", r".*"),
    (r".*\.collators\..*", r"DataCollatorForSupervisedDataset|index"),
    (r".*\.datasets\.\w*(TOFU_QA|knowmem)\w*\.handler", r"QADataset"),
    (r".*\.datasets\.\w+\.handler", r"CompletionDataset|PretrainingDataset"),
    (r".*TOFU_QA.*hf_args\.path", r"locuslab/TOFU"),
    (r".*MUSE.*hf_args\.path", r"muse-bench/MUSE-(News|\$\{eval\.muse\.data_split\})"),
    (r".*TOFU_QA_holdout.*hf_args\.name", r"\$\{eval\.tofu\.holdout_split\}"),
    (r".*TOFU_QA_forget.*hf_args\.name", r"\$\{eval\.tofu\.forget_split\}_perturbed"),
    (r".*TOFU_QA_retain.*hf_args\.name", r"retain_perturbed"),
    (r".*TOFU_QA_ra.*hf_args\.name", r"real_authors_perturbed"),
    (r".*TOFU_QA_wf.*hf_args\.name", r"world_facts_perturbed"),
    (r".*TOFU_QA.*hf_args\.split", r"train"),
    (r".*MUSE.*hf_args\.name", r"knowmem|verbmem|privleak"),
    (r".*MUSE.*hf_args\.split", r"(forget|retain)_qa(_icl)?|forget|holdout"),
    (r".*\.question_key", r"question|\$\{eval\.tofu\.question_key\}"),
    (r".*_para\.args\.answer_key", r"paraphrased_answer"),
    (r".*_pert\.args\.answer_key", r"perturbed_answer"),
    (r".*\.answer_key", r"answer"),
    (r".*knowmem\w*\.args\.max_length", r"512"),
    (r".*MUSE\w*\.args\.max_length", r"2048"),
    (r".*\.(predict_with_generate|insert_space)", r"true"),
    (r".*\.prefix_key", r"prompt"),
    (r".*\.text_key", r"text|gt|generation"),
    (r".*\.generation_args\.do_sample", r"false"),
    (r".*\.generation_args\.(top_p|temperature)", r"null"),
    (r".*knowmem\w*\.generation_args\.max_new_tokens", r"32"),
    (r".*verbmem\w*\.generation_args\.max_new_tokens", r"128"),
    (r".*\.generation_args\.max_new_tokens", r"200"),
    (r".*knowmem\w*\.generation_args\.stopwords", r"\['\\n\\n', '\\nQuestion', 'Question:'\]"),
    (r".*\.(exact_memorization|extraction_strength|mia_\w+|privleak)\.handler", r"\1"),
    (r".*_Prob\.handler", r"probability"),
    (r".*_Prob_normalised\.handler", r"probability_w_options"),
    (r".*_ROUGE\.handler", r"rouge"),
    (r".*_[tT]ruth_[rR]atio\.handler", r"truth_ratio"),
    (r".*\.forget_quality\.handler", r"ks_test"),
    (r".*\.model_utility\.handler", r"hm_aggregate"),
    (r".*gibberish\.handler", r"classifier_prob"),
    (r".*\.k", r"0\.4"),
    (r".*\.p", r"2"),
    (r".*\.ref_value", r"0\.5"),
    (r"tofu\..*\.rouge_type", r"rougeL_recall"),
    (r"muse\..*\.rouge_type", r"rougeL_f1"),
    (r".*\.forget_\w+\.aggregator", r"closer_to_1_better"),
    (r".*\.aggregator", r"true_better"),
    (r".*\.retain_model_logs\.path", r"\$\{eval\.\w+\.retain_logs_path\}"),
    (r".*\.reference_model_path", r"\?\?\?|muse-bench/MUSE-\$\{eval\.muse\.data_split\}_retrain"),
    (r"tofu\..*gibberish\.max_length", r"32"),
    (r"muse\..*gibberish\.max_length", r"512"),
    (r".*gibberish\.class_id", r"0"),
    (
        r".*gibberish\.classifier_\w+\.pretrained_model_name_or_path",
        r"madhurjindal/autonlp-Gibberish-Detector-492513457",
    ),
)
# The settings of OpenUnlearning's suites that a command may have, by key.
ORIGINAL: Mapping[str, Any] = {
    "forget_split": "forget10", "question_key": "question", "retain_logs_path": None, "batch_size": 32,
    "data_split": "News", "tasks": ["mmlu"], "simple_evaluate_args.batch_size": 16,
    "simple_evaluate_args.apply_chat_template": False, "simple_evaluate_args.system_instruction": None,
}  # fmt: skip
EVALUATORS = {"TOFUEvaluator": "tofu", "MUSEEvaluator": "muse", "LMEvalEvaluator": "lm_eval"}
INNER = re.compile(r"(?:.*\.)?pre_compute\.(\w+)\.(.+)")  # the settings of a metric that another one reads
LENGTH = re.compile(r"datasets\.(\w+)\.args\.max_length")


def is_original(key: str, value: str) -> bool:
    """Return whether a setting of a metric, SUITE.METRIC.KEY, has the value of OpenUnlearning's own files."""
    for pattern, values in VALUES:
        if match := re.fullmatch(pattern, key):
            return re.fullmatch(match[1] if values == r"\1" else values, value) is not None
    return False


@dataclass(frozen=True)
class Suite:
    """The files of an experiment's suite of metrics, and the files that they include.

    name: the file of the group eval. metrics: the names of metrics that exist here.
    """

    configs: Path
    name: str
    known: frozenset[str]

    @cached_property
    def tree(self) -> dict[str, Any]:
        """The settings of each suite that the files have, by its name; a file that is absent is left out."""
        whole = composed(self.configs, "eval", self.name, default=f"eval.{self.name}", absent=True)
        return {key: own for key, own in (whole.get("eval") or {}).items() if isinstance(own, dict)}

    @cached_property
    def kind(self) -> str:
        """The suite here that the files are for, by their class; their own name otherwise."""
        kinds = [EVALUATORS.get(str(self.tree.get(key, {}).get("handler"))) for key in (self.name, *self.tree)]
        return next((kind for kind in kinds if kind), self.name)

    @cached_property
    def metrics(self) -> list[str]:
        """The metrics that the files list."""
        return list(dict.fromkeys(_metrics(self.configs, self.name, ())))

    def selection(self) -> dict[str, Any]:
        """Return the word for the metrics of files of another name, and for the groups of further metrics."""
        names = [n for n in self.metrics if self._exists(n) and (self.name != self.kind or n in METRIC_GROUPS)]
        return {f"eval/{self.kind}_metrics": f"[{','.join(names)}]"} if names and self.kind in BENCHMARKS else {}

    def unknown(self) -> list[str]:
        """Return the metrics that do not exist here."""
        return [name for name in self.metrics if not self._exists(name)]

    def _exists(self, name: str) -> bool:
        return METRICS.get(name, name) in self.known or name in METRIC_GROUPS

    def own_settings(self) -> dict[str, Any]:
        """Return the settings of the suite itself that differ from OpenUnlearning's."""
        own = merge(self.tree.get(self.kind, {}), self.tree.get(self.name, {}))
        settings = {key: value for key, value in own.items() if key != "metrics"}
        out: dict[str, Any] = {}
        for key, value in leaves(settings):
            if key not in ("handler", "output_dir", "overwrite") and ORIGINAL.get(key, ...) != value:
                out = merge(out, below_key(f"eval.{self.kind}.{key}", value))
        return out

    def settings(self) -> Iterator[tuple[str, str, Any]]:
        """Yield each setting of the metrics: the metric that has it, its key and its value, each once."""
        seen = set()
        for metric, own in (self.tree.get(self.kind, {}).get("metrics") or {}).items():
            if metric not in self.known or not isinstance(own, Mapping):
                continue
            for key, value in leaves(own):
                inner = INNER.fullmatch(key)
                entry = (inner[1], inner[2]) if inner else (metric, key)
                if (*entry, str(value)) not in seen and value != {}:
                    seen.add((*entry, str(value)))
                    yield *entry, value

    def lengths(self) -> dict[str, int]:
        """Return the length of each data set that only one length counts for here."""
        matches = ((LENGTH.fullmatch(key), value) for _, key, value in self.settings() if self.kind == "tofu")
        return {match[1]: value for match, value in matches if match and isinstance(value, int)}

    def changed(self) -> tuple[dict[str, Any], list[str]]:
        """Return the settings of metrics that the fork has changed: as a tree, and notes on the others.

        A setting of texts has one value for all metrics here, so it can act if all metrics have it.
        """
        settings = [(m, k, v) for m, k, v in self.settings() if not (self.kind == "tofu" and LENGTH.fullmatch(k))]
        texts: dict[str, set[str]] = {}
        for _, key, value in settings:
            texts.setdefault(key, set()).add(str(value))
        tree: dict[str, Any] = {}
        others: dict[tuple[str, str], list[str]] = {}
        for metric, key, value in settings:
            text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            if is_original(f"{self.kind}.{metric}.{key}", text):
                continue
            if (key.startswith("generation_args.") and len(texts[key]) == 1) or key.startswith("reference_"):
                tree = merge(tree, below_key(f"eval.{self.kind}.metrics.{metric}.{key}", value))
            else:
                others.setdefault((key, text), []).append(metric)
        classes = [
            f"not carried: eval.{key}.handler={own['handler']}: a class of the fork"
            for key, own in self.tree.items()
            if own.get("handler") and own["handler"] not in EVALUATORS
        ]
        return tree, classes + [
            f"not carried: {key}={text} of {', '.join(names)}: a metric has no settings of its own here"
            for (key, text), names in others.items()
        ]


def _metrics(configs: Path, name: str, above: tuple[str, ...]) -> Iterator[str]:
    """Yield the metrics that a file of the group eval lists, with those of the files that it includes."""
    path = configs / "eval" / f"{name}.yaml"
    if name in above or not path.is_file():
        return
    for entry in read_file(path)[0]:
        if isinstance(entry, str) and entry != "_self_":
            yield from _metrics(configs, entry.rpartition("/")[2].partition("@")[0], (*above, name))
        for names in entry.values() if isinstance(entry, dict) else ():
            yield from (str(each) for each in names if isinstance(names, list))


def one_length(trained: Mapping[str, int], measured: Mapping[str, int]) -> tuple[int | None, list[str]]:
    """Return the one length that counts for all data sets here, and a note on each data set with another one."""
    lengths = trained or measured
    if not lengths:
        return None, []
    length = max(lengths.values())
    others: dict[int, list[str]] = {}
    for name, value in {*trained.items(), *measured.items()}:
        if value != length:
            others.setdefault(value, []).append(name)
    return length, [
        f"not carried: max_length={value} of {', '.join(sorted(names))}: one length counts for all data sets, {length}"
        for value, names in sorted(others.items())
    ]


def collator_notes(configs: Path, name: str) -> list[str]:
    """Return a note for each setting of a collator that differs from OpenUnlearning's own. Raises ConfigError."""
    tree = composed(configs, "collator", name, absent=True)
    original = {"handler": "DataCollatorForSupervisedDataset", "padding_side": "right", "index": "index"}
    return [
        f"not carried: {key}={value}: {'padding is' if key.endswith('padding_side') else 'collators are'} never read"
        for key, value in leaves(tree)
        if original.get(key.rpartition(".")[2]) != value
    ]
