"use strict";
// Light or dark: as the system says, until the button is pressed.
const theme = document.getElementById("theme");
theme.hidden = false;
theme.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = getComputedStyle(root).colorScheme === "dark" ||
    (root.style.colorScheme === "" && matchMedia("(prefers-color-scheme: dark)").matches);
  root.style.colorScheme = dark ? "light" : "dark";
});

// Sample grids: one slider over the grids of a run, or over the images trained where several runs stand side by side.
for (const viewer of document.querySelectorAll("[data-viewer]")) {
  const groups = [...viewer.querySelectorAll(".slides")].map((group) => [...group.querySelectorAll(".slide")])
    .filter((group) => group.length);
  if (!groups.length) continue;
  const controls = viewer.querySelector(".controls");
  const [range, output, play] = ["input", "output", ".play"].map((what) => controls.querySelector(what));
  const stops = [...new Set(groups.flat().map((slide) => Number(slide.dataset.nimg)))].sort((a, b) => a - b);
  range.max = stops.length - 1;
  const show = () => {
    const nimg = stops[range.value];
    for (const group of groups) {
      const before = group.filter((slide) => Number(slide.dataset.nimg) <= nimg);
      const chosen = before.length ? before[before.length - 1] : group[0];
      for (const slide of group) slide.classList.toggle("on", slide === chosen);
    }
    output.textContent = nimg.toLocaleString("en") + " images";
  };
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = "▶"; };
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (Number(range.value) >= stops.length - 1) range.value = 0;
    play.textContent = "❚❚";
    timer = setInterval(() => {
      range.value = Number(range.value) + 1;
      show();
      if (Number(range.value) >= stops.length - 1) stop();
    }, 250);
  });
  range.addEventListener("input", () => { stop(); show(); });
  range.value = stops.length - 1;
  viewer.classList.add("live");
  controls.hidden = stops.length < 2;
  show();
}

// Charts: the values under the pointer, in the legend.
for (const card of document.querySelectorAll(".chart-card")) {
  const data = JSON.parse(card.querySelector("script").textContent);
  const svg = card.querySelector("svg"), cursor = card.querySelector(".cursor");
  const outputs = card.querySelectorAll(".legend output");
  const read = (event) => {
    const box = svg.getBoundingClientRect();
    const place = (event.clientX - box.left) / box.width * data.width;
    const wanted = Math.min(Math.max((place - data.left) / (data.right - data.left), 0), 1) * data.max;
    let shown = 0;
    data.curves.forEach((curve, i) => {
      let best = 0;
      curve.x.forEach((x, k) => { if (Math.abs(x - wanted) < Math.abs(curve.x[best] - wanted)) best = k; });
      if (i === 0) shown = curve.x[best];
      const y = curve.y[best];
      outputs[i].textContent = y === null ? "not finite" : y + (i === 0 ? " at " + curve.x[best].toLocaleString("en") : "");
    });
    const x = data.left + (data.right - data.left) * shown / data.max;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.setAttribute("visibility", "visible");
  };
  const clear = () => {
    cursor.setAttribute("visibility", "hidden");
    outputs.forEach((output) => { output.textContent = ""; });
  };
  svg.addEventListener("pointermove", read);
  svg.addEventListener("pointerdown", read);
  svg.addEventListener("pointerleave", clear);
}
