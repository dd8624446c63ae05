"""docs/numbers.md, performance.md and scale.md from bench/results/*.json: no figure in them is typed by hand.

python bench/table.py
"""

import numbers_page
import performance_page
import scale_page
from stored import DOCS

PAGES = {
    "numbers.md": numbers_page.page,
    "performance.md": performance_page.page,
    "scale.md": scale_page.page,
}


def main() -> None:
    for name, page in PAGES.items():
        text = "\n".join(page()) + "\n"
        (DOCS / name).write_text(text, encoding="utf-8")
        print(text)


if __name__ == "__main__":
    main()
