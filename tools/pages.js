const asked = new URLSearchParams(location.search).get("q") || "";
document.querySelector("input").value = asked;
const words = asked.toLowerCase().split(/\s+/).filter(Boolean);
const hits = KNOWN.map(([address, head, text]) => {
    const [h, t] = [head.toLowerCase(), text.toLowerCase()];
    const counts = words.map(word => 5 * (h.split(word).length - 1) + t.split(word).length - 1);
    return {address, head, text, first: t.indexOf(words[0]), score: Math.min(...counts)};
}).filter(hit => words.length && hit.score > 0).sort((a, b) => b.score - a.score).slice(0, 30);
document.getElementById("said").textContent = words.length ? `${hits.length} parts for “${asked}”` : "Type a word or two.";
for (const {address, head, text, first} of hits) {
    const item = document.createElement("li"), link = document.createElement("a"), around = document.createElement("p");
    link.href = address;
    link.textContent = head;
    around.textContent = "… " + text.slice(Math.max(0, first - 80), first + 160) + " …";
    item.append(link, around);
    document.getElementById("found").append(item);
}
