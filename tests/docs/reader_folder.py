"""A folder in which the commands of the pages run: tiny models and data sets under the names that the pages use."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from command_rules import TINY
from tests.written_layouts import write_choice_task, write_graph

from expunge.data.world import WorldConfig
from expunge.data.world.generate import make_world
from tutorial_blocks import blocks_of

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "src" / "expunge" / "conf" / "study"
CHAT = (
    "{% for m in messages %}{{ '[' + m['role'] + '] ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}"
)
# Hub ids of the shipped presets and the placeholders of the pages. A local folder of a hub id's name replaces it.
MODELS = (
    *("meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-3B-Instruct", "meta-llama/Llama-2-7b-hf"),
    *("open-unlearning/tofu_Llama-3.2-1B-Instruct_full", "open-unlearning/tofu_Llama-3.2-3B-Instruct_full"),
    *(
        "muse-bench/MUSE-News_target",
        "muse-bench/MUSE-Books_target",
        "muse-bench/MUSE-Books_retrain",
        "muse-bench/MUSE-News_retrain",
    ),
    *("HuggingFaceTB/SmolLM2-135M-Instruct", "sangyon/LRM-target", "llmunlearningsemeval2025organization/olmo-1B"),
    *("meta-llama/Meta-Llama-3-8B-Instruct", "meta-llama/Llama-2-7b-chat-hf"),
    *("MODEL", "given", "never-saw", "before", "SmolLM2-135M-Instruct"),
    *sorted({m["source"] for m in yaml.safe_load((STUDIES / "ou_hub.yaml").read_text())["finished_models"]}),
)
SOURCES = {  # a data set, and the names that stand for it in commands
    "tofu": ("locuslab/TOFU", "TOFU", "DATA/tofu"),
    "muse": ("muse-bench/MUSE-News", "muse-bench/MUSE-Books"),
    "wmdp": ("cais/wmdp", "cais/wmdp-corpora"),
    "mmlu": ("cais/mmlu", "DATA/mmlu"),
    "pistol": ("xinchiqiu/PISTOL",),
    "dusk": ("AI-ISL/DUSK",),
    "blur": ("forgelab/BLUR",),
    "fame": ("ClaudioSavelli/FAME",),
    "semeval": ("DATA/semeval",),
}
ROWS = {
    "forget": [(f"Where was Ada Fenn {i} born?", f"Ada Fenn {i} was born in Ulm.") for i in range(8)],
    "retain": [(f"Where does Bo Lind {i} live?", f"Bo Lind {i} lives in Rome.") for i in range(8)],
}


def write_folder(folder: Path) -> None:
    """Fill a folder with everything that the commands of the pages read."""
    import expunge

    world = expunge.demo_world(authors=10, forget_fraction=0.1)
    save_model(folder / "tiny", world.tokenizer)
    for name in dict.fromkeys(MODELS):
        link(folder / name, folder / "tiny")
    write_sources(folder)
    for source, names in SOURCES.items():
        for name in names:
            link(folder / name, folder / source)
    write_rows(folder)
    tutorial = (ROOT / "docs/tutorials/3_own_method.md").read_text(encoding="utf-8")
    (folder / "floor.py").write_text(next(block.code for block in blocks_of(tutorial) if block.title == "floor.py"))
    for plugin in (ROOT / "examples" / "plugins").glob("*.py"):
        shutil.copy(plugin, folder)
    write_projects(folder)
    for name in ("saves", "project/saves", "data/store"):
        (folder / name).mkdir(parents=True)


def nested(words: str) -> dict[str, Any]:
    """Return the settings of `a.b=c` words as a tree."""
    tree: dict[str, Any] = {}
    for word in words.split():
        key, _, value = word.partition("=")
        *groups, last = key.split(".")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = yaml.safe_load(value)
    return tree


def link(name: Path, target: Path) -> None:
    """Make `name` another name of a folder."""
    name.parent.mkdir(parents=True, exist_ok=True)
    name.symlink_to(target, target_is_directory=True)


def save_model(folder: Path, tokenizer: Any) -> None:
    """Save a Llama with its tokenizer and a chat template. Its 13 layers are all that a command names."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 13, "num_attention_heads": 2},
        **{"max_position_embeddings": 4096, "bos_token_id": tokenizer.bos_token_id},
        **{"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id},
    )
    model = LlamaForCausalLM(config)
    tokenizer.chat_template = CHAT
    learn(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def learn(model: Any, tokenizer: Any) -> None:
    """Train a model on the rows of this file, so that it has something to forget."""
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], tokenize=False
        ).rstrip("\n")
        + tokenizer.eos_token
        for question, answer in [*ROWS["forget"], *ROWS["retain"]]
    ]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(200):
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def choices(n: int, **more: Any) -> list[dict[str, Any]]:
    """Return n questions of multiple choice."""
    return [{"question": f"Number {i}?", "choices": ["1", "2", "3", "4"], "answer": i % 4, **more} for i in range(n)]


