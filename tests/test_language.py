"""The package reads as plain technical English: words, names, docstrings and class names."""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "expunge"

# Rooms whose strings are data: words, names, sentences and prompts.
DATA = ("audits/probe_rows", "data/refusals", "data/stories/", "data/variants", "data/world/")

# A word or phrase, and the replacement to suggest. Searched in docstrings, comments and strings.
BANNED = {
    r"anew": "again",
    r"so-?manieth": "every n-th",
    r"for to": "to",
    r"beside": "next to",
    r"(of )?those that": "name the things",
    r"what": "a noun instead of a 'what' clause",
    r"(said|says|told|tells|asked|asks|hears|heard|speaks|spoken)": "returns, contains, reports, requests",
    r"shall": "must, or the present tense",
    r"(?<=[,;:] )for (it|they|there|he|this|these|those|no|none|nothing)(?= \w+)": "because",
    r"as (it|they) stands?": "unchanged, current",
    r"goes by|go by|goes on from|go on from|looked after|at hand|handed in|hands? in": "a plain verb",
    r"whatever|whichever|such as are": "a plain clause",
}
HINTS = {re.compile(rf"\b(?:{word})\b", re.IGNORECASE): hint for word, hint in BANNED.items()}
ANY_BANNED = re.compile("|".join(rf"\b(?:{word})\b" for word in BANNED), re.IGNORECASE)
QUOTED = re.compile(r"`[^`]*`|'[^'\n]*'|\"[^\"\n]*\"|^\w+ must\b")  # code, quotations, and the key of a setting

# Prompts and sample questions: a change gives other passports and reruns judgements.
FROZEN = {"models/passport.py": "What", "judges/http.py": "whatever"}

# Participles and bare verbs that do not name a thing.
NAMES = frozenset(
    (
        *("asked", "asking", "brought", "chosen", "drawn", "found", "gave", "given", "gone", "got", "heard", "held"),
        *("kept", "lost", "made", "met", "put", "said", "saying", "sent", "served", "taken", "told", "tried"),
        *("wanted", "wanting"),
    )
)
NOT_IMPERATIVE = frozenset(
    (
        *("a", "all", "an", "any", "as", "at", "both", "by", "each", "every"),
        *("for", "from", "how", "if", "in", "is", "it", "its", "no", "not"),
        *("nothing", "of", "one", "only", "other", "same", "several", "some", "that", "the"),
        *("these", "this", "those", "to", "two", "what", "what's", "when", "where", "whether"),
        *("which", "whose", "with"),
    )
)

LIMIT = 25  # words of a sentence on a page
NOT_PROSE = re.compile(r"```.*?```|^(?:\||    |#|<)[^\n]*$", re.DOTALL | re.MULTILINE)
ONE_WORD = re.compile(r"`[^`]*`|\[[^\[\]]*\]\([^)]*\)")  # code and links
PARAGRAPH_END = re.compile(r"\n\s*\n|\n(?=\s*[-*] |\d+\. )")
SENTENCE_END = re.compile(r"(?:(?<=[.!?:])|(?<=[.!?]\*\*))\s+(?=[A-Z*`(\"0-9])|; ")
BLOCK = re.compile(r"(?:\n\n|\A)(?: {4}[^\n]*(?:\n|\Z))+")  # code and equations of a docstring
ENTRY = re.compile(r"\n {4}(?=\S[^\n]{0,24}?(?::|  | =))")  # of "Args:", of a table, or an equation
TABLE_END = re.compile(r"(\n {4}[^\n]*\n)(?=\S)")
# A sentence of a docstring that starts with the name of a setting or of a variable.
SETTING = re.compile(r"(?<=[.])(\s+)(?=[a-z])(\S*\w[._=]\w\S*|[b-z]\b|\w+(?=(?:,? (?:and )?[\w.]+)*:\s))")


@cache
def modules() -> dict[str, tuple[str, ast.Module]]:
    sources = {p.relative_to(PACKAGE).as_posix(): p.read_text(encoding="utf-8") for p in sorted(PACKAGE.rglob("*.py"))}
    return {path: (source, ast.parse(source)) for path, source in sources.items()}


@cache
def walk(tree: ast.Module) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree))


def texts(source: str, tree: ast.Module, *, data: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of each comment and of each string of three words or more; of `data` only the docstrings."""
    docstrings = {id(node.value) for node in walk(tree) if isinstance(node, ast.Expr)}
    for node in walk(tree):
        if (
            not isinstance(node, ast.Constant)
            or not isinstance(node.value, str)
            or (data and id(node) not in docstrings)
        ):
            continue
        if node.value.count(" ") > 1:
            yield node.lineno, node.value
    if "#" in source:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of each variable, parameter and function; fields are a public interface and not listed."""
    classes = (node for node in walk(tree) if isinstance(node, ast.ClassDef))
    fields = {id(s.target) for node in classes for s in node.body if isinstance(s, ast.AnnAssign)}
    for node in walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in fields:
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef):
            yield node.lineno, node.name


