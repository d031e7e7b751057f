"""A judge by a local transformers model: the probability of yes against no as its next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.core.files import write_json
from expunge.core.fingerprints import fingerprint
from expunge.core.on_use import torch
from expunge.judges.api import JudgeReply, JudgeScores
from expunge.judges.http import TEMPLATE, cached_answer, message
from expunge.models.capabilities import forward_options, logits_in
from expunge.models.config import ModelArgs, check_source
from expunge.models.identity import source_identity
from expunge.models.load import context_in, load_model, load_named_tokenizer, pick_device

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.data.conversation import Conversation

WORDS = ("Yes", "No")


@strict
@dataclass(frozen=True, kw_only=True)
class LocalJudgeConfig:
    """Model and question of a local judge."""

    question: str
    """The yes-or-no question about each text."""
    model: str
    """Folder or hub id of the judging model."""
    template: str = TEMPLATE
    """User message. {text}, {prompt} and {reference} are replaced between fences, {question} by `question`."""
    max_chars: int = 20_000
    """Number of characters after which a text is cut."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Type of the judging model's weights."""
    device: str = "auto"
    """Device of the judging model."""
    cache: str | None = None
    """Folder to store scores in, by model, question, template and text; null stores none."""
    name: str = "model"
    """Name of the judge in tables."""

    def __post_init__(self) -> None:
        if "{text}" not in self.template:
            raise ValueError("template must contain {text}, the place of the generation")
        if not self.question.strip():
            raise ValueError("question must not be empty")
        if self.max_chars < 1:
            raise ValueError("max_chars must be at least 1")


class LocalJudge:
    """Scores each text by P(yes) / (P(yes) + P(no)) of a model's next token: the first in which the two words differ.

    Raises ConfigError if the model cannot be loaded, or its tokenizer writes both words alike.
    """

    def __init__(self, config: LocalJudgeConfig) -> None:
        self.config, self.name = config, config.name
        check_source(config.model, "judge model")
        self._tokenizer = load_named_tokenizer(config.model, "judge model")
        self._chat = _conversation(self._tokenizer, config.model)
        device = pick_device(config.device)
        self._model = load_model(config.model, ModelArgs(dtype=config.dtype), device=device)
        yes, no = (list(self._tokenizer(word, add_special_tokens=False)["input_ids"]) for word in WORDS)
        n_common = next((i for i, (a, b) in enumerate(zip(yes, no, strict=False)) if a != b), None)
        if n_common is None:
            raise ConfigError(f"judge model {config.model}: its tokenizer cannot tell Yes from No")
        self._start, self._first = yes[:n_common], [yes[n_common], no[n_common]]
        self._identity = {
            "model": source_identity(config.model, None),
            "template": config.template,
            "dtype": config.dtype,
        }

    def judge(self, replies: Sequence[JudgeReply]) -> list[JudgeScores]:
        """Return one score for each text; a text that exceeds the model's context has none."""
        return [self._one(reply) for reply in replies]

    def _one(self, reply: JudgeReply) -> JudgeScores:
        text = message(self.config.template, self.config.question, reply, self.config.max_chars)
        file = None
        if self.config.cache is not None:
            key = fingerprint({**self._identity, "message": text})
            file = Path(self.config.cache).expanduser() / f"{key}.json"
            if (known := cached_answer(file)) is not None:
                return JudgeScores(float(known))
        ids = [*self._ids(text), *self._start]
        context = context_in(self._model.config)
        if context is not None and len(ids) > context:
            return JudgeScores(float("nan"), f"the question has {len(ids)} tokens, and the judge reads {context}")
        logits = self._logits(ids)[self._first].double()
        score = float(torch.softmax(logits, -1)[0])
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"answer": repr(score)})
        return JudgeScores(score)

    def _ids(self, text: str) -> list[int]:
        """Return the ids of the question, in the model's chat template if it has one."""
        if self._chat is not None:
            text = self._chat.render([{"role": "user", "content": text}], generation_prompt=True)
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        return list(self._tokenizer(f"{text}\n")["input_ids"])

    def _logits(self, ids: Sequence[int]) -> Tensor:
        """Return the logits of the next token."""
        row = torch.tensor([list(ids)], device=next(self._model.parameters()).device)
        with torch.inference_mode():
            out: Any = logits_in(self._model(input_ids=row, **forward_options(self._model, use_cache=False)))
        last: Tensor = out[0, -1]
        return last


def _conversation(tokenizer: Any, model: str) -> Conversation | None:
    """Return the chat template of a judging model with a fixed date; None if it has none.

    Raises ConfigError if the template cannot write a question.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    from expunge.data.conversation import Conversation

    try:
        chat = Conversation(tokenizer)
        chat.render([{"role": "user", "content": "?"}], generation_prompt=True)
    except ConfigError as error:
        reason = str(error).split(": ", 1)[-1]  # its key names the template of the models under study
        raise ConfigError(f"judge model {model}: {reason}") from None
    return chat
