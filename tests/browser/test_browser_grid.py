"""The live grid in a real JupyterLab, while a thousand changes a second arrive."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect

from tests.browser import scenes
from tests.browser.axe import findings
from tests.browser.lab import Browser, OpenNotebook
from tests.waiting import scaled, until
from tests.widgets.memory import HOSTILE

pytestmark = pytest.mark.browser

SETUP = """
import threading, time
import numpy as np
from tests.browser.scenes import *
from tests.widgets.memory import HOSTILE
"""
STORM = """
class Storm(threading.Thread):
    '''Fifty random rows change every 50 ms: 1,000 changes a second.'''

    def __init__(self, source, every=0.05):
        super().__init__(daemon=True)
        self.source, self.every, self.on, self.batches = source, every, True, 0

    def run(self):
        rng = np.random.default_rng(1)
        while self.on:
            df = self.source.df.copy()
            price = df['price'].to_numpy(copy=True)
            price[rng.integers(0, len(df), 50)] = np.round(rng.uniform(1, 999, 50), 2)
            price[79_999 % len(df)] = price[0] = self.batches
            df['price'] = price
            self.batches += 1
            self.source.set(df)
            time.sleep(self.every)

storm = Storm(source)
storm.start()
"""


def cell(notebook: OpenNotebook, row: int, column: int) -> str:
    """The text of a drawn cell, by the row's number in the table."""
    return notebook.page.locator(f'[data-row="{row}"] .l{column} .nrt-v').inner_text()


@contextmanager
def large_grid(browser: Browser) -> Iterator[OpenNotebook]:
    """A notebook that shows a grid of 100,000 rows."""
    with browser.notebook() as notebook:
        notebook.run(SETUP)
        notebook.run("source = frame(100_000); g = GridWidget(source); display(g)")
        notebook.page.locator('[data-row="0"] .l4 .nrt-v').wait_for()
        yield notebook


def test_a_person_works_while_a_thousand_changes_a_second_arrive(browser: Browser) -> None:
    with large_grid(browser) as notebook:
        page = notebook.page
        assert findings(page) == []
        notebook.run(STORM)
        grid = page.locator(".nrt-grid")

        # Patches arrive, and nothing moves under a scrolled view.
        first = cell(notebook, 0, 4)
        page.locator(f'[data-row="0"] .l4 .nrt-v:not(:text-is("{first}"))').wait_for(
            timeout=scaled(3000)
        )
        viewport = grid.locator(".slick-viewport-right.slick-viewport-top")
        viewport.evaluate("node => { node.scrollTop = 79_990 * 28; }")
        page.locator('[data-row="79999"] .l4 .nrt-v').wait_for(timeout=scaled(3000))
        batch = notebook.ask("print(storm.batches)")
        notebook.until(f"storm.batches > {batch} + 8")  # patches of the new window have come
        at = viewport.evaluate("node => node.scrollTop")

        # An open editor survives, and what is typed slowly arrives.
        page.locator('[data-row="79999"] .l8').click()
        page.locator('[data-row="79999"] .l4').dblclick()
        editor = grid.locator("input.nrt-editor")
        editor.wait_for()
        editor.fill("")
        viewport.evaluate("node => { node.scrollTop -= 600 * 28; }")
        page.locator('[data-row="79395"] .l4 .nrt-v').wait_for(
            timeout=scaled(3000)
        )  # another window
        viewport.evaluate(f"node => {{ node.scrollTop = {at}; }}")
        page.locator('[data-row="79995"] .l4 .nrt-v').wait_for(timeout=scaled(3000))
        page.keyboard.type("4321.5", delay=120)
        assert editor.input_value() == "4321.5"
        assert viewport.evaluate("node => node.scrollTop") == at
        page.locator(".nrt-why-not").wait_for()  # the cell changed meanwhile
        page.keyboard.press("Enter")
        editor.wait_for(state="detached")
        notebook.until("source.edits and source.edits[-1][0] == 80000")
        assert "'price': Decimal('4321.5')" in notebook.ask("print(source.edits[-1])")
        notebook.run("storm.on = False; storm.join()")

        # Sorted in the kernel, and the first rows of the new order are seen at once.
        page.locator(".nrt-sort", has_text="quantity").click()
        top = notebook.ask("print(source.df['quantity'].min())")
        page.locator(f'[data-row="0"] .l3 .nrt-v:text-is("{top}")').wait_for(timeout=scaled(3000))
        assert grid.get_attribute("aria-rowcount") == "100001"
        assert page.locator('[data-row="0"]').first.get_attribute("aria-rowindex") == "2"

        # Filtered in the kernel.
        page.locator(".nrt-filter").fill("symbol=SAP quantity>1990")
        expected = notebook.ask(
            "print(((source.df.symbol == 'SAP') & (source.df.quantity > 1990)).sum())"
        )
        page.locator(".nrt-tools .nrt-soft", has_text=f"{expected} rows").wait_for(
            timeout=scaled(3000)
        )
        page.locator(".nrt-filter").fill("")
        page.locator(".nrt-tools .nrt-soft", has_text="100,000 rows").wait_for(timeout=scaled(3000))

        # Selected and copied by keyboard.
        page.locator('[data-row="1"] .l1').click()
        page.keyboard.press("Shift+ArrowDown")
        page.keyboard.press("Shift+ArrowRight")
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.keyboard.press("Control+c")
        page.locator("[aria-live]", has_text="Copied 2 rows").wait_for(state="attached")
        lines = page.evaluate("navigator.clipboard.readText()").split("\n")
        assert [len(line.split("\t")) for line in lines] == [2, 2]
        until(lambda: notebook.ask("print(len(g.selected))") == "2")  # told behind the copy

        # A refused value says why, and stays out.
        page.locator('[data-row="2"] .l3').dblclick()
        page.keyboard.type("many")
        page.keyboard.press("Enter")
        page.locator(".nrt-why-not", has_text="not a whole number").wait_for()
        page.keyboard.press("Escape")
        assert findings(page) == []
        assert notebook.console == []


