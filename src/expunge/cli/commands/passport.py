"""`expunge passport MODEL`: check whether a model can be scored reliably, one line for each check."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import Any

from expunge.core.errors import ConfigError
from expunge.core.terminal import complain, quiet, say, say_json
from expunge.core.yaml_text import parse_yaml

EPILOG = """\
Each line ends in ok, fallback or refused, with the reason. A fallback gives the numbers of plain transformers in a \
slower way, which jobs take by themselves. Exit code: 0 for ok and fallback, 2 for refused.

examples:
  expunge passport FOLDER
  expunge passport FOLDER dtype=bfloat16 adapter=ignore --json
"""


def add_passport(commands: Any) -> None:
    """Register the command."""
    text = "check a model: scoring, generation, token ids, template, end token, quantisation, adapters"
    sub = commands.add_parser(
        "passport",
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=EPILOG,
    )
    sub.add_argument("model", help="a model's folder or hub id")
    sub.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="settings of model.model_args: dtype=bfloat16 trust_remote_code=true",
    )
    sub.add_argument("--tokenizer", metavar="FOLDER", help="the tokenizer's folder (default: the model's)")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps or xpu (default: auto)")
    sub.add_argument("--json", action="store_true", help="print as JSON")
    sub.set_defaults(command=_passport)


def _passport(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.core.decode import decode
    from expunge.evaluation.passport import inspect_model
    from expunge.models.config import ModelArgs, TokenizerArgs, check_source
    from expunge.models.load import check_tokenizer, pick_device
    from expunge.models.options import with_options

    quiet()
    tree: dict[str, Any] = {}
    for word in parsed.settings:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"{word!r} is not a setting; write key=value, such as dtype=bfloat16")
        tree[key.removeprefix("model.model_args.")] = parse_yaml(value, f"{word!r}: the value")
    named = {"pretrained_model_name_or_path": parsed.model, **tree}
    tree = with_options({"model_args": named})["model_args"]
    args = decode(ModelArgs, tree, where="model.model_args")
    check_source(parsed.model, "MODEL")
    check_tokenizer(parsed.tokenizer or parsed.model, "--tokenizer")
    tokenizer_args = TokenizerArgs(
        pretrained_model_name_or_path=parsed.tokenizer, trust_remote_code=args.trust_remote_code
    )
    passport = inspect_model(parsed.model, args, tokenizer_args, pick_device(parsed.device))
    if parsed.json:
        say_json(passport.to_dict(), indent=1)
    else:
        width = max(len(line.name) for line in passport.lines)
        for line in passport.lines:
            say(f"{line.name:{width}}  {line.status:8}  {line.reason}")
        say(f"{'passport':{width}}  {passport.status}")
    refused = next((line for line in passport.lines if line.status == "refused"), None)
    if refused is not None:
        complain(f"expunge: error: {parsed.model}: {refused.name}: {refused.reason}")
        return 2
    if not parsed.json:
        say(f"next:    expunge erase --model {shlex.quote(parsed.model)} --forget rows.csv --out erased --dry-run")
    return 0
