Reveal.initialize({
    width: 1280, height: 720, margin: 0, center: false, display: "flex", hash: true, transition: "none",
    slideNumber: "c/t", controls: false, plugins: [RevealNotes],
});