def test_a_cell_that_changes_all_the_time_is_tinted_and_fades_when_it_rests(
    browser: Browser,
) -> None:
    """It is painted when it changes, not in every frame."""
    with large_grid(browser) as notebook:
        page = notebook.page
        plain = page.evaluate(
            """() => getComputedStyle(document.querySelector('[data-row="0"] .l4')).backgroundColor"""
        )
        notebook.run(STORM)
        most, changes, colours = page.evaluate(
            """() => new Promise((done) => {
              let most = 0, changes = 0, text = "", at = 0;
              const colours = new Set();
              const look = () => {
                const cell = document.querySelector('[data-row="0"] .l4');
                if (cell.textContent !== text) { changes++; at = performance.now(); }
                if (changes > 3 && performance.now() - at < 250) {
                  most = Math.max(most, cell.getAnimations().length);
                  colours.add(getComputedStyle(cell).backgroundColor);
                }
                text = cell.textContent;
                if (changes > 20) done([most, changes, [...colours]]);
                else requestAnimationFrame(look);
              };
              look();
            })"""
        )
        notebook.ask("storm.on = False")
        assert (most, changes) == (0, 21)
        [tint] = colours
        assert tint != plain
        first = "document.querySelector('[data-row=\"0\"] .l4')"
        page.wait_for_function(f"() => {first}.getAnimations().length === 1")
        page.wait_for_function(
            f"""(plain) => !{first}.getAnimations().length
                && getComputedStyle({first}).backgroundColor === plain""",
            arg=plain,
        )


def test_many_cells_that_have_changed_rest_without_being_painted_in_every_frame(
    browser: Browser,
) -> None:
    with large_grid(browser) as notebook:
        page = notebook.page
        page.evaluate(
            """() => {
              window.most = window.faded = 0;
              const look = () => {
                window.most = Math.max(window.most, document.querySelectorAll(".nrt-changed").length);
                window.faded += document.querySelector(".nrt-grid").getAnimations({ subtree: true })
                  .filter(one => !(one instanceof CSSTransition)).length;
                requestAnimationFrame(look);
              };
              look();
            }"""
        )
        notebook.ask(
            "df = source.df.copy(); numbers = df.select_dtypes('number').columns\n"
            "df.loc[df.index[:30], numbers] += 1; source.set(df)"
        )
        page.wait_for_function("() => window.most > 20")
        page.wait_for_function("() => !document.querySelector('.nrt-changed')")
        assert page.evaluate("window.faded") == 0


