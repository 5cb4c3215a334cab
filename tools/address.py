"""The address of the course and its edition: stamped by one command, read by all pages and notebooks.

    python tools/address.py                                 say what is stamped
    python tools/address.py https://github.com/OWNER/NAME   stamp it: CITATION.cff, and the second cell of every notebook
    python tools/address.py --none                          take it out again
    python tools/address.py --hub https://hub.example.edu   nbgitpuller links to all notebooks, for students of that hub

The edition is the version in CITATION.cff; links lead to the tag v<version> of the repository. Until an address is
stamped no page shows a link to it, and a notebook that stands alone asks for it.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, urlencode

import nbformat

import notebooks
from notebooks import ROOT

GITHUB = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+)")


def checked(repository: str) -> str:
    """The address without what need not be there. Raises ValueError for one that names no repository."""
    plain = re.sub(r"(\.git)?/*$", "", repository.strip())
    inside = "/-/" in plain or (plain.startswith("https://github.com/") and not GITHUB.fullmatch(plain))
    if inside or not re.fullmatch(r"https://[\w.-]+(:\d+)?(/[\w.~-]+){2,}", plain):
        raise ValueError(
            f"the address must be https://HOST/OWNER/NAME, that of the first page of the repository, got {repository!r}"
        )
    return plain


def run_links(path: str) -> list[tuple[str, str]]:
    """(name, address) of the places that run a notebook of this edition; path: from the folder of the course."""
    repository, tag = notebooks.cited("repository-code"), f"v{notebooks.cited('version')}"
    if not repository:
        return []
    github = GITHUB.fullmatch(repository)
    binder = f"gh/{github[1]}" if github else f"git/{quote(repository, safe='')}"
    links = [("Binder", f"https://mybinder.org/v2/{binder}/{tag}?{urlencode({'labpath': path})}")]
    if github:
        links.append(("Colab", f"https://colab.research.google.com/github/{github[1]}/blob/{tag}/{quote(path)}"))
    return links


def report(page: str) -> str:
    """Where to report a mistake on a page; empty without an address."""
    repository = notebooks.cited("repository-code")
    title = urlencode({"title": f"Mistake on {page}, version {notebooks.cited('version')}"})
    return f"{repository}/issues/new?{title}" if repository else ""


def puller_link(hub: str, path: str) -> str:
    """A link by which a JupyterHub with nbgitpuller fetches the course and opens a notebook."""
    repository, tag = notebooks.cited("repository-code"), f"v{notebooks.cited('version')}"
    where = {"repo": repository, "branch": tag, "urlpath": f"lab/tree/{repository.rpartition('/')[2]}/{path}"}
    return f"{hub.rstrip('/')}/hub/user-redirect/git-pull?{urlencode(where)}"


def stamp(repository: str, root: Path = ROOT) -> list[Path]:
    """Write the address into CITATION.cff and into every notebook; empty: take it out. Return the files that changed."""
    cff, changed = root / "CITATION.cff", []
    text = re.sub(r"^repository-code: .*\n", "", cff.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if repository:
        text = re.sub(r"^(version: .*\n)", rf'\1repository-code: "{checked(repository)}"\n', text, flags=re.MULTILINE)
    if text != cff.read_text(encoding="utf-8"):
        notebooks.write(cff, text)
        changed.append(cff)
    cell = notebooks.install_cell(root)
    for path in sorted(
        path for folder in ("lectures", "solutions", "exercises") for path in (root / folder).rglob("*.ipynb")
    ):
        if path.parent.name == ".ipynb_checkpoints":
            continue
        notebook = nbformat.read(path, as_version=4)
        for old in notebook.cells:
            if old.get("id") == "install" and old.source != cell.source:
                old.source = cell.source
                notebooks.write(path, notebooks.dumps(notebook))
                changed.append(path)
    return changed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", nargs="?", help="https://HOST/OWNER/NAME")
    parser.add_argument("--none", action="store_true", help="take the address out")
    parser.add_argument("--hub", help="address of a JupyterHub with nbgitpuller")
    options = parser.parse_args(arguments)
    if options.address and options.none:
        parser.error(f"--none must stand alone, got the address {options.address} beside it")
    if options.hub and not re.match("https?://", options.hub):
        parser.error(f"--hub must be an address such as https://hub.example.edu, got {options.hub}")
    if options.address or options.none:
        try:
            changed = stamp("" if options.none else checked(options.address))
        except ValueError as error:
            parser.error(str(error))
        print(f"{len(changed)} files changed.")
    repository, tag = notebooks.cited("repository-code"), f"v{notebooks.cited('version')}"
    if not repository:
        print("No address is stamped.")
        return 1 if options.hub else 0
    print(f"{repository}, tag {tag}. The links work once that tag is pushed.")
    for path in [*notebooks.lectures(), *sorted((ROOT / "exercises").glob("*/*.ipynb"))] if options.hub else []:
        print(puller_link(options.hub, path.relative_to(ROOT).as_posix()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
