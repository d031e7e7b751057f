"""OpenUnlearning's words for the generation of texts (`generation_args`), which are transformers' own."""

from __future__ import annotations

import re
from collections.abc import Mapping

from expunge.core.errors import ConfigError, nearest
from expunge.interop.open_unlearning.translation import Translation

OURS = "eval.generation"
_ALL = ", which counts for all generations"
# Settings that only a sampled text has, with the values that change nothing.
SAMPLING: Mapping[str, tuple[str, ...]] = {
    "top_p": ("1", "1.0"), "top_k": ("0",), "min_p": ("0", "0.0"), "typical_p": ("1", "1.0"),
}  # fmt: skip
# Settings that texts do not have here, with the values that change nothing.
ABSENT: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("num_beams", "num_beam_groups"), ("1",)),
    **dict.fromkeys(("repetition_penalty", "length_penalty", "encoder_repetition_penalty"), ("1", "1.0")),
    **dict.fromkeys(("no_repeat_ngram_size", "min_new_tokens", "min_length", "penalty_alpha"), ("0", "0.0")),
    **dict.fromkeys(("diversity_penalty", "early_stopping", "bad_words_ids"), ("0", "0.0", "false")),
}
WITHOUT_EFFECT: Mapping[str, str] = {
    "use_cache": "the cache is used if the model's own check allows it",
    "pad_token_id": "padding is never read",
    "eos_token_id": "a text ends at the end tokens of the model and its template",
    **dict.fromkeys(("return_dict_in_generate", "output_scores", "synced_gpus"), "texts have one form"),
}
RENAMED = {"num_return_sequences": "samples", "seed": "seed"}
STOPS = ("stopwords", "stop_strings", "stop")
_NONE = ("null", "none", "")


def generation_word(job: Translation, match: re.Match[str], name: str, value: str) -> None:
    """Translate a word of `generation_args`. Raises ConfigError for a setting that texts do not have here."""
    place, key = match.groups()
    sampled = job.values.get(f"{place}.do_sample", "false").lower() in ("true", "1")
    if value.lower() in _NONE or value.lower() in (*SAMPLING.get(key, ()), *ABSENT.get(key, ())):
        return
    if key == "max_new_tokens":
        _length(job, place, name, value)
    elif key == "do_sample":
        if sampled and f"{place}.temperature" not in job.values:
            job.rename(name, f"{OURS}.temperature", "1")
        if sampled and f"{place}.top_k" not in job.values:
            job.notes.append(
                f"{name}: texts are drawn from all tokens; transformers draws from the 50 most likely ones"
            )
    elif (key == "temperature" or key in SAMPLING) and not sampled:
        job.notes.append(f"{name} has no effect: texts are greedy without do_sample=true")
    elif key == "temperature" or key in RENAMED:
        job.rename(name, f"{OURS}.{RENAMED.get(key, key)}", value, _ALL)
    elif key in SAMPLING:
        raise ConfigError(f"{name}={value}: leave it out; a text is drawn from the whole distribution")
    elif key in STOPS:
        quoted = value.replace("'", "\\'")
        job.rename(name, f"{OURS}.stop", value if value.startswith("[") else f"['{quoted}']", _ALL)
    elif key in WITHOUT_EFFECT:
        job.notes.append(f"{name} has no effect: {WITHOUT_EFFECT[key]}")
    elif key in ABSENT:
        raise ConfigError(f"{name}={value}: leave it out; texts are greedy, or drawn with {OURS}.temperature=T")
    elif key == "max_length":
        raise ConfigError(f"{name}={value}: write {OURS}.max_new_tokens=N, the tokens after the prompt")
    else:
        known = ["max_new_tokens", "do_sample", "temperature", "num_return_sequences", *STOPS, *SAMPLING, *ABSENT]
        raise ConfigError(
            f"{name}={value}: no such setting{nearest(key, known)}; expunge help {OURS} shows the settings of texts"
        )


def _length(job: Translation, place: str, name: str, value: str) -> None:
    """Set the length of all texts. Raises ConfigError for texts of MUSE that are longer than its limit."""
    from expunge.benchmarks.muse import KNOWMEM, VERBMEM

    limits = {"knowmem": KNOWMEM.max_new_tokens, "verbmem": VERBMEM.max_new_tokens}
    limit = next((limits[part] for part in limits if part in place), None)
    if limit is not None and value.isdigit() and int(value) > limit:
        raise ConfigError(f"{name}={value}: leave it out; these texts have at most {limit} tokens, as published")
    if limit is None or value != str(limit):
        job.rename(name, f"{OURS}.max_new_tokens", value, _ALL)
