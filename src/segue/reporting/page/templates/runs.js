// Filters the runs of a study and opens one of them. What is shown follows from the fragment of the address alone,
//   #runs?stage=transfer&transfer.freeze=none&transfer.images=64..256&score=dice_mean&on=0+nm&by=…&sort=…&page=2
// so that a view can be linked, and the back button returns to the one before: a control writes the fragment, and
// the event `hashchange` draws. The data (`run_filter.py`) are columns: indices of levels, and whole numbers with a
// scale.
(() => {
  "use strict";

  const data = JSON.parse(document.getElementById("runs-data").textContent);
  const element = (id) => document.getElementById(`runs-${id}`);
  const PAGE_ROWS = 50, MAX_TICKS = 60, MAX_LEVELS = 40; // rows of the table, runs drawn one by one, levels compared
  const OWN = ""; // tested on the domain trained on

  // --- elements, numbers

  function make(tag, attributes = {}, ...children) {
    const isDrawing = ["svg", "line", "rect", "circle", "text", "polyline", "title"].includes(tag);
    const node = isDrawing ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children);
    return node;
  }

  const grouped = (number) => number.toLocaleString("en-US");
  const th = (attributes, ...children) => make("th", { scope: "col", ...attributes }, ...children);
  const numberCell = (text) => make("td", { class: "number" }, text);

  // three significant digits, in at most four decimals, with a true minus sign
  function format(value) {
    if (!Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    let text = size.toFixed(size < 0.1 ? 4 : size < 10 ? 3 : size < 1000 ? 1 : 0);
    if (Number(text) === 0) text = value ? size.toExponential(1).replace(/e([+-])(\d)$/, "e$10$2") : "0";
    return (value < 0 ? "−" : "") + text;
  }

  // linear interpolation between order statistics; `sorted` rises
  function quantile(sorted, share) {
    const place = share * (sorted.length - 1), low = Math.floor(place);
    return low + 1 < sorted.length ? sorted[low] + (place - low) * (sorted[low + 1] - sorted[low]) : sorted[low];
  }

  // The rank k, from 1, such that the k-th smallest and the k-th largest of n values hold the median of what they were
  // drawn from in at least 95 % of samples: the largest k with P(X < k) ≤ 2.5 %, X binomial (n, 1/2). 0: there is none.
  function intervalRank(n) {
    let logProbability = -n * Math.LN2, below = 0, k = 0;
    for (; k < n; k++) {
      below += Math.exp(logProbability);
      if (below > 0.025) break;
      logProbability += Math.log((n - k) / (k + 1));
    }
    return k;
  }

  function summary(sorted) {
    const rank = intervalRank(sorted.length);
    return {
      sorted,
      quantiles: sorted.length ? [0.05, 0.25, 0.5, 0.75, 0.95].map((share) => quantile(sorted, share)) : [],
      interval: rank ? [sorted[rank - 1], sorted[sorted.length - rank]] : null,
    };
  }

  // --- the data of a stage

  const codeOf = (column, run) => (column.codes ? column.codes[run] : 0);
  const levelOf = (column, run) => column.levels[codeOf(column, run)] ?? "–";
  const isFailed = (stage, run) => stage.errors[run] !== undefined;
  const factorNamed = (stage, name) => stage.factors.find((factor) => factor.name === name);
  const dividing = (stage) => stage.factors.filter((factor) => factor.levels.length <= MAX_LEVELS);
  const domainsOf = (score) => data.domains.filter((_, place) => score.values[place + 1]);

  const columns = new Map(); // values of a score, NaN where there is none
  function valuesOf(stage, score, domain) {
    const key = [stage.name, score.name, domain].join("\n");
    if (!columns.has(key)) {
      const whole = score.values[domain === OWN ? 0 : data.domains.indexOf(domain) + 1] ?? [];
      columns.set(key, Float64Array.from(stage.runs, (_, run) => (whole[run] ?? NaN) / score.scale));
    }
    return columns.get(key);
  }

  const sortedValues = (values, runs) => Float64Array.from(runs, (run) => values[run]).filter(Number.isFinite).sort();

  // --- the state, and the fragment that holds it

  const RESERVED = ["stage", "score", "on", "by", "sort", "page", "run"];
  let state = null;

  const endOfRange = (text, place) => (text === "" ? [-Infinity, Infinity][place] : Number(text));

  // Returns null for the fragment of another place of the page: then the state stays.
  function readFragment(hash) {
    if (hash && hash !== "#runs" && !hash.startsWith("#runs?")) return null;
    const query = new URLSearchParams(hash.slice("#runs?".length));
    const unknown = [];
    const choose = (name, options, otherwise) => {
      const value = query.get(name);
      if (value !== null && !options.includes(value)) unknown.push(`${name}=${value}`);
      return options.includes(value) ? value : otherwise;
    };
    const name = choose("stage", data.stages.map((one) => one.name), data.stages[data.first].name);
    const stage = data.stages.find((one) => one.name === name);
    const scoreName = choose("score", stage.scores.map((one) => one.name), stage.scores[0]?.name);
    const score = stage.scores.find((one) => one.name === scoreName);
    const filters = new Map();
    for (const key of new Set(query.keys())) {
      if (RESERVED.includes(key)) continue;
      const factor = factorNamed(stage, key), texts = query.getAll(key);
      if (!factor) {
        unknown.push(...texts.map((text) => `${key}=${text}`));
      } else if (factor.kind === "range") {
        const ends = texts[0].split("..").map(endOfRange);
        if (ends.length === 2 && !ends.some(Number.isNaN)) filters.set(key, ends);
        else unknown.push(`${key}=${texts[0]}`);
      } else {
        const levels = texts.filter((text) => factor.levels.includes(text));
        unknown.push(...texts.filter((text) => !levels.includes(text)).map((text) => `${key}=${text}`));
        if (levels.length) filters.set(key, levels);
      }
    }
    const sort = query.get("sort") ?? "";
    return {
      stage, score, filters, unknown,
      domain: score ? choose("on", [OWN, ...domainsOf(score)], OWN) : OWN,
      by: choose("by", ["", ...dividing(stage).map((factor) => factor.name)], dividing(stage)[0]?.name ?? ""),
      sort: sort.replace(/^-/, ""),
      descending: sort.startsWith("-"),
      page: Math.max(1, Number.parseInt(query.get("page") ?? "1", 10) || 1),
      run: choose("run", stage.runs, null),
    };
  }

  // Returns the fragment of a state; what is as by default is left out.
  function fragment(changes) {
    const one = { ...state, ...changes }, query = new URLSearchParams();
    if (one.stage !== data.stages[data.first]) query.append("stage", one.stage.name);
    for (const [name, value] of one.filters) {
      const isRange = factorNamed(one.stage, name).kind === "range";
      const texts = isRange ? [value.map((end) => (Number.isFinite(end) ? String(end) : "")).join("..")] : value;
      for (const text of texts) query.append(name, text);
    }
    if (one.score && one.score !== one.stage.scores[0]) query.append("score", one.score.name);
    if (one.domain !== OWN) query.append("on", one.domain);
    if (one.by !== (dividing(one.stage)[0]?.name ?? "")) query.append("by", one.by);
    if (one.sort || one.descending) query.append("sort", (one.descending ? "-" : "") + one.sort);
    if (one.page > 1) query.append("page", one.page);
    if (one.run) query.append("run", one.run);
    return `#runs?${query}`;
  }

  const go = (changes) => { location.hash = fragment({ page: 1, run: null, ...changes }); };

  // --- the selected runs

  function selectedRuns() {
    const tests = [...state.filters].map(([name, value]) => {
      const factor = factorNamed(state.stage, name);
      const allowed = factor.levels.map((level, code) => factor.kind === "range"
        ? value[0] <= factor.numbers[code] && factor.numbers[code] <= value[1] : value.includes(level));
      return (run) => allowed[codeOf(factor, run)] === true; // not where the run has no level
    });
    return state.stage.runs.map((_, run) => run).filter((run) => tests.every((test) => test(run)));
  }

  // --- controls

  function options(select, pairs, chosen) {
    select.replaceChildren(...pairs.map(([value, label]) => make("option", { value }, label)));
    select.value = chosen;
    select.closest("label").hidden = pairs.length < 2;
  }

  function filterOf(factor) {
    const attributes = { "data-factor": factor.name };
    if (factor.kind === "range") {
      const low = Math.min(...factor.numbers), high = Math.max(...factor.numbers);
      const ends = ["from", "to"].map((end, place) => make("label", {}, `${end} `,
        make("input", { type: "number", step: "any", placeholder: [low, high][place] })));
      return make("fieldset", attributes, make("legend", {}, factor.label), ...ends);
    }
    if (factor.kind === "list") {
      const select = make("select", { multiple: true, size: 6 },
        ...factor.levels.map((level) => make("option", { value: level }, level)));
      return make("fieldset", attributes, make("legend", {}, factor.label), make("label", {}, "any of ", select));
    }
    const toggles = factor.levels.map((level) => make("label", { class: "toggle" },
      make("input", { type: "checkbox", value: level }), make("span", {}, level)));
    return make("fieldset", attributes, make("legend", {}, factor.label), ...toggles);
  }

  let controlsOf = null;
  function drawControls() {
    const { stage, score, filters } = state;
    if (controlsOf !== stage) element("filters").replaceChildren(...stage.factors.map(filterOf));
    controlsOf = stage;
    for (const fieldset of element("filters").children) {
      const value = filters.get(fieldset.dataset.factor);
      fieldset.querySelectorAll("input[type=checkbox]").forEach((box) => { box.checked = !!value?.includes(box.value); });
      fieldset.querySelectorAll("option").forEach((option) => { option.selected = !!value?.includes(option.value); });
      fieldset.querySelectorAll("input[type=number]").forEach((input, place) => {
        input.value = value && Number.isFinite(value[place]) ? value[place] : "";
      });
    }
    options(element("stage"), data.stages.map((one) => [one.name, one.label]), stage.name);
    options(element("score"), stage.scores.map((one) => [one.name, one.label]), score?.name);
    const domains = score ? domainsOf(score) : [];
    options(element("domain"), [[OWN, "the domain trained on"], ...domains.map((name) => [name, name])], state.domain);
    options(element("factor"), [...dividing(stage).map((one) => [one.name, one.label]), ["", "nothing"]], state.by);
  }

  function readControls(event) {
    const name = event.target.closest("fieldset")?.dataset.factor;
    if (event.target === element("stage")) {
      const stage = data.stages.find((one) => one.name === event.target.value);
      const first = dividing(stage)[0]?.name ?? "";
      const score = stage.scores.find((one) => one.name === state.score?.name) ?? stage.scores[0];
      const filters = new Map([...state.filters].filter(([key, value]) => {
        const factor = factorNamed(stage, key); // of an ancestor, say
        return factor && (factor.kind === "range" || value.every((level) => factor.levels.includes(level)));
      }));
      const by = factorNamed(stage, state.by) ? state.by : first;
      return go({ stage, score, filters, by, domain: OWN, sort: "", descending: false });
    }
    if (event.target === element("score")) {
      const score = state.stage.scores.find((one) => one.name === event.target.value);
      return go({ score, domain: domainsOf(score).includes(state.domain) ? state.domain : OWN });
    }
    if (event.target === element("domain")) return go({ domain: event.target.value });
    if (event.target === element("factor")) return go({ by: event.target.value });
    if (!name) return undefined;
    const fieldset = event.target.closest("fieldset"), filters = new Map(state.filters);
    const inputs = [...fieldset.querySelectorAll("input[type=number]")];
    const ends = inputs.map((input, place) => endOfRange(input.value, place));
    const levels = [...fieldset.querySelectorAll("input:checked, option:checked")].map((one) => one.value);
    if (ends.some(Number.isFinite)) filters.set(name, ends);
    else if (levels.length) filters.set(name, levels);
    else filters.delete(name);
    return go({ filters });
  }

  // --- the score by level

  const reference = new Map(); // summaries of all runs of a level
  function summaryOfAll(place, runs, values) {
    const key = [state.stage.name, state.score?.name, state.domain, state.by, place].join("\n");
    if (!reference.has(key)) reference.set(key, summary(sortedValues(values, runs)));
    return reference.get(key);
  }

  // Returns place(value) in percent of an axis that holds the numbers, logarithmic where they differ more than 8-fold.
  function axisOf(numbers) {
    let low = Math.min(...numbers), high = Math.max(...numbers);
    if (!(low < high)) { const margin = Math.abs(low) * 0.05 || 1; low -= margin; high += margin; }
    const isLog = low > 0 && high / low > 8, map = isLog ? Math.log : (value) => value;
    const place = (value) => 2 + (96 * (map(value) - map(low))) / (map(high) - map(low));
    const ticks = [];
    if (isLog) {
      const steps = high / low < 100 ? [1, 2, 5] : [1];
      for (let decade = Math.floor(Math.log10(low)); 10 ** decade <= high; decade++) {
        ticks.push(...steps.map((step) => step * 10 ** decade).filter((tick) => low <= tick && tick <= high));
      }
    } else {
      const rough = (high - low) / 4, decade = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].map((one) => one * decade).find((one) => one >= rough);
      for (let k = Math.ceil(low / step); k * step <= high; k++) ticks.push(k * step);
    }
    return { place, ticks };
  }

  const percent = (value) => `${value.toFixed(2)}%`;
  function bar(place, from, to, y, height, className) {
    const width = percent(Math.max(0.2, place(to) - place(from)));
    return make("rect", { x: percent(place(from)), width, y, height, class: className });
  }

  // Returns the distribution of the selected runs over that of all of the level.
  function strip(all, selected, axis, label) {
    const svg = make("svg", { class: "strip", role: "img", "aria-label": label });
    for (const tick of axis.ticks) {
      const x = percent(axis.place(tick));
      svg.append(make("line", { x1: x, x2: x, y1: 0, y2: 30, class: "grid" }));
    }
    if (all.quantiles.length) {
      const [low, first, , third, high] = all.quantiles;
      svg.append(bar(axis.place, low, high, 13.5, 3, "all"), bar(axis.place, first, third, 5, 20, "all"));
    }
    if (selected.sorted.length > MAX_TICKS) {
      const [low, first, , third, high] = selected.quantiles;
      svg.append(bar(axis.place, low, high, 13.5, 3, "selected"), bar(axis.place, first, third, 9, 12, "selected"));
    } else {
      for (const value of selected.sorted) {
        const x = percent(axis.place(value));
        svg.append(make("line", { x1: x, x2: x, y1: 9, y2: 21, class: "tick" }));
      }
    }
    if (selected.sorted.length) {
      const x = percent(axis.place(selected.quantiles[2]));
      if (selected.interval) svg.append(bar(axis.place, ...selected.interval, 14, 2, "interval"));
      svg.append(make("circle", { cx: x, cy: 15, r: 3.5, class: "median" }));
    }
    return svg;
  }

  function drawLevels(runs, values) {
    const { stage, by } = state, factor = factorNamed(stage, by);
    const everyRun = stage.runs.map((_, run) => run);
    const groups = [{ label: "all", all: everyRun, selected: runs }];
    if (factor) {
      const divide = (some) => {
        const parts = factor.levels.map(() => []);
        for (const run of some) parts[codeOf(factor, run)]?.push(run);
        return parts;
      };
      const all = divide(everyRun), selected = divide(runs);
      factor.levels.forEach((label, code) => groups.push({ label, all: all[code], selected: selected[code] }));
    }
    groups.forEach((group, place) => {
      group.reference = summaryOfAll(place, group.all, values);
      group.summary = summary(sortedValues(values, group.selected));
    });
    const extent = groups.flatMap(({ reference: all, summary: some }) => [
      ...(all.quantiles.length ? [all.quantiles[0], all.quantiles[4]] : []),
      ...(some.sorted.length > MAX_TICKS ? [some.quantiles[0], some.quantiles[4]] : some.sorted),
      ...(some.interval ?? []),
    ]);
    const axis = axisOf(extent.length ? extent : [0, 1]);
    const scale = make("svg", { class: "strip scale", "aria-hidden": "true" }, ...axis.ticks.map((tick) => {
      const text = String(Number(tick.toPrecision(6))).replace("-", "−");
      return make("text", { x: percent(axis.place(tick)), y: 12, "text-anchor": "middle" }, text);
    }));
    const hasFailures = Object.keys(stage.errors).length > 0;
    const numbers = ["runs", ...(hasFailures ? ["failed"] : []), "median", "95 % interval"];
    const head = make("tr", {}, th({}, factor?.label ?? ""), th({ class: "drawing-cell" }, state.score?.label ?? "", scale),
      ...numbers.map((text) => th({ class: "number" }, text)));
    const rows = groups.map(({ label, all, selected, reference: whole, summary: some }, place) => {
      const median = format(some.quantiles[2] ?? NaN);
      const interval = some.interval ? some.interval.map(format).join(" to ") : "–";
      const failed = selected.filter((run) => isFailed(stage, run)).length;
      const drawing = strip(whole, some, axis, `${label}: median ${median}, interval ${interval}`);
      return make("tr", { "data-level": place ? label : "", class: place ? null : "total" },
        make("th", { scope: "row" }, place ? label : factor ? "all of these" : "all"),
        make("td", { class: "drawing-cell" }, drawing),
        numberCell(`${grouped(selected.length)} of ${grouped(all.length)}`),
        ...(hasFailures ? [numberCell(grouped(failed))] : []), numberCell(median), numberCell(interval));
    });
    element("levels").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
  }

  // --- the table of runs

  function tableColumns(values) {
    const { stage, score } = state;
    const settings = stage.factors.map((factor) => ({
      name: factor.name, label: factor.label, text: (run) => levelOf(factor, run),
      key: (run) => (codeOf(factor, run) < 0 ? NaN : codeOf(factor, run)),
    }));
    const result = {
      name: "score", label: score?.label ?? "score", isNumber: true, key: (run) => values[run],
      text: (run) => (isFailed(stage, run) ? "failed" : format(values[run])),
    };
    return [{ name: "run", label: "run", key: (run) => run }, result, ...settings];
  }

  function drawTable(runs, values) {
    const { stage, score } = state;
    const shown = tableColumns(values);
    const sorting = shown.find((column) => column.name === state.sort) ?? shown[1];
    const isFirst = sorting.name === "score" && state.sort === "" && !state.descending; // by default: the best first
    const descending = isFirst ? score && !score.lower : state.descending;
    const keys = new Map(runs.map((run) => [run, sorting.key(run)]));
    const last = descending ? -Infinity : Infinity;
    const ordered = [...runs].sort((a, b) => {
      const [left, right] = [keys.get(a), keys.get(b)].map((key) => (Number.isNaN(key) ? last : key));
      return (left === right ? a - b : descending ? right - left : left - right) || 0;
    });
    const pages = Math.max(1, Math.ceil(ordered.length / PAGE_ROWS)), page = Math.min(state.page, pages);
    const rows = ordered.slice((page - 1) * PAGE_ROWS, page * PAGE_ROWS);
    const table = element("table");
    table.tHead.replaceChildren(make("tr", {}, ...shown.map((column) => {
      const isSorted = column === sorting;
      const attributes = { type: "button", "data-sort": column.name, "data-focus": `sort ${column.name}` };
      const button = make("button", attributes, column.label);
      button.addEventListener("click", () => go({
        sort: column.name, descending: isSorted ? !descending : column.isNumber ? !score?.lower : false, run: state.run,
      }));
      return make("th", { scope: "col", class: column.isNumber ? "number" : null,
        "aria-sort": isSorted ? (descending ? "descending" : "ascending") : null }, button);
    })));
    table.tBodies[0].replaceChildren(...rows.map((run) => {
      const name = stage.runs[run];
      const link = make("a", { href: fragment({ run: name }), "data-focus": `run ${name}` }, name);
      const isOpen = name === state.run;
      return make("tr", { "aria-current": isOpen ? "true" : null }, make("th", { scope: "row" }, link),
        ...shown.slice(1).map((column) => make("td", { class: column.isNumber ? "number" : null }, column.text(run))));
    }));
    const first = (page - 1) * PAGE_ROWS + 1;
    const end = first + rows.length - 1;
    element("page").textContent = ordered.length ? `${grouped(first)} to ${grouped(end)} of ${grouped(ordered.length)}` : "no run";
    element("previous").disabled = page <= 1;
    element("next").disabled = page >= pages;
    element("previous").onclick = () => go({ page: page - 1 });
    element("next").onclick = () => go({ page: page + 1 });
  }

  // --- one run

  function pairsTable(pairs) {
    return make("table", { class: "pairs" }, make("tbody", {}, ...pairs.map(([name, value]) =>
      make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)))));
  }

  // Returns the scores of a run by metric and domain; the longer of them goes down.
  function scoresTable(stage, run) {
    const present = data.domains.map((_, place) => place + 1).filter((place) =>
      stage.scores.some((score) => (score.values[place]?.[run] ?? null) !== null));
    const domains = [0, ...present].map((place) => ({ place, label: place ? data.domains[place - 1] : "domain trained on" }));
    const isTall = present.length > Math.max(6, stage.scores.length);
    const [across, down] = isTall ? [stage.scores, domains] : [domains, stage.scores];
    const cell = (score, { place }) => make("td", { class: "number", "data-score": score.name },
      format((score.values[place]?.[run] ?? NaN) / score.scale));
    const rows = down.map((one) => make("tr", {}, make("th", { scope: "row" }, one.label),
      ...across.map((other) => (isTall ? cell(other, one) : cell(one, other)))));
    const head = make("tr", {}, th({}, `${data.split} split`), ...across.map((one) => th({ class: "number" }, one.label)));
    return make("div", { class: "wide" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
  }

  function curvesOf(stage, run) {
    const curves = stage.curves;
    if (!curves || curves.codes[run] < 0) return null;
    const epochs = curves.epochs[curves.codes[run]];
    const lines = [["train", "training"], ["validation", "validation"]].map(([name, label]) => ({
      name, label, points: epochs.map((epoch, i) => [epoch, (curves[name][run][i] ?? NaN) / curves.scale])
        .filter(([, loss]) => Number.isFinite(loss)),
    })).filter(({ points }) => points.length);
    if (!lines.length) return null;
    const losses = lines.flatMap(({ points }) => points.map(([, loss]) => loss));
    const low = Math.min(...losses), high = Math.max(...losses), last = epochs.at(-1), first = epochs[0];
    const x = (epoch) => 60 + (560 * (epoch - first)) / Math.max(1, last - first);
    const y = (loss) => 170 - (155 * (loss - low)) / (high - low || 1);
    const svg = make("svg", { viewBox: "0 0 640 215", class: "curve", role: "img",
      "aria-label": `Loss by epoch, from ${format(losses[0])} to ${format(losses.at(-1))}` },
      ...[low, high].flatMap((loss) => [make("line", { x1: 60, x2: 620, y1: y(loss), y2: y(loss), class: "grid" }),
        make("text", { x: 54, y: y(loss) + 4, "text-anchor": "end" }, format(loss))]),
      ...[first, last].map((epoch) => make("text", { x: x(epoch), y: 188, "text-anchor": "middle" }, String(epoch))),
      make("text", { x: 340, y: 188, "text-anchor": "middle" }, "epoch"));
    lines.forEach(({ name, label, points }, place) => {
      const corners = points.map(([epoch, loss]) => `${x(epoch).toFixed(1)},${y(loss).toFixed(1)}`).join(" ");
      svg.append(make("polyline", { points: corners, class: name }),
        make("line", { x1: 60 + 190 * place, x2: 84 + 190 * place, y1: 206, y2: 206, class: name }),
        make("text", { x: 90 + 190 * place, y: 210 }, `loss, ${label}`));
    });
    const note = curves.points ? make("p", { class: "note" }, `At ${curves.points} of its epochs at most.`) : "";
    return make("div", {}, svg, note);
  }

  function commandLine(command) {
    const button = make("button", { type: "button", class: "controls" }, "copy"), code = make("code", {}, command);
    button.addEventListener("click", async () => {
      getSelection().selectAllChildren(code); // what can be copied by hand where the browser allows no more
      try {
        await navigator.clipboard.writeText(command);
        button.textContent = "copied";
      } catch {
        button.textContent = "selected";
      }
    });
    return make("p", { class: "command" }, code, " ", button);
  }

  let openRun = null;
  function drawRun() {
    const panel = element("run"), { stage } = state, run = stage.runs.indexOf(state.run);
    const isNew = state.run !== openRun, before = openRun;
    openRun = state.run;
    panel.hidden = run < 0;
    if (run < 0) {
      panel.replaceChildren();
      if (before !== null) section.querySelector(`[data-focus="run ${CSS.escape(before)}"]`)?.focus();
      return;
    }
    const heading = make("h3", { id: "runs-run-heading", tabindex: -1 }, `Run ${state.run}`);
    const close = make("a", { href: fragment({ run: null }), class: "controls close" }, "close");
    const parts = [make("div", { class: "head" }, heading, close)];
    if (isFailed(stage, run)) parts.push(make("p", { class: "notice failure" }, `Failed: ${stage.errors[run]}`));
    const settings = [["stage", stage.label], ...[...stage.factors, ...stage.settings]
      .filter((column) => codeOf(column, run) >= 0).map((column) => [column.label, levelOf(column, run)])];
    const parent = data.stages.find((one) => one.name === stage.parent);
    if (parent && stage.parents[run] >= 0) {
      const name = parent.runs[stage.parents[run]];
      const by = dividing(parent)[0]?.name ?? "", score = parent.scores[0];
      const place = { stage: parent, score, by, filters: new Map(), domain: OWN, sort: "", descending: false, page: 1 };
      const href = fragment({ ...place, run: name });
      settings.push(["starts from", make("a", { href }, name)]);
    }
    const figures = stage.figures[run] ?? [];
    if (figures.length) {
      const links = figures.map((number) => make("a", { href: `#figure-${number}` }, `figure ${number}`));
      settings.push(["images", make("span", {}, ...links.flatMap((link, place) => (place ? [", ", link] : [link])))]);
    }
    parts.push(pairsTable(settings));
    if (!isFailed(stage, run)) parts.push(scoresTable(stage, run));
    const curves = curvesOf(stage, run);
    if (curves) parts.push(curves);
    if (stage.folders) {
      const folder = `${stage.folders.levels[stage.folders.codes[run]]}/${state.run}`.replace(/^\.\//, "");
      const commands = [`segue inspect ${folder}`, `segue report ${folder} -o ${state.run}.html`];
      if (!isFailed(stage, run)) parts.push(...commands.map(commandLine));
    }
    panel.replaceChildren(...parts);
    if (isNew) heading.focus();
  }

  // --- all of it

  function draw(hash) {
    const next = readFragment(hash);
    if (next === null) return false;
    state = next;
    const focus = document.activeElement?.dataset?.focus;
    const { stage, score } = state, runs = selectedRuns();
    const values = score ? valuesOf(stage, score, state.domain) : new Float64Array(stage.runs.length).fill(NaN);
    drawControls();
    const failed = Object.keys(stage.errors).length, failedHere = runs.filter((run) => isFailed(stage, run)).length;
    element("count").textContent = `${grouped(runs.length)} of ${grouped(stage.runs.length)} ${stage.runs.length === 1 ? "run" : "runs"}`
      + (failed ? `, ${grouped(failedHere)} of them failed` : "");
    element("clear").hidden = !state.filters.size;
    element("clear").setAttribute("href", fragment({ filters: new Map(), page: 1, run: null }));
    const active = [...state.filters].map(([name, value]) => {
      const { label, kind } = factorNamed(stage, name);
      const ends = value.map((end) => (Number.isFinite(end) ? end : "any"));
      return `${label}: ${kind === "range" ? ends.join(" to ") : value.join(" or ")}`;
    });
    element("active").textContent = [stage.label, ...active].join("; ");
    const missing = data.left_out.length ? ` Not in this page, for its size: ${data.left_out.join(", ")}.` : "";
    const domain = state.domain === OWN ? "the domain trained on" : state.domain;
    const direction = `${score?.lower ? "lower" : "higher"} is better`;
    const shown = score ? `Shown: ${score.label} (${direction}), ${data.split} split, tested on ${domain}.` : "No score.";
    element("scope").textContent = shown + missing;
    element("notice").hidden = !state.unknown.length;
    element("notice").textContent = `The address names what this page does not have: ${state.unknown.join(", ")}.`;
    drawLevels(runs, values);
    drawTable(runs, values);
    drawRun();
    if (focus && document.activeElement === document.body) {
      section.querySelector(`[data-focus="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
    }
    return true;
  }

  const section = document.getElementById("runs");
  section.hidden = false;
  document.querySelectorAll("[data-script]").forEach((one) => { one.hidden = false; });
  element("form").addEventListener("change", readControls);
  element("form").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => draw(location.hash));
  if (!draw(location.hash)) draw(""); // the address is of another place of the page
  else if (location.hash && !state.run) section.scrollIntoView({ behavior: "instant" });
})();
