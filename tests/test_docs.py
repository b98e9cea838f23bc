"""README and docs: their code runs, their links lead somewhere, their tables are the results'."""

from __future__ import annotations

import doctest
import inspect
import re
import shlex
from pathlib import Path

import pytest
import torch

import segloss_fast
from benchmarks.measure.results import RESULTS, load
from benchmarks.tables import compat, headlines, report
from tests import pages
from tests.conftest import ROOT, run_python
from tests.suite.tiers import begins_in

by_page = pytest.mark.parametrize(
    "page", pages.PAGES, ids=lambda page: str(page.relative_to(ROOT).with_suffix(""))
)
# The others are generated, or an index.
WITH_CODE = [
    "README",
    "components",
    "distances",
    "distributed",
    "implementations",
    "losses",
    "lovasz",
]
WITH_CODE += ["compat", "migration", "nnunet", "recipes"]
# Words of those who made the package, which say nothing to those who use it.
WORDS = re.compile(r"\b(survey|aim|aims|aimed|issue|issues|targets? of \d|target \d+x)\b", re.I)
PRIMITIVES = (
    *("region_sums", "region_sums_multi", "lovasz", "lovasz_counts", "distance_transform"),
    *("connected_components", "component_sums", "nearest_component"),
)
SETTINGS = ("set_impl", "use_impl")
DOCUMENTED = [*segloss_fast.losses.__all__, *PRIMITIVES, *SETTINGS]


def test_the_pages_that_have_code() -> None:
    found = [page for page in pages.PAGES if "python" in {b.language for b in pages.blocks(page)}]
    assert sorted(page.stem for page in found) == sorted(WITH_CODE)


@pytest.mark.peers  # MONAI is imported by some
@by_page
def test_code_of_a_page_runs_from_top_to_bottom(page: Path) -> None:
    if page.stem != "recipes":  # whose programs stand alone: tests/compat/test_recipes.py
        pages.run(page, pages.tensors())


@by_page
def test_commands_of_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([\w-]+):", makefile, re.MULTILINE)
    shells = [block.code for block in pages.blocks(page) if block.language in ("sh", "bash", "")]
    code = "\n".join([*re.findall(r"`([^`\n]+)`", pages.prose(page)), *shells])
    for name in re.findall(r"^make ([\w-]+)", code, re.MULTILINE):
        assert name in targets, f"{page.name}: make {name}"
    for path in re.findall(r"\b((?:scripts|examples|benchmarks|tests|csrc)/[\w./]+)", text):
        assert (ROOT / path.rstrip(".")).exists(), f"{page.name}: {path}"


def commands() -> list[str]:
    """Return all ways to call the package as a program that the pages name."""
    texts = [page.read_text(encoding="utf-8") for page in pages.PAGES]
    found = re.findall(r"python -m segloss_fast(?: -[\w-]+)*", "\n".join(texts))
    return sorted(set(found))


@begins_in("test")
@pytest.mark.parametrize("command", commands())
def test_package_as_a_program(command: str) -> None:
    done = run_python(*shlex.split(command)[1:], folder=ROOT)
    assert done.returncode == 0, done.stdout
    begins = {"--compat": "segloss_fast.compat.", "--nnunet-trainers": ""}
    begin = next((text for option, text in begins.items() if option in command), "CPU: ")
    assert done.stdout.startswith(begin)
    if "--nnunet-trainers" in command:
        assert Path(done.stdout.splitlines()[-1]).is_dir()


@by_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", pages.prose(page)):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), f"{page.name}: {link}"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            known = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in known, f"{page.name}: {link}"


@by_page
def test_words_of_users(page: Path) -> None:
    assert WORDS.findall(page.read_text(encoding="utf-8")) == []


def test_readme_is_read_in_five_minutes() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    block = readme.partition("<!-- benchmarks:begin -->")[2].partition("<!-- benchmarks:end -->")[0]
    rows = [line for line in block.splitlines() if line.startswith("|")]
    assert len(rows) - 2 <= 10


def test_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index


def test_published_tables_are_those_of_the_committed_results() -> None:
    results = load(RESULTS)
    assert report.PAGE.read_text(encoding="utf-8") == report.page(results)
    assert headlines.block(results) in report.README.read_text(encoding="utf-8")
    assert compat.page(results) in report.COMPAT.read_text(encoding="utf-8")


def test_every_loss_has_a_row_of_its_own() -> None:
    rows = pages.tables(ROOT / "docs" / "losses.md", "Formulas")
    named = [row[0].strip("`") for row in rows if not row[0].startswith("**")]
    assert sorted(named) == sorted({*segloss_fast.losses.__all__} - {"WeightedSum"})


@pytest.mark.parametrize("name", DOCUMENTED)
def test_help_begins_with_an_example_that_runs(name: str) -> None:
    documented = getattr(segloss_fast, name)
    text = inspect.getdoc(documented) or ""
    assert ">>> " in "".join(text.splitlines()[:5]), "the example comes after the summary line"
    names = {"torch": torch, "segloss_fast": segloss_fast}
    test = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
    out: list[str] = []
    assert doctest.DocTestRunner().run(test, out=out.append).failed == 0, "".join(out)
