"""Links, anchors and names of the documentation. MkDocs checks more, in `make docs`."""

import re

import pytest
import yaml

import tfmoe
from tests.docs.pages import DOCS, PAGES, ROOT, anchors, documented, links, slug

README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"


def name(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [README, CONTRIBUTING, *PAGES], ids=name)
def test_links_lead_somewhere(page):
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        # A page of the site links only to what is in it.
        inside = target.is_relative_to(DOCS) or not page.is_relative_to(DOCS)
        if not target.exists() or not inside or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_there_are_many_links():
    assert sum(len(links(page)) for page in PAGES) > 100


def test_anchors_are_those_of_markdown():
    markdown = pytest.importorskip("markdown", reason="comes with MkDocs")
    heading = "Coming from DeepCTR, or `x` - a test"
    made = markdown.markdown(f"# {heading}", extensions=["toc"])
    assert f'id="{slug(heading)}"' in made


def test_every_page_has_its_place():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r": ([\w/]+\.md)$", text, re.MULTILINE)
    assert len(listed) == len(set(listed))
    pages = {page.relative_to(DOCS).as_posix() for page in PAGES}
    # The index of results links to the studies.
    assert {page for page in pages if not page.startswith("results/")} == set(listed) - {
        "results/index.md"
    }
    assert "results/index.md" in listed
    yaml.safe_load(text)


PUBLIC = {
    *(f"tfmoe.{one}" for one in tfmoe.__all__),
    *(f"tfmoe.datasets.{one}" for one in tfmoe.datasets.__all__),
    *(f"tfmoe.optimizers.{one}" for one in ("Adam", "LazyAdam", "Adagrad", "ByPart")),
    "tfmoe.distribution.dataset",
    "tfmoe.distribution.ModelParallel",
    *(f"tfmoe.spark.{one}" for one in ("fit", "predict")),
    "tfmoe.tfrs.KerasLayer",
} - {"tfmoe.data", "tfmoe.datasets", "tfmoe.distribution", "tfmoe.optimizers", "tfmoe.spark"}


def test_every_public_name_has_its_reference():
    found = [one for page in PAGES for one in documented(page)]
    assert len(found) == len(set(found))
    assert PUBLIC - set(found) == set()


def test_pictures_are_used():
    pictures = {path.name for path in (DOCS / "pictures").glob("*.svg")}
    used = {link.rpartition("/")[2] for page in [README, *PAGES] for link in links(page)}
    assert pictures
    assert pictures <= used
