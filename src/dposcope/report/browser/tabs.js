// One part of the page at a time. The address says which, so Back works and a link leads into any part.
(() => {
  const panels = [...document.querySelectorAll(".panel")];
  const links = [...document.querySelectorAll(".tabs a")];
  const home = (panel) => panel.querySelector("h2").id;
  const isNeuron = (name) => /^\d+\.\d+(\.\d+)?$/.test(name);
  for (const link of links) link.dataset.home = link.hash.slice(1);
  const follow = ({ loaded = false } = {}) => {
    const name = decodeURIComponent(location.hash.slice(1)).split("?")[0];
    const target = document.getElementById(isNeuron(name) ? "neurons" : name);
    const panel = target?.closest(".panel") ?? panels[0];
    const moved = panel.hidden;
    for (const one of panels) one.hidden = one !== panel;
    for (const link of links) {
      if (link.dataset.home === home(panel)) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    for (let box = target?.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
    dispatchEvent(new Event("shown"));
    if (target && panel.contains(target) && target.id !== home(panel)) target.scrollIntoView();
    else if (moved || (loaded && target)) scrollTo(0, 0);
  };
  addEventListener("hashchange", () => follow());
  follow({ loaded: true });
})();
