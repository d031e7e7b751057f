"""`expunge completion SHELL`: a completion script that is made from the parser, the shipped files and the methods.

The script is static text, so completing a word starts no Python.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence

from expunge.cli.parser import commands_of

GROUPS = ("study", "experiment", "model", "trainer")  # words `group=NAME`


def completion_script(shell: str, parser: argparse.ArgumentParser, lists: Sequence[str]) -> str:
    """Return the script of a shell: "bash", "zsh" or "fish"."""
    words = _words_of(parser, lists)
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](words)


def _words_of(parser: argparse.ArgumentParser, lists: Sequence[str]) -> Mapping[str, list[str]]:
    """Return the words that may follow each command; "" has the commands themselves."""
    from expunge.cli.catalogue import names_of
    from expunge.cli.config_files import options
    from expunge.cli.setting_keys import all_keys

    named = {group: [f"{group}={name}" for name in options(group)] for group in GROUPS}
    keys = [key for key in all_keys() if "[" not in key]
    settings = [f"{key}=" for key in keys if key not in GROUPS]
    groups = {"run": ("study", "model"), "plan": ("study", "model"), "report": ("study",), "results": ("study",)}
    groups |= {"verify": ("study",), "gc": ("study",), "export": ("study",)}
    groups |= {name: ("experiment", "model", "trainer") for name in ("train", "unlearn", "eval")}
    out: dict[str, list[str]] = {"": [], "help": keys}
    for command, sub in commands_of(parser).items():
        out[""].append(command)
        own = [name for name in sub._option_string_actions if name.startswith("--")]
        choices = [str(c) for a in sub._actions if not a.option_strings and a.choices for c in a.choices]
        words = [word for group in groups.get(command, ()) for word in named[group]]
        takes_settings = command in ("run", "plan", "train", "unlearn", "eval")
        out[command] = [*out.get(command, []), *choices, *own, *words, *(settings if takes_settings else ())]
    listed = {"methods": "methods", "audits": "audits", "benchmark": "benchmarks"}  # keys with names, and their lists
    for command in ("run", "plan"):
        out[command] += [f"{key}={name}" for key, what in listed.items() for name in names_of(what)]
    out["audit"] += [*options("model"), *names_of("audits")]
    names = [name for what in lists for name in names_of(what)]
    out["list"] += names
    out["help"] = list(dict.fromkeys((*out["help"], *out[""], *names)))
    out["erase"] += options("trainer")
    return out


def _cases(words: Mapping[str, Iterable[str]], line: str) -> str:
    return "\n".join(line.format(name=name, words=" ".join(options_of)) for name, options_of in words.items() if name)


def _bash(words: Mapping[str, list[str]]) -> str:
    return f"""\
# Completion of expunge for bash: source <(expunge completion bash)
_expunge() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" words k
  # bash splits words at "=", so the part before it is put back for the comparison.
  if [[ "$current" == "=" ]]; then current="${{COMP_WORDS[COMP_CWORD-1]}}="
  elif [[ "${{COMP_WORDS[COMP_CWORD-1]}}" == "=" ]]; then current="${{COMP_WORDS[COMP_CWORD-2]}}=$current"; fi
  if [[ $COMP_CWORD -eq 1 ]]; then words="{" ".join(words[""])}"
  else case "${{COMP_WORDS[1]}}" in
{_cases(words, '    {name}) words="{words}" ;;')}
  esac; fi
  COMPREPLY=($(compgen -W "$words" -- "$current") $(compgen -f -- "${{current#*=}}"))
  if [[ "$current" == *=* ]]; then for k in "${{!COMPREPLY[@]}}"; do COMPREPLY[k]="${{COMPREPLY[k]#*=}}"; done; fi
  if [[ "${{COMPREPLY[0]}}" == *= ]]; then compopt -o nospace; fi
}}
complete -o filenames -F _expunge expunge"""


def _zsh(words: Mapping[str, list[str]]) -> str:
    return f"""\
#compdef expunge
# Completion of expunge for zsh: source <(expunge completion zsh)
_expunge() {{
  local -a options_of
  if (( CURRENT == 2 )); then options_of=({" ".join(words[""])})
  else case "$words[2]" in
{_cases(words, "    {name}) options_of=({words}) ;;")}
  esac; fi
  compadd -S '' -- ${{(M)options_of:#*=}}
  compadd -- ${{options_of:#*=}}
  compset -P '*='
  _files
}}
if [[ "$funcstack[1]" == "_expunge" ]]; then _expunge "$@"; else compdef _expunge expunge; fi"""


def _fish(words: Mapping[str, list[str]]) -> str:
    lines = ["# Completion of expunge for fish: expunge completion fish | source"]
    lines.append(f"complete -c expunge -n __fish_use_subcommand -f -a '{' '.join(words[''])}'")
    line = "complete -c expunge -n '__fish_seen_subcommand_from {name}' -a '{words}'"
    return "\n".join([*lines, _cases(words, line)])