def test_hostile_names_are_text_and_nothing_is_saved(browser: Browser) -> None:
    with browser.notebook() as notebook:
        page = notebook.page
        notebook.run(SETUP)
        notebook.run(
            "df = positions(30).rename(columns={'notes': HOSTILE}); df[HOSTILE] = HOSTILE\n"
            "df['tags'] = [{'x': HOSTILE}] * 30\n"
            "fields = [f if f.name != 'notes' else Column(HOSTILE, HOSTILE) for f in FIELDS]\n"
            "source = MemoryFrame(df, fields, name=HOSTILE); source.note = HOSTILE\n"
            "source.marked[1, 'price'] = ('failed', HOSTILE)\n"
            "source.disputed.append(Conflict(2, HOSTILE, HOSTILE, HOSTILE, HOSTILE))\n"
            "g = GridWidget(source, columns=['id', HOSTILE, 'price', 'tags'], title=HOSTILE); display(g)"
        )
        page.get_by_role("grid", name=f"{HOSTILE}, live table").wait_for()
        assert page.locator(".nrt-caption").inner_text() == HOSTILE
        page.locator(".slick-cell:has(.nrt-is-conflict)").click()
        page.locator(".nrt-choices").wait_for()
        page.locator(".nrt-choice").first.press("Escape")
        page.locator('[data-row="4"] .l1').dblclick()
        page.locator(".nrt-pop textarea").wait_for()
        assert page.locator(".nrt-pop textarea").input_value().startswith("<img")
        page.keyboard.press("Escape")
        assert page.locator(".nrt img, .nrt b:text-is('bold')").count() == 0
        assert page.evaluate("window.__ran") is None

        # A conflict is chosen by keyboard.
        page.locator(".slick-cell:has(.nrt-is-conflict)").click()
        page.wait_for_function("document.activeElement?.classList.contains('nrt-choice')")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        notebook.until("source.resolved and source.resolved[0][2] == 'theirs'")
        assert findings(page) == []

        # Ten rows of preview are all that the file keeps, and the library is not in it.
        notebook.run("source.set(source.df.assign(status='sb_secret' + '_status', price=17.25))")
        page.locator('[data-row="3"] .l2', has_text="17.25").wait_for()
        text = json.dumps(notebook.save())
        assert "sb_secret_status" not in text
        assert "rowHeight" not in text, "what draws the grid is loaded once a page"
        assert len(text) < 40_000
        assert notebook.console == []


