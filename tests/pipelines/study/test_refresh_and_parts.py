"""Records in parts: what is stored is not scored again, models share no number, and metrics need no model."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from expunge.benchmarks import Benchmark
from expunge.core.errors import ConfigError, DataError
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Template
from expunge.engine.run import JobEvent, run
from expunge.engine.store import Store
from expunge.evaluation import distributed
from expunge.methods.objective import objective
from expunge.metrics.api import Metric
from expunge.metrics.results import read_results
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.load import save_model
from expunge.pipelines.study.context_source import ContextSource
from expunge.pipelines.study.refresh import refresh
from expunge.pipelines.study.resolve_task import check_holdout, resolve_task
from expunge.pipelines.study.single import PreparedJob, carry_out, prepare
from expunge.pipelines.study.single_config import SingleJob
from expunge.pipelines.study.task_config import EvalConfig, decode_task
from expunge.pipelines.study.task_context import check_retain_file
from expunge.pipelines.study_jobs import evaluation_jobs, measuring
from expunge.pipelines.study_jobs.training_jobs import TrainingJobs
from expunge.training.config import TrainArgs
from expunge.training.evaluate_args import EvaluateArgs

SAMPLING = {"temperature": 1.0, "samples": 2, "max_new_tokens": 3}
WORLD = {"authors": 4, "questions_per_author": 3, "forget_fraction": 0.25, "facts": 3, "holdout_authors": 1}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny models, `a` and `b`, of one tokenizer, and `c` with another."""
    folder = tmp_path_factory.mktemp("models")
    texts = ["Who wrote the book? Ana did, in Paris, by the sea.", "Nobody knows what the publisher said in 1991."] * 9
    for name, seed, size in (("a", 0, 300), ("b", 1, 300), ("c", 2, 280)):
        tokenizer = train_tokenizer(texts, size, max_length=256)
        save_model(build_llama("llama-64k", tokenizer, vocab_size=320, seed=seed), tokenizer, folder / name)
    return folder


def single(models: Path, tmp_path: Path, name: str, task: str | None = None, **evaluation: Any) -> PreparedJob:
    retain = evaluation.pop("retain_logs_path", None)
    tree = {
        "mode": "eval",
        "task_name": task or name,
        "data": {"world": WORLD},
        "model": {"device": "cpu", "model_args": {"pretrained_model_name_or_path": str(models / name)}},
        "eval": {
            "generation": {"max_new_tokens": 3},
            "sampling": SAMPLING,
        }
        | evaluation,
        "paths": {"store": str(tmp_path / "store"), "output_dir": str(tmp_path / (task or name))},
        "retain_logs_path": retain,
    }
    return prepare(decode_task(SingleJob, tree))


def done(prepared: PreparedJob) -> list[str]:
    """Carry out, and list the jobs that were not there yet."""
    calls: list[str] = []

    def tell(event: JobEvent) -> None:
        if event.what == "done":
            calls.append(event.job.name)

    carry_out(prepared, tell)
    return calls


def results(prepared: PreparedJob) -> dict[str, Any]:
    return read_results(prepared.single.output_dir / prepared.eval_file)[0]


def test_a_metric_added_later_scores_only_what_is_missing(models: Path, tmp_path: Path) -> None:
    plain = single(models, tmp_path, "a")
    first = done(plain)
    assert sum(name.startswith("score ") for name in first) == 9  # tokens of five sets, texts of four
    more = single(models, tmp_path, "a", "a2", extras=["gradnorm", "fluency"])
    assert [n.partition(" ")[2].partition(" ")[2] for n in done(more) if n.startswith("score ")] == [
        "forget_eval grads",
        "holdout grads",
    ]
    before, after = results(plain), results(more)
    assert {name: repr(r) for name, r in before.items()} == {name: repr(after[name]) for name in before}
    assert after["mia_gradnorm"].reason is None
    # one more metric over what is stored: no job but the metrics; the records are those of a2, whatever their label
    again = done(single(models, tmp_path, "a", "a3", extras=["gradnorm", "fluency", "arcsf"]))
    assert again == ["metrics a3"]


