// Filters, sorting, the heat map, the address and the download: what ties table and opened neuron together.
(() => {
  const data = neuronData;
  const byId = (id) => document.getElementById(id);
  const form = byId("filters");
  const groups = [];
  for (const box of form.querySelectorAll("[name=group]")) {
    groups[Number(box.value)] = box.nextElementSibling.textContent;
  }
  groups[0] ??= "none";

  let sorted = { column: "contribution", descending: true };
  let selection = new Uint32Array(0);

  const checked = (name) => [...form.querySelectorAll(`[name=${name}]:checked`)].map((box) => Number(box.value));
  const filters = () => ({
    query: byId("by-neuron").value,
    number: byId("by-number").value,
    token: byId("by-token").value,
    side: byId("by-side").value,
    groups: checked("group"),
    effects: checked("effect"),
    certain: byId("certain").checked,
    withTexts: byId("with-texts")?.checked ?? false,
  });

  const said = {
    neuron: ["in the model’s order", "from the last block to the first"],
    group: ["by group", "by group, reversed"],
    cosine: ["smallest cosine first", "largest cosine first"],
    before: ["smallest mean before first", "largest mean before first"],
    after: ["smallest mean after first", "largest mean after first"],
    gain: ["smallest gain first", "largest gain first"],
    contribution: ["smallest contribution first", "largest contribution first"],
    rank: ["best rank first", "last rank first"],
    lens: ["by top token", "by top token, reversed"],
  };
  const tell = (asked) => {
    const many = selection.length.toLocaleString("en");
    const all = data.present.toLocaleString("en");
    const here = data.present < data.total ? " of this page" : "";
    const which = (selection.length === data.present ? `All ${all} neurons` : `${many} of ${all} neurons`) + here;
    // A search among tokens is one among the neurons that have them.
    const partly = asked.token.trim() && data.lensCount < data.present;
    const within = partly ? ` (the page has the tokens of ${data.lensCount.toLocaleString("en")})` : "";
    byId("selection-state").textContent = `${which}${within}, ${said[sorted.column][Number(sorted.descending)]}`;
    const found = data.range(asked.query);
    const missing = found !== null && found.one && found.from === found.to;
    byId("neuron-fault").textContent = missing
      ? `Neuron ${asked.query.trim()} is not on this page, which has ${all} of ${data.total.toLocaleString("en")}.`
      : found
        ? ""
        : `No such neuron: give ${data.levels.join(".")}, such as ${data.last} (the last${here}), or a block.`;
    byId("by-neuron").setAttribute("aria-invalid", !found || missing);
    byId("number-fault").textContent = data.numbers(asked.number)
      ? ""
      : "No such comparison: give contribution, gain, rank, cosine, before or after, then <, <=, >, >= or = and a number, " +
        "with commas between several; |cosine| is without its sign.";
    byId("by-number").setAttribute("aria-invalid", !data.numbers(asked.number));
    const { query, number, token, groups: some, effects, certain, withTexts } = asked;
    byId("clear").disabled = !(query || number || token || some.length || effects.length || certain || withTexts);
    byId("download").disabled = !selection.length;
  };

  // The address says what is shown: a neuron or none, then filters and order.
  let named = -1;
  const FIELDS = { n: "by-neuron", v: "by-number", t: "by-token", s: "by-side" };
  const BOXES = { c: "certain", x: "with-texts" };
  const address = () => {
    const asked = new URLSearchParams();
    for (const [key, id] of Object.entries(FIELDS)) {
      if (byId(id).value && byId(id).value !== "both") asked.set(key, byId(id).value);
    }
    for (const [key, name] of [["g", "group"], ["e", "effect"]]) {
      if (checked(name).length) asked.set(key, checked(name).join("."));
    }
    for (const [key, id] of Object.entries(BOXES)) if (byId(id)?.checked) asked.set(key, "1");
    if (sorted.column !== "contribution" || !sorted.descending) {
      asked.set("o", `${sorted.descending ? "-" : ""}${sorted.column}`);
    }
    const query = asked.toString();
    return `#${named >= 0 ? data.name(named) : "neurons"}${query ? `?${query}` : ""}`;
  };
  const tab = document.querySelector('.tabs a[href="#neurons"]');
  const keep = ({ step = false } = {}) => {
    tab.setAttribute("href", address());
    if (location.hash === address()) return;
    if (step) history.pushState(null, "", address());
    else history.replaceState(null, "", address());
  };
  const recall = (query) => {
    const asked = new URLSearchParams(query);
    form.reset();
    for (const [key, id] of Object.entries(FIELDS)) if (asked.has(key)) byId(id).value = asked.get(key);
    for (const [key, name] of [["g", "group"], ["e", "effect"]]) {
      const chosen = (asked.get(key) ?? "").split(".");
      for (const box of form.querySelectorAll(`[name=${name}]`)) box.checked = chosen.includes(box.value);
    }
    for (const [key, id] of Object.entries(BOXES)) if (byId(id)) byId(id).checked = asked.has(key);
    const [, down, column] = /^(-?)(\w+)$/.exec(asked.get("o") ?? "-contribution") ?? [];
    sorted = Object.hasOwn(said, column) ? { column, descending: down === "-" } : { column: "contribution", descending: true };
  };
  const refresh = () => {
    const asked = filters();
    selection = data.select({ ...asked, ...sorted });
    table.show(selection, sorted);
    cloud.show(selection);
    tell(asked);
    steps();
  };
  const sort = (column) => {
    // Numbers begin with the largest, names and ranks with the first.
    const fresh = ["cosine", "gain", "before", "after", "contribution"].includes(column);
    sorted = { column, descending: sorted.column === column ? !sorted.descending : fresh };
    refresh();
    keep();
  };

  const detail = neuronDetail(data, { groups });
  const steps = () => {
    const at = selection.indexOf(detail.opened);
    byId("previous").disabled = at <= 0;
    byId("next").disabled = at < 0 || at === selection.length - 1;
  };
  // Beside the table there is nothing to scroll to; below it there is.
  const beside = matchMedia("(min-width: 72rem)");
  const show = (neuron) => {
    detail.show(neuron);
    table.mark(neuron);
    cloud.mark(neuron);
    steps();
  };
  const open = (neuron, { focus = true, step = true } = {}) => {
    show(neuron);
    named = neuron;
    keep({ step });
    if (!focus) return;
    byId("opened-name").focus({ preventScroll: true });
    if (!beside.matches) byId("opened").scrollIntoView();
  };
  const close = () => {
    detail.close();
    table.redraw();
    cloud.mark(-1);
    named = -1;
    keep({ step: true });
    table.frame.scrollIntoView({ block: "nearest" });
    table.focus();
  };
  const table = neuronTable(data, { groups, open, sort });
  const brush = ({ cosine, contribution }) => {
    const bounds = (name, [low, high]) => `${name} >= ${low.toPrecision(3)}, ${name} <= ${high.toPrecision(3)}`;
    byId("by-number").value = `${bounds("cosine", cosine)}, ${bounds("contribution", contribution)}`;
    refresh();
    keep();
  };
  const cloud = neuronCloud(data, { open, brush });

  form.addEventListener("input", () => {
    refresh();
    keep();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  // Enter in the search for a neuron opens it.
  byId("by-neuron").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && selection.length === 1) {
      event.preventDefault();
      open(selection[0]);
    }
  });
  byId("clear").addEventListener("click", () => {
    form.reset();
    refresh();
    keep();
    byId("by-neuron").focus();
  });
  for (const [id, step] of [["previous", -1], ["next", 1]]) {
    byId(id).addEventListener("click", () => open(table.neighbour(detail.opened, step), { focus: false, step: false }));
  }
  byId("close").addEventListener("click", close);
  byId("opened").addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });

  // Map

  const map = byId("map-table");
  const cells = [...map.tBodies[0].rows].map((row) => [...row.cells].slice(1));
  const place = (cell) => cells.map((row, i) => [i, row.indexOf(cell)]).find(([, j]) => j >= 0);
  const look = (cell) => {
    const label = cell.parentElement.cells[0].textContent;
    byId("map-said").textContent = ` Block ${cell.dataset.block}, ${label}: ${cell.textContent}`;
  };
  const choose = (cell) => {
    form.reset();
    byId("by-neuron").value = cell.dataset.block;
    for (const box of form.querySelectorAll("[name=group]")) box.checked = box.value === cell.dataset.group;
    const effect = { down: "1", up: "2" }[cell.dataset.effect];
    for (const box of form.querySelectorAll("[name=effect]")) box.checked = box.value === effect;
    refresh();
    keep();
    byId("neurons").scrollIntoView();
    table.focus();
  };
  map.setAttribute("role", "grid");
  for (const row of cells) for (const cell of row) cell.tabIndex = -1;
  cells[0][0].tabIndex = 0;
  // The cells are reached by Tab, and scroll their region themselves.
  byId("map-region").removeAttribute("tabindex");
  map.addEventListener("mouseover", (event) => { if (event.target.closest("td")) look(event.target.closest("td")); });
  map.addEventListener("focusin", (event) => {
    const cell = event.target.closest("td");
    map.querySelector("[tabindex='0']").tabIndex = -1;
    cell.tabIndex = 0;
    look(cell);
  });
  map.addEventListener("click", (event) => { if (event.target.closest("td")) choose(event.target.closest("td")); });
  map.addEventListener("keydown", (event) => {
    const cell = event.target.closest("td");
    if (event.key === "Enter" || event.key === " ") choose(cell);
    else {
      const [i, j] = place(cell);
      const last = cells[0].length - 1;
      const to = {
        ArrowLeft: [i, j - 1],
        ArrowRight: [i, j + 1],
        ArrowUp: [i - 1, j],
        ArrowDown: [i + 1, j],
        Home: [i, 0],
        End: [i, last],
      }[event.key];
      if (!to) return;
      cells[to[0]]?.[to[1]]?.focus();
    }
    event.preventDefault();
  });

  // Download

  const quoted = (text) => {
    // A spreadsheet would read these as a formula.
    const inert = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return `"${inert.replaceAll('"', '""')}"`;
  };
  const csv = () => {
    const places = data.levels.join(",");
    const names = `neuron,${places},group,effect,certain,cosine,mean_before,mean_after,contribution,gain,rank`;
    const lines = [`${names},lens_top,lens_bottom\r\n`];
    const tokens = (side) => (side ? quoted(side.map(({ token }) => data.tokenText(token)).join(" | ")) : "");
    for (const neuron of selection) {
      const lens = data.lens(neuron);
      // Nine digits are all that the page's 32 bits hold.
      const number = (column) => Number(data.columns[column][neuron].toPrecision(9));
      const numbers = ["cosine", "before", "after", "contribution"].map(number);
      // A neuron that was silent before has none.
      const gain = Number.isFinite(data.columns.gain[neuron]) ? number("gain") : "";
      lines.push(
        [
          // Quoted, or a spreadsheet would take 1.10 for 1.1.
          `"${data.name(neuron)}"`,
          ...data.names(neuron),
          groups[data.group(neuron)],
          ["none", "reduces", "increases"][data.effect(neuron)],
          data.certain(neuron),
          ...numbers,
          gain,
          data.rank(neuron),
          tokens(lens?.top),
          tokens(lens?.bottom),
        ].join(",") + "\r\n",
      );
    }
    return new Blob(["\ufeff", ...lines], { type: "text/csv;charset=utf-8" });
  };
  byId("download").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(csv());
    link.download = "neurons.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  });

  // Masking and the address

  const unmask = byId("unmask");
  const mask = () => {
    data.unmask(unmask.checked);
    if (filters().token || sorted.column === "lens") refresh();
    else table.redraw();
    detail.redraw();
  };
  unmask.addEventListener("change", mask);

  const follow = ({ focus = true } = {}) => {
    const [name, query = ""] = location.hash.slice(1).split("?");
    const whole = name.split(".").length === data.levels.length && !name.endsWith(".");
    const asked = whole && /^[\d.]+$/.test(name) ? data.range(name) : null;
    if (name !== "neurons" && !asked) return;
    const here = asked && asked.from < asked.to;
    recall(query);
    // A neuron that is not on the page is searched, which says so.
    if (asked && !here) byId("by-neuron").value = name;
    refresh();
    named = -1;
    if (here) open(asked.from, { focus, step: false });
    else keep();
  };
  addEventListener("hashchange", () => follow());

  refresh();
  if (unmask.checked) mask();
  follow();
  // The view is never empty: without a wish it shows the first neuron of the table.
  if (detail.opened < 0 && selection.length) show(selection[0]);
})();
