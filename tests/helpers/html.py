"""A page as a reader has it."""

import json
import re
from html.parser import HTMLParser


class Parsed(HTMLParser):
    """Elements with their attributes, text outside scripts and styles, and what those hold."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts, self.styles = "", [], []
        self._inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else self._inside
        self.text += "" if tag in {"b", "code", "a"} or dict(attrs).get("class") in {"w", "c", "whole"} else " "

    def handle_endtag(self, tag):
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside == "style":
            self.styles.append(data)
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def attributes(self) -> list[tuple[str, str]]:
        return [(name, value or "") for _, attributes in self.elements for name, value in attributes.items()]


def words_of(html: str) -> str:
    """Its text, spaces made one."""
    return re.sub(r"\s+", " ", Parsed(html).text)


def masked_words(html: str) -> list[str]:
    return json.loads(re.search(r'<script type="application/json" id="masked-words">(.*?)</script>', html)[1])
