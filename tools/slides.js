function fit(section) {
    const inside = section && section.querySelector(":scope > .fit");
    if (!inside) return;
    for (let zoom = 1; zoom >= 0.3; zoom -= 0.05) {
        inside.style.zoom = zoom;
        const [need, have] = [inside, section].map(one => one.getBoundingClientRect().height);
        if (need <= have && inside.scrollWidth <= inside.clientWidth + 1) break;
    }
}
Reveal.initialize({width: 1280, height: 720, margin: 0.04, center: false, hash: true, transition: "none"});
for (const event of ["ready", "slidechanged"]) Reveal.on(event, ({currentSlide}) => fit(currentSlide));
