"""The webhook: posts the summary of a run when it has ended, overruns at once, and starts to addresses that ask for it.

All receivers get one body. Chat webhooks (Slack and compatible) show ``{"text": …}``; the other keys are for programs.
``{status}`` in the address is replaced by the exit status, which tells success from failure to receivers like
healthchecks (https://healthchecks.io/docs/signaling_failures/). ``{event}`` is replaced by ``start``, ``success`` or
``failure``; an address with ``{event}`` gets a post at the start of each run, too. A charge above its estimate is
posted at once, with the event ``overrun`` (`batchrunner.app.overrun_posts`).
Rules: the address is a secret, so messages and files contain only its host. Redirects are not followed. A failed post
does not change the outcome of the run.
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from batchrunner.errors import ExitStatus, UsageError
from batchrunner.events import Listener, Noticed
from batchrunner.formatting import rfc3339
from batchrunner.job import Run
from batchrunner.net.proxies import Proxies
from batchrunner.report.failure_groups import causes
from batchrunner.report.text import next_steps
from batchrunner.report.writer import headline

_WITHIN_S = 10.0
_EVENT, STATUS = "{event}", "{status}"
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_CAUSES_MOST = 3
IDS_MOST = 5
_MESSAGE_MOST = 300
_KEYS = ("name", "exit_status", "stopped", "stop_kind", "run_id", "started_at", "finished_at", "totals", "money")
_HINT = "Give --notify (or BATCHRUNNER_NOTIFY) an https address; http only on this machine. Nothing was submitted."


def check(url: str | None) -> None:
    """Refuse an address that is not a valid https address. Raises UsageError, which does not contain the address."""
    if url is None:
        return
    try:
        address = urlsplit(url)
        _ = address.port  # raises ValueError if it is not a number
        host = address.hostname or ""
    except ValueError:
        host = ""
    plain = host in _LOOPBACK and address.scheme == "http" if host else False
    if not host or not (plain or address.scheme == "https") or not url.isprintable() or " " in url:
        raise UsageError("the webhook of --notify is not an https address", _HINT)


def event_of(exit_status: int) -> str:
    """Return the event of a run that has ended: ``success`` if nobody has to look, otherwise ``failure``."""
    return "success" if exit_status in {ExitStatus.OK, ExitStatus.STOPPED} else "failure"


async def notify_start(
    url: str | None, run: Run, run_dir: Path, listener: Listener, proxies: Proxies | None = None
) -> None:
    """Post the start of a run to an address that contains ``{event}``. Announce a failure."""
    if url is None or _EVENT not in url:
        return
    started = {"name": run.name, "run_id": run.run_id, "started_at": rfc3339(run.started_at), "run_dir": str(run_dir)}
    started_body = {"text": escaped(f"{run.name}: started"), "event": "start", **started}
    if problem := await post(url, started_body, proxies):
        listener(Noticed(run.started_at, (), problem))


async def notify(
    url: str | None, report: Mapping[str, Any], run_dir: Path, listener: Listener, proxies: Proxies | None = None
) -> None:
    """Post the outcome of a run if a webhook is set. Announce a failure. report: the contents of report.json."""
    if url is not None and (problem := await post(url, body(report, run_dir), proxies)):
        listener(Noticed(datetime.fromisoformat(report["finished_at"]).timestamp(), (), problem))


async def post(url: str, body: Mapping[str, Any], proxies: Proxies | None = None) -> str | None:
    """Post `body` within ten seconds. Returns an error message without the address, or None."""
    import aiohttp  # a run without work needs no HTTP client

    from batchrunner.net.connections import unreachable_text

    target = url.replace(STATUS, str(body.get("exit_status", ""))).replace(_EVENT, str(body.get("event", "")))
    host = urlsplit(url).hostname
    proxy = (proxies or Proxies()).for_url(url)
    timeout = aiohttp.ClientTimeout(total=_WITHIN_S)
    headers = {"Content-Type": "application/json", "User-Agent": "batchrunner"}
    try:
        async with (
            aiohttp.ClientSession(
                timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), proxy=proxy.url if proxy else None
            ) as session,
            session.post(target, data=json.dumps(body), headers=headers, allow_redirects=False) as reply,
        ):
            if 200 <= reply.status < 300:
                return None
            what = f"answered {reply.status}" + (", a redirect, which is not followed" if reply.status < 400 else "")
    except TimeoutError:
        what = f"did not answer within {_WITHIN_S:.0f} s"
    except aiohttp.ClientConnectorCertificateError:
        what = "has a certificate that is not trusted; SSL_CERT_FILE can name the file of a private authority"
    except aiohttp.ClientHttpProxyError as error:
        what = f"could not be reached: the proxy {proxy.shown if proxy else ''} answered {error.status}"
    except aiohttp.ClientConnectorError as error:
        what = f"could not be reached: {unreachable_text(error)}"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        what = f"could not be reached ({type(error).__name__})"
    return f"the summary was not posted: the webhook at {host} {what}"


def body(report: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """Return the body to post. report: the contents of report.json."""
    found = causes(dict(report))
    summary = headline(dict(report))
    lines = [f"{report['name']}: {summary}"]
    if report["stopped"]:
        lines.append(f"Stopped: {_cut(report['stopped'])}")
    if overrun := report["money"].get("overrun_usd"):
        lines.append(f"Overrun: the service charged ${overrun:,.2f} more than was estimated")
    lines += [
        f"{len(cause.ids):,} {cause.state.replace('_', ' ')}: {_cut(cause.messages[0][0])}"
        for cause in [cause for cause in found if cause.state in {"failed", "in_doubt"}][:_CAUSES_MOST]
    ]
    if report["exit_status"]:
        lines.append(f"Report: {run_dir}/report.html")
        lines += [f"Next: {step.command or step.text}" for step in next_steps(dict(report), found)]
    return {
        "text": escaped("\n".join(lines)),
        **{key: report[key] for key in _KEYS},
        "event": event_of(report["exit_status"]),
        "ok": not report["exit_status"],
        "summary": summary,
        "run_dir": str(run_dir),
        "causes": [
            {
                "state": cause.state,
                "kind": cause.kind,
                "message": _cut(cause.messages[0][0]),
                "count": len(cause.ids),
                "jobs": list(cause.ids[:IDS_MOST]),
            }
            for cause in found
        ],
    }


def _cut(text: str) -> str:
    return text if len(text) <= _MESSAGE_MOST else text[: _MESSAGE_MOST - 1] + "…"


# A mention in a chat: a name after @ at the start of a word, and the names of groups anywhere.
_MENTION = re.compile(r"(?<![\w.])@(?=\w)|@(?=(?:channel|here|all|everyone|team)\b)", re.IGNORECASE)
_NO_SPACE = "\u200b"  # zero width: the chat no longer recognises the name


def escaped(text: str) -> str:
    """Escape the mentions in `text`: Slack's three characters (``<!channel>``) and the @ of ``@channel``."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MENTION.sub(f"@{_NO_SPACE}", plain)