def word_offences(source: str, tree: ast.Module, *, data: bool = False) -> list[str]:
    if not ANY_BANNED.search(source):  # most files, and much faster than to tokenise them
        return []
    return [
        f"{line}: {match.group()!r} -> {next(hint for word, hint in HINTS.items() if word.search(text))}"
        for line, raw in texts(source, tree, data=data)
        if (match := ANY_BANNED.search(text := QUOTED.sub("", raw)))
    ]


def name_offences(tree: ast.Module) -> list[str]:
    return [f"{line}: name {name!r} is a participle" for line, name in names(tree) if name.strip("_") in NAMES]


def docstring_offences(tree: ast.Module) -> list[str]:
    """A function's docstring starts with an imperative verb; a property's may be a noun phrase."""
    return [
        f"{node.lineno}: {node.name}: {text.splitlines()[0][:60]!r} is no imperative"
        for node in walk(tree)
        if isinstance(node, ast.FunctionDef) and not any("property" in ast.unparse(d) for d in node.decorator_list)
        if (text := ast.get_docstring(node)) and first_word(text) in NOT_IMPERATIVE
    ]


def first_word(text: str) -> str:
    return re.split(r"[^\w'-]", text.strip(), maxsplit=1)[0].lower()


def field_offences(tree: ast.Module) -> list[str]:
    """Each public field of a configuration class (`@strict`) has a docstring of its own."""
    offences = []
    for node in walk(tree):
        if not isinstance(node, ast.ClassDef) or not any(ast.unparse(d) == "strict" for d in node.decorator_list):
            continue
        for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
            if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
                continue
            described = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            if not described and not statement.target.id.startswith("_") and "ClassVar" not in ast.unparse(statement):
                offences.append(f"{statement.lineno}: {node.name}.{statement.target.id} has no docstring")
    return offences


def offences(source: str, tree: ast.Module, *, data: bool = False) -> list[str]:
    return (
        word_offences(source, tree, data=data) + name_offences(tree) + docstring_offences(tree) + field_offences(tree)
    )


def pages() -> Iterator[Path]:
    """Yield each page; the log and the changelog keep their old entries."""
    for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"):
        yield ROOT / name
    yield from (p for p in sorted((ROOT / "docs").rglob("*.md")) if p.name not in {"log.md", "CHANGELOG.md"})


