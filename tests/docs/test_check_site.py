"""The check of the built site finds each kind of fault."""

from __future__ import annotations

from pathlib import Path

import pytest

import check_site

GOOD = '<html lang="en"><title>A</title><nav><h3>n</h3></nav><article><h1 id="a">A</h1><h2 id="b">B</h2>{}</article>'


def site(folder: Path, body: str, page: str = GOOD) -> Path:
    (folder / "sub").mkdir()
    (folder / "index.html").write_text(page.format(body))
    (folder / "sub" / "other.html").write_text(GOOD.format('<a href="../index.html#b">x</a><a href="../">y</a>'))
    (folder / "a.png").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('<a href="sub/other.html#b">x</a><a href="https://x.example/y">y</a><img src="a.png" alt="">', None),
        ('<a href="gone.html">x</a>', "index.html: link gone.html leads nowhere"),
        ('<a href="sub/other.html#c">x</a>', "index.html: link sub/other.html#c leads nowhere"),
        ('<a href="#c">x</a>', "index.html: link #c leads nowhere"),
        ('<img src="a.png">', "index.html: picture a.png has no alt text"),
        ('<img src="b.png" alt="">', "index.html: link b.png leads nowhere"),
        ("<h1>again</h1>", "index.html: has 2 main headings"),
        ("<h4>deep</h4>", "index.html: a heading of level 4 follows one of level 2"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, body: str, message: str | None) -> None:
    assert check_site.faults(site(tmp_path, body)) == ([] if message is None else [message])


def test_a_page_needs_a_language_and_a_title(tmp_path: Path) -> None:
    lines = check_site.faults(site(tmp_path, "", "<html><article><h1>A</h1><h2 id=b>B</h2></article>{}"))
    assert lines == ["index.html: has no language", "index.html: has no title"]


def test_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_site.main([str(site(tmp_path, "<a href='gone.html'>x</a>"))]) == 1
    assert "1 faults in 2 pages" in capsys.readouterr().out
    assert check_site.main([str(tmp_path / "nowhere")]) == 2
