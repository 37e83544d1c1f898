"""The bucket's own rules, brought to the retention policy: the net below cleanup, which needs none of our processes.

Rules of others in the same bucket stay as they are; ours are told by their ID, which carries the store's prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from blocks.errors import OvertakenError, RefusedError, StorageError
from blocks.object_store import lifecycle as bucket_rules
from blocks.object_store.lifecycle import Rule
from blocks.object_store.probing import Capabilities
from blocks.policies import RetentionPolicy
from tasks.layout import OBJECTS, PROCESSED
from tasks.plans import Item, Outcome, Plan, Report
from tasks.removal.aging import AGED_PREFIXES
from tasks.stores import OpenLocation
from tasks.sweeping import Sweep

ATTEMPTS = 3
"""How often a write starts over because somebody else wrote the bucket's rules meanwhile."""

AT_LEAST_DAYS = {"temp_days": 8}
"""What the bucket's own rules are not narrower than: a form may last a week, and only cleanup knows which are open."""

Action = Literal["expire", "abort", "transition"]
_CAPABILITY = {"expire": "expiration_rules", "abort": "multipart_rules", "transition": "transition_rules"}
_INSTEAD = {
    "expire": "cleanup removes what is overdue by itself",
    "abort": "cleanup aborts what is overdue by itself",
    "transition": "tier-jobs moves objects by itself",
}


@dataclass(frozen=True, slots=True)
class WantedRule:
    """A rule that the policy asks for, named by its field; `unsupported` says why the server is not asked for it.

    One that it was asked for, and `refused`, leaves the rule of before where it is.
    """

    name: str
    id: str
    action: Action
    folder: str
    prefix: str
    days: int
    storage_class: str = ""
    unsupported: str = ""
    refused: bool = False

    def as_rule(self) -> Rule:
        """The rule as the server is asked for it."""
        does: dict[Action, Rule] = {
            "expire": {"Expiration": {"Days": self.days}},
            "abort": {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": self.days}},
            "transition": {"Transitions": [{"Days": self.days, "StorageClass": self.storage_class}]},
        }
        return {"ID": self.id, "Status": "Enabled", "Filter": {"Prefix": self.prefix}} | does[self.action]


@dataclass(frozen=True)
class RuleChanges:
    """All rules of a bucket as they shall be, and what that changes, by name: the policy's fields, and others' IDs."""

    rules: list[Rule]
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True)
class LifecycleReport:
    """Every rule once, by name; `notes` say in a sentence each what is not done by the server, and what to look at."""

    bucket: str
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line for a person."""
        groups = {
            "added": self.added, "changed": self.changed, "removed": self.removed, "unchanged": self.unchanged,
            "not ours, left alone": self.foreign, "not done by this server": self.unsupported,
        }  # fmt: skip
        shown = "; ".join(f"{group}: {', '.join(names)}" for group, names in groups.items() if names)
        return f"rules of bucket {self.bucket}: {shown or 'none'}" + "".join(f"; {note}" for note in self.notes)


def wanted_rules(policy: RetentionPolicy, store_prefix: str, capabilities: Capabilities) -> tuple[WantedRule, ...]:
    """What the policy asks for, with the reason where this server is not asked."""

    def rule(name: str, action: Action, folder: str, storage_class: str = "") -> WantedRule:
        return WantedRule(
            name, bucket_rules.rule_id(store_prefix, name), action, folder,
            f"{store_prefix}/{folder}" if store_prefix else folder,
            max(getattr(policy, name), AT_LEAST_DAYS.get(name, 0)), storage_class, _why_not(name, action, capabilities),
        )  # fmt: skip

    wanted = [rule(name, "expire", f"{folder}/") for name, folder in AGED_PREFIXES.items()]
    wanted.append(rule("multipart_days", "abort", ""))
    if policy.transition_days > 0:
        wanted.append(rule("transition_days", "transition", f"{PROCESSED}/", policy.transition_storage_class))
    return tuple(wanted)


def plan_rules(existing: Sequence[Rule], wanted: Iterable[WantedRule], store_prefix: str) -> RuleChanges:
    """What makes the existing rules the wanted ones; compared by meaning, in place, others' untouched."""
    wanted = tuple(wanted)
    asked = {one.id: one for one in wanted if not one.unsupported}
    stays = {one.id for one in wanted if one.refused}
    rules: list[Rule] = []
    named: dict[str, list[str]] = {"added": [], "changed": [], "removed": [], "kept": [], "foreign": []}
    for rule in existing:
        own = bucket_rules.own_name(rule, store_prefix)
        # Each once: a second rule of the same ID finds its place taken and goes.
        one = asked.pop(rule["ID"], None) if own else None
        if own is None:
            named["foreign"].append(bucket_rules.name_of(rule))
            rules.append(rule)
        elif rule["ID"] in stays:
            stays.remove(rule["ID"])
            rules.append(rule)
        elif one is None:
            named["removed"].append(own)
        else:
            same = bucket_rules.same_rule(rule, one.as_rule())
            named["kept" if same else "changed"].append(own)
            rules.append(rule if same else one.as_rule())
    for one in asked.values():
        named["added"].append(one.name)
        rules.append(one.as_rule())
    return RuleChanges(rules, **{group: tuple(names) for group, names in named.items()})


