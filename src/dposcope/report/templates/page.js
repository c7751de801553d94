"use strict";
(() => {
  const words = JSON.parse(document.getElementById("masked-words").textContent);
  const masked = [...document.querySelectorAll("[data-w]")].map((span) => ({
    span,
    starred: span.textContent,
    word: words[Number(span.dataset.w)],
  }));
  for (const part of document.querySelectorAll(".needs-script")) part.hidden = false;

  // A text is found by its words, also while they are starred, and by what is shown: the index itself never is.
  const fold = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  let index = null;
  const made = () =>
    [...document.querySelectorAll(".sample")].map((sample) => ({
      sample,
      texts: [...sample.querySelectorAll(".text")].map((text) => {
        const whole = text.cloneNode(true);
        for (const span of whole.querySelectorAll("[data-w]")) span.textContent = words[Number(span.dataset.w)];
        return fold(`${whole.textContent}\n${text.textContent}`);
      }),
    }));
  const filter = document.getElementById("filter");
  const narrow = () => {
    index ??= made();
    const wanted = fold(filter.value.trim());
    for (const rest of document.querySelectorAll(".rest")) rest.open ||= wanted !== "";
    let kept = 0;
    for (const { sample, texts } of index) {
      sample.hidden = wanted !== "" && !texts.some((text) => text.includes(wanted));
      if (!sample.hidden) kept += 1;
    }
    document.getElementById("filter-count").textContent = wanted ? `${kept} of ${index.length} shown` : "";
  };
  if (filter) {
    filter.addEventListener("input", narrow);
    if (filter.value) narrow();
  }

  const unmask = document.getElementById("unmask");
  const show = () => {
    for (const one of masked) one.span.textContent = unmask.checked ? one.word : one.starred;
  };
  unmask.addEventListener("change", show);
  // A browser may come back to a page with its boxes as they were left.
  show();

  // A figure that is wider than the screen is scrolled, by keyboard, too.
  const reach = () => {
    for (const box of document.querySelectorAll(".drawn")) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  addEventListener("resize", reach);
  addEventListener("shown", reach);
  reach();
})();
