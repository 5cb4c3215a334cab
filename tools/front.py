"""The page to open first: what the course is, its picture, its story, where to start, and what was measured.

python tools/front.py      make the moving picture of the first page anew, in tools/live/valley.html
"""

import base64
import html
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from nbformat import NotebookNode
from PIL import Image

import claims_table
import notebooks
from sam_lite.claims import Claim

TITLE = "Flat minima and Sharpness-Aware Minimization, measured"
IDEAS = {  # the story, a line for each lecture
    "00_start_here": "Meet the data, train one network, and learn to read a measured figure with its interval.",
    "01_flat_minima": "Many minima fit the training data. On fresh data the loss is a shifted copy, and a sharp minimum pays.",
    "02_keskar": "Large batches end in sharp minima, and generalize worse.",
    "03_hoffer": "Or had they only made too few steps, with too small a learning rate?",
    "04_jiang": "Vary everything at once. Which property of a trained network goes along with its gap?",
    "05_sam": "Do not ask which way is down from here, but from the worst place nearby. That is SAM, in twelve lines.",
    "06_sam_results": "Is it better than SGD at equal cost? Where does it help, and where not?",
    "07_three_sharpnesses": "SAM comes from one sharpness, computes a second, is justified by a third. Which does it lower?",
    "08_bouncing": "SAM never comes to rest. It bounces across the valley, and the bounce drives it to where the valley is wide.",
    "09_contested": "What stands of all this when someone tries to knock it over?",
    "10_questions": "Twenty-five questions that users of SAM ask in public, each with an answer that runs.",
}
STARTS = """<h2 id="start">Start here</h2>
<div class="starts">
<div><h3>You study</h3><p>Move the sliders above. Then read <a href="00_start_here.html">the first lecture</a>, or go straight to
<a href="05_sam.html">SAM in twelve lines</a>. Guess before you look, at every ✍. Then solve
<a href="exercise_05_sam.html">an exercise</a>. An unknown word? <a href="glossary.html">The glossary</a>.
Your own model? <a href="recipe.html">The recipe</a>.</p></div>
<div><h3>You teach</h3><p><a href="INSTRUCTORS.html">Plans for two days and for six weeks</a>, goals, rubrics, and how to grade.
A setting of a slider stands in the page's address, so you can send it as a link.</p></div>
<div><h3>You do research</h3><p><a href="#claims">All that was measured</a>, with bounds and intervals; the
<a href="09_contested.html">objections</a>; <a href="references.html">the papers</a>; and a package of eight short files
that trains hundreds of networks at once.</p></div>
</div>
"""
RUN = """<h2 id="run">Run it</h2>
<p>On Linux or macOS with Python 3.11 or newer, in the folder of the course:</p>
<pre><code>make lectures   # runs every lecture, prints what it verified, writes these pages anew
make lab        # opens the lectures in JupyterLab</code></pre>
<p>A laptop is enough. Windows, conda, Colab, a GPU: <a href="install.html">install it elsewhere</a>. Something fails:
<a href="troubleshooting.html">what to do</a>.</p>
"""


def page(
    lectures: Sequence[tuple[Path, NotebookNode]], controls: Sequence, titles: dict[str, str], picture: str
) -> str:
    """The body of the first page. titles: of each lecture, by the stem of its file."""
    claims = {path.stem: _claims(path, notebook) for path, notebook in lectures}
    behind = {path.stem: _claims(path, notebook) for path, notebook in controls}
    marks = [claim.mark for some in claims.values() for claim in some]
    counted = f"{marks.count('✓')} hold, {marks.count('✗')} do not, {marks.count('○')} are open"
    about = (
        "<p>Why does one network generalize better than another that fits the training data as well, and can an optimizer "
        "look for the better one? Ten short lectures ask this of flat minima and of Sharpness-Aware Minimization, and every "
        "claim is measured by a cell that runs on a laptop in seconds, beside the figure of the paper.</p>"
    )
    story = "".join(_chapter(path, notebook, titles[path.stem]) for path, notebook in lectures)
    measured = (
        f"<p>The lectures make {len(marks)} claims. At this scale {counted}. ✓ holds, ✗ does not, ○ is open: more seeds than a "
        "lecture can train would be needed to tell. A figure behind ≈ is a mean with its 95 % interval.</p>"
        + _table(claims, titles, "")
        + (f"<details><summary>{sum(map(len, behind.values()))} controls behind them: could it be something else?</summary>"
           f"{_table(behind, titles, 'control_')}</details>" if any(behind.values()) else "")
    )  # fmt: skip
    return (
        f"<h1>{TITLE}</h1>\n{about}\n{_central(picture)}{STARTS}"
        f'<h2 id="story">The story</h2>\n<ol class="story">{story}</ol>\n{RUN}'
        f'<h2 id="claims">What was measured</h2>\n{measured}\n{_citation()}'
    )