def test_what_a_person_does_in_cells(browser: Browser) -> None:
    """Pasting, taking back, choosing, typing dates; a grid as wide and high as it needs."""
    with browser.notebook() as notebook:
        page = notebook.page
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        notebook.run(SETUP)
        notebook.run(
            "fields = [*FIELDS, Column('due', 'date')]\n"
            "df = positions(30); df['due'] = pd.to_datetime('2026-03-31')\n"
            "source = MemoryFrame(df, fields)"
        )
        grid = notebook.show(
            "GridWidget(source, columns=['id', 'status', 'quantity', 'price', 'due', 'notes'])"
        )
        grid.locator('[data-row="0"] .l4 .nrt-v', has_text="2026-03-31").wait_for()
        frame = grid.locator(".nrt-grid")

        # A click takes the keyboard from a code cell in which somebody was typing.
        code = page.locator(".jp-Notebook-cell .cm-content").first
        code.click()
        page.keyboard.type("# code")
        grid.locator('[data-row="0"] .l1').click()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Delete")
        grid.locator('[data-row="1"] .l1 .nrt-null').wait_for()
        assert code.inner_text() == "# code"

        # The columns stand under their names, and the frame ends where they do.
        lines = "nodes => nodes.map(node => Math.round(node.getBoundingClientRect().left))"
        heads = grid.locator(".slick-header-column").evaluate_all(lines)
        assert heads == grid.locator('[data-row="0"] .slick-cell').evaluate_all(lines)
        right = "node => Math.round(node.getBoundingClientRect().right)"
        ends = grid.locator('[data-row="0"] .slick-cell').last.evaluate(right)
        assert 0 <= frame.evaluate(right) - ends <= 2

        # The note above comes and goes, but moves no row under a pointer that is on its way to one.
        aim, note = (
            grid.locator('[data-row="2"] .l1'),
            grid.locator(".nrt-note", has_text="Cut off"),
        )
        page.mouse.move(0, 0)  # else what moves under the real pointer is told as its leaving
        before = aim.bounding_box()
        # Moved by the page itself: the test may be held up for a second, which is a pointer at rest.
        aim.evaluate(
            """node => {
              window.moves = 0;
              window.moving = setInterval(() => {
                node.dispatchEvent(new PointerEvent("pointermove", { bubbles: true }));
                window.moves += 1;
              }, 50);
            }"""
        )
        # It comes while the page is held up: the pointer's moves of that time are heard after it.
        notebook.ask(
            "threading.Timer(0.2, lambda: (vars(source).update(note='Cut off'), source.tell())).start()"
        )
        page.evaluate("const end = performance.now() + 1400; while (performance.now() < end);")
        note.wait_for(state="attached")
        page.wait_for_function("until => window.moves > until", arg=page.evaluate("moves") + 30)
        assert (note.is_visible(), aim.bounding_box()) == (False, before)
        page.evaluate("clearInterval(moving)")
        note.wait_for()
        notebook.ask("source.note = ''; source.tell()")
        note.wait_for(state="hidden")
        code.hover()
        until(lambda: aim.bounding_box() == before)

        # A click is a click though all rows are drawn anew while the button is pressed.
        grid.locator('[data-row="2"] .l2').hover()
        page.mouse.down()
        notebook.ask("kept = source.df; source.set(kept.drop(index=kept.index[0]))")
        grid.get_by_text("29 rows").wait_for()
        page.mouse.up()
        grid.locator('[data-row="2"] .l2.active').wait_for()
        notebook.run("source.set(kept)")
        grid.get_by_text("30 rows").wait_for()

        # Copied, pasted elsewhere, and taken back.
        grid.locator('[data-row="0"] .l2').click()
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Control+c")
        grid.get_by_text("Copied 1 row").wait_for()
        grid.locator('[data-row="4"] .l2').click()
        page.keyboard.press("Control+v")
        grid.get_by_text("Pasted 1 row").wait_for()
        row = "source.df.loc[{}, ['quantity', 'price', 'due']].tolist()"
        notebook.until(f"{row.format(5)} == {row.format(1)}")
        page.keyboard.press("Control+z")
        notebook.until(f"{row.format(5)} != {row.format(1)}")

        # A date begins with the one that is there.
        grid.locator('[data-row="1"] .l4').dblclick()
        assert grid.locator("input.nrt-editor").input_value() == "2026-03-31"
        grid.locator("input.nrt-editor").fill("2026-04-30")
        page.keyboard.press("Enter")
        grid.locator('[data-row="1"] .l4 .nrt-v', has_text="2026-04-30").wait_for()

        # A choice; a click elsewhere closes a panel; a panel is above all else of the page.
        grid.locator('[data-row="2"] .l1').dblclick()
        grid.locator("select.nrt-editor").select_option(label="null")
        page.keyboard.press("Enter")
        grid.locator('[data-row="2"] .l1 .nrt-null').wait_for()
        grid.locator('[data-row="3"] .l5').dblclick()
        panel = grid.locator(".nrt-pop")
        assert panel.evaluate("node => node.matches(':popover-open')")
        assert findings(page) == []
        # Beside the panel: to reach a cell below it, the page would be scrolled, and the panel with it.
        grid.locator('[data-row="5"] .l3').click()
        panel.wait_for(state="detached")
        assert notebook.console == []


