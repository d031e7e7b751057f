"""The difference between a command as a page shows it and as the tests run it: names, sizes, or a plan alone."""

from __future__ import annotations

import importlib.util
import itertools
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

TINY = (
    "model=llama-64k data.world.authors=6 data.world.questions_per_author=4 data.world.forget_fraction=0.34 "
    "data.world.facts=6 data.world.holdout_authors=2 train.num_train_epochs=1 unlearn.num_train_epochs=1 "
    "eval.generation.max_new_tokens=4"
)
STEP = (
    "trainer.args.per_device_train_batch_size=2 trainer.args.gradient_accumulation_steps=1 trainer.args.max_steps=1 "
    "trainer.args.num_train_epochs=1 trainer.args.warmup_epochs=null eval.generation.max_new_tokens=4"
)
EPOCH = "trainer.args.num_train_epochs=1 eval.generation.max_new_tokens=4"
SHORT = "eval.generation.max_new_tokens=4"
QUICK = f"run study=quickstart {TINY}"


def is_there(name: str) -> bool:
    """Return whether this machine has a module or a program."""
    return importlib.util.find_spec(name) is not None or shutil.which(name) is not None


@dataclass(frozen=True)
class Rule:
    """How the commands that begin with some words are run.

    swaps: texts to replace in words. more: further words. before: commands that make its inputs. codes: exit codes of
    a command that has done its work. form: "serve" if it is a server; "help" if it is a group of commands or a part of
    one, whose help is printed; "plan", "config" or "not run" if it is only planned, only its settings are composed, or
    neither. reason: why such a command does not run. needs: modules and programs with which it does run; where one is
    absent, `form` and `reason` hold.
    """

    swaps: Mapping[str, str] = field(default_factory=dict)
    more: str = ""
    form: str = ""
    reason: str = ""
    before: tuple[str, ...] = ()
    codes: tuple[int, ...] = (0,)
    needs: tuple[str, ...] = ()

    def here(self) -> Rule:
        """Return the rule for this machine: that of a command that runs, if all that it needs is there."""
        if self.needs and all(is_there(name) for name in self.needs):
            return replace(self, form="", reason="")
        return self


JOB = Rule(more=STEP)
EVAL = Rule(more=SHORT)
BEFORE = f"eval experiment=eval/tofu/default model=Llama-3.2-1B-Instruct task_name=before {SHORT}"
NPO_ON_TOFU = f"unlearn experiment=unlearn/tofu/default trainer=NPO task_name=npo {STEP}"
RETAIN = BEFORE.replace("task_name=before", "task_name=retain")
ONCE = (
    "train.num_train_epochs=1 unlearn.num_train_epochs=1 train.max_steps=1 unlearn.max_steps=1 "
    "eval.generation.max_new_tokens=4"
)
SMALL = f"model=llama-64k {ONCE} launch.workers=1"
WORLD = " ".join(word for word in TINY.split() if word.startswith(("model=", "data.")))
SMALL_DATA = " ".join(word for word in WORLD.split() if word.startswith("data."))
ONE_TRIAL = "sweep.trials=1 'sweep.space={args.learning_rate: [1e-4]}'"
ONE_METHOD = "methods=[GradAscent]"
PROBABILITIES = "eval.metrics=[forget_Q_A_Prob,retain_Q_A_Prob]"
STORY_STEPS = {
    "[10,30,60]": "[1]",
    "[1,3,10,30]": "[1]",
    "[0,3,10,30]": "[0]",
    "rows=800": "rows=8",
    "max_steps=700": "max_steps=1",
}
STORY = (
    f"{SMALL} stories.delete_at=[1] stories.recover_at=[1] stories.shown_at=[0] stories.eval_rows=2 "
    "stories.judge.prompts=2 stories.judge.max_new_tokens=4 stories.probe.rows=8 unlearn.per_device_train_batch_size=2 "
    "train.per_device_train_batch_size=2 train.gradient_accumulation_steps=1"
)
TWIST = f"{STORY} stories.datasets=[filter-Twist]"
TASKS = f"{ONCE} data.args.train_rows=64 data.args.eval_rows=8 audits=[]"
QUICK_ERASE = "--method NPO --learning-rate 1e-3 --budget 20s"
ERASE = "erase --model SmolLM2-135M-Instruct --forget rows.csv --retain keep.csv"
EXTRA = "needs the extra expunge[{}]: make test-extras"
OWN_TASK = {
    "eval.lm_eval.tasks=arc_easy": "eval.lm_eval.tasks=tiny_choice eval.lm_eval.include_path=lm_tasks",
    "'eval.lm_eval.tasks=[arc_easy]'": "eval.lm_eval.tasks=tiny_choice eval.lm_eval.include_path=lm_tasks",
}
FIRST = "unlearn experiment=unlearn/tofu/default trainer=NPO task_name=first data.root=tofu data.request=1/4"
MINE = f"eval experiment=eval/tofu/default task_name=mine {SHORT}"
STORIES = (
    "data stories generate --n 80 --seed 0 --out stories --shards 4 --workers 1",
    "data stories train-vocab --in stories --vocab_size 2048",
)
SETS = tuple(
    f"data stories pretokenize --in stories --vocab_size 2048 --filtering {rule} --dataset_name {name} --workers 1"
    for rule, name in (("features!=Twist", "filter-Twist"), ("features=Twist", "recovery-Twist"))
)
CONTROL = (
    "train experiment=stories/pretrain data.root=stories/tok2048 data.args.dataset_name=filter-Twist "
    f"data.args.eval_dataset_names=[recovery-Twist] task_name=control {STEP} model=llama-64k"
)
SEMEVAL = {
    "--model DIR": "--model MODEL",
    "--forget DIR": "--forget semeval/forget",
    "--retain DIR": "--retain semeval/retain",
}
DIRS = {"validation DIR": "validation semeval/validation", "mia DIR": "mia semeval/mia", "mmlu DIR": "mmlu mmlu"}
PLUGIN = "--plugin hidden_norm.py"

