// The table draws only the rows in view. They stand in a layer that stays put while the frame scrolls under it.
const neuronTable = (data, { groups, open, sort }) => {
  const byId = (id) => document.getElementById(id);
  const [frame, sizer, layer, table] = ["frame", "sizer", "layer", "neuron-table"].map(byId);
  const body = table.tBodies[0];
  const head = table.tHead;
  // No browser lays out an element of any height; beyond this one, scrolling goes through the rows in larger steps.
  const TALLEST = 8_000_000;
  // On paper nothing scrolls: this many rows stand there whole. On no screen are more in view.
  const MOST = 100;
  const TOKENS = 6;

  let selection = new Uint32Array(0);
  let active = 0;
  let opened = -1;
  let rowHeight = 32;
  let first = -1;
  let printing = false;

  const cell = (row, name, text = "") => {
    const made = row.insertCell();
    made.className = name;
    made.textContent = text;
    return made;
  };
  const fill = (row, at) => {
    const neuron = selection[at];
    row.replaceChildren();
    row.id = `row-${at}`;
    row.setAttribute("aria-rowindex", at + 2);
    row.setAttribute("aria-selected", neuron === opened);
    row.classList.toggle("active", at === active);
    const name = document.createElement("th");
    name.scope = "row";
    const link = document.createElement("a");
    link.href = `#${data.name(neuron)}`;
    link.tabIndex = -1;
    link.textContent = data.name(neuron);
    name.append(link);
    row.append(name);
    const group = cell(row, "");
    const effect = data.effect(neuron);
    const arrow = data.span(["", "down-word", "up-word"][effect], ["", "↓", "↑"][effect]);
    group.append(groups[data.group(neuron)], arrow);
    const number = (column) => cell(row, "number", data.fixed(data.columns[column][neuron], data.digits[column]));
    // A bar from the middle of the cell, as long as the number is large among all.
    const barred = (column) => {
      const made = number(column);
      const share = data.largest[column] ? data.columns[column][neuron] / data.largest[column] : 0;
      made.classList.add("barred", share < 0 ? "under" : "over");
      made.style.setProperty("--bar", `${Math.abs(50 * share).toFixed(1)}%`);
      return made;
    };
    const contribution = barred("contribution");
    if (!data.certain(neuron)) {
      contribution.classList.add("quiet");
      contribution.append(data.span("spoken", ", not certain"));
    }
    cell(row, "number", data.gainText(neuron));
    barred("cosine");
    ["before", "after"].forEach(number);
    cell(row, "number", data.rank(neuron).toLocaleString("en"));
    const tokens = cell(row, "c-lens");
    const lens = data.lens(neuron);
    for (const { token } of lens ? lens.top.slice(0, TOKENS) : []) {
      const code = document.createElement("code");
      code.className = "token";
      code.dir = "auto";
      code.append(data.tokenNodes(token, { alone: true }));
      tokens.append(code, " ");
    }
  };
  const rows = (from, count) => {
    while (body.rows.length > count) body.deleteRow(-1);
    while (body.rows.length < count) body.insertRow();
    for (let i = 0; i < count; i += 1) fill(body.rows[i], from + i);
  };

  const view = () => Math.max(rowHeight, layer.clientHeight - head.offsetHeight);
  const offset = () => {
    const whole = Math.max(0, selection.length * rowHeight - view());
    const reach = frame.scrollHeight - frame.clientHeight;
    return reach > 0 ? Math.min(whole, (frame.scrollTop / reach) * whole) : 0;
  };
  const draw = ({ again = false } = {}) => {
    if (!selection.length) return;
    const top = offset();
    const from = Math.floor(top / rowHeight);
    if (again || from !== first) {
      first = from;
      rows(from, Math.min(selection.length - from, Math.ceil(view() / rowHeight) + 1, MOST));
      table.removeAttribute("aria-activedescendant");
      if (active >= from && active < from + body.rows.length) {
        table.setAttribute("aria-activedescendant", `row-${active}`);
      }
    }
    body.style.transform = `translateY(${from * rowHeight - top}px)`;
  };
  const lay = () => {
    if (printing) return;
    table.setAttribute("aria-rowcount", selection.length + 1);
    body.style.transform = "";
    first = -1;
    if (!selection.length) {
      const row = body.insertRow();
      while (body.rows.length > 1) body.deleteRow(0);
      row.className = "nothing";
      cell(row, "", "No neuron passes these filters.").colSpan = 9;
      sizer.style.height = layer.style.height = "";
      return;
    }
    if (body.rows[0]?.className === "nothing") body.deleteRow(0);
    if (!body.rows.length) rows(0, 1);
    rowHeight = body.rows[0].getBoundingClientRect().height || rowHeight;
    sizer.style.height = `${Math.min(TALLEST, selection.length * rowHeight) + head.offsetHeight}px`;
    layer.style.height = `${frame.clientHeight}px`;
    draw({ again: true });
  };
  const reveal = (at) => {
    const top = offset();
    const low = at * rowHeight;
    const wanted = low < top ? low : low + rowHeight > top + view() ? low + rowHeight - view() : top;
    const whole = selection.length * rowHeight - view();
    if (wanted !== top) frame.scrollTop = (wanted / whole) * (frame.scrollHeight - frame.clientHeight);
  };
  const move = (at) => {
    active = Math.max(0, Math.min(selection.length - 1, at));
    reveal(active);
    draw({ again: true });
  };

  let asked = false;
  frame.addEventListener("scroll", () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      draw();
    });
  });
  new ResizeObserver(() => { if (selection.length) lay(); }).observe(frame);

  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (!row.id || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    active = Number(row.id.slice("row-".length));
    open(selection[active]);
  });
  table.addEventListener("keydown", (event) => {
    if (event.target !== table || !selection.length || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(view() / rowHeight) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in steps) move(active + steps[event.key]);
    else if (event.key === "Enter" || event.key === " ") open(selection[active]);
    else return;
    event.preventDefault();
  });
  head.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) sort(button.dataset.sort);
  });

  addEventListener("beforeprint", () => {
    printing = true;
    if (!selection.length) return;
    const printed = Math.min(MOST, selection.length);
    const all = selection.length.toLocaleString("en");
    const rest = selection.length > printed;
    byId("paper-note").textContent = rest ? `The first ${printed} of ${all} selected neurons.` : "";
    body.style.transform = sizer.style.height = layer.style.height = "";
    rows(0, printed);
  });
  addEventListener("afterprint", () => {
    printing = false;
    lay();
  });

  return {
    show(chosen, { column, descending }) {
      selection = chosen;
      active = 0;
      frame.scrollTop = 0;
      for (const button of head.querySelectorAll("button")) {
        const sorted = button.dataset.sort === column;
        if (sorted) button.parentElement.setAttribute("aria-sort", descending ? "descending" : "ascending");
        else button.parentElement.removeAttribute("aria-sort");
      }
      lay();
    },
    redraw: () => draw({ again: true }),
    mark(neuron) {
      opened = neuron;
      const at = selection.indexOf(neuron);
      if (at >= 0) move(at);
      else draw({ again: true });
    },
    neighbour: (neuron, step) => selection[selection.indexOf(neuron) + step],
    focus: () => table.focus({ preventScroll: true }),
    frame,
  };
};
