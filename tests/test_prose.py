"""Pages, the OpenAPI document, docstrings and comments use short sentences and no riddles, as far as a machine can tell."""

import ast
import inspect
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api import openapi
from api.app import create_app
from store.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "client/README.md",
    *sorted(str(one.relative_to(ROOT)) for one in (ROOT / "docs").rglob("*.md")),
]
PACKAGES = ["api", "client/latentry", "domain", "models", "store", "worker"]
MOST_WORDS = 35

UNCLEAR = {
    r"\bwho(ever)? (asks|runs|waits|comes|takes)\b": "name the person or the process: 'the operator', 'the client'",
    r"\bwhat (there is|is there|came|is asked|is told)\b": "name the thing: 'the existing data set', 'the received bytes'",
    r"\bthose (that|of) (there are|is there|came)\b": "name the things",
    r"\bthat there (is|are) not\b": "write 'that does not exist'",
    r"\b(is|are) (told|answered|asked)\b": "name who does what: 'the response contains', 'the server returns'",
    r"\bunless (it is )?(given|told|said)\b": "write 'by default …'",
    r"\b(goes|go|went) on (with|from|where|until|to)\b": "write 'continue'",
    r"\bever more (slowly|rarely)\b": "name the rule, such as 'with exponential backoff'",
    r"\bof (its|their|one's) own\b": "write 'its own …' or 'separate'",
    r"\bso many\b": "name the number: '`points` values'",
}
"""Constructions that need a second reading, and what to write instead."""


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text in Markdown, without code, links and tables' borders."""
    text = re.sub(r"```.*?```", "\n\n", text, flags=re.DOTALL)
    text = re.sub(r"::\n\n( {4}.*\n?|\n)+", "\n\n", text)
    text = re.sub(r"`[^`\n]*`", "code", text)
    text = re.sub(r"\]\([^)]*\)", "]", text).replace("**", "")
    blocks = re.split(r"\n\s*\n|\n(?=\s*[-*>#|]|\s*\d+\. )|\|", text)
    for block in blocks:
        yield from (
            one.strip() for one in re.split(r"(?<=[.!?:;])\s+", " ".join(block.split())) if one.strip()
        )


def descriptions(node: Any) -> Iterator[str]:
    """Yield every description and summary in a JSON document."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("description", "summary") and isinstance(value, str):
                yield value
            else:
                yield from descriptions(value)
    elif isinstance(node, list):
        for value in node:
            yield from descriptions(value)


def docstrings(source: str) -> Iterator[str]:
    """Yield the docstrings of a module, also those below constants."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        for one in body if isinstance(body, list) else ():
            value = one.value if isinstance(one, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield inspect.cleandoc(value.value)


def comments(source: str) -> Iterator[str]:
    """Yield the comments of a module. Comments on successive lines of their own are one text."""
    block, after = "", -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        text, line = token.string.lstrip("# "), token.start[0]
        if line == after:
            block += " " + text
        else:
            yield block
            block = text
        after = line + 1 if token.line.lstrip().startswith("#") else -1
    yield block


def faults(text: str) -> list[str]:
    """Return what is wrong with a text: sentences that are too long, and unclear constructions."""
    found = []
    for sentence in sentences(text):
        words = len(re.findall(r"[\w'’]+", sentence))
        if words > MOST_WORDS:
            found.append(f"{words} words, at most {MOST_WORDS}: {sentence}")
        found += [
            f"{advice}: {sentence}"
            for one, advice in UNCLEAR.items()
            if re.search(one, sentence, re.IGNORECASE)
        ]
    return found


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_plain(page: str) -> None:
    found = faults((ROOT / page).read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_and_comments_are_plain(package: str) -> None:
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        texts = [*docstrings(source), *comments(source)]
        found += [f"{path.relative_to(ROOT)}: {fault}" for text in texts for fault in faults(text)]
    assert not found, "\n".join(found)


def test_descriptions_of_the_api_are_plain(tmp_path: Path) -> None:
    document = json.loads(openapi.text(create_app(Settings(data_dir=tmp_path))))
    found = [fault for text in sorted(set(descriptions(document))) for fault in faults(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "A name that there is not is an error.",
        "It is " + "very " * MOST_WORDS + "long.",
        "The key is told\nonce.",
    ],
)
def test_faults_are_found(text: str) -> None:
    assert len(faults(text)) == 1


def test_code_and_lists_are_no_sentences() -> None:
    assert faults("Run `what there is` and\n\n```\nwho asks\n```\n" + "- one two three\n" * 20) == []


def test_docstrings_and_comments_are_read() -> None:
    source = '"""One."""\n\nA = 1  # two\n"""Three."""\n# four\n# five\n\n\ndef f():\n    """Six."""\n'
    assert list(docstrings(source)) == ["One.", "Three.", "Six."]
    assert [one for one in comments(source) if one] == ["two", "four five"]
