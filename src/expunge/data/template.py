"""Settings of the text form of a question and its answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from expunge.core.decode import strict
from expunge.core.fingerprints import LATER

Thought = Literal["auto", "none", "empty"]
THINK_TAGS = ("<think>\n", "\n</think>\n\n")
MOST_LENGTH = 10**7
# Arguments of transformers' apply_chat_template, and the messages: no variables of a template.
_ARGUMENTS = frozenset({
    "conversation", "conversations", "messages", "chat_template", "add_generation_prompt", "continue_final_message",
    "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask",
    "tokenizer_kwargs", "sanitize_control_tokens",
})  # fmt: skip
LENGTH, FRAME = 512, 128  # the default max_length, and the tokens of a template that it has room for


@strict
@dataclass(frozen=True, kw_only=True)
class Template:
    """The text form of a question and its answer. The names are those of OpenUnlearning's `template_args`."""

    apply_chat_template: bool | None = None
    """Use the tokenizer's chat template, not the tags. null: use it if the tokenizer has one and no tag is set."""
    chat_template: str | None = None
    """A chat template (Jinja text) in place of the tokenizer's own, or the name of one of its templates (tool_use)."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Variables for the chat template, such as {enable_thinking: false}."""
    thought: Thought = "auto"
    """The thought of a reasoning model. auto: the template's own form without a thought; an error if the template has
    none. none: the whole conversation as the template writes it. empty: the generation prompt with a closed thought.
    """
    system_prompt: str | None = None
    """The text of a system message. null: no message, so a template's own default stays; "": an empty message."""
    system_prompt_with_special_tokens: str | None = None
    """With tags: text before the first question, in which special tokens stay special."""
    user_start_tag: str = "Question: "
    """With tags: the text before a question."""
    user_end_tag: str = "\n"
    """With tags: the text after a question."""
    asst_start_tag: str = "Answer: "
    """With tags: the text before an answer."""
    asst_end_tag: str = "\n\n"
    """With tags: the text after a solved example's answer. A special token in it also ends answers. Plain text does
    not: the tokenizer's EOS ends them.
    """
    think_start_tag: str = field(default=THINK_TAGS[0], metadata=LATER)
    """With tags: the text before a reasoning trace, in examples that have one."""
    think_end_tag: str = field(default=THINK_TAGS[1], metadata=LATER)
    """With tags: the text between a reasoning trace and the answer."""
    date_string: str | None = None
    """The date that a chat template reads. null: a template that reads today's date gets 10 Apr 2025."""
    few_shot: tuple[tuple[str, str], ...] = ()
    """Solved examples (question, answer) before each question."""
    split_special_tokens: bool = True
    """Encode special-token text inside an example ("<s>") as plain text. false: as the special token."""
    max_length: int | None = None
    """The maximum number of tokens of an example. Longer ones are cut on the right and counted. null: 512; if the
    template itself writes more than 128 tokens before a question, as many more, up to the tokenizer's model_max_length.
    """
    labels: Literal["answer", "all"] = "answer"
    """The tokens with a loss: the answer's and its end token, or all."""
    compat: Literal["clean", "openunlearning"] = "clean"
    """openunlearning: the ids and labels of that project, to compare with its numbers."""

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 2:
            raise ValueError("max_length must be at least 2 tokens")
        if self.max_length is not None and self.max_length > MOST_LENGTH:
            raise ValueError("max_length must be at most 1e7 tokens")
        for name in sorted(_ARGUMENTS & set(self.template_kwargs)):
            own = name in {f.name for f in dataclasses.fields(Template)}
            act = f"write template_args.{name}" if own else "remove it"
            raise ValueError(f"template_kwargs: {name!r} is not a variable of a chat template ({act})")

    @property
    def has_tags(self) -> bool:
        """Whether a tag differs from its default."""
        tags = [f for f in dataclasses.fields(Template) if f.name.endswith("_tag")]
        return self.system_prompt_with_special_tokens is not None or any(
            getattr(self, f.name) != f.default for f in tags
        )

    def resolved(self, *, tokenizer_has_one: bool) -> Template:
        """Resolve `apply_chat_template: null`, by whether the tokenizer has a chat template."""
        if self.apply_chat_template is not None:
            return self
        chat = (tokenizer_has_one or bool(self.chat_template)) and not self.has_tags and self.compat == "clean"
        return dataclasses.replace(self, apply_chat_template=chat)
