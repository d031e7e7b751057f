"""Work of forks of OpenUnlearning: their words, their configs folder as experiment files, and the lines of refusals."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from expunge.cli.compose import check, single_tree
from expunge.cli.main import main
from expunge.core.errors import ConfigError
from expunge.interop.open_unlearning import fork_words
from expunge.interop.open_unlearning.words import FORKS, translate

LORA = "trainer.args.lora"
TOFU = "experiment=unlearn/tofu/default"
TAGS = {"apply_chat_template": False, "user_start_tag": "Q: ", "user_end_tag": "\n", "asst_start_tag": "A: "}
SHARED = {"learning_rate": 1e-5, "num_train_epochs": 10, "eval_strategy": "epoch", "seed": 0}

# A small fork: files of its configs folder.
FORK: dict[str, Any] = {
    "unlearn": {"defaults": [{"model": "phi-1_5"}, {"trainer": "GradAscent"}, {"eval": "tofu"}, "_self_"]},
    "trainer/finetune": {"handler": "FinetuneTrainer", "args": SHARED},
    "trainer/GradAscent": {"defaults": ["finetune"], "handler": "GradAscent", "method_args": {}},
    "trainer/NPO": {
        "defaults": ["finetune"],
        "handler": "NPO",
        "args": {"learning_rate": 3e-5, "log_on_each_node": False},
        "method_args": {"beta": 0.7, "annealed": True},
    },
    "trainer/NPO_long": {"defaults": ["NPO"], "args": {"lr_scheduler_type": "cosine"}, "method_args": {"beta": 0.2}},
    "trainer/Mine": {"defaults": ["finetune"], "handler": "Mine"},
    "model/phi-1_5": {
        "model_args": {"pretrained_model_name_or_path": "microsoft/phi-1_5"},
        "tokenizer_args": {"pretrained_model_name_or_path": "microsoft/phi-1_5"},
        "template_args": {**TAGS, "user_start_tag": "Ask: "},
    },
    "model/tiny": {
        "model_args": {
            "pretrained_model_name_or_path": "me/tiny",
            "torch_dtype": "bfloat16",
            "attn_implementation": "flash_attention_2",
        },
        "tokenizer_args": {"pretrained_model_name_or_path": "me/tiny"},
        "template_args": TAGS,
    },
    "model/tiny-lora": {
        "use_lora": True,
        "model_args": {"pretrained_model_name_or_path": "me/tiny", "base_model_name_or_path": None},
        "lora_config": {"r": 8, "lora_alpha": 64, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"},
        "template_args": TAGS,
    },
    "eval/tofu": {"defaults": [{"tofu_metrics": ["forget_quality", "forget_Truth_Ratio", "my_metric"]}]},
    "data/datasets/TOFU_QA_forget": {
        "TOFU_QA_forget": {
            "handler": "QADataset",
            "args": {
                "hf_args": {"name": "forget10", "split": "train", "path": "locuslab/TOFU"},
                "question_key": "question",
                "answer_key": "answer",
                "max_length": 256,
            },
        }
    },
    "experiment/unlearn/tofu/default": {
        "defaults": [
            {"override /data": "unlearn"},
            {"override /data/datasets@data.forget": "TOFU_QA_forget"},
            {"override /data/datasets@data.retain": "TOFU_QA_retain"},
        ],
        "forget_split": "forget05",
        "data": {"forget": {"TOFU_QA_forget": {"args": {"hf_args": {"name": "${forget_split}"}}}}},
        "trainer": {"args": {"num_train_epochs": 4, "unusual": 1}},
        "own_switch": {"a": 1, "b": 2},
    },
    "experiment/unlearn/tofu/adapters": {
        "defaults": ["default", {"override /model": "tiny-lora"}, {"override /trainer": "NPO"}],
        "forget_split": "forget01",
    },
    "experiment/unlearn/tofu/long": {
        "defaults": ["default", {"override /trainer": "NPO_long"}],
        "trainer": {"method_args": {"gamma": 0.5, "beta": 0.3}},
    },
    "experiment/unlearn/mine/default": {
        "defaults": [{"override /data/datasets@data.forget": "MINE"}, {"override /eval": "mine"}],
        "eval": {"mine": {"forget_split": "x"}},
    },
    "experiment/unlearn/loaders/default": {"data": {"custom_loaders": [1]}, "hydra": {"sweeper": {"n_trials": 3}}},
}


@pytest.fixture
def fork(tmp_path: Path) -> Path:
    for name, content in FORK.items():
        path = tmp_path / "fork" / "configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    (tmp_path / "fork" / "configs" / "model" / "broken.yaml").write_text("a: b: c")
    return tmp_path / "fork"


def imported(fork: Path, name: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Return the word that reads the imported experiment, and the notes."""
    file = fork / f"{name.replace('/', '_')}.yaml"
    assert main(["import", "openunlearning", str(fork), "--experiment", name, "--out", str(file)]) == 0
    return f"experiment={file}", capsys.readouterr().err