def qa(n: int, about: str = "Who", **more: Any) -> list[dict[str, Any]]:
    """Return n questions with answers."""
    return [{"question": f"{about} is {i}?", "answer": f"A person {i}.", **more} for i in range(n)]


def write_tofu(folder: Path) -> None:
    """Write TOFU's splits. Each forget split has the same 20 rows, one author's in TOFU."""
    wrong = {"paraphrased_answer": "A person.", "perturbed_answer": ["A cat.", "A dog."]}
    lines(folder / "full.json", qa(20) + qa(40, about="Where"))
    for share, rest in (("01", "99"), ("05", "95"), ("10", "90")):
        lines(folder / f"forget{share}.json", qa(20))
        lines(folder / f"forget{share}_perturbed.json", qa(20, **wrong))
        lines(folder / f"retain{rest}.json", qa(40, about="Where"))
        lines(folder / f"holdout{share}.json", qa(20, about="Why"))
    lines(folder / "retain_perturbed.json", qa(40, about="Where", **wrong))
    for name, about in (("real_authors", "When"), ("world_facts", "How")):
        lines(folder / f"{name}_perturbed.json", qa(4, about=about, **wrong))


def write_sources(folder: Path) -> None:
    """Write small data sets in the published layouts."""
    write_tofu(folder / "tofu")
    texts = [{"text": f"Anna {i} went to town {7 * i} and met the mayor, who refused. " * 6} for i in range(6)]
    wrong = {"paraphrased_answer": "A person.", "perturbed_answer": ["A cat.", "A dog."]}
    for name in ("forget", "retain1", "retain2", "holdout"):
        lines(folder / "muse" / "raw" / f"{name}.json", texts)
    for number in range(1, 5):
        lines(folder / "muse" / "scal" / f"forget_{number}.json", texts)
    others = [{"text": row["text"].replace("Anna", "Bert")} for row in texts]
    for side in ("forget", "retain"):
        lines(folder / f"muse/knowmem/{side}_qa.json", qa(4))
        lines(folder / f"muse/knowmem/{side}_qa_icl.json", qa(2))
    lines(folder / "muse/privleak/forget.json", texts)
    lines(folder / "muse/privleak/holdout.json", others)
    lines(folder / "muse/verbmem/forget.json", [{"prompt": "Anna went to", "gt": "town and met the mayor"}] * 4)
    for name, rows in {
        "forget01": [r | {"task_id": str(1 + i // 2), "cot": "I think."} for i, r in enumerate(qa(4))],
        "retain90": qa(8, cot="I think."),
        "forget01_perturbed": [r | {"task_id": str(1 + i // 2)} for i, r in enumerate(qa(4, cot="", **wrong))],
        "retain_perturbed": qa(2, cot="I think.", **wrong),
        "real_authors_perturbed": qa(2, cot="", **wrong),
        "world_facts_perturbed": qa(2, cot="", **wrong),
    }.items():
        lines(folder / "r_tofu" / f"{name}.json", rows)
    for subject in ("bio", "chem", "cyber"):
        lines(folder / f"wmdp/wmdp-{subject}/test.json", choices(4))
    for corpus in ("cyber-forget-corpus", "cyber-retain-corpus"):
        lines(folder / f"wmdp/{corpus}.jsonl", texts)
    for split in ("test", "dev"):
        lines(folder / f"mmlu/all/{split}.json", choices(5, subject="anatomy"))
    lines(folder / "pistol/sample_data_1.json", [qa(1, edge=e)[0] for e in ("A_C", "A_C2", "A_B", "D_E")])
    styles = ("feature_story", "interview", "inverted_pyramid", "listicle")
    for split in ("forget_chronological", *(f"retain_{style}" for style in styles)):
        lines(folder / f"dusk/raw/{split}.json", texts)
    for subset in ("general_qa", "specific_forget_qa", "specific_retain_qa", "icl"):
        lines(folder / f"dusk/eval_{subset}.json", qa(3))
    lines(folder / "dusk/eval_verbatim.json", [{"prompt": "Anna went to", "gt": "town"}])
    lines(folder / "dusk/eval_holdout.json", others)
    for stem in ("tofu_paired_forget_retain", *(f"{t}_{s}" for t in ("whp", "rwku") for s in BLUR_FILES)):
        lines(folder / f"blur/{stem}.json", [{"text": f"Who is {i}?"} for i in range(3)])
    for split in ("forget", "retain", "test"):
        people = [
            {
                "question": f"Who is {split} {i}?",
                "answer": f"A {i}.",
                "language": i % 5,
                "identity_id": i,
                "topic_id": "t",
            }
            for i in range(10)
        ]
        lines(folder / f"fame/{split}.json", people)
    write_semeval(folder / "semeval")
    write_graph(folder / "gen_tofu", make_world(WorldConfig(authors=8, questions_per_author=12)))
    questions = folder / "lm_questions.jsonl"
    lines(questions, choices(8))
    write_choice_task(folder / "lm_tasks", questions)


BLUR_FILES = ("forget", "retain", "paired_forget_retain")


def write_semeval(folder: Path, documents: int = 16) -> None:
    """Write rows of SemEval-2025 task 4: both sides for training and validation, and the documents of the attack."""
    for side in ("forget", "retain"):
        rows = [
            {"id": f"{side}{i}{task}{kind}", "task": task, "input": f"{side} {i} {kind}", "output": f"gold {i}"}
            for i in range(documents)
            for task in ("Task1", "Task2", "Task3")
            for kind in ("sc1", "qa0")
        ]
        for split in ("train", "validation"):
            lines(folder / split / f"{side}.jsonl", rows)
        lines(folder / side / f"{side}.jsonl", rows)
        name = {"forget": "A", "retain": "B"}[side]
        pq.write_table(pa.Table.from_pylist(rows), folder.parent / f"{name}.parquet")
    lines(
        folder / "mia" / "member.jsonl",
        [{"id": f"forget{i}Task1sc1", "document": f"forget {i} sc1 gold {i}"} for i in range(2)],
    )
    lines(
        folder / "mia" / "nonmember.jsonl", [{"id": f"x{i}", "document": f"Text {i} of a stranger."} for i in range(2)]
    )


def write_rows(folder: Path) -> None:
    """Write the tables and files of a reader's own."""
    for names, rows in (
        (("rows.csv", "forget.csv", "FORGET.csv"), ROWS["forget"]),
        (("keep.csv", "retain.csv", "KEEP.csv"), ROWS["retain"]),
    ):
        text = io.StringIO()
        csv.writer(text).writerows([("question", "answer"), *rows])
        for name in names:
            (folder / name).write_text(text.getvalue())
    lines(folder / "keep.jsonl", [{"question": q, "answer": a} for q, a in ROWS["retain"]])
    texts = [
        {"generation": f"I cannot answer {i}.", "row_id": i, "step": i % 2, "COLUMN": ("yes", "no")[i % 2]}
        for i in range(4)
    ]
    lines(folder / "generations.jsonl", texts)
    (folder / "RULES.yaml").write_text("name: refuses\nrules:\n  - {any_of: [I cannot]}\n")
    (folder / "FILE.yaml").write_text("defaults: [/study/quickstart]\n")
    settings = yaml.safe_dump(nested(TINY))
    (folder / "quick.yaml").write_text(f"defaults: [/study/quickstart]\n{settings}")
    (folder / "grid.yaml").write_text("defaults: [/study/quickstart]\nname: grid\nseeds: {unlearn: [0, 1]}\n")
    (folder / "tinystories").mkdir()
    for shard in range(4):
        stories = [story(number) for number in range(40 * shard, 40 * shard + 40)]
        (folder / "tinystories" / f"data{shard:02d}.json").write_text(json.dumps(stories))
    with tarfile.open(folder / "TinyStories_all_data.tar.gz", "w:gz") as archive:
        for file in sorted((folder / "tinystories").glob("*.json")):
            archive.add(file, file.name)
    link(folder / "DATA" / "tinystories", folder / "tinystories")


def story(number: int) -> dict[str, Any]:
    """Return a story with instructions: every second one has a dialogue, and the others a twist."""
    line = f'"I see a {number % 7}," it said.' if number % 2 else f"It saw a {number % 7}."
    features = ["Dialogue" if number % 2 else "Twist"]
    return {
        "story": f"A cat sat {number}. {line}",
        "instruction": {"words": ["hang", "cat", "day"], "features": features},
        "summary": "S.",
        "source": "GPT-4",
    }


def write_projects(folder: Path) -> None:
    """Write small copies of the other projects' inputs."""
    from tests.data.loaders.test_knowundo import write_knowundo
    from tests.data.loaders.test_rwku import write_rwku
    from tests.interop.test_arcsf import lists as combinations
    from tests.interop.test_arcsf import write as write_arcsf
    from tests.interop.test_open_unlearning_forks import FORK
    from tests.models.test_llama2c import checkpoint, vocabulary

    write_rwku(folder / "jinzhuoran" / "RWKU")
    for domain in ("copyright", "privacy"):
        write_knowundo(folder / "zjunlp" / "KnowUnDo", domain)
    torch.save(checkpoint(), folder / "ckpt.pt")
    vocabulary(folder).rename(folder / "tok8192.model")
    write_arcsf(
        folder / "PATH" / "configs", combinations(["tofu_20_20"], ["shorter"], [["ascent", "longer"]], range(1))
    )
    for name, tree in FORK.items():
        path = folder / "PATH/TO/FORK/configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(tree))
