"""Photograph a report: `python docs/make_screenshot.py RUN [-o docs/report.png] [--dark] [--height 1500]`.

Opens RUN/report/index.html in a headless Chromium or Chrome found on the path. The browser is a tool of the person
who makes the documentation, no dependency of the project.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def main() -> None:
    parser = argparse.ArgumentParser(description="Photograph the report of a run.")
    parser.add_argument("run", type=Path, help="run directory with report/index.html")
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).with_name("report.png"))
    parser.add_argument("--dark", action="store_true", help="the dark theme")
    parser.add_argument("--width", type=int, default=1240)
    parser.add_argument("--height", type=int, default=1560)
    options = parser.parse_args()
    page = (options.run / "report" / "index.html").resolve()
    if not page.exists():
        sys.exit(f"{page}: expected a report, found none: run `tamis report {options.run}` first")
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if not browser:
        sys.exit(f"expected a browser on the path ({', '.join(BROWSERS)}), found none: install chromium")
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--force-device-scale-factor=1.5", f"--user-data-dir={profile}",
            f"--screenshot={options.out.resolve()}", f"--window-size={options.width},{options.height}",
        ]  # fmt: skip
        command += ["--force-dark-mode"] if options.dark else []
        subprocess.run([*command, page.as_uri()], check=True, capture_output=True, timeout=120)
    print(options.out)


if __name__ == "__main__":
    main()
