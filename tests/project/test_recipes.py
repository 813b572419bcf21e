"""What CONTRIBUTING.md promises to who adds something: nothing else has to know of it."""

from __future__ import annotations

import re
from pkgutil import resolve_name

import pytest
from conftest import ROOT
from test_architecture import ROOMS as TESTED

from interp.contract.sites import SITES
from interp.render import draw
from interp.runs.checks.world import World

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", draw.KINDS)
def test_every_kind_of_drawing_has_its_file(kind):
    assert callable(draw._drawer(kind))


def test_check_analysis_can_show_every_site_of_a_block():
    """A site that the synthetic model lacks would never be observed there."""
    shown = {str(key[1]) for prompt in World().prompts() for key in prompt.values}
    blocks = {name for name, site in SITES.items() if site.kind == "block"} - {"terms"}
    assert blocks <= shown


# ---- what the two pages name is there ----------------------------------------------------------

ROOMS = ("cli", "experiments", "runs", "models", "measures", "stats", "render", "prompts")
DOTTED = re.compile(rf"`(?:interp\.)?((?:{'|'.join((*ROOMS, 'contract'))})(?:\.\w+)+)`")
PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]*|[A-Z]+\.md|\w+\.toml)`")
PLACEHOLDERS = ("NAME", "KIND")


@pytest.mark.parametrize("name", sorted(set(DOTTED.findall(ARCHITECTURE + CONTRIBUTING))))
def test_every_name_on_the_page_exists(name):
    assert resolve_name(f"interp.{name}") is not None


def test_the_pages_name_the_ways_and_not_only_a_few_words_of_them():
    assert len(set(DOTTED.findall(ARCHITECTURE))) > 30


@pytest.mark.parametrize("path", sorted(set(PATH.findall(ARCHITECTURE + CONTRIBUTING))))
def test_every_path_on_the_page_exists(path):
    folder = path.rsplit("/", 1)[0] if any(word in path for word in PLACEHOLDERS) else path
    assert (ROOT / folder).exists() or (ROOT / "interp" / folder).exists(), path


def test_the_import_line_is_the_one_that_is_tested():
    line = re.search(r"^`(errors geometry[^`]*)`$", ARCHITECTURE, re.MULTILINE | re.DOTALL)
    assert line[1].replace("<", " ").split() == list(TESTED)


def test_every_room_has_its_line_in_the_picture():
    picture = ARCHITECTURE.split("```")[1]
    assert all(room in picture for room in TESTED)