def test_texts_begin_with_what_the_scores_of_the_same_model_have_shown(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[tuple[str, list[int]]] = []
    plain = distributed.generate_texts_sharded

    def spy(model: Any, rows: ExampleSet, *args: Any, **options: Any) -> Any:
        known.append((rows.name, sorted(options["drafts"] or ())))
        return plain(model, rows, *args, **options)

    monkeypatch.setattr(distributed, "generate_texts_sharded", spy)
    done(single(models, tmp_path, "a"))
    assert len(known) == 4
    assert all(ids for _, ids in known)


def test_two_models_never_share_a_number(models: Path, tmp_path: Path) -> None:
    one = single(models, tmp_path, "a")
    done(one)
    other = single(models, tmp_path, "b")
    assert len([n for n in done(other) if n.startswith("score ")]) == 9
    keys = [{p.key for p in prepared.records.parents.values()} for prepared in (one, other) if prepared.records]
    assert not keys[0] & keys[1]
    assert results(one)["forget_Q_A_Prob"].value != results(other)["forget_Q_A_Prob"].value


def test_every_kind_of_records_in_one_evaluation(models: Path, tmp_path: Path) -> None:
    extras = ["leak", "agreement", "similarity", "refusal", "entity", "worst_case"]
    settings = single(models, tmp_path, "a", extras=extras, original=str(models / "b"))
    done(settings)
    result = results(settings)
    assert result["forget_leak_at_2"].value >= result["forget_leak_at_1"].value
    assert result["forget_KL_to_original"].value > 0
    assert 0 <= result["forget_top1_as_original"].value <= 1
    assert "no embedding model was named" in result["forget_similarity"].reason
    assert result["forget_worst_Prob"].value >= result["forget_Q_A_Prob_upper"].value
    assert result["forget_refusal_Prob_max"].value > result["forget_refusal_Prob"].value
    subsets = [len(result[f"retain_{part}_Q_A_Prob"].per_row) for part in ("entity", "other")]
    assert sum(subsets) == len(result["retain_Q_A_Prob"].per_row)
    alone = single(models, tmp_path, "a", "alone", extras=["agreement"])
    done(alone)
    assert results(alone)["forget_KL_to_original"].reason == "no original model was given to compare with"


def test_every_metric_with_rows_has_an_interval(models: Path, tmp_path: Path) -> None:
    retain = single(models, tmp_path, "b", "retain")
    done(retain)
    log = str(tmp_path / "retain" / retain.eval_file)
    settings = single(models, tmp_path, "a", extras=["gradnorm", "rmia", "leak", "fluency"], retain_logs_path=log)
    done(settings)
    # a mean of means; a p-value, whose distance has one; answers of one word have no pairs of words
    bare = {"model_utility", "forget_quality", "forget_distinct", "retain_distinct"}
    for name, result in results(settings).items():
        if name not in bare:
            assert result.reason is None, name
            assert result.extra["ci_low"] <= result.value <= result.extra["ci_high"], name
    quality = results(settings)["forget_quality"].extra
    assert quality["ks_ci_low"] <= quality["ks_distance"] <= quality["ks_ci_high"]
    assert results(settings)["mia_rmia"].value == pytest.approx(0.5, abs=0.5)


def test_refresh_reads_records_and_no_model(models: Path, tmp_path: Path) -> None:
    mine = tmp_path / "models"
    shutil.copytree(models, mine)
    retain = single(mine, tmp_path, "b", "retain")
    done(retain)
    settings = single(mine, tmp_path, "a")
    done(settings)
    stored = {p.name: p.read_bytes() for p in (tmp_path / "store").rglob("TOFU_EVAL.json")}
    shutil.rmtree(mine)
    before = results(settings)
    assert before["forget_quality"].reason and before["mia_reference"].reason
    log = tmp_path / "retain" / retain.eval_file
    summary = refresh(tmp_path / "a", str(log))
    after = results(settings)
    assert 0 < after["forget_quality"].value <= 1
    assert summary["forget_quality"] == after["forget_quality"].value
    assert json.loads((tmp_path / "a" / "TOFU_SUMMARY.json").read_text()) == summary
    assert after["forget_Q_A_Prob"] == before["forget_Q_A_Prob"]
    assert {p.name: p.read_bytes() for p in (tmp_path / "store").rglob("TOFU_EVAL.json")} == stored
    assert refresh(tmp_path / "a" / settings.eval_file) == summary  # by its file, and with the log it now names
    added = refresh(tmp_path / "a", extras=("arcsf", "leak"))  # groups that nobody asked for when the model was there
    assert (added["arcsf_forget_mean_tr"] or 0) > 0
    assert added["forget_quality"] == summary["forget_quality"]
    assert added["forget_leak_at_1"] is None  # its samples were never made
    with pytest.raises(ConfigError, match=r"eval\.extras: no group of metrics named 'arsf'; did you mean 'arcsf'"):
        refresh(tmp_path / "a", extras=("arsf",))
    with pytest.raises(ConfigError, match="already contains something else"):
        (tmp_path / "models").mkdir()
        shutil.copytree(models, mine, dirs_exist_ok=True)
        single(mine, tmp_path, "a")


def test_what_cannot_be_refreshed(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--refresh: no folder .*none"):
        refresh(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"--refresh: .*config\.yaml.* records/"):
        refresh(tmp_path)
    settings = single(models, tmp_path, "a")
    done(settings)
    config = tmp_path / "a" / "config.yaml"
    config.write_text(config.read_text().replace("questions_per_author: 3", "questions_per_author: 4"))
    with pytest.raises(ConfigError, match=r"--refresh: the \w+ rows differ from the rows of .*; score again"):
        refresh(tmp_path / "a")


def test_a_retain_log_of_another_tokenizer_is_refused(models: Path, tmp_path: Path) -> None:
    retain = single(models, tmp_path, "b", "retain")
    done(retain)
    log = str(tmp_path / "retain" / retain.eval_file)
    single(models, tmp_path, "a", retain_logs_path=log)
    with pytest.raises(ConfigError, match=r"retain_logs_path: .* was measured with another tokenizer"):
        single(models, tmp_path, "c", retain_logs_path=log)
    output = read_results(Path(log))[1]
    with pytest.raises(ConfigError, match=r"was measured on other forget_eval rows"):
        check_retain_file(Path(log), {**output, "rows": {"forget_eval": "x"}}, 3, lambda: None)
    for key, named in (("template", "model.template_args"), ("truth_ratio", "eval.truth_ratio")):
        with pytest.raises(ConfigError, match=f"was measured with another {named}"):
            check_retain_file(Path(log), {**output, key: "other"}, 3, lambda: None)


def benchmark(holdout: str) -> Benchmark:
    sets = {
        "forget": ExampleSet(
            "forget", (Example(0, "Who?", {"answer": "Ana."}), Example(1, "Where?", {"answer": "Paris."}))
        ),
        "holdout": ExampleSet(
            "holdout", (Example(0, "When?", {"answer": "1991"}), Example(1, "Where?", {"answer": holdout}))
        ),
    }
    return Benchmark("b", "s", sets, (), ("forget",), ())


def test_a_holdout_row_that_is_to_be_forgotten() -> None:
    check_holdout(benchmark("Rome."))
    with pytest.raises(DataError, match=r"^holdout row 1 is forget row 1 as well: 'Where\?'"):
        check_holdout(benchmark("Paris."))


def test_rows_that_an_attack_tells_apart_must_differ() -> None:
    sides = [Metric(f"loss_{r}", "loss_score", rows=r, reads={"tokens": ("answer",)}) for r in ("forget", "unseen")]
    auc = Metric("auc", "attack_auc", parents={"members": "loss_forget", "others": "loss_unseen"})
    result = benchmark("Rome.")
    result = dataclasses.replace(
        result, sets={"forget": result.sets["forget"], "unseen": result.sets["forget"]}, panel=(auc, *sides)
    )
    with pytest.raises(DataError, match=r"^unseen row 0 is forget row 0 as well: 'Who\?'"):
        check_holdout(result)


def test_rows_by_what_their_meta_says() -> None:
    metas = [{"kind": "book", "keys": ["p1", "a1"]}, {"kind": "date", "keys": ["a2"]}, {"kind": "book", "keys": []}]
    rows = ExampleSet("r", tuple(Example(i, "q", {"answer": "a"}, meta=m) for i, m in enumerate(metas)))

    def rest(**where: Any) -> set[int]:
        return set(
            measuring.rows_where(rows, Metric("m", "probability", rows="r", reads={"tokens": ("answer",)}, where=where))
        )

    assert rest(kind="book") == {0, 2}
    assert rest(keys=["a1", "a2"]) == {0, 1}
    assert rest(kind="book", keys="p1") == {0}
    assert rest(**{"!keys": ["a1", "a2"]}) == {2}
    with pytest.raises(ConfigError, match=r"metric m: where\.knd: no row of r has such a key; did you mean 'kind'"):
        rest(knd="book")


def test_shadow_models_reach_the_attacks_of_a_study(models: Path, tmp_path: Path) -> None:
    """Three retain models' records as edges: the measured model is compared with those given, and never itself."""
    task = single(models, tmp_path, "a").single
    setting = resolve_task(dataclasses.replace(task, eval=EvalConfig(extras=("lira", "rmia"))))
    assert isinstance(setting.template, Template)
    store, jobs = Store(tmp_path / "store"), {}
    for name in ("a", "b"):
        args = dataclasses.replace(setting.model.model_args, pretrained_model_name_or_path=str(models / name))
        one = dataclasses.replace(setting, model=dataclasses.replace(setting.model, model_args=args))
        source = ContextSource.of(task).holding(one)
        maker = TrainingJobs(one, dataclasses.replace(task.eval, extras=("lira", "rmia")), source)
        jobs[name] = maker, maker.records(name, None)
    maker, mine = jobs["a"]
    measured = {n: maker.metrics("a", mine, None, shadows=[jobs["b"][1]] * n) for n in (0, 1, 2)}
    assert not run(list(measured.values()), store, lambda event: None).failures
    result = {n: read_results(store.path(job) / maker.eval_file)[0] for n, job in measured.items()}
    assert "none was given" in (result[0]["mia_rmia_forget"].reason or "")
    assert result[1]["mia_rmia"].reason is None
    assert "at least 2 retain models" in (result[1]["mia_lira_forget"].reason or "")
    assert result[2]["mia_lira"].extra["ci_low"] <= result[2]["mia_lira"].value
    assert result[2]["mia_lira_forget"].extra["n_shadows"] == 2


def test_a_retain_log_is_read_once(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By every fitting that is evaluated on the way, and by the metrics at the end."""
    retain = single(models, tmp_path, "b", "retain")
    done(retain)
    log, read = tmp_path / "retain" / retain.eval_file, []

    def reading(*args: Any) -> Any:
        read.append(args[0])
        return check_retain_file(*args)

    monkeypatch.setattr(evaluation_jobs, "check_retain_file", reading)
    settings = single(models, tmp_path, "a")
    maker = TrainingJobs(resolve_task(settings.single), settings.single.eval, ContextSource.of(settings.single))
    assert settings.records is not None
    args = TrainArgs(evaluate=EvaluateArgs(every=1, keep="best"))
    sides = {"forget": ("forget",), "retain": ("retain",)}
    for name in ("one", "two"):
        maker.fit(name, None, objective("GradDiff"), sides, args, retain_file=log)
    maker.metrics("one", settings.records, None, retain_file=log)
    assert read == [log]
