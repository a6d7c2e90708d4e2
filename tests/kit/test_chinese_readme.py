"""README.zh-CN.md says what README.md says: its commands, its tables, its figures, its links."""

import re
from collections import Counter

import pytest
from kit.releases import ROOT

BLOCK = re.compile(r"^```.*?^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)]+)\)|\]\[(\w+)\]|^\[\w+\]: (.*)$", re.M)


def read(name: str) -> str:
    return (ROOT / name).read_text()


def sections(name: str) -> list[str]:
    """The text below each heading."""
    blocks: list[str] = []

    def keep(match: re.Match[str]) -> str:
        blocks.append(match[0])
        return f"BLOCK{'#' * len(blocks)}"

    parts = re.split(r"^#+ .*$", BLOCK.sub(keep, read(name)), flags=re.M)
    return parts[1:]


PAIRS = list(zip(sections("README.md"), sections("README.zh-CN.md"), strict=True))


def test_the_blocks_are_the_same() -> None:
    english, chinese = (BLOCK.findall(read(name)) for name in ("README.md", "README.zh-CN.md"))
    assert len(english) > 15
    assert chinese == english


@pytest.mark.parametrize("english, chinese", PAIRS, ids=map(str, range(len(PAIRS))))
def test_each_section_says_the_same(english: str, chinese: str) -> None:
    texts = [re.sub(r"<!--.*?-->", "", text, flags=re.S) for text in (english, chinese)]
    # Each language names the other one.
    texts = [re.sub(r"\[\S+\]\(README\S*\)", "", text) for text in texts]
    links = [Counter("".join(link) for link in LINK.findall(text)) for text in texts]
    assert links[1] == links[0]
    texts = [LINK.sub("]", text) for text in texts]
    code = [
        Counter(" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)) for text in texts
    ]
    assert code[1] == code[0]
    texts = [re.sub(r"`[^`]+`", "", text) for text in texts]
    figures = [Counter(re.findall(r"\d[\d.,]*\d|\d", text)) for text in texts]
    assert figures[1] == figures[0]
    rows = [[line.count("|") for line in text.splitlines() if line[:1] == "|"] for text in texts]
    assert rows[1] == rows[0]
    assert [text.count("BLOCK") for text in texts][1] == texts[0].count("BLOCK")


def test_punctuation_is_that_of_chinese() -> None:
    """Beside a Chinese character, a comma or a bracket is as wide as one."""
    text = re.sub(r"`[^`]+`|\]\([^)]+\)", "", BLOCK.sub("", read("README.zh-CN.md")))
    narrow = re.compile(r"[\u4e00-\u9fff][,;:?!()]|[,;:?!()][\u4e00-\u9fff]")
    assert narrow.findall(text) == []
    assert narrow.search("\u8865\u4e01,\u8ba9")