def tree_of(*words: str) -> dict[str, Any]:
    check("unlearn", [*words, "task_name=t"])
    return single_tree("unlearn", [*words, "task_name=t"])[0]


def test_each_method_has_the_settings_of_its_own_file(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    word, notes = imported(fork, "unlearn/tofu/default", capsys)
    plain, npo = tree_of(word)["trainer"], tree_of(word, "trainer=NPO")["trainer"]
    assert (plain["handler"], plain["args"]["learning_rate"]) == ("GradAscent", 1e-5)
    assert (npo["args"]["learning_rate"], npo["method_args"]["beta"]) == (3e-5, 0.7)
    assert plain["args"]["num_train_epochs"] == npo["args"]["num_train_epochs"] == 4
    assert tree_of(word, "trainer=NPO", "trainer.args.learning_rate=1")["trainer"]["args"]["learning_rate"] == 1
    for line in ("annealed: NPO has no setting", "trainer=Mine: classes of the fork", "unusual=1: no setting here"):
        assert line in notes
    assert notes.count("own_switch") == 1
    assert "profile=openunlearning gives" in notes


def test_two_files_of_settings_of_one_method(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, _ = imported(fork, "unlearn/tofu/default", capsys)
    npo, long = tree_of(plain, "trainer=NPO")["trainer"], tree_of(plain, "trainer=NPO_long")["trainer"]
    assert (npo["handler"], long["handler"]) == ("NPO", "NPO")
    assert (npo["args"]["lr_scheduler_type"], long["args"]["lr_scheduler_type"]) == ("linear", "cosine")
    assert (npo["method_args"]["beta"], long["method_args"]["beta"]) == (0.7, 0.2)
    assert long["args"]["learning_rate"] == 3e-5
    with pytest.raises(ConfigError, match="did you mean 'NPO_long'"):
        tree_of(plain, "trainer=NPO_lng")
    other, _ = imported(fork, "unlearn/tofu/long", capsys)
    for word in ([], ["trainer=NPO_long"], ["trainer=NPO"]):
        tree = tree_of(other, *word)["trainer"]
        assert (tree["method_args"]["gamma"], tree["method_args"]["beta"]) == (0.5, 0.3)
        assert tree["args"]["lr_scheduler_type"] == ("linear" if word == ["trainer=NPO"] else "cosine")
    assert tree_of(other, "trainer=GradAscent")["trainer"]["method_args"].keys() == {"gamma", "compat"}


def test_each_model_has_the_template_of_its_own_file(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    word, notes = imported(fork, "unlearn/tofu/default", capsys)
    assert tree_of(word)["model"]["template_args"]["user_start_tag"] == "Ask: "
    own, other = tree_of(word, "model=tiny")["model"], tree_of(word, "model=Llama-2-7b-hf")["model"]
    assert own["template_args"]["user_start_tag"] == "Q: "
    assert own["model_args"]["pretrained_model_name_or_path"] == "me/tiny"
    assert own["model_args"]["attn_implementation"] is None
    assert notes.count("attn_implementation=flash_attention_2: transformers chooses") == 1
    assert other["template_args"]["user_start_tag"] != "Ask: "
    assert "model=broken" in notes
    with pytest.raises(ConfigError, match="no model named 'tini'"):
        tree_of(word, "model=tini")


def test_the_adapters_of_the_chosen_model_are_trained(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    word, notes = imported(fork, "unlearn/tofu/adapters", capsys)
    tree = tree_of(word)
    assert tree["trainer"]["args"]["lora"] == {"r": 8, "lora_alpha": 64, "target_modules": ["q_proj"]}
    assert (tree["trainer"]["handler"], tree["forget_split"]) == ("NPO", "forget01")
    assert "adapters of" not in notes
    plain, notes = imported(fork, "unlearn/tofu/default", capsys)
    assert "adapters of model=tiny-lora; write trainer.args.lora.r=N" in notes
    with pytest.raises(ConfigError, match=r"name the base model, and write trainer\.args\.lora\.r=N"):
        tree_of(plain, "model=tiny-lora")


def test_the_files_of_data_sets_and_metrics_are_read(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    word, notes = imported(fork, "unlearn/tofu/default", capsys)
    tree = tree_of(word)
    assert (tree["forget_split"], tree["model"]["template_args"]["max_length"]) == ("forget05", 256)
    assert "metrics my_metric: no metrics here" in notes


@pytest.mark.parametrize(
    ("name", "line"), [("mine", "MINE, eval=mine: of the fork's own"), ("loaders", "the data: of")]
)
def test_data_of_the_fork_is_never_replaced(
    fork: Path, name: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    word, notes = imported(fork, f"unlearn/{name}/default", capsys)
    assert line in notes
    with pytest.raises(ConfigError, match="forget=FILE"):
        check("unlearn", [word, "task_name=t"])


def test_variables_of_an_experiment_have_their_values(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key that is no setting may be referred to, from this file and others, also in a part of a text."""
    path = fork / "configs/experiment/unlearn/tofu/default.yaml"
    tree = yaml.safe_load(path.read_text())
    tree["trainer"]["args"] |= {"learning_rate": "${hparams.rate}", "num_train_epochs": "${epochs}"}
    tree |= {"epochs": "${hparams.epochs}", "hparams": {"rate": 2e-4, "epochs": 6}, "tag": "b", "idle": 3, "beta": 0.4}
    tree["model"] = {"model_args": {"pretrained_model_name_or_path": "me/${tag}-${forget_split}"}}
    path.write_text(yaml.safe_dump(tree))
    npo = fork / "configs/trainer/NPO.yaml"
    npo.write_text(npo.read_text().replace("0.7", "${beta}"))
    word, notes = imported(fork, "unlearn/tofu/default", capsys)
    listed = re.findall(r"(\S+): no setting here", notes)
    assert "idle=3" in listed and not any(name.startswith(("epochs", "tag", "beta")) for name in listed)
    tree = tree_of(word, "trainer=NPO")
    args = tree["trainer"]["args"]
    assert (args["learning_rate"], args["num_train_epochs"]) == (2e-4, 6)
    assert tree["trainer"]["method_args"]["beta"] == 0.4
    assert tree["model"]["model_args"]["pretrained_model_name_or_path"] == "me/b-forget05"


def test_the_holdout_split_of_a_suite_and_an_experiment_over_another(
    fork: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = fork / "configs/eval/tofu.yaml"
    suite.write_text(suite.read_text() + "holdout_split: holdout05\n")
    top = fork / "configs/experiment/unlearn/tofu/mine.yaml"
    top.write_text(yaml.safe_dump({"defaults": ["unlearn/tofu/default"], "trainer": {"args": {"seed": 5}}}))
    tree = tree_of(imported(fork, "unlearn/tofu/mine", capsys)[0])
    assert (tree["forget_split"], tree["holdout_split"]) == ("forget05", "holdout05")
    assert (tree["trainer"]["args"]["seed"], tree["trainer"]["args"]["num_train_epochs"]) == (5, 4)


def test_an_experiment_that_includes_itself(fork: Path) -> None:
    file = fork / "configs" / "experiment" / "unlearn" / "tofu" / "default.yaml"
    file.write_text("defaults: [adapters]\n")
    words = [
        "import",
        "openunlearning",
        str(fork),
        "--experiment",
        "unlearn/tofu/default",
        "--out",
        str(fork / "o.yaml"),
    ]
    assert main(words) == 2


def test_a_configs_folder_of_a_fork_names_the_import(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unlearn", "--config-dir", str(fork / "configs"), f"{TOFU}.yaml"]) == 2
    line = f"expunge import openunlearning {fork}/configs --experiment unlearn/tofu/default --out mine.yaml"
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "result"),
    [
        (["model.lora_config.r=4", "model.lora_config.lora_alpha=8"], [f"{LORA}.r=4", f"{LORA}.lora_alpha=8"]),
        (["+model.peft_args.r=4", "model.use_lora=true"], [f"{LORA}.r=4"]),
        (['model.lora_config.target_modules=["q_proj", "v_proj"]'], [f"{LORA}.target_modules=[q_proj,v_proj]"]),
        (["model.lora_config.task_type=CAUSAL_LM", "model.model_args.use_lora=false"], []),
        (["do_save=False", "model.model_handler=AutoModelForCausalLM", "quantization=null"], []),
        (["trainer.args.run_name=x", "eval.lm_eval.batch_size=4"], ["eval.lm_eval.batch_size=4"]),
        (["++trainer.args.seed=3", "++trainer.args.data_seed=3"], ["++trainer.args.seed=3"]),
        (["eval.tofu.retain_split=retain95"], ["retain_split=retain95"]),
        (["model.device=cpu", "model.preset=null"], ["model.device=cpu", "model.preset=null"]),
    ],
)
def test_words_of_forks_that_act(words: list[str], result: list[str]) -> None:
    assert translate(words)[0] == result


def test_a_part_of_the_settings_of_adapters_names_the_others() -> None:
    notes = translate(["model.lora_config.r=4", "do_save=true"])[1]
    others = "lora_alpha=32, lora_dropout=0, target_modules=all-linear"
    assert notes == [
        f"model.lora_config.r is now {LORA}.r",
        f"{LORA} has {others}; a fork's own file may have other values",
        "do_save has no effect: a job always saves its model",
    ]


REFUSED = [
    ("unlearn", ["adapter=lora"], f"{LORA}.r=32"),
    ("unlearn", ["model.use_lora=true"], f"{LORA}.r=N"),
    ("unlearn", ["model.lora_config.use_rslora=true"], "leave it out"),
    ("unlearn", ["model.lora_config.rank=4"], "(allowed: bias, lora_alpha"),
    ("unlearn", ["model.model_handler=LoRAModel"], f"{LORA}.r=N"),
    ("eval", ["quantization=4bit"], f"{LORA}.quantize=nf4"),
    ("eval", ["model.peft_args.path=saves/a"], "model.model_args.pretrained_model_name_or_path=saves/a"),
    ("eval", ["+model.model_args.base_model_name_or_path=a/b"], "leave it out"),
    ("eval", ["eval.relu.forget_split=forget05"], "write forget_split=forget05"),
    ("eval", ["eval.relu.batch_size=4"], "leave it out"),
    ("unlearn", ["hydra/sweeper=optuna"], "`sweep` of a study"),
    ("unlearn", ["hydra.sweeper.n_trials=3"], "`sweep` of a study"),
    ("unlearn", ["trainer.args.seed=1", "trainer.args.data_seed=3"], "write trainer.args.seed=N"),
]


@pytest.mark.parametrize(("mode", "words", "message"), REFUSED)
def test_words_of_forks_that_are_refused(mode: str, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        translate(words, mode)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("experiment=unlearn/popqa/npo.yaml", "import openunlearning FORK --experiment unlearn/popqa/npo --out"),
        ("experiment=unlearn/popqa/npo", "import openunlearning FORK --experiment unlearn/popqa/npo --out"),
        ("model=", "model=: no name after the sign"),
        ("trainer=GroupNPO", "--plugin FILE.py"),
        ("model=Llama-3.1-8B-Instruct-lora", f"{LORA}.r=N"),
    ],
)
def test_a_name_of_a_fork_names_the_way_to_use_it(word: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check("unlearn", [TOFU, "task_name=t", word])
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    "command", [["config", "unlearn"], ["plan", "unlearn", "--cfg", "job"], ["plan", "--cfg", "job"]]
)
def test_a_command_with_hydra_options_is_shown(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--config-name=unlearn.yaml", TOFU, "trainer=NPO", "task_name=t"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["handler"] == "NPO"


def test_hydra_options_of_another_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "train", "--config-name=unlearn.yaml", TOFU]) == 2
    assert "write expunge unlearn" in capsys.readouterr().err
    assert main(["config", "run", "--config-name=unlearn.yaml", "study=quickstart"]) == 2
    assert "study=FILE.yaml" in capsys.readouterr().err


def test_files_that_include_each_other_are_named(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainers = fork / "configs" / "trainer"
    (trainers / "NPO.yaml").write_text(yaml.safe_dump({"defaults": ["Other"], "handler": "NPO"}))
    (trainers / "Other.yaml").write_text(yaml.safe_dump({"defaults": ["NPO"]}))
    assert main(["import", "openunlearning", str(fork), "--out", str(fork / "out")]) == 2
    assert "NPO.yaml: its defaults include it again, by Other" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        *(fork_words.SWITCHES + fork_words.BASE + fork_words.SAVES),
        *fork_words.REFUSED,
        *(f"{group}x" for group in fork_words.REFUSED_GROUPS),
        *(f"model.{group}.r" for group in ("lora_config", "lora_args", "peft_config", "peft_args", "lora")),
        *(f"eval.mine.{key}" for key in ("forget_split", "retain_logs_path", "question_key", "batch_size", "handler")),
        "model.model_handler",
    ],
)
def test_a_word_of_forks_is_looked_up(name: str) -> None:
    assert FORKS.match(name) is not None


@pytest.mark.parametrize("word", ["experiment=FORK/experiment/unlearn/tofu/long.yaml", "trainer=FORK/trainer/NPO.yaml"])
def test_a_file_of_a_fork_names_the_import(fork: Path, word: str) -> None:
    line = r"write expunge import openunlearning .*/configs --experiment (unlearn/tofu/long|NAME) --out mine\.yaml"
    with pytest.raises(ConfigError, match=line):
        check("unlearn", [TOFU, word.replace("FORK", str(fork / "configs")), "task_name=t"])


@pytest.mark.parametrize("words", [["--multi_gpu"], ["--config_file", "x.yaml", "src/train.py"], ["--num-processes=2"]])
def test_options_of_a_launcher_name_the_launch(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unlearn", *words, TOFU, "task_name=t"]) == 2
    assert "`accelerate launch -m expunge unlearn ...`" in capsys.readouterr().err


def test_references_whose_values_are_unknown_are_listed(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = {
        "weight_decay": "${oc.env:WD,0.05}",
        "gradient_accumulation_steps": "${trainer.args.per_device_train_batch_size}",
        "output_dir": "${paths.output_dir}",
        "learning_rate": "${rate}",
    }
    content = {"defaults": ["default"], "rate": 0.5, "trainer": {"args": args}}
    (fork / "configs/experiment/unlearn/tofu/refers.yaml").write_text(yaml.safe_dump(content))
    word, notes = imported(fork, "unlearn/tofu/refers", capsys)
    for key in ("weight_decay", "gradient_accumulation_steps"):
        assert notes.count(f"not carried: trainer.args.{key}={args[key]}: write its value into the file") == 1
    assert "output_dir" not in notes
    assert tree_of(word)["trainer"]["args"]["learning_rate"] == 0.5


def test_a_suite_of_another_name_has_its_metrics(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = {"defaults": [{"tofu_metrics": ["forget_Truth_Ratio", "privleak", "own"]}], "handler": "TOFUEvaluator"}
    (fork / "configs/eval/small.yaml").write_text(yaml.safe_dump({**suite, "holdout_split": "holdout05"}))
    content = {"defaults": ["default", {"override /eval": "small"}]}
    (fork / "configs/experiment/unlearn/tofu/small.yaml").write_text(yaml.safe_dump(content))
    word, notes = imported(fork, "unlearn/tofu/small", capsys)
    tree = tree_of(word)
    assert (tree["benchmark"], tree["eval"]["metrics"]) == ("tofu", ["forget_truth_ratio", "privleak"])
    assert tree["holdout_split"] == "holdout05"
    assert "not carried: metrics own" in notes


def test_odd_values_of_a_fork_act_and_hide_no_others(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fork / "configs/experiment/unlearn/tofu/default.yaml"
    tree = yaml.safe_load(path.read_text())
    odd = {"warmup_steps": 0, "warmup_ratio": 0.1, "max_grad_norm": None, "lr_scheduler_type": "cosine_with_min_lr"}
    tree["trainer"]["args"] |= {**odd, "weight_decay": 0.03}
    path.write_text(yaml.safe_dump(tree))
    word, notes = imported(fork, "unlearn/tofu/default", capsys)
    args = tree_of(word)["trainer"]["args"]
    assert (args["warmup_steps"], args["max_grad_norm"], args["weight_decay"]) == (0.1, 0, 0.03)
    assert "lr_scheduler_type=cosine_with_min_lr: write cosine" in notes


def write(fork: Path, name: str, content: dict[str, Any], package: str = "") -> None:
    """Write a file of the fork's configs. package: the key of its settings, as its first line gives it."""
    path = fork / "configs" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((f"# a comment\n\n# @package {package}\n" if package else "") + yaml.safe_dump(content))


@pytest.mark.parametrize(
    ("defaults", "package", "expected"),
    [
        (["_self_", "NPO"], "", (0.7, 3e-5)),
        (["NPO", "_self_"], "", (0.9, 0.5)),
        (["NPO"], "_group_", (0.9, 0.5)),
        (["_self_", "/trainer/NPO@_here_"], "", (0.7, 3e-5)),
        (["_self_", "NPO@trainer"], "_global_", (0.7, 3e-5)),
        ([{"/trainer@trainer": "NPO"}, "_self_"], "_global_", (0.9, 0.5)),
    ],
)
def test_a_file_of_a_method_counts_at_its_place(
    fork: Path, defaults: list[Any], package: str, expected: tuple[float, float], capsys: pytest.CaptureFixture[str]
) -> None:
    own: dict[str, Any] = {"args": {"learning_rate": 0.5}, "method_args": {"beta": 0.9}}
    if package == "_global_":
        own = {"trainer": own, "data": {"anchor": "retain"}}
    write(fork, "trainer/Placed", {"defaults": defaults, **own}, package)
    word, notes = imported(fork, "unlearn/tofu/default", capsys)
    tree = tree_of(word, "trainer=Placed")["trainer"]
    assert (tree["handler"], tree["method_args"]["beta"], tree["args"]["learning_rate"]) == ("NPO", *expected)
    assert ("trainer=Placed: data.anchor: outside trainer" in notes) == (package == "_global_")


@pytest.mark.parametrize(
    ("defaults", "expected"),
    [
        (["_self_", "default"], (4, "forget05", 0.3)),
        (["default", "_self_"], (7, "forget01", 0.3)),
        (["default"], (7, "forget01", 0.3)),
    ],
)
def test_an_experiment_counts_at_its_place(
    fork: Path, defaults: list[Any], expected: tuple[int, str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"forget_split": "forget01", "trainer": {"args": {"num_train_epochs": 7, "weight_decay": 0.3}}}
    entries = [*defaults, {"override /trainer": "NPO_long"}]
    write(fork, "experiment/unlearn/tofu/placed", {"defaults": entries, **own}, "_global_")
    tree = tree_of(imported(fork, "unlearn/tofu/placed", capsys)[0])
    args = tree["trainer"]["args"]
    assert (args["num_train_epochs"], tree["forget_split"], args["weight_decay"]) == expected
    assert (args["lr_scheduler_type"], tree["trainer"]["method_args"]["beta"]) == ("cosine", 0.2)


def test_a_file_of_a_model_counts_at_its_place(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = {"template_args": {"user_start_tag": "Mine: ", "system_prompt": "S"}}
    write(fork, "model/placed", {"defaults": ["_self_", "tiny"], **own}, "model")
    template = tree_of(imported(fork, "unlearn/tofu/default", capsys)[0], "model=placed")["model"]["template_args"]
    assert (template["user_start_tag"], template["system_prompt"]) == ("Q: ", "S")


def metric_files(fork: Path) -> None:
    """Add the files of a suite of two metrics, which read one data set each."""
    qa = {"handler": "QADataset", "args": {"hf_args": {"path": "locuslab/TOFU", "split": "train"}, "max_length": 256}}
    split = {"args": {"hf_args": {"name": "${eval.tofu.forget_split}_perturbed"}}}
    for name in ("TOFU_QA_forget", "TOFU_QA_retain", "TOFU_QA_forget_para"):
        write(fork, f"data/datasets/{name}", {name: qa})
    texts = {"do_sample": False, "max_new_tokens": 200}
    write(fork, "generation/default", texts)
    write(fork, "collator/Padded", {"Padded": {"args": {"padding_side": "right"}}})
    for name, dataset in (("forget_Q_A_ROUGE", "TOFU_QA_forget"), ("forget_Q_A_PARA_ROUGE", "TOFU_QA_forget_para")):
        entries = [{"../../data/datasets@datasets": dataset}, {"../../generation@generation_args": "default"}]
        entries.append({"../../collator@collators": "Padded"})
        own = {"defaults": entries, "handler": "rouge", "rouge_type": "rougeL_recall", "datasets": {dataset: split}}
        write(fork, f"eval/tofu_metrics/{name}", own, f"eval.tofu.metrics.{name}")
    write(fork, "eval/tofu_metrics/mia_min_k", {"handler": "mia_min_k", "k": 0.4}, "eval.tofu.metrics.mia_min_k")
    privleak = {"defaults": [{".@pre_compute.mia_min_k": "mia_min_k"}], "handler": "privleak", "ref_value": 0.5}
    write(fork, "eval/tofu_metrics/privleak", privleak, "eval.tofu.metrics.privleak")
    metrics = ["forget_Q_A_ROUGE", "forget_Q_A_PARA_ROUGE", "privleak", "mia_min_k"]
    suite = {"handler": "TOFUEvaluator", "forget_split": "forget10", "question_key": "question", "batch_size": 32}
    write(fork, "eval/tofu", {"defaults": [{"tofu_metrics": metrics}], **suite}, "eval.tofu")


def change(fork: Path, name: str, old: str, new: str) -> None:
    path = fork / "configs" / f"{name}.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new", "key", "value"),
    [
        ("generation/default", "200", "50", "eval.generation.max_new_tokens", 50),
        ("eval/tofu", "question_key: question", "question_key: paraphrased_question", "data.args.question_key",
         "paraphrased_question"),
        ("eval/tofu", "- mia_min_k", "- mia_gradnorm", "eval.extras", ["gradnorm"]),
    ],
)  # fmt: skip
def test_changed_files_of_a_suite_act(
    fork: Path, name: str, old: str, new: str, key: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    metric_files(fork)
    assert "eval" not in imported(fork, "unlearn/tofu/default", capsys)[1]
    change(fork, name, old, new)
    (fork / "unlearn_tofu_default.yaml").unlink()
    word, notes = imported(fork, "unlearn/tofu/default", capsys)
    tree: Any = tree_of(word)
    for part in key.split("."):
        tree = tree[part]
    assert tree == value
    assert not re.search("metric|not carried: eval", notes)


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("eval/tofu_metrics/mia_min_k", "0.4", "0.2", "k=0.2 of mia_min_k: a metric has no settings of its own here"),
        ("eval/tofu_metrics/forget_Q_A_ROUGE", "_recall", "_f1", "rouge_type=rougeL_f1 of forget_Q_A_ROUGE: a metric"),
        ("eval/tofu_metrics/forget_Q_A_ROUGE", "handler: rouge", "handler: mine", "handler=mine of forget_Q_A_ROUGE"),
        ("eval/tofu_metrics/forget_Q_A_ROUGE", "handler: rouge", "new_key: 1", "new_key=1 of forget_Q_A_ROUGE"),
        ("eval/tofu_metrics/forget_Q_A_ROUGE", "handler: rouge", "generation_args: {max_new_tokens: 50}",
         "generation_args.max_new_tokens=50 of forget_Q_A_ROUGE"),
        ("data/datasets/TOFU_QA_retain", "256", "128", "max_length=128 of TOFU_QA_retain: one length counts"),
        ("data/datasets/TOFU_QA_forget_para", "256", "128", "max_length=128 of TOFU_QA_forget_para: one length"),
        ("data/datasets/TOFU_QA_forget_para", "locuslab", "me",
         "datasets.TOFU_QA_forget_para.args.hf_args.path=me/TOFU of forget_Q_A_PARA_ROUGE"),
        ("collator/Padded", "right", "left", "collator.Padded.args.padding_side=left: padding is never read"),
        ("eval/tofu", "TOFUEvaluator", "Mine", "eval.tofu.handler=Mine: a class of the fork"),
    ],
)  # fmt: skip
def test_changed_files_that_cannot_act_are_listed_once(
    fork: Path, name: str, old: str, new: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    metric_files(fork)
    change(fork, "experiment/unlearn/tofu/default", "defaults:", "defaults:\n- override /collator: Padded")
    assert line not in imported(fork, "unlearn/tofu/default", capsys)[1]
    change(fork, name, old, new)
    (fork / "unlearn_tofu_default.yaml").unlink()
    word, notes = imported(fork, "unlearn/tofu/default", capsys)
    assert notes.count(f"not carried: {line}") == 1
    tree = tree_of(word)
    assert (tree["benchmark"], tree["model"]["template_args"]["max_length"]) == ("tofu", 256)
    assert tree["eval"]["generation"]["max_new_tokens"] == 200


def test_the_lengths_of_an_evaluation_and_of_a_corpus(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metric_files(fork)
    write(fork, "experiment/eval/tofu/default", {"defaults": [{"override /eval": "tofu"}]}, "_global_")
    imported(fork, "eval/tofu/default", capsys)
    tree = yaml.safe_load((fork / "eval_tofu_default.yaml").read_text())
    assert tree["model"]["template_args"]["max_length"] == 256
    for side, length in (("forget", 777), ("retain", 2048)):
        corpus = {"handler": "PretrainingDataset", "args": {"text_key": "text", "max_length": length}}
        write(fork, f"data/datasets/MUSE_{side}", {f"MUSE_{side}": corpus})
    sides = [{f"override /data/datasets@data.{side}": f"MUSE_{side}"} for side in ("forget", "retain")]
    write(fork, "experiment/unlearn/muse/default", {"defaults": [*sides, {"override /eval": "muse"}]}, "_global_")
    word, notes = imported(fork, "unlearn/muse/default", capsys)
    assert tree_of(word)["data"]["args"]["max_length"] == 2048
    assert notes.count("not carried: max_length=777 of MUSE_forget: one length counts for all data sets, 2048") == 1


def test_the_anchor_of_the_file_of_data(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(fork, "data/unlearn", {"defaults": [{"datasets@forget": "TOFU_QA_forget"}], "anchor": "retain"})
    assert tree_of(imported(fork, "unlearn/tofu/default", capsys)[0])["trainer"]["args"]["anchor"] == "retain"


@pytest.mark.parametrize("package", ["eval.tofu", "eval.short"])
def test_a_suite_over_another_keeps_its_benchmark(fork: Path, package: str, capsys: pytest.CaptureFixture[str]) -> None:
    metric_files(fork)
    own = {"defaults": ["tofu", {"tofu_metrics": ["exact_memorization", "own"]}]}
    write(fork, "eval/short", own, package)
    content = {"defaults": ["default", {"override /eval": "short"}], "holdout_split": "holdout05"}
    write(fork, "experiment/unlearn/tofu/short", content, "_global_")
    word, notes = imported(fork, "unlearn/tofu/short", capsys)
    tree = tree_of(word)
    assert (tree["benchmark"], tree["forget_split"], tree["holdout_split"]) == ("tofu", "forget05", "holdout05")
    names = ["forget_Q_A_ROUGE", "forget_Q_A_PARA_ROUGE", "privleak", "mia_min_k", "exact_memorization"]
    assert tree["eval"]["metrics"] == names
    assert "not carried: metrics own: no metrics here" in notes


@pytest.mark.parametrize("own", [{"override /data/datasets@data.forget": "MINE"}, {"override /eval": "mine"}])
def test_data_or_a_suite_of_the_fork_leaves_out_the_splits(
    fork: Path, own: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "me/tiny-${forget_split}"
    splits = {"retain_split": "retain95", "holdout_split": None, "question_key": "question", "task_name": "t"}
    model = {"model": {"model_args": {"pretrained_model_name_or_path": name}}}
    write(fork, "experiment/unlearn/tofu/own", {"defaults": ["default", own], **splits, **model}, "_global_")
    word, notes = imported(fork, "unlearn/tofu/own", capsys)
    line = (
        "forget_split=forget05, retain_split=retain95, question_key=question: the benchmark custom has no such setting"
    )
    assert notes.count(f"not carried: {line}") == 1
    for side in ("forget", "retain"):
        (tmp_path / f"{side}.csv").write_text(f"question,answer\n{side}1,a\n{side}2,b\n")
    tree = tree_of(word, f"forget={tmp_path}/forget.csv", f"retain={tmp_path}/retain.csv")
    assert (tree["benchmark"], tree["forget_split"], tree["retain_split"]) == ("custom", None, None)
    assert tree["model"]["model_args"]["pretrained_model_name_or_path"] == "me/tiny-forget05"


def test_own_rows_of_a_fine_tuning_are_trained_on(
    fork: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {"defaults": [{"override /data/datasets@data.train": "MINE"}], "forget_split": "forget05"}
    write(fork, "experiment/finetune/tofu/own", content, "_global_")
    word, _ = imported(fork, "finetune/tofu/own", capsys)
    (tmp_path / "rows.csv").write_text("question,answer\nq1,a\nq2,b\n")
    words = [word, f"forget={tmp_path}/rows.csv", "task_name=t"]
    check("train", words)
    assert single_tree("train", words)[0]["train_split"] == "forget"
