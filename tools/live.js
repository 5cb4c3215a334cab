// Pictures that move: looks up the state of the sliders in the table of the figure and sets what SVG takes.
for (const figure of document.querySelectorAll("figure.live")) {
    const inputs = [...figure.querySelectorAll("input")], form = figure.querySelector("form");
    const marks = [...figure.querySelectorAll("[data-item]")], said = figure.querySelector(".said");
    const values = input => JSON.parse(input.dataset.values);
    const places = course => {
        let x = 0, y = 0;
        return [...course.matchAll(/(-?\d+) ?(-?\d+)/g)].map(([, dx, dy]) => [x += +dx, y += +dy]);
    };
    const write = (mark, value) => {
        if (mark.localName === "path") {
            const shape = mark.dataset.shape;
            mark.setAttribute("d", shape ? places(value).map(([x, y]) => `M${x} ${y}${shape}`).join("") : value);
            return;
        }
        mark.replaceChildren();
        if (!value) return;
        const [place, ...lines] = value.split("\n"), [[x, y]] = places(place);
        const first = {top: 0.95, center: 0.36 - 0.6 * (lines.length - 1)}[mark.dataset.va] || 0;
        lines.forEach((line, i) => {
            const span = document.createElementNS(mark.namespaceURI, "tspan");
            span.textContent = line;
            span.setAttribute("x", x);
            span.setAttribute("y", Math.round(y + mark.getAttribute("font-size") * (first + 1.2 * i)));
            mark.append(span);
        });
    };
    let table, asked = false, resting;
    const find = ([axes, all]) => all[axes.reduce((at, a) => at * table.shape[a] + +inputs[a].value, 0)];
    const shown = number => {
        const value = find(table.items[number]);
        return value === "=" ? shown(number - 1) : value;  // the markers of a line that runs through all of them
    };
    const rest = () => {
        const [words, ...numbers] = table.said.map(find);
        said.textContent = words.replace(/\0/g, () => numbers.shift());
    };
    const draw = () => {
        asked = false;
        for (const mark of marks) {
            const value = shown(+mark.dataset.item);
            if (mark.value !== value) write(mark, mark.value = value);
        }
    };
    const move = () => {
        for (const input of inputs) {
            const value = values(input)[input.value];
            input.setAttribute("aria-valuetext", value);
            input.closest("div").querySelector("output").textContent = value;
        }
        if (!asked) requestAnimationFrame(draw);
        asked = true;
        clearTimeout(resting);
        resting = setTimeout(rest, 250);
    };
    const asks = () => {  // the state in the page's address: #step?rho=0.5&lr=0.1, in slides ?step&rho=0.5 before the #
        const [name, query] = location.hash.slice(1).split("?");
        const wanted = new URLSearchParams(name === figure.id ? query : location.search);
        if (name !== figure.id && !wanted.has(figure.id)) return;
        for (const input of inputs) {
            const at = values(input).indexOf(wanted.get(input.name));
            if (at >= 0) input.value = at;
        }
        if (name === figure.id) figure.scrollIntoView({block: "center"});
        move();
    };
    const tell = () => {
        if (window.Reveal) return;
        const state = inputs.map(input => [input.name, values(input)[input.value]]);
        history.replaceState(null, "", `#${figure.id}?${new URLSearchParams(state)}`);
    };
    const bytes = Uint8Array.from(atob(figure.querySelector("script").textContent), c => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    new Response(stream).json().then(found => {
        table = found;
        form.hidden = false;
        form.addEventListener("submit", event => event.preventDefault());
        form.addEventListener("input", move);
        form.addEventListener("change", tell);
        form.addEventListener("keydown", event => event.stopPropagation());  // a slide shall not turn
        window.addEventListener("hashchange", asks);
        const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
        for (const button of form.querySelectorAll("button")) {
            const slider = button.closest("div").querySelector("input");
            let running;
            const stop = () => { clearInterval(running); running = null; button.textContent = "Play"; };
            const step = () => {
                if (slider.value === slider.max) return stop();
                slider.stepUp();
                move();
            };
            const go = () => {
                if (slider.value === slider.max) slider.value = 0;
                button.textContent = "Stop";
                running = setInterval(step, +button.dataset.wait || 250);
                move();
            };
            button.hidden = still;
            button.addEventListener("click", () => running ? stop() : go());
            slider.addEventListener("pointerdown", stop);
            if ("auto" in button.dataset && !still) go();
        }
        figure.classList.add("ready");
        asks();
    });
}