def test_letters_typed_in_a_grid_are_no_commands_of_the_notebook(browser: Browser) -> None:
    """R makes a cell raw, D D deletes it: JupyterLab takes them wherever no text is edited."""
    with browser.notebook() as notebook:
        page = notebook.page
        notebook.run(SETUP)
        notebook.run("df = positions(5); df['hedged'] = False; source = MemoryFrame(df, FIELDS)")
        grid = notebook.show("GridWidget(source, columns=['id', 'status', 'hedged'])")
        cells = page.locator(".jp-CodeCell")
        many = cells.count()

        # A value is chosen by its letters.
        grid.locator('[data-row="0"] .l2').click()
        page.keyboard.type("true")
        assert grid.locator("select.nrt-editor option:checked").inner_text() == "true"
        page.keyboard.press("Enter")
        grid.locator('[data-row="0"] .l2 .nrt-v', has_text="true").wait_for()
        grid.locator('[data-row="1"] .l1').dblclick()
        page.keyboard.type("held")
        assert grid.locator("select.nrt-editor option:checked").inner_text() == "held"
        page.keyboard.press("Escape")

        # Nor are they commands where a button has the keyboard.
        for place in (grid.locator(".nrt-sort").first, grid.locator("button[data-act]").first):
            place.focus()
            page.keyboard.type("mddr")
            page.keyboard.press("ArrowDown")
        expect(grid.locator(".nrt-grid")).to_be_visible()
        assert cells.count() == many
        assert notebook.console == []


def test_a_table_that_was_empty_is_laid_out_for_its_first_rows(browser: Browser) -> None:
    with browser.notebook() as notebook:
        notebook.run(SETUP)
        notebook.run("source = frame(40); full = source.df; source.df = full.iloc[:0]")
        grid = notebook.show("g = GridWidget(source, columns=['id', 'notes']); g")
        empty = grid.locator('.nrt-grid[data-total="0"]')
        empty.wait_for()
        low = empty.evaluate("node => node.clientHeight")
        notebook.ask("source.set(full)")
        grid.locator('[data-row="0"] .l1', has_text="checked with the desk").wait_for()
        notes = grid.locator(".slick-header-column").last
        assert notes.evaluate("node => node.clientWidth") > 200
        assert grid.locator(".nrt-grid").evaluate("node => node.clientHeight") > low

        # What is filtered and sorted in another view of it, this one says too.
        other = notebook.show("g")
        other.locator(".nrt-filter").fill("hedge")
        other.get_by_text("8 rows found").wait_for()
        other.locator(".nrt-sort", has_text="id").click()
        grid.locator('[aria-sort="ascending"]').wait_for()
        grid.get_by_text("8 rows found").wait_for()
        assert grid.locator(".nrt-filter").input_value() == "hedge"


def test_a_row_that_one_side_deleted_asks_and_is_decided_by_keyboard(browser: Browser) -> None:
    with browser.notebook() as notebook:
        page = notebook.page
        notebook.run(SETUP)
        notebook.run("source = disputed(); source.disputed[0].mine['notes'] = HOSTILE")
        grid = notebook.show("GridWidget(source, columns=HERO)")
        asks = grid.locator(".nrt-disputed .nrt-is-conflict")
        asks.nth(1).wait_for()
        grid.locator('[data-row="2"] .l1').click()
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowUp")  # the row that they deleted
        expect(grid.locator("[data-sink] > span").first).to_contain_text(
            "somebody else deleted this row"
        )
        page.keyboard.press("Enter")
        panel = grid.locator(".nrt-pop")
        assert panel.locator("ins").inner_text() == notebook.ask("print(HOSTILE)")
        assert page.evaluate("window.__ran") is None
        assert findings(page) == []
        page.keyboard.press("Escape")
        panel.wait_for(state="detached")
        page.keyboard.press("Enter")
        page.wait_for_function("document.activeElement?.classList.contains('nrt-choice')")
        page.keyboard.press("Enter")
        notebook.until("source.resolved == [(2, None, 'mine')]")
        panel.wait_for(state="detached")

        # And the one that I deleted, by a click anywhere in it.
        grid.locator(".nrt-disputed .l4").nth(1).wait_for(state="detached")
        grid.locator(".nrt-disputed .l4").click()
        panel.get_by_text("Keep it").click()
        notebook.until("source.resolved[1:] == [(4, None, 'theirs')]")
        grid.locator(".nrt-disputed").first.wait_for(state="detached")

        # Several cells of a row at once; the other row's stays.
        notebook.ask(
            "source.disputed = [Conflict(6, c, 1, 2, 3) for c in ('quantity', 'price', 'notes')]\n"
            "source.disputed += [Conflict(7, 'price', 1, 2, 3)]; source.tell()"
        )
        cells = grid.locator(".slick-cell:has(.nrt-is-conflict)")
        cells.nth(3).wait_for()
        cells.first.click()
        panel.get_by_text("All 3 of this row:").wait_for()
        assert findings(page) == []
        for _ in range(3):  # mine and theirs of this cell, then of all
            page.keyboard.press("Tab")
        expect(panel.locator(":focus")).to_have_text("Theirs")
        page.keyboard.press("Enter")
        notebook.until("source.resolved[2:] == [(6, None, 'theirs')]")
        panel.wait_for(state="detached")
        cells.nth(1).wait_for(state="detached")
        cells.click()
        panel.get_by_text("Keep mine").wait_for()
        assert panel.get_by_text("of this row").count() == 0
        assert notebook.console == []


