"use strict";
(() => {
  const words = JSON.parse(document.getElementById("masked-words").textContent);
  const masked = [...document.querySelectorAll("[data-w]")].map((span) => ({
    span,
    starred: span.textContent,
    word: words[Number(span.dataset.w)],
  }));
  for (const part of document.querySelectorAll(".needs-script")) part.hidden = false;

  const filter = document.getElementById("filter");
  const narrow = () => {
    if (!filter) return;
    const wanted = filter.value.trim().toLowerCase();
    const samples = [...document.querySelectorAll(".sample")];
    let kept = 0;
    for (const sample of samples) {
      const texts = [...sample.querySelectorAll(".text")];
      sample.hidden = wanted !== "" && !texts.some((text) => text.textContent.toLowerCase().includes(wanted));
      if (!sample.hidden) kept += 1;
    }
    document.getElementById("filter-count").textContent = wanted ? `${kept} of ${samples.length} shown` : "";
  };
  if (filter) filter.addEventListener("input", narrow);

  const unmask = document.getElementById("unmask");
  const show = () => {
    for (const one of masked) one.span.textContent = unmask.checked ? one.word : one.starred;
    narrow();
  };
  unmask.addEventListener("change", show);
  // A browser may come back to a page with its boxes as they were left.
  show();
})();