def plan_lifecycle(location: OpenLocation, policy: RetentionPolicy) -> LifecycleReport:
    """What `apply_rules` would do; nothing is written."""
    existing = bucket_rules.read_rules(location.store)
    wanted = wanted_rules(policy, location.store.prefix, location.capabilities)
    return _report(location, existing, wanted, plan_rules(existing, wanted, location.store.prefix))


def apply_rules(location: OpenLocation, policy: RetentionPolicy) -> LifecycleReport:
    """Bring the bucket's rules to the policy, in one write, or none where they are as they should be.

    A transition that the server refuses (a class it has not, too few days for it) is left as it was and told, so that
    it keeps no other rule from being written.

    Raises:
        RefusedError: the server refuses one of the other rules, or these credentials.
        UnfitStoreError: it took the rules and forgot them.
        OvertakenError: somebody else kept writing the bucket's rules.
    """
    store = location.store
    wanted = wanted_rules(policy, store.prefix, location.capabilities)
    attempt = 1
    while True:
        existing = bucket_rules.read_rules(store)
        changes = plan_rules(existing, wanted, store.prefix)
        try:
            bucket_rules.write_rules(store, changes.rules, former=existing)
        except OvertakenError:
            if attempt == ATTEMPTS:
                raise
            attempt += 1
        except RefusedError as error:
            if "transition_days" not in (*changes.added, *changes.changed):
                raise
            (refused,) = (one for one in wanted if one.action == "transition")
            because = f"transition_days: the server refuses it ({error}); {_INSTEAD['transition']}"
            wanted = tuple(replace(one, unsupported=because, refused=True) if one is refused else one for one in wanted)
        else:
            return _report(location, existing, wanted, changes)


def _why_not(name: str, action: Action, capabilities: Capabilities) -> str:
    because = capabilities.why_not(_CAPABILITY[action])
    instead = _INSTEAD[action]
    if action == "abort" and not capabilities.lists_uploads:
        instead = "nor can cleanup, for it lists no incomplete uploads: have the server remove them in a way of its own"
    return f"{name}: {because}; {instead}" if because else ""


def _report(
    location: OpenLocation, existing: Sequence[Rule], wanted: Sequence[WantedRule], changes: RuleChanges
) -> LifecycleReport:
    unsupported = [one for one in wanted if one.unsupported]
    others = [rule for rule in existing if not bucket_rules.own_name(rule, location.store.prefix)]
    notes = [one.unsupported for one in unsupported]
    for folder in OBJECTS:
        kept = location.store.path(f"{folder}/")
        risky = [bucket_rules.name_of(rule) for rule in others if bucket_rules.expires_under(rule, kept)]
        notes += [f"{name} is not ours and removes customers' objects under {kept}: look at it" for name in risky]
    return LifecycleReport(
        location.store.bucket, changes.added, changes.changed, changes.removed, changes.kept, changes.foreign,
        tuple(one.name for one in unsupported), tuple(notes),
    )  # fmt: skip


def plan_all(sweep: Sweep, policy: RetentionPolicy, reached: Mapping[str, Mapping[str, tuple[int, int]]]) -> Plan:
    """An item for each rule that would be written; `reached` are its objects and bytes, by store and rule.

    Only what expires counts against the caps: a transition keeps every object, and an unchanged rule is no news.
    """
    items: list[Item] = []
    skipped: list[Item] = []
    for location, report in sweep.each(lambda location: plan_lifecycle(location, policy)):
        place = location.place.name
        for action, names in (
            ("add rule", report.added),
            ("change rule", report.changed),
            ("drop rule", report.removed),
        ):
            for name in names:
                removes = action != "drop rule" and name != "transition_days"
                objects, size = reached.get(place, {}).get(name, (0, 0)) if removes else (0, 0)
                because = f"the policy says {getattr(policy, name, 'nothing of it')}"
                if action != "drop rule" and name in AT_LEAST_DAYS:
                    because += f", and the bucket's own rule takes {AT_LEAST_DAYS[name]} days at least"
                items.append(Item(action, name, f"{place}: {name}", because, "", objects, size, place=place))
        skipped += [Item("leave", "unsupported", f"{place}: {note}", "", place=place) for note in report.notes]
    return Plan("apply-lifecycle", tuple(items), tuple(skipped))


def apply_all(sweep: Sweep, policy: RetentionPolicy, plan: Plan) -> Report:
    """Write the rules of each store that has something to change."""
    outcomes: list[Outcome] = []
    notes: list[str] = []
    for location in sweep.locations:
        items = [item for item in plan.items if item.place == location.place.name]
        if not items:
            continue
        sweep.before_batch()
        try:
            report = apply_rules(location, policy)
        except StorageError as error:
            outcomes += [Outcome(item, "failed", str(error)) for item in items]
            continue
        notes += report.notes
        written = {*report.added, *report.changed, *report.removed}
        refused = dict(zip(report.unsupported, report.notes, strict=False))
        outcomes += [
            Outcome(item, "done") if item.rule in written
            else Outcome(item, "failed", refused[item.rule]) if item.rule in refused
            else Outcome(item, "skipped", "done meanwhile")
            for item in items
        ]  # fmt: skip
        sweep.progress(len(items))
    return Report("apply-lifecycle", tuple(outcomes), tuple(notes))
