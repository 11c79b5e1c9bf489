"use strict";
// Without this script the page is plain tables. What comes from records goes in as text, never as markup.

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const percent = (share) => (share === null || share === undefined ? "–" : (100 * share).toFixed(1));

// Records: each field of each is an index into the values.

let store = null;

function records() {
  store ??= JSON.parse(document.getElementById("records").textContent);
  return store;
}

function record(key) {
  const { fields, records: all, values } = records();
  const one = Object.fromEntries(fields.map((field, number) => [field, values[all[key][number]]]));
  return { ...one, key, stages: one.stages.map((stage) => values[stage]) };
}

const keysOf = (hash) =>
  new URLSearchParams(hash.slice(1)).getAll("record").filter((key) => Object.hasOwn(records().records, key));

// Tables: sorted by a click on a heading; numbers begin with the highest, and what is no number stays last. Floors and
// ceilings are sorted among themselves.

const tables = [...document.querySelectorAll("section.table")].map((section) => ({
  section,
  title: section.querySelector("h2").textContent.toLowerCase(),
  headings: [...section.querySelectorAll("thead th")],
  rows: [...section.querySelectorAll("tbody tr:not(.apart)")],
}));

function valueOf(row, column, numeric) {
  const text = row.cells[column].textContent.trim();
  if (!numeric) return text || null;
  const number = parseFloat(text.replace("−", "-"));
  return Number.isNaN(number) ? null : number;
}

const collator = new Intl.Collator("en", { numeric: true });

function sort(table, column) {
  const heading = table.headings[column];
  const numeric = heading.classList.contains("n");
  const first = numeric ? "descending" : "ascending";
  const other = numeric ? "ascending" : "descending";
  const order = heading.getAttribute("aria-sort") === first ? other : first;
  const sign = order === "ascending" ? 1 : -1;
  const values = new Map(table.rows.map((row) => [row, valueOf(row, column, numeric)]));
  table.rows.sort((a, b) => {
    const [left, right] = [values.get(a), values.get(b)];
    if (left === null || right === null) return (left === null) - (right === null);
    return sign * (numeric ? left - right : collator.compare(left, right));
  });
  for (const row of table.rows) row.parentNode.append(row);
  for (const one of table.headings) one.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  listClasses(table);
}

for (const table of tables) {
  table.headings.forEach((heading, column) => {
    const button = make("button", { type: "button" }, ...heading.childNodes);
    button.addEventListener("click", () => sort(table, column));
    heading.append(button);
  });
}

// The filter: a row is shown if it, or its table's title, has every word.

const filter = document.getElementById("filter");

function narrow() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  let all = 0;
  for (const table of tables) {
    let here = 0;
    for (const row of table.rows) {
      row.text ??= `${table.title} ${row.textContent.toLowerCase()}`;
      row.hidden = !words.every((word) => row.text.includes(word));
      here += !row.hidden;
    }
    for (const line of table.section.querySelectorAll(".apart")) {
      line.hidden = !line.parentNode.querySelector("tr:not(.apart):not([hidden])");
    }
    table.section.querySelector(".box").hidden = here === 0;
    table.section.querySelector(".no-match").hidden = here > 0;
    shown += here;
    all += table.rows.length;
    listClasses(table);
  }
  document.querySelector(".filter output").textContent = words.length ? `${shown} of ${all} rows` : `${all} rows`;
}

filter.addEventListener("input", narrow);

// IoU per class of the rows that are shown: drawn when somebody opens it.

const LINES = 50;

function bar(share) {
  return make("span", { class: "bar", style: `--share: ${100 * (share ?? 0)}%` }, percent(share));
}

