"""Seeded faults: which call fails, and how. Pure: time and identity of a call are arguments.

A draw depends on the seed, the rule, the call's identity and the number of its calls. It does not depend on the order
in which concurrent calls arrive, so a simulation replays. Only `first` counts calls in order of arrival. `replies` and
`server` define what a kind does to a reply, `file` how rules are written.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_REFUSED = """
    rate_limited rate_limited_retry_after rate_limited_retry_date unavailable unavailable_retry_after server_error
    empty_503 edge_502_html edge_524_html out_of_credits locked unauthorized legacy_error cut_before hang_before
"""
# Accepted, and the client learns no id: the ledger says ``"replied": false``.
_UNREPLIED = """
    edge_502_html_accepted edge_524_html_accepted server_error_accepted unavailable_accepted timeout_408_accepted
    early_425_accepted lost_reply hang no_id empty_200 other_id
"""
_CALL = """
    rate_limited rate_limited_retry_after rate_limited_retry_date unavailable unavailable_retry_after server_error
    empty_503 edge_502_html edge_524_html html_200 not_found unauthorized hang cut
"""
# Kinds by call. For polls, with the state that the generation must be in.
_KINDS = {
    ("submit", "any"): _REFUSED + _UNREPLIED + "id_as_generation_id created_201 envelope stray_bytes",
    ("poll", "any"): _CALL + "no_id other_id other_without_id envelope stray_bytes",
    ("poll", "pending"): "unknown_status waiting active in_queue failed_early completed_early",
    ("poll", "completed"): """
        succeeded complete done_in_capitals null_status no_url video_string_list video_object_list link_elsewhere
        link_relative links_beside failed_late pending_again
    """,
    ("poll", "error"): "completed_with_error rejected error_list error_msg error_beside",
    ("logs", "any"): _CALL + "empty unfiltered",
    ("billing", "any"): _CALL,
    ("transactions", "any"): _CALL + "no_movements",
    ("models", "any"): _CALL,
    ("download", "any"): """
        truncated short zeros slow no_range changed_etag html_200 not_found gone_410 forbidden unavailable
        foreign_coding gzip deflate tail open_box short_digest status_203 status_206 signed_redirect cookie_redirect
        unavailable_retry_after server_error empty_503 edge_502_html edge_524_html hang cut
    """,
    ("input", "any"): "link_expired forbidden not_found unavailable slow",
    ("generation", "any"): "face_detection content_policy file_download error_object stuck odd_length overcharged",
}
KINDS: Mapping[str, Mapping[str, str]] = {
    call: {kind: state for (on, state), kinds in _KINDS.items() if on == call for kind in kinds.split()}
    for call, _ in _KINDS
}
# The reply is about another generation than the call. The server finds one; there may be none.
OTHERS = frozenset({"other_id", "other_without_id"})
UNREPLIED = frozenset(_UNREPLIED.split())
# The kinds of a submission that prevent its acceptance; every other kind follows it.
REFUSED = frozenset(_REFUSED.split())
# What `delay` means, and its default in seconds: Retry-After, or the length of a slow transfer.
DELAYS_S = {
    "rate_limited_retry_after": 7.0,
    "rate_limited_retry_date": 7.0,
    "unavailable_retry_after": 60.0,
    "slow": 30.0,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule. It matches a call if every condition that is set holds.

    on: submit, poll, logs, billing, transactions, models, download, input or generation. kind: one of KINDS[on].
    rate: chance of each call, 0 to 1. first: at most this often, in order of arrival.
    each_first: only the first so many calls of one identity (a generation's polls, a file's downloads, a request id,
    an input's link without its query).
    match: only calls whose identity holds this text.
    between_s: seconds since the sandbox started, from (inclusive) and to (exclusive).
    delay_s: see DELAYS_S.
    """

    on: str
    kind: str
    rate: float = 1.0
    first: int | None = None
    each_first: int | None = None
    between_s: tuple[float, float] | None = None
    delay_s: float | None = None
    match: str | None = None

    @property
    def seconds(self) -> float:
        """`delay_s`, or the kind's default."""
        return self.delay_s if self.delay_s is not None else DELAYS_S.get(self.kind, 0.0)


@dataclass(slots=True)
class Faults:
    """The rules in force, with what they have counted so far. A restart counts anew."""

    rules: Sequence[Fault]
    seed: int = 0
    _calls: Counter[tuple[int, str]] = field(default_factory=Counter)
    _fired: Counter[int] = field(default_factory=Counter)

    def decide(self, on: str, identity: str, elapsed_s: float, state: str = "any") -> Fault | None:
        """Return the fault of this call, or None. Counts the call.

        identity: of the call's object (request id, generation id, file name). elapsed_s: since the start.
        state: ``pending`` or ``completed`` for polls: a kind that needs another state passes the call by.
        """
        for index, rule in enumerate(self.rules):
            if rule.on == on and KINDS[on][rule.kind] in {"any", state} and self._fires(index, identity, elapsed_s):
                return rule
        return None

    def _fires(self, index: int, identity: str, elapsed_s: float) -> bool:
        rule = self.rules[index]
        if rule.match is not None and rule.match not in identity:
            return False
        if rule.between_s and not rule.between_s[0] <= elapsed_s < rule.between_s[1]:
            return False
        self._calls[index, identity] += 1
        nth = self._calls[index, identity]
        if rule.each_first is not None and nth > rule.each_first:
            return False
        if rule.first is not None and self._fired[index] >= rule.first:
            return False
        if uniform(self.seed, "fault", index, rule.kind, identity, nth) >= rule.rate:
            return False
        self._fired[index] += 1
        return True


def uniform(*values: object) -> float:
    """A number in [0, 1) that depends only on `values`."""
    digest = hashlib.sha256(repr(values).encode("utf-8", "backslashreplace")).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)
