// Moves through the epochs of a run: the slider, or the fragment #epoch=12, chooses one; its values, its mark on the
// curves and its predictions follow. The keys are those of every range control: arrows, page up and down, Home, End.
(() => {
  "use strict";

  const data = JSON.parse(document.getElementById("run-data").textContent);
  const slider = document.getElementById("epoch");
  const drawing = document.querySelector("#figure-1 svg");
  const { width, height } = drawing.viewBox.baseVal;

  // three significant digits, in at most four decimals, with a true minus sign
  function format(value) {
    if (value === null) return "–";
    const size = Math.abs(value);
    let text = size.toFixed(size < 0.1 ? 4 : size < 10 ? 3 : size < 1000 ? 1 : 0);
    if (Number(text) === 0) text = value ? size.toExponential(1).replace(/e([+-])(\d)$/, "e$10$2") : "0";
    return (value < 0 ? "−" : "") + text;
  }

  const markers = data.panels.map((panel) => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    line.setAttribute("class", "marker");
    line.setAttribute("y1", panel.top * height);
    line.setAttribute("y2", panel.bottom * height);
    drawing.append(line);
    return line;
  });

  function show(epoch) {
    const row = data.epochs.indexOf(epoch);
    if (row < 0) return;
    slider.value = epoch;
    document.getElementById("epoch-number").textContent = epoch;
    const rate = data.history.lr?.[row] ?? null;
    document.getElementById("epoch-rate").textContent = rate === null ? "–" : String(Number(rate.toPrecision(3)));
    for (const cell of document.querySelectorAll("[data-column]")) {
      cell.textContent = format(data.history[cell.dataset.column][row]);
    }
    data.panels.forEach((panel, place) => {
      const share = (epoch - panel.first) / (panel.last - panel.first);
      const x = (panel.left + share * (panel.right - panel.left)) * width;
      markers[place].setAttribute("x1", x);
      markers[place].setAttribute("x2", x);
    });
    if (!data.pictures) return;
    // the last epoch with predictions that is not after this one
    const place = Math.max(0, data.pictures.epochs.findLastIndex((one) => one <= epoch));
    for (const picture of document.querySelectorAll("[data-prediction]")) {
      const png = data.pictures.predictions[place][picture.dataset.prediction];
      picture.setAttribute("href", `data:image/png;base64,${png}`);
    }
    for (const text of document.querySelectorAll(".picture-epoch")) text.textContent = data.pictures.epochs[place];
  }

  const ofFragment = () => Number(new URLSearchParams(location.hash.slice(1)).get("epoch"));
  slider.hidden = false;
  slider.addEventListener("input", () => show(Number(slider.value)));
  slider.addEventListener("change", () => location.replace(`#epoch=${slider.value}`));
  addEventListener("hashchange", () => show(ofFragment()));
  show(Number(slider.value));
  show(ofFragment());
})();
