"""Post overruns to the webhook (`batchrunner.app.webhook`) while a run goes on."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from batchrunner.app.webhook import IDS_MOST, STATUS, escaped, post
from batchrunner.clock import Clock
from batchrunner.events import Event, Listener, Noticed, Overrun
from batchrunner.formatting import count_text
from batchrunner.job import Run
from batchrunner.net.proxies import Proxies
from batchrunner.plan.prices import dollars, usd

_BETWEEN_POSTS_S = 60.0


class OverrunPoster:
    """Posts overruns while the run goes on. Subscribe it to the run's events, and run `work` as a task.

    Overruns of one minute share a post. An address with ``{status}`` gets none: a run that goes on has no exit status.
    """

    def __init__(self, url: str | None, run: Run, run_dir: Path, listener: Listener, proxies: Proxies) -> None:
        self.is_needed = url is not None and STATUS not in url
        self._url = url or ""
        self._batch = {"name": run.name, "run_id": run.run_id, "run_dir": str(run_dir)}
        self._listener = listener
        self._proxies = proxies
        self._overruns: list[Overrun] = []
        self._has_some = asyncio.Event()

    def __call__(self, event: Event) -> None:
        """Take over an overrun."""
        if self.is_needed and isinstance(event, Overrun):
            self._overruns.append(event)
            self._has_some.set()

    async def work(self, clock: Clock) -> None:
        """Post what comes, until cancelled. A failed post is announced."""
        while True:
            await self._has_some.wait()
            self._has_some.clear()
            overruns, self._overruns = self._overruns, []
            if problem := await post(self._url, self.body(overruns), self._proxies):
                self._listener(Noticed(clock.now(), (), problem))
            await clock.sleep(_BETWEEN_POSTS_S)

    def body(self, overruns: Sequence[Overrun]) -> dict[str, Any]:
        """Return the body to post. overruns: since the last post, at least one."""
        last, over = overruns[-1], sum(event.over_credits for event in overruns)
        number = f" ({count_text(len(overruns), 'generation')}, {dollars(over)} more)" if len(overruns) > 1 else ""
        ids = list(dict.fromkeys(name for event in overruns for name in event.ids))
        limit = last.budget.limit
        return {
            "text": escaped(f"{self._batch['name']}: {last.message}{number}"),
            "event": "overrun",
            **self._batch,
            "jobs": ids[:IDS_MOST],
            "over_usd": round(usd(over), 6),
            "batch_usd": round(usd(last.worst_credits), 6),
            "budget_usd": None if limit is None else round(usd(limit), 6),
            "exceeds_budget": last.exceeds_budget,
        }