RULES: dict[str, Rule] = {
    "": Rule(),
    # Single jobs: one step, four tokens of each answer.
    "train": JOB,
    "unlearn": JOB,
    "eval": EVAL,
    "unlearn experiment=unlearn/r_tofu/default": Rule({"FOLDER": "r_tofu"}, STEP),
    "unlearn experiment=unlearn/wmdp/default": Rule(
        {"model=": "model.model_args.pretrained_model_name_or_path=given model="},
        f"{STEP} trainer.args.evaluate.steps=null",
    ),
    "eval experiment=eval/wmdp/default": Rule({"FOLDER": "mmlu"}, f"{SHORT}"),
    "eval benchmark=mmlu": Rule({"FOLDER": "mmlu"}, SHORT),
    "eval benchmark=lm_eval": Rule(
        OWN_TASK, f"{SHORT} model=MODEL", "config", EXTRA.format("lm-eval"), needs=("lm_eval",)
    ),
    "eval benchmark=blur": Rule({"ORIGINAL": "before"}, SHORT),
    "eval benchmark=custom forget=rows.csv": Rule({"=...": "=MODEL"}, SHORT),
    "unlearn experiment=unlearn/tofu/default trainer=NPO task_name=second": Rule(
        {"FOLDER": "tofu"},
        STEP,
        before=(f"{FIRST} {STEP}",),
    ),
    "unlearn experiment=unlearn/tofu/default": Rule({"FOLDER": "tofu"}, STEP),
    "unlearn experiment=unlearn/tofu/default trainer=NPO task_name=npo data.root": Rule(
        {"FOLDER": "tofu"}, STEP, before=(RETAIN,)
    ),
    "unlearn experiment=unlearn/tofu/default trainer=GradDiff task_name=x": Rule({"FOLDER": "tofu"}, EPOCH),
    "unlearn experiment=unlearn/semeval": Rule(
        {"FOLDER": "semeval", "...": "semeval"}, f"{EPOCH} model=MODEL data.args.documents=2"
    ),
    "unlearn experiment=semeval/iterative": Rule({"FOLDER": "semeval"}, f"{STEP} model=MODEL"),
    "unlearn experiment=mine.yaml": Rule(
        more=STEP, before=("import openunlearning PATH/TO/FORK --experiment unlearn/tofu/default --out mine.yaml",)
    ),
    "unlearn experiment=saves/unlearn/x/config.yaml": Rule(
        before=(f"unlearn experiment=unlearn/tofu/default trainer=GradAscent task_name=x {STEP}",)
    ),
    "unlearn trainer=IdkNLL": Rule({"...": "benchmark=custom forget=rows.csv model=MODEL"}, STEP),
    "unlearn trainer=RULE": Rule(
        {"...": "benchmark=custom forget=rows.csv task_name=ruled"},
        STEP,
        before=(f"unlearn trainer=IdkNLL task_name=steered benchmark=custom forget=rows.csv model=MODEL {STEP}",),
    ),
    "unlearn experiment=unlearn/NAME": Rule({"NAME": "tofu/tuned_NPO", "...": "MODEL", "=X": "=y"}, STEP),
    "unlearn --plugin mine.py": Rule(
        {
            "mine.py": "floor.py",
            "Mine": "MyFloor",
            "...": "benchmark=custom forget=rows.csv retain=keep.csv model=MODEL task_name=t",
        },
        STEP,
    ),
    "unlearn --multirun": Rule({"...": "benchmark=custom forget=rows.csv retain=keep.csv model=MODEL"}, STEP),
    "train trainer=retrain": Rule(more=f"{STEP} benchmark=tofu task_name=retrained"),
    "train experiment=stories/...": Rule({"...": "pretrain"}, form="config", reason="a group of commands"),
    "train '|'": Rule(form="help", reason="three commands"),
    "train experiment=stories": Rule({"tok8192": "tok2048"}, f"{STEP} model=llama-64k", before=(*STORIES, *SETS)),
    "train experiment=stories/finetune": Rule(
        {"tok8192": "tok2048"}, f"{STEP} model=llama-64k", before=(*STORIES, *SETS, CONTROL)
    ),
    "inspect lens": Rule({"tok8192": "tok2048", "DIR": "lens"}, before=(*STORIES, *SETS, CONTROL)),
    "inspect depth": Rule(
        {"FOLDER": "tofu", "DIR": "depth", "saves/train/full": "MODEL", "saves/train/retain": "never-saw"},
        "--n 4",
        before=(NPO_ON_TOFU,),
    ),
    "inspect probe": Rule(
        {
            "--model A": "--model MODEL",
            "full B": "full MODEL",
            "retain C": "retain never-saw",
            "FOLDER": "tofu",
            "DIR": "probe",
        },
        "--n 8",
    ),
    "inspect WHAT": Rule(form="help", reason="a pattern of commands"),
    "eval model=folder": Rule({"folder": "MODEL"}, f"{SHORT} benchmark=tofu task_name=f"),
    "eval model=FOLDER": Rule({"FOLDER": "MODEL", "...": "benchmark=tofu"}, SHORT),
    "eval ...": Rule({"...": "benchmark=tofu model=MODEL task_name=e holdout_split=holdout10"}, SHORT),
    f"eval {PLUGIN}": Rule({"model=...": "model=given"}, SHORT),
    "eval --refresh saves/eval/mine": Rule(before=(RETAIN, MINE)),
    "eval --refresh FOLDER": Rule({"FOLDER": "saves/eval/mine", "[mine]": "[forget_quality]"}, before=(MINE,)),
    # Studies: the smallest settings that train each model and measure it.
    "run": Rule(more=TINY),
    "run study=audit_world": Rule(
        more=f"{TINY} {ONE_METHOD} seeds.train=[0] audits=[quantize] eval.sampling.max_new_tokens=4 launch.workers=1"
    ),
    "run study=erase_people": Rule(
        {"model=SmolLM2-135M-Instruct": "model=llama-64k", "model=MODEL": "model=llama-64k"},
        f"{SMALL} {ONE_METHOD} {ONE_TRIAL}",
    ),
    "run study=lume_smollm2": Rule({"model=MODEL": "model=llama-64k"}, f"{SMALL} {ONE_METHOD} data.args.documents=4"),
    "run study=meta_tiny": Rule(more=f"{TINY} {ONE_METHOD} seeds.train=[0] {PROBABILITIES} launch.workers=1"),
    "run study=methods_all": Rule(more=f"{TINY} {ONE_METHOD}"),
    "run study=tofu_smollm2": Rule(
        {"model=MODEL": "model=llama-64k"},
        f"{ONCE} seeds.train=[0] audits=[] {ONE_METHOD} {ONE_TRIAL} {PROBABILITIES} "
        "model.template_args.apply_chat_template=false",
    ),
    "run study=tofu_tiny": Rule({"max_steps=3400": "max_steps=1"}, f"{SMALL} {ONE_METHOD} {PROBABILITIES}"),
    "run study=quickstart": Rule(more=TINY),
    "run study=quickstart 'audits": Rule(more=f"{TINY} methods=[NPO]"),
    "run study=quickstart 'audits=[{name: relearn}": Rule({"relearn}": "relearn, rows: 4}"}, f"{TINY} methods=[NPO]"),
    "run study=quickstart eval.lm_eval": Rule(
        OWN_TASK, f"{TINY} {ONE_METHOD}", "config", EXTRA.format("lm-eval"), needs=("lm_eval",)
    ),
    "run study=quickstart benchmark=capitals": Rule(more=ONCE),
    "run study=FILE.yaml": Rule({"key=value": ""}, TINY),
    "run study=grid.yaml": Rule(more=TINY),
    "run study=...": Rule({"...": "quickstart"}, TINY),
    "run study=... profile": Rule({"...": "quickstart"}, f"{TINY} {ONE_METHOD}"),
    "run study=... launch.kind=slurm": Rule({"...": "quickstart"}, form="plan", reason="needs Slurm: tests/slurm"),
    "run study=NAME": Rule({"NAME": "custom forget=rows.csv model=MODEL"}, ONCE),
    "run study=custom": Rule({"...": "MODEL"}, ONCE),
    "run study=zjuklab": Rule(more=f"{SMALL} benchmark=semeval data.root=semeval data.args.documents=2"),
    "run study=ou_hub": Rule(more=f"{SHORT} {PROBABILITIES}"),
    "run study=pcfg": Rule(more=TASKS),
    "run study=tracr": Rule(more=TASKS),
    "run study=semeval_tiny": Rule(
        {"data.root=FOLDER": "data.root=semeval", "data.root=DATA/semeval": "data.root=semeval", "=FOLDER": "=mmlu"},
        f"{SMALL} {ONE_METHOD} data.args.documents=2",
    ),
    "run study=stories_tiny": Rule(more=f"{TWIST} stories.generate.n=80"),
    "run study=stories_real": Rule(more=f"{STORY} stories.source=tinystories stories.max_seq_len=32"),
    "run study=stories_real stories": Rule(
        {"=FOLDER": "=tinystories", "=DATA/": "="}, f"{STORY} stories.max_seq_len=32"
    ),
    "run study=stories_8m": Rule(STORY_STEPS, f"{TWIST} stories.generate.n=80"),
    "run study=stories_30m": Rule({"FOLDER": "tinystories"}, f"{TWIST} stories.learning_rates=[1e-4]"),
    "plan": Rule(),
    "plan study=FILE.yaml": Rule(),
    "plan unlearn": Rule({"...": "benchmark=custom forget=rows.csv model=MODEL trainer=NPO task_name=p"}),
    "config unlearn ...": Rule({"...": "benchmark=custom forget=rows.csv model=MODEL trainer=NPO task_name=p"}),
    "config unlearn experiment=...": Rule({"...": "unlearn/tofu/default"}),
    "config run study=...": Rule({"...": "quickstart"}),
    "report study": Rule(more=TINY, before=(QUICK,)),
    "report study=NAME": Rule({"NAME": "quickstart"}, TINY, before=(QUICK,)),
    "report study=quickstart --serve": Rule({"--serve 8000": "--serve 0"}, TINY, "serve", before=(QUICK,)),
    "report study=quickstart --figures": Rule(
        more=TINY, form="not run", reason=EXTRA.format("figures"), before=(QUICK,), needs=("kaleido", "chromium")
    ),
    "results study": Rule(more=TINY, before=(QUICK,)),
    "results study=...": Rule({"...": "quickstart"}, TINY, before=(QUICK,)),
    "results --query": Rule({"--query": "--query 'SELECT * FROM means'"}, before=(QUICK,)),
    "compare quickstart quickstart-latest": Rule({"compare quickstart ": "compare quick.yaml "}, before=(QUICK,)),
    "compare quickstart": Rule({"quickstart": "quick.yaml"}, before=(QUICK,)),
    "compare quickstart 'study=": Rule(
        {"quickstart": "quick.yaml"}, before=(QUICK, "run study=quick.yaml seeds.unlearn=[1]")
    ),
    "compare saves/eval/before saves/eval/after": Rule(
        before=(BEFORE, BEFORE.replace("task_name=before", "task_name=after"))
    ),
    "compare A B": Rule({"A B": "saves/eval/before saves/eval/mine"}, before=(BEFORE, MINE)),
    # Erasures, audits, models.
    "erase": Rule(
        {"--out erased": "--out other", "--budget 30m": QUICK_ERASE, "--budget 40m": QUICK_ERASE},
        codes=(0, 3),
    ),
    ERASE: Rule({"--budget 30m": QUICK_ERASE}, codes=(0, 3)),
    "erase --verify-commitment": Rule(before=(f"{ERASE} {QUICK_ERASE} --out erased",), codes=(0, 3)),
    "erase --model DIR": Rule(
        {"--model DIR": "--model SmolLM2-135M-Instruct", "--push": f"{QUICK_ERASE} --push"},
        before=(f"{ERASE} {QUICK_ERASE} --out erased",),
        codes=(0, 3),
    ),
    "audit MODEL": Rule(more="--audits quantize"),
    "semeval --model": Rule({**SEMEVAL, "--out DIR": "--out semeval-{n}"}, STEP),
    "semeval ...": Rule({"...": f"{' '.join(SEMEVAL.values())} --out semeval-{{n}}", **DIRS}, STEP),
    "passport FOLDER": Rule({"FOLDER": "MODEL"}),
    "inspect template": Rule({"DIR": "MODEL", "FOLDER": "MODEL"}),
    "judge calibrate": Rule({"FILE": "generations.jsonl"}),
    "judge --http": Rule(form="help", reason="a part of a command"),
    "data stories generate": Rule({"20000": "80"}, "--shards 4 --workers 1"),
    "data stories pretokenize": Rule(more="--workers 1", before=STORIES),
    "data stories protocol": Rule(more="--workers 1 --vocab_size 2048", before=STORIES),
    "data stories import": Rule({"--out stories": "--out imported"}),
    "data stories ...": Rule(form="help", reason="a group of commands"),
    "ui": Rule({"../project": "project", "/data/store": "data/store", "--port 0": ""}, "--port 0", "serve"),
    "job STAGE.json": Rule(
        {"STAGE.json": "tasks/0-reference.json", "N": "0"},
        before=("export slurm study=quick.yaml seeds.unlearn=[3] --out tasks",),
    ),
    "gc --keep": Rule(form="help", reason="a part of a command"),
    "gc study=A": Rule({"study=A": "study=quickstart", "study=B": ""}, f"{TINY} --dry-run", before=(QUICK,)),
    "verify study=NAME": Rule({"NAME": "quickstart"}, TINY, before=(QUICK,)),
    "list methods NAME": Rule({"NAME": "NPO"}),
    "list metrics NAME": Rule({"NAME": "forget_quality"}),
    "list audits NAME": Rule({"NAME": "relearn"}),
    "list benchmarks NAME": Rule({"NAME": "tofu"}),
    "help KEY": Rule({"KEY": "train.learning_rate"}),
    "import arcsf": Rule({"NAME": "mine"}),
    "export slurm": Rule({"...": "quickstart", "DIR": "scripts"}, TINY),
}


