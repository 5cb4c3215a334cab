"""tools/address.py: one command stamps the address, all links follow from it, and without it there are none."""

import shutil

import nbformat
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

import address
import notebooks
import pages

HERE = "https://github.com/an-owner/a.course"
CITED = 'title: "A"\nversion: 1.2.3\nauthors:\n  - name: The authors\n'


@pytest.fixture
def course(tmp_path):
    """A course of one lecture and one exercise, and no address."""
    (tmp_path / "CITATION.cff").write_text(CITED)
    for folder in ("lectures/controls", "exercises/a"):
        path = tmp_path / folder / "a.ipynb"
        path.parent.mkdir(parents=True)
        cells = [new_markdown_cell("# A", id="title"), notebooks.install_cell(tmp_path)]
        notebooks.write(path, notebooks.dumps(notebooks.normalise(new_notebook(cells=cells))))
    return tmp_path


def test_a_stamp_is_in_every_notebook_changes_with_the_next_and_leaves_nothing_behind(course):
    before = {path: path.read_bytes() for path in course.rglob("*") if path.is_file()}
    assert len(address.stamp(f"{HERE}.git/", course)) == 3
    for path in course.rglob("*.ipynb"):
        cell = nbformat.read(path, as_version=4).cells[1]
        assert f'    address = "{HERE}@v1.2.3"\n' in cell.source and "input" not in cell.source
        assert cell == notebooks.install_cell(course)
    assert address.stamp(HERE, course) == []
    address.stamp("https://gitlab.com/group/sub/course", course)
    assert notebooks.cited("repository-code", course) == "https://gitlab.com/group/sub/course"
    address.stamp("", course)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    "wrong",
    [
        *("github.com/a/b", "http://github.com/a/b", "https://github.com/a", "https://x/a b/c", ""),
        *("https://github.com/a/b/tree/main", "https://gitlab.com/a/b/-/tree/main"),
    ],
)
def test_what_is_no_address_is_an_error(wrong):
    with pytest.raises(ValueError, match="the address must be https://HOST/OWNER/NAME, that of the first page"):
        address.checked(wrong)


@pytest.fixture
def cited(monkeypatch):
    """Pretend that CITATION.cff says this."""

    def pretend(repository):
        fields = {"repository-code": repository, "version": "1.2.3"}
        monkeypatch.setattr(notebooks, "cited", lambda name, root=None: fields.get(name, ""))

    return pretend


def test_the_links_are_as_the_services_ask_for_them(cited):
    """mybinder.org/v2/gh/OWNER/NAME/REF?labpath=, /v2/git/ADDRESS/REF, colab.research.google.com/github/OWNER/NAME/blob/REF."""
    cited(HERE)
    assert address.run_links("lectures/05_sam.ipynb") == [
        ("Binder", "https://mybinder.org/v2/gh/an-owner/a.course/v1.2.3?labpath=lectures%2F05_sam.ipynb"),
        ("Colab", "https://colab.research.google.com/github/an-owner/a.course/blob/v1.2.3/lectures/05_sam.ipynb"),
    ]
    assert address.report("Part 5 · SAM").startswith(f"{HERE}/issues/new?title=Mistake+on+Part+5+")
    link = address.puller_link("https://hub.example.edu/", "lectures/05_sam.ipynb")
    assert link.startswith(
        "https://hub.example.edu/hub/user-redirect/git-pull?repo=https%3A%2F%2Fgithub.com%2Fan-owner%2F"
    )
    assert link.endswith("&branch=v1.2.3&urlpath=lab%2Ftree%2Fa.course%2Flectures%2F05_sam.ipynb")
    cited("https://codeberg.org/o/n")
    assert [url for _, url in address.run_links("a.ipynb")] == [
        "https://mybinder.org/v2/git/https%3A%2F%2Fcodeberg.org%2Fo%2Fn/v1.2.3?labpath=a.ipynb"
    ]


def test_a_page_links_to_the_address_only_where_there_is_one(cited, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    path = tmp_path / "a.ipynb"
    notebook = new_notebook(cells=[new_markdown_cell("# A")])
    nbformat.write(notebook, path)
    (tmp_path / "ERRATA.md").write_text("# Errata")
    for where in ("", HERE):
        cited(where)
        site = pages.build([(path, notebook)], tmp_path / "site").parent
        page = (site / "a.html").read_text(encoding="utf-8")
        assert 'This notebook: <a href="a.ipynb">download</a>' in page and (site / "a.ipynb").is_file()
        assert "Version 1.2.3 · " in page
        for name in ("mybinder.org", "colab.research", "/issues/new"):
            assert (name in page) == bool(where)


def test_the_command_says_what_is_stamped_and_refuses_what_is_no_address(capsys, cited):
    cited("")
    assert address.main([]) == 0 and "No address is stamped." in capsys.readouterr().out
    assert address.main(["--hub", "https://hub.example.edu"]) == 1
    cited(HERE)
    assert address.main(["--hub", "https://hub.example.edu"]) == 0
    said = capsys.readouterr().out
    assert f"{HERE}, tag v1.2.3" in said and said.count("git-pull") > len(notebooks.lectures())
    with pytest.raises(SystemExit):
        address.main(["not-an-address"])
    assert "that of the first page of the repository, got 'not-an-address'" in capsys.readouterr().err
    for wrong, said in (
        ([HERE, "--none"], "--none must stand alone"),
        (["--hub", "hub.example.edu"], "--hub must be an"),
    ):
        with pytest.raises(SystemExit, match="2"):
            address.main(wrong)
        assert said in capsys.readouterr().err


def test_what_is_committed_is_stamped_alike(tmp_path):
    """The same address in CITATION.cff and in every notebook, also in the blank ones."""
    for name in ("lectures", "solutions", "exercises"):
        shutil.copytree(pages.ROOT / name, tmp_path / name)
    shutil.copy(pages.ROOT / "CITATION.cff", tmp_path)
    assert address.stamp(notebooks.cited("repository-code"), tmp_path) == []
