"""Looks at pages of runs in Chromium, and says what is wrong with them.

    python look.py FOLDER PAGE.html...

Each page is opened as a file: in light and dark, 1280 and 360 dots wide, and on paper (A4). Checked is what
tests/evaluate/look.py checks of its pages (no network, a quiet console, contrast, no scrolling to the side, plots with
titles and descriptions), and: marks stay within their plot, labels do not run into each other, each plot has a table of
its numbers, every fold opens by keyboard alone, and no text has become markup. FOLDER receives what was seen.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "evaluate"))
from look import CONTRAST, PAPER, PLOTS, WIDER  # noqa: E402
from playwright.sync_api import Error, sync_playwright  # noqa: E402

# Whatever is drawn stays within the frame of its plot; no two labels lie upon each other.
MARKS = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
    const title = svg.querySelector(':scope > title')?.textContent ?? '';
    const frame = svg.getBoundingClientRect();
    const marks = [...svg.querySelectorAll('rect, circle, path, polyline, line')];
    const wrong = [];
    if (!marks.length) wrong.push(`no marks in ${title}`);
    for (const mark of marks) {
        const box = mark.getBoundingClientRect();
        if (box.left < frame.left - 1.5 || box.right > frame.right + 1.5 || box.top < frame.top - 1.5 || box.bottom > frame.bottom + 1.5)
            wrong.push(`a ${mark.tagName} outside of ${title}`);
        if (/NaN|Infinity|inf/.test(mark.outerHTML.replace(/<title>.*<\\/title>/, ''))) wrong.push(`no number in ${title}`);
    }
    const labels = [...svg.querySelectorAll('text')].map(it => [it.textContent, it.getBoundingClientRect()]);
    labels.forEach(([one, a], i) => labels.slice(i + 1).forEach(([two, b]) => {
        const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (across > 1 && down > 3) wrong.push(`"${one}" and "${two}" run into each other in ${title}`);
    }));
    const table = svg.closest('figure')?.querySelector('details table');
    if (!table || table.rows.length < 2) wrong.push(`no numbers below ${title}`);
    return wrong;
})"""

# Texts are texts: whatever a model has written.
MARKUP = """() => [
    ...[...document.querySelectorAll('script, img, iframe, link, object, form')].map(it => `a ${it.tagName}`),
    ...[...document.querySelectorAll('style')].slice(1).map(() => 'a second style'),
    ...[...document.querySelectorAll('a')].filter(it => !/^(https:|#|file:.*#)/.test(it.href)).map(it => `a link to ${it.href}`),
    ...(document.title === 'broken' ? ['a script has run'] : []),
]"""

SCREENS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}},
    "phone": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}, "device_scale_factor": 2},
    "phone-dark": {"color_scheme": "dark", "viewport": {"width": 360, "height": 740}, "device_scale_factor": 2},
    "paper": {"color_scheme": "light", "viewport": {"width": PAPER, "height": 1000}},
}


def opened_by_keyboard(page):
    """Opens every fold as one without a pointer would; returns those that stay shut."""
    folds = page.locator("summary")
    for number in range(folds.count()):
        folds.nth(number).focus()
        page.keyboard.press("Enter")
    shut = page.evaluate("[...document.querySelectorAll('details:not([open])')].map(it => it.textContent.slice(0, 40))")
    first = page.evaluate("() => { document.body.focus(); return document.activeElement?.tagName }")
    return [f"shut: {it}" for it in shut] + ([] if first else ["nothing can be focused"])


def photograph(page, path):
    """Keeps what is seen; where the machine is busy, Chromium may have nothing to show at once."""
    for left in (2, 1, 0):
        try:
            return page.screenshot(path=path, full_page=True)
        except Error:
            if not left:
                raise
            page.wait_for_timeout(1000)


def look(browser, page_file, screen, folder):
    """Returns what is wrong with a page on a screen, and what there was of it."""
    wrong, asked = [], []
    context = browser.new_context(**SCREENS[screen])
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(f"the console says: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"an error: {error}"))
    page.on("dialog", lambda dialog: (wrong.append("a dialog opens"), dialog.dismiss()))
    if screen == "paper":
        page.emulate_media(media="print")
    page.goto(page_file.resolve().as_uri())
    wrong += [f"{url} is asked for" for url in asked if url != page_file.resolve().as_uri()]
    wrong += page.evaluate(MARKUP)
    photograph(page, folder / f"{page_file.stem}-{screen}.png")
    if screen != "paper":
        wrong += opened_by_keyboard(page)
    contrast = page.evaluate(CONTRAST)
    wrong += [f"a contrast of {found}" for found in contrast["found"]]
    plots = page.evaluate(PLOTS)
    for plot in plots:
        if min(plot["width"], plot["height"]) < 20:
            wrong.append(f"a plot of {plot['width']} by {plot['height']}: {plot['title']}")
        if not plot["title"] or not plot["desc"]:
            wrong.append(f"a plot without title or description: {plot['title']}")
        wrong += [f"text outside its plot: {text} in {plot['title']}" for text in plot["out"]]
    wrong += page.evaluate(MARKS)
    width = SCREENS[screen]["viewport"]["width"]
    scrolls = page.evaluate("document.documentElement.scrollWidth")
    if scrolls > width:
        wrong.append(f"the page is {scrolls} wide, of {width}")
    if screen == "paper":
        wrong += [f"beyond the paper: {found}" for found in page.evaluate(WIDER, width)]
        page.pdf(path=folder / f"{page_file.stem}.pdf", format="A4",
                 margin={side: "10mm" for side in ("top", "right", "bottom", "left")})
    context.close()
    return wrong, contrast["texts"], len(plots)


def main():
    folder, pages = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    folder.mkdir(parents=True, exist_ok=True)
    bad = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for page in pages:
            for screen in SCREENS:
                wrong, texts, plots = look(browser, page, screen, folder)
                size = page.stat().st_size
                print(f"{page.name}, {screen}: {size} bytes, {texts} texts and {plots} plots, {len(wrong)} things wrong")
                for what in wrong[:20]:
                    print(f"  {what}")
                bad += len(wrong)
                if not plots:
                    print("  no plot at all")
                    bad += 1
        browser.close()
    sys.exit(1 if bad else 0)


main()
