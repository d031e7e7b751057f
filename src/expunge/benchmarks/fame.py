from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, benchmark, settings, unused
from expunge.benchmarks.example_metrics import rows_panel
from expunge.core.decode import strict
from expunge.core.errors import ConfigError, nearest
from expunge.data.examples import ExampleSet
from expunge.data.granularity import row_set, spread
from expunge.data.loaders.fame import HUB_IDS, LANGUAGES, load_fame
from expunge.metrics.api import Metric
from expunge.metrics.compute import in_order

BY_LANGUAGE = ("forget_Q_A_Prob", "forget_Q_A_ROUGE", "retain_Q_A_Prob", "retain_Q_A_ROUGE")


@strict
@dataclass(frozen=True, kw_only=True)
class FameArgs:
    """`data.args` of FAME."""

    languages: tuple[str, ...] = LANGUAGES
    """Languages that the models learn and the metrics read: DE, EN, ES, FR, IT."""
    forget_languages: tuple[str, ...] = ()
    """Languages of the rows that unlearning reads; empty: all of `languages`."""
    eval_rows: int = 1000
    """Number of rows of each evaluation set, evenly spaced (0: all)."""

    def __post_init__(self) -> None:
        for key in ("languages", "forget_languages"):
            for language in getattr(self, key):
                if language not in LANGUAGES:
                    raise ValueError(f"{key}: no language {language!r}{nearest(language, LANGUAGES)}")
        if not self.languages:
            raise ValueError(f"languages must name one of {', '.join(LANGUAGES)}")
        if missing := [language for language in self.forget_languages if language not in self.languages]:
            raise ValueError(f"forget_languages: {missing[0]} is not in languages")
        if self.eval_rows < 0:
            raise ValueError("eval_rows must be at least 0 (0: all)")


@benchmark(
    "fame",
    about=f"FAME ({HUB_IDS['FAME']}, arXiv:2512.15235): invented actors in five languages",
    fidelity="schema",
)
def fame(config: BenchmarkConfig) -> Benchmark:
    """Build FAME (Savelli et al. 2025): forget invented actors, and measure it in five languages.

    data_split: FAME (default), or task1 or task2 of the SVELA task at EVALITA 2026, whose files have the same columns.
    data.root: a folder of such files in place of the hub. data.args.languages: the languages that the models learn;
    data.args.forget_languages: the languages that unlearning reads. With forget_languages=[EN] the metrics of the other
    languages say whether forgetting carries over.

    Panel: probability, ROUGE, exact memorisation, extraction strength and the membership attacks (actors to forget
    against the unseen actors of the split `test`); probability and ROUGE for each language (forget_Q_A_Prob_fr, ...).
    Models with other scripts than Latin are measured by the same code: ROUGE splits words by Unicode.

    The target model learns the rows to forget and to retain, the retain model those to retain.

    Try: expunge unlearn benchmark=fame data.args.forget_languages=[EN] trainer=NPO model=MODEL task_name=npo_en
    """
    unused(config, "fame", "forget_split", "retain_split", "holdout_split", "forget", "retain", "background")
    args = settings(config, FameArgs)
    part = config.data_split or "FAME"
    if part not in HUB_IDS:
        raise ConfigError(f"data_split={part}: FAME has no such part{nearest(part, HUB_IDS)}")
    sets = load_fame(config.root or HUB_IDS[part], args.languages)
    sets["learned"] = replace(sets["forget"], name="learned")
    if args.forget_languages:
        in_language = [row for row in sets["forget"] if row.meta["language"] in args.forget_languages]
        if not in_language:
            raise ConfigError("data.args.forget_languages: no row to forget is in these languages")
        sets["forget"] = row_set("forget", in_language)
    most = args.eval_rows or max(len(rows) for rows in sets.values())
    for name, source in (("forget_eval", "learned"), ("retain_eval", "retain"), ("holdout", "holdout")):
        sets[name] = row_set(name, spread(tuple(sets[source]), most))
    return Benchmark(
        name="fame",
        split=part if not args.forget_languages else f"{part} {'+'.join(args.forget_languages)}",
        sets=sets,
        panel=_panel(sets, args.languages, config.truth_ratio),
        full_sets=("learned", "retain"),
        retain_sets=("retain",),
        eval_name="FAME",
    )


def _panel(sets: Mapping[str, ExampleSet], languages: Sequence[str], truth_ratio: str) -> tuple[Metric, ...]:
    panel = list(rows_panel(sets, truth_ratio=truth_ratio))
    if len(languages) > 1:
        for metric in list(panel):
            if metric.name in BY_LANGUAGE:
                panel += [
                    dataclasses.replace(metric, name=f"{metric.name}_{language.lower()}", where={"language": language})
                    for language in languages
                    if any(row.meta["language"] == language for row in sets[metric.rows or ""])
                ]
    in_order(panel)
    return tuple(panel)