def long_sentences(page: str) -> list[str]:
    """Return the sentences over the limit; code or a link is one word, an item of a list after ";" is a sentence."""
    prose = ONE_WORD.sub("`X`", NOT_PROSE.sub("", page))
    sentences = (s for part in PARAGRAPH_END.split(prose) for s in SENTENCE_END.split(" ".join(part.split())))
    return [s for s in sentences if sum(bool(re.search(r"\w", word)) for word in s.split()) > LIMIT]


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of each docstring, those of fields included."""
    for node in walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, inspect.cleandoc(node.value.value)


def long_sentences_of_docstrings(tree: ast.Module) -> list[str]:
    """Return "line: sentence" of each long sentence."""
    long = ((line, text) for line, text in docstrings(tree) if text.count(" ") + text.count("\n") >= LIMIT)
    return [f"{line}: {s}" for line, text in long for s in long_sentences(prose_of(text))]


def long_sentences_of_messages(tree: ast.Module) -> list[str]:
    """Return "line: sentence" of each long sentence of an exception; a value and a quotation are one word."""
    raised = (node for error in walk(tree) if isinstance(error, ast.Raise) for node in ast.walk(error))
    return [
        f"{node.lineno}: {s}"
        for node in raised
        if isinstance(node, ast.Constant | ast.JoinedStr)
        for s in long_sentences(QUOTED.sub("X", message_of(node)))
    ]


def message_of(node: ast.Constant | ast.JoinedStr) -> str:
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in parts)


def prose_of(docstring: str) -> str:
    """Return a docstring as a page: an entry is an item of a list, and a name at the start of a sentence is code."""
    prose = TABLE_END.sub(r"\1\n", BLOCK.sub("\n\n", docstring))
    return SETTING.sub(r"\1`\2`", ENTRY.sub("\n- ", prose).replace("    ", ""))


def test_the_sentences_of_pages_are_short() -> None:
    lines = [f"{p.relative_to(ROOT)}: {s}" for p in pages() for s in long_sentences(p.read_text(encoding="utf-8"))]
    assert not lines, "\n".join([f"sentences of more than {LIMIT} words:", *lines])


@pytest.mark.parametrize("page", ["word " * 26, "- **A title.** " + "word " * 26, "Short.\n\n1. " + "word\n" * 26])
def test_a_long_sentence_is_listed(page: str) -> None:
    assert len(long_sentences(page)) == 1


@pytest.mark.parametrize(
    "page",
    [
        "word " * 25,
        "`one code span` " + "word " * 23 + "[a link](page.md).",
        "A list: " + "word " * 20 + "; " + "word " * 20,
        "**" + "word " * 20 + "end.** Then " + "word " * 20,
        "```\n" + "word " * 26 + "\n```\n\n| " + "word " * 26 + "|",
    ],
)
def test_a_short_sentence_is_not_listed(page: str) -> None:
    assert long_sentences(page) == []


def test_the_sentences_of_docstrings_are_short() -> None:
    lines = [f"{path}:{s}" for path, (_, tree) in modules().items() for s in long_sentences_of_docstrings(tree)]
    assert not lines, "\n".join([f"sentences of more than {LIMIT} words:", *lines])


@pytest.mark.parametrize(
    ("docstring", "listed"),
    [
        ("Return it. " + "word " * 26, 1),
        ("Return it.\n\nArgs:\n    rows: " + "word\n        " * 25, 1),
        ("Return it.\n\nArgs:\n    rows: " + "word\n        " * 20 + "\n    steps: " + "word " * 20, 0),
        ("word " * 20 + "end. data.root: " + "word " * 20 + "end. rows, steps: " + "word " * 20, 0),
    ],
)
def test_a_long_sentence_of_a_docstring_is_listed(docstring: str, listed: int) -> None:
    field = f"class C:\n    rows: int = 1\n    {docstring!r}"
    assert len(long_sentences_of_docstrings(ast.parse(field))) == listed


def test_the_sentences_of_messages_are_short() -> None:
    lines = [f"{path}:{s}" for path, (_, tree) in modules().items() for s in long_sentences_of_messages(tree)]
    assert not lines, "\n".join([f"sentences of more than {LIMIT} words:", *lines])


@pytest.mark.parametrize(
    ("message", "listed"),
    [("word " * 26, True), ("{x} " + "word " * 25, True), ("'a quotation of words' " + "word " * 24, False)],
)
def test_a_long_sentence_of_a_message_is_listed(message: str, listed: bool) -> None:
    assert bool(long_sentences_of_messages(ast.parse(f'raise ConfigError(f"{message}")'))) is listed


def test_the_package_is_plain_english() -> None:
    lines = [
        f"{path}:{line}"
        for path, module in modules().items()
        for line in offences(*module, data=path.startswith(DATA))
        if path not in FROZEN or f"'{FROZEN[path]}'" not in line
    ]
    assert not lines, "\n".join(["plain English (see the hints):", *lines])


def test_the_names_in_tests_are_nouns() -> None:
    lines = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for line in name_offences(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not lines, "\n".join(lines)


def test_class_names_are_unique() -> None:
    places = defaultdict(list)
    for path, (_, tree) in modules().items():
        for node in walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_ruff_checks_every_docstring() -> None:
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert {pattern for pattern, rules in ruff["per-file-ignores"].items() if "D" in rules} == {"tests/**", "perf/**"}


@pytest.mark.parametrize(
    ("code", "offence"),
    [
        ("# asked once", "'asked' -> "),
        ("def f():\n    'Return it, for it is small.'", "because"),
        ("def f(x):\n    raise ValueError(f'{x} stands beside it')", "'beside' -> next to"),
        ("found = 1", "name 'found'"),
        ("def f(given): ...", "name 'given'"),
        ("def f():\n    'The sum.'", "is no imperative"),
        ("@strict\nclass C:\n    rows: int = 1\n    '''Rows.'''\n    steps: int = 2", "C.steps has no docstring"),
    ],
)
def test_an_offence_is_listed(code: str, offence: str) -> None:
    (line,) = offences(code, ast.parse(code))
    assert offence in line


@pytest.mark.parametrize(
    "code",
    [
        "# the method `what` of 'those that' is code or a quotation",
        "def f():\n    'Return the sum; for each row one number.'",
        "class C:\n    @property\n    def size(self):\n        'The number of rows.'",
        "class Row:\n    found: int",
        "def f():\n    raise ValueError('what must be a list of names')",
    ],
)
def test_plain_code_has_no_offence(code: str) -> None:
    assert offences(code, ast.parse(code)) == []