def test_what_a_grid_says_before_it_has_rows_and_after_it_has_ended(browser: Browser) -> None:
    with browser.notebook() as notebook:
        notebook.run(SETUP)
        notebook.run(
            "source = frame(5); full, fields = source.df, source.fields\n"
            "source.df, source.fields, source.status = pd.DataFrame(), (), 'loading'"
        )
        grid = notebook.show("GridWidget(source, columns=None)")
        pill = grid.locator(".nrt-status")
        grid.locator('.nrt-status[data-status="loading"]').wait_for()
        count = grid.locator(".nrt-tools > .nrt-soft").first
        assert count.inner_text() == ""  # nobody knows how many rows there are
        notebook.ask(
            "full['change'] = [0.25, 3e-7, -2.5e-12, 0, 12.5]\n"
            "full['notes'] = pd.array(['שלום (abc)', 'b', 'c', 'd', 'e'], dtype='str')\n"
            "full['tags'] = [{'n': 12345678901234567891}] * 5\n"
            "source.fields, source.status = fields, 'closed'; source.set(full)"
        )
        grid.get_by_text("5 rows").wait_for()

        # A small number is not nothing; Hebrew runs from the right, at the left of its cell.
        changes = [grid.locator(f'[data-row="{n}"] .l5 .nrt-v').inner_text() for n in range(5)]
        assert changes == ["0.25", "3e-7", "-2.5e-12", "0.00", "12.50"]
        hebrew = grid.locator('[data-row="0"] .l8 .nrt-v')
        style = "n => [getComputedStyle(n).direction, getComputedStyle(n).textAlign]"
        assert hebrew.evaluate(style) == ["rtl", "left"]

        # A number in JSON keeps its digits in the editor.
        grid.locator('[data-row="0"] .l9').dblclick()
        assert "12345678901234567891" in grid.locator(".nrt-pop textarea").input_value()
        notebook.page.keyboard.press("Escape")
        grid.locator('.nrt-status[data-status="closed"]').wait_for()
        red, green, blue = (
            int(n)
            for n in re.findall(r"\d+", pill.evaluate("n => getComputedStyle(n).backgroundColor"))
        )
        assert max(red, green, blue) - min(red, green, blue) < 12  # grey

        # The ring of the focus is a shadow, which the colours of a high contrast theme do not have.
        grid.locator('[data-row="1"] .l1').click()
        notebook.page.emulate_media(forced_colors="active")
        ring = grid.locator(".slick-cell.active")
        assert ring.evaluate("n => getComputedStyle(n).outlineStyle") == "solid"


LOSE = """
def lose(key, quantity):
    '''The message of a change does not arrive.'''
    def dropped(content, buffers):
        lost.append(content['t'])
        g.send = real
    lost, real = [], g.send
    g.send = dropped
    df = source.df.copy()
    df.loc[key, 'quantity'] = quantity
    source.set(df)
    return lost
"""


