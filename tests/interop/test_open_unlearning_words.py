"""OpenUnlearning's words: each acts, or is refused with the word to type."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from unittest import mock

import pytest

from expunge.cli.compose import check, compose, single_tree
from expunge.cli.schema import hint_of
from expunge.core.errors import ConfigError
from expunge.interop.open_unlearning.words import REFUSED as REFUSED_WORDS
from expunge.interop.open_unlearning.words import RENAMED, RULES, WITHOUT_EFFECT, translate

A = "trainer.args."
M = "trainer.method_args."
EVERY, STEPS = f"{A}evaluate.every", f"{A}evaluate.steps"
TOFU, MUSE, WMDP = (f"experiment=unlearn/{name}/default" for name in ("tofu", "muse", "wmdp"))
FINETUNE = "experiment=finetune/tofu/default"
ALT = "data.forget.TOFU_QA_forget."
CORPUS = "data.forget.WMDP_forget.args.hf_args."


@pytest.mark.parametrize(
    ("words", "result"),
    [
        ([f"{A}eval_strategy=epoch"], [f"{STEPS}=null", f"{EVERY}=1.0"]),
        ([f"+{A}evaluation_strategy=epoch"], [f"{STEPS}=null", f"{EVERY}=1.0"]),
        ([f"{A}eval_strategy=steps", f"{A}eval_steps=50"], [f"{EVERY}=null", f"{STEPS}=50"]),
        ([f"{A}eval_steps=50", f"{A}eval_strategy=steps"], [f"{EVERY}=null", f"{STEPS}=50"]),
        ([f"{A}eval_strategy=steps"], [f"{EVERY}=null", f"{STEPS}=5"]),
        ([f"{A}eval_strategy=no"], [f"{EVERY}=null", f"{STEPS}=null"]),
        ([f"{A}eval_steps=50"], []),
        ([f"+{A}eval_on_start=False"], [f"{A}evaluate.at_start=False"]),
        ([f"{A}load_best_model_at_end=True"], [f"{A}evaluate.keep=best"]),
        ([f"{A}load_best_model_at_end=False"], []),
        ([f"{A}metric_for_best_model=eval_forget_quality"], [f"{A}evaluate.rule.formula=forget_quality"]),
        (
            [f"{A}greater_is_better=False", f"{A}metric_for_best_model=forget_quality"],
            [f"{A}evaluate.rule.formula=-forget_quality"],
        ),
        ([f"{A}greater_is_better=false"], [f"{A}evaluate.rule.target=low"]),
        ([f"{A}do_train=True"], []),
        ([f"{A}push_to_hub=false"], []),
        ([f"{A}deepspeed=null"], []),
        ([f"{A}fsdp=[]", f"{A}lr_scheduler_kwargs={{}}", f"{A}hub_strategy=every_save"], []),
        ([f"{A}max_grad_norm=null", f"+{A}bf16=null"], [f"{A}max_grad_norm=0", f"{A}bf16=false"]),
        ([f"{A}optim_args=", f"{A}gradient_checkpointing=null"],
         [f"{A}optim_args={{}}", f"{A}activation_checkpointing=false"]),
        ([f"{A}greater_is_better=null", f"{A}evaluation_strategy=null"], []),
        ([f"{A}eval_strategy=steps", f"{A}eval_steps=null"], [f"{EVERY}=null", f"{STEPS}=5"]),
        ([f"{A}warmup_steps=0", f"{A}warmup_ratio=0.1"], [f"{A}warmup_steps=0.1"]),
        ([f"{A}warmup_ratio=0.0", f"{A}warmup_steps=5"], [f"{A}warmup_steps=5"]),
        ([f"{A}optim=rmsprop"], [f"{A}optim=torch.optim.RMSprop"]),
        (["eval.tofu.metrics.forget_Q_A_ROUGE.batch_size=1"], []),
        ([f"{A}save_strategy=no"], []),
        ([f"{A}save_strategy=epoch"], [f"{A}save_strategy=epoch"]),
        ([f"{A}save_strategy=steps"], [f"{A}save_strategy=steps", f"{A}save_steps=500"]),
        ([f"{A}save_strategy=steps", f"{A}save_steps=7"], [f"{A}save_strategy=steps", f"{A}save_steps=7"]),
        ([f"{A}save_steps=7"], []),
        (["seed=1"], [f"{A}seed=1"]),
        (["question_key=paraphrased_question"], ["data.args.question_key=paraphrased_question"]),
        (["eval/tofu_metrics=[forget_quality]"], ["eval.metrics=[forget_quality]"]),
        (["eval/tofu_metrics=[forget_Truth_Ratio]"], ["eval.metrics=[forget_truth_ratio]"]),
        (["+eval/tofu_metrics=[mia_loss,mia_gradnorm]"], ["eval.extras=[gradnorm]"]),
        (["+eval/tofu_metrics=[mia_loss]"], []),
        (
            ["eval/tofu_metrics=[mia_loss,forget_Q_A_gibberish]"],
            ["eval.extras=[fluency]", "eval.metrics=[mia_loss]"],
        ),
        ([TOFU, "data.forget.TOFU_QA_forget.args.hf_args.name=forget05"], [TOFU, "forget_split=forget05"]),
        ([TOFU, "data.retain.TOFU_QA_retain.args.hf_args.name=retain95"], [TOFU, "retain_split=retain95"]),
        ([MUSE, "data.forget.MUSE_forget.args.hf_args.split=forget"], [MUSE, "forget_split=forget"]),
        ([MUSE, "data/datasets@data.forget=MUSE_forget_sust"], [MUSE, "data.args.series=sust"]),
        ([MUSE, "data.forget=MUSE_forget"], [MUSE]),
        ([WMDP, f"{CORPUS}data_files=data/wmdp/bio-forget-corpus.jsonl"], [WMDP, "data_split=bio"]),
        ([WMDP, f"{CORPUS}path=json", f"{CORPUS}data_files=mine.jsonl"], [WMDP, "forget_split=mine.jsonl"]),
        ([TOFU, "data.forget.TOFU_QA_forget_idk.args.idk_path=idk.txt"], [TOFU, "data.refusals=idk.txt"]),
        ([f"{A}torch_compile=true"], [f"{A}compile=true"]),
        ([f"{A}gradient_checkpointing_kwargs.use_reentrant=false"], []),
        ([f"~{A}eval_strategy"], [f"{EVERY}=null", f"{STEPS}=null"]),
        ([f"~{A}gradient_checkpointing"], [f"~{A}activation_checkpointing"]),
        ([f"~{A}deepspeed"], []),
        ([TOFU, f"~{A}learning_rate"], [TOFU, f"{A}learning_rate=5e-5"]),
        ([TOFU, f"~{A}gradient_checkpointing"], [TOFU, f"{A}activation_checkpointing=false"]),
        ([f"~{A}learning_rate"], [f"~{A}learning_rate"]),
        ([TOFU, "trainer=NPO", f"~{M}beta"], [TOFU, "trainer=NPO", f"{M}beta=1.0"]),
        ([TOFU, "trainer=SatImp", f"~{M}gamma"], [TOFU, "trainer=SatImp", f"{M}gamma=1.0"]),
        ([f"{A}label_smoothing_factor=0.0"], []),
        ([MUSE, "data.forget.MUSE_forget.args.hf_args.name=scal"], [MUSE, "data.args.series=scal"]),
        (["~eval"], [f"{EVERY}=null", f"{STEPS}=null"]),
        (["eval=null"], [f"{EVERY}=null", f"{STEPS}=null"]),
        (["mode=unlearn"], []),
        (
            ["eval.tofu.metrics.privleak.reference_logs.retain_model_logs.path=r.json"],
            ["retain_logs_path=r.json"],
        ),
    ],
)  # fmt: skip
def test_words_that_act(words: list[str], result: list[str]) -> None:
    assert translate(words)[0] == result


@pytest.mark.parametrize(
    ("words", "result"),
    [
        (["data/datasets@data.train=TOFU_QA_full"], ["train_split=full"]),
        (["data/datasets@data.train=TOFU_QA_retain"], ["train_split=retain"]),
        (
            ["data/datasets@data.train=TOFU_QA_retain", "data.train.TOFU_QA_retain.args.hf_args.name=retain95"],
            ["train_split=retain95", "forget_split=forget05"],
        ),
        (["data_sub_set=retain"], ["train_split=retain"]),
    ],
)
def test_words_that_name_training_examples(words: list[str], result: list[str]) -> None:
    assert translate([FINETUNE, *words], "train")[0] == [FINETUNE, *result]


REFUSED = [
    ("unlearn", [f"{A}data_seed=3"], "write trainer.args.seed=N"),
    ("unlearn", ["data_seed=3"], "write trainer.args.seed=N"),
    ("unlearn", [f"{A}push_to_hub=True"], "--push OWNER/NAME"),
    ("unlearn", [f"{A}deepspeed=zero3.json"], "accelerate launch"),
    ("unlearn", [f"{A}do_train=False"], "write expunge eval"),
    ("unlearn", ["model.model_args.load_in_4bit=true"], "trainer.args.lora.quantize=nf4"),
    ("unlearn", ["model.model_args.cache_dir=x"], "HF_HOME"),
    ("unlearn", [TOFU, "data.forget=MUSE_forget"], "experiment=unlearn/muse/default"),
    ("unlearn", [TOFU, "data/datasets@data.forget=TOFU_QA_forgte"], "did you mean 'TOFU_QA_forget'"),
    ("unlearn", [TOFU, "trainer=NPO", "data/datasets@data.forget=TOFU_QA_forget_idk"], "add trainer=DPO"),
    ("unlearn", [TOFU, "eval=lm_eval"], "eval.lm_eval.tasks=[mmlu]"),
    ("unlearn", [TOFU, "eval=muse"], "experiment=unlearn/muse/default"),
    ("unlearn", [TOFU, "data=finetune"], "write expunge train"),
    ("unlearn", [TOFU, f"{ALT}handler=PretrainingDataset"], "benchmark=custom"),
    ("unlearn", ["eval.tofu.metrics.forget_Q_A_ROUGE.rouge_type=rougeL_f1"], "eval.metrics=[NAME,...]"),
    ("eval", ["eval.tofu.metrics.mia_reference.reference_model_path=x"], "retain_logs_path="),
    ("unlearn", [TOFU, f"{ALT}args.hf_args.data_files=my.json"], "benchmark=custom forget=my.json"),
    ("unlearn", [TOFU, f"{ALT}args.hf_args.path=json"], "benchmark=custom forget=FILE"),
    ("unlearn", [MUSE, "data.retain.MUSE_retain.args.hf_args.data_files=a.json"], "benchmark=custom retain=a.json"),
    ("unlearn", [WMDP, f"{CORPUS}data_files=/own.jsonl"], "without a leading /"),
    ("unlearn", [f"{A}lr_scheduler_kwargs.num_cycles=2"], "leave it out"),
    ("unlearn", [f"{A}label_smoothing_factor=0.1"], "leave it out"),
    ("unlearn", [f"{A}auto_find_batch_size=true"], "per_device_train_batch_size"),
    ("unlearn", ["mode=eval"], "write expunge eval"),
    ("unlearn", ["~eval.tofu.metrics.privleak"], "eval.metrics=[NAME,...]"),
    ("unlearn", ["generation=default"], "eval.generation.max_new_tokens=N"),
    ("eval", ["eval=null"], "leave it out"),
    ("unlearn", [TOFU, "eval=[tofu,lm_eval]"], "a benchmark has one suite; write eval.metrics=[NAME,...]"),
    ("unlearn", [f"{A}lr_scheduler_type=reduce_lr_on_plateau"], "write constant or linear"),
    ("unlearn", [f"{A}lr_scheduler_type=cosine_with_min_lr"], "write cosine"),
    ("train", [FINETUNE, "data/datasets@data.train=TOFU_QA_ra"], "no data set named 'TOFU_QA_ra'"),
]


@pytest.mark.parametrize(("mode", "words", "message"), REFUSED)
def test_words_that_are_refused_name_the_word_to_type(mode: str, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        translate(words, mode)
    assert message in str(caught.value)


@pytest.mark.parametrize("side", ["forget", "retain"])
def test_a_file_in_place_of_a_data_set(side: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").touch()
    with pytest.raises(ConfigError, match=rf"write benchmark=custom {side}=.*rows\.csv$"):
        translate([f"data.{side}={tmp_path / 'rows.csv'}"])


def test_a_share_of_the_steps() -> None:
    words = ["task_name=t", f"{A}eval_strategy=steps", f"{A}eval_steps=0.5"]
    args = single_tree("unlearn", [TOFU, *words])[0]["trainer"]["args"]
    assert (args["evaluate"]["every"], args["evaluate"]["steps"]) == (5.0, None)
    args = single_tree("unlearn", [TOFU, *words, f"{A}max_steps=81"])[0]["trainer"]["args"]
    assert (args["evaluate"]["every"], args["evaluate"]["steps"]) == (None, 41)


@pytest.mark.parametrize("optim", ["lion_32bit", "adamw_bnb_8bit"])
@pytest.mark.parametrize("schedule", ["polynomial", "cosine_with_restarts"])
def test_optimizers_and_schedules_of_transformers(optim: str, schedule: str) -> None:
    check("unlearn", [TOFU, "task_name=t", f"{A}optim={optim}", f"{A}lr_scheduler_type={schedule}"])


def test_both_subjects_of_wmdp() -> None:
    tree = check("unlearn", [WMDP, "task_name=t", "data_split=bio"]).tree
    assert tree["data_split"] == "bio"
    assert tree["forget_split"] is tree["retain_split"] is None


ALTPO = [
    TOFU, "trainer=DPO", f"{ALT}handler=QAwithAlternateDataset", f"~{ALT}args.hf_args.name",
    f"{ALT}args.hf_args.path=json", f"{ALT}args.hf_args.split=train", f"+{ALT}args.alternate_key=other",
    f"+{ALT}args.return_original=True",
]  # fmt: skip


def test_the_second_step_of_altpo(tmp_path: Path) -> None:
    file = tmp_path / "alt.json"
    result, notes = translate([*ALTPO, f"+{ALT}args.hf_args.data_files={file}"])
    assert result == [TOFU, "trainer=AltPO"]
    assert any("samples the other answers itself" in note for note in notes)
    file.write_text("[]")
    result, _ = translate([*ALTPO, f"+{ALT}args.hf_args.data_files={file}"])
    assert result == [TOFU, "trainer=DPO", f"data.alternates={file}", "data.alternate_key=other"]


def test_a_comma_at_the_end_of_a_number() -> None:
    with pytest.raises(ConfigError, match=r"ends with a comma; write trainer\.method_args\.alpha=0\.1"):
        check("unlearn", [TOFU, "task_name=t", "trainer.method_args.alpha=0.1,"])


def test_each_argument_of_transformers_acts_or_is_answered() -> None:
    from transformers import TrainingArguments

    answered = {*RENAMED, *WITHOUT_EFFECT, *REFUSED_WORDS, *RULES}
    names = [f"{A}{field.name}" for field in dataclasses.fields(TrainingArguments)]
    assert [name for name in names if name not in answered and hint_of("unlearn", name) is None] == []


@pytest.mark.parametrize("key", [key for key in RENAMED if key.startswith("trainer.")])
def test_a_renamed_argument_has_a_setting_here(key: str) -> None:
    assert hint_of("unlearn", RENAMED[key]) is not None


def test_a_folder_without_the_template_of_the_experiments_model_is_named() -> None:
    words = ["experiment=eval/tofu/default", "task_name=t", "model.model_args.pretrained_model_name_or_path=./x"]
    with mock.patch("expunge.cli.compose._check_files"):
        notes = check("eval", words).notes
        named = check("eval", [*words, "model=Llama-3.2-1B-Instruct"]).notes
    assert any("add model=Llama-3.2-1B-Instruct" in note for note in notes)
    assert not any("own chat template" in note for note in named)


@pytest.mark.parametrize("word", ["logging_steps=0.1", "max_grad_norm=null", "optim=adagrad", "bf16=null"])
def test_odd_values_of_transformers_act(word: str) -> None:
    assert check("unlearn", [TOFU, "task_name=t", f"{A}{word}"]).tree


def test_a_warmup_of_zero_in_another_word_of_the_command() -> None:
    words = translate([f"{A}warmup_ratio=0.1"], context=[f"{A}warmup_steps=0"])[0]
    assert words == [f"{A}warmup_steps=0.1"]
    assert translate([f"{A}warmup_steps=0"], context=[f"{A}warmup_ratio=0.1"])[0] == []


def test_a_wrong_value_of_a_note_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"gradient_accumulation_steps: should be a valid integer, got None"):
        check("unlearn", [TOFU, "task_name=t", f"{A}gradient_accumulation_steps=null"])


def test_a_seed_of_an_evaluation() -> None:
    words, notes = translate(["seed=42"], "eval")
    assert words == []
    assert "eval.sampling.seed=42" in notes[0]
    words, _ = translate(["seed=42", f"{FORGET_ROUGE}do_sample=true"], "eval")
    assert words == [f"{G}seed=42", f"{G}temperature=1"]


@pytest.mark.parametrize("more", [[], ["eval.muse.data_split=Books"]])
def test_the_data_of_evaluations_of_a_fine_tuning(more: list[str]) -> None:
    notes = translate(["experiment=finetune/muse/default", "data_split=Books", *more], "train")[1]
    assert any("OpenUnlearning's read News" in note for note in notes) is (more == [])
    alone = translate(["experiment=finetune/muse/default", "eval.muse.data_split=Books"], "train")[1]
    assert any("which the training reads, too" in note for note in alone)


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (["forget_split=forget05"], "the retain rows are retain95, which belong to forget_split=forget05"),
        (["trainer.handler=NPO"], "the class in OpenUnlearning has trainer.method_args.beta=1.0"),
        (["data.forget.TOFU_QA_forget.args.hf_args.name=forget05"], "which the evaluation reads, too"),
        (["data.forget.TOFU_QA_forget.args.max_length=64"], "which counts for all data sets"),
        (["eval.tofu.forget_split=forget05"], "which the training reads, too"),
        (["model=gemma-7b-it"], "the start is open-unlearning/tofu_gemma-7b-it_full; OpenUnlearning keeps its Llama"),
        (["data.refusals=${task_name}.txt"], "the value ${task_name}.txt is read unchanged"),
    ],
)
def test_a_word_with_another_reach_is_named(words: list[str], note: str) -> None:
    with mock.patch("expunge.cli.compose._check_files"):
        assert any(note in line for line in check("unlearn", [TOFU, "task_name=t", *words]).notes)
        named = check("unlearn", [TOFU, "task_name=t", "forget_split=forget05", "retain_split=retain95"]).notes
    assert not any("the retain rows are" in line or "the start is" in line for line in named)


def test_the_name_of_a_job_has_references() -> None:
    words = [TOFU, "trainer=NPO", "task_name=${trainer.handler}_${forget_split}"]
    assert check("unlearn", words).tree["task_name"] == "NPO_forget10"
    with pytest.raises(ConfigError, match=r"\$\{model\} refers to a group"):
        check("unlearn", [TOFU, "task_name=x_${model}"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["src/train.py"], "leave out the words up to the script"),
        (["trainer=NPO,GradDiff"], "several values; -m runs a job for each"),
        (["experiment=eval/tofu/default"], "measures a model; write expunge eval"),
    ],
)
def test_words_of_another_command(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check("unlearn", [TOFU, "task_name=t", *words])


def test_all_data_sets_have_one_place() -> None:
    words, notes = translate([MUSE, "data.forget.MUSE_forget.args.hf_args.path=muse-bench/MUSE-Books"])
    assert words == [MUSE, "data.root=muse-bench/MUSE-Books"]
    assert notes[0].endswith("is now data.root, from which all data sets are read")


@pytest.mark.parametrize(("words", "noted"), [([], True), (["train_split=retain"], False)])
def test_retain_rows_of_a_training_on_all_rows_have_no_effect(words: list[str], noted: bool) -> None:
    notes = check("train", [FINETUNE, "task_name=t", "retain_split=retain90", *words]).notes
    assert ("retain_split has no effect: train_split names the rows to train on" in notes) is noted


def test_a_method_of_an_evaluation_has_no_effect() -> None:
    notes = check("eval", ["experiment=eval/tofu/default", "task_name=t", "trainer=NPO"]).notes
    assert "trainer has no effect: `expunge eval` trains nothing" in notes


@pytest.mark.parametrize(("name", "word"), [("GA", "GradAscent"), ("grad_diff", "GradDiff")])
def test_short_names_of_methods(name: str, word: str) -> None:
    with pytest.raises(ConfigError, match=f"write trainer={word}"):
        check("unlearn", [TOFU, "task_name=t", f"trainer={name}"])


@pytest.mark.parametrize(
    ("words", "result"),
    [
        ([TOFU, 'model.template_args.user_start_tag="Q: "'], [TOFU, "model.template_args.user_start_tag=Q: "]),
        ([TOFU, "task_name='my run'"], [TOFU, "task_name=my run"]),
        ([TOFU, "task_name='a' or 'b'"], [TOFU, "task_name='a' or 'b'"]),
        (["task_name='my run'"], ["task_name='my run'"]),
        ([TOFU, "paths.root_dir=/big/me"], [TOFU, "paths.parent=/big/me/saves/unlearn"]),
        ([TOFU, "paths.root_dir=."], [TOFU]),
        ([TOFU, "paths=default", "paths.work_dir=/x"], [TOFU]),
        ([f"{A}optim_args=momentum=0.9,nesterov=true"], [f"{A}optim_args={{momentum:0.9,nesterov:true}}"]),
        ([f"{A}optim_args={{momentum:0.9}}"], [f"{A}optim_args={{momentum:0.9}}"]),
    ],
)
def test_forms_of_values(words: list[str], result: list[str]) -> None:
    assert translate(words)[0] == result


def test_the_folder_of_a_fine_tuning_below_another_root() -> None:
    assert translate([FINETUNE, "paths.root_dir=/big"], "train")[0] == [FINETUNE, "paths.parent=/big/saves/finetune"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["paths.data_dir=/data"], r"write data\.root=FOLDER"),
        (["data.retain=null"], "leave it out; a method without a retain loss reads no retain rows"),
        ([f"{ALT}args.hf_args.path=./a", "data.retain.TOFU_QA_retain.args.hf_args.path=./b"], r"names \./a, \./b"),
    ],
)
def test_places_that_cannot_act(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check("unlearn", [TOFU, "task_name=t", *words])


def test_a_share_of_the_steps_keeps_models() -> None:
    words = [TOFU, "task_name=t", f"{A}save_strategy=steps", f"{A}save_steps=0.2"]
    assert check("unlearn", words).tree["trainer"]["args"]["save_steps"] == 0.2


G, FORGET_ROUGE = "eval.generation.", "eval.tofu.metrics.forget_Q_A_ROUGE.generation_args."
KNOWMEM = "eval.muse.metrics.forget_knowmem_ROUGE.generation_args."


@pytest.mark.parametrize(
    ("words", "result"),
    [
        ([f"{FORGET_ROUGE}max_new_tokens=64"], [f"{G}max_new_tokens=64"]),
        (["+eval.tofu.generation_args.max_new_tokens=64"], [f"{G}max_new_tokens=64"]),
        ([f"{FORGET_ROUGE}do_sample=true"], [f"{G}temperature=1"]),
        ([f"{FORGET_ROUGE}do_sample=True", f"{FORGET_ROUGE}temperature=0.7"], [f"{G}temperature=0.7"]),
        ([f"{FORGET_ROUGE}temperature=0.7"], []),
        ([f"{FORGET_ROUGE}do_sample=false", f"{FORGET_ROUGE}top_p=0.9", f"{FORGET_ROUGE}use_cache=true"], []),
        ([f"{FORGET_ROUGE}num_beams=1", f"{FORGET_ROUGE}top_p=null"], []),
        ([f"+{FORGET_ROUGE}stop_strings=[a,b]"], [f"{G}stop=[a,b]"]),
        ([f"+{FORGET_ROUGE}stopwords=###"], [f"{G}stop=['###']"]),
        ([f"{KNOWMEM}max_new_tokens=32"], []),
        ([f"{KNOWMEM}max_new_tokens=16"], [f"{G}max_new_tokens=16"]),
    ],
)
def test_words_of_generation_act(words: list[str], result: list[str]) -> None:
    new, notes = translate(words)
    assert new == result
    assert notes or all(word.endswith(("=null", "=false", "=1", "=32")) for word in words)
    check("unlearn", [TOFU, "task_name=t", *new])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([f"{FORGET_ROUGE}num_beams=4"], "leave it out; texts are greedy"),
        ([f"{FORGET_ROUGE}do_sample=true", f"{FORGET_ROUGE}top_p=0.9"], "leave it out; a text is drawn from the whole"),
        ([f"{FORGET_ROUGE}max_length=512"], r"write eval\.generation\.max_new_tokens=N"),
        ([f"{FORGET_ROUGE}max_new_token=5"], "did you mean 'max_new_tokens'"),
        ([f"{KNOWMEM}max_new_tokens=64"], "at most 32 tokens, as published"),
        (
            [f"{FORGET_ROUGE}max_new_tokens=64", "eval.generation.max_new_tokens=32"],
            "another value of the same setting",
        ),
    ],
)
def test_words_of_generation_that_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        translate(words)


@pytest.mark.parametrize(
    "words",
    [
        ["forget_split=forget10", "eval.tofu.forget_split=forget05"],
        ["eval.tofu.forget_split=forget05", "data.forget.TOFU_QA_forget.args.hf_args.name=forget10"],
        ["retain_logs_path=a.json", "eval.tofu.retain_logs_path=b.json"],
        [f"{A}warmup_steps=5", f"{A}warmup_ratio=0.1"],
    ],
)
def test_two_values_of_one_setting_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="is another value of the same setting here"):
        check("unlearn", [TOFU, "task_name=t", *words])


def test_two_names_of_one_value_are_one_setting() -> None:
    words = [TOFU, "task_name=t", "forget_split=forget05", "eval.tofu.forget_split=forget05"]
    assert check("unlearn", words).tree["forget_split"] == "forget05"


@pytest.mark.parametrize(
    ("mode", "word", "experiment"),
    [
        ("unlearn", "data/datasets@data.forget=TOFU_QA_forget", "unlearn/tofu"),
        ("unlearn", "data.forget.MUSE_forget.args.hf_args.split=forget", "unlearn/muse"),
        ("train", "data/datasets@data.train=TOFU_QA_retain", "finetune/tofu"),
        ("eval", "eval.tofu.forget_split=forget05", "eval/tofu"),
    ],
)
def test_data_without_an_experiment_is_never_replaced(mode: str, word: str, experiment: str) -> None:
    with pytest.raises(ConfigError, match=f"add experiment={experiment}/default"):
        check(mode, ["task_name=t", word])


def test_the_bound_of_pdu_is_named() -> None:
    words = [TOFU, "task_name=t", "trainer=PDU"]
    assert any(note.startswith(f"{M}retain_loss_eps=0.3 is the bound") for note in check("unlearn", words).notes)
    named = check("unlearn", [*words, f"{M}retain_loss_eps=0.3"]).notes
    assert not any("retain_loss_eps" in note for note in named)


def test_a_class_with_the_settings_of_another_file() -> None:
    notes = translate([TOFU, "trainer=NPO", "trainer.handler=SimNPO"])[1]
    assert any("OpenUnlearning passes those of trainer=NPO to the class" in note for note in notes)


# Arguments of transformers 4.45, which the project itself requires, that later releases lack.
EARLIER = (
    "_n_gpu adafactor dispatch_batches fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap jit_mode_eval "
    "mp_parameters push_to_hub_organization push_to_hub_token ray_scope split_batches torchdynamo tpu_metrics_debug "
    "tpu_num_cores use_ipex use_legacy_prediction_loop"
)


@pytest.mark.parametrize("name", EARLIER.split())
def test_each_earlier_argument_of_transformers_is_answered(name: str) -> None:
    assert f"{A}{name}" in {*RENAMED, *WITHOUT_EFFECT, *REFUSED_WORDS, *RULES}


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["task_name=n_${trainer.method_args.beta}_${trainer.args.learning_rate}"], "n_0.1_1e-05"),
        (["trainer=NPO.yaml", "eval=tofu.yaml", "task_name=n"], "n"),
    ],
)
def test_references_to_defaults_and_files_of_groups_are_read_as_by_hydra(words: list[str], value: str) -> None:
    tree = compose("unlearn", ["experiment=unlearn/tofu/default", "trainer=NPO", *words]).tree
    assert (tree["task_name"], tree["trainer"]["handler"]) == (value, "NPO")


@pytest.mark.parametrize("name", ["trainer.args.lr", "trainer.method_args.bta"])
def test_a_name_with_a_reference_to_no_key_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^task_name.*(did you mean 'trainer.args.learning_rate'|refers to no key)"):
        compose("unlearn", ["experiment=unlearn/tofu/default", "trainer=NPO", f"task_name=n_${{{name}}}"])
