"""The page in a real browser: signed in, searched, read, replayed, and attacked from another site."""

from __future__ import annotations

import pytest
from playwright.async_api import ConsoleMessage, Dialog, Page, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from rwriter import RequestStore
from rwriter.admin import mount
from rwriter.store import DeadLetters
from rwriter.testing import TestDbEngines
from tests.admin.browser import browsing
from tests.admin.shown import HOSTILE_RECORD, SPELLED, fill, let_in, week
from tests.support.records import record
from tests.support.rows import need
from tests.support.serving import served


def service(engines: TestDbEngines) -> Starlette:
    """Make a service with a sign-in of its own, and the page behind it."""

    async def sign_in(_request: Request) -> Response:
        response = RedirectResponse("/back-office")
        response.set_cookie("session", "admin", httponly=True)
        return response

    app = Starlette(routes=[Route("/sign-in", sign_in)])
    mount(app, engines, authorize=lambda request: request.cookies.get("session") == "admin", path="/back-office")
    return app


def attacker(target: str) -> Starlette:
    """Make another site, whose page sends a form to ``target`` when it is looked at."""

    async def lure(_request: Request) -> Response:
        return HTMLResponse(f"<form method=post action='{target}'></form><script>document.forms[0].submit()</script>")

    return Starlette(routes=[Route("/", lure)])


class Complaints:
    """Keeps what the browser complains of: blocked resources, errors, dialogs that a script opened."""

    def __init__(self, page: Page) -> None:
        self.heard: list[str] = []
        page.on("console", self._on_console)
        page.on("dialog", self._on_dialog)

    def _on_console(self, message: ConsoleMessage) -> None:
        # the answers that are refused on purpose are no complaint
        if message.type in {"error", "warning"} and "status of 4" not in message.text:
            self.heard.append(message.text)

    async def _on_dialog(self, dialog: Dialog) -> None:
        self.heard.append(f"dialog: {dialog.message}")
        await dialog.dismiss()


async def test_an_operator_looks_around_and_no_stored_script_runs(rwriter_engines: TestDbEngines) -> None:
    chromium = need("chromium")
    await fill(RequestStore(rwriter_engines))
    async with served(service(rwriter_engines)) as url, browsing(chromium) as page:
        complaints = Complaints(page)
        refused = await page.goto(f"{url}/back-office/")
        assert refused is not None
        assert refused.status == 403
        await page.goto(f"{url}/sign-in")
        await expect(page.get_by_role("heading", name="Requests")).to_be_visible()
        await expect(page.get_by_role("row")).to_have_count(51)

        await page.get_by_role("link", name="Next page").click()
        await expect(page.get_by_role("row")).to_have_count(22)
        await page.get_by_label("Status").select_option("failed")
        await page.get_by_role("button", name="Show").click()
        await expect(page.get_by_role("row")).to_have_count(2)

        await page.get_by_label("Id").fill(f"resp_{HOSTILE_RECORD.request_id}")
        await page.get_by_role("button", name="Find").click()
        await page.get_by_role("link", name="Show the bodies").click()
        await expect(page.locator("pre").first).to_have_text(SPELLED)

        await page.goto(f"{url}/back-office/usage?{week()}")
        bar = await page.locator("rect.done").first.bounding_box()
        assert bar is not None
        # as long as the style sheet says: it was loaded
        assert bar["width"] == pytest.approx(240 * 70 / 71, abs=1)
        assert complaints.heard == []


async def test_a_letter_is_replayed_by_a_click_and_not_by_another_site(rwriter_engines: TestDbEngines) -> None:
    chromium, letters = need("chromium"), DeadLetters(rwriter_engines)
    await RequestStore(rwriter_engines).bury(record(), sqlstate="23514", error="no")
    (letter,) = await letters.listing()
    app = Starlette()
    # as behind a VPN: what another site has the browser send is let in, too
    mount(app, rwriter_engines, authorize=let_in)
    async with served(app) as url, browsing(chromium) as page:
        await page.goto(f"{url}/admin/dead-letters")
        async with served(attacker(f"{url}/admin/dead-letters/{letter.id}/replay")) as evil:
            # localhost is another site than 127.0.0.1
            await page.goto(evil.replace("127.0.0.1", "localhost"))
            await page.wait_for_url(f"{url}/**")
            await expect(page.get_by_role("alert")).to_have_text("This form was sent by another site.")
        assert await letters.listing() == [letter]

        await page.goto(f"{url}/admin/dead-letters")
        await page.get_by_role("button", name="Replay").click()
        await expect(page.get_by_role("status")).to_have_text("The record is stored, and its letter is gone.")
    assert await letters.listing() == []
