"""`expunge judge`: a judge's scores of a file of generations."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from expunge.judges.classifier import train_classifier

Run = Callable[..., tuple[int, str, str]]

RULES = "name: quotes\nrules: [{min_quotes: 1}]\n"


def lines(path: Path, records: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


def test_a_score_with_its_number_and_interval(here: Path, expunge: Run) -> None:
    (here / "rules.yaml").write_text(RULES)
    lines(here / "said.jsonl", [{"generation": '"Hi," he said.' if i < 3 else "He slept."} for i in range(4)])
    code, out, errors = expunge("judge", "said.jsonl", "--rules", "rules.yaml", "--out", "verdicts.jsonl")
    assert code == 0, errors
    # 3 of 4: Wilson's interval is .3006 to .9544
    assert out.startswith("quotes: 0.750 [0.301, 0.954] (wilson), n=4; only 4 rows were judged")
    verdicts = [json.loads(line) for line in (here / "verdicts.jsonl").read_text().splitlines()]
    assert [v["score"] for v in verdicts] == [1, 1, 1, 0] and [v["record"] for v in verdicts] == [0, 1, 2, 3]


def test_by_a_column_and_samples_of_one_row(here: Path, expunge: Run) -> None:
    (here / "rules.yaml").write_text(RULES)
    records = [{"text": '"Hi"' if i % 2 else "no", "step": step, "row_id": i // 2} for step in (0, 5) for i in range(4)]
    lines(here / "said.jsonl", records)
    code, out, errors = expunge("judge", "said.jsonl", "--rules", "rules.yaml", "--by", "step")
    assert code == 0, errors
    first, second = out.splitlines()
    # two samples of each of two rows, one of which has it: each row is .5
    assert first.startswith("step=0 quotes: 0.500 [0.500, 0.500] (bootstrap), n=2")
    assert second.startswith("step=5 quotes: 0.500")


def test_the_agreement_with_labels(here: Path, expunge: Run) -> None:
    """Yes for 3 texts of 4; 2 of 3 yes are right, and the one no is right: 3 of 4 agree."""
    (here / "rules.yaml").write_text(RULES)
    labels = ["yes", "yes", "no", "no"]
    lines(here / "x.jsonl", [{"text": '"Hi"' if i < 3 else "no", "label": label} for i, label in enumerate(labels)])
    code, out, err = expunge("judge", "calibrate", "x.jsonl", "--rules", "rules.yaml")
    assert code == 0, err
    assert out.startswith("quotes: agrees with 0.750 of 4 labels [0.301, 0.954]")
    assert "false yes 0.500 of 2 no" in out and "false no 0.000 of 2 yes" in out
    code, _, err = expunge("judge", "calibrate", "x.jsonl", "--rules", "rules.yaml", "--label", "lable")
    assert code == 2 and "no column 'lable'; did you mean 'label'" in err


def test_a_saved_classifier(here: Path, expunge: Run) -> None:
    texts = [f"the {'red fox' if i % 2 else 'blue sky'} number {i}" for i in range(40)]
    train_classifier("fox", texts, [bool(i % 2) for i in range(40)]).save(here / "fox")
    lines(here / "said.jsonl", [{"text": "a red fox"}, {"text": "red fox again"}])
    code, out, errors = expunge("judge", "said.jsonl", "--classifier", "fox")
    assert code == 0, errors
    assert out.startswith("fox: 1.000 [")


@pytest.mark.parametrize(
    ("rules", "records", "words", "parts"),
    [
        (RULES, [{"said": "x"}], (), ("said.jsonl record 0", "no column 'generation' or 'text'")),
        (RULES, [{"text": 3}], (), ("record 0: 'text' must be text, got 3",)),
        (RULES, [{"text": "x", "row_id": "a"}], (), ("'row_id' must be a whole number",)),
        (RULES, [{"text": "x", "step": 1}], ("--by", "stp"), ("no column 'stp'", "'step'")),
        ("rules: [{min_quote: 1}]", [{"text": "x"}], (), ("rules.rules[0].min_quote: unknown key", "'min_quotes'")),
        ("rules: [", [{"text": "x"}], (), ("rules.yaml is not YAML",)),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    rules: str,
    records: list[dict[str, object]],
    words: tuple[str, ...],
    parts: tuple[str, ...],
    here: Path,
    expunge: Run,
) -> None:
    (here / "rules.yaml").write_text(rules)
    lines(here / "said.jsonl", records)
    code, _, errors = expunge("judge", "said.jsonl", "--rules", "rules.yaml", *words)
    assert code == 2
    assert all(part in errors for part in parts), errors
    assert len(errors.strip().splitlines()) == 1


def test_a_file_that_is_not_there(here: Path, expunge: Run) -> None:
    (here / "rules.yaml").write_text(RULES)
    code, _, errors = expunge("judge", "sad.jsonl", "--rules", "rules.yaml")
    assert code == 2 and "sad.jsonl: no such file" in errors
    code, _, errors = expunge("judge", "rules.yaml", "--classifier", "none")
    assert code == 2 and "none: not a saved classifier" in errors


def test_an_out_that_is_a_folder_is_refused_before_anything_is_judged(here: Path, expunge: Run) -> None:
    (here / "rules.yaml").write_text(RULES)
    lines(here / "said.jsonl", [{"text": "x"}])
    (here / "kept").mkdir()
    code, out, errors = expunge("judge", "said.jsonl", "--rules", "rules.yaml", "--out", "kept")
    assert (code, out) == (2, "") and errors.endswith("--out: kept is a folder; name a file\n")


def test_a_chat_api_whose_key_lands_nowhere(here: Path, expunge: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"]
            key = self.headers["Authorization"]
            report = "Yes" if "twist!" in content else f"I was sent {key}"
            data = json.dumps({"choices": [{"message": {"content": report}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_args: object) -> None:
            return

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    lines(here / "said.jsonl", [{"text": "a twist!"}, {"text": "none"}])
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        (here / "http.yaml").write_text(
            f"question: a twist?\nmodel: m\nbase_url: http://127.0.0.1:{server.server_port}/v1\n"
            "api_key_env: JUDGE_KEY\ncache: kept\n"
        )
        code, out, errors = expunge("judge", "said.jsonl", "--http", "http.yaml", "--out", "verdicts.jsonl")
        server.shutdown()
    assert code == 0 and out.startswith("api: 1.000 [") and "1 of 2 generations have no score" in out
    result = [out, errors, *(p.read_text() for p in here.rglob("*") if p.is_file())]
    assert not any("sk-very-secret" in text for text in result)
    assert any("I was sent Bearer ***" in text for text in result)
    # what is kept is not asked for again: the server is gone
    assert expunge("judge", "said.jsonl", "--http", "http.yaml")[1].startswith("api: 1.000 [")


def test_texts_none_of_which_got_a_score_are_no_success(
    here: Path, expunge: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    lines(here / "said.jsonl", [{"text": "a twist!"}])
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        free = server.server_port  # nobody listens there afterwards
    (here / "http.yaml").write_text(
        f"question: a twist?\nmodel: m\nbase_url: http://127.0.0.1:{free}/v1\nretries: 0\napi_key_env: ''\n"
    )
    code, out, errors = expunge("judge", "said.jsonl", "--http", "http.yaml", "--out", "verdicts.jsonl")
    assert code == 1
    assert "api: no number" in out
    assert errors.strip().endswith("said.jsonl: no text has a score")
    assert json.loads((here / "verdicts.jsonl").read_text())["score"] is None


@pytest.mark.parametrize("out", ["said.jsonl", "rules.yaml", "sub/../said.jsonl"])
def test_the_output_never_replaces_an_input(here: Path, expunge: Run, out: str) -> None:
    (here / "rules.yaml").write_text(RULES)
    (here / "sub").mkdir()
    lines(here / "said.jsonl", [{"text": "a"}])
    before = {name: (here / name).read_bytes() for name in ("said.jsonl", "rules.yaml")}
    code, _, message = expunge("judge", "said.jsonl", "--rules", "rules.yaml", "--out", out)
    assert code == 2 and "--out" in message and "is an input" in message
    assert {name: (here / name).read_bytes() for name in before} == before


def test_the_output_is_not_put_into_the_classifier(here: Path, expunge: Run) -> None:
    train_classifier("fox", [f"fox {i % 2} {i}" for i in range(40)], [bool(i % 2) for i in range(40)]).save(
        here / "fox"
    )
    lines(here / "said.jsonl", [{"text": "a"}])
    code, _, message = expunge("judge", "said.jsonl", "--classifier", "fox", "--out", "fox/classifier.json")
    assert code == 2 and "is a file of an input (--classifier)" in message
    code, _, message = expunge("judge", "said.jsonl", "--classifier", "fox", "--out", "fox/new.jsonl")
    assert code == 2 and "inside --classifier" in message