def test_a_message_that_does_not_arrive_is_missed_and_made_up_for(browser: Browser) -> None:
    with browser.notebook() as notebook:
        notebook.run(SETUP)
        notebook.run(f"{LOSE}\nsource = frame(6)")
        grid = notebook.show("g = GridWidget(source, columns=HERO); g")
        at = scenes.HERO.index("quantity")
        grid.locator(f'[data-row="5"] .l{at} .nrt-v').wait_for()

        # The next message shows it.
        notebook.ask("lost = lose(2, 771)")
        notebook.until("lost == ['cells']")
        notebook.ask("df = source.df.copy(); df.loc[3, 'quantity'] = 772; source.set(df)")
        for row, quantity in ((1, "771"), (2, "772")):
            grid.locator(f'[data-row="{row}"] .l{at}', has_text=quantity).wait_for()

        # Without a next one, that none comes does.
        notebook.ask("lost = lose(4, 773)")
        grid.locator(f'[data-row="3"] .l{at}', has_text="773").wait_for()
        assert notebook.ask("print(lost)") == "['cells']"
        assert notebook.console == []


ON_ITS_WAY = """
def never_told(refresh):
    '''The kernel sends an order anew though an editor is open, as where that is told too late.'''
    return lambda *args, held, **options: refresh(*args, held=False, **options)

def on_its_way(first):
    source.set(pd.concat([frame(1).df.set_axis([first], axis=0).rename_axis('id'), source.df]))
"""


def test_an_editor_goes_with_its_row_when_an_order_comes_that_was_on_its_way(
    browser: Browser,
) -> None:
    with browser.notebook() as notebook:
        page = notebook.page
        notebook.run(SETUP)
        notebook.run(f"{ON_ITS_WAY}\nsource = frame(6)")
        grid = notebook.show("g = GridWidget(source, columns=HERO); g")
        grid.locator('[data-row="5"] .l0 .nrt-v').wait_for()
        notebook.ask("g._link.model._order.refresh = never_told(g._link.model._order.refresh)")
        draft = grid.locator(".nrt-draft")

        # A row that is being typed: what is typed stays in it, and so does the keyboard.
        grid.get_by_role("button", name="Add a row").click()
        draft.locator(".l0 .nrt-editor").wait_for()
        page.keyboard.type("70")
        notebook.ask("on_its_way(90)")
        grid.locator('.nrt-draft[data-row="7"] .l0 .nrt-editor').wait_for()
        page.keyboard.type("0")
        page.keyboard.press("Enter")
        draft.locator(".l1 .nrt-editor").wait_for()
        assert draft.locator(".l0").inner_text() == "700"
        page.keyboard.type("TSM")
        notebook.ask("on_its_way(91)")
        grid.locator('.nrt-draft[data-row="8"] .l1 .nrt-editor').wait_for()
        page.keyboard.press("Tab")
        assert draft.locator(".l1").inner_text() == "TSM"
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        draft.first.wait_for(state="detached")
        assert notebook.ask("print(source.edits)") == "[]"

        # A cell, a choice and a long text of a row that is there.
        for column, typed, written in (
            ("quantity", "5", 5),
            ("status", None, "closed"),
            ("notes", "sold", "sold"),
        ):
            at = scenes.HERO.index(column)
            rows = int(notebook.ask("print(len(source.df))"))
            grid.locator(f'[data-row="{rows - 3}"] .l{at}').dblclick()
            editor = grid.locator(".nrt-editor, .nrt-editor-long")
            editor.wait_for()
            if typed is None:
                editor.select_option(label="closed")
            else:
                page.keyboard.type(typed)
            notebook.ask(f"on_its_way({100 + at})")
            grid.get_by_text(f"{rows + 1} rows").wait_for()
            grid.locator(f'[data-row="{rows - 2}"] .l{at}.active').wait_for()
            page.keyboard.press("Enter")
            notebook.until(f"source.edits and {column!r} in source.edits[-1][1]")
            assert notebook.ask("print(source.edits[-1])") == str((4, {column: written}))
        assert notebook.console == []