function listClasses(table) {
  const details = table.section.querySelector("details.classes");
  if (!details?.open) return;
  const shown = table.rows.filter((row) => !row.hidden);
  const links = shown.map((row) => row.querySelector("a[href^='#record=']")).filter(Boolean);
  const keys = [...new Set(links.flatMap((link) => keysOf(link.hash)))];
  const lines = keys.slice(0, LINES).map(record).filter((one) => Object.keys(one.splits).length);
  const splits = [...new Set(lines.flatMap((one) => Object.keys(one.splits)))];
  const chosen = details.querySelector("select")?.value ?? splits.at(-1);
  const select = make("select", {}, ...splits.map((split) => make("option", {}, split)));
  select.value = chosen;
  select.addEventListener("change", () => listClasses(table));
  const classes = lines[0]?.classes ?? [];
  const head = make("tr", {}, make("th", { scope: "col" }, "cell"));
  head.append(...["mean", ...classes].map((name) => make("th", { scope: "col", class: "n" }, name)));
  const body = make("tbody");
  for (const one of lines) {
    const scores = one.splits[chosen];
    if (!scores) continue;
    const label = one.limit ? `${one.title}, first ${one.limit}` : one.title;
    const link = make("a", { href: `#${new URLSearchParams({ record: one.key })}` }, label);
    const cells = [scores.miou, ...scores.iou].map((share) => make("td", { class: "n" }, bar(share)));
    body.append(make("tr", {}, make("th", { scope: "row" }, link), ...cells));
  }
  const box = make("div", { class: "box", role: "region", "aria-label": "IoU per class", tabindex: "0" });
  box.append(make("table", {}, make("thead", {}, head), body));
  const rest = keys.length > LINES ? `, the first ${LINES} of ${keys.length} cells: filter to see others` : "";
  const about = make("p", {}, make("label", {}, "Split ", select), `, in per cent${rest}`);
  details.replaceChildren(details.querySelector("summary"), about, box);
}

for (const table of tables) {
  table.section.querySelector("details.classes")?.addEventListener("toggle", () => listClasses(table));
}

// Badges: their text is shown while they are pointed at or have the focus, and stays while it is pointed at itself.

let tip = null;
let leaving = 0;

function hideTip() {
  clearTimeout(leaving);
  if (tip?.matches(":popover-open")) tip.hidePopover();
  tip = null;
}

function showTip(badge) {
  const text = document.getElementById(badge.getAttribute("popovertarget"));
  clearTimeout(leaving);
  if (tip !== text) hideTip();
  tip = text;
  text.style.maxHeight = "";
  if (!text.matches(":popover-open")) text.showPopover();
  const at = badge.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.left, document.documentElement.clientWidth - text.offsetWidth - 8));
  const [under, over] = [innerHeight - at.bottom - 14, at.top - 14]; // never on the badge itself
  const below = text.scrollHeight < under || under > over;
  const high = Math.min(text.offsetHeight, below ? under : over);
  const top = below ? at.bottom + 6 : at.top - high - 6;
  Object.assign(text.style, { margin: 0, inset: "auto", left: `${left}px`, top: `${top}px`, maxHeight: `${high}px` });
}

const badgeAt = (event) => event.target.closest?.("[popovertarget]");

document.addEventListener("pointerover", (event) => {
  if (badgeAt(event)) showTip(badgeAt(event));
  else if (tip?.contains(event.target)) clearTimeout(leaving);
});
document.addEventListener("pointerout", (event) => {
  if (event.pointerType !== "mouse" || !tip || !(badgeAt(event) || tip.contains(event.target))) return;
  clearTimeout(leaving);
  leaving = setTimeout(hideTip, 200);
});
document.addEventListener("focusin", (event) => badgeAt(event)?.matches(":focus-visible") && showTip(badgeAt(event)));
document.addEventListener("focusout", (event) => badgeAt(event) && hideTip());
document.addEventListener("click", (event) => badgeAt(event) && showTip(badgeAt(event)));

// The drawer: where a number comes from.

const drawer = document.getElementById("drawer");

function say(value) {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.map(say).join(", ") || "–";
  return String(value);
}

function flat(values) {
  return Object.entries(values).flatMap(([name, value]) =>
    value && typeof value === "object" && !Array.isArray(value)
      ? flat(value).map(([inner, one]) => [`${name}.${inner}`, one])
      : [[name, value]],
  );
}

