// The page's numbers, their orders and selections. A neuron is its row in the columns. Where the page has all neurons
// that is its place in the model, block · width + index.
const neuronData = (() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const parts = read("browser-data");
  const words = read("masked-words");

  const kinds = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i1: Int8Array, f4: Float32Array };
  const halves = () => {
    const values = new Float32Array(65536);
    for (let bits = 0; bits < 65536; bits += 1) {
      const exponent = (bits >> 10) & 31;
      const fraction = bits & 1023;
      const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
      values[bits] = bits & 32768 ? -size : size;
    }
    return values;
  };
  const half = halves();
  const unpack = ({ type, data, scale }) => {
    const text = atob(data);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
    if (type !== "f2") return new kinds[type](bytes.buffer);
    return Float32Array.from(new Uint16Array(bytes.buffer), (bits) => half[bits] * scale);
  };

  const [blocks, width] = parts.shape;
  // Neurons of one expert; those of a block lie expert by expert. Without experts, 0.
  const own = parts.experts ? width / parts.experts : 0;
  const flags = unpack(parts.columns.flags);
  const count = flags.length;
  const kept = parts.kept && {
    neurons: unpack(parts.kept.neurons),
    ranks: unpack(parts.kept.ranks),
    peerRanks: unpack(parts.kept.peerRanks),
  };
  // The first row whose place is at least this.
  const rowFrom = (place) => {
    if (!kept) return place;
    let [low, high] = [0, count];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (kept.neurons[middle] < place) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  const columns = {};
  for (const name of ["cosine", "before", "after", "contribution"]) columns[name] = unpack(parts.columns[name]);
  // How much of its mean activation is left; a neuron that was silent before has no gain.
  columns.gain = Float32Array.from(columns.before, (before, i) => (before ? columns.after[i] / before : NaN));
  const largest = {};
  for (const name of ["cosine", "contribution"]) {
    largest[name] = columns[name].reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  }

  const lenses = {
    neurons: unpack(parts.lenses.neurons),
    tokens: unpack(parts.lenses.tokens),
    logits: unpack(parts.lenses.logits),
  };
  const perLens = lenses.neurons.length ? lenses.tokens.length / lenses.neurons.length : 0;
  const lensRow = new Int32Array(count).fill(-1);
  lenses.neurons.forEach((neuron, row) => {
    lensRow[neuron] = row;
  });

  const activations = {
    neurons: unpack(parts.activations.neurons),
    scales: unpack(parts.activations.scales),
    before: unpack(parts.activations.before),
    after: unpack(parts.activations.after),
  };
  const activationRow = new Map(Array.from(activations.neurons, (neuron, row) => [neuron, row]));
  const texts = parts.texts.map((text) => ({ tokens: unpack(text.tokens), prompt: text.prompt }));

  // What filters ask of a neuron, in one byte: group, certain (8), effect (16 ↓, 32 ↑), with texts (64).
  const effect = (neuron) => (columns.contribution[neuron] > 0 ? 1 : columns.contribution[neuron] < 0 ? 2 : 0);
  const kind = new Uint8Array(count);
  for (let neuron = 0; neuron < count; neuron += 1) kind[neuron] = flags[neuron] | (effect(neuron) << 4);
  for (const neuron of activations.neurons) kind[neuron] |= 64;

  // Tokens

  let unmasked = false;
  const pieceText = (piece) => {
    if (typeof piece === "string") return piece;
    const [shown, word, start, end] = piece;
    if (!unmasked || word === undefined) return shown;
    return start === undefined ? words[word] : Array.from(words[word]).slice(start, end).join("");
  };
  const pieces = (token) => (typeof parts.tokens[token] === "string" ? [parts.tokens[token]] : parts.tokens[token]);
  const tokenText = (token) => pieces(token).map(pieceText).join("");
  const span = (name, text) => {
    const made = document.createElement("span");
    made.className = name;
    made.textContent = text;
    return made;
  };
  // Of a token by itself spaces are marks.
  const tokenNodes = (token, { alone }) => {
    const nodes = document.createDocumentFragment();
    for (const piece of pieces(token)) {
      if (typeof piece !== "string") nodes.append(span(piece.length === 1 ? "c" : "w", pieceText(piece)));
      else if (!alone) nodes.append(piece);
      else piece.split(/( )/).forEach((text) => { if (text) nodes.append(text === " " ? span("c", "␣") : text); });
    }
    return nodes;
  };
  let lowered = null;
  const loweredTokens = () => {
    lowered ??= parts.tokens.map((_, token) => tokenText(token).toLowerCase());
    return lowered;
  };
  // A token is found by its word, also while it is starred, and by what is shown: the index itself never is.
  const fold = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  const bareText = (piece) => {
    if (typeof piece === "string" || piece.length === 1) return pieceText(piece);
    const [, word, start, end] = piece;
    return start === undefined ? words[word] : Array.from(words[word]).slice(start, end).join("");
  };
  let index = null;
  const searchedTokens = () => {
    index ??= parts.tokens.map((_, token) => {
      const starred = pieces(token).map((piece) => (typeof piece === "string" ? piece : piece[0])).join("");
      return fold(`${pieces(token).map(bareText).join("")}\n${starred}`);
    });
    return index;
  };

  // Orders: a radix sort of one 32-bit key per neuron, in two stable passes, so ties stay in the neurons' order.

  const radix = (keys) => {
    let from = Uint32Array.from(keys, (_, i) => i);
    let to = new Uint32Array(keys.length);
    for (const shift of [0, 16]) {
      const starts = new Uint32Array(65537);
      for (let i = 0; i < keys.length; i += 1) starts[((keys[i] >>> shift) & 65535) + 1] += 1;
      for (let i = 0; i < 65536; i += 1) starts[i + 1] += starts[i];
      for (let i = 0; i < from.length; i += 1) {
        const neuron = from[i];
        to[starts[(keys[neuron] >>> shift) & 65535]++] = neuron;
      }
      [from, to] = [to, from];
    }
    return from;
  };
  // Floats whose bits are turned so that they compare as unsigned numbers; adding 0 makes −0 the same as 0.
  const floatKeys = (values) => {
    const keys = new Uint32Array(Float32Array.from(values, (value) => value + 0).buffer);
    for (let i = 0; i < keys.length; i += 1) keys[i] = keys[i] & 0x80000000 ? ~keys[i] : keys[i] | 0x80000000;
    return keys;
  };
  const NOWHERE = 0xffffffff;
  const lensKeys = () => {
    const names = loweredTokens();
    const first = [...new Set(Array.from(lenses.neurons, (_, row) => lenses.tokens[row * perLens]))];
    const place = new Map();
    first
      .map((token) => [names[token].trim(), token])
      .sort(([one], [other]) => (one < other ? -1 : one > other ? 1 : 0))
      .forEach(([, token], at) => place.set(token, at));
    return Uint32Array.from(lensRow, (row) => (row < 0 ? NOWHERE : place.get(lenses.tokens[row * perLens])));
  };
  const keysOf = {
    neuron: () => Uint32Array.from({ length: count }, (_, neuron) => neuron),
    group: () => Uint32Array.from(kind, (bits) => (bits & 7) * 4 + ((bits >> 4) & 3)),
    cosine: () => floatKeys(columns.cosine),
    gain: () => floatKeys(columns.gain).map((key, i) => (Number.isNaN(columns.gain[i]) ? NOWHERE : key)),
    before: () => floatKeys(columns.before),
    after: () => floatKeys(columns.after),
    contribution: () => floatKeys(columns.contribution),
    rank: () => ranks(),
    lens: lensKeys,
  };
  const orders = new Map();
  // Where blocks differ in width, columns without a neuron have the code 7 in place of a group.
  const absent = (neuron) => (kind[neuron] & 7) === 7;
  const present = kind.reduce((sum, bits) => sum + ((bits & 7) === 7 ? 0 : 1), 0);
  const order = (column, descending) => {
    const name = `${column} ${descending}`;
    if (!orders.has(name)) {
      const keys = keysOf[column]();
      // Neurons without a lens or a gain come last either way.
      if (descending) for (let i = 0; i < count; i += 1) if (keys[i] !== NOWHERE) keys[i] = NOWHERE - 1 - keys[i];
      const sorted = radix(keys);
      orders.set(name, present < count ? sorted.filter((neuron) => !absent(neuron)) : sorted);
    }
    return orders.get(name);
  };
  let rank = null;
  const ranks = () => {
    if (!rank && kept) rank = kept.ranks;
    if (!rank) {
      rank = new Uint32Array(count);
      order("contribution", true).forEach((neuron, at) => { rank[neuron] = at + 1; });
    }
    return rank.slice();
  };
  ranks();

  // Selections

  // The rows of a block, an expert, one neuron or everything, or null for what is none of these.
  const range = (query) => {
    const typed = query.trim();
    if (!typed) return { from: 0, to: count, one: false };
    if (!/^\d+(\.\d*)*$/.test(typed)) return null;
    const levels = own ? [[blocks, width], [parts.experts, own], [own, 1]] : [[blocks, width], [width, 1]];
    const asked = typed.replace(/\.$/, "").split(".");
    if (asked.length > levels.length || asked.includes("")) return null;
    let from = 0;
    let size = blocks * width;
    for (const [level, part] of asked.entries()) {
      const [most, step] = levels[level];
      if (Number(part) >= most) return null;
      from += Number(part) * step;
      size = step;
    }
    return { from: rowFrom(from), to: rowFrom(from + size), one: asked.length === levels.length };
  };
  const names = (neuron) => {
    const number = kept ? kept.neurons[neuron] : neuron;
    const place = number % width;
    return [Math.floor(number / width), ...(own ? [Math.floor(place / own), place % own] : [place])];
  };
  // `cosine > 0.05, |before| < 1`: one test per part, nothing asked for an empty text, or null for what is none of these.
  const comparisons = {
    "<": (value, bound) => value < bound,
    "<=": (value, bound) => value <= bound,
    ">": (value, bound) => value > bound,
    ">=": (value, bound) => value >= bound,
    "=": (value, bound) => value === bound,
  };
  const numbers = (query) => {
    const tests = [];
    for (const part of query.split(",")) {
      if (!part.trim()) continue;
      // A minus may be typed as it is shown.
      const form = /^\s*(\|?)\s*([a-z]+)\s*(\|?)\s*([<>]=?|=)\s*(-?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*$/i;
      const [, left, word, right, sign, number] = form.exec(part.replaceAll("−", "-")) ?? [];
      const name = (word ?? "").toLowerCase();
      if (left !== right || !(name === "rank" || Object.hasOwn(columns, name))) return null;
      const values = name === "rank" ? rank : columns[name];
      // As exact as the page's own numbers, or nothing would equal 0.1.
      const bound = Math.fround(Number(number));
      const compare = comparisons[sign];
      tests.push(left ? (i) => compare(Math.abs(values[i]), bound) : (i) => compare(values[i], bound));
    }
    return tests;
  };
  const lensHits = (wanted, side) => {
    const names = searchedTokens();
    const matches = Uint8Array.from(names, (name) => name.includes(wanted));
    const hits = new Uint8Array(count);
    const [from, to] = { both: [0, perLens], top: [0, perLens / 2], bottom: [perLens / 2, perLens] }[side];
    for (let row = 0; row < lenses.neurons.length; row += 1) {
      for (let i = row * perLens + from; i < row * perLens + to; i += 1) {
        if (matches[lenses.tokens[i]]) {
          hits[lenses.neurons[row]] = 1;
          break;
        }
      }
    }
    return hits;
  };
  const select = ({ query, number, token, side, groups, effects, certain, withTexts, column, descending }) => {
    const asked = range(query);
    const tests = numbers(number);
    if (!asked || !tests) return new Uint32Array(0);
    const passes = new Uint8Array(128);
    for (let bits = 0; bits < 128; bits += 1) {
      passes[bits] =
        (!groups.length || groups.includes(bits & 7)) &&
        (!effects.length || effects.includes((bits >> 4) & 3)) &&
        (!certain || bits & 8) &&
        (!withTexts || bits & 64);
      passes[bits] = passes[bits] ? 1 : 0;
    }
    const wanted = fold(token.trim()).replaceAll("␣", " ");
    const hits = wanted ? lensHits(wanted, side) : null;
    const ordered = order(column, descending);
    const chosen = new Uint32Array(present);
    let size = 0;
    for (let i = 0; i < present; i += 1) {
      const neuron = ordered[i];
      if (
        passes[kind[neuron]] &&
        neuron >= asked.from &&
        neuron < asked.to &&
        (!hits || hits[neuron]) &&
        tests.every((test) => test(neuron))
      ) {
        chosen[size] = neuron;
        size += 1;
      }
    }
    return chosen.subarray(0, size);
  };

  const fixed = (value, digits) => {
    const text = value.toFixed(digits);
    return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
  };

  return {
    blocks,
    width,
    count,
    present,
    // Of both models, on the page or not.
    total: kept ? parts.kept.total : present,
    absent,
    columns,
    largest,
    texts,
    hasLenses: lenses.neurons.length > 0,
    lensCount: lenses.neurons.length,
    digits: { cosine: 3, gain: 2, before: parts.digits.mean, after: parts.digits.mean, contribution: parts.digits.contribution },
    fixed,
    span,
    select,
    range,
    numbers,
    tokenText,
    tokenNodes,
    // Block, expert in a mixture, and index.
    names,
    name: (neuron) => names(neuron).join("."),
    last: names(kind.findLastIndex((bits) => (bits & 7) !== 7)).join("."),
    levels: own ? ["block", "expert", "index"] : ["block", "index"],
    group: (neuron) => kind[neuron] & 7,
    effect,
    certain: (neuron) => (kind[neuron] & 8) !== 0,
    rank: (neuron) => rank[neuron],
    gainText(neuron) {
      const gain = columns.gain[neuron];
      return Number.isFinite(gain) ? fixed(gain, Math.abs(gain) < 100 ? 2 : 0) : "–";
    },
    // How many neurons of one group and effect there are, and which place this one has among them.
    rankAmongPeers(neuron) {
      if (kept) return { rank: kept.peerRanks[neuron], peers: parts.kept.peers[(kind[neuron] & 7) * 3 + effect(neuron)] };
      const mask = 7 | 48;
      let ahead = 0;
      let peers = 0;
      for (let other = 0; other < count; other += 1) {
        if ((kind[other] & mask) !== (kind[neuron] & mask)) continue;
        peers += 1;
        if (rank[other] <= rank[neuron]) ahead += 1;
      }
      // Of those that increase, the strongest is the lowest.
      return { rank: effect(neuron) === 2 ? peers - ahead + 1 : ahead, peers };
    },
    lens(neuron) {
      const row = lensRow[neuron];
      if (row < 0) return null;
      const side = (from) =>
        Array.from({ length: perLens / 2 }, (_, i) => {
          const at = row * perLens + from + i;
          return { token: lenses.tokens[at], logit: lenses.logits[at] };
        });
      return { top: side(0), bottom: side(perLens / 2) };
    },
    // One value per token of all texts, and the largest |value| under either model.
    activations(neuron) {
      const row = activationRow.get(neuron);
      if (row === undefined) return null;
      const total = activations.before.length / activations.neurons.length;
      const scale = activations.scales[row];
      const values = (steps) =>
        Float32Array.from(steps.subarray(row * total, (row + 1) * total), (step) => step * scale);
      return { before: values(activations.before), after: values(activations.after), largest: 127 * scale };
    },
    unmask(wanted) {
      unmasked = wanted;
      lowered = null;
      orders.delete("lens true");
      orders.delete("lens false");
    },
  };
})();