def _central(picture: str) -> str:
    if not picture:
        return ""
    said = (
        "Two balls roll into a valley that is narrow on the right and wide in the middle. Gradient descent comes to rest at "
        "the nearest bottom. SAM, with a radius ρ, never rests: it bounces from wall to wall, and each bounce pushes it to "
        "where the valley is wider. Move ρ."
    )
    return f"{picture}<p class='caption'><em>{said}</em> Why it does: <a href='08_bouncing.html'>lecture 8</a>.</p>\n"


def _chapter(path: Path, notebook: NotebookNode, title: str) -> str:
    image = first_picture(notebook)
    shown = f'<img alt="" src="{image}">' if image else ""  # the title says it, and the lecture has the words for it
    text = html.escape(IDEAS.get(path.stem, ""))
    title = re.sub(r"^Part \d+ · ", "", title)
    return f'<li><a href="{path.stem}.html">{shown}<strong>{html.escape(title)}</strong></a><p>{text}</p></li>'


def first_picture(notebook: NotebookNode, width: int = 480) -> str:
    """The first picture of a notebook, small, as an address; empty if it has none."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if found := output.get("data", {}).get("image/png"):
                whole = Image.open(io.BytesIO(base64.b64decode(found))).convert("RGB")
                small = whole.resize((width, round(whole.height * width / whole.width)), Image.Resampling.LANCZOS)
                buffer = io.BytesIO()
                small.quantize(32, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
                return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return ""


def _claims(path: Path, notebook: NotebookNode) -> list[Claim]:
    return [place.claim for place in claims_table.claims_of(notebook, claims_table.name_of(path))]


def _table(claims: dict[str, list[Claim]], titles: dict[str, str], prefix: str) -> str:
    """Claims as one table, with a line for each notebook that they are from."""
    parts = []
    for stem, some in claims.items():
        if some:
            head = f'<a href="{prefix}{stem}.html">{html.escape(titles[prefix + stem])}</a>'
            rows = "".join(map(_row, some))
            parts.append(f'<tbody><tr><th colspan="5" scope="rowgroup">{head}</th></tr>{rows}</tbody>')
    top = "".join(f'<th scope="col">{name}</th>' for name in ("verdict", "claim", "paper", "here", "bound"))
    return f'<table class="claims"><thead><tr>{top}</tr></thead>{"".join(parts)}</table>'


def _row(claim: Claim) -> str:
    said = {"✓": "holds", "✗": "does not hold", "○": "open"}[claim.mark]
    cells = "".join(f"<td>{html.escape(text)}</td>" for text in (claim.claim, claim.paper, claim.here, claim.bound))
    return f'<tr><td class="mark-{said.split()[0]}"><span aria-label="{said}" role="img">{claim.mark}</span></td>{cells}</tr>'


def _citation() -> str:
    """What CITATION.cff says."""
    if not notebooks.cited("title"):
        return ""
    said = f"{notebooks.cited('name')}. {notebooks.cited('title')}. Version {notebooks.cited('version')}."
    where = f" {notebooks.cited('repository-code')}." if notebooks.cited("repository-code") else ""
    licence = "Code: MIT. Text and figures: CC BY 4.0."
    return f'<h2 id="cite">Cite it</h2>\n<p>{html.escape(said + where)} {licence}</p>\n'


# ---------------------------------------------------------------- the central picture

RHOS, STEPS, START = (0.0, 0.05, 0.1, 0.2, 0.3), 40, (1.6, 0.2)
RATE = 0.7  # learning rate times the curvature at z = 1


def path_in_ravine(rho: float, steps: int = STEPS) -> list[tuple[float, float]]:
    """SAM on (1 + z²) w² / 4, a ravine along w = 0 whose curvature (1 + z²) / 2 is least at z = 0; ρ = 0 is descent."""
    (z, w), found = START, [START]
    for _ in range(steps):
        gz, gw = z * w**2 / 2, (1 + z**2) * w / 2
        length = max((gz**2 + gw**2) ** 0.5, 1e-30)
        z_up, w_up = z + rho * gz / length, w + rho * gw / length
        z, w = z - RATE * z_up * w_up**2 / 2, w - RATE * (1 + z_up**2) * w_up / 2
        found.append((z, w))
    return found


def valley() -> str:
    """The picture, which moves by itself where that is wanted."""
    import numpy as np

    import live
    from sam_lite import plots
    from sam_lite.widgets import Choice, Control, Picture

    figure, ax = plots.subplots(width=4.2, height=2.8)  # small: a phone shows its letters larger
    z, w = np.meshgrid(np.linspace(-0.4, 1.9, 93), np.linspace(-0.75, 0.75, 61))
    ax.contourf(z, w, (1 + z**2) * w**2 / 4, levels=np.linspace(0, 0.66, 23), cmap="Greys", vmin=0, vmax=1.1)
    ax.set(
        xlabel="along the valley (wide at 0, narrow at the right)",
        ylabel="across",
        xlim=(-0.4, 1.9),
        ylim=(-0.75, 0.75),
    )
    ax.grid(False)
    paths = {rho: np.array(path_in_ravine(rho)) for rho in RHOS}
    trails = [ax.plot([], [], color=plots.COLORS[i], lw=1.6 - 0.4 * i)[0] for i in (0, 1)]
    balls = [ax.plot([], [], color=plots.COLORS[i], marker="os"[i], ms=8, ls="none")[0] for i in (0, 1)]
    names = [ax.text(0, 0, " ", color=plots.COLORS[i], fontweight="bold", ha="center", va="center") for i in (0, 1)]
    title = plots.headline(ax)

    def update(rho: float, step: float) -> str:
        step, both = int(step), (paths[0.0], paths[rho])
        curvature = [(1 + path[step, 0] ** 2) / 2 for path in both]
        for path, trail, ball, name, text, height in zip(
            both, trails, balls, names, ("descent", f"SAM, ρ = {rho:g}"), (-0.5, 0.5), strict=True
        ):
            trail.set_data(*path[: step + 1].T)
            ball.set_data(*path[step : step + 1].T)
            name.set_position((path[step, 0], height))  # where no path comes
            name.set_text(text if rho or text.startswith("d") else "")
        title.set_text(f"Curvature: SAM {curvature[1]:.2f}, descent {curvature[0]:.2f}")
        return (
            f"A valley, narrow at the right and wide in the middle. After {step} steps gradient descent rests at a curvature of "
            f"{curvature[0]:.2f}; SAM with radius {rho:g} is at {curvature[1]:.2f}."
        )

    controls = {
        "rho": Choice("ρ, the radius of SAM", RHOS, 0.2),
        "step": Control("step", 0, STEPS, 1, STEPS, play=True),
    }
    picture = Picture(figure, [*trails, *balls, *names, title], update)
    text = live.piece("valley", picture, controls, {"rho": RHOS, "step": list(range(STEPS + 1))}, "")
    return text.replace('<button type="button">', '<button type="button" data-auto data-wait="180">')


def main() -> int:
    import live

    live.FOLDER.mkdir(exist_ok=True)
    (live.FOLDER / "valley.html").write_text(valley(), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
