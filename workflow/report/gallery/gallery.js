"use strict";
// The gallery. What stands in tables reaches the page as text alone; nothing is fetched.
(() => {
  const { study, classes, tolerance, scale, compared, tests, drawn, n_explained: explained, photos } = window.gallery;
  const $ = (id) => document.getElementById(id);
  const rem = () => parseFloat(getComputedStyle(document.documentElement).fontSize);
  const grid = $("grid"), panel = $("panel");
  const against = scale[1], speaksFor = scale[scale.length - 2];

  // ------------------------------------------------------------------------------- photographs

  const plain = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
  for (const photo of photos) {
    photo.confidence = photo.p[photo.predicted];
    photo.error = 1 - photo.p[photo.truth];
    photo.outcome = !photo.sure ? "unsure" : photo.predicted === photo.truth ? "right" : "wrong";
    photo.searched = plain(`${photo.horse}\n${photo.path}\n${photo.session ?? ""}`);
    for (const view of photo.views) {
      const speak = view.regions.filter(([, , , net]) => net > 0);
      const rows = speak.length ? speak : view.regions;
      view.top = rows.reduce((best, row) => (best && best[1] >= row[1] ? best : row), null)?.[0];
    }
  }
  // Occlusion and Grad-CAM need not add up to anything.
  const completeness = ({ gap }) => (gap === null ? "none" : gap <= tolerance ? "exact" : "rough");
  const distinct = (values) => [...new Set(values)];
  const views = distinct(photos.flatMap((photo) => photo.views.map((view) => view.view)));
  const shown = (photo) => photo.views.find((view) => view.view === state.view) ?? photo.views.at(-1);

  // ------------------------------------------------------------------------------------- state

  const DEFAULTS = {
    lang: navigator.language.startsWith("fr") ? "fr" : "en",
    text: "", predicted: "", truth: "", outcome: "", horse: "", region: "", gap: "",
    from: "0", to: "100", sort: "confidence", turned: "",
    view: views.at(-1) ?? "", strength: "80", map: "", size: "200", photo: "",
  };
  const FILTERS = ["text", "predicted", "truth", "outcome", "horse", "region", "gap", "from", "to"];
  const state = { ...DEFAULTS };
  let found = [], current = 0, opened = 0, columns = 1, tile = { width: 1, height: 1 };

  /** What is chosen stands in the address: a bookmark opens it again. */
  function remember() {
    const changed = Object.entries(state).filter(([key, value]) => value !== DEFAULTS[key]);
    history.replaceState(null, "", `#${new URLSearchParams(changed)}`);
  }

  function recall() {
    const given = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
    for (const key of Object.keys(DEFAULTS)) state[key] = given[key] ?? DEFAULTS[key];
    if (!Object.hasOwn(window.words, state.lang)) state.lang = "en";
  }

  // ------------------------------------------------------------------------------------- words

  let words, percent, percent1, number, compare;

  const say = (key, values = {}) => words[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const named = (name) => (Object.hasOwn(words.regions, name) ? words.regions[name] : name.replaceAll("_", " "));
  const of = (photo) => ({
    horse: photo.horse, predicted: classes[photo.predicted].name, truth: classes[photo.truth].name,
    target: classes[photo.target].name, against: classes[photo.against]?.name,
    confidence: percent.format(photo.confidence),
    outcome: say(photo.outcome),
  });

  function speak() {
    const { lang } = state;
    words = window.words[lang];
    percent = new Intl.NumberFormat(lang, { style: "percent" });
    percent1 = new Intl.NumberFormat(lang, { style: "percent", maximumFractionDigits: 1 });
    number = new Intl.NumberFormat(lang, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
    compare = new Intl.Collator(lang, { numeric: true }).compare;
    document.documentElement.lang = lang;
    document.title = `${say("title")} · ${study}`;
    for (const part of document.querySelectorAll("[data-word]")) part.textContent = say(part.dataset.word);
    $("study").textContent = say("study", { study });
    $("trust").textContent = [trust(), drawn ? say("drawn") : ""].filter(Boolean).join(" ");
    $("trust").className = tests?.failed ? "failed" : "";
    $("text").placeholder = say("find_hint");
    for (const key of ["previous", "next", "close"]) label($(key), say(key));
    $("previous").textContent = "←";
    $("next").textContent = "→";
    for (const button of $("languages").children) button.setAttribute("aria-pressed", button.value === lang);
    $("how").replaceChildren(...words.explanation.map((text) => make("p", {}, text)));
    fillControls();
  }

  /** Whether the maps passed the tests of explanations, and which they did not. */
  function trust() {
    if (!tests) return say("untested");
    const { passed = [], doubtful = [], failed = [] } = tests;
    const judged = passed.length + doubtful.length + failed.length;
    const named = Object.entries({ failed, doubtful }).filter(([, names]) => names.length)
      .map(([verdict, names]) => say(`tests_${verdict}`, { names: names.map((name) => words.tests[name]).join(", ") }));
    return `${[say("tested", { passed: passed.length, judged }), ...named].join(say("between"))}.`;
  }

  function label(part, text) {
    part.title = text;
    part.setAttribute("aria-label", text);
  }

  function make(tag, properties = {}, ...content) {
    const part = Object.assign(document.createElement(tag), properties);
    part.append(...content);
    return part;
  }

  // ---------------------------------------------------------------------------------- controls

  function fillControls() {
    const count = new Intl.NumberFormat(state.lang);
    const tally = (id, of, options) => {
      const n = new Map();
      for (const photo of photos) for (const key of [of(photo)].flat()) n.set(String(key), (n.get(String(key)) ?? 0) + 1);
      const lines = options(n).filter(([value]) => n.has(value));
      choices(id, [["", say("all")], ...lines.map(([value, text]) => [value, `${text} (${count.format(n.get(value))})`])]);
      $(id).parentElement.hidden = lines.length === 0;
    };
    const byClass = () => classes.map(({ name }, i) => [String(i), name]);
    const byName = (n) => [...n.keys()].map((name) => [name, name]).sort((a, b) => compare(a[1], b[1]));
    tally("predicted", (photo) => photo.predicted, byClass);
    tally("truth", (photo) => photo.truth, byClass);
    tally("outcome", (photo) => [photo.outcome, ...(photo.unlike ? ["unlike"] : [])],
      () => ["right", "wrong", "unsure", "unlike"].map((key) => [key, say(key)]));
    tally("horse", (photo) => photo.horse, byName);
    tally("region", (photo) => shown(photo).top ?? [], (n) =>
      [...n.keys()].map((name) => [name, named(name)]).sort((a, b) => compare(a[1], b[1])));
    const limit = { tolerance: percent1.format(tolerance) };
    tally("gap", completeness, () => ["exact", "rough", "none"].map((key) => [key, say(key, limit)]));
    const keys = ["confidence", "error", "gap", "predicted", "truth", "horse", "region"];
    choices("sort", keys.map((key) => [key, say(key)]));
    choices("view", views.map((view) => [view, named(view)]));
    $("view").parentElement.hidden = views.length < 2;
  }

  function choices(id, options) {
    $(id).replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
    $(id).value = state[id];
  }

  function showControls() {
    for (const id of [...FILTERS, "sort", "view", "strength", "size"]) $(id).value = state[id];
    for (const output of document.querySelectorAll("#controls output")) {
      output.textContent = percent.format(state[output.htmlFor.value] / 100);
    }
    const descending = NUMBERS.has(state.sort) !== Boolean(state.turned);
    $("turn").textContent = descending ? "↓" : "↑";
    $("turn").setAttribute("aria-pressed", Boolean(state.turned));
    label($("turn"), say(descending ? "descending" : "ascending"));
    document.documentElement.style.setProperty("--strength", state.map ? 0 : state.strength / 100);
  }

  // -------------------------------------------------------------------------- filter and sort

  const NUMBERS = new Set(["confidence", "error", "gap"]);

  function find() {
    const text = plain(state.text.trim()), low = state.from / 100, high = state.to / 100;
    const same = (filter, value) => filter === "" || filter === String(value);
    found = photos.filter((photo) =>
      same(state.predicted, photo.predicted) && same(state.truth, photo.truth) &&
      same(state.horse, photo.horse) && same(state.region, shown(photo).top) &&
      (state.outcome === "" || (state.outcome === "unlike" ? photo.unlike : state.outcome === photo.outcome)) &&
      same(state.gap, completeness(photo)) &&
      photo.confidence >= low - 0.005 && photo.confidence <= high + 0.005 && photo.searched.includes(text));
    const key = {
      region: (photo) => named(shown(photo).top ?? ""), horse: (photo) => photo.horse,
    }[state.sort] ?? ((photo) => photo[state.sort]);
    const way = NUMBERS.has(state.sort) !== Boolean(state.turned) ? -1 : 1;
    const keyed = found.map((photo) => [key(photo), photo]);
    const order = typeof keyed[0]?.[0] === "string" ? compare : (a, b) => a - b;
    keyed.sort(([a, one], [b, other]) => way * order(a, b) || compare(one.path, other.path));
    found = keyed.map(([, photo]) => photo);
  }

  /** Show what the state asks for, from the first photograph. */
  function refresh() {
    find();
    current = 0;
    grid.scrollTop = 0;
    const count = new Intl.NumberFormat(state.lang).format;
    const values = { shown: count(found.length), all: count(photos.length), explained: count(explained) };
    $("count").textContent = say("count", values);
    $("count").title = explained > photos.length ? say("chosen", values) : "";
    $("nothing").hidden = found.length > 0;
    $("nothing").textContent = say(photos.length ? "nothing" : "empty");
    showControls();
    layOut();
  }

  function change(key, value) {
    state[key] = value;
    remember();
    if (key === "lang") speak();
    if (key === "view") fillControls();
    if (["strength", "map"].includes(key)) showControls();
    else if (key === "size") keepingPlace(layOut);
    else refresh();
  }

  // -------------------------------------------------------------------------------------- grid

  // Only the rows in sight have nodes: ten thousand photographs cost no more than fifty.
  const tiles = new Map();

  function layOut() {
    columns = Math.max(1, Math.floor(grid.clientWidth / (state.size * rem() / 16)));
    tile.width = Math.floor(grid.clientWidth / columns);
    tile.height = Math.round(0.8 * tile.width + 3.2 * rem());
    $("tall").style.height = `${Math.ceil(found.length / columns) * tile.height}px`;
    for (const node of tiles.values()) node.remove();
    tiles.clear();
    render();
  }

  /** Tiles are drawn anew: whoever was on one stays on it. */
  function keepingPlace(action) {
    const onTile = grid.contains(document.activeElement) && document.activeElement !== grid;
    action();
    reveal(current);
    if (onTile) tiles.get(current)?.firstChild.focus({ preventScroll: true });
  }

  function render() {
    const above = Math.floor(grid.scrollTop / tile.height) - 1;
    const below = Math.ceil((grid.scrollTop + grid.clientHeight) / tile.height) + 1;
    const first = Math.max(0, above * columns), last = Math.min(found.length, below * columns);
    for (const [i, node] of tiles) {
      if (i >= first && i < last) continue;
      node.remove();
      tiles.delete(i);
    }
    for (let i = first; i < last; i += 1) {
      if (!tiles.has(i)) {
        tiles.set(i, drawTile(found[i], i));
        $("tall").append(tiles.get(i));
      }
    }
    for (const [i, node] of tiles) node.firstChild.tabIndex = i === current ? 0 : -1;
  }

  function drawTile(photo, i) {
    const about = of(photo), color = classes[photo.predicted].color;
    const mark = { right: "✓", wrong: `✗ ${about.truth}`, unsure: `? ${about.truth}` }[photo.outcome];
    const dot = make("i", { className: "dot" });
    dot.style.background = color;
    const button = make("button", { type: "button" },
      frame(photo, shown(photo), tile.width - 24, tile.height - 3.6 * rem() - 20),
      make("span", { className: "caption" },
        make("span", { className: "horse" }, photo.horse),
        make("span", {}, dot, `${about.predicted} ${about.confidence} `, make("b", { className: photo.outcome }, mark))));
    button.setAttribute("aria-label", say("tile", about));
    button.addEventListener("click", () => open(i));
    button.addEventListener("focus", () => { current = i; });
    const node = make("div", { className: "tile" }, button);
    node.setAttribute("role", "listitem");
    node.setAttribute("aria-posinset", i + 1);
    node.setAttribute("aria-setsize", found.length);
    node.style.width = `${tile.width}px`;
    node.style.height = `${tile.height}px`;
    const [row, column] = [Math.floor(i / columns), i % columns];
    node.style.transform = `translate(${column * tile.width}px, ${row * tile.height}px)`;
    return node;
  }

  /** A picture with its map where the model saw it, as large as fits. */
  function frame(photo, view, width, height, mapped = true) {
    const [w, h] = view.size, times = Math.min(width / w, height / h);
    const part = make("div", { className: mapped ? "frame mapped" : "frame" },
      make("img", { className: "picture", src: `pictures/${view.image}.jpg`, alt: say("photograph", of(photo)), decoding: "async" }));
    part.style.width = `${w * times}px`;
    part.style.height = `${h * times}px`;
    if (mapped) {
      const map = make("img", { className: "map", src: `maps/${view.image}.png`, alt: "", decoding: "async" });
      ["left", "top", "width", "height"].forEach((side, k) => { map.style[side] = `${100 * view.place[k]}%`; });
      part.append(map);
    }
    return part;
  }

  function reveal(i) {
    const top = Math.floor(i / columns) * tile.height;
    if (top < grid.scrollTop) grid.scrollTop = top;
    const under = top + tile.height - grid.clientHeight;
    if (under > grid.scrollTop) grid.scrollTop = under;
    render();
  }

  function go(to) {
    if (!found.length) return;
    current = Math.min(found.length - 1, Math.max(0, to));
    reveal(current);
    tiles.get(current)?.firstChild.focus({ preventScroll: true });
  }

  // ------------------------------------------------------------------------------------- panel

  function open(i) {
    const photo = found[i], about = of(photo);
    opened = i;
    state.photo = photo.id;
    remember();
    $("heading").textContent = photo.horse;
    const verdict = { right: "says_right", wrong: "says_wrong", unsure: "says_unsure" }[photo.outcome];
    $("verdict").textContent = say(verdict, about) + (photo.unlike ? ` ${say("says_unlike")}` : "");
    $("verdict").className = photo.outcome;
    const several = photo.views.length > 1;
    // two pictures and their bars beside each other, the views below each other
    const width = Math.min(0.96 * innerWidth, 90 * rem()) * (innerWidth > 960 ? 0.25 : 0.8);
    const height = several ? Math.max(180, 0.3 * innerHeight) : 0.6 * innerHeight;
    $("explained").replaceChildren(
      make("div", { className: "views" }, ...photo.views.map((view) => drawView(photo, view, several, width, height))),
      drawSide(photo));
    if (!panel.open) panel.showModal();
    panel.scrollTop = 0;
    $("previous").disabled = i === 0;
    $("next").disabled = i === found.length - 1;
  }

  function drawView(photo, view, several, width, height) {
    const about = of(photo);
    const figure = (title, mapped) => make("figure", {}, make("h3", {}, title), frame(photo, view, width, height, mapped));
    const saw = figure(several ? say("saw_view", { view: named(view.view) }) : say("saw"), false);
    const speaks = figure(say(about.against ? "speaks_rather" : "speaks", about), true);
    speaks.querySelector(".picture").alt = say("map", about);
    const lies = make("div", {}, make("h3", {}, say("lies")));
    if (view.regions.length) {
      const largest = Math.max(1.6, ...view.regions.map((row) => row[1]));
      lies.append(bars(view.regions.map(([name, enrichment, share, net]) => ({
        name: named(name), length: enrichment / largest,
        value: `${number.format(enrichment)} (${percent.format(share)})`,
        color: net < 0 ? against : enrichment > 1 ? speaksFor : "", one: 1 / largest,
      }))), make("p", { className: "note" }, say("lies_note")));
    } else {
      lies.append(make("p", { className: "note" }, say("no_regions")));
    }
    return make("section", { className: "view" }, saw, speaks, lies);
  }

  function bars(rows) {
    const list = make("div", { className: "bars" });
    for (const row of rows) {
      const bar = make("span", { className: "bar" });
      bar.style.width = `${100 * row.length}%`;
      if (row.color) bar.style.background = row.color;
      const track = make("span", { className: "track", title: row.title ?? "" }, bar);
      if (row.one) {
        const one = make("span", { className: "one" });
        one.style.left = `${100 * row.one}%`;
        track.append(one);
      }
      list.append(make("span", { className: row.bold ? "name truth" : "name" }, row.name), track,
        make("span", { className: "value" }, row.value));
    }
    return list;
  }

  function drawSide(photo) {
    const right = photo.predicted === photo.truth ? "var(--right)" : "var(--wrong)";
    const sure = bars(classes.map(({ name }, i) => ({
      name, bold: i === photo.truth,
      length: photo.p[i], value: percent.format(photo.p[i]), color: i === photo.predicted ? right : "",
    })));
    const rough = photo.gap > tolerance;
    const gap = photo.gap === null ? "–" : percent1.format(photo.gap);
    const facts = [
      [say("file"), photo.path],
      [say("session"), photo.session],
      [say("region"), shown(photo).top ? named(shown(photo).top) : null],
      [say("gap"), rough ? `${gap}, ${say("rough", { tolerance: percent1.format(tolerance) })}` : gap],
      [say("steps"), photo.steps],
      [say("compared"), compared.baseline && say(`compared_${compared.baseline}`, compared)],
      [say("error"), percent.format(photo.error)],
    ].filter(([, value]) => value !== null);
    return make("div", { className: "side" }, make("h3", {}, say("how_sure")), sure,
      make("p", { className: "note" }, say("bold")), make("h3", {}, say("facts")),
      make("dl", {}, ...facts.flatMap(([key, value]) => [make("dt", {}, key), make("dd", {}, String(value))])));
  }

  function closed() {
    state.photo = "";
    remember();
    go(opened);
  }

  // ------------------------------------------------------------------------------------ events

  for (const id of [...FILTERS, "sort", "view", "strength", "size"]) {
    $(id).addEventListener("input", () => change(id, $(id).value));
  }
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("turn").addEventListener("click", () => change("turned", state.turned ? "" : "1"));
  $("clear").addEventListener("click", () => {
    for (const key of FILTERS) state[key] = DEFAULTS[key];
    remember();
    refresh();
  });
  for (const button of $("languages").children) button.addEventListener("click", () => change("lang", button.value));
  $("previous").addEventListener("click", () => open(opened - 1));
  $("next").addEventListener("click", () => open(opened + 1));
  $("close").addEventListener("click", () => panel.close());
  panel.addEventListener("close", closed);
  panel.addEventListener("click", (event) => { if (event.target === panel) panel.close(); });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const typing = event.target.matches("input[type=search]"), choosing = event.target.matches("select, input");
    if (panel.open) {
      const turn = { ArrowLeft: "previous", ArrowRight: "next" }[event.key];
      if (turn) { event.preventDefault(); $(turn).click(); }
    } else if (typing && event.key === "Escape") {
      event.preventDefault();
      change("text", "");
      go(0);
    } else if (typing && ["Enter", "ArrowDown"].includes(event.key)) {
      event.preventDefault();
      go(0);
    } else if (!typing && event.key === "/") {
      event.preventDefault();
      $("text").focus();
      $("text").select();
    } else if (!choosing) {
      const rows = Math.max(1, Math.floor(grid.clientHeight / tile.height));
      const to = {
        ArrowLeft: current - 1, ArrowRight: current + 1, ArrowUp: current - columns, ArrowDown: current + columns,
        PageUp: current - rows * columns, PageDown: current + rows * columns, Home: 0, End: found.length - 1,
      }[event.key];
      if (to !== undefined) { event.preventDefault(); go(to); }
    }
    if (!choosing && event.key.toLowerCase() === "m") change("map", state.map ? "" : "off");
  });

  let asked = false;
  grid.addEventListener("scroll", () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; render(); });
  }, { passive: true });
  new ResizeObserver(() => keepingPlace(layOut)).observe(grid);
  addEventListener("hashchange", start);

  function start() {
    recall();
    speak();
    refresh();
    const i = found.findIndex((photo) => photo.id === state.photo);
    if (i >= 0) { reveal(i); open(i); }
    performance.mark("gallery-shown");
  }

  $("own_window").hidden = window.top === window; // in the report it has little room
  $("scale").style.background = `linear-gradient(to right, ${scale.join(", ")})`;
  start();
})();
