"use strict";
// Every text of the model is put on the page by textContent, so it is never read as HTML.
(() => {
  const byId = (id) => document.getElementById(id);
  const make = (tag, name = "", text = "") => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text) element.textContent = text;
    return element;
  };
  const part = (side, name) => byId(side).querySelector(`[data-part="${name}"]`);
  const signed = (value) => value.toFixed(2).replace("-", "−");

  // Texts in both forms, masked and raw; the switch shows one of them.
  const forms = new WeakMap();
  const unmask = byId("unmask");
  const draw = (element) => {
    const both = forms.get(element);
    if (both) element.textContent = unmask.checked ? both.raw : both.masked;
  };
  const put = (element, both) => {
    element.classList.add("both");
    forms.set(element, both);
    draw(element);
    return element;
  };
  const drawAll = () => {
    for (const element of document.querySelectorAll(".both")) draw(element);
  };
  unmask.addEventListener("change", drawAll);

  const dial = byId("strength");
  const go = byId("go");
  const stop = byId("stop");
  const state = byId("state");
  const say = (text, fault = false) => {
    state.textContent = text;
    state.classList.toggle("fault", fault);
  };
  const showStrength = () => {
    byId("strength-shown").textContent = Number(dial.value).toFixed(2);
  };
  dial.addEventListener("input", showStrength);
  showStrength();

  // One question at a time. What is asked for meanwhile comes next.
  let running = null;
  let next = false;
  const question = () => ({
    prompt: byId("prompt").value,
    strength: Number(dial.value),
    new_tokens: Math.max(1, Math.round(Number(byId("tokens").value)) || 1),
  });
  const ask = async () => {
    if (running) {
      next = true;
      running.abort();
      return;
    }
    do {
      next = false;
      running = new AbortController();
      go.disabled = true;
      stop.disabled = false;
      try {
        await answer(question(), running.signal);
      } catch (error) {
        if (error.name === "AbortError") say("Stopped.");
        else say("dposcope serve does not answer. Is it still running?", true);
      }
      for (const side of ["plain", "edited"]) part(side, "text").classList.remove("waiting");
      running = null;
      go.disabled = false;
      stop.disabled = true;
    } while (next);
  };
  const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

  const answer = async (asked, signal) => {
    say("Writing …");
    const request = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(asked), signal };
    let reply = await fetch("answer", request);
    // An answer that was stopped ends with its next token.
    for (let tries = 0; reply.status === 503 && tries < 6; tries += 1) {
      await pause(400);
      reply = await fetch("answer", request);
    }
    if (!reply.ok) {
      const told = await reply.json();
      say(told.error, true);
      return;
    }
    byId("edited-strength").textContent = `strength ${asked.strength.toFixed(2)}`;
    for (const side of ["plain", "edited"]) {
      const text = part(side, "text");
      text.classList.remove("blank");
      text.classList.add("waiting");
      part(side, "lead").textContent = lead(asked.prompt);
      put(text, { masked: "", raw: "" });
      part(side, "scores").replaceChildren();
    }
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let ended = false;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) ended = take(JSON.parse(line)) || ended;
    }
    if (!ended) say("The answer broke off: dposcope serve has ended.", true);
  };

  // A continuation follows its prompt, whose end stands before it.
  const continues = byId("ask").dataset.chat === "off";
  const lead = (prompt) => {
    if (!continues) return "";
    const words = prompt.slice(-48);
    return words.length < prompt.length ? `… ${words.slice(words.indexOf(" ") + 1)}` : words;
  };
  const trimmed = (both) => (continues ? both : { masked: both.masked.trim(), raw: both.raw.trim() });
  const take = (event) => {
    if (event.event === "text") {
      put(part(event.side, "text"), trimmed(event));
      if (event.side === "edited") part("plain", "text").classList.remove("waiting");
      return false;
    }
    if (event.event === "error") {
      say(event.message, true);
      return true;
    }
    for (const [side, told] of Object.entries(event.answers)) {
      const text = part(side, "text");
      put(text, trimmed(told));
      if (!told.raw.trim()) {
        text.classList.add("blank");
        put(text, { masked: " (nothing)", raw: " (nothing)" });
      }
      part(side, "scores").replaceChildren(...Object.entries(told.scores).map(score));
    }
    showNeurons(event);
    say("");
    return true;
  };

  const score = ([name, value]) => {
    const row = make("div");
    const level = make("dd", "level");
    const fill = make("span");
    fill.style.setProperty("--share", value);
    level.append(fill);
    level.setAttribute("aria-hidden", "true");
    row.append(make("dt", "", name), level, make("dd", "", value.toFixed(2)));
    return row;
  };

  let shown = null;
  let chosen = null;
  const showNeurons = (event) => {
    shown = event;
    byId("neurons").hidden = event.neurons.length === 0;
    if (!event.neurons.length) return;
    const largest = Math.max(1e-9, ...event.neurons.flatMap((one) => [Math.abs(one.before[one.peak]), Math.abs(one.after[one.peak])]));
    byId("rows").replaceChildren(...event.neurons.map((one) => neuronRow(one, largest)));
    if (!event.neurons.some((one) => one.name === chosen)) chosen = event.neurons[0].name;
    choose(chosen);
  };
  const neuronRow = (one, largest) => {
    const row = make("tr");
    row.dataset.neuron = one.name;
    const head = make("th");
    head.scope = "row";
    const button = make("button", "", one.name);
    button.type = "button";
    button.addEventListener("click", () => choose(one.name));
    head.append(button);
    const before = one.before[one.peak];
    const after = one.after[one.peak];
    const bars = make("div", "pair");
    for (const [name, value] of [["before", before], ["after", after]]) {
      const bar = make("span", name);
      bar.style.setProperty("--value", value / largest);
      bars.append(bar);
    }
    bars.setAttribute("aria-hidden", "true");
    const promotes = make("div", "promotes");
    promotes.append(...one.promotes.map((token) => put(make("span", "token"), token)));
    const cells = [make("td", "number", one.gain.toFixed(2)), make("td"), make("td", "number", signed(before)), make("td", "number", signed(after)), make("td"), make("td")];
    cells[1].append(bars);
    const peak = shown.tokens[one.peak];
    cells[4].append(put(make("span", "token"), { masked: peak.masked.trim() || "␣", raw: peak.raw.trim() || "␣" }));
    cells[5].append(promotes);
    row.append(head, ...cells);
    return row;
  };
  const choose = (name) => {
    chosen = name;
    const one = shown.neurons.find((neuron) => neuron.name === name);
    for (const row of byId("rows").children) {
      row.classList.toggle("chosen", row.dataset.neuron === name);
      row.querySelector("button").setAttribute("aria-pressed", String(row.dataset.neuron === name));
    }
    byId("tokens-name").textContent = `Neuron ${name} on every token`;
    const largest = Math.max(1e-9, ...one.before.map(Math.abs), ...one.after.map(Math.abs));
    for (const when of ["before", "after"]) {
      byId(when).replaceChildren(
        ...one[when].map((value, place) => {
          const token = put(make("span", value < 0 ? "down" : "up"), shown.tokens[place]);
          if (place >= shown.prompt_tokens) token.classList.add("own");
          token.style.setProperty("--share", Math.abs(value) / largest);
          token.title = signed(value);
          return token;
        }),
      );
    }
  };

  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  dial.addEventListener("change", () => {
    if (shown || running) ask();
  });
  stop.addEventListener("click", () => {
    next = false;
    if (running) running.abort();
  });
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      ask();
    }
  });
  // A browser may come back to a page with its switch as it was left.
  drawAll();
})();
