"""The HTML page: complete, self-contained, escaped."""

import re
from html.parser import HTMLParser

import pytest

from bench.campaign import Campaign
from bench.plots import draw
from bench.report import render, write_report
from bench.runner import BenchError, Outcome
from bench.suites import Plan, get_suite, suite_names
from bench.tables import Chart, Series

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Collects what the tests ask for and fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables = 0
        self.addresses: list[str] = []
        self.scripts = 0
        self.ids: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.tables += tag == "table"
        self.scripts += tag == "script"
        for name, value in attributes:
            if name in {"src", "href", "xlink:href", "action", "data"}:
                self.addresses.append(value)
            if name == "id" and not any(t == "svg" for t in self.open):
                self.ids.append(value)

    def handle_startendtag(self, tag, attributes):
        for name, value in attributes:
            if name in {"src", "href", "xlink:href"}:
                self.addresses.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def records(runner, tmp_path):
    plan = Plan.make(quick=True)
    session = {"command": "stackcore bench --quick", "started": "2026-01-01", "cpus": 2, "quick": True, "machine": {}}
    return {name: Campaign(get_suite(name), plan, tmp_path, session, runner=runner).run() for name in suite_names()}


def test_the_page_has_every_table_and_finding(records):
    text = render(records)
    page = Page(text)
    analyses = [get_suite(name).analyse(records[name]) for name in suite_names()]
    assert page.tables == sum(len(analysis.tables) for analysis in analyses)
    for analysis in analyses:
        assert analysis.question.replace("'", "&#39;") in text
    assert "102 stale in 3,000,000 events delivered" in text
    assert "How far to trust this" in text
    assert "stackcore bench --quick" in text
    assert "in 0 of 6 rounds the native reference" in text


def test_the_page_needs_no_network(records):
    text = render(records)
    page = Page(text)
    assert all(address.startswith("#") for address in page.addresses)
    assert page.scripts == 0
    assert not re.search(r"https?://|url\((?!#)|@import", text)


def test_the_page_serves_light_and_dark_and_phones(records):
    text = render(records)
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert "#0102" not in text, "a stand-in colour was left in a drawing"
    assert "var(--chart-1)" in text


def test_what_a_process_said_is_escaped(runner, tmp_path):
    runner.override = lambda argv: (
        Outcome(1, "", "<script>alert(1)</script>") if "-m" in argv and len(runner.visits) == 2 else None
    )
    session = {"command": "x", "started": "", "cpus": 2, "quick": True, "machine": {}}
    records = Campaign(get_suite("floor"), Plan.make(quick=True), tmp_path, session, runner=runner).run()
    text = render({"floor": records})
    assert "&lt;script&gt;alert(1)" in text
    assert Page(text).scripts == 0


def test_the_report_is_written_beside_its_data(records, tmp_path):
    assert write_report(tmp_path) == tmp_path / "report.html"
    with pytest.raises(BenchError, match="holds no benchmark results"):
        write_report(tmp_path / "raw")


def test_a_drawing_is_the_same_every_time_and_readable_without_eyes():
    chart = Chart("lines", "T & <t>", "workers", "ratio", ["1", "2"], [Series("here", [1.0, None], [0.9, None], [1.1, None])])
    svg = draw(chart)
    assert svg == draw(chart)
    assert 'aria-label="T &amp; &lt;t>, ratio by workers. here: 1 1, 2 –"' in svg
    assert "width=" not in svg[: svg.index(">")]


def test_bars_carry_their_numbers():
    svg = draw(Chart("bars", "t", "x", "y", ["a"], [Series("s", [1234.0]), Series("r", [0.0])]))
    assert "1,230" in svg