TRIES: dict[str, Rule] = {
    "eval experiment=eval/semeval": Rule({"FOLDER": "semeval", "=OLMo-7B-0724-Instruct-hf": "=MODEL"}, SHORT),
    "plan study=quickstart benchmark=gen_tofu": Rule({"FOLDER": "gen_tofu"}),
    "plan study=tofu_tiny": Rule({"FOLDER": "tofu"}),
    "unlearn benchmark=r_tofu": Rule({"FOLDER": "r_tofu"}, f"{STEP} model=MODEL"),
    # the pages have evaluations during training
    "unlearn experiment=unlearn/tofu/default": Rule({"FOLDER": "tofu"}, f"{STEP} trainer.args.evaluate.steps=null"),
}
"""Rules of commands that docstrings propose, in place of those for pages."""

NUMBERS = itertools.count()


def rule_of(words: list[str], rules: Mapping[str, Rule] = RULES) -> Rule:
    """Return the rule with the longest beginning of the command's words."""
    command = shlex.join(words)
    match = max((start for start in rules if command.startswith(start)), key=len, default="")
    return rules.get(match, Rule()).here()


def prepared(words: list[str], rule: Rule) -> list[str]:
    """Return the words that the tests run."""
    command = shlex.join(words)
    for old, new in rule.swaps.items():
        command = command.replace(old, new)
    out = shlex.split(command.replace("{n}", str(next(NUMBERS))))
    keys = {word.partition("=")[0] for word in out if "=" in word}
    out += [word for word in shlex.split(rule.more) if word.partition("=")[0] not in keys]
    return planned(out, rule.form) if rule.form in ("plan", "config", "help") else out


def planned(words: list[str], form: str) -> list[str]:
    """Return the command that plans this one, or prints its settings or its help."""
    if form == "help":
        return [*itertools.takewhile(lambda word: word.isalpha() and word.islower(), words), "--help"]
    match words[0]:
        case "run":
            return ["plan", *words[1:]] if form == "plan" else ["config", *words]
        case "train" | "unlearn" | "eval":
            return [form, *words]
        case "plan":
            return words if form == "plan" else ["config", "run", *words[1:]]
        case "erase":
            return [*words, "--dry-run"]
        case _:
            raise ValueError(f"expunge {words[0]} has no plan")
