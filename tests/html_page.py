"""An HTML page as tests look at it."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Collects tags, and checks that all but those in `void` nest."""

    def __init__(self, text, void):
        super().__init__()
        self.void = frozenset(void)
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in self.void:
            assert self.open.pop() == tag
