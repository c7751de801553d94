"""What axe-core, the usual checker of accessibility, and a ruler find on an open page."""

from importlib import resources

import pytest

from helpers.chromium import Page

_SMALL = """(() => {
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode;
    const element = text.parentElement;
    if (!text.textContent.trim() || ["SCRIPT", "STYLE", "TITLE", "NOSCRIPT"].includes(element.tagName)) continue;
    if (!element.checkVisibility()) continue;
    // The text of a figure is as large as the figure is shown.
    const scale = element.ownerSVGElement?.getScreenCTM()?.a ?? 1;
    const size = parseFloat(getComputedStyle(element).fontSize) * scale;
    if (size < 11.95) found.add(`${element.tagName} ${size.toFixed(1)}: ${text.textContent.trim().slice(0, 30)}`);
  }
  return [...found];
})()"""


def violations(page: Page) -> list[str]:
    """Rules that the page breaks, each with the first place; skipped where axe-core is not installed."""
    pytest.importorskip("axe_core_python", reason="axe-core-python is not installed: pip install '.[dev]'")
    page.run(resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8") + "; 0")
    return page.run(
        """axe.run(document, {resultTypes: ["violations"]}).then((found) => found.violations.map(
            (one) => `${one.id} (${one.nodes.length}): ${one.nodes[0].html.slice(0, 160)}`))"""
    )


def small_texts(page: Page) -> list[str]:
    """Texts that are shown smaller than 12 pixels."""
    return page.run(_SMALL)