function facts(title, values) {
  const filled = flat(values).filter(([, value]) => value !== "" && value !== null);
  if (!filled.length) return [];
  const list = make("dl");
  for (const [name, value] of filled) list.append(make("dt", {}, name), make("dd", {}, say(value)));
  return [make("h3", {}, title), list];
}

function grid(columns, rows, numeric = () => true) {
  const kind = (number) => (numeric(number) ? { class: "n" } : {});
  const head = make("tr", {}, make("th", { scope: "col" }, columns[0]));
  head.append(...columns.slice(1).map((name, number) => make("th", { scope: "col", ...kind(number) }, name)));
  const body = rows.map(([first, ...rest]) => {
    const cells = rest.map((value, number) => make("td", kind(number), value));
    return make("tr", {}, make("th", { scope: "row" }, first), ...cells);
  });
  const box = make("div", { class: "box", tabindex: "0", role: "region", "aria-label": columns[0] || "scores" });
  box.append(make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  return box;
}

const SCORES = {
  miou: "mIoU", pixacc: "pixAcc", macc: "mAcc", coverage: "coverage", foreground: "foreground", pxap: "PxAP",
};

function scores(one) {
  const splits = Object.entries(one.splits);
  if (!splits.length) return [];
  const rows = Object.entries(SCORES).map(([name, label]) => [label, ...splits.map(([, s]) => percent(s[name]))]);
  rows.splice(1, 0, ["95 % over images", ...splits.map(([, s]) => s.interval.map(percent).join("–"))]);
  const classes = one.classes.map((name, number) => [name, ...splits.map(([, s]) => bar(s.iou[number]))]);
  const names = splits.map(([split]) => split);
  const details = make("details", {}, make("summary", {}, "IoU per class"), grid(["class", ...names], classes));
  return [make("h3", {}, "Scores, in per cent"), grid(["score", ...names], rows), details];
}

const signed = (points) => `${points < 0 ? "−" : "+"}${Math.abs(points).toFixed(1)}`;

function against(one) {
  if (!one.against.length) return [];
  const rows = one.against.map(([name, points, low, high]) => [
    name, signed(points), `${signed(low)} to ${signed(high)}`, low <= 0 && high >= 0 ? "no" : "yes",
  ]);
  const columns = ["compared with, mean over seeds", "points of mIoU", "95 % over the same images", "told apart"];
  return [make("h3", {}, "Against the others of its table"), grid(columns, rows)];
}

function itsMethod(one) {
  if (!one.about) return [];
  return [make("h3", {}, "The method"), ...one.about.split("\n\n").map((text) => make("p", {}, text))];
}

function failure(one) {
  if (one.status === "done") return [];
  const about = [make("h3", {}, "Why there is no score"), make("p", {}, one.reason)];
  if (one.failed_stage) about.push(make("p", {}, `stage ${one.failed_stage}`));
  if (one.tail) about.push(make("pre", { tabindex: "0" }, one.tail));
  return about;
}

function groundTruth(one) {
  if (!one.ground_truth.length) return [];
  const uses = one.ground_truth.map((use) => {
    const [kind, label] = use.allowed ? ["plain", "allowed"] : ["warn", "not allowed"];
    return make("li", {}, make("span", { class: `pill ${kind}` }, label), ` ${use.what} of ${use.split}, for ${use.for}`);
  });
  return [make("h3", {}, "Ground truth used before the evaluation"), make("ul", {}, ...uses)];
}

function stages(one) {
  if (!one.stages.length) return [];
  const rows = one.stages.map(([stage, key, seconds, memory, device]) => [
    stage, make("code", {}, key.slice(0, 8)), seconds.toFixed(1), memory, device,
  ]);
  const total = one.stages.reduce((sum, [, , seconds]) => sum + seconds, 0);
  const columns = ["stage", "key", "seconds", "peak memory, MiB", "device"];
  return [make("h3", {}, `Stages, ${total.toFixed(1)} s in all`), grid(columns, rows, (number) => number === 1)];
}

function describe(one) {
  const status = { done: "good", skipped: "plain" }[one.status] ?? "bad";
  const about = make("p", {}, make("span", { class: `pill ${status}` }, one.status), ` ended ${one.ended}, key `);
  about.append(make("code", {}, one.key));
  return [
    about,
    ...failure(one),
    ...scores(one),
    ...against(one),
    ...itsMethod(one),
    ...facts("Spec", {
      method: one.method, version: one.method_version, supervision: one.supervision, backbone: one.backbone,
      timm: one.timm, dataset: one.dataset, seed: one.seed, limit: one.limit, ...one.params,
    }),
    ...facts("Set by", one.origins),
    ...facts("Protocol", one.protocol),
    ...facts("Effective rules", one.applied),
    ...groundTruth(one),
    ...facts("Weights", one.weights),
    ...facts("Checkpoint", one.checkpoint),
    ...facts("Choice of the epoch", one.choice),
    ...facts("Parameters", one.parameters),
    ...facts("Images", one.pictures),
    ...facts("Data, by content", one.data),
    ...stages(one),
    make("h3", {}, "Command"),
    make("pre", { tabindex: "0" }, one.command),
    make("p", {}, "Again: ", make("code", {}, `harness show ${one.key.slice(0, 8)} --reproduce`)),
    ...facts("Versions", { ...one.made_with, ...one.packages }),
  ];
}

function choose(keys, chosen) {
  const all = keys.map(record);
  const one = all[chosen];
  const close = make("button", { type: "button", class: "close", "aria-label": "Close" }, "✕");
  close.addEventListener("click", () => drawer.close());
  const head = make("div", { class: "head" }, make("h2", { id: "drawer-title" }, one.title), close);
  const others = make("div", { class: "others", role: "group", "aria-label": "Records of this row" });
  if (all.length > 1) {
    all.forEach((other, number) => {
      const label = `seed ${other.seed}, ${other.protocol.refine === "none" ? "BPM" : other.protocol.refine}`;
      const button = make("button", { type: "button", "aria-pressed": String(number === chosen) }, label);
      button.addEventListener("click", () => {
        choose(keys, number);
        drawer.querySelectorAll(".others button")[number].focus();
      });
      others.append(button);
    });
  }
  drawer.replaceChildren(head, others, ...describe(one));
}

function route() {
  const seed = (key) => record(key).seed;
  const keys = keysOf(location.hash).sort((a, b) => seed(a) - seed(b));
  if (!keys.length) {
    drawer.close();
    return;
  }
  hideTip();
  choose(keys, 0);
  if (!drawer.open) drawer.showModal();
  drawer.scrollTop = 0;
}

drawer.addEventListener("click", (event) => event.target === drawer && drawer.close());
drawer.addEventListener("close", () => {
  if (keysOf(location.hash).length) history.replaceState(null, "", location.pathname + location.search);
});
addEventListener("hashchange", route);
document.querySelector("main").addEventListener("click", (event) => {
  if (event.target.closest("a, button, summary, label") || String(getSelection())) return;
  const link = event.target.closest("tr")?.querySelector("a[href^='#record=']");
  if (link) location.hash = link.hash;
});

// Galleries: one overlay at a time, as strong as the slider says.

for (const gallery of document.querySelectorAll(".gallery")) {
  const [select, slider] = gallery.querySelectorAll(".controls select, .controls input");
  select.addEventListener("change", () => {
    for (const overlay of gallery.querySelectorAll(".overlay")) overlay.hidden = overlay.dataset.name !== select.value;
  });
  slider.addEventListener("input", () => {
    gallery.style.setProperty("--opacity", slider.value / 100);
    gallery.querySelector("output").textContent = `${slider.value} %`;
  });
}

document.body.classList.remove("no-js");
narrow();
route();
