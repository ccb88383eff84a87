"use strict";
// Charts are pictures until they come into view. Then Vega draws them again, so that they answer to the controls.
document.documentElement.classList.add("scripted");
const tip = document.getElementById("tip");

function showTip(_, event, item, value) {
  tip.hidden = !value;
  if (!value) return;
  const shown = (v) => (typeof v === "number" ? String(Number(v.toPrecision(4))) : v);
  tip.replaceChildren(...Object.entries(value).filter(([, v]) => v !== "undefined" && v != null).map(([name, v]) =>
    Object.assign(document.createElement("div"), { textContent: `${name}: ${shown(v)}` })));
  tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
  tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + "px";
}

function hidden(figure) {
  return [...figure.closest("section").querySelectorAll("input[data-line]:not(:checked)")].map((box) => box.dataset.line);
}

function draw(figure) {
  const spec = JSON.parse(figure.querySelector("script").textContent);
  const log = figure.querySelector("input[data-log]")?.checked;
  for (const scale of log ? spec.scales : []) {
    if (["x", "y"].includes(scale.name)) Object.assign(scale, { type: "log", zero: false, nice: false });
  }
  for (const axis of log ? spec.axes : []) Object.assign(axis, { labelOverlap: true });
  const choice = figure.querySelector("select");
  for (const signal of spec.signals) {
    if (signal.name === "hidden") signal.value = hidden(figure);
    if (signal.name === "chosen" && choice) signal.value = choice.value;
  }
  return vegaEmbed(figure.querySelector(".plot"), spec,
    { mode: "vega", renderer: "svg", actions: false, defaultStyle: false, logLevel: 1, tooltip: showTip });
}

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) { seen.unobserve(target); draw(target); }
  }
}, { rootMargin: "300px" });
document.querySelectorAll("figure.chart").forEach((figure) => seen.observe(figure));

document.addEventListener("change", ({ target }) => {
  const section = target.closest("section");
  const figures = target.dataset.line ? section.querySelectorAll("figure.chart") : [target.closest("figure.chart")];
  for (const figure of figures) if (figure) draw(figure);
});
document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
