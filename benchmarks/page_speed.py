"""Seconds from pressing Draw to the picture, in a real browser beside the page's server on this machine.

    python benchmarks/page_speed.py [--model builtin] [--draws 5]

Needs the extra web, playwright and a Chromium. The time is taken by the page itself, from the press of the
button to the line that says "Drawn". Beside it: how long the server takes to answer another request while it
draws, and, as the baseline, what the pipeline alone takes in a process without a page or a browser.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from typing import Any

import torch
from playwright.sync_api import Page, sync_playwright

from satcascade.io.tables import markdown_table
from threads import picture_seconds

CAPTIONS = (
    "calm blue water of a lake with a curved shore",
    "a viaduct is combined with a ring-shaped road",
    "rows of dense buildings with grey roofs",
)

# Resolves when the status line has changed from what it was and says that the picture is there.
PRESS = """() => new Promise(resolve => {
    const line = document.querySelector("#draw-status"), start = performance.now();
    let working = false;
    const observer = new MutationObserver(() => {
        const drawn = line.innerText.includes("Drawn");
        working = working || !drawn;
        if (working && drawn) {
            observer.disconnect();
            resolve((performance.now() - start) / 1000);
        }
    });
    observer.observe(line, {subtree: true, childList: true, characterData: true});
    document.querySelector("#draw-start").click();
})"""


def draw(page: Page, number: int) -> float:
    """Seconds from the press of the button to the picture."""
    page.locator("#draw-caption textarea").fill(CAPTIONS[number % len(CAPTIONS)])
    page.locator("#draw-seed input").fill(str(number))
    time.sleep(1)
    return float(page.evaluate(PRESS))


def answer_while_drawing(page: Page, address: str) -> float:
    """The longest of ten answers of the server while it draws a picture, in seconds."""
    page.locator("#draw-start").click()
    time.sleep(0.3)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        urllib.request.urlopen(f"{address}/config", timeout=60).read()
        seconds.append(time.perf_counter() - start)
        time.sleep(0.05)
    return max(seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--draws", type=int, default=5)
    arguments = parser.parse_args()
    baseline = picture_seconds(arguments.model, arguments.draws, torch.get_num_threads(), beside=False)

    command = [sys.executable, "-m", "satcascade", "web", "--port", "0", "--no-open"]
    started = time.perf_counter()
    server = subprocess.Popen([*command, "--model", arguments.model], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[2]
        up = time.perf_counter() - started
        with sync_playwright() as playwright:
            launch: dict[str, Any] = {"args": ["--no-sandbox"]}
            if path := shutil.which("chromium") or shutil.which("chromium-browser"):
                launch["executable_path"] = path
            browser = playwright.chromium.launch(**launch)
            page = browser.new_page()
            page.goto(address)
            page.get_by_role("button", name="Draw", exact=True).wait_for()
            time.sleep(10)  # the model warms up, and the page comes to rest
            seconds = [draw(page, number) for number in range(arguments.draws + 1)]
            answer = answer_while_drawing(page, address)
            browser.close()
    finally:
        server.terminate()
        server.wait()

    rows = {
        "the pipeline alone": baseline,
        "first picture in the page": seconds[0],
        f"later ones, median of {arguments.draws}": statistics.median(seconds[1:]),
        "longest of ten answers while it draws": answer,
        "start of the command to the page": up,
    }
    cells = [[name, f"{value:.2f}", f"{value / baseline:.2f}"] for name, value in rows.items()]
    print(markdown_table([["", "seconds", "ratio"], *cells]), end="")


if __name__ == "__main__":
    main()
