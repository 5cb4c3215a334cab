// The page of written answers: what is entered stays in this browser, and the button saves it as a table.
const marking = document.getElementById("marking"), exercise = marking.dataset.exercise;
const articles = [...marking.querySelectorAll("article")];
const said = marking.querySelector("[role=status]");

const kept = {
  of: article => `${exercise} ${article.dataset.answer.slice(1)} ${article.dataset.part}`,
  read: article => { try { return JSON.parse(localStorage.getItem(kept.of(article))); } catch { return null; } },
  write(article, value) { try { localStorage.setItem(kept.of(article), JSON.stringify(value)); } catch { /* a browser that keeps nothing */ } },
};

function count() {
  const done = articles.filter(article => article.querySelector("input").value !== "").length;
  said.textContent = `${done} of ${articles.length} have points.`;
}

for (const article of articles) {
  const points = article.querySelector("input"), comment = article.querySelector("textarea");
  const before = points.dataset.before + comment.value, draft = kept.read(article);
  if (draft && draft.before === before) [points.value, comment.value] = [draft.points, draft.comment];
  article.addEventListener("input", () => {
    kept.write(article, { before, points: points.value, comment: comment.value });
    count();
  });
}
count();

marking.querySelector("button").addEventListener("click", () => {
  const wrong = articles.find(article => !article.querySelector("input").checkValidity());
  if (wrong) return wrong.querySelector("input").reportValidity();
  const quoted = text => `"${text.replaceAll('"', '""')}"`;
  const rows = articles.map(article => [article.dataset.answer, article.dataset.part,
    article.querySelector("input").value, article.querySelector("textarea").value]);
  const filled = rows.filter(row => row[2] !== "" || row[3] !== "");
  const text = [["answer", "part", "points", "comment"], ...filled].map(row => row.map(quoted).join(",")).join("\r\n") + "\r\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = `${exercise}_points.csv`;
  link.click();
  said.textContent = `${link.download}: ${filled.length} answers. Grade again with --points ${link.download}.`;
});
