// One opened neuron: its numbers, its lens, and its activation token by token.
const neuronDetail = (data, { groups }) => {
  const byId = (id) => document.getElementById(id);
  const make = (name, { text = "", of = "", ...attributes } = {}) => {
    const made = document.createElement(name);
    if (of) made.className = of;
    if (text) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const effects = ["", "↓", "↑"];
  let opened = -1;
  let shown = "before";

  const facts = (neuron) => {
    const number = (column) => data.fixed(data.columns[column][neuron], data.digits[column]);
    const { rank, peers } = data.rankAmongPeers(neuron);
    const rows = [
      ...data.names(neuron).map((number, level) => [data.levels[level], number.toLocaleString("en")]),
      ["cosine with the direction", number("cosine")],
      ["mean activation before", number("before")],
      ["mean activation after", number("after")],
      ["gain", data.gainText(neuron)],
      ["contribution", `${number("contribution")}${data.certain(neuron) ? "" : ", not certain"}`],
      ["rank among all neurons", `${data.rank(neuron).toLocaleString("en")} of ${data.total.toLocaleString("en")}`],
      [
        `rank among ${groups[data.group(neuron)]}${effects[data.effect(neuron)]}`,
        `${rank.toLocaleString("en")} of ${peers.toLocaleString("en")}`,
      ],
    ];
    byId("opened-facts").replaceChildren(
      ...rows.map(([name, value]) => {
        const row = make("div");
        row.append(make("dt", { text: name }), make("dd", { text: value }));
        return row;
      }),
    );
  };

  const sentence = (neuron) => {
    const [cosine, before, after, contribution] = ["cosine", "before", "after", "contribution"].map(
      (column) => data.columns[column][neuron],
    );
    const number = (value, column) => data.fixed(value, data.digits[column]);
    const way = cosine > 0 ? "along" : cosine < 0 ? "against" : "across";
    const moved = after > before ? "raised" : after < before ? "lowered" : "kept";
    const writes =
      contribution === 0
        ? "so it writes as much along the direction as before"
        : `so it writes ${contribution > 0 ? "less" : "more"} along the direction by ` +
          number(Math.abs(contribution), "contribution");
    return (
      `Points ${way} the direction (cosine ${number(cosine, "cosine")}). Tuning ${moved} its mean activation, ${writes}: ` +
      `number ${data.rank(neuron).toLocaleString("en")} of ${data.total.toLocaleString("en")}` +
      `${data.certain(neuron) ? "." : ", and sampling error may explain the sign."}`
    );
  };
  const means = (neuron) => {
    const row = (name, value, text, role) => {
      const made = make("div", { of: role });
      const bar = make("span", { of: "mean-bar", "aria-hidden": "true" });
      const most = Math.max(Math.abs(data.columns.before[neuron]), Math.abs(data.columns.after[neuron]));
      bar.style.setProperty("--share", `${most ? (100 * Math.abs(value)) / most : 0}%`);
      const told = make("dd");
      told.append(bar, make("span", { of: "mean-value", text }));
      made.append(make("dt", { text: name }), told);
      return made;
    };
    const value = (column) => data.columns[column][neuron];
    const text = (column) => data.fixed(value(column), data.digits[column]);
    const gain = make("div", { of: "gain" });
    gain.append(make("dt", { text: "Gain" }), make("dd", { text: `${data.gainText(neuron)} ×` }));
    byId("opened-means").replaceChildren(
      row("Before", value("before"), text("before"), "base"),
      row("After", value("after"), text("after"), "edit"),
      gain,
    );
  };

  const tokens = (heading, side) => {
    const section = make("section", { of: "lens" });
    const list = make("ol");
    for (const { token, logit } of side) {
      const item = make("li");
      const code = make("code", { of: "token", dir: "auto" });
      code.append(data.tokenNodes(token, { alone: true }));
      item.append(code, " ", make("span", { of: "logit", text: data.fixed(logit, 1) }));
      list.append(item);
    }
    section.append(make("h4", { text: heading }), list);
    return section;
  };
  const lens = (neuron) => {
    const place = byId("opened-lens");
    const found = data.lens(neuron);
    place.replaceChildren();
    if (found) {
      place.className = "lenses";
      place.append(tokens("Promotes", found.top), tokens("Its opposite promotes", found.bottom));
    } else if (data.hasLenses) {
      place.className = "";
      place.append(make("p", { of: "legend", text: "The page holds no lens of this neuron." }));
    }
  };

  const views = { before: "Before", after: "After", change: "After − before" };
  const choice = () => {
    const field = make("fieldset", { of: "chips" });
    field.append(make("legend", { text: "Activation" }));
    for (const [key, name] of Object.entries(views)) {
      const label = make("label", { of: "chip" });
      const radio = make("input", { type: "radio", name: "activation", value: key });
      radio.checked = key === shown;
      radio.addEventListener("change", () => {
        shown = key;
        readings();
      });
      label.append(radio, make("span", { text: name }));
      field.append(label);
    }
    return field;
  };
  const signed = (value) => `${value > 0 ? "+" : ""}${data.fixed(value, 3)}`;
  const scaleBar = (largest) => {
    const bar = make("p", { of: "legend scale-bar" });
    const ramp = make("span", { of: "ramp", "aria-hidden": "true" });
    bar.append(data.fixed(-largest, 3), ramp, `+${data.fixed(largest, 3)}`);
    return bar;
  };
  const reading = (text, values, largest, number) => {
    let strongest = 0;
    for (let i = 0; i < values.length; i += 1) if (Math.abs(values[i]) > Math.abs(values[strongest])) strongest = i;
    const item = make("li", { of: "reading" });
    const about = make("p", { of: "about-reading" });
    const at = make("code", { of: "token", dir: "auto" });
    at.append(data.tokenNodes(text.tokens[strongest], { alone: false }));
    const value = make("span", { of: "strongest", text: signed(values[strongest]) });
    about.append(`Text ${number}, strongest `, value, " at ", at);
    const running = make("p", { of: "text", dir: "auto" });
    const prompt = make("span", { of: "of-prompt" });
    running.append(prompt);
    text.tokens.forEach((token, i) => {
      const made = make("span", { of: values[i] < 0 ? "t under" : "t over", title: signed(values[i]) });
      const share = largest ? Math.min(1, Math.abs(values[i]) / largest) : 0;
      made.style.setProperty("--share", `${Math.round(70 * share)}%`);
      made.append(data.tokenNodes(token, { alone: false }));
      (i < text.prompt ? prompt : running).append(made);
    });
    item.append(about, running);
    return { item, size: Math.abs(values[strongest]) };
  };
  const readings = () => {
    const made = data.activations(opened);
    const { before, after } = made;
    const values = shown === "change" ? after.map((value, i) => value - before[i]) : made[shown];
    // Changes are small beside activations, so they have a scale of their own.
    const largest = shown === "change" ? values.reduce((most, value) => Math.max(most, Math.abs(value)), 0) : made.largest;
    document.querySelector(".scale-bar").replaceWith(scaleBar(largest));
    let start = 0;
    const items = data.texts.map((text, i) => {
      const part = values.subarray(start, start + text.tokens.length);
      start += text.tokens.length;
      return reading(text, part, largest, i + 1);
    });
    // The texts that say most about the neuron first.
    items.sort((one, other) => other.size - one.size);
    document.querySelector(".readings").replaceChildren(...items.map(({ item }) => item));
  };
  const texts = (neuron) => {
    const place = byId("opened-texts");
    place.replaceChildren();
    if (!data.texts.length) return;
    const made = data.activations(neuron);
    if (!made) {
      const text = "The page holds activations on texts for some neurons only, not for this one.";
      place.append(make("p", { of: "legend", text }));
      return;
    }
    const bar = make("div", { of: "reading-bar" });
    bar.append(choice(), scaleBar(made.largest));
    const text = "The grey part is the prompt, the rest its continuation; both models read the same tokens.";
    const list = make("ol", { of: "readings" });
    place.append(make("h4", { text: "On real texts" }), bar, make("p", { of: "legend", text }), list);
    readings();
  };

  const show = (neuron) => {
    opened = neuron;
    const name = byId("opened-name");
    name.replaceChildren(
      `Neuron ${data.name(neuron)} `,
      data.span("quiet", `${groups[data.group(neuron)]}${effects[data.effect(neuron)]}`),
    );
    byId("opened-says").textContent = sentence(neuron);
    means(neuron);
    facts(neuron);
    lens(neuron);
    texts(neuron);
    byId("opened").hidden = false;
  };
  return {
    show,
    redraw() { if (opened >= 0) show(opened); },
    close() {
      opened = -1;
      byId("opened").hidden = true;
    },
    get opened() { return opened; },
  };
};
