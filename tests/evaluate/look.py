"""Looks at pages of `aligner evaluate --report` in Chromium, and says what is wrong with them.

    python look.py FOLDER PAGE.html...

Each page is opened as a file: on a light and a dark screen, on a phone, and on paper (A4). Checked: nothing is asked
of a network and nothing complained of; every text stands out from what is behind it (a contrast of 4.5, as in WCAG 2.2
AA); the page itself does not scroll to the side on a phone; nothing is wider than the paper; every plot has a size, a
title and a description, and keeps its text within it. FOLDER receives what was seen.
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

CONTRAST = """() => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const parse = colour => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = ([r, g, b, a], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a), 1];
    const luminance = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const behind = element => {
        const all = [];
        for (let it = element; it; it = it.parentElement) all.push(parse(getComputedStyle(it).backgroundColor));
        return all.reverse().reduce((below, colour) => over(colour, below), [255, 255, 255, 1]);
    };
    const found = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let texts = 0;
    while (walk.nextNode()) {
        const element = walk.currentNode.parentElement;
        if (!walk.currentNode.textContent.trim() || !element.checkVisibility()) continue;
        if (['TITLE', 'DESC', 'STYLE'].includes(element.tagName.toUpperCase())) continue;
        texts += 1;
        const back = behind(element);
        const inked = getComputedStyle(element);
        const ink = element instanceof SVGElement ? inked.fill : inked.color;
        const front = over(parse(ink), back);
        const [one, two] = [luminance(front), luminance(back)].sort((a, b) => b - a);
        const ratio = (one + 0.05) / (two + 0.05);
        if (ratio < 4.5) found.push(`${ratio.toFixed(2)}: ${walk.currentNode.textContent.trim().slice(0, 40)}`);
    }
    return { texts, found };
}"""

PLOTS = """() => [...document.querySelectorAll('svg')].map(svg => {
    const box = svg.getBoundingClientRect();
    const text = name => svg.querySelector(':scope > ' + name)?.textContent.trim() ?? '';
    const out = [...svg.querySelectorAll('text')].filter(it => {
        const inner = it.getBoundingClientRect();
        return inner.left < box.left - 1 || inner.right > box.right + 1 || inner.top < box.top - 1 || inner.bottom > box.bottom + 1;
    });
    return { width: box.width, height: box.height, title: text('title'), desc: text('desc'), out: out.map(it => it.textContent) };
})"""

# What is as wide as the page allows, and scrolls by itself where it is wider.
WIDER = """width => [...document.querySelectorAll('body *')].filter(it => {
    const box = it.getBoundingClientRect();
    return it.checkVisibility() && box.width > 0 && box.right > width + 1;
}).map(it => `${it.tagName} to ${it.getBoundingClientRect().right.toFixed(0)}: ${it.textContent.trim().slice(0, 40)}`)"""

# A4 at 96 dots an inch, less margins of 10 mm.
PAPER = round((210 - 20) / 25.4 * 96)
SCREENS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}},
    "phone": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}, "device_scale_factor": 2},
    "paper": {"color_scheme": "light", "viewport": {"width": PAPER, "height": 1000}},
}


def look(browser, page_file, screen, folder):
    """Returns what is wrong with a page on a screen, and what there was of it."""
    wrong, asked = [], []
    context = browser.new_context(**SCREENS[screen])
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(f"the console says: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"an error: {error}"))
    if screen == "paper":
        page.emulate_media(media="print")
    page.goto(page_file.resolve().as_uri())
    wrong += [f"{url} is asked for" for url in asked if url != page_file.resolve().as_uri()]
    # What is folded away is looked at too; paper has no fold.
    if screen != "paper":
        page.evaluate("document.querySelectorAll('details').forEach(it => it.open = true)")
    contrast = page.evaluate(CONTRAST)
    wrong += [f"a contrast of {found}" for found in contrast["found"]]
    plots = page.evaluate(PLOTS)
    for plot in plots:
        if min(plot["width"], plot["height"]) < 20:
            wrong.append(f"a plot of {plot['width']} by {plot['height']}: {plot['title']}")
        if not plot["title"] or not plot["desc"]:
            wrong.append(f"a plot without title or description: {plot['title']}")
        wrong += [f"text outside its plot: {text}" for text in plot["out"]]
    width = SCREENS[screen]["viewport"]["width"]
    scrolls = page.evaluate("document.documentElement.scrollWidth")
    if scrolls > width:
        wrong.append(f"the page is {scrolls} wide, of {width}")
    if screen == "paper":
        wrong += [f"beyond the paper: {found}" for found in page.evaluate(WIDER, width)]
        # All that is folded away on a screen is on paper.
        shut = page.evaluate("[...document.querySelectorAll('details > :not(summary)')].filter(it => !it.checkVisibility()).length")
        if shut:
            wrong.append(f"{shut} folded parts are not on paper")
        page.pdf(path=folder / f"{page_file.stem}.pdf", format="A4",
                 margin={side: "10mm" for side in ("top", "right", "bottom", "left")})
    page.screenshot(path=folder / f"{page_file.stem}-{screen}.png", full_page=True)
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
                print(f"{page.name}, {screen}: {texts} texts and {plots} plots, {len(wrong)} things wrong")
                for what in wrong:
                    print(f"  {what}")
                bad += len(wrong)
        browser.close()
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
