// Every neuron as a dot: cosine across, contribution up. A part that is dragged over becomes a filter.
const neuronCloud = (data, { open, brush }) => {
  const canvas = document.getElementById("cloud");
  const area = canvas.getContext("2d");
  const { cosine, contribution } = data.columns;
  const HEIGHT = 260;
  const [LEFT, RIGHT, TOP, BOTTOM] = [10, 10, 18, 22];
  const roles = ["base", "tp", "tn", "ap", "an"];
  let width = 0;
  let selection = new Uint32Array(0);
  let opened = -1;
  let start = null;
  let end = null;

  const side = data.largest.cosine || 1;
  const reach = data.largest.contribution || 1;
  // A square root with its sign: a few neurons change much more than the rest.
  const root = (value) => Math.sign(value) * Math.sqrt(Math.abs(value) / reach);
  const across = (value) => LEFT + ((value / side + 1) / 2) * (width - LEFT - RIGHT);
  const up = (value) => TOP + ((1 - root(value)) / 2) * (HEIGHT - TOP - BOTTOM);
  const cosineAt = (x) => (((x - LEFT) / (width - LEFT - RIGHT)) * 2 - 1) * side;
  const contributionAt = (y) => {
    const share = 1 - ((y - TOP) / (HEIGHT - TOP - BOTTOM)) * 2;
    return Math.sign(share) * share * share * reach;
  };

  // Dots are written pixel by pixel: half a million of them take some milliseconds.
  const layer = document.createElement("canvas");
  const paint = () => {
    asked = false;
    if (!width) return;
    const look = getComputedStyle(document.documentElement);
    const colour = (name) => look.getPropertyValue(`--${name}`).trim();
    const scale = devicePixelRatio || 1;
    for (const one of [canvas, layer]) {
      one.width = Math.round(width * scale);
      one.height = Math.round(HEIGHT * scale);
    }
    const drawn = layer.getContext("2d");
    const image = drawn.createImageData(layer.width, layer.height);
    const pixels = new Uint32Array(image.data.buffer);
    const word = (name) => {
      const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour(name).slice(at, at + 2), 16));
      return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    };
    const dot = (neuron, tone, size) => {
      const left = Math.round(across(cosine[neuron]) * scale - size / 2);
      const top = Math.round(up(contribution[neuron]) * scale - size / 2);
      for (let y = top; y < top + size; y += 1) pixels.fill(tone, y * layer.width + left, y * layer.width + left + size);
    };
    const pale = word("rule");
    if (selection.length < data.present) {
      for (let i = 0; i < data.count; i += 1) if (!data.absent(i)) dot(i, pale, Math.round(scale));
    }
    const tones = roles.map((role) => word(`fig-${role}`));
    const size = Math.round((selection.length > 5000 ? 1.4 : selection.length > 300 ? 2 : 4) * scale);
    // From the last to the first: the first of the table lie on top.
    for (let i = selection.length - 1; i >= 0; i -= 1) dot(selection[i], tones[data.group(selection[i])], size);
    drawn.putImageData(image, 0, 0);
    over();
  };
  // Several changes before the next frame are painted once.
  let asked = false;
  const ask = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(paint);
  };
  const over = () => {
    if (!width) return;
    const look = getComputedStyle(document.documentElement);
    const colour = (name) => look.getPropertyValue(`--${name}`).trim();
    const scale = devicePixelRatio || 1;
    area.setTransform(scale, 0, 0, scale, 0, 0);
    area.clearRect(0, 0, width, HEIGHT);
    area.strokeStyle = colour("rule");
    area.lineWidth = 1;
    area.beginPath();
    area.moveTo(across(0), TOP);
    area.lineTo(across(0), HEIGHT - BOTTOM);
    area.moveTo(LEFT, up(0));
    area.lineTo(width - RIGHT, up(0));
    area.stroke();
    area.drawImage(layer, 0, 0, width, HEIGHT);
    area.fillStyle = colour("muted");
    area.font = `12px ${colour("sans")}`;
    area.textAlign = "left";
    area.fillText("writes less ↓", LEFT, 12);
    area.fillText("writes more ↑", LEFT, HEIGHT - 6);
    area.textAlign = "right";
    area.fillText("cosine →", width - RIGHT, HEIGHT - 6);
    area.strokeStyle = colour("ink");
    if (opened >= 0) {
      area.lineWidth = 1.6;
      area.beginPath();
      area.arc(across(cosine[opened]), up(contribution[opened]), 5, 0, 2 * Math.PI);
      area.stroke();
    }
    if (start && end) {
      area.setLineDash([4, 3]);
      area.strokeRect(start.x, start.y, end.x - start.x, end.y - start.y);
      area.setLineDash([]);
    }
  };

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const nearest = ({ x, y }) => {
    let found = -1;
    let least = 100;
    for (const neuron of selection) {
      const distance = (across(cosine[neuron]) - x) ** 2 + (up(contribution[neuron]) - y) ** 2;
      if (distance < least) [found, least] = [neuron, distance];
    }
    return found;
  };
  canvas.addEventListener("pointerdown", (event) => {
    start = place(event);
    end = null;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!start) return;
    end = place(event);
    over();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!start) return;
    const [from, to] = [start, place(event)];
    start = end = null;
    if (Math.abs(from.x - to.x) < 5 && Math.abs(from.y - to.y) < 5) {
      const neuron = nearest(to);
      if (neuron >= 0) open(neuron);
      else over();
      return;
    }
    const order = (one, other) => (one < other ? [one, other] : [other, one]);
    brush({
      cosine: order(cosineAt(from.x), cosineAt(to.x)),
      contribution: order(contributionAt(from.y), contributionAt(to.y)),
    });
  });
  canvas.addEventListener("pointercancel", () => {
    start = end = null;
    over();
  });

  new ResizeObserver(() => {
    if (canvas.parentElement.clientWidth === width) return;
    width = canvas.parentElement.clientWidth;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${HEIGHT}px`;
    ask();
  }).observe(canvas.parentElement);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", ask);

  return {
    show(chosen) {
      selection = chosen;
      ask();
    },
    mark(neuron) {
      opened = neuron;
      over();
    },
  };
};
